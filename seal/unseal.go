package seal

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
)

// DefaultPatience is how long shares wait for further ones by default: long
// enough to telephone, short enough that a forgotten attempt does not leave
// M-1 shares in a memory overnight.
const DefaultPatience = 15 * time.Minute

var (
	// ErrCommitment is the cause when what was opened is not the MasterKey of
	// this keyspace and generation (errs.StateCorrupt).
	ErrCommitment = errors.New("not the MasterKey that the manifest commits to")
	// ErrComplete is the cause when a share comes after the last that was
	// needed (errs.NotSealed).
	ErrComplete = errors.New("the MasterKey is open already")
	// ErrMode is the cause when a record is opened in the other mode's way (errs.FailedState).
	ErrMode = errors.New("the record is of the other mode")
)

// Progress says how far an unsealing by shares is.
type Progress struct {
	Have    int       // shares that count
	Need    int       // shares that it takes
	Expires time.Time // when the shares are dropped; zero without shares, or when complete
}

// Complete reports whether the MasterKey is open.
func (p Progress) Complete() bool { return p.Have >= p.Need }

// Unsealer collects shares until they open the MasterKey. It is a state
// machine: nothing happens but in its methods, and it has no lock.
//
//	collecting --Contribute, Have < Need--> collecting
//	collecting --Contribute, Have = Need--> complete      or back to empty, if the commitment does not match
//	complete   --Take-------------------->  empty
//	any        --Reset, patience over---->  empty
type Unsealer struct {
	record   Record
	cluster  Fingerprint
	clock    clock.Clock
	patience time.Duration

	shares    []Share
	since     time.Time // of the first of shares
	masterKey memsec.Secret
}

// NewUnsealer makes the state machine for a record in Shamir mode of the
// cluster with that fingerprint. patience is how long the first share waits
// for the last; it is positive.
func NewUnsealer(r Record, cluster Fingerprint, c clock.Clock, patience time.Duration) (*Unsealer, error) {
	if r.IsZero() || r.Mode() != ModeShamir || len(r.Plan().Groups) != 1 {
		return nil, errs.New(errs.FailedState, "the MasterKey is not protected by shares of one group", errs.Cause(ErrMode))
	}
	if patience <= 0 {
		return nil, errs.New(errs.InvalidConfig, "the time that shares wait for each other is not positive")
	}
	return &Unsealer{record: r, cluster: cluster, clock: c, patience: patience}, nil
}

// Contribute takes over one share, and destroys it when it refuses it. A
// refusal names its reason, has the code errs.ShareRefused and changes nothing
// (I3). With the last needed share the MasterKey is combined and compared with
// the commitment; if it does not match, the error is errs.StateCorrupt. When
// anything fails at that point, all shares are dropped and have to be given again.
func (u *Unsealer) Contribute(s Share) (Progress, error) {
	u.Expire()
	if err := u.admit(s); err != nil {
		s.Destroy()
		return u.Progress(), err
	}
	if len(u.shares) == 0 {
		u.since = u.clock.Now()
	}
	u.shares = append(u.shares, s)
	if len(u.shares) < u.record.Threshold() {
		return u.Progress(), nil
	}
	masterKey, err := combine(u.record, u.shares)
	u.dropShares()
	if err != nil {
		return u.Progress(), err
	}
	u.masterKey = masterKey
	return u.Progress(), nil
}

// admit says whether a share counts. What is printed on it is compared first,
// so that the holder of a share of another cluster hears that, and not that
// the share is wrong.
func (u *Unsealer) admit(s Share) error {
	r := u.record
	if !u.masterKey.IsZero() {
		return errs.New(errs.NotSealed, "the MasterKey is open already; no further share is needed", errs.Cause(ErrComplete))
	}
	if s.keyspace == r.Keyspace() && !s.IsFor(u.cluster) {
		return refuseShare(ErrShareCluster, "the share is of another cluster: its fingerprint is not this node's", "check which cluster you are talking to")
	}
	for _, have := range u.shares {
		if have.index == s.index {
			return refuseShare(ErrShareDuplicate, fmt.Sprintf("share %d was given already", s.index), "give the share of another holder")
		}
	}
	return CheckShare(r.pb.GetManifest(), s)
}

// Progress returns how far the unsealing is, without changing it.
func (u *Unsealer) Progress() Progress {
	p := Progress{Have: len(u.shares), Need: u.record.Threshold()}
	switch {
	case !u.masterKey.IsZero():
		p.Have = p.Need
	case p.Have > 0:
		p.Expires = u.since.Add(u.patience)
	}
	return p
}

// Given returns the numbers of the shares that count so far, in the order in
// which they came.
func (u *Unsealer) Given() []int {
	given := make([]int, len(u.shares))
	for i, s := range u.shares {
		given[i] = s.Index()
	}
	return given
}

// Expire drops the shares if the first has waited longer than the patience,
// and reports whether it did. Every Contribute does it too; the owner calls it
// from a timer so that shares do not stay when nobody comes.
func (u *Unsealer) Expire() bool {
	if len(u.shares) == 0 || u.clock.Since(u.since) < u.patience {
		return false
	}
	u.dropShares()
	return true
}

// Take hands over the MasterKey once Progress is complete, and is empty
// afterwards. It reports false when there is none.
func (u *Unsealer) Take() (memsec.Secret, bool) {
	mk := u.masterKey
	u.masterKey = memsec.Secret{}
	return mk, !mk.IsZero()
}

// Reset destroys all shares and a MasterKey that was not taken.
func (u *Unsealer) Reset() {
	u.dropShares()
	if mk, ok := u.Take(); ok {
		mk.Destroy()
	}
}

func (u *Unsealer) dropShares() {
	destroyAll(u.shares)
	u.shares, u.since = nil, time.Time{}
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
