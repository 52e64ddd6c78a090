//go:build !noazurekv

package azurekv

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/openkcm/krypton-cluster/keystore"
)

// Type is this keystore's type in configuration.
const Type = "azurekv"

// The settings.
const (
	settingVault       = "vault"
	settingAuth        = "auth"
	settingTenant      = "tenant_id"
	settingClient      = "client_id"
	settingToken       = "token_file"
	settingCertificate = "certificate_file"
	settingAuthority   = "authority"
	settingIMDS        = "imds_endpoint"
	settingCA          = "ca_file"
	settingChallenge   = "challenge_resource"
	settingKEK         = "import_kek"
)

// The identities of the setting auth.
const (
	authWorkload    = "workload"
	authManaged     = "managed"
	authCertificate = "certificate"
)

// The values of the setting challenge_resource.
const (
	challengeVerified   = "verified"
	challengeUnverified = "unverified"
)

// Settings returns the settings of this type.
func Settings() []keystore.Setting {
	return []keystore.Setting{
		{Name: settingVault, Required: true, Doc: "Base URL of the Key Vault or Managed HSM, https://NAME.vault.azure.net or https://NAME.managedhsm.azure.net."},
		{Name: settingAuth, Required: true, Check: oneOf(authWorkload, authCertificate, authManaged), Doc: "Identity: workload (a Kubernetes service account's token), certificate (of an application) or managed (of the machine)."},
		{Name: settingTenant, Doc: "workload, certificate: id of the Entra ID tenant, a UUID."},
		{Name: settingClient, Doc: "workload, certificate: client id of the application, a UUID. managed: client id of a user-assigned identity; absent: the one identity of the machine."},
		{Name: settingToken, Doc: "workload: file with the service account's token; read at every login."},
		{Name: settingCertificate, Doc: "certificate: PEM file with the application's certificate and its private key; read at every login."},
		{Name: settingAuthority, Default: "https://login.microsoftonline.com", Doc: "workload, certificate: base URL of Entra ID; national clouds have their own."},
		{Name: settingIMDS, Default: "http://169.254.169.254", Doc: "managed: base URL of the instance metadata service."},
		{Name: settingCA, Doc: "PEM file of the CAs for vault and Entra ID; absent: those of the system."},
		{Name: settingChallenge, Default: challengeVerified, Check: oneOf(challengeVerified, challengeUnverified), Doc: "verified: the vault may ask only for tokens of its own domain. unverified: for a test vault on 127.0.0.1, which has no domain; refused for any other."},
		{Name: settingKEK, Doc: "Name of the key exchange key for imports; absent: no imports."},
	}
}

// oneOf is the check of a setting that takes one of some words.
func oneOf(words ...string) func(string) error {
	return func(value string) error {
		if slices.Contains(words, value) {
			return nil
		}
		return errors.New("want " + strings.Join(words, " or "))
	}
}

// settings are checked settings.
type settings struct {
	name       string
	vault      *url.URL // scheme and host only
	auth       string
	tenant     string
	client     string
	tokenFile  string
	certFile   string
	authority  *url.URL
	imds       *url.URL
	roots      *x509.CertPool // nil: the system's
	unverified bool
	kek        string
}

// parse checks cfg and reads the CA file.
func parse(cfg keystore.Config) (settings, error) {
	cfg, err := cfg.Only(Settings())
	if err != nil {
		return settings{}, err
	}
	get := func(name string) string { return cfg.Settings[name] }
	s := settings{
		name: cfg.Name, auth: get(settingAuth), tenant: strings.ToLower(get(settingTenant)), client: get(settingClient),
		tokenFile: get(settingToken), certFile: get(settingCertificate), kek: get(settingKEK),
	}
	if s.vault, err = endpoint(settingVault, get(settingVault), "https"); err != nil {
		return settings{}, err
	}
	if s.authority, err = endpoint(settingAuthority, get(settingAuthority), "https"); err != nil {
		return settings{}, err
	}
	if s.imds, err = endpoint(settingIMDS, get(settingIMDS), "http"); err != nil {
		return settings{}, err
	}
	if s.kek != "" && !validName(s.kek) {
		return settings{}, fmt.Errorf("%s %q is not the name of a key", settingKEK, s.kek)
	}
	if get(settingChallenge) == challengeUnverified {
		if ip := net.ParseIP(s.vault.Hostname()); ip == nil || !ip.IsLoopback() {
			return settings{}, fmt.Errorf("%s can be %s only for a vault on a loopback address; it keeps a false vault from asking for other services' tokens", settingChallenge, challengeUnverified)
		}
		s.unverified = true
	}
	if err := s.checkAuth(get); err != nil {
		return settings{}, err
	}
	s.roots, err = readRoots(get(settingCA))
	return s, err
}

// checkAuth holds that an identity has its settings and no other's: one that
// would be ignored is a misunderstanding.
func (s settings) checkAuth(get func(string) string) error {
	var needs, mayHave []string
	switch s.auth {
	case authWorkload:
		needs = []string{settingTenant, settingClient, settingToken}
	case authCertificate:
		needs = []string{settingTenant, settingClient, settingCertificate}
	case authManaged:
		mayHave = []string{settingClient}
	}
	for _, name := range []string{settingTenant, settingClient, settingToken, settingCertificate} {
		has := get(name) != ""
		switch {
		case !has && slices.Contains(needs, name):
			return fmt.Errorf("auth %s needs %s", s.auth, name)
		case has && !slices.Contains(needs, name) && !slices.Contains(mayHave, name):
			return fmt.Errorf("auth %s does not use %s", s.auth, name)
		}
	}
	for name, v := range map[string]string{settingTenant: s.tenant, settingClient: s.client} {
		if v == "" {
			continue
		}
		if _, err := uuid.Parse(v); err != nil || len(v) != 36 {
			return fmt.Errorf("%s %q is not a UUID", name, v)
		}
	}
	for name, v := range map[string]string{settingToken: s.tokenFile, settingCertificate: s.certFile} {
		if v != "" && !filepath.IsAbs(v) {
			return fmt.Errorf("%s %q is not an absolute path", name, v)
		}
	}
	return nil
}

// endpoint parses a base URL: scheme and host, nothing else.
func endpoint(name, value, scheme string) (*url.URL, error) {
	u, err := url.Parse(value)
	if err != nil || u.Scheme != scheme || u.Hostname() == "" || u.User != nil || strings.TrimSuffix(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%s is not a URL of the form %s://HOST", name, scheme)
	}
	return &url.URL{Scheme: scheme, Host: strings.ToLower(u.Host)}, nil
}

func readRoots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // No pool means the system's, as crypto/tls has it.
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", settingCA, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New(settingCA + " has no certificate in PEM")
	}
	return pool, nil
}

// Place returns the vault's host as the account: its access policies are one. The
// region of a vault is in no name of it.
func Place(cfg keystore.Config, _ keystore.KeyRef) keystore.Place {
	u, err := url.Parse(cfg.Settings[settingVault])
	if err != nil {
		return keystore.Place{}
	}
	return keystore.Place{Account: strings.ToLower(u.Hostname())}
}
