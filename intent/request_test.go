package intent_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/intent"
)

// anyText is text as an attacker chooses it.
func anyText() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.String(),
		rapid.StringOfN(rapid.SampledFrom([]rune(" \"\\\n\r\t\x00\x1b\x7f\u0430\u00e9\u202e\u2066\u200b\u2028\u0085\U000e0041ab|:()=-")), 0, 200, -1),
		rapid.SampledFrom([]string{"", "acme", "acme\n  version: 3", `acme" (the whole tenant)`, "a" + strings.Repeat(" ", 100) + "version: 3", strings.Repeat(`\n`, 50)}),
	)
}

func anyField() *rapid.Generator[intent.Field] {
	return rapid.Custom(func(t *rapid.T) intent.Field {
		f := intent.Field{Name: rapid.StringMatching(`[a-z0-9_-]{1,32}`).Draw(t, "name")}
		switch f.Kind = rapid.SampledFrom([]intent.Kind{intent.KindText, intent.KindBytes, intent.KindUint, intent.KindList}).Draw(t, "kind"); f.Kind {
		case intent.KindText:
			f.Text = anyText().Draw(t, "text")
		case intent.KindBytes:
			f.Bytes = rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "bytes")
		case intent.KindUint:
			f.Uint = rapid.Uint64().Draw(t, "number")
		case intent.KindList:
			f.Uint = uint64(rapid.IntRange(0, intent.MaxFields).Draw(t, "count"))
		}
		return f
	})
}

func build(act intent.Act, fs []intent.Field) *intent.Request {
	r := intent.NewRequest(act)
	for _, f := range fs {
		switch f.Kind {
		case intent.KindText:
			r.Text(f.Name, f.Text)
		case intent.KindBytes:
			r.Bytes(f.Name, f.Bytes)
		case intent.KindUint:
			r.Uint(f.Name, f.Uint)
		case intent.KindList:
			r.List(f.Name, int(f.Uint))
		}
	}
	return r
}

func anyRequest() *rapid.Generator[*intent.Request] {
	return rapid.OneOf(
		rapid.Custom(func(t *rapid.T) *intent.Request {
			return build(rapid.SampledFrom(intent.Acts()).Draw(t, "act"), rapid.SliceOfN(anyField(), 0, 6).Draw(t, "fields"))
		}),
		rapid.Custom(func(t *rapid.T) *intent.Request { return anyAct(t).Request() }),
	)
}

// anyAct draws one of the types that make a request.
func anyAct(t *rapid.T) interface{ Request() *intent.Request } {
	name := func(what string) string {
		return rapid.OneOf(anyText(), rapid.SampledFrom([]string{"acme", "payments"})).Draw(t, what)
	}
	raw := func(what string) []byte { return rapid.SliceOfN(rapid.Byte(), 0, 70).Draw(t, what) }
	raws := func(what string) [][]byte {
		return rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 70), 0, 3).Draw(t, what)
	}
	names := func(what string) []string { return rapid.SliceOfN(anyText(), 0, 3).Draw(t, what) }
	role := func() string {
		return rapid.OneOf(anyText(), rapid.SampledFrom([]string{"governor", "custodian", "operator", "auditor", "workload"})).Draw(t, "role")
	}
	switch rapid.IntRange(0, 15).Draw(t, "type") {
	case 0:
		return intent.BindL1{Tenant: name("tenant"), Keystore: name("keystore"), Key: name("key"), Archetype: name("archetype"), Governors: raws("governors")}
	case 5:
		b := intent.BindRole{
			Tenant: name("tenant"), TenantUID: raw("tenant uid"), ID: name("id"), IssuerUID: raw("issuer"), Role: role(), Name: name("name"), Subject: name("subject"),
			Platform: rapid.Bool().Draw(t, "platform"), ExpireTimeMs: rapid.Int64().Draw(t, "expire"),
		}
		for range rapid.IntRange(0, 3).Draw(t, "keys") {
			b.Keys = append(b.Keys, intent.BoundKey{
				Algorithm: uint64(rapid.Int32Range(0, 1<<30).Draw(t, "algorithm")), PublicKey: raw("key"), Sign: rapid.Bool().Draw(t, "sign"), TLS: rapid.Bool().Draw(t, "tls"),
			})
		}
		return b
	case 6:
		return intent.UnbindRole{Tenant: name("tenant"), ID: name("id"), UID: raw("uid"), Role: role()}
	case 7:
		return intent.SetTenantGovernors{Tenant: name("tenant"), TenantUID: raw("tenant uid"), Governors: raws("governors")}
	case 8, 9:
		p := intent.PutIssuer{
			Tenant: name("tenant"), TenantUID: raw("tenant uid"), ID: name("id"), Roles: names("roles"), TenantUIDs: raws("tenants"),
			AllTenants: rapid.Bool().Draw(t, "all tenants"), UnboundRoles: names("unbound roles"),
		}
		switch rapid.IntRange(0, 2).Draw(t, "kind") {
		case 1:
			p.X509 = &intent.X509Issuer{Certificates: raws("certificates"), TrustDomain: name("trust domain")}
		case 2:
			p.JWT = &intent.JWTIssuer{
				URL: name("url"), Audiences: names("audiences"), CA: raws("ca"), JWKS: raw("keys"), SkewMs: rapid.Uint32().Draw(t, "skew"), MaxLifeS: rapid.Uint32().Draw(t, "life"), SubjectClaim: name("claim"),
			}
		}
		return p
	case 11:
		return intent.SetQuorum{Governors: rapid.Uint32().Draw(t, "governors"), Custodians: rapid.Uint32().Draw(t, "custodians")}
	case 10:
		return intent.RemoveIssuer{Tenant: name("tenant"), ID: name("id")}
	case 13:
		return intent.PutPolicy{Tenant: name("tenant"), TenantUID: raw("tenant uid"), ID: name("id"), Text: name("text")}
	case 12:
		return intent.RemovePolicy{Tenant: name("tenant"), ID: name("id")}
	case 14:
		return intent.VoterWithdrawal{Op: rapid.SampledFrom([]string{"remove", "demote", ""}).Draw(t, "op"), Node: name("node"), Voters: rapid.Uint64().Draw(t, "voters")}
	case 15:
		c := intent.Ceremony{
			Kind: rapid.SampledFrom([]string{intent.CeremonyReshare, intent.CeremonyMigrate, intent.CeremonyRekey, intent.CeremonyRekeyCompromised}).Draw(t, "kind"),
			Base: raw("base"), Risks: names("risks"),
		}
		for range rapid.IntRange(0, 2).Draw(t, "groups") {
			g := intent.SealGroup{Name: name("group"), Threshold: uint64(rapid.Uint32().Draw(t, "threshold"))}
			for range rapid.IntRange(0, 2).Draw(t, "holders") {
				g.Holders = append(g.Holders, intent.SealHolder{
					Name: name("holder"), Recipient: name("recipient"), Key: intent.SealKey{Provider: name("keystore"), Key: name("key")},
					ProviderType: name("type"), Account: name("account"), Region: name("region"),
				})
			}
			c.Groups = append(c.Groups, g)
		}
		for range rapid.IntRange(0, 2).Draw(t, "keys") {
			c.Keys = append(c.Keys, intent.SealKey{Provider: name("keystore"), Key: name("key")})
		}
		return c
	case 1:
		return intent.Destroy{Tenant: name("tenant"), Service: name("service"), Version: rapid.Uint32().Draw(t, "version"), Now: rapid.Bool().Draw(t, "now")}
	case 2:
		return intent.ResumeAfterUnlink{Tenant: name("tenant"), Service: name("service")}
	case 3:
		return intent.VoterToken{Hash: rapid.SliceOfN(rapid.Byte(), 31, 33).Draw(t, "hash"), Region: name("region"), ExpireTimeMs: rapid.Int64().Draw(t, "expire")}
	}
	return intent.VoterPromotion{Node: name("node"), PublicKey: rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "key")}
}

var sameFields = cmp.Options{cmpopts.EquateEmpty()}

func TestI7_RequestsRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		act, fs := rapid.SampledFrom(intent.Acts()).Draw(t, "act"), rapid.SliceOfN(anyField(), 0, 6).Draw(t, "fields")
		r := build(act, fs)
		got, err := intent.ParseRequest(r.Canonical())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Canonical(), r.Canonical()) || got.Digest() != r.Digest() || got.Act() != act || !got.Equal(r) {
			t.Fatalf("%x was read as %x of %s", r.Canonical(), got.Canonical(), got.Act())
		}
		for who, of := range map[string]*intent.Request{"builder": r, "reader": got} {
			if diff := cmp.Diff(fs, of.Fields(), sameFields); diff != "" {
				t.Fatalf("fields of the %s (-added +read):\n%s", who, diff)
			}
		}
	})
}

func TestI7_FieldsDoNotAliasTheRequest(t *testing.T) {
	t.Parallel()
	value := []byte{1, 2, 3}
	r := intent.NewRequest(intent.ActAddMember).Bytes("key", value)
	before := r.Canonical()
	value[0] = 9
	r.Canonical()[0] = 9
	r.Fields()[0].Bytes[0] = 9
	read, err := intent.ParseRequest(before)
	if err != nil {
		t.Fatal(err)
	}
	before[len(before)-1] = 9
	if r.Fields()[0].Bytes[0] != 1 || !r.Equal(read) || read.Fields()[0].Bytes[2] != 3 {
		t.Error("a request changes through bytes that it took or gave")
	}
}

func TestI7_OtherEncodingsOfARequestAreRefused(t *testing.T) {
	t.Parallel()
	lp := func(s string) string { return string(binary.BigEndian.AppendUint32(nil, uint32(len(s)))) + s }
	field := func(name string, kind byte, value string) string { return lp(name) + string(kind) + lp(value) }
	head := lp("krypton/v1/request") + "\x00\x08"
	good := head + field("a", 1, "x") + field("b", 2, "\xff") + field("c", 3, "12345678") + field("d", 4, "\x00\x00\x00\x00\x00\x00\x10\x00")
	if _, err := intent.ParseRequest([]byte(good)); err != nil {
		t.Fatal(err)
	}
	borders := 0
	for n := range len(good) {
		// A prefix that ends where a field ends is another request, with fewer fields.
		if r, err := intent.ParseRequest([]byte(good[:n])); err == nil {
			borders++
			if len(r.Fields()) != borders-1 {
				t.Errorf("%d of %d bytes are a request of %d fields", n, len(good), len(r.Fields()))
			}
		}
	}
	if borders != 4 {
		t.Errorf("%d prefixes are requests, want the 4 that end with a field", borders)
	}
	for name, b := range map[string]string{
		"nothing":           "",
		"another label":     lp("krypton/v1/intent") + "\x00\x08",
		"no act":            lp("krypton/v1/request") + "\x00\x00",
		"unknown act":       lp("krypton/v1/request") + "\xff\xff",
		"a byte too many":   good + "\x00",
		"nameless field":    head + field("", 1, "x"),
		"long name":         head + field(strings.Repeat("a", intent.MaxFieldName+1), 1, "x"),
		"upper case":        head + field("Tenant", 1, "x"),
		"blank in a name":   head + field("a b", 1, "x"),
		"newline in a name": head + field("a\n", 1, "x"),
		"colon in a name":   head + field("a:", 1, "x"),
		"kind 0":            head + field("a", 0, ""),
		"kind 5":            head + field("a", 5, ""),
		"not UTF-8":         head + field("a", 1, "\xc3\x28"),
		"surrogate":         head + field("a", 1, "\xed\xa0\x80"),
		"short number":      head + field("a", 3, "1234567"),
		"long number":       head + field("a", 3, "123456789"),
		"count too great":   head + field("a", 4, "\x00\x00\x00\x00\x00\x00\x10\x01"),
		"short count":       head + field("a", 4, ""),
		"too many fields":   head + strings.Repeat(field("a", 1, ""), intent.MaxFields+1),
		"too long":          head + field("a", 1, strings.Repeat("x", intent.MaxRequest-len(head)-9)),
		"huge length":       head + "\xff\xff\xff\xff",
		"huge value":        head + lp("a") + "\x01\xff\xff\xff\xff",
	} {
		if r, err := intent.ParseRequest([]byte(b)); err == nil {
			t.Errorf("%s: read as %+v", name, r.Fields())
		}
	}
	for name, b := range map[string]string{
		"most fields":  head + strings.Repeat(field("a", 1, ""), intent.MaxFields),
		"longest name": head + field(strings.Repeat("a", intent.MaxFieldName), 1, "x"),
		"longest":      head + field("a", 1, strings.Repeat("x", intent.MaxRequest-len(head)-10)),
	} {
		if _, err := intent.ParseRequest([]byte(b)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// looksRight reports what is wrong with a text that a person decides by.
func looksRight(s string) error {
	if !strings.HasSuffix(s, "\n") {
		return fmt.Errorf("no newline at the end: %q", s)
	}
	for line := range strings.Lines(s) {
		line = strings.TrimSuffix(line, "\n")
		if len(line) > 80 {
			return fmt.Errorf("line of %d columns: %q", len(line), line)
		}
		for i := range len(line) {
			if line[i] < ' ' || line[i] > '~' {
				return fmt.Errorf("line with byte %#x: %q", line[i], line)
			}
		}
		if strings.HasSuffix(line, " ") {
			return fmt.Errorf("line ends in a blank that nobody sees: %q", line)
		}
	}
	return nil
}

// readBack makes fields of what [intent.Request.Describe] wrote, without a look
// at the request. That it can is the proof that a description says everything
// and that no value is taken for something else.
func readBack(s string) ([]intent.Field, error) {
	lines := strings.Split(strings.TrimSuffix(s, "\n"), "\n")
	if len(lines) < 2 || !strings.HasPrefix(lines[len(lines)-1], "  request ") {
		return nil, fmt.Errorf("no digest: %q", s)
	}
	var fs []intent.Field
	lines = lines[1 : len(lines)-1]
	for len(lines) > 0 {
		name, value, ok := strings.Cut(strings.TrimPrefix(lines[0], "  "), ": ")
		if !ok || strings.HasPrefix(lines[0], "   ") {
			return nil, fmt.Errorf("not a field: %q", lines[0])
		}
		lines = lines[1:]
		var held string
		for len(lines) > 0 && strings.HasPrefix(lines[0], "    ") {
			piece, ok := strings.CutPrefix(lines[0], "    | ")
			if ok {
				held += piece
			}
			lines = lines[1:]
		}
		f := intent.Field{Name: name}
		switch {
		case strings.HasPrefix(value, `"`):
			f.Kind = intent.KindText
			quoted, err := strconv.QuotedPrefix(value)
			if err != nil {
				return nil, err
			}
			if f.Text, err = strconv.Unquote(quoted); err != nil {
				return nil, err
			}
		case strings.HasPrefix(value, "text of "):
			f.Kind = intent.KindText
			var err error
			if f.Text, err = strconv.Unquote(`"` + strings.ReplaceAll(held, `"`, `\"`) + `"`); err != nil {
				return nil, err
			}
		case strings.HasPrefix(value, "list of "):
			f.Kind = intent.KindList
			n, _, _ := strings.Cut(strings.TrimPrefix(value, "list of "), " ")
			var err error
			if f.Uint, err = strconv.ParseUint(n, 10, 64); err != nil {
				return nil, err
			}
		default:
			n, rest, _ := strings.Cut(value, " ")
			number, err := strconv.ParseUint(n, 10, 64)
			if err != nil {
				return nil, err
			}
			if strings.HasPrefix(rest, "bytes") {
				f.Kind = intent.KindBytes
				if f.Bytes, err = hex.DecodeString(held); err != nil || uint64(len(f.Bytes)) != number {
					return nil, fmt.Errorf("%d bytes of %d: %w", len(f.Bytes), number, err)
				}
			} else {
				f.Kind, f.Uint = intent.KindUint, number
			}
		}
		fs = append(fs, f)
	}
	return fs, nil
}

func TestI8_ADescriptionSaysEverythingAndNothingElse(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := anyRequest().Draw(t, "request")
		s := r.Describe()
		if err := looksRight(s); err != nil {
			t.Fatal(err)
		}
		fs, err := readBack(s)
		if err != nil {
			t.Fatalf("%v in\n%s", err, s)
		}
		if diff := cmp.Diff(r.Fields(), fs, sameFields); diff != "" {
			t.Fatalf("what is shown is not what is signed (-signed +shown):\n%s\n%s", diff, s)
		}
		d := r.Digest()
		if !strings.HasPrefix(s, r.Act().String()+" (act "+strconv.Itoa(int(r.Act()))+"): ") || !strings.Contains(s, hex.EncodeToString(d[:])) {
			t.Fatalf("act or digest are not in\n%s", s)
		}
	})
}

// A builder takes names and text that no reader would; they are shown all the same.
func TestI8_ADescriptionOfWhatCannotBeReadIsSafeToo(t *testing.T) {
	t.Parallel()
	r := intent.NewRequest(60000).Text("a\n  version", "\xff\xfe\x80").Text("b", strings.Repeat("\xff", 100))
	if err := looksRight(r.Describe()); err != nil {
		t.Error(err)
	}
	if !strings.Contains(r.Describe(), `  "a\n  version": "\xff\xfe\x80"`) {
		t.Errorf("bytes are not shown:\n%s", r.Describe())
	}
	if r.Known() {
		t.Error("it is known")
	}
}

func TestI8_IntentsAreDescribedWhole(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := genIntent(t)
		s := in.Describe()
		if err := looksRight(s); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			"  keyspace " + in.Keyspace.String() + "\n", "  act " + in.Act.String() + " (act ", "  request " + hex.EncodeToString(in.Request[:]) + "\n",
			"  not after " + strconv.FormatInt(in.NotAfter, 10) + " (", "  nonce " + hex.EncodeToString(in.Nonce[:]) + "\n",
		} {
			if strings.Count(s, want) != 1 {
				t.Fatalf("%q is not once in\n%s", want, s)
			}
		}
		if n := strings.Count(s, "\n  precondition: "); n != len(in.Preconditions) {
			t.Fatalf("%d of %d preconditions in\n%s", n, len(in.Preconditions), s)
		}
	})
	in := sample()
	in.Preconditions = []intent.Precondition{{Object: "tenants/acme", ModIndex: 17}, {Object: "tenants/" + strings.Repeat("b", 100), ModIndex: 0}}
	want := `intent, version 1
  keyspace 01020300000000000000000000000000
  act destroy (act 8)
  request ` + fmt.Sprintf("%x", in.Request) + `
  not after 1800003600000 (2027-01-15T09:00:00.000Z)
  nonce 09000000000000000000000000000000
  precondition: "tenants/acme" (if unchanged since index 17)
  precondition: text of 108 bytes (if it does not exist)
    | tenants/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
    | bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
`
	if diff := cmp.Diff(want, in.Describe()); diff != "" {
		t.Errorf("description differs (-want +got):\n%s", diff)
	}
}

func TestDifferencesAreEmptyOnlyOfEqualRequests(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := anyRequest().Draw(t, "a"), anyRequest().Draw(t, "b")
		if rapid.Bool().Draw(t, "near") { // one field changed, added or taken away
			fs := a.Fields()
			switch n := rapid.IntRange(0, len(fs)).Draw(t, "place"); {
			case n == len(fs):
				fs = append(fs, anyField().Draw(t, "more"))
			case rapid.Bool().Draw(t, "less"):
				fs = slices.Delete(fs, n, n+1)
			default:
				fs[n] = anyField().Draw(t, "other")
			}
			b = build(a.Act(), fs)
		}
		if d := intent.Differences(a, build(a.Act(), a.Fields())); d != "" {
			t.Fatalf("a request differs from itself:\n%s", d)
		}
		d := intent.Differences(a, b)
		if (d == "") != bytes.Equal(a.Canonical(), b.Canonical()) || (d == "") != a.Equal(b) {
			t.Fatalf("differences of\n%s%sare %q", a.Describe(), b.Describe(), d)
		}
		if d == "" {
			return
		}
		for line := range strings.Lines(d) {
			if err := looksRight(line[2:]); err != nil || line[:2] != "- " && line[:2] != "+ " {
				t.Fatalf("%v in %q", err, line)
			}
		}
	})
}

func TestDifferencesOfValuesThatLookAlike(t *testing.T) {
	t.Parallel()
	all := []func(*intent.Request){
		func(r *intent.Request) { r.Text("x", "") },
		func(r *intent.Request) { r.Bytes("x", nil) },
		func(r *intent.Request) { r.Uint("x", 0) },
		func(r *intent.Request) { r.List("x", 0) },
		func(r *intent.Request) { r.Text("y", "") },
		func(*intent.Request) {},
	}
	for i, one := range all {
		for j, other := range all {
			a, b := intent.NewRequest(intent.ActRekey), intent.NewRequest(intent.ActRekey)
			one(a)
			other(b)
			if d := intent.Differences(a, b); (d == "") != (i == j) {
				t.Errorf("%d and %d differ by %q", i, j, d)
			}
		}
	}
}

func TestTimesAreShownInUTC(t *testing.T) {
	t.Parallel()
	for ms, want := range map[int64]string{
		0:                   "0 (1970-01-01T00:00:00.000Z)",
		1_800_000_000_123:   "1800000000123 (2027-01-15T08:00:00.123Z)",
		253_402_300_799_999: "253402300799999 (9999-12-31T23:59:59.999Z)",
		253_402_300_800_000: "253402300800000 (after the year 9999)",
		1<<63 - 1:           "9223372036854775807 (after the year 9999)",
	} {
		s := intent.VoterToken{Hash: make([]byte, 32), ExpireTimeMs: ms}.Request().Describe()
		if !strings.Contains(s, "  expire: "+want+"\n") {
			t.Errorf("%d is not shown as %q:\n%s", ms, want, s)
		}
	}
}

func TestDifferencesNameWhatTheOtherSays(t *testing.T) {
	t.Parallel()
	mine := intent.Destroy{Tenant: "acme", Service: "payments", Version: 3}.Request()
	for name, tc := range map[string]struct {
		theirs *intent.Request
		want   string
	}{
		"another version": {intent.Destroy{Tenant: "acme", Service: "payments", Version: 4}.Request(), `-   version: 3 (this version of the service's key)
+   version: 4 (this version of the service's key)
`},
		"whole and at once": {intent.Destroy{Tenant: "acme", Service: "payments", Now: true}.Request(), `-   version: 3 (this version of the service's key)
+   version: 0 (the whole service)
-   now: 0 (after the waiting time of the cluster)
+   now: 1 (at once)
`},
		"another act": {intent.NewRequest(intent.ActSetPolicy).Text("tenant", "acme"), `- destroy (act 8)
+ set-policy (act 2)
-   service: "payments"
-   version: 3 (this version of the service's key)
-   now: 0 (after the waiting time of the cluster)
`},
		"a field more": {build(intent.ActDestroy, append(mine.Fields(), intent.Field{Name: "force", Kind: intent.KindUint, Uint: 1})), "+   force: 1\n"},
	} {
		if diff := cmp.Diff(tc.want, intent.Differences(mine, tc.theirs)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// The canonical forms and digests of the file were written once by an
// implementation in another language. They are never regenerated: they are the format.
func TestGoldenRequests(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("testdata/request-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Vectors []struct {
			Name, Type, Canonical, Digest string
			Value                         json.RawMessage
			Describe                      []string
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Vectors) != 27 {
		t.Fatalf("%d vectors, want 27", len(file.Vectors))
	}
	for _, v := range file.Vectors {
		var act interface{ Request() *intent.Request }
		switch v.Type {
		case "BindL1":
			act = &intent.BindL1{}
		case "Destroy":
			act = &intent.Destroy{}
		case "ResumeAfterUnlink":
			act = &intent.ResumeAfterUnlink{}
		case "VoterToken":
			act = &intent.VoterToken{}
		case "VoterPromotion":
			act = &intent.VoterPromotion{}
		case "VoterWithdrawal":
			act = &intent.VoterWithdrawal{}
		case "BindRole":
			act = &intent.BindRole{}
		case "UnbindRole":
			act = &intent.UnbindRole{}
		case "SetTenantGovernors":
			act = &intent.SetTenantGovernors{}
		case "PutIssuer":
			act = &intent.PutIssuer{}
		case "RemoveIssuer":
			act = &intent.RemoveIssuer{}
		case "SetQuorum":
			act = &intent.SetQuorum{}
		case "PutPolicy":
			act = &intent.PutPolicy{}
		case "RemovePolicy":
			act = &intent.RemovePolicy{}
		case "Ceremony":
			act = &intent.Ceremony{}
		default:
			t.Fatalf("%s: unknown type %s", v.Name, v.Type)
		}
		dec := json.NewDecoder(bytes.NewReader(v.Value))
		dec.DisallowUnknownFields()
		if err := dec.Decode(act); err != nil {
			t.Fatalf("%s: %v", v.Name, err)
		}
		r := act.Request()
		if got := hex.EncodeToString(r.Canonical()); got != v.Canonical {
			t.Errorf("%s: canonical form %s, want %s", v.Name, got, v.Canonical)
		}
		if d := r.Digest(); hex.EncodeToString(d[:]) != v.Digest {
			t.Errorf("%s: digest %x, want %s", v.Name, d, v.Digest)
		}
		read, err := intent.ParseRequest(r.Canonical())
		if err != nil || !read.Equal(r) || !read.Known() {
			t.Errorf("%s: read as %v, %v", v.Name, read, err)
		}
		if diff := cmp.Diff(strings.Join(v.Describe, "\n")+"\n", r.Describe()); diff != "" {
			t.Errorf("%s: description differs (-want +got):\n%s", v.Name, diff)
		}
	}
}

// What a command line builds from what was typed is what the state machine
// computes from the command that it applies.
func TestTypedRequestsAreThoseOfTheStateMachine(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var cmd *fsmpb.Command
		var got *intent.Request
		ours := anyAct(t)
		switch a := ours.(type) {
		case intent.BindL1:
			cmd = &fsmpb.Command{Body: &fsmpb.Command_CreateTenant{CreateTenant: &fsmpb.CreateTenant{
				Name: a.Tenant, Governors: a.Governors, Binding: &fsmpb.Binding{Keystore: a.Keystore, Key: a.Key, Archetype: a.Archetype, KeyVersion: "7"},
			}}}
		case intent.Destroy:
			ref := &fsmpb.ObjectRef{Tenant: a.Tenant, Service: a.Service}
			if a.Version == 0 {
				cmd = &fsmpb.Command{Body: &fsmpb.Command_ChangeObject{ChangeObject: &fsmpb.ChangeObject{
					Object: ref, Event: fsmpb.ObjectEvent_OBJECT_EVENT_SCHEDULE_DESTROY, Now: a.Now,
				}}}
			} else {
				cmd = &fsmpb.Command{Body: &fsmpb.Command_ChangeVersion{ChangeVersion: &fsmpb.ChangeVersion{
					Object: ref, Number: a.Version, Event: fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY, Now: a.Now,
				}}}
			}
		case intent.ResumeAfterUnlink:
			cmd = &fsmpb.Command{Body: &fsmpb.Command_ChangeObject{ChangeObject: &fsmpb.ChangeObject{
				Object: &fsmpb.ObjectRef{Tenant: a.Tenant, Service: a.Service}, Event: fsmpb.ObjectEvent_OBJECT_EVENT_RESUME, Cause: "unlink",
			}}}
		case intent.VoterToken:
			cmd = &fsmpb.Command{Body: &fsmpb.Command_CreateJoinToken{CreateJoinToken: &fsmpb.CreateJoinToken{
				Token: &fsmpb.JoinToken{Hash: a.Hash, Region: a.Region, ExpireTimeMs: a.ExpireTimeMs, Voter: true},
			}}}
		case intent.VoterPromotion:
			got = fsm.PromotionRequest(&fsmpb.Member{Id: a.Node, PublicKey: a.PublicKey})
		case intent.VoterWithdrawal:
			a.Voters = min(a.Voters, fsm.MaxMembers)
			ours, got = a, fsm.WithdrawalRequest(a.Node, a.Op, int(a.Voters))
		case intent.BindRole:
			b := &fsmpb.RoleBinding{
				Tenant: a.Tenant, TenantUid: a.TenantUID, Id: a.ID, IssuerUid: a.IssuerUID, Role: a.Role, Name: a.Name, Subject: a.Subject,
				Platform: a.Platform, ExpireTimeMs: a.ExpireTimeMs,
			}
			for _, k := range a.Keys {
				b.Keys = append(b.Keys, &fsmpb.BindingKey{Key: &fsmpb.PublicKey{Algorithm: fsmpb.KeyAlgorithm(k.Algorithm), Raw: k.PublicKey}, Sign: k.Sign, Tls: k.TLS})
			}
			cmd = &fsmpb.Command{Body: &fsmpb.Command_BindRole{BindRole: &fsmpb.BindRole{Binding: b}}}
		case intent.UnbindRole:
			got = fsm.UnbindRequest(&fsmpb.RoleBinding{Tenant: a.Tenant, Id: a.ID, Uid: a.UID, Role: a.Role, Subject: "mine"})
		case intent.SetTenantGovernors:
			cmd = &fsmpb.Command{Body: &fsmpb.Command_SetTenantGovernors{SetTenantGovernors: &fsmpb.SetTenantGovernors{
				Tenant: a.Tenant, TenantUid: a.TenantUID, Governors: a.Governors,
			}}}
		case intent.PutIssuer:
			i := &fsmpb.Issuer{
				Tenant: a.Tenant, TenantUid: a.TenantUID, Id: a.ID, Roles: a.Roles, TenantUids: a.TenantUIDs, AllTenants: a.AllTenants, UnboundRoles: a.UnboundRoles,
			}
			if a.X509 != nil {
				i.Kind = &fsmpb.Issuer_X509{X509: &fsmpb.X509Issuer{Certificates: a.X509.Certificates, TrustDomain: a.X509.TrustDomain}}
			}
			if j := a.JWT; j != nil {
				i.Kind = &fsmpb.Issuer_Jwt{Jwt: &fsmpb.JWTIssuer{
					Url: j.URL, Audiences: j.Audiences, Ca: j.CA, Keys: j.JWKS, SkewMs: j.SkewMs, MaxLifeS: j.MaxLifeS, SubjectClaim: j.SubjectClaim,
				}}
			}
			cmd = &fsmpb.Command{Body: &fsmpb.Command_PutIssuer{PutIssuer: &fsmpb.PutIssuer{Issuer: i}}}
		case intent.PutPolicy:
			cmd = &fsmpb.Command{Body: &fsmpb.Command_PutPolicy{PutPolicy: &fsmpb.PutPolicy{
				Policy: &fsmpb.Policy{Tenant: a.Tenant, TenantUid: a.TenantUID, Id: a.ID, Text: a.Text}, Etag: 7, Create: true,
			}}}
		case intent.RemovePolicy:
			cmd = &fsmpb.Command{Body: &fsmpb.Command_RemovePolicy{RemovePolicy: &fsmpb.RemovePolicy{Tenant: a.Tenant, Id: a.ID, Etag: 7}}}
		case intent.RemoveIssuer:
			cmd = &fsmpb.Command{Body: &fsmpb.Command_RemoveIssuer{RemoveIssuer: &fsmpb.RemoveIssuer{Tenant: a.Tenant, Id: a.ID}}}
		case intent.Ceremony:
			kinds := map[string]fsmpb.CeremonyKind{intent.CeremonyReshare: 2, intent.CeremonyRekey: 3, intent.CeremonyMigrate: 4, intent.CeremonyRekeyCompromised: 5}
			b := &fsmpb.BeginCeremony{Id: []byte("mine"), Kind: kinds[a.Kind], BaseManifest: a.Base, LifeMs: 7, Plan: &fsmpb.SealPlan{AcceptedRisks: a.Risks}}
			for _, g := range a.Groups {
				to := &fsmpb.SealGroup{Name: g.Name, Threshold: uint32(g.Threshold)}
				for _, h := range g.Holders {
					to.Holders = append(to.Holders, &fsmpb.SealHolder{
						Name: h.Name, Recipient: h.Recipient, Key: &fsmpb.SealKey{Provider: h.Key.Provider, Key: h.Key.Key},
						ProviderType: h.ProviderType, Account: h.Account, Region: h.Region,
					})
				}
				b.Plan.Groups = append(b.Plan.Groups, to)
			}
			for _, k := range a.Keys {
				b.Plan.ProviderKeys = append(b.Plan.ProviderKeys, &fsmpb.SealKey{Provider: k.Provider, Key: k.Key})
			}
			cmd = &fsmpb.Command{Body: &fsmpb.Command_BeginCeremony{BeginCeremony: b}}
		case intent.SetQuorum:
			cmd = &fsmpb.Command{Body: &fsmpb.Command_SetQuorum{SetQuorum: &fsmpb.SetQuorum{Governors: a.Governors, Custodians: a.Custodians}}}
		}
		if cmd != nil {
			act, req, ok := fsm.SovereignRequest(cmd)
			if !ok || act != ours.Request().Act() {
				t.Fatalf("the state machine takes it for act %s, %v", act, ok)
			}
			got = req
		}
		if d := intent.Differences(ours.Request(), got); d != "" || ours.Request().Digest() != got.Digest() {
			t.Fatalf("the state machine says otherwise (- ours, + its):\n%s", d)
		}
	})
}

// A request of another shape than a type makes is readable and not to be signed.
func TestKnownIsWhatATypeMakes(t *testing.T) {
	t.Parallel()
	hash := make([]byte, 32)
	bind := intent.BindRole{ID: "alice", Role: "governor", Name: "alice", Keys: []intent.BoundKey{{Algorithm: 1, PublicKey: hash}}}
	x509 := intent.PutIssuer{ID: "corp", X509: &intent.X509Issuer{Certificates: [][]byte{hash}}, Roles: []string{"operator"}}
	for _, known := range []interface{ Request() *intent.Request }{bind, x509, intent.BindL1{Tenant: "acme", Governors: [][]byte{hash}}} {
		if !known.Request().Known() {
			t.Fatalf("not known, so this test proves nothing:\n%s", known.Request().Describe())
		}
	}
	change := func(b intent.BindRole, f func(*intent.BindRole)) *intent.Request {
		b.Keys = slices.Clone(b.Keys)
		f(&b)
		return b.Request()
	}
	fields := func(r *intent.Request, f func([]intent.Field) []intent.Field) *intent.Request {
		return build(r.Act(), f(r.Fields()))
	}
	for name, r := range map[string]*intent.Request{
		"nothing":                intent.NewRequest(intent.ActDestroy),
		"a reshare of nothing":   intent.Ceremony{Kind: intent.CeremonyReshare}.Request(),
		"a holder without name":  intent.Ceremony{Kind: intent.CeremonyReshare, Base: hash, Groups: []intent.SealGroup{{Threshold: 2, Holders: []intent.SealHolder{{Recipient: "age1"}}}}}.Request(),
		"a key without keystore": intent.Ceremony{Kind: intent.CeremonyMigrate, Base: hash, Keys: []intent.SealKey{{Key: "k"}}}.Request(),
		"a reshare as a rekey":   build(intent.ActRekey, intent.Ceremony{Kind: intent.CeremonyReshare, Base: hash}.Request().Fields()),
		"no builder yet":         intent.NewRequest(intent.ActSetPolicy).Text("tenant", "acme"),
		"fields of another act":  build(intent.ActBindL1, intent.Destroy{Tenant: "acme"}.Request().Fields()),
		"a field more":           intent.Destroy{Tenant: "acme"}.Request().Text("note", ""),
		"a field less":           build(intent.ActDestroy, intent.Destroy{Tenant: "acme"}.Request().Fields()[:3]),
		"another order":          intent.NewRequest(intent.ActResumeAfterUnlink).Text("service", "").Text("tenant", "acme"),
		"another name":           intent.NewRequest(intent.ActResumeAfterUnlink).Text("tenant", "acme").Text("region", ""),
		"another kind":           intent.NewRequest(intent.ActResumeAfterUnlink).Text("tenant", "acme").Bytes("service", nil),
		"now is 2":               intent.NewRequest(intent.ActDestroy).Text("tenant", "acme").Text("service", "").Uint("version", 0).Uint("now", 2),
		"version of 33 bits":     intent.NewRequest(intent.ActDestroy).Text("tenant", "acme").Text("service", "").Uint("version", 1<<32).Uint("now", 0),
		"nothing to destroy":     intent.Destroy{}.Request(),
		"service without tenant": intent.Destroy{Service: "payments", Version: 1}.Request(),
		"nothing to resume":      intent.ResumeAfterUnlink{}.Request(),
		"short hash":             intent.VoterToken{Hash: hash[1:], ExpireTimeMs: 1}.Request(),
		"time of 64 bits":        intent.NewRequest(intent.ActAddMember).Bytes("token", hash).Text("region", "").Uint("expire", 1<<63),
		"no node":                intent.VoterPromotion{PublicKey: hash}.Request(),
		"unknown algorithm":      change(bind, func(b *intent.BindRole) { b.Keys[0].Algorithm = 3 }),
		"huge algorithm":         change(bind, func(b *intent.BindRole) { b.Keys[0].Algorithm = 257 }),
		"empty key":              change(bind, func(b *intent.BindRole) { b.Keys[0].PublicKey = nil }),
		"no role":                change(bind, func(b *intent.BindRole) { b.Role = "" }),
		"no id":                  change(bind, func(b *intent.BindRole) { b.ID = "" }),
		"governor by bind-role":  build(intent.ActBindRole, bind.Request().Fields()),
		"operator who signs":     build(intent.ActSetAuthorityKeys, change(bind, func(b *intent.BindRole) { b.Role = "operator" }).Fields()),
		"another op":             fields(bind.Request(), func(fs []intent.Field) []intent.Field { fs[0].Text = "rebind"; return fs }),
		"platform is 2":          fields(bind.Request(), func(fs []intent.Field) []intent.Field { fs[8].Uint = 2; return fs }),
		"a key too many":         fields(bind.Request(), func(fs []intent.Field) []intent.Field { fs[10].Uint = 0; return fs }),
		"a key too few":          fields(bind.Request(), func(fs []intent.Field) []intent.Field { fs[10].Uint = 2; return fs }),
		"keys without an end":    fields(bind.Request(), func(fs []intent.Field) []intent.Field { fs[10].Uint = intent.MaxFields; return fs }),
		"half a key":             fields(bind.Request(), func(fs []intent.Field) []intent.Field { return fs[:len(fs)-1] }),
		"nobody governs":         intent.SetTenantGovernors{Tenant: "acme", TenantUID: hash}.Request(),
		"governors, but none":    intent.BindL1{Tenant: "acme"}.Request().List("governors", 0),
		"issuer of no kind":      intent.PutIssuer{ID: "corp"}.Request(),
		"issuer of another kind": fields(x509.Request(), func(fs []intent.Field) []intent.Field { fs[4].Text = "jwt"; return fs }),
		"no issuer":              intent.RemoveIssuer{}.Request(),
		"no such quorum":         intent.SetQuorum{Governors: intent.MaxRule + 1}.Request(),
		"half a quorum":          intent.NewRequest(intent.ActSetQuorum).Uint("governors", 2),
		"no binding":             intent.UnbindRole{UID: hash}.Request(),
		"binding without uid":    intent.UnbindRole{ID: "alice"}.Request(),
		"policy without text":    intent.PutPolicy{Tenant: "acme", TenantUID: hash, ID: "p"}.Request(),
		"policy without id":      intent.PutPolicy{Tenant: "acme", TenantUID: hash, Text: "x"}.Request(),
		"policy of no tenant":    intent.RemovePolicy{ID: "p"}.Request(),
		"no key":                 intent.VoterPromotion{Node: "n1"}.Request(),
		"another withdrawal":     intent.VoterWithdrawal{Op: "purge", Node: "n1", Voters: 1}.Request(),
		"withdrawal of nobody":   intent.VoterWithdrawal{Op: "remove", Voters: 1}.Request(),
		"no voter left":          intent.VoterWithdrawal{Op: "remove", Node: "n1"}.Request(),
	} {
		if r.Known() {
			t.Errorf("%s is known:\n%s", name, r.Describe())
		}
		if !strings.Contains(r.Describe(), "does not know what these fields order") {
			t.Errorf("%s is not said to be unknown:\n%s", name, r.Describe())
		}
	}
}

func TestKindsAreStable(t *testing.T) {
	t.Parallel()
	for i, want := range []string{"unspecified", "text", "bytes", "uint", "list", "unspecified"} {
		if got := intent.Kind(i).String(); got != want {
			t.Errorf("kind %d is %q, want %q", i, got, want)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	for _, r := range []*intent.Request{
		intent.Destroy{Tenant: "acme", Service: "payments", Version: 3}.Request(),
		intent.BindL1{Tenant: "acme", Key: "a\n\u202e" + strings.Repeat(" ", 90)}.Request(),
		intent.VoterToken{Hash: make([]byte, 32), Region: "eu", ExpireTimeMs: now}.Request(),
		intent.VoterPromotion{Node: "n1", PublicKey: make([]byte, 91)}.Request(),
		intent.VoterWithdrawal{Op: "demote", Node: "n1", Voters: 1}.Request(),
		intent.NewRequest(intent.ActSetQuorum).List("rules", 2).Uint("act", 1).Uint("act", 2),
		intent.BindRole{ID: "alice", Role: "governor", Keys: []intent.BoundKey{{Algorithm: 1, PublicKey: make([]byte, 32), Sign: true}, {Algorithm: 2, PublicKey: make([]byte, 65)}}}.Request(),
		intent.PutIssuer{ID: "corp", X509: &intent.X509Issuer{Certificates: [][]byte{{1}, {2}}}, Roles: []string{"operator", "auditor"}, UnboundRoles: []string{"workload"}}.Request(),
		intent.PutPolicy{Tenant: "acme", TenantUID: make([]byte, 16), ID: "p", Text: "permit (principal,\n action, resource);"}.Request(),
		intent.RemovePolicy{Tenant: "acme", ID: "p"}.Request(),
		intent.Ceremony{Kind: intent.CeremonyReshare, Base: make([]byte, 32), Risks: []string{"concentration"}, Groups: []intent.SealGroup{{Threshold: 2, Holders: []intent.SealHolder{{Name: "a"}, {Name: "b"}}}}}.Request(),
		intent.Ceremony{Kind: intent.CeremonyMigrate, Base: make([]byte, 32), Keys: []intent.SealKey{{Provider: "aws", Key: "k"}}}.Request(),
		intent.PutIssuer{ID: "k8s", JWT: &intent.JWTIssuer{URL: "https://k8s", Audiences: []string{"krypton"}, JWKS: []byte("{}")}, TenantUIDs: [][]byte{{1}}}.Request(),
	} {
		f.Add(r.Canonical())
	}
	f.Add([]byte{0, 0, 0, 18})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := intent.ParseRequest(b)
		if err != nil {
			return
		}
		if !bytes.Equal(r.Canonical(), b) || !bytes.Equal(build(r.Act(), r.Fields()).Canonical(), b) {
			t.Errorf("%x is read as what encodes as %x", b, r.Canonical()) // I7
		}
		s := r.Describe()
		if err := looksRight(s); err != nil {
			t.Error(err)
		}
		if fs, err := readBack(s); err != nil || !cmp.Equal(r.Fields(), fs, sameFields) {
			t.Errorf("shown is not what is signed: %v\n%s", err, s) // I8
		}
		if !utf8.ValidString(intent.Differences(r, intent.Destroy{}.Request())) {
			t.Error("differences are not text")
		}
	})
}
