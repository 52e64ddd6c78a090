//go:build unix

package pkcs11

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"sync"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/pkcs11/wire"
)

// fingerprintSize is the length of a fingerprint: the MAC of the PIN file's
// content under a key of this process, and the time of the file's last change.
const fingerprintSize = sha256.Size + 8

// ledger remembers what became of PINs, so that a wrong one is not tried until
// the token locks (I2).
type ledger struct {
	mac [sha256.Size]byte // the key: random for each provider, so that a fingerprint cannot be searched for

	mu sync.Mutex // held over a log-in: there is one at a time

	accepted []byte                 // MAC of the content that the token took
	refused  map[string]wire.Answer // by MAC
	silent   []byte                 // whole fingerprint of the content whose try got no answer
}

// mayTry reports why the PIN with this fingerprint is not to be tried, or nil.
func (l *ledger) mayTry(fingerprint []byte) error {
	content := fingerprint[:sha256.Size]
	if a, was := l.refused[string(content)]; was {
		return judge(a, nil)
	}
	if bytes.Equal(fingerprint, l.silent) && !bytes.Equal(content, l.accepted) {
		return &classified{class: keystore.Misconfigured, text: "the token did not say whether it takes the PIN, and may have counted the try; see to the token, then write pin_file again or start the node again"}
	}
	return nil
}

// logIn logs the helper's user in, within these rules.
func (p *Provider) logIn(proc *process) error {
	l := &p.pins
	l.mu.Lock()
	defer l.mu.Unlock()
	fingerprint := make([]byte, fingerprintSize)
	err := p.ask(p.ctx, proc, wire.Request{Op: wire.OpPIN}, l.mac[:], func(a wire.Answer, payload []byte) error {
		if err := judge(a, payload); err != nil {
			return err
		}
		if copy(fingerprint, payload) != fingerprintSize || len(payload) != fingerprintSize {
			return wire.ErrMalformed
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := l.mayTry(fingerprint); err != nil {
		return err
	}
	content := bytes.Clone(fingerprint[:sha256.Size])
	l.silent = fingerprint // until there is an answer
	return p.ask(p.ctx, proc, wire.Request{Op: wire.OpLogin}, append(bytes.Clone(l.mac[:]), fingerprint...), func(a wire.Answer, payload []byte) (err error) {
		l.silent = nil
		if a.Status == wire.StatusPIN && a.CKR != 0 && p.assumed {
			defer func() { err = fmt.Errorf("%w: %w", keystore.ErrRefused, err) }()
		}
		switch {
		case a.Status == wire.StatusOK:
			l.accepted = content
		case a.Status == wire.StatusPIN && a.CKR != 0 && a.CKR != ckrPINLocked && a.CKR != ckrPINExpired:
			if len(l.refused) >= 64 { // a file that changes all the time
				l.refused = nil
			}
			if l.refused == nil {
				l.refused = map[string]wire.Answer{}
			}
			l.refused[string(content)] = a
		}
		return judge(a, payload)
	})
}
