package cluster

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
)

// Limits of a join token.
const (
	MaxTokenSeeds   = 7   // voters a cluster can have
	MaxAddress      = 255 // bytes of an address host:port
	tokenSecretSize = 32
	tokenSumSize    = 4
	tokenPrefix     = "kjoin2-"
)

// tokenEncoding is lower-case base32 without padding: one double click selects
// the whole of it, and no character is mistaken for another by a terminal font
// that matters, unlike base64.
//
//nolint:gochecknoglobals // Immutable; Go has no constant of this type.
var tokenEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Seed is a member that a joining node asks first.
type Seed struct {
	Address string   // host:port of its peer port
	KeyHash [32]byte // SHA-256 of its SubjectPublicKeyInfo: what authenticates it
}

// JoinToken lets one node ask to become a member. It names the cluster and
// members of it by their keys, so that the new node is not led to another
// cluster, and holds a secret, the seed of an Ed25519 key, with which it signs its own
// id and key: so no member that it asks can admit another node in its place. Make
// one with [NewJoinToken]; print it with [JoinToken.Text] only.
//
//	text  = "kjoin2-" base32( body | SHA-256(body)[:4] )
//	body  = fingerprint [32] | secret [32] | seeds u8 | seed...
//	seed  = length u8 | address | key hash [32]
type JoinToken struct {
	Fingerprint [32]byte // SHA-256 of the genesis of the cluster
	Seeds       []Seed   // 1 to MaxTokenSeeds

	// A closure, because package fmt prints the fields of a token inside an
	// unexported field of another struct without asking its methods.
	secret func() [tokenSecretSize]byte
}

func keepSecret(b []byte) func() [tokenSecretSize]byte {
	s := [tokenSecretSize]byte(b)
	return func() [tokenSecretSize]byte { return s }
}

var errToken = errors.New("not a join token: it is incomplete, mistyped or of another release")

// NewJoinToken makes a token with a secret from rand.
func NewJoinToken(rand io.Reader, fingerprint [32]byte, seeds []Seed) (JoinToken, error) {
	secret := make([]byte, tokenSecretSize)
	if _, err := io.ReadFull(rand, secret); err != nil {
		return JoinToken{}, fmt.Errorf("make join token: %w", err)
	}
	t := JoinToken{Fingerprint: fingerprint, Seeds: append([]Seed(nil), seeds...), secret: keepSecret(secret)}
	if err := t.check(); err != nil {
		return JoinToken{}, err
	}
	return t, nil
}

func (t JoinToken) check() error {
	if t.secret == nil {
		return errors.New("the join token is empty")
	}
	if len(t.Seeds) == 0 || len(t.Seeds) > MaxTokenSeeds {
		return fmt.Errorf("a join token names 1 to %d members", MaxTokenSeeds)
	}
	for _, s := range t.Seeds {
		if err := checkAddress(s.Address); err != nil {
			return err
		}
	}
	return nil
}

// checkAddress accepts host:port with a numeric port and a host that can be dialled.
func checkAddress(a string) error {
	host, port, err := net.SplitHostPort(a)
	if err != nil || host == "" || len(a) > MaxAddress {
		return errors.New("an address is host:port with at most 255 characters")
	}
	for _, c := range []byte(a) {
		if c <= ' ' || c > '~' {
			return errors.New("an address has printable ASCII characters only")
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return errors.New("the port of an address is a number from 1 to 65535")
	}
	return nil
}

// Hash returns SHA-256 of the public key of the token: what the registry keeps of
// it. The token must not be zero.
func (t JoinToken) Hash() [32]byte { return JoinKeyHash(t.secret()) }

// JoinKeyHash returns [JoinToken.Hash] of a token with that secret, for whoever makes
// the secret.
func JoinKeyHash(secret [32]byte) [32]byte { return sha256.Sum256(publicHalf(secret)) }

func publicHalf(seed [tokenSecretSize]byte) []byte {
	return ed25519.NewKeyFromSeed(seed[:])[tokenSecretSize:] // a private key is the seed and then the public key
}

// applies returns the public key of the token and its signature over the node that
// asks to join.
func (t JoinToken) applies(m *fsmpb.Member) (key, signature []byte) {
	seed := t.secret()
	return publicHalf(seed), ed25519.Sign(ed25519.NewKeyFromSeed(seed[:]), fsm.AdmissionMessage(t.Fingerprint, m))
}

// Text returns the token for the person who carries it to the new node. Whoever
// reads it can join in its place. The token must not be zero.
func (t JoinToken) Text() string {
	b := make([]byte, 0, 512)
	b = append(b, t.Fingerprint[:]...)
	secret := t.secret()
	b = append(b, secret[:]...)
	b = append(b, byte(len(t.Seeds))) //nolint:gosec // At most MaxTokenSeeds.
	for _, s := range t.Seeds {
		b = append(b, byte(len(s.Address))) //nolint:gosec // At most MaxAddress.
		b = append(b, s.Address...)
		b = append(b, s.KeyHash[:]...)
	}
	sum := sha256.Sum256(b)
	return tokenPrefix + tokenEncoding.EncodeToString(append(b, sum[:tokenSumSize]...))
}

// Blank returns [JoinToken.Text] with 32 zero bytes where the secret belongs, for
// whoever made a secret of their own and lets nobody else see it: [FillJoinToken].
// The token must not be zero.
func (t JoinToken) Blank() string {
	t.secret = func() (none [tokenSecretSize]byte) { return none }
	return t.Text()
}

// FillJoinToken puts a secret into the text of a blank token.
func FillJoinToken(blank string, secret [32]byte) (JoinToken, error) {
	t, err := ParseJoinToken(blank)
	if err != nil {
		return JoinToken{}, err
	}
	if t.secret() != ([tokenSecretSize]byte{}) {
		return JoinToken{}, errors.New("the join token has a secret already")
	}
	t.secret = keepSecret(secret[:])
	return t, nil
}

// ParseJoinToken is the inverse of [JoinToken.Text]; white space around the
// text is ignored. A token has exactly one spelling.
func ParseJoinToken(text string) (JoinToken, error) {
	body, ok := strings.CutPrefix(strings.TrimSpace(text), tokenPrefix)
	const maxBody = 65 + MaxTokenSeeds*(1+MaxAddress+32) + tokenSumSize
	if !ok || len(body) > tokenEncoding.EncodedLen(maxBody) {
		return JoinToken{}, errToken
	}
	raw, err := tokenEncoding.DecodeString(body)
	if err != nil || len(raw) < 65+tokenSumSize || tokenEncoding.EncodeToString(raw) != body {
		return JoinToken{}, errToken
	}
	b, got := raw[:len(raw)-tokenSumSize], raw[len(raw)-tokenSumSize:]
	if sum := sha256.Sum256(b); !bytes.Equal(sum[:tokenSumSize], got) {
		return JoinToken{}, errToken
	}
	var t JoinToken
	copy(t.Fingerprint[:], b)
	t.secret = keepSecret(b[32:64])
	n, b := int(b[64]), b[65:]
	for range n {
		if len(b) < 1 || len(b) < 1+int(b[0])+32 {
			return JoinToken{}, errToken
		}
		end := 1 + int(b[0])
		t.Seeds = append(t.Seeds, Seed{Address: string(b[1:end]), KeyHash: [32]byte(b[end : end+32])})
		b = b[end+32:]
	}
	if len(b) != 0 || t.check() != nil {
		return JoinToken{}, errToken
	}
	return t, nil
}

const redactedToken = tokenPrefix + "(secret)"

// String hides the secret; see [JoinToken.Text].
func (JoinToken) String() string { return redactedToken }

// Format hides the secret in every verb of package fmt.
func (JoinToken) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redactedToken) }

// LogValue hides the secret in logs.
func (JoinToken) LogValue() slog.Value { return slog.StringValue(redactedToken) }

// MarshalText refuses: a token leaves the process by Text only.
func (JoinToken) MarshalText() ([]byte, error) {
	return nil, errors.New("a join token is not encoded implicitly")
}
