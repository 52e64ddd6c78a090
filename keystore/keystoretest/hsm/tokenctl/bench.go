//go:build cgo && unix && !nopkcs11

package main

import (
	"errors"
	"slices"
	"time"

	"github.com/miekg/pkcs11"
)

// kwp is CKM_AES_KEY_WRAP_PAD, by which SoftHSM has RFC 5649.
const kwp = pkcs11.CKM_AES_KEY_WRAP_PAD

// bench does Count times what the library cannot be spared of: the calls for
// one secret, with the key's handle known. It is what a provider is compared to.
func (t *owner) bench() (result, error) {
	if err := t.ctx.FindObjectsInit(t.s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, t.c.Label)}); err != nil {
		return result{}, err
	}
	keys, _, err := t.ctx.FindObjects(t.s, 1)
	if err = errors.Join(err, t.ctx.FindObjectsFinal(t.s)); err != nil || len(keys) != 1 {
		return result{}, errors.Join(errors.New("no such key"), err)
	}
	wrap, unwrap := t.gcm(keys[0])
	if t.c.Usage == "wrap" {
		wrap, unwrap = t.keyWrap(keys[0])
	}
	secret := make([]byte, 32)
	wrapped, err := wrap(secret)
	if err != nil {
		return result{}, err
	}
	start := time.Now()
	for range t.c.Count {
		if t.c.Other == "unwrap" {
			_, err = unwrap(wrapped)
		} else {
			_, err = wrap(secret)
		}
		if err != nil {
			return result{}, err
		}
	}
	return result{Nanoseconds: time.Since(start).Nanoseconds()}, nil
}

type operation func([]byte) ([]byte, error)

func (t *owner) gcm(key pkcs11.ObjectHandle) (wrap, unwrap operation) {
	iv, aad := make([]byte, 12), []byte("keyspace 1, tenant 7")
	wrap = func(b []byte) ([]byte, error) {
		p := pkcs11.NewGCMParams(iv, aad, 128)
		defer p.Free()
		if err := t.ctx.EncryptInit(t.s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, p)}, key); err != nil {
			return nil, err
		}
		return t.ctx.Encrypt(t.s, b)
	}
	unwrap = func(b []byte) ([]byte, error) {
		p := pkcs11.NewGCMParams(iv, aad, 128)
		defer p.Free()
		if err := t.ctx.DecryptInit(t.s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, p)}, key); err != nil {
			return nil, err
		}
		return t.ctx.Decrypt(t.s, b)
	}
	return wrap, unwrap
}

func (t *owner) keyWrap(key pkcs11.ObjectHandle) (wrap, unwrap operation) {
	template := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true),
	}
	m := []*pkcs11.Mechanism{pkcs11.NewMechanism(kwp, nil)}
	wrap = func(b []byte) ([]byte, error) {
		h, err := t.ctx.CreateObject(t.s, append(slices.Clip(template), pkcs11.NewAttribute(pkcs11.CKA_VALUE, b)))
		if err != nil {
			return nil, err
		}
		out, err := t.ctx.WrapKey(t.s, m, key, h)
		return out, errors.Join(err, t.ctx.DestroyObject(t.s, h))
	}
	unwrap = func(b []byte) ([]byte, error) {
		h, err := t.ctx.UnwrapKey(t.s, m, key, b, template)
		if err != nil {
			return nil, err
		}
		values, err := t.ctx.GetAttributeValue(t.s, h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
		if err = errors.Join(err, t.ctx.DestroyObject(t.s, h)); err != nil {
			return nil, err
		}
		return values[0].Value, nil
	}
	return wrap, unwrap
}
