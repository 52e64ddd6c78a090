package fsm

import (
	"crypto/sha256"
	"sync"

	"github.com/hashicorp/go-memdb"
	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/invariants"
)

// meta is the part of the state that every command changes. It is copied, not shared.
type meta struct {
	index    uint64
	term     uint64
	chain    [32]byte
	commands uint64
	timeMS   int64          // largest command time seen
	cluster  *fsmpb.Cluster // nil before genesis; replaced, never written to
	tenants  int            // tenants, tombstones too
	services int            // services, tombstones too
	members  int            // members, removed and purged ones too
	secrets  int            // internal secrets
	requests int            // remembered requests
	tokens   int            // join tokens, used ones too
	nonces   int            // used nonces
	revoked  int            // revoked certificates

	membersAt uint64 // index of the last change of a member

	issuerRows int // issuers, also those of destroyed tenants that are still to be removed
	bindings   int // role bindings, also expired ones and those of destroyed tenants

	approvals     int    // also those that have ended
	openApprovals int    // that have not
	approvalBytes int    // see [approvalSize]; of all
	policies      int    // policies, also those of destroyed tenants that are still to be removed
	policyBytes   int    // of their texts
	policiesAt    uint64 // see [View.PoliciesAt]
	ceremonies    int    // also those that have ended

	issuers     []*fsmpb.Issuer // every issuer that counts; replaced, never written to
	authorityAt uint64          // see [View.AuthorityAt]
}

// state is the database behind a view: a root of an immutable tree, and a read
// transaction on it. Commands work on a copy of db, which costs a pointer, so
// the db of a view stays at the view's root for good: anybody may begin a
// transaction on a copy of it at any time ([Machine.DryRun]).
type state struct {
	db  *memdb.MemDB
	txn *memdb.Txn
}

// emptyDB is made once: its schema is checked, and a copy costs a pointer.
var emptyDB = sync.OnceValue(newDB)

func emptyState() state {
	db := emptyDB().Snapshot()
	return state{db: db, txn: db.Txn(false)}
}

func (s state) view() *View { return &View{state: s, next: make(chan struct{})} }

// must turns an error of the database into a stop: the schema and the types are
// fixed at compile time, so no input leads here.
func must(err error) {
	if err != nil {
		invariants.Violated("fsm", "database: %v", err)
	}
}

// lookup returns the object at key of a unique index.
func lookup[T any](txn *memdb.Txn, table, index string, key []byte) (obj T, ok bool) {
	r := first[T](txn, table, index, key)
	if r == nil {
		return obj, false
	}
	r.check(table)
	return r.obj, true
}

// first returns the row at key of a unique index, or nil.
func first[T any](txn *memdb.Txn, table, index string, key []byte) *row[T] {
	raw, err := txn.First(table, index, key)
	must(err)
	r, _ := raw.(*row[T])
	return r
}

// scan calls f with every object whose key in index starts with prefix and is
// after the key after, in the order of the keys, until f returns false.
func scan[T any](txn *memdb.Txn, table, index string, prefix, after []byte, f func(obj T) bool) {
	var it memdb.ResultIterator
	var err error
	switch {
	case after != nil:
		// The smallest key that is greater than after.
		it, err = txn.LowerBound(table, index, append(concat(after), 0))
	case len(prefix) != 0:
		it, err = txn.Get(table, index+"_prefix", prefix)
	default:
		it, err = txn.Get(table, index)
	}
	must(err)
	for raw := it.Next(); raw != nil; raw = it.Next() {
		r, ok := raw.(*row[T])
		if !ok {
			invariants.Violated("fsm", "table %s holds a %T", table, raw)
		}
		r.check(table)
		if !f(r.obj) {
			return
		}
	}
}

// check holds I4 in builds with checks: nobody wrote to an object that he was lent.
func (r *row[T]) check(table string) {
	if !invariants.Enabled {
		return
	}
	if m, ok := any(r.obj).(proto.Message); ok && rowSum(m) != r.sum {
		invariants.Violated("fsm", "an object of table %s was changed by a reader", table)
	}
}

func sumOf(m proto.Message) [32]byte { return sha256.Sum256(appendCanonical(nil, m.ProtoReflect())) }

// rowSum is compared within this process only, so that it need not be of the canonical
// encoding, which takes many times as long: every read of every test is checked.
func rowSum(m proto.Message) [32]byte {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	must(err)
	return sha256.Sum256(raw)
}

// tx is the state while one command is applied to it.
type tx struct {
	meta
	db   *memdb.MemDB // a copy of the view's
	txn  *memdb.Txn
	cmd  *fsmpb.Command
	raw  []byte // the bytes of cmd
	opts Options

	approval *fsmpb.Approval // that the command executes; nil: none, or it has no right to
	approved bool            // the signatures of that approval were verified

	epoch    Epoch // what the command began, if it did
	forecast bool  // of a dry run, which changes nothing
}

func put[T any](t *tx, table string, obj T) {
	r := &row[T]{obj: obj}
	if invariants.Enabled {
		if m, ok := any(obj).(proto.Message); ok {
			r.sum = rowSum(m)
		}
	}
	must(t.txn.Insert(table, r))
}

func drop[T any](t *tx, table string, obj T) { must(t.txn.Delete(table, &row[T]{obj: obj})) }
