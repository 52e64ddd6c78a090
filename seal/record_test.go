package seal_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

func marshal(t tb, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func reparse(t tb, pb *sealpb.Record) seal.Record {
	t.Helper()
	r, err := seal.ParseRecord(marshal(t, pb))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// autoRecord is a valid record in auto mode; its ciphertexts open nothing.
func autoRecord(t tb) *sealpb.Record {
	t.Helper()
	c := ceremony(t)
	keys := []*sealpb.ProviderKey{{Provider: "a", Key: "k"}, {Provider: "b", Key: "k"}}
	r := &sealpb.Record{Format: 1, Manifest: &sealpb.Manifest{
		Format: 1, KeyspaceId: c.Keyspace[:], ClusterId: c.Cluster[:], CeremonyId: c.ID[:], Generation: 1,
		Mode: sealpb.Mode_MODE_AUTO, ProviderKeys: keys, MasterKeyCommitment: make([]byte, 32), SignedIntents: [][]byte{{1}},
	}}
	for _, k := range keys {
		r.Wrappings = append(r.Wrappings, &sealpb.Wrapping{ProviderKey: k, KeyVersion: "1", WrappedKey: []byte{1}, Nonce: make([]byte, 12), SealedMasterKey: make([]byte, 48)})
	}
	return r
}

// newer makes a record in auto mode one of format 2.
func newer(r *sealpb.Record) *sealpb.Record {
	r.Format, r.Manifest.Format = 2, 2
	r.Manifest.Generation, r.Manifest.Kind, r.Manifest.PreviousManifest = 3, sealpb.CeremonyKind_CEREMONY_KIND_REKEY, bytes.Repeat([]byte{7}, 32)
	r.Manifest.AcceptedRisks = []string{"concentration", "other"}
	for g := range uint64(2) {
		r.CarriedKeys = append(r.CarriedKeys, &sealpb.CarriedKey{Generation: g + 1, Nonce: make([]byte, 12), Sealed: make([]byte, 48)})
	}
	return r
}

func auto2Record(t tb) *sealpb.Record { return newer(autoRecord(t)) }

// printedRecord is a valid record of format 1 with three printed shares.
func printedRecord(t tb) *sealpb.Record {
	t.Helper()
	r := autoRecord(t)
	r.Wrappings, r.Manifest.ProviderKeys = nil, nil
	r.Manifest.Mode, r.Manifest.Threshold = sealpb.Mode_MODE_SHAMIR, 2
	for i := range 3 {
		h := sha256.Sum256([]byte{byte(i)})
		r.Manifest.Holders = append(r.Manifest.Holders, &sealpb.Holder{
			Index: uint32(i + 1), X: uint32(100 + i), Kind: sealpb.HolderKind_HOLDER_KIND_PERSON, Recipient: "someone", ShareHash: h[:],
		})
	}
	return r
}

// groupsRecord is a valid record with two groups: two keystores and a printed
// share, and three persons with recipients. Its ciphertexts open nothing.
func groupsRecord(t tb) *sealpb.Record {
	t.Helper()
	r := newer(printedRecord(t))
	m := r.GetManifest()
	m.Threshold, m.Holders = 0, nil
	m.Groups = []*sealpb.Group{{Name: "machines", Threshold: 2}, {Name: "people", Threshold: 2}}
	for i := range 6 {
		hash := sha256.Sum256([]byte{byte(i)})
		h := &sealpb.Holder{
			Index: uint32(i + 1), X: uint32(100 + i%3), Kind: sealpb.HolderKind_HOLDER_KIND_PERSON, ShareHash: hash[:],
			Group: uint32(i / 3), Name: string(rune('a' + i)), Domain: &sealpb.Domain{Region: "r"},
		}
		var shard []byte
		switch {
		case i < 2:
			h.Kind, h.ProviderKey = sealpb.HolderKind_HOLDER_KIND_KEYSTORE, &sealpb.ProviderKey{Provider: "p", Key: "k" + h.GetName()}
			shard = keystoreShard(t, h, nil)
		case i > 2:
			h.Recipient = "age1"
			shard = bytes.Repeat([]byte{byte(i)}, 40)
		}
		m.Holders = append(m.Holders, h)
		if shard != nil {
			r.Shards = append(r.Shards, &sealpb.Shard{Index: h.GetIndex()})
			reshard(r, i, shard)
		}
	}
	r.GroupSeal = &sealpb.GroupSeal{Nonce: make([]byte, 12), SealedMasterKey: make([]byte, 48)}
	return r
}

// oneGroupRecord is [groupsRecord] with its first group alone.
func oneGroupRecord(t tb) *sealpb.Record {
	t.Helper()
	r := groupsRecord(t)
	m := r.GetManifest()
	m.Groups, m.Holders, m.Threshold = []*sealpb.Group{{Threshold: 2}}, m.GetHolders()[:3], 2
	r.Shards, r.GroupSeal = r.GetShards()[:2], nil
	return r
}

// keystoreShard is a valid encrypted shard of a keystore, after change.
func keystoreShard(t tb, h *sealpb.Holder, change func(*sealpb.KeystoreShard)) []byte {
	t.Helper()
	s := &sealpb.KeystoreShard{
		ProviderKey: proto.CloneOf(h.GetProviderKey()), KeyVersion: "1", WrappedKey: []byte{1}, Nonce: make([]byte, 12), SealedShare: make([]byte, 49),
	}
	if change != nil {
		change(s)
	}
	return marshal(t, s)
}

// reshard puts b in place of the encrypted shard of the holder at i, and its hash
// into the manifest.
func reshard(r *sealpb.Record, i int, b []byte) {
	h := r.GetManifest().GetHolders()[i]
	sum := sha256.Sum256(b)
	h.EncryptedShardHash = sum[:]
	for _, s := range r.GetShards() {
		if s.GetIndex() == h.GetIndex() {
			s.EncryptedShard = b
		}
	}
}

func TestI5_RecordsThatAreNotValidAreRefused(t *testing.T) {
	unknown := func(m proto.Message) { m.ProtoReflect().SetUnknown([]byte{0xf8, 0x07, 0x01}) }
	type row struct {
		change func(*sealpb.Record)
		text   string
	}
	both := map[string]row{
		"format 0":                {func(r *sealpb.Record) { r.Format = 0 }, "format 0"},
		"format 3":                {func(r *sealpb.Record) { r.Format = 3 }, "format 3"},
		"manifest format 3":       {func(r *sealpb.Record) { r.Manifest.Format = 3 }, "format 3"},
		"two formats":             {func(r *sealpb.Record) { r.Format = 3 - r.GetFormat() }, "a record of format"},
		"no manifest":             {func(r *sealpb.Record) { r.Manifest = nil }, "manifest of format 0"},
		"unknown field":           {func(r *sealpb.Record) { unknown(r) }, "does not know"},
		"unknown in the manifest": {func(r *sealpb.Record) { unknown(r.GetManifest()) }, "does not know"},
		"no mode":                 {func(r *sealpb.Record) { r.Manifest.Mode = 0 }, "mode"},
	}
	// What only format 2 has is covered by no digest of format 1.
	format1 := map[string]row{
		"group seal":   {func(r *sealpb.Record) { r.GroupSeal = &sealpb.GroupSeal{} }, "fields of format 2"},
		"carried keys": {func(r *sealpb.Record) { r.CarriedKeys = auto2Record(t).GetCarriedKeys() }, "fields of format 2"},
		"groups":       {func(r *sealpb.Record) { r.Manifest.Groups = []*sealpb.Group{{}} }, "fields of format 2"},
		"previous":     {func(r *sealpb.Record) { r.Manifest.PreviousManifest = []byte{1} }, "fields of format 2"},
		"kind":         {func(r *sealpb.Record) { r.Manifest.Kind = 1 }, "fields of format 2"},
		"risk":         {func(r *sealpb.Record) { r.Manifest.AcceptedRisks = []string{"a"} }, "fields of format 2"},
	}
	printed := map[string]row{
		"name":          {func(r *sealpb.Record) { r.Manifest.Holders[0].Name = "a" }, "fields of format 2"},
		"provider key":  {func(r *sealpb.Record) { r.Manifest.Holders[0].ProviderKey = &sealpb.ProviderKey{} }, "fields of format 2"},
		"domain":        {func(r *sealpb.Record) { r.Manifest.Holders[0].Domain = &sealpb.Domain{} }, "fields of format 2"},
		"keystore":      {func(r *sealpb.Record) { r.Manifest.Holders[0].Kind = sealpb.HolderKind_HOLDER_KIND_KEYSTORE }, "not of format 1"},
		"shard":         {func(r *sealpb.Record) { r.Manifest.Holders[0].EncryptedShardHash = make([]byte, 32) }, "not of format 1"},
		"stray shard":   {func(r *sealpb.Record) { r.Shards = []*sealpb.Shard{{Index: 1, EncryptedShard: []byte{1}}} }, "does not name"},
		"group":         {func(r *sealpb.Record) { r.Manifest.Holders[2].Group = 1 }, "of group 2 of 1"},
		"nobody":        {func(r *sealpb.Record) { r.Manifest.Holders[0].Recipient = "" }, "name of its holder"},
		"threshold 1":   {func(r *sealpb.Record) { r.Manifest.Threshold = 1 }, "threshold 1"},
		"threshold > N": {func(r *sealpb.Record) { r.Manifest.Threshold = 4 }, "never be reached"},
	}
	auto := map[string]row{
		"with shards":           {func(r *sealpb.Record) { r.Shards = []*sealpb.Shard{{}} }, "auto with shares"},
		"no wrapping":           {func(r *sealpb.Record) { r.Wrappings = nil }, "no wrapping"},
		"foreign wrapping":      {func(r *sealpb.Record) { r.Wrappings[0].ProviderKey = &sealpb.ProviderKey{Provider: "z", Key: "k"} }, "does not name"},
		"wrapping of no key":    {func(r *sealpb.Record) { r.Wrappings[0].ProviderKey = nil }, "does not name"},
		"wrapping twice":        {func(r *sealpb.Record) { r.Wrappings[1].ProviderKey = r.GetWrappings()[0].GetProviderKey() }, "two wrappings"},
		"no wrapped key":        {func(r *sealpb.Record) { r.Wrappings[0].WrappedKey = nil }, "wrapped key of 0"},
		"long wrapped key":      {func(r *sealpb.Record) { r.Wrappings[0].WrappedKey = make([]byte, keystore.MaxBlob+1) }, "wrapped key of"},
		"short nonce":           {func(r *sealpb.Record) { r.Wrappings[0].Nonce = make([]byte, 11) }, "nonce of 11"},
		"short MasterKey":       {func(r *sealpb.Record) { r.Wrappings[0].SealedMasterKey = make([]byte, 47) }, "of 47 bytes"},
		"long key version":      {func(r *sealpb.Record) { r.Wrappings[0].KeyVersion = strings.Repeat("v", keystore.MaxKeyVersion+1) }, "key version"},
		"unknown in a wrapping": {func(r *sealpb.Record) { unknown(r.GetWrappings()[1]) }, "does not know"},
		"unknown in a key":      {func(r *sealpb.Record) { unknown(r.GetManifest().GetProviderKeys()[1]) }, "does not know"},
	}
	auto2 := map[string]row{
		"with group seal": {func(r *sealpb.Record) { r.GroupSeal = &sealpb.GroupSeal{} }, "auto with shares"},
	}
	// Of carried keys, in both modes.
	format2 := map[string]row{
		"carried twice":          {func(r *sealpb.Record) { r.CarriedKeys[1].Generation = 1 }, "generation 1 after 1"},
		"carried out of order":   {func(r *sealpb.Record) { r.CarriedKeys[0].Generation = 2 }, "generation 2 after 2"},
		"carried of now":         {func(r *sealpb.Record) { r.CarriedKeys[1].Generation = 3 }, "in a record of generation 3"},
		"carried of nothing":     {func(r *sealpb.Record) { r.CarriedKeys[0].Generation = 0 }, "generation 0"},
		"carried without nonce":  {func(r *sealpb.Record) { r.CarriedKeys[0].Nonce = nil }, "nonce of 0"},
		"carried cut":            {func(r *sealpb.Record) { r.CarriedKeys[0].Sealed = make([]byte, 47) }, "47 bytes"},
		"unknown in carried key": {func(r *sealpb.Record) { unknown(r.GetCarriedKeys()[0]) }, "does not know"},
		"no kind":                {func(r *sealpb.Record) { r.Manifest.Kind = 0 }, "no kind"},
		"too many carried": {func(r *sealpb.Record) {
			r.Manifest.Generation = 1000
			for g := range uint64(seal.MaxCarriedKeys) {
				r.CarriedKeys = append(r.CarriedKeys, &sealpb.CarriedKey{Generation: g + 3, Nonce: make([]byte, 12), Sealed: make([]byte, 48)})
			}
		}, "66 carried keys"},
	}
	shamir2 := map[string]row{
		"with wrapping":      {func(r *sealpb.Record) { r.Wrappings = []*sealpb.Wrapping{{}} }, "shamir with wrappings"},
		"changed shard":      {func(r *sealpb.Record) { r.Shards[0].EncryptedShard[0] ^= 1 }, "not the one in the manifest"},
		"changed shard hash": {func(r *sealpb.Record) { r.Manifest.Holders[1].EncryptedShardHash[0] ^= 1 }, "not the one in the manifest"},
		"missing shard":      {func(r *sealpb.Record) { r.Shards = r.GetShards()[:1] }, "not the one in the manifest"},
		"shard of a printed one": {func(r *sealpb.Record) {
			r.Shards = append(r.GetShards()[:2], &sealpb.Shard{Index: 3, EncryptedShard: []byte{1}})
		}, ""},
		"shard of no holder":     {func(r *sealpb.Record) { r.Shards = append(r.Shards, &sealpb.Shard{Index: 9}) }, "does not name"},
		"shards out of order":    {func(r *sealpb.Record) { r.Shards[0], r.Shards[1] = r.GetShards()[1], r.GetShards()[0] }, "out of order"},
		"shard twice":            {func(r *sealpb.Record) { r.Shards = append(r.GetShards()[:1:1], r.GetShards()...) }, "out of order"},
		"unknown in a holder":    {func(r *sealpb.Record) { unknown(r.GetManifest().GetHolders()[2]) }, "does not know"},
		"unknown in a shard":     {func(r *sealpb.Record) { unknown(r.GetShards()[1]) }, "does not know"},
		"unknown in a group":     {func(r *sealpb.Record) { unknown(r.GetManifest().GetGroups()[0]) }, "does not know"},
		"unknown in a domain":    {func(r *sealpb.Record) { unknown(r.GetManifest().GetHolders()[0].GetDomain()) }, "does not know"},
		"keystore without shard": {func(r *sealpb.Record) { r.Shards, r.Manifest.Holders[0].EncryptedShardHash = r.GetShards()[1:], nil }, "hash of the encrypted shard"},
		"no shard of a keystore": {func(r *sealpb.Record) { reshard(r, 0, []byte{0xff}) }, "not that of a keystore"},
		"long shard":             {func(r *sealpb.Record) { reshard(r, 0, make([]byte, seal.MaxShard+1)) }, "encrypted shard of"},
		"empty shard":            {func(r *sealpb.Record) { reshard(r, 0, nil) }, "encrypted shard of 0"},
		"unknown in the shard": {func(r *sealpb.Record) {
			reshard(r, 0, keystoreShard(t, r.GetManifest().GetHolders()[0], func(s *sealpb.KeystoreShard) { unknown(s) }))
		}, "does not know"},
		"unknown in shard's key": {func(r *sealpb.Record) {
			reshard(r, 0, keystoreShard(t, r.GetManifest().GetHolders()[0], func(s *sealpb.KeystoreShard) { unknown(s.GetProviderKey()) }))
		}, "does not know"},
		"shard of another key": {func(r *sealpb.Record) { reshard(r, 0, keystoreShard(t, r.GetManifest().GetHolders()[1], nil)) }, "another provider key"},
		"shard without key": {func(r *sealpb.Record) {
			reshard(r, 0, keystoreShard(t, r.GetManifest().GetHolders()[0], func(s *sealpb.KeystoreShard) { s.ProviderKey = nil }))
		}, "another provider key"},
		"shard without blob": {func(r *sealpb.Record) {
			reshard(r, 0, keystoreShard(t, r.GetManifest().GetHolders()[0], func(s *sealpb.KeystoreShard) { s.WrappedKey = nil }))
		}, "wrapped key of 0"},
		"shard with short nonce": {func(r *sealpb.Record) {
			reshard(r, 0, keystoreShard(t, r.GetManifest().GetHolders()[0], func(s *sealpb.KeystoreShard) { s.Nonce = nil }))
		}, "nonce of 0"},
		"shard of a MasterKey": {func(r *sealpb.Record) {
			reshard(r, 0, keystoreShard(t, r.GetManifest().GetHolders()[0], func(s *sealpb.KeystoreShard) { s.SealedShare = make([]byte, 48) }))
		}, "sealed secret of 48"},
		"shard with long version": {func(r *sealpb.Record) {
			reshard(r, 0, keystoreShard(t, r.GetManifest().GetHolders()[0], func(s *sealpb.KeystoreShard) { s.KeyVersion = strings.Repeat("v", keystore.MaxKeyVersion+1) }))
		}, "key version"},
	}
	groups := map[string]row{
		"no group seal":         {func(r *sealpb.Record) { r.GroupSeal = nil }, "sealed under groups"},
		"short group nonce":     {func(r *sealpb.Record) { r.GroupSeal.Nonce = make([]byte, 11) }, "nonce of 11"},
		"short sealed":          {func(r *sealpb.Record) { r.GroupSeal.SealedMasterKey = make([]byte, 47) }, "of 47 bytes"},
		"unknown in group seal": {func(r *sealpb.Record) { unknown(r.GetGroupSeal()) }, "does not know"},
		"person without shard":  {func(r *sealpb.Record) { r.Shards, r.Manifest.Holders[5].EncryptedShardHash = r.GetShards()[:4], nil }, "hash of the encrypted shard"},
	}
	oneGroup := map[string]row{
		"group seal": {func(r *sealpb.Record) { r.GroupSeal = groupsRecord(t).GetGroupSeal() }, "sealed under groups"},
	}
	for _, group := range []struct {
		name string
		base func(tb) *sealpb.Record
		rows []map[string]row
	}{
		{"auto of format 1", autoRecord, []map[string]row{both, format1, auto}},
		{"auto of format 2", auto2Record, []map[string]row{both, format2, auto, auto2}},
		{"printed", printedRecord, []map[string]row{both, format1, printed}},
		{"one group", oneGroupRecord, []map[string]row{both, format2, shamir2, oneGroup}},
		{"groups", groupsRecord, []map[string]row{both, format2, shamir2, groups}},
	} {
		for _, rows := range group.rows {
			for name, c := range rows {
				t.Run(group.name+"/"+name, func(t *testing.T) {
					r := group.base(t)
					reparse(t, r)
					c.change(r)
					_, err := seal.ParseRecord(marshal(t, r))
					if !errs.Is(err, errs.StateCorrupt) || !strings.Contains(err.Error(), c.text) {
						t.Errorf("got %v, want %q", err, c.text)
					}
				})
			}
		}
	}
}

func TestWhatEachKindOfRecordTells(t *testing.T) {
	for name, c := range map[string]struct {
		pb                                  *sealpb.Record
		mode                                seal.Mode
		kind                                seal.Kind
		format, shares, threshold, personsN int
		groups                              int
	}{
		"auto":      {autoRecord(t), seal.ModeAuto, seal.KindInit, 1, 0, 0, 0, 0},
		"auto 2":    {auto2Record(t), seal.ModeAuto, seal.KindRekey, 2, 0, 0, 0, 0},
		"printed":   {printedRecord(t), seal.ModeShamir, seal.KindInit, 1, 3, 2, 2, 1},
		"one group": {oneGroupRecord(t), seal.ModeShamir, seal.KindRekey, 2, 3, 2, 0, 1},
		"groups":    {groupsRecord(t), seal.ModeShamir, seal.KindRekey, 2, 6, 0, 2, 2},
	} {
		t.Run(name, func(t *testing.T) {
			r := reparse(t, c.pb)
			p := r.Plan()
			if r.Mode() != c.mode || p.Mode() != c.mode || r.Kind() != c.kind || p.Kind != c.kind || r.Format() != c.format || p.Format() != c.format {
				t.Errorf("mode %s, kind %s, format %d; plan %+v", r.Mode(), r.Kind(), r.Format(), p)
			}
			if r.Shares() != c.shares || r.Threshold() != c.threshold || r.PersonsNeeded() != c.personsN || len(p.Groups) != c.groups || len(p.Holders()) != c.shares {
				t.Errorf("shares %d, threshold %d, persons %d; plan %+v", r.Shares(), r.Threshold(), r.PersonsNeeded(), p)
			}
		})
	}
}

func TestOversizedRecordsAreRefusedBeforeTheyAreDecoded(t *testing.T) {
	if _, err := seal.ParseRecord(make([]byte, seal.MaxRecord+1)); !errs.Is(err, errs.StateCorrupt) || !strings.Contains(err.Error(), "limit") {
		t.Errorf("%v", err)
	}
	if _, err := seal.ParseRecord([]byte{0xff}); !errs.Is(err, errs.StateCorrupt) {
		t.Errorf("%v", err)
	}
}

func TestRecordFileRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record.pb")
	a, b := reparse(t, autoRecord(t)), reparse(t, groupsRecord(t))
	for _, r := range []seal.Record{a, b} { // the second replaces the first
		if err := seal.WriteFile(path, r); err != nil {
			t.Fatal(err)
		}
		got, err := seal.ReadFile(path, r.Keyspace())
		if err != nil {
			t.Fatal(err)
		}
		if got.Digest() != r.Digest() {
			t.Error("another record came back")
		}
		if _, err := seal.ReadFile(path, hierarchy.KeyspaceID{}); err != nil {
			t.Errorf("any keyspace: %v", err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := seal.ReadFile(path, a.Keyspace()); !errors.Is(err, seal.ErrForeignRecord) || !errs.Is(err, errs.StateCorrupt) {
		t.Errorf("foreign record: %v", err)
	}
	if err := seal.WriteFile(path, seal.Record{}); err == nil {
		t.Error("wrote nothing")
	}
	_, err = seal.ReadFile(path+"x", a.Keyspace())
	if !errors.Is(err, seal.ErrNoRecord) || !errors.Is(err, fs.ErrNotExist) || !errs.Is(err, errs.NotSealed) || !strings.Contains(err.Error(), "krypton init") {
		t.Errorf("missing record: %v", err)
	}
	if err := seal.WriteFile(filepath.Join(t.TempDir(), "no", "record.pb"), a); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
}

func TestDamagedRecordFilesAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record.pb")
	if err := seal.WriteFile(path, reparse(t, printedRecord(t))); err != nil {
		t.Fatal(err)
	}
	sound, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	read := func(b []byte) error {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := seal.ReadFile(path, hierarchy.KeyspaceID{})
		return err
	}
	flip := func(i int) []byte { b := bytes.Clone(sound); b[i] ^= 1; return b }
	for name, c := range map[string]struct {
		b    []byte
		text string
	}{
		"empty":        {nil, "too few"},
		"only a head":  {sound[:16], "too few"},
		"text":         {bytes.Repeat([]byte("x"), 100), "does not start"},
		"magic":        {flip(0), "does not start"},
		"layout 2":     {flip(11), "layout 0"},
		"length":       {flip(15), "says that the record has"},
		"cut by one":   {sound[:len(sound)-1], "says that the record has"},
		"one more":     {append(bytes.Clone(sound), 0), "says that the record has"},
		"payload":      {flip(30), "checksum"},
		"checksum":     {flip(len(sound) - 1), "checksum"},
		"over a MiB":   {make([]byte, 2<<20), "more than"},
		"zeros at end": {append(bytes.Clone(sound[:len(sound)-40]), make([]byte, 40)...), "checksum"},
	} {
		t.Run(name, func(t *testing.T) {
			err := read(c.b)
			if !errs.Is(err, errs.StateCorrupt) || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), "another node") {
				t.Errorf("got %v, want %q", err, c.text)
			}
		})
	}
	for i := range sound { // no byte of the file is without effect
		if err := read(flip(i)); err == nil {
			t.Errorf("byte %d may be anything", i)
		}
	}
	for n := range sound {
		if err := read(sound[:n]); err == nil {
			t.Errorf("%d bytes are enough", n)
		}
	}
	if err := read(sound); err != nil {
		t.Error(err)
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add(marshal(f, autoRecord(f)))
	f.Add(marshal(f, auto2Record(f)))
	f.Add(marshal(f, printedRecord(f)))
	f.Add(marshal(f, oneGroupRecord(f)))
	f.Add(marshal(f, groupsRecord(f)))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := seal.ParseRecord(b)
		if err != nil {
			if !errs.Is(err, errs.StateCorrupt) {
				t.Errorf("%v", err)
			}
			return
		}
		// Whatever is accepted has all its accessors and survives a round trip.
		again := reparse(t, r.Proto())
		if again.Digest() != r.Digest() || r.PersonsNeeded() > r.Shares() || r.Keyspace().IsZero() || len(r.Plan().Holders()) != r.Shares() {
			t.Error("accepted and not sound")
		}
	})
}

// FuzzReadFile takes anything for the file that a node keeps its record in.
func FuzzReadFile(f *testing.F) {
	path := filepath.Join(f.TempDir(), "record.pb")
	rec, err := seal.ParseRecord(marshal(f, autoRecord(f)))
	if err != nil {
		f.Fatal(err)
	}
	if err := seal.WriteFile(path, rec); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := seal.ReadFile(path, hierarchy.KeyspaceID{})
		if err != nil {
			if !errs.Is(err, errs.StateCorrupt) {
				t.Errorf("%v", err)
			}
			return
		}
		if err := seal.WriteFile(path, r); err != nil {
			t.Fatal(err)
		}
		if again, err := seal.ReadFile(path, r.Keyspace()); err != nil || again.Digest() != r.Digest() {
			t.Errorf("what was read does not survive being written: %v", err)
		}
	})
}
