package fsm

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
)

// TestTheLargestObjectsFitIntoASnapshot: a state that cannot be written out
// would stop a cluster for ever, so no limit may allow one.
func TestTheLargestObjectsFitIntoASnapshot(t *testing.T) {
	v := filled(&fsmpb.Version{})
	v.Number, v.Uid, v.ParentUid, v.Blob = 1<<31, make([]byte, 16), make([]byte, 16), make([]byte, MaxVersionBytes)
	v.CreateTimeMs, v.SupersededTimeMs, v.DestroyTimeMs, v.ReleasedTimeMs, v.ModIndex, v.GateIndex, v.Pins = maxTimeMS, maxTimeMS, maxTimeMS, maxTimeMS, 1<<63, 1<<63, 1<<31
	vs := make([]*fsmpb.Version, hierarchy.MaxVersions)
	for i := range vs {
		vs[i] = v
	}
	tenant := &fsmpb.Tenant{Versions: vs, L2Blob: make([]byte, MaxBlobBytes), Binding: &fsmpb.Binding{Key: string(make([]byte, MaxKeyRefBytes+MaxKeyVersionBytes))}}
	cluster := &fsmpb.Cluster{
		InternalKeys: vs, Genesis: make([]byte, MaxCommandBytes), SealRecord: make([]byte, MaxSealRecordBytes), Persons: nil,
	}
	signed := make([]*fsmpb.SignedIntent, intent.MaxSignatures)
	for i := range signed {
		signed[i] = &fsmpb.SignedIntent{KeyId: make([]byte, 32), Signature: make([]byte, intent.MaxSignature)}
	}
	signed[0].Intent = make([]byte, intent.MaxEncoded)
	var certs, uids [][]byte
	for range MaxIssuerCertificates {
		certs = append(certs, make([]byte, MaxCertificateBytes))
	}
	for range MaxIssuerTenants {
		uids = append(uids, make([]byte, 16))
	}
	issuer := &fsmpb.Issuer{AuthorizedBy: signed, TenantUids: uids, Kind: &fsmpb.Issuer_Jwt{Jwt: &fsmpb.JWTIssuer{Ca: certs, Keys: make([]byte, MaxIssuerKeysBytes)}}}
	for name, m := range map[string]proto.Message{"issuer": issuer, "policy": &fsmpb.Policy{AuthorizedBy: signed, Text: string(make([]byte, MaxPolicyBytes))}, "tenant": tenant, "service": &fsmpb.Service{Versions: vs}, "cluster": cluster} {
		if got := proto.Size(m) + 64<<10; got > MaxItemBytes {
			t.Errorf("the largest %s has about %d bytes, at most %d fit", name, got, MaxItemBytes)
		}
	}
}

func TestNamesOfCausesAreOnePerBit(t *testing.T) {
	var all hierarchy.Causes
	for _, c := range causeNames {
		if all.Has(c.bit) {
			t.Errorf("cause %s has the bit of another", c.name)
		}
		all |= c.bit
		if got, ok := causeOf(c.name); !ok || got != c.bit {
			t.Errorf("cause %s: %v, %v", c.name, got, ok)
		}
	}
	if !all.Valid() || (all + 1).Valid() {
		t.Errorf("the names stand for %b, which are not all causes of hierarchy", all)
	}
	if names := fromCauses(all); toCauses(names) != all || len(names) != len(causeNames) {
		t.Errorf("causes come back as %v", names)
	}
}
