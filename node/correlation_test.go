//go:build unix

package node_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/vaultserver"
	"github.com/openkcm/krypton-cluster/keystore/transit"
	"github.com/openkcm/krypton-cluster/node"
)

// TestEachSidesLogHasTheIDOfTheOther: whoever has a record of ours finds the call in the
// log of the keystore, and the other way round. The keystore is a real one, and so is
// what it says when it withdraws a key.
func TestEachSidesLogHasTheIDOfTheOther(t *testing.T) {
	ctx := t.Context()
	c := newCustomers(t)
	vault := c.Server
	check(t, vault.CreateKey(ctx, "customers", "acme", "aes256-gcm96"))
	check(t, vault.AuditHeader(ctx, transit.CorrelationHeader))
	policy := func(paths ...string) {
		t.Helper()
		var text strings.Builder
		for _, p := range paths {
			text.WriteString("path \"customers/" + p + "/acme\" { capabilities = [\"update\", \"read\"] }\n")
		}
		text.WriteString("path \"sys/capabilities-self\" { capabilities = [\"update\"] }\n")
		check(t, vault.Policy(ctx, "node", text.String()))
	}
	policy("encrypt", "decrypt", "keys")

	w, o := newWorld(t)
	w.more = []keystore.Config{c.config("eu")}
	m := w.add(t, o)
	must[*node.InitResult](t)(m.init(autoPlan(t)))
	role := m.unbound(t, "acme")
	c.role(role, "node", "eu")
	check(t, m.bindTenant(w.request(), "acme", bao("acme", role)))
	must[*fsmpb.Service](t)(m.createService(w.request(), "acme", "pay"))
	w.bind(m, auth.RoleWorkload, "acme", "app")
	tg := target("acme", "pay")
	ct, _, err := m.encrypt(tg, []byte("attack at dawn"))
	check(t, err)
	decrypt := func() error {
		return m.do(m.workload("acme"), gate.Decrypt, tg.Name(), func(ctx context.Context, tok gate.Token) error {
			_, used, err := m.Decrypt(ctx, tok, tg, ct)
			tok.Describe(gate.Details{KeyVersion: used.UID, KeystoreRequest: used.KeystoreRequest})
			return err
		})
	}
	reload(t, m)
	check(t, decrypt())

	entries, err := vault.Audited()
	check(t, err)
	calls := map[string]string{} // our id, by theirs
	for _, e := range entries {
		if strings.HasPrefix(e.Request.Path, "customers/") {
			calls[e.Request.ID] = strings.Join(e.Request.Headers[strings.ToLower(transit.CorrelationHeader)], ",")
		}
	}
	found := 0
	for _, r := range m.sink.Records() {
		if r.KeystoreRequest == "" {
			continue
		}
		found++
		if ours, ok := calls[r.KeystoreRequest]; !ok || ours != string(r.Correlation) {
			t.Errorf("our record %s names their call %s, whose record names %q", r.Correlation, r.KeystoreRequest, ours)
		}
	}
	if found < 2 {
		t.Errorf("%d of our records name a call: %v", found, calls)
	}

	policy("encrypt", "keys")
	reload(t, m)
	wants(t, decrypt(), errs.L1Denied)
	refused := m.sink.Records()
	last := refused[len(refused)-1]
	entries, err = vault.Audited()
	check(t, err)
	if !slices.ContainsFunc(entries, func(e vaultserver.Entry) bool {
		return e.Error != "" && slices.Contains(e.Request.Headers[strings.ToLower(transit.CorrelationHeader)], string(last.Correlation))
	}) {
		t.Errorf("their log has no refusal of our call %s", last.Correlation)
	}
}
