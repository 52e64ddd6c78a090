package seal

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
)

// proofOf gives these shares to the proof of a record, or to an unsealing of it.
func proofOf(r Record, begin func(Record, Fingerprint, clock.Clock, time.Duration) (*Opening, error), shares []Share) (mk memsec.Secret, holders []int, err error) {
	o, err := begin(r, Fingerprint{9}, clock.NewFake(time.Unix(5, 6)), time.Minute)
	if err != nil {
		return mk, nil, err
	}
	defer o.Reset()
	for _, s := range shares {
		own, err := memsec.Copy(s.secret, memsec.Cold)
		if err != nil {
			return mk, nil, err
		}
		s.secret = own
		if _, err := o.Contribute(s.ForCluster(Fingerprint{9})); err != nil {
			return mk, nil, err
		}
	}
	mk, holders, _ = o.TakeProof()
	return mk, holders, nil
}

// TestI15_AProofLooksAtSharesThatNobodyGave: whoever made the record wrote the hash of
// something else for one holder, of whichever group. Enough others open it, and it is no
// proof, whoever they are.
func TestI15_AProofLooksAtSharesThatNobodyGave(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Ceremony{Keyspace: hierarchy.KeyspaceID{1}, Cluster: hierarchy.ClusterID{2}, ID: hierarchy.UID{3}, Generation: 4, Time: time.Unix(5, 6)}
		var p Plan
		for g := range rapid.IntRange(1, 3).Draw(t, "groups") {
			n := rapid.IntRange(2, 6).Draw(t, "holders")
			to := Group{Name: fmt.Sprint("group ", g), Threshold: rapid.IntRange(2, n).Draw(t, "threshold")}
			for i := range n {
				to.Holders = append(to.Holders, Holder{Name: fmt.Sprint("person ", g, i)})
			}
			p.Groups = append(p.Groups, to)
		}
		r, want, shares, err := Create(context.Background(), rand.Reader, c, p, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer want.Destroy()
		defer destroyAll(shares)
		var given, left []Share
		var numbers []int
		first := 0
		for _, g := range p.Groups {
			of := rapid.Permutation(shares[first:first+len(g.Holders)]).Draw(t, "order")
			given, left = append(given, of[:g.Threshold]...), append(left, of[g.Threshold:]...)
			first += len(g.Holders)
		}
		for _, s := range given {
			numbers = append(numbers, s.Index())
		}
		slices.Sort(numbers)
		mk, holders, err := proofOf(r, NewProof, given)
		if err != nil || !slices.Equal(holders, numbers) {
			t.Fatalf("opened by %v, want %v: %v", holders, numbers, err)
		}
		if eq, err := memsec.Equal(mk, want); err != nil || !eq {
			t.Fatalf("another MasterKey: %v", err)
		}
		mk.Destroy()
		for _, s := range left {
			pb := r.Proto()
			pb.Manifest.Holders[s.Index()-1].ShareHash = bytes.Repeat([]byte{7}, 32)
			damaged, err := newRecord(pb)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := proofOf(damaged, NewProof, given); !errs.Is(err, errs.StateCorrupt) || !errors.Is(err, ErrShareWrong) {
				t.Fatalf("share %d is of nothing: %v", s.Index(), err)
			}
			if mk, _, err = proofOf(damaged, NewOpening, given); err != nil {
				t.Fatalf("an unsealing without share %d: %v", s.Index(), err)
			}
			mk.Destroy()
		}
	})
}

// TestI15_SharesOfAnotherKeyProveNothing: they are consistent with their hashes, and the
// commitment is of the right MasterKey.
func TestI15_SharesOfAnotherKeyProveNothing(t *testing.T) {
	r, shares := internalSeal(t, 4, 3)
	pb := r.Proto()
	pb.Manifest.MasterKeyCommitment = bytes.Repeat([]byte{8}, 32)
	garbage, err := newRecord(pb)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := proofOf(garbage, NewProof, shares[1:]); !errors.Is(err, ErrCommitment) {
		t.Errorf("proved: %v", err)
	}
	if _, holders, err := proofOf(r, NewProof, shares[:2]); err != nil || holders != nil {
		t.Errorf("with two of three: %v, %v", holders, err)
	}
}

// TestI15_AnotherShareOfThePolynomialIsTheShare: what is computed from others is what
// was given out, to the byte.
func TestI15_AnotherShareOfThePolynomialIsTheShare(t *testing.T) {
	_, shares := internalSeal(t, 7, 3)
	for i, s := range shares {
		others := slices.Delete(slices.Clone(shares), i, i+1)[2:5]
		value, err := joinAt(others, s.x)
		if err != nil {
			t.Fatal(err)
		}
		want, err := s.hash()
		if err != nil {
			t.Fatal(err)
		}
		whole := make([]byte, 0, shareSize)
		if err := reveal.With(value, func(b []byte) error {
			whole = append(whole, b...)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		got := s
		if got.secret, err = memsec.Take(append(whole, s.x), memsec.Cold); err != nil {
			t.Fatal(err)
		}
		if h, err := got.hash(); err != nil || h != want {
			t.Errorf("share %d: %v", s.index, err)
		}
		value.Destroy()
		got.Destroy()
	}
}
