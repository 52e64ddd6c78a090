package node_test

import (
	"context"
	"testing"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
)

func TestI2_TokensOfOtherActsAndObjectsAreRefused(t *testing.T) {
	w, m := cluster1(t)
	tg := target("acme", "pay")
	ct, _, err := m.encrypt(tg, []byte("x"))
	check(t, err)
	o := object("acme", "pay")
	commands := len(w.commands)
	ctx := context.Background()
	for name, op := range map[string]func(tok gate.Token) error{
		"generate": func(tok gate.Token) error { _, _, _, err := m.GenerateDataKey(ctx, tok, tg, 32); return err },
		"unwrap":   func(tok gate.Token) error { _, _, err := m.UnwrapDataKey(ctx, tok, tg, ct); return err },
		"rewrap":   func(tok gate.Token) error { _, _, _, err := m.RewrapDataKey(ctx, tok, tg, ct); return err },
		"encrypt":  func(tok gate.Token) error { _, _, err := m.Encrypt(ctx, tok, tg, ct); return err },
		"decrypt":  func(tok gate.Token) error { _, _, err := m.Decrypt(ctx, tok, tg, ct); return err },
		"create tenant": func(tok gate.Token) error {
			_, err := m.CreateTenant(ctx, tok, w.request(), "x", binding(), nil)
			return err
		},
		"create service": func(tok gate.Token) error { _, err := m.CreateService(ctx, tok, w.request(), "acme", "x"); return err },
		"rotate":         func(tok gate.Token) error { return m.Rotate(ctx, tok, w.request(), o) },
		"rollback":       func(tok gate.Token) error { return m.Rollback(ctx, tok, w.request(), o, 0) },
		"suspend": func(tok gate.Token) error {
			return m.ChangeObject(ctx, tok, w.request(), o, fsmpb.ObjectEvent_OBJECT_EVENT_SUSPEND, 0)
		},
		"nothing": func(tok gate.Token) error { return m.ChangeObject(ctx, tok, w.request(), o, 0, 0) },
		"disable": func(tok gate.Token) error {
			return m.ChangeVersion(ctx, tok, w.request(), o, 1, fsmpb.VersionEvent_VERSION_EVENT_DISABLE, 0)
		},
		"no event":          func(tok gate.Token) error { return m.ChangeVersion(ctx, tok, w.request(), o, 1, 0, 0) },
		"pin":               func(tok gate.Token) error { return m.PinResource(ctx, tok, w.request(), o, "r", 1) },
		"unpin":             func(tok gate.Token) error { return m.UnpinResource(ctx, tok, w.request(), o, "r") },
		"rollback resource": func(tok gate.Token) error { return m.RollbackResource(ctx, tok, w.request(), o, "r") },
		"hold":              func(tok gate.Token) error { return m.SetHold(ctx, tok, w.request(), node.Held, "") },
		"release":           func(tok gate.Token) error { return m.SetHold(ctx, tok, w.request(), node.Released, "") },
		"join token":        func(tok gate.Token) error { return m.CreateJoinToken(ctx, tok, w.request(), &fsmpb.JoinToken{}) },
		"promote":           func(tok gate.Token) error { return m.SetSuffrage(ctx, tok, w.request(), string(m.id), node.Voter) },
		"demote":            func(tok gate.Token) error { return m.SetSuffrage(ctx, tok, w.request(), string(m.id), node.NonVoter) },
		"remove":            func(tok gate.Token) error { return m.RemoveMember(ctx, tok, w.request(), string(m.id)) },
		"seal":              func(tok gate.Token) error { return m.Seal(ctx, tok) },
		"contribute":        func(tok gate.Token) error { return m.Contribute(ctx, tok, nil) },
		"shard":             func(tok gate.Token) error { _, err := m.GetShard(tok, node.ShardOf{Index: 1}); return err },
		"reset":             func(tok gate.Token) error { return m.ResetShares(tok) },
		"init":              func(tok gate.Token) error { _, err := m.Init(ctx, tok, autoPlan(t)); return err },
		"certificate": func(tok gate.Token) error {
			_, _, err := m.IssueCaller(ctx, tok, w.request(), node.Caller{Role: auth.RoleWorkload, Tenant: "acme", Name: "x", PublicKey: m.spki()}, 0)
			return err
		},
	} {
		for _, wrong := range []struct {
			act gate.Act
			obj string
		}{{gate.GetService, o.Name()}, {gate.GetTenant, "tenants/other"}, {gate.GetCluster, node.ObjectCluster}} {
			err := m.do(m.governor(), wrong.act, wrong.obj, func(_ context.Context, tok gate.Token) error { return op(tok) })
			if !errs.Is(err, errs.Denied) {
				t.Errorf("%s with a token for %v: %v", name, wrong.act, err)
			}
		}
	}
	// The right act on another object.
	for name, err := range map[string]error{
		"encrypt": m.do(m.workload("acme"), gate.Encrypt, target("acme", "log").Name(), func(ctx context.Context, tok gate.Token) error {
			_, _, err := m.Encrypt(ctx, tok, tg, nil)
			return err
		}),
		"rotate": m.do(m.governor(), gate.RotateService, object("acme", "log").Name(), func(ctx context.Context, tok gate.Token) error {
			return m.Rotate(ctx, tok, w.request(), o)
		}),
		"destroy now": m.do(m.governor(), gate.DestroyVersion, o.VersionName(1), func(ctx context.Context, tok gate.Token) error {
			return m.ChangeVersion(ctx, tok, w.request(), o, 1, fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY, node.WithoutWait)
		}),
		"delete now": m.do(m.governor(), gate.DeleteTenant, "tenants/acme", func(ctx context.Context, tok gate.Token) error {
			return m.ChangeObject(ctx, tok, w.request(), object("acme", ""), fsmpb.ObjectEvent_OBJECT_EVENT_SCHEDULE_DESTROY, node.WithoutWait)
		}),
	} {
		if !errs.Is(err, errs.Denied) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(w.commands) != commands {
		t.Error("something was proposed")
	}
	check(t, m.ServingErr())
}
