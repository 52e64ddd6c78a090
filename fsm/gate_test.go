package fsm_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// gates returns every gate index of a view by the name of what has it.
func gates(v *fsm.View) map[string]uint64 {
	all := make(map[string]uint64)
	versions := func(of string, vs []*fsmpb.Version) {
		for _, ver := range vs {
			all[fmt.Sprintf("%s %d", of, ver.GetNumber())] = fsm.GateIndex(ver)
		}
	}
	if !v.Initialized() {
		return all
	}
	all["hold"] = v.Hold().GetModIndex()
	ivks, _ := v.InternalKeys()
	versions("ivk", ivks)
	for _, tn := range v.Tenants("", 100) {
		all[tn.GetName()] = fsm.GateIndex(tn)
		versions(tn.GetName(), tn.GetVersions())
		for _, s := range v.Services(tn, "", 100) {
			name := tn.GetName() + "/" + s.GetName()
			all[name] = fsm.GateIndex(s)
			versions(name, s.GetVersions())
			for _, r := range v.Resources(s, "", 100) {
				all[name+"#"+r.GetId()] = r.GetModIndex()
			}
		}
	}
	for i, r := range v.Revocations(nil, 100) {
		all[fmt.Sprintf("revocation %d", i+1)] = r.GetModIndex()
	}
	return all
}

// gateLine says what one command does to gate indexes.
type gateLine struct {
	name  string
	world func(tb) *world // default: gateWorld
	first func(*world)    // what was done before
	cmd   func(*world) *fsmpb.Command
	moves []string // what gets the command's index
	gone  []string // what is not there any more
}

// gateWorld has one of everything: two tenants with a service, rotated keys, a
// pinned resource, a second node and an expired token of it.
func gateWorld(t tb) *world {
	t.Helper()
	w := newWorld(t)
	furnish(w)
	return w
}

// olderWorld has the same, from a time before there were gate indexes.
func olderWorld(t tb) *world {
	t.Helper()
	w := newWorld(t, ofFormat(fsm.FormatLeases-1))
	furnish(w)
	w.ok(raise(fsm.FormatLeases))
	return w
}

func furnish(w *world) {
	w.tb.Helper()
	for _, name := range []string{"acme", "beta"} {
		w.ok(w.createTenant(name))
		w.ok(w.createService(name, "pay"))
	}
	w.rotate("acme", "")
	w.rotate("acme", "pay")
	w.ok(pin("acme", "pay", "r", 1))
	w.ok(w.token(1, false))
	w.ok(w.join(1, node(1)))
	w.ok(w.token(2, false))
}

func gateLines() []gateLine {
	after := func(all ...func(*world) *fsmpb.Command) func(*world) {
		return func(w *world) {
			for _, c := range all {
				w.ok(c(w))
			}
		}
	}
	is := func(c func() *fsmpb.Command) func(*world) *fsmpb.Command {
		return func(*world) *fsmpb.Command { return c() }
	}
	object := func(tenant, service string, e fsmpb.ObjectEvent, cause string) func(*world) *fsmpb.Command {
		return is(func() *fsmpb.Command { return changeObject(tenant, service, e, cause) })
	}
	version := func(tenant, service string, n uint32, e fsmpb.VersionEvent) func(*world) *fsmpb.Command {
		return is(func() *fsmpb.Command { return changeVersion(tenant, service, n, e) })
	}
	gone := func(tenant, service string) func(*world) *fsmpb.Command {
		return is(func() *fsmpb.Command { return destroyNow(tenant, service) })
	}
	goneVersion := func(*world) *fsmpb.Command {
		c := changeVersion("acme", "pay", 1, fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY)
		c.GetChangeVersion().Now = true
		return c
	}
	pinned := func(n uint32) func(*world) *fsmpb.Command {
		return is(func() *fsmpb.Command { return pin("acme", "pay", "r", n) })
	}
	unpinned := is(func() *fsmpb.Command { return unpin("acme", "pay", "r") })
	back := is(func() *fsmpb.Command { return rollbackPin("acme", "pay", "r") })
	added := func(tenant, service string) func(*world) *fsmpb.Command {
		return func(w *world) *fsmpb.Command { return w.addVersion(tenant, service) }
	}
	primary := func(tenant, service string, n uint32) func(*world) *fsmpb.Command {
		return func(w *world) *fsmpb.Command { return w.setPrimary(tenant, service, n, false) }
	}
	returned := func(w *world) *fsmpb.Command { return w.setPrimary("acme", "pay", 1, true) }
	held := func(on bool) func(*world) *fsmpb.Command {
		return is(func() *fsmpb.Command { return hold(on) })
	}
	revoked := func(w *world) *fsmpb.Command { return w.revoke(1) }
	later := func(d int64, first ...func(*world) *fsmpb.Command) func(*world) {
		return func(w *world) { after(first...)(w); w.now += d }
	}
	const (
		disable     = fsmpb.VersionEvent_VERSION_EVENT_DISABLE
		enable      = fsmpb.VersionEvent_VERSION_EVENT_ENABLE
		compromise  = fsmpb.VersionEvent_VERSION_EVENT_COMPROMISE
		scheduleVer = fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY
		cancelVer   = fsmpb.VersionEvent_VERSION_EVENT_CANCEL_DESTROY
		deprecate   = fsmpb.VersionEvent_VERSION_EVENT_DEPRECATE
	)
	return []gateLine{
		{name: "a cluster is founded", world: func(t tb) *world { return emptyWorld(t) }, moves: []string{"hold", "ivk 1"}, cmd: func(w *world) *fsmpb.Command {
			return &fsmpb.Command{Body: &fsmpb.Command_Genesis{Genesis: w.genesis()}}
		}},

		{name: "a tenant is made", cmd: func(w *world) *fsmpb.Command { return w.createTenant("new") }, moves: []string{"new", "new 1"}},
		{
			name: "a tenant takes the name of a destroyed one", first: after(gone("beta", "")),
			cmd: func(w *world) *fsmpb.Command { return w.createTenant("beta") }, moves: []string{"beta", "beta 1"}, gone: []string{"beta/pay", "beta/pay 1"},
		},
		{name: "a service is made", cmd: func(w *world) *fsmpb.Command { return w.createService("acme", "log") }, moves: []string{"acme/log", "acme/log 1"}},
		{
			name: "a service takes the name of a destroyed one", first: after(gone("beta", "pay")),
			cmd: func(w *world) *fsmpb.Command { return w.createService("beta", "pay") }, moves: []string{"beta/pay", "beta/pay 1"},
		},

		{name: "a tenant is suspended", cmd: object("acme", "", suspend, ""), moves: []string{"acme"}},
		{name: "a tenant is suspended for another cause", first: after(object("acme", "", suspend, "")), cmd: object("acme", "", suspend, "l1_denied")},
		{name: "one of two causes is gone", first: after(object("acme", "", suspend, ""), object("acme", "", suspend, "l1_denied")), cmd: object("acme", "", resume, "")},
		{name: "a tenant is resumed", first: after(object("acme", "", suspend, "")), cmd: object("acme", "", resume, ""), moves: []string{"acme"}},
		{name: "a tenant is to be destroyed", cmd: object("acme", "", schedule, ""), moves: []string{"acme"}},
		{name: "a tenant is saved", first: after(object("acme", "", schedule, "")), cmd: object("acme", "", cancel, ""), moves: []string{"acme"}},
		{name: "a tenant is destroyed", cmd: gone("acme", ""), moves: []string{"acme", "acme 1", "acme 2"}},
		{name: "a service is suspended", cmd: object("acme", "pay", suspend, ""), moves: []string{"acme/pay"}},
		{name: "a service is destroyed", cmd: gone("acme", "pay"), moves: []string{"acme/pay", "acme/pay 1", "acme/pay 2"}},

		{name: "a tenant key version is added", cmd: added("acme", ""), moves: []string{"acme 3"}},
		{name: "a service key version is added", cmd: added("acme", "pay"), moves: []string{"acme/pay 3"}},
		{name: "a tenant key version becomes primary", first: after(added("acme", "")), cmd: primary("acme", "", 3)},
		{name: "a service key version becomes primary", first: after(added("acme", "pay")), cmd: primary("acme", "pay", 3)},
		{name: "a rotation is taken back", cmd: returned},
		{name: "a tenant key of an older format is rotated", world: olderWorld, first: after(added("acme", "")), cmd: primary("acme", "", 3)},
		{name: "a service key of an older format is rotated", world: olderWorld, first: after(added("acme", "pay")), cmd: primary("acme", "pay", 3)},
		{name: "a service of an older format is suspended", world: olderWorld, cmd: object("acme", "pay", suspend, ""), moves: []string{"acme/pay"}},

		{name: "a version is switched off", cmd: version("acme", "pay", 1, disable), moves: []string{"acme/pay 1"}},
		{name: "a version is switched on", first: after(version("acme", "pay", 1, disable)), cmd: version("acme", "pay", 1, enable), moves: []string{"acme/pay 1"}},
		{name: "a version is deprecated", cmd: version("acme", "pay", 2, deprecate), moves: []string{"acme/pay 2"}},
		{name: "a version is compromised", cmd: version("acme", "pay", 2, compromise), moves: []string{"acme/pay 2"}},
		{name: "a version is to be destroyed", cmd: version("acme", "pay", 1, scheduleVer), moves: []string{"acme/pay 1"}},
		{name: "a version to be destroyed is compromised", first: after(version("acme", "pay", 1, scheduleVer)), cmd: version("acme", "pay", 1, compromise)},
		{name: "a version is saved", first: after(version("acme", "pay", 1, scheduleVer)), cmd: version("acme", "pay", 1, cancelVer), moves: []string{"acme/pay 1"}},
		{name: "a version is destroyed", cmd: goneVersion, moves: []string{"acme/pay 1"}},
		{name: "a tenant key version is switched off", cmd: version("acme", "", 1, disable), moves: []string{"acme 1"}},
		{
			name: "an internal key version is deprecated", first: after(func(w *world) *fsmpb.Command { return w.addIVK() }),
			cmd: version("", "", 1, deprecate), moves: []string{"ivk 1"},
		},

		{name: "a resource is pinned", cmd: is(func() *fsmpb.Command { return pin("acme", "pay", "q", 1) }), moves: []string{"acme/pay#q"}},
		{name: "a resource is pinned to another version", cmd: pinned(2), moves: []string{"acme/pay#r"}},
		{name: "a pin ends", cmd: unpinned, moves: []string{"acme/pay"}, gone: []string{"acme/pay#r"}},
		{
			name: "a pin ends, and another one stays", first: after(is(func() *fsmpb.Command { return pin("acme", "pay", "q", 1) })),
			cmd: unpinned, moves: []string{"acme/pay"}, gone: []string{"acme/pay#r"},
		},
		{name: "a pin is taken back to another one", first: after(pinned(2)), cmd: back, moves: []string{"acme/pay#r"}},
		{name: "a pin is taken back to none", cmd: back, moves: []string{"acme/pay"}, gone: []string{"acme/pay#r"}},

		{name: "an internal key version is added", cmd: func(w *world) *fsmpb.Command { return w.addIVK() }, moves: []string{"ivk 2"}},
		{
			name: "a tenant key is wrapped again", first: after(func(w *world) *fsmpb.Command { return w.addIVK() }),
			cmd: func(w *world) *fsmpb.Command { return w.rewrap("acme") },
		},
		{name: "an internal secret is put", cmd: func(w *world) *fsmpb.Command { return w.putSecret("node-ca") }},

		{name: "a join token is made", cmd: func(w *world) *fsmpb.Command { return w.token(3, false) }},
		{name: "a node joins", cmd: func(w *world) *fsmpb.Command { return w.join(2, node(2)) }},
		{name: "a node announces itself", cmd: is(func() *fsmpb.Command { return update(1, []string{"zone"}, &fsmpb.Member{Zone: "b"}) })},
		{name: "a node is removed", cmd: is(func() *fsmpb.Command { return remove(1) })},
		{name: "a node is purged", first: after(is(func() *fsmpb.Command { return remove(1) })), cmd: is(func() *fsmpb.Command { return purge(1) })},

		{name: "the cluster is held", cmd: held(true), moves: []string{"hold"}},
		{name: "the cluster is held twice", first: after(held(true)), cmd: held(true)},
		{name: "the hold is released", first: after(held(true)), cmd: held(false), moves: []string{"hold"}},
		{name: "a certificate is revoked", cmd: revoked, moves: []string{"revocation 1"}},

		{name: "a tick has nothing to do", cmd: is(tick)},
		// Version 1 of the service key has a pin, so it stays.
		{name: "a rollback window is over", first: later(dayMS), cmd: is(tick), moves: []string{"acme 1"}},
		{name: "a version that was switched off leaves the rollback window", first: later(dayMS, version("acme", "", 1, disable)), cmd: is(tick)},
		{
			name: "a scheduled version goes", first: later(destroyW/2, version("acme", "pay", 1, scheduleVer)), cmd: func(w *world) *fsmpb.Command {
				w.ok(tick()) // the rollback window of the tenant key is over before
				w.now += destroyW / 2
				return tick()
			}, moves: []string{"acme/pay 1"},
		},
		{name: "a scheduled tenant goes", first: later(destroyW, object("beta", "", schedule, ""), version("acme", "", 1, deprecate)), cmd: is(tick), moves: []string{
			"beta", "beta 1", "beta/pay", "beta/pay 1", // the tick goes on with what stands under it
		}},
		{name: "what stood under a destroyed tenant goes", first: after(gone("beta", "")), cmd: is(tick), moves: []string{"beta/pay", "beta/pay 1"}},
		{name: "pins under a destroyed service go", first: after(gone("acme", "pay")), cmd: is(tick), gone: []string{"acme/pay#r"}},
		{
			name: "a revocation is forgotten", first: later(dayMS+fsm.RevocationGraceMS, revoked, version("acme", "", 1, deprecate)),
			cmd: is(tick), gone: []string{"revocation 1"},
		},

		{
			name: "the format is raised", world: func(t tb) *world {
				w := newWorld(t, ofFormat(fsm.FormatLeases-1))
				furnish(w)
				return w
			}, cmd: is(func() *fsmpb.Command { return raise(fsm.FormatLeases) }),
		},
		{name: "the format is raised to that of authority", world: func(t tb) *world {
			w := newWorld(t, ofFormat(fsm.FormatAuthority-1))
			furnish(w)
			return w
		}, cmd: is(func() *fsmpb.Command { return raise(fsm.FormatAuthority) })},
		{name: "a CA is replaced", cmd: func(w *world) *fsmpb.Command { return w.replaceCA("callers", "second", hourMS) }},
		{
			name: "a CA is retired", first: after(func(w *world) *fsmpb.Command { return w.replaceCA("callers", "second", hourMS) }),
			cmd: is(func() *fsmpb.Command { return retireCA("second") }),
		},
		{name: "the seal is repaired", cmd: func(w *world) *fsmpb.Command { return w.repair(rewrapHSM2) }},
		{name: "an issuer is registered", cmd: is(func() *fsmpb.Command { return putIssuer(x509Issuer("corp")) })},
		{
			name: "an issuer is removed", first: after(is(func() *fsmpb.Command { return putIssuer(jwtIssuer("idp")) })),
			cmd: is(func() *fsmpb.Command { return removeIssuer("", "idp") }),
		},
		{name: "a workload is bound", cmd: func(w *world) *fsmpb.Command { return bind(w.workload("acme", "app")) }},
		{
			name: "a workload is unbound", first: after(func(w *world) *fsmpb.Command { return bind(w.workload("acme", "app")) }),
			cmd: is(func() *fsmpb.Command { return unbind("acme", "app") }),
		},
		{
			name: "a tenant is governed by another", first: after(is(func() *fsmpb.Command { return bind(bindingFor("governor", "g1")) })),
			cmd: func(w *world) *fsmpb.Command { return w.setGovernors("acme", w.bindingOf("", "g1").GetUid()) },
		},
		{name: "an approval is requested", world: quorate, cmd: func(w *world) *fsmpb.Command {
			c, _ := w.request("alice", destroyNow("acme", "pay"))
			return c
		}},
		{name: "an approval is approved", world: quorate, cmd: func(w *world) *fsmpb.Command {
			return w.approve(w.requested("alice", destroyNow("acme", "pay")), "bob")
		}},
		{name: "an approval is rejected", world: quorate, cmd: func(w *world) *fsmpb.Command {
			return reject(w.requested("gov", destroyNow("acme", "pay")))
		}},
		{name: "the quorum is changed", cmd: is(func() *fsmpb.Command { return setQuorum(1, 1) }), world: func(t tb) *world {
			w := quorate(t)
			id := w.requested("gov", setQuorum(1, 1))
			w.approvedBy(id, "alice", "bob", "cust")
			w.pendingApproval = id
			return w
		}},
		{name: "a policy is made", cmd: func(w *world) *fsmpb.Command { return w.putPolicy("acme", "p", "one") }, moves: []string{"acme"}},
		{
			name: "a policy gets another text", first: after(func(w *world) *fsmpb.Command { return w.putPolicy("acme", "p", "one") }),
			cmd: func(w *world) *fsmpb.Command { return w.putPolicy("acme", "p", "two") }, moves: []string{"acme"},
		},
		{
			name: "a policy is removed", first: after(func(w *world) *fsmpb.Command { return w.putPolicy("acme", "p", "one") }),
			cmd: is(func() *fsmpb.Command { return removePolicy("acme", "p") }), moves: []string{"acme"},
		},
		{
			name: "policies of a destroyed tenant go", first: after(gone("acme", "pay"), is(tick), func(w *world) *fsmpb.Command { return w.putPolicy("acme", "p", "one") }, gone("acme", "")),
			cmd: is(tick),
		},
		{name: "the cluster is recovered", cmd: func(w *world) *fsmpb.Command { return w.recovery(quorumLost, 0) }},
		{name: "a ceremony begins", world: shared, cmd: func(w *world) *fsmpb.Command { return w.beginCeremony(reshare, people("anna", "ben")) }},
		{name: "a seal is staged", world: shared, cmd: func(w *world) *fsmpb.Command {
			id := w.ok(w.beginCeremony(reshare, people("anna", "ben"))).GetUid()
			return w.stage(id, w.newSeal(id))
		}},
		{name: "a seal is opened", world: shared, cmd: func(w *world) *fsmpb.Command {
			id := w.ok(w.beginCeremony(reshare, people("anna", "ben"))).GetUid()
			w.stagedSeal(id)
			return w.confirm(id, 1)
		}},
		{name: "a seal is proved", world: shared, cmd: func(w *world) *fsmpb.Command {
			id := w.ok(w.beginCeremony(reshare, people("anna", "ben"))).GetUid()
			w.stagedSeal(id)
			return w.prove(0, id, 1, 2)
		}},
		{name: "a seal is committed", world: shared, cmd: func(w *world) *fsmpb.Command {
			id := w.ok(w.beginCeremony(reshare, people("anna", "ben"))).GetUid()
			w.stagedSeal(id)
			w.ok(w.confirm(id, 1, 2))
			return w.commitSeal(id)
		}},
		{name: "a ceremony is cancelled", world: shared, cmd: func(w *world) *fsmpb.Command {
			return cancelSeal(w.ok(w.beginCeremony(reshare, people("anna", "ben"))).GetUid())
		}},
		{name: "what replaces an exposed MasterKey is confirmed", world: func(t tb) *world { return exposable(t, 1) }, cmd: func(w *world) *fsmpb.Command {
			return w.consented(w.confirmSeal(w.stagedExposed()), "cust")
		}},
		{name: "internal keys from before an exposure go", world: exposedWorld(3), cmd: nextStep(3), moves: []string{"ivk 1", "ivk 2"}},
		{name: "a member is clear of an exposure", world: exposedWorld(4), cmd: nextStep(4)},
		{name: "carried keys are dropped", world: exposedWorld(6), cmd: nextStep(6)},
		{name: "an exposure ends", world: exposedWorld(8), cmd: func(w *world) *fsmpb.Command { return finish(w.exposure().Exposure.GetCeremonyId()) }},
		{name: "a backup is noted", cmd: func(w *world) *fsmpb.Command {
			return &fsmpb.Command{Body: &fsmpb.Command_NoteBackup{NoteBackup: &fsmpb.NoteBackup{Backup: &fsmpb.Backup{Node: nodeID(0), Index: w.index}}}}
		}},
		{
			name: "a tenant without a key is bound", first: func(w *world) { w.ok(w.createUnbound("new")) },
			cmd: func(w *world) *fsmpb.Command { return w.bindTenant("new", "a") }, moves: []string{"new", "new 1"},
		},
		{name: "an epoch of leases begins", cmd: is(func() *fsmpb.Command { return begin(1) })},
	}
}

// exposedWorld is a world after so many steps of an exposure.
func exposedWorld(steps int) func(tb) *world {
	return func(t tb) *world {
		t.Helper()
		w := exposable(t, 0)
		for _, s := range w.steps(w.exposedNow())[:steps] {
			w.ok(s())
		}
		return w
	}
}

func nextStep(i int) func(*world) *fsmpb.Command {
	return func(w *world) *fsmpb.Command { return w.steps(w.exposure().Exposure.GetCeremonyId())[i]() }
}

func (l gateLine) prepare(t tb) (*world, *fsmpb.Command) {
	t.Helper()
	at := l.world
	if at == nil {
		at = gateWorld
	}
	w := at(t)
	if l.first != nil {
		l.first(w)
	}
	cmd := l.cmd(w)
	cmd.Approval = w.pendingApproval
	return w, cmd
}

// TestI18_WhatEveryCommandMoves says of every command which gate indexes it
// moves; all others stay. A new command without a line fails.
func TestI18_WhatEveryCommandMoves(t *testing.T) {
	lines := make(map[string]int)
	for _, l := range gateLines() {
		t.Run(l.name, func(t *testing.T) {
			w, cmd := l.prepare(t)
			body := cmd.ProtoReflect()
			lines[string(body.WhichOneof(body.Descriptor().Oneofs().ByName("body")).Name())]++
			want := gates(w.view())
			res := w.ok(cmd)
			for _, name := range l.moves {
				want[name] = res.GetIndex()
			}
			for _, name := range l.gone {
				if _, there := want[name]; !there {
					t.Errorf("%s was not there", name)
				}
				delete(want, name)
			}
			if d := cmp.Diff(want, gates(w.view())); d != "" {
				t.Errorf("gate indexes, index of the command %d (-want +got):\n%s", res.GetIndex(), d)
			}
			restored := fsm.New(fsm.Options{})
			if err := restored.Restore(bytes.NewReader(snapshot(t, w.m, nil))); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, gates(restored.View())); d != "" {
				t.Errorf("gate indexes after a restore (-want +got):\n%s", d)
			}
		})
	}
	bodies := (&fsmpb.Command{}).ProtoReflect().Descriptor().Oneofs().ByName("body").Fields()
	for i := range bodies.Len() {
		if name := string(bodies.Get(i).Name()); lines[name] == 0 {
			t.Errorf("no line says which gate indexes %s moves", name)
		}
	}
}

// TestI18_ASkippableCommandChangesNothing: a release that does not know a command
// may skip it, so one that is done must not move what operations are gated by.
func TestI18_ASkippableCommandChangesNothing(t *testing.T) {
	for _, l := range gateLines() {
		t.Run(l.name, func(t *testing.T) {
			w, cmd := l.prepare(t)
			if cmd.GetRaiseFormat() != nil { // a format to which the rule came later
				w, cmd = gateWorld(t), raise(newest)
			}
			before, members, format := gates(w.view()), w.view().MembersIndex(), w.view().Cluster().GetFormatVersion()
			cmd.Skippable = true
			res := w.do(cmd)
			if res.GetReason() != errs.InvalidArgument.String() || w.m.DryRun(cmd).GetReason() != errs.InvalidArgument.String() {
				t.Errorf("got %v", res)
			}
			v := w.view()
			if d := cmp.Diff(before, gates(v)); d != "" || v.MembersIndex() != members || v.Cluster().GetFormatVersion() != format {
				t.Errorf("a command that may be skipped changed something (-before +after):\n%s", d)
			}
		})
	}
}
