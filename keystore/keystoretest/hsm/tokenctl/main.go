//go:build cgo && unix && !nopkcs11

// Command tokenctl is the owner's side of a PKCS#11 token in tests: it makes tokens and keys, and changes and destroys them.
//
// It reads one JSON command from standard input, so that no PIN is in an
// argument, and writes one JSON answer. Each command is a process of its own,
// as the owner's tools are.
//
// # Invariants
//
//   - I1: it is for tokens of tests; nothing of the product starts it.
//
// # Concurrency
//
// One command per process.
//
// # Failure
//
// The cause is printed and the exit status is 1.
//
// # Source
//
// OASIS PKCS#11 v2.40.
package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/miekg/pkcs11"
)

// command is what is asked for.
type command struct {
	Module  string `json:"module"`
	Token   string `json:"token"` // label
	PIN     string `json:"pin"`
	SOPIN   string `json:"so_pin"`
	Op      string `json:"op"`
	Label   string `json:"label"` // of the key
	ID      string `json:"id"`    // CKA_ID in hexadecimal; empty means all objects of the label
	Other   string `json:"other"` // a second PIN or label
	Count   int    `json:"count"`
	Usage   string `json:"usage"` // of a new key: "wrap", "encrypt" or "all"
	Enabled bool   `json:"enabled"`
}

// result is what is answered.
type result struct {
	Objects int    `json:"objects"`
	CKR     uint   `json:"ckr"` // of the last refused log-in
	Flags   uint   `json:"flags"`
	Version string `json:"version"`

	Nanoseconds int64 `json:"nanoseconds"` // of all Count operations of a bench
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "tokenctl:", err)
		os.Exit(1) //nolint:forbidigo // It is a main.
	}
}

func run() error {
	var c command
	if err := json.NewDecoder(os.Stdin).Decode(&c); err != nil {
		return err
	}
	ctx := pkcs11.New(c.Module)
	if ctx == nil {
		return fmt.Errorf("module %s does not load", c.Module)
	}
	if err := ctx.Initialize(); err != nil {
		return err
	}
	t := &owner{ctx: ctx, c: c}
	out, err := t.do()
	if err := errors.Join(err, ctx.Finalize()); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

type owner struct {
	ctx *pkcs11.Ctx
	c   command
	s   pkcs11.SessionHandle
}

func (t *owner) do() (result, error) {
	switch t.c.Op {
	case "version":
		info, err := t.ctx.GetInfo()
		return result{Version: fmt.Sprintf("%d.%d", info.LibraryVersion.Major, info.LibraryVersion.Minor)}, err
	case "init":
		return result{}, t.initToken()
	}
	slot, info, err := t.find()
	if err != nil {
		return result{}, err
	}
	switch t.c.Op {
	case "flags":
		return result{Flags: info.Flags}, nil
	case "try":
		return t.try(slot)
	case "pin":
		if err := t.open(slot, pkcs11.CKU_SO, t.c.SOPIN); err != nil {
			return result{}, err
		}
		return result{}, t.ctx.InitPIN(t.s, t.c.Other)
	}
	if err := t.open(slot, pkcs11.CKU_USER, t.c.PIN); err != nil {
		return result{}, err
	}
	switch t.c.Op {
	case "bench":
		return t.bench()
	case "aes":
		return result{Objects: 1}, t.newAES()
	case "rsa":
		return result{Objects: 2}, t.newRSA()
	case "enable":
		return t.each(func(h pkcs11.ObjectHandle, class uint) error { return t.enable(h, class) })
	case "destroy":
		return t.each(func(h pkcs11.ObjectHandle, _ uint) error { return t.ctx.DestroyObject(t.s, h) })
	case "count":
		return t.each(func(pkcs11.ObjectHandle, uint) error { return nil })
	}
	return result{}, fmt.Errorf("unknown op %q", t.c.Op)
}

func (t *owner) find() (uint, pkcs11.TokenInfo, error) {
	slots, err := t.ctx.GetSlotList(true)
	if err != nil {
		return 0, pkcs11.TokenInfo{}, err
	}
	for _, s := range slots {
		info, err := t.ctx.GetTokenInfo(s)
		if err == nil && info.Label == t.c.Token {
			return s, info, nil
		}
	}
	return 0, pkcs11.TokenInfo{}, fmt.Errorf("no token %q in %d slots", t.c.Token, len(slots))
}

func (t *owner) open(slot, user uint, pin string) (err error) {
	if t.s, err = t.ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION); err != nil {
		return err
	}
	return t.ctx.Login(t.s, user, pin)
}

// initToken makes a token in the first slot without one, or gives the one that
// is there its first PINs.
func (t *owner) initToken() error {
	slots, err := t.ctx.GetSlotList(true)
	if err != nil {
		return err
	}
	for _, slot := range slots {
		info, err := t.ctx.GetTokenInfo(slot)
		if err != nil {
			return err
		}
		fresh := info.Flags&pkcs11.CKF_SO_PIN_TO_BE_CHANGED != 0 // openCryptoki's software token
		if info.Flags&pkcs11.CKF_TOKEN_INITIALIZED != 0 && !fresh {
			continue
		}
		so := t.c.SOPIN
		if fresh {
			so = t.c.Other
		}
		if err := t.ctx.InitToken(slot, so, t.c.Token); err != nil {
			return err
		}
		if fresh {
			return t.firstPINs(slot, so)
		}
		// The slot's number is another one now.
		if slot, _, err = t.find(); err != nil {
			return err
		}
		if err := t.open(slot, pkcs11.CKU_SO, so); err != nil {
			return err
		}
		return t.ctx.InitPIN(t.s, t.c.PIN)
	}
	return errors.New("no slot for a new token")
}

func (t *owner) firstPINs(slot uint, so string) error {
	if err := t.open(slot, pkcs11.CKU_SO, so); err != nil {
		return err
	}
	if err := t.ctx.SetPIN(t.s, so, t.c.SOPIN); err != nil {
		return err
	}
	const first = "00000000"
	if err := t.ctx.InitPIN(t.s, first); err != nil {
		return err
	}
	if err := errors.Join(t.ctx.Logout(t.s), t.ctx.CloseSession(t.s)); err != nil {
		return err
	}
	if err := t.open(slot, pkcs11.CKU_USER, first); err != nil {
		return err
	}
	return t.ctx.SetPIN(t.s, first, t.c.PIN)
}

// try logs in Count times with the PIN Other and tells what the last answer was.
func (t *owner) try(slot uint) (result, error) {
	var out result
	for range t.c.Count {
		err := t.open(slot, pkcs11.CKU_USER, t.c.Other)
		if err == nil {
			err = t.ctx.Logout(t.s)
		}
		if code, is := errors.AsType[pkcs11.Error](err); is {
			out.CKR = uint(code)
		} else if err != nil {
			return result{}, err
		} else {
			out.CKR = 0
		}
	}
	return out, nil
}

func (t *owner) common(class, kind uint) ([]*pkcs11.Attribute, error) {
	id, err := hex.DecodeString(t.c.ID)
	if err != nil {
		return nil, err
	}
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, kind),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_LABEL, t.c.Label), pkcs11.NewAttribute(pkcs11.CKA_ID, id),
	}, nil
}

func (t *owner) newAES() error {
	template, err := t.common(pkcs11.CKO_SECRET_KEY, pkcs11.CKK_AES)
	if err != nil {
		return err
	}
	wrap, encrypt := t.c.Usage != "encrypt", t.c.Usage != "wrap"
	_, err = t.ctx.GenerateKey(t.s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, append(template,
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true), pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32), pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, true),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, encrypt), pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, encrypt),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, wrap), pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, wrap)))
	return err
}

func (t *owner) newRSA() error {
	public, err := t.common(pkcs11.CKO_PUBLIC_KEY, pkcs11.CKK_RSA)
	if err != nil {
		return err
	}
	private, err := t.common(pkcs11.CKO_PRIVATE_KEY, pkcs11.CKK_RSA)
	if err != nil {
		return err
	}
	bits := t.c.Count
	if bits == 0 {
		bits = 2048
	}
	_, _, err = t.ctx.GenerateKeyPair(t.s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, nil)},
		append(public, pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, bits), pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}),
			pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true), pkcs11.NewAttribute(pkcs11.CKA_WRAP, true)),
		append(private, pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true), pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
			pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true), pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, true)))
	return err
}

// enable sets or takes away every use of an object.
func (t *owner) enable(h pkcs11.ObjectHandle, class uint) error {
	var attributes []uint
	switch class {
	case pkcs11.CKO_SECRET_KEY:
		attributes = []uint{pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT, pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP}
	case pkcs11.CKO_PRIVATE_KEY:
		attributes = []uint{pkcs11.CKA_DECRYPT, pkcs11.CKA_UNWRAP}
	}
	for _, a := range attributes {
		if err := t.ctx.SetAttributeValue(t.s, h, []*pkcs11.Attribute{pkcs11.NewAttribute(a, t.c.Enabled)}); err != nil {
			return err
		}
	}
	return nil
}

// each calls fn for every object of the label and id, or of the token.
func (t *owner) each(fn func(pkcs11.ObjectHandle, uint) error) (result, error) {
	var template []*pkcs11.Attribute
	if t.c.Label != "" {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_LABEL, t.c.Label))
	}
	if t.c.ID != "" {
		id, err := hex.DecodeString(t.c.ID)
		if err != nil {
			return result{}, err
		}
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_ID, id))
	}
	if err := t.ctx.FindObjectsInit(t.s, template); err != nil {
		return result{}, err
	}
	all, _, err := t.ctx.FindObjects(t.s, 1000)
	if err := errors.Join(err, t.ctx.FindObjectsFinal(t.s)); err != nil {
		return result{}, err
	}
	for _, h := range all {
		values, err := t.ctx.GetAttributeValue(t.s, h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, nil)})
		if err != nil {
			return result{}, err
		}
		if err := fn(h, uint(values[0].Value[0])); err != nil {
			return result{}, err
		}
	}
	return result{Objects: len(all)}, nil
}
