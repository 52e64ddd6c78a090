package server

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Sizes of a page of a list.
const (
	DefaultPage = 100
	MaxPage     = 1000
)

// pageRequest is one page that a caller asked for.
type pageRequest struct {
	list  [listSumSize]byte // of the list and its filter
	after string            // last name of the page before
	size  int
	state kryptonv1.ObjectState // 0: all but destroyed ones
}

// page checks size, token and filter. A token is a digest of the list that it
// continues and the last name of the page before, in base64 so that nobody takes
// it for something to write by hand. It is a place and no secret: whoever may
// read the list may continue with somebody else's token.
func page(r interface {
	GetPageSize() uint32
	GetPageToken() string
}, list, filter string,
) (pageRequest, error) {
	p := pageRequest{size: int(r.GetPageSize()), list: listSum(list, filter)}
	switch {
	case p.size == 0:
		p.size = DefaultPage
	case p.size > MaxPage:
		return p, errs.New(errs.InvalidArgument, "page_size is too large", errs.Hint("at most %d; 0 means %d", MaxPage, DefaultPage))
	}
	if t := r.GetPageToken(); t != "" {
		raw, err := base64.RawURLEncoding.Strict().DecodeString(t)
		after, ok := bytes.CutPrefix(raw, p.list[:])
		if err != nil || !ok || len(after) > hierarchy.MaxResourceIDBytes || !utf8.Valid(after) {
			return p, errs.New(errs.InvalidArgument, "page_token is not one that this cluster gave out for this list",
				errs.Hint("begin again without a token, and keep parent and filter from page to page"))
		}
		p.after = string(after)
	}
	if filter == "" {
		return p, nil
	}
	value, ok := strings.CutPrefix(filter, "state=")
	state, known := kryptonv1.ObjectState_value["OBJECT_STATE_"+value]
	if !ok || !known || state == 0 {
		return p, errs.New(errs.InvalidArgument, "the filter is not one that lists know",
			errs.Hint("state=ACTIVE, state=SUSPENDED, state=DESTROY_SCHEDULED or state=DESTROYED"))
	}
	p.state = kryptonv1.ObjectState(state)
	return p, nil
}

func (p pageRequest) wants(s kryptonv1.ObjectState) bool {
	if p.state == 0 {
		return s != kryptonv1.ObjectState_OBJECT_STATE_DESTROYED
	}
	return s == p.state
}

const (
	// scanned bounds how many objects one page looks at, so that a filter that
	// fits nothing does not walk the whole registry in one call.
	scanned = 10 * MaxPage
	// pageBytes bounds the encoded size of a page. One object more still fits a
	// message.
	pageBytes = 1 << 20
)

// collect fills one page from read, and returns the token of the next one, or ""
// after the last.
func collect[T any, M proto.Message](p pageRequest, read func(after string, limit int) []T, of func(T) (string, kryptonv1.ObjectState), show func(T) M) (page []M, next string) {
	after, size := p.after, 0
	for looked := 0; looked < scanned; {
		batch := read(after, MaxPage)
		for _, obj := range batch {
			name, state := of(obj)
			after = name
			looked++
			if !p.wants(state) {
				continue
			}
			m := show(obj)
			page = append(page, m)
			if size += proto.Size(m); len(page) == p.size || size >= pageBytes {
				if len(read(after, 1)) == 0 {
					return page, ""
				}
				return page, p.token(after)
			}
		}
		if len(batch) < MaxPage {
			return page, ""
		}
	}
	return page, p.token(after)
}

func (p pageRequest) token(after string) string {
	return base64.RawURLEncoding.EncodeToString(append(p.list[:], after...))
}

// listSumSize is how much of the digest of a list is in a token: enough against
// a mistake, which is all that it is against.
const listSumSize = 6

func listSum(list, filter string) (out [listSumSize]byte) {
	sum := sha256.Sum256([]byte(list + "\x00" + filter))
	copy(out[:], sum[:])
	return out
}
