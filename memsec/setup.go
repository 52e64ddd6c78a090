package memsec

import "github.com/openkcm/krypton-cluster/memsec/internal/core"

// Tier says how well the pages of secrets are protected.
type Tier string

// The tiers, weakest first.
const (
	TierNone      = Tier(core.TierNone)      // ordinary pages: the system cannot lock them
	TierMlock     = Tier(core.TierMlock)     // not swapped, dumped or inherited; root can read them
	TierSecretMem = Tier(core.TierSecretMem) // unreadable for root too; no build offers it yet
)

// Options configure [Setup]. The zero value takes what the system gives.
type Options struct {
	// Require is the weakest acceptable tier; empty accepts any.
	Require Tier
	// LockBytes is how much memory to lock for secrets, rounded up to pages;
	// all of it is locked at once and it is the bound from then on. A 32-byte
	// key takes 32 bytes, a longer one the next power of two. 0 locks on
	// demand, up to 64 MiB or the system's limit. Enclaves need 8 pages on top.
	LockBytes int
}

// Status says what protects the secrets of the process and what they use.
// It holds no secret and may be logged.
type Status struct {
	Tier        Tier  // of hot secrets; TierNone until the first one is made
	LockedBytes int   // locked for secrets now, used or not
	UsedBytes   int   // of these, taken by secrets and running operations
	LimitBytes  int64 // RLIMIT_MEMLOCK, -1 if there is none or it is unknown; a privileged process is not bound by it
	Secrets     int   // secrets that are not wiped yet
	AEADs       int   // AEADs that are not wiped yet
	Hardened    bool  // core dumps are off and debuggers refused
	Erases      bool  // stack and registers are erased after key operations
}

// Setup prepares the process, once, before it holds its first key: no core
// dumps, no debuggers, and the memory for secrets locked. The errors are
// errs.InvalidConfig and name the limit found, the bytes needed and the setting
// to change; errs.FailedState for a second call. A process that goes on after
// an error runs with the defaults, as one that never calls Setup does.
func Setup(o Options) (Status, error) {
	s, err := core.Process().Setup(core.Tier(o.Require), o.LockBytes)
	return status(s), err
}

// Report returns the status now. It is cheap enough for a metrics endpoint.
func Report() Status { return status(core.Process().Report()) }

// Purge destroys every secret and AEAD of the process, also those that running
// operations are about to make. It does not wait for running operations: each
// wipes what it used when it ends, and [Status] counts what is left. The
// process can make secrets again afterwards.
func Purge() { core.Process().Purge() }

func status(s core.Status) Status {
	return Status{
		Tier:        Tier(s.Tier),
		LockedBytes: s.LockedBytes,
		UsedBytes:   s.UsedBytes,
		LimitBytes:  s.LimitBytes,
		Secrets:     s.Secrets,
		AEADs:       s.AEADs,
		Hardened:    s.Hardened,
		Erases:      s.Erases,
	}
}
