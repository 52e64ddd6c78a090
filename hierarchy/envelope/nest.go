package envelope

import (
	"context"
	"encoding/binary"
	"io"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
)

// MaxL1Blob is the longest blob, in bytes, that a provider may return for K1.
const MaxL1Blob = 16 << 10

// innerSize is the size of the K1-envelope around an L2.
const innerSize = Overhead + KeySize

// WrapL1 asks the customer's keystore to wrap k1, 32 bytes, with aad where the
// mechanism has associated data. What it returns is opaque: 1 to [MaxL1Blob] bytes.
type WrapL1 func(ctx context.Context, k1 memsec.Secret, aad []byte) ([]byte, error)

// UnwrapL1 asks the customer's keystore to unwrap what a [WrapL1] returned. The
// caller owns the secret that it returns.
type UnwrapL1 func(ctx context.Context, blob, aad []byte) (memsec.Secret, error)

// NestL2 protects a tenant key under the customer key and an IVK, so that it
// opens only with both (I6):
//
//	blob = IVK-envelope( u32 len | L1(K1) | u32 len | K1-envelope(L2) )
//
// K1 is 32 random bytes that live for this call only. The provider wraps K1 and
// not L2: whoever reads its log, or the connection to it, learns nothing that
// opens the tenant. L1 is the inner and IVK the outer layer, so that a rotation
// of the IVK (see [RewrapOuter]) needs no call to any customer's account.
//
// b has PurposeL2Outer; Version is the IVK version, Subject the L2. Errors of
// l1 come out as they are.
func NestL2(ctx context.Context, rand io.Reader, ivk memsec.Secret, b Binding, l1 WrapL1, l2 memsec.Secret) ([]byte, error) {
	if err := checkOuter(b); err != nil {
		return nil, err
	}
	k1, err := memsec.Random(rand, KeySize, memsec.Hot)
	if err != nil {
		return nil, err
	}
	defer k1.Destroy()
	inner, err := Wrap(rand, k1, innerOf(b), l2)
	if err != nil {
		return nil, err
	}
	wrapped, err := l1(ctx, k1, l1AAD(b))
	if err != nil {
		return nil, err
	}
	if len(wrapped) == 0 || len(wrapped) > MaxL1Blob {
		return nil, errs.Newf(errs.KeystoreMisconfigured, "the keystore returned a wrapped key of %d bytes; 1 to %d are possible", len(wrapped), MaxL1Blob)
	}
	body := make([]byte, 0, 8+len(wrapped)+len(inner))
	body = appendPart(body, wrapped)
	body = appendPart(body, inner)
	return wrapBytes(rand, ivk, b, body)
}

// OpenL2 opens what [NestL2] made, into protected memory of class c. This is
// the proof that the customer's keystore still lets Krypton use the customer
// key: it is a real unwrap. Errors of l1 come out as they are; everything else
// about the blob is errs.DoesNotOpen.
func OpenL2(ctx context.Context, ivk memsec.Secret, b Binding, l1 UnwrapL1, blob []byte, c memsec.Class) (memsec.Secret, error) {
	wrapped, inner, err := openOuter(ivk, b, blob)
	if err != nil {
		return memsec.Secret{}, err
	}
	k1, err := l1(ctx, wrapped, l1AAD(b))
	if err != nil {
		return memsec.Secret{}, err
	}
	defer k1.Destroy()
	if k1.Len() != KeySize {
		return memsec.Secret{}, errs.DoesNotOpen(ErrLength)
	}
	return Unwrap(k1, innerOf(b), inner, c)
}

// RewrapOuter moves an L2 blob from one IVK to another, or to a fresh session of
// the same, without L1 and without seeing K1 or L2. The bindings differ in
// Version only.
func RewrapOuter(rand io.Reader, oldIVK memsec.Secret, oldB Binding, newIVK memsec.Secret, newB Binding, blob []byte) ([]byte, error) {
	if err := checkOuter(newB); err != nil {
		return nil, err
	}
	same := newB
	same.Version = oldB.Version
	if same != oldB {
		return nil, misuse("bindings of two different tenant keys")
	}
	wrapped, inner, err := openOuter(oldIVK, oldB, blob)
	if err != nil {
		return nil, err
	}
	body := make([]byte, 0, 8+len(wrapped)+len(inner))
	body = appendPart(body, wrapped)
	body = appendPart(body, inner)
	return wrapBytes(rand, newIVK, newB, body)
}

// L1AAD returns the associated data that [NestL2] and [OpenL2] hand to the
// customer's keystore for that tenant key: the associated data of an envelope
// with an empty header and PurposeL1. It does not name the IVK, so that
// [RewrapOuter] needs no L1. Providers whose mechanism has none ignore it; what
// binds the tenant key on every provider is the envelope around it.
func L1AAD(keyspace hierarchy.KeyspaceID, tenant, l2 hierarchy.UID) []byte {
	b := Binding{Purpose: hierarchy.PurposeL1, Keyspace: keyspace, Tenant: tenant, Version: l2, Subject: l2}
	return b.AppendAAD(make([]byte, 0, b.AADLen(0)), nil)
}

func l1AAD(outer Binding) []byte { return L1AAD(outer.Keyspace, outer.Tenant, outer.Subject) }

// innerOf is the binding of the K1-envelope in that outer layer.
func innerOf(outer Binding) Binding {
	outer.Purpose = hierarchy.PurposeL2Inner
	outer.Version = outer.Subject
	return outer
}

func checkOuter(b Binding) error {
	if b.Purpose != hierarchy.PurposeL2Outer {
		return misuse("a tenant key is nested for the purpose " + hierarchy.PurposeL2Outer.String())
	}
	return b.Check()
}

func openOuter(ivk memsec.Secret, b Binding, blob []byte) (wrapped, inner []byte, err error) {
	if err := checkOuter(b); err != nil {
		return nil, nil, err
	}
	const parts = 8 + innerSize
	if len(blob) < Overhead+parts+1 || len(blob) > Overhead+parts+MaxL1Blob {
		return nil, nil, errs.DoesNotOpen(ErrLength)
	}
	body, err := unwrapBytes(ivk, b, blob)
	if err != nil {
		return nil, nil, err
	}
	return splitBody(body)
}

// splitBody is strict although the body was authenticated: one body has one
// meaning, and nothing rides behind it.
func splitBody(body []byte) (wrapped, inner []byte, err error) {
	wrapped, rest, ok := cutPart(body)
	if !ok || len(wrapped) == 0 || len(wrapped) > MaxL1Blob {
		return nil, nil, errs.DoesNotOpen(ErrLength)
	}
	inner, rest, ok = cutPart(rest)
	if !ok || len(inner) != innerSize || len(rest) != 0 {
		return nil, nil, errs.DoesNotOpen(ErrLength)
	}
	return wrapped, inner, nil
}

func appendPart(dst, part []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(part))) //nolint:gosec // At most MaxL1Blob.
	return append(dst, part...)
}

func cutPart(b []byte) (part, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := uint64(binary.BigEndian.Uint32(b))
	if b = b[4:]; uint64(len(b)) < n {
		return nil, nil, false
	}
	return b[:n:n], b[n:], true
}
