package gcpkms

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/blob"
)

// The encodings of requests and answers are wiped when gRPC is done with them.
func TestTheCodecWipesWhatItMade(t *testing.T) {
	plain := bytes.Repeat([]byte("secret! "), 8)
	for _, aad := range [][]byte{nil, make([]byte, 4096)} {
		req := &kmspb.EncryptRequest{Name: "n", Plaintext: plain, AdditionalAuthenticatedData: aad}
		data, err := wipingCodec{}.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		want, err := proto.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		if len(data) != 1 || !bytes.Equal(data.Materialize(), want) {
			t.Fatalf("%d buffers that are not the message", len(data))
		}
		view := data[0].ReadOnlyData()
		if !bytes.Contains(view, plain) {
			t.Fatal("the test does not look at the buffer")
		}
		data.Free()
		if bytes.Contains(view, plain[:8]) {
			t.Error("the plaintext is still in the buffer")
		}
		var got kmspb.EncryptRequest
		if err := (wipingCodec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer(want[:7]), mem.SliceBuffer(want[7:])}, &got); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(req, &got) {
			t.Error("another message came out")
		}
	}
	if _, err := (wipingCodec{}).Marshal("text"); err == nil {
		t.Error("marshalled what is no message")
	}
	if err := (wipingCodec{}).Unmarshal(nil, "text"); err == nil {
		t.Error("unmarshalled into what is no message")
	}
}

// What Google authenticates, byte for byte, for the blob of one wrap. It stands
// in stored blobs: changing it makes every one of them unreadable.
func TestGoldenAdditionalData(t *testing.T) {
	const want = "00000011" + "6b727970746f6e2f76312f6763706b6d73" + // krypton/v1/gcpkms
		"0000002e" + "70726f6a656374732f702f6c6f636174696f6e732f6c2f6b657952696e67732f722f63727970746f4b6579732f6b" +
		"06" + "00000002" + "3132" + "00000003" + "616164"
	got := hex.EncodeToString(binding("projects/p/locations/l/keyRings/r/cryptoKeys/k", []byte("aad")).Full(blob.Native, "12"))
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add("projects/p/locations/l/keyRings/r/cryptoKeys/k")
	f.Add("projects/example.com:p/locations/global/keyRings/r/cryptoKeys/k")
	f.Add("projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1")
	f.Add("projects//locations/l/keyRings/../cryptoKeys/k")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parseKey(keystore.KeyRef(text))
		if err != nil {
			return
		}
		if r.keyName() != text {
			t.Errorf("%q names %q", text, r.keyName())
		}
		if strings.ContainsAny(text, " %?#\\\n\x00") || strings.Contains(text, "..") && !strings.HasPrefix(text, "projects/") {
			t.Errorf("%q is a reference", text)
		}
		v, err := r.versionOf(r.versionName("12"))
		if err != nil || v != "12" {
			t.Errorf("version %q: %v", v, err)
		}
	})
}

func TestVersionsAreThoseOfTheKey(t *testing.T) {
	r, err := parseKey("projects/p/locations/l/keyRings/r/cryptoKeys/k")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]keystore.KeyVersion{
		"projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/7":                   "7",
		"projects/123456/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/7":              "7", // its number
		"projects/p q/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/7":                 "",
		"projects/p/locations/m/keyRings/r/cryptoKeys/k/cryptoKeyVersions/7":                   "",
		"projects/p/x/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/7":                 "",
		"projects/p/locations/l/keyRings/r/cryptoKeys/kk/cryptoKeyVersions/7":                  "",
		"projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/":                    "",
		"projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/07":                  "",
		"projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/7/x":                 "",
		"projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1234567890123456789": "",
		"xprojects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/7":                  "",
		"projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/7\n":                 "",
		"projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/-7":                  "",
	} {
		if got, err := r.versionOf(name); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func FuzzUnquote(f *testing.F) {
	f.Add([]byte(`"a\nb\"\\\/="`))
	f.Add([]byte(`"\u003d"`))
	f.Add([]byte(`"\`))
	f.Add([]byte(`""`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, ok := unquote(raw)
		var want string
		if err := json.Unmarshal(raw, &want); err != nil || !ok || strings.ContainsRune(want, '\ufffd') {
			return // it reads less than JSON, and is given valid JSON only
		}
		if string(got) != want {
			t.Errorf("%q is %q, want %q", raw, got, want)
		}
	})
}

func FuzzParseKeyFile(f *testing.F) {
	f.Add([]byte(`{"type":"service_account","client_email":"a@b","private_key":"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}`))
	f.Add([]byte(`{"type":"service_account","client_email":"a@b"}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := parseKeyFile(bytes.Clone(text))
		if (err == nil) != (a.signer != nil) {
			t.Errorf("%v, %v", a, err)
		}
		if err != nil && err.Error() != "not a key file of a service account" {
			t.Errorf("the error says more: %v", err)
		}
	})
}

// FuzzReason holds that no answer of a token service brings a secret, or
// anything long or unquoted, into an error.
func FuzzReason(f *testing.F) {
	f.Add([]byte(`{"error":"invalid_grant","error_description":"the-secret"}`))
	f.Add([]byte(`{"error":{"status":"PERMISSION_DENIED","message":"no the-secret"}}`))
	f.Add([]byte(`<html>`))
	f.Fuzz(func(t *testing.T, body []byte) {
		got := reason(body, []string{"the-secret"})
		if strings.Contains(got, "the-secret") || strings.ContainsAny(got, "\n\r\x00") || len(got) > 10*maxText+100 {
			t.Errorf("%q", got)
		}
	})
}

func FuzzGrant(f *testing.F) {
	f.Add([]byte(`{"access_token":"t","token_type":"Bearer","expires_in":3600}`))
	f.Add([]byte(`{"access_token":"t","token_type":"Bearer","expires_in":9223372036854775807}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var g grant
		if json.Unmarshal(body, &g) != nil {
			return
		}
		now := time.Unix(1_800_000_000, 0)
		tok, err := g.token(now)
		if err == nil && (tok.value == "" || !tok.expires.After(now) || tok.expires.Sub(now) > 24*time.Hour) {
			t.Errorf("%+v", tok)
		}
		var e *tokenError
		if err != nil && !errors.As(err, &e) {
			t.Errorf("%T", err)
		}
	})
}
