package cluster

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// begin brings the next MasterKey into force at the last entry, as its command does.
func (r *reader) begin(t tester) {
	t.Helper()
	var snap bytes.Buffer
	if _, err := r.machine.Snapshot().WriteTo(&snap, nil); err != nil {
		t.Fatalf("%v", err)
	}
	b := snap.Bytes()
	out, b := bytes.Clone(b[:12]), b[12:]
	for first := true; binary.BigEndian.Uint32(b) != 0; first = false {
		n := binary.BigEndian.Uint32(b)
		part := b[4 : 4+n]
		b = b[4+n:]
		it := &fsmpb.SnapshotItem{}
		if !first && proto.Unmarshal(part, it) == nil && it.GetCluster() != nil {
			it.GetCluster().GenerationBegins = append(it.GetCluster().GenerationBegins, r.machine.View().Index())
			part = must(proto.MarshalOptions{Deterministic: true}.Marshal(it))
		}
		out = append(binary.BigEndian.AppendUint32(out, uint32(len(part))), part...)
	}
	out = append(out, b[:12]...)
	sum := sha256.Sum256(out)
	p := r.proofs // which a command leaves as they are, other than a snapshot
	base, term, prev, known, floor, waiting, failure := p.base, p.term, p.prev, p.known, p.floor, p.waiting, p.failure
	if err := r.machine.Restore(bytes.NewReader(append(append(out, sum[:]...), 0))); err != nil {
		t.Fatalf("%v", err)
	}
	p.base, p.term, p.prev, p.known, p.floor, p.waiting, p.failure = base, term, prev, known, floor, waiting, failure
}

// follower is another node that reads what the ledger wrote.
func (l *ledger) follower() *reader {
	r := newReader(l.t)
	r.rekeys = l.rekeys
	return r
}

// forge returns an entry with a right proof of a MasterKey that somebody kept: nothing
// that a follower knows tells it from one of a leader of that time.
func (l *ledger) forge(g hierarchy.Generation, key string, behind []*raft.Log) *raft.Log {
	at := behind[len(behind)-1]
	w := l.follower()
	w.apply(l.t, copyLogs(behind)...)
	_, _, chain := w.machine.Applied()
	e := &raft.Log{Index: at.Index + 1, Term: at.Term, Type: raft.LogCommand, Data: rewrite(at)}
	p := entryProof{generation: g, prev: at.Index, applied: at.Index, chain: chain}
	p.mac, _ = macOf(ledgerMAC(key), g, p.digest(simUID("keyspace"), e))
	e.Extensions = p.encode()
	return e
}

// rekeyed is a log with a rekey: 1 genesis, 2 to 4 changes, 5 the rekey, 6 and 7 changes that
// its leader had sent off before it saw that, 8 to 10 changes.
func rekeyed(t tester) *ledger {
	l := newLedger(t)
	for range 3 {
		l.change()
		l.commit()
	}
	l.rekey()
	l.change()
	l.change()
	l.commit()
	for range 3 {
		l.change()
	}
	l.commit()
	if got := l.machine.View().Generation(); got != 2 {
		t.Fatalf("generation %d", got)
	}
	return l
}

// TestI22_WhatComesFromAnOlderMasterKeyEndsWhereTheNextOneBegan: on nodes that are unsealed all
// the time or only afterwards, the state is one.
func TestI22_WhatComesFromAnOlderMasterKeyEndsWhereTheNextOneBegan(t *testing.T) {
	t.Parallel()
	l := rekeyed(t)
	if want := 4 + 3; len(l.acted) != want {
		t.Fatalf("%d changes were made, want %d: %v", len(l.acted), want, l.acted)
	}
	for i, e := range l.entries {
		want := hierarchy.Generation(1)
		if i >= 7 {
			want = 2
		}
		if p, ok := decodeEntryProof(e.Extensions); i > 0 && (!ok || p.generation != want) {
			t.Errorf("entry %d: proof of generation %d, %t", e.Index, p.generation, ok)
		}
	}
	for _, sealed := range []bool{false, true} {
		r := l.follower()
		r.sealed, r.opened = sealed, 2
		r.apply(t, copyLogs(l.entries)...)
		r.sealed = false
		if err := r.Proved(); err != nil || !slices.Equal(r.acted, l.acted) || r.machine.View().Digest() != l.machine.View().Digest() {
			t.Errorf("sealed %t: %v, %d of %d changes", sealed, err, len(r.acted), len(l.acted))
		}
	}
}

// TestI22_ANodeSaysWhichMasterKeyItLacks, and serves nothing.
func TestI22_ANodeSaysWhichMasterKeyItLacks(t *testing.T) {
	t.Parallel()
	l := rekeyed(t)
	for lacks, says := range map[hierarchy.Generation]string{
		1: "entry 2 of the log cannot be verified without the MasterKey of generation 1",
		2: "entry 8 of the log cannot be verified without the MasterKey of generation 2",
	} {
		r := l.follower()
		r.lacks = lacks
		r.apply(t, copyLogs(l.entries)...)
		err := r.Proved()
		if !errs.Is(err, errs.Sealed) || errs.From(err).Msg != says {
			t.Errorf("without %d: %v; want %q", lacks, err, says)
		}
		if _, err := r.adapter.Snapshot(); err == nil {
			t.Errorf("without %d: it writes a snapshot", lacks)
		}
		e := &raft.Log{Index: 20, Term: 9, Type: raft.LogCommand, Data: []byte("x")}
		r.caught.Store(9)
		r.vouching.propose(e.Data)
		if r.vouching.vouch(e); e.Extensions != nil {
			t.Errorf("without %d: it vouches", lacks)
		}
		// What it could not tell it can once it has the key.
		r.lacks = 0
		if err := r.Proved(); err != nil {
			t.Errorf("with %d: %v", lacks, err)
		}
	}
	// Also before anything was proved with the new one.
	r := l.follower()
	r.lacks = 2
	r.apply(t, copyLogs(l.entries[:5])...)
	if _, err := r.adapter.Snapshot(); !errors.Is(err, errSealedSnapshot) || !errs.Is(r.believed(), errs.Sealed) {
		t.Errorf("where the new one came into force, without it: %v", err)
	}
}

// TestI22_WhoKeptAnOldMasterKeyAddsNothing
func TestI22_WhoKeptAnOldMasterKeyAddsNothing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		log    func(l *ledger) []*raft.Log
		proved errs.Code // 0: it is believed
		leads  errs.Code
		acted  int // of the changes that were made
	}{
		"an entry at the end": {log: func(l *ledger) []*raft.Log {
			return append(l.entries, l.forge(1, "key", l.entries))
		}, acted: 7},
		"an entry just behind the rekey": {log: func(l *ledger) []*raft.Log {
			return append(slices.Clone(l.entries[:5]), l.forge(1, "key", l.entries[:5]))
		}, acted: 4},
		"an entry that says it comes from the new one": {log: func(l *ledger) []*raft.Log {
			e := l.forge(1, "key", l.entries)
			p, _ := decodeEntryProof(e.Extensions)
			p.generation = 2
			p.mac, _ = macOf(ledgerMAC("key"), 1, p.digest(simUID("keyspace"), e))
			e.Extensions = p.encode()
			return append(l.entries, e)
		}, proved: errs.StateCorrupt, leads: errs.StateCorrupt, acted: 8},
		"an entry of a MasterKey that is not yet": {log: func(l *ledger) []*raft.Log {
			return append(l.entries, l.forge(3, "key", l.entries))
		}, acted: 7},
		"a log that ends before the rekey": {log: func(l *ledger) []*raft.Log {
			return append(slices.Clone(l.entries[:4]), l.forge(1, "key", l.entries[:4]))
		}, proved: errs.NotServing, leads: errs.StateCorrupt, acted: 4},
		"an entry from before the rekey is another one": {log: func(l *ledger) []*raft.Log {
			all := slices.Clone(l.entries)
			all[3] = l.forge(1, "key", l.entries[:3])
			e := copyLog(all[4]) // and the rekey is signed anew behind it
			p, _ := decodeEntryProof(e.Extensions)
			w := l.follower()
			w.apply(l.t, copyLogs(all[:4])...)
			_, _, p.chain = w.machine.Applied()
			p.mac, _ = macOf(ledgerMAC("key"), 1, p.digest(simUID("keyspace"), e))
			e.Extensions = p.encode()
			all[4] = e
			return all
		}, proved: errs.StateCorrupt, leads: errs.StateCorrupt, acted: 7},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, sealed := range []bool{false, true} {
				l := rekeyed(t)
				r := l.follower()
				r.opened, r.sealed = 2, sealed
				r.apply(t, copyLogs(c.log(l))...)
				r.sealed = false
				check := func(as string, want errs.Code) {
					t.Helper()
					if err := r.Proved(); want == 0 && err != nil || want != 0 && !errs.Is(err, want) {
						t.Errorf("sealed %t, %s: %v, want %s", sealed, as, err, want)
					}
				}
				check("as one that follows", c.proved)
				r.leads = true
				check("as leader", c.leads)
				if len(r.acted) != c.acted {
					t.Errorf("sealed %t: %d changes were made, want %d", sealed, len(r.acted), c.acted)
				}
			}
		})
	}
}

// TestI22_TheScreenKnowsEveryMasterKeyThatTheNodeKnows: what is wrong does not reach the log.
func TestI22_TheScreenKnowsEveryMasterKeyThatTheNodeKnows(t *testing.T) {
	t.Parallel()
	l := rekeyed(t)
	r := l.follower()
	r.apply(t, copyLogs(l.entries[:4])...)
	later := copyLogs(l.entries[4:])
	if err := r.screen("peer", &raft.AppendEntriesRequest{Entries: later}); err != nil {
		t.Errorf("entries of two MasterKeys, none of them applied: %v", err)
	}
	later[4].Data = rewrite(later[4])
	if err := r.screen("peer", &raft.AppendEntriesRequest{Entries: later}); !errs.Is(err, errs.StateCorrupt) {
		t.Errorf("one of the later MasterKey is edited: %v", err)
	}
	r.lacks = 2
	if err := r.screen("peer", &raft.AppendEntriesRequest{Entries: later}); err != nil {
		t.Errorf("it refuses what it cannot tell: %v", err)
	}

	// What it cannot tell hides nothing that it can.
	later = copyLogs(l.entries[4:])
	later[2].Data = rewrite(later[2])
	later[0], later[1] = copyLog(l.entries[8]), copyLog(l.entries[9]) // of MasterKey 2
	if err := r.screen("peer", &raft.AppendEntriesRequest{Entries: later}); !errs.Is(err, errs.StateCorrupt) {
		t.Errorf("one of the first MasterKey is edited, behind two of another one: %v", err)
	}
}

// TestI22_TheEndOfTheLogIsOfTheMasterKeyThatWasInForceThere
func TestI22_TheEndOfTheLogIsOfTheMasterKeyThatWasInForceThere(t *testing.T) {
	t.Parallel()
	l := tenanted(t)
	l.end.kept = true
	l.change()
	l.commit()
	old := keep(t, l)
	l.rekey()
	l.commit()
	begun := l.last()
	for range 3 {
		l.change()
		l.commit()
	}
	now := keep(t, l)
	if old.generation != 1 || now.generation != 2 {
		t.Fatalf("the marks are of the MasterKeys %d and %d", old.generation, now.generation)
	}
	marked := func(g hierarchy.Generation, index uint64) logMark {
		w := l.follower()
		w.apply(t, copyLogs(l.entries[:index])...)
		m := logMark{generation: g, index: index}
		_, _, m.chain = w.machine.Applied()
		m.mac, _ = m.sum(ledgerMAC("key"), simUID("keyspace"), ledgerNode)
		return m
	}
	for name, c := range map[string]struct {
		mark     logMark
		lacks    hierarchy.Generation
		entitled errs.Code
	}{
		"of the new one":                               {mark: now},
		"of the old one, from before":                  {mark: old},
		"of the old one, at the entry before":          {mark: marked(1, begun-1)},
		"of the old one, made where the new one began": {mark: marked(1, begun), entitled: errs.StateCorrupt},
		"of the old one, made later":                   {mark: marked(1, begun+1), entitled: errs.StateCorrupt},
		"of the new one, made before it began":         {mark: marked(2, begun-1), entitled: errs.StateCorrupt},
		"of the old one, which nobody has any more":    {mark: old, lacks: 1, entitled: errs.Sealed},
		"of the new one, which this node has not":      {mark: now, lacks: 2, entitled: errs.Sealed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			was := &reader{}
			_ = was.file.write(c.mark.encode())
			r := was.reopened(t)
			r.rekeys, r.lacks = l.rekeys, c.lacks
			r.apply(t, copyLogs(l.entries)...)
			if err := r.entitled(); c.entitled == 0 && err != nil || c.entitled != 0 && !errs.Is(err, c.entitled) {
				t.Errorf("%v, want %s", err, c.entitled)
			}
		})
	}
	// While a node still applies what was before, it cannot tell of what comes.
	was := &reader{}
	_ = was.file.write(now.encode())
	r := was.reopened(t)
	r.rekeys, r.lacks = l.rekeys, 2
	r.apply(t, copyLogs(l.entries[:begun-1])...)
	if got := r.end.stands(); got != endUnknown {
		t.Errorf("a mark of a MasterKey that this node has not stands for %d", got)
	}
	// A snapshot of the new one is all that a node has that came after the old one was dropped:
	// its mark counts for nothing then, and it gets one with its first lease.
	var snap bytes.Buffer
	if _, err := l.machine.Snapshot().WriteTo(&snap, l.cfg.MAC); err != nil {
		t.Fatal(err)
	}
	was = &reader{}
	_ = was.file.write(old.encode())
	r = was.reopened(t)
	r.lacks = 1
	if err := r.adapter.Restore(io.NopCloser(&snap)); err != nil {
		t.Fatal(err)
	}
	if got := r.end.stands(); got != endNone {
		t.Errorf("a mark that nobody can verify any more stands for %d", got)
	}
}

func keep(t *testing.T, l *ledger) logMark {
	t.Helper()
	if err := l.end.keep(); err != nil {
		t.Fatal(err)
	}
	b, err := l.file.read()
	if err != nil {
		t.Fatal(err)
	}
	m, ok := decodeLogMark(b)
	if !ok || m.index != l.last() {
		t.Fatalf("%+v, %t", m, ok)
	}
	return m
}

// TestI22_ASnapshotIsOfTheMasterKeyInForceInIt, whatever the node that reads it was at.
func TestI22_ASnapshotIsOfTheMasterKeyInForceInIt(t *testing.T) {
	t.Parallel()
	l := rekeyed(t)
	for upTo, g := range map[int]hierarchy.Generation{4: 1, 5: 2, 10: 2} {
		w := l.follower()
		w.apply(t, copyLogs(l.entries[:upTo])...)
		var snap bytes.Buffer
		var asked []hierarchy.Generation
		if _, err := w.machine.Snapshot().WriteTo(&snap, func(g hierarchy.Generation, parts ...[]byte) ([32]byte, bool) {
			asked = append(asked, g)
			return w.cfg.MAC(g, parts...)
		}); err != nil {
			t.Fatal(err)
		}
		m := fsm.New(fsm.Options{})
		if err := m.Restore(&snap); err != nil {
			t.Fatal(err)
		}
		p, _ := m.RestoreProof()
		if p.Generation != g || !slices.Equal(asked, []hierarchy.Generation{g}) || p.Verify(w.cfg.MAC) != nil {
			t.Errorf("of entry %d: generation %d, asked for %v, %v", upTo, p.Generation, asked, p.Verify(w.cfg.MAC))
		}
		w.lacks = g
		if err := p.Verify(w.cfg.MAC); !errs.Is(err, errs.Sealed) || !strings.Contains(errs.From(err).Msg, fmt.Sprintf("generation %d", g)) {
			t.Errorf("without that MasterKey: %v", err)
		}
	}
}

// TestWhatALaterMasterKeyProvesHasThisFormat: docs/formats.md, Proof of an entry and End of
// the log.
func TestWhatALaterMasterKeyProvesHasThisFormat(t *testing.T) {
	t.Parallel()
	u64 := func(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
	second := func(over ...[]byte) []byte { // ledgerMAC of generation 2
		h := hmac.New(sha256.New, []byte("a key of the test'"))
		h.Write(slices.Concat(over...))
		return h.Sum(nil)
	}
	e := &raft.Log{Index: 7, Term: 3, Type: raft.LogCommand, Data: []byte("command")}
	keyspace := bytes.Repeat([]byte{0xab}, 16)
	p := entryProof{generation: 2, prev: 6, applied: 5, chain: [32]byte(bytes.Repeat([]byte{0xcd}, 32))}
	p.mac, _ = macOf(ledgerMAC("a key of the test"), 2, p.digest(keyspace, e))
	command := sha256.Sum256(e.Data)
	digest := sha256.Sum256(slices.Concat([]byte{0, 0, 0, 16}, keyspace, u64(2), u64(7), u64(3), u64(6), u64(5), p.chain[:], command[:]))
	want := slices.Concat([]byte{2}, u64(2), u64(6), u64(5), p.chain[:], second([]byte("krypton/v1/log-entry"), digest[:]))
	if !bytes.Equal(p.encode(), want) {
		t.Errorf("encoded %x, by the page %x", p.encode(), want)
	}
	if got := hex.EncodeToString(p.mac[:]); got != laterEntryVectorMAC {
		t.Errorf("the vector is %s", got)
	}
	if got, ok := decodeEntryProof(want); !ok || got != p {
		t.Errorf("decoded %+v, %t", got, ok)
	}

	m := logMark{generation: 2, index: 7, chain: p.chain}
	m.mac, _ = m.sum(ledgerMAC("a key of the test"), keyspace, ledgerNode)
	want = slices.Concat([]byte("KRYPEND2"), u64(2), u64(7), m.chain[:], second([]byte("krypton/v1/log-end"), keyspace, []byte(ledgerNode), u64(2), u64(7), m.chain[:]))
	if !bytes.Equal(m.encode(), want) {
		t.Errorf("encoded %x, by the page %x", m.encode(), want)
	}
	if got := hex.EncodeToString(m.mac[:]); got != laterEndVectorMAC {
		t.Errorf("the vector is %s", got)
	}
	if got, ok := decodeLogMark(want); !ok || got != m {
		t.Errorf("decoded %+v, %t", got, ok)
	}
}

const (
	laterEntryVectorMAC = "c575af9b0cf78b2ae97a216c688e089a69e3e64adb89ef0b9c156a6043088bd7"
	laterEndVectorMAC   = "02b5b1eb4381dc5aa89815ec0021594e97dd88893257d71126563149d965296a"
)
