package fsm_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// personUIDOf is the uid of a person's binding, written from docs/formats.md.
func personUIDOf(clusterID []byte, role, name string) []byte {
	var b []byte
	for _, part := range [][]byte{[]byte("krypton/v1/binding-uid"), clusterID, []byte(role + "/" + name)} {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(part))), part...)
	}
	sum := sha256.Sum256(b)
	return sum[:16]
}

func TestTheGenesisBindsItsPersons(t *testing.T) {
	w := newWorld(t)
	checkFounded(t, w, false)
	if got := w.view().AuthorityAt(); got != 1 {
		t.Errorf("authority changed at %d", got)
	}
}

// TestAnOlderClusterBecomesOneWithAuthority: what worked goes on, and the persons
// of the genesis hold the power that they held.
func TestAnOlderClusterBecomesOneWithAuthority(t *testing.T) {
	for _, from := range []uint32{1, fsm.FormatRevocations, fsm.FormatLeases} {
		w := newWorld(t, ofFormat(from))
		furnish(w)
		if from >= fsm.FormatRevocations {
			w.ok(w.revoke(1))
		}
		before := w.view().AuthorityAt()
		w.ok(raise(fsm.FormatAuthority))
		checkFounded(t, w, true)
		if at := w.view().AuthorityAt(); at != w.index || at == before {
			t.Errorf("authority changed at %d, was %d", at, before)
		}
		checkInvariantsOfRaised(t, w)

		// The tenants from before are governed by everybody of the platform, and
		// can get governors of their own.
		w.ok(w.createService("acme", "log"))
		w.ok(bind(bindingFor("governor", "g1")))
		c := w.createService("acme", "more")
		c.Principal = caller("governor", "g1")
		w.refused(errs.Denied, c)
		w.ok(w.setGovernors("acme", w.bindingOf("", "g1").GetUid()))
		w.ok(c)
		w.ok(w.createService("acme", "by-gov")) // who governs every tenant still does
		w.refused(errs.FailedState, unbind("", "gov"))
		w.ok(w.setGovernors("beta", w.bindingOf("", "g1").GetUid()))
		w.ok(unbind("", "gov"))
		w.refused(errs.Unauthenticated, w.createTenant("new"))
		again := replay(t, w.log)
		sameState(t, w.m, again)
		m := fsm.New(fsm.Options{})
		if err := m.Restore(bytes.NewReader(snapshot(t, w.m, nil))); err != nil {
			t.Fatal(err)
		}
		sameState(t, w.m, m)
	}
}

func checkInvariantsOfRaised(t *testing.T, w *world) {
	t.Helper()
	for _, tn := range w.view().Tenants("", 10) {
		if len(tn.GetGovernors()) != 0 || !w.view().Governs(w.bindingOf("", "gov"), tn) {
			t.Errorf("tenant %v", tn)
		}
	}
	// Operators, auditors and workloads of certificates from before go on.
	c := w.token(8, false)
	c.Principal = caller("operator", "oscar")
	w.ok(c)
	c = w.createTenant("x")
	c.Principal = caller("governor", "one-who-is-no-person-of-the-genesis")
	w.refused(errs.Unauthenticated, c)
}

func checkFounded(t *testing.T, w *world, raised bool) {
	t.Helper()
	v := w.view()
	id := v.Cluster().GetClusterId()
	i := w.issuerOf("", fsm.BuiltinIssuer)
	want := &fsmpb.Issuer{
		Id: "builtin", Uid: builtin, Roles: []string{"governor", "custodian", "operator", "auditor", "workload"}, AllTenants: true,
		Kind:         &fsmpb.Issuer_X509{X509: &fsmpb.X509Issuer{Certificates: [][]byte{callerCA}, TrustDomain: hex.EncodeToString(id) + ".krypton"}},
		CreateTimeMs: w.now, ModIndex: w.index,
	}
	if raised {
		want.UnboundRoles = []string{"operator", "auditor", "workload"}
	}
	if !proto.Equal(i, want) || len(v.Issuers()) != 1 {
		t.Errorf("builtin is %v, want %v", i, want)
	}
	persons := v.Cluster().GetPersons()
	if len(v.Bindings("", "", 10)) != len(persons) {
		t.Errorf("%d bindings of %d persons", len(v.Bindings("", "", 10)), len(persons))
	}
	for _, p := range persons {
		governor := p.GetRole() == "governor"
		want := &fsmpb.RoleBinding{
			Id: p.GetName(), Uid: personUIDOf(id, p.GetRole(), p.GetName()), IssuerUid: builtin, Subject: p.GetRole() + "/" + p.GetName(),
			Role: p.GetRole(), Name: p.GetName(), Platform: governor, EveryTenant: governor && raised,
			Keys: []*fsmpb.BindingKey{{Key: p.GetKey(), Sign: true, Tls: true}}, CreateTimeMs: w.now, ModIndex: w.index,
		}
		if b := w.bindingOf("", p.GetName()); !proto.Equal(b, want) {
			t.Errorf("%s is bound as %v, want %v", p.GetName(), b, want)
		}
	}
}

// TestPersonsWithNamesThatAreNoIDsAreBoundToo: an id has no dots, a person may.
func TestPersonsWithNamesThatAreNoIDsAreBoundToo(t *testing.T) {
	w := newWorld(t, func(g *fsmpb.Genesis) {
		p, _ := person("a.lovelace_2", "governor")
		g.Persons = append(g.Persons, p)
	})
	uid := personUIDOf(w.view().Cluster().GetClusterId(), "governor", "a.lovelace_2")
	if b := w.bindingOf("", "governor-"+hex.EncodeToString(uid[:8])); b.GetName() != "a.lovelace_2" || b.GetSubject() != "governor/a.lovelace_2" {
		t.Errorf("binding %v", b)
	}
	if got := fsm.PersonUID(w.view().Cluster().GetClusterId(), "governor", "a.lovelace_2"); got != hierarchy.UID(uid) {
		t.Errorf("uid %s", got)
	}
}

func TestNoClusterWithoutAuthority(t *testing.T) {
	for name, change := range map[string]func(*fsmpb.Genesis){
		"no CA for callers":   func(g *fsmpb.Genesis) { g.Secrets = g.GetSecrets()[:1] },
		"a CA that is none":   func(g *fsmpb.Genesis) { g.Secrets[1].Public = []byte("certificate") },
		"nobody governs":      func(g *fsmpb.Genesis) { g.Persons = g.GetPersons()[1:] },
		"nobody":              func(g *fsmpb.Genesis) { g.Persons = nil },
		"a name with a slash": func(g *fsmpb.Genesis) { g.Persons[0].Name = "a/b" },
	} {
		t.Run(name, func(t *testing.T) {
			w := emptyWorld(t)
			g := w.genesis()
			change(g)
			if res := w.do(&fsmpb.Command{Body: &fsmpb.Command_Genesis{Genesis: g}}); fsm.Err(res) == nil || w.view().Initialized() {
				t.Errorf("founded: %v", res)
			}
			// Nor does an older one become one: it stays as it is.
			old := emptyWorld(t)
			g = old.genesis()
			change(g)
			ofFormat(fsm.FormatAuthority - 1)(g)
			old.ok(&fsmpb.Command{Body: &fsmpb.Command_Genesis{Genesis: g}})
			if res := old.do(raise(fsm.FormatAuthority)); fsm.Err(res) == nil {
				t.Errorf("raised: %v", res)
			}
			if v := old.view(); v.Cluster().GetFormatVersion() != fsm.FormatAuthority-1 || len(v.Issuers()) != 0 || len(v.Bindings("", "", 9)) != 0 {
				t.Error("a refused raise left something behind")
			}
		})
	}
}

func TestASetIssuerRuleNeedsTheFormatThatHasTheAct(t *testing.T) {
	w := newWorld(t, func(g *fsmpb.Genesis) {
		g.Rules = []*fsmpb.IntentRule{{Act: 17, Role: "governor", Signatures: 1, RequesterCounts: true}}
	})
	w.refused(errs.IntentRefused, putIssuer(jwtIssuer("idp")))
	if !slices.Equal([]uint32{17}, []uint32{w.view().Cluster().GetRules()[0].GetAct()}) {
		t.Error("the rule is gone")
	}
}
