package fsm_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal/manifest"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// signing is a cluster whose members have keys to sign with: nodes 0 to 2 vote, 3 does not.
type signing struct {
	*world
	keys []crypto.Signer
}

func newSigning(t *testing.T, change ...func(*fsmpb.Genesis)) *signing {
	t.Helper()
	v := &signing{}
	for i := range 4 {
		var key crypto.Signer
		var err error
		if i == 1 {
			_, key, err = ed25519.GenerateKey(rand.Reader)
		} else {
			key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		}
		if err != nil {
			t.Fatal(err)
		}
		v.keys = append(v.keys, key)
	}
	v.world = newWorld(t, append([]func(*fsmpb.Genesis){func(g *fsmpb.Genesis) { g.FirstMember.PublicKey = v.spki(t, 0) }}, change...)...)
	for i := 1; i < 4; i++ {
		m := node(i)
		m.PublicKey, m.Voter = v.spki(t, i), i < 3
		m.MaxFormat = newest
		v.ok(v.token(i, m.GetVoter()))
		v.ok(v.join(i, m))
	}
	return v
}

func (v *signing) spki(t *testing.T, i int) []byte {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(v.keys[i].Public())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// says is the word of a node about one wrapping of a repair.
func (v *signing) says(n int, c *fsmpb.Command, w *sealpb.Wrapping) *fsmpb.WrappingWitness {
	d := manifest.OfWrapping(w)
	return &fsmpb.WrappingWitness{NodeId: nodeID(n), Wrapping: d[:], Signature: v.sign(n, fsm.WitnessMessage(
		[32]byte(v.view().Cluster().GetFingerprint()), nodeID(n), [32]byte(c.GetRepairSeal().GetBase()), w))}
}

func (v *signing) sign(n int, msg []byte) []byte {
	hash := crypto.Hash(0)
	if n != 1 {
		sum := sha256.Sum256(msg)
		msg, hash = sum[:], crypto.SHA256
	}
	sig, err := v.keys[n].Sign(rand.Reader, msg, hash)
	if err != nil {
		v.tb.Fatalf("%v", err)
	}
	return sig
}

// rewrapped is a repair of the wrapping by hsm-2 that these nodes opened.
func (v *signing) rewrapped(by ...int) *fsmpb.Command {
	at := sealMade + int64(v.index) + 1
	c := v.repair(func(r *sealpb.Record) { r.Wrappings[1] = wrappingBy("hsm-2", at) })
	for _, n := range by {
		c.GetRepairSeal().Witnesses = append(c.GetRepairSeal().GetWitnesses(), v.says(n, c, wrappingBy("hsm-2", at)))
	}
	return c
}

func TestI43_WhatReplacesAWrappingWasOpenedByTwoVoters(t *testing.T) {
	v := newSigning(t)
	for _, by := range [][]int{{0, 1}, {1, 2}, {0, 1, 2}, {2, 0}} {
		v.ok(v.rewrapped(by...))
	}
	for name, c := range map[string]struct {
		change func(c *fsmpb.RepairSeal)
		by     []int
		says   string
	}{
		"nobody":           {by: nil, says: "too few"},
		"one":              {by: []int{0}, says: "too few"},
		"one, twice":       {by: []int{0, 0}, says: "no voter"},
		"one without vote": {by: []int{0, 3}, says: "no voter"},
		"a removed one":    {by: []int{0, 2}, says: "no voter", change: func(*fsmpb.RepairSeal) { v.ok(remove(2)) }},
		"a stranger":       {by: []int{0, 1}, says: "no voter", change: func(c *fsmpb.RepairSeal) { c.Witnesses[1].NodeId = nodeID(9) }},
		"another's name":   {by: []int{0, 0}, says: "not signed", change: func(c *fsmpb.RepairSeal) { c.Witnesses[1].NodeId = nodeID(1) }},
		"a forged word":    {by: []int{0, 1}, says: "not signed", change: func(c *fsmpb.RepairSeal) { c.Witnesses[1].Signature[8] ^= 1 }},
		"no signature":     {by: []int{0, 1}, says: "not signed", change: func(c *fsmpb.RepairSeal) { c.Witnesses[1].Signature = nil }},
		"of other bytes":   {by: []int{0, 1}, says: "replaces nothing", change: func(c *fsmpb.RepairSeal) { c.Witnesses[0].Wrapping = make([]byte, 32) }},
		"of what is left": {by: []int{0, 1}, says: "replaces nothing", change: func(c *fsmpb.RepairSeal) {
			c.Witnesses = append(c.GetWitnesses(), v.says(1, wrapped(c), wrappingBy("hsm-1", sealMade)))
		}},
		"for another state": {by: []int{0, 1}, says: "not signed", change: func(c *fsmpb.RepairSeal) {
			c.Witnesses[1] = v.says(1, wrapped(&fsmpb.RepairSeal{Base: make([]byte, 32)}), replacing(t, c))
		}},
		"too many": {by: []int{0, 1}, says: "too many", change: func(c *fsmpb.RepairSeal) {
			c.Witnesses = append(c.GetWitnesses(), make([]*fsmpb.WrappingWitness, fsm.MaxWitnesses-1)...)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "a removed one" {
				v = newSigning(t)
				defer func() { v = newSigning(t) }()
			}
			cmd := v.rewrapped(c.by...)
			if c.change != nil {
				c.change(cmd.GetRepairSeal())
			}
			before := v.view().Cluster()
			res := v.do(cmd)
			if res.GetReason() != errs.InvalidArgument.String() || !strings.Contains(res.GetMessage(), c.says) {
				t.Errorf("%s %q, want %q", res.GetReason(), res.GetMessage(), c.says)
			}
			if string(v.view().Cluster().GetSealRecord()) != string(before.GetSealRecord()) {
				t.Error("the seal changed")
			}
		})
	}
}

func wrapped(c *fsmpb.RepairSeal) *fsmpb.Command {
	return &fsmpb.Command{Body: &fsmpb.Command_RepairSeal{RepairSeal: c}}
}

// replacing returns what a repair of these tests has in the place of the wrapping by hsm-2.
func replacing(t *testing.T, c *fsmpb.RepairSeal) *sealpb.Wrapping {
	t.Helper()
	r, err := manifest.Parse(c.GetRecord())
	if err != nil {
		t.Fatal(err)
	}
	return r.GetWrappings()[1]
}

// TestI43_ARepairLeavesAWrappingAsItWas, however many members say that the others open.
func TestI43_ARepairLeavesAWrappingAsItWas(t *testing.T) {
	v := newSigning(t)
	one, two := wrappingBy("hsm-1", sealMade+1), wrappingBy("hsm-2", sealMade+1)
	both := func(r *sealpb.Record) { r.Wrappings[0], r.Wrappings[1] = one, two }
	c := v.repair(both)
	for _, w := range []*sealpb.Wrapping{one, two} {
		for n := range 3 {
			c.GetRepairSeal().Witnesses = append(c.GetRepairSeal().GetWitnesses(), v.says(n, c, w))
		}
	}
	if res := v.do(c); res.GetReason() != errs.InvalidArgument.String() || !strings.Contains(res.GetMessage(), "no wrapping as it was") {
		t.Errorf("%s: %s", res.GetReason(), res.GetMessage())
	}
	// With a third besides, which stays, both may go; one that is added stays nowhere.
	added := func(r *sealpb.Record) { r.Wrappings = append(r.GetWrappings(), wrappingBy("hsm-3", sealMade)) }
	if res := v.do(v.repair(func(r *sealpb.Record) { both(r); added(r) })); !strings.Contains(res.GetMessage(), "no wrapping as it was") {
		t.Errorf("%s: %s", res.GetReason(), res.GetMessage())
	}
	v.ok(v.repair(added)) // takes nothing away: needs no witness
	alone := newWorld(t)
	alone.ok(alone.repair(rewrapHSM2))
	if res := alone.do(alone.repair(func(r *sealpb.Record) { r.Wrappings[0], r.Wrappings[1] = one, wrappingBy("hsm-2", sealMade+2) })); !strings.Contains(res.GetMessage(), "no wrapping as it was") {
		t.Errorf("of one voter: %s: %s", res.GetReason(), res.GetMessage())
	}
}

// TestARepairOneAfterTheOtherEndsNoSeal: what a leader that lies can replace by itself, in
// as many entries as it likes, leaves the wrappings that a second voter did not open.
func TestARepairOneAfterTheOtherEndsNoSeal(t *testing.T) {
	v := newSigning(t)
	was := v.view().Cluster().GetSealRecord()
	for i, name := range []string{"hsm-1", "hsm-2"} {
		junk := wrappingBy(name, sealMade+1)
		junk.WrappedKey = []byte("junk")
		c := v.repair(func(r *sealpb.Record) { r.Wrappings[i] = junk })
		c.GetRepairSeal().Witnesses = []*fsmpb.WrappingWitness{v.says(0, c, junk)}
		v.refused(errs.InvalidArgument, c)
	}
	if string(v.view().Cluster().GetSealRecord()) != string(was) {
		t.Error("the seal changed")
	}
}

func TestNoWitnessesBeforeTheirFormat(t *testing.T) {
	v := newSigning(t, ofFormat(fsm.FormatCeremonies))
	v.refused(errs.InvalidArgument, v.rewrapped(0, 1))
	v.ok(v.rewrapped())
	v.ok(raise(fsm.FormatSealProof))
	v.refused(errs.InvalidArgument, v.rewrapped())
	v.ok(v.rewrapped(0, 1))
}

// TestTheHeadOfAMemberKeyIsThatOfDER, which the standard library writes.
func TestTheHeadOfAMemberKeyIsThatOfDER(t *testing.T) {
	v := newSigning(t)
	rsa := node(5)
	rsa.PublicKey, rsa.Voter = append([]byte("\x30\x59\x30\x13another"), v.spki(t, 0)...), true
	v.ok(v.token(5, true))
	v.ok(v.join(5, rsa))
	c := v.rewrapped(0)
	x := v.says(0, c, replacing(t, c.GetRepairSeal()))
	x.NodeId = nodeID(5)
	c.GetRepairSeal().Witnesses = append(c.GetRepairSeal().GetWitnesses(), x)
	if res := v.do(c); !strings.Contains(res.GetMessage(), "not signed") {
		t.Errorf("%s", res.GetMessage())
	}
}
