package server

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// inproc is a grpc.ClientConnInterface that calls the registered services in
// this process, through the same interceptor as calls from the network.
//
// The HTTP gateway talks to it. A loopback connection would need a second way to
// say who the caller is, and the gateway's direct registration skips the
// interceptors; both are doors that this way does not have.
type inproc struct {
	methods   map[string]method
	intercept grpc.UnaryServerInterceptor
}

type method struct {
	impl any
	desc grpc.MethodDesc
}

// RegisterService implements grpc.ServiceRegistrar.
func (p *inproc) RegisterService(sd *grpc.ServiceDesc, impl any) {
	if p.methods == nil {
		p.methods = map[string]method{}
	}
	for _, m := range sd.Methods {
		p.methods["/"+sd.ServiceName+"/"+m.MethodName] = method{impl: impl, desc: m}
	}
}

// Invoke implements grpc.ClientConnInterface.
func (p *inproc) Invoke(ctx context.Context, name string, args, reply any, opts ...grpc.CallOption) error {
	m, ok := p.methods[name]
	if !ok {
		return status.Error(codes.Unimplemented, "no such method")
	}
	in, okIn := args.(proto.Message)
	answer, okOut := reply.(proto.Message)
	if !okIn || !okOut {
		return status.Error(codes.Internal, "not a message")
	}
	defer wipe(in) // it was decoded for this call
	stream := &inprocStream{method: name}
	// No metadata crosses: the correlation id and the caller stand in ctx, put
	// there by this process.
	ctx = grpc.NewContextWithServerTransportStream(ctx, stream)
	out, err := m.desc.Handler(m.impl, ctx, func(dst any) error {
		to, ok := dst.(proto.Message)
		if !ok {
			return status.Error(codes.Internal, "not a message")
		}
		proto.Merge(to, in)
		return nil
	}, p.intercept)
	for _, o := range opts {
		if h, ok := o.(grpc.HeaderCallOption); ok {
			*h.HeaderAddr = stream.header
		}
		if t, ok := o.(grpc.TrailerCallOption); ok {
			*t.TrailerAddr = stream.trailer
		}
	}
	if err != nil {
		return err
	}
	from, ok := out.(proto.Message)
	if !ok {
		return status.Error(codes.Internal, "not a message")
	}
	proto.Merge(answer, from)
	wipe(from) // the gateway has a copy, which it encodes
	return nil
}

// NewStream implements grpc.ClientConnInterface; no streaming method stands in
// the HTTP table.
func (p *inproc) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "no streaming over HTTP")
}

// inprocStream collects the headers that a handler sets. A handler runs in one
// goroutine, so it needs no lock.
type inprocStream struct {
	method          string
	header, trailer metadata.MD
}

func (s *inprocStream) Method() string { return s.method }

func (s *inprocStream) SetHeader(md metadata.MD) error {
	s.header = metadata.Join(s.header, md)
	return nil
}

func (s *inprocStream) SendHeader(md metadata.MD) error { return s.SetHeader(md) }

func (s *inprocStream) SetTrailer(md metadata.MD) error {
	s.trailer = metadata.Join(s.trailer, md)
	return nil
}
