package gateway

import (
	"net/http"
	"strings"
)

// The headers of an HTTP request that are looked at, in canonical form. What is not
// here is gone before anybody looks (see [Listed]): a list of what is refused would
// miss what the next proxy invents. SpeaksGRPC looks at Content-Type before that, and
// the HTTP library at what it needs to find the end of a body and of a connection.
//
//nolint:gochecknoglobals // Immutable; Go has no constant maps.
var listed = map[string]bool{
	// Authorization has a token, which is verified; nothing of it gets behind the door.
	"Authorization": true,
	// Traceparent names the call and gives nothing.
	"Traceparent": true,
	// Prefer says that a change need not be waited for.
	"Prefer": true,
	// These two say from which page a browser sends; they only make it be refused.
	"Origin":         true,
	"Sec-Fetch-Site": true,
}

// Traceparent is the header that may name a call; see listed.
const Traceparent = "traceparent"

// Listed returns r with the headers of the list only, without trailers, and without
// the address of who sent it: behind a proxy that is not the caller's, and no header
// that pretends to know the caller's is believed. The header of r itself, which the
// HTTP library still needs, stays as it is.
func Listed(r *http.Request) *http.Request {
	out := new(http.Request)
	*out = *r
	out.Header = make(http.Header, len(listed))
	for name := range listed {
		if v := r.Header[name]; len(v) > 0 {
			out.Header[name] = v
		}
	}
	out.Trailer, out.RemoteAddr = nil, ""
	return out
}

// respondAsync is the preference of [RespondAsync].
const respondAsync = "respond-async"

// RespondAsync reports whether a caller prefers not to wait until a change is
// complete: Prefer: respond-async (RFC 7240).
func RespondAsync(h http.Header) bool {
	for _, line := range h.Values("Prefer") {
		for one := range strings.SplitSeq(line, ",") {
			one, _, _ = strings.Cut(one, ";")
			if strings.EqualFold(strings.TrimSpace(one), respondAsync) {
				return true
			}
		}
	}
	return false
}
