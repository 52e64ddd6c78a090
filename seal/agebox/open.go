package agebox

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"
	"filippo.io/age/plugin"
	"golang.org/x/crypto/ssh"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
)

// Causes of refusals of an age file. Both have the code errs.ShareRefused.
var (
	// ErrOtherIdentity: the file is encrypted to another key.
	ErrOtherIdentity = errors.New("age file is not encrypted to these identities")
	// ErrFile: the file is damaged, or no age file of one share.
	ErrFile = errors.New("not an age file of a share")
)

// intro is the first line of every age file.
const intro = "age-encryption.org/v1\n"

// Decrypt opens an age file that holds exactly size bytes, 1 to [MaxPlaintext],
// and returns them in protected memory; the caller destroys them. A file that is
// damaged, cut or longer opens not at all (I3). With an identity of a plugin the
// plugin's program runs, and the error of one that is missing or refuses has the
// code errs.FailedState and wraps [ErrPlugin].
func (i *Identities) Decrypt(file []byte, size int) (memsec.Secret, error) {
	if size < 1 || size > MaxPlaintext {
		return memsec.Secret{}, fmt.Errorf("open an age file: %d bytes, the limits are 1 and %d", size, MaxPlaintext)
	}
	if len(file) > MaxFile {
		return memsec.Secret{}, refuseFile(fmt.Sprintf("has %d bytes, the limit is %d", len(file), MaxFile))
	}
	if !bytes.HasPrefix(file, []byte(intro)) {
		return memsec.Secret{}, refuseFile("is no age file")
	}
	defer runtime.GC() // age's copies are unreachable by then, see Failure
	return reveal.New(size, memsec.Cold, func(dst []byte) error {
		return reveal.With(i.text, func(text []byte) error {
			ids, err := i.parse(text)
			if err != nil {
				return err
			}
			return open(dst, file, ids)
		})
	})
}

func refuseFile(why string) error {
	return errs.New(errs.ShareRefused, "the encrypted share "+why, errs.Hint("ask another node for it; every node has the same"), errs.Cause(ErrFile))
}

// open decrypts file into dst, which it fills exactly.
func open(dst, file []byte, ids []identity) error {
	with := make([]age.Identity, len(ids))
	for n, id := range ids {
		with[n] = id.with
		if id.kind == KindPlugin {
			if err := checkDebug(); err != nil {
				return err
			}
		}
	}
	r, err := age.Decrypt(bytes.NewReader(file), with...)
	if _, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
		return errs.New(errs.ShareRefused, "the identity does not open the share: it is encrypted to another key",
			errs.Hint("give the identity whose recipient the manifest has; krypton operator share recipient prints that of a file"), errs.Cause(ErrOtherIdentity))
	}
	if failed, ok := errors.AsType[*pluginUseError](err); ok {
		return pluginError(failed.name, failed.err)
	}
	if err != nil {
		return refuseFile("is damaged")
	}
	if _, err := io.ReadFull(r, dst); err != nil {
		return refuseFile("is damaged or too short")
	}
	// The last chunk is authenticated as the last only when its end is read.
	var more [1]byte
	if n, err := io.ReadFull(r, more[:]); n != 0 || !errors.Is(err, io.EOF) {
		return refuseFile("is damaged or too long")
	}
	return nil
}

// pluginIdentity names the plugin in whatever goes wrong with it, unless the
// file is for another identity.
type pluginIdentity struct{ id *plugin.Identity }

type pluginUseError struct {
	name string
	err  error
}

func (f *pluginUseError) Error() string { return f.err.Error() }
func (f *pluginUseError) Unwrap() error { return f.err }

// Unwrap implements age.Identity.
func (p pluginIdentity) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	key, err := p.id.Unwrap(stanzas)
	if err != nil && !errors.Is(err, age.ErrIncorrectIdentity) {
		return nil, &pluginUseError{p.id.Name(), err}
	}
	return key, err
}

// ui is how a plugin reaches the person.
func (p Person) ui() *plugin.ClientUI {
	ui := &plugin.ClientUI{RequestValue: p.Ask, Confirm: p.Confirm}
	if p.Tell != nil {
		ui.DisplayMessage = func(name, message string) error {
			p.Tell(name, printable(message))
			return nil
		}
		ui.WaitTimer = func(name string) { p.Tell(name, "it is waited for") }
	}
	return ui
}

// sshIdentity returns the identity of a key of ssh-keygen.
func sshIdentity(key any) ([]identity, error) {
	var id identity
	var err error
	var public crypto.PublicKey
	switch k := key.(type) {
	case *ed25519.PrivateKey:
		return sshIdentity(*k)
	case ed25519.PrivateKey:
		id.kind, public = KindSSHEd25519, k.Public()
		id.with, err = agessh.NewEd25519Identity(k)
	case *rsa.PrivateKey:
		id.kind, public = KindSSHRSA, k.Public()
		id.with, err = agessh.NewRSAIdentity(k)
	default:
		return nil, refuseIdentity("is an SSH key of a type that age does not know; it knows Ed25519 and RSA")
	}
	if err != nil {
		return nil, refuseIdentity("is an SSH key that cannot be used")
	}
	line, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, refuseIdentity("is an SSH key that cannot be used")
	}
	id.recipient = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(line)))
	return []identity{id}, nil
}

// Public is what may be known of one identity.
type Public struct {
	Kind      Kind
	Recipient string // "" for an identity of a plugin, whose own tool prints it
	Plugin    string // the plugin's name, or ""
}

// Public returns what may be known of the identities, in the order of the file.
func (i *Identities) Public() ([]Public, error) {
	defer runtime.GC()
	var all []Public
	err := reveal.With(i.text, func(text []byte) error {
		ids, err := i.parse(text)
		for _, id := range ids {
			all = append(all, Public{Kind: id.kind, Recipient: id.recipient, Plugin: id.plugin})
		}
		return err
	})
	return all, err
}

// Save writes the identity file, which is a secret, to w.
func (i *Identities) Save(w io.Writer) error {
	return reveal.With(i.text, func(text []byte) error {
		_, err := w.Write(text)
		return err
	})
}

// SaveEncrypted writes the identity file encrypted with a passphrase of
// [MinPassphrase] to [MaxPassphrase] bytes, in age's armor, as `age -p -a` would.
// It wipes passphrase. It takes about a second and 256 MiB, and so does each try
// of who found the file.
func (i *Identities) SaveEncrypted(w io.Writer, passphrase []byte) error {
	return i.saveEncrypted(w, passphrase, scryptWork)
}

func (i *Identities) saveEncrypted(w io.Writer, passphrase []byte, work int) error {
	defer clear(passphrase)
	if n := len(passphrase); n < MinPassphrase || n > MaxPassphrase {
		return errs.New(errs.InvalidArgument, fmt.Sprintf("the passphrase has %d bytes, the limits are %d and %d", n, MinPassphrase, MaxPassphrase),
			errs.Hint("take several random words"), errs.Cause(ErrPassphrase))
	}
	defer runtime.GC()
	return reveal.With(i.text, func(text []byte) error {
		to, err := age.NewScryptRecipient(string(passphrase))
		if err != nil {
			return fmt.Errorf("encrypt identity file: %w", err)
		}
		to.SetWorkFactor(work)
		outer := armor.NewWriter(w)
		inner, err := age.Encrypt(outer, to)
		if err != nil {
			return fmt.Errorf("encrypt identity file: %w", err)
		}
		_, err = inner.Write(text)
		return errors.Join(err, inner.Close(), outer.Close())
	})
}
