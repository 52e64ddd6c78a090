package server

import (
	"context"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// shown returns err, or why out, which a read found in the registry, may not be told
// yet. A read shows nothing that another node with a lease does not show, so it waits
// until the newest change among the objects that it shows is complete: their etags
// are the indexes of their last changes. That something is not there may have any
// change as its reason.
//
// A node without a lease answers reads all the same: people have to find out how
// things stand when least of it works. The answer says that it may be stale.
//
// What a list leaves out is not waited for: it would make every list wait for every
// change.
func (c *calls) shown(ctx context.Context, out proto.Message, err error) error {
	var index uint64
	switch {
	case errs.Is(err, errs.NotFound):
		index = c.machine.View().Index()
	case err != nil:
		return err
	default:
		index = newest(out.ProtoReflect())
	}
	stale, gated := c.node.Shown(ctx, index)
	if gated != nil {
		return gated
	}
	callOf(ctx).stale = stale
	return err
}

// newest returns the largest etag in a message and the messages that it holds.
func newest(m protoreflect.Message) (index uint64) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.Name() == fieldETag && fd.Kind() == protoreflect.StringKind && !fd.IsList():
			if at, err := parseETag(v.String()); err == nil {
				index = max(index, at)
			}
		case fd.Kind() != protoreflect.MessageKind || fd.IsMap():
		case fd.IsList():
			for i := range v.List().Len() {
				index = max(index, newest(v.List().Get(i).Message()))
			}
		default:
			index = max(index, newest(v.Message()))
		}
		return true
	})
	return index
}
