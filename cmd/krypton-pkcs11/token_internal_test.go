//go:build cgo && unix && !nopkcs11

package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/openkcm/krypton-cluster/keystore/blob"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/hsm"
	"github.com/openkcm/krypton-cluster/keystore/pkcs11/wire"
)

// What is made on the token for one call ends with it, also in the session that
// made it, and what failed leaves nothing either.
func TestNoObjectOutlivesItsCall(t *testing.T) {
	programs := t.TempDir()
	if err := hsm.Build(t.Context(), programs); err != nil {
		t.Fatal(err)
	}
	s, err := hsm.Start(t.Context(), hsm.Options{Programs: programs})
	keystoretest.Require(t, "SoftHSM", hsm.Install, err)
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := s.NewAES(t.Context(), "k", hsm.All); err != nil {
		t.Fatal(err)
	}
	// The library is loaded here for once: its objects are only seen inside.
	name, value, _ := strings.Cut(s.Environment, "=")
	t.Setenv(name, value)
	tok, fault := openToken(wire.Hello{Version: wire.Version, Module: s.Module, Label: s.Label, PINFile: s.PINFile, Mechanism: "aes-kwp", Workers: 1})
	if fault != nil {
		t.Fatal(fault.text)
	}
	defer func() {
		if err := errors.Join(tok.ctx.Finalize()); err != nil {
			t.Error(err)
		}
		tok.ctx.Destroy()
	}()
	w := &worker{token: tok}
	key := bytes.Repeat([]byte{1}, keySize)
	a, fingerprint := w.do(wire.Request{Op: wire.OpPIN}, key)
	if a.Status != wire.StatusOK {
		t.Fatal(a, string(fingerprint))
	}
	if a := w.logIn(append(key, fingerprint...)); a.Status != wire.StatusOK {
		t.Fatal(a)
	}
	sel, _ := w.do(wire.Request{Op: wire.OpSelect, Ref: "k"}, nil)
	if sel.Status != wire.StatusOK || sel.Mechanism != blob.AESKWP {
		t.Fatalf("%+v", sel)
	}
	secret := []byte("a secret of 32 bytes, to be sure")
	wrapped, _ := w.do(wire.Request{Op: wire.OpWrap, Ref: "k", ID: sel.ID, Mechanism: sel.Mechanism}, secret)
	if wrapped.Status != wire.StatusOK {
		t.Fatalf("%+v", wrapped)
	}
	opened, payload := w.do(wire.Request{Op: wire.OpUnwrap, Ref: "k", ID: sel.ID, Mechanism: sel.Mechanism, Wrapped: wrapped.Wrapped}, nil)
	if opened.Status != wire.StatusOK || !bytes.Equal(payload, secret) {
		t.Fatalf("%+v", opened)
	}
	if a := w.ready(); a.Status != wire.StatusOK {
		t.Fatal(a)
	}
	left, err := w.handles([]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false)})
	if err != nil || len(left) > 0 {
		t.Errorf("%d objects are left in the session (%v)", len(left), err)
	}
}
