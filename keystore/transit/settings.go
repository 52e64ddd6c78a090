package transit

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/openkcm/krypton-cluster/keystore"
)

// Type is this keystore's type in configuration.
const Type = "transit"

// The settings.
const (
	settingAddress      = "address"
	settingMount        = "mount"
	settingNamespace    = "namespace"
	settingCAFile       = "ca_file"
	settingAuth         = "auth"
	settingAuthMount    = "auth_mount"
	settingRole         = "role"
	settingRoleIDFile   = "role_id_file"
	settingSecretIDFile = "secret_id_file"
	settingJWTFile      = "jwt_file"
	settingCertFile     = "cert_file"
	settingKeyFile      = "key_file"
	settingTokenFile    = "token_file"
)

// The identities.
const (
	authCert       = "cert"
	authAppRole    = "approle"
	authKubernetes = "kubernetes"
	authTokenFile  = "token-file"
)

// podToken is where a pod has its service account's token.
const podToken = "/var/run/secrets/kubernetes.io/serviceaccount/token" //nolint:gosec // A path.

// Settings are the settings of this type.
func Settings() []keystore.Setting {
	return []keystore.Setting{
		{Name: settingAddress, Required: true, Check: checkAddress, Doc: "Address of the server, as https://host:port."},
		{Name: settingMount, Default: "transit", Check: checkPath, Doc: "Path at which the transit engine is mounted."},
		{Name: settingNamespace, Check: checkPath, Doc: "Namespace of mount and identity, in OpenBao and Vault Enterprise. Absent: none."},
		{Name: settingCAFile, Check: checkFile, Doc: "Absolute path of the certificates that may sign the server's, in PEM. Absent: those of the machine."},
		{Name: settingAuth, Required: true, Check: checkAuth, Doc: "Who this node is to the server: cert, approle, kubernetes or token-file."},
		{Name: settingAuthMount, Check: checkPath, Doc: "Path at which the auth method is mounted. Absent: the method's name."},
		{Name: settingRole, Doc: "Role to log in as. Needed by kubernetes; for cert, absent means whichever role the certificate fits."},
		{Name: settingRoleIDFile, Check: checkFile, Doc: "For approle: absolute path of the role id."},
		{Name: settingSecretIDFile, Check: checkFile, Doc: "For approle: absolute path of the secret id, which is read at every login."},
		{Name: settingJWTFile, Check: checkFile, Doc: "For kubernetes: absolute path of the service account's token. Absent: where a pod has it."},
		{Name: settingCertFile, Check: checkFile, Doc: "For cert: absolute path of the client certificate, in PEM, which is read at every connection."},
		{Name: settingKeyFile, Check: checkFile, Doc: "For cert: absolute path of its private key."},
		{Name: settingTokenFile, Check: checkFile, Doc: "For token-file: absolute path of a token that something else renews, as an agent does."},
	}
}

// settings are the checked settings.
type settings struct {
	address   string // without a path
	mount     string
	namespace string
	caFile    string
	identity  identitySettings
}

// read checks everything that can be checked without the server.
func read(cfg keystore.Config) (settings, error) {
	cfg, err := cfg.Only(Settings())
	if err != nil {
		return settings{}, err
	}
	get := func(name string) string { return cfg.Settings[name] }
	s := settings{
		address: strings.TrimRight(get(settingAddress), "/"), mount: strings.Trim(get(settingMount), "/"),
		namespace: strings.Trim(get(settingNamespace), "/"), caFile: get(settingCAFile),
	}
	s.identity, err = readIdentity(get)
	return s, err
}

// identitySettings say who the node is. They are apart from the rest, so that
// one server can be used under several identities.
type identitySettings struct {
	auth         string
	mount        string // of the auth method
	role         string
	roleIDFile   string
	secretIDFile string
	jwtFile      string
	certFile     string
	keyFile      string
	tokenFile    string
}

func readIdentity(get func(string) string) (identitySettings, error) {
	id := identitySettings{
		auth: get(settingAuth), mount: strings.Trim(get(settingAuthMount), "/"), role: get(settingRole),
		roleIDFile: get(settingRoleIDFile), secretIDFile: get(settingSecretIDFile), jwtFile: get(settingJWTFile),
		certFile: get(settingCertFile), keyFile: get(settingKeyFile), tokenFile: get(settingTokenFile),
	}
	if id.mount == "" {
		id.mount = id.auth
	}
	var needs, may []string
	switch id.auth {
	case authCert:
		needs, may = []string{settingCertFile, settingKeyFile}, []string{settingRole, settingAuthMount}
	case authAppRole:
		needs, may = []string{settingRoleIDFile, settingSecretIDFile}, []string{settingAuthMount}
	case authKubernetes:
		needs, may = []string{settingRole}, []string{settingJWTFile, settingAuthMount}
		if id.jwtFile == "" {
			id.jwtFile = podToken
		}
	case authTokenFile:
		needs = []string{settingTokenFile}
	}
	for _, name := range []string{settingAuthMount, settingRole, settingRoleIDFile, settingSecretIDFile, settingJWTFile, settingCertFile, settingKeyFile, settingTokenFile} {
		given := get(name) != ""
		switch {
		case slices.Contains(needs, name) && !given:
			return id, fmt.Errorf("auth %s needs the setting %s", id.auth, name)
		case given && !slices.Contains(needs, name) && !slices.Contains(may, name):
			return id, fmt.Errorf("auth %s has no use for the setting %s", id.auth, name)
		}
	}
	return id, nil
}

// checkAddress refuses everything in a URL but the place of a server.
func checkAddress(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return errors.New("want https://host:port")
	}
	return nil
}

// checkPath holds a path to names joined by slashes, none of which could lead out of it.
func checkPath(s string) error {
	for name := range strings.SplitSeq(strings.Trim(s, "/"), "/") {
		if checkName(name) != nil {
			return errors.New("want a path of names of letters, digits and underscores, with dots and dashes inside")
		}
	}
	return nil
}

func checkFile(s string) error {
	if !filepath.IsAbs(s) {
		return errors.New("want an absolute path")
	}
	return nil
}

func checkAuth(s string) error {
	if !slices.Contains([]string{authCert, authAppRole, authKubernetes, authTokenFile}, s) {
		return errors.New("want cert, approle, kubernetes or token-file")
	}
	return nil
}

// checkName holds a name to what the engine itself takes for the name of a key:
// letters, digits and underscores, and dots and dashes inside. So no name is a
// step up, a query or another path.
func checkName(name string) error {
	if name == "" {
		return errors.New("it is empty")
	}
	for i := range len(name) {
		c := name[i]
		word := c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')
		inner := (c == '.' || c == '-') && i != 0 && i != len(name)-1
		if !word && !inner {
			return errors.New("a name has letters, digits and underscores, and dots and dashes inside")
		}
	}
	return nil
}

// Place returns server and namespace as the account. Mounts of one namespace have
// the same administrators, and count as one.
func Place(cfg keystore.Config, _ keystore.KeyRef) keystore.Place {
	u, err := url.Parse(cfg.Settings[settingAddress])
	if err != nil {
		return keystore.Place{}
	}
	at := strings.ToLower(u.Host)
	if ns := strings.Trim(cfg.Settings[settingNamespace], "/"); ns != "" {
		at += "/" + ns
	}
	return keystore.Place{Account: at}
}
