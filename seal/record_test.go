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

// shamirRecord is a valid record with two persons and a keystore as holders.
func shamirRecord(t tb) *sealpb.Record {
	t.Helper()
	r := autoRecord(t)
	r.Wrappings, r.Manifest.ProviderKeys = nil, nil
	r.Manifest.Mode, r.Manifest.Threshold = sealpb.Mode_MODE_SHAMIR, 2
	for i := range 3 {
		shard := bytes.Repeat([]byte{byte(i + 1)}, 40)
		sum, h := sha256.Sum256(shard), sha256.Sum256([]byte{byte(i)})
		holder := &sealpb.Holder{Index: uint32(i + 1), X: uint32(100 + i), Kind: sealpb.HolderKind_HOLDER_KIND_PERSON, Recipient: "someone", ShareHash: h[:]}
		if i > 0 {
			holder.EncryptedShardHash = sum[:]
			r.Shards = append(r.Shards, &sealpb.Shard{Index: uint32(i + 1), EncryptedShard: shard})
		}
		r.Manifest.Holders = append(r.Manifest.Holders, holder)
	}
	r.Manifest.Holders[2].Kind = sealpb.HolderKind_HOLDER_KIND_KEYSTORE
	return r
}

func TestRecordsWithKeystoresAsHoldersAreUnderstood(t *testing.T) {
	r := reparse(t, shamirRecord(t))
	if r.PersonsNeeded() != 1 || r.Shares() != 3 || r.Mode() != seal.ModeShamir {
		t.Errorf("persons %d, shares %d, mode %s", r.PersonsNeeded(), r.Shares(), r.Mode())
	}
	if a := reparse(t, autoRecord(t)); a.PersonsNeeded() != 0 || a.Mode() != seal.ModeAuto || a.Threshold() != 0 {
		t.Errorf("persons %d, mode %s", a.PersonsNeeded(), a.Mode())
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
		"format 2":                {func(r *sealpb.Record) { r.Format = 2 }, "format 2"},
		"manifest format 2":       {func(r *sealpb.Record) { r.Manifest.Format = 2 }, "manifest format 2"},
		"no manifest":             {func(r *sealpb.Record) { r.Manifest = nil }, "manifest format 0"},
		"unknown field":           {func(r *sealpb.Record) { unknown(r) }, "does not know"},
		"unknown in the manifest": {func(r *sealpb.Record) { unknown(r.GetManifest()) }, "does not know"},
		"short keyspace":          {func(r *sealpb.Record) { r.Manifest.KeyspaceId = make([]byte, 15) }, "keyspace id"},
		"zero keyspace":           {func(r *sealpb.Record) { r.Manifest.KeyspaceId = make([]byte, 16) }, "keyspace id"},
		"no cluster":              {func(r *sealpb.Record) { r.Manifest.ClusterId = nil }, "cluster id"},
		"long ceremony":           {func(r *sealpb.Record) { r.Manifest.CeremonyId = make([]byte, 17) }, "ceremony id"},
		"generation 0":            {func(r *sealpb.Record) { r.Manifest.Generation = 0 }, "generation 0"},
		"generation 2^32":         {func(r *sealpb.Record) { r.Manifest.Generation = 1 << 32 }, "generation"},
		"short commitment":        {func(r *sealpb.Record) { r.Manifest.MasterKeyCommitment = make([]byte, 31) }, "commitment"},
		"no mode":                 {func(r *sealpb.Record) { r.Manifest.Mode = 0 }, "mode"},
		"mode of tomorrow":        {func(r *sealpb.Record) { r.Manifest.Mode = 3 }, "mode"},
		"long intent":             {func(r *sealpb.Record) { r.Manifest.SignedIntents[0] = make([]byte, seal.MaxIntent+1) }, "intent"},
	}
	auto := map[string]row{
		"auto with threshold":     {func(r *sealpb.Record) { r.Manifest.Threshold = 2 }, "auto with shares"},
		"auto with holders":       {func(r *sealpb.Record) { r.Manifest.Holders = []*sealpb.Holder{{}} }, "auto with shares"},
		"auto with shards":        {func(r *sealpb.Record) { r.Shards = []*sealpb.Shard{{}} }, "auto with shares"},
		"no provider keys":        {func(r *sealpb.Record) { r.Manifest.ProviderKeys = nil }, "provider keys"},
		"no wrapping":             {func(r *sealpb.Record) { r.Wrappings = nil }, "no wrapping"},
		"provider without name":   {func(r *sealpb.Record) { r.Manifest.ProviderKeys[0].Provider = "" }, "without a name"},
		"provider without key":    {func(r *sealpb.Record) { r.Manifest.ProviderKeys[0].Key = "" }, "without a name"},
		"provider key twice":      {func(r *sealpb.Record) { r.Manifest.ProviderKeys[1].Provider = "a" }, "stands twice"},
		"foreign wrapping":        {func(r *sealpb.Record) { r.Wrappings[0].ProviderKey = &sealpb.ProviderKey{Provider: "z", Key: "k"} }, "does not name"},
		"wrapping of no key":      {func(r *sealpb.Record) { r.Wrappings[0].ProviderKey = nil }, "does not name"},
		"wrapping twice":          {func(r *sealpb.Record) { r.Wrappings[1].ProviderKey = r.GetWrappings()[0].GetProviderKey() }, "two wrappings"},
		"no wrapped key":          {func(r *sealpb.Record) { r.Wrappings[0].WrappedKey = nil }, "wrapped key of 0"},
		"long wrapped key":        {func(r *sealpb.Record) { r.Wrappings[0].WrappedKey = make([]byte, keystore.MaxBlob+1) }, "wrapped key of"},
		"short nonce":             {func(r *sealpb.Record) { r.Wrappings[0].Nonce = make([]byte, 11) }, "nonce of 11"},
		"short MasterKey":         {func(r *sealpb.Record) { r.Wrappings[0].SealedMasterKey = make([]byte, 47) }, "of 47 bytes"},
		"long key version":        {func(r *sealpb.Record) { r.Wrappings[0].KeyVersion = strings.Repeat("v", keystore.MaxKeyVersion+1) }, "key version"},
		"unknown in a wrapping":   {func(r *sealpb.Record) { unknown(r.GetWrappings()[1]) }, "does not know"},
		"unknown in provider key": {func(r *sealpb.Record) { unknown(r.GetManifest().GetProviderKeys()[1]) }, "does not know"},
	}
	shamir := map[string]row{
		"shamir with wrapping":     {func(r *sealpb.Record) { r.Wrappings = []*sealpb.Wrapping{{}} }, "shamir with wrappings"},
		"shamir with provider key": {func(r *sealpb.Record) { r.Manifest.ProviderKeys = []*sealpb.ProviderKey{{}} }, "shamir with wrappings"},
		"threshold 1":              {func(r *sealpb.Record) { r.Manifest.Threshold = 1 }, "threshold 1"},
		"threshold over N":         {func(r *sealpb.Record) { r.Manifest.Threshold = 4 }, "never be reached"},
		"huge threshold":           {func(r *sealpb.Record) { r.Manifest.Threshold = 1<<32 - 1 }, "threshold"},
		"index from 0":             {func(r *sealpb.Record) { r.Manifest.Holders[0].Index = 0 }, "stands where"},
		"index twice":              {func(r *sealpb.Record) { r.Manifest.Holders[1].Index = 1 }, "stands where"},
		"x = 0":                    {func(r *sealpb.Record) { r.Manifest.Holders[0].X = 0 }, "x = 0"},
		"x = 256":                  {func(r *sealpb.Record) { r.Manifest.Holders[0].X = 256 }, "x = 256"},
		"x twice":                  {func(r *sealpb.Record) { r.Manifest.Holders[0].X = r.GetManifest().GetHolders()[1].GetX() }, "two shares are at x"},
		"no kind":                  {func(r *sealpb.Record) { r.Manifest.Holders[0].Kind = 0 }, "kind of holder"},
		"kind of tomorrow":         {func(r *sealpb.Record) { r.Manifest.Holders[0].Kind = 3 }, "kind of holder"},
		"group":                    {func(r *sealpb.Record) { r.Manifest.Holders[0].Group = 1 }, "group 1"},
		"nobody":                   {func(r *sealpb.Record) { r.Manifest.Holders[0].Recipient = "" }, "name of a holder"},
		"short hash":               {func(r *sealpb.Record) { r.Manifest.Holders[0].ShareHash = make([]byte, 31) }, "share hash"},
		"hash twice": {func(r *sealpb.Record) {
			r.Manifest.Holders[0].ShareHash = r.GetManifest().GetHolders()[1].GetShareHash()
		}, "one hash"},
		"changed shard":           {func(r *sealpb.Record) { r.Shards[0].EncryptedShard[0] ^= 1 }, "not the one in the manifest"},
		"changed shard hash":      {func(r *sealpb.Record) { r.Manifest.Holders[1].EncryptedShardHash[0] ^= 1 }, "not the one in the manifest"},
		"missing shard":           {func(r *sealpb.Record) { r.Shards = r.GetShards()[:1] }, "not the one in the manifest"},
		"shard that nobody named": {func(r *sealpb.Record) { r.Manifest.Holders[1].EncryptedShardHash = nil }, "not the one in the manifest"},
		"shard of no holder":      {func(r *sealpb.Record) { r.Shards = append(r.Shards, &sealpb.Shard{Index: 9}) }, "does not name"},
		"shards out of order":     {func(r *sealpb.Record) { r.Shards[0], r.Shards[1] = r.GetShards()[1], r.GetShards()[0] }, "out of order"},
		"keystore without shard": {func(r *sealpb.Record) {
			r.Shards, r.Manifest.Holders[2].EncryptedShardHash = r.GetShards()[:1], nil
		}, "held by a keystore"},
		"unknown in a holder": {func(r *sealpb.Record) { unknown(r.GetManifest().GetHolders()[2]) }, "does not know"},
		"unknown in a shard":  {func(r *sealpb.Record) { unknown(r.GetShards()[1]) }, "does not know"},
	}
	for _, group := range []struct {
		rows map[string]row
		base func(tb) *sealpb.Record
	}{{both, autoRecord}, {both, shamirRecord}, {auto, autoRecord}, {shamir, shamirRecord}} {
		for name, c := range group.rows {
			t.Run(name, func(t *testing.T) {
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
	a, b := reparse(t, autoRecord(t)), reparse(t, shamirRecord(t))
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
	if err := seal.WriteFile(path, reparse(t, shamirRecord(t))); err != nil {
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
	f.Add(marshal(f, shamirRecord(f)))
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
		if again.Digest() != r.Digest() || r.PersonsNeeded() > r.Threshold() || r.Keyspace().IsZero() {
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
