package node

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Revocation says which certificate of a caller is to be revoked.
type Revocation struct {
	Serial []byte // under the caller CA
	Reason string

	// What the certificate itself says; zero when only its serial number is known.
	Name     string // URI name
	Role     auth.Role
	NotAfter time.Time
}

// RevokeCertificate ends what a certificate may do, on every node that has
// applied it, for good.
//
// Somebody must always be left who can issue certificates: a governor cannot
// revoke the certificate in use, an operator no governor's or custodian's. An
// operator has to show the certificate, because only that says whose it is.
func (n *Node) RevokeCertificate(ctx context.Context, tok gate.Token, r Request, t Revocation) (*fsmpb.Revocation, error) {
	if err := tok.Require(gate.RevokeCertificate, fsm.CertificateName(t.Serial)); err != nil {
		return nil, err
	}
	own := string(t.Serial) == tok.Serial()
	switch tok.Principal().Role { //nolint:exhaustive // The gate lets in nobody else.
	case auth.RoleGovernor:
		if own {
			return nil, errs.New(errs.FailedState, "a governor's certificate is not revoked by itself: it could be the last one",
				errs.Hint("have another governor revoke it"))
		}
	default:
		switch {
		case t.Role == auth.RoleUnspecified && !own:
			return nil, errs.New(errs.Denied, "only a governor revokes a certificate by its serial number alone",
				errs.Hint("give the certificate itself, or ask a governor"))
		case t.Role == auth.RoleGovernor, t.Role == auth.RoleCustodian:
			return nil, errs.New(errs.Denied, "the certificates of governors and custodians are revoked by governors only", errs.Hint("ask a governor"))
		}
	}
	end := t.NotAfter
	if end.IsZero() {
		// No certificate with that number ends later, if there is one.
		end = n.clock.Now().Add(pki.CallerLifetime)
	}
	rev := &fsmpb.Revocation{Serial: t.Serial, ExpireTimeMs: end.UnixMilli(), Reason: t.Reason, Name: t.Name}
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_RevokeCertificate{RevokeCertificate: &fsmpb.RevokeCertificate{Revocation: rev}}
	if _, err := n.commit(ctx, tok, r, cmd); err != nil || r.ValidateOnly {
		return rev, err
	}
	if now, ok := n.machine.View().Revoked(t.Serial); ok {
		return now, nil
	}
	return rev, nil // a retry after the certificate expired
}

// freshPause is between two looks of [Node.stillTrusted]: a node asks for a lease
// every 250 ms, or 500 ms.
const freshPause = 10 * time.Millisecond

// stillTrusted returns this node's view once it has every change that was
// acknowledged before the call, and the caller's certificate is not revoked in it.
// A usable lease says as much, as far as the clocks of machines are right. That is
// enough for an answer. What is signed lives for 30 days under another serial
// number, which nobody would think of revoking: so this waits for a lease that was
// asked for after the call, which no clock's rate and no pause can make older. An
// entry in the log for each certificate was rejected: it is as slow and fills the log.
func (n *Node) stillTrusted(ctx context.Context, tok gate.Token) (*fsm.View, error) {
	start := n.clock.Now()
	for {
		if _, _, err := n.serving(); err != nil {
			return nil, err
		}
		if n.cluster.LastContact() <= n.clock.Since(start) {
			break
		}
		if err := n.clock.Sleep(ctx, freshPause); err != nil {
			return nil, errs.From(err)
		}
	}
	v := n.machine.View()
	if _, gone := v.Revoked([]byte(tok.Serial())); gone {
		return nil, fsm.ErrCallerRevoked()
	}
	if err := bound(v, tok.Principal(), tok.Binding(), n.clock.Now().UnixMilli()); err != nil {
		return nil, err
	}
	return v, nil
}

// bound reports why a caller has no role any more in that state. Who was let in by a
// role binding has it by that one: a binding that was made anew under the name is for
// another key, and perhaps for another person.
func bound(v *fsm.View, p auth.Principal, by hierarchy.UID, nowMS int64) error {
	if v.Cluster().GetFormatVersion() < fsm.FormatAuthority {
		return nil
	}
	var tenant []byte
	if p.Role == auth.RoleWorkload {
		tenant = p.TenantUID[:]
	}
	if b, ok := v.BindingOf(p.Issuer[:], p.Role, tenant, p.Name); ok && !fsm.Expired(b, nowMS) && (by.IsZero() || bytes.Equal(b.GetUid(), by[:])) {
		return nil
	}
	if !by.IsZero() {
		return errRoleGone()
	}
	if i, ok := v.IssuerByUID(p.Issuer[:]); ok && slices.Contains(i.GetUnboundRoles(), p.Role.String()) {
		return nil
	}
	return errRoleGone()
}

func errRoleGone() error {
	return errs.New(errs.Unauthenticated, "the role with which this was asked for was taken away in the meantime", errs.Hint("ask a governor of this cluster"))
}
