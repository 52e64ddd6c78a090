package server_test

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
)

// authorityBase returns the SHA-256 of the certificate of a CA of the cluster.
func (w *world) authorityBase(name string) []byte {
	w.t.Helper()
	ca, ok := node.Authority(w.members[0].state.View(), name)
	if !ok {
		w.t.Fatalf("there is no CA %s", name)
	}
	sum := sha256.Sum256(ca.Raw)
	return sum[:]
}

func (w *world) authoritySum(name string) string {
	w.t.Helper()
	return hex.EncodeToString(w.authorityBase(name))
}

// replaces has carol sign that a CA is replaced.
func (a *signing) replaces(name string, overlap time.Duration) *kryptonv1.Authority {
	a.t.Helper()
	r := intent.ReplaceAuthority{Name: name, Base: a.authorityBase(name), OverlapMs: uint64(overlap.Milliseconds())}.Request()
	m := &kryptonv1.ReplaceAuthorityRequest{Name: "authorities/" + name, BaseSha256: a.authoritySum(name), OverlapSeconds: uint32(overlap / time.Second), NoOverlap: overlap == 0}
	return a.done(a.t, "grpc", "carol", "Access.ReplaceAuthority", with(m, a.signed(r, "carol"))).(*kryptonv1.Authority)
}

// TestI4_WhatARetiredCASignedOnlyRenews: until the order the certificate is like any
// other; from then on its holder renews it, on a connection that is open too, and nothing
// else; a custodian sees to the seal.
func TestI4_WhatARetiredCASignedOnlyRenews(t *testing.T) {
	a := newSigning(t, 1, quorums{1, 1})
	before := a.replaces("caller-ca", time.Hour)
	if len(before.GetPrevious()) != 1 || before.GetReplacements() != 1 {
		t.Fatalf("it is %v", before)
	}
	list := a.done(t, "grpc", "alice", "Cluster.ListNodes", &kryptonv1.ListNodesRequest{}).(*kryptonv1.ListNodesResponse)
	if len(list.GetNodes()) != 1 {
		t.Errorf("%d nodes", len(list.GetNodes()))
	}
	got := a.done(t, "grpc", "alice", "Access.GetAuthorities", &kryptonv1.GetAuthoritiesRequest{}).(*kryptonv1.GetAuthoritiesResponse)
	if got.GetAuthorities()[0].GetPrevious()[0].GetLastUsedTime() == nil {
		t.Error("nobody was seen with a certificate of the CA before, and alice has one")
	}
	r := intent.RetireAuthority{Name: "caller-ca", Base: a.authorityBase("caller-ca")}.Request()
	m := &kryptonv1.RetireAuthorityRequest{Name: "authorities/caller-ca", BaseSha256: a.authoritySum("caller-ca")}
	a.done(t, "grpc", "carol", "Access.RetireAuthority", with(m, a.signed(r, "carol")))

	for _, who := range []string{"alice", "carol"} {
		_, err := a.call(t, 0, who, "Cluster.ListNodes", &kryptonv1.ListNodesRequest{})
		if codeOf(err) != errs.Unauthenticated || !strings.Contains(err.Error(), "was replaced and is trusted no more") {
			t.Errorf("%s is told %v", who, err)
		}
	}
	if _, err := a.call(t, 0, "carol", "Seal.GetSeal", &kryptonv1.GetSealRequest{}); err != nil {
		t.Errorf("a custodian does not see the seal: %v", err)
	}
	renewed := a.done(t, "grpc", "alice", "Access.RenewCertificate", &kryptonv1.RenewCertificateRequest{}).(*kryptonv1.IssueCertificateResponse)
	a.people["anew"] = certificate(t, renewed.GetCertificate(), a.keys["alice"])
	if _, err := a.call(t, 0, "anew", "Cluster.ListNodes", &kryptonv1.ListNodesRequest{}); err != nil {
		t.Errorf("the renewed certificate: %v", err)
	}
}

// TestAMemberFollowsTheCAOfNodes: it has a certificate of the new one by itself, and shows
// what leads to it from the one before, until that is retired.
func TestAMemberFollowsTheCAOfNodes(t *testing.T) {
	a := newSigning(t, 1, quorums{1, 1})
	old := x509.NewCertPool()
	if !old.AppendCertsFromPEM(a.ca) {
		t.Fatal("there is no CA")
	}
	now := a.replaces("node-ca", time.Hour)
	fresh := x509.NewCertPool()
	fresh.AppendCertsFromPEM(now.GetCertificate())
	show := func() []*x509.Certificate {
		conn, err := tls.Dial("tcp", a.members[0].addrs.GRPC, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates
	}
	verify := func(chain []*x509.Certificate, roots *x509.CertPool) error {
		between := x509.NewCertPool()
		for _, c := range chain[1:] {
			between.AddCert(c)
		}
		_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between})
		return err
	}
	until(t, "the member has a certificate of the new CA", func() error { return verify(show(), fresh) })
	chain := show()
	if err := verify(chain, old); err != nil || len(chain) != 2 {
		t.Errorf("who trusts the CA before: %v, of %d certificates", err, len(chain))
	}
	st := a.done(t, "grpc", "carol", "Seal.GetSeal", &kryptonv1.GetSealRequest{}).(*kryptonv1.SealStatus)
	if len(st.GetNodeCertificateChain()) != 1 {
		t.Errorf("%d certificates lead to the one for shares", len(st.GetNodeCertificateChain()))
	}
	r := intent.RetireAuthority{Name: "node-ca", Base: a.authorityBase("node-ca")}.Request()
	m := &kryptonv1.RetireAuthorityRequest{Name: "authorities/node-ca", BaseSha256: a.authoritySum("node-ca")}
	a.done(t, "grpc", "carol", "Access.RetireAuthority", with(m, a.signed(r, "carol")))
	until(t, "the member shows its certificate alone", func() error {
		if n := len(show()); n != 1 {
			return fmt.Errorf("it shows %d", n)
		}
		return nil
	})
	if err := verify(show(), old); err == nil {
		t.Error("who trusts only the retired CA believes the member")
	}
	if err := verify(show(), fresh); err != nil {
		t.Errorf("the new CA: %v", err)
	}
}
