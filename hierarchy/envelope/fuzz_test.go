package envelope_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
)

func seedBlobs(f *testing.F) {
	f.Helper()
	v := loadVectors(f)
	for _, e := range short(v.Envelopes) {
		f.Add([]byte(e.Blob))
	}
	for _, e := range v.MustFail {
		f.Add([]byte(e.Blob))
	}
	f.Add([]byte(v.Nested[1].Blob))
	f.Add([]byte{})
	f.Add(make([]byte, envelope.Overhead))
}

func FuzzParseHeader(f *testing.F) {
	seedBlobs(f)
	f.Fuzz(func(t *testing.T, blob []byte) {
		h, err := envelope.ParseHeader(blob)
		if err != nil {
			refused(t, err, envelope.ErrFormat, "header")
			return
		}
		back := append([]byte{1, 1}, h.KeyVersion[:]...)
		back = append(append(append(back, h.Session[:]...), h.Commitment[:]...), h.Nonce[:]...)
		if !bytes.Equal(back, blob[:envelope.HeaderSize]) {
			t.Fatalf("header %x reads as %x", blob[:envelope.HeaderSize], back)
		}
	})
}

// FuzzOpen holds that nothing opens but what the vectors say, and that both
// readers agree.
func FuzzOpen(f *testing.F) {
	seedBlobs(f)
	all := loadVectors(f).Envelopes
	f.Fuzz(func(t *testing.T, blob []byte) {
		for _, v := range all {
			known := false // under this parent and at this place
			for _, w := range all {
				if bytes.Equal(w.Blob, blob) && bytes.Equal(w.Parent, v.Parent) && w.binding(t) == v.binding(t) {
					known, v.Plaintext = true, w.Plaintext
				}
			}
			err := v.openOurs(t, take(t, v.Parent), v.binding(t), blob)
			if (err == nil) != known {
				t.Fatalf("%s: %v for %x", v.Name, err, blob)
			}
			if err != nil && !errs.Is(err, errs.Integrity) {
				t.Fatalf("%s: %v", v.Name, err)
			}
			if _, err2 := v.place().open(v.Parent, blob); (err == nil) != (err2 == nil) {
				t.Fatalf("%s: this package says %v, the second reader %v", v.Name, err, err2)
			}
		}
	})
}

// FuzzOpenL2 feeds bodies to the nested format: each is sealed under the right
// IVK first, so that the parser behind the tag is reached.
func FuzzOpenL2(f *testing.F) {
	v := loadVectors(f).Nested[1]
	p := place{purpose: "l2-outer", keyspace: v.Keyspace, tenant: v.Tenant, version: v.IVKVersion, subject: v.L2ID}
	body, err := p.open(v.IVK, v.Blob)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte{0, 0, 0, 1, 7, 0, 0, 0, 0})
	f.Add(bytes.Repeat([]byte{0xff}, 200))
	f.Add(rdParts(make([]byte, 3), make([]byte, 126)))
	f.Fuzz(func(t *testing.T, body []byte) {
		session, nonce := v.Blob[18:34], make([]byte, 12)
		header := append(append(append(append([]byte{1, 1}, v.IVKVersion...), session...), p.commitment(v.IVK, session)...), nonce...)
		blob := rdGCM(p.key(v.IVK, session)).Seal(header[:78:78], nonce, body, p.aad(header))
		k1 := func(context.Context, []byte, []byte) (memsec.Secret, error) {
			return memsec.Take(bytes.Clone(v.K1), memsec.Hot)
		}
		l2, err := envelope.OpenL2(t.Context(), take(t, v.IVK), v.binding(v.IVKVersion), k1, blob, memsec.Hot)
		got, err2 := p.openL2(v.IVK, blob, func([]byte, []byte) ([]byte, error) { return v.K1, nil })
		if (err == nil) != (err2 == nil) {
			t.Fatalf("this package says %v, the second reader %v", err, err2)
		}
		if err != nil {
			refused(t, err, nil, "body %x", body)
			return
		}
		defer l2.Destroy()
		if !same(t, l2, got) {
			t.Fatal("the readers open to different keys")
		}
	})
}
