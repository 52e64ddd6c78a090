package sign_test

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

var (
	keyspace = hierarchy.KeyspaceID{1, 2, 3}
	now      = time.UnixMilli(1_800_000_000_000)
)

func destroy() *intent.Request {
	return intent.Destroy{Tenant: "acme", Service: "payments", Version: 3}.Request()
}

func proposal() sign.Proposal {
	return sign.Proposal{
		Keyspace: keyspace, Request: destroy(), Lifetime: time.Hour,
		Preconditions: []intent.Precondition{{Object: "tenants/b", ModIndex: 2}, {Object: "tenants/a", ModIndex: 1}},
	}
}

func expected() sign.Expected {
	return sign.Expected{Keyspace: keyspace, Request: destroy(), Now: now}
}

func newSigner(t testing.TB) sign.Signer {
	t.Helper()
	s, err := sign.New(rand.Reader, newEd25519(t))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// counting is a signer that tells how often it was asked.
type counting struct {
	sign.Signer
	asked int
}

func (c *counting) Sign(ctx context.Context, in intent.Intent) (intent.Signature, error) {
	c.asked++
	return c.Signer.Sign(ctx, in)
}

func TestProposalsBecomeSignedIntents(t *testing.T) {
	t.Parallel()
	nonce := bytes.Repeat([]byte{7}, 16)
	p := proposal()
	f, err := sign.Propose(t.Context(), newSigner(t), p, now, bytes.NewReader(nonce))
	if err != nil {
		t.Fatal(err)
	}
	want := intent.Intent{
		Keyspace: keyspace, Act: intent.ActDestroy, Request: destroy().Digest(), NotAfter: now.UnixMilli() + 3_600_000, Nonce: intent.Nonce(nonce),
		Preconditions: []intent.Precondition{{Object: "tenants/a", ModIndex: 1}, {Object: "tenants/b", ModIndex: 2}},
	}
	if diff := cmp.Diff(want, f.Intent); diff != "" {
		t.Errorf("intent differs (-want +got):\n%s", diff)
	}
	if len(f.Signatures) != 1 || !f.Request.Equal(destroy()) || p.Preconditions[0].Object != "tenants/b" {
		t.Errorf("%+v of %+v", f, p)
	}
	p.Lifetime = 0
	if f, err = sign.Draft(p, now, rand.Reader); err != nil || f.Intent.NotAfter != now.Add(sign.DefaultLifetime).UnixMilli() || f.Signatures != nil {
		t.Errorf("default lifetime: %+v, %v", f.Intent, err)
	}
}

func TestI3_WhatNobodyShouldProposeIsRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*sign.Proposal){
		"no request":           func(p *sign.Proposal) { p.Request = nil },
		"unknown fields":       func(p *sign.Proposal) { p.Request = destroy().Text("note", "x") },
		"unknown act's fields": func(p *sign.Proposal) { p.Request = intent.NewRequest(intent.ActSetPolicy) },
		"not UTF-8":            func(p *sign.Proposal) { p.Request = intent.Destroy{Tenant: "\xff"}.Request() },
		"too long to show": func(p *sign.Proposal) {
			p.Request = intent.Destroy{Tenant: strings.Repeat("a", intent.MaxRequest)}.Request()
		},
		"no keyspace":            func(p *sign.Proposal) { p.Keyspace = hierarchy.KeyspaceID{} },
		"short life":             func(p *sign.Proposal) { p.Lifetime = sign.MinLifetime - 1 },
		"negative life":          func(p *sign.Proposal) { p.Lifetime = -time.Hour },
		"long life":              func(p *sign.Proposal) { p.Lifetime = sign.MaxLifetime + 1 },
		"longest number":         func(p *sign.Proposal) { p.Lifetime = math.MaxInt64 },
		"one object twice":       func(p *sign.Proposal) { p.Preconditions[1] = p.Preconditions[0] },
		"object with a newline":  func(p *sign.Proposal) { p.Preconditions[0].Object = "a\nb" },
		"too many preconditions": func(p *sign.Proposal) { p.Preconditions = many(intent.MaxPreconditions + 1) },
	} {
		p := proposal()
		change(&p)
		s := &counting{Signer: newSigner(t)}
		if _, err := sign.Propose(t.Context(), s, p, now, rand.Reader); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
		if s.asked != 0 {
			t.Errorf("%s: the key was used", name)
		}
		if _, err := sign.Draft(p, now, rand.Reader); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s, unsigned: %v", name, err)
		}
	}
	for name, change := range map[string]func(*sign.Proposal){
		"shortest": func(p *sign.Proposal) { p.Lifetime = sign.MinLifetime },
		"longest":  func(p *sign.Proposal) { p.Lifetime = sign.MaxLifetime },
		"most":     func(p *sign.Proposal) { p.Preconditions = many(intent.MaxPreconditions) },
		"none":     func(p *sign.Proposal) { p.Preconditions = nil },
	} {
		p := proposal()
		change(&p)
		if _, err := sign.Propose(t.Context(), newSigner(t), p, now, rand.Reader); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := sign.Propose(t.Context(), newSigner(t), proposal(), now, bytes.NewReader(make([]byte, 16))); err == nil {
		t.Error("a nonce of zeros is used")
	}
}

func many(n int) []intent.Precondition {
	ps := make([]intent.Precondition, n)
	for i := range ps {
		ps[i].Object = fmt.Sprint("tenants/", n-i)
	}
	return ps
}

func TestI3_CountersignRefusesByName(t *testing.T) {
	t.Parallel()
	draft, err := sign.Draft(proposal(), now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	expire := draft.Intent.NotAfter
	for name, tc := range map[string]struct {
		change func(*intent.Intent, *sign.Expected)
		want   intent.Reason
	}{
		"another keyspace":     {func(_ *intent.Intent, e *sign.Expected) { e.Keyspace[5]++ }, intent.ReasonOtherKeyspace},
		"no keyspace":          {func(_ *intent.Intent, e *sign.Expected) { e.Keyspace = hierarchy.KeyspaceID{} }, intent.ReasonOtherKeyspace},
		"another act":          {func(in *intent.Intent, _ *sign.Expected) { in.Act = intent.ActRekey }, intent.ReasonOtherAct},
		"another request":      {func(_ *intent.Intent, e *sign.Expected) { e.Request = intent.Destroy{Tenant: "acme"}.Request() }, intent.ReasonOtherRequest},
		"a bit of the request": {func(in *intent.Intent, _ *sign.Expected) { in.Request[31] ^= 1 }, intent.ReasonOtherRequest},
		"expired":              {func(_ *intent.Intent, e *sign.Expected) { e.Now = time.UnixMilli(expire) }, intent.ReasonExpired},
		"long expired":         {func(in *intent.Intent, _ *sign.Expected) { in.NotAfter = 1 }, intent.ReasonExpired},
		"too far ahead":        {func(_ *intent.Intent, e *sign.Expected) { e.Now = time.UnixMilli(expire - intent.MaxLifetimeMs - 1) }, intent.ReasonTooLong},
		"for ever":             {func(in *intent.Intent, _ *sign.Expected) { in.NotAfter = math.MaxInt64 }, intent.ReasonTooLong},
		"no clock": {func(in *intent.Intent, e *sign.Expected) {
			in.NotAfter, e.Now = math.MaxInt64, time.Time{}
		}, intent.ReasonMalformed},
	} {
		in, e := draft.Intent, expected()
		tc.change(&in, &e)
		enc, err := in.Encode()
		if err != nil {
			t.Fatal(err)
		}
		s := &counting{Signer: newSigner(t)}
		sig, err := sign.Countersign(t.Context(), s, enc, e)
		if r, ok := errors.AsType[*intent.RefusalError](err); !ok || r.Reason != tc.want || !errs.Is(err, errs.IntentRefused) {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
		if s.asked != 0 || sig.Sig != nil {
			t.Errorf("%s: it was signed", name)
		}
	}
	enc, err := draft.Intent.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"nothing": nil, "cut short": enc[:len(enc)-1], "one byte more": append(bytes.Clone(enc), 0), "another version": append([]byte{2}, enc[1:]...)} {
		s := &counting{Signer: newSigner(t)}
		_, err := sign.Countersign(t.Context(), s, b, expected())
		if r, ok := errors.AsType[*intent.RefusalError](err); !ok || r.Reason != intent.ReasonMalformed || s.asked != 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, e := range map[string]sign.Expected{
		"no request":      {Keyspace: keyspace, Now: now},
		"unknown request": {Keyspace: keyspace, Now: now, Request: destroy().Uint("force", 1)},
	} {
		if _, err := sign.Countersign(t.Context(), newSigner(t), enc, e); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, at := range map[string]int64{"last moment": expire - 1, "first moment": expire - intent.MaxLifetimeMs} {
		e := expected()
		e.Now = time.UnixMilli(at)
		if _, err := sign.Countersign(t.Context(), newSigner(t), enc, e); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// fake is a Signer that returns what it was told to.
type fake struct {
	shows sign.Signer
	uses  sign.Signer
}

func (f fake) PublicKey() intent.PublicKey { return f.shows.PublicKey() }
func (f fake) Sign(ctx context.Context, in intent.Intent) (intent.Signature, error) {
	return f.uses.Sign(ctx, in)
}

func TestI1_CountersignBelievesNoSigner(t *testing.T) {
	t.Parallel()
	f, err := sign.Draft(proposal(), now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Countersign(t.Context(), fake{newSigner(t), newSigner(t)}, expected()); err == nil {
		t.Error("a signature of another key than the one shown is taken")
	}
	stop := errors.New("declined")
	if _, err := f.Countersign(t.Context(), failing{newSigner(t), stop}, expected()); !errors.Is(err, stop) {
		t.Errorf("the signer's error is lost: %v", err)
	}
}

type failing struct {
	sign.Signer
	err error
}

func (f failing) Sign(context.Context, intent.Intent) (intent.Signature, error) {
	return intent.Signature{}, f.err
}

// What is proposed and countersigned here is what a cluster accepts.
func TestSignedIntentsAreAccepted(t *testing.T) {
	t.Parallel()
	ec, err := sign.New(rand.Reader, newECDSA(t, elliptic.P256()))
	if err != nil {
		t.Fatal(err)
	}
	people := map[intent.Person]sign.Signer{"alice": newSigner(t), "bob": ec, "carol": newSigner(t)}
	rapid.Check(t, func(rt *rapid.T) {
		req := intent.Destroy{Tenant: rapid.StringMatching(`[a-z]{1,20}`).Draw(rt, "tenant"), Version: rapid.Uint32().Draw(rt, "version"), Now: rapid.Bool().Draw(rt, "now")}.Request()
		lifetime := time.Duration(rapid.Int64Range(int64(sign.MinLifetime), int64(sign.MaxLifetime)).Draw(rt, "lifetime"))
		p := sign.Proposal{Keyspace: keyspace, Request: req, Lifetime: lifetime, Preconditions: many(rapid.IntRange(0, 5).Draw(rt, "objects"))}
		f, err := sign.Propose(t.Context(), people["alice"], p, now, rand.Reader)
		if err != nil {
			rt.Fatal(err)
		}
		for _, who := range rapid.Permutation([]intent.Person{"bob", "carol"}).Draw(rt, "order") {
			b, err := f.Encode()
			if err != nil {
				rt.Fatal(err)
			}
			if f, err = sign.DecodeFile(b); err != nil {
				rt.Fatal(err)
			}
			if f, err = f.Countersign(t.Context(), people[who], sign.Expected{Keyspace: keyspace, Request: req, Now: now}); err != nil {
				rt.Fatal(err)
			}
		}
		got, err := intent.Verify(f.Signed(), check(people, req, p.Preconditions))
		if err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff([]intent.Person{"alice", "bob", "carol"}, got.Persons); diff != "" {
			rt.Fatalf("persons differ (-want +got):\n%s", diff)
		}
	})
}
