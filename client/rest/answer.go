package rest

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

const jsonType = "application/json"

// Headers, as server/gateway has them.
const (
	headerCorrelation = "krypton-correlation-id"
	headerNode        = "krypton-node"
	headerIndex       = "krypton-index"
	headerOperation   = "krypton-operation" // operations/{id}
	headerStale       = "krypton-stale"
	headerTrace       = "traceparent"

	headerAuthorization = "Authorization" // as net/http writes it

	metadataAsync = "krypton-async" // what package client says, for Prefer: respond-async
)

const (
	// maxBody is the largest body of an answer: the largest message in base64,
	// with room for its JSON.
	maxBody = client.MaxResponseBytes/3*4 + 64<<10

	// firstRead is the size of the first buffer when the length is not known.
	firstRead = 4 << 10
)

// read reads a body of at most maxBody bytes (I4). The buffers that it outgrows
// are wiped (I5).
func read(r io.Reader, length int64) ([]byte, error) {
	if length > maxBody {
		return nil, errAnswerTooLarge()
	}
	n := firstRead
	if length >= 0 {
		n = int(length) + 1 // the last byte sees the end
	}
	b := make([]byte, 0, n)
	for {
		got, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+got]
		switch {
		case len(b) > maxBody:
			return b, errAnswerTooLarge()
		case errors.Is(err, io.EOF):
			return b, nil
		case err != nil:
			return b, errs.New(errs.Unavailable, "the answer broke off: "+err.Error(), errs.Cause(err))
		}
		if len(b) == cap(b) {
			more := make([]byte, len(b), 2*cap(b))
			copy(more, b)
			clear(b)
			b = more
		}
	}
}

func errAnswerTooLarge() error {
	return errs.Newf(errs.TooLarge, "the answer is larger than %d bytes", maxBody).With(errs.Hint("ask for smaller pages"))
}

// errorBody is what a node answers with when it refuses.
type errorBody struct {
	Error struct {
		Code    int    `json:"code"`
		Reason  string `json:"reason"`
		Message string `json:"message"`
		Hint    string `json:"hint"`
	} `json:"error"`
}

// decode reads an answer into out, or returns the error that it is.
func decode(code int, h http.Header, raw []byte, out proto.Message) error {
	kind, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || kind != jsonType || h.Get(headerNode) == "" {
		return foreign(code)
	}
	// Accepted is a change that was not waited for, and which is named.
	if code == http.StatusOK || code == http.StatusAccepted && h.Get(headerOperation) != "" {
		// A field of a newer node is no error, as it is none over gRPC.
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, out); err != nil {
			proto.Reset(out)
			return errs.New(errs.Unavailable, "the answer is not what the method answers with", errs.Hint(notANode))
		}
		// A refusal whose status somebody made 200 has no field that the method
		// knows. It must not pass for an empty ciphertext.
		if proto.Size(out) == 0 {
			if _, refused := refusal(raw); refused {
				return errs.New(errs.Unavailable, "the answer is a refusal with the status of a success", errs.Hint(notANode))
			}
		}
		return nil
	}
	body, ok := refusal(raw)
	if !ok || body.Error.Code != code {
		return foreign(code)
	}
	details := make([]protoadapt.MessageV1, 0, 2)
	// The status that the node would have made over gRPC: a reason that this
	// release does not know is told apart from one that no node said.
	gcode := codes.Unknown
	if known, ok := errs.ByName(body.Error.Reason); ok {
		gcode = codes.Code(known.Row().GRPC) //nolint:gosec // The same small numbers.
	}
	info := &errdetails.ErrorInfo{Reason: body.Error.Reason, Domain: wire.Domain}
	if body.Error.Hint != "" {
		info.Metadata = map[string]string{"hint": body.Error.Hint}
	}
	details = append(details, protoadapt.MessageV1Of(info))
	if after := retryAfter(h); after > 0 {
		details = append(details, protoadapt.MessageV1Of(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)}))
	}
	st, err := status.New(gcode, body.Error.Message).WithDetails(details...)
	if err != nil {
		return foreign(code)
	}
	return st.Err()
}

// maxRetryAfter is the longest time to wait that is believed; no node says more than
// the seconds that a burst takes to come back.
const maxRetryAfter = time.Hour

// retryAfter returns how long the answer asks to wait; 0: it does not say.
func retryAfter(h http.Header) time.Duration {
	s, err := strconv.ParseUint(h.Get("Retry-After"), 10, 32)
	if err != nil {
		return 0
	}
	return min(time.Duration(s)*time.Second, maxRetryAfter)
}

// refusal reads a body as an error, and reports whether it is one of a node.
func refusal(raw []byte) (body errorBody, ok bool) {
	err := json.Unmarshal(raw, &body)
	return body, err == nil && isReason(body.Error.Reason)
}

// isReason reports whether s has the form of a code's name.
func isReason(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'A' || c > 'Z') && c != '_' && (c < '0' || c > '9') {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

const notANode = "check that the address is a node's HTTP/JSON door, and what stands between"

// foreign is the error of an answer that no node made (I1).
func foreign(code int) error {
	switch {
	case code == http.StatusRequestEntityTooLarge:
		return errs.New(errs.TooLarge, "what stands before the node refused the request for its size (HTTP 413)", errs.Hint("send less, or raise the limit there"))
	case code == http.StatusTooManyRequests:
		return errs.New(errs.Throttled, "what stands before the node asks for fewer calls (HTTP 429)")
	case code == http.StatusProxyAuthRequired:
		return errs.New(errs.Unavailable, "a proxy wants to know who asks (HTTP 407)", errs.Hint("give the proxy's user in its URL, or go around it"))
	case code >= 300 && code < 400:
		return errs.Newf(errs.Unavailable, "the answer leads elsewhere, which a node's never does (HTTP %d)", code).With(errs.Hint(notANode))
	case code >= 500:
		return errs.Newf(errs.Unavailable, "what stands before the node could not reach it (HTTP %d)", code).With(errs.Hint(notANode))
	}
	return errs.Newf(errs.Unavailable, "what answered is not a node (HTTP %d)", code).With(errs.Hint(notANode))
}
