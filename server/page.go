package server

import (
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
	after string // last name of the page before
	size  int
	state kryptonv1.ObjectState // 0: all but destroyed ones
}

// page checks size, token and filter. A token is the last name of the page
// before, in base64 so that nobody takes it for something to write by hand.
func page(r interface {
	GetPageSize() uint32
	GetPageToken() string
}, filter string,
) (pageRequest, error) {
	p := pageRequest{size: int(r.GetPageSize())}
	switch {
	case p.size == 0:
		p.size = DefaultPage
	case p.size > MaxPage:
		return p, errs.Newf(errs.InvalidArgument, "page_size is %d, at most %d are possible", p.size, MaxPage)
	}
	after, err := base64.RawURLEncoding.Strict().DecodeString(r.GetPageToken())
	if err != nil || len(after) > hierarchy.MaxResourceIDBytes || !utf8.Valid(after) {
		return p, errs.New(errs.InvalidArgument, "page_token is not one that this cluster gave out", errs.Hint("begin again without a token"))
	}
	p.after = string(after)
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
				return page, token(after)
			}
		}
		if len(batch) < MaxPage {
			return page, ""
		}
	}
	return page, token(after)
}

func token(after string) string { return base64.RawURLEncoding.EncodeToString([]byte(after)) }
