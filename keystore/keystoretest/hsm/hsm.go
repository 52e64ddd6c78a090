//go:build unix

package hsm

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/keystore"
)

// Product is a token that can be started. The zero value is [SoftHSM].
type Product int

// The products.
const (
	SoftHSM Product = iota
	OpenCryptoki
)

// Install is the command that brings both products to Debian and Ubuntu.
const Install = "apt-get install -y --no-install-recommends softhsm2 opencryptoki"

// PINs of new tokens. openCryptoki takes 4 to 8 characters.
const (
	PIN   = "kx-4711"
	SOPIN = "kx-so-01"
)

// Options say what to start.
type Options struct {
	Product Product
	// Dir is where everything goes; it exists and is empty. Empty: a temporary
	// one, which Close removes.
	Dir string
	// Programs has krypton-pkcs11 and tokenctl; see [Build].
	Programs string
	// Label is the token's; empty means "krypton".
	Label string
	// Faults puts a module before the token's that breaks calls on demand; see [Server.Break].
	Faults bool
}

// Server is one token.
type Server struct {
	Module      string // the library
	Label       string // of the token
	pin         string // of its user
	Version     string // of the product
	PINFile     string
	Helper      string // krypton-pkcs11, or what starts it where the token is
	Environment string // as the setting environment has it

	opts   Options
	prefix []string // of commands that have to run where the token is
	env    []string
	user   string // the module that the token's user loads, if it is another one
	stop   func() error
	clean  func() error

	mu   sync.Mutex
	made int // keys and versions so far
}

// Build compiles the helper and the owner's program into dir. It needs the Go
// toolchain, a C compiler and the sources.
func Build(ctx context.Context, dir string) error {
	const module = "github.com/openkcm/krypton-cluster"
	cmd := exec.CommandContext(ctx, "go", "build", "-o", dir+string(filepath.Separator), module+"/cmd/krypton-pkcs11", module+"/keystore/keystoretest/hsm/tokenctl")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the PKCS#11 programs: %w: %s", err, out)
	}
	return buildFaults(ctx, dir)
}

// Start makes a token with a user whose PIN is [PIN].
func Start(ctx context.Context, o Options) (*Server, error) {
	if o.Label == "" {
		o.Label = "krypton"
	}
	own := o.Dir == ""
	if own {
		var err error
		if o.Dir, err = os.MkdirTemp("", "krypton-hsm"); err != nil {
			return nil, err
		}
	}
	s := &Server{Label: o.Label, pin: PIN, PINFile: filepath.Join(o.Dir, "pin"), Helper: filepath.Join(o.Programs, "krypton-pkcs11"), opts: o, stop: func() error { return nil }}
	s.clean = func() error {
		if own {
			return os.RemoveAll(o.Dir)
		}
		return nil
	}
	if err := s.WritePIN(PIN); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	start, first := s.startSoftHSM, SOPIN
	if o.Product == OpenCryptoki {
		start, first = s.startOpenCryptoki, "87654321" // the vendor's default
	}
	if err := start(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	_, err := s.do(ctx, map[string]any{"op": "init", "other": first})
	if err == nil {
		var r answer
		r, err = s.do(ctx, map[string]any{"op": "version"})
		s.Version = r.Version
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if o.Faults {
		s.insert()
	}
	return s, nil
}

// Another makes a second token in the same library, with a PIN of its user that is not
// written to any file. It ends with the first one. SoftHSM only.
func (s *Server) Another(ctx context.Context, label, pin string) (*Server, error) {
	one := &Server{
		Module: s.Module, Label: label, pin: pin, Version: s.Version, PINFile: s.PINFile, Helper: s.Helper, Environment: s.Environment,
		opts: s.opts, prefix: s.prefix, env: s.env, stop: func() error { return nil }, clean: func() error { return nil },
	}
	_, err := one.do(ctx, map[string]any{"op": "init", "other": SOPIN})
	return one, err
}

// Bench returns how long n wraps, or unwraps, of 32 bytes take by the library
// alone, in one session and with the key's handle known: key wrap for [Wrap],
// AES-GCM for [Encrypt]. op is "wrap" or "unwrap".
func (s *Server) Bench(ctx context.Context, label string, u Usage, op string, n int) (time.Duration, error) {
	r, err := s.do(ctx, map[string]any{"op": "bench", "label": label, "usage": u, "other": op, "count": n})
	return time.Duration(r.Nanoseconds), err
}

// WritePIN writes the PIN file.
func (s *Server) WritePIN(pin string) error {
	return os.WriteFile(s.PINFile, []byte(pin+"\n"), 0o600)
}

func (s *Server) startSoftHSM(context.Context) error {
	for _, path := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/lib/pkcs11/libsofthsm2.so"} {
		if _, err := os.Stat(path); err == nil {
			s.Module = path
		}
	}
	if s.Module == "" {
		return fmt.Errorf("libsofthsm2.so is not at its usual places: %w", fs.ErrNotExist)
	}
	if err := os.Mkdir(s.tokens(), 0o700); err != nil {
		return err
	}
	conf := filepath.Join(s.opts.Dir, "softhsm2.conf")
	s.Environment = "SOFTHSM2_CONF=" + conf
	s.env = []string{s.Environment}
	return os.WriteFile(conf, []byte("directories.tokendir = "+s.tokens()+"\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n"), 0o600)
}

func (s *Server) tokens() string { return filepath.Join(s.opts.Dir, "tokens") }

// Settings returns the settings of a keystore of type pkcs11 for this token.
func (s *Server) Settings() map[string]string {
	out := map[string]string{"module": cmp.Or(s.user, s.Module), "token": s.Label, "pin_file": s.PINFile, "helper": s.Helper}
	if s.Environment != "" {
		out["environment"] = s.Environment
	}
	return out
}

// Usage is what a new AES key may be used for.
type Usage string

// The usages.
const (
	Wrap    Usage = "wrap"    // C_WrapKey and C_UnwrapKey
	Encrypt Usage = "encrypt" // C_Encrypt and C_Decrypt
	All     Usage = "all"
)

// NewAES makes an AES-256 key with that label, or another version of one.
func (s *Server) NewAES(ctx context.Context, label string, u Usage) error {
	_, err := s.do(ctx, map[string]any{"op": "aes", "label": label, "id": s.nextID(), "usage": u})
	return err
}

// NewAESAs is NewAES with a given CKA_ID.
func (s *Server) NewAESAs(ctx context.Context, label string, id []byte, u Usage) error {
	_, err := s.do(ctx, map[string]any{"op": "aes", "label": label, "id": fmt.Sprintf("%x", id), "usage": u})
	return err
}

// NewRSA makes an RSA-2048 key pair with that label, or another version of one.
func (s *Server) NewRSA(ctx context.Context, label string) error {
	_, err := s.do(ctx, map[string]any{"op": "rsa", "label": label, "id": s.nextID()})
	return err
}

func (s *Server) nextID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made++
	return fmt.Sprintf("%04x", 0x0100+s.made)
}

// Disable takes every use from all versions of a key.
func (s *Server) Disable(ctx context.Context, label string) error { return s.enable(ctx, label, false) }

// Enable gives every use to all versions of a key.
func (s *Server) Enable(ctx context.Context, label string) error { return s.enable(ctx, label, true) }

func (s *Server) enable(ctx context.Context, label string, on bool) error {
	_, err := s.do(ctx, map[string]any{"op": "enable", "label": label, "enabled": on})
	return err
}

// Destroy destroys all objects of a label, or those of one CKA_ID in hexadecimal.
func (s *Server) Destroy(ctx context.Context, label, id string) error {
	_, err := s.do(ctx, map[string]any{"op": "destroy", "label": label, "id": id})
	return err
}

// Objects counts the objects of a label, or of the whole token.
func (s *Server) Objects(ctx context.Context, label string) (int, error) {
	r, err := s.do(ctx, map[string]any{"op": "count", "label": label})
	return r.Objects, err
}

// ChangePIN gives the user another PIN, which the PIN file does not have.
func (s *Server) ChangePIN(ctx context.Context, pin string) error {
	_, err := s.do(ctx, map[string]any{"op": "pin", "other": pin})
	return err
}

// TryPIN logs in n times with pin and returns the token's last answer: 0 or a CKR.
func (s *Server) TryPIN(ctx context.Context, pin string, n int) (ckr uint, err error) {
	r, err := s.do(ctx, map[string]any{"op": "try", "other": pin, "count": n})
	return r.CKR, err
}

// Flags returns the token's flags.
func (s *Server) Flags(ctx context.Context) (uint, error) {
	r, err := s.do(ctx, map[string]any{"op": "flags"})
	return r.Flags, err
}

// Remove pulls the token out of its slot until back is called. SoftHSM only.
func (s *Server) Remove() (back func() error, err error) {
	away := s.tokens() + ".away"
	if err := os.Rename(s.tokens(), away); err != nil {
		return nil, err
	}
	// The slot is there, and empty.
	if err := os.Mkdir(s.tokens(), 0o700); err != nil {
		return nil, err
	}
	return func() error {
		return errors.Join(os.RemoveAll(s.tokens()), os.Rename(away, s.tokens()))
	}, nil
}

// Close stops what was started. A directory that was given stays.
func (s *Server) Close() error { return errors.Join(s.stop(), s.clean()) }

// Config returns the configuration of a keystore of that name on this token.
func (s *Server) Config(name string) keystore.Config {
	return keystore.Config{Name: name, Type: "pkcs11", Settings: s.Settings()}
}

// answer is what tokenctl says.
type answer struct {
	Objects int    `json:"objects"`
	CKR     uint   `json:"ckr"`
	Flags   uint   `json:"flags"`
	Version string `json:"version"`

	Nanoseconds int64 `json:"nanoseconds"`
}

func (s *Server) do(ctx context.Context, c map[string]any) (answer, error) {
	c["module"], c["token"], c["pin"], c["so_pin"] = s.Module, s.Label, s.pin, SOPIN
	in, err := json.Marshal(c)
	if err != nil {
		return answer{}, err
	}
	args := append(append([]string{}, s.prefix...), filepath.Join(s.opts.Programs, "tokenctl"))
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = s.env
	cmd.Stdin = bytes.NewReader(in)
	var out, problem strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := cmd.Run(); err != nil {
		return answer{}, fmt.Errorf("token %s: %s: %w: %s", s.Label, c["op"], err, strings.TrimSpace(problem.String()))
	}
	var a answer
	return a, json.Unmarshal([]byte(out.String()), &a)
}
