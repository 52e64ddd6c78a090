package seal_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/agebox"
	"github.com/openkcm/krypton-cluster/seal/manifest"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// anna is a person with an age identity. One serves all tests that change nothing
// about it; its file is public enough here.
type anna struct{ file, recipient string }

func newPerson(t tb) anna {
	t.Helper()
	ids, err := agebox.NewIdentities(start)
	if err != nil {
		t.Fatal(err)
	}
	defer ids.Destroy()
	public, err := ids.Public()
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	if err := ids.Save(&file); err != nil {
		t.Fatal(err)
	}
	return anna{file.String(), public[0].Recipient}
}

// share opens the person's shard of a record, as the command line does.
func (a anna) share(t tb, r seal.Record, index int) (seal.Share, error) {
	t.Helper()
	b, err := r.Shard(index)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := agebox.ReadIdentities([]byte(a.file), agebox.Person{})
	if err != nil {
		t.Fatal(err)
	}
	defer ids.Destroy()
	plain, err := ids.Decrypt(b, seal.ShardSize)
	if err != nil {
		return seal.Share{}, err
	}
	defer plain.Destroy()
	return seal.ReadShard(plain)
}

func person(a anna, name string) seal.Holder { return seal.Holder{Name: name, Recipient: a.recipient} }

func machine(provider string) seal.Holder {
	return seal.Holder{Name: "keystore " + provider, Key: seal.ProviderKey{Provider: provider, Key: "k"}, Domain: seal.Domain{ProviderType: "prov", Region: "here"}}
}

func paper(name string) seal.Holder { return seal.Holder{Name: name} }

func sealed(t tb, c seal.Ceremony, p seal.Plan, reg *keystore.Registry) made {
	t.Helper()
	r, mk, shares, err := seal.Create(context.Background(), rand.Reader, c, p, reg)
	if err != nil {
		t.Fatal(err)
	}
	return made{r, mk, shares}
}

// every opens all shares of a record: what is printed is in m.
func (m made) every(t tb, a anna, reg *keystore.Registry) []seal.Share {
	t.Helper()
	var all []seal.Share
	printed := m.shares
	for i, h := range m.record.Plan().Holders() {
		var s seal.Share
		var err error
		switch {
		case h.IsKeystore():
			s, err = seal.OpenShard(context.Background(), m.record, i+1, reg)
		case h.IsPrinted():
			s = again(t, printed[0].ForCluster(fingerprint))
			printed = printed[1:]
		default:
			s, err = a.share(t, m.record, i+1)
		}
		if err != nil {
			t.Fatalf("holder %d: %v", i+1, err)
		}
		all = append(all, s)
	}
	if len(printed) != 0 {
		t.Fatalf("%d printed shares belong to nobody", len(printed))
	}
	return all
}

func destroy(shares []seal.Share) {
	for _, s := range shares {
		s.Destroy()
	}
}

func TestHoldersOfAllKindsOpenTogether(t *testing.T) {
	provs := map[string]*prov{"a": newProv(t), "b": newProv(t)}
	reg, a := registry(t, provs), newPerson(t)
	holders := []seal.Holder{paper("vault"), machine("a"), person(a, "anna"), machine("b"), paper("safe")}
	k := sealed(t, ceremony(t), seal.Plan{Groups: []seal.Group{{Threshold: 3, Holders: holders}}}, reg)
	defer k.done()
	r := reparse(t, k.record.Proto())
	if r.Format() != 2 || r.Threshold() != 3 || r.Shares() != 5 || r.PersonsNeeded() != 1 || len(k.shares) != 2 || k.shares[0].Index() != 1 || k.shares[1].Index() != 5 {
		t.Fatalf("format %d, threshold %d, persons %d, %d printed", r.Format(), r.Threshold(), r.PersonsNeeded(), len(k.shares))
	}
	if got := r.Plan(); !slices.Equal(got.Groups[0].Holders, holders) {
		t.Errorf("the record says %+v", got)
	}
	all := k.every(t, a, reg)
	defer destroy(all)
	for i := range all {
		for j := range i {
			for l := range j {
				mk, err := seal.Combine(r, []seal.Share{all[i], all[j], all[l]})
				if err != nil {
					t.Fatal(err)
				}
				if !same(t, mk, k.masterKey) {
					t.Errorf("shares %d, %d and %d give another key", i+1, j+1, l+1)
				}
				mk.Destroy()
			}
			if mk, err := seal.Combine(r, []seal.Share{all[i], all[j]}); !errs.Is(err, errs.Sealed) {
				mk.Destroy()
				t.Errorf("two of three: %v", err)
			}
		}
	}
}

// What is not for a piece of paper comes out of a ceremony as ciphertext only. That
// it does not stay in memory either is for TestMain.
func TestI9_OnlyPrintedSharesComeOut(t *testing.T) {
	a := newPerson(t)
	reg := registry(t, map[string]*prov{"a": newProv(t)})
	k := sealed(t, ceremony(t), seal.Plan{Groups: []seal.Group{
		{Name: "x", Threshold: 2, Holders: []seal.Holder{machine("a"), paper("b"), person(a, "anna")}},
		{Name: "y", Threshold: 2, Holders: []seal.Holder{person(a, "berta"), paper("c")}},
	}}, reg)
	defer k.done()
	if len(k.shares) != 2 || k.shares[0].Index() != 2 || k.shares[1].Index() != 5 {
		t.Errorf("%d shares came out", len(k.shares))
	}
	all := k.every(t, a, reg)
	defer destroy(all)
	b := marshal(t, k.record.Proto())
	for _, s := range all {
		words := wire(t, s)
		if whole := words[len(words)-33:]; bytes.Contains(b, whole[:16]) || bytes.Contains(b, whole[16:32]) {
			t.Errorf("share %d stands in the record", s.Index())
		}
	}
}

// Every group is needed, and any threshold of its holders is enough; so says a
// model that knows nothing of polynomials.
func TestI8_EveryGroupIsNeededAndAnyThresholdOfIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var p seal.Plan
		for g := range rapid.IntRange(1, 4).Draw(t, "groups") {
			n := rapid.IntRange(2, 5).Draw(t, "n")
			group := seal.Group{Name: fmt.Sprintf("group %d", g), Threshold: rapid.IntRange(2, n).Draw(t, "m")}
			for i := range n {
				group.Holders = append(group.Holders, paper(fmt.Sprintf("%d of %d", i, g)))
			}
			p.Groups = append(p.Groups, group)
		}
		k := sealed(t, ceremony(t), p, nil)
		defer k.done()
		order := rapid.Permutation(k.shares).Draw(t, "order")
		order = order[:rapid.IntRange(0, len(order)).Draw(t, "given")]
		given := make([]int, len(p.Groups))
		for _, s := range order {
			at := s.Index()
			for g := range p.Groups {
				if at -= len(p.Groups[g].Holders); at <= 0 {
					given[g]++
					break
				}
			}
		}
		want := true
		for g := range p.Groups {
			want = want && given[g] >= p.Groups[g].Threshold
		}
		mk, err := seal.Combine(k.record, order)
		defer mk.Destroy()
		if got := err == nil; got != want || got && !same(t, mk, k.masterKey) {
			t.Fatalf("given %v of %+v: %v", given, p.Groups, err)
		}
	})
}

func TestTheLargestPlanOfGroupsWorks(t *testing.T) {
	var p seal.Plan
	for g := range seal.MaxGroups {
		group := seal.Group{Name: fmt.Sprint(g), Threshold: 2}
		for i := range seal.MaxShares / seal.MaxGroups {
			group.Holders = append(group.Holders, paper(fmt.Sprintf("%d-%d", g, i)))
		}
		p.Groups = append(p.Groups, group)
	}
	for i := len(p.Holders()); i < seal.MaxShares; i++ {
		p.Groups[0].Holders = append(p.Groups[0].Holders, paper(fmt.Sprint(i)))
	}
	k := sealed(t, ceremony(t), p, nil)
	defer k.done()
	mk, err := seal.Combine(k.record, k.shares)
	if err != nil {
		t.Fatal(err)
	}
	defer mk.Destroy()
	if !same(t, mk, k.masterKey) || k.record.Shares() != seal.MaxShares || k.record.Threshold() != 0 {
		t.Errorf("%d shares, threshold %d", k.record.Shares(), k.record.Threshold())
	}
}

// A share that somebody made for the occasion is named before anything is
// computed with the others.
func TestI3_AWrongShareIsNamedBeforeItIsCombined(t *testing.T) {
	c := ceremony(t)
	plan := seal.Plan{Groups: []seal.Group{{Name: "x", Threshold: 2, Holders: []seal.Holder{paper("a"), paper("b")}}, {Name: "y", Threshold: 2, Holders: []seal.Holder{paper("c"), paper("d")}}}}
	k, forged := sealed(t, c, plan, nil), sealed(t, c, plan, nil)
	defer k.done()
	defer forged.done()
	for i := range k.shares {
		some := slices.Clone(k.shares)
		some[i] = forged.shares[i]
		mk, err := seal.Combine(k.record, some)
		mk.Destroy()
		if !errors.Is(err, seal.ErrShareWrong) || !errs.Is(err, errs.ShareRefused) || !strings.Contains(err.Error(), fmt.Sprintf("number %d ", i+1)) {
			t.Errorf("share %d: %v", i+1, err)
		}
	}
	if mk, err := seal.Combine(k.record, append(slices.Clone(k.shares), k.shares[2])); !errors.Is(err, seal.ErrShareDuplicate) {
		mk.Destroy()
		t.Errorf("one twice: %v", err)
	}
}

func TestSharesAreCheckedAgainstTheirManifest(t *testing.T) {
	cer := ceremony(t)
	k := shamirOf(t, cer, 3, 2)
	defer k.done()
	variant := func(change func(*seal.Ceremony), n int) seal.Share {
		c := cer
		change(&c)
		o := shamirOf(t, c, max(n, 3), 2)
		defer o.done()
		return again(t, o.shares[n-1])
	}
	for name, c := range map[string]struct {
		share seal.Share
		want  error
	}{
		"right":            {again(t, k.shares[0]), nil},
		"another split":    {variant(func(*seal.Ceremony) {}, 1), seal.ErrShareWrong},
		"foreign keyspace": {variant(func(c *seal.Ceremony) { c.Keyspace[0] ^= 1 }, 1), seal.ErrShareKeyspace},
		"other ceremony":   {variant(func(c *seal.Ceremony) { c.ID[0] ^= 1 }, 1), seal.ErrShareCeremony},
		"other generation": {variant(func(c *seal.Ceremony) { c.Generation++ }, 1), seal.ErrShareGeneration},
		"out of range":     {variant(func(*seal.Ceremony) {}, 4), seal.ErrShareIndex},
		"no share":         {seal.Share{}, seal.ErrShareKeyspace},
	} {
		err := seal.CheckShare(k.record.Manifest(), c.share)
		c.share.Destroy()
		if !errors.Is(err, c.want) || (c.want != nil) != errs.Is(err, errs.ShareRefused) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

// A keystore is given a key that is used once, never a share, a group's secret or
// the MasterKey.
func TestI6_NoKeystoreSeesAShare(t *testing.T) {
	provs := map[string]*prov{"a": newProv(t), "b": newProv(t)}
	reg := registry(t, provs)
	k := sealed(t, ceremony(t), seal.Plan{Groups: []seal.Group{{Threshold: 2, Holders: []seal.Holder{machine("a"), machine("b")}}}}, reg)
	defer k.done()
	for name, p := range provs {
		if len(p.wrapped) != 1 || p.wrapped[0].Len() != memsec.KeySize || same(t, p.wrapped[0], k.masterKey) {
			t.Errorf("%s was given %d secrets, the first of %d bytes", name, len(p.wrapped), p.wrapped[0].Len())
		}
		if p.asked != 1 {
			t.Errorf("%s was asked %d times for its share", name, p.asked)
		}
	}
	if same(t, provs["a"].wrapped[0], provs["b"].wrapped[0]) {
		t.Error("two keystores were given one key")
	}
	if k.record.PersonsNeeded() != 0 || len(k.shares) != 0 {
		t.Errorf("%d persons, %d printed", k.record.PersonsNeeded(), len(k.shares))
	}
}

func TestAShardOpensAtItsPlaceOnly(t *testing.T) {
	p := newProv(t)
	reg := registry(t, map[string]*prov{"a": p, "b": p}) // one machine with two names
	plan := seal.Plan{Groups: []seal.Group{{Threshold: 2, Holders: []seal.Holder{machine("a"), machine("b"), paper("c")}}}}
	k := sealed(t, ceremony(t), plan, reg)
	defer k.done()
	shard := func(pb *sealpb.Record, i int, change func(*sealpb.KeystoreShard)) {
		s := new(sealpb.KeystoreShard)
		if err := proto.Unmarshal(pb.GetShards()[i].GetEncryptedShard(), s); err != nil {
			t.Fatal(err)
		}
		change(s)
		reshard(pb, i, marshal(t, s))
	}
	for name, change := range map[string]func(*sealpb.Record){
		"wrapped key":  func(r *sealpb.Record) { shard(r, 0, func(s *sealpb.KeystoreShard) { s.WrappedKey[0] ^= 1 }) },
		"nonce":        func(r *sealpb.Record) { shard(r, 0, func(s *sealpb.KeystoreShard) { s.Nonce[0] ^= 1 }) },
		"sealed share": func(r *sealpb.Record) { shard(r, 0, func(s *sealpb.KeystoreShard) { s.SealedShare[48] ^= 1 }) },
		"keyspace":     func(r *sealpb.Record) { r.Manifest.KeyspaceId[0] ^= 1 },
		"ceremony":     func(r *sealpb.Record) { r.Manifest.CeremonyId[0] ^= 1 },
		"generation":   func(r *sealpb.Record) { r.Manifest.Generation++ },
		"share hash":   func(r *sealpb.Record) { r.Manifest.Holders[0].ShareHash[0] ^= 1 },
		"x":            func(r *sealpb.Record) { r.Manifest.Holders[0].X = uint32(freeX(r.GetManifest())) },
		"another's": func(r *sealpb.Record) {
			theirs := bytes.Clone(r.GetShards()[1].GetEncryptedShard())
			reshard(r, 0, theirs)
			shard(r, 0, func(s *sealpb.KeystoreShard) { s.ProviderKey.Provider = "a" })
		},
	} {
		t.Run(name, func(t *testing.T) {
			pb := k.record.Proto()
			change(pb)
			s, err := seal.OpenShard(t.Context(), reparse(t, pb), 1, reg)
			s.Destroy()
			if keystore.ClassOf(err) != keystore.Corrupt {
				t.Fatalf("%v", err)
			}
			// All but what the manifest says of the share is bound by the keystore's answer.
			if got, want := errors.Is(err, seal.ErrShareWrong), name == "share hash" || name == "x"; got != want {
				t.Errorf("found by the manifest: %v: %v", got, err)
			}
		})
	}
	for name, index := range map[string]int{"printed": 3, "none": 0, "too many": 4} {
		if _, err := seal.OpenShard(t.Context(), k.record, index, reg); !errors.Is(err, seal.ErrNoShard) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := k.record.Shard(index); !errors.Is(err, seal.ErrNoShard) || !errs.Is(err, errs.NotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := seal.OpenShard(t.Context(), k.record, 1, nil); keystore.ClassOf(err) != keystore.Misconfigured {
		t.Errorf("without keystores: %v", err)
	}
	p.unwrap = func(context.Context) error { return failed(keystore.Denied) }
	if _, err := seal.OpenShard(t.Context(), k.record, 1, reg); keystore.ClassOf(err) != keystore.Denied {
		t.Errorf("denied: %v", err)
	}
}

// freeX is a point at which no share is.
func freeX(m *sealpb.Manifest) int {
	used := make(map[uint32]bool)
	for _, h := range m.GetHolders() {
		used[h.GetX()] = true
	}
	for x := 1; ; x++ {
		if !used[uint32(x)] {
			return x
		}
	}
}

// A person's share is marked for the cluster where it is known, and claimed where
// it is not.
func TestI7_APersonsShareIsForOneCluster(t *testing.T) {
	a := newPerson(t)
	plan := seal.Plan{Groups: []seal.Group{{Threshold: 2, Holders: []seal.Holder{person(a, "anna"), person(a, "also anna")}}}}
	first := sealed(t, ceremony(t), plan, nil)
	defer first.done()
	c := ceremony(t)
	c.Fingerprint = fingerprint
	plan.Kind, plan.Previous = seal.KindReshare, first.record.ManifestDigest()
	r, none, err := seal.Protect(t.Context(), rand.Reader, first.masterKey, c, plan, nil)
	if err != nil || none != nil {
		t.Fatal(none, err)
	}
	for name, c := range map[string]struct {
		r     seal.Record
		other error
	}{"at init": {first.record, nil}, "later": {r, seal.ErrShareCluster}} {
		t.Run(name, func(t *testing.T) {
			s, err := a.share(t, c.r, 2)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Destroy()
			if s.Index() != 2 || s.IsFor(fingerprint) == (c.other == nil) || seal.CheckShare(c.r.Manifest(), s) != nil {
				t.Errorf("%v, for the cluster: %v", s.Index(), s.IsFor(fingerprint))
			}
			claimed, err := s.Claim(fingerprint)
			if err != nil || !claimed.IsFor(fingerprint) || claimed.Print(io.Discard) != nil {
				t.Errorf("claimed: %v", err)
			}
			if _, err := s.Claim(otherPrint); !errors.Is(err, c.other) {
				t.Errorf("claimed by another cluster: %v", err)
			}
			if c.other == nil && s.Print(io.Discard) == nil {
				t.Error("printed without a cluster")
			}
		})
	}
	if _, err := newPerson(t).share(t, r, 1); !errors.Is(err, agebox.ErrOtherIdentity) {
		t.Errorf("somebody else opens it: %v", err)
	}
}

func TestWhatIsNoShareIsNotRead(t *testing.T) {
	k := shamirOf(t, ceremony(t), 2, 2)
	defer k.done()
	for _, n := range []int{1, seal.ShardSize - 1, seal.ShardSize, seal.ShardSize + 1} {
		plain, err := memsec.Take(make([]byte, n), memsec.Cold)
		if err != nil {
			t.Fatal(err)
		}
		s, err := seal.ReadShard(plain)
		plain.Destroy()
		if !errors.Is(err, seal.ErrShareText) || s.Index() != 0 {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// Protect changes who opens a MasterKey, in all directions, and not the MasterKey.
func TestTheSameMasterKeyIsProtectedAnew(t *testing.T) {
	a := newPerson(t)
	reg := registry(t, map[string]*prov{"a": newProv(t), "b": newProv(t)})
	shares := seal.Plan{Groups: []seal.Group{{Threshold: 2, Holders: []seal.Holder{machine("a"), machine("b"), person(a, "anna")}}}}
	groups := seal.Plan{Groups: []seal.Group{
		{Name: "machines", Threshold: 2, Holders: []seal.Holder{machine("a"), machine("b")}},
		{Name: "people", Threshold: 2, Holders: []seal.Holder{person(a, "anna"), person(a, "berta"), person(a, "carla")}},
	}}
	auto := seal.Plan{ProviderKeys: []seal.ProviderKey{{Provider: "a", Key: "k"}, {Provider: "b", Key: "k"}}}
	k := sealed(t, ceremony(t), printed(2, 3), reg)
	defer k.done()
	before := k.record
	for i, c := range []struct {
		plan seal.Plan
		kind seal.Kind
	}{{groups, seal.KindReshare}, {shares, seal.KindReshare}, {auto, seal.KindMigrate}, {auto, seal.KindMigrate}, {groups, seal.KindMigrate}} {
		t.Run(fmt.Sprint(i, c.kind), func(t *testing.T) {
			cer := ceremony(t)
			cer.Keyspace, cer.Cluster = before.Keyspace(), before.Cluster()
			c.plan.Kind, c.plan.Previous, c.plan.AcceptedRisks = c.kind, before.ManifestDigest(), []string{"concentration"}
			r, papers, err := seal.Protect(t.Context(), rand.Reader, k.masterKey, cer, c.plan, reg)
			if err != nil || papers != nil {
				t.Fatal(papers, err)
			}
			if err := manifest.Follows(r.Manifest(), before.Manifest()); err != nil {
				t.Error(err)
			}
			if r.Kind() != c.kind || !slices.Equal(r.Plan().AcceptedRisks, c.plan.AcceptedRisks) || r.Generation() != before.Generation() {
				t.Errorf("%+v", r.Plan())
			}
			if r.Mode() == seal.ModeAuto {
				mk, err := seal.OpenFirstWrapping(t.Context(), r, reg)
				if err != nil {
					t.Fatal(err)
				}
				defer mk.Destroy()
				if !same(t, mk, k.masterKey) {
					t.Error("another MasterKey")
				}
			} else {
				all := made{record: r}.every(t, a, reg)
				defer destroy(all)
				mk, err := seal.Combine(r, all)
				if err != nil {
					t.Fatal(err)
				}
				defer mk.Destroy()
				if !same(t, mk, k.masterKey) {
					t.Error("another MasterKey")
				}
			}
			before = r
		})
	}
}

func TestARekeyMakesTheNextMasterKey(t *testing.T) {
	k := sealed(t, ceremony(t), printed(2, 3), nil)
	defer k.done()
	for _, kind := range []seal.Kind{seal.KindRekey, seal.KindRekeyCompromised} {
		c, p := ceremony(t), printed(2, 2)
		c.Keyspace, c.Cluster, c.Generation = k.record.Keyspace(), k.record.Cluster(), 2
		p.Kind, p.Previous = kind, k.record.ManifestDigest()
		next := sealed(t, c, p, nil)
		if err := manifest.Follows(next.record.Manifest(), k.record.Manifest()); err != nil || same(t, next.masterKey, k.masterKey) || next.record.Kind() != kind {
			t.Errorf("%s: %v", kind, err)
		}
		next.done()
	}
}

func TestPlansOfFormat2ThatCannotWorkAreRefusedBeforeAKeystoreIsAsked(t *testing.T) {
	a := newPerson(t)
	p := newProv(t)
	p.wrap = func() error { t.Error("a keystore was asked"); return nil }
	reg := registry(t, map[string]*prov{"a": p})
	mk, err := memsec.Random(rand.Reader, memsec.KeySize, memsec.Cold)
	if err != nil {
		t.Fatal(err)
	}
	defer mk.Destroy()
	base := func() seal.Plan {
		return seal.Plan{Groups: []seal.Group{
			{Name: "x", Threshold: 2, Holders: []seal.Holder{machine("a"), person(a, "anna")}},
			{Name: "y", Threshold: 2, Holders: []seal.Holder{paper("b"), paper("c")}},
		}, Kind: seal.KindReshare, Previous: seal.Digest{1}}
	}
	for name, c := range map[string]struct {
		change func(*seal.Plan)
		text   string
	}{
		"init of what there is":  {func(p *seal.Plan) { p.Kind, p.Previous = seal.KindInit, seal.Digest{} }, "init does not protect"},
		"rekey of what there is": {func(p *seal.Plan) { p.Kind = seal.KindRekey }, "rekey does not protect"},
		"no kind":                {func(p *seal.Plan) { p.Kind = 0 }, "unspecified does not protect"},
		"kind of tomorrow":       {func(p *seal.Plan) { p.Kind = 6 }, "does not protect"},
		"replaces nothing":       {func(p *seal.Plan) { p.Previous = seal.Digest{} }, "only an init"},
		"nine groups":            {func(p *seal.Plan) { p.Groups = make([]seal.Group, 9) }, "9 groups"},
		"group without name":     {func(p *seal.Plan) { p.Groups[0].Name = "" }, "name of a group"},
		"group twice":            {func(p *seal.Plan) { p.Groups[0].Name = "y" }, "one name"},
		"empty group":            {func(p *seal.Plan) { p.Groups[1].Holders = nil }, "never be reached"},
		"threshold 1":            {func(p *seal.Plan) { p.Groups[1].Threshold = 1 }, "threshold 1"},
		"holder twice":           {func(p *seal.Plan) { p.Groups[1].Holders[0].Name = "anna" }, `"anna"`},
		"holder without name":    {func(p *seal.Plan) { p.Groups[0].Holders[0].Name = "" }, "name of a holder"},
		"both kinds of holder":   {func(p *seal.Plan) { p.Groups[0].Holders[0].Recipient = a.recipient }, "a recipient and a key"},
		"no recipient":           {func(p *seal.Plan) { p.Groups[0].Holders[1].Recipient = "anna@example.org" }, "recipient"},
		"private key":            {func(p *seal.Plan) { p.Groups[0].Holders[1].Recipient = a.file[strings.Index(a.file, "AGE-"):] }, "private key"},
		"half a key":             {func(p *seal.Plan) { p.Groups[0].Holders[0].Key.Key = "" }, "without a name"},
		"long domain":            {func(p *seal.Plan) { p.Groups[0].Holders[0].Domain.Account = strings.Repeat("a", 129) }, "domain of its holder"},
		"empty risk":             {func(p *seal.Plan) { p.AcceptedRisks = []string{""} }, "name of a risk"},
		"empty intent":           {func(p *seal.Plan) { p.Intents = [][]byte{{}} }, "intent"},
		"both modes":             {func(p *seal.Plan) { p.ProviderKeys = []seal.ProviderKey{{Provider: "a", Key: "k"}} }, "either"},
		"256 holders": {func(p *seal.Plan) {
			for i := range 252 {
				p.Groups[1].Holders = append(p.Groups[1].Holders, paper(fmt.Sprint(i)))
			}
		}, "256 shares"},
	} {
		t.Run(name, func(t *testing.T) {
			plan := base()
			c.change(&plan)
			r, shares, err := seal.Protect(t.Context(), rand.Reader, mk, ceremony(t), plan, reg)
			if !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %q", err, c.text)
			}
			if !r.IsZero() || shares != nil || strings.Contains(fmt.Sprint(err), "AGE-SECRET") {
				t.Error("something came out beside the error")
			}
		})
	}
	if _, _, _, err := seal.Create(t.Context(), rand.Reader, ceremony(t), base(), reg); !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), "makes no MasterKey") {
		t.Errorf("a reshare that makes a MasterKey: %v", err)
	}
	big := base()
	big.Groups = big.Groups[1:]
	for i := range 120 {
		big.Groups[0].Holders = append(big.Groups[0].Holders, person(a, fmt.Sprint("person ", i)))
	}
	if _, _, err := seal.Protect(t.Context(), rand.Reader, mk, ceremony(t), big, reg); !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), "the limit is 262144") {
		t.Errorf("a record that no registry takes: %v", err)
	}
}

// A keystore that fails, at whatever point, fails the ceremony by its name, and
// nothing stays in memory (see TestMain).
func TestI10_NothingIsReturnedThatDidNotOpen(t *testing.T) {
	good, bad := newProv(t), newProv(t)
	reg := registry(t, map[string]*prov{"good": good, "bad": bad})
	plan := seal.Plan{Groups: []seal.Group{{Threshold: 2, Holders: []seal.Holder{machine("good"), paper("a"), machine("bad")}}}}
	for name, set := range map[string]func(){
		"wrap":   func() { bad.wrap = func() error { return failed(keystore.Throttled) } },
		"unwrap": func() { bad.unwrap = func(context.Context) error { return failed(keystore.Denied) } },
		"swap":   func() { bad.swap = func() (memsec.Secret, error) { return memsec.Random(rand.Reader, 32, memsec.Hot) } },
		"short":  func() { bad.swap = func() (memsec.Secret, error) { return memsec.Random(rand.Reader, 16, memsec.Hot) } },
	} {
		t.Run(name, func(t *testing.T) {
			bad.wrap, bad.unwrap, bad.swap = nil, nil, nil
			set()
			r, mk, shares, err := seal.Create(t.Context(), rand.Reader, ceremony(t), plan, reg)
			if _, ok := errors.AsType[*keystore.Error](err); !ok || !strings.Contains(err.Error(), `"keystore bad"`) {
				t.Errorf("%v", err)
			}
			if !r.IsZero() || !mk.IsZero() || shares != nil {
				t.Error("something came out beside the error")
			}
		})
	}
	for n := range 200 { // wherever randomness ends
		r, mk, shares, err := seal.Create(t.Context(), io.LimitReader(rand.Reader, int64(n)), ceremony(t), seal.Plan{Groups: []seal.Group{
			{Name: "x", Threshold: 2, Holders: []seal.Holder{machine("good"), paper("a")}}, {Name: "y", Threshold: 2, Holders: []seal.Holder{paper("b"), paper("c")}},
		}}, reg)
		if err == nil {
			made{r, mk, shares}.done()
			if want := 32 + 2*32 + 12 + 32 + 12; n != want {
				t.Errorf("%d random bytes were enough, want %d", n, want)
			}
			break
		}
		if !r.IsZero() || !mk.IsZero() || shares != nil {
			t.Error("something came out beside the error")
		}
	}
}

// What is written as format 1 is what a member of an older version reads.
func TestFormat1IsWrittenWhereItSaysAll(t *testing.T) {
	a := newPerson(t)
	reg := registry(t, map[string]*prov{"a": newProv(t), "b": newProv(t)})
	auto := seal.Plan{ProviderKeys: []seal.ProviderKey{{Provider: "a", Key: "k"}, {Provider: "b", Key: "k"}}}
	for name, c := range map[string]struct {
		plan seal.Plan
		want int
	}{
		"printed":      {printed(2, 3), 1},
		"auto":         {auto, 1},
		"init":         {with(auto, func(p *seal.Plan) { p.Kind = seal.KindInit }), 1},
		"with intents": {with(printed(2, 3), func(p *seal.Plan) { p.Intents = [][]byte{{1}} }), 1},
		"risk":         {with(auto, func(p *seal.Plan) { p.AcceptedRisks = []string{"r"} }), 2},
		"rekey":        {with(printed(2, 3), func(p *seal.Plan) { p.Kind, p.Previous = seal.KindRekey, seal.Digest{1} }), 2},
		"named group":  {with(printed(2, 3), func(p *seal.Plan) { p.Groups[0].Name = "g" }), 2},
		"two groups": {with(printed(2, 3), func(p *seal.Plan) {
			p.Groups[0].Name = "g"
			p.Groups = append(p.Groups, seal.Group{Name: "h", Threshold: 2, Holders: []seal.Holder{paper("h1"), paper("h2")}})
		}), 2},
		"a recipient":      {with(printed(2, 3), func(p *seal.Plan) { p.Groups[0].Holders[1].Recipient = a.recipient }), 2},
		"a keystore":       {with(printed(2, 3), func(p *seal.Plan) { p.Groups[0].Holders[1] = machine("a") }), 2},
		"a printed domain": {with(printed(2, 3), func(p *seal.Plan) { p.Groups[0].Holders[1].Domain.Region = "r" }), 2},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.plan.Format(); got != c.want {
				t.Errorf("the plan says format %d, want %d", got, c.want)
			}
			k := sealed(t, ceremony(t), c.plan, reg)
			defer k.done()
			if got := k.record.Format(); got != c.want {
				t.Errorf("format %d, want %d", got, c.want)
			}
			reparse(t, k.record.Proto())
		})
	}
}

func TestI11_CarriedKeysComeBackUnderTheirMasterKeyOnly(t *testing.T) {
	c, p := ceremony(t), printed(2, 2)
	c.Generation, p.Kind, p.Previous = 5, seal.KindRekey, seal.Digest{1}
	k := sealed(t, c, p, nil)
	defer k.done()
	keys := make(map[int]memsec.Secret)
	for _, g := range []int{2, 4} {
		s, err := memsec.Random(rand.Reader, memsec.KeySize, memsec.Cold)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Destroy()
		keys[g] = s
	}
	carry := func(gs ...int) (carried []seal.CarriedKey) {
		for _, g := range gs {
			carried = append(carried, seal.CarriedKey{Generation: hierarchy.Generation(g), Key: keys[g]})
		}
		return carried
	}
	r, err := k.record.WithCarriedKeys(rand.Reader, k.masterKey, carry(2, 4))
	if err != nil {
		t.Fatal(err)
	}
	r = reparse(t, r.Proto())
	if r.ManifestDigest() != k.record.ManifestDigest() || r.Digest() == k.record.Digest() || !slices.Equal(r.CarriedGenerations(), []hierarchy.Generation{2, 4}) {
		t.Errorf("carries %v", r.CarriedGenerations())
	}
	check := func(t *testing.T, r seal.Record, mk memsec.Secret) {
		t.Helper()
		got, err := r.OpenCarriedKeys(mk)
		if err != nil {
			t.Fatal(err)
		}
		var gs []int
		for _, c := range got {
			gs = append(gs, int(c.Generation))
			if !same(t, c.Key, keys[int(c.Generation)]) {
				t.Errorf("another key of generation %d came out", c.Generation)
			}
			c.Key.Destroy()
		}
		if want := slices.Sorted(maps.Keys(keys)); !slices.Equal(gs, want) {
			t.Errorf("generations %v, want %v", gs, want)
		}
	}
	check(t, r, k.masterKey)

	// A reshare takes them along without opening them.
	c2, p2 := c, printed(2, 3)
	c2.ID[0] ^= 1
	p2.Kind, p2.Previous = seal.KindReshare, r.ManifestDigest()
	next, papers, err := seal.Protect(t.Context(), rand.Reader, k.masterKey, c2, p2, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer destroy(papers)
	if next, err = next.CarryFrom(r); err != nil {
		t.Fatal(err)
	}
	check(t, next, k.masterKey)
	if out := next.WithoutCarriedKeys(); len(out.CarriedGenerations()) != 0 || out.ManifestDigest() != next.ManifestDigest() || len(next.CarriedGenerations()) != 2 {
		t.Error("they were not dropped")
	}
	if got, err := k.record.OpenCarriedKeys(k.masterKey); got != nil || err != nil {
		t.Errorf("of a record that carries none: %v, %v", got, err)
	}

	// Another MasterKey, or another place, opens none.
	other := sealed(t, c, p, nil)
	defer other.done()
	if _, err := r.OpenCarriedKeys(other.masterKey); !errors.Is(err, seal.ErrCommitment) {
		t.Errorf("with another MasterKey: %v", err)
	}
	if _, err := k.record.WithCarriedKeys(rand.Reader, other.masterKey, carry(2)); !errors.Is(err, seal.ErrCommitment) {
		t.Errorf("under another MasterKey: %v", err)
	}
	if _, err := other.record.CarryFrom(r); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("taken along by another MasterKey: %v", err)
	}
	for name, change := range map[string]func(*sealpb.CarriedKey){
		"generation": func(k *sealpb.CarriedKey) { k.Generation = 1 },
		"nonce":      func(k *sealpb.CarriedKey) { k.Nonce[0] ^= 1 },
		"sealed":     func(k *sealpb.CarriedKey) { k.Sealed[0] ^= 1 },
	} {
		pb := r.Proto()
		change(pb.GetCarriedKeys()[0])
		if got, err := reparse(t, pb).OpenCarriedKeys(k.masterKey); got != nil || !errs.Is(err, errs.StateCorrupt) {
			t.Errorf("changed %s: %v", name, err)
		}
	}
	pb := r.Proto() // the second is damaged: the first is not left behind, see TestMain
	pb.GetCarriedKeys()[1].Sealed[0] ^= 1
	if _, err := reparse(t, pb).OpenCarriedKeys(k.masterKey); !errs.Is(err, errs.StateCorrupt) {
		t.Errorf("second damaged: %v", err)
	}
	for name, gs := range map[string][]seal.CarriedKey{
		"out of order": carry(4, 2),
		"of now":       {{Generation: 5, Key: keys[2]}},
		"short":        {{Generation: 2, Key: mustSecret(t, 16)}},
	} {
		if _, err := k.record.WithCarriedKeys(rand.Reader, k.masterKey, gs); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	old := shamirOf(t, ceremony(t), 2, 2)
	defer old.done()
	if _, err := old.record.WithCarriedKeys(rand.Reader, old.masterKey, carry(2)); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("in format 1: %v", err)
	}
}

func mustSecret(t *testing.T, n int) memsec.Secret {
	t.Helper()
	s, err := memsec.Random(rand.Reader, n, memsec.Cold)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Destroy)
	return s
}

// wire is the binary form of a share.
func wire(t tb, s seal.Share) []byte {
	t.Helper()
	b, err := seal.Wire(s.ForCluster(fingerprint))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
