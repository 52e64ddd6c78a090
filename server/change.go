package server

import (
	"context"
	"crypto/sha256"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
)

// Fields that every change may have.
const (
	fieldRequestID    = protoreflect.Name("request_id")
	fieldETag         = protoreflect.Name("etag")
	fieldValidateOnly = protoreflect.Name("validate_only")
	fieldIntents      = protoreflect.Name("intents")
)

// mutation is [calls.request] for what is committed as an operation, which the answer
// names: a caller that did not want to wait for it finds it under that name.
func (c *calls) mutation(ctx context.Context, m proto.Message) (node.Request, error) {
	r, err := c.request(ctx, m)
	if err != nil || r.ValidateOnly {
		return r, err
	}
	is := callOf(ctx)
	is.operation = r.ID
	if is.async {
		r.Until = cluster.Committed
	}
	return r, nil
}

// request reads what every change carries: request id, etag, validate_only and the
// signatures of people, by their names, so that no handler can forget one.
//
// The digest is SHA-256 over the method and the message without its request id and
// the signatures, in protobuf's deterministic encoding: our messages have no maps and
// no unknown fields, so equal requests have equal bytes. A retry that brings another
// signature is the same request.
func (c *calls) request(ctx context.Context, m proto.Message) (node.Request, error) {
	r := node.Request{}
	by := callOf(ctx).approval
	msg := m.ProtoReflect()
	fields := msg.Descriptor().Fields()
	if f := fields.ByName(fieldRequestID); f != nil {
		r.ID = msg.Get(f).String()
	}
	if by.stage == gate.Signed {
		r.ID, r.Approval = requestIDOf(by.id), by.id
	}
	switch id, err := uuid.Parse(r.ID); {
	case r.ID == "":
		fresh, err := uuid.NewRandomFromReader(c.rand)
		if err != nil {
			return r, errs.New(errs.Internal, "no randomness for a request id", errs.Cause(err))
		}
		r.ID = fresh.String()
	case err != nil || len(r.ID) != 36:
		return r, errs.New(errs.InvalidArgument, "request_id is not a UUID", errs.Hint("36 characters such as 0190a3c4-1f2e-7c3d-9a4b-5c6d7e8f9a0b, or none"))
	default:
		r.ID = id.String()
	}
	var err error
	if f := fields.ByName(fieldETag); f != nil {
		if r.ETag, err = parseETag(msg.Get(f).String()); err != nil {
			return r, err
		}
	}
	if f := fields.ByName(fieldValidateOnly); f != nil {
		r.ValidateOnly = msg.Get(f).Bool()
	}
	if by.stage == gate.Asked {
		r.ValidateOnly, r.Drafted = true, by.drafted
	}
	if r.Intents, err = intentsOf(msg); err != nil {
		return r, err
	}
	same := proto.Clone(m)
	for _, name := range []protoreflect.Name{fieldRequestID, fieldIntents} {
		if f := fields.ByName(name); f != nil {
			same.ProtoReflect().Clear(f)
		}
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(same)
	if err != nil {
		return r, errs.New(errs.Internal, "the request does not encode", errs.Cause(err))
	}
	h := sha256.New()
	h.Write([]byte(msg.Descriptor().FullName()))
	h.Write([]byte{0})
	h.Write(raw)
	h.Sum(r.Digest[:0])
	return r, nil
}
