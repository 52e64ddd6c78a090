//go:build cgo && unix && !nopkcs11

package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // OAEP of tokens that have no other hash; it does not rest on collision resistance.
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"math/big"

	"github.com/miekg/pkcs11"

	"github.com/openkcm/krypton-cluster/keystore/blob"
	"github.com/openkcm/krypton-cluster/keystore/pkcs11/wire"
)

const (
	ivSize   = 12 // of the IV that is offered to GCM
	tagBits  = 128
	keySize  = 32 // of one-time keys and probes
	minRSA   = 256
	maxPlain = 64
)

// how is by which functions of the library a mechanism is used. Tokens differ:
// SoftHSM has key wrap in C_WrapKey only, others in C_Encrypt only.
type how int

const (
	byKey  how = iota // C_WrapKey and C_UnwrapKey, with the secret as a session object
	byData            // C_Encrypt and C_Decrypt
	byRSA             // C_Decrypt, and encryption here: the public key is public
)

// method is one way to wrap and unwrap.
type method struct {
	mechanism blob.Mechanism
	ckm       uint
	how       how
}

// choice is a method that a probe has shown to work with an object.
type choice struct{ method }

// methods returns what the token has for a key with these uses, best first:
// AES key wrap with padding, GCM, AES key wrap, OAEP with SHA-256, with SHA-1.
func (t *token) methods(o object, u uses) []method {
	var out []method
	add := func(m blob.Mechanism, ckm uint, h how, allowed bool, flags uint) {
		have, has := t.mechs[ckm]
		if has && allowed && have&flags == flags && t.allowed(m) {
			out = append(out, method{m, ckm, h})
		}
	}
	const wrapping, encrypting = pkcs11.CKF_WRAP | pkcs11.CKF_UNWRAP, pkcs11.CKF_ENCRYPT | pkcs11.CKF_DECRYPT
	switch {
	case o.class == pkcs11.CKO_SECRET_KEY && o.keyType == pkcs11.CKK_AES:
		keyWrap := func(m blob.Mechanism, ckm uint) {
			add(m, ckm, byData, u.encrypt && u.decrypt, encrypting)
			add(m, ckm, byKey, u.wrap && u.unwrap, wrapping)
		}
		keyWrap(blob.AESKWP, ckmAESKeyWrapKWP)
		keyWrap(blob.AESKWP, pkcs11.CKM_AES_KEY_WRAP_PAD)
		add(blob.AESGCM, pkcs11.CKM_AES_GCM, byData, u.encrypt && u.decrypt, encrypting)
		keyWrap(blob.AESKW, pkcs11.CKM_AES_KEY_WRAP)
	case o.class == pkcs11.CKO_PRIVATE_KEY && o.keyType == pkcs11.CKK_RSA:
		add(blob.OAEPSHA256, pkcs11.CKM_RSA_PKCS_OAEP, byRSA, u.decrypt, pkcs11.CKF_DECRYPT)
		add(blob.OAEPSHA1, pkcs11.CKM_RSA_PKCS_OAEP, byRSA, u.decrypt, pkcs11.CKF_DECRYPT)
	}
	return out
}

// usable returns the methods that the object's attributes allow now.
func (w *worker) usable(o object) ([]method, string, answer) {
	u, err := w.uses(o)
	if err != nil {
		return nil, "", failed(wire.StageAttributes, err)
	}
	all := w.methods(o, uses{true, true, true, true})
	if len(all) == 0 {
		return nil, "", answer{Status: wire.StatusUnfit, Stage: wire.StageAttributes, CKR: pkcs11.CKR_MECHANISM_INVALID}
	}
	some := w.methods(o, u)
	if len(some) == 0 {
		return nil, "", answer{Status: wire.StatusForbidden, Stage: wire.StageAttributes, CKR: pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED}
	}
	return some, u.String(), answer{Status: wire.StatusOK}
}

// choose finds the first method that is shown to work: a random key is wrapped
// and comes back as it was. It remembers the result for this object and these
// attributes.
func (w *worker) choose(o object) (choice, answer) {
	if len(o.id) == 0 {
		return choice{}, answer{Status: wire.StatusUnfit, Stage: wire.StageAttributes, CKR: pkcs11.CKR_ATTRIBUTE_VALUE_INVALID}
	}
	some, attributes, a := w.usable(o)
	if a.Status != wire.StatusOK {
		return choice{}, a
	}
	name := fmt.Sprintf("%d/%d/%d/%x/%s", o.handle, o.class, o.keyType, o.id, attributes)
	w.mu.Lock()
	c, known := w.chosen[name]
	w.mu.Unlock()
	if known {
		return c, answer{Status: wire.StatusOK}
	}
	for _, m := range some {
		if a = w.probe(o, m); a.Status == wire.StatusUnfit {
			continue
		}
		if a.Status != wire.StatusOK {
			return choice{}, a
		}
		w.mu.Lock()
		if len(w.chosen) > 1024 { // keys come and go
			clear(w.chosen)
		}
		w.chosen[name] = choice{m}
		w.mu.Unlock()
		return choice{m}, a
	}
	return choice{}, a
}

// probe wraps and unwraps a random key. Its failure is one of the token, the
// key or the method, and not of a blob; StatusUnfit lets the next one be tried.
func (w *worker) probe(o object, m method) answer {
	plain := make([]byte, keySize)
	defer clear(plain)
	if _, err := rand.Read(plain); err != nil {
		return answer{Status: wire.StatusFailed, Stage: wire.StageProbe}
	}
	aad := []byte("probe")
	if m.mechanism != blob.AESGCM {
		aad = nil
	}
	iv, wrapped, a := w.seal(o, m, aad, plain)
	if a.Status != wire.StatusOK {
		return probed(a)
	}
	got, a := w.unseal(o, m, iv, aad, wrapped)
	defer clear(got)
	if a.Status != wire.StatusOK {
		return probed(a)
	}
	if subtle.ConstantTimeCompare(got, plain) != 1 {
		return answer{Status: wire.StatusUnfit, Stage: wire.StageProbe}
	}
	return a
}

// probed makes of a failure without a meaning one that says that the method
// does not work here, if the session still answers.
func probed(a answer) answer {
	switch a.CKR {
	case pkcs11.CKR_FUNCTION_FAILED, pkcs11.CKR_DATA_INVALID, pkcs11.CKR_DATA_LEN_RANGE, pkcs11.CKR_ENCRYPTED_DATA_INVALID,
		pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE, pkcs11.CKR_WRAPPED_KEY_INVALID, pkcs11.CKR_WRAPPED_KEY_LEN_RANGE, pkcs11.CKR_KEY_NOT_NEEDED:
		a.Status = wire.StatusUnfit
	}
	if a.Status == wire.StatusFailed {
		a.Status = wire.StatusStale
	}
	return a
}

// wrap seals the secret under the current version, if that and its mechanism
// are still those which the node has bound it to.
func (w *worker) wrap(req wire.Request, secret []byte) answer {
	if len(secret) == 0 || len(secret) > maxPlain {
		return answer{Status: wire.StatusFailed, Stage: wire.StageEncrypt}
	}
	o, c, a := w.current(req.Ref)
	if a.Status != wire.StatusOK {
		return a
	}
	if string(o.id) != string(req.ID) || c.mechanism != req.Mechanism {
		return answer{Status: wire.StatusChanged, ID: o.id, Mechanism: c.mechanism}
	}
	iv, wrapped, a := w.seal(o, c.method, req.AAD, secret)
	if a.Status == wire.StatusNotFound { // gone between the find and the use: once more from the start
		_, a = w.objects(req.Ref, req.ID)
		if a.Status == wire.StatusOK {
			a = answer{Status: wire.StatusStale, Stage: wire.StageFind}
		}
		return a
	}
	a.IV, a.Wrapped = iv, wrapped
	return a
}

// unwrap opens a ciphertext with the version that made it.
func (w *worker) unwrap(req wire.Request) (answer, []byte) {
	if len(req.ID) == 0 {
		return answer{Status: wire.StatusCorrupt}, nil
	}
	objs, a := w.objects(req.Ref, req.ID)
	if a.Status != wire.StatusOK {
		return a, nil
	}
	o := objs[0]
	some, _, a := w.usable(o)
	if a.Status != wire.StatusOK {
		return a, nil
	}
	a = answer{Status: wire.StatusUnfit, Stage: wire.StageDecrypt, CKR: pkcs11.CKR_MECHANISM_INVALID}
	for _, m := range some {
		if m.mechanism != req.Mechanism {
			continue
		}
		var secret []byte
		if secret, a = w.unseal(o, m, req.IV, req.AAD, req.Wrapped); a.Status == wire.StatusOK {
			return a, secret
		}
		clear(secret)
		if a = w.judge(req, o, m, a); a.Status != wire.StatusCorrupt && a.Status != wire.StatusUnfit {
			return a, nil
		}
	}
	return a, nil
}

// judge says what a failed opening means (I4).
func (w *worker) judge(req wire.Request, o object, m method, a answer) answer {
	switch a.Status { //nolint:exhaustive // The others are probed.
	case wire.StatusForbidden, wire.StatusStale, wire.StatusLoggedOut, wire.StatusBusy, wire.StatusPIN:
		return a
	case wire.StatusNotFound:
		if _, a = w.objects(req.Ref, req.ID); a.Status == wire.StatusOK {
			a = answer{Status: wire.StatusStale, Stage: wire.StageFind}
		}
		return a
	}
	// In a new session: the failed operation may still be active in this one.
	w.closeSession()
	if ready := w.ready(); ready.Status != wire.StatusOK {
		return ready
	}
	if p := w.probe(o, m); p.Status != wire.StatusOK {
		return p
	}
	return answer{Status: wire.StatusCorrupt, Stage: a.Stage, CKR: a.CKR}
}

// seal wraps secret by the method. The result and the IV, which the token may
// have chosen, are public.
func (w *worker) seal(o object, m method, aad, secret []byte) (iv, wrapped []byte, a answer) {
	switch {
	case m.how == byRSA:
		wrapped, a = w.sealRSA(o, m, secret)
		return nil, wrapped, a
	case m.how == byKey:
		wrapped, a = w.wrapKey(o, m, secret)
		return nil, wrapped, a
	case m.mechanism == blob.AESGCM:
		return w.sealGCM(o, aad, secret)
	}
	if err := w.ctx.EncryptInit(w.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(m.ckm, nil)}, o.handle); err != nil {
		return nil, nil, failed(wire.StageEncrypt, err)
	}
	wrapped, err := w.ctx.Encrypt(w.session, secret)
	if err != nil {
		return nil, nil, failed(wire.StageEncrypt, err)
	}
	return nil, wrapped, answer{Status: wire.StatusOK}
}

func (w *worker) sealGCM(o object, aad, secret []byte) (iv, wrapped []byte, a answer) {
	iv = make([]byte, ivSize)
	if _, err := rand.Read(iv); err != nil {
		return nil, nil, answer{Status: wire.StatusFailed, Stage: wire.StageEncrypt}
	}
	params := pkcs11.NewGCMParams(iv, aad, tagBits)
	defer params.Free()
	if err := w.ctx.EncryptInit(w.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, params)}, o.handle); err != nil {
		return nil, nil, failed(wire.StageEncrypt, err)
	}
	wrapped, err := w.ctx.Encrypt(w.session, secret)
	if err != nil {
		return nil, nil, failed(wire.StageEncrypt, err)
	}
	// The token may have chosen another one, which it writes in its place.
	if iv = params.IV(); len(iv) == 0 || len(iv) > blob.MaxIV || len(wrapped) != len(secret)+tagBits/8 {
		return nil, nil, answer{Status: wire.StatusUnfit, Stage: wire.StageEncrypt, CKR: pkcs11.CKR_MECHANISM_PARAM_INVALID}
	}
	return iv, wrapped, answer{Status: wire.StatusOK}
}

// wrapKey makes the secret a session object, which nobody else sees, and has it wrapped.
func (w *worker) wrapKey(o object, m method, secret []byte) ([]byte, answer) {
	h, err := w.ctx.CreateObject(w.session, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE, secret),
	})
	if err != nil {
		return nil, failed(wire.StageCreateObject, err)
	}
	wrapped, err := w.ctx.WrapKey(w.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(m.ckm, nil)}, o.handle, h)
	if end := w.ctx.DestroyObject(w.session, h); err == nil && end != nil {
		return nil, failed(wire.StageWrapKey, end)
	}
	if err != nil {
		return nil, failed(wire.StageWrapKey, err)
	}
	return wrapped, answer{Status: wire.StatusOK}
}

// unseal opens what seal made. The caller wipes the result.
func (w *worker) unseal(o object, m method, iv, aad, wrapped []byte) ([]byte, answer) {
	var params any
	switch {
	case m.how == byKey:
		return w.unwrapKey(o, m, wrapped)
	case m.mechanism == blob.AESGCM:
		gcm := pkcs11.NewGCMParams(iv, aad, tagBits)
		defer gcm.Free()
		params = gcm
	case m.how == byRSA:
		hash, mgf := uint(pkcs11.CKM_SHA256), uint(pkcs11.CKG_MGF1_SHA256)
		if m.mechanism == blob.OAEPSHA1 {
			hash, mgf = pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1
		}
		params = pkcs11.NewOAEPParams(hash, mgf, pkcs11.CKZ_DATA_SPECIFIED, nil)
	}
	if err := w.ctx.DecryptInit(w.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(m.ckm, params)}, o.handle); err != nil {
		return nil, failed(wire.StageDecrypt, err)
	}
	plain, err := w.ctx.Decrypt(w.session, wrapped)
	if err != nil {
		return nil, failed(wire.StageDecrypt, err)
	}
	if len(plain) == 0 || len(plain) > maxPlain {
		clear(plain)
		return nil, answer{Status: wire.StatusFailed, Stage: wire.StageDecrypt, CKR: pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE}
	}
	return plain, answer{Status: wire.StatusOK}
}

func (w *worker) unwrapKey(o object, m method, wrapped []byte) ([]byte, answer) {
	h, err := w.ctx.UnwrapKey(w.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(m.ckm, nil)}, o.handle, wrapped, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true),
	})
	if err != nil {
		return nil, failed(wire.StageUnwrapKey, err)
	}
	values, err := w.ctx.GetAttributeValue(w.session, h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
	end := w.ctx.DestroyObject(w.session, h)
	if err != nil {
		return nil, failed(wire.StageReadValue, err)
	}
	plain := values[0].Value
	if end != nil || len(plain) == 0 || len(plain) > maxPlain {
		clear(plain)
		return nil, answer{Status: wire.StatusFailed, Stage: wire.StageUnwrapKey, CKR: pkcs11.CKR_WRAPPED_KEY_LEN_RANGE}
	}
	return plain, answer{Status: wire.StatusOK}
}

// sealRSA encrypts here: what the token would do with a public key is no
// different, and not every token keeps the public half as an object.
func (w *worker) sealRSA(o object, m method, secret []byte) ([]byte, answer) {
	pub, err := w.publicKey(o)
	if err != nil {
		if errors.Is(err, errNotRSA) {
			return nil, answer{Status: wire.StatusUnfit, Stage: wire.StageAttributes, CKR: pkcs11.CKR_KEY_SIZE_RANGE}
		}
		return nil, failed(wire.StageAttributes, err)
	}
	newHash := sha256.New
	if m.mechanism == blob.OAEPSHA1 {
		newHash = sha1.New
	}
	wrapped, err := rsa.EncryptOAEP(newHash(), rand.Reader, pub, secret, nil)
	if err != nil {
		return nil, answer{Status: wire.StatusUnfit, Stage: wire.StageEncrypt, CKR: pkcs11.CKR_KEY_SIZE_RANGE}
	}
	return wrapped, answer{Status: wire.StatusOK}
}

var errNotRSA = errors.New("no RSA key of 2048 bits or more")

// publicKey reads the public half off the private object, and the exponent off
// the public one where the private has none.
func (w *worker) publicKey(o object) (*rsa.PublicKey, error) {
	values, err := w.ctx.GetAttributeValue(w.session, o.handle, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_MODULUS, nil)})
	if err != nil {
		return nil, err
	}
	n := new(big.Int).SetBytes(values[0].Value)
	values, err = w.ctx.GetAttributeValue(w.session, o.handle, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, nil)})
	if err != nil {
		public, found := w.handles([]*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY), pkcs11.NewAttribute(pkcs11.CKA_ID, o.id), pkcs11.NewAttribute(pkcs11.CKA_MODULUS, n.Bytes()),
		})
		if found != nil || len(public) == 0 {
			return nil, err
		}
		if values, err = w.ctx.GetAttributeValue(w.session, public[0], []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, nil)}); err != nil {
			return nil, err
		}
	}
	e := new(big.Int).SetBytes(values[0].Value)
	if !e.IsInt64() || e.Int64() > 1<<31-1 || e.Int64() < 3 || n.BitLen() < minRSA*8 {
		return nil, errNotRSA
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
}
