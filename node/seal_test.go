package node_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/plan"
)

// contribute brings a printed share to the node as a custodian's command line
// does: parse, encrypt to the node's start key, send.
func (m *member) contribute(text []byte) error {
	st, err := m.GetSeal()
	if err != nil {
		return err
	}
	share, err := seal.ParseShare(bytes.Clone(text))
	if err != nil {
		return err
	}
	defer share.Destroy()
	sealed, err := seal.SealShare(st.Offer, m.key.Public(), share)
	if err != nil {
		return err
	}
	return m.contributeRaw(sealed)
}

func (m *member) contributeRaw(sealed []byte) error {
	return m.do(m.custodian("cust"), gate.Contribute, node.ObjectSeal, func(ctx context.Context, tok gate.Token) error {
		return m.Contribute(ctx, tok, sealed)
	})
}

func TestInitAutoUnsealsAndHandsOutCertificates(t *testing.T) {
	w, o := newWorld(t)
	m := w.add(t, o)
	if m.State() != node.StateUninitialized || m.Initialized() {
		t.Fatalf("a new node is %s", m.State())
	}
	out := must[*node.InitResult](t)(m.init(autoPlan(t)))
	if m.State() != node.StateUnsealed || len(out.ShareTexts) != 0 || out.Persons != 0 {
		t.Errorf("%s, %d shares, %d persons", m.State(), len(out.ShareTexts), out.Persons)
	}
	check(t, m.ServingErr())
	if got := m.machine.View().LeaseDuration(); got != cluster.ProfileWAN.Lease() {
		t.Errorf("leases last for %s, want what the profile says", got)
	}
	if len(out.Certificates) != 2 || out.Certificates[0].Role != auth.RoleGovernor || out.Certificates[1].Role != auth.RoleCustodian {
		t.Errorf("certificates: %v", out.Certificates)
	}
	roots := x509.NewCertPool()
	roots.AddCert(out.CallerCA)
	for _, c := range out.Certificates {
		if _, err := c.Cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: w.clock.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			t.Errorf("certificate of %s: %v", c.Name, err)
		}
	}
	if err := out.OwnCert.CheckSignatureFrom(out.NodeCA); err != nil {
		t.Error(err)
	}
	if f, ok := m.pin(); !ok || f != out.Fingerprint {
		t.Error("the fingerprint is not what init returned")
	}
	if _, err := os.Stat(filepath.Join(m.dir, "record.pb")); err != nil {
		t.Error(err)
	}
	_, err := m.init(autoPlan(t))
	wants(t, err, errs.FailedState)
}

func TestInitRefusesPlansThatCannotWork(t *testing.T) {
	w, o := newWorld(t)
	m := w.add(t, o)
	same := person(t, "gov")
	for name, edit := range map[string]func(*node.InitPlan){
		"two voters":       func(p *node.InitPlan) { p.Voters = 2 },
		"no governor":      func(p *node.InitPlan) { p.Governors = nil },
		"no custodian":     func(p *node.InitPlan) { p.Custodians = nil },
		"no mode":          func(p *node.InitPlan) { p.Seal = plan.Plan{} },
		"no keystore":      func(p *node.InitPlan) { p.Seal.Keys[0].Key.Provider = "" },
		"no key":           func(p *node.InitPlan) { p.Seal.Keys[0].Key.Key = "" },
		"one share":        func(p *node.InitPlan) { *p = shamirPlan(t, 1, 1) },
		"threshold of 1":   func(p *node.InitPlan) { *p = shamirPlan(t, 1, 3) },
		"unreachable":      func(p *node.InitPlan) { *p = shamirPlan(t, 4, 3) },
		"256 shares":       func(p *node.InitPlan) { *p = shamirPlan(t, 2, 256) },
		"all are needed":   func(p *node.InitPlan) { *p = shamirPlan(t, 3, 3) },
		"one pair of eyes": func(p *node.InitPlan) { p.Profile = plan.FourEyes },
		"unknown keystore": func(p *node.InitPlan) { p.Seal.Keys[0].Key.Provider = "other" },
		"negative wait":    func(p *node.InitPlan) { p.DestroyWait = -1 },
		"endless window":   func(p *node.InitPlan) { p.RollbackWindow = 1 << 62 },
		"one key, two roles": func(p *node.InitPlan) {
			p.Governors[0], p.Custodians[0] = same, node.Person{Name: "cust", PublicKey: same.PublicKey}
		},
		"a name twice":  func(p *node.InitPlan) { p.Governors = append(p.Governors, person(t, "gov")) },
		"a bad name":    func(p *node.InitPlan) { p.Governors[0].Name = "Gov Ernor" },
		"no public key": func(p *node.InitPlan) { p.Governors[0].PublicKey = []byte("x") },
	} {
		p := autoPlan(t)
		edit(&p)
		_, err := m.init(p)
		if !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s: %v (%v)", name, err, errs.Of(err))
		}
	}
	p := autoPlan(t)
	p.ValidateOnly = true
	if out, err := m.init(p); err != nil || out != nil {
		t.Errorf("validate only: %v, %v", out, err)
	}
	p = autoPlan(t)
	p.Seal.Keys[0].Key.Key = "no such key"
	_, err := m.init(p)
	wants(t, err, errs.KeystoreMisconfigured)
	check(t, w.sealing.Disable(t.Context(), sealKey))
	_, err = m.init(autoPlan(t))
	wants(t, err, errs.KeystoreMisconfigured) // not L1Denied: there is no customer yet
	if len(w.commands) != 0 || m.Initialized() {
		t.Error("a refused init left something behind")
	}
	check(t, w.sealing.Enable(t.Context(), sealKey))
	must[*node.InitResult](t)(m.init(autoPlan(t)))
}

func TestInitShamirAndUnsealAfterARestart(t *testing.T) {
	for _, c := range []struct{ threshold, shares int }{{2, 3}, {2, 4}, {3, 5}} {
		w, o := newWorld(t)
		m := w.add(t, o)
		out := must[*node.InitResult](t)(m.init(shamirPlan(t, c.threshold, c.shares)))
		if len(out.ShareTexts) != c.shares || out.Persons != c.threshold {
			t.Fatalf("%d shares for %d persons, want %v", len(out.ShareTexts), out.Persons, c)
		}
		w.tenant(m, "acme", "pay")
		ct, _, err := m.encrypt(target("acme", "pay"), []byte("before"))
		check(t, err)

		stop(m.Node)
		m.boot(t)
		m.follow()
		wants(t, m.ServingErr(), errs.Sealed)
		if m.State() != node.StateSealed {
			t.Errorf("state %s", m.State())
		}
		// Any M of them, and the last ones at that.
		for i, text := range out.ShareTexts[c.shares-c.threshold:] {
			st := must[node.SealStatus](t)(m.GetSeal())
			if st.Unsealed || st.Have != i || st.Need != c.threshold || st.Shares != c.shares || st.Mode != seal.ModeShamir {
				t.Errorf("after %d shares: %+v", i, st)
			}
			check(t, m.contribute(text))
		}
		st := must[node.SealStatus](t)(m.GetSeal())
		if !st.Unsealed || st.Have != c.threshold || m.State() != node.StateUnsealed {
			t.Errorf("with all shares: %+v", st)
		}
		if pt, _, err := m.decrypt(target("acme", "pay"), ct); err != nil || string(pt) != "before" {
			t.Errorf("after the restart: %q, %v", pt, err)
		}
		wants(t, m.contribute(out.ShareTexts[0]), errs.NotSealed)
	}
}

func TestSharesAreRefusedByName(t *testing.T) {
	w, o := newWorld(t)
	m := w.add(t, o)
	out := must[*node.InitResult](t)(m.init(shamirPlan(t, 2, 3)))
	other, o2 := newWorld(t)
	foreign := must[*node.InitResult](t)(other.add(t, o2).init(shamirPlan(t, 2, 3)))
	stop(m.Node)
	m.boot(t)
	m.follow()
	before := memsec.Report().Secrets

	sealedOld := func() []byte { // to the start key of the boot before
		st := must[node.SealStatus](t)(m.GetSeal())
		share := must[seal.Share](t)(seal.ParseShare(bytes.Clone(out.ShareTexts[0])))
		defer share.Destroy()
		return must[[]byte](t)(seal.SealShare(st.Offer, m.key.Public(), share))
	}()
	stop(m.Node)
	m.boot(t)
	m.follow()

	check(t, m.contribute(out.ShareTexts[0]))
	typo := bytes.Clone(out.ShareTexts[1])
	if typo[20] == 'q' {
		typo[20] = 'p'
	} else {
		typo[20] = 'q'
	}
	for name, c := range map[string]struct {
		err   error
		cause error
	}{
		"given already":            {m.contribute(out.ShareTexts[0]), seal.ErrShareDuplicate},
		"mistyped":                 {m.contribute(typo), seal.ErrShareMistyped},
		"sealed to an earlier key": {m.contributeRaw(sealedOld), seal.ErrSealedShare},
		"nonsense":                 {m.contributeRaw([]byte("nonsense")), seal.ErrSealedShare},
	} {
		if !errs.Is(c.err, errs.ShareRefused) || !errors.Is(c.err, c.cause) {
			t.Errorf("%s: %v (%v)", name, c.err, errs.Of(c.err))
		}
	}
	// A share of another cluster is refused on the holder's side already; a
	// client that does not look is refused here.
	if err := m.contribute(foreign.ShareTexts[1]); err == nil {
		t.Error("a foreign share is accepted")
	}
	if st := must[node.SealStatus](t)(m.GetSeal()); st.Have != 1 || st.Unsealed {
		t.Errorf("refusals changed the progress: %+v", st)
	}
	check(t, m.do(m.custodian("cust"), gate.Contribute, node.ObjectSeal, func(_ context.Context, tok gate.Token) error { return m.ResetShares(tok) }))
	if st := must[node.SealStatus](t)(m.GetSeal()); st.Have != 0 {
		t.Errorf("reset: %+v", st)
	}
	check(t, m.contribute(out.ShareTexts[0]))
	w.advance(seal.DefaultPatience)
	if st := must[node.SealStatus](t)(m.GetSeal()); st.Have != 0 {
		t.Errorf("shares waited too long and count: %+v", st)
	}
	if n := memsec.Report().Secrets; n != before {
		t.Errorf("%d secrets, %d before", n, before)
	}
	// Two of another cluster's shares never make up for one.
	check(t, m.contribute(out.ShareTexts[2]))
	check(t, m.contribute(out.ShareTexts[1]))
	check(t, m.ServingErr())
}

func TestAnUninitialisedNodeSaysSo(t *testing.T) {
	w, o := newWorld(t)
	m := w.add(t, o)
	for name, err := range map[string]error{
		"serving": m.ServingErr(),
		"encrypt": func() error { _, _, err := m.encrypt(target("acme", "pay"), nil); return err }(),
	} {
		if !errs.Is(err, errs.Sealed) || errs.From(err).Msg != "this node belongs to no cluster yet" ||
			!strings.Contains(errs.From(err).Hint, "krypton init") || !strings.Contains(errs.From(err).Hint, "krypton join") {
			t.Errorf("%s: %v", name, err)
		}
	}
	wants(t, m.contributeRaw([]byte("x")), errs.NotSealed)
	wants(t, m.sealNode(), errs.NotSealed)
	st := must[node.SealStatus](t)(m.GetSeal())
	if st.Initialized || st.Offer.Public != nil || m.State() != "uninitialized" {
		t.Errorf("%+v", st)
	}
	// Once it is pinned it is sealed, also before it heard from its cluster.
	m.mu.Lock()
	m.pinned = &seal.Fingerprint{1}
	m.mu.Unlock()
	if m.State() != "sealed" || errs.From(m.ServingErr()).Msg != "this node is sealed" {
		t.Errorf("pinned: %s, %v", m.State(), m.ServingErr())
	}
}

func TestEveryNodeUnsealsForItself(t *testing.T) {
	w, o := newWorld(t)
	a := w.add(t, o)
	out := must[*node.InitResult](t)(a.init(shamirPlan(t, 2, 3)))
	w.tenant(a, "acme", "pay")
	b := w.add(t, o)
	w.join(b)
	if b.State() != node.StateSealed {
		t.Fatalf("the new node is %s", b.State())
	}
	ct, _, err := a.encrypt(target("acme", "pay"), []byte("x"))
	check(t, err)
	_, _, err = b.decrypt(target("acme", "pay"), ct)
	wants(t, err, errs.Sealed)
	check(t, b.contribute(out.ShareTexts[0]))
	check(t, b.contribute(out.ShareTexts[1]))
	if pt, _, err := b.decrypt(target("acme", "pay"), ct); err != nil || string(pt) != "x" {
		t.Errorf("%q, %v", pt, err)
	}
	check(t, a.sealNode())
	wants(t, a.ServingErr(), errs.Sealed)
	check(t, b.ServingErr())
}

func TestAHoldSealsEveryNodeUntilItIsReleased(t *testing.T) {
	w, a := cluster1(t)
	b := w.add(t, options{})
	w.join(b)
	check(t, b.AskKeystores(t.Context()))
	check(t, b.ServingErr())

	check(t, a.setHold(w.request(), node.Held))
	if a.Unsealed() {
		t.Error("the node answered before its own keys were wiped") // I4
	}
	wants(t, b.ServingErr(), errs.Held) // before it looked
	_, _, err := b.encrypt(target("acme", "pay"), []byte("x"))
	wants(t, err, errs.Held)
	b.Observe(t.Context())
	if b.Unsealed() {
		t.Error("a held node keeps its keys")
	}
	for _, m := range []*member{a, b} {
		check(t, m.AskKeystores(t.Context()))
		if m.Unsealed() {
			t.Error("a held node unseals by itself")
		}
		st := must[node.SealStatus](t)(m.GetSeal())
		if !st.Held || st.HoldReason != "a test" {
			t.Errorf("%+v", st)
		}
	}
	stop(b.Node)
	b.boot(t)
	b.follow()
	check(t, b.AskKeystores(t.Context()))
	if b.Unsealed() {
		t.Error("a held node unseals after a restart")
	}
	// A change that needs a key cannot be made anywhere, and says why.
	_, err = a.createTenant(w.request(), "other", binding())
	wants(t, err, errs.Held)
	check(t, a.setHold(w.request(), node.Released))
	for _, m := range []*member{a, b} {
		check(t, m.AskKeystores(t.Context()))
		check(t, m.ServingErr())
	}
}

func TestAHoldOutlivesARestartOfANodeThatIsAlone(t *testing.T) {
	w, a := cluster1(t)
	b := w.add(t, options{})
	w.join(b)
	check(t, b.AskKeystores(t.Context()))
	check(t, a.setHold(w.request(), node.Held))
	b.Observe(t.Context())
	stop(b.Node)

	b.boot(t) // with no registry yet: nothing of the log is known to be committed
	b.contact.Store(int64(time.Hour))
	for range 2 {
		check(t, b.AskKeystores(t.Context()))
		if b.Unsealed() {
			t.Fatal("a node that started alone got around the hold")
		}
	}
	if st := must[node.SealStatus](t)(b.GetSeal()); !st.Held {
		t.Errorf("the status does not say that the node is held: %+v", st)
	}
	// The hold may be over: a caller that hears HELD asks nobody else.
	wants(t, b.ServingErr(), errs.Sealed)

	b.contact.Store(0) // in contact, and held as the registry has it
	b.follow()
	wants(t, b.ServingErr(), errs.Held)
	check(t, b.AskKeystores(t.Context()))
	if b.Unsealed() {
		t.Fatal("a held node unseals")
	}
	check(t, a.setHold(w.request(), node.Released))
	b.follow()
	b.contact.Store(int64(time.Hour)) // it knows of the release, but not that this is the latest word
	check(t, b.AskKeystores(t.Context()))
	if b.Unsealed() {
		t.Fatal("a node without contact believes an old registry")
	}
	b.contact.Store(0)
	check(t, b.AskKeystores(t.Context()))
	check(t, b.ServingErr())
	b.boot(t)
	b.follow()
	check(t, b.AskKeystores(t.Context()))
	if !b.Unsealed() {
		t.Fatal("the released hold is still remembered after a restart")
	}
}

func TestAHoldThatIsOnlyValidatedSealsNothing(t *testing.T) {
	w, m := cluster1(t)
	r := w.request()
	r.ValidateOnly = true
	check(t, m.setHold(r, node.Held))
	check(t, m.ServingErr())
}

func TestI4_SealingWipesEverything(t *testing.T) {
	w, o := newWorld(t)
	m := w.add(t, o)
	before := memsec.Report()
	must[*node.InitResult](t)(m.init(autoPlan(t)))
	w.tenant(m, "acme", "pay", "log")
	w.tenant(m, "zeta", "pay")
	for _, tg := range []node.Target{target("acme", "pay"), target("acme", "log"), target("zeta", "pay")} {
		for range 3 {
			ct, _, err := m.encrypt(tg, []byte("x"))
			check(t, err)
			_, _, err = m.decrypt(tg, ct)
			check(t, err)
			_, wrapped, _, err := m.generate(tg, 32)
			check(t, err)
			_, _, err = m.unwrap(tg, wrapped)
			check(t, err)
		}
	}
	ivk, l2, l21, l3 := m.Loaded()
	if ivk != 1 || l2 != 0 && l2 != 2 || l21 != 2 || l3 != 3 {
		t.Errorf("loaded %d, %d, %d, %d", ivk, l2, l21, l3)
	}
	if _, ok := m.MAC(1, []byte("x")); !ok {
		t.Error("an unsealed node has no MAC")
	}
	check(t, m.sealNode())
	after := memsec.Report()
	if after.Secrets != before.Secrets || after.AEADs != before.AEADs || after.UsedBytes != before.UsedBytes {
		t.Errorf("sealing left keys behind: %+v, before %+v", after, before)
	}
	if _, ok := m.MAC(1, []byte("x")); ok {
		t.Error("a sealed node has a MAC")
	}
	if ivk, l2, l21, l3 = m.Loaded(); ivk+l2+l21+l3 != 0 {
		t.Error("a sealed node says that it has keys")
	}
	// It rests until its process starts again, and says so.
	check(t, m.AskKeystores(t.Context()))
	if m.Unsealed() || !strings.Contains(errs.From(m.ServingErr()).Hint, "starts again") {
		t.Errorf("sealed by a person: %v", m.ServingErr())
	}
	stop(m.Node)
	m.boot(t)
	m.follow()
	check(t, m.AskKeystores(t.Context()))
	check(t, m.ServingErr())
}

// The customer's keystore takes its time; the node is sealed while a tenant key
// is on its way. What was on its way is gone when the sealing answers.
func TestI4_SealingWaitsForWhatIsBeingUnwrapped(t *testing.T) {
	w, m := cluster1(t, withHold(0))
	before := memsec.Report()
	asked, ended := make(chan struct{}), make(chan struct{})
	w.calls.hook(func(ctx context.Context) error {
		close(asked)
		<-ctx.Done() // sealing cancels it
		close(ended)
		return ctx.Err()
	})
	failed := make(chan error)
	go func() {
		_, _, err := m.encrypt(target("acme", "pay"), []byte("x"))
		failed <- err
	}()
	<-asked
	check(t, m.sealNode())
	select {
	case <-ended:
	default:
		t.Error("sealing answered while a key was being unwrapped")
	}
	wants(t, <-failed, errs.Sealed)
	if after := memsec.Report(); after.Secrets >= before.Secrets {
		t.Errorf("%d secrets, %d before", after.Secrets, before.Secrets)
	}
}

// Somebody seals the node while it is unsealing by itself: the person wins.
func TestI8_WhoSealsMeanwhileWins(t *testing.T) {
	w, m := cluster1(t)
	stop(m.Node)
	m.boot(t)
	m.follow()
	gateOpen, asked := make(chan struct{}), make(chan struct{})
	m.sinkHook(func() { close(asked); <-gateOpen })
	done := make(chan error)
	go func() { done <- m.AskKeystores(context.Background()) }()
	<-asked
	m.sinkHook(nil)
	check(t, m.sealNode())
	close(gateOpen)
	wants(t, <-done, errs.Sealed)
	if m.Unsealed() {
		t.Error("the node is unsealed after somebody sealed it")
	}
	_ = w
}

func TestUnsealingByItselfIsRecorded(t *testing.T) {
	w, m := cluster1(t)
	stop(m.Node)
	m.boot(t)
	m.follow()
	check(t, w.sealing.Disable(t.Context(), sealKey))
	wants(t, m.AskKeystores(t.Context()), errs.Sealed)
	check(t, w.sealing.Enable(t.Context(), sealKey))
	check(t, m.AskKeystores(t.Context()))
	rs := m.records("node.unseal")
	var got []string
	for _, r := range rs {
		got = append(got, r.Phase.String()+" "+r.Outcome.String())
		if r.Principal != "node/"+string(m.id) || r.Correlation == "" {
			t.Errorf("%+v", r)
		}
	}
	want := []string{"intent unspecified", "outcome failed", "intent unspecified", "outcome ok"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if !strings.Contains(rs[1].Code.String()+rs[1].Cause, "SEALED") {
		t.Errorf("%+v", rs[1])
	}
}

func TestI1_ANodeThatCannotWriteItsAuditTrailDoesNotUnseal(t *testing.T) {
	_, m := cluster1(t)
	stop(m.Node)
	m.boot(t)
	m.follow()
	m.sink.FailAfter(0)
	wants(t, m.AskKeystores(t.Context()), errs.AuditUnavailable)
	if m.Unsealed() {
		t.Error("unsealed without a record")
	}
}

func TestI1_WithoutALeaderNothingIsServed(t *testing.T) {
	w, m := cluster1(t)
	ct, _, err := m.encrypt(target("acme", "pay"), []byte("x"))
	check(t, err)
	m.contact.Store(int64(leaseSpan))
	check(t, m.ServingErr())
	m.contact.Store(int64(leaseSpan) + 1)
	_, _, err = m.decrypt(target("acme", "pay"), ct)
	wants(t, err, errs.NotServing)
	_, err = m.createService(w.request(), "acme", "more")
	wants(t, err, errs.NotServing)
	m.contact.Store(0)

	// A restart without a quorum: the log is not applied, the record on disk
	// unseals the node, and it serves nothing.
	stop(m.Node)
	m.boot(t)
	m.behind.Store(true)
	m.contact.Store(1 << 62)
	check(t, m.AskKeystores(t.Context()))
	if m.State() != node.StateUnsealed {
		t.Fatalf("state %s", m.State())
	}
	_, _, err = m.decrypt(target("acme", "pay"), ct)
	wants(t, err, errs.NotServing)
	// Contact alone is not enough before the log has been applied.
	m.contact.Store(0)
	_, _, err = m.decrypt(target("acme", "pay"), ct)
	wants(t, err, errs.NotServing)
	m.follow()
	if pt, _, err := m.decrypt(target("acme", "pay"), ct); err != nil || string(pt) != "x" {
		t.Errorf("%q, %v", pt, err)
	}
}

func TestI1_ARemovedNodeServesNothing(t *testing.T) {
	w, a := cluster1(t)
	b := w.add(t, options{})
	w.join(b)
	check(t, b.AskKeystores(t.Context()))
	check(t, b.ServingErr())
	operator := w.bind(a, auth.RoleOperator, "", "op")
	check(t, a.do(operator, gate.RemoveNode, node.NodeName(string(b.id)), func(ctx context.Context, tok gate.Token) error {
		return a.RemoveMember(ctx, tok, w.request(), string(b.id))
	}))
	wants(t, b.ServingErr(), errs.NotServing)
	check(t, a.ServingErr())
}
