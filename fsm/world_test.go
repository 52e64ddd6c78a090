package fsm_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// tb is what tests, benchmarks and rapid have in common.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
}

const (
	startMS  = int64(1_700_000_000_000)
	hourMS   = int64(3_600_000)
	dayMS    = 24 * hourMS
	destroyW = 7 * dayMS
)

// world is a machine with a log: it counts indexes, time and uids, so that a
// test says only what it is about.
type world struct {
	tb    tb
	m     *fsm.Machine
	index uint64
	term  uint64
	now   int64
	ids   uint64
	log   [][]byte

	pendingApproval string // that the next command of a test is to execute

	governors [][]byte // of the tenants that it makes; nil: of whoever asks
}

func emptyWorld(t tb) *world {
	return &world{tb: t, m: fsm.New(fsm.Options{}), term: 1, now: startMS}
}

// newWorld has a genesis without rules, one node, and IVK version 1.
func newWorld(t tb, change ...func(*fsmpb.Genesis)) *world {
	t.Helper()
	w := emptyWorld(t)
	w.found(w.genesis(), change...)
	return w
}

func (w *world) found(g *fsmpb.Genesis, change ...func(*fsmpb.Genesis)) {
	w.tb.Helper()
	for _, f := range change {
		f(g)
	}
	addFounders(g)
	w.ok(&fsmpb.Command{Body: &fsmpb.Command_Genesis{Genesis: g}})
}

func (w *world) uid() []byte {
	w.ids++
	sum := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("uid"), w.ids))
	return sum[:16]
}

func blob(what string, n int) []byte { return fmt.Appendf(nil, "wrapped %s %d", what, n) }

func nodeID(n int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "node %d", n))
	return hex.EncodeToString(sum[:16])
}

// nodeKey is the member key of a node.
func nodeKey(n int) ed25519.PrivateKey {
	seed := sha256.Sum256(fmt.Appendf(nil, "member key %d", n))
	return ed25519.NewKeyFromSeed(seed[:])
}

func nodeSPKI(n int) []byte {
	b, err := x509.MarshalPKIXPublicKey(nodeKey(n).Public())
	if err != nil {
		panic(err)
	}
	return b
}

func node(n int) *fsmpb.Member {
	return &fsmpb.Member{
		Id: nodeID(n), Name: fmt.Sprintf("node-%d", n), PublicKey: nodeSPKI(n), PeerAddress: fmt.Sprintf("10.0.0.%d:8402", n),
		GrpcAddress: fmt.Sprintf("10.0.0.%d:8400", n), Region: "eu", Zone: "a", MaxFormat: newest, Version: "v0.1.0",
	}
}

func (w *world) genesis() *fsmpb.Genesis {
	ivk := w.uid()
	first := node(0)
	first.Voter = true
	return &fsmpb.Genesis{
		Persons:    founders(),
		KeyspaceId: w.uid(), ClusterId: w.uid(), Name: "prod", FormatVersion: newest, FirstMember: first, SealRecord: encodeSeal(sealRecord()),
		Settings:    &fsmpb.Settings{RollbackWindowMs: dayMS, DestroyWaitMs: destroyW, Voters: 3},
		InternalKey: &fsmpb.Version{Number: 1, Uid: ivk, Blob: blob("ivk", 1)},
		Secrets:     []*fsmpb.Secret{{Name: "node-ca", IvkUid: ivk, Blob: blob("secret", 1), Public: []byte("certificate")}, {Name: "caller-ca", IvkUid: ivk, Blob: blob("secret", 2), Public: callerCA}},
	}
}

func person(name, role string) (*fsmpb.Person, ed25519.PrivateKey) {
	seed := sha256.Sum256([]byte("person " + name))
	key := ed25519.NewKeyFromSeed(seed[:])
	pub, _ := key.Public().(ed25519.PublicKey)
	return &fsmpb.Person{Name: name, Role: role, Key: &fsmpb.PublicKey{Algorithm: fsmpb.KeyAlgorithm_KEY_ALGORITHM_ED25519, Raw: pub}}, key
}

// apply gives the command the next index and, if it has none, the present time and
// somebody who may order it.
func (w *world) apply(cmd *fsmpb.Command) (*fsmpb.Result, error) {
	w.tb.Helper()
	by(cmd).Format = fsm.CommandFormat
	if cmd.GetTimeUnixMs() == 0 {
		cmd.TimeUnixMs = w.now
	}
	raw, err := fsm.EncodeCommand(cmd)
	if err != nil {
		w.tb.Fatalf("encode: %v", err)
	}
	return w.raw(raw)
}

func (w *world) raw(raw []byte) (*fsmpb.Result, error) {
	w.index++
	w.log = append(w.log, raw)
	res, err := w.m.Apply(w.index, w.term, raw)
	if err == nil && w.sampled() {
		checkRestores(w.tb, w.m)
	}
	return res, err
}

func (w *world) do(cmd *fsmpb.Command) *fsmpb.Result {
	w.tb.Helper()
	res, err := w.apply(cmd)
	if err != nil {
		w.tb.Fatalf("apply %T: the machine stopped: %v", cmd.GetBody(), err)
	}
	return res
}

func (w *world) ok(cmd *fsmpb.Command) *fsmpb.Result {
	w.tb.Helper()
	res := w.do(cmd)
	if err := fsm.Err(res); err != nil {
		w.tb.Fatalf("apply %T: %s: %v", cmd.GetBody(), res.GetReason(), err)
	}
	return res
}

func (w *world) refused(code errs.Code, cmd *fsmpb.Command) *fsmpb.Result {
	w.tb.Helper()
	res := w.do(cmd)
	if res.GetReason() != code.String() {
		w.tb.Fatalf("apply %T: got %q (%s), want %s", cmd.GetBody(), res.GetReason(), res.GetMessage(), code)
	}
	if res.GetMessage() == "" || res.GetIndex() == 0 {
		w.tb.Fatalf("apply %T: a refusal without a message or index", cmd.GetBody())
	}
	return res
}

// fork returns a world that has the state of w and goes on by itself.
func (w *world) fork() *world {
	f := *w
	f.m, f.log = w.m.Fork(), slices.Clip(w.log)
	return &f
}

func (w *world) view() *fsm.View { return w.m.View() }

func (w *world) tenantOf(name string) *fsmpb.Tenant {
	w.tb.Helper()
	t, ok := w.view().Tenant(name)
	if !ok {
		w.tb.Fatalf("no tenant %s", name)
	}
	return t
}

func (w *world) serviceOf(tenant, name string) *fsmpb.Service {
	w.tb.Helper()
	s, ok := w.view().Service(tenant, name)
	if !ok {
		w.tb.Fatalf("no service %s/%s", tenant, name)
	}
	return s
}

func (w *world) ivk() *fsmpb.Version {
	vs, primary := w.view().InternalKeys()
	return vs[primary-1]
}

// Commands, complete and valid unless a test changes them.

func ref(tenant, service string) *fsmpb.ObjectRef {
	return &fsmpb.ObjectRef{Tenant: tenant, Service: service}
}

func (w *world) createTenant(name string) *fsmpb.Command {
	l2 := w.uid()
	return &fsmpb.Command{Body: &fsmpb.Command_CreateTenant{CreateTenant: &fsmpb.CreateTenant{
		Name: name, Uid: w.uid(), L2Uid: l2, L2Blob: blob("l2", int(w.ids)), L2IvkUid: w.ivk().GetUid(),
		Binding: &fsmpb.Binding{Keystore: "local", Key: "kek", Archetype: "local"}, Governors: w.governors,
		Version: &fsmpb.Version{Number: 1, Uid: w.uid(), ParentUid: l2, Blob: blob("l2.1", int(w.ids))},
	}}}
}

func (w *world) createService(tenant, name string) *fsmpb.Command {
	t := w.tenantOf(tenant)
	return &fsmpb.Command{Body: &fsmpb.Command_CreateService{CreateService: &fsmpb.CreateService{
		Tenant: tenant, Name: name, Uid: w.uid(), TenantUid: t.GetUid(),
		Version: &fsmpb.Version{Number: 1, Uid: w.uid(), ParentUid: t.GetVersions()[t.GetPrimary()-1].GetUid(), Blob: blob("l3", int(w.ids))},
	}}}
}

func (w *world) addVersion(tenant, service string) *fsmpb.Command {
	t := w.tenantOf(tenant)
	uid, parent, n := t.GetUid(), t.GetL2Uid(), len(t.GetVersions())
	if service != "" {
		s := w.serviceOf(tenant, service)
		uid, parent, n = s.GetUid(), t.GetVersions()[t.GetPrimary()-1].GetUid(), len(s.GetVersions())
	}
	return &fsmpb.Command{Body: &fsmpb.Command_AddVersion{AddVersion: &fsmpb.AddVersion{
		Object: ref(tenant, service), ObjectUid: uid,
		Version: &fsmpb.Version{Number: uint32(n) + 1, Uid: w.uid(), ParentUid: parent, Blob: blob("v", int(w.ids))},
	}}}
}

func (w *world) setPrimary(tenant, service string, number uint32, rollback bool) *fsmpb.Command {
	uid := w.tenantOf(tenant).GetUid()
	if service != "" {
		uid = w.serviceOf(tenant, service).GetUid()
	}
	return &fsmpb.Command{
		Principal: caller("governor", "gov"),
		Body: &fsmpb.Command_SetPrimary{SetPrimary: &fsmpb.SetPrimary{
			Object: ref(tenant, service), ObjectUid: uid, Number: number, Rollback: rollback,
		}},
	}
}

func (w *world) rotate(tenant, service string) uint32 {
	w.tb.Helper()
	n := w.ok(w.addVersion(tenant, service)).GetVersion()
	w.ok(w.setPrimary(tenant, service, n, false))
	return n
}

func changeObject(tenant, service string, e fsmpb.ObjectEvent, cause string) *fsmpb.Command {
	return &fsmpb.Command{Body: &fsmpb.Command_ChangeObject{ChangeObject: &fsmpb.ChangeObject{
		Object: ref(tenant, service), Event: e, Cause: cause,
	}}}
}

func destroyNow(tenant, service string) *fsmpb.Command {
	c := changeObject(tenant, service, fsmpb.ObjectEvent_OBJECT_EVENT_SCHEDULE_DESTROY, "")
	c.GetChangeObject().Now = true
	return c
}

func changeVersion(tenant, service string, n uint32, e fsmpb.VersionEvent) *fsmpb.Command {
	return &fsmpb.Command{Body: &fsmpb.Command_ChangeVersion{ChangeVersion: &fsmpb.ChangeVersion{
		Object: ref(tenant, service), Number: n, Event: e,
	}}}
}

func pin(tenant, service, id string, n uint32) *fsmpb.Command {
	return &fsmpb.Command{Body: &fsmpb.Command_PinResource{PinResource: &fsmpb.PinResource{Tenant: tenant, Service: service, Id: id, Version: n}}}
}

func unpin(tenant, service, id string) *fsmpb.Command {
	return &fsmpb.Command{Body: &fsmpb.Command_UnpinResource{UnpinResource: &fsmpb.UnpinResource{Tenant: tenant, Service: service, Id: id}}}
}

func rollbackPin(tenant, service, id string) *fsmpb.Command {
	return &fsmpb.Command{Body: &fsmpb.Command_RollbackResource{RollbackResource: &fsmpb.RollbackResource{Tenant: tenant, Service: service, Id: id}}}
}

func tick() *fsmpb.Command {
	return &fsmpb.Command{Body: &fsmpb.Command_Tick{Tick: &fsmpb.Tick{}}}
}

func (w *world) addIVK() *fsmpb.Command {
	vs, _ := w.view().InternalKeys()
	return &fsmpb.Command{Body: &fsmpb.Command_AddInternalKey{AddInternalKey: &fsmpb.AddInternalKey{
		Version: &fsmpb.Version{Number: uint32(len(vs)) + 1, Uid: w.uid(), Blob: blob("ivk", len(vs)+1)},
	}}}
}

func (w *world) rewrap(tenant string) *fsmpb.Command {
	t := w.tenantOf(tenant)
	return &fsmpb.Command{Body: &fsmpb.Command_RewrapTenant{RewrapTenant: &fsmpb.RewrapTenant{
		Tenant: tenant, TenantUid: t.GetUid(), L2Uid: t.GetL2Uid(), FromIvkUid: t.GetL2IvkUid(), ToIvkUid: w.ivk().GetUid(),
		L2Blob: blob("l2 again", int(w.index)),
	}}}
}

// putSecret wraps a secret again, or puts a new one.
func (w *world) putSecret(name string) *fsmpb.Command {
	was, _ := w.view().Secret(name)
	return &fsmpb.Command{Body: &fsmpb.Command_PutSecret{PutSecret: &fsmpb.PutSecret{
		Secret: &fsmpb.Secret{Name: name, IvkUid: w.ivk().GetUid(), Blob: blob("secret", int(w.index)), Public: was.GetPublic()},
	}}}
}

// tokenKey is the key of join token n.
func tokenKey(n int) ed25519.PrivateKey {
	seed := sha256.Sum256(fmt.Appendf(nil, "token %d", n))
	return ed25519.NewKeyFromSeed(seed[:])
}

func tokenPublic(n int) []byte { return tokenKey(n)[32:] }

func tokenHash(n int) []byte {
	sum := sha256.Sum256(tokenPublic(n))
	return sum[:]
}

func (w *world) token(n int, voter bool) *fsmpb.Command {
	return &fsmpb.Command{Body: &fsmpb.Command_CreateJoinToken{CreateJoinToken: &fsmpb.CreateJoinToken{
		Token: &fsmpb.JoinToken{Hash: tokenHash(n), ExpireTimeMs: w.now + hourMS, Voter: voter},
	}}}
}

// admission is the signature of a token's key over that member.
func (w *world) admission(token int, c *fsmpb.AddMember) []byte {
	return ed25519.Sign(tokenKey(token), fsm.AdmissionMessage([32]byte(w.view().Cluster().GetFingerprint()), c.GetMember()))
}

// smallOrder is a key under which signatures of nobody verify.
func smallOrder() []byte { return append([]byte{1}, make([]byte, 31)...) }

// join admits a member as the leader does in a cluster of that format.
func (w *world) join(token int, m *fsmpb.Member) *fsmpb.Command {
	c := &fsmpb.AddMember{Member: m, TokenHash: tokenHash(token)}
	if cl := w.view().Cluster(); cl.GetFormatVersion() >= fsm.FormatProofs {
		c.TokenKey, c.Signature = tokenPublic(token), w.admission(token, c)
	}
	return &fsmpb.Command{Body: &fsmpb.Command_AddMember{AddMember: c}}
}

// serialOf returns the serial number of a made-up certificate.
func serialOf(n int) []byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "certificate %d", n))
	sum[0] |= 1
	return sum[:16]
}

// revoke revokes a certificate that has a day left.
func (w *world) revoke(n int) *fsmpb.Command {
	return &fsmpb.Command{
		Body: &fsmpb.Command_RevokeCertificate{RevokeCertificate: &fsmpb.RevokeCertificate{Revocation: &fsmpb.Revocation{
			Serial: serialOf(n), ExpireTimeMs: w.now + dayMS, Reason: "left in a shop", Name: "spiffe://c/krypton/operator/olga",
		}}},
	}
}

func hold(held bool) *fsmpb.Command {
	return &fsmpb.Command{Body: &fsmpb.Command_SetHold{SetHold: &fsmpb.SetHold{Held: held, Reason: "drill"}}}
}

func raise(to uint32) *fsmpb.Command {
	return &fsmpb.Command{Body: &fsmpb.Command_RaiseFormat{RaiseFormat: &fsmpb.RaiseFormat{Version: to}}}
}

// begin begins an epoch of leases of a node.
func begin(n int) *fsmpb.Command {
	return &fsmpb.Command{Body: &fsmpb.Command_LeaseEpoch{LeaseEpoch: &fsmpb.LeaseEpoch{Leader: nodeID(n), Nonce: blob("epoch nonce", 100)[:16]}}}
}

// ofFormat founds a cluster of an older format version, by a node of this release.
func ofFormat(version uint32) func(*fsmpb.Genesis) {
	return func(g *fsmpb.Genesis) { g.FormatVersion = version }
}

// asked gives a command a request id, and a digest that stands for its content.
func asked(id string, cmd *fsmpb.Command) *fsmpb.Command {
	sum := sha256.Sum256([]byte(cmd.String()))
	cmd.RequestId, cmd.RequestDigest = id, sum[:]
	if by(cmd).GetPrincipal() == nil {
		cmd.Principal = caller("governor", "gov") // a request is somebody's
	}
	return cmd
}

// replay applies a log to a new machine.
func replay(t tb, log [][]byte) *fsm.Machine {
	t.Helper()
	m := fsm.New(fsm.Options{})
	for i, raw := range log {
		if _, err := m.Apply(uint64(i)+1, 1, raw); err != nil {
			t.Fatalf("replay index %d: %v", i+1, err)
		}
	}
	return m
}

func sameState(t tb, a, b *fsm.Machine) {
	t.Helper()
	if da, db := a.View().Digest(), b.View().Digest(); da != db {
		t.Fatalf("the states differ: %x, %x", da, db)
	}
}
