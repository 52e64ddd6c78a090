package server

import (
	"bytes"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
)

// kept is a pool that shows what comes back.
type kept struct {
	mem.NopBufferPool

	back [][]byte
}

func (k *kept) Put(b *[]byte) { k.back = append(k.back, *b) }

// TestEncodedSecretsAreWipedWhenTheyAreSent: gRPC gives the buffer of an answer
// back, whatever the size of the answer, and then nothing of it is left.
func TestEncodedSecretsAreWipedWhenTheyAreSent(t *testing.T) {
	for _, size := range []int{0, 1, 32, 1000, pooledFrom, 5000, 1 << 20} {
		k := &kept{}
		c := newCodec()
		c.buffers = wipingPool{k}
		plain := bytes.Repeat([]byte{0xaa}, size)
		out, err := c.Marshal(&kryptonv1.DecryptResponse{Plaintext: plain})
		if err != nil {
			t.Fatal(err)
		}
		sent := out.Materialize()
		var got kryptonv1.DecryptResponse
		if err := c.Unmarshal(out, &got); err != nil || !bytes.Equal(got.GetPlaintext(), bytes.Repeat([]byte{0xaa}, size)) {
			t.Fatalf("%d bytes: decoded %d, %v", size, len(got.GetPlaintext()), err)
		}
		if len(k.back) != 0 {
			t.Fatalf("%d bytes: the buffer came back before it was sent", size)
		}
		out.Free()
		if len(k.back) != 1 || len(k.back[0]) != len(sent) || !bytes.Equal(k.back[0], make([]byte, len(sent))) {
			t.Errorf("%d bytes: %d buffers came back, or not wiped", size, len(k.back))
		}
	}
}

// TestEncodedRequestsAreWipedWhenTheyAreDecoded, in one piece or several, small or
// from a pool, and also when they do not decode.
func TestEncodedRequestsAreWipedWhenTheyAreDecoded(t *testing.T) {
	for _, size := range []int{1, 32, 1000, 5000} {
		for _, cuts := range [][]int{{}, {1}, {2, 7}, {3, size / 2}} {
			for _, whole := range []bool{true, false} {
				plain := bytes.Repeat([]byte{0xaa}, size)
				encoded, err := proto.Marshal(&kryptonv1.EncryptRequest{Service: "tenants/acme/services/pay", Plaintext: plain})
				if err != nil {
					t.Fatal(err)
				}
				if !whole {
					encoded = encoded[:len(encoded)-1]
				}
				k := &kept{}
				c := newCodec()
				c.buffers = wipingPool{k}
				var data mem.BufferSlice
				at := 0
				for i, cut := range append(cuts, len(encoded)) {
					piece := encoded[at:max(at, min(cut, len(encoded)))]
					at += len(piece)
					if i%2 == 1 { // as gRPC has large frames
						b := c.buffers.Get(len(piece))
						copy(*b, piece)
						clear(piece)
						data = append(data, mem.NewBuffer(b, c.buffers))
					} else {
						data = append(data, mem.SliceBuffer(piece))
					}
				}
				var got kryptonv1.EncryptRequest
				if err := c.Unmarshal(data, &got); err != nil {
					t.Fatal(err)
				}
				data.Free() // as gRPC does next
				if whole != bytes.Equal(got.GetPlaintext(), plain) || whole != (len(got.ProtoReflect().GetUnknown()) == 0) {
					t.Errorf("%d bytes, cut at %v, whole %t: decoded as %d bytes", size, cuts, whole, len(got.GetPlaintext()))
				}
				if !bytes.Equal(encoded, make([]byte, len(encoded))) {
					t.Errorf("%d bytes, cut at %v, whole %t: a small piece is not wiped", size, cuts, whole)
				}
				for _, b := range k.back {
					if !bytes.Equal(b, make([]byte, len(b))) {
						t.Errorf("%d bytes, cut at %v, whole %t: a buffer came back that is not wiped", size, cuts, whole)
					}
				}
				if copied := min(len(cuts), 1) + (len(cuts)+1)/2; len(k.back) != copied {
					t.Errorf("%d bytes, cut at %v, whole %t: %d buffers came back of %d", size, cuts, whole, len(k.back), copied)
				}
			}
		}
	}
}
