package server

import (
	"cmp"
	"errors"

	"google.golang.org/grpc/encoding"
	encproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// codec is gRPC's own, but for two things. It wipes what is secret in a response
// once it is encoded: nobody else has a reference to it then. And a request that
// does not decode is handed on with a mark, so that it is refused like every
// other mistake of a caller, with a correlation id, and to a stranger only as
// one. gRPC itself would say INTERNAL before any interceptor ran, which a caller
// takes for a defect of the node.
//
// What was encoded is wiped too: a request once it is decoded, an answer when gRPC
// gives its buffer back. What is left is what stands in the buffers between gRPC,
// TLS and the system, which belong to one connection and are overwritten by what
// comes next on it.
type codec struct {
	encoding.CodecV2

	buffers mem.BufferPool // of encoded answers
}

func newCodec() codec {
	return codec{encoding.GetCodecV2(encproto.Name), wipingPool{mem.DefaultBufferPool()}}
}

// wipingPool is a pool whose buffers are wiped when they come back, as all do.
type wipingPool struct{ mem.BufferPool }

// pooledFrom is the least capacity in bytes of a buffer that gRPC gives back: it
// leaves smaller ones to the garbage collector, unwiped, because allocating them is
// cheaper than keeping them.
const pooledFrom = 1<<10 + 1

// Get implements mem.BufferPool.
func (p wipingPool) Get(n int) *[]byte {
	b := p.BufferPool.Get(max(n, pooledFrom))
	*b = (*b)[:n]
	return b
}

// Put implements mem.BufferPool.
func (p wipingPool) Put(b *[]byte) {
	clear(*b)
	p.BufferPool.Put(b)
}

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	defer wipe(m)
	size := proto.Size(m)
	buf := c.buffers.Get(size)
	out, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend((*buf)[:0], m)
	if err != nil || len(out) != size { // the second: somebody changed the message meanwhile
		clear(out)
		c.buffers.Put(buf)
		return nil, cmp.Or(err, errMessageChanged)
	}
	*buf = out
	return mem.BufferSlice{mem.NewBuffer(buf, c.buffers)}, nil
}

var errMessageChanged = errors.New("a message was changed while it was encoded")

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	buf := data.MaterializeToBuffer(c.buffers) // data itself, if it came in one piece
	err := proto.Unmarshal(buf.ReadOnlyData(), m)
	buf.Free()
	for _, piece := range data {
		// A piece from the pool is wiped when gRPC gives it back. A small one goes to
		// the garbage collector. Nobody reads it after this: a decoded message has
		// copies, and a call has one message.
		if small, ok := piece.(mem.SliceBuffer); ok {
			clear(small)
		}
	}
	if err != nil {
		proto.Reset(m)
		m.ProtoReflect().SetUnknown(notDecoded())
	}
	return nil
}

// notDecoded is the mark of a request that did not decode: a field of the last
// number there is. Whoever sends it is answered as it says.
func notDecoded() protoreflect.RawFields {
	return protowire.AppendVarint(protowire.AppendTag(nil, protowire.MaxValidNumber, protowire.VarintType), 0)
}

// secretFields are the byte fields that the API marks as secret, by message.
//
//nolint:gochecknoglobals // Immutable.
var secretFields = fieldsWhere(func(fd protoreflect.FieldDescriptor) bool {
	opts, ok := fd.Options().(*descriptorpb.FieldOptions)
	return ok && opts.GetDebugRedact() && fd.Kind() == protoreflect.BytesKind
})

// messageFields are the fields of the API that hold messages, by message.
//
//nolint:gochecknoglobals // Immutable.
var messageFields = fieldsWhere(func(fd protoreflect.FieldDescriptor) bool { return fd.Message() != nil })

// fieldsWhere lists the fields that are meant, by message: of the API's own, and
// of those that these hold.
func fieldsWhere(meant func(protoreflect.FieldDescriptor) bool) map[protoreflect.FullName][]protoreflect.FieldDescriptor {
	out := map[protoreflect.FullName][]protoreflect.FieldDescriptor{}
	seen := map[protoreflect.FullName]bool{}
	var visit func(m protoreflect.MessageDescriptor)
	visit = func(m protoreflect.MessageDescriptor) {
		if seen[m.FullName()] {
			return
		}
		seen[m.FullName()] = true
		for i := range m.Fields().Len() {
			fd := m.Fields().Get(i)
			if meant(fd) {
				out[m.FullName()] = append(out[m.FullName()], fd)
			}
			if fd.Message() != nil {
				visit(fd.Message())
			}
		}
	}
	protoregistry.GlobalFiles.RangeFilesByPackage("krypton.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Messages().Len() {
			visit(f.Messages().Get(i))
		}
		return true
	})
	return out
}

// wipe overwrites the secret bytes of a message. Secret strings (a join token)
// cannot be overwritten.
func wipe(m proto.Message) {
	if m == nil {
		return
	}
	r := m.ProtoReflect()
	if !r.IsValid() {
		return
	}
	for _, fd := range secretFields[r.Descriptor().FullName()] {
		if !fd.IsList() {
			clear(r.Get(fd).Bytes())
			continue
		}
		for list, i := r.Get(fd).List(), 0; i < list.Len(); i++ {
			clear(list.Get(i).Bytes())
		}
	}
}
