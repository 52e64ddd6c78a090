package core

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec/internal/arena"
	"github.com/openkcm/krypton-cluster/memsec/internal/scope"
)

// Tier says how well the pages of hot secrets are protected.
type Tier string

// The tiers, weakest first.
const (
	TierNone      Tier = "none"
	TierMlock     Tier = "mlock"
	TierSecretMem Tier = "secretmem"
)

// strength orders the tiers; 0 is not a tier.
func (t Tier) strength() int {
	switch t {
	case TierNone:
		return 1
	case TierMlock:
		return 2
	case TierSecretMem:
		return 3
	}
	return 0
}

// Status is what a store and its process hold and how well.
type Status struct {
	Tier        Tier
	LockedBytes int
	UsedBytes   int
	LimitBytes  int64
	Secrets     int
	AEADs       int
	Hardened    bool
	Erases      bool
}

// Both are facts about the process.
var (
	setupDone atomic.Bool
	hardened  atomic.Bool
)

// Setup prepares the process and its store; see memsec.Setup.
func (st *Store) Setup(require Tier, lockBytes int) (Status, error) {
	if require != "" && require.strength() == 0 {
		return Status{}, errs.Newf(errs.InvalidConfig, "unknown memory tier %q", string(require)).
			With(errs.Hint("use %s, %s or %s", TierNone, TierMlock, TierSecretMem))
	}
	if lockBytes < 0 {
		return Status{}, errs.New(errs.InvalidConfig, "a negative number of bytes to lock")
	}
	if !setupDone.CompareAndSwap(false, true) {
		return Status{}, errs.New(errs.FailedState, "the memory of this process is set up already")
	}
	if err := harden(); err != nil {
		return Status{}, errs.New(errs.InvalidConfig, "the process cannot be closed to core dumps and debuggers", errs.Cause(err))
	}
	hardened.Store(hardens)
	raiseLimit()
	if err := st.lockUp(lockBytes); err != nil {
		return Status{}, err
	}
	s := st.Report()
	if require != "" && s.Tier.strength() < require.strength() {
		return s, errs.Newf(errs.InvalidConfig, "memory tier %s is required, this process has %s", require, s.Tier).
			With(errs.Hint("%s", tierHint(require)))
	}
	return s, nil
}

func tierHint(t Tier) string {
	if t == TierSecretMem {
		return "this build offers at most tier mlock; require mlock"
	}
	return "allow the process to lock memory (systemd LimitMEMLOCK=, shell ulimit -l)"
}

// lockUp takes lockBytes now, so that nothing later can find them missing. It
// really locks them and does not compute with limits: whether a limit binds
// depends on capabilities, user namespaces and the system.
func (st *Store) lockUp(lockBytes int) error {
	need := lockBytes
	if need == 0 {
		need = 1 // the first piece decides the tier
	} else {
		st.arena.SetLimit(roundUp(lockBytes))
	}
	err := st.arena.Commit(need)
	if err == nil {
		err = arena.WithHeadroom(func() {})
	}
	if err == nil {
		return nil
	}
	st.arena.SetLimit(DefaultLimit)
	total := int64(roundUp(need)) + int64(arena.Reserve())
	return errs.New(errs.InvalidConfig,
		fmt.Sprintf("the process may lock %s of memory and needs %d bytes", limitText(lockLimit()), total),
		errs.Hint("set LimitMEMLOCK=%d in the systemd unit, or ulimit -l %d in the shell, or lower memory.lock_mib", total, (total+1023)/1024),
		errs.Cause(errors.Join(ErrBudget, err)))
}

func limitText(limit int64) string {
	if limit < 0 {
		return "an unlimited number of bytes"
	}
	return fmt.Sprintf("%d bytes", limit)
}

func roundUp(n int) int {
	p := arena.Piece()
	return (n + p - 1) / p * p
}

// Report returns what the store holds now.
func (st *Store) Report() Status {
	a := st.arena.Stats()
	s := Status{
		Tier:       TierNone,
		UsedBytes:  a.Used,
		LimitBytes: lockLimit(),
		Secrets:    int(st.secrets.Load()),
		AEADs:      int(st.aeads.Load()),
		Hardened:   hardened.Load(),
		Erases:     scope.Erases,
	}
	if a.Locked {
		s.Tier, s.LockedBytes = TierMlock, a.Committed
	}
	return s
}
