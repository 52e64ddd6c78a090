package fsm_test

import (
	"bytes"
	"crypto/ed25519"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
)

// The model of ceremonies: what state each is in, who opened what was staged, and
// which seals there were. It knows nothing of manifests, digests and signatures.

type modelCeremony struct {
	id       []byte
	state    fsmpb.CeremonyState
	expires  int64
	people   bool // the plan has a group of two of three
	opened   map[uint32]bool
	manifest []byte
}

type modelSeals struct {
	w      *world
	shares bool // who opens it now are people
	held   int  // ceremonies that were committed
	all    []*modelCeremony
}

func (m *modelSeals) open() *modelCeremony {
	for _, c := range m.all {
		if c.state == opened || c.state == staged {
			return c
		}
	}
	return nil
}

func (m *modelSeals) in(c *modelCeremony, s fsmpb.CeremonyState) string {
	if c.state != s || m.w.now >= c.expires {
		return failed
	}
	return done
}

// TestModelOfCeremonies: whatever is ordered in whatever order, the registry says what
// the model says, and the seal changes with a commit and never else.
func TestModelOfCeremonies(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := sealedWorld(t, shamir, 1)
		m := &modelSeals{w: w, shares: true}
		pick := func(t *rapid.T) *modelCeremony {
			if len(m.all) == 0 {
				t.Skip("none was begun")
			}
			return rapid.SampledFrom(m.all).Draw(t, "ceremony")
		}
		check := func(t *rapid.T, cmd *fsmpb.Command, want string) *fsmpb.Result {
			before := w.view().Cluster().GetSealRecord()
			res := w.do(cmd)
			if res.GetReason() != want {
				t.Fatalf("%T: %q (%s), the model says %q", cmd.GetBody(), res.GetReason(), res.GetMessage(), want)
			}
			if is := w.view().Cluster().GetSealRecord(); bytes.Equal(is, before) == (want == done && cmd.GetCommitCeremony() != nil) {
				t.Fatalf("%T with %q: the seal changed: %v", cmd.GetBody(), want, !bytes.Equal(is, before))
			}
			return res
		}
		t.Repeat(map[string]func(*rapid.T){
			"begin": func(t *rapid.T) {
				toPeople := rapid.Bool().Draw(t, "people")
				plan, kind := keystores("aws"), migrate
				if toPeople {
					plan = people("anna", "ben")
				}
				if rapid.Bool().Draw(t, "reshare") {
					kind = reshare
				}
				want := done
				switch {
				case (m.shares && toPeople) != (kind == reshare):
					want = badArg
				case m.open() != nil:
					want = failed
				}
				cmd := w.consented(w.beginCeremony(kind, plan), "cust")
				id := cmd.GetBeginCeremony().GetId()
				if check(t, cmd, want); want == done {
					m.all = append(m.all, &modelCeremony{id: id, state: opened, expires: w.now + hourMS, people: toPeople, opened: map[uint32]bool{}})
				}
			},
			"stage": func(t *rapid.T) {
				c := pick(t)
				want := m.in(c, opened)
				if check(t, w.stage(c.id, w.newSeal(c.id)), want); want == done {
					c.state, c.manifest = staged, w.ceremonyOf(c.id).GetNewManifest()
				}
			},
			"confirm": func(t *rapid.T) {
				c := pick(t)
				holder := rapid.Uint32Range(0, 4).Draw(t, "holder")
				want := m.in(c, staged)
				if n := uint32(3); want == done && (holder == 0 || holder > n || !c.people && holder > 1) {
					want = badArg
				}
				if check(t, w.confirm(c.id, holder), want); want == done {
					c.opened[holder] = true
				}
			},
			"commit": func(t *rapid.T) {
				c := pick(t)
				want := m.in(c, staged)
				if want == done && (c.people && len(c.opened) < 2 || len(c.opened) < 1) {
					want = "ABORTED"
				}
				if check(t, w.commitSeal(c.id), want); want == done {
					c.state, m.shares = committed, c.people
					m.held++
				}
			},
			"cancel": func(t *rapid.T) {
				c := pick(t)
				want := failed
				if c.state == opened || c.state == staged {
					want = done
				}
				if check(t, cancelSeal(c.id), want); want == done {
					c.state = cancelled
				}
			},
			"time goes": func(t *rapid.T) {
				w.now += rapid.SampledFrom([]int64{1, hourMS / 2, hourMS}).Draw(t, "ms")
				if rapid.Bool().Draw(t, "tick") {
					check(t, tick(), done)
					if c := m.open(); c != nil && w.now >= c.expires {
						c.state = overdue
					}
				}
			},
			"restart": func(t *rapid.T) {
				restored := fsm.New(fsm.Options{})
				if err := restored.Restore(bytes.NewReader(snapshot(t, w.m, nil))); err != nil {
					t.Fatal(err)
				}
				sameState(t, w.m, restored)
				w.m = restored
			},
			"": func(t *rapid.T) {
				for _, c := range m.all {
					is, ok := w.view().Ceremony(c.id)
					if !ok || is.GetState() != c.state || len(is.GetConfirmed()) != len(c.opened) || !slices.Equal(is.GetNewManifest(), c.manifest) {
						t.Fatalf("the registry has %v, the model %+v", is, c)
					}
				}
				open, ok := w.view().OpenCeremony()
				if want := m.open(); ok != (want != nil) || ok && !bytes.Equal(open.GetId(), want.id) {
					t.Fatalf("open is %v, the model has %+v", open, want)
				}
				l, err := fsm.VerifyLineage(w.view().Cluster().GetGenesis(), w.view().Cluster().GetSealManifests())
				if err != nil || len(l.Manifests) != m.held+1 {
					t.Fatalf("%d manifests after %d ceremonies, %v", len(l.Manifests), m.held, err)
				}
			},
		})
	})
}

// FuzzStage stages arbitrary bytes as a seal: what is taken is what was ordered, and a
// machine that is restored has it, too.
func FuzzStage(f *testing.F) {
	w := sealedWorld(f, shamir, 1)
	id := w.begun(reshare, people("anna", "ben"))
	good := encoded(w.newSeal(id))
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte{})
	base := snapshot(f, w.m, nil)
	index, term, _ := w.m.Applied()
	f.Fuzz(func(t *testing.T, record []byte) {
		m := fsm.New(fsm.Options{})
		if err := m.Restore(bytes.NewReader(base)); err != nil {
			t.Fatal(err)
		}
		b := &fsmpb.StageCeremony{Id: id, Record: record, Node: nodeID(0)}
		b.Signature = ed25519.Sign(nodeKey(0), fsm.StagedMessage([32]byte(m.View().Cluster().GetFingerprint()), nodeID(0), b))
		raw, err := fsm.EncodeCommand(&fsmpb.Command{Format: 1, TimeUnixMs: startMS, Principal: aNode(), Body: &fsmpb.Command_StageCeremony{StageCeremony: b}})
		if err != nil {
			return // longer than a command
		}
		before := m.View().Digest()
		res, err := m.Apply(index+1, term, raw)
		if err != nil {
			t.Fatal(err)
		}
		if c, _ := m.View().Ceremony(id); (res.GetReason() == "") != (c.GetState() == staged) {
			t.Fatalf("%v, and it is %v", res, c.GetState())
		}
		if m.View().Digest() == before {
			t.Fatal("an entry left no trace")
		}
		if err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(snapshot(t, m, nil))); err != nil {
			t.Fatalf("its own snapshot: %v", err)
		}
	})
}

// FuzzLineage reads arbitrary manifests: it never panics, and none passes that was not
// made by a ceremony.
func FuzzLineage(f *testing.F) {
	w := sealedWorld(f, shamir, 1)
	w.held(reshare, people("anna", "ben"), 1, 2)
	c := w.view().Cluster()
	genesis, good := c.GetGenesis(), c.GetSealManifests()[0]
	f.Add(good)
	f.Add(good[:10])
	f.Fuzz(func(t *testing.T, m []byte) {
		l, err := fsm.VerifyLineage(genesis, [][]byte{m})
		if err == nil && (len(l.Signers) != 2 || len(l.Signers[1]) != 1) {
			t.Fatalf("passes with %v", l.Signers)
		}
		if _, err := fsm.VerifyLineage(m, nil); err == nil && !bytes.Equal(m, genesis) {
			return // a genesis that decodes is one
		}
	})
}
