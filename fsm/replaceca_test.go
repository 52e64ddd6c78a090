package fsm_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	bignum "math/big"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

func caKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("ca " + name))
	return ed25519.NewKeyFromSeed(seed[:])
}

// certBy returns a certificate of the key of the CA called name by the one called by.
func certBy(name, by string, ca bool) []byte {
	from := time.UnixMilli(startMS).UTC()
	tmpl := &x509.Certificate{
		SerialNumber: bignum.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: from.AddDate(10, 0, 0),
		IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	parent, err := x509.ParseCertificate(caCert(by))
	if err != nil {
		panic(err)
	}
	der, err := x509.CreateCertificate(nil, tmpl, parent, caKey(name).Public(), caKey(by))
	if err != nil {
		panic(err)
	}
	return der
}

func digestOf(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:]
}

// replaceCA replaces the caller CA called was by the one called is.
func (w *world) replaceCA(was, is string, overlapMS int64) *fsmpb.Command {
	w.ids++
	return &fsmpb.Command{Principal: caller("custodian", "cust"), Body: &fsmpb.Command_ReplaceAuthority{ReplaceAuthority: &fsmpb.ReplaceAuthority{
		Secret: &fsmpb.Secret{
			Name: "caller-ca", IvkUid: w.ivk().GetUid(), Blob: blob("secret", int(w.ids)), Public: caCert(is), CrossCertificate: certBy(is, was, true),
		},
		OverlapMs: overlapMS, Base: digestOf(caCert(was)),
	}}}
}

func retireCA(is string) *fsmpb.Command {
	return &fsmpb.Command{Principal: caller("custodian", "cust"), Body: &fsmpb.Command_RetireAuthority{RetireAuthority: &fsmpb.RetireAuthority{
		Name: "caller-ca", Base: digestOf(caCert(is)),
	}}}
}

// trusts fails unless builtin vouches by exactly these CAs, the present one first.
func (w *world) trusts(names ...string) *fsmpb.Issuer {
	w.tb.Helper()
	i, ok := w.view().Issuer("", fsm.BuiltinIssuer)
	if !ok || !bytes.Equal(i.GetUid(), builtin) {
		w.tb.Fatalf("builtin is %v", i)
	}
	var want [][]byte
	for _, n := range names {
		want = append(want, caCert(n))
	}
	if !slices.EqualFunc(i.GetX509().GetCertificates(), want, bytes.Equal) {
		w.tb.Fatalf("builtin vouches by %d certificates, not by %v", len(i.GetX509().GetCertificates()), names)
	}
	return i
}

// restored fails unless the state can be written down and read again.
func (w *world) restored() {
	w.tb.Helper()
	m := fsm.New(fsm.Options{})
	if err := m.Restore(bytes.NewReader(snapshot(w.tb, w.m, testMAC))); err != nil {
		w.tb.Fatalf("restore: %v", err)
	}
	sameState(w.tb, w.m, m)
}

// TestI40_AReplacedCAIsTrustedUntilItsTime: the issuer and who is bound stay, and the CA
// before is known with the time until which it is trusted.
func TestI40_AReplacedCAIsTrustedUntilItsTime(t *testing.T) {
	w := newWorld(t)
	w.ok(w.revoke(1))
	before := w.view().AuthorityAt()
	w.ok(w.replaceCA("callers", "second", 2*hourMS))
	w.restored()
	i := w.trusts("second", "callers")
	if got := i.GetX509().GetRetireTimesMs(); len(got) != 2 || got[0] != 0 || got[1] != w.now+2*hourMS {
		t.Errorf("they retire at %v", got)
	}
	if w.view().AuthorityAt() == before {
		t.Error("nobody looks again who is trusted")
	}
	if _, ok := w.view().Revoked(serialOf(1)); !ok {
		t.Error("what was revoked is not any more")
	}
	w.ok(w.replaceCA("second", "third", 24*hourMS)) // the first one's time stays
	if got := w.trusts("third", "callers", "second").GetX509().GetRetireTimesMs(); got[1] != w.now+2*hourMS {
		t.Errorf("the first one retires at %d", got[1])
	}
	w.now += 2 * hourMS // known still, so that who was bound can renew
	w.ok(tick())
	w.trusts("third", "callers", "second")
	w.restored()
	w.ok(w.addIVK())
	s, _ := w.view().Secret("caller-ca") // wrapped again it is the same CA
	w.ok(&fsmpb.Command{Body: &fsmpb.Command_PutSecret{PutSecret: &fsmpb.PutSecret{Secret: &fsmpb.Secret{
		Name: "caller-ca", IvkUid: w.ivk().GetUid(), Blob: blob("again", 1), Public: s.GetPublic(),
	}}}})
	is, _ := w.view().Secret("caller-ca")
	if len(is.GetPrevious()) != 2 || len(is.GetLineage()) != 2 || !bytes.Equal(is.GetCrossCertificate(), s.GetCrossCertificate()) {
		t.Errorf("after it was wrapped again: %v", is)
	}
	w.restored()
	w.ok(retireCA("third"))
	if got := w.trusts("third", "callers", "second").GetX509().GetRetireTimesMs(); !slices.Equal(got, []int64{0, 1, 1}) {
		t.Errorf("they retire at %v, and an order leaves nothing to a clock", got)
	}
	w.refused(errs.FailedState, retireCA("third"))
	w.restored()
	w.ok(w.replaceCA("third", "fourth", 0))
	if got := w.trusts("fourth", "callers", "second", "third").GetX509().GetRetireTimesMs(); !slices.Equal(got, []int64{0, 1, 1, 1}) {
		t.Errorf("they retire at %v", got)
	}
	w.refused(errs.AlreadyExists, putIssuer(&fsmpb.Issuer{Id: "old", Roles: []string{"auditor"}, Kind: &fsmpb.Issuer_X509{X509: &fsmpb.X509Issuer{
		Certificates: [][]byte{caCert("third")},
	}}}))
	w.restored()
}

// TestI40_OnlyTheCABeforeMakesTheNext: whatever people signed.
func TestI40_OnlyTheCABeforeMakesTheNext(t *testing.T) {
	change := func(f func(c *fsmpb.ReplaceAuthority)) func(*world) *fsmpb.Command {
		return func(w *world) *fsmpb.Command {
			cmd := w.replaceCA("callers", "second", hourMS)
			f(cmd.GetReplaceAuthority())
			return cmd
		}
	}
	for name, tc := range map[string]struct {
		code errs.Code
		cmd  func(*world) *fsmpb.Command
	}{
		"nobody signed it":   {errs.IntentRefused, change(func(c *fsmpb.ReplaceAuthority) { c.Secret.CrossCertificate = nil })},
		"another signed it":  {errs.IntentRefused, change(func(c *fsmpb.ReplaceAuthority) { c.Secret.CrossCertificate = certBy("second", "rogue", true) })},
		"signed for another": {errs.InvalidArgument, change(func(c *fsmpb.ReplaceAuthority) { c.Secret.CrossCertificate = certBy("rogue", "callers", true) })},
		"the certificate of a member": {errs.IntentRefused, change(func(c *fsmpb.ReplaceAuthority) {
			c.Secret.CrossCertificate = certBy("second", "callers", false)
		})},
		"edited": {errs.IntentRefused, change(func(c *fsmpb.ReplaceAuthority) {
			c.Secret.CrossCertificate = slices.Clone(c.GetSecret().GetCrossCertificate())
			c.Secret.CrossCertificate[len(c.GetSecret().GetCrossCertificate())-1] ^= 1
		})},
		"the same key":     {errs.InvalidArgument, change(func(c *fsmpb.ReplaceAuthority) { c.Secret.Public = callerCA })},
		"for another base": {errs.Aborted, change(func(c *fsmpb.ReplaceAuthority) { c.Base = digestOf([]byte("another")) })},
		"too long":         {errs.InvalidArgument, change(func(c *fsmpb.ReplaceAuthority) { c.OverlapMs = fsm.MaxOverlapMS + 1 })},
		"before":           {errs.InvalidArgument, change(func(c *fsmpb.ReplaceAuthority) { c.OverlapMs = -1 })},
		"no key":           {errs.InvalidArgument, change(func(c *fsmpb.ReplaceAuthority) { c.Secret.Blob = nil })},
		"under no key":     {errs.Aborted, change(func(c *fsmpb.ReplaceAuthority) { c.Secret.IvkUid = make([]byte, 16) })},
		"a lineage":        {errs.InvalidArgument, change(func(c *fsmpb.ReplaceAuthority) { c.Secret.Lineage = [][]byte{callerCA} })},
		"others before": {errs.InvalidArgument, change(func(c *fsmpb.ReplaceAuthority) {
			c.Secret.Previous = []*fsmpb.RetiringAuthority{{Certificate: caCert("rogue"), RetireTimeMs: 1 << 50}}
		})},
		"no CA": {errs.NotFound, change(func(c *fsmpb.ReplaceAuthority) { c.Secret.Name = "webhook" })},
		"one of the genesis that is no certificate": {errs.FailedState, change(func(c *fsmpb.ReplaceAuthority) { c.Secret.Name = "node-ca" })},
		"the CA of another issuer": {errs.AlreadyExists, func(w *world) *fsmpb.Command {
			w.ok(putIssuer(&fsmpb.Issuer{Id: "corp", Roles: []string{"auditor"}, Kind: &fsmpb.Issuer_X509{X509: &fsmpb.X509Issuer{Certificates: [][]byte{caCert("second")}}}}))
			return w.replaceCA("callers", "second", hourMS)
		}},
		"the leader's own": {errs.Denied, func(w *world) *fsmpb.Command {
			cmd := w.replaceCA("callers", "second", hourMS)
			cmd.Principal = &fsmpb.Principal{}
			return cmd
		}},
		"a node's": {errs.Denied, func(w *world) *fsmpb.Command {
			cmd := w.replaceCA("callers", "second", hourMS)
			cmd.Principal = aNode()
			return cmd
		}},
		"retired by the leader": {errs.Denied, func(w *world) *fsmpb.Command {
			w.ok(w.replaceCA("callers", "second", hourMS))
			cmd := retireCA("second")
			cmd.Principal = &fsmpb.Principal{}
			return cmd
		}},
		"retired by who saw another": {errs.Aborted, func(w *world) *fsmpb.Command {
			w.ok(w.replaceCA("callers", "second", hourMS))
			return retireCA("callers")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			cmd := tc.cmd(w)
			before, _ := w.view().Secret("caller-ca")
			w.refused(tc.code, cmd)
			if after, _ := w.view().Secret("caller-ca"); after != before {
				t.Errorf("the CA is %v, it was %v", after, before)
			}
		})
	}
	w := newWorld(t, ofFormat(fsm.FormatSealProof-1))
	w.refused(errs.FailedState, w.replaceCA("callers", "second", hourMS))
	w.refused(errs.FailedState, retireCA("callers"))
}

// TestI40_CustodiansSignForANewCA: as many as for a new MasterKey, for this CA and this
// time, and nobody else.
func TestI40_CustodiansSignForANewCA(t *testing.T) {
	w := sealedWorld(t, sealpb.Mode_MODE_SHAMIR, 2)
	cmd := w.replaceCA("callers", "second", hourMS)
	w.refused(errs.IntentRefused, cmd)
	w.refused(errs.IntentRefused, w.consented(w.replaceCA("callers", "second", hourMS), "dave"))
	w.refused(errs.IntentRefused, w.consented(w.replaceCA("callers", "second", hourMS), "dave", "gov"))
	other := w.consented(w.replaceCA("callers", "second", hourMS), "dave", "erin")
	other.GetReplaceAuthority().OverlapMs++
	w.refused(errs.IntentRefused, other)
	w.ok(w.consented(w.replaceCA("callers", "second", hourMS), "dave", "erin"))
	w.trusts("second", "callers")
	w.refused(errs.IntentRefused, retireCA("second"))
	w.ok(w.consented(retireCA("second"), "dave", "erin"))
	if got := w.trusts("second", "callers").GetX509().GetRetireTimesMs(); got[1] != 1 {
		t.Errorf("they retire at %v", got)
	}
}

// TestTheLimitsOfReplacedCAs: how many are trusted at once, and how often in a line.
func TestTheLimitsOfReplacedCAs(t *testing.T) {
	w := newWorld(t)
	was := "callers"
	for n := range fsm.MaxLineage {
		is := fmt.Sprintf("ca %d", n)
		if n == fsm.MaxRetiring {
			w.refused(errs.LimitReached, w.replaceCA(was, is, hourMS))
			w.ok(retireCA(was))
		}
		overlap := hourMS
		if n > fsm.MaxRetiring {
			overlap = 0
		}
		w.ok(w.replaceCA(was, is, overlap))
		was = is
	}
	w.restored()
	w.refused(errs.LimitReached, w.replaceCA(was, "one too many", 0))
}

// TestI40_NoSnapshotHasACAThatComesFromNowhere: the way around the command.
func TestI40_NoSnapshotHasACAThatComesFromNowhere(t *testing.T) {
	w := newWorld(t)
	w.ok(w.replaceCA("callers", "second", hourMS))
	w.ok(w.replaceCA("second", "third", hourMS))
	raw := snapshot(t, w.m, testMAC)
	for name, change := range map[string]func(s *fsmpb.Secret, i *fsmpb.Issuer){
		"swapped": func(s *fsmpb.Secret, i *fsmpb.Issuer) {
			s.Public = caCert("rogue")
			i.GetX509().Certificates[0] = s.GetPublic()
		},
		"without its lineage": func(s *fsmpb.Secret, _ *fsmpb.Issuer) { s.Lineage = nil },
		"a step missing":      func(s *fsmpb.Secret, _ *fsmpb.Issuer) { s.Lineage = s.GetLineage()[1:] },
		"by a member's certificate": func(s *fsmpb.Secret, i *fsmpb.Issuer) {
			s.Lineage = [][]byte{s.GetLineage()[0], certBy("rogue", "second", false)}
			s.Public, s.CrossCertificate = caCert("rogue"), certBy("rogue", "second", false)
			i.GetX509().Certificates[0] = s.GetPublic()
		},
		"for another key than its last step": func(s *fsmpb.Secret, i *fsmpb.Issuer) {
			s.Public, s.CrossCertificate = caCert("rogue"), certBy("rogue", "second", true)
			i.GetX509().Certificates[0] = s.GetPublic()
		},
		"by itself": func(s *fsmpb.Secret, i *fsmpb.Issuer) {
			s.Lineage = [][]byte{caCert("rogue")}
			s.Public, s.CrossCertificate = caCert("rogue"), caCert("rogue")
			i.GetX509().Certificates[0] = s.GetPublic()
		},
		"one more before it": func(_ *fsmpb.Secret, i *fsmpb.Issuer) { i.GetX509().Certificates[2] = caCert("rogue") },
		"trusted longer":     func(_ *fsmpb.Secret, i *fsmpb.Issuer) { i.GetX509().RetireTimesMs[1]++ },
		"never retiring": func(s *fsmpb.Secret, i *fsmpb.Issuer) {
			s.Previous[0].RetireTimeMs, i.GetX509().RetireTimesMs[1] = 0, 0
		},
	} {
		t.Run(name, func(t *testing.T) {
			bad := edit(t, raw, func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
				var s *fsmpb.Secret
				var i *fsmpb.Issuer
				for _, it := range items {
					if it.GetSecret().GetName() == "caller-ca" {
						s = it.GetSecret()
					}
					if it.GetIssuer().GetId() == fsm.BuiltinIssuer {
						i = it.GetIssuer()
					}
				}
				change(s, i)
				return items
			})
			if err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(bad)); errs.Of(err) != errs.StateCorrupt {
				t.Errorf("got %v, want STATE_CORRUPT", err)
			}
		})
	}
}

// TestI40_BuiltinIsReadAndChangedWhileACARetires: what may be changed of it still may.
func TestI40_BuiltinIsReadAndChangedWhileACARetires(t *testing.T) {
	w := newWorld(t)
	w.ok(w.replaceCA("callers", "second", hourMS))
	now, _ := w.view().Issuer("", fsm.BuiltinIssuer)
	change := func(f func(i *fsmpb.Issuer)) *fsmpb.Command {
		i := proto.CloneOf(now)
		i.Uid, i.CreateTimeMs, i.ModIndex, i.AuthorizedBy, i.GetX509().RetireTimesMs = nil, 0, 0, nil, nil
		f(i)
		return &fsmpb.Command{Body: &fsmpb.Command_PutIssuer{PutIssuer: &fsmpb.PutIssuer{Issuer: i}}}
	}
	w.ok(change(func(i *fsmpb.Issuer) { i.UnboundRoles = []string{"auditor"} }))
	if got := w.trusts("second", "callers").GetX509().GetRetireTimesMs(); len(got) != 2 {
		t.Errorf("they retire at %v", got)
	}
	w.refused(errs.FailedState, change(func(i *fsmpb.Issuer) { i.GetX509().Certificates = i.GetX509().GetCertificates()[:1] }))
	w.refused(errs.InvalidArgument, change(func(i *fsmpb.Issuer) { i.GetX509().RetireTimesMs = []int64{0, 1 << 50} }))
	w.restored()
}
