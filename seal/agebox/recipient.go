package agebox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/plugin"
	"filippo.io/age/tag"
	"golang.org/x/crypto/ssh"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Limits of what this package reads and writes.
const (
	// MaxRecipient is the longest recipient, in bytes. A hybrid one has about 2000.
	MaxRecipient = 4096
	// MaxPlaintext is the most that is encrypted at once, in bytes. A share has
	// about 100.
	MaxPlaintext = 1024
	// MaxFile is the longest age file, in bytes. One of a hybrid recipient has
	// about 1900; a plugin decides by itself how much it adds.
	MaxFile = 16 << 10
)

// Causes of refusals, to be told apart with errors.Is.
var (
	// ErrRecipient: the text is no recipient (errs.InvalidArgument).
	ErrRecipient = errors.New("not an age recipient")
	// ErrPlugin: a plugin is missing or refused (errs.FailedState).
	ErrPlugin = errors.New("age plugin failed")
)

// Kind says what key a recipient or an identity is. The zero value is invalid.
type Kind int

// The kinds.
const (
	KindUnspecified Kind = iota
	KindHybrid           // age1pq1...: ML-KEM-768 and X25519
	KindX25519           // age1...
	KindTag              // age1tag1...: P-256 in hardware
	KindTagHybrid        // age1tagpq1...: ML-KEM-768 and P-256 in hardware
	KindPlugin           // age1NAME1...: whatever age-plugin-NAME makes of it
	KindSSHEd25519       // ssh-ed25519 ...
	KindSSHRSA           // ssh-rsa ..., of 2048 bits or more
)

// String returns the kind as documents and JSON write it.
func (k Kind) String() string {
	switch k {
	case KindHybrid:
		return "hybrid"
	case KindX25519:
		return "x25519"
	case KindTag:
		return "tag"
	case KindTagHybrid:
		return "tag-hybrid"
	case KindPlugin:
		return "plugin"
	case KindSSHEd25519:
		return "ssh-ed25519"
	case KindSSHRSA:
		return "ssh-rsa"
	case KindUnspecified:
	}
	return "unspecified"
}

// PostQuantum reports whether what is encrypted to the kind stays closed to who
// keeps it until there are quantum computers. Of a plugin nobody here knows it.
func (k Kind) PostQuantum() bool { return k == KindHybrid || k == KindTagHybrid }

// Warning says in one sentence what is worse about the kind than about the
// default, or is empty.
func (k Kind) Warning() string {
	switch k {
	case KindX25519, KindTag:
		return "a quantum computer will open what is encrypted to this key today"
	case KindPlugin:
		return "its plugin has to be on every node that encrypts a share to this key, and decides whether a quantum computer will open it"
	case KindSSHEd25519, KindSSHRSA:
		return "an SSH key also signs logins, often lies on many machines, and a quantum computer will open what is encrypted to it today"
	case KindHybrid, KindTagHybrid, KindUnspecified:
	}
	return ""
}

// Recipient is a checked recipient. The zero Recipient is none.
type Recipient struct {
	kind   Kind
	text   string
	plugin string
	to     age.Recipient
}

// ParseRecipient reads a recipient as people give it. The error has the code
// errs.InvalidArgument or errs.TooLarge and wraps [ErrRecipient]; the text is
// not in it.
func ParseRecipient(s string) (Recipient, error) {
	refuse := func(why, hint string) (Recipient, error) {
		return Recipient{}, errs.New(errs.InvalidArgument, "the recipient of a share "+why, errs.Hint("%s", hint), errs.Cause(ErrRecipient))
	}
	const hint = `give the line that starts with "age1pq1", as krypton operator share recipient prints it`
	if len(s) > MaxRecipient {
		return Recipient{}, errs.New(errs.TooLarge, fmt.Sprintf("the recipient of a share has %d bytes, the limit is %d", len(s), MaxRecipient),
			errs.Hint(hint), errs.Cause(ErrRecipient))
	}
	// I5: before any parser, whose errors quote what they are given.
	if head := strings.ToUpper(strings.TrimSpace(s)); strings.HasPrefix(head, "AGE-SECRET-KEY-") || strings.HasPrefix(head, "AGE-PLUGIN-") || strings.HasPrefix(head, "-----BEGIN") {
		return refuse("is a private key", "make a new key, since this one was shown; the recipient is public and starts with \"age1\"")
	}
	r := Recipient{text: s}
	var err error
	switch {
	case strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c > '~' }):
		return refuse("has a character that no recipient has", hint)
	case strings.HasPrefix(s, "age1pq1"):
		r.kind = KindHybrid
		r.to, err = age.ParseHybridRecipient(s)
	case strings.HasPrefix(s, "age1tag1"):
		r.kind = KindTag
		r.to, err = tag.ParseRecipient(s)
	case strings.HasPrefix(s, "age1tagpq1"):
		r.kind = KindTagHybrid
		r.to, err = tag.ParseRecipient(s)
	case strings.HasPrefix(s, "age1") && strings.Count(s, "1") > 1:
		r.kind = KindPlugin
		r.plugin, _, err = plugin.ParseRecipient(s)
	case strings.HasPrefix(s, "age1"):
		r.kind = KindX25519
		r.to, err = age.ParseX25519Recipient(s)
	case strings.HasPrefix(s, "ssh-"):
		r.kind, r.to, err = parseSSHRecipient(s)
	default:
		return refuse("is none that this version knows", hint)
	}
	if err != nil {
		return refuse("is damaged", "copy it whole, as krypton operator share recipient prints it")
	}
	return r, nil
}

// parseSSHRecipient reads one line of ssh-keygen. What stands before or after
// the key would be a second meaning of the same text.
func parseSSHRecipient(s string) (Kind, age.Recipient, error) {
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(s))
	if err != nil {
		return 0, nil, err
	}
	if len(options) != 0 || len(rest) != 0 {
		return 0, nil, ErrRecipient
	}
	switch key.Type() {
	case ssh.KeyAlgoED25519:
		to, err := agessh.NewEd25519Recipient(key)
		return KindSSHEd25519, to, err
	case ssh.KeyAlgoRSA:
		to, err := agessh.NewRSARecipient(key)
		return KindSSHRSA, to, err
	}
	return 0, nil, ErrRecipient
}

// Kind returns what key the recipient is.
func (r Recipient) Kind() Kind { return r.kind }

// String returns the recipient as it was given.
func (r Recipient) String() string { return r.text }

// Plugin returns the name of the plugin that the recipient needs, or "".
func (r Recipient) Plugin() string { return r.plugin }

// Encrypt makes an age file of plaintext, 1 to [MaxPlaintext] bytes, for one
// recipient; see [ParseRecipient]. The caller calls it inside a callback of
// package reveal and wipes plaintext. The file is public. Randomness comes from
// the system's generator, which age uses.
//
// For the recipient of a plugin the plugin's program runs, for at most [PluginTime] and
// until ctx ends; then it is killed. The error of one that is missing, refuses or takes
// too long has the code errs.FailedState and wraps [ErrPlugin].
func Encrypt(ctx context.Context, recipient string, plaintext []byte) ([]byte, error) {
	r, err := ParseRecipient(recipient)
	if err != nil {
		return nil, err
	}
	if len(plaintext) < 1 || len(plaintext) > MaxPlaintext {
		return nil, fmt.Errorf("encrypt to a recipient: %d bytes, the limits are 1 and %d", len(plaintext), MaxPlaintext)
	}
	if r.kind == KindPlugin {
		if err := checkDebug(); err != nil {
			return nil, err
		}
		r.to = &pluginRecipient{name: r.plugin, text: r.text, until: func() context.Context { return ctx }}
	}
	defer runtime.GC() // age's copies are unreachable by then, see Failure
	var out bytes.Buffer
	w, err := age.Encrypt(&out, r.to)
	if err != nil {
		if r.kind == KindPlugin {
			return nil, pluginError(r.plugin, err)
		}
		return nil, fmt.Errorf("encrypt to a recipient: %w", err)
	}
	if _, err := w.Write(plaintext); err != nil {
		return nil, fmt.Errorf("encrypt to a recipient: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("encrypt to a recipient: %w", err)
	}
	if out.Len() > MaxFile { // I1
		return nil, errs.New(errs.FailedState, fmt.Sprintf("the share encrypted to its recipient has %d bytes, the limit is %d", out.Len(), MaxFile),
			errs.Hint("take a recipient of age itself: krypton operator share new-identity makes one"), errs.Cause(ErrPlugin))
	}
	return out.Bytes(), nil
}

// checkDebug refuses plugins while age would write what they answer to stderr.
func checkDebug() error {
	if os.Getenv("AGEDEBUG") != "plugin" {
		return nil
	}
	return errs.New(errs.FailedState, "with AGEDEBUG=plugin the key of the share would be written to stderr",
		errs.Hint("take AGEDEBUG out of the environment"), errs.Cause(ErrPlugin))
}

// pluginError says how the plugin of that name failed.
func pluginError(name string, err error) error {
	if _, ok := errors.AsType[*plugin.NotFoundError](err); ok {
		return errs.New(errs.FailedState, "the program age-plugin-"+name+" is not on this machine",
			errs.Hint("install it in the PATH of this process, or take a recipient that needs none"), errs.Cause(errors.Join(ErrPlugin, err)))
	}
	return errs.New(errs.FailedState, "the program age-plugin-"+name+" did not do its part: "+printable(err.Error()),
		errs.Hint("try the key with the age program; the plugin's own messages say more there"), errs.Cause(errors.Join(ErrPlugin, err)))
}

// printable returns what a terminal shows of a text from another program, at
// most 200 bytes of it.
func printable(s string) string {
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return '?'
		}
		return c
	}, s)
	return s[:min(len(s), 200)]
}
