package node

import (
	"context"
	"crypto/sha256"
	"crypto/x509"

	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
)

// Names of the internal secrets of every cluster. Their public part is the CA's
// certificate, DER.
const (
	SecretCallerCA = "caller-ca"
	SecretNodeCA   = "node-ca"
)

// secretUID is the identity of an internal secret in its envelope. The name is
// unique and never given to another secret, so its hash serves as the uid.
func secretUID(name string) hierarchy.UID {
	sum := sha256.Sum256([]byte("krypton/v1/internal-secret\x00" + name))
	return hierarchy.UID(sum[:hierarchy.UIDSize])
}

// sealCA wraps a CA's private key as an internal secret.
func (n *Node) sealCA(name string, ca *pki.CA, keyspace hierarchy.KeyspaceID, ivkUID hierarchy.UID, ivk memsec.Secret) (*fsmpb.Secret, error) {
	blob, err := envelope.Wrap(n.rand, ivk, secretBinding(keyspace, ivkUID, secretUID(name)), ca.Key())
	if err != nil {
		return nil, err
	}
	return &fsmpb.Secret{Name: name, IvkUid: ivkUID[:], Blob: blob, Public: ca.Certificate().Raw}, nil
}

// openCA opens a CA of the cluster on a node that serves: one that cannot prove
// its view might sign for a member or a tenant that is gone, or never was (I1).
// The caller destroys it: a CA's key is in memory for one signature.
func (n *Node) openCA(ctx context.Context, name string) (*pki.CA, error) {
	u, st, err := n.serving()
	if err != nil {
		return nil, err
	}
	v := st.View
	ca, err := u.ring.openAuthority(ctx, v, name)
	if wiped(err) {
		return nil, n.whySealed()
	}
	return ca, err
}

// openAuthority opens a CA of the cluster. The caller destroys it.
func (k *keyring) openAuthority(ctx context.Context, v *fsm.View, name string) (*pki.CA, error) {
	s, ok := v.Secret(name)
	if !ok {
		return nil, errs.New(errs.FailedState, "the cluster has no "+name)
	}
	cert, err := x509.ParseCertificate(s.GetPublic())
	if err != nil {
		return nil, errs.New(errs.StateCorrupt, "the certificate of "+name+" does not parse", errs.Cause(err))
	}
	uid, err := uidOf(s.GetIvkUid())
	if err != nil {
		return nil, err
	}
	var key memsec.Secret
	err = k.withRoom(func() error {
		return k.withInternalKey(ctx, v.Cluster(), uid, func(ivk memsec.Secret) error {
			var err error
			key, err = envelope.Unwrap(ivk, secretBinding(k.keyspace, uid, secretUID(name)), s.GetBlob(), memsec.Cold)
			return corrupt("secret "+name, err)
		})
	})
	if err != nil {
		return nil, err
	}
	ca, err := pki.OpenCA(cert, key)
	if err != nil {
		key.Destroy()
		return nil, errs.New(errs.StateCorrupt, "the key of "+name+" is not that of its certificate", errs.Cause(err))
	}
	return ca, nil
}

// Authority returns the certificate of a CA of the cluster, as the registry has
// it; false before the cluster is known.
func Authority(v *fsm.View, name string) (*x509.Certificate, bool) {
	s, ok := v.Secret(name)
	if !ok {
		return nil, false
	}
	cert, err := x509.ParseCertificate(s.GetPublic())
	return cert, err == nil
}

// TrustDomain returns the domain of the identities that a cluster issues. It
// follows from the cluster id, so that two clusters never share one.
func TrustDomain(id hierarchy.ClusterID) string { return id.String() + ".krypton" }
