//go:build cgo && unix && !nopkcs11

package main

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"

	"github.com/openkcm/krypton-cluster/keystore/blob"
	"github.com/openkcm/krypton-cluster/keystore/pkcs11/wire"
)

// maxObjects is how many objects one key reference may have: a key with more
// versions than that has lost its owner.
const maxObjects = 256

// idPrefix begins a key reference that is a CKA_ID in hexadecimal.
const idPrefix = "id:"

var errTooMany = errors.New("more objects than a key has versions")

// object is a key object of the token.
type object struct {
	handle  pkcs11.ObjectHandle
	class   uint
	keyType uint
	id      []byte
}

// template returns the search for a key reference, and for one version of it
// unless id is nil.
func template(ref string, id []byte) ([]*pkcs11.Attribute, bool) {
	// Only what is stored on the token: other workers have session objects.
	t := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true)}
	if text, byID := strings.CutPrefix(ref, idPrefix); byID {
		want, err := hex.DecodeString(text)
		if err != nil || len(want) == 0 || (id != nil && !bytes.Equal(id, want)) {
			return nil, false
		}
		return append(t, pkcs11.NewAttribute(pkcs11.CKA_ID, want)), true
	}
	t = append(t, pkcs11.NewAttribute(pkcs11.CKA_LABEL, ref))
	if len(id) > 0 {
		t = append(t, pkcs11.NewAttribute(pkcs11.CKA_ID, id))
	}
	return t, true
}

func (w *worker) handles(template []*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	if err := w.ctx.FindObjectsInit(w.session, template); err != nil {
		return nil, err
	}
	const batch = 64
	var all []pkcs11.ObjectHandle
	for {
		some, _, err := w.ctx.FindObjects(w.session, batch)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
		if len(some) < batch || len(all) > maxObjects {
			break
		}
	}
	return all, w.ctx.FindObjectsFinal(w.session)
}

// find returns the key objects of the reference in the order of their ids, the
// current version last.
func (w *worker) find(ref string, id []byte) ([]object, error) {
	t, ok := template(ref, id)
	if !ok {
		return nil, nil
	}
	handles, err := w.handles(t)
	if err != nil {
		return nil, err
	}
	if len(handles) > maxObjects {
		return nil, errTooMany
	}
	var out []object
	for _, h := range handles {
		values, err := w.ctx.GetAttributeValue(w.session, h, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, nil), pkcs11.NewAttribute(pkcs11.CKA_ID, nil), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, nil),
		})
		if err != nil {
			// It went away between the two calls, or is no key.
			if code := ckr(err); statusOf(code) == wire.StatusNotFound || code == pkcs11.CKR_ATTRIBUTE_TYPE_INVALID {
				continue
			}
			return nil, err
		}
		o := object{handle: h, class: number(values[0].Value), id: values[1].Value, keyType: number(values[2].Value)}
		if o.class != pkcs11.CKO_SECRET_KEY && o.class != pkcs11.CKO_PRIVATE_KEY || id != nil && !bytes.Equal(o.id, id) {
			continue
		}
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b object) int { return compareIDs(a.id, b.id) })
	return out, nil
}

// compareIDs orders ids as numbers, and equal numbers by their length: a
// counter that outgrows its width stays in order.
func compareIDs(a, b []byte) int {
	x, y := bytes.TrimLeft(a, "\x00"), bytes.TrimLeft(b, "\x00")
	return cmp.Or(cmp.Compare(len(x), len(y)), bytes.Compare(x, y), cmp.Compare(len(a), len(b)))
}

// number reads a CK_ULONG, which is of the machine's byte order and width.
func number(b []byte) uint {
	switch len(b) {
	case 4:
		return uint(binary.NativeEndian.Uint32(b))
	case 8:
		return uint(binary.NativeEndian.Uint64(b))
	}
	return unknownNumber
}

// unknownNumber is no class and no key type.
const unknownNumber = ^uint(0)

// objects finds twice before it says that there is nothing (I3): the second
// time in a new session, both times as a logged-in user.
func (w *worker) objects(ref string, id []byte) ([]object, answer) {
	for range 2 {
		objs, err := w.find(ref, id)
		if errors.Is(err, errTooMany) {
			return nil, answer{Status: wire.StatusAmbiguous, Stage: wire.StageFind}
		}
		if err != nil {
			return nil, failed(wire.StageFind, err)
		}
		for i := 1; i < len(objs); i++ {
			if bytes.Equal(objs[i-1].id, objs[i].id) {
				return nil, answer{Status: wire.StatusAmbiguous, Stage: wire.StageFind, ID: objs[i].id}
			}
		}
		if len(objs) > 0 {
			return objs, answer{Status: wire.StatusOK}
		}
		user, err := w.asUser()
		if err != nil {
			return nil, failed(wire.StageFind, err)
		}
		if !user {
			return nil, answer{Status: wire.StatusLoggedOut}
		}
		w.closeSession()
		if a := w.ready(); a.Status != wire.StatusOK {
			return nil, a
		}
	}
	return nil, answer{Status: wire.StatusNotFound, Stage: wire.StageFind}
}

// uses are the attributes of an object that say what it may be used for.
type uses struct{ encrypt, decrypt, wrap, unwrap bool }

func (u uses) String() string {
	return fmt.Sprintf("%t,%t,%t,%t", u.encrypt, u.decrypt, u.wrap, u.unwrap)
}

func (w *worker) uses(o object) (uses, error) {
	types := []uint{pkcs11.CKA_DECRYPT, pkcs11.CKA_UNWRAP}
	if o.class == pkcs11.CKO_SECRET_KEY {
		types = append(types, pkcs11.CKA_ENCRYPT, pkcs11.CKA_WRAP)
	}
	ask := make([]*pkcs11.Attribute, len(types))
	for i, t := range types {
		ask[i] = pkcs11.NewAttribute(t, nil)
	}
	values, err := w.ctx.GetAttributeValue(w.session, o.handle, ask)
	if err != nil {
		return uses{}, err
	}
	yes := func(i int) bool { return len(values[i].Value) == 1 && values[i].Value[0] != 0 }
	u := uses{decrypt: yes(0), unwrap: yes(1)}
	if o.class == pkcs11.CKO_SECRET_KEY {
		u.encrypt, u.wrap = yes(2), yes(3)
	}
	return u, nil
}

// selectKey answers with the version and the mechanism that wrap now.
func (w *worker) selectKey(req wire.Request) answer {
	o, c, a := w.current(req.Ref)
	if a.Status != wire.StatusOK {
		return a
	}
	return answer{Status: wire.StatusOK, ID: o.id, Mechanism: c.mechanism}
}

// current finds the version that wraps now, and how it does.
func (w *worker) current(ref string) (object, choice, answer) {
	objs, a := w.objects(ref, nil)
	if a.Status != wire.StatusOK {
		return object{}, choice{}, a
	}
	o := objs[len(objs)-1]
	c, a := w.choose(o)
	return o, c, a
}

// describe tells what it can of a key, also of one that may not be used.
func (w *worker) describe(req wire.Request) (answer, []byte) {
	objs, a := w.objects(req.Ref, nil)
	if a.Status != wire.StatusOK {
		return a, nil
	}
	o := objs[len(objs)-1]
	k := wire.Key{Asymmetric: o.class == pkcs11.CKO_PRIVATE_KEY}
	for _, each := range objs {
		k.Versions = append(k.Versions, hex.EncodeToString(each.id))
	}
	c, a := w.choose(o)
	switch a.Status { //nolint:exhaustive // The others are no description.
	case wire.StatusOK:
		k.Enabled, k.Mechanism = true, c.mechanism.String()
	case wire.StatusForbidden:
		names := make([]string, 0, 2)
		for _, m := range w.methods(o, uses{true, true, true, true}) {
			if !slices.Contains(names, m.mechanism.String()) {
				names = append(names, m.mechanism.String())
			}
		}
		k.Mechanism = strings.Join(names, " or ")
	default:
		return a, nil
	}
	text, err := json.Marshal(k)
	if err != nil {
		return answer{Status: wire.StatusFailed}, nil
	}
	return answer{Status: wire.StatusOK}, text
}

// allowed reports whether the setting lets the mechanism be used.
func (t *token) allowed(m blob.Mechanism) bool {
	only := mechanismOf(t.hello.Mechanism)
	return only == nil || slices.Contains(only, m)
}
