package node_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal"
)

func snapshot(t *testing.T, m *fsm.Machine, mac fsm.MACFunc) []byte {
	t.Helper()
	var buf bytes.Buffer
	must[int64](t)(m.Snapshot().WriteTo(&buf, mac))
	return buf.Bytes()
}

// restore is what Raft does with a snapshot, from the disk or from the leader.
func (m *member) restore(t *testing.T, b []byte) {
	t.Helper()
	check(t, m.machine.Restore(bytes.NewReader(b)))
	i, _, _ := m.machine.Applied()
	m.applied = int(i)
}

// forge edits the objects of a snapshot and mends its checksum, as whoever can
// write to a disk can. There is no MAC at its end.
func forge(t *testing.T, b []byte, edit func(*fsmpb.SnapshotItem)) []byte {
	t.Helper()
	next := func() []byte {
		n := binary.BigEndian.Uint32(b)
		part := b[4 : 4+n]
		b = b[4+n:]
		return part
	}
	out := bytes.Clone(b[:12])
	b = b[12:]
	put := func(p []byte) { out = append(binary.BigEndian.AppendUint32(out, uint32(len(p))), p...) }
	put(next()) // header
	for binary.BigEndian.Uint32(b) != 0 {
		it := &fsmpb.SnapshotItem{}
		check(t, proto.Unmarshal(next(), it))
		edit(it)
		put(must[[]byte](t)(proto.MarshalOptions{Deterministic: true}.Marshal(it)))
	}
	out = append(out, b[:12]...) // the end, and the number of objects
	sum := sha256.Sum256(out)
	return append(append(out, sum[:]...), 0)
}

func sign(b []byte, m *fsm.Machine, mac fsm.MACFunc) []byte {
	return signBy(m.View().Generation(), b, m, mac)
}

// signBy is sign with the MasterKey that is in force in b, and not in the machine.
func signBy(g hierarchy.Generation, b []byte, m *fsm.Machine, mac fsm.MACFunc) []byte {
	sum := [32]byte(b[len(b)-33 : len(b)-1])
	i, _, chain := m.Applied()
	tag, _ := mac(g, []byte("krypton/v1/snapshot"), sum[:], binary.BigEndian.AppendUint64(nil, i), chain[:])
	return append(append(bytes.Clone(b[:len(b)-1]), 1), tag[:]...)
}

func TestI9_OnlyAnAuthenticSnapshotIsServed(t *testing.T) {
	w, m := cluster1(t)
	tg := target("acme", "pay")
	ct, _, err := m.encrypt(tg, []byte("x"))
	check(t, err)
	check(t, m.changeVersion(w.request(), object("acme", "pay"), 1, disable, 0))
	good := snapshot(t, m.machine, m.MAC)
	none := snapshot(t, m.machine, nil)
	revived := forge(t, none, func(it *fsmpb.SnapshotItem) {
		if s := it.GetService(); s != nil {
			for _, v := range s.GetVersions() {
				v.State, v.StateBefore = fsmpb.VersionState_VERSION_STATE_ACTIVE, 0
			}
		}
	})
	other, _ := memsec.Random(rand.Reader, memsec.KeySize, memsec.Hot)
	defer other.Destroy()
	fake := func(_ hierarchy.Generation, parts ...[]byte) ([32]byte, bool) {
		sum, err := memsec.MAC(other, parts...)
		return sum, err == nil
	}
	if !bytes.Equal(sign(none, m.machine, m.MAC), good) {
		t.Fatal("the test does not sign as a node does")
	}
	for name, c := range map[string]struct {
		b    []byte
		want errs.Code // of decrypting; the version is disabled
		msg  string
	}{
		"authentic":                 {good, errs.FailedState, ""},
		"without a MAC":             {none, errs.StateCorrupt, "no proof of who wrote it"},
		"edited":                    {revived, errs.StateCorrupt, "no proof of who wrote it"},
		"edited, with a wrong MAC":  {sign(revived, m.machine, fake), errs.StateCorrupt, "not authentic"},
		"with another cluster's":    {sign(none, m.machine, fake), errs.StateCorrupt, "not authentic"},
		"edited, with the old MAC":  {append(bytes.Clone(revived[:len(revived)-1]), good[len(good)-33:]...), errs.StateCorrupt, "not authentic"},
		"a MAC of another checksum": {append(bytes.Clone(none[:len(none)-1]), append([]byte{1}, make([]byte, 32)...)...), errs.StateCorrupt, "not authentic"},
	} {
		t.Run(name, func(t *testing.T) {
			// At a start.
			b := w.add(t, options{})
			w.members = w.members[:1]
			b.id, b.key = m.id, m.key
			b.boot(t)
			check(t, copyFile(m.dir, b.dir, "record.pb"))
			b.boot(t)
			b.restore(t, c.b)
			check(t, b.AskKeystores(t.Context()))
			_, _, err := b.decrypt(tg, ct)
			wants(t, err, c.want)
			if !strings.Contains(errs.From(err).Msg, c.msg) {
				t.Errorf("%v", err)
			}
			if c.want == errs.StateCorrupt && !strings.Contains(errs.From(err).Hint, "join again") {
				t.Errorf("no next step: %v", err)
			}
			if _, err := b.createService(w.request(), "acme", "more"); c.want == errs.StateCorrupt && err == nil {
				t.Error("a key was made from an unproved state")
			}
			if _, _, err := b.IssueNode(t.Context(), string(m.id), must[[]byte](t)(x509.MarshalPKIXPublicKey(m.key.Public()))); c.want == errs.StateCorrupt && !errs.Is(err, errs.StateCorrupt) {
				t.Errorf("a certificate from an unproved state: %v", err)
			}
			// And what a leader sends to a node that serves.
			b.boot(t)
			b.restore(t, good)
			check(t, b.AskKeystores(t.Context()))
			check(t, b.ServingErr())
			b.restore(t, c.b)
			_, _, err = b.decrypt(tg, ct)
			wants(t, err, c.want)
			// A good one from the leader mends it.
			b.restore(t, good)
			check(t, b.ServingErr())
		})
	}
}

func copyFile(from, to, name string) error {
	b, err := os.ReadFile(filepath.Join(from, name))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(to, name), b, 0o600)
}

// attackersRecord makes a seal record that opens to a MasterKey of the attacker's own.
func attackersRecord(t *testing.T, w *world, keyspace hierarchy.KeyspaceID, g hierarchy.Generation, m *member) seal.Record {
	t.Helper()
	r, mk, _, err := seal.Create(t.Context(), rand.Reader, seal.Ceremony{
		Keyspace: keyspace, Cluster: hierarchy.ClusterID{9}, ID: hierarchy.UID{9}, Generation: g, Time: w.clock.Now(),
	}, seal.Plan{ProviderKeys: []seal.ProviderKey{{Provider: "sealing", Key: sealKey}}}, m.stores)
	check(t, err)
	mk.Destroy()
	return r
}

// rekeyed makes a seal record of another MasterKey that follows that of the cluster.
func rekeyed(t *testing.T, w *world, was seal.Record, m *member) seal.Record {
	t.Helper()
	r, mk, _, err := seal.Create(t.Context(), rand.Reader, seal.Ceremony{
		Keyspace: was.Keyspace(), Cluster: was.Cluster(), ID: hierarchy.UID{9}, Generation: was.Generation() + 1, Time: w.clock.Now(),
	}, seal.Plan{Kind: seal.KindRekey, Previous: was.ManifestDigest(), ProviderKeys: []seal.ProviderKey{{Provider: "sealing", Key: sealKey}}}, m.stores)
	check(t, err)
	mk.Destroy()
	return r
}

func manifestIn(t *testing.T, r seal.Record) []byte {
	t.Helper()
	return must[[]byte](t)(proto.Marshal(r.Proto().GetManifest()))
}

func TestI8_OnlyTheRecordOfThePinnedClusterIsTakenOver(t *testing.T) {
	w, m := cluster1(t)
	path := filepath.Join(m.dir, "record.pb")
	genuine := must[seal.Record](t)(seal.ReadFile(path, hierarchy.KeyspaceID{}))
	onDisk := func() seal.Digest { return must[seal.Record](t)(seal.ReadFile(path, hierarchy.KeyspaceID{})).Digest() }
	log := snapshot(t, m.machine, nil)

	// A registry with another record, which is all a snapshot on a disk has to say.
	for name, r := range map[string]seal.Record{
		"same generation":  attackersRecord(t, w, genuine.Keyspace(), 1, m),
		"later generation": rekeyed(t, w, genuine, m),
		"other keyspace":   attackersRecord(t, w, hierarchy.KeyspaceID{7}, 2, m),
	} {
		raw := must[[]byte](t)(r.Marshal())
		forged := forge(t, log, func(it *fsmpb.SnapshotItem) {
			if c := it.GetCluster(); c != nil {
				c.SealRecord, c.SealManifests = raw, [][]byte{manifestIn(t, r)}
			}
		})
		stop(m.Node)
		m.boot(t)
		if name != "later generation" { // what follows no seal of the cluster is not restored at all
			wants(t, m.machine.Restore(bytes.NewReader(forged)), errs.StateCorrupt)
			continue
		}
		m.restore(t, forged)
		m.Observe(t.Context())
		if onDisk() != genuine.Digest() {
			t.Fatalf("%s: a sealed node took over a forged record", name)
		}
		check(t, m.AskKeystores(t.Context()))
		m.Observe(t.Context())
		if onDisk() != genuine.Digest() {
			t.Errorf("%s: taken over from an unproved snapshot", name)
		}
	}
	// A registry of another cluster.
	stop(m.Node)
	m.boot(t)
	m.follow()
	m.mu.Lock()
	m.pinned = &seal.Fingerprint{1}
	m.mu.Unlock()
	check(t, os.Remove(path))
	m.boot(t)
	m.follow()
	m.Observe(t.Context())
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Error("the record of another cluster was taken over")
	}
	m.setPin()
	m.Observe(t.Context())
	if onDisk() != genuine.Digest() {
		t.Error("the own record is not kept")
	}

	// A forged file on the disk: the node opens the attacker's MasterKey before it
	// knows its cluster, and seals itself when it does.
	for _, keyspace := range []hierarchy.KeyspaceID{genuine.Keyspace(), {7}} {
		check(t, seal.WriteFile(path, attackersRecord(t, w, keyspace, 1, m)))
		stop(m.Node)
		m.boot(t)
		check(t, m.AskKeystores(t.Context()))
		if !m.Unsealed() {
			t.Fatal("the forged record does not open")
		}
		wants(t, m.ServingErr(), errs.NotServing)
		m.follow()
		m.Observe(t.Context())
		if m.Unsealed() || onDisk() != genuine.Digest() {
			t.Error("the node stays unsealed by a forged record")
		}
		check(t, m.AskKeystores(t.Context()))
		ct, _, err := m.encrypt(target("acme", "pay"), []byte("x"))
		check(t, err)
		_, _, err = m.decrypt(target("acme", "pay"), ct)
		check(t, err)
	}
}

// What a sealed node may not do with its registry, a serving one may: a record of
// a later MasterKey.
func TestALaterRecordIsTakenOverByANodeThatServes(t *testing.T) {
	w, m := cluster1(t)
	path := filepath.Join(m.dir, "record.pb")
	genuine := must[seal.Record](t)(seal.ReadFile(path, hierarchy.KeyspaceID{}))
	adopt := func(r seal.Record) {
		raw := must[[]byte](t)(r.Marshal())
		b := forge(t, snapshot(t, m.machine, nil), func(it *fsmpb.SnapshotItem) {
			if c := it.GetCluster(); c != nil {
				c.SealRecord, c.SealManifests = raw, [][]byte{manifestIn(t, r)}
			}
		})
		m.restore(t, sign(b, m.machine, m.MAC))
		m.Observe(t.Context())
	}
	later := rekeyed(t, w, genuine, m) // nobody's: there is no rekey yet
	adopt(later)
	if got := must[seal.Record](t)(seal.ReadFile(path, hierarchy.KeyspaceID{})); got.Digest() != later.Digest() {
		t.Fatal("not taken over")
	}
	if m.Unsealed() {
		t.Error("the node keeps the keys of the MasterKey before")
	}
	// And it does not go back to the record before with an older registry.
	stop(m.Node)
	m.boot(t)
	m.follow()
	m.Observe(t.Context())
	if got := must[seal.Record](t)(seal.ReadFile(path, hierarchy.KeyspaceID{})); got.Digest() != later.Digest() {
		t.Error("a node went back to an older MasterKey")
	}
}

func TestADamagedRecordIsRefusedAtTheStart(t *testing.T) {
	w, m := cluster1(t)
	check(t, os.WriteFile(filepath.Join(m.dir, "record.pb"), []byte("KRYPSEAL nonsense"), 0o600))
	_, err := node.New(node.Config{RecordPath: filepath.Join(m.dir, "record.pb"), Pinned: m.pin, Machine: m.machine, Clock: w.clock, Logger: discard()})
	wants(t, err, errs.StateCorrupt)
}

// TestI1_ARemovedMemberGetsNoCertificateFromANodeThatWasBehind: it knew the member
// while it had no lease, and has one by the time at which it signs.
func TestI1_ARemovedMemberGetsNoCertificateFromANodeThatWasBehind(t *testing.T) {
	w, m := cluster1(t)
	b := w.add(t, options{})
	w.join(b)
	spki := must[[]byte](t)(x509.MarshalPKIXPublicKey(b.key.Public()))
	_, _, err := m.IssueNode(t.Context(), string(b.id), spki)
	check(t, err)
	m.behind.Store(true)
	m.contact.Store(1 << 62)
	check(t, fsm.Err(w.commit(&fsmpb.Command{Format: fsm.CommandFormat, Principal: localOperator(), Body: &fsmpb.Command_RemoveMember{
		RemoveMember: &fsmpb.RemoveMember{Id: string(b.id)},
	}})))
	m.sinkHook(func() {
		m.sinkHook(nil)
		m.follow()
		m.contact.Store(0)
	})
	_, _, err = m.IssueNode(t.Context(), string(b.id), spki)
	wants(t, err, errs.Denied)
}

func TestCertificatesAreForWhoExists(t *testing.T) {
	w, m := cluster1(t)
	other := person(t, "x").PublicKey
	spki := must[[]byte](t)(x509.MarshalPKIXPublicKey(m.key.Public()))
	leaf, ca, err := m.IssueNode(t.Context(), string(m.id), spki)
	if r := last(m.records("node.issue_certificate")); r.Object != node.NodeName(string(m.id)) || r.Outcome != errs.OutcomeOK || r.Correlation == "" {
		t.Errorf("the certificate of a member is recorded as %+v", r)
	}
	check(t, err)
	check(t, leaf.CheckSignatureFrom(ca))
	if !slices.Contains(leaf.DNSNames, "localhost") || !slices.Contains(leaf.DNSNames, "krypton.example") || len(leaf.IPAddresses) != 1 {
		t.Errorf("%v, %v", leaf.DNSNames, leaf.IPAddresses)
	}
	for name, c := range map[string]struct {
		id  string
		key []byte
	}{"stranger": {strings.Repeat("0", 32), spki}, "other key": {string(m.id), other}, "no key": {string(m.id), nil}} {
		if _, _, err := m.IssueNode(t.Context(), c.id, c.key); !errs.Is(err, errs.Denied) {
			t.Errorf("%s: %v", name, err)
		}
	}
	keys := map[auth.Role][]byte{auth.RoleWorkload: m.spki(), auth.RoleAuditor: person(t, "auditor").PublicKey}
	issue := func(role auth.Role, tenant hierarchy.Name) (leaf, nodeCA *x509.Certificate, err error) {
		object := node.ObjectCluster
		if tenant != "" {
			object = hierarchy.TenantPath(tenant).String()
		}
		err = m.do(m.governor(), gate.IssueCertificate, object, func(ctx context.Context, tok gate.Token) (err error) {
			leaf, nodeCA, err = m.IssueCaller(ctx, tok, w.request(), node.Caller{Role: role, Tenant: tenant, Name: "other", PublicKey: keys[role]}, 0)
			return err
		})
		return leaf, nodeCA, err
	}
	leaf, nodeCA, err := issue(auth.RoleWorkload, "acme")
	check(t, err)
	if !nodeCA.Equal(ca) || len(leaf.URIs) != 1 {
		t.Error("the wrong issuer of nodes, or no identity")
	}
	caller, ok := node.Authority(m.machine.View(), node.SecretCallerCA)
	if !ok || leaf.CheckSignatureFrom(caller) != nil {
		t.Error("not of the callers' issuer")
	}
	_, _, err = issue(auth.RoleAuditor, "")
	check(t, err)
	_, _, err = issue(auth.RoleWorkload, "none")
	wants(t, err, errs.NotFound)
	check(t, m.changeObject(w.request(), object("acme", ""), destroyO, node.WithoutWait))
	_, _, err = issue(auth.RoleWorkload, "acme")
	wants(t, err, errs.NotFound)
	// I1: a node that cannot prove its view signs nothing.
	m.contact.Store(1 << 62)
	_, _, err = issue(auth.RoleAuditor, "")
	wants(t, err, errs.NotServing)
	_, _, err = m.IssueNode(t.Context(), string(m.id), spki)
	wants(t, err, errs.NotServing)
	m.contact.Store(0)
	check(t, m.sealNode())
	_, _, err = issue(auth.RoleAuditor, "")
	wants(t, err, errs.Sealed)
}

// A node that was held starts with a registry from before the hold and hears from
// its leader at once, before it has applied what it missed.
func TestAnOldRegistryDoesNotReleaseAHold(t *testing.T) {
	w, m := cluster1(t)
	old := snapshot(t, m.machine, m.MAC)
	check(t, m.setHold(w.request(), node.Held))
	check(t, m.setHold(w.request(), node.Held)) // asked for once more: the same hold
	stop(m.Node)
	m.boot(t)
	m.restore(t, old)
	m.Observe(t.Context())
	check(t, m.AskKeystores(t.Context()))
	if m.Unsealed() {
		t.Fatal("a registry from before the hold released it")
	}
	m.follow()
	m.Observe(t.Context())
	check(t, m.setHold(w.request(), node.Released))
	check(t, m.AskKeystores(t.Context()))
	check(t, m.ServingErr())
	if _, err := os.Stat(filepath.Join(m.dir, "held")); !os.IsNotExist(err) {
		t.Errorf("the file of the hold is left: %v", err)
	}
	// Held and released and held while this node was away: the last hold counts.
	check(t, m.setHold(w.request(), node.Held))
	first := must[[]byte](t)(readFile(m.dir, "held"))
	check(t, m.setHold(w.request(), node.Released))
	check(t, m.setHold(w.request(), node.Held))
	if again := must[[]byte](t)(readFile(m.dir, "held")); bytes.Equal(first, again) {
		t.Error("the file names an earlier hold")
	}
	// A file that says nothing holds until a person looks.
	check(t, m.setHold(w.request(), node.Released))
	stop(m.Node)
	check(t, os.WriteFile(filepath.Join(m.dir, "held"), []byte("?"), 0o600))
	m.boot(t)
	m.follow()
	check(t, m.AskKeystores(t.Context()))
	wants(t, m.ServingErr(), errs.Held)
	if !strings.Contains(errs.From(m.ServingErr()).Hint, "remove seal/held") {
		t.Errorf("no next step: %v", m.ServingErr())
	}
}
