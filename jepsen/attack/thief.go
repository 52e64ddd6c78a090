//go:build unix

package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/intent/orders"
	"github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/local"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/seal"
)

// Internal secrets of a cluster, by name in the registry.
const (
	callerCA = "caller-ca"
	nodeCA   = "node-ca"
)

// masterKey opens the seal of a cluster: the power of who administers the keystore.
// Attackers of files never have it; it is for what an honest node would have written,
// and for who stole a CA.
func (t *theatre) masterKey(ctx context.Context, n *devcluster.Node) (memsec.Secret, error) {
	stores, err := keystore.Open(ctx, keystore.Env{Logger: slog.New(slog.DiscardHandler), Rand: rand.Reader, Clock: clock.System{}},
		[]keystore.Config{{Name: devcluster.KeystoreName, Type: local.Type, Settings: map[string]string{"dir": filepath.Join(t.Dir(), "keystore")}}},
		keystore.Constructors{local.Type: local.New})
	if err != nil {
		return memsec.Secret{}, err
	}
	defer func() { _ = stores.Close() }()
	rec, err := seal.ReadFile(filepath.Join(n.DataDir(), "seal", "record.pb"), hierarchy.KeyspaceID{})
	if err != nil {
		return memsec.Secret{}, err
	}
	return seal.Open(ctx, rec, stores, clock.System{}, time.Minute)
}

// prover returns the MAC that an honest node puts under a snapshot.
func (t *theatre) prover(ctx context.Context, n *devcluster.Node) (fsm.MACFunc, error) {
	master, err := t.masterKey(ctx, n)
	if err != nil {
		return nil, err
	}
	key, err := envelope.RegistryMACKey(master)
	if err != nil {
		return nil, err
	}
	return func(_ hierarchy.Generation, parts ...[]byte) ([32]byte, bool) {
		sum, err := memsec.MAC(key, parts...)
		return sum, err == nil
	}, nil
}

// stealCA takes the key of a CA out of a cluster, with the MasterKey and the
// registry in the files of a node.
func (t *theatre) stealCA(ctx context.Context, n *devcluster.Node, name string) (*pki.CA, error) {
	master, err := t.masterKey(ctx, n)
	if err != nil {
		return nil, err
	}
	defer master.Destroy()
	v, err := t.registry(n)
	if err != nil {
		return nil, err
	}
	parent, err := envelope.IVKParent(master)
	if err != nil {
		return nil, err
	}
	defer parent.Destroy()
	founding, _, err := fsm.FoundingOf(v.Cluster())
	if err != nil {
		return nil, err
	}
	founded, err := envelope.FoundedIVKParent(parent, founding)
	if err != nil {
		return nil, err
	}
	defer founded.Destroy()
	s, ok := v.Secret(name)
	internal, found := v.InternalKey(s.GetIvkUid())
	if !ok || !found {
		return nil, errors.New("the registry has no " + name)
	}
	keyspace, ivkUID := hierarchy.KeyspaceID(v.Cluster().GetKeyspaceId()), hierarchy.UID(internal.GetUid())
	generation := hierarchy.Generation(1)
	ivk, err := envelope.Unwrap(founded, hierarchy.Binding{
		Purpose: hierarchy.PurposeIVK, Keyspace: keyspace, Version: generation.VersionUID(), Subject: ivkUID,
	}, internal.GetBlob(), memsec.Cold)
	if err != nil {
		return nil, err
	}
	defer ivk.Destroy()
	sum := sha256.Sum256([]byte("krypton/v1/internal-secret\x00" + name))
	key, err := envelope.Unwrap(ivk, hierarchy.Binding{
		Purpose: hierarchy.PurposeInternalSecret, Keyspace: keyspace, Version: ivkUID, Subject: hierarchy.UID(sum[:hierarchy.UIDSize]),
	}, s.GetBlob(), memsec.Cold)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(s.GetPublic())
	if err != nil {
		return nil, err
	}
	return pki.OpenCA(cert, key)
}

// mint signs a caller's certificate over a key of the thief's.
func mint(ca *pki.CA, id auth.ID) (tls.Certificate, error) {
	key, err := newKey()
	if err != nil {
		return tls.Certificate{}, err
	}
	cert, err := ca.IssueCaller(rand.Reader, time.Now(), pki.CallerRequest{ID: id, PublicKey: key.Public()})
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}, nil
}

// caller returns a client with a certificate that is in no file. Nobody signs for it.
func (t *theatre) caller(ctx context.Context, cert tls.Certificate, addrs ...string) (*client.Client, error) {
	return t.callerWith(ctx, cert, client.Options{Addrs: addrs})
}

// signing returns a client of a governor who signs with the same key.
func (t *theatre) signing(ctx context.Context, cert tls.Certificate) (*client.Client, error) {
	key, err := sign.New(rand.Reader, cert.PrivateKey.(crypto.Signer)) //nolint:forcetypeassert,errcheck // We made it.
	if err != nil {
		return nil, err
	}
	return t.callerWith(ctx, cert, client.Options{Signer: orders.Signer{Governors: []sign.Signer{key}}})
}

func (t *theatre) callerWith(ctx context.Context, cert tls.Certificate, o client.Options) (*client.Client, error) {
	base, err := t.w.savePair(cert)
	if err != nil {
		return nil, err
	}
	if len(o.Addrs) == 0 {
		o.Addrs = t.Addrs()
	}
	o.CAFile, o.CertFile, o.KeyFile = t.CAFile(), base+".crt", base+".key"
	return client.New(ctx, client.With(o))
}

// whoAmI returns as whom a certificate is known.
func (t *theatre) whoAmI(ctx context.Context, cert tls.Certificate) (*kryptonv1.WhoAmIResponse, error) {
	c, err := t.caller(ctx, cert)
	if err != nil {
		return nil, notTried(err)
	}
	defer func() { _ = c.Close() }()
	return c.Access().WhoAmI(ctx, &kryptonv1.WhoAmIRequest{})
}

func writeFile(path string, b []byte) error { return os.WriteFile(path, b, 0o600) } //nolint:gosec // Paths below our own directory.

// savePair writes a certificate and its key to files, and returns their name without
// the endings .crt and .key.
func (w *world) savePair(cert tls.Certificate) (string, error) {
	var certText, keyText bytes.Buffer
	if err := writePair(&certText, &keyText, cert); err != nil {
		return "", err
	}
	base, err := w.path("caller-" + rand.Text())
	if err != nil {
		return "", err
	}
	return base, errors.Join(writeFile(base+".crt", certText.Bytes()), writeFile(base+".key", keyText.Bytes()))
}

// writePair writes a certificate and its key as PEM.
func writePair(cert, key *bytes.Buffer, c tls.Certificate) error {
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return err
	}
	return errors.Join(
		pem.Encode(cert, &pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}),
		pem.Encode(key, &pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}
