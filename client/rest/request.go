package rest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// rule is one HTTP form of a method: the verb, and the path, which is prefix,
// name and suffix. A POST has the other fields in its body, everything else has
// them in the URL.
type rule struct {
	verb    string
	prefix  string
	field   string // field of the request that is the name; empty: the path has none
	pattern string // of the name, tenants/*/services/*
	suffix  string
}

// path returns the path for a request, and false if its name does not fit.
func (r rule) path(m protoreflect.Message) (string, bool) {
	if r.field == "" {
		return r.prefix, true
	}
	fd := m.Descriptor().Fields().ByName(protoreflect.Name(r.field))
	if fd == nil || fd.Kind() != protoreflect.StringKind || fd.IsList() {
		return "", false
	}
	want, name := strings.Split(r.pattern, "/"), strings.Split(m.Get(fd).String(), "/")
	if len(want) != len(name) {
		return "", false
	}
	for i, w := range want {
		switch {
		case w != "*" && w != name[i], name[i] == "":
			return "", false
		case name[i] == ".", name[i] == "..": // whatever stands between would resolve them, to another path
			return "", false
		}
		// Segment by segment: a name that is percent-encoded itself is encoded once
		// more, as docs/contract.md says.
		name[i] = url.PathEscape(name[i])
	}
	return r.prefix + strings.Join(name, "/") + r.suffix, true
}

// request makes the HTTP request of a call. Its body is wiped when it is closed.
func (c *conn) request(ctx context.Context, method string, m proto.Message) (*http.Request, error) {
	rules, ok := table[method]
	if !ok {
		return nil, errs.New(errs.Unimplemented, "the method has no form in HTTP/JSON", errs.Hint("call it over gRPC"))
	}
	src := m.ProtoReflect()
	for _, r := range rules {
		path, ok := r.path(src)
		if !ok {
			continue
		}
		// Shares what it has with m: a clone would be one more copy of a plaintext.
		rest := src.New()
		src.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			if string(fd.Name()) != r.field {
				rest.Set(fd, v)
			}
			return true
		})
		return c.form(ctx, r, path, rest)
	}
	forms := make([]string, 0, len(rules))
	for _, r := range rules {
		forms = append(forms, r.pattern)
	}
	return nil, errs.New(errs.InvalidArgument, "the request's "+rules[0].field+" is not the full name of such an object",
		errs.Hint("it has the form %s", strings.Join(forms, " or ")))
}

func (c *conn) form(ctx context.Context, r rule, path string, m protoreflect.Message) (*http.Request, error) {
	target := "https://" + c.host + path
	var body io.ReadCloser = http.NoBody
	var size int64
	if r.verb == http.MethodPost {
		raw, err := protojson.Marshal(m.Interface())
		if err != nil {
			return nil, errs.New(errs.InvalidArgument, "the request cannot be written as JSON", errs.Hint("texts have to be valid UTF-8"), errs.Cause(err))
		}
		body, size = &payload{rest: bytes.NewReader(raw), raw: raw}, int64(len(raw))
	} else {
		q, err := query(m)
		if err != nil {
			return nil, err
		}
		if len(q) > 0 {
			target += "?" + q.Encode()
		}
	}
	hr, err := http.NewRequestWithContext(ctx, r.verb, target, body)
	if err != nil {
		_ = body.Close()
		return nil, errs.New(errs.InvalidArgument, "the request makes no URL", errs.Hint("names have no control characters"), errs.Cause(err))
	}
	hr.ContentLength = size
	hr.Header.Set("Accept", jsonType)
	hr.Header.Set("User-Agent", "krypton-go-rest")
	if r.verb == http.MethodPost {
		hr.Header.Set("Content-Type", jsonType)
	}
	if md, ok := metadata.FromOutgoingContext(ctx); ok {
		for _, v := range md.Get(headerTrace) {
			hr.Header.Add(headerTrace, v)
		}
		if len(md.Get(metadataAsync)) > 0 {
			hr.Header.Set("Prefer", "respond-async")
		}
	}
	return hr, nil
}

// query returns the fields of a message as parameters of a URL. Only what a URL
// may show can be one: a test walks the API for others.
func query(m protoreflect.Message) (url.Values, error) {
	q := url.Values{}
	var err error
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		text, ok := scalar(fd, v)
		if !ok {
			err = errs.New(errs.Unimplemented, "the method has a parameter that fits no URL", errs.Hint("call it over gRPC"))
			return false
		}
		q.Set(fd.JSONName(), text)
		return true
	})
	return q, err
}

func scalar(fd protoreflect.FieldDescriptor, v protoreflect.Value) (string, bool) {
	if fd.IsList() || fd.IsMap() {
		return "", false
	}
	switch fd.Kind() {
	case protoreflect.StringKind:
		return v.String(), true
	case protoreflect.BoolKind:
		return strconv.FormatBool(v.Bool()), true
	case protoreflect.EnumKind:
		return strconv.Itoa(int(v.Enum())), true
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.Fixed32Kind, protoreflect.Fixed64Kind:
		return strconv.FormatUint(v.Uint(), 10), true
	case protoreflect.Int32Kind, protoreflect.Int64Kind, protoreflect.Sint32Kind, protoreflect.Sint64Kind, protoreflect.Sfixed32Kind, protoreflect.Sfixed64Kind:
		return strconv.FormatInt(v.Int(), 10), true
	case protoreflect.BytesKind, protoreflect.FloatKind, protoreflect.DoubleKind, protoreflect.MessageKind, protoreflect.GroupKind:
	}
	return "", false
}

// payload is the body of a request. net/http may read it after the answer has
// come, and closes it when it does not need it any more; then it is wiped (I5).
type payload struct {
	mu   sync.Mutex
	rest *bytes.Reader // what is left of raw; nil once closed
	raw  []byte
}

var errClosedBody = errors.New("read of a closed body")

// Read implements [io.Reader].
func (p *payload) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rest == nil {
		return 0, errClosedBody
	}
	return p.rest.Read(b)
}

// Close implements [io.Closer].
func (p *payload) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.raw)
	p.rest = nil
	return nil
}
