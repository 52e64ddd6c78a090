package gcpkms

import (
	"errors"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// leastBuffer is larger than what package mem keeps outside of pools: only a
// buffer with a pool is given back, which is when it is wiped.
const leastBuffer = 2 << 10

// wipingCodec is the protobuf codec of gRPC with buffers that are wiped after
// use: requests and answers hold secrets in clear. The codec of gRPC gives its
// buffers back to a pool, or to the collector, as they are.
type wipingCodec struct{}

// Name is that of the codec it stands for: it is the content type on the wire.
func (wipingCodec) Name() string { return "proto" }

var errNoMessage = errors.New("not a protobuf message")

func (wipingCodec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, errNoMessage
	}
	buf := make([]byte, 0, max(leastBuffer, proto.Size(m)))
	buf, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(buf, m)
	if err != nil {
		clear(buf)
		return nil, err
	}
	return mem.BufferSlice{mem.NewBuffer(&buf, wipe{})}, nil
}

func (wipingCodec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return errNoMessage
	}
	buf := make([]byte, data.Len())
	defer clear(buf)
	data.CopyTo(buf)
	return proto.Unmarshal(buf, m) // fields of type bytes are copies
}

// wipe is a pool that keeps nothing.
type wipe struct{}

func (wipe) Get(n int) *[]byte {
	b := make([]byte, n)
	return &b
}

func (wipe) Put(b *[]byte) { clear((*b)[:cap(*b)]) }
