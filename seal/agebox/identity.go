package agebox

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
	"filippo.io/age/plugin"
	"golang.org/x/crypto/ssh"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
)

const (
	// MaxIdentityFile is the longest identity file, in bytes, with its comments.
	// Without them, and decrypted, it has at most [memsec.MaxLen]: an RSA key of
	// 4096 bits in PEM.
	MaxIdentityFile = 32 << 10
	// MaxIdentities is the most identities in one file.
	MaxIdentities = 32
	// MaxPassphrase is the longest passphrase, in bytes.
	MaxPassphrase = 1024
	// MinPassphrase is the shortest passphrase that [Identities.SaveEncrypted]
	// takes, in bytes. Who has the file can try as many as they like.
	MinPassphrase = 10
	// scryptWork is 2-logarithm of the work of a passphrase: what age writes,
	// about a second and 256 MiB.
	scryptWork = 18
)

// Causes of refusals of an identity file. All have the code errs.InvalidConfig.
var (
	// ErrIdentity: the file holds no identity that this version can use.
	ErrIdentity = errors.New("not an age identity file")
	// ErrPassphrase: the passphrase is wrong, or nobody could be asked for it.
	ErrPassphrase = errors.New("passphrase of the identity file")
)

// Person is who can be asked while identities are read and used. Any field may
// be nil: then nobody can be asked that, and what needs it fails.
type Person struct {
	// Passphrase returns the passphrase of the identity file. The bytes are
	// wiped after use.
	Passphrase func() ([]byte, error)
	// Tell shows a message of a plugin, such as that a key waits for a touch.
	Tell func(plugin, message string)
	// Ask returns the answer to a question of a plugin, such as a PIN.
	Ask func(plugin, question string, secret bool) (string, error)
	// Confirm asks for a choice; no is empty when there is none.
	Confirm func(plugin, question, yes, no string) (bool, error)
}

// Identities are the keys of one person, in protected memory. Whoever got them
// owns them and destroys them.
type Identities struct {
	text   memsec.Secret // lines of age, or one private key in PEM; without a passphrase
	person Person
}

// identityFileSize is the length of the file of [NewIdentities]: Bech32 of 1216
// and of 32 bytes, and what stands around it.
const identityFileSize = len("# created: 2006-01-02T15:04:05Z\n# public key: \n\n") + 1959 + 77

// NewIdentities makes one hybrid identity, in the file that age-keygen would
// make. made, of a year with four digits, stands in it, for people. Randomness
// comes from the system's generator, which age uses.
func NewIdentities(made time.Time) (*Identities, error) {
	defer runtime.GC()
	text, err := reveal.New(identityFileSize, memsec.Cold, func(dst []byte) error {
		id, err := age.GenerateHybridIdentity()
		if err != nil {
			return err
		}
		if n := len(fmt.Appendf(dst[:0], "# created: %s\n# public key: %s\n%s\n", made.UTC().Format(time.RFC3339), id.Recipient(), id)); n != len(dst) {
			return fmt.Errorf("its file has %d bytes, want %d", n, len(dst))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("make identity: %w", err)
	}
	return &Identities{text: text}, nil
}

// ReadIdentities reads an identity file of at most [MaxIdentityFile] bytes: keys
// of age and of its plugins, one a line; a private key of ssh-keygen; or a file
// of the former that age encrypted with a passphrase. It wipes file. Errors have
// the code errs.InvalidConfig and wrap [ErrIdentity] or [ErrPassphrase].
func ReadIdentities(file []byte, p Person) (*Identities, error) {
	defer clear(file)
	if len(file) > MaxIdentityFile {
		return nil, refuseIdentity(fmt.Sprintf("has %d bytes, the limit is %d", len(file), MaxIdentityFile))
	}
	text := bytes.TrimSpace(file)
	ids := &Identities{person: p}
	if armored := bytes.HasPrefix(text, []byte(armor.Header)); armored || bytes.HasPrefix(text, []byte(intro)) {
		// Not trimmed: a byte of white space may be the last of a tag.
		plain, err := ids.decryptFile(file, armored)
		defer clear(plain)
		if err != nil {
			return nil, err
		}
		text = bytes.TrimSpace(plain)
	}
	text = withoutComments(text)
	switch n := len(text); {
	case n == 0:
		return nil, refuseIdentity("has no identity in it")
	case n > memsec.MaxLen:
		return nil, refuseIdentity(fmt.Sprintf("holds %d bytes of keys, the limit is %d", n, memsec.MaxLen))
	}
	var err error
	if ids.text, err = memsec.Take(text, memsec.Cold); err != nil {
		return nil, fmt.Errorf("keep identities: %w", err)
	}
	if err := ids.check(); err != nil {
		ids.Destroy()
		return nil, err
	}
	return ids, nil
}

// withoutComments moves the lines that are no comments together, in place. The
// recipient in a comment is public, and longer than the key.
func withoutComments(text []byte) []byte {
	if bytes.HasPrefix(text, []byte("-----BEGIN")) {
		return text
	}
	n := 0
	for line := range bytes.Lines(text) {
		if line[0] != '#' && len(bytes.TrimSpace(line)) != 0 {
			n += copy(text[n:], line)
		}
	}
	return text[:n]
}

func refuseIdentity(why string) error {
	return errs.New(errs.InvalidConfig, "the identity file "+why,
		errs.Hint("give the file that krypton operator share new-identity or age-keygen made, or a private key of ssh-keygen"), errs.Cause(ErrIdentity))
}

// Destroy wipes the identities. It is idempotent.
func (i *Identities) Destroy() {
	if !i.text.IsZero() {
		i.text.Destroy()
	}
}

// askPassphrase returns the person's passphrase in protected memory.
func (i *Identities) askPassphrase() (memsec.Secret, error) {
	refuse := func(why, hint string, cause error) (memsec.Secret, error) {
		return memsec.Secret{}, errs.New(errs.InvalidConfig, "the identity file is encrypted, and "+why, errs.Hint("%s", hint), errs.Cause(errors.Join(ErrPassphrase, cause)))
	}
	if i.person.Passphrase == nil {
		return refuse("nobody can be asked for its passphrase here", "run the command at a terminal", nil)
	}
	b, err := i.person.Passphrase()
	defer clear(b)
	switch {
	case err != nil:
		return refuse("its passphrase was not given", "run the command at a terminal", err)
	case len(b) == 0:
		return refuse("its passphrase was not given", "give the passphrase with which the file was encrypted", nil)
	case len(b) > MaxPassphrase:
		return refuse(fmt.Sprintf("what was given as its passphrase has more than %d bytes", MaxPassphrase), "give the passphrase with which the file was encrypted", nil)
	}
	return memsec.Take(b, memsec.Cold)
}

func wrongPassphrase() error {
	return errs.New(errs.InvalidConfig, "the passphrase of the identity file is wrong", errs.Hint("try again; nothing was sent"), errs.Cause(ErrPassphrase))
}

// decryptFile returns what age encrypted with a passphrase, for the caller to wipe.
func (i *Identities) decryptFile(file []byte, armored bool) (text []byte, err error) {
	pass, err := i.askPassphrase()
	if err != nil {
		return nil, err
	}
	defer pass.Destroy()
	defer runtime.GC()
	err = reveal.With(pass, func(p []byte) error {
		text, err = openWithPassphrase(file, armored, p)
		return err
	})
	return text, err
}

// openWithPassphrase returns what file holds, for the caller to wipe.
func openWithPassphrase(file []byte, armored bool, pass []byte) ([]byte, error) {
	id, err := age.NewScryptIdentity(string(pass))
	if err != nil {
		return nil, refuseIdentity("is damaged")
	}
	var src io.Reader = bytes.NewReader(file)
	if armored {
		src = armor.NewReader(src)
	}
	r, err := age.Decrypt(src, id)
	if no, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
		if len(no.StanzaTypes) == 1 && no.StanzaTypes[0] == "scrypt" {
			return nil, wrongPassphrase()
		}
		return nil, refuseIdentity("is encrypted, but not with a passphrase")
	}
	if err != nil {
		return nil, refuseIdentity("is damaged")
	}
	buf := make([]byte, MaxIdentityFile+1) // at its full size, since a slice that grows leaves copies
	n := 0
	for n < len(buf) && err == nil {
		var more int
		more, err = r.Read(buf[n:])
		n += more
	}
	// Only io.EOF itself says that the last chunk was authenticated as the last.
	if err != io.EOF { //nolint:errorlint // See above; age never wraps it.
		clear(buf)
		return nil, refuseIdentity("is damaged, or too long")
	}
	return buf[:n], nil
}

// check tries whether the identities can be used, so that a bad file is refused
// before anything is asked of a node, and takes the passphrase off a key of
// ssh-keygen.
func (i *Identities) check() error {
	defer runtime.GC()
	err := reveal.With(i.text, func(text []byte) error {
		_, err := i.parse(text)
		return err
	})
	if _, ok := errors.AsType[*ssh.PassphraseMissingError](err); !ok {
		return err
	}
	pass, err := i.askPassphrase()
	if err != nil {
		return err
	}
	defer pass.Destroy()
	return reveal.With(i.text, func(text []byte) error {
		return reveal.With(pass, func(p []byte) error {
			plain, err := withoutPassphrase(text, p)
			defer clear(plain)
			if err != nil {
				return err
			}
			if _, err := i.parse(plain); err != nil {
				return err
			}
			open, err := memsec.Take(plain, memsec.Cold)
			if err != nil {
				return fmt.Errorf("keep identities: %w", err)
			}
			i.text.Destroy()
			i.text = open
			return nil
		})
	})
}

// withoutPassphrase returns a key of ssh-keygen in PKCS#8, for the caller to wipe.
func withoutPassphrase(text, pass []byte) ([]byte, error) {
	key, err := ssh.ParseRawPrivateKeyWithPassphrase(text, pass)
	if errors.Is(err, x509.IncorrectPasswordError) {
		return nil, wrongPassphrase()
	}
	if err != nil {
		return nil, refuseIdentity("is no private key of ssh-keygen that can be read")
	}
	if k, ok := key.(*ed25519.PrivateKey); ok {
		key = *k
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	defer clear(der)
	if err != nil {
		return nil, refuseIdentity("is an SSH key of a type that age does not know; it knows Ed25519 and RSA")
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// identity is one private key. It exists only inside a callback of reveal (I2).
type identity struct {
	kind      Kind
	plugin    string
	with      age.Identity
	recipient string // "" for a plugin, which alone knows it
}

// parse reads the identities of a file. Errors of the parsers are dropped: they
// could quote the file (I4).
func (i *Identities) parse(text []byte) ([]identity, error) {
	if bytes.HasPrefix(text, []byte("-----BEGIN")) {
		return parseSSH(text)
	}
	var all []identity
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		line = bytes.TrimSuffix(line, []byte("\r"))
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		if len(all) == MaxIdentities {
			return nil, refuseIdentity(fmt.Sprintf("has more than %d identities", MaxIdentities))
		}
		id, err := i.parseLine(string(line))
		if err != nil {
			return nil, err
		}
		all = append(all, id)
	}
	if len(all) == 0 {
		return nil, refuseIdentity("has no identity in it")
	}
	return all, nil
}

func (i *Identities) parseLine(line string) (identity, error) {
	switch {
	case strings.HasPrefix(line, "AGE-SECRET-KEY-PQ-1"):
		if id, err := age.ParseHybridIdentity(line); err == nil {
			return identity{kind: KindHybrid, with: id, recipient: id.Recipient().String()}, nil
		}
	case strings.HasPrefix(line, "AGE-SECRET-KEY-1"):
		if id, err := age.ParseX25519Identity(line); err == nil {
			return identity{kind: KindX25519, with: id, recipient: id.Recipient().String()}, nil
		}
	case strings.HasPrefix(line, "AGE-PLUGIN-"):
		if id, err := plugin.NewIdentity(line, i.person.ui()); err == nil {
			return identity{kind: KindPlugin, plugin: id.Name(), with: pluginIdentity{id}}, nil
		}
	case strings.HasPrefix(line, "age1"), strings.HasPrefix(line, "ssh-"):
		return identity{}, refuseIdentity("holds a recipient, which is public and opens nothing")
	default:
		return identity{}, refuseIdentity("has a line that is no identity")
	}
	return identity{}, refuseIdentity("has an identity that is damaged")
}

func parseSSH(text []byte) ([]identity, error) {
	key, err := ssh.ParseRawPrivateKey(text)
	if missing, ok := errors.AsType[*ssh.PassphraseMissingError](err); ok {
		return nil, missing
	}
	if err != nil {
		return nil, refuseIdentity("is no private key of ssh-keygen that can be read")
	}
	return sshIdentity(key)
}
