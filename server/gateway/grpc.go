package gateway

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

// SpeaksGRPC reports whether a request is a gRPC call, for which this is the
// wrong port.
func SpeaksGRPC(r *http.Request) bool {
	return r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}

// RefuseGRPC answers a gRPC call in gRPC's own form (trailers only), so that its
// caller reads what is wrong and not that some server answered 404.
func RefuseGRPC(w http.ResponseWriter) {
	protect(w.Header())
	st := wire.ToStatus(errs.New(errs.Unimplemented, "this port speaks HTTP/JSON, not gRPC",
		errs.Hint("give the gRPC port of the node, 8400 unless configured otherwise")))
	h := w.Header()
	h.Set("Content-Type", "application/grpc")
	h.Set("Grpc-Status", strconv.Itoa(int(st.Code())))
	h.Set("Grpc-Message", st.Message()) // ASCII without a percent sign, so nothing is to be encoded
	if details, err := proto.Marshal(st.Proto()); err == nil {
		h.Set("Grpc-Status-Details-Bin", base64.RawStdEncoding.EncodeToString(details))
	}
	w.WriteHeader(http.StatusOK)
}
