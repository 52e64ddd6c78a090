package fsm

import (
	"bytes"
	"encoding/hex"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Limits of revocations.
const (
	// MaxRevocations bounds the revoked certificates that have not expired, about
	// 10 MB.
	MaxRevocations = 10_000
	// MaxRevocationLifeMS bounds for how long one is kept, in milliseconds: the
	// longest life of a caller's certificate, 30 days, and a day for clocks.
	MaxRevocationLifeMS = 31 * 86400 * 1000
	// RevocationGraceMS is for how long a revocation is kept after its certificate
	// expired, in milliseconds: a day. A node whose clock is late, or one whose
	// clock was early when it issued the certificate, would otherwise take for valid
	// what the cluster has just forgotten.
	RevocationGraceMS = 86400 * 1000
	// MaxSerialBytes is the longest serial number of a certificate (RFC 5280).
	MaxSerialBytes = 20
	// MaxCertNameBytes bounds the URI name of a certificate.
	MaxCertNameBytes = 512
)

// CertificateName returns the name under which results and records speak of the
// certificate of a serial number under the caller CA: certificates/{hex}.
func CertificateName(serial []byte) string { return "certificates/" + hex.EncodeToString(serial) }

// validSerial reports whether b is the one spelling of a serial number.
func validSerial(b []byte) bool { return len(b) > 0 && len(b) <= MaxSerialBytes && b[0] != 0 }

// checkRevocation checks what a revocation says, in a command and in a snapshot.
func checkRevocation(r *fsmpb.Revocation) error {
	switch {
	case !validSerial(r.GetSerial()):
		return errs.New(errs.InvalidArgument, "the serial number of the certificate is not one", errs.Hint("1 to 20 bytes, hexadecimal, without leading zeros"))
	case len(r.GetReason()) > MaxReasonBytes || !utf8.ValidString(r.GetReason()) || strings.ContainsFunc(r.GetReason(), unicode.IsControl):
		return errs.New(errs.InvalidArgument, "the reason is longer than 256 bytes, or is not one line of text", errs.Hint("shorten it"))
	case !printable(r.GetName(), MaxCertNameBytes):
		return errs.New(errs.InvalidArgument, "the name in the certificate is too long or not printable", errs.Hint("revoke it by its serial number"))
	}
	return nil
}

// callerRevoked refuses a command that was asked for with a certificate that is
// revoked by now (I17). The node that let it in was behind.
func (t *tx) callerRevoked() error {
	serial := t.cmd.GetCallerSerial()
	if len(serial) == 0 || t.revoked == 0 {
		return nil
	}
	if _, gone := lookup[*fsmpb.Revocation](t.txn, tableRevoked, indexID, serial); !gone {
		return nil
	}
	return ErrCallerRevoked()
}

// askedWith returns the serial number of the certificate with which the command was
// asked for, by who requested its approval if it has one.
func (t *tx) askedWith() []byte {
	if t.approval != nil {
		return t.approval.GetRequestedWith()
	}
	return t.cmd.GetCallerSerial()
}

// ErrCallerRevoked is the answer to whoever asked with a certificate that was
// revoked before what was asked for happened.
func ErrCallerRevoked() error {
	return errs.New(errs.Unauthenticated, "the certificate with which this was asked for was revoked in the meantime",
		errs.Hint("ask a governor of this cluster"))
}

// revokeCertificate stores a revocation. Nothing takes one back: a caller who
// lost a certificate by mistake gets another one.
func (t *tx) revokeCertificate(c *fsmpb.RevokeCertificate) (done, error) {
	r := c.GetRevocation()
	if t.cluster.GetFormatVersion() < FormatRevocations {
		return done{}, errs.New(errs.FailedState, "the format version of this cluster is older than revocations",
			errs.Hint("upgrade every node; the leader raises the format version when all members support it"))
	}
	if err := checkRevocation(r); err != nil {
		return done{}, err
	}
	if _, ok := lookup[*fsmpb.Revocation](t.txn, tableRevoked, indexID, r.GetSerial()); ok {
		return done{}, errs.New(errs.AlreadyExists, "the certificate is revoked already",
			errs.Hint("nothing is left to do; krypton operator cert revocations shows it"))
	}
	switch {
	case r.GetExpireTimeMs() <= t.timeMS:
		return done{}, errs.New(errs.FailedState, "the certificate has expired, so there is nothing to revoke", errs.Hint("nothing is left to do; check the clock if you think otherwise"))
	case r.GetExpireTimeMs() > t.timeMS+MaxRevocationLifeMS:
		return done{}, errs.New(errs.InvalidArgument, "no certificate of a caller lives for more than 30 days", errs.Hint("check the certificate, and the clocks"))
	case t.revoked >= MaxRevocations:
		return done{}, errs.New(errs.LimitReached, "10000 certificates are revoked and have not expired, which is the limit",
			errs.Hint("suspend the tenants concerned, or wait until the first of them expires: krypton operator cert revocations"))
	}
	put(t, tableRevoked, &fsmpb.Revocation{
		Serial:       bytes.Clone(r.GetSerial()),
		ExpireTimeMs: r.GetExpireTimeMs(),
		Reason:       r.GetReason(),
		Name:         r.GetName(),
		RevokeTimeMs: t.timeMS,
		RevokedBy:    t.cmd.GetPrincipal().GetKind() + "/" + t.cmd.GetPrincipal().GetName(),
		ModIndex:     t.index,
	})
	t.revoked++
	t.endExpired(r.GetName())
	t.authorityMoved()
	t.dropTokens(r.GetSerial())
	t.failRequestedWith(r.GetSerial())
	return done{object: CertificateName(r.GetSerial())}, nil
}

// endExpired has expired certificates of the identity that a revoked certificate names
// count for nothing any more; of everybody's, if it is not known whose it was. A
// revocation is forgotten when its certificate has expired, and an expired one for a
// key that is bound could else be renewed.
func (t *tx) endExpired(name string) {
	i, ok := lookup[*fsmpb.Issuer](t.txn, tableIssuers, indexID, ownedKey(nil, BuiltinIssuer))
	if !ok {
		return // from [FormatAuthority] on
	}
	id, err := auth.ParseID(name)
	if err != nil {
		if !i.GetStrictExpiry() {
			is := proto.CloneOf(i)
			is.StrictExpiry, is.ModIndex = true, t.index
			put(t, tableIssuers, is)
			t.listIssuer(is)
		}
		return
	}
	subject := builtinSubject(&fsmpb.RoleBinding{Role: id.Role.String(), Tenant: string(id.Tenant), Name: id.Name})
	if b, ok := lookup[*fsmpb.RoleBinding](t.txn, tableBindings, indexSubject, subjectKey(i.GetUid(), subject)); ok && !b.GetStrictExpiry() {
		is := proto.CloneOf(b)
		is.StrictExpiry, is.ModIndex = true, t.index
		put(t, tableBindings, is)
	}
}

// dropTokens drops the join tokens that were made with a certificate and not
// used. What admits a member must not outlive the power to admit one; a token
// lives for up to 30 days.
func (t *tx) dropTokens(serial []byte) {
	var drops []*fsmpb.JoinToken
	scan(t.txn, tableTokens, indexID, nil, nil, func(k *fsmpb.JoinToken) bool {
		if k.GetUsedBy() == "" && bytes.Equal(k.GetCreatedWith(), serial) {
			drops = append(drops, k)
		}
		return true
	})
	for _, k := range drops {
		drop(t, tableTokens, k)
		t.tokens--
	}
}

// Revoked returns the revocation of the caller certificate with that serial
// number (big endian, no leading zero).
func (v *View) Revoked(serial []byte) (*fsmpb.Revocation, bool) {
	if v.revoked == 0 {
		return nil, false
	}
	return lookup[*fsmpb.Revocation](v.txn, tableRevoked, indexID, serial)
}

// Revocations returns up to limit revocations in the order of the serial
// numbers, beginning after the serial number after (nil: at the beginning).
func (v *View) Revocations(after []byte, limit int) []*fsmpb.Revocation {
	return page[*fsmpb.Revocation](v, tableRevoked, nil, after, limit, func(*fsmpb.Revocation) bool { return true })
}
