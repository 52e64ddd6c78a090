package memsec_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
)

// TestI3_DestroyDuringUse lets users run against a destroyer. Every answer is
// either right or ErrDestroyed: a seal under a wiped key would be neither.
func TestI3_DestroyDuringUse(t *testing.T) {
	const users, rounds = 6, 60
	nonce, pt := make([]byte, 12), bytes.Repeat([]byte("plaintext"), 40)
	for round := range rounds {
		c := classes[round%len(classes)]
		key := make([]byte, 32)
		_, _ = rand.Read(key)
		want := reference(t, key).Seal(nil, nonce, pt, nil)
		wantKey := reference(t, key).Seal(nil, nonce, key, nil)
		s := must[memsec.Secret](t)(memsec.Take(bytes.Clone(key), c))
		a := must[memsec.AEAD](t)(memsec.NewAEAD(s))
		mac := must[[32]byte](t)(memsec.MAC(s, pt))

		var uses atomic.Int64
		enough := make(chan struct{})
		begun := sync.OnceFunc(func() { close(enough) })
		var wg sync.WaitGroup
		for user := range users {
			wg.Go(func() {
				for {
					var err error
					good := true
					switch user % 4 {
					case 0:
						var out []byte
						out, err = a.Seal(nil, nonce, pt, nil)
						good = bytes.Equal(out, want)
					case 1:
						var out []byte
						out, err = a.SealSecret(nil, nonce, s, nil)
						good = bytes.Equal(out, wantKey)
					case 2:
						var out [32]byte
						out, err = memsec.MAC(s, pt)
						good = out == mac
					case 3:
						err = reveal.With(s, func(b []byte) error { good = bytes.Equal(b, key); return nil })
					}
					if err != nil {
						if !errors.Is(err, memsec.ErrDestroyed) {
							t.Errorf("user %d: %v", user, err)
						}
						return
					}
					if !good {
						t.Errorf("user %d got an answer under another key", user)
						return
					}
					if uses.Add(1) > users*2 {
						begun()
					}
				}
			})
		}
		<-enough
		if round%5 == 4 {
			memsec.Purge()
		} else {
			wg.Go(s.Destroy)
			wg.Go(s.Destroy)
			wg.Go(a.Destroy)
			// Whoever takes the freed slot at once must not disturb the users.
			wg.Go(func() {
				for range 20 {
					other, err := memsec.Random(rand.Reader, 32, memsec.Hot)
					if err != nil {
						t.Error(err)
					}
					other.Destroy()
				}
			})
		}
		wg.Wait()
		s.Destroy()
		a.Destroy()
	}
	if r := memsec.Report(); r.Secrets != 0 || r.AEADs != 0 || r.UsedBytes != 0 {
		t.Errorf("left behind: %+v", r)
	}
}

// What is derived while a purge runs must end with it, also what appears in the
// table behind the purge's back.
func TestI2_ChildrenOfPurgedParentsDoNotSurvive(t *testing.T) {
	for range 300 {
		parent := must[memsec.Secret](t)(memsec.Take([]byte(sentinel), memsec.Hot))
		var wg sync.WaitGroup
		var children [4][]memsec.Secret
		running := make(chan struct{}, len(children))
		for i := range children {
			wg.Go(func() {
				for {
					s, err := memsec.Expand(parent, nil, memsec.Hot)
					if err != nil {
						if !errors.Is(err, memsec.ErrDestroyed) {
							t.Error(err)
						}
						return
					}
					if children[i] = append(children[i], s); len(children[i]) == 10 {
						running <- struct{}{}
					}
				}
			})
		}
		for range children {
			<-running
		}
		memsec.Purge()
		wg.Wait()
		if r := memsec.Report(); r.Secrets != 0 || r.UsedBytes != 0 {
			t.Fatalf("not wiped: %+v", r)
		}
		for _, list := range children {
			for _, s := range list {
				if s.Len() != 0 {
					t.Fatal("a child outlived the purge of its parent")
				}
			}
		}
	}
}

func TestI2_PurgeAgainstMakers(t *testing.T) {
	memsec.Purge()
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var made atomic.Int64
	for i := range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				s, err := memsec.Random(rand.Reader, 32, classes[i%2])
				if err != nil {
					if !errors.Is(err, memsec.ErrDestroyed) {
						t.Error(err)
						return
					}
					continue
				}
				k, err := memsec.Expand(s, nil, classes[i/2])
				if err == nil {
					k.Destroy()
				} else if !errors.Is(err, memsec.ErrDestroyed) {
					t.Error(err)
				}
				s.Destroy()
				made.Add(1)
			}
		})
	}
	for range 50 {
		for before := made.Load(); made.Load() < before+3; {
			if t.Failed() {
				break
			}
		}
		memsec.Purge()
	}
	close(stop)
	wg.Wait()
	if r := memsec.Report(); r.Secrets != 0 || r.UsedBytes != 0 {
		t.Errorf("left behind: %+v", r)
	}
}
