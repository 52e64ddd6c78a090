package fsm_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

func update(n int, fields []string, m *fsmpb.Member) *fsmpb.Command {
	m.Id = nodeID(n)
	return &fsmpb.Command{Body: &fsmpb.Command_UpdateMember{UpdateMember: &fsmpb.UpdateMember{Member: m, Fields: fields}}}
}

func remove(n int) *fsmpb.Command {
	return &fsmpb.Command{Body: &fsmpb.Command_RemoveMember{RemoveMember: &fsmpb.RemoveMember{Id: nodeID(n)}}}
}

func purge(n int) *fsmpb.Command {
	return &fsmpb.Command{Body: &fsmpb.Command_PurgeMember{PurgeMember: &fsmpb.PurgeMember{Id: nodeID(n)}}}
}

func TestAJoinTokenAdmitsOneNodeInItsRegionUntilItExpires(t *testing.T) {
	w := newWorld(t)
	us := w.token(1, false)
	us.GetCreateJoinToken().GetToken().Region = "us"
	w.ok(us)
	w.refused(errs.AlreadyExists, w.token(1, false))
	w.refused(errs.Denied, w.join(2, node(1)))
	w.refused(errs.Denied, w.join(1, node(1))) // of region eu

	n := node(1)
	n.Region = "us"
	n.Voter = true
	w.refused(errs.Denied, w.join(1, n)) // not a token for a voter
	n.Voter = false
	n.MaxFormat = 0
	w.refused(errs.FailedState, w.join(1, n))
	n.MaxFormat = newest
	if res := w.ok(w.join(1, n)); res.GetObject() != "nodes/"+nodeID(1) {
		t.Errorf("result %v", res)
	}
	if k, _ := w.view().JoinToken(tokenHash(1)); k.GetUsedBy() != nodeID(1) {
		t.Errorf("token %v", k)
	}
	n2 := node(2)
	n2.Region, n2.Voter = "us", true
	w.refused(errs.Denied, w.join(1, n2))

	w.ok(w.token(3, true))
	w.now += hourMS
	w.refused(errs.Denied, w.join(3, n2))
	w.ok(tick())
	if got := w.view().JoinTokens(); len(got) != 0 {
		t.Errorf("%d tokens after they expired", len(got))
	}
	w.ok(w.token(4, true))
	w.ok(w.join(4, n2))
}

// TestI28_AMemberIsAdmittedByASignatureOfItsTokensKeyOverIt and by nothing that another
// node showed: who leads, or was asked first, has the key's public half and that
// signature only.
func TestI28_AMemberIsAdmittedByASignatureOfItsTokensKeyOverIt(t *testing.T) {
	for name, f := range map[string]func(w *world, c *fsmpb.AddMember){
		"another node's id":  func(_ *world, c *fsmpb.AddMember) { c.Member.Id = nodeID(2) },
		"another node's key": func(_ *world, c *fsmpb.AddMember) { c.Member.PublicKey = node(2).GetPublicKey() },
		"another region":     func(_ *world, c *fsmpb.AddMember) { c.Member.Region = "us" },
		"without the vote":   func(_ *world, c *fsmpb.AddMember) { c.Member.Voter = false },
		"no signature":       func(_ *world, c *fsmpb.AddMember) { c.Signature = nil },
		"no key":             func(_ *world, c *fsmpb.AddMember) { c.TokenKey = nil },
		"as before":          func(_ *world, c *fsmpb.AddMember) { c.TokenKey, c.Signature = nil, nil },
		"the signature cut":  func(_ *world, c *fsmpb.AddMember) { c.Signature = c.GetSignature()[:63] },
		"the hash as key":    func(_ *world, c *fsmpb.AddMember) { c.TokenKey = c.GetTokenHash() },
		"a key of one's own": func(w *world, c *fsmpb.AddMember) { c.TokenKey, c.Signature = tokenPublic(9), w.admission(9, c) },
		"another cluster": func(_ *world, c *fsmpb.AddMember) {
			c.Signature = ed25519.Sign(tokenKey(1), fsm.AdmissionMessage([32]byte{1}, c.GetMember()))
		},
		"a key of small order": func(_ *world, c *fsmpb.AddMember) { c.TokenKey, c.Signature = smallOrder(), make([]byte, 64) },
		"of another token":     func(w *world, c *fsmpb.AddMember) { c.Signature = w.admission(2, c) },
		"used for another node": func(w *world, c *fsmpb.AddMember) {
			n := node(3)
			n.Voter = true
			w.ok(w.join(1, n))
			c.Signature = w.admission(1, c)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.ok(w.token(1, true))
			w.ok(w.token(2, true))
			n := node(1)
			n.Voter = true
			c := w.join(1, n)
			f(w, c.GetAddMember())
			w.refused(errs.Denied, c)
			if _, ok := w.view().Member(nodeID(1)); ok {
				t.Fatal("it is a member")
			}
		})
	}
	w := newWorld(t)
	w.ok(w.token(1, true))
	n := node(1)
	n.Voter = true
	c := w.join(1, n)
	c.GetAddMember().GetMember().PeerAddress = "10.9.9.9:8402" // a member announces it anew whenever it likes
	w.ok(c)
}

// TestWhatAdmitsBeforeFormatProofs is the token's key alone, because members of an
// older release know no signature; and none is taken.
func TestWhatAdmitsBeforeFormatProofs(t *testing.T) {
	w := newWorld(t, ofFormat(fsm.FormatProofs-1))
	w.ok(w.token(1, false))
	signed := w.join(1, node(1))
	signed.GetAddMember().TokenKey, signed.GetAddMember().Signature = tokenPublic(1), w.admission(1, signed.GetAddMember())
	w.refused(errs.InvalidArgument, signed)
	w.ok(w.join(1, node(1)))
	w.ok(w.token(2, false))
	unsigned := w.join(2, node(2))
	w.ok(raise(fsm.FormatProofs))
	w.refused(errs.Denied, unsigned)
	w.ok(w.join(2, node(2))) // a token that was made before is good for it
}

func TestJoinTokensAreSoundAndBounded(t *testing.T) {
	w := newWorld(t)
	for name, f := range map[string]func(*fsmpb.JoinToken){
		"no hash":    func(k *fsmpb.JoinToken) { k.Hash = nil },
		"expired":    func(k *fsmpb.JoinToken) { k.ExpireTimeMs = w.now },
		"too long":   func(k *fsmpb.JoinToken) { k.ExpireTimeMs = w.now + fsm.MaxTokenLifeMS + 1 },
		"bad region": func(k *fsmpb.JoinToken) { k.Region = "EU" },
	} {
		c := w.token(1, false)
		f(c.GetCreateJoinToken().GetToken())
		if res := w.do(c); res.GetReason() != errs.InvalidArgument.String() {
			t.Errorf("%s: got %v", name, res)
		}
	}
	for i := range fsm.MaxJoinTokens {
		w.ok(w.token(i, false))
	}
	w.refused(errs.LimitReached, w.token(fsm.MaxJoinTokens, false))
}

func TestANodeIDOrKeyThatWasEverAMemberIsRefused(t *testing.T) {
	w := newWorld(t)
	for i := range 5 {
		w.ok(w.token(i, false))
	}
	w.ok(w.join(0, node(1)))
	w.refused(errs.AlreadyExists, w.join(1, node(1)))
	sameKey := node(2)
	sameKey.PublicKey = node(1).GetPublicKey()
	w.refused(errs.AlreadyExists, w.join(1, sameKey))
	w.ok(remove(1))
	w.refused(errs.AlreadyExists, w.join(1, node(1)))
	w.ok(purge(1))
	w.refused(errs.AlreadyExists, w.join(1, node(1)))
	w.refused(errs.AlreadyExists, w.join(1, sameKey))
	w.ok(w.join(1, node(2)))
}

func TestRemovalKeepsTheMemberUntilItIsPurged(t *testing.T) {
	w := newWorld(t)
	w.ok(w.token(1, false))
	w.ok(w.join(1, node(1)))
	w.refused(errs.FailedState, purge(1))
	w.refused(errs.NotFound, purge(9))
	w.ok(remove(1))
	situationtest.Error(t, "cluster/removed-already", fsm.Err(w.refused(errs.FailedState, remove(1))))
	w.refused(errs.FailedState, update(1, []string{"zone"}, &fsmpb.Member{Zone: "b"}))
	m, ok := w.view().Member(nodeID(1))
	if !ok || !m.GetRemoved() || m.GetPurged() || m.GetModIndex() != w.view().Index()-2 {
		t.Errorf("removed member %v", m)
	}
	if got := w.view().Members(); len(got) != 2 {
		t.Errorf("%d members, want the removed one too", len(got))
	}
	w.ok(purge(1))
	w.refused(errs.NotFound, purge(1))
	w.refused(errs.NotFound, remove(1))
	if got := w.view().Members(); len(got) != 1 {
		t.Errorf("%d members after the purge", len(got))
	}
	if m, ok := w.view().MemberByKey(sha256.Sum256(node(1).GetPublicKey())); !ok || !m.GetPurged() || m.GetPeerAddress() != "" {
		t.Errorf("purged member by its key: %v, %v", m, ok)
	}
}

func TestTheLastVoterStays(t *testing.T) {
	w := newWorld(t)
	w.refused(errs.FailedState, remove(0))
	w.refused(errs.FailedState, update(0, []string{"voter"}, &fsmpb.Member{}))
	w.ok(w.token(1, true))
	second := node(1)
	second.Voter = true
	w.ok(w.join(1, second))
	w.ok(update(0, []string{"voter"}, &fsmpb.Member{}))
	w.refused(errs.FailedState, remove(1))
	w.ok(remove(0))
	w.refused(errs.FailedState, remove(1))
}

// voting makes a cluster of n voters in which people sign.
func voting(t testing.TB, n int) *world {
	t.Helper()
	w := quorate(t)
	for i := 1; i < n; i++ {
		m := node(i)
		m.Voter = true
		w.signed(w.token(i, true), "alice", "bob")
		w.ok(w.join(i, m))
	}
	return w
}

// TestI29_WhatLeavesNoMajorityOfTheVotersThatPeopleLetInIsSigned, however it is done,
// and whoever asks for it.
func TestI29_WhatLeavesNoMajorityOfTheVotersThatPeopleLetInIsSigned(t *testing.T) {
	takes := map[string]func(int) *fsmpb.Command{
		"remove": remove,
		"demote": func(n int) *fsmpb.Command { return update(n, []string{"voter"}, &fsmpb.Member{}) },
	}
	for op, take := range takes {
		for voters, alone := range map[int]int{2: 0, 3: 1, 4: 2, 5: 2, 6: 3, 7: 3} {
			t.Run(fmt.Sprintf("%s, of %d", op, voters), func(t *testing.T) {
				w := voting(t, voters)
				for i := range alone {
					if _, ok := w.view().Withdrawal(take(i)); ok {
						t.Fatalf("number %d is to be signed", i)
					}
					w.ok(take(i))
				}
				now, agreed := w.view().Voters()
				if now != voters-alone || agreed != voters {
					t.Fatalf("%d voters of %d, want %d of %d", now, agreed, voters-alone, voters)
				}
				next := take(alone)
				req, ok := w.view().Withdrawal(next)
				if !ok {
					t.Fatal("nobody has to sign")
				}
				w.refused(errs.IntentRefused, next)
				for other := range takes { // nor the other way, nor another one
					w.refused(errs.IntentRefused, takes[other](alone+1))
				}
				w.refused(errs.IntentRefused, w.signedBy(take(alone+1), w.intentOf(intent.ActAddMember, req), keyFor("alice"), keyFor("bob")))
				w.ok(w.signedBy(take(alone), w.intentOf(intent.ActAddMember, req), keyFor("alice"), keyFor("bob")))
				if now, agreed = w.view().Voters(); now != voters-alone-1 || agreed != now {
					t.Fatalf("%d voters of %d after people signed", now, agreed)
				}
			})
		}
	}
}

// TestI29_RemovalsDoNotCreepPast the majority by letting voters in between.
func TestI29_RemovalsDoNotCreepPast(t *testing.T) {
	w := voting(t, 3)
	w.ok(remove(1))
	w.refused(errs.IntentRefused, remove(2))
	// A member without a vote is nobody's majority, and goes without a signature.
	w.ok(w.token(8, false))
	w.ok(w.join(8, node(8)))
	w.ok(remove(8))
	w.refused(errs.IntentRefused, remove(2))
	// People let another one in, and a dead one may go again.
	w.signed(w.token(9, true), "alice", "bob")
	m := node(9)
	m.Voter = true
	w.ok(w.join(9, m))
	if now, agreed := w.view().Voters(); now != 3 || agreed != 3 {
		t.Fatalf("%d voters of %d", now, agreed)
	}
	w.ok(remove(2))
	w.refused(errs.IntentRefused, remove(9))
	// A replacement that joins first makes four for a while; of the three after it one may go.
	for _, n := range []int{10, 11} {
		w.signed(w.token(n, true), "alice", "bob")
		m := node(n)
		m.Voter = true
		w.ok(w.join(n, m))
	}
	w.ok(remove(9))
	w.ok(remove(10))
	w.refused(errs.IntentRefused, remove(11))
	again := fsm.New(fsm.Options{})
	if err := again.Restore(bytes.NewReader(snapshot(t, w.m, testMAC))); err != nil || again.View().Digest() != w.view().Digest() {
		t.Fatalf("after a restore: %v", err)
	}
}

// TestTheVotersOfAnOlderClusterAreAgreedToWhenItIsRaised, and until then an operator
// takes them all but one, as the releases before let him.
func TestTheVotersOfAnOlderClusterAreAgreedToWhenItIsRaised(t *testing.T) {
	w := newWorld(t, ofFormat(fsm.FormatProofs-1), func(g *fsmpb.Genesis) {
		for _, n := range []string{"alice", "bob", "carol"} {
			p, _ := person(n, "governor")
			g.Persons = append(g.Persons, p)
		}
		g.Rules = fsm.RulesOf(2, 1)
	})
	for i := 1; i < 5; i++ {
		m := node(i)
		m.Voter = true
		w.signed(w.token(i, true), "alice", "bob")
		w.ok(w.join(i, m))
	}
	w.ok(remove(1))
	w.ok(remove(2))
	if now, agreed := w.view().Voters(); now != 3 || agreed != 0 {
		t.Fatalf("%d voters of %d", now, agreed)
	}
	w.ok(raise(fsm.FormatProofs))
	if now, agreed := w.view().Voters(); now != 3 || agreed != 3 {
		t.Fatalf("%d voters of %d", now, agreed)
	}
	w.ok(remove(3))
	w.refused(errs.IntentRefused, remove(4))
}

func TestAMemberChangesOnlyTheFieldsItNames(t *testing.T) {
	w := newWorld(t)
	before, _ := w.view().Member(nodeID(0))
	w.ok(update(0, []string{"zone", "grpc_address"}, &fsmpb.Member{Zone: "b", GrpcAddress: "10.9.9.9:1", Name: "ignored", Region: "us"}))
	m, _ := w.view().Member(nodeID(0))
	if m.GetZone() != "b" || m.GetGrpcAddress() != "10.9.9.9:1" || m.GetName() != before.GetName() || m.GetRegion() != "eu" || m.GetModIndex() != w.index {
		t.Errorf("member %v", m)
	}
	for _, f := range []string{"id", "public_key", "region", "removed", "purged", "mod_index", "create_time_ms", "", "nothing"} {
		w.refused(errs.InvalidArgument, update(0, []string{f}, node(0)))
	}
	at := m.GetModIndex()
	w.ok(update(0, []string{"zone"}, &fsmpb.Member{Zone: "b"}))
	if m, _ := w.view().Member(nodeID(0)); m.GetModIndex() != at {
		t.Error("an announcement of what is known already moved mod_index")
	}
	w.refused(errs.InvalidArgument, update(0, []string{"peer_address"}, &fsmpb.Member{}))
	w.refused(errs.FailedState, update(0, []string{"max_format"}, &fsmpb.Member{}))
	stale := update(0, []string{"zone"}, &fsmpb.Member{Zone: "c"})
	stale.GetUpdateMember().Etag = 1
	w.refused(errs.StaleEtag, stale)
	w.refused(errs.NotFound, update(9, []string{"zone"}, &fsmpb.Member{}))
}

func TestMembersThatAreNotSoundAreRefused(t *testing.T) {
	w := newWorld(t)
	w.ok(w.token(1, false))
	for name, f := range map[string]func(*fsmpb.Member){
		"id":      func(m *fsmpb.Member) { m.Id = "node-1" },
		"zero id": func(m *fsmpb.Member) { m.Id = "00000000000000000000000000000000" },
		"name":    func(m *fsmpb.Member) { m.Name = "Node" },
		"key":     func(m *fsmpb.Member) { m.PublicKey = nil },
		"address": func(m *fsmpb.Member) { m.PeerAddress = "a b" },
		"region":  func(m *fsmpb.Member) { m.Region = "EU" },
		"release": func(m *fsmpb.Member) { m.Version = "v1\n" },
	} {
		m := node(1)
		f(m)
		if res := w.do(w.join(1, m)); res.GetReason() != errs.InvalidArgument.String() {
			t.Errorf("%s: got %v", name, res)
		}
	}
	w.ok(w.join(1, node(1)))
}

func TestTheHoldIsAFactOfTheCluster(t *testing.T) {
	w := newWorld(t)
	if w.view().Hold().GetHeld() || fsm.New(fsm.Options{}).View().Hold().GetHeld() {
		t.Error("held from the beginning")
	}
	hold := func(held bool) *fsmpb.Command { // by a person
		return by(&fsmpb.Command{Body: &fsmpb.Command_SetHold{SetHold: &fsmpb.SetHold{Held: held, Reason: "suspected theft"}}})
	}
	w.ok(hold(true))
	at := w.index
	w.ok(hold(true))
	h := w.view().Hold()
	if !h.GetHeld() || h.GetBy() != "gov" || h.GetReason() != "suspected theft" || h.GetTimeMs() != w.now || h.GetModIndex() != at {
		t.Errorf("hold %v", h)
	}
	w.ok(hold(false))
	if w.view().Hold().GetHeld() {
		t.Error("still held")
	}
}

func TestTheFormatVersionIsRaisedOnlyToWhatEveryMemberSupports(t *testing.T) {
	w := newWorld(t, func(g *fsmpb.Genesis) { g.FormatVersion, g.FirstMember.MaxFormat = 1, 1 })
	raisable := func(want uint32, wantOK bool) {
		t.Helper()
		if got, ok := w.view().Raisable(); ok != wantOK || ok && got != want {
			t.Errorf("raisable to %d, %t; want %d, %t", got, ok, want, wantOK)
		}
	}
	raisable(0, false)
	w.refused(errs.FailedState, raise(1))
	w.refused(errs.FailedState, raise(2))
	w.ok(update(0, []string{"max_format"}, &fsmpb.Member{MaxFormat: 9}))
	raisable(fsm.MaxFormatVersion, true)
	w.ok(raise(newest))
	raisable(0, false)
	if _, err := w.apply(raise(newest + 1)); !fsm.Stopped(err) {
		t.Errorf("got %v; a release that does not know the new format must stop", err)
	}
}

// TestNothingNamesNothing: a field that a command leaves out is no key of an object
// that happens to be the first.
func TestNothingNamesNothing(t *testing.T) {
	w := newWorld(t)
	w.ok(w.token(1, true))
	c := w.join(1, node(1))
	c.GetAddMember().TokenHash = nil
	w.refused(errs.Denied, c)
	v := w.view()
	if _, ok := v.JoinToken(nil); ok {
		t.Error("a token has no hash")
	}
	if _, ok := v.TenantByUID(nil); ok {
		t.Error("a tenant has no uid")
	}
	if _, ok := v.BindingByUID(nil); ok {
		t.Error("a binding has no uid")
	}
	if _, ok := v.IssuerByUID(nil); ok {
		t.Error("an issuer has no uid")
	}
	if _, ok := v.Revoked(nil); ok {
		t.Error("a certificate has no serial number")
	}
}
