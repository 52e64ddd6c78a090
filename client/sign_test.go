package client_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/client/clienttest"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// pen is a signer that makes another signature each time it is asked.
type pen struct {
	mu   sync.Mutex
	seen []proto.Message
	fail error
}

func (p *pen) Sign(_ context.Context, _ *client.Client, req proto.Message) ([]*kryptonv1.SignedIntent, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, proto.Clone(req))
	return []*kryptonv1.SignedIntent{{Intent: []byte{byte(len(p.seen))}, KeyId: []byte("key"), Signature: []byte("signature")}}, p.fail
}

// arrivals records what nodes get, and fails the first of it.
type arrivals struct {
	mu   sync.Mutex
	got  []proto.Message
	fail int
}

func (a *arrivals) hook(_ context.Context, _ int, _ string, req proto.Message) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.got = append(a.got, proto.Clone(req))
	if len(a.got) <= a.fail {
		return errs.New(errs.NoLeader, "not now")
	}
	return nil
}

func signing(t *testing.T, fail int) (*client.Client, *pen, *arrivals) {
	t.Helper()
	world := clienttest.Start(t, clienttest.Options{})
	a, p := &arrivals{fail: fail}, &pen{}
	world.Before(a.hook)
	cert, key, err := world.Person("governor", "gabi")
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(t.Context(), client.With(client.Options{
		Addrs: world.Addrs(), CAFile: world.CAFile(), CertFile: cert, KeyFile: key, Signer: p,
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, p, a
}

func tenant(id string) *kryptonv1.CreateTenantRequest {
	return &kryptonv1.CreateTenantRequest{TenantId: id, Binding: &kryptonv1.Binding{Keystore: "dev", Key: "k"}}
}

func TestI9_EveryAttemptOfACallCarriesTheSameSignatures(t *testing.T) {
	c, p, a := signing(t, 2)
	req := tenant("acme")
	if _, err := c.Tenants().CreateTenant(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if len(p.seen) != 1 || len(a.got) != 3 {
		t.Fatalf("signed %d times for %d attempts, want 1 for 3", len(p.seen), len(a.got))
	}
	for i, m := range a.got {
		if d := cmp.Diff(a.got[0], m, protocmp.Transform()); d != "" {
			t.Errorf("attempt %d differs: %s", i+1, d)
		}
		if got := m.(*kryptonv1.CreateTenantRequest); len(got.GetIntents()) != 1 || got.GetIntents()[0].GetIntent()[0] != 1 {
			t.Errorf("attempt %d carries %v", i+1, got.GetIntents())
		}
	}
	if p.seen[0].(*kryptonv1.CreateTenantRequest).GetRequestId() != a.got[0].(*kryptonv1.CreateTenantRequest).GetRequestId() {
		t.Error("what was signed had not the request id of what was sent")
	}
	if len(req.GetIntents()) != 0 || req.GetRequestId() != "" {
		t.Error("the caller's message was changed")
	}
}

func TestI7_TheRequestOfACallerWithARequestIDIsNotChanged(t *testing.T) {
	c, _, a := signing(t, 0)
	req := tenant("acme")
	req.RequestId = "0190a3c4-1f2e-7c3d-9a4b-5c6d7e8f9a0b"
	if _, err := c.Tenants().CreateTenant(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if len(req.GetIntents()) != 0 || len(a.got[0].(*kryptonv1.CreateTenantRequest).GetIntents()) != 1 {
		t.Error("the signature went into the caller's message, or nowhere")
	}
}

func TestI7_WhatOnlyChecksIsNeverSigned(t *testing.T) {
	c, p, _ := signing(t, 0)
	req := tenant("acme")
	req.ValidateOnly = true
	if _, err := c.Tenants().CreateTenant(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Tenants().ListTenants(t.Context(), &kryptonv1.ListTenantsRequest{}); err != nil {
		t.Fatal(err)
	}
	if len(p.seen) != 0 {
		t.Errorf("signed %d requests, want none", len(p.seen))
	}
}

func TestSignaturesOfTheCallerAreSentAsTheyAre(t *testing.T) {
	c, p, a := signing(t, 0)
	req := tenant("acme")
	req.Intents = []*kryptonv1.SignedIntent{{Intent: []byte("mine")}}
	if _, err := c.Tenants().CreateTenant(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if got := a.got[0].(*kryptonv1.CreateTenantRequest).GetIntents(); len(p.seen) != 0 || len(got) != 1 || string(got[0].GetIntent()) != "mine" {
		t.Errorf("signed %d times, sent %v", len(p.seen), got)
	}
}

func TestSignedByReplacesTheSignerOfTheClient(t *testing.T) {
	c, p, a := signing(t, 0)
	other := &pen{seen: make([]proto.Message, 6)}
	if _, err := c.Tenants().CreateTenant(t.Context(), tenant("acme"), client.SignedBy(other)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Tenants().CreateTenant(t.Context(), tenant("beta"), client.SignedBy(nil)); err != nil {
		t.Fatal(err)
	}
	first, second := a.got[0].(*kryptonv1.CreateTenantRequest), a.got[1].(*kryptonv1.CreateTenantRequest)
	if len(p.seen) != 0 || first.GetIntents()[0].GetIntent()[0] != 7 || len(second.GetIntents()) != 0 {
		t.Errorf("the client's signer was asked %d times; sent %v and %v", len(p.seen), first.GetIntents(), second.GetIntents())
	}
}

func TestNothingIsSentThatTheSignerRefuses(t *testing.T) {
	c, p, a := signing(t, 0)
	p.fail = errors.New("not my will")
	if _, err := c.Tenants().CreateTenant(t.Context(), tenant("acme")); !errors.Is(err, p.fail) {
		t.Errorf("error = %v, want the signer's", err)
	}
	nd := c.Node(c.Addrs()[0])
	if _, err := kryptonv1.NewTenantsClient(nd).CreateTenant(t.Context(), tenant("acme")); !errors.Is(err, p.fail) {
		t.Errorf("error of one node = %v, want the signer's", err)
	}
	if len(a.got) != 0 {
		t.Errorf("%d requests arrived", len(a.got))
	}
}
