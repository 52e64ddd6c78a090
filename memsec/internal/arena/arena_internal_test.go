package arena

import (
	"bytes"
	"errors"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/internal/invariants"
)

func addr(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

type owned struct {
	s    Slot
	fill byte
	use  Use
}

// TestI2_AgreesWithAModel allocates and frees at random beside a list of what
// is out, and looks at every byte of the arena after each step.
func TestI2_AgreesWithAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := New(12 * Piece())
		var out []owned
		t.Repeat(map[string]func(*rapid.T){
			"alloc": func(t *rapid.T) {
				n := rapid.OneOf(rapid.IntRange(1, MaxSlot), rapid.SampledFrom([]int{1, 32, 33, 64, 2048, 2049, 4096})).Draw(t, "n")
				use := rapid.SampledFrom([]Use{Resident, Scratch}).Draw(t, "use")
				s, err := a.Alloc(n, use)
				if err != nil {
					if !errors.Is(err, ErrExhausted) {
						t.Fatal(err)
					}
					return
				}
				b := s.Bytes()
				if len(b) != n || cap(b) != n || !bytes.Equal(b, make([]byte, n)) {
					t.Fatalf("a slot of %d bytes has %d, room for %d, or is not zero", n, len(b), cap(b))
				}
				fill := byte(rapid.IntRange(1, 200).Draw(t, "fill"))
				for i := range b {
					b[i] = fill
				}
				out = append(out, owned{s, fill, use})
			},
			"free": func(t *rapid.T) {
				if len(out) == 0 {
					t.Skip("nothing is out")
				}
				i := rapid.IntRange(0, len(out)-1).Draw(t, "which")
				a.Free(out[i].s)
				out[i] = out[len(out)-1]
				out = out[:len(out)-1]
			},
			"": func(t *rapid.T) { audit(t, a, out) },
		})
		for _, o := range out {
			a.Free(o.s)
		}
		audit(t, a, nil)
	})
}

// audit checks I1 to I4 over the whole arena.
func audit(t *rapid.T, a *Arena, out []owned) {
	used := 0
	kinds := map[*block]Use{}
	owner := map[uintptr]byte{} // of every byte of every live slot
	for _, o := range out {
		used += 1 << o.s.b.shift
		if use, ok := kinds[o.s.b]; ok && use != o.use {
			t.Fatal("I4: a block holds resident and scratch slots")
		}
		kinds[o.s.b] = o.use
		for i, c := range o.s.Bytes() {
			if c != o.fill {
				t.Fatal("I2: a live slot changed")
			}
			at := addr(o.s.Bytes()) + uintptr(i)
			if _, taken := owner[at]; taken {
				t.Fatal("I2: live slots overlap")
			}
			owner[at] = c
		}
	}
	for _, b := range a.blocks {
		for i, c := range b.mem {
			if _, live := owner[addr(b.mem)+uintptr(i)]; !live && c != 0 && (!invariants.Enabled || c != 0xDB) {
				t.Fatalf("I1: free memory holds %#x", c)
			}
		}
	}
	st := a.Stats()
	if st.Used != used || st.Committed > st.Limit || st.Committed != len(a.blocks)*blockSize {
		t.Fatalf("I3: stats %+v, model uses %d", st, used)
	}
}

// TestI1_ABlockThatChangesItsClassHoldsNothing: a block of which only some slots
// were ever used becomes one large slot. What was used differs from what was
// not in builds with checks; that is no sign of a write after a scope.
func TestI1_ABlockThatChangesItsClassHoldsNothing(t *testing.T) {
	a := New(2 * Piece())
	var out []Slot
	for range blockSize/minSlot + 1 { // a full block, and one slot of the next
		s, err := a.Alloc(minSlot, Scratch)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	a.Free(out[0]) // the first block has room, so the second may go when it is empty
	a.Free(out[len(out)-1])
	if len(a.spare) == 0 {
		t.Fatal("the second block stayed with its class: the test shows nothing")
	}
	s, err := a.Alloc(MaxSlot, Scratch)
	if err != nil {
		t.Fatal(err)
	}
	if b := s.Bytes(); !bytes.Equal(b, make([]byte, MaxSlot)) {
		t.Error("a slot of a block that changed its class is not zero")
	}
}

func TestI3_ExhaustionIsAnErrorAndEverythingComesBack(t *testing.T) {
	a := New(3 * Piece())
	per := Piece() / MaxSlot * 3
	for range 3 { // the same memory serves again, in another class each time
		for _, n := range []int{4096, 32, 1000} {
			var out []Slot
			for {
				s, err := a.Alloc(n, Resident)
				if err != nil {
					if !errors.Is(err, ErrExhausted) {
						t.Fatal(err)
					}
					break
				}
				out = append(out, s)
			}
			if want := per * (MaxSlot >> (classOf(n) + minShift)); len(out) < want-1 || len(out) > want {
				t.Errorf("%d slots of %d bytes, want about %d", len(out), n, want)
			}
			for _, s := range out {
				a.Free(s)
			}
			// One empty block of a class may stay with it; give it back.
			a.mu.Lock()
			for c := range a.room[Resident] {
				for _, b := range a.room[Resident][c] {
					b.free, b.nfree, b.pos = [len(b.free)]uint64{}, 0, -1
					a.spare = append(a.spare, b)
				}
				a.room[Resident][c] = nil
			}
			a.mu.Unlock()
		}
	}
}

func TestI4_ResidentsLeaveRoomToUseThem(t *testing.T) {
	a := New(64 * Piece())
	all := 0
	for {
		if _, err := a.Alloc(MaxSlot, Resident); err != nil {
			break
		}
		all++
	}
	if want := 64 * Piece() / blockSize; all < want-scratchFloor || all >= want {
		t.Errorf("%d residents in %d blocks", all, want)
	}
	for round := range 3 {
		var out []Slot
		for range scratchFloor {
			s, err := a.Alloc(MaxSlot, Scratch)
			if err != nil {
				t.Fatalf("round %d: no scratch: %v", round, err)
			}
			out = append(out, s)
		}
		for _, s := range out {
			a.Free(s)
		}
		if _, err := a.Alloc(MaxSlot, Resident); !errors.Is(err, ErrExhausted) {
			t.Fatalf("round %d: a resident took the room: %v", round, err)
		}
	}
}

func TestI2_FreeingTwiceStops(t *testing.T) {
	a := New(Piece())
	s, err := a.Alloc(32, Scratch)
	if err != nil {
		t.Fatal(err)
	}
	a.Free(s)
	wantPanic(t, "freed twice", func() { a.Free(s) })
	a.Free(Slot{}) // nothing, and nothing happens
}

func TestSizeOutOfRangeStops(t *testing.T) {
	for _, n := range []int{-1, 0, MaxSlot + 1} {
		wantPanic(t, "slot of", func() { _, _ = New(Piece()).Alloc(n, Scratch) })
	}
}

func wantPanic(t *testing.T, text string, fn func()) {
	t.Helper()
	defer func() {
		t.Helper()
		p, _ := recover().(string)
		if !strings.Contains(p, text) {
			t.Errorf("panic %q, want one with %q", p, text)
		}
	}()
	fn()
}

func TestI1_WriteAfterFree(t *testing.T) {
	a := New(Piece())
	s, err := a.Alloc(32, Scratch)
	if err != nil {
		t.Fatal(err)
	}
	kept := s.Bytes()
	a.Free(s)
	kept[7] = 0x41
	if invariants.Enabled {
		wantPanic(t, "after its scope", func() { allocAll(a) })
		return
	}
	for _, s := range allocAll(a) { // release builds hand out zeros all the same
		if !bytes.Equal(s.Bytes(), make([]byte, 32)) {
			t.Error("a fresh slot holds what was written after its scope")
		}
	}
}

func allocAll(a *Arena) (all []Slot) {
	for {
		s, err := a.Alloc(32, Scratch)
		if err != nil {
			return all
		}
		all = append(all, s)
	}
}

func TestClassesAreTheNextPowerOfTwo(t *testing.T) {
	a := New(64 * Piece())
	for n, want := range map[int]int{1: 32, 31: 32, 32: 32, 33: 64, 64: 64, 65: 128, 1024: 1024, 1025: 2048, 4095: 4096, 4096: 4096} {
		before := a.Stats().Used
		s, err := a.Alloc(n, Resident)
		if err != nil {
			t.Fatal(err)
		}
		if got := a.Stats().Used - before; got != want {
			t.Errorf("%d bytes take %d, want %d", n, got, want)
		}
		a.Free(s)
	}
}

func TestGuardPagesFault(t *testing.T) {
	a := New(extentSize * Piece())
	if err := a.Commit(extentSize * Piece()); err != nil { // the whole extent is open
		t.Fatal(err)
	}
	all := a.extent.all
	if all == nil {
		t.Fatal("no extent")
	}
	page := os.Getpagesize()
	for name, off := range map[string]int{
		"first": 0, "just before": page - 1,
		"just behind": len(all) - page, "last": len(all) - 1,
	} {
		func() {
			defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
			defer func() {
				if recover() == nil {
					t.Errorf("the %s byte of the guard pages can be read", name)
				}
			}()
			sink = *(*byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(all)), off))
		}()
	}
	all[page], all[len(all)-page-1] = 1, 1 // and the inside can
}

// sink keeps the compiler from dropping a read.
var sink byte

func TestConcurrentUse(t *testing.T) {
	a := New(16 * Piece())
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 500 {
				s, err := a.Alloc(32<<(i%8), Use(g%2))
				if err != nil {
					if !errors.Is(err, ErrExhausted) {
						t.Error(err)
					}
					continue
				}
				b := s.Bytes()
				for j := range b {
					b[j] = byte(g + 1)
				}
				if c := bytes.Count(b, []byte{byte(g + 1)}); c != len(b) {
					t.Error("another goroutine wrote into a slot")
				}
				a.Free(s)
				if i%50 == 0 {
					if err := WithHeadroom(func() {}); err != nil {
						t.Error(err)
					}
					_ = a.Stats()
				}
			}
		})
	}
	wg.Wait()
	if u := a.Stats().Used; u != 0 {
		t.Errorf("%d bytes left", u)
	}
}
