//go:build cgo && unix && !nopkcs11

package main

import (
	"crypto/rand"
	"crypto/x509"
	"math/big"

	"github.com/miekg/pkcs11"

	"github.com/openkcm/krypton-cluster/keystore/blob"
	"github.com/openkcm/krypton-cluster/keystore/pkcs11/wire"
)

// importKeyOf finds the RSA key under which material is brought in, and by
// which mechanism the token unwraps it.
func (w *worker) importKeyOf() (object, answer) {
	objs, a := w.objects(w.hello.ImportKey, nil)
	if a.Status != wire.StatusOK {
		return object{}, a
	}
	o := objs[len(objs)-1]
	if o.class != pkcs11.CKO_PRIVATE_KEY || o.keyType != pkcs11.CKK_RSA || len(o.id) == 0 {
		return object{}, answer{Status: wire.StatusUnfit, Stage: wire.StageAttributes, CKR: pkcs11.CKR_KEY_TYPE_INCONSISTENT}
	}
	u, err := w.uses(o)
	if err != nil {
		return object{}, failed(wire.StageAttributes, err)
	}
	if !u.unwrap {
		return object{}, answer{Status: wire.StatusForbidden, Stage: wire.StageAttributes, CKR: pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED}
	}
	return o, answer{Status: wire.StatusOK}
}

// importParams returns the mechanism of the library for one of the import. The
// numbers are those of blobs: AES-KWP stands for CKM_RSA_AES_KEY_WRAP.
func importParams(m blob.Mechanism) *pkcs11.Mechanism {
	sha1 := pkcs11.NewOAEPParams(pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1, pkcs11.CKZ_DATA_SPECIFIED, nil)
	switch m { //nolint:exhaustive // The others are none of the import.
	case blob.AESKWP:
		return pkcs11.NewMechanism(pkcs11.CKM_RSA_AES_KEY_WRAP, &pkcs11.RSAAESKeyWrapParams{AESKeyBits: 256, OAEPParams: *sha1})
	case blob.OAEPSHA256:
		return pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_OAEP, pkcs11.NewOAEPParams(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, pkcs11.CKZ_DATA_SPECIFIED, nil))
	case blob.OAEPSHA1:
		return pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_OAEP, sha1)
	}
	return nil
}

// importMechanism says what the token unwraps with. One that offers both gets
// CKM_RSA_AES_KEY_WRAP, which has room for keys of any size. Whether OAEP knows
// SHA-256 shows only when it is tried, with a random key that lives as long as
// the session.
func (w *worker) importMechanism(o object) (blob.Mechanism, answer) {
	if w.mechs[pkcs11.CKM_RSA_AES_KEY_WRAP]&pkcs11.CKF_UNWRAP != 0 {
		return blob.AESKWP, answer{Status: wire.StatusOK}
	}
	a := answer{Status: wire.StatusUnfit, Stage: wire.StageUnwrapKey, CKR: pkcs11.CKR_MECHANISM_INVALID}
	if w.mechs[pkcs11.CKM_RSA_PKCS_OAEP]&pkcs11.CKF_UNWRAP == 0 {
		return 0, a
	}
	for _, m := range []blob.Mechanism{blob.OAEPSHA256, blob.OAEPSHA1} {
		random := make([]byte, keySize)
		if _, err := rand.Read(random); err != nil {
			return 0, answer{Status: wire.StatusFailed, Stage: wire.StageProbe}
		}
		var wrapped []byte
		wrapped, a = w.sealRSA(o, method{mechanism: m}, random)
		clear(random)
		if a.Status != wire.StatusOK {
			return 0, a
		}
		h, err := w.ctx.UnwrapKey(w.session, []*pkcs11.Mechanism{importParams(m)}, o.handle, wrapped, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false), pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		})
		if err == nil {
			if err := w.ctx.DestroyObject(w.session, h); err != nil {
				return 0, failed(wire.StageUnwrapKey, err)
			}
			return m, answer{Status: wire.StatusOK}
		}
		if a = probed(failed(wire.StageUnwrapKey, err)); a.Status != wire.StatusUnfit {
			return 0, a
		}
	}
	return 0, a
}

// importTo answers with the public key to wrap material under, for a key that is there.
func (w *worker) importTo(req wire.Request) (answer, []byte) {
	if _, a := w.objects(req.Ref, nil); a.Status != wire.StatusOK {
		return a, nil
	}
	o, a := w.importKeyOf()
	if a.Status != wire.StatusOK {
		return a, nil
	}
	m, a := w.importMechanism(o)
	if a.Status != wire.StatusOK {
		return a, nil
	}
	pub, err := w.publicKey(o)
	if err != nil {
		return failed(wire.StageAttributes, err), nil
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return answer{Status: wire.StatusUnfit, Stage: wire.StageAttributes}, nil
	}
	return answer{Status: wire.StatusOK, ID: o.id, Mechanism: m}, der
}

// importKey unwraps material into a new version of a key that is there:
// sensitive, never extractable, one higher than the current version.
func (w *worker) importKey(req wire.Request) answer {
	mechanism := importParams(req.Mechanism)
	if mechanism == nil {
		return answer{Status: wire.StatusUnfit, Stage: wire.StageUnwrapKey, CKR: pkcs11.CKR_MECHANISM_INVALID}
	}
	existing, a := w.objects(req.Ref, nil)
	if a.Status != wire.StatusOK {
		return a
	}
	o, a := w.importKeyOf()
	if a.Status != wire.StatusOK {
		return a
	}
	if string(o.id) != string(req.ID) { // another import key than the material was wrapped for
		return answer{Status: wire.StatusChanged, ID: o.id}
	}
	next := new(big.Int).SetBytes(existing[len(existing)-1].id)
	next.Add(next, big.NewInt(1))
	id := next.Bytes()
	if len(id) > 64 {
		return answer{Status: wire.StatusUnfit, Stage: wire.StageCreateObject, CKR: pkcs11.CKR_ATTRIBUTE_VALUE_INVALID}
	}
	session, err := w.ctx.OpenSession(w.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return failed(wire.StageOpenSession, err)
	}
	defer func() { _ = w.ctx.CloseSession(session) }() // nothing of it is used again
	_, err = w.ctx.UnwrapKey(session, []*pkcs11.Mechanism{mechanism}, o.handle, req.Wrapped, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, req.Ref), pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true), pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, true), pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, true),
	})
	if err != nil {
		if a = failed(wire.StageUnwrapKey, err); a.Status != wire.StatusFailed {
			return a
		}
		// It says nothing: if the token unwraps what is made for the purpose, it
		// is the material that does not open (I4).
		w.closeSession()
		if a = w.ready(); a.Status == wire.StatusOK {
			_, a = w.importMechanism(o)
		}
		if a.Status == wire.StatusOK {
			a = answer{Status: wire.StatusCorrupt, Stage: wire.StageUnwrapKey, CKR: ckr(err)}
		}
		return a
	}
	return answer{Status: wire.StatusOK, ID: id}
}
