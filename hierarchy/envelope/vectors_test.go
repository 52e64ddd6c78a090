package envelope_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
)

const vectorsFile = "testdata/vectors.json"

// writeVectors makes the vectors of a new format version. It refuses to touch a
// file that exists: released bytes are never regenerated.
var writeVectors = flag.Bool("write-vectors", false, "write testdata/vectors.json, which must not exist")

type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

func (h *hexBytes) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

type vectors struct {
	Comment   string         `json:"comment"`
	Envelopes []vector       `json:"envelopes"`
	Nested    []nestedVector `json:"nested"`
	MasterKey []mkVector     `json:"masterKey"`
	MustFail  []vector       `json:"mustFail"`
}

type vector struct {
	Name       string      `json:"name"`
	Why        string      `json:"why,omitempty"`
	Purpose    string      `json:"purpose"`
	Parent     hexBytes    `json:"parent"`
	Keyspace   hexBytes    `json:"keyspace"`
	Tenant     hexBytes    `json:"tenant"`
	Service    hexBytes    `json:"service"`
	Version    hexBytes    `json:"version"`
	Subject    hexBytes    `json:"subject"`
	Resource   string      `json:"resource"`
	Context    [][2]string `json:"context"`
	Session    hexBytes    `json:"session,omitempty"`
	Nonce      hexBytes    `json:"nonce,omitempty"`
	Plaintext  hexBytes    `json:"plaintext"`
	Ctx        hexBytes    `json:"ctx,omitempty"`
	Commitment hexBytes    `json:"commitment,omitempty"`
	Key        hexBytes    `json:"key,omitempty"`
	AAD        hexBytes    `json:"aad,omitempty"`
	Blob       hexBytes    `json:"blob"`
}

type nestedVector struct {
	Name       string   `json:"name"`
	Keyspace   hexBytes `json:"keyspace"`
	Tenant     hexBytes `json:"tenant"`
	L2ID       hexBytes `json:"l2Id"`
	IVK        hexBytes `json:"ivk"`
	IVKVersion hexBytes `json:"ivkVersion"`
	K1         hexBytes `json:"k1"`
	L1Blob     hexBytes `json:"l1Blob"`
	L1AAD      hexBytes `json:"l1Aad"`
	L2         hexBytes `json:"l2"`
	Rand       hexBytes `json:"rand"` // in order of use: K1, inner session and nonce, outer session and nonce
	Blob       hexBytes `json:"blob"`

	NewIVK        hexBytes `json:"newIvk"`
	NewIVKVersion hexBytes `json:"newIvkVersion"`
	NewRand       hexBytes `json:"newRand"`
	Rewrapped     hexBytes `json:"rewrapped"`
}

type mkVector struct {
	MasterKey   hexBytes `json:"masterKey"`
	Keyspace    hexBytes `json:"keyspace"`
	Generation  uint64   `json:"generation"`
	GenID       hexBytes `json:"generationId"`
	IVKParent   hexBytes `json:"ivkParent"`
	RegistryMAC hexBytes `json:"registryMac"`
	Backup      hexBytes `json:"backup"`
	Commitment  hexBytes `json:"commitment"`
}

func loadVectors(t testing.TB) vectors {
	t.Helper()
	f, err := os.Open(vectorsFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := json.NewDecoder(f)
	d.DisallowUnknownFields() // a field that no test reads is no test
	var v vectors
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	if len(v.Envelopes) == 0 || len(v.Nested) == 0 || len(v.MasterKey) == 0 || len(v.MustFail) == 0 {
		t.Fatal("vectors are missing")
	}
	return v
}

// fixed is a deterministic source: bytes that depend on its name only.
type fixed struct {
	name string
	n    uint64
	buf  []byte
	read []byte // everything it gave out
}

func (f *fixed) Read(p []byte) (int, error) {
	for len(f.buf) < len(p) {
		h := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("krypton vectors/"+f.name+"/"), f.n))
		f.n++
		f.buf = append(f.buf, h[:]...)
	}
	copy(p, f.buf[:len(p)])
	f.read = append(f.read, f.buf[:len(p)]...)
	f.buf = f.buf[len(p):]
	return len(p), nil
}

func bytesOf(name string, n int) []byte {
	b := make([]byte, n)
	_, _ = (&fixed{name: name}).Read(b)
	return b
}

func idOf(name string) hierarchy.UID { return hierarchy.UID(bytesOf(name, 16)) }

func take(t testing.TB, b []byte) memsec.Secret {
	t.Helper()
	s, err := memsec.Take(slices.Clone(b), memsec.Hot)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Destroy)
	return s
}

func same(t testing.TB, s memsec.Secret, want []byte) bool {
	t.Helper()
	eq, err := memsec.Equal(s, take(t, want))
	if err != nil {
		t.Fatal(err)
	}
	return eq
}

func purposeOf(t testing.TB, wire string) hierarchy.Purpose {
	t.Helper()
	for _, p := range hierarchy.Purposes() {
		if p.Wire() == wire {
			return p
		}
	}
	t.Fatalf("purpose %q is unknown", wire)
	return 0
}

func contextOf(t testing.TB, pairs [][2]string) hierarchy.EncryptionContext {
	t.Helper()
	ps := make([]hierarchy.ContextPair, len(pairs))
	for i, p := range pairs {
		ps[i] = hierarchy.ContextPair{Key: p[0], Value: p[1]}
	}
	c, err := hierarchy.NewEncryptionContext(ps...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func uidOf(b []byte) (u hierarchy.UID) { copy(u[:], b); return u }

func (v vector) binding(t testing.TB) envelope.Binding {
	t.Helper()
	return envelope.Binding{
		Purpose: purposeOf(t, v.Purpose), Keyspace: hierarchy.KeyspaceID(uidOf(v.Keyspace)),
		Tenant: uidOf(v.Tenant), Service: uidOf(v.Service), Version: uidOf(v.Version), Subject: uidOf(v.Subject),
		Resource: hierarchy.ResourceID(v.Resource), Context: contextOf(t, v.Context),
	}
}

func (v vector) scope(t testing.TB) envelope.Scope {
	t.Helper()
	b := v.binding(t)
	return envelope.Scope{Keyspace: b.Keyspace, Tenant: b.Tenant, Service: b.Service, Version: b.Version}
}

func orNil(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

func (v vector) place() place {
	return place{
		purpose: v.Purpose, keyspace: v.Keyspace, tenant: orNil(v.Tenant), service: orNil(v.Service), version: v.Version,
		subject: orNil(v.Subject), resource: v.Resource, context: v.Context,
	}
}

// openOurs opens the vector's blob with this package, by whichever function its
// purpose has, and compares the content.
func (v vector) openOurs(t testing.TB, parent memsec.Secret, b envelope.Binding, blob []byte) error {
	t.Helper()
	if v.Purpose == "data" {
		o, err := envelope.NewOpener(parent, scopeFor(b), envelope.NewQuota(4))
		if err != nil {
			return err
		}
		defer o.Close()
		pt, err := o.Open(nil, b, blob)
		if err == nil && !bytes.Equal(pt, v.Plaintext) {
			t.Fatalf("%s: opens to other data", v.Name)
		}
		return err
	}
	s, err := envelope.Unwrap(parent, b, blob, memsec.Hot)
	if err != nil {
		return err
	}
	defer s.Destroy()
	if !same(t, s, v.Plaintext) {
		t.Fatalf("%s: opens to another key", v.Name)
	}
	return nil
}

func scopeFor(b envelope.Binding) envelope.Scope {
	return envelope.Scope{Keyspace: b.Keyspace, Tenant: b.Tenant, Service: b.Service, Version: b.Version}
}

// seal makes the blob of the vector's inputs with randomness from rand.
func (v vector) seal(t testing.TB, rand *fixed) []byte {
	t.Helper()
	parent, b := take(t, v.Parent), v.binding(t)
	var blob []byte
	var err error
	if v.Purpose == "data" {
		var s *envelope.Sealer
		if s, err = envelope.NewSealer(rand, clock.NewFake(time.Unix(0, 0)), parent, b.Purpose, scopeFor(b), envelope.Limits{}); err != nil {
			t.Fatal(err)
		}
		defer s.Retire()
		blob, err = s.Seal(nil, b, v.Plaintext)
	} else {
		blob, err = envelope.Wrap(rand, parent, b, take(t, v.Plaintext))
	}
	if err != nil {
		t.Fatalf("%s: %v", v.Name, err)
	}
	return blob
}

func TestVectorsOpen(t *testing.T) {
	covered := map[string]bool{"l1-wrap": true, "l2-outer": true, "l2-inner": true} // by the nested vectors
	for _, v := range loadVectors(t).Envelopes {
		covered[v.Purpose] = true
		t.Run(v.Name, func(t *testing.T) {
			if err := v.openOurs(t, take(t, v.Parent), v.binding(t), v.Blob); err != nil {
				t.Errorf("this package: %v", err)
			}
			p := v.place()
			pt, err := p.open(v.Parent, v.Blob)
			if err != nil || !bytes.Equal(pt, v.Plaintext) {
				t.Errorf("second reader: %v", err)
			}
			for what, pair := range map[string][2][]byte{
				"ctx":        {p.ctx(v.Session), v.Ctx},
				"commitment": {p.commitment(v.Parent, v.Session), v.Commitment},
				"key":        {p.key(v.Parent, v.Session), v.Key},
				"aad":        {p.aad(v.Blob[:78]), v.AAD},
				"session":    {v.Blob[18:34], v.Session},
				"nonce":      {v.Blob[66:78], v.Nonce},
			} {
				if !bytes.Equal(pair[0], pair[1]) {
					t.Errorf("%s is %x, want %x", what, pair[0], pair[1])
				}
			}
			if got := v.binding(t).AppendDerivation(nil, [16]byte(v.Session)); !bytes.Equal(got, v.Ctx) {
				t.Errorf("AppendDerivation: %x", got)
			}
			if got := v.binding(t).AppendAAD(nil, v.Blob[:78]); !bytes.Equal(got, v.AAD) {
				t.Errorf("AppendAAD: %x", got)
			}
		})
	}
	for _, p := range hierarchy.Purposes() {
		if !covered[p.Wire()] {
			t.Errorf("no vector for %s", p)
		}
	}
}

func (v nestedVector) binding(version []byte) envelope.Binding {
	return envelope.Binding{
		Purpose: hierarchy.PurposeL2Outer, Keyspace: hierarchy.KeyspaceID(uidOf(v.Keyspace)), Tenant: uidOf(v.Tenant),
		Version: uidOf(version), Subject: uidOf(v.L2ID),
	}
}

// keystore is a customer's keystore that knows one blob.
func (v nestedVector) keystore(t testing.TB) (envelope.WrapL1, envelope.UnwrapL1) {
	t.Helper()
	return func(_ context.Context, k1 memsec.Secret, aad []byte) ([]byte, error) {
			if !same(t, k1, v.K1) || !bytes.Equal(aad, v.L1AAD) {
				t.Errorf("%s: keystore got another K1 or associated data", v.Name)
			}
			return v.L1Blob, nil
		}, func(_ context.Context, blob, aad []byte) (memsec.Secret, error) {
			if !bytes.Equal(blob, v.L1Blob) || !bytes.Equal(aad, v.L1AAD) {
				t.Errorf("%s: keystore got another blob or associated data", v.Name)
			}
			return memsec.Take(slices.Clone(v.K1), memsec.Hot)
		}
}

func TestNestedVectorsOpen(t *testing.T) {
	for _, v := range loadVectors(t).Nested {
		wrap, unwrap := v.keystore(t)
		second := func(wrapped, aad []byte) ([]byte, error) {
			if !bytes.Equal(wrapped, v.L1Blob) || !bytes.Equal(aad, v.L1AAD) {
				return nil, errReader
			}
			return v.K1, nil
		}
		for _, gen := range []struct{ ivk, version, blob hexBytes }{{v.IVK, v.IVKVersion, v.Blob}, {v.NewIVK, v.NewIVKVersion, v.Rewrapped}} {
			l2, err := envelope.OpenL2(t.Context(), take(t, gen.ivk), v.binding(gen.version), unwrap, gen.blob, memsec.Cold)
			if err != nil {
				t.Fatalf("%s: %v", v.Name, err)
			}
			if !same(t, l2, v.L2) {
				t.Errorf("%s: opens to another key", v.Name)
			}
			l2.Destroy()
			p := place{purpose: "l2-outer", keyspace: v.Keyspace, tenant: v.Tenant, version: gen.version, subject: v.L2ID}
			got, err := p.openL2(gen.ivk, gen.blob, second)
			if err != nil || !bytes.Equal(got, v.L2) {
				t.Errorf("%s: second reader: %v", v.Name, err)
			}
		}
		again, err := envelope.NestL2(t.Context(), bytes.NewReader(v.Rand), take(t, v.IVK), v.binding(v.IVKVersion), wrap, take(t, v.L2))
		if err != nil || !bytes.Equal(again, v.Blob) {
			t.Errorf("%s: nesting again gives other bytes: %v", v.Name, err)
		}
		again, err = envelope.RewrapOuter(bytes.NewReader(v.NewRand), take(t, v.IVK), v.binding(v.IVKVersion), take(t, v.NewIVK), v.binding(v.NewIVKVersion), v.Blob)
		if err != nil || !bytes.Equal(again, v.Rewrapped) {
			t.Errorf("%s: rewrapping again gives other bytes: %v", v.Name, err)
		}
		if got := envelope.L1AAD(hierarchy.KeyspaceID(uidOf(v.Keyspace)), uidOf(v.Tenant), uidOf(v.L2ID)); !bytes.Equal(got, v.L1AAD) {
			t.Errorf("%s: L1AAD %x", v.Name, got)
		}
	}
}

func TestI7_MasterKeyVectors(t *testing.T) {
	for _, v := range loadVectors(t).MasterKey {
		mk := take(t, v.MasterKey)
		for name, d := range map[string]struct {
			f    func(memsec.Secret) (memsec.Secret, error)
			want []byte
		}{
			"ivk": {envelope.IVKParent, v.IVKParent}, "mac": {envelope.RegistryMACKey, v.RegistryMAC}, "backup": {envelope.BackupKey, v.Backup},
		} {
			s, err := d.f(mk)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if !same(t, s, d.want) || s.Class() != memsec.Cold {
				t.Errorf("%s: another key, or kept hot", name)
			}
			s.Destroy()
		}
		c, err := envelope.MasterKeyCommitment(mk, hierarchy.KeyspaceID(uidOf(v.Keyspace)), hierarchy.Generation(v.Generation))
		if err != nil || !bytes.Equal(c[:], v.Commitment) {
			t.Errorf("commitment %x, %v", c, err)
		}
		if g := hierarchy.Generation(v.Generation).VersionUID(); !bytes.Equal(g[:], v.GenID) || !bytes.Equal(g[:], rdGeneration(v.Generation)) {
			t.Errorf("generation id %x", g)
		}
		a, b, k, com := rdMasterKey(v.MasterKey, v.Keyspace, v.Generation)
		if !bytes.Equal(a, v.IVKParent) || !bytes.Equal(b, v.RegistryMAC) || !bytes.Equal(k, v.Backup) || !bytes.Equal(com, v.Commitment) {
			t.Error("second reader derives otherwise")
		}
	}
	mk := take(t, bytesOf("mk", 32))
	if _, err := envelope.MasterKeyCommitment(mk, hierarchy.KeyspaceID{}, 1); err == nil {
		t.Error("commitment without a keyspace")
	}
	if _, err := envelope.MasterKeyCommitment(mk, hierarchy.KeyspaceID{1}, 0); err == nil {
		t.Error("commitment without a generation")
	}
	short := take(t, bytesOf("mk", 31))
	if _, err := envelope.IVKParent(short); err == nil {
		t.Error("a MasterKey of 31 bytes")
	}
	if _, err := envelope.MasterKeyCommitment(short, hierarchy.KeyspaceID{1}, 1); err == nil {
		t.Error("commitment to a MasterKey of 31 bytes")
	}
}

func TestVectorsThatMustFail(t *testing.T) {
	for _, v := range loadVectors(t).MustFail {
		t.Run(v.Name, func(t *testing.T) {
			err := v.openOurs(t, take(t, v.Parent), v.binding(t), v.Blob)
			if !errs.Is(err, errs.Integrity) {
				t.Errorf("%s: %v, want a refusal", v.Why, err)
			}
			if _, err := v.place().open(v.Parent, v.Blob); err == nil {
				t.Errorf("%s: the second reader opens it", v.Why)
			}
		})
	}
}

func TestTheSecondReaderIsIndependent(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "reader_test.go", nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	allowed := []string{"bytes", "crypto/aes", "crypto/cipher", "crypto/hmac", "crypto/sha256", "encoding/binary", "errors", "sort"}
	for _, i := range f.Imports {
		if path := strings.Trim(i.Path.Value, `"`); !slices.Contains(allowed, path) {
			t.Errorf("reader_test.go imports %s", path)
		}
	}
}

// TestDocumentationShowsTheVectors holds the worked example of docs/formats.md
// to the first vector of purpose data.
func TestDocumentationShowsTheVectors(t *testing.T) {
	doc, err := os.ReadFile("../../docs/formats.md")
	if err != nil {
		t.Fatal(err)
	}
	// Values are broken into lines and labelled: what remains is their digits.
	text := strings.Join(slices.DeleteFunc(strings.Fields(string(doc)), func(w string) bool {
		_, err := hex.DecodeString(w)
		return err != nil
	}), "")
	i := slices.IndexFunc(loadVectors(t).Envelopes, func(v vector) bool { return v.Name == exampleName })
	v := loadVectors(t).Envelopes[i]
	for what, b := range map[string][]byte{
		"parent": v.Parent, "keyspace": v.Keyspace, "tenant": v.Tenant, "service": v.Service, "version": v.Version, "session": v.Session,
		"nonce": v.Nonce, "plaintext": v.Plaintext, "ctx": v.Ctx, "commitment": v.Commitment, "key": v.Key, "aad": v.AAD, "blob": v.Blob,
	} {
		if !strings.Contains(text, hex.EncodeToString(b)) {
			t.Errorf("docs/formats.md does not show the %s of %q: %x", what, v.Name, b)
		}
	}
}

const exampleName = "data, resource and context"

// TestVectorsAreWhatThisCodeMakes makes every vector again from its inputs and
// compares the whole file.
func TestVectorsAreWhatThisCodeMakes(t *testing.T) {
	out, err := json.MarshalIndent(generate(t), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	out = append(out, '\n')
	if *writeVectors {
		if _, err := os.Stat(vectorsFile); err == nil {
			t.Fatalf("%s exists and is never regenerated", vectorsFile)
		}
		if err := os.WriteFile(vectorsFile, out, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(vectorsFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out, want) {
		t.Errorf("%s differs from what this code makes: the format changed", vectorsFile)
	}
}

func generate(t *testing.T) vectors {
	t.Helper()
	ks, tenant, service := idOf("keyspace"), idOf("tenant"), idOf("service")
	ivk, l2, l21, l3, secret := idOf("ivk"), idOf("l2"), idOf("l21"), idOf("l3"), idOf("secret")
	gen := hierarchy.Generation(1).VersionUID()
	mk := bytesOf("masterkey", 32)
	ivkParent, _, _, _ := rdMasterKey(mk, ks[:], 1)
	long := make([][2]string, 64)
	for i := range long {
		long[63-i] = [2]string{fmt.Sprintf("k%02d", i), strings.Repeat("v", i)}
	}
	up := func(u hierarchy.UID) hexBytes { return u[:] }
	all := []vector{
		{Name: "ivk", Purpose: "ivk-wrap", Parent: ivkParent, Version: up(gen), Subject: up(ivk), Plaintext: bytesOf("ivk key", 32)},
		{Name: "l2.1", Purpose: "l21-wrap", Parent: bytesOf("l2 key", 32), Tenant: up(tenant), Version: up(l2), Subject: up(l21), Plaintext: bytesOf("l21 key", 32)},
		{Name: "l3", Purpose: "l3-wrap", Parent: bytesOf("l21 key", 32), Tenant: up(tenant), Service: up(service), Version: up(l21), Subject: up(l3), Plaintext: bytesOf("l3 key", 32)},
		{Name: "internal secret, 1 byte", Purpose: "internal-secret", Parent: bytesOf("ivk key", 32), Version: up(ivk), Subject: up(secret), Plaintext: []byte("x")},
		{Name: "internal secret, 4096 bytes", Purpose: "internal-secret", Parent: bytesOf("ivk key", 32), Version: up(ivk), Subject: up(secret), Plaintext: bytesOf("long secret", 4096)},
		{Name: "data key, 16 bytes", Purpose: "dek-wrap", Plaintext: bytesOf("dek16", 16)},
		{Name: "data key, 32 bytes, resource", Purpose: "dek-wrap", Plaintext: bytesOf("dek32", 32), Resource: "orders/2026"},
		{Name: "data key, 64 bytes, context", Purpose: "dek-wrap", Plaintext: bytesOf("dek64", 64), Context: [][2]string{{"b", ""}, {"a", "1"}}},
		{Name: exampleName, Purpose: "data", Plaintext: []byte("attack at dawn"), Resource: "orders", Context: [][2]string{{"region", "eu"}, {"app", "shop"}}},
		{Name: "data, empty", Purpose: "data"},
		{Name: "data, one block", Purpose: "data", Plaintext: bytesOf("block", 16)},
		{Name: "data, 1000 bytes", Purpose: "data", Plaintext: bytesOf("thousand", 1000), Resource: "ключ 🔑"},
		{Name: "data, 64 pairs of context", Purpose: "data", Plaintext: []byte("x"), Context: long},
		{Name: "data, context in UTF-8, not normalised", Purpose: "data", Plaintext: []byte("x"), Context: [][2]string{{"é", "1"}, {"e\u0301", "2"}, {"Z", ""}, {"a", "\x00"}}},
	}
	for i := range all {
		v := &all[i]
		v.Keyspace = ks[:]
		if v.Purpose == "data" || v.Purpose == "dek-wrap" {
			v.Parent, v.Tenant, v.Service, v.Version = bytesOf("l3 key", 32), up(tenant), up(service), up(l3)
		}
		v.Blob = v.seal(t, &fixed{name: v.Name})
	}
	// Two messages of one session.
	first := vector{Name: "data, session, first message", Purpose: "data", Parent: bytesOf("l3 key", 32), Keyspace: ks[:], Tenant: up(tenant), Service: up(service), Version: up(l3), Resource: "a", Plaintext: []byte("one")}
	other := first
	other.Name, other.Resource, other.Context, other.Plaintext = "data, session, second message", "b", [][2]string{{"k", "v"}}, []byte("two")
	sealer, err := envelope.NewSealer(&fixed{name: first.Name}, clock.NewFake(time.Unix(0, 0)), take(t, first.Parent), hierarchy.PurposeData, first.scope(t), envelope.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []*vector{&first, &other} {
		blob, err := sealer.Seal(nil, v.binding(t), v.Plaintext)
		if err != nil {
			t.Fatal(err)
		}
		v.Blob = blob
		all = append(all, *v)
	}
	for i := range all {
		v, p := &all[i], all[i].place()
		v.Session, v.Nonce = v.Blob[18:34:34], v.Blob[66:78:78]
		v.Ctx, v.Commitment, v.Key, v.AAD = p.ctx(v.Session), p.commitment(v.Parent, v.Session), p.key(v.Parent, v.Session), p.aad(v.Blob[:78])
	}

	var nested []nestedVector
	for _, n := range []int{1, 48, 16384} {
		v := nestedVector{
			Name: fmt.Sprintf("nested, keystore blob of %d bytes", n), Keyspace: ks[:], Tenant: up(tenant), L2ID: up(l2),
			IVK: bytesOf("ivk key", 32), IVKVersion: up(ivk), L1Blob: bytesOf("l1 blob", n), L2: bytesOf("l2 key", 32),
			NewIVK: bytesOf("new ivk key", 32), NewIVKVersion: up(idOf("new ivk")),
		}
		v.L1AAD = envelope.L1AAD(hierarchy.KeyspaceID(ks), tenant, l2)
		r := &fixed{name: v.Name}
		v.K1 = bytesOf(v.Name, 32)
		wrap, _ := v.keystore(t)
		if v.Blob, err = envelope.NestL2(t.Context(), r, take(t, v.IVK), v.binding(v.IVKVersion), wrap, take(t, v.L2)); err != nil {
			t.Fatal(err)
		}
		v.Rand = r.read
		r = &fixed{name: v.Name + ", rewrapped"}
		if v.Rewrapped, err = envelope.RewrapOuter(r, take(t, v.IVK), v.binding(v.IVKVersion), take(t, v.NewIVK), v.binding(v.NewIVKVersion), v.Blob); err != nil {
			t.Fatal(err)
		}
		v.NewRand = r.read
		nested = append(nested, v)
	}

	var keys []mkVector
	for g := range uint64(2) {
		v := mkVector{MasterKey: bytesOf(fmt.Sprintf("masterkey%s", strings.Repeat("+", int(g))), 32), Keyspace: ks[:], Generation: g + 1, GenID: rdGeneration(g + 1)}
		v.IVKParent, v.RegistryMAC, v.Backup, v.Commitment = rdMasterKey(v.MasterKey, v.Keyspace, v.Generation)
		keys = append(keys, v)
	}

	return vectors{
		Comment:   "Krypton envelope, format version 1, suite 1. See docs/formats.md. Never regenerated.",
		Envelopes: all, Nested: nested, MasterKey: keys, MustFail: mustFail(all),
	}
}

// mustFail makes a handful of blobs for other implementations; TestI1_ tests
// try every bit.
func mustFail(all []vector) []vector {
	i := slices.IndexFunc(all, func(v vector) bool { return v.Name == exampleName })
	edit := func(name, why string, f func(v *vector)) vector {
		v := all[i]
		v.Blob, v.Context = slices.Clone(v.Blob), slices.Clone(v.Context)
		f(&v)
		v.Name, v.Why = name, why
		v.Ctx, v.Commitment, v.Key, v.AAD, v.Session, v.Nonce = nil, nil, nil, nil, nil, nil
		return v
	}
	moved := func(b hexBytes) hexBytes { c := slices.Clone(b); c[0] ^= 1; return c }
	out := []vector{
		edit("format version 2", "unknown version", func(v *vector) { v.Blob[0] = 2 }),
		edit("suite 2", "unknown suite", func(v *vector) { v.Blob[1] = 2 }),
		edit("other key version in the header", "selector differs", func(v *vector) { v.Blob[2] ^= 1 }),
		edit("other session", "commitment differs", func(v *vector) { v.Blob[18] ^= 1 }),
		edit("other commitment", "commitment differs", func(v *vector) { v.Blob[65] ^= 1 }),
		edit("other nonce", "tag differs", func(v *vector) { v.Blob[66] ^= 1 }),
		edit("other ciphertext", "tag differs", func(v *vector) { v.Blob[78] ^= 1 }),
		edit("other tag", "tag differs", func(v *vector) { v.Blob[len(v.Blob)-1] ^= 1 }),
		edit("one byte short", "tag differs", func(v *vector) { v.Blob = v.Blob[:len(v.Blob)-1] }),
		edit("one byte more", "tag differs", func(v *vector) { v.Blob = append(v.Blob, 0) }),
		edit("93 bytes", "too short", func(v *vector) { v.Blob = v.Blob[:93] }),
		edit("other parent", "commitment differs", func(v *vector) { v.Parent = moved(v.Parent) }),
		edit("other keyspace", "commitment differs", func(v *vector) { v.Keyspace = moved(v.Keyspace) }),
		edit("other tenant", "commitment differs", func(v *vector) { v.Tenant = moved(v.Tenant) }),
		edit("other service", "commitment differs", func(v *vector) { v.Service = moved(v.Service) }),
		edit("other version", "selector differs", func(v *vector) { v.Version = moved(v.Version) }),
		edit("other purpose", "commitment differs", func(v *vector) { v.Purpose = "dek-wrap" }),
		edit("other resource", "tag differs", func(v *vector) { v.Resource = "order" }),
		edit("no resource", "tag differs", func(v *vector) { v.Resource = "" }),
		edit("no context", "tag differs", func(v *vector) { v.Context = nil }),
		edit("other context value", "tag differs", func(v *vector) { v.Context[0][1] = "us" }),
		edit("context boundary moved", "tag differs", func(v *vector) { v.Context[0] = [2]string{"regione", "u"} }),
		edit("context with one pair more", "tag differs", func(v *vector) { v.Context = append(v.Context, [2]string{"x", ""}) }),
	}
	// A tag that is right for a session, under a commitment to another key.
	v := edit("right tag, wrong commitment", "commitment differs", func(v *vector) {
		p := v.place()
		session := slices.Clone(v.Blob[18:34])
		v.Blob[34] ^= 0x80
		v.Blob = append(v.Blob[:78:78], rdGCM(p.key(v.Parent, session)).Seal(nil, v.Blob[66:78], v.Plaintext, p.aad(v.Blob[:78]))...)
	})
	return append(out, v)
}
