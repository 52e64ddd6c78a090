package manifest_test

import (
	"bytes"
	"crypto/sha256"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/seal/manifest"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// printed is a valid manifest of format 1.
func printed() *sealpb.Manifest {
	id := func(b byte) []byte { return bytes.Repeat([]byte{b}, 16) }
	m := &sealpb.Manifest{
		Format: 1, KeyspaceId: id(1), ClusterId: id(2), CeremonyId: id(3), Generation: 4, Mode: sealpb.Mode_MODE_SHAMIR, Threshold: 2,
		MasterKeyCommitment: bytes.Repeat([]byte{9}, 32), SignedIntents: [][]byte{{1}}, CreateTimeUnixNano: -1,
	}
	for i := range 3 {
		m.Holders = append(m.Holders, &sealpb.Holder{
			Index: uint32(i + 1), X: uint32(100 + i), Kind: sealpb.HolderKind_HOLDER_KIND_PERSON, Recipient: "someone", ShareHash: sum(i),
		})
	}
	return m
}

func sum(i int) []byte { s := sha256.Sum256([]byte{byte(i)}); return s[:] }

// mixed is a valid manifest of format 2, which follows [printed].
func mixed() *sealpb.Manifest {
	m := printed()
	before := manifest.Of(m)
	m.Format, m.Kind, m.PreviousManifest, m.AcceptedRisks = 2, sealpb.CeremonyKind_CEREMONY_KIND_RESHARE, before[:], []string{"a", "b"}
	m.CeremonyId[0], m.Threshold, m.Holders = 7, 0, nil
	m.Groups = []*sealpb.Group{{Name: "machines", Threshold: 2}, {Name: "people", Threshold: 3}}
	for i := range 6 {
		h := &sealpb.Holder{
			Index: uint32(i + 1), X: uint32(100 + i%3), Kind: sealpb.HolderKind_HOLDER_KIND_PERSON, ShareHash: sum(i),
			Group: uint32(i / 3), Name: string(rune('a' + i)), Domain: &sealpb.Domain{ProviderType: "p", Account: "a", Region: "r"},
		}
		switch {
		case i < 2:
			h.Kind, h.ProviderKey = sealpb.HolderKind_HOLDER_KIND_KEYSTORE, &sealpb.ProviderKey{Provider: "p", Key: "k"}
			h.EncryptedShardHash = sum(i + 10)
		case i > 2:
			h.Recipient, h.EncryptedShardHash = "age1", sum(i+10)
		}
		m.Holders = append(m.Holders, h)
	}
	return m
}

// auto is a valid manifest of format 2 in the other mode, which follows [printed].
func auto() *sealpb.Manifest {
	m := mixed()
	m.Mode, m.Holders, m.Groups, m.Kind = sealpb.Mode_MODE_AUTO, nil, nil, sealpb.CeremonyKind_CEREMONY_KIND_MIGRATE
	m.ProviderKeys = []*sealpb.ProviderKey{{Provider: "a", Key: "k"}, {Provider: "b", Key: "k"}}
	return m
}

func TestI3_ManifestsThatAreNotValidAreRefused(t *testing.T) {
	type row struct {
		change func(*sealpb.Manifest)
		text   string
	}
	tooMany := func(m *sealpb.Manifest) {
		for i := len(m.GetHolders()); i < 256; i++ {
			h := proto.CloneOf(m.GetHolders()[i-1])
			h.Index, h.ShareHash = uint32(i+1), sum(i)
			m.Holders = append(m.Holders, h)
		}
	}
	all := map[string]row{
		"format 0":         {func(m *sealpb.Manifest) { m.Format = 0 }, "format 0"},
		"format 3":         {func(m *sealpb.Manifest) { m.Format = 3 }, "format 3"},
		"short keyspace":   {func(m *sealpb.Manifest) { m.KeyspaceId = make([]byte, 15) }, "keyspace id"},
		"zero keyspace":    {func(m *sealpb.Manifest) { m.KeyspaceId = make([]byte, 16) }, "keyspace id"},
		"no cluster":       {func(m *sealpb.Manifest) { m.ClusterId = nil }, "cluster id"},
		"long ceremony":    {func(m *sealpb.Manifest) { m.CeremonyId = make([]byte, 17) }, "ceremony id"},
		"generation 0":     {func(m *sealpb.Manifest) { m.Generation = 0 }, "generation 0"},
		"generation 2^32":  {func(m *sealpb.Manifest) { m.Generation = 1 << 32 }, "generation"},
		"short commitment": {func(m *sealpb.Manifest) { m.MasterKeyCommitment = make([]byte, 31) }, "commitment"},
		"no mode":          {func(m *sealpb.Manifest) { m.Mode = 0 }, "mode"},
		"mode of tomorrow": {func(m *sealpb.Manifest) { m.Mode = 3 }, "mode"},
		"long intent":      {func(m *sealpb.Manifest) { m.SignedIntents[0] = make([]byte, manifest.MaxIntent+1) }, "intent"},
		"empty intent":     {func(m *sealpb.Manifest) { m.SignedIntents[0] = nil }, "intent"},
		"many intents":     {func(m *sealpb.Manifest) { m.SignedIntents = make([][]byte, manifest.MaxIntents+1) }, "intents"},
	}
	shamir := map[string]row{
		"provider key":    {func(m *sealpb.Manifest) { m.ProviderKeys = []*sealpb.ProviderKey{{}} }, "shamir with provider keys"},
		"index from 0":    {func(m *sealpb.Manifest) { m.Holders[0].Index = 0 }, "stands where"},
		"index twice":     {func(m *sealpb.Manifest) { m.Holders[1].Index = 1 }, "stands where"},
		"x = 0":           {func(m *sealpb.Manifest) { m.Holders[0].X = 0 }, "x = 0"},
		"x = 256":         {func(m *sealpb.Manifest) { m.Holders[0].X = 256 }, "x = 256"},
		"x twice":         {func(m *sealpb.Manifest) { m.Holders[0].X = m.GetHolders()[1].GetX() }, "two shares are at x"},
		"short hash":      {func(m *sealpb.Manifest) { m.Holders[0].ShareHash = make([]byte, 31) }, "share hash"},
		"hash twice":      {func(m *sealpb.Manifest) { m.Holders[0].ShareHash = m.GetHolders()[1].GetShareHash() }, "one hash"},
		"256 shares":      {tooMany, "256 shares"},
		"nobody":          {func(m *sealpb.Manifest) { m.Holders = nil }, "never be reached"},
		"out of order":    {func(m *sealpb.Manifest) { m.Holders[0].Group = 1 }, "order of groups"},
		"group of nobody": {func(m *sealpb.Manifest) { m.Holders[len(m.GetHolders())-1].Group = 5 }, "group 6"},
	}
	format1 := map[string]row{
		"no kind of holder": {func(m *sealpb.Manifest) { m.Holders[0].Kind = 0 }, "not of format 1"},
		"a keystore":        {func(m *sealpb.Manifest) { m.Holders[0].Kind = 2 }, "not of format 1"},
		"no name":           {func(m *sealpb.Manifest) { m.Holders[0].Recipient = "" }, "name of its holder"},
		"threshold 1":       {func(m *sealpb.Manifest) { m.Threshold = 1 }, "threshold 1"},
		"huge threshold":    {func(m *sealpb.Manifest) { m.Threshold = 1<<32 - 1 }, "never be reached"},
		"threshold over N":  {func(m *sealpb.Manifest) { m.Threshold = 4 }, "never be reached"},
		"a kind":            {func(m *sealpb.Manifest) { m.Kind = 1 }, "fields of format 2"},
	}
	format2 := map[string]row{
		"no kind":              {func(m *sealpb.Manifest) { m.Kind = 0 }, "no kind"},
		"kind of tomorrow":     {func(m *sealpb.Manifest) { m.Kind = 6 }, "kind 6 of ceremony"},
		"init after something": {func(m *sealpb.Manifest) { m.Kind = 1 }, "names a manifest before it"},
		"follows nothing":      {func(m *sealpb.Manifest) { m.PreviousManifest = nil }, "manifest before with 0"},
		"follows half":         {func(m *sealpb.Manifest) { m.PreviousManifest = m.GetPreviousManifest()[:31] }, "manifest before with 31"},
		"empty risk":           {func(m *sealpb.Manifest) { m.AcceptedRisks[0] = "" }, "name of a risk"},
		"long risk":            {func(m *sealpb.Manifest) { m.AcceptedRisks[0] = strings.Repeat("r", manifest.MaxRisk+1) }, "name of a risk"},
		"risk that rewrites":   {func(m *sealpb.Manifest) { m.AcceptedRisks[0] = "a\x1b[2K" }, "control character"},
		"risk twice":           {func(m *sealpb.Manifest) { m.AcceptedRisks[0] = "b" }, "stands twice"},
		"many risks":           {func(m *sealpb.Manifest) { m.AcceptedRisks = make([]string, manifest.MaxRisks+1) }, "accepted risks"},
	}
	groups := map[string]row{
		"no group":              {func(m *sealpb.Manifest) { m.Groups = nil }, "0 groups"},
		"nine groups":           {func(m *sealpb.Manifest) { m.Groups = make([]*sealpb.Group, 9) }, "9 groups"},
		"threshold of all":      {func(m *sealpb.Manifest) { m.Threshold = 2 }, "beside 2 groups"},
		"group of nobody":       {func(m *sealpb.Manifest) { m.Groups = append(m.Groups, &sealpb.Group{Name: "c", Threshold: 2}) }, "never be reached"},
		"one group for two":     {func(m *sealpb.Manifest) { m.Groups, m.Threshold = m.GetGroups()[:1], 2 }, "group 2 of 1"},
		"threshold 1":           {func(m *sealpb.Manifest) { m.Groups[0].Threshold = 1 }, "threshold 1"},
		"huge threshold":        {func(m *sealpb.Manifest) { m.Groups[0].Threshold = 1<<32 - 1 }, "never be reached"},
		"threshold over N":      {func(m *sealpb.Manifest) { m.Groups[0].Threshold = 4 }, "never be reached"},
		"group without name":    {func(m *sealpb.Manifest) { m.Groups[0].Name = "" }, "name of a group"},
		"group with a novel":    {func(m *sealpb.Manifest) { m.Groups[0].Name = strings.Repeat("n", manifest.MaxName+1) }, "name of a group"},
		"group twice":           {func(m *sealpb.Manifest) { m.Groups[0].Name = "people" }, "one name"},
		"holder without name":   {func(m *sealpb.Manifest) { m.Holders[2].Name = "" }, "name of its holder"},
		"holder with a novel":   {func(m *sealpb.Manifest) { m.Holders[2].Name = strings.Repeat("n", manifest.MaxName+1) }, "name of its holder"},
		"holder twice":          {func(m *sealpb.Manifest) { m.Holders[2].Name = "a" }, "name of another"},
		"holder of no kind":     {func(m *sealpb.Manifest) { m.Holders[2].Kind = 0 }, "no kind of holder"},
		"holder of tomorrow":    {func(m *sealpb.Manifest) { m.Holders[2].Kind = 3 }, "kind 3 of holder"},
		"person with a key":     {func(m *sealpb.Manifest) { m.Holders[2].ProviderKey = &sealpb.ProviderKey{Provider: "p", Key: "k"} }, "person with a provider key"},
		"printed and encrypted": {func(m *sealpb.Manifest) { m.Holders[2].EncryptedShardHash = sum(9) }, "without a recipient"},
		"encrypted to nobody":   {func(m *sealpb.Manifest) { m.Holders[3].Recipient = "" }, "without a recipient"},
		"long recipient":        {func(m *sealpb.Manifest) { m.Holders[3].Recipient = strings.Repeat("r", manifest.MaxRecipient+1) }, "recipient with"},
		"recipient, no shard":   {func(m *sealpb.Manifest) { m.Holders[3].EncryptedShardHash = nil }, "hash of the encrypted shard"},
		"keystore, recipient":   {func(m *sealpb.Manifest) { m.Holders[0].Recipient = "age1" }, "keystore with a recipient"},
		"keystore, no key":      {func(m *sealpb.Manifest) { m.Holders[0].ProviderKey = nil }, "without a name"},
		"keystore, long key":    {func(m *sealpb.Manifest) { m.Holders[0].ProviderKey.Key = strings.Repeat("k", manifest.MaxKey+1) }, "too long"},
		"keystore, no shard":    {func(m *sealpb.Manifest) { m.Holders[0].EncryptedShardHash = nil }, "hash of the encrypted shard"},
		"empty domain":          {func(m *sealpb.Manifest) { m.Holders[0].Domain = &sealpb.Domain{} }, "says nothing"},
		"long region":           {func(m *sealpb.Manifest) { m.Holders[0].Domain.Region = strings.Repeat("r", manifest.MaxDomain+1) }, "domain of its holder"},
		"account of two lines":  {func(m *sealpb.Manifest) { m.Holders[0].Domain.Account = "a\nb" }, "control character"},
		"type of two lines":     {func(m *sealpb.Manifest) { m.Holders[0].Domain.ProviderType = "a\nb" }, "control character"},
	}
	autos := map[string]row{
		"threshold":             {func(m *sealpb.Manifest) { m.Threshold = 2 }, "auto with shares"},
		"holders":               {func(m *sealpb.Manifest) { m.Holders = mixed().GetHolders() }, "auto with shares"},
		"groups":                {func(m *sealpb.Manifest) { m.Groups = mixed().GetGroups() }, "auto with shares"},
		"no provider keys":      {func(m *sealpb.Manifest) { m.ProviderKeys = nil }, "0 provider keys"},
		"many provider keys":    {func(m *sealpb.Manifest) { m.ProviderKeys = make([]*sealpb.ProviderKey, 65) }, "65 provider keys"},
		"provider without name": {func(m *sealpb.Manifest) { m.ProviderKeys[0].Provider = "" }, "without a name"},
		"provider without key":  {func(m *sealpb.Manifest) { m.ProviderKeys[0].Key = "" }, "without a name"},
		"long provider":         {func(m *sealpb.Manifest) { m.ProviderKeys[0].Provider = strings.Repeat("p", 64) }, "too long"},
		"provider key twice":    {func(m *sealpb.Manifest) { m.ProviderKeys[1].Provider = "a" }, "stands twice"},
	}
	for _, group := range []struct {
		name string
		base func() *sealpb.Manifest
		rows []map[string]row
	}{
		{"printed", printed, []map[string]row{all, shamir, format1}},
		{"mixed", mixed, []map[string]row{all, shamir, format2, groups}},
		{"auto", auto, []map[string]row{all, format2, autos}},
	} {
		for _, rows := range group.rows {
			for name, c := range rows {
				t.Run(group.name+"/"+name, func(t *testing.T) {
					m := group.base()
					if err := manifest.Check(m); err != nil {
						t.Fatal(err)
					}
					c.change(m)
					if err := manifest.Check(m); err == nil || !strings.Contains(err.Error(), c.text) {
						t.Errorf("got %v, want %q", err, c.text)
					}
				})
			}
		}
	}
}

func TestGroupsMayHaveTheSamePoints(t *testing.T) {
	m := mixed()
	if m.GetHolders()[0].GetX() != m.GetHolders()[3].GetX() {
		t.Fatal("the example has no such point")
	}
	if err := manifest.Check(m); err != nil {
		t.Error(err)
	}
}

func TestI4_OnlyTheNextManifestFollows(t *testing.T) {
	rekey := func() *sealpb.Manifest {
		m := mixed()
		m.Kind, m.Generation = sealpb.CeremonyKind_CEREMONY_KIND_REKEY, 5
		m.MasterKeyCommitment[0] ^= 1
		return m
	}
	for name, m := range map[string]*sealpb.Manifest{"reshare": mixed(), "migrate": auto(), "rekey": rekey()} {
		if err := manifest.Follows(m, printed()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A chain of two: what followed is followed.
	next, before := mixed(), manifest.Of(auto())
	next.PreviousManifest, next.Kind, next.CeremonyId[0] = before[:], sealpb.CeremonyKind_CEREMONY_KIND_MIGRATE, 8
	if err := manifest.Follows(next, auto()); err != nil {
		t.Error(err)
	}
	// From keystores to other keystores it is a migration, too.
	other := auto()
	other.PreviousManifest, other.CeremonyId[0] = before[:], 9
	if err := manifest.Follows(other, auto()); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		m      *sealpb.Manifest
		change func(*sealpb.Manifest)
		text   string
	}{
		"format 1":               {printed(), func(*sealpb.Manifest) {}, "follows nothing"},
		"init":                   {mixed(), func(m *sealpb.Manifest) { m.Kind, m.PreviousManifest = 1, nil }, "follows nothing"},
		"another one":            {mixed(), func(m *sealpb.Manifest) { m.PreviousManifest[0] ^= 1 }, "another manifest"},
		"other keyspace":         {mixed(), func(m *sealpb.Manifest) { m.KeyspaceId[0] ^= 1 }, "another keyspace"},
		"other cluster":          {mixed(), func(m *sealpb.Manifest) { m.ClusterId[0] ^= 1 }, "another cluster"},
		"same ceremony":          {mixed(), func(m *sealpb.Manifest) { m.CeremonyId = printed().GetCeremonyId() }, "has the ceremony"},
		"reshare of the mode":    {auto(), func(m *sealpb.Manifest) { m.Kind = sealpb.CeremonyKind_CEREMONY_KIND_RESHARE }, "that is a migration"},
		"migrate to the same":    {mixed(), func(m *sealpb.Manifest) { m.Kind = sealpb.CeremonyKind_CEREMONY_KIND_MIGRATE }, "that is a reshare"},
		"reshare to a new key":   {mixed(), func(m *sealpb.Manifest) { m.MasterKeyCommitment[0] ^= 1 }, "is no rekey"},
		"reshare to a new gen":   {mixed(), func(m *sealpb.Manifest) { m.Generation++ }, "is no rekey"},
		"rekey to the same key":  {rekey(), func(m *sealpb.Manifest) { m.MasterKeyCommitment[0] ^= 1 }, "without a new"},
		"rekey in place":         {rekey(), func(m *sealpb.Manifest) { m.Generation-- }, "from generation 4 to 4"},
		"rekey over a gap":       {rekey(), func(m *sealpb.Manifest) { m.Generation++ }, "from generation 4 to 6"},
		"compromised, in place":  {rekey(), func(m *sealpb.Manifest) { m.Generation--; m.Kind = sealpb.CeremonyKind_CEREMONY_KIND_REKEY_COMPROMISED }, "from generation"},
		"migrate to another key": {auto(), func(m *sealpb.Manifest) { m.MasterKeyCommitment[0] ^= 1 }, "is no rekey"},
	} {
		t.Run(name, func(t *testing.T) {
			c.change(c.m)
			if err := manifest.Follows(c.m, printed()); err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %q", err, c.text)
			}
		})
	}
}

// The keystore's own limits, which the state machine cannot import.
func TestProviderKeysHaveTheLimitsOfKeystores(t *testing.T) {
	if manifest.MaxKey != keystore.MaxKeyRef {
		t.Errorf("%d, a keystore takes %d", manifest.MaxKey, keystore.MaxKeyRef)
	}
}

func TestI2_WhatIsNotUnderstoodIsNotDecoded(t *testing.T) {
	long := make([]byte, manifest.MaxRecord+1)
	m := mixed()
	m.ProtoReflect().SetUnknown([]byte{0xf8, 0x07, 0x01})
	unknown, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		b    []byte
		text string
	}{"too long": {long, "limit"}, "not protobuf": {[]byte{0xff}, "not a protobuf"}, "unknown field": {unknown, "does not know"}, "nothing": {nil, "format 0"}} {
		if _, err := manifest.ParseManifest(c.b); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: got %v, want %q", name, err, c.text)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	for _, m := range []*sealpb.Manifest{printed(), mixed(), auto()} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := manifest.ParseManifest(b)
		if err != nil || manifest.Check(m) != nil {
			return
		}
		out, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		again, err := manifest.ParseManifest(out)
		if err != nil || manifest.Of(again) != manifest.Of(m) || manifest.Follows(m, again) == nil {
			t.Errorf("accepted and not sound: %v", err)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, m := range []*sealpb.Manifest{printed(), mixed(), auto()} {
		b, err := proto.Marshal(&sealpb.Record{Format: m.GetFormat(), Manifest: m, Shards: []*sealpb.Shard{{Index: 1, EncryptedShard: []byte{2}}}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := manifest.Parse(b)
		if err != nil {
			return
		}
		out, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		again, err := manifest.Parse(out)
		if err != nil || manifest.OfRecord(again) != manifest.OfRecord(r) || manifest.Of(again.GetManifest()) != manifest.Of(r.GetManifest()) {
			t.Errorf("accepted and not sound: %v", err)
		}
	})
}
