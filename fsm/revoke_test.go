package fsm_test

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

func TestI17_ARevokedCertificateStaysRevokedUntilItWouldHaveExpired(t *testing.T) {
	w := newWorld(t)
	before := w.view().AuthorityAt()
	if _, ok := w.view().Revoked(serialOf(1)); ok {
		t.Fatal("a certificate is revoked in a new cluster")
	}
	if res := w.ok(w.revoke(1)); res.GetObject() != fsm.CertificateName(serialOf(1)) {
		t.Errorf("result %v", res)
	}
	r, ok := w.view().Revoked(serialOf(1))
	if !ok || r.GetRevokedBy() != "governor/gov" || r.GetRevokeTimeMs() != w.now || r.GetReason() != "left in a shop" || r.GetModIndex() != w.index {
		t.Errorf("revocation %v", r)
	}
	if w.view().AuthorityAt() == before {
		t.Error("nobody who remembers a certificate learns that one was revoked")
	}
	w.refused(errs.AlreadyExists, w.revoke(1))
	if _, ok := w.view().Revoked(serialOf(2)); ok {
		t.Error("another certificate is revoked, too")
	}
	// A day longer than the certificate lives: clocks differ.
	end := w.now + dayMS + fsm.RevocationGraceMS
	if due, ok := w.view().NextDue(); !ok || due != end {
		t.Errorf("next due at %d, want %d", due, end)
	}
	w.now = end - 1
	w.ok(tick())
	if _, ok := w.view().Revoked(serialOf(1)); !ok {
		t.Error("forgotten before the certificate has expired by every clock")
	}
	w.now = end
	w.ok(tick())
	if _, ok := w.view().Revoked(serialOf(1)); ok {
		t.Error("kept after the certificate has expired by every clock")
	}
	if _, ok := w.view().NextDue(); ok {
		t.Error("something is due after everything was forgotten")
	}
}

// TestI17_ARevokedCertificateChangesNothing that stands behind its revocation in
// the log. In the log one of two comes first, so two
// governors cannot take the power from each other.
func TestI17_ARevokedCertificateChangesNothing(t *testing.T) {
	w := newWorld(t)
	by := func(n int, cmd *fsmpb.Command) *fsmpb.Command {
		cmd.CallerSerial = serialOf(n)
		return cmd
	}
	w.ok(by(1, w.revoke(2)))
	situationtest.Error(t, "identity/revoked-meanwhile", fsm.Err(w.refused(errs.Unauthenticated, by(2, w.revoke(1)))))
	if got := w.view().Revocations(nil, 10); len(got) != 1 {
		t.Errorf("%d revoked", len(got))
	}
	// Whoever revokes the own one does it once.
	w.ok(by(3, w.revoke(3)))
	w.refused(errs.Unauthenticated, by(3, w.revoke(4)))
	// Nothing else either, and it is no matter of the kind of command.
	w.refused(errs.Unauthenticated, by(3, w.createTenant("acme")))
	w.refused(errs.Unauthenticated, by(3, &fsmpb.Command{Body: &fsmpb.Command_SetHold{SetHold: &fsmpb.SetHold{}}}))
	if res := w.m.DryRun(by(3, w.createTenant("acme"))); res.GetReason() != errs.Unauthenticated.String() {
		t.Errorf("a dry run says %v", res)
	}
	w.ok(by(4, w.createTenant("acme")))
	w.refused(errs.InvalidArgument, &fsmpb.Command{CallerSerial: make([]byte, fsm.MaxSerialBytes+1), Body: tick().GetBody()})
}

// TestI17_JoinTokensOfARevokedCertificateAdmitNobody: a member is trusted, so who
// stole an operator's certificate must not keep a way to make one.
func TestI17_JoinTokensOfARevokedCertificateAdmitNobody(t *testing.T) {
	w := newWorld(t)
	by := func(n int, cmd *fsmpb.Command) *fsmpb.Command {
		cmd.CallerSerial = serialOf(n)
		return cmd
	}
	w.ok(by(1, w.token(1, false)))
	w.ok(by(1, w.token(2, false)))
	w.ok(by(2, w.token(3, false)))
	w.ok(w.token(4, false)) // by no certificate
	w.ok(w.join(1, node(11)))
	w.ok(by(2, w.revoke(1)))
	w.refused(errs.Denied, w.join(2, node(12)))
	w.refused(errs.Unauthenticated, by(1, w.token(5, false)))
	w.ok(w.join(3, node(13)))
	w.ok(w.join(4, node(14)))
	if k, ok := w.view().JoinToken(tokenHash(1)); !ok || k.GetUsedBy() == "" {
		t.Errorf("the token that admitted a member is %v", k)
	}
	// It is gone for good, and not as long as the revocation is known.
	w.now += hourMS / 2
	again := fsm.New(fsm.Options{})
	if err := again.Restore(bytes.NewReader(snapshot(t, w.m, testMAC))); err != nil {
		t.Fatal(err)
	}
	if _, ok := again.View().JoinToken(tokenHash(2)); ok {
		t.Error("the token is back after a restore")
	}
	// Up to the limit there is room again.
	w.now += dayMS
	w.ok(tick())
	for i := range fsm.MaxJoinTokens {
		w.ok(by(6, w.token(100+i, false)))
	}
	w.refused(errs.LimitReached, w.token(99, false))
	w.ok(by(7, w.revoke(6)))
	w.ok(w.token(99, false))
}

// TestASerialBeforeItsFormatVersionIsNotKept: a snapshot with it would not be read.
func TestASerialBeforeItsFormatVersionIsNotKept(t *testing.T) {
	w := newWorld(t, func(g *fsmpb.Genesis) { g.FormatVersion = 1 })
	cmd := w.token(1, false)
	cmd.CallerSerial = serialOf(1)
	w.ok(cmd)
	if err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(snapshot(t, w.m, testMAC))); err != nil {
		t.Error(err)
	}
}

func TestRevocationsAreSoundAndBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, tt := range map[string]struct {
		code errs.Code
		make func(*fsmpb.Revocation)
	}{
		"no serial":             {errs.InvalidArgument, func(r *fsmpb.Revocation) { r.Serial = nil }},
		"serial with zeros":     {errs.InvalidArgument, func(r *fsmpb.Revocation) { r.Serial = append([]byte{0}, r.GetSerial()...) }},
		"serial too long":       {errs.InvalidArgument, func(r *fsmpb.Revocation) { r.Serial = bytes.Repeat([]byte{1}, fsm.MaxSerialBytes+1) }},
		"reason too long":       {errs.InvalidArgument, func(r *fsmpb.Revocation) { r.Reason = strings.Repeat("x", fsm.MaxReasonBytes+1) }},
		"reason of two lines":   {errs.InvalidArgument, func(r *fsmpb.Revocation) { r.Reason = "a\nb" }},
		"reason not text":       {errs.InvalidArgument, func(r *fsmpb.Revocation) { r.Reason = "\u0085" }},
		"name not printable":    {errs.InvalidArgument, func(r *fsmpb.Revocation) { r.Name = "a b" }},
		"expired":               {errs.FailedState, func(r *fsmpb.Revocation) { r.ExpireTimeMs = w.now }},
		"lives longer than any": {errs.InvalidArgument, func(r *fsmpb.Revocation) { r.ExpireTimeMs = w.now + fsm.MaxRevocationLifeMS + 1 }},
	} {
		c := w.revoke(1)
		tt.make(c.GetRevokeCertificate().GetRevocation())
		if res := w.refused(tt.code, c); res.GetHint() == "" {
			t.Errorf("%s: no hint: %v", name, res)
		} else if name == "expired" {
			situationtest.Error(t, "identity/revoke-expired", fsm.Err(res))
		}
	}
	for i := range fsm.MaxRevocations {
		w.ok(w.revoke(i))
	}
	situationtest.Error(t, "identity/revocations-full", fsm.Err(w.refused(errs.LimitReached, w.revoke(fsm.MaxRevocations))))
	var seen int
	var after []byte
	for {
		page := w.view().Revocations(after, 999)
		for _, r := range page {
			if bytes.Compare(after, r.GetSerial()) >= 0 {
				t.Fatal("pages are not in the order of the serial numbers")
			}
			after = r.GetSerial()
		}
		if seen += len(page); len(page) < 999 {
			break
		}
	}
	if seen != fsm.MaxRevocations {
		t.Errorf("%d on the pages", seen)
	}
	// A tick stays small, and ticks come to an end (I14).
	w.now += dayMS + fsm.RevocationGraceMS
	for i := 0; len(w.view().Revocations(nil, 1)) != 0; i++ {
		if i > fsm.MaxRevocations/fsm.MaxTickObjects {
			t.Fatal("ticks do not come to an end")
		}
		w.ok(tick())
	}
	w.ok(w.revoke(0))
}

// TestRevocationsWaitForTheFormatVersion: a member of the release before would
// stop at such a command, and could not read such a snapshot.
func TestRevocationsWaitForTheFormatVersion(t *testing.T) {
	w := newWorld(t, func(g *fsmpb.Genesis) { g.FormatVersion = 1 })
	situationtest.Error(t, "identity/revocations-old-format", fsm.Err(w.refused(errs.FailedState, w.revoke(1))))
	w.ok(&fsmpb.Command{Body: &fsmpb.Command_RaiseFormat{RaiseFormat: &fsmpb.RaiseFormat{Version: 2}}})
	w.ok(w.revoke(1))
	raw := snapshot(t, w.m, testMAC)
	for name, f := range map[string]func([]*fsmpb.SnapshotItem, *fsmpb.SnapshotHeader){
		"format version 1": func(items []*fsmpb.SnapshotItem, h *fsmpb.SnapshotHeader) {
			items[0].GetCluster().FormatVersion, h.FormatVersion = 1, 1
		},
		"no time": func(items []*fsmpb.SnapshotItem, _ *fsmpb.SnapshotHeader) {
			items[len(items)-1].GetRevocation().RevokeTimeMs = 0
		},
		"no serial": func(items []*fsmpb.SnapshotItem, _ *fsmpb.SnapshotHeader) {
			items[len(items)-1].GetRevocation().Serial = nil
		},
		"an index to come": func(items []*fsmpb.SnapshotItem, _ *fsmpb.SnapshotHeader) {
			items[len(items)-1].GetRevocation().ModIndex = w.index + 1
		},
	} {
		items, head := itemsOf(t, raw), headerOf(t, raw)
		f(items, head)
		if err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(build(t, head, items, raw[len(raw)-33:]))); errs.Of(err) != errs.StateCorrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
	m := fsm.New(fsm.Options{})
	if err := m.Restore(bytes.NewReader(raw)); err != nil {
		t.Fatal(err)
	}
	if m.View().AuthorityAt() != w.view().AuthorityAt() {
		t.Error("after a restore, what was not revoked before is thought to be so still")
	}
}

// TestARevocationIsNeverRefusedForWantOfMemory: it only takes power away.
func TestARevocationIsNeverRefusedForWantOfMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range fsm.MaxRequestsPerPrincipal {
		cmd := asked("r"+fsm.CertificateName(serialOf(i)), tick())
		cmd.Principal = w.revoke(0).GetPrincipal()
		w.ok(cmd)
	}
	full := asked("one more", tick())
	full.Principal = w.revoke(0).GetPrincipal()
	w.refused(errs.LimitReached, full)
	w.ok(asked("revoke", w.revoke(1)))
}

// TestARevocationEndsExpiredCertificates of the identity, for good: it is forgotten
// itself once its certificate has expired.
func TestARevocationEndsExpiredCertificates(t *testing.T) {
	w := acme(t)
	w.ok(bind(bindingFor("operator", "olga")))
	builtin := func() bool { return w.issuerOf("", fsm.BuiltinIssuer).GetStrictExpiry() }
	olga := func() bool {
		b, ok := w.view().Binding("", bindingFor("operator", "olga").GetId())
		return ok && b.GetStrictExpiry()
	}
	revoke := func(serial byte, name string) {
		w.ok(&fsmpb.Command{Body: &fsmpb.Command_RevokeCertificate{RevokeCertificate: &fsmpb.RevokeCertificate{
			Revocation: &fsmpb.Revocation{Serial: []byte{serial}, Name: name, ExpireTimeMs: w.view().TimeMS() + 3_600_000},
		}}})
	}
	revoke(1, "spiffe://x.krypton/krypton/operator/otto")
	if builtin() || olga() {
		t.Fatal("somebody else's revocation counts")
	}
	revoke(2, "spiffe://x.krypton/krypton/operator/olga")
	if builtin() || !olga() {
		t.Fatal("her revocation counts for nothing, or for all")
	}
	revoke(3, "")
	if !builtin() {
		t.Fatal("nobody knows whose certificate it was, and it may be renewed")
	}
	i := proto.CloneOf(w.issuerOf("", fsm.BuiltinIssuer))
	i.Uid, i.CreateTimeMs, i.ModIndex, i.StrictExpiry = nil, 0, 0, false
	w.ok(putIssuer(i))
	if !builtin() {
		t.Error("a change of the issuer takes it back")
	}
}
