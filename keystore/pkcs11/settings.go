//go:build unix

package pkcs11

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/pkcs11/wire"
)

// Type is this keystore's type in configuration.
const Type = "pkcs11"

// HelperName is the file name of the helper program.
const HelperName = "krypton-pkcs11"

const (
	defaultSessions = 8
	defaultLate     = 10 * time.Second
)

// Settings returns the settings of this type.
func Settings() []keystore.Setting {
	return []keystore.Setting{
		{Name: "module", Doc: "The vendor's PKCS#11 library, an absolute path.", Required: true, Check: absolute},
		{Name: "token", Doc: "The label of the token. Either this or `serial` is needed."},
		{Name: "serial", Doc: "The serial number of the token, where labels are not unique."},
		{Name: "pin_file", Doc: "The file that holds the PIN of the token's user, on one line. It belongs to the user of the node, or to root, and nobody else may use it (mode 0600 or 0400).", Required: true, Check: absolute},
		{Name: "pin_dir", Doc: "The directory of the PINs of tenants' tokens, an absolute path: one file for each tenant, whose name is the tenant's uid, as `pin_file` is. Without it no tenant can be bound.", Check: absolute},
		{Name: "helper", Doc: "The program `krypton-pkcs11`, an absolute path. Without it, the one beside `krypton`.", Check: absolute},
		{Name: "mechanism", Doc: "`auto`, or the one mechanism to use for new blobs: `aes-kwp`, `aes-gcm`, `aes-kw`, `rsa-oaep`. `auto` takes the first of these that token and key can do.", Default: "auto", Check: checkMechanism},
		{Name: "max_sessions", Doc: "How many sessions are used at once, 1 to " + strconv.Itoa(wire.MaxWorkers) + ".", Default: strconv.Itoa(defaultSessions), Check: checkSessions},
		{Name: "late", Doc: "After how long a call of the library counts as hanging: the helper is ended and started again.", Default: defaultLate.String(), Check: checkLate},
		{Name: "environment", Doc: "Environment of the library, `NAME=value` pairs with commas between them. It gets nothing else: no variable of the node reaches it. Never a secret.", Check: func(v string) error { _, err := parseEnvironment(v); return err }},
		{Name: "import_key", Doc: "The label of the RSA key pair under which key material is brought in, with CKA_UNWRAP. Without it nothing can be imported."},
	}
}

func absolute(value string) error {
	if !filepath.IsAbs(value) {
		return errors.New("want an absolute path")
	}
	return nil
}

func checkMechanism(value string) error {
	if !slices.Contains([]string{"auto", "aes-kwp", "aes-gcm", "aes-kw", "rsa-oaep"}, value) {
		return errors.New("want auto, aes-kwp, aes-gcm, aes-kw or rsa-oaep")
	}
	return nil
}

func checkSessions(value string) error {
	if n, err := strconv.Atoi(value); err != nil || n < 1 || n > wire.MaxWorkers {
		return fmt.Errorf("want 1 to %d", wire.MaxWorkers)
	}
	return nil
}

func checkLate(value string) error {
	if d, err := time.ParseDuration(value); err != nil || d <= 0 {
		return errors.New("want a duration above zero, such as 10s")
	}
	return nil
}

// settings are the checked values.
type settings struct {
	hello       wire.Hello
	helper      string
	pinDir      string // empty: no tenant has a token of its own
	environment []string
	late        time.Duration
}

func readSettings(cfg keystore.Config) (settings, error) {
	cfg, err := cfg.Only(Settings())
	if err != nil {
		return settings{}, err
	}
	v := cfg.Settings
	s := settings{helper: v["helper"], pinDir: v["pin_dir"], hello: wire.Hello{
		Version: wire.Version, Module: v["module"], Label: v["token"], Serial: v["serial"],
		PINFile: v["pin_file"], Mechanism: v["mechanism"], ImportKey: v["import_key"],
	}}
	if (s.hello.Label == "") == (s.hello.Serial == "") {
		return settings{}, errors.New("either token, a label, or serial names the token")
	}
	if s.hello.Workers, err = strconv.Atoi(v["max_sessions"]); err != nil {
		return settings{}, err
	}
	if s.late, err = time.ParseDuration(v["late"]); err != nil {
		return settings{}, err
	}
	if s.environment, err = parseEnvironment(v["environment"]); err != nil {
		return settings{}, err
	}
	if s.helper == "" {
		self, err := os.Executable()
		if err != nil {
			return settings{}, fmt.Errorf("find the helper beside this program: %w; name it by the setting helper", err)
		}
		s.helper = filepath.Join(filepath.Dir(self), HelperName)
	}
	for _, f := range []struct{ name, path string }{{"helper", s.helper}, {"module", s.hello.Module}} {
		if err := checkProgram(f.name, f.path); err != nil {
			return settings{}, err
		}
	}
	return s, nil
}

// checkProgram refuses code that anyone may change.
func checkProgram(name, path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s: %s is not a regular file", name, path)
	case info.Mode().Perm()&0o002 != 0:
		return fmt.Errorf("%s: everyone may write %s: chmod o-w %s", name, path, path)
	}
	return nil
}

// parseEnvironment reads NAME=value pairs with commas between them.
func parseEnvironment(text string) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	pairs := strings.Split(text, ",")
	for i, pair := range pairs {
		pairs[i] = strings.TrimSpace(pair)
		name, _, found := strings.Cut(pairs[i], "=")
		if !found || name == "" || strings.ContainsAny(name, " \t\x00") || strings.Contains(pair, "\x00") {
			return nil, fmt.Errorf("want NAME=value pairs with commas between them; entry %d is none", i+1)
		}
		// They decide what is loaded, or undo what the helper is started with.
		if strings.HasPrefix(name, "LD_") || name == "GLIBC_TUNABLES" || strings.HasPrefix(name, "MALLOC_") || strings.HasPrefix(name, "GO") {
			return nil, fmt.Errorf("want no %s: that is not for a library's configuration", name)
		}
	}
	return pairs, nil
}

// Place returns the token as the account: its officer decides over every key in it.
func Place(cfg keystore.Config, _ keystore.KeyRef) keystore.Place {
	if label := cfg.Settings["token"]; label != "" {
		return keystore.Place{Account: "token " + label}
	}
	return keystore.Place{Account: "serial " + cfg.Settings["serial"]}
}
