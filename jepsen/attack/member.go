//go:build unix

package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

// Protocols on the peer port: docs/formats.md.
const (
	protoPeer = "krypton-peer/1"
	protoRaft = "krypton-raft/1"
	protoJoin = "krypton-join/1"
)

// memberKey reads the key of a node as who has its files does.
func memberKey(n *devcluster.Node) (crypto.Signer, error) {
	return keyFile(filepath.Join(n.DataDir(), "tls", "node.key"))
}

func keyFile(path string) (crypto.Signer, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("the key of the node is no PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	return key.(*ecdsa.PrivateKey), nil //nolint:forcetypeassert,errcheck // docs/formats.md, tls.
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// selfSigned is the certificate that nodes show each other: nothing but a key.
func selfSigned(key crypto.Signer) (tls.Certificate, error) {
	t := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// dialPeer connects to the peer port of a node with a certificate.
func dialPeer(ctx context.Context, addr, proto string, cert tls.Certificate) (*tls.Conn, error) {
	d := tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{proto}, //nolint:gosec // An attacker does not care whom it attacks.
		Certificates: []tls.Certificate{cert},
	}}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return conn.(*tls.Conn), nil //nolint:forcetypeassert,errcheck // That is what a tls.Dialer returns.
}

// asMember calls the peer service of a node with a certificate.
func asMember(to *devcluster.Node, cert tls.Certificate, call func(clusterpb.PeerClient) error) error {
	return asMemberAt(to.Addresses().Peer, cert, call)
}

func asMemberAt(addr string, cert tls.Certificate, call func(clusterpb.PeerClient) error) error {
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return dialPeer(ctx, addr, protoPeer, cert) }))
	if err != nil {
		return err
	}
	defer func() { _ = cc.Close() }()
	return wire.FromStatus(call(clusterpb.NewPeerClient(cc)))
}

// forward has a lying member forward a command to a node, and returns what the
// cluster made of it: nil, if it was done. It says that the caller showed the
// certificate of the person in a role, which is no secret; 0: the role in the command.
func (t *theatre) forward(ctx context.Context, from, to *devcluster.Node, cmd *fsmpb.Command, shows auth.Role) error {
	key, err := memberKey(from)
	if err != nil {
		return err
	}
	cert, err := selfSigned(key)
	if err != nil {
		return err
	}
	id, err := corr.New(rand.Reader)
	if err != nil {
		return err
	}
	cmd.Format, cmd.CorrelationId = fsm.CommandFormat, string(id)
	cmd.RequestId, cmd.RequestDigest = rand.Text(), make([]byte, 32)
	req := &clusterpb.ProposeRequest{Command: cmd}
	if role, err := auth.ParseRole(cmd.GetPrincipal().GetKind()); err == nil && shows == 0 {
		shows = role
	}
	if who, ok := t.Person(shows); ok {
		text, err := os.ReadFile(who.CertFile)
		if err != nil {
			return notTried(err)
		}
		block, _ := pem.Decode(text)
		req.Shown = &clusterpb.Shown{By: &clusterpb.Shown_Certificate{Certificate: block.Bytes}}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return asMember(to, cert, func(p clusterpb.PeerClient) error {
		resp, err := p.Propose(ctx, req)
		if err != nil {
			return err
		}
		return fsm.Err(resp.GetResult())
	})
}

// notTried marks what kept an attack from being tried at all.
func notTried(err error) error { return fmt.Errorf("the attack could not be tried: %w", err) }
