package node

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

const (
	// exposureLook is how often the leader looks what is left of an exposure.
	exposureLook = time.Second
	// rewrapsPerLook bounds how many tenants and secrets are wrapped again between two looks,
	// so that what people order is not kept waiting behind 100,000 tenants, which take
	// half an hour.
	rewrapsPerLook = 50
)

// replacesExposed reports whether a record is of a MasterKey in place of an exposed one.
func replacesExposed(r seal.Record) bool {
	return r.Manifest().GetKind() == sealpb.CeremonyKind_CEREMONY_KIND_REKEY_COMPROMISED
}

// addReplaced makes what takes the place of what an exposed MasterKey led to: the next
// internal key, under the next MasterKey only, and the CAs under it. The internal keys from
// before stay under the next MasterKey, too, until what is under them is wrapped again.
func (n *Node) addReplaced(u *unsealed, v *fsm.View, next generation, to *fsmpb.StagedRekey) error {
	uid, err := hierarchy.NewUID(n.rand)
	if err != nil {
		return err
	}
	return u.ring.withRoom(func() error {
		ivk, err := memsec.Random(n.rand, memsec.KeySize, memsec.Cold)
		if err != nil {
			return err
		}
		defer ivk.Destroy()
		parent, err := next.founded(v.Cluster())
		if err != nil {
			return err
		}
		defer parent.Destroy()
		blob, err := envelope.Wrap(n.rand, parent, ivkBinding(u.ring.keyspace, next.number, uid), ivk)
		if err != nil {
			return err
		}
		cas, err := n.newAuthorities(v, u, uid, ivk)
		if err != nil {
			return err
		}
		number := uint32(len(v.Cluster().GetInternalKeys())) + 1 //nolint:gosec // At most hierarchy.MaxVersions.
		to.NewInternalKey, to.NewAuthorities = &fsmpb.Version{Number: number, Uid: uid[:], Blob: blob}, cas
		return u.ring.verifyReplaced(v.Cluster(), to, next)
	})
}

// verifyReplaced reports what is wrong with the internal key and the CAs that somebody
// staged in place of exposed ones. With an internal key that does not open, no tenant would
// be wrapped again; with a CA whose key is another, no certificate would be issued.
func (k *keyring) verifyReplaced(c *fsmpb.Cluster, staged *fsmpb.StagedRekey, next generation) error {
	key := staged.GetNewInternalKey()
	if key == nil {
		return nil
	}
	uid, err := uidOf(key.GetUid())
	if err != nil {
		return err
	}
	return k.withRoom(func() error {
		parent, err := next.founded(c)
		if err != nil {
			return err
		}
		defer parent.Destroy()
		ivk, err := envelope.Unwrap(parent, ivkBinding(k.keyspace, next.number, uid), key.GetBlob(), memsec.Cold)
		if err != nil {
			return corrupt("next internal key", err)
		}
		defer ivk.Destroy()
		for _, s := range staged.GetNewAuthorities() {
			if err := k.verifyAuthority(s, uid, ivk); err != nil {
				return err
			}
		}
		return nil
	})
}

func (k *keyring) verifyAuthority(s *fsmpb.Secret, uid hierarchy.UID, ivk memsec.Secret) error {
	cert, err := x509.ParseCertificate(s.GetPublic())
	if err != nil {
		return errs.New(errs.StateCorrupt, "the certificate of the next "+s.GetName()+" does not parse", errs.Cause(err))
	}
	key, err := envelope.Unwrap(ivk, secretBinding(k.keyspace, uid, secretUID(s.GetName())), s.GetBlob(), memsec.Cold)
	if err != nil {
		return corrupt("next "+s.GetName(), err)
	}
	ca, err := pki.OpenCA(cert, key)
	if err != nil {
		key.Destroy()
		return errs.New(errs.StateCorrupt, "the key of the next "+s.GetName()+" is not that of its certificate",
			errs.Hint("find out which node staged the rekey; cancel the ceremony and begin it anew"), errs.Cause(err))
	}
	ca.Destroy()
	return nil
}

// proveConfirmed returns an error if the cluster has a MasterKey in place of an exposed one
// for which nobody signed who had to. Whoever has the exposed one has the CA of the genesis
// as well, so nothing that came from MasterKey to MasterKey tells the new one: only people
// do, who signed when it was there.
func proveConfirmed(c *fsmpb.Cluster) error {
	if _, err := fsm.Confirmations(c); err != nil {
		return errs.New(errs.StateCorrupt, "nobody who had to confirmed the MasterKey in place of an exposed one: "+errs.From(err).Msg, errs.Cause(err))
	}
	return nil
}

// ConfirmCeremony brings the signatures of custodians over the MasterKey and the CAs that a
// ceremony staged in place of exposed ones. It is committed when they are there, and enough
// holders opened the new seal.
func (n *Node) ConfirmCeremony(ctx context.Context, tok gate.Token, r Request, id, manifest, authorities []byte) (*fsmpb.Ceremony, error) {
	if err := tok.Require(gate.ConfirmCeremony, CeremonyName(id)); err != nil {
		return nil, err
	}
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_ConfirmSeal{ConfirmSeal: &fsmpb.ConfirmSeal{Id: id, Manifest: manifest, Authorities: authorities}}
	if _, err := n.commit(ctx, tok, r, cmd); err != nil {
		return nil, err
	}
	c, ok := n.machine.View().Ceremony(id)
	if !ok {
		return nil, gate.NoSuchObject()
	}
	return c, nil
}

// endExposures replaces what an exposed MasterKey opened, while this node leads. What is
// left is read from the registry each time, so a leader goes on where another one stopped.
func (n *Node) endExposures(ctx context.Context) error {
	for {
		if err := n.clock.Sleep(ctx, exposureLook); err != nil {
			return err
		}
		if n.cluster.LeaderID() != n.cluster.NodeID() || n.mayHold() != nil {
			continue
		}
		if err := n.stepExposure(ctx); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			n.log.WarnContext(ctx, "what an exposed MasterKey opened is not replaced yet; this node tries again by itself", slog.Any("error", err))
		}
	}
}

// stepExposure does what can be done now of what is left.
func (n *Node) stepExposure(ctx context.Context) error {
	u, v := n.open.Load(), n.machine.View()
	e := v.Cluster().GetExposure()
	if u == nil || e == nil || e.GetDoneTimeMs() != 0 {
		return nil
	}
	id, err := corr.New(n.rand)
	if err != nil {
		return err
	}
	ctx = corr.With(ctx, id)
	if tenants, secrets := v.UnderExposed(rewrapsPerLook); len(tenants)+len(secrets) > 0 {
		var failed []error
		for _, t := range tenants {
			failed = append(failed, n.rewrapTenant(ctx, u, v, t))
		}
		for _, s := range secrets {
			failed = append(failed, n.rewrapSecret(ctx, u, v, s))
		}
		return errors.Join(failed...)
	}
	x, _ := v.Exposure()
	var next *fsmpb.Command
	switch {
	case x.KeysLeft > 0 || x.ClearIndex == 0:
		next = &fsmpb.Command{Body: &fsmpb.Command_EndInternalKeys{EndInternalKeys: &fsmpb.EndInternalKeys{CeremonyId: e.GetCeremonyId()}}}
	case len(x.MembersLeft) > 0:
		return nil // they are asked elsewhere
	case e.GetCarriedDroppedTimeMs() == 0:
		record, err := fsm.WithoutExposed(v.Cluster())
		if err != nil {
			return err
		}
		base := sha256.Sum256(v.Cluster().GetSealRecord())
		next = &fsmpb.Command{Body: &fsmpb.Command_DropCarried{DropCarried: &fsmpb.DropCarried{Base: base[:], Record: record}}}
	case len(x.Retiring) > 0:
		return nil // time does it, or people: krypton operator ca retire
	default:
		next = &fsmpb.Command{Body: &fsmpb.Command_FinishExposure{FinishExposure: &fsmpb.FinishExposure{CeremonyId: e.GetCeremonyId()}}}
	}
	return n.gate.DoNode(ctx, gate.NodeExposure, ObjectSeal, func(tok gate.Token) error {
		_, err := n.cluster.ProposeOwn(ctx, tok, next)
		if err == nil && next.GetFinishExposure() != nil {
			n.log.InfoContext(ctx, "nothing is left in this cluster that the exposed MasterKey opened", slog.String("ceremony", CeremonyName(e.GetCeremonyId())))
		}
		return err
	})
}

// primaryKey returns the uid of the internal key that is in force.
func primaryKey(c *fsmpb.Cluster) ([]byte, error) {
	i := slices.IndexFunc(c.GetInternalKeys(), func(v *fsmpb.Version) bool { return v.GetNumber() == c.GetInternalKeyPrimary() })
	if i < 0 {
		return nil, errs.New(errs.StateCorrupt, "the registry has no internal key in force")
	}
	return c.GetInternalKeys()[i].GetUid(), nil
}

// rewrapTenant moves the outer envelope of a tenant key to the internal key in force. What
// is inside the customer's keystore wrapped, so none is asked, and a tenant that is
// suspended or about to be destroyed is wrapped again like any other one.
func (n *Node) rewrapTenant(ctx context.Context, u *unsealed, v *fsm.View, t *fsmpb.Tenant) error {
	to, err := primaryKey(v.Cluster())
	if err != nil {
		return err
	}
	was, err := u.ring.nest(t.GetUid(), t.GetL2Uid(), t.GetL2IvkUid())
	if err != nil {
		return err
	}
	is, err := u.ring.nest(t.GetUid(), t.GetL2Uid(), to)
	if err != nil {
		return err
	}
	return n.gate.DoNode(ctx, gate.NodeRewrap, "tenants/"+t.GetName(), func(tok gate.Token) error {
		var blob []byte
		err := u.ring.withRoom(func() error {
			return u.ring.withInternalKey(ctx, v.Cluster(), was.ivk, func(from memsec.Secret) error {
				return u.ring.withInternalKey(ctx, v.Cluster(), is.ivk, func(under memsec.Secret) error {
					var err error
					blob, err = envelope.RewrapOuter(n.rand, from, was.binding, under, is.binding, t.GetL2Blob())
					return corrupt("key of tenant "+t.GetName(), err)
				})
			})
		})
		if wiped(err) {
			return n.whySealed()
		}
		if err != nil {
			return err
		}
		_, err = n.cluster.ProposeOwn(ctx, tok, &fsmpb.Command{Body: &fsmpb.Command_RewrapTenant{RewrapTenant: &fsmpb.RewrapTenant{
			Tenant: t.GetName(), TenantUid: t.GetUid(), L2Uid: t.GetL2Uid(), FromIvkUid: t.GetL2IvkUid(), ToIvkUid: to, L2Blob: blob,
		}}})
		return err
	})
}

// rewrapSecret moves an internal secret to the internal key in force.
func (n *Node) rewrapSecret(ctx context.Context, u *unsealed, v *fsm.View, s *fsmpb.Secret) error {
	to, err := primaryKey(v.Cluster())
	if err != nil {
		return err
	}
	was, err := uidOf(s.GetIvkUid())
	if err != nil {
		return err
	}
	is, err := uidOf(to)
	if err != nil {
		return err
	}
	return n.gate.DoNode(ctx, gate.NodeExposure, "internalSecrets/"+s.GetName(), func(tok gate.Token) error {
		var blob []byte
		err := u.ring.withRoom(func() error {
			return u.ring.withInternalKey(ctx, v.Cluster(), was, func(from memsec.Secret) error {
				return u.ring.withInternalKey(ctx, v.Cluster(), is, func(under memsec.Secret) error {
					secret, err := envelope.Unwrap(from, secretBinding(u.ring.keyspace, was, secretUID(s.GetName())), s.GetBlob(), memsec.Cold)
					if err != nil {
						return corrupt("secret "+s.GetName(), err)
					}
					defer secret.Destroy()
					blob, err = envelope.Wrap(n.rand, under, secretBinding(u.ring.keyspace, is, secretUID(s.GetName())), secret)
					return err
				})
			})
		})
		if wiped(err) {
			return n.whySealed()
		}
		if err != nil {
			return err
		}
		_, err = n.cluster.ProposeOwn(ctx, tok, &fsmpb.Command{Body: &fsmpb.Command_PutSecret{PutSecret: &fsmpb.PutSecret{
			Secret: &fsmpb.Secret{Name: s.GetName(), IvkUid: to, Blob: blob, Public: s.GetPublic()},
		}}})
		return err
	})
}
