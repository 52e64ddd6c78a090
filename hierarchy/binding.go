package hierarchy

import "github.com/openkcm/krypton-cluster/internal/errs"

// Binding is the place of a ciphertext in the hierarchy: everything that must
// be the same when it is opened as when it was made. The caller fills it from
// the request and the registry, never from what lies beside the ciphertext, so
// a blob that was moved to another tenant, service, version, resource, context,
// purpose or keyspace does not open.
//
// Which parts are set is fixed per purpose ([Binding.Check] holds it):
//
//	purpose          Tenant  Service  Version (sealing parent)      Subject (what is sealed)  Resource, Context
//	ivk-wrap         -       -        Generation.VersionUID()       IVK version               -
//	l2-outer         yes     -        IVK version                   L2                        -
//	l1-wrap          yes     -        L2                            L2                        -
//	l2-inner         yes     -        L2 (K1 lives for one wrap     L2                        -
//	                                  and has no uid of its own)
//	l21-wrap         yes     -        L2                            L2.1 version              -
//	l3-wrap          yes     yes      L2.1 version                  L3 version                -
//	dek-wrap         yes     yes      L3 version                    -                         optional
//	data             yes     yes      L3 version                    -                         optional
//	internal-secret  -       -        IVK version                   the secret                -
type Binding struct {
	Purpose  Purpose
	Keyspace KeyspaceID
	Tenant   UID
	Service  UID
	Version  UID // the version of the parent key that seals
	Subject  UID // the key or secret that is sealed; zero for data keys and data
	Resource ResourceID
	Context  EncryptionContext
}

type need int

const (
	absent   need = iota // must be zero
	required             // must not be zero
)

type bindingRule struct {
	tenant, service, subject need
	free                     bool // Resource and Context may be set
}

func (p Purpose) rule() (bindingRule, bool) {
	switch p {
	case PurposeIVK, PurposeInternalSecret:
		return bindingRule{subject: required}, true
	case PurposeL2Outer, PurposeL1, PurposeL2Inner, PurposeL21:
		return bindingRule{tenant: required, subject: required}, true
	case PurposeL3:
		return bindingRule{tenant: required, service: required, subject: required}, true
	case PurposeDataKey, PurposeData:
		return bindingRule{tenant: required, service: required, free: true}, true
	case PurposeUnspecified, purposeEnd:
	}
	return bindingRule{}, false
}

// Check reports whether the parts that the purpose needs are set and no other.
// A wrong binding is a defect of the caller, not of a request, so the error has
// the code INTERNAL.
func (b Binding) Check() error {
	bad := func(why string) error {
		return errs.New(errs.Internal, "binding for "+b.Purpose.String()+" "+why)
	}
	r, ok := b.Purpose.rule()
	switch {
	case !ok:
		return bad("has no purpose")
	case b.Keyspace.IsZero():
		return bad("has no keyspace id")
	case b.Version.IsZero():
		return bad("has no version uid")
	case b.Tenant.IsZero() == (r.tenant == required):
		return bad("has a tenant where none belongs, or none where one does")
	case b.Service.IsZero() == (r.service == required):
		return bad("has a service where none belongs, or none where one does")
	case b.Subject.IsZero() == (r.subject == required):
		return bad("has a subject where none belongs, or none where one does")
	case !r.free && (b.Resource != "" || !b.Context.IsZero()):
		return bad("has a resource or context where none belongs")
	case (b.Purpose == PurposeL1 || b.Purpose == PurposeL2Inner) && b.Version != b.Subject:
		return bad("names another version than its subject")
	case len(b.Resource) > MaxResourceIDBytes:
		return bad("has a resource id that was not checked")
	}
	return nil
}

// AppendAAD appends the associated data of an envelope with that header (I2):
//
//	header | purpose | keyspace | tenant | service | version | subject | resource | context
//
// Every part has its length in front as u32 big endian; absent uids are sixteen
// zero bytes. The order and the parts never change for suite 1.
func (b Binding) AppendAAD(dst, header []byte) []byte {
	dst = appendPart(dst, header)
	dst = appendPart(dst, b.Purpose.Wire())
	dst = appendPart(dst, b.Keyspace[:])
	dst = appendPart(dst, b.Tenant[:])
	dst = appendPart(dst, b.Service[:])
	dst = appendPart(dst, b.Version[:])
	dst = appendPart(dst, b.Subject[:])
	dst = appendPart(dst, b.Resource)
	dst = appendUint32(dst, b.Context.EncodedLen())
	return b.Context.AppendEncoding(dst)
}

// AADLen returns the number of bytes that AppendAAD appends for a header of that length.
func (b Binding) AADLen(header int) int {
	return 9*4 + header + len(b.Purpose.Wire()) + 5*UIDSize + len(b.Resource) + b.Context.EncodedLen()
}

// AppendDerivation appends the context from which the commitment and the key of
// a session are derived (I2):
//
//	purpose | keyspace | tenant | service | version | session id
//
// Every part has its length in front as u32 big endian. Subject, resource and
// context are not in it: they vary from message to message inside one session
// and are bound by the associated data.
func (b Binding) AppendDerivation(dst []byte, session [16]byte) []byte {
	dst = appendPart(dst, b.Purpose.Wire())
	dst = appendPart(dst, b.Keyspace[:])
	dst = appendPart(dst, b.Tenant[:])
	dst = appendPart(dst, b.Service[:])
	dst = appendPart(dst, b.Version[:])
	return appendPart(dst, session[:])
}
