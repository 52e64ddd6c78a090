package guard_test

import (
	"context"
	"testing"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/guard"
)

// assuming is a scripted keystore in which identities can be assumed, each scripted by itself.
type assuming struct {
	*scripted

	as map[string]*scripted
}

func (a assuming) As(id keystore.Identity) (keystore.Owned, error) {
	return owned{a.as[id.Tenant], id.Tenant}, nil
}

type owned struct {
	*scripted

	tenant string
}

func (o owned) Owner() string { return "owner " + o.tenant }

func (o owned) Prove(_ context.Context, req keystore.ProveRequest) (keystore.Proof, error) {
	return keystore.Proof{Key: "proved " + string(req.Key), RequestID: "r-2"}, nil
}

// TestI6_IdentitiesStayVisibleAndAreGuarded: one that is away does not stand in the way
// of another with a key of the same name.
func TestI6_IdentitiesStayVisibleAndAreGuarded(t *testing.T) {
	a := assuming{newScripted(), map[string]*scripted{"a": newScripted(), "b": newScripted()}}
	p, ok := guard.New(a, "p", env(), guard.Options{Attempts: 1}, nil).(keystore.Assumer)
	if !ok {
		t.Fatal("the guard hides that identities can be assumed")
	}
	if _, imports := p.(keystore.Importer); imports {
		t.Error("the guard makes an importer of what is none")
	}
	if _, assumes := guard.New(newScripted(), "p", env(), guard.Options{}, nil).(keystore.Assumer); assumes {
		t.Error("the guard makes an assumer of what is none")
	}
	one, err := p.As(keystore.Identity{Tenant: "a"})
	if err != nil {
		t.Fatal(err)
	}
	other, err := p.As(keystore.Identity{Tenant: "b"})
	if err != nil {
		t.Fatal(err)
	}
	proof, err := one.Prove(t.Context(), keystore.ProveRequest{Key: "k"})
	if err != nil || proof.Key != "proved k" || one.Owner() != "owner a" {
		t.Errorf("%+v, %v, %q", proof, err, one.Owner())
	}
	a.as["a"].set("k", keystore.Unavailable)
	for range 6 {
		wants(t, unwrap(t.Context(), one, "k"), keystore.Unavailable, "")
	}
	wants(t, unwrap(t.Context(), one, "k"), keystore.Unavailable, "not asked")
	if err := unwrap(t.Context(), other, "k"); err != nil {
		t.Errorf("the other identity: %v", err)
	}
}
