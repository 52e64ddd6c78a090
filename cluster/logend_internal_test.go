package cluster

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/cluster/lease"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// tenanted is a ledger with a tenant, so that there is something to miss.
func tenanted(t tester) *ledger {
	t.Helper()
	l := newLedger(t)
	l.write(&fsmpb.Command{
		Principal: principalOf(Governor()),
		Body: &fsmpb.Command_CreateTenant{CreateTenant: &fsmpb.CreateTenant{
			Name: "acme", Uid: simUID("acme"), L2Uid: simUID("l2"), L2Blob: []byte("l2"), L2IvkUid: simUID("ivk"),
			Binding: &fsmpb.Binding{Keystore: "local", Key: "kek", Archetype: "local"},
			Version: &fsmpb.Version{Number: 1, Uid: simUID("l21"), ParentUid: simUID("l2"), Blob: []byte("l21")},
		}},
	})
	l.commit()
	if l.machine.View().Bare() {
		t.Fatalf("there is no tenant")
	}
	return l
}

// reopened is another process of the node, on the same file.
func (r *reader) reopened(t tester) *reader {
	t.Helper()
	next := newReader(t)
	b, err := r.file.read()
	if err == nil {
		_ = next.file.write(bytes.Clone(b))
	}
	if err := next.end.load(); err != nil {
		t.Fatalf("%v", err)
	}
	return next
}

func TestI20_WhatANodeHasHadItWaitsFor(t *testing.T) {
	t.Parallel()
	l := tenanted(t)
	if err := l.entitled(); !errs.Is(err, errs.StateCorrupt) {
		t.Fatalf("with a tenant and without a file it is entitled: %v", err)
	}
	if err := l.end.keep(); err != nil || l.end.isKept() {
		t.Fatalf("it gives itself what it does not have: %v", err)
	}
	l.end.mu.Lock()
	l.end.kept = true // as if it had been there before the tenant
	l.end.mu.Unlock()
	for range 3 {
		l.change()
		l.commit()
	}
	if len(l.acted) != 4 {
		t.Fatalf("%d changes were made", len(l.acted))
	}
	if err := l.end.keep(); err != nil {
		t.Fatal(err)
	}
	at := len(l.entries)
	for name, c := range map[string]struct {
		log      func() []*raft.Log
		file     func(b []byte) []byte
		proved   errs.Code // Internal: nil
		entitled errs.Code
	}{
		"all of it":           {log: func() []*raft.Log { return copyLogs(l.entries) }},
		"cut":                 {log: func() []*raft.Log { return copyLogs(l.entries[:at-1]) }, proved: errs.NotServing, entitled: errs.NotServing},
		"without the file":    {log: func() []*raft.Log { return copyLogs(l.entries) }, file: func([]byte) []byte { return nil }, entitled: errs.StateCorrupt},
		"with a damaged file": {log: func() []*raft.Log { return copyLogs(l.entries) }, file: func(b []byte) []byte { return b[1:] }, entitled: errs.StateCorrupt},
		"with a forged file": {log: func() []*raft.Log { return copyLogs(l.entries[:at-1]) }, file: func(b []byte) []byte {
			m, _ := decodeLogMark(b)
			m.index--
			return m.encode()
		}, entitled: errs.StateCorrupt},
		"with the file of another node": {log: func() []*raft.Log { return copyLogs(l.entries) }, file: func(b []byte) []byte {
			m, _ := decodeLogMark(b)
			m.mac, _ = m.sum(ledgerMAC("key"), simUID("keyspace"), "00000000000000000000000000000002")
			return m.encode()
		}, entitled: errs.StateCorrupt},
		"none at that entry, and one behind it": {log: func() []*raft.Log {
			all := copyLogs(l.entries[:at])
			all[at-1].Index++
			return all
		}, proved: errs.StateCorrupt, entitled: errs.StateCorrupt},
		"another one at that entry": {log: func() []*raft.Log {
			all := copyLogs(l.entries)
			all[at-1].Extensions = nil // it is refused, so the chain is another one
			return all
		}, proved: errs.StateCorrupt, entitled: errs.StateCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			was := &reader{}
			b, _ := l.file.read()
			if c.file != nil {
				b = c.file(bytes.Clone(b))
			}
			if b != nil {
				_ = was.file.write(b)
			}
			r := was.reopened(t)
			r.sealed = true
			r.apply(t, c.log()...)
			if err := r.Proved(); !errs.Is(err, errs.Sealed) && !errs.Is(err, errs.StateCorrupt) {
				t.Errorf("while it is sealed: %v", err)
			}
			r.sealed = false
			same := func(what string, err error, want errs.Code) {
				t.Helper()
				if want == 0 && err != nil || want != 0 && !errs.Is(err, want) {
					t.Errorf("%s: %v, want %s", what, err, want)
				}
			}
			same("to serve", r.Proved(), c.proved)
			if c.proved == errs.NotServing {
				// A leader that has caught up will not get what is missing.
				r.leads = true
				same("as leader", r.Proved(), errs.StateCorrupt)
				r.leads = false
			}
			same("to lead", r.entitled(), c.entitled)
			if r.mustNotGrant() != (c.entitled != 0) {
				t.Error("it grants leases otherwise than it may lead")
			}
			before, _ := r.file.read()
			_ = r.end.keep()
			if after, _ := r.file.read(); c.entitled != 0 && !bytes.Equal(before, after) {
				t.Error("it wrote a file that it is not entitled to")
			}
		})
	}
}

// TestI20_ASnapshotFromBehindTheMarkIsEnough: it has a MAC, and the chain before it is
// not known any more. One from before it is not.
func TestI20_ASnapshotFromBehindTheMarkIsEnough(t *testing.T) {
	t.Parallel()
	l := tenanted(t)
	l.end.kept = true
	l.change()
	l.commit()
	if err := l.end.keep(); err != nil {
		t.Fatal(err)
	}
	mark := len(l.entries)
	for range 3 {
		l.change()
		l.commit()
	}
	for upTo := 2; upTo <= len(l.entries); upTo++ {
		var snap bytes.Buffer
		w := newReader(t)
		w.apply(t, copyLogs(l.entries[:upTo])...)
		if _, err := w.machine.Snapshot().WriteTo(&snap, w.cfg.MAC); err != nil {
			t.Fatal(err)
		}
		r := l.reopened(t)
		if err := r.adapter.Restore(io.NopCloser(&snap)); err != nil {
			t.Fatal(err)
		}
		if got, want := r.Proved() == nil, upTo >= mark; got != want {
			t.Errorf("a snapshot of entry %d, the mark is at %d: %v", upTo, mark, r.Proved())
		}
	}
}

// TestI20_TheFileIsThereBeforeTheFirstTenant, or the write of it fails the change.
func TestI20_TheFileIsThereBeforeTheFirstTenant(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	if err := l.entitled(); err != nil || l.mustNotGrant() {
		t.Fatalf("where no tenant is there is nothing to miss: %v", err)
	}
	broken := errors.New("no space")
	write := l.end.write
	l.end.write = func([]byte) error { return broken }
	if err := l.end.keep(); !errors.Is(err, broken) || l.end.isKept() {
		t.Fatalf("%v", err)
	}
	l.end.write = write
	if err := l.end.keep(); err != nil || !l.end.isKept() {
		t.Fatalf("%v", err)
	}
	// Sealed, it leaves what is there.
	before, _ := l.file.read()
	l.change()
	l.commit()
	l.sealed = true
	_ = l.end.keep()
	if after, _ := l.file.read(); !bytes.Equal(before, after) {
		t.Error("a sealed node wrote it")
	}
	l.sealed = false
	_ = l.end.keep()
	if after, _ := l.file.read(); bytes.Equal(before, after) {
		t.Error("an unsealed node did not")
	}
}

func TestALogMarkHasThisFormat(t *testing.T) {
	t.Parallel()
	m := logMark{generation: 1, index: 7, chain: [32]byte(bytes.Repeat([]byte{0xcd}, 32))}
	m.mac, _ = m.sum(ledgerMAC("a key of the test"), bytes.Repeat([]byte{0xab}, 16), ledgerNode)
	h := hmac.New(sha256.New, []byte("a key of the test"))
	h.Write(slices.Concat([]byte("krypton/v1/log-end"), bytes.Repeat([]byte{0xab}, 16), []byte(ledgerNode), []byte{0, 0, 0, 0, 0, 0, 0, 7}, m.chain[:]))
	want := slices.Concat([]byte("KRYPEND1"), []byte{0, 0, 0, 0, 0, 0, 0, 7}, m.chain[:], h.Sum(nil))
	if !bytes.Equal(m.encode(), want) {
		t.Errorf("encoded %x, by the page %x", m.encode(), want)
	}
	if got := hex.EncodeToString(m.mac[:]); got != endVectorMAC {
		t.Errorf("the vector is %s", got)
	}
}

const endVectorMAC = "3fb2a8c37ed1d9330cdc96f89748865847d5541806575501ccaec9d4c0d2107b"

func FuzzLogMark(f *testing.F) {
	f.Add([]byte{})
	f.Add(logMark{index: 1}.encode())
	f.Add(logMark{generation: 3, index: 1}.encode())
	f.Add(append([]byte("KRYPEND2\x00\x00\x00\x00\x00\x00\x00\x01"), logMark{index: 1}.encode()[8:]...))
	f.Add(logMark{}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, ok := decodeLogMark(b)
		if ok && (!bytes.Equal(m.encode(), b) || m.index == 0) {
			t.Errorf("%x is decoded, and encoded as %x", b, m.encode())
		}
	})
}

// TestI20_NoCutIsBelieved: whatever was applied when the file was written, a process that
// has less of it does not lead.
func TestI20_NoCutIsBelieved(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := tenanted(t)
		l.end.kept = true
		mark := 0
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				l.elect()
			case 1:
				if err := l.end.keep(); err != nil {
					t.Fatalf("%v", err)
				}
				mark = int(l.machine.View().Index())
			default:
				l.change()
				l.commit()
			}
		}
		n := rapid.IntRange(1, len(l.entries)).Draw(t, "entries that are left")
		r := l.reopened(t)
		r.apply(t, copyLogs(l.entries[:n])...)
		entitled := r.entitled() == nil
		want := n >= mark && mark > 0 || n < 2 // the genesis alone has no tenant
		if mark > n {
			want = false // a file that names more is waited for, tenant or not
		}
		if entitled != want {
			t.Fatalf("with %d of %d entries and a mark at %d: %v", n, len(l.entries), mark, r.entitled())
		}
	})
}

// TestI20_ALeaseThatProvesNothingIsNotTakenByWhoHasNothingEither: what a node finds out of
// a view it keeps as long as that view, so a lease must not come to be of use in one in
// which the node did not know of it.
func TestI20_ALeaseThatProvesNothingIsNotTakenByWhoHasNothingEither(t *testing.T) {
	t.Parallel()
	l := tenanted(t)
	index, _, chain := l.machine.Applied()
	take := func(whole bool) (taken bool) {
		l.leases.mu.Lock()
		defer l.leases.mu.Unlock()
		l.leases.refusal = ""
		before := l.leases.counts.byHolder
		l.leases.take(lease.Reading(l.clk.Read()), lease.Grant{Index: index, Chain: chain, Lease: time.Second}, whole)
		// One that nobody asked for is counted as such: it was looked at.
		return l.leases.counts.byHolder != before
	}
	if take(false) || !l.end.doubtful() || l.leases.refusal == "" {
		t.Errorf("a lease that proves nothing was looked at; doubtful %t, %q", l.end.doubtful(), l.leases.refusal)
	}
	if !take(true) {
		t.Error("a lease of a leader that proves its log was not looked at")
	}
	l.end.mu.Lock()
	l.end.kept = true
	l.end.mu.Unlock()
	if !take(false) {
		t.Error("a node that proves its own log did not look at a lease")
	}
}
