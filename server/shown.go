package server

import (
	"context"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
)

// look begins a read: what it tells comes from the view of the look. A node without a
// lease answers reads all the same, and the answer says that it may be stale: people
// have to find out how things stand when least of it works.
func (c *calls) look(ctx context.Context) node.Look {
	l := c.node.Look()
	callOf(ctx).stale = l.Stale
	return l
}

// shown returns err, or why what a read found in a look, and was changed last at
// index, may not be told yet. A read shows nothing that another node with a lease does
// not show, so it waits until that change is complete. That something is not there
// may have any change as its reason, and a node without a lease cannot know it.
//
// What a list leaves out is not waited for: it would make every list wait for every
// change.
func (c *calls) shown(ctx context.Context, l node.Look, index uint64, err error) error {
	if errs.Is(err, errs.NotFound) {
		if l.Stale {
			return c.cannotKnow()
		}
		index = l.View.Index()
	} else if err != nil {
		return err
	}
	if gated := c.node.Shown(ctx, l, index); gated != nil {
		return gated
	}
	return err
}

// cannotKnow says that this node had no lease when it looked for what it did not find.
func (c *calls) cannotKnow() error {
	if err := c.cluster.LeaseErr(); err != nil {
		return err
	}
	return errs.New(errs.NotServing, "this node had no serving lease when it looked", errs.Hint("retry"))
}

// after returns why the answer of a change of r may not show an object that was changed
// last at index. Somebody else may have changed it since, and that change need not be complete because this one
// is: then it is waited for too, and when there is no time for that the caller hears
// that its own is committed.
func (c *calls) after(ctx context.Context, tok gate.Token, r node.Request, index uint64) error {
	if r.ValidateOnly {
		return c.node.Shown(ctx, c.node.Look(), index)
	}
	if r.Until == cluster.Committed || index <= c.changedAt(tok, r.ID) {
		return nil
	}
	return c.cluster.Settle(ctx, index, r.ID)
}

// changedAt returns the index of the last entry of a request of the caller, 0 if none
// is remembered. A rotation has two.
func (c *calls) changedAt(tok gate.Token, id string) (index uint64) {
	v, p := c.machine.View(), cluster.PrincipalOf(tok, cluster.NodeID(c.nodeID))
	for step := range uint32(2) {
		if q, ok := v.Request(p, id, step); ok {
			index = max(index, q.GetResult().GetIndex())
		}
	}
	return index
}

// newest returns the largest etag in a message and the messages that it holds: the
// etag of an object is the index of its last change.
func newest(m proto.Message) uint64 { return newestIn(m.ProtoReflect()) }

func newestIn(m protoreflect.Message) (index uint64) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.Name() == fieldETag && fd.Kind() == protoreflect.StringKind && !fd.IsList():
			if at, err := parseETag(v.String()); err == nil {
				index = max(index, at)
			}
		case fd.Kind() != protoreflect.MessageKind || fd.IsMap():
		case fd.IsList():
			for i := range v.List().Len() {
				index = max(index, newestIn(v.List().Get(i).Message()))
			}
		default:
			index = max(index, newestIn(v.Message()))
		}
		return true
	})
	return index
}
