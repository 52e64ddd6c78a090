package seal

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
)

// DefaultPatience is how long shares of people wait for further ones by default:
// long enough to telephone, short enough that a forgotten attempt does not leave
// M-1 shares in a memory overnight.
const DefaultPatience = 15 * time.Minute

var (
	// ErrCommitment is the cause when what was opened is not the MasterKey of
	// this keyspace and generation (errs.StateCorrupt).
	ErrCommitment = errors.New("not the MasterKey that the manifest commits to")
	// ErrComplete is the cause when a share comes after the last that was
	// needed (errs.NotSealed).
	ErrComplete = errors.New("the MasterKey is open already")
	// ErrMode is the cause when a share is given for a record that has none (errs.FailedState).
	ErrMode = errors.New("the record is of the other mode")
	// ErrClosed is the cause when an opening is used after [Opening.Close] (errs.Aborted).
	ErrClosed = errors.New("the opening was given up")
)

// Opening gathers what opens the MasterKey of one record: shares or, in auto
// mode, the MasterKey itself from keystores, and shares from people. Whatever
// comes first counts, in any order, until every group has what it takes. It is a
// state machine: nothing happens but in its methods.
//
//	gathering --Ask, Contribute, too few--> gathering
//	gathering --Ask, Contribute, enough---> open        or gathering from nothing, if the commitment does not match
//	open      --Take----------------------> gathering from nothing
//	any       --Reset---------------------> gathering from nothing
//	any       --Close---------------------> closed, for good: it takes and asks nothing
//
// Shares of people are dropped when the first of them has waited longer than the
// patience, because a person who walked away may have changed their mind. Shares
// that keystores gave stay until Reset: they come back at once whenever they are
// asked for, so dropping them would protect nothing.
//
// It is safe for concurrent use: people contribute while keystores are asked. Whoever makes
// one closes it when it is of no use any more. What others still hold of it then gathers
// nothing: shares that came to an opening which nobody looks after would stay in memory.
type Opening struct {
	record   Record
	cluster  Fingerprint
	clock    clock.Clock
	patience time.Duration
	whole    bool // looks at all shares of the record, see [NewProof]

	// asking is held during a round of questions to keystores.
	asking sync.Mutex

	mu        sync.Mutex
	seats     []seat
	since     time.Time // of the first share of a person; zero: there is none
	masterKey memsec.Secret
	openers   []int              // whose shares gave masterKey
	opened    uint64             // how often it was open
	era       uint64             // answers to questions of an earlier one do not count
	cancel    context.CancelFunc // of the round; nil: none
	closed    bool
}

// seat is one holder and what came of it.
type seat struct {
	holder

	share  Share // zero: none
	person bool  // a person gave share, so that it expires
	asked  bool  // a question is on its way
	gave   bool  // a keystore's last answer counted
	since  time.Time
	fail   *Failure // of the keystore's last answer; nil: none, or it counted
}

// NewOpening makes the state machine for a record of the cluster with that
// fingerprint. patience is how long the first share of a person waits for the
// last; it is positive.
func NewOpening(r Record, cluster Fingerprint, c clock.Clock, patience time.Duration) (*Opening, error) {
	if r.IsZero() {
		return nil, errs.New(errs.FailedState, "there is no seal record to open", errs.Cause(ErrNoRecord))
	}
	if patience <= 0 {
		return nil, errs.New(errs.InvalidConfig, "the time that shares wait for each other is not positive")
	}
	o := &Opening{record: r, cluster: cluster, clock: c, patience: patience}
	for _, h := range r.holders() {
		o.seats = append(o.seats, seat{holder: h, since: c.Now()})
	}
	return o, nil
}

// NewProof makes the state machine for a record that does not count yet: it is open only
// if all shares of the record, also those that nobody gave, are such that any that are
// enough give the MasterKey (I15). That somebody can decrypt a shard shows only for those
// who gave. The error of a record whose maker lied is errs.StateCorrupt.
func NewProof(r Record, cluster Fingerprint, c clock.Clock, patience time.Duration) (*Opening, error) {
	o, err := NewOpening(r, cluster, c, patience)
	if err == nil {
		o.whole = true
	}
	return o, err
}

// Open opens a record through its keystores alone, each asked once and given at
// most wait, and returns the MasterKey, which the caller owns. The error is a
// [*MissingError] when they were not enough.
func Open(ctx context.Context, r Record, keystores *keystore.Registry, c clock.Clock, wait time.Duration) (memsec.Secret, error) {
	o, err := NewOpening(r, Fingerprint{}, c, DefaultPatience)
	if err != nil {
		return memsec.Secret{}, err
	}
	defer o.Close()
	if err := o.Ask(ctx, keystores, wait); err != nil {
		return memsec.Secret{}, err
	}
	mk, _ := o.Take()
	return mk, nil
}

// Record returns the record that is opened.
func (o *Opening) Record() Record { return o.record }

// Contribute takes over one share of a person, and destroys it when it refuses
// it. A refusal names its reason, has the code errs.ShareRefused and changes
// nothing (I3). With the last needed share the MasterKey is combined and compared
// with the commitment; if it does not match, the error is errs.StateCorrupt. When
// anything fails at that point, all shares are dropped and have to be given again.
func (o *Opening) Contribute(s Share) (Progress, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.expire()
	if err := o.admit(s); err != nil {
		s.Destroy()
		return o.progress(), err
	}
	if o.since.IsZero() {
		o.since = o.clock.Now()
	}
	at := &o.seats[s.Index()-1]
	at.share, at.person, at.since = s, true, o.clock.Now()
	err := o.combine()
	return o.progress(), err
}

// admit says whether a share counts. What is printed on it is compared first,
// so that the holder of a share of another cluster hears that, and not that
// the share is wrong. mu is held.
func (o *Opening) admit(s Share) error {
	r := o.record
	if o.closed {
		return errClosed()
	}
	if r.Mode() != ModeShamir {
		return errs.New(errs.FailedState, "the MasterKey is not protected by shares", errs.Hint("the node unseals by itself through its keystores"), errs.Cause(ErrMode))
	}
	if !o.masterKey.IsZero() {
		return errs.New(errs.NotSealed, "the MasterKey is open already; no further share is needed", errs.Cause(ErrComplete))
	}
	if s.keyspace == r.Keyspace() && !s.IsFor(o.cluster) {
		return refuseShare(ErrShareCluster, "the share is of another cluster: its fingerprint is not this node's", "check which cluster you are talking to")
	}
	// That it was given already hears only who has it: to a ceremony the same share
	// once more means to go on.
	if err := CheckShare(r.pb.GetManifest(), s); err != nil {
		return err
	}
	i := s.Index() - 1
	if !o.seats[i].share.secret.IsZero() {
		return refuseShare(ErrShareDuplicate, fmt.Sprintf("share %d was given already", s.index), "give the share of another holder")
	}
	if g := o.group(o.seats[i].group); g.Have >= g.Need {
		return refuseShare(ErrShareSurplus, fmt.Sprintf("group %s has the %d shares that it takes; other groups have not", g.Name, g.Need), "give the shares of the groups that krypton status names")
	}
	return nil
}

// combine opens the MasterKey once every group has enough. mu is held.
func (o *Opening) combine() error {
	var shares []Share
	var openers []int
	for _, g := range o.groups() {
		if g.Have < g.Need {
			return nil
		}
	}
	for _, at := range o.seats {
		if !at.share.secret.IsZero() {
			shares, openers = append(shares, at.share), append(openers, at.index)
		}
	}
	masterKey, err := o.reconstruct(shares)
	o.dropShares(everybodys)
	if err != nil {
		return err
	}
	o.complete(masterKey, openers)
	return nil
}

// reconstruct combines shares of every group. mu is held.
func (o *Opening) reconstruct(shares []Share) (memsec.Secret, error) {
	masterKey, err := combine(o.record, shares)
	if err != nil || !o.whole {
		return masterKey, err
	}
	if err := checkWhole(o.record, shares); err != nil {
		masterKey.Destroy()
		return memsec.Secret{}, err
	}
	return masterKey, nil
}

// complete takes the MasterKey over and ends the round of questions. mu is held.
func (o *Opening) complete(masterKey memsec.Secret, openers []int) {
	o.masterKey, o.openers = masterKey, openers
	o.opened++
	o.era++ // nobody waits for what is still on its way
	if o.cancel != nil {
		o.cancel()
	}
}

// Given returns the numbers of the shares that count so far, in order.
func (o *Opening) Given() []int {
	o.mu.Lock()
	defer o.mu.Unlock()
	var given []int
	for _, at := range o.seats {
		if !at.share.secret.IsZero() {
			given = append(given, at.index)
		}
	}
	return given
}

// Expire drops the shares of people if the first has waited longer than the
// patience, and reports whether it did. Every Contribute does it too; the owner
// calls it from a timer so that shares do not stay when nobody comes.
func (o *Opening) Expire() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.expire()
}

func (o *Opening) expire() bool {
	if o.since.IsZero() || o.clock.Since(o.since) < o.patience {
		return false
	}
	o.dropShares(peoples)
	return true
}

// Take hands over the MasterKey once it is open, and gathers from nothing
// afterwards. It reports false when it is not: one caller gets it.
func (o *Opening) Take() (memsec.Secret, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	mk := o.masterKey
	o.masterKey, o.openers = memsec.Secret{}, nil
	return mk, !mk.IsZero()
}

// TakeProof is [Opening.Take] that also says who opened it: numbers of shares in order,
// or in auto mode the place, from 1, of a provider key in the manifest.
func (o *Opening) TakeProof() (masterKey memsec.Secret, holders []int, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	masterKey, holders = o.masterKey, o.openers
	o.masterKey, o.openers = memsec.Secret{}, nil
	return masterKey, holders, !masterKey.IsZero()
}

// Forget destroys the shares that people gave.
func (o *Opening) Forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dropShares(peoples)
}

// Reset destroys all shares and a MasterKey that was not taken, and ends the
// questions to keystores. What they answer later counts for nothing.
func (o *Opening) Reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.reset()
}

// Close is Reset for good: from then on nothing is asked, taken or given (I17). It may be
// called more than once.
func (o *Opening) Close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.reset()
}

func errClosed() error {
	return errs.New(errs.Aborted, "the seal or the state of the node changed while it was being opened", errs.Hint("retry"), errs.Cause(ErrClosed))
}

// reset is Reset with mu held.
func (o *Opening) reset() {
	o.era++
	if o.cancel != nil {
		o.cancel()
	}
	o.dropShares(everybodys)
	for i := range o.seats {
		o.seats[i].gave = false
	}
	o.masterKey.Destroy()
	o.masterKey, o.openers = memsec.Secret{}, nil
}

type whose int

const (
	everybodys whose = iota
	peoples
)

// dropShares destroys shares. mu is held.
func (o *Opening) dropShares(w whose) {
	now := o.clock.Now()
	for i := range o.seats {
		at := &o.seats[i]
		if at.share.secret.IsZero() || w == peoples && !at.person {
			continue
		}
		at.share.Destroy()
		at.share, at.person, at.gave, at.since = Share{}, false, false, now
	}
	o.since = time.Time{}
}

// checkCommitment holds I2.
func checkCommitment(r Record, masterKey memsec.Secret) error {
	c, err := envelope.MasterKeyCommitment(masterKey, r.Keyspace(), r.Generation())
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(c[:], r.pb.GetManifest().GetMasterKeyCommitment()) != 1 {
		return notTheMasterKey("what was opened is not the MasterKey of this keyspace and generation")
	}
	return nil
}

func notTheMasterKey(msg string) error {
	return errs.New(errs.StateCorrupt, msg,
		errs.Hint("the seal record does not fit its own manifest; copy seal/record.pb from another node"), errs.Cause(ErrCommitment))
}
