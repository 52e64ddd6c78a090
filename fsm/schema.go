package fsm

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math"
	"slices"

	"github.com/hashicorp/go-memdb"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
)

// Tables of the database. The cluster object, the counters and the position in
// the log are not in it: they are in every view directly.
const (
	tableTenants    = "tenants"    // the present holder of each name
	tableTombs      = "tombs"      // destroyed tenants whose name was taken again
	tableServices   = "services"   // the present holder of each name under a tenant uid
	tableSvcTombs   = "svctombs"   // destroyed services whose name was taken again
	tableResources  = "resources"  // pinned resources
	tableSecrets    = "secrets"    // internal secrets
	tableMembers    = "members"    // members, removed and purged ones too
	tableTokens     = "tokens"     // join tokens
	tableRequests   = "requests"   // remembered requests
	tableNonces     = "nonces"     // used nonces of signed intents
	tableRevoked    = "revoked"    // revoked certificates that have not expired
	tableIssuers    = "issuers"    // who vouches for callers
	tableBindings   = "bindings"   // role bindings
	tablePolicies   = "policies"   // policies of tenants
	tableKeys       = "keys"       // the public keys of role bindings; derived
	tableApprovals  = "approvals"  // requests that people sign one after the other
	tableCeremonies = "ceremonies" // ceremonies of the seal
	tableOwners     = "owners"     // the identities and customer keys that tenants have; derived
	tableSets       = "sets"       // the lists of governors that tenants have; derived
	tableUIDs       = "uids"       // every uid ever used and what it belongs to; derived
	tableDue        = "due"        // when Tick has something to do with a tenant or service; derived
	tableReap       = "reap"       // destroyed owners that still own something; derived
	tableCallers    = "principals" // remembered requests per principal; derived
	tableSigners    = "signers"    // used nonces per person who signed; derived
)

const (
	indexID   = "id"
	indexUID  = "uid"
	indexDue  = "due"  // by the time at which Tick has something to do with the object
	indexLive = "live" // services that are not destroyed
	indexIVK  = "ivk"  // objects wrapped under an internal key version
	indexKey  = "key"  // members by SHA-256 of their public key
	indexBy   = "by"   // remembered requests by principal and time

	indexSubject  = "subject"  // role bindings by issuer and subject
	indexIdentity = "identity" // role bindings by issuer, role, tenant and name
	indexState    = "state"    // approvals by state
	indexOpen     = "open"     // approvals that have not ended, by the requester's role binding
	indexEnded    = "ended"    // approvals and ceremonies that have ended, by when

	indexPower = "power" // role bindings of governors and custodians by role and whether they are the platform's
)

// row is what the database holds: an object and, in builds with checks, the
// digest it had when it was stored, so that a reader that changed it is caught.
type row[T any] struct {
	obj T
	sum [32]byte
}

// uidOwner says what a uid belongs to. Uids are never used again, so rows are
// never removed.
type uidOwner struct {
	uid     string
	kind    uidKind
	tenant  string // uid of the tenant, for what is under one
	service string // uid of the service, for what is under one
	number  uint32 // of the version
}

type uidKind int

const (
	uidTenant uidKind = iota + 1
	uidService
	uidL2
	uidTenantVersion
	uidServiceVersion
	uidInternalKey
)

// reapRow names a destroyed tenant that still has services, or a destroyed
// service that still has pinned resources.
type reapRow struct {
	uid  string
	kind uidKind // uidTenant or uidService
}

// dueRow says when the state of a tenant, a service or one of its versions
// changes by the passing of time.
type dueRow struct {
	uid  string
	kind uidKind // uidTenant or uidService
	atMS int64
}

// callerRow counts the remembered requests of one principal.
type callerRow struct {
	key string
	n   int
}

// signerRow counts the used nonces of one person.
type signerRow struct {
	person string
	n      int
}

// keyRow says in which role binding a public key stands.
type keyRow struct {
	id      string // [intent.KeyID]
	binding string // uid
}

// keyOf is an index over rows of T: it says at which key a row stands, or that
// it does not stand in the index. Lookups hand in the key as bytes.
type keyOf[T any] func(obj T) (key []byte, ok bool)

var errKeyArg = errors.New("an index is looked up by one []byte")

// FromArgs implements memdb.Indexer.
func (keyOf[T]) FromArgs(args ...any) ([]byte, error) {
	if len(args) == 1 {
		if k, ok := args[0].([]byte); ok {
			if k == nil {
				// The database takes a nil key for none and answers with the first
				// row: a field that a command left out would name somebody else's.
				k = []byte{}
			}
			return k, nil
		}
	}
	return nil, errKeyArg
}

// PrefixFromArgs implements memdb.PrefixIndexer.
func (f keyOf[T]) PrefixFromArgs(args ...any) ([]byte, error) { return f.FromArgs(args...) }

// FromObject implements memdb.SingleIndexer.
func (f keyOf[T]) FromObject(obj any) (bool, []byte, error) {
	r, ok := obj.(*row[T])
	if !ok {
		return false, nil, errKeyArg
	}
	key, ok := f(r.obj)
	if !ok {
		// The database takes an object out of an index only if its key there
		// changed, and it compares keys without looking at ok.
		return false, nil, nil
	}
	return true, key, nil
}

func table[T any](name string, id keyOf[T], more map[string]keyOf[T]) *memdb.TableSchema {
	t := &memdb.TableSchema{Name: name, Indexes: map[string]*memdb.IndexSchema{
		indexID: {Name: indexID, Unique: true, Indexer: id},
	}}
	for n, f := range more {
		t.Indexes[n] = &memdb.IndexSchema{Name: n, Unique: true, AllowMissing: true, Indexer: f}
	}
	return t
}

// newDB makes an empty database. Every index is unique: keys that could be
// equal end with the primary key, so that iteration has one order everywhere.
func newDB() *memdb.MemDB {
	tables := []*memdb.TableSchema{
		table(tableTenants, tenantKey, map[string]keyOf[*fsmpb.Tenant]{
			indexUID: func(t *fsmpb.Tenant) ([]byte, bool) { return t.GetUid(), true },
			indexIVK: tenantIVKKey,
		}),
		table(tableTombs, func(t *fsmpb.Tenant) ([]byte, bool) { return t.GetUid(), true }, nil),
		table(tableServices, serviceKeyOf, map[string]keyOf[*fsmpb.Service]{
			indexUID:  func(s *fsmpb.Service) ([]byte, bool) { return s.GetUid(), true },
			indexLive: serviceLiveKey,
		}),
		table(tableSvcTombs, func(s *fsmpb.Service) ([]byte, bool) { return s.GetUid(), true }, nil),
		table(tableResources, func(r *fsmpb.Resource) ([]byte, bool) { return resourceKey(r.GetServiceUid(), r.GetId()), true }, nil),
		table(tableSecrets, func(s *fsmpb.Secret) ([]byte, bool) { return []byte(s.GetName()), true }, map[string]keyOf[*fsmpb.Secret]{
			indexIVK: func(s *fsmpb.Secret) ([]byte, bool) { return concat(s.GetIvkUid(), []byte(s.GetName())), true },
		}),
		table(tableMembers, func(m *fsmpb.Member) ([]byte, bool) { return []byte(m.GetId()), true }, map[string]keyOf[*fsmpb.Member]{
			indexKey: memberKeySum,
		}),
		table(tableTokens, func(t *fsmpb.JoinToken) ([]byte, bool) { return t.GetHash(), true }, map[string]keyOf[*fsmpb.JoinToken]{
			indexDue: func(t *fsmpb.JoinToken) ([]byte, bool) { return dueKey(t.GetExpireTimeMs(), t.GetHash()), true },
		}),
		table(tableRequests, requestKeyOf, map[string]keyOf[*fsmpb.Request]{
			indexDue: func(r *fsmpb.Request) ([]byte, bool) {
				id, _ := requestKeyOf(r)
				return dueKey(r.GetTimeMs(), id), true
			},
			indexBy: func(r *fsmpb.Request) ([]byte, bool) {
				id, _ := requestKeyOf(r)
				return concat(principalKey(r.GetPrincipal()), dueKey(r.GetTimeMs(), id)), true
			},
		}),
		table(tableNonces, func(n *fsmpb.UsedNonce) ([]byte, bool) { return n.GetNonce(), true }, map[string]keyOf[*fsmpb.UsedNonce]{
			indexDue: func(n *fsmpb.UsedNonce) ([]byte, bool) { return dueKey(n.GetExpireTimeMs(), n.GetNonce()), true },
		}),
		table(tableRevoked, func(r *fsmpb.Revocation) ([]byte, bool) { return r.GetSerial(), true }, map[string]keyOf[*fsmpb.Revocation]{
			indexDue: func(r *fsmpb.Revocation) ([]byte, bool) { return dueKey(r.GetExpireTimeMs(), r.GetSerial()), true },
		}),
		table(tableIssuers, issuerKeyOf, map[string]keyOf[*fsmpb.Issuer]{
			indexUID: func(i *fsmpb.Issuer) ([]byte, bool) { return i.GetUid(), true },
		}),
		table(tableBindings, bindingKeyOf, map[string]keyOf[*fsmpb.RoleBinding]{
			indexUID: func(b *fsmpb.RoleBinding) ([]byte, bool) { return b.GetUid(), true },
			indexSubject: func(b *fsmpb.RoleBinding) ([]byte, bool) {
				return subjectKey(b.GetIssuerUid(), b.GetSubject()), true
			},
			indexIdentity: func(b *fsmpb.RoleBinding) ([]byte, bool) {
				return identityKey(b.GetIssuerUid(), b.GetRole(), b.GetTenantUid(), b.GetName()), true
			},
			indexDue: func(b *fsmpb.RoleBinding) ([]byte, bool) {
				return dueKey(b.GetExpireTimeMs(), b.GetUid()), b.GetExpireTimeMs() != 0
			},
			indexPower: func(b *fsmpb.RoleBinding) ([]byte, bool) {
				return append(powerKey(b), b.GetUid()...), isPower(b.GetRole())
			},
		}),
		table(tablePolicies, policyKeyOf, nil),
		table(tableKeys, func(k keyRow) ([]byte, bool) { return []byte(k.id), true }, nil),
		table(tableApprovals, func(a *fsmpb.Approval) ([]byte, bool) { return []byte(a.GetId()), true }, map[string]keyOf[*fsmpb.Approval]{
			indexDue:   func(a *fsmpb.Approval) ([]byte, bool) { return dueKey(approvalDue(a), []byte(a.GetId())), true },
			indexState: func(a *fsmpb.Approval) ([]byte, bool) { return approvalStateKey(a.GetState(), a.GetId()), true },
			indexOpen: func(a *fsmpb.Approval) ([]byte, bool) {
				return concat(a.GetRequested().GetBindingUid(), []byte(a.GetId())), isOpen(a)
			},
			indexEnded: func(a *fsmpb.Approval) ([]byte, bool) {
				return dueKey(a.GetEndTimeMs(), []byte(a.GetId())), !isOpen(a)
			},
		}),
		table(tableCeremonies, func(c *fsmpb.Ceremony) ([]byte, bool) { return c.GetId(), true }, map[string]keyOf[*fsmpb.Ceremony]{
			indexDue:   func(c *fsmpb.Ceremony) ([]byte, bool) { return dueKey(c.GetExpireTimeMs(), c.GetId()), CeremonyOpen(c) },
			indexEnded: func(c *fsmpb.Ceremony) ([]byte, bool) { return dueKey(c.GetEndTimeMs(), c.GetId()), !CeremonyOpen(c) },
		}),
		table(tableOwners, ownerRowKey, nil),
		table(tableSets, setKeyOf, nil),
		table(tableUIDs, func(u uidOwner) ([]byte, bool) { return []byte(u.uid), true }, nil),
		table(tableDue, func(d dueRow) ([]byte, bool) { return []byte(d.uid), true }, map[string]keyOf[dueRow]{
			indexDue: func(d dueRow) ([]byte, bool) { return dueKey(d.atMS, []byte(d.uid)), true },
		}),
		table(tableReap, func(r reapRow) ([]byte, bool) { return []byte(r.uid), true }, nil),
		table(tableCallers, func(c callerRow) ([]byte, bool) { return []byte(c.key), true }, nil),
		table(tableSigners, func(s signerRow) ([]byte, bool) { return []byte(s.person), true }, nil),
	}
	schema := &memdb.DBSchema{Tables: make(map[string]*memdb.TableSchema, len(tables))}
	for _, t := range tables {
		schema.Tables[t.Name] = t
	}
	db, err := memdb.NewMemDB(schema)
	must(err)
	return db
}

// Keys. Uids have one length and names no zero byte, so no key of two parts has
// two readings.

func tenantKey(t *fsmpb.Tenant) ([]byte, bool) { return []byte(t.GetName()), true }

func serviceKeyOf(s *fsmpb.Service) ([]byte, bool) {
	return serviceKey(s.GetTenantUid(), s.GetName()), true
}

func serviceKey(tenantUID []byte, name string) []byte {
	k := make([]byte, 0, len(tenantUID)+len(name))
	k = append(k, tenantUID...)
	return append(k, name...)
}

func serviceLiveKey(s *fsmpb.Service) ([]byte, bool) {
	if s.GetState() == fsmpb.ObjectState_OBJECT_STATE_DESTROYED {
		return nil, false
	}
	return serviceKeyOf(s)
}

func resourceKey(serviceUID []byte, id string) []byte {
	k := make([]byte, 0, len(serviceUID)+len(id))
	k = append(k, serviceUID...)
	return append(k, id...)
}

// ownerKey is the tenant's uid, or sixteen zero bytes, which is no uid, for what is
// the cluster's own.
func ownerKey(tenantUID []byte) []byte {
	if len(tenantUID) == 0 {
		return make([]byte, hierarchy.UIDSize)
	}
	return tenantUID
}

func ownedKey(tenantUID []byte, id string) []byte { return concat(ownerKey(tenantUID), []byte(id)) }

func issuerKeyOf(i *fsmpb.Issuer) ([]byte, bool) { return ownedKey(i.GetTenantUid(), i.GetId()), true }

func bindingKeyOf(b *fsmpb.RoleBinding) ([]byte, bool) {
	return ownedKey(b.GetTenantUid(), b.GetId()), true
}

func subjectKey(issuerUID []byte, subject string) []byte { return concat(issuerUID, []byte(subject)) }

func identityKey(issuerUID []byte, role string, tenantUID []byte, name string) []byte {
	return concat(appendPart(concat(issuerUID), role), ownerKey(tenantUID), []byte(name))
}

// isPower reports whether a role signs intents.
func isPower(role string) bool {
	return role == auth.RoleGovernor.String() || role == auth.RoleCustodian.String()
}

func memberKeySum(m *fsmpb.Member) ([]byte, bool) {
	sum := sha256.Sum256(m.GetPublicKey())
	return sum[:], true
}

func principalKey(p *fsmpb.Principal) []byte {
	k := appendPart(nil, p.GetIssuer())
	k = appendPart(k, p.GetKind())
	return appendPart(k, p.GetName())
}

func requestKey(p *fsmpb.Principal, id string, step uint32) []byte {
	return binary.BigEndian.AppendUint32(appendPart(principalKey(p), id), step)
}

func requestKeyOf(r *fsmpb.Request) ([]byte, bool) {
	return requestKey(r.GetPrincipal(), r.GetRequestId(), r.GetStep()), true
}

func tenantIVKKey(t *fsmpb.Tenant) ([]byte, bool) {
	return concat(t.GetL2IvkUid(), []byte(t.GetName())), len(t.GetL2Blob()) != 0
}

// never is later than every due time.
const never = int64(math.MaxInt64)

// dueKey sorts by time. Times are never negative where it is used.
func dueKey(atMS int64, id []byte) []byte {
	k := make([]byte, 0, 8+len(id))
	k = binary.BigEndian.AppendUint64(k, uint64(atMS)) //nolint:gosec // Not negative; checked where objects come in.
	return append(k, id...)
}

func indexBytes(index uint64) []byte { return binary.BigEndian.AppendUint64(nil, index) }

func concat(parts ...[]byte) []byte { return slices.Concat(parts...) }

// appendPart appends part with its length in front, so that no two lists of
// parts have one encoding.
func appendPart[T ~string | ~[]byte](dst []byte, part T) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(part))) //nolint:gosec // An entry has at most 1 MiB, a snapshot item 16 MiB.
	return append(dst, part...)
}
