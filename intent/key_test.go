package intent_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"math/big"
	"testing"

	"github.com/c2sp/wycheproof"

	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/intent/sign"
)

func negateS(t *testing.T, der []byte) []byte {
	t.Helper()
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		t.Fatal(err)
	}
	sig.S.Sub(elliptic.P256().Params().N, sig.S)
	out, err := asn1.Marshal(sig)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

type wycheproofFile struct {
	TestGroups []struct {
		PublicKey struct {
			PK           string `json:"pk"`
			Uncompressed string `json:"uncompressed"`
		} `json:"publicKey"`
		Tests []struct {
			TcID             int
			Comment          string
			Msg, Sig, Result string
		}
	}
}

func TestWycheproof(t *testing.T) {
	t.Parallel()
	for name, alg := range map[string]intent.Alg{
		"ed25519_test.json":                intent.AlgEd25519,
		"ecdsa_secp256r1_sha256_test.json": intent.AlgECDSAP256SHA256,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, err := fs.ReadFile(wycheproof.TestVectors, name)
			if err != nil {
				t.Fatal(err)
			}
			var file wycheproofFile
			if err := json.Unmarshal(data, &file); err != nil {
				t.Fatal(err)
			}
			valid, invalid := 0, 0
			for _, g := range file.TestGroups {
				raw, err := hex.DecodeString(g.PublicKey.PK + g.PublicKey.Uncompressed)
				if err != nil {
					t.Fatal(err)
				}
				pub, err := intent.NewPublicKey(alg, raw)
				if err != nil {
					t.Errorf("key %x: %v", raw, err)
					continue
				}
				for _, tc := range g.Tests {
					msg, err := hex.DecodeString(tc.Msg)
					if err != nil {
						t.Fatal(err)
					}
					sig, err := hex.DecodeString(tc.Sig)
					if err != nil {
						t.Fatal(err)
					}
					want := tc.Result == "valid"
					if got := pub.Verify(msg, sig); got != want {
						t.Errorf("%d (%s): verified = %v, result is %s", tc.TcID, tc.Comment, got, tc.Result)
					}
					if want {
						valid++
					} else {
						invalid++
					}
				}
			}
			if valid < 50 || invalid < 50 {
				t.Errorf("only %d valid and %d invalid cases were run", valid, invalid)
			}
		})
	}
}

// smallOrder are y coordinates that weakEd25519 refuses, and their second
// spelling y + p where it fits 255 bits.
func smallOrder(t *testing.T) [][]byte {
	t.Helper()
	var keys [][]byte
	for _, s := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // 0 + p
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // 1 + p
	} {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		minus := bytes.Clone(b)
		minus[31] |= 0x80
		keys = append(keys, b, minus)
	}
	return keys
}

func TestI6_KeysUnderWhichAnybodySignsAreRefused(t *testing.T) {
	t.Parallel()
	forged := 0
	for _, raw := range smallOrder(t) {
		if _, err := intent.NewPublicKey(intent.AlgEd25519, raw); err == nil {
			t.Errorf("%x is accepted", raw)
		}
		// Show that the danger is real: R = identity, S = 0 needs no private key.
		sig := make([]byte, 64)
		sig[0] = 1
		for i := range uint64(64) {
			if ed25519.Verify(raw, binary.BigEndian.AppendUint64(nil, i), sig) {
				forged++
				break
			}
		}
	}
	if forged < 8 {
		t.Errorf("only %d of the keys could be forged under; the list is wrong", forged)
	}
}

func TestI6_OneEncodingPerKey(t *testing.T) {
	t.Parallel()
	// y = p + 3 .. 2^255-1: second spellings of small y.
	for c := 0xed; c <= 0xff; c++ {
		raw := bytes.Repeat([]byte{0xff}, 32)
		raw[0], raw[31] = byte(c), 0x7f
		if _, err := intent.NewPublicKey(intent.AlgEd25519, raw); err == nil {
			t.Errorf("non-canonical key %x is accepted", raw)
		}
	}
	// One below p, in another byte: canonical, and left to the curve.
	raw := bytes.Repeat([]byte{0xff}, 32)
	raw[0], raw[9], raw[31] = 0xed, 0xfe, 0x7f
	if _, err := intent.NewPublicKey(intent.AlgEd25519, raw); err != nil {
		t.Errorf("canonical key is refused: %v", err)
	}

	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	full, err := k.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	offCurve := bytes.Clone(full)
	offCurve[64] ^= 1
	hybrid := bytes.Clone(full)
	hybrid[0] = 6 | full[64]&1
	for name, raw := range map[string][]byte{
		"compressed":    elliptic.MarshalCompressed(elliptic.P256(), k.X, k.Y),
		"infinity":      {0},
		"off the curve": offCurve,
		"hybrid":        hybrid,
		"all ff":        append([]byte{4}, bytes.Repeat([]byte{0xff}, 64)...),
		"short":         full[:64],
		"empty":         nil,
	} {
		if _, err := intent.NewPublicKey(intent.AlgECDSAP256SHA256, raw); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if _, err := intent.NewPublicKey(intent.AlgUnspecified, full); err == nil {
		t.Error("a key without an algorithm is accepted")
	}
	if _, err := intent.NewPublicKey(3, full); err == nil {
		t.Error("a key of an unknown algorithm is accepted")
	}
}

func TestZeroKeyVerifiesNothing(t *testing.T) {
	t.Parallel()
	var k intent.PublicKey
	if !k.IsZero() || k.Verify(nil, nil) || k.Verify([]byte("x"), make([]byte, 64)) {
		t.Error("the zero key verifies")
	}
}

func TestPublicKeyCannotBeChangedThroughItsBytes(t *testing.T) {
	t.Parallel()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	given := bytes.Clone(pub)
	k, err := intent.NewPublicKey(intent.AlgEd25519, given)
	if err != nil {
		t.Fatal(err)
	}
	id := k.ID()
	given[0] ^= 1
	k.Raw()[0] ^= 1
	if k.ID() != id || !k.Verify([]byte("m"), ed25519.Sign(priv, []byte("m"))) {
		t.Error("the key changed")
	}
	again, err := sign.PublicKey(pub)
	if err != nil || again != k {
		t.Errorf("sign.PublicKey differs: %v", err)
	}
}
