package client

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Signer has people sign what a request orders. This package knows neither how
// an intent is written nor where keys are: intent/orders has a Signer over the
// keys of intent/sign.
type Signer interface {
	// Sign returns the signatures to send with req, none if the cluster asks
	// nobody to sign it. It is called once for each call that can carry
	// signatures, before the first attempt and within the deadline of the call; an
	// error ends the call with nothing sent. It may make calls of c, and must not
	// change req. A request has its request id already.
	Sign(ctx context.Context, c *Client, req proto.Message) ([]*kryptonv1.SignedIntent, error)
}

// SignedBy is a call option that has s sign instead of [Options.Signer]. Nil:
// nobody signs.
func SignedBy(s Signer) grpc.CallOption { return signerOption{signer: s} }

type signerOption struct {
	grpc.EmptyCallOption

	signer Signer
}

// intentsField returns the field of a message that takes signatures, or nil.
func intentsField(m proto.Message) protoreflect.FieldDescriptor {
	fd := m.ProtoReflect().Descriptor().Fields().ByName("intents")
	if fd == nil || !fd.IsList() || fd.Message() == nil || fd.Message().FullName() != (&kryptonv1.SignedIntent{}).ProtoReflect().Descriptor().FullName() {
		return nil
	}
	return fd
}

// sign adds the signatures to the request (I7). A request that has some is sent
// as it is. And a call that only checks is never signed: whoever gets it could
// send it again as one that acts.
func (cl *call) sign(ctx context.Context) error {
	fd := intentsField(cl.req)
	if cl.signer == nil || fd == nil || cl.req.ProtoReflect().Get(fd).List().Len() > 0 || onlyChecks(cl.req) {
		return nil
	}
	signed, err := cl.signer.Sign(ctx, cl.c, cl.req)
	if err != nil || len(signed) == 0 {
		return err
	}
	req := proto.Clone(cl.req) // it may be the caller's
	list := req.ProtoReflect().Mutable(fd).List()
	for _, s := range signed {
		list.Append(protoreflect.ValueOfMessage(s.ProtoReflect()))
	}
	if err := checkSize(req); err != nil {
		return err
	}
	cl.req = req
	return nil
}

func onlyChecks(m proto.Message) bool {
	fd := m.ProtoReflect().Descriptor().Fields().ByName("validate_only")
	return fd != nil && fd.Kind() == protoreflect.BoolKind && m.ProtoReflect().Get(fd).Bool()
}

func checkSize(req proto.Message) error {
	if n := proto.Size(req); n > MaxRequestBytes {
		return errs.Newf(errs.TooLarge, "the request has %d bytes, at most %d are taken", n, MaxRequestBytes).
			With(errs.Hint("encrypt large data with a data key, or with client/stream"))
	}
	return nil
}
