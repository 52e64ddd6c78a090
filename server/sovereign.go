package server

import (
	"context"
	"crypto/sha256"
	"sync"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/identity"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// byApproval says that a call is made by an approval, or checked for one.
type byApproval struct {
	id      string
	stage   gate.Stage
	signers string               // for the record
	drafted func(*fsmpb.Command) // of stage Asked: gets what would be proposed
}

// sovereignMethods are the methods whose requests people may have to sign, by the
// name of the request: those that can bring signatures.
//
//nolint:gochecknoglobals // Immutable.
var sovereignMethods = sync.OnceValue(func() map[protoreflect.FullName]string {
	out := map[protoreflect.FullName]string{}
	api := kryptonv1.File_krypton_v1_common_proto.Package()
	protoregistry.GlobalFiles.RangeFilesByPackage(api, func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			sd := file.Services().Get(i)
			for k := range sd.Methods().Len() {
				m := sd.Methods().Get(k)
				if m.Input().Fields().ByName(fieldIntents) != nil {
					out[m.Input().FullName()] = "/" + string(sd.FullName()) + "/" + string(m.Name())
				}
			}
		}
		return true
	})
	return out
})

// typePrefix is what stands before the name of a message in an Any.
const typePrefix = "type.googleapis.com/"

// sovereignRequest is a request of the API that shall be approved, and its method.
type sovereignRequest struct {
	method  string
	message proto.Message
	raw     []byte // its deterministic encoding
}

// sovereignFrom reads a request that shall be approved. What a caller may say beside
// what is ordered, and what would be overlooked, is refused by name: an approval has
// its own request id, is no check, and has its own signatures.
func sovereignFrom(a *anypb.Any) (sovereignRequest, error) {
	none := func(what, hint string) (sovereignRequest, error) {
		return sovereignRequest{}, errs.New(errs.InvalidArgument, what, errs.Hint("%s", hint))
	}
	switch {
	case a == nil:
		return none("request is missing", "give the request that shall be approved, with its type")
	case len(a.GetValue()) > fsm.MaxApprovalRequestBytes:
		return sovereignRequest{}, errs.Newf(errs.TooLarge, "the request is larger than %d bytes", fsm.MaxApprovalRequestBytes).
			With(errs.Hint("order less in one request, or collect the signatures with --sign-only"))
	}
	name := a.MessageName()
	method, ok := sovereignMethods()[name]
	if !ok || a.GetTypeUrl() != typePrefix+string(name) {
		return none("request is not one that people sign", "its type is that of a request with the field intents, such as "+typePrefix+"krypton.v1.DeleteTenantRequest")
	}
	m, err := a.UnmarshalNew()
	if err != nil {
		return none("request does not decode as its type", "encode it with the .proto files of this API; text is valid UTF-8")
	}
	if err := understood(m.ProtoReflect()); err != nil {
		return sovereignRequest{}, err
	}
	for _, f := range []protoreflect.Name{fieldIntents, fieldRequestID, fieldValidateOnly} {
		if fd := m.ProtoReflect().Descriptor().Fields().ByName(f); fd != nil && m.ProtoReflect().Has(fd) {
			return none("request."+string(f)+" is set", "leave it out: the approval has the signatures, and a request id of its own")
		}
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return sovereignRequest{}, errs.New(errs.Internal, "the request does not encode", errs.Cause(err))
	}
	return sovereignRequest{method: method, message: m, raw: raw}, nil
}

// typeURL is the name of the request's type in an Any.
func (r sovereignRequest) typeURL() string {
	return typePrefix + string(r.message.ProtoReflect().Descriptor().FullName())
}

// make runs the handler of the request, as a call from outside does: for who asked,
// and with what the approval says. What it would answer goes nowhere.
func (c *calls) make(ctx context.Context, r sovereignRequest, who caller, by byApproval) error {
	m, ok := c.local.methods[r.method]
	if !ok {
		return errs.New(errs.Internal, "a request that people sign has no method")
	}
	_, err := m.desc.Handler(m.impl, withCall(ctx, call{caller: who, approval: by}), func(dst any) error {
		to, ok := dst.(proto.Message)
		if !ok {
			return errs.New(errs.Internal, "not a message")
		}
		proto.Merge(to, r.message)
		return nil
	}, noInterceptor)
	return err
}

// noInterceptor is for a call within a call, which has passed all of it.
func noInterceptor(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	return next(ctx, req)
}

// requestIDOf is the request id with which an approval is executed, whichever node
// does it: so the memory of requests, too, has it done once.
func requestIDOf(id string) string {
	sum := sha256.Sum256([]byte("krypton/v1/approval-request\x00" + id))
	u := uuid.UUID(sum[:16])
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80 // RFC 9562, version 8
	return u.String()
}

// requesterOf is who asked for an approval, as a caller: by the name and the issuer
// that the registry keeps. Whether it is still who it was, and may still ask, every
// replica decides.
func requesterOf(v *fsm.View, a *fsmpb.Approval) (caller, error) {
	p := a.GetRequester()
	role, err := auth.ParseRole(p.GetKind())
	issuer, ierr := hierarchy.ParseUID(p.GetIssuer())
	if err != nil || ierr != nil || p.GetName() == "" {
		return caller{}, errs.New(errs.StateCorrupt, "an approval does not say who asked for it", errs.Hint("reject it and ask again"))
	}
	who := caller{asked: v.AuthorityAt(), Identity: identity.Identity{
		Principal: auth.Principal{Issuer: auth.Issuer(issuer), Role: role, Name: p.GetName()}, Serial: string(a.GetRequestedWith()),
	}}
	if uid := a.GetRequested().GetBindingUid(); len(uid) == hierarchy.UIDSize {
		who.Binding = hierarchy.UID(uid)
	}
	return who, nil
}
