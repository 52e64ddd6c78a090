// Package gateway answers the API over HTTP/JSON.
//
// It translates and does nothing else: the rules are the table in http.yaml, the
// code in gatewaypb is generated from it, and every call goes through the same
// interceptor, gate and handlers as one over gRPC.
//
// # Invariants
//
//   - I1: nothing of a request becomes gRPC metadata: no Grpc-Metadata-*, Authorization or X-Forwarded-* header, no host and no address; and of an HTTP request only the listed headers are looked at. Who the caller is comes in the context, from whoever owns the TLS connection.
//   - I2: an error has the HTTP status of its row in the error table, and a body with its code, message and hint, and nothing else.
//   - I3: no response may be cached, and no body is logged.
//   - I4: what a request says and the method does not read is refused: unknown fields and parameters, a body where parameters stand in the URL, a URL where they stand in the body, a field that stands in the path already, anything behind the JSON.
//
// # Concurrency
//
// The handler is safe for concurrent use.
//
// # Failure
//
// A body that is not JSON, has an unknown field, or is too large is refused before a handler sees it.
//
// # Source
//
// google.api.http; AIP-193; docs/contract.md (REST).
package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/answer"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
	"github.com/openkcm/krypton-cluster/server/gateway/gatewaypb"
	"github.com/openkcm/krypton-cluster/server/gateway/openapi"
)

// MaxBody is the largest request body in bytes: the largest payload in base64,
// with room for names and context.
const MaxBody = 2 << 20

// Headers of a response.
const (
	CorrelationHeader = "krypton-correlation-id"
	NodeHeader        = "krypton-node"
	IndexHeader       = "krypton-index"
	OperationHeader   = "krypton-operation" // operations/{id} of the change that was made
	StaleHeader       = "krypton-stale"     // "1": from a node without a serving lease

	// Of a change that was not waited for and need not be complete, which is answered
	// with 202: what it is done for (RFC 7240), and where it is told how far it is.
	appliedHeader  = "Preference-Applied"
	locationHeader = "Location"
)

// DescriptionPath is where a GET finds the OpenAPI file.
const DescriptionPath = "/v1/openapi.json"

// WriteDescription answers with the OpenAPI file of this release.
func WriteDescription(w http.ResponseWriter) {
	protect(w.Header())
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(openapi.Document) // a caller that went away is not an error
}

// protect sets the headers of every answer (I3).
func protect(h http.Header) {
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
}

// New returns a handler that calls conn for every request of the table.
func New(ctx context.Context, conn grpc.ClientConnInterface) (http.Handler, error) {
	strictQuery()
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, strictJSON{&runtime.JSONPb{
			MarshalOptions:   protojson.MarshalOptions{EmitUnpopulated: true},
			UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: false},
		}}),
		runtime.WithMiddlewares(routed),
		runtime.WithIncomingHeaderMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithOutgoingHeaderMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithOutgoingTrailerMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithForwardResponseOption(func(ctx context.Context, w http.ResponseWriter, _ proto.Message) error {
			if said := copyHeaders(ctx, w); said.Pending {
				// Who asks for it has to know that it was done: a change that is complete
				// already is 200, with the same body.
				w.Header().Set(appliedHeader, respondAsync)
				w.Header().Set(locationHeader, "/v1/operations/"+said.Operation)
				w.WriteHeader(http.StatusAccepted)
			}
			return nil
		}),
		runtime.WithErrorHandler(func(ctx context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
			copyHeaders(ctx, w)
			WriteError(w, unwrapGateway(r, err))
		}),
		runtime.WithRoutingErrorHandler(func(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, code int) {
			WriteError(w, routingError(code))
		}),
		runtime.WithDisablePathLengthFallback(),
	)
	if err := errors.Join(
		gatewaypb.RegisterCryptoHandlerClient(ctx, mux, kryptonv1.NewCryptoClient(conn)),
		gatewaypb.RegisterTenantsHandlerClient(ctx, mux, kryptonv1.NewTenantsClient(conn)),
		gatewaypb.RegisterServicesHandlerClient(ctx, mux, kryptonv1.NewServicesClient(conn)),
		gatewaypb.RegisterSealHandlerClient(ctx, mux, kryptonv1.NewSealClient(conn)),
		gatewaypb.RegisterClusterHandlerClient(ctx, mux, kryptonv1.NewClusterClient(conn)),
		gatewaypb.RegisterAccessHandlerClient(ctx, mux, kryptonv1.NewAccessClient(conn)),
		gatewaypb.RegisterApprovalsHandlerClient(ctx, mux, kryptonv1.NewApprovalsClient(conn)),
		gatewaypb.RegisterCeremoniesHandlerClient(ctx, mux, kryptonv1.NewCeremoniesClient(conn)),
		gatewaypb.RegisterPoliciesHandlerClient(ctx, mux, kryptonv1.NewPoliciesClient(conn)),
	); err != nil {
		return nil, err
	}
	browsers := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		protect(w.Header())
		if browsers.Check(r) != nil {
			// A person's certificate may be in a browser, which any page can make
			// send requests.
			WriteError(w, errs.New(errs.Denied, "the request comes from a page of another site",
				errs.Hint("use the command line, an SDK or a page of the same origin")))
			return
		}
		body, err := readBody(w, r)
		defer clear(body)
		if err != nil {
			WriteError(w, err)
			return
		}
		mux.ServeHTTP(w, bare(r, body))
	}), nil
}

// bare returns r with its path, query and body, and with nothing of what else a
// sender may say: the gateway would make metadata of headers, of the address,
// and of the host (I1).
func bare(r *http.Request, body []byte) *http.Request {
	out := &http.Request{
		Method: r.Method, URL: r.URL, Proto: r.Proto, ProtoMajor: r.ProtoMajor, ProtoMinor: r.ProtoMinor,
		Header: http.Header{}, Body: wholeBody{bytes.NewReader(body), body}, ContentLength: int64(len(body)),
	}
	return out.WithContext(r.Context())
}

// readBody reads the whole body, so that it can be refused for its size and
// wiped after the call, and refuses parameters where the method does not look
// for them: a validateOnly in the wrong place would not be seen, and the call
// would do what it was asked not to.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	var buf bytes.Buffer
	if n := r.ContentLength; n > 0 && n <= MaxBody {
		buf.Grow(int(n) + bytes.MinRead) // one piece: growth would leave copies
	}
	_, err := buf.ReadFrom(http.MaxBytesReader(w, r.Body, MaxBody))
	body := buf.Bytes()
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return body, errs.Newf(errs.TooLarge, "the request body is larger than %d bytes", MaxBody).
			With(errs.Hint("encrypt at most 1 MiB in one call; for more, take a data key and encrypt locally"))
	}
	switch {
	case err != nil:
		return body, errs.New(errs.InvalidArgument, "the request body did not arrive as a whole",
			errs.Hint("send it again; a change with the same request id acts at most once"), errs.Cause(err))
	case r.Method == http.MethodPost && r.URL.RawQuery != "":
		return body, errs.New(errs.InvalidArgument, "parameters of a POST stand in its body, not in the URL",
			errs.Hint("move them into the JSON of the body"))
	case r.Method != http.MethodPost && len(body) > 0:
		return body, errs.New(errs.InvalidArgument, "this HTTP method takes no body", errs.Hint("its parameters stand in the URL"))
	case len(body) > 0 && !json.Valid(body):
		// Also for what stands behind the JSON, which a decoder would not look at.
		return body, errs.New(errs.InvalidArgument, "the body is not one JSON object", errs.Hint("send one object and nothing behind it, as GET %s has it", DescriptionPath))
	}
	return body, nil
}

// strictQuery makes the gateway refuse parameters of a URL that a request does
// not have, as it refuses such fields of a body. The gateway has one parser for
// the whole process, which is set once.
var strictQuery = sync.OnceFunc(func() { runtime.SetQueryParameterParser(queryParser{})(nil) })

type queryParser struct{ runtime.DefaultQueryParser }

// Parse implements runtime.QueryParameterParser.
func (p queryParser) Parse(msg proto.Message, values url.Values, filter *utilities.DoubleArray) error {
	fields := msg.ProtoReflect().Descriptor().Fields()
	for key := range values {
		if fields.ByTextName(key) == nil && fields.ByJSONName(key) == nil {
			return errors.New("no such parameter")
		}
	}
	return p.DefaultQueryParser.Parse(msg, values, filter)
}

// copyHeaders takes over what the handler says beside its answer, and returns it.
func copyHeaders(ctx context.Context, w http.ResponseWriter) (said answer.Info) {
	md, ok := runtime.ServerMetadataFromContext(ctx)
	if !ok {
		return said
	}
	v := md.HeaderMD.Get(answer.Header)
	if len(v) == 0 {
		return said
	}
	if said, ok = answer.Parse(v[len(v)-1]); ok {
		w.Header().Set(CorrelationHeader, said.Correlation)
		w.Header().Set(NodeHeader, said.Node)
		w.Header().Set(IndexHeader, strconv.FormatUint(said.Index, 10))
		if said.Operation != "" {
			w.Header().Set(OperationHeader, "operations/"+said.Operation)
		}
		if said.Stale {
			w.Header().Set(StaleHeader, "1")
		}
	}
	return said
}

// errorBody is the JSON of every error: google.rpc.Status as AIP-193 shows it,
// with the code's name, which scripts should look at.
type errorBody struct {
	Error errorDetail `json:"error"`
}

type errorDetail struct {
	Code    int    `json:"code"` // HTTP status
	Reason  string `json:"reason"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	Retry   string `json:"retry"`
}

// WriteError answers with an error (I2).
func WriteError(w http.ResponseWriter, err error) {
	e := errs.From(wire.FromStatus(err))
	row := e.Code.Row()
	body, merr := json.Marshal(errorBody{errorDetail{Code: row.HTTP, Reason: row.Name, Message: e.Msg, Hint: e.Hint, Retry: row.Retry.String()}})
	if merr != nil {
		body = []byte(`{"error":{"code":500,"reason":"INTERNAL","message":"internal error","retry":"never"}}`)
	}
	if e.After > 0 {
		// Whole seconds are all that the header can say (RFC 9110, 10.2.3).
		w.Header().Set("Retry-After", strconv.FormatInt(int64((e.After+time.Second-1)/time.Second), 10))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(row.HTTP)
	_, _ = w.Write(append(body, '\n')) // a caller that went away is not an error
}

// unwrapGateway gives the gateway's own refusals (a body that does not fit the
// method, an unknown field) the words of ours. Their text may quote the request,
// so it is replaced.
func unwrapGateway(r *http.Request, err error) error {
	if st, ok := status.FromError(err); ok && len(st.Details()) > 0 {
		return err
	}
	if e := wire.FromStatus(err); !errs.Is(e, errs.InvalidArgument) {
		return errs.New(errs.Of(e), "the call ended without an answer")
	}
	if r.Method != http.MethodPost {
		return errs.New(errs.InvalidArgument, "a parameter of the URL does not exist, stands there twice, or is not of its type",
			errs.Hint("compare it with GET %s; enums are names, text is valid UTF-8", DescriptionPath))
	}
	return errs.New(errs.InvalidArgument, "a field of the body does not exist, stands there twice, is in the path already, or is not of its type"+place(err),
		errs.Hint("compare it with GET %s; bytes are base64, enums are names, text is valid UTF-8", DescriptionPath))
}

// position is where the decoder of JSON found fault.
var position = regexp.MustCompile(`\(line (\d{1,9}):(\d{1,9})\)`)

// place says where in the body the mistake is: numbers, so that nothing of the
// body is said.
func place(err error) string {
	st, _ := status.FromError(err)
	m := position.FindStringSubmatch(st.Message())
	if m == nil {
		return ""
	}
	return " (line " + m[1] + ", column " + m[2] + ")"
}

// routed refuses a parameter of the URL that stands in the path already, and
// tells the decoder of the body which fields do: the gateway itself takes the
// path's and says nothing, and nobody knows which of two names was meant.
func routed(next runtime.HandlerFunc) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, path map[string]string) {
		query := r.URL.Query()
		for name := range path {
			if query.Has(name) {
				WriteError(w, errs.New(errs.InvalidArgument, "a parameter of the URL is in the path already", errs.Hint("leave it out")))
				return
			}
		}
		whole, _ := r.Body.(wholeBody)
		r.Body = routedBody{r.Body, whole.all, path}
		next(w, r, path)
	}
}

// wholeBody is a body that is here already.
type wholeBody struct {
	*bytes.Reader

	all []byte
}

// Close implements io.Closer.
func (wholeBody) Close() error { return nil }

// routedBody is a body that knows which fields its path has.
type routedBody struct {
	io.ReadCloser

	all  []byte
	path map[string]string
}

// strictJSON refuses a body with a field that stands in the path. It decodes a body
// where it is: a decoder of streams would copy it twice, and nobody could wipe that.
type strictJSON struct{ *runtime.JSONPb }

// NewDecoder implements runtime.Marshaler.
func (s strictJSON) NewDecoder(r io.Reader) runtime.Decoder {
	body, ok := r.(routedBody)
	if !ok {
		return s.JSONPb.NewDecoder(r)
	}
	return runtime.DecoderFunc(func(v any) error {
		m, ok := v.(proto.Message)
		if !ok {
			return errors.New("not a message")
		}
		if len(body.all) == 0 {
			return io.EOF // the gateway takes it for a message without fields
		}
		if err := s.UnmarshalOptions.Unmarshal(body.all, m); err != nil {
			return err
		}
		fields := m.ProtoReflect().Descriptor().Fields()
		for name := range body.path {
			if fd := fields.ByName(protoreflect.Name(name)); fd != nil && m.ProtoReflect().Has(fd) {
				return errors.New("a field of the path")
			}
		}
		return nil
	})
}

func routingError(code int) error {
	if code == http.StatusMethodNotAllowed {
		return errs.New(errs.Unimplemented, "this path does not take that HTTP method", errs.Hint("GET "+DescriptionPath+" lists every path"))
	}
	return errs.New(errs.NotFound, "no such path", errs.Hint("GET "+DescriptionPath+" lists every path; a name in a path is percent-encoded as a whole"))
}
