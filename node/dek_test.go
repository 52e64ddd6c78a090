package node_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
)

// Events, in fewer words.
const (
	enable     = fsmpb.VersionEvent_VERSION_EVENT_ENABLE
	disable    = fsmpb.VersionEvent_VERSION_EVENT_DISABLE
	deprecate  = fsmpb.VersionEvent_VERSION_EVENT_DEPRECATE
	compromise = fsmpb.VersionEvent_VERSION_EVENT_COMPROMISE
	destroyV   = fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY
	undestroyV = fsmpb.VersionEvent_VERSION_EVENT_CANCEL_DESTROY
	suspend    = fsmpb.ObjectEvent_OBJECT_EVENT_SUSPEND
	resume     = fsmpb.ObjectEvent_OBJECT_EVENT_RESUME
	destroyO   = fsmpb.ObjectEvent_OBJECT_EVENT_SCHEDULE_DESTROY
	undestroyO = fsmpb.ObjectEvent_OBJECT_EVENT_CANCEL_DESTROY
)

func TestEveryOperationRoundTrips(t *testing.T) {
	_, m := cluster1(t)
	for _, tg := range []node.Target{
		target("acme", "pay"),
		{Tenant: "acme", Service: "pay", Resource: "invoice/4711"},
		{Tenant: "acme", Service: "pay", Context: encryptionContext(t, "purpose", "billing", "region", "eu")},
		{Tenant: "acme", Service: "log", Resource: "r", Context: encryptionContext(t, "a", "b")},
	} {
		for _, n := range []int{0, 1, 256, node.MaxData} {
			plain := bytes.Repeat([]byte{byte(n)}, n)
			ct, used, err := m.encrypt(tg, plain)
			check(t, err)
			if used.Name != tg.Name()+"/versions/1" || len(used.UID) != 32 {
				t.Errorf("used %+v", used)
			}
			if h := must[envelope.Header](t)(envelope.ParseHeader(ct)); hex.EncodeToString(h.KeyVersion[:]) != used.UID {
				t.Error("the header names another version than the answer")
			}
			got, usedBack, err := m.decrypt(tg, ct)
			if err != nil || !bytes.Equal(got, plain) || usedBack.UID != used.UID {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
		for _, n := range []int{0, node.MinDataKey, 24, node.MaxDataKey} {
			plain, wrapped, used, err := m.generate(tg, n)
			check(t, err)
			want := n
			if n == 0 {
				want = node.DefaultDataKey
			}
			if len(plain) != want || bytes.Equal(plain, make([]byte, want)) {
				t.Errorf("a data key of %d bytes", len(plain))
			}
			again, _, _, err := m.generate(tg, n)
			check(t, err)
			if bytes.Equal(again, plain) {
				t.Error("the same data key twice")
			}
			got, _, err := m.unwrap(tg, wrapped)
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("unwrap: %v", err)
			}
			re, now, before, err := m.rewrap(tg, wrapped)
			check(t, err)
			if bytes.Equal(re, wrapped) || now != used || before != used {
				t.Errorf("rewrap: %+v, %+v", now, before)
			}
			if got, _, err = m.unwrap(tg, re); err != nil || !bytes.Equal(got, plain) {
				t.Errorf("unwrap of the rewrapped: %v", err)
			}
		}
	}
}

func TestSizesThatAreNotPossibleAreRefused(t *testing.T) {
	_, m := cluster1(t)
	tg := target("acme", "pay")
	for _, n := range []int{-1, 1, node.MinDataKey - 1, node.MaxDataKey + 1, 1 << 30} {
		_, _, _, err := m.generate(tg, n)
		wants(t, err, errs.InvalidArgument)
	}
	_, _, err := m.encrypt(tg, make([]byte, node.MaxData+1))
	wants(t, err, errs.TooLarge)
}

// One and the same error for every ciphertext that is not of exactly this key,
// resource and context: whoever tries learns nothing about what exists.
func TestWhatDoesNotOpenIsOneError(t *testing.T) {
	w, m := cluster1(t)
	w.tenant(m, "other", "pay")
	base := node.Target{Tenant: "acme", Service: "pay", Resource: "r", Context: encryptionContext(t, "k", "v")}
	ct, _, err := m.encrypt(base, []byte("secret"))
	check(t, err)
	_, wrapped, _, err := m.generate(base, 32)
	check(t, err)
	with := func(f func(*node.Target)) node.Target {
		tg := base
		f(&tg)
		return tg
	}
	// The tenant that comes under the name of one that is gone.
	w.tenant(m, "phoenix", "pay")
	reborn := target("phoenix", "pay")
	ashes, _, err := m.encrypt(reborn, []byte("x"))
	check(t, err)
	check(t, m.changeObject(w.request(), object("phoenix", ""), destroyO, node.WithoutWait))
	w.tenant(m, "phoenix", "pay")
	// A service that comes under the name of one that is gone.
	svc := target("acme", "again")
	must[*fsmpb.Service](t)(m.createService(w.request(), "acme", "again"))
	gone, _, err := m.encrypt(svc, []byte("x"))
	check(t, err)
	check(t, m.changeObject(w.request(), object("acme", "again"), destroyO, node.WithoutWait))
	must[*fsmpb.Service](t)(m.createService(w.request(), "acme", "again"))

	flip := func(b []byte, i int) []byte { b = bytes.Clone(b); b[i] ^= 1; return b }
	want := errs.DoesNotOpen(nil)
	cases := map[string]struct {
		tg   node.Target
		blob []byte
	}{
		"other tenant":       {with(func(tg *node.Target) { tg.Tenant, tg.Service = "other", "pay" }), ct},
		"other service":      {with(func(tg *node.Target) { tg.Service = "log" }), ct},
		"other resource":     {with(func(tg *node.Target) { tg.Resource = "s" }), ct},
		"no resource":        {with(func(tg *node.Target) { tg.Resource = "" }), ct},
		"other context":      {with(func(tg *node.Target) { tg.Context = encryptionContext(t, "k", "w") }), ct},
		"no context":         {with(func(tg *node.Target) { tg.Context = hierarchy.EncryptionContext{} }), ct},
		"re-created tenant":  {reborn, ashes},
		"re-created service": {svc, gone},
		"a data key":         {base, wrapped},
		"empty":              {base, nil},
		"cut":                {base, ct[:len(ct)-1]},
		"longer":             {base, append(bytes.Clone(ct), 0)},
	}
	for i := range ct {
		cases["flipped byte "+string(rune('0'+i))] = struct {
			tg   node.Target
			blob []byte
		}{base, flip(ct, i)}
	}
	for name, c := range cases {
		_, _, err := m.decrypt(c.tg, c.blob)
		e := errs.From(err)
		if e == nil || e.Code != want.Code || e.Msg != want.Msg || e.Hint != want.Hint {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, tg := range map[string]node.Target{
		"other tenant":   {Tenant: "other", Service: "pay", Resource: "r", Context: base.Context},
		"other service":  {Tenant: "acme", Service: "log", Resource: "r", Context: base.Context},
		"other resource": {Tenant: "acme", Service: "pay", Resource: "x", Context: base.Context},
	} {
		_, _, err := m.unwrap(tg, wrapped)
		_, _, _, rerr := m.rewrap(tg, wrapped)
		for _, err := range []error{err, rerr} {
			if e := errs.From(err); e == nil || e.Code != want.Code || e.Msg != want.Msg || e.Hint != want.Hint {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if _, _, err := m.unwrap(base, ct); !errs.Is(err, errs.Integrity) {
		t.Errorf("data as a data key: %v", err)
	}
	// The causes differ, and stand in the audit trail only.
	causes := map[string]bool{}
	for _, r := range m.records("crypto.decrypt") {
		if r.Code == errs.Integrity {
			causes[r.Cause] = true
			if r.Cause == "" {
				t.Error("a refusal without a cause in its record")
			}
		}
	}
	if len(causes) < 3 {
		t.Errorf("causes: %v", causes)
	}
	// And nothing exists that does not: unknown names.
	for _, tg := range []node.Target{target("acme", "none"), target("none", "pay")} {
		_, _, err := m.decrypt(tg, ct)
		if errs.From(err).Error() != gate.NoSuchObject().Error() {
			t.Errorf("%v: %v", tg.Name(), err)
		}
		_, _, err = m.encrypt(tg, nil)
		if errs.From(err).Error() != gate.NoSuchObject().Error() {
			t.Errorf("%v: %v", tg.Name(), err)
		}
	}
}

// What each state of a version, a service, a tenant and a parent does to each
// operation.
func TestStatesDecide(t *testing.T) {
	ok, no := errs.Unspecified, errs.FailedState
	type step struct {
		name              string
		do                func(w *world, m *member) error
		encrypt, decrypt  errs.Code
		decryptedByOthers bool
	}
	version := func(n uint32, e fsmpb.VersionEvent) func(*world, *member) error {
		return func(w *world, m *member) error {
			return m.changeVersion(w.request(), object("acme", "pay"), n, e, node.AfterWait)
		}
	}
	tenantVersion := func(n uint32, e fsmpb.VersionEvent) func(*world, *member) error {
		return func(w *world, m *member) error {
			return m.changeVersion(w.request(), object("acme", ""), n, e, node.AfterWait)
		}
	}
	obj := func(service hierarchy.Name, e fsmpb.ObjectEvent) func(*world, *member) error {
		return func(w *world, m *member) error {
			return m.changeObject(w.request(), object("acme", service), e, node.AfterWait)
		}
	}
	rotate := func(service hierarchy.Name) func(*world, *member) error {
		return func(w *world, m *member) error { return m.rotate(w.request(), object("acme", service)) }
	}
	for name, steps := range map[string][]step{
		"disable and enable":   {{"disable", version(1, disable), no, no, false}, {"enable", version(1, enable), ok, ok, true}},
		"a superseded version": {{"rotate", rotate("pay"), ok, ok, true}, {"deprecate", version(1, deprecate), ok, ok, true}, {"disable", version(1, disable), ok, no, false}, {"enable", version(1, enable), ok, ok, true}},
		"compromise":           {{"rotate", rotate("pay"), ok, ok, true}, {"compromise", version(1, compromise), ok, no, false}},
		"compromised primary":  {{"compromise", version(1, compromise), no, no, false}, {"rotate", rotate("pay"), ok, no, false}},
		"destroy and cancel":   {{"rotate", rotate("pay"), ok, ok, true}, {"destroy", version(1, destroyV), ok, no, false}, {"cancel", version(1, undestroyV), ok, no, false}, {"enable", version(1, enable), ok, ok, true}},
		"suspended service":    {{"suspend", obj("pay", suspend), no, no, true}, {"resume", obj("pay", resume), ok, ok, true}},
		"suspended tenant":     {{"suspend", obj("", suspend), no, no, false}, {"resume", obj("", resume), ok, ok, true}},
		"deleted service":      {{"delete", obj("pay", destroyO), no, no, true}, {"save", obj("pay", undestroyO), no, no, true}, {"resume", obj("pay", resume), ok, ok, true}},
		"deleted tenant":       {{"delete", obj("", destroyO), no, no, false}},
		"parent": {
			{"rotate tenant", rotate(""), ok, ok, true},
			{"disable parent", tenantVersion(1, disable), no, no, false},
			{"rotate service", rotate("pay"), ok, no, false},
			{"enable parent", tenantVersion(1, enable), ok, ok, true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, m := cluster1(t)
			tg := target("acme", "pay")
			ct, _, err := m.encrypt(tg, []byte("old"))
			check(t, err)
			_, wrapped, _, err := m.generate(tg, 32)
			check(t, err)
			logged, _, err := m.encrypt(target("acme", "log"), []byte("other"))
			check(t, err)
			for _, s := range steps {
				if err := s.do(w, m); err != nil {
					if s.name == "resume" && errs.Is(err, errs.FailedState) {
						continue // saved is active again already
					}
					t.Fatalf("%s: %v", s.name, err)
				}
				if s.name == "save" {
					continue // looked at after the next step
				}
				t.Log(s.name)
				for range 2 { // with the keys loaded, and after they were swept
					_, _, err := m.encrypt(tg, []byte("new"))
					wants(t, err, s.encrypt)
					_, _, _, err = m.generate(tg, 0)
					wants(t, err, s.encrypt)
					_, used, err := m.decrypt(tg, ct)
					wants(t, err, s.decrypt)
					if used.UID == "" {
						t.Error("the record does not name the version that was refused")
					}
					_, _, err = m.unwrap(tg, wrapped)
					wants(t, err, s.decrypt)
					_, _, _, err = m.rewrap(tg, wrapped)
					if s.decrypt == ok {
						wants(t, err, s.encrypt)
					} else {
						wants(t, err, s.decrypt)
					}
					m.Sweep()
				}
				if _, _, err := m.decrypt(target("acme", "log"), logged); s.decryptedByOthers && err != nil {
					t.Errorf("%s touched another service: %v", s.name, err)
				}
			}
		})
	}
}

func TestRotationOpensOldAndWrapsNew(t *testing.T) {
	w, m := cluster1(t)
	tg := target("acme", "pay")
	var cts [][]byte
	for n := range 4 {
		ct, used, err := m.encrypt(tg, []byte{byte(n)})
		check(t, err)
		if !strings.HasSuffix(used.Name, "/versions/"+string(rune('1'+n))) {
			t.Errorf("rotation %d wraps under %s", n, used.Name)
		}
		cts = append(cts, ct)
		if n%2 == 0 {
			check(t, m.rotate(w.request(), object("acme", "")))
		}
		check(t, m.rotate(w.request(), object("acme", "pay")))
	}
	for n, ct := range cts {
		if pt, _, err := m.decrypt(tg, ct); err != nil || !bytes.Equal(pt, []byte{byte(n)}) {
			t.Errorf("version %d: %v", n+1, err)
		}
	}
	// After the window the old ones only open, after destruction they do not.
	w.advance(node.DefaultRollbackWindow)
	w.tick()
	m.ProveL1(t.Context())
	for n, ct := range cts {
		if pt, _, err := m.decrypt(tg, ct); err != nil || !bytes.Equal(pt, []byte{byte(n)}) {
			t.Errorf("deprecated version %d: %v", n+1, err)
		}
	}
	check(t, m.changeVersion(w.request(), object("acme", "pay"), 1, destroyV, node.WithoutWait))
	_, _, err := m.decrypt(tg, cts[0])
	wants(t, err, errs.FailedState)
	_, _, err = m.decrypt(tg, cts[1])
	wants(t, err, errs.Unspecified)
}

func TestRollbackReturnsToTheVersionBefore(t *testing.T) {
	w, m := cluster1(t)
	o, tg := object("acme", "pay"), target("acme", "pay")
	wantPrimary := func(n uint32) {
		t.Helper()
		_, used, err := m.encrypt(tg, nil)
		if err != nil || used.Name != o.VersionName(n) {
			t.Errorf("wraps under %s, want %d: %v", used.Name, n, err)
		}
	}
	wants(t, m.rollback(w.request(), o, 0), errs.FailedState)
	check(t, m.rotate(w.request(), o)) // all at one instant of the clock
	check(t, m.rotate(w.request(), o))
	wantPrimary(3)
	check(t, m.rollback(w.request(), o, 0))
	wantPrimary(2)
	r := w.request()
	check(t, m.rollback(r, o, 1))
	wantPrimary(1)
	check(t, m.rollback(r, o, 1)) // a retry
	wantPrimary(1)
	check(t, m.rotate(w.request(), o))
	wantPrimary(4)
	r = w.request()
	check(t, m.rollback(r, o, 0))
	wantPrimary(1)
	check(t, m.rollback(r, o, 0)) // a retry does not go one further
	wantPrimary(1)
	wants(t, m.rollback(w.request(), o, 9), errs.NotFound)
	w.advance(node.DefaultRollbackWindow)
	wants(t, m.rollback(w.request(), o, 4), errs.FailedState)
	wants(t, m.rollback(w.request(), object("acme", "none"), 0), errs.NotFound)
}

func TestPinsFixWhatWrapsForAResource(t *testing.T) {
	w, m := cluster1(t)
	o := object("acme", "pay")
	tg := node.Target{Tenant: "acme", Service: "pay", Resource: "r"}
	wraps := func(tg node.Target, n uint32) {
		t.Helper()
		ct, used, err := m.encrypt(tg, []byte("x"))
		if err != nil || used.Name != o.VersionName(n) {
			t.Errorf("wraps under %s, want %d: %v", used.Name, n, err)
		}
		if _, _, err := m.decrypt(tg, ct); err != nil {
			t.Error(err)
		}
	}
	check(t, m.pinResource(w.request(), o, "r", 0)) // the present primary
	check(t, m.rotate(w.request(), o))
	wraps(tg, 1)
	wraps(target("acme", "pay"), 2)
	check(t, m.pinResource(w.request(), o, "r", 2))
	wraps(tg, 2)
	check(t, m.rollbackResource(w.request(), o, "r"))
	wraps(tg, 1)
	check(t, m.changeVersion(w.request(), o, 1, disable, node.AfterWait))
	_, _, err := m.encrypt(tg, nil) // the pin does not fall back to the primary in silence
	wants(t, err, errs.FailedState)
	wraps(target("acme", "pay"), 2)
	check(t, m.unpinResource(w.request(), o, "r"))
	wraps(tg, 2)
	wants(t, m.pinResource(w.request(), object("acme", "none"), "r", 0), errs.NotFound)
}

func TestRecordsOfDataOperationsNameTheVersionByUID(t *testing.T) {
	w, m := cluster1(t)
	tg := target("acme", "pay")
	reload(t, m)
	describe := func(act gate.Act, fn func(ctx context.Context, tok gate.Token) (node.Used, error)) error {
		return m.do(m.workload("acme"), act, tg.Name(), func(ctx context.Context, tok gate.Token) error {
			used, err := fn(ctx, tok)
			tok.Describe(gate.Details{KeyVersion: used.UID, KeystoreRequest: used.KeystoreRequest})
			return err
		})
	}
	enc := func(ctx context.Context, tok gate.Token) (node.Used, error) {
		_, used, err := m.Encrypt(ctx, tok, tg, nil)
		return used, err
	}
	check(t, describe(gate.Encrypt, enc))
	check(t, describe(gate.Encrypt, enc))
	check(t, m.changeVersion(w.request(), object("acme", "pay"), 1, disable, 0))
	wants(t, describe(gate.Encrypt, enc), errs.FailedState)
	rs := m.records("crypto.encrypt")
	s, _ := m.machine.View().Service("acme", "pay")
	for i, r := range rs {
		if r.KeyVersion != hex.EncodeToString(s.GetVersions()[0].GetUid()) {
			t.Errorf("record %d names %q", i, r.KeyVersion)
		}
		if (r.KeystoreRequest != "") != (i == 0) {
			t.Errorf("record %d has the keystore's id %q: only the first operation asked it", i, r.KeystoreRequest)
		}
	}
	if len(rs) != 3 || rs[2].Outcome != errs.OutcomeRefused {
		t.Errorf("%d records", len(rs))
	}
}

func TestI1_NothingIsServedWithoutARecord(t *testing.T) {
	_, m := cluster1(t)
	tg := target("acme", "pay")
	ct, _, err := m.encrypt(tg, []byte("x"))
	check(t, err)
	m.sink.FailAfter(0)
	_, _, err = m.decrypt(tg, ct)
	wants(t, err, errs.AuditUnavailable)
	_, err = m.createTenant(m.w.request(), "more", binding())
	wants(t, err, errs.AuditUnavailable)
	if _, ok := m.machine.View().Tenant("more"); ok {
		t.Error("a change without a record")
	}
}

// Sessions end after a minute; what they sealed opens for ever.
func TestSessionsEndAndTheirWorkStaysOpen(t *testing.T) {
	w, m := cluster1(t)
	tg := target("acme", "pay")
	sessions := map[envelope.SessionID]bool{}
	var cts [][]byte
	for range 5 {
		for range 3 {
			ct, _, err := m.encrypt(tg, []byte("x"))
			check(t, err)
			cts = append(cts, ct)
			sessions[must[envelope.Header](t)(envelope.ParseHeader(ct)).Session] = true
		}
		w.advance(envelope.MaxSessionAge / 2)
	}
	if len(sessions) != 3 {
		t.Errorf("%d sessions in 150 s", len(sessions))
	}
	w.advance(time.Hour)
	m.ProveL1(t.Context())
	for _, ct := range cts {
		if _, _, err := m.decrypt(tg, ct); err != nil {
			t.Error(err)
		}
	}
}
