package keystore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/keystore"
)

const uid = "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"

// assuming is a keystore that counts the identities it opened and closed.
type assuming struct {
	fake

	opened, ended *int
}

func (a assuming) As(id keystore.Identity) (keystore.Owned, error) {
	if id.Names["role"] == "" {
		return nil, keystore.NewError(keystore.Error{Class: keystore.Misconfigured, Op: keystore.OpOpen}, errors.New("no role"))
	}
	*a.opened++
	return own{fake: fake{closed: a.ended}, owner: id.Tenant + " " + id.Names["role"]}, nil
}

type own struct {
	fake

	owner string
}

func (o own) Owner() string { return o.owner }

func (own) Prove(context.Context, keystore.ProveRequest) (keystore.Proof, error) {
	return keystore.Proof{}, nil
}

func assumers(t *testing.T) (r *keystore.Registry, opened, ended *int) {
	t.Helper()
	opened, ended = new(int), new(int)
	closed := 0
	all := types(&closed)
	all["assuming"] = func(context.Context, keystore.Env, keystore.Config) (keystore.Provider, error) {
		return assuming{fake{closed: &closed}, opened, ended}, nil
	}
	r, err := keystore.Open(t.Context(), env(), []keystore.Config{{Name: "a", Type: "assuming"}, {Name: "b", Type: "assuming"}, {Name: "plain", Type: "good"}}, all)
	if err != nil {
		t.Fatal(err)
	}
	return r, opened, ended
}

func identityOf(tenant, role string) keystore.Identity {
	return keystore.Identity{Tenant: tenant, Names: map[string]string{"role": role}}
}

// TestAnIdentityIsLentToWhoNamesItExactly: another tenant, another name or another
// keystore is another one, and what was opened is opened once.
func TestAnIdentityIsLentToWhoNamesItExactly(t *testing.T) {
	r, opened, ended := assumers(t)
	use := func(store string, id keystore.Identity) (owner string) {
		t.Helper()
		if err := r.With(store, id, func(p keystore.Owned) error { owner = p.Owner(); return nil }); err != nil {
			t.Fatal(err)
		}
		return owner
	}
	other := strings.Repeat("0b", 16)
	for range 3 {
		for _, id := range []keystore.Identity{identityOf(uid, "r"), identityOf(other, "r"), identityOf(uid, "s")} {
			if got, want := use("a", id), id.Tenant+" "+id.Names["role"]; got != want {
				t.Errorf("lent %q, want %q", got, want)
			}
		}
		use("b", identityOf(uid, "r"))
	}
	if *opened != 4 || *ended != 0 {
		t.Errorf("%d opened, %d ended; want 4 and none", *opened, *ended)
	}
	why := errors.New("why")
	if err := r.With("a", identityOf(uid, "r"), func(keystore.Owned) error { return why }); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
	for name, id := range map[string]keystore.Identity{"plain": identityOf(uid, "r"), "none": identityOf(uid, "r"), "a": identityOf(uid, "")} {
		if err := r.With(name, id, func(keystore.Owned) error { return nil }); keystore.ClassOf(err) != keystore.Misconfigured {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := r.Close(); err != nil || *ended != 4 {
		t.Errorf("closed: %v, %d ended", err, *ended)
	}
	if err := r.With("a", identityOf(uid, "r"), func(keystore.Owned) error { return nil }); keystore.ClassOf(err) != keystore.Unavailable {
		t.Errorf("after the end: %v", err)
	}
}

// TestIdentitiesThatNobodyUsesAreBounded, and one that is in use is never closed.
func TestIdentitiesThatNobodyUsesAreBounded(t *testing.T) {
	r, opened, ended := assumers(t)
	const more = 10
	err := r.With("a", identityOf(uid, "busy"), func(keystore.Owned) error {
		for i := range keystore.MaxOwned + more {
			if err := r.With("a", identityOf(uid, fmt.Sprint(i)), func(keystore.Owned) error { return nil }); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || *opened != keystore.MaxOwned+more+1 || *ended != more+1 {
		t.Fatalf("%v: %d opened, %d ended", err, *opened, *ended)
	}
	// The busy one was used last, so it stays; the oldest is opened anew.
	for role, want := range map[string]int{"busy": 0, "0": 1} {
		before := *opened
		if err := r.With("a", identityOf(uid, role), func(keystore.Owned) error { return nil }); err != nil || *opened-before != want {
			t.Errorf("%s: %v, opened %d times", role, err, *opened-before)
		}
	}
	if err := r.Close(); err != nil || *ended != *opened {
		t.Errorf("%v: %d of %d ended", err, *ended, *opened)
	}
}

func TestAnIdentityHasTheNamesOfItsTypeAndNothingElse(t *testing.T) {
	known := []keystore.Setting{
		{Name: "role", Required: true, Check: func(v string) error {
			if strings.Contains(v, "/") {
				return errors.New("want no path")
			}
			return nil
		}},
		{Name: "namespace"},
	}
	good := keystore.Identity{Tenant: uid, Names: map[string]string{"role": "r", "namespace": ""}}
	got, err := good.Only(known)
	if err != nil || len(got.Names) != 1 || got.Names["role"] != "r" || got.Tenant != uid {
		t.Errorf("%+v, %v", got, err)
	}
	for name, id := range map[string]keystore.Identity{
		"an address besides": {Tenant: uid, Names: map[string]string{"role": "r", "address": "secret.example"}},
		"no role":            {Tenant: uid, Names: map[string]string{"namespace": "n"}},
		"a value that is no": {Tenant: uid, Names: map[string]string{"role": "secret/x"}},
		"no tenant":          identityOf("", "r"),
		"a short tenant":     identityOf(uid[:31], "r"),
		"a path for one":     identityOf("../"+uid[3:], "r"),
	} {
		if _, err := id.Only(known); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
