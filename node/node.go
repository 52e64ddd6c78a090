// Package node is the life of one node: sealed, unsealed, serving.
//
//	            record of the seal             MasterKey open, snapshot proved          serving lease
//	uninitialised ---------------> sealed ------------------------------> unsealed <------------------> serving
//	                                 ^                                        |
//	                                 +------- seal, hold, stop, purge --------+
//
// A node unwraps keys when they are first needed, keeps them in protected
// memory, and answers data-key operations from there: no network hop, no Raft.
// What may be used is read from the replicated registry at every operation.
//
// # Invariants
//
//   - I1: a node that is sealed, held, removed, has an unproved snapshot, or has no serving lease serves no data operation and signs no certificate, and says which.
//   - I2: every method that does something for a caller takes a token of the gate for exactly that act and object; keys made for a peer have a record of the node that made them.
//   - I3: no data operation answers from a state older than the one in view when its work was done, nor tells a change that is not complete: lease, choice of the key and completeness are looked at again before the result leaves.
//   - I4: keys unwrapped for one MasterKey never outlive it in memory: sealing wipes the keyring, and waits for what was being unwrapped, before it answers.
//   - I5: callers that wait for one key share one unwrapping, and thus one call to the customer's keystore; a failure is not remembered.
//   - I6: key material is made where it is wrapped; a command holds ciphertext and uids only, and a peer that makes it can add nothing else.
//   - I7: an unwrapped key that may no longer be used is wiped at the next sweep after the change.
//   - I8: the MasterKey is opened only by the seal record of the cluster that this node is pinned to, and never while or after somebody sealed it meanwhile.
//   - I9: whatever a snapshot or an entry of the log says is used only after its MAC was verified under the MasterKey, also when it came from a leader.
//   - I10: the policies of a tenant, by the same view as everything else, decide what its workloads and governors may do within their roles; what cannot be evaluated, and policies that this node cannot compile, deny, and the node says so.
//   - I11: the internal keys open only under the genesis with which the MasterKey was made: other persons, rules or CAs, however they come into the log, open nothing.
//   - I12: a repair of the seal is made by the leader, of the record that its registry has, and wraps to keys of its manifest only; another record with the same manifest is taken over wrapping by wrapping, the younger one wins unless it is from the future, and nobody is sealed for it.
//   - I13: the MasterKey is protected anew only for a ceremony that is in the registry which this node believes, as its plan says, and it and every share that was given for it are wiped here before the step is answered, or when their patience ends; a seal that commits to the same MasterKey seals nobody.
//   - I14: a node takes a next MasterKey only with the internal keys that the cluster has, wrapped under it, from a node that gives it only to members which show that they have the one in force; it judges by it only in a state that has it in force; one that took it serves on when it comes into force, and one that did not serves nothing from there on and says so.
//   - I15: a node says that a new seal opens only after it combined as many of its shares as it takes, of a seal that it did not make itself unless nobody else votes, and found the MasterKey of the manifest, no share that does not belong to it, its own keys of MasterKeys before and, in a rekey, the cluster's internal keys.
//   - I16: the seal from before a ceremony stays on a node until the node was opened by the new one, and opens it only after a person on that machine asked for it, if it is of the same MasterKey.
//   - I17: what a repair of the seal puts in the place of a wrapping is proposed only with the word of voters that opened it with their own keystores; a node gives its word for what it opened, of a seal that it knows, and never while it is held or was sealed by a person.
//   - I18: a MasterKey in place of an exposed one is taken with an internal key and CAs that open under it, and after a start it is believed only if people signed for it and those CAs as the genesis asks.
//   - I19: what is left of an exposure any leader wraps again, and ends, without asking a customer's keystore; what it led to before opens nothing of the state after.
//   - I20: no result of a data operation leaves after the customer's key was denied on this node, or was not proved for longer than its grace: looked at as the last thing before it leaves; and then no key of that tenant stays in memory.
//   - I21: the key of a tenant is asked for as the identity of its binding and no other; before a binding is made nothing of another tenant's key is asked for, and the keystore has shown that identity and key are this one's by what it says, and by a wrap and an unwrap.
//   - I22: a node of a region that a binding does not allow asks nothing of its keystore, but once, before it is made, to be denied.
//
// # Concurrency
//
// A Node is safe for concurrent use. Lock order: 1. Node.adopting, Node.holding, Node.following
// 2. Node.mu 3. a shelf's mu 4. a service key's mu 5. keyring.mu. No lock is held
// over a call to a keystore or to the cluster, and only the first two over a
// write to disk.
//
// # Failure
//
// Everything that cannot be proved closes: see I1. The proof of a current view
// is a serving lease (docs/leases.md): whoever has one has every change that was
// acknowledged, unless clocks err by more than 1 % or do not count a pause of their
// machine (docs/threat-model.md). When protected memory is exhausted, keys that
// nobody is using are wiped and unwrapped again later: the node gets slower, and
// only when nothing is left to wipe does it refuse.
//
// # Source
//
// ACD-302; MasterKey management (Shamir and Seal); docs/architecture.md.
package node

import (
	"context"
	"crypto"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/node/validity"
	"github.com/openkcm/krypton-cluster/seal"
)

const (
	// sweepEvery is how often keys that are no longer needed are wiped, besides
	// at every change of the registry.
	sweepEvery = 5 * time.Second
)

// Cluster is what a node needs of package cluster; *cluster.Cluster has it.
type Cluster interface {
	// NodeID returns the id of this node.
	NodeID() cluster.NodeID
	// Signer returns the member key.
	Signer() crypto.Signer
	// Member returns this node's member entry for a genesis.
	Member() *fsmpb.Member
	// Propose commits a command on the leader and returns once this node has
	// applied it and, unless until says otherwise, no node acts on the state before
	// it. A refusal is an error.
	Propose(ctx context.Context, tok gate.Token, cmd *fsmpb.Command, until cluster.Until) (*fsmpb.Result, error)
	// ProposeOwn commits a command that the leader gives by itself, for no caller; on a
	// node that does not lead the error is NoLeader.
	ProposeOwn(ctx context.Context, tok gate.Token, cmd *fsmpb.Command) (*fsmpb.Result, error)
	// Bootstrap founds a cluster with this node as its one voter.
	Bootstrap(ctx context.Context, tok gate.Token, genesis *fsmpb.Command) (*fsmpb.Result, error)
	// Peers returns the ids of the other members, best first.
	Peers() []string
	// PrepareOn gives a task to another member.
	PrepareOn(ctx context.Context, id string, request []byte) ([]byte, error)
	// Clear takes off this node's disk what the registry was before that entry, and
	// returns the first entry of which anything is left.
	Clear(ctx context.Context, index uint64) (oldest uint64, err error)
	// LeaderID returns the leader, or "".
	LeaderID() cluster.NodeID
	// Standing returns what this node may answer from, never nil.
	Standing() *cluster.Standing
	// LeaseErr returns why this node has no lease that it may serve under, or nil.
	LeaseErr() error
	// Proved returns why the log of this node is not to be believed, with code
	// StateCorrupt, or Sealed if it cannot tell; nil: it is.
	Proved() error
	// AwaitComplete returns once this node has heard that no node acts on the state
	// before that change any more, or with the error of ctx.
	AwaitComplete(ctx context.Context, index uint64) error
	// Recovering reports whether this node was recovered and Recover has something to do.
	Recovering() bool
	// Recover commits the recovery of this node and returns once no node can act on the
	// state before it.
	Recover(ctx context.Context) error
	// LastContact returns how long ago this node asked for the newest lease that it
	// could use: its view has every change that was acknowledged before.
	LastContact() time.Duration
}

// Config is what a node is made of. All fields are needed but for Place; L2Hold, L1, Lease and SealWatch may be 0.
type Config struct {
	// RecordPath is where the seal record is kept: seal/record.pb of the data
	// directory. The directory exists.
	RecordPath string
	// Pinned returns the fingerprint of the cluster that the data directory
	// belongs to; false before it belongs to one.
	Pinned    func() (seal.Fingerprint, bool)
	Machine   *fsm.Machine
	Keystores *keystore.Registry
	Gate      *gate.Gate
	// Place returns where a key of a configured keystore is, as its configuration and
	// name say; nil: nothing is known. It asks nobody.
	Place    func(seal.ProviderKey) keystore.Place
	Policies *Policies // the same as in [TenantPolicy]; nil: one of its own
	// L2Hold is how long a tenant key stays unwrapped after its last use; 0: only
	// while an operation needs it.
	L2Hold time.Duration
	// L1 says how customers' keys are proved again; zero: every 30 s, with 15 min of grace.
	L1 validity.Terms
	// Lease is how long serving leases last in a cluster that this node founds, 1 s
	// to 60 s; 0: [fsm.DefaultLeaseMS].
	Lease time.Duration
	// SealWatch is how often this node, while it leads, has every keystore of the seal
	// open what it holds, 1 min to 24 h; 0: 15 min.
	SealWatch time.Duration
	Clock     clock.Clock
	Rand      io.Reader // safe for concurrent use, as crypto/rand.Reader is
	Logger    *slog.Logger
}

// Node is one node. Make one with [New], give it its cluster with
// [Node.Attach], and run it.
type Node struct {
	cfg     Config
	clock   clock.Clock
	rand    io.Reader
	log     *slog.Logger
	machine *fsm.Machine
	stores  *keystore.Registry
	gate    *gate.Gate
	policy  *Policies
	l2Hold  time.Duration
	cluster Cluster
	id      string

	open   atomic.Pointer[unsealed] // nil: sealed
	heldAt atomic.Uint64            // index of a hold whose release is not known; 0: none; also on disk

	// holding is held while a hold is written to disk or removed from it.
	holding sync.Mutex

	// adopting is held while the seal record is taken over and written to disk.
	adopting sync.Mutex

	// following is held while this node looks what a staged rekey has for it.
	following sync.Mutex

	// mu guards how the node gets from sealed to unsealed and back.
	mu          sync.Mutex
	record      seal.Record // zero: none known
	adopted     *fsmpb.Cluster
	opening     *seal.Opening // of record; nil while unsealed, and before anything is gathered
	startKey    *seal.StartKey
	offer       seal.Offer // of startKey, signed once
	lastFailure string
	resting     bool   // sealed by a person: no unsealing by itself until shares or a restart
	stopped     bool   // Run ended: no unsealing any more
	seals       uint64 // how often this node was told to be sealed; what began to unseal before does not finish (I8)

	watch   sealWatch
	consent gathering

	clearing clearing

	wake  chan struct{} // something changed: look whether keystores are to be asked; one slot
	given chan struct{} // a person brought a share: ask keystores at once; one slot
}

// unsealed is what exists in memory only while the node is unsealed.
type unsealed struct {
	ring     *keyring
	keys     *generations
	standing atomic.Pointer[standing]
	founded  atomic.Uint64 // generation of the last MasterKey that was found to be that of the founding (I11)
}

// New makes a sealed node. It reads the seal record, if there is one.
func New(cfg Config) (*Node, error) {
	n := &Node{
		cfg: cfg, clock: cfg.Clock, rand: cfg.Rand, log: cfg.Logger, machine: cfg.Machine, stores: cfg.Keystores,
		gate: cfg.Gate, policy: cfg.Policies, l2Hold: cfg.L2Hold, wake: make(chan struct{}, 1), given: make(chan struct{}, 1),
	}
	if n.policy == nil {
		n.policy = NewPolicies("", cfg.Logger)
	}
	if err := errors.Join(n.readRecord(), n.readHold()); err != nil {
		return nil, err
	}
	return n, nil
}

// Attach gives the node its cluster. It is called once, before Run and before
// any operation; apart from New because the cluster needs the node's MAC and its
// answers to peers.
func (n *Node) Attach(c Cluster) { n.cluster, n.id = c, string(c.NodeID()) }

// Run unseals the node when it may and can, keeps the seal record current,
// wipes what is no longer needed, and seals the node when ctx ends.
func (n *Node) Run(ctx context.Context) error {
	defer n.stop()
	// Before anything unseals: a record that is not this cluster's is replaced first.
	n.observe(ctx, n.machine.View())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.unsealByItself(ctx) })
	g.Go(func() error { return n.watchSeal(ctx) })
	g.Go(func() error { return n.holdCeremonies(ctx) })
	g.Go(func() error { return n.endExposures(ctx) })
	g.Go(func() error { return n.clearMembers(ctx) })
	g.Go(func() error { return n.follow(ctx) })
	g.Go(func() error { return n.sweepRegularly(ctx) })
	g.Go(func() error { return n.watchTenants(ctx) })
	g.Go(func() error { return n.recoverByItself(ctx) })
	g.Go(func() error { return n.policy.follow(ctx, n.machine) })
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// stop seals the node for good.
func (n *Node) stop() {
	n.mu.Lock()
	n.stopped = true
	n.mu.Unlock()
	n.wipe()
}

// follow looks at every new state of the registry: a hold seals this node, a new
// seal record is kept on disk, and versions that lost their power are wiped (I7).
func (n *Node) follow(ctx context.Context) error {
	for {
		v := n.machine.View()
		n.observe(ctx, v)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-v.Superseded():
		}
	}
}

func (n *Node) observe(ctx context.Context, v *fsm.View) {
	if !v.Initialized() {
		return
	}
	if err := n.adoptRecord(ctx, v); err != nil {
		n.log.ErrorContext(ctx, "the seal record of the registry is not taken over", slog.Any("error", err))
	}
	if v.Hold().GetHeld() {
		n.obeyHold(ctx, v)
		return
	}
	n.forgetHold(ctx)
	n.followRekey(ctx)
	n.poke()
	n.sweep(v)
}

func (n *Node) sweepRegularly(ctx context.Context) error {
	for {
		if err := n.clock.Sleep(ctx, sweepEvery); err != nil {
			return err
		}
		n.forgetHold(ctx)
		n.sweep(n.machine.View())
		n.mu.Lock()
		if n.opening != nil {
			n.opening.Expire()
		}
		n.mu.Unlock()
	}
}

func (n *Node) sweep(v *fsm.View) {
	if u := n.open.Load(); u != nil && v.Initialized() {
		u.ring.sweep(v)
		u.keys.retire(v.Generation(), n.clock.Now())
	}
}

// PolicyFaults returns the tenants whose policies do not compile on this node, and of
// which it therefore serves nothing that they would decide.
func (n *Node) PolicyFaults() []PolicyFault { return n.policy.Faults() }

// Initialized reports whether the node belongs to a cluster.
func (n *Node) Initialized() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.belongs()
}

// The states of a node, as its peers and its metrics name them.
const (
	StateUninitialized = "uninitialized"
	StateSealed        = "sealed"
	StateUnsealed      = cluster.StateUnsealed
)

// State returns which of the states the node is in.
func (n *Node) State() string {
	switch {
	case n.Unsealed():
		return StateUnsealed
	case n.Initialized():
		return StateSealed
	}
	return StateUninitialized
}

// Unsealed reports whether the MasterKey's keys are in memory.
func (n *Node) Unsealed() bool { return n.open.Load() != nil }

// MAC authenticates what is written down with the registry's key of a generation that is
// in force, or was, in the state of this node. It reports false on a sealed node, and on
// one that has no such key; what has no MAC proves nothing (I9).
func (n *Node) MAC(g hierarchy.Generation, parts ...[]byte) (sum [32]byte, ok bool) {
	u := n.open.Load()
	if u == nil {
		return sum, false
	}
	return u.keys.sum(n.machine.View().Cluster(), g, parts...)
}

// Opened returns the generation of the MasterKey by which this node was opened, or of a
// later one that it got since and that came into force; 0: it is sealed.
func (n *Node) Opened() hierarchy.Generation {
	u := n.open.Load()
	if u == nil {
		return 0
	}
	return hierarchy.Generation(u.keys.opened.Load())
}

// Believed returns nil if this node has the MasterKey and believes the state that it
// has, so that it may vouch for it: write a snapshot, or an entry of the log as leader.
// Otherwise the error has code Sealed or StateCorrupt.
func (n *Node) Believed() error {
	u := n.open.Load()
	if u == nil {
		return errs.New(errs.Sealed, "this node is sealed", errs.Hint("unseal it: krypton unseal"))
	}
	return n.standing(u, n.machine.View()).proved
}

// Loaded returns how many keys of each layer are unwrapped, for metrics.
func (n *Node) Loaded() (ivk, l2, l21, l3 int) {
	if u := n.open.Load(); u != nil {
		return u.ring.counts()
	}
	return 0, 0, 0, 0
}

// poke makes the loop that unseals try at once.
func (n *Node) poke() {
	select {
	case n.wake <- struct{}{}:
	default: // it will look anyway
	}
}

func correlation(ctx context.Context) corr.ID { return corr.From(ctx) }
