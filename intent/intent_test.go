package intent_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

const now = int64(1_800_000_000_000)

func sample() intent.Intent {
	return intent.Intent{
		Keyspace: hierarchy.KeyspaceID{1, 2, 3}, Act: intent.ActDestroy,
		Request:  intent.NewRequest(intent.ActDestroy).Text("name", "tenants/acme").Uint("version", 3).Digest(),
		NotAfter: now + 3_600_000, Nonce: intent.Nonce{9},
		Preconditions: []intent.Precondition{{Object: "tenants/acme", ModIndex: 17}, {Object: "tenants/acme/versions/3", ModIndex: 5}},
	}
}

// person has one key for each role asked for.
type person struct {
	name intent.Person
	role auth.Role
	key  crypto.Signer
}

func newPerson(t testing.TB, name intent.Person, role auth.Role, alg intent.Alg) person {
	t.Helper()
	var key crypto.Signer
	var err error
	if alg == intent.AlgEd25519 {
		_, key, err = ed25519.GenerateKey(rand.Reader)
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return person{name, role, key}
}

// registry is the state that a check looks at.
type registry struct {
	keys  map[intent.KeyID]intent.Signer
	mods  map[string]uint64
	spent map[intent.Nonce]bool
}

func newRegistry(t testing.TB, in intent.Intent, people ...person) registry {
	t.Helper()
	r := registry{map[intent.KeyID]intent.Signer{}, map[string]uint64{}, map[intent.Nonce]bool{}}
	for _, p := range people {
		pub, err := sign.PublicKey(p.key.Public())
		if err != nil {
			t.Fatal(err)
		}
		r.keys[pub.ID()] = intent.Signer{Person: p.name, Role: p.role, Key: pub}
	}
	for _, p := range in.Preconditions {
		r.mods[p.Object] = p.ModIndex
	}
	return r
}

func (r registry) check(in intent.Intent, rule intent.Rule) intent.Check {
	return intent.Check{
		Keyspace: in.Keyspace, Act: in.Act, Request: in.Request, NowMs: now, Requester: "requester", Rule: rule,
		Key:       func(id intent.KeyID) (intent.Signer, bool) { s, ok := r.keys[id]; return s, ok },
		ModIndex:  func(o string) uint64 { return r.mods[o] },
		NonceUsed: func(n intent.Nonce) bool { return r.spent[n] },
	}
}

func signed(t testing.TB, in intent.Intent, people ...person) intent.Signed {
	t.Helper()
	s := intent.Signed{Intent: in}
	for _, p := range people {
		sig, err := sign.Sign(rand.Reader, p.key, in)
		if err != nil {
			t.Fatal(err)
		}
		s.Signatures = append(s.Signatures, sig)
	}
	return s
}

func wantReason(t *testing.T, err error, want intent.Reason) {
	t.Helper()
	r, ok := errors.AsType[*intent.RefusalError](err)
	if !ok || r.Reason != want {
		t.Fatalf("got %v, want refusal %q", err, want)
	}
	if !errs.Is(err, errs.IntentRefused) {
		t.Errorf("refusal has code %v, want INTENT_REFUSED", errs.Of(err))
	}
}

func TestVerifyAcceptsWhatTheRuleAsksFor(t *testing.T) {
	t.Parallel()
	in := sample()
	alice := newPerson(t, "alice", auth.RoleGovernor, intent.AlgEd25519)
	bob := newPerson(t, "bob", auth.RoleGovernor, intent.AlgECDSAP256SHA256)
	carol := newPerson(t, "carol", auth.RoleCustodian, intent.AlgEd25519)
	reg := newRegistry(t, in, alice, bob, carol)
	for name, tc := range map[string]struct {
		rule intent.Rule
		by   []person
	}{
		"one governor":             {intent.Rule{Governors: 1}, []person{alice}},
		"two governors":            {intent.Rule{Governors: 2}, []person{bob, alice}},
		"more than asked for":      {intent.Rule{Governors: 1}, []person{alice, bob}},
		"governor and custodian":   {intent.Rule{Governors: 1, Custodians: 1}, []person{carol, bob}},
		"one custodian":            {intent.Rule{Custodians: 1}, []person{carol}},
		"both governors and carol": {intent.Rule{Governors: 2, Custodians: 1}, []person{carol, bob, alice}},
	} {
		got, err := intent.Verify(signed(t, in, tc.by...), reg.check(in, tc.rule))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var want []intent.Person
		for _, p := range tc.by {
			want = append(want, p.name)
		}
		slices.Sort(want)
		digest, err := in.Digest()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(intent.Approval{Intent: digest, Persons: want}, got); diff != "" {
			t.Errorf("%s: approval differs (-want +got):\n%s", name, diff)
		}
	}
}

// Each case changes one thing in a set that would be accepted.
func TestVerifyRefusesByName(t *testing.T) {
	t.Parallel()
	base := sample()
	alice := newPerson(t, "alice", auth.RoleGovernor, intent.AlgEd25519)
	alice2 := newPerson(t, "alice", auth.RoleGovernor, intent.AlgECDSAP256SHA256)
	aliceCust := newPerson(t, "alice", auth.RoleCustodian, intent.AlgEd25519)
	bob := newPerson(t, "bob", auth.RoleGovernor, intent.AlgECDSAP256SHA256)
	carol := newPerson(t, "carol", auth.RoleCustodian, intent.AlgEd25519)
	oscar := newPerson(t, "oscar", auth.RoleOperator, intent.AlgEd25519)
	asker := newPerson(t, "requester", auth.RoleGovernor, intent.AlgEd25519)
	stranger := newPerson(t, "stranger", auth.RoleGovernor, intent.AlgEd25519)
	nobody := newPerson(t, "", auth.RoleGovernor, intent.AlgEd25519)
	all := []person{alice, alice2, aliceCust, bob, carol, oscar, asker, nobody}
	two := intent.Rule{Governors: 2}

	type state struct {
		s intent.Signed
		c intent.Check
		r registry
	}
	for name, tc := range map[string]struct {
		want   intent.Reason
		rule   intent.Rule
		by     []person
		change func(*state)
	}{
		"no signatures":         {intent.ReasonUnsigned, two, nil, nil},
		"too few":               {intent.ReasonTooFew, two, []person{alice}, nil},
		"too few custodians":    {intent.ReasonTooFew, intent.Rule{Governors: 1, Custodians: 1}, []person{alice, bob}, nil},
		"one person, two keys":  {intent.ReasonDuplicatePerson, two, []person{alice, alice2}, nil},
		"one person, two roles": {intent.ReasonDuplicatePerson, intent.Rule{Governors: 1, Custodians: 1}, []person{alice, aliceCust}, nil},
		"one signature twice":   {intent.ReasonDuplicatePerson, two, []person{alice, alice}, nil},
		"unknown key":           {intent.ReasonUnknownKey, two, []person{alice, stranger}, nil},
		"key of nobody":         {intent.ReasonUnknownKey, two, []person{alice, nobody}, nil},
		"registry returns other key": {intent.ReasonUnknownKey, two, []person{alice, bob}, func(s *state) {
			key := s.c.Key
			s.c.Key = func(intent.KeyID) (intent.Signer, bool) { return key(s.s.Signatures[0].Key) }
		}},
		"custodian for a governor": {intent.ReasonWrongRole, two, []person{alice, carol}, nil},
		"governor for a custodian": {intent.ReasonWrongRole, intent.Rule{Custodians: 1}, []person{alice}, nil},
		"operator":                 {intent.ReasonWrongRole, two, []person{alice, oscar}, nil},
		"requester is a signer":    {intent.ReasonRequesterSigned, two, []person{alice, asker}, nil},
		"third is the requester":   {intent.ReasonRequesterSigned, two, []person{alice, bob, asker}, nil},
		"other keyspace":           {intent.ReasonOtherKeyspace, two, []person{alice, bob}, func(s *state) { s.c.Keyspace[0]++ }},
		"other act":                {intent.ReasonOtherAct, two, []person{alice, bob}, func(s *state) { s.c.Act = intent.ActSetPolicy }},
		"other request":            {intent.ReasonOtherRequest, two, []person{alice, bob}, func(s *state) { s.c.Request[31] ^= 1 }},
		"expired":                  {intent.ReasonExpired, two, []person{alice, bob}, func(s *state) { s.c.NowMs = s.s.Intent.NotAfter }},
		"valid for too long":       {intent.ReasonTooLong, two, []person{alice, bob}, func(s *state) { s.c.NowMs = s.s.Intent.NotAfter - intent.MaxLifetimeMs - 1 }},
		"replayed":                 {intent.ReasonReplayed, two, []person{alice, bob}, func(s *state) { s.r.spent[s.s.Intent.Nonce] = true }},
		"object changed":           {intent.ReasonStale, two, []person{alice, bob}, func(s *state) { s.r.mods["tenants/acme"]++ }},
		"object gone":              {intent.ReasonStale, two, []person{alice, bob}, func(s *state) { delete(s.r.mods, "tenants/acme/versions/3") }},
		"bit of a signature":       {intent.ReasonBadSignature, two, []person{alice, bob}, func(s *state) { s.s.Signatures[0].Sig[5] ^= 1 }},
		"empty signature":          {intent.ReasonBadSignature, two, []person{alice, bob}, func(s *state) { s.s.Signatures[1].Sig = nil }},
		"signatures exchanged": {intent.ReasonBadSignature, two, []person{alice, bob}, func(s *state) {
			s.s.Signatures[0].Sig, s.s.Signatures[1].Sig = s.s.Signatures[1].Sig, s.s.Signatures[0].Sig
		}},
		"expiry moved":          {intent.ReasonBadSignature, two, []person{alice, bob}, func(s *state) { s.s.Intent.NotAfter++ }},
		"nonce replaced":        {intent.ReasonBadSignature, two, []person{alice, bob}, func(s *state) { s.s.Intent.Nonce[0]++ }},
		"precondition dropped":  {intent.ReasonBadSignature, two, []person{alice, bob}, func(s *state) { s.s.Intent.Preconditions = s.s.Intent.Preconditions[:1] }},
		"zero nonce":            {intent.ReasonMalformed, two, []person{alice, bob}, func(s *state) { s.s.Intent.Nonce = intent.Nonce{} }},
		"too many signatures":   {intent.ReasonMalformed, two, []person{alice, bob}, func(s *state) { s.s.Signatures = slices.Repeat(s.s.Signatures, 17) }},
		"rule without need":     {intent.ReasonMalformed, intent.Rule{}, []person{alice, bob}, nil},
		"no key lookup":         {intent.ReasonMalformed, two, []person{alice, bob}, func(s *state) { s.c.Key = nil }},
		"no precondition check": {intent.ReasonMalformed, two, []person{alice, bob}, func(s *state) { s.c.ModIndex = nil }},
		"no nonce check":        {intent.ReasonMalformed, two, []person{alice, bob}, func(s *state) { s.c.NonceUsed = nil }},
		"no time":               {intent.ReasonMalformed, two, []person{alice, bob}, func(s *state) { s.c.NowMs = 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := newRegistry(t, base, all...)
			st := &state{s: signed(t, base, tc.by...), r: reg}
			st.c = reg.check(base, tc.rule)
			if tc.change != nil {
				tc.change(st)
			}
			got, err := intent.Verify(st.s, st.c)
			wantReason(t, err, tc.want)
			if got.Persons != nil || got.Intent != (intent.Digest{}) {
				t.Errorf("refused, and returned %+v", got)
			}
			// What is not about who signed is refused before anybody is asked to.
			switch err := intent.Conditions(st.s.Intent, st.c); tc.want {
			case intent.ReasonOtherKeyspace, intent.ReasonOtherAct, intent.ReasonOtherRequest, intent.ReasonExpired, intent.ReasonTooLong, intent.ReasonReplayed, intent.ReasonStale:
				wantReason(t, err, tc.want)
			case intent.ReasonMalformed:
				if name != "too many signatures" {
					wantReason(t, err, tc.want)
				}
			default:
				if err != nil {
					t.Errorf("the conditions do not hold: %v", err)
				}
			}
		})
	}
}

func TestI4_RequesterCountsOnlyWhereTheRuleSaysSo(t *testing.T) {
	t.Parallel()
	in := sample()
	asker := newPerson(t, "requester", auth.RoleGovernor, intent.AlgEd25519)
	reg := newRegistry(t, in, asker)
	if _, err := intent.Verify(signed(t, in, asker), reg.check(in, intent.Rule{Governors: 1, Requester: intent.RequesterCounts})); err != nil {
		t.Errorf("requester may sign: %v", err)
	}
	_, err := intent.Verify(signed(t, in, asker), reg.check(in, intent.Rule{Governors: 1}))
	wantReason(t, err, intent.ReasonRequesterSigned)
}

// An ECDSA signature (r, s) is also valid as (r, n-s). That must not be a second act.
func TestI5_MalleatedSignatureIsStillAReplay(t *testing.T) {
	t.Parallel()
	in := sample()
	bob := newPerson(t, "bob", auth.RoleGovernor, intent.AlgECDSAP256SHA256)
	reg := newRegistry(t, in, bob)
	s := signed(t, in, bob)
	check := reg.check(in, intent.Rule{Governors: 1})
	if _, err := intent.Verify(s, check); err != nil {
		t.Fatal(err)
	}
	reg.spent[in.Nonce] = true
	s.Signatures[0].Sig = negateS(t, s.Signatures[0].Sig)
	pub, err := sign.PublicKey(bob.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	m, err := in.Message()
	if err != nil {
		t.Fatal(err)
	}
	if !pub.Verify(m, s.Signatures[0].Sig) {
		t.Fatal("the changed signature does not verify, so this test proves nothing")
	}
	_, err = intent.Verify(s, check)
	wantReason(t, err, intent.ReasonReplayed)
}

func TestI2_VerifyIsAFunctionOfItsArguments(t *testing.T) {
	t.Parallel()
	in := sample()
	alice := newPerson(t, "alice", auth.RoleGovernor, intent.AlgEd25519)
	bob := newPerson(t, "bob", auth.RoleGovernor, intent.AlgECDSAP256SHA256)
	reg := newRegistry(t, in, alice, bob)
	s, c := signed(t, in, alice, bob), reg.check(in, intent.Rule{Governors: 2})
	first, err := intent.Verify(s, c)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(s.Signatures) // another order of the same set
	second, err := intent.Verify(s, c)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("two results (-first +second):\n%s", diff)
	}
}

func genIntent(t *rapid.T) intent.Intent {
	in := intent.Intent{
		Keyspace: hierarchy.KeyspaceID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "keyspace")),
		Act:      rapid.SampledFrom(intent.Acts()).Draw(t, "act"),
		Request:  intent.Digest(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "request")),
		NotAfter: rapid.Int64Range(1, 1<<62).Draw(t, "not after"),
		Nonce:    intent.Nonce(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "nonce")),
	}
	in.Keyspace[0] |= 1
	in.Request[0] |= 1
	in.Nonce[0] |= 1
	objects := rapid.SliceOfNDistinct(rapid.StringMatching(`[!-~]{1,40}`), 0, 8, rapid.ID[string]).Draw(t, "objects")
	for _, o := range objects {
		in.Preconditions = append(in.Preconditions, intent.Precondition{Object: o, ModIndex: rapid.Uint64().Draw(t, "mod index")})
	}
	in.Preconditions = intent.SortPreconditions(in.Preconditions)
	return in
}

func TestI1_EncodingRoundTripsAndIsInjective(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := genIntent(t), genIntent(t)
		enc, err := a.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if len(enc) > intent.MaxEncoded {
			t.Fatalf("encoding has %d bytes, limit is %d", len(enc), intent.MaxEncoded)
		}
		got, err := intent.Decode(enc)
		if err != nil || !cmp.Equal(a, got, cmp.Transformer("nil", func(p []intent.Precondition) string { return fmt.Sprint(p) })) {
			t.Fatalf("decode: %v, %+v", err, got)
		}
		other, err := b.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(enc, other) != (fmt.Sprint(a) == fmt.Sprint(b)) {
			t.Fatalf("%+v and %+v have the same encoding", a, b)
		}
	})
}

func TestI1_OtherEncodingsAreRefused(t *testing.T) {
	t.Parallel()
	enc, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	for n := range enc {
		if _, err := intent.Decode(enc[:n]); err == nil {
			t.Errorf("accepted %d of %d bytes", n, len(enc))
		}
	}
	if _, err := intent.Decode(append(bytes.Clone(enc), 0)); err == nil {
		t.Error("accepted a byte too many")
	}
	for name, change := range map[string]func(*intent.Intent){
		"no keyspace":  func(in *intent.Intent) { in.Keyspace = hierarchy.KeyspaceID{} },
		"zero act":     func(in *intent.Intent) { in.Act = 0 },
		"unknown act":  func(in *intent.Intent) { in.Act = 18 },
		"no request":   func(in *intent.Intent) { in.Request = intent.Digest{} },
		"no expiry":    func(in *intent.Intent) { in.NotAfter = 0 },
		"negative":     func(in *intent.Intent) { in.NotAfter = -1 },
		"no nonce":     func(in *intent.Intent) { in.Nonce = intent.Nonce{} },
		"wrong order":  func(in *intent.Intent) { slices.Reverse(in.Preconditions) },
		"twice":        func(in *intent.Intent) { in.Preconditions[1] = in.Preconditions[0] },
		"empty object": func(in *intent.Intent) { in.Preconditions[0].Object = "" },
		"long object":  func(in *intent.Intent) { in.Preconditions[0].Object = strings.Repeat("a", 513) },
		"blank":        func(in *intent.Intent) { in.Preconditions[0].Object = "a b" },
		"not ASCII":    func(in *intent.Intent) { in.Preconditions[0].Object = "a\u00e9" },
		"too many":     func(in *intent.Intent) { in.Preconditions = manyPreconditions(intent.MaxPreconditions + 1) },
	} {
		in := sample()
		change(&in)
		if _, err := in.Encode(); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
	longest := sample()
	longest.Preconditions = manyPreconditions(intent.MaxPreconditions)
	b, err := longest.Encode()
	if err != nil || len(b) != intent.MaxEncoded {
		t.Errorf("longest intent: %d bytes, %v; want %d", len(b), err, intent.MaxEncoded)
	}
	if _, err := intent.Decode(b); err != nil {
		t.Errorf("longest intent: %v", err)
	}
}

func manyPreconditions(n int) []intent.Precondition {
	ps := make([]intent.Precondition, n)
	for i := range ps {
		ps[i].Object = fmt.Sprintf("%0512d", i)
	}
	return ps
}

// I3: every bit of every field is under the signature.
func TestI3_EveryBitIsSigned(t *testing.T) {
	t.Parallel()
	in := sample()
	enc, err := in.Encode()
	if err != nil {
		t.Fatal(err)
	}
	alice := newPerson(t, "alice", auth.RoleGovernor, intent.AlgEd25519)
	s := signed(t, in, alice)
	pub, err := sign.PublicKey(alice.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	decoded := 0
	for i := range 8 * len(enc) {
		b := bytes.Clone(enc)
		b[i/8] ^= 1 << (i % 8)
		other, err := intent.Decode(b)
		if err != nil {
			continue
		}
		decoded++
		m, err := other.Message()
		if err != nil {
			t.Fatal(err)
		}
		if pub.Verify(m, s.Signatures[0].Sig) {
			t.Errorf("bit %d is not under the signature", i)
		}
	}
	if decoded < 500 {
		t.Errorf("only %d of %d changed encodings were intents", decoded, 8*len(enc))
	}
}

// The label keeps a signature over an intent from being one over anything else.
func TestI3_SignatureWithoutTheLabelDoesNotCount(t *testing.T) {
	t.Parallel()
	in := sample()
	alice := newPerson(t, "alice", auth.RoleGovernor, intent.AlgEd25519)
	reg := newRegistry(t, in, alice)
	enc, err := in.Encode()
	if err != nil {
		t.Fatal(err)
	}
	s := signed(t, in, alice)
	if s.Signatures[0].Sig, err = alice.key.Sign(rand.Reader, enc, crypto.Hash(0)); err != nil {
		t.Fatal(err)
	}
	_, err = intent.Verify(s, reg.check(in, intent.Rule{Governors: 1}))
	wantReason(t, err, intent.ReasonBadSignature)
}

func TestActAndReasonNumbersAreStable(t *testing.T) {
	t.Parallel()
	wantActs := []string{
		"genesis", "set-policy", "bind-role", "set-authority-keys", "bind-l1", "rebind-l1", "resume-after-unlink", "destroy",
		"recovery-grant", "add-member", "reshare", "rekey", "migrate", "restore", "set-audit", "set-quorum", "set-issuer",
	}
	var got []string
	for i, a := range intent.Acts() {
		if int(a) != i+1 {
			t.Errorf("act %d stands at %d", a, i+1)
		}
		got = append(got, a.String())
	}
	if diff := cmp.Diff(wantActs, got); diff != "" {
		t.Errorf("acts differ (-want +got):\n%s", diff)
	}
	names := map[string]bool{}
	for i, r := range intent.Reasons() {
		if int(r) != i+1 || r.String() == "unspecified" || names[r.String()] {
			t.Errorf("reason %d is %q", r, r)
		}
		names[r.String()] = true
		refusal := &intent.RefusalError{Reason: r}
		if e := errs.From(refusal); e.Code != errs.IntentRefused || e.Hint == "" {
			t.Errorf("reason %q becomes %v with hint %q", r, e.Code, e.Hint)
		}
	}
	if len(names) != 15 {
		t.Errorf("%d reasons, want 15", len(names))
	}
}

func TestRulesOfEveryAct(t *testing.T) {
	t.Parallel()
	q := intent.Quorum{Governors: 2, Custodians: 3}
	want := map[intent.Act][2]int{
		intent.ActGenesis: {2, 3}, intent.ActSetAuthorityKeys: {2, 3}, intent.ActRestore: {2, 3}, intent.ActSetQuorum: {2, 3},
		intent.ActReshare: {0, 3}, intent.ActRekey: {0, 3}, intent.ActMigrate: {0, 3},
		intent.ActSetPolicy: {2, 0}, intent.ActBindRole: {2, 0}, intent.ActBindL1: {2, 0}, intent.ActRebindL1: {2, 0}, intent.ActResumeAfterUnlink: {2, 0},
		intent.ActDestroy: {2, 0}, intent.ActRecoveryGrant: {2, 0}, intent.ActAddMember: {2, 0}, intent.ActSetAudit: {2, 0}, intent.ActSetIssuer: {2, 0},
	}
	if len(want) != len(intent.Acts()) {
		t.Fatalf("table has %d acts, want %d", len(want), len(intent.Acts()))
	}
	for _, a := range intent.Acts() {
		r, ok := intent.RuleOf(a, q)
		if !ok || r.Governors != want[a][0] || r.Custodians != want[a][1] || r.Requester != intent.RequesterExcluded || r.Validate() != nil {
			t.Errorf("rule of %s is %+v, want %v", a, r, want[a])
		}
	}
	for _, a := range []intent.Act{0, 18, 60000} {
		if r, ok := intent.RuleOf(a, q); ok || r.Validate() == nil {
			t.Errorf("unknown act %d has rule %+v", a, r)
		}
	}
}

func TestLargerIsAtLeastAsStrictAsBoth(t *testing.T) {
	t.Parallel()
	gen := rapid.Custom(func(t *rapid.T) intent.Rule {
		return intent.Rule{
			Governors: rapid.IntRange(0, 5).Draw(t, "g"), Custodians: rapid.IntRange(0, 5).Draw(t, "c"),
			Requester: rapid.SampledFrom([]intent.RequesterVote{intent.RequesterExcluded, intent.RequesterCounts}).Draw(t, "r"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := gen.Draw(t, "a"), gen.Draw(t, "b")
		l := intent.Larger(a, b)
		if l != intent.Larger(b, a) {
			t.Fatal("not symmetric")
		}
		for _, r := range []intent.Rule{a, b} {
			if l.Governors < r.Governors || l.Custodians < r.Custodians || (r.Requester == intent.RequesterExcluded && l.Requester != r.Requester) {
				t.Fatalf("Larger(%+v, %+v) = %+v", a, b, l)
			}
		}
		if l.Governors > max(a.Governors, b.Governors) || l.Custodians > max(a.Custodians, b.Custodians) {
			t.Fatal("stricter than needed")
		}
	})
}

func TestRequestsDifferWhenTheirFieldsDo(t *testing.T) {
	t.Parallel()
	a := func() *intent.Request { return intent.NewRequest(intent.ActSetPolicy) }
	all := map[string]intent.Digest{
		"nothing":         a().Digest(),
		"other act":       intent.NewRequest(intent.ActBindRole).Digest(),
		"empty text":      a().Text("x", "").Digest(),
		"empty bytes":     a().Bytes("x", nil).Digest(),
		"zero":            a().Uint("x", 0).Digest(),
		"empty list":      a().List("x", 0).Digest(),
		"split one way":   a().Text("ab", "c").Digest(),
		"split other way": a().Text("a", "bc").Digest(),
		"two fields":      a().Text("a", "b").Text("c", "").Digest(),
		"list of one":     a().List("l", 1).Text("a", "b").Text("c", "").Digest(),
		"list of two":     a().List("l", 2).Text("a", "b").Text("c", "").Digest(),
	}
	seen := map[intent.Digest]string{}
	for name, d := range all {
		if before, ok := seen[d]; ok {
			t.Errorf("%q and %q have one digest", name, before)
		}
		seen[d] = name
	}
}

// The file was written once. It is never regenerated: it is the format.
func TestGoldenVectors(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("testdata/intent-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Vectors []struct {
			Name, Keyspace, Request, Nonce, Encoding, Message, Digest string
			Act                                                       uint16
			NotAfter                                                  int64
			Preconditions                                             []intent.Precondition
			Alg                                                       intent.Alg
			PublicKey, KeyID, Signature                               string
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Vectors) != 3 {
		t.Fatalf("%d vectors, want 3", len(file.Vectors))
	}
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, v := range file.Vectors {
		in := intent.Intent{
			Keyspace: hierarchy.KeyspaceID(unhex(v.Keyspace)), Act: intent.Act(v.Act), Request: intent.Digest(unhex(v.Request)),
			NotAfter: v.NotAfter, Nonce: intent.Nonce(unhex(v.Nonce)), Preconditions: v.Preconditions,
		}
		enc, err := in.Encode()
		if err != nil || hex.EncodeToString(enc) != v.Encoding {
			t.Errorf("%s: encoding %x, %v", v.Name, enc, err)
		}
		msg, err := in.Message()
		if err != nil || hex.EncodeToString(msg) != v.Message {
			t.Errorf("%s: message %x, %v", v.Name, msg, err)
		}
		d, err := in.Digest()
		if err != nil || hex.EncodeToString(d[:]) != v.Digest {
			t.Errorf("%s: digest %x, %v", v.Name, d, err)
		}
		pub, err := intent.NewPublicKey(v.Alg, unhex(v.PublicKey))
		if err != nil || pub.ID().String() != v.KeyID {
			t.Fatalf("%s: key id %s, %v", v.Name, pub.ID(), err)
		}
		if !pub.Verify(msg, unhex(v.Signature)) {
			t.Errorf("%s: signature does not verify", v.Name)
		}
	}
}

func FuzzDecode(f *testing.F) {
	enc, err := sample().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(enc)
	f.Add(enc[:70])
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		in, err := intent.Decode(b)
		if err != nil {
			return
		}
		again, err := in.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x decodes to what encodes as %x, %v", b, again, err) // I1
		}
	})
}
