package node_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"path/filepath"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/agebox"
)

// shareKey makes the identity of a person and its recipient.
func shareKey(t *testing.T, w *world) (*agebox.Identities, string) {
	t.Helper()
	ids := must[*agebox.Identities](t)(agebox.NewIdentities(w.clock.Now()))
	t.Cleanup(ids.Destroy)
	return ids, must[[]agebox.Public](t)(ids.Public())[0].Recipient
}

func (m *member) getShard(of node.ShardOf) (out node.Shard, err error) {
	err = m.do(m.custodian("cust"), gate.GetShard, node.ObjectSeal, func(_ context.Context, tok gate.Token) (err error) {
		out, err = m.GetShard(tok, of)
		return err
	})
	return out, err
}

// TestPersonsOpenTheirSharesAndUnsealWithoutAQuorum starts a node alone, with the
// record and the pin that a start finds on disk.
func TestPersonsOpenTheirSharesAndUnsealWithoutAQuorum(t *testing.T) {
	w, o := newWorld(t)
	m := w.add(t, o)
	anna, toAnna := shareKey(t, w)
	ben, toBen := shareKey(t, w)
	c := seal.Ceremony{Generation: 1, Time: w.clock.Now()}
	c.Keyspace[0], c.Cluster[0], c.ID[0] = 1, 2, 3
	const ssh = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFvmBrMAtsYYuBfMo9KJVmXa0tT9kcyD4ZzFmXlcNTEp"
	rec, master, printed, err := seal.Create(t.Context(), rand.Reader, c, seal.Plan{Groups: []seal.Group{{Threshold: 2, Holders: []seal.Holder{
		{Name: "anna", Recipient: toAnna},
		{Name: "ben", Recipient: toBen},
		{Name: "ben again", Recipient: toBen},
		{Name: "dora", Recipient: ssh + " dora@example"},
		{Name: "emil"},
		{Name: "vault", Key: seal.ProviderKey{Provider: "sealing", Key: sealKey}},
	}}}}, m.stores)
	check(t, err)
	master.Destroy()
	for _, s := range printed {
		s.Destroy()
	}

	_, err = m.getShard(node.ShardOf{Index: 1})
	wants(t, err, errs.NotSealed) // it has no record
	check(t, seal.WriteFile(filepath.Join(m.dir, "record.pb"), rec))
	m.mu.Lock()
	m.pinned = &seal.Fingerprint{7}
	m.mu.Unlock()
	m.boot(t)

	for name, c := range map[string]struct {
		of   node.ShardOf
		want int
		code errs.Code
	}{
		"number":           {node.ShardOf{Index: 2}, 2, 0},
		"name":             {node.ShardOf{Holder: "anna"}, 1, 0},
		"recipient":        {node.ShardOf{Recipient: toAnna}, 1, 0},
		"ssh":              {node.ShardOf{Recipient: ssh}, 4, 0},
		"ssh with comment": {node.ShardOf{Recipient: ssh + " dora@example"}, 4, 0},
		"other comment":    {node.ShardOf{Recipient: ssh + " somebody"}, 0, errs.NotFound},
		"half a key":       {node.ShardOf{Recipient: toAnna[:100]}, 0, errs.NotFound},
		"kind of key":      {node.ShardOf{Recipient: "ssh-ed25519"}, 0, errs.NotFound},
		"two of one key":   {node.ShardOf{Recipient: toBen}, 0, errs.FailedState},
		"printed":          {node.ShardOf{Holder: "emil"}, 0, errs.FailedState},
		"of a keystore":    {node.ShardOf{Holder: "vault"}, 0, errs.FailedState},
		"number 7":         {node.ShardOf{Index: 7}, 0, errs.NotFound},
		"nobody":           {node.ShardOf{Holder: "frida"}, 0, errs.NotFound},
		"nothing":          {node.ShardOf{}, 0, errs.NotFound},
	} {
		got, err := m.getShard(c.of)
		if c.code != 0 {
			wants(t, err, c.code)
			if err != nil && strings.Contains(err.Error(), "frida") {
				t.Errorf("%s: the error repeats what was asked: %v", name, err)
			}
			continue
		}
		check(t, err)
		sum := sha256.Sum256(got.File)
		if got.Index != c.want || !bytes.Equal(sum[:], got.Manifest.GetHolders()[c.want-1].GetEncryptedShardHash()) {
			t.Errorf("%s gave share %d, want %d", name, got.Index, c.want)
		}
	}

	for n, p := range []struct {
		index int
		ids   *agebox.Identities
	}{{1, anna}, {3, ben}} {
		got := must[node.Shard](t)(m.getShard(node.ShardOf{Index: p.index}))
		plain, err := p.ids.Decrypt(got.File, seal.ShardSize)
		check(t, err)
		s := must[seal.Share](t)(seal.ReadShard(plain))
		plain.Destroy()
		check(t, seal.CheckShare(got.Manifest, s))
		s = must[seal.Share](t)(s.Claim(seal.Fingerprint{7}))
		st := must[node.SealStatus](t)(m.GetSeal())
		if st.Have != n || st.Unsealed {
			t.Errorf("before the share of %d: %d given, unsealed %v", p.index, st.Have, st.Unsealed)
		}
		sealed, err := seal.SealShare(st.Offer, m.key.Public(), s)
		s.Destroy()
		check(t, err)
		check(t, m.contributeRaw(sealed))
	}
	if !m.Unsealed() {
		t.Error("the shares of two persons did not unseal the node")
	}
	// A drill on an unsealed node.
	_ = must[node.Shard](t)(m.getShard(node.ShardOf{Index: 1}))
}

func TestAClusterThatAKeystoreOpensHasNoShares(t *testing.T) {
	w, o := newWorld(t)
	m := w.add(t, o)
	_ = must[*node.InitResult](t)(m.init(autoPlan(t)))
	_, err := m.getShard(node.ShardOf{Index: 1})
	wants(t, err, errs.FailedState)
}
