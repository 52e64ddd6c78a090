package server

import (
	"context"

	"google.golang.org/grpc"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// decoding registers services whose methods answer a request that does not
// decode like every other mistake of a caller: as INVALID_ARGUMENT, with a
// correlation id, and to a stranger only that it is one. gRPC itself would say
// INTERNAL before any interceptor ran, which a caller takes for a defect of the
// node.
type decoding struct{ grpc.ServiceRegistrar }

// RegisterService implements grpc.ServiceRegistrar.
func (d decoding) RegisterService(sd *grpc.ServiceDesc, impl any) {
	out := *sd
	out.Methods = make([]grpc.MethodDesc, len(sd.Methods))
	for i, m := range sd.Methods {
		out.Methods[i] = grpc.MethodDesc{MethodName: m.MethodName, Handler: decoded(m.Handler)}
	}
	d.ServiceRegistrar.RegisterService(&out, impl)
}

func decoded(h grpc.MethodHandler) grpc.MethodHandler {
	return func(srv any, ctx context.Context, dec func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) { //nolint:revive // context-as-argument: gRPC's signature.
		var bad error
		return h(srv, ctx,
			func(v any) error {
				bad = dec(v)
				return nil
			},
			func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
				if bad != nil {
					next = func(context.Context, any) (any, error) { return nil, errNotAMessage(bad) }
				}
				return intercept(ctx, req, info, next)
			})
	}
}

func errNotAMessage(cause error) error {
	return errs.New(errs.InvalidArgument, "the request is not a message of this method",
		errs.Hint("encode it with the .proto files of this API; text is valid UTF-8"), errs.Cause(cause))
}
