package node

import (
	"context"
	"crypto/x509"
	"slices"
	"time"

	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
)

// purposes are the CAs of a cluster and whom they vouch for, in ascending order of names.
//
//nolint:gochecknoglobals // Immutable table.
var purposes = []struct {
	name string
	of   pki.Purpose
}{{SecretCallerCA, pki.ForCallers}, {SecretNodeCA, pki.ForNodes}}

// ReplaceAuthority puts a new CA in the place of the one of that name whose certificate has
// the SHA-256 base, and trusts the one before for overlap. Its key is made here, wrapped
// under the internal key, and signed by the one before.
func (n *Node) ReplaceAuthority(ctx context.Context, tok gate.Token, r Request, name string, base []byte, overlap time.Duration) error {
	if err := tok.Require(gate.ReplaceAuthority, fsm.AuthorityName(name)); err != nil {
		return err
	}
	cmd := r.command(0)
	c := &fsmpb.ReplaceAuthority{Secret: &fsmpb.Secret{Name: name}, Base: base, OverlapMs: overlap.Milliseconds()}
	cmd.Body = &fsmpb.Command_ReplaceAuthority{ReplaceAuthority: c}
	if !n.answered(tok, r, 0) {
		u, st, err := n.serving()
		if err != nil {
			return err
		}
		if c.Secret, err = n.nextAuthority(ctx, u, st.View, name); err != nil {
			return err
		}
	}
	_, err := n.commit(ctx, tok, r, cmd)
	return err
}

// RetireAuthority ends the trust in every CA before the one of that name whose certificate
// has the SHA-256 base.
func (n *Node) RetireAuthority(ctx context.Context, tok gate.Token, r Request, name string, base []byte) error {
	if err := tok.Require(gate.RetireAuthority, fsm.AuthorityName(name)); err != nil {
		return err
	}
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_RetireAuthority{RetireAuthority: &fsmpb.RetireAuthority{Name: name, Base: base}}
	_, err := n.commit(ctx, tok, r, cmd)
	return err
}

// nextAuthority makes the CA that takes the place of the one of that name, under the
// present internal key.
func (n *Node) nextAuthority(ctx context.Context, u *unsealed, v *fsm.View, name string) (s *fsmpb.Secret, err error) {
	i := slices.IndexFunc(purposes, func(p struct {
		name string
		of   pki.Purpose
	},
	) bool {
		return p.name == name
	})
	if i < 0 {
		return nil, gate.NoSuchObject()
	}
	versions, primary := v.InternalKeys()
	at := slices.IndexFunc(versions, func(ver *fsmpb.Version) bool { return ver.GetNumber() == primary })
	if at < 0 {
		return nil, errs.New(errs.StateCorrupt, "the registry has no internal key in force")
	}
	uid, err := uidOf(versions[at].GetUid())
	if err != nil {
		return nil, err
	}
	was, err := u.ring.openAuthority(ctx, v, name)
	if err != nil {
		if wiped(err) {
			err = n.whySealed()
		}
		return nil, err
	}
	defer was.Destroy()
	err = u.ring.withInternalKey(ctx, v.Cluster(), uid, func(ivk memsec.Secret) error {
		s, err = n.makeAuthority(v, name, purposes[i].of, was, u.ring.keyspace, uid, ivk)
		return err
	})
	if wiped(err) {
		return nil, n.whySealed()
	}
	return s, err
}

// newAuthorities makes CAs in the place of all of the cluster's, under an internal key that
// is not in force yet: what is staged with a MasterKey that takes the place of an exposed
// one. Each is signed by the one before as well, for who trusts only that; but for one that
// does not open any more, which nothing else could replace.
func (n *Node) newAuthorities(v *fsm.View, u *unsealed, ivkUID hierarchy.UID, ivk memsec.Secret) ([]*fsmpb.Secret, error) {
	var out []*fsmpb.Secret
	for _, p := range purposes {
		was, err := u.ring.openAuthority(context.Background(), v, p.name)
		switch {
		case errs.Is(err, errs.StateCorrupt):
			was = nil
		case err != nil:
			return nil, err
		}
		s, err := n.makeAuthority(v, p.name, p.of, was, u.ring.keyspace, ivkUID, ivk)
		if was != nil {
			was.Destroy()
		}
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// makeAuthority makes a CA and wraps its key. was signs it; nil: nobody does.
func (n *Node) makeAuthority(v *fsm.View, name string, purpose pki.Purpose, was *pki.CA, keyspace hierarchy.KeyspaceID, ivkUID hierarchy.UID, ivk memsec.Secret) (*fsmpb.Secret, error) {
	now := n.clock.Now()
	ca, err := pki.NewCA(n.rand, now, purpose, v.Cluster().GetName())
	if err != nil {
		return nil, err
	}
	defer ca.Destroy()
	s, err := n.sealCA(name, ca, keyspace, ivkUID, ivk)
	if err != nil || was == nil {
		return s, err
	}
	cross, err := was.CrossSign(n.rand, now, ca.Certificate())
	if err != nil {
		return nil, err
	}
	s.CrossCertificate = cross.Raw
	return s, nil
}

// Trusted returns the certificates of the CAs of that name that are trusted now, DER, the
// present one first.
func Trusted(v *fsm.View, name string, now time.Time) (out [][]byte) {
	s, ok := v.Secret(name)
	if !ok {
		return nil
	}
	out = append(out, s.GetPublic())
	for _, p := range s.GetPrevious() {
		if now.UnixMilli() < p.GetRetireTimeMs() {
			out = append(out, p.GetCertificate())
		}
	}
	return out
}

// CrossChain returns what a member shows behind its certificate, DER, so that whoever
// trusts only a CA before the present one follows it: nothing once none of those is trusted.
func CrossChain(v *fsm.View, now time.Time) (out [][]byte) {
	s, _ := v.Secret(SecretNodeCA)
	before := len(Trusted(v, SecretNodeCA, now)) - 1
	if before <= 0 || len(s.GetCrossCertificate()) == 0 {
		return nil
	}
	out = append(out, s.GetCrossCertificate())
	line := s.GetLineage() // its last is that certificate
	for i := len(line) - 2; i >= 0 && len(out) < before; i-- {
		out = append(out, line[i])
	}
	return out
}

// Followed reports whether whoever trusts only the CA with that certificate can follow it
// to another one. CAs of releases before this one allow no CA below them.
func Followed(ca *x509.Certificate) bool { return ca.MaxPathLen != 0 || !ca.MaxPathLenZero }
