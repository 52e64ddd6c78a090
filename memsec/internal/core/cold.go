package core

import (
	"fmt"
	"os"

	"github.com/awnumar/memguard"

	"github.com/openkcm/krypton-cluster/memsec/internal/arena"
)

// sealEnclave encrypts b into an enclave and wipes b. When a purge replaces
// memguard's key before or after, publish destroys the enclave (I3): one that
// is alive is under the key of its entry's epoch.
func sealEnclave(b []byte) (enc *memguard.Enclave, err error) {
	err = withMemguard(func() error {
		enc = memguard.NewEnclave(b)
		return nil
	})
	return enc, err
}

// openEnclave decrypts the enclave of e into dst, which has its length.
func (st *Store) openEnclave(e *entry, dst []byte) error {
	return withMemguard(func() error {
		// Under the lock that Purge takes: after it, this enclave is not
		// damaged, it belongs to a key that is gone.
		if st.epoch.Load() != e.epoch {
			return errDestroyed
		}
		buf, err := e.enclave.Open()
		if err != nil {
			stop("an enclave of this process does not open")
		}
		defer buf.Destroy()
		if copy(dst, buf.Bytes()) != len(dst) {
			stop("an enclave of this process has another length")
		}
		return nil
	})
}

// purgeEnclaves makes memguard forget its key. It locks no memory, so it does
// not depend on the limit.
func (st *Store) purgeEnclaves() {
	arena.Exclusive(func() {
		defer stopOnPanic()
		st.epoch.Add(1)
		memguard.Purge()
	})
}

// withMemguard runs fn alone and with enough lockable memory (I4).
func withMemguard(fn func() error) error {
	var err error
	if lerr := arena.WithHeadroom(func() {
		defer stopOnPanic()
		err = fn()
	}); lerr != nil {
		return budget(lerr)
	}
	return err
}

func stopOnPanic() {
	if p := recover(); p != nil {
		// The value is not printed: nobody promises what it holds.
		stop("memguard failed and has wiped every enclave")
	}
}

// stop ends the process. It never returns, and the caller may hold locks.
//
// A panic on this goroutine could be caught by the recovery of an RPC server,
// which would go on serving with keys that nobody can read; one on a goroutine
// of its own cannot be caught. Nothing is wiped first: bytes in use belong to
// operations that would then answer with something sealed under zeros, and the
// kernel clears the pages of an ended process before anybody else gets them.
func stop(reason string) {
	fmt.Fprintf(os.Stderr, "memsec: %s; the process stops and must be unsealed again\n", reason)
	go func() { panic("memsec: " + reason) }()
	select {}
}
