//go:build !race && !goexperiment.runtimesecret

package core

import "testing"

// The pads and the digest stay on the stack: what is on the heap cannot be wiped.
// (In a runtime/secret scope the closure itself is allocated, and erased.)
func TestAllocHmacKeepsOffTheHeap(t *testing.T) {
	key, info := make([]byte, 32), make([]byte, 100)
	var out [32]byte
	if n := testing.AllocsPerRun(100, func() { expand(&out, key, info) }); n != 0 {
		t.Errorf("expand allocates %.1f times", n)
	}
	long := make([]byte, 100)
	if n := testing.AllocsPerRun(100, func() { hmacSum(&out, long, info, key) }); n != 0 {
		t.Errorf("hmacSum allocates %.1f times", n)
	}
}
