package sign

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"golang.org/x/crypto/ssh"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// MaxKeyFile is the length in bytes of the longest key file that is read. The
// files of the two algorithms have some hundred.
const MaxKeyFile = 16 << 10

// Passphrase asks a person for the passphrase of a key file. What it returns is
// overwritten after use.
type Passphrase func() ([]byte, error)

// Types of PEM blocks.
const (
	pemPKCS8     = "PRIVATE KEY"
	pemSEC1      = "EC PRIVATE KEY"
	pemParams    = "EC PARAMETERS" // `openssl ecparam -genkey` writes it in front
	pemOpenSSH   = "OPENSSH PRIVATE KEY"
	pemEncrypted = "ENCRYPTED PRIVATE KEY"
)

const keyFileHint = "give one Ed25519 or ECDSA P-256 private key in PEM: PKCS#8, SEC1, or of ssh-keygen"

// OpenKey reads the person's key at path, see [ParseKey] for the forms. Others on
// the machine must have no rights to it. Errors have the code INVALID_CONFIG.
func OpenKey(path string, rand io.Reader, ask Passphrase) (Signer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, errs.New(errs.InvalidConfig, "the key cannot be read: "+err.Error(), errs.Cause(err))
	}
	defer f.Close() //nolint:errcheck // Only read from.
	// Of the open file and not of the path, which may be another file by then.
	st, err := f.Stat()
	if err != nil {
		return nil, errs.New(errs.InvalidConfig, "the key cannot be read: "+err.Error(), errs.Cause(err))
	}
	// Windows has no such bits; there the profile directory is the person's own.
	if st.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows" {
		return nil, errs.New(errs.InvalidConfig, fmt.Sprintf("the key %s has mode %#o, so others on this machine can reach it", path, st.Mode().Perm()),
			errs.Hint("run: chmod 0600 %s; if others could read it, have another key registered", path))
	}
	text := make([]byte, MaxKeyFile+1) // at its full size, since a slice that grows leaves copies
	defer clear(text)
	n, err := io.ReadFull(f, text)
	switch {
	case err == nil:
		return nil, badKey(path, fmt.Errorf("it has more than %d bytes", MaxKeyFile))
	case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return nil, errs.New(errs.InvalidConfig, "the key cannot be read: "+err.Error(), errs.Cause(err))
	}
	s, err := ParseKey(text[:n], rand, ask)
	if err != nil {
		return nil, badKey(path, err)
	}
	return s, nil
}

func badKey(path string, why error) error {
	return errs.New(errs.InvalidConfig, fmt.Sprintf("the key %s cannot be used: %s", path, why), errs.Hint(keyFileHint), errs.Cause(why))
}

// Errors of [ParseKey]. The parsers' own could quote the key.
var (
	errNotOneKey     = errors.New("it is not one private key in PEM")
	errKeyForm       = errors.New("it is not a private key of the form that its PEM block names")
	errCertificate   = errors.New("its PEM block is no private key")
	errProtected     = errors.New("it is protected by a passphrase in a form that is not read; convert it with ssh-keygen -p -f, or use an SSH agent")
	errNoPassphrase  = errors.New("it is protected by a passphrase, and nobody can be asked for it here; use a terminal or an SSH agent")
	errWrongPass     = errors.New("the passphrase is wrong")
	errKeyMismatch   = errors.New("its public half does not belong to its private half")
	errNoPrivateHalf = errors.New("it has no private half that can sign")
)

// ParseKey reads one Ed25519 or ECDSA P-256 private key in PEM: PKCS#8, SEC1, or
// OpenSSH's form, whose passphrase ask is called for; nil means that nobody can be
// asked. Nothing may follow the key. It keeps no reference to text; the key itself
// is on the Go heap from here on.
func ParseKey(text []byte, rand io.Reader, ask Passphrase) (Signer, error) {
	block, rest := pem.Decode(text)
	if block != nil && block.Type == pemParams {
		block, rest = pem.Decode(rest)
	}
	if block == nil || len(bytes.TrimSpace(rest)) != 0 {
		return nil, errNotOneKey
	}
	defer clear(block.Bytes)
	key, err := parsePrivate(block, text, ask)
	if err != nil {
		return nil, err
	}
	return New(rand, key)
}

func parsePrivate(block *pem.Block, text []byte, ask Passphrase) (crypto.Signer, error) {
	if block.Headers["Proc-Type"] != "" { // the encryption of RFC 1421, with MD5
		return nil, errProtected
	}
	var key any
	var err error
	switch block.Type {
	case pemPKCS8:
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case pemSEC1:
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case pemOpenSSH:
		return parseOpenSSH(text, ask)
	case pemEncrypted:
		return nil, errProtected
	default:
		return nil, errCertificate
	}
	if err != nil {
		return nil, errKeyForm
	}
	return personal(key)
}

// parseOpenSSH reads what ssh-keygen writes.
func parseOpenSSH(text []byte, ask Passphrase) (crypto.Signer, error) {
	key, err := ssh.ParseRawPrivateKey(text)
	if _, ok := errors.AsType[*ssh.PassphraseMissingError](err); ok {
		if ask == nil {
			return nil, errNoPassphrase
		}
		pass, askErr := ask()
		defer clear(pass)
		if askErr != nil {
			return nil, fmt.Errorf("ask for the passphrase: %w", askErr)
		}
		if len(pass) == 0 { // the library takes it for a defect of the file
			return nil, errWrongPass
		}
		key, err = ssh.ParseRawPrivateKeyWithPassphrase(text, pass)
	}
	switch {
	case errors.Is(err, x509.IncorrectPasswordError):
		return nil, errWrongPass
	case err != nil:
		return nil, errKeyForm
	}
	return personal(key)
}

// personal returns key as what signs, if it is of one of the two algorithms.
func personal(key any) (crypto.Signer, error) {
	switch k := key.(type) {
	case *ed25519.PrivateKey: // as the ssh package returns it
		return personal(*k)
	case ed25519.PrivateKey:
		// OpenSSH's form holds the public half too, and the ssh package believes it.
		// Ed25519 with a wrong public half gives the private one away by two signatures.
		if len(k) != ed25519.PrivateKeySize {
			return nil, errNoPrivateHalf
		}
		if !ed25519.NewKeyFromSeed(k.Seed()).Equal(k) {
			return nil, errKeyMismatch
		}
		return k, nil
	case *ecdsa.PrivateKey:
		return k, nil // New looks at its curve
	}
	return nil, errAlgorithm
}
