package cluster

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// ledgerMAC is what an unsealed node of the ledgers has: another key from each MasterKey.
func ledgerMAC(key string) macFunc {
	return func(g hierarchy.Generation, parts ...[]byte) ([32]byte, bool) {
		h := hmac.New(sha256.New, []byte(key+strings.Repeat("'", int(g)-1)))
		for _, p := range parts {
			h.Write(p)
		}
		return [32]byte(h.Sum(nil)), true
	}
}

// tester is a test, or one run of a property.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
}

// reader is a node that applies a log.
type reader struct {
	*Cluster

	file    simFile
	compare simFile
	leads   bool
	sealed  bool
	lacks   hierarchy.Generation // it has no key of that MasterKey
	opened  hierarchy.Generation // by which it was opened
	rekeys  *map[[32]byte]bool   // of commands with which another MasterKey comes into force
	acted   []string             // what commands that need a proof did, in order
}

func newReader(t tester) *reader {
	t.Helper()
	r := &reader{}
	mac := ledgerMAC("key")
	r.Cluster = &Cluster{
		id: ledgerNode, clk: clock.System{}, log: simLogger(), machine: fsm.New(fsm.Options{}), base: context.Background(),
		failed: make(chan struct{}), timers: timersLAN,
	}
	r.cfg = Config{Profile: ProfileLAN, Dir: &Dir{}, MAC: func(g hierarchy.Generation, parts ...[]byte) ([32]byte, bool) {
		sum, _ := mac(g, parts...)
		return sum, !r.sealed && g != r.lacks
	}, Opened: func() hierarchy.Generation { return r.opened }}
	r.proofs, r.vouching, r.end = newProofs(r.Cluster), newVouching(r.Cluster), newLogEnd(r.Cluster)
	r.end.read, r.end.write = r.file.read, r.file.write
	r.end.leads = func() bool { return r.leads }
	r.compared = newComparison(r.Cluster)
	r.compared.read, r.compared.write = r.compare.read, r.compare.write
	r.compared.remove = func() error { return r.compare.write(nil) }
	r.leases = newLeases(r.Cluster)
	r.adapter = &adapter{
		machine: r.machine, mac: r.cfg.MAC, fail: r.fail, pin: func() error { return nil }, calls: newInflight(r.clk), chains: &r.chains,
		judge: r.judge, believed: r.believed, unsettled: r.proofs.unsettled, applied: r.end.applied,
	}
	return r
}

// apply applies entries as Raft does.
func (r *reader) apply(t tester, entries ...*raft.Log) {
	t.Helper()
	for _, l := range entries {
		if l.Type != raft.LogCommand {
			continue
		}
		res, ok := r.adapter.Apply(l).(*fsmpb.Result)
		if !ok {
			t.Fatalf("entry %d: %v", l.Index, r.Cause())
		}
		cmd := &fsmpb.Command{}
		if err := unmarshalCommand(l.Data, cmd); err != nil {
			t.Fatalf("entry %d: %v", l.Index, err)
		}
		if res.GetReason() == "" && fsm.NeedsProof(cmd) {
			r.acted = append(r.acted, fmt.Sprintf("%d %x", l.Index, sha256.Sum256(l.Data)))
		}
		if r.rekeys != nil && (*r.rekeys)[sha256.Sum256(l.Data)] {
			r.begin(t)
		}
	}
}

const ledgerNode = "00000000000000000000000000000001"

//nolint:gochecknoglobals // Of a profile; fixed.
var timersLAN = func() timers {
	tm, err := ProfileLAN.timers()
	if err != nil {
		panic(err)
	}
	return tm
}()

// ledger writes a log as leaders do, one after the other.
type ledger struct {
	*reader

	t       tester
	term    uint64
	n       int // commands
	entries []*raft.Log
	waiting []*raft.Log // stored, and not applied yet
}

func newLedger(t tester) *ledger {
	t.Helper()
	l := &ledger{reader: newReader(t), t: t}
	l.rekeys = &map[[32]byte]bool{}
	l.elect()
	l.write(&fsmpb.Command{Body: &fsmpb.Command_Genesis{Genesis: Found(&fsmpb.Genesis{
		KeyspaceId: simUID("keyspace"), ClusterId: simUID("cluster"), Name: "ledger", FormatVersion: fsm.FormatCeremonies, SealRecord: []byte("record"),
		FirstMember: &fsmpb.Member{Id: ledgerNode, Name: "n", PublicKey: []byte("key"), PeerAddress: "10.0.0.1:8402", Voter: true, MaxFormat: fsm.FormatCeremonies},
		Settings:    &fsmpb.Settings{RollbackWindowMs: 86400000, DestroyWaitMs: 86400000, Voters: 3},
		InternalKey: &fsmpb.Version{Number: 1, Uid: simUID("ivk"), Blob: []byte("wrapped")},
	})}})
	l.commit()
	if !l.machine.View().Initialized() {
		t.Fatalf("the ledger has no genesis")
	}
	return l
}

// elect begins a term: the new leader applies everything before it proposes.
func (l *ledger) elect() {
	l.commit()
	l.term++
	l.caught.Store(l.term)
}

// commit applies what was stored.
func (l *ledger) commit() {
	l.apply(l.t, l.waiting...)
	l.waiting = nil
}

func (l *ledger) last() uint64 {
	if len(l.entries) == 0 {
		return 0
	}
	return l.entries[len(l.entries)-1].Index
}

// write stores a command of this leader.
func (l *ledger) write(cmd *fsmpb.Command) *raft.Log {
	cmd.Format, cmd.TimeUnixMs, cmd.Proposer = fsm.CommandFormat, 1_700_000_000_000+int64(l.last()), ledgerNode
	data, err := fsm.EncodeCommand(cmd)
	if err != nil {
		l.t.Fatalf("%v", err)
	}
	e := &raft.Log{Index: l.last() + 1, Term: l.term, Type: raft.LogCommand, Data: data}
	forget := l.vouching.propose(data)
	l.vouching.vouch(e)
	forget()
	l.entries, l.waiting = append(l.entries, e), append(l.waiting, e)
	return e
}

// rekey stores the command that brings another MasterKey into force.
func (l *ledger) rekey() *raft.Log {
	e := l.change()
	(*l.rekeys)[sha256.Sum256(e.Data)] = true
	return e
}

// change stores a command that needs a proof, and of which no two are equal.
func (l *ledger) change() *raft.Log {
	l.n++
	return l.write(&fsmpb.Command{Body: &fsmpb.Command_UpdateMember{UpdateMember: &fsmpb.UpdateMember{
		Member: &fsmpb.Member{Id: ledgerNode, Version: fmt.Sprintf("v%d", l.n)}, Fields: []string{"version"},
	}}})
}

// begin stores the command that begins an epoch of leases, which needs none.
func (l *ledger) epoch() *raft.Log {
	l.n++
	nonce := sha256.Sum256(fmt.Append(nil, l.n))
	return l.write(&fsmpb.Command{Body: &fsmpb.Command_LeaseEpoch{LeaseEpoch: &fsmpb.LeaseEpoch{Leader: ledgerNode, Nonce: nonce[:16]}}})
}

func copyLog(l *raft.Log) *raft.Log {
	c := *l
	c.Data, c.Extensions = bytes.Clone(l.Data), bytes.Clone(l.Extensions)
	return &c
}

func copyLogs(all []*raft.Log) []*raft.Log {
	out := make([]*raft.Log, len(all))
	for i, l := range all {
		out[i] = copyLog(l)
	}
	return out
}

// story is a log of three terms: 1 genesis, 2 epoch, 3 4 5 changes one after the other,
// 6 epoch, 7 8 9 changes at once, 10 epoch, 11 12 13 changes at once.
func story(t tester) *ledger {
	l := newLedger(t)
	l.epoch()
	for range 3 {
		l.change()
		l.commit()
	}
	for range 2 {
		l.elect()
		l.epoch()
		l.commit()
		for range 3 {
			l.change()
		}
		l.commit()
	}
	return l
}

// rewrite returns the command of an entry with another version in it.
func rewrite(l *raft.Log) []byte {
	cmd := &fsmpb.Command{}
	if err := unmarshalCommand(l.Data, cmd); err != nil {
		panic(err) // this test encoded it
	}
	cmd.GetUpdateMember().GetMember().Version = "forged"
	return must(fsm.EncodeCommand(cmd))
}

func TestI19_ALogOfHonestLeadersIsBelieved(t *testing.T) {
	t.Parallel()
	l := story(t)
	proofs := 0
	for _, e := range l.entries {
		if _, ok := decodeEntryProof(e.Extensions); ok {
			proofs++
		}
	}
	if proofs != len(l.entries)-1 {
		t.Fatalf("%d of %d entries have a proof; all but the genesis should", proofs, len(l.entries))
	}
	for _, sealed := range []bool{false, true} {
		r := newReader(t)
		r.sealed = sealed
		r.apply(t, copyLogs(l.entries)...)
		if err := r.Proved(); sealed != errs.Is(err, errs.Sealed) || !sealed && err != nil {
			t.Errorf("sealed %t: %v", sealed, err)
		}
		r.sealed = false
		if err := r.Proved(); err != nil || !slices.Equal(r.acted, l.acted) {
			t.Errorf("sealed %t, unsealed afterwards: %v, %d of %d changes", sealed, err, len(r.acted), len(l.acted))
		}
		if r.machine.View().Digest() != l.machine.View().Digest() {
			t.Error("two states")
		}
	}
}

// TestI19_WhatNobodyWroteIsNotBelieved: on a node that was unsealed all the time, and on
// one that is unsealed afterwards.
func TestI19_WhatNobodyWroteIsNotBelieved(t *testing.T) {
	t.Parallel()
	const place = "an entry before it"
	for name, c := range map[string]struct {
		edit func(all []*raft.Log) []*raft.Log
		want string // in the reason; empty: it is believed, and the command is not done
		at   uint64 // the entry that is named
	}{
		"a command is edited": {func(all []*raft.Log) []*raft.Log {
			all[3].Data = rewrite(all[3])
			return all
		}, errWrongProof, 4},
		"the last command is edited": {func(all []*raft.Log) []*raft.Log {
			all[len(all)-1].Data = rewrite(all[len(all)-1])
			return all
		}, errWrongProof, 13},
		"a proof is made with another key": {func(all []*raft.Log) []*raft.Log {
			e := all[len(all)-1]
			e.Data = rewrite(e)
			p, _ := decodeEntryProof(e.Extensions)
			p.mac, _ = macOf(ledgerMAC("another"), 1, p.digest(simUID("keyspace"), e))
			e.Extensions = p.encode()
			return all
		}, errWrongProof, 13},
		"a proof of another keyspace": {func(all []*raft.Log) []*raft.Log {
			e := all[len(all)-1]
			p, _ := decodeEntryProof(e.Extensions)
			p.mac, _ = macOf(ledgerMAC("key"), 1, p.digest(simUID("other keyspace"), e))
			e.Extensions = p.encode()
			return all
		}, errWrongProof, 13},
		"an old entry stands again at the end": {func(all []*raft.Log) []*raft.Log {
			e := copyLog(all[11])
			e.Index = 14
			return append(all, e)
		}, place, 14},
		"an old entry stands again in a later term": {func(all []*raft.Log) []*raft.Log {
			e := copyLog(all[6])
			e.Index, e.Term = 14, 4
			return append(all, e)
		}, place, 14},
		"two change places": {func(all []*raft.Log) []*raft.Log {
			all[10], all[11] = all[11], all[10]
			all[10].Index, all[11].Index = 11, 12
			return all
		}, place, 11},
		"one in the middle is not there": {func(all []*raft.Log) []*raft.Log {
			all[11].Type = raft.LogNoop
			return all
		}, place, 13},
		"one in the middle is not there, the others follow": {func(all []*raft.Log) []*raft.Log {
			all = slices.Delete(all, 3, 4)
			for i, e := range all {
				e.Index = uint64(i + 1)
			}
			return all
		}, place, 4},
		"the last of a term is not there": {func(all []*raft.Log) []*raft.Log {
			all[8].Type = raft.LogNoop
			return all
		}, place, 10},
		"a whole term is not there": {func(all []*raft.Log) []*raft.Log {
			for _, e := range all[5:9] {
				e.Type = raft.LogNoop
			}
			return all
		}, place, 10},
		"the term of one is another": {func(all []*raft.Log) []*raft.Log {
			for _, e := range all[9:] {
				e.Term++
			}
			return all
		}, errWrongProof, 10},
		"an epoch is in the place of a change": {func(all []*raft.Log) []*raft.Log {
			all[11].Data, all[11].Extensions = bytes.Clone(all[9].Data), nil
			return all
		}, place, 13},
		"a change is cut off from its proof": {func(all []*raft.Log) []*raft.Log {
			all[11].Extensions = nil
			return all
		}, place, 13},
		"the last is cut off from its proof": {func(all []*raft.Log) []*raft.Log {
			all[12].Extensions = nil
			return all
		}, "", 0},
		"the last has something else in place of its proof": {func(all []*raft.Log) []*raft.Log {
			all[12].Extensions[0]++
			return all
		}, "", 0},
		"a command without a proof at the end": {func(all []*raft.Log) []*raft.Log {
			return append(all, &raft.Log{Index: 14, Term: 3, Type: raft.LogCommand, Data: rewrite(all[12])})
		}, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := story(t)
			for _, sealed := range []bool{false, true} {
				r := newReader(t)
				r.sealed = sealed
				r.apply(t, c.edit(copyLogs(l.entries))...)
				r.sealed = false
				err := r.Proved()
				if c.want == "" {
					if err != nil || len(r.acted) > len(l.acted) || !slices.Equal(r.acted, l.acted[:len(r.acted)]) {
						t.Errorf("sealed %t: %v, it made %d changes of %d", sealed, err, len(r.acted), len(l.acted))
					}
					continue
				}
				says := fmt.Sprintf("entry %d of the log is not believed: ", c.at)
				if sealed && c.want == errWrongProof { // what follows tells, before there is a key
					says, c.want = "of the log is not believed: ", ""
				}
				if !errs.Is(err, errs.StateCorrupt) || !strings.Contains(errs.From(err).Msg, says) || !strings.Contains(errs.From(err).Msg, c.want) {
					t.Errorf("sealed %t: %v; want %q and %q", sealed, err, says, c.want)
				}
				if err != nil && !strings.Contains(errs.From(err).Hint, "krypton operator remove") {
					t.Errorf("no next step: %v", err)
				}
				// What is not believed is not handed on: no entry and no snapshot with its MAC.
				if _, err := r.adapter.Snapshot(); err == nil {
					t.Error("it writes a snapshot of what is not believed")
				}
				e := &raft.Log{Index: 20, Term: 9, Type: raft.LogCommand, Data: []byte("x")}
				r.caught.Store(9)
				r.vouching.propose(e.Data)
				if r.vouching.vouch(e); e.Extensions != nil {
					t.Error("it vouches for an entry behind what is not believed")
				}
				// And it stays so, whatever comes after.
				if err := r.Proved(); !errs.Is(err, errs.StateCorrupt) {
					t.Errorf("asked again: %v", err)
				}
			}
		})
	}
}

// TestI19_ASnapshotWithItsMACBeginsAnew: what stood in the log before it counts no more,
// and what follows is judged by what the snapshot says.
func TestI19_ASnapshotWithItsMACBeginsAnew(t *testing.T) {
	t.Parallel()
	l := story(t)
	for upTo := 1; upTo < len(l.entries); upTo++ {
		w := newReader(t)
		w.apply(t, copyLogs(l.entries[:upTo])...)
		var snap bytes.Buffer
		if _, err := w.machine.Snapshot().WriteTo(&snap, w.cfg.MAC); err != nil {
			t.Fatal(err)
		}
		r := newReader(t)
		forged := copyLogs(l.entries[:4])
		forged[3].Data = rewrite(forged[3])
		r.apply(t, forged...)
		if err := r.Proved(); !errs.Is(err, errs.StateCorrupt) {
			t.Fatalf("before the snapshot: %v", err)
		}
		if err := r.adapter.Restore(io.NopCloser(bytes.NewReader(snap.Bytes()))); err != nil {
			t.Fatal(err)
		}
		if err := r.Proved(); err != nil {
			t.Fatalf("with the snapshot: %v", err)
		}
		rest := copyLogs(l.entries[upTo:])
		r.apply(t, rest...)
		if err := r.Proved(); err != nil || r.machine.View().Digest() != l.machine.View().Digest() {
			t.Errorf("with a snapshot of entry %d and the log behind it: %v", upTo, err)
		}
	}
}

func TestI19_ASealedNodeRemembersOnlySoMuch(t *testing.T) {
	t.Parallel()
	l := story(t)
	r := newReader(t)
	r.sealed = true
	r.apply(t, copyLogs(l.entries[:5])...)
	r.proofs.waiting = slices.Grow(r.proofs.waiting, MaxUnverified)[:MaxUnverified-1]
	r.apply(t, copyLogs(l.entries[5:6])...)
	if err := r.proofs.failed(); err != nil {
		t.Fatalf("with the last one that it can remember: %v", err)
	}
	r.apply(t, copyLogs(l.entries[6:7])...)
	if err := r.proofs.failed(); !errs.Is(err, errs.StateCorrupt) || !strings.Contains(errs.From(err).Msg, "sealed") {
		t.Errorf("with one more: %v", err)
	}
}

// TestI19_OnlyAnOwnEntryIsVouchedFor: by what a leader sends, a node that stores it is
// never made to sign it.
func TestI19_OnlyAnOwnEntryIsVouchedFor(t *testing.T) {
	t.Parallel()
	l := story(t)
	theirs := copyLog(l.change())
	theirs.Index, theirs.Extensions = theirs.Index+1, nil
	if l.vouching.vouch(theirs); theirs.Extensions != nil {
		t.Error("it vouches for what it did not propose")
	}
	data := []byte("mine")
	forget := l.vouching.propose(data)
	mine := &raft.Log{Index: theirs.Index, Term: l.term, Type: raft.LogCommand, Data: data}
	if l.vouching.vouch(mine); mine.Extensions == nil {
		t.Error("it does not vouch for its own")
	}
	forget()
	for name, change := range map[string]func(*raft.Log){
		"proposed no more":                  func(*raft.Log) {},
		"sealed":                            func(*raft.Log) {},
		"a leader that has not caught up":   func(l *raft.Log) { l.Term++ },
		"too far ahead of what was applied": func(l *raft.Log) { l.Index += maxVouch + 1 },
		"no command":                        func(l *raft.Log) { l.Type = raft.LogBarrier },
	} {
		e := &raft.Log{Index: theirs.Index, Term: l.term, Type: raft.LogCommand, Data: data}
		change(e)
		if name != "proposed no more" {
			defer l.vouching.propose(data)()
		}
		l.sealed = name == "sealed"
		if l.vouching.vouch(e); e.Extensions != nil {
			t.Errorf("%s: it vouches for it", name)
		}
		l.sealed = false
		delete(l.vouching.own, &data[0])
	}
}

// TestI19_ALeaderVouchesBehindEverythingFromBeforeItsTerm: honest ones do, so that nothing
// at the end of a term can be cut off from what follows.
func TestI19_ALeaderVouchesBehindEverythingFromBeforeItsTerm(t *testing.T) {
	t.Parallel()
	p := &proofs{known: true, floor: 9}
	own := func(uint64) ([32]byte, bool) { return [32]byte{}, true }
	for applied, want := range map[uint64]bool{8: false, 9: true, 10: true, 11: false, 12: false} {
		if got := p.follows(entryProof{applied: applied}, 11, own) == ""; got != want {
			t.Errorf("entry 11, written behind %d, with 9 the last of the term before: believed %t", applied, got)
		}
	}
}

// TestAnEntryHasThisProof holds the format: docs/formats.md, Entry proof.
func TestAnEntryHasThisProof(t *testing.T) {
	t.Parallel()
	e := &raft.Log{Index: 7, Term: 3, Type: raft.LogCommand, Data: []byte("command")}
	keyspace := bytes.Repeat([]byte{0xab}, 16)
	p := entryProof{generation: 1, prev: 6, applied: 5, chain: [32]byte(bytes.Repeat([]byte{0xcd}, 32))}
	p.mac, _ = macOf(ledgerMAC("a key of the test"), 1, p.digest(keyspace, e))

	// The second writer, from the page.
	u64 := func(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
	command := sha256.Sum256(e.Data)
	over := slices.Concat([]byte{0, 0, 0, 16}, keyspace, u64(7), u64(3), u64(6), u64(5), p.chain[:], command[:])
	digest := sha256.Sum256(over)
	h := hmac.New(sha256.New, []byte("a key of the test"))
	h.Write(slices.Concat([]byte("krypton/v1/log-entry"), digest[:]))
	want := slices.Concat([]byte{1}, u64(6), u64(5), p.chain[:], h.Sum(nil))
	if !bytes.Equal(p.encode(), want) {
		t.Errorf("encoded %x, by the page %x", p.encode(), want)
	}
	const vector = "0100000000000000060000000000000005cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"
	if got := hex.EncodeToString(p.encode()); !strings.HasPrefix(got, vector) || got[len(vector):] != entryVectorMAC {
		t.Errorf("the vector is %s", got)
	}
	if got, ok := decodeEntryProof(p.encode()); !ok || got != p {
		t.Errorf("decoded %+v, %t", got, ok)
	}
}

const entryVectorMAC = "1e08d7d89f205d2442169a97f042686c505b731d26d1dcbad729807c0864f640"

func FuzzEntryProof(f *testing.F) {
	f.Add([]byte{})
	f.Add(entryProof{prev: 1, applied: 2}.encode())
	f.Add(entryProof{generation: 2, prev: 1, applied: 2}.encode())
	f.Add(append([]byte{2, 0, 0, 0, 0, 0, 0, 0, 1}, entryProof{}.encode()[1:]...))
	f.Add(append(entryProof{}.encode(), 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := decodeEntryProof(b)
		if ok && !bytes.Equal(p.encode(), b) {
			t.Errorf("%x is decoded, and encoded as %x", b, p.encode())
		}
	})
}

// TestI19_WhateverIsEditedTheStateIsThatOfSomeHonestMoment compares with the dumbest
// model there is: the list of changes that were made, of which a node that believes its
// log has the first ones and nothing else.
func TestI19_WhateverIsEditedTheStateIsThatOfSomeHonestMoment(t *testing.T) {
	t.Parallel()
	believed, refused := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		l := newLedger(t)
		for range rapid.IntRange(3, 25).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				l.elect()
			case 1:
				l.epoch()
			case 2:
				l.sealed = true // an epoch, and a change that comes to nothing
				l.epoch()
				l.change()
				l.sealed = false
			case 3, 4, 5:
				l.commit()
			case 6:
				l.rekey() // and what is stored before the leader sees it comes to nothing
			default:
				l.change()
			}
		}
		l.commit()
		if err := l.Proved(); err != nil {
			t.Fatalf("the leader itself: %v", err)
		}
		all := copyLogs(l.entries)
		for range rapid.IntRange(0, 2).Draw(t, "edits") {
			all = vandalise(t, all)
		}
		if g := l.machine.View().Generation(); g > 1 && rapid.Bool().Draw(t, "somebody kept the first MasterKey") {
			all = l.append(t, all)
		}
		r := l.follower()
		r.opened = l.machine.View().Generation()
		if n := rapid.IntRange(0, len(l.entries)).Draw(t, "snapshot"); n > 1 && rapid.Bool().Draw(t, "from a snapshot") {
			var snap bytes.Buffer
			w := l.follower()
			w.apply(t, copyLogs(l.entries[:n])...)
			if _, err := w.machine.Snapshot().WriteTo(&snap, w.cfg.MAC); err != nil {
				t.Fatalf("%v", err)
			}
			if err := r.adapter.Restore(io.NopCloser(&snap)); err != nil {
				t.Fatalf("%v", err)
			}
			r.acted = w.acted
			all = slices.DeleteFunc(all, func(e *raft.Log) bool { return e.Index <= uint64(n) })
		}
		r.sealed = rapid.Bool().Draw(t, "sealed")
		r.apply(t, all...)
		r.sealed = false
		if err := r.Proved(); err != nil {
			refused++
			// A log that ends before the rekey is waited for.
			if waits := errs.Is(err, errs.NotServing) && r.machine.View().Generation() < r.opened; !waits && !errs.Is(err, errs.StateCorrupt) {
				t.Fatalf("%v", err)
			}
			return
		}
		believed++
		if len(r.acted) > len(l.acted) || !slices.Equal(r.acted, l.acted[:len(r.acted)]) {
			t.Fatalf("believed, and these changes:\n%s\nin place of\n%s", strings.Join(r.acted, "\n"), strings.Join(l.acted, "\n"))
		}
	})
	if believed == 0 || refused == 0 {
		t.Errorf("%d believed, %d refused", believed, refused)
	}
}

// append adds what somebody with the first MasterKey writes behind a log.
func (l *ledger) append(t *rapid.T, all []*raft.Log) []*raft.Log {
	w := l.follower()
	w.apply(t, copyLogs(all)...)
	if w.machine.View().Generation() == 1 {
		return all // no node that was opened by a later one believes it anyway
	}
	e := copyLog(all[len(all)-1])
	e.Index++
	p := entryProof{generation: 1, prev: rapid.SampledFrom([]uint64{0, w.proofs.prev}).Draw(t, "prev")}
	p.applied, _, p.chain = w.machine.Applied()
	p.mac, _ = macOf(ledgerMAC("key"), 1, p.digest(simUID("keyspace"), e))
	e.Extensions = p.encode()
	return append(all, e)
}

// vandalise edits a log somehow. Indexes go up and terms do not go back, or Raft would
// not read it.
func vandalise(t *rapid.T, all []*raft.Log) []*raft.Log {
	if len(all) < 3 {
		return all
	}
	i := rapid.IntRange(1, len(all)-1).Draw(t, "entry") // the genesis is held by the keys
	j := rapid.IntRange(1, len(all)-1).Draw(t, "other entry")
	switch rapid.IntRange(0, 8).Draw(t, "edit") {
	case 0: // cut
		return all[:i]
	case 1: // drop, and leave a gap
		return slices.Delete(all, i, i+1)
	case 2: // drop, and close the gap
		all = slices.Delete(all, i, i+1)
		for k := i; k < len(all); k++ {
			all[k].Index--
		}
	case 3: // swap what two say
		all[i].Data, all[j].Data = all[j].Data, all[i].Data
	case 4: // swap them
		all[i].Data, all[j].Data = all[j].Data, all[i].Data
		all[i].Extensions, all[j].Extensions = all[j].Extensions, all[i].Extensions
	case 5: // no proof
		all[i].Extensions = nil
	case 6: // the proof of another one
		all[i].Extensions = bytes.Clone(all[j].Extensions)
	case 7: // again at the end
		e := copyLog(all[i])
		e.Index, e.Term = all[len(all)-1].Index+1, max(all[len(all)-1].Term, e.Term)
		return append(all, e)
	case 8: // later terms
		for _, e := range all[i:] {
			e.Term += 3
		}
	}
	return all
}

func unmarshalCommand(data []byte, cmd *fsmpb.Command) error { return proto.Unmarshal(data, cmd) }
