package awskms

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/openkcm/krypton-cluster/keystore"
)

// Type is this keystore's type in configuration.
const Type = "awskms"

// The settings.
const (
	settingRegion      = "region"
	settingAuth        = "auth"
	settingRole        = "role_arn"
	settingTokenFile   = "token_file"
	settingCredentials = "credentials_file"
	settingAssumeRole  = "assume_role_arn"
	settingExternalID  = "external_id"
	settingSession     = "session_name"
	settingEndpoint    = "endpoint"
	settingSTS         = "sts_endpoint"
	settingIMDS        = "imds_endpoint"
	settingCA          = "ca_file"
)

// The identities.
const (
	authWebIdentity = "web-identity"
	authIMDS        = "imds"
	authStaticFile  = "static-file"
)

const (
	// requestTime is the longest time of one request. A caller's deadline is
	// shorter (package guard); a login goes on without the caller who began it.
	requestTime = 10 * time.Second
	// metadataTime is that of one request of the metadata service, which is on
	// the machine's own link. It is short, so that a caller still learns why.
	metadataTime = time.Second
)

// Settings are the settings of this type.
func Settings() []keystore.Setting {
	return []keystore.Setting{
		{Name: settingRegion, Required: true, Check: matching(regionForm, "the name of a region"), Doc: "Region of the keys, `eu-central-1`. A key reference that names another one is refused."},
		{Name: settingAuth, Required: true, Check: checkAuth, Doc: "Which identity: `web-identity` (a token file is exchanged for a role's credentials), `imds` (the role of the EC2 instance) or `static-file` (keys of a user)."},
		{Name: settingRole, Check: matching(roleForm, "the ARN of a role"), Doc: "`web-identity`: ARN of the role that the token is exchanged for."},
		{Name: settingTokenFile, Check: checkPath, Doc: "`web-identity`: absolute path of the token; it is read anew for every login."},
		{Name: settingCredentials, Check: checkPath, Doc: "`static-file`: absolute path of a file with one profile, as the AWS CLI has it; others must not be able to read or write it."},
		{Name: settingAssumeRole, Check: matching(roleForm, "the ARN of a role"), Doc: "ARN of a role to assume with the identity above, for instance one of the customer's account."},
		{Name: settingExternalID, Check: matching(externalForm, "2 to 1000 letters, digits and +=,.@:/_-"), Doc: "External id that the trust policy of `assume_role_arn` asks for."},
		{Name: settingSession, Default: "krypton", Check: matching(sessionForm, "2 to 64 letters, digits and +=,.@_-"), Doc: "Session name of roles: the last part of the principal in CloudTrail. One for each region or cluster tells them apart."},
		{Name: settingEndpoint, Check: checkHTTPS, Doc: "Base URL of KMS, https; for a VPC endpoint or `https://kms-fips.REGION.amazonaws.com`. Empty: the region's."},
		{Name: settingSTS, Check: checkHTTPS, Doc: "Base URL of STS, https. Empty: the region's."},
		{Name: settingIMDS, Default: "http://169.254.169.254", Check: checkIMDS, Doc: "`imds`: base URL of the instance metadata service."},
		{Name: settingCA, Check: checkPath, Doc: "Absolute path of certificates to verify KMS and STS with, PEM. Empty: those of the system."},
	}
}

func matching(form *regexp.Regexp, what string) func(string) error {
	return func(v string) error {
		if !form.MatchString(v) {
			return errors.New("want " + what)
		}
		return nil
	}
}

func checkAuth(v string) error {
	if v != authWebIdentity && v != authIMDS && v != authStaticFile {
		return fmt.Errorf("want %s, %s or %s", authWebIdentity, authIMDS, authStaticFile)
	}
	return nil
}

func checkPath(v string) error {
	if !filepath.IsAbs(v) {
		return errors.New("want an absolute path")
	}
	return nil
}

func checkHTTPS(v string) error { return checkURL(v, "https") }

// checkIMDS also takes http: the metadata service is on the machine's own link.
func checkIMDS(v string) error { return checkURL(v, "http", "https") }

// checkURL wants a base URL.
func checkURL(text string, schemes ...string) error {
	u, err := url.Parse(text)
	if err != nil || !slices.Contains(schemes, u.Scheme) || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("want %s://HOST and nothing behind it", strings.Join(schemes, ":// or "))
	}
	return nil
}

// settings are parsed settings.
type settings struct {
	region, partition              string
	auth                           string
	role, tokenFile                string
	credentials                    string
	assumeRole, externalID         string
	account                        string // of keys, where a tenant's role decides it; empty: any
	session                        string
	endpoint, stsEndpoint, imdsURL string
	roots                          *x509.CertPool // nil: the system's
	timeout                        time.Duration  // of one request
}

var (
	regionForm   = regexp.MustCompile(`^[a-z]{2,4}(-[a-z]+){1,2}-[0-9]{1,2}$`)
	roleForm     = regexp.MustCompile(`^arn:(aws[a-z-]*):iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]{1,576}$`)
	sessionForm  = regexp.MustCompile(`^[A-Za-z0-9+=,.@_-]{2,64}$`)
	externalForm = regexp.MustCompile(`^[A-Za-z0-9+=,.@:/_-]{2,1000}$`)
)

func parseSettings(cfg keystore.Config) (settings, error) {
	cfg, err := cfg.Only(Settings())
	if err != nil {
		return settings{}, err
	}
	get := func(name string) string { return cfg.Settings[name] }
	s := settings{
		region: get(settingRegion), auth: get(settingAuth), role: get(settingRole), tokenFile: get(settingTokenFile),
		credentials: get(settingCredentials), assumeRole: get(settingAssumeRole), externalID: get(settingExternalID), session: get(settingSession),
		endpoint: get(settingEndpoint), stsEndpoint: get(settingSTS), imdsURL: get(settingIMDS), timeout: requestTime,
	}
	s.partition = partitionOf(s.region)
	if err := s.checkIdentity(); err != nil {
		return settings{}, err
	}
	if path := get(settingCA); path != "" {
		s.roots, err = readRoots(path)
	}
	return s, err
}

// checkIdentity refuses settings of another identity than the one that is
// configured: who writes them believes that they are used.
func (s settings) checkIdentity() error {
	of := map[string][]string{
		authWebIdentity: {settingRole, settingTokenFile},
		authIMDS:        nil,
		authStaticFile:  {settingCredentials},
	}
	for name, value := range map[string]string{settingRole: s.role, settingTokenFile: s.tokenFile, settingCredentials: s.credentials} {
		needed := slices.Contains(of[s.auth], name)
		switch {
		case needed && value == "":
			return fmt.Errorf("%s is empty; %s %s needs it", name, settingAuth, s.auth)
		case !needed && value != "":
			return fmt.Errorf("%s is not a setting of %s %s", name, settingAuth, s.auth)
		}
	}
	for name, value := range map[string]string{settingRole: s.role, settingAssumeRole: s.assumeRole} {
		if m := roleForm.FindStringSubmatch(value); m != nil && m[1] != s.partition {
			return fmt.Errorf("%s %q is of another partition than %s, which %s is in", name, value, s.partition, s.region)
		}
	}
	if s.externalID != "" && s.assumeRole == "" {
		return fmt.Errorf("%s needs %s", settingExternalID, settingAssumeRole)
	}
	return nil
}

func readRoots(path string) (*x509.CertPool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", settingCA, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s %s has no certificate", settingCA, path)
	}
	return pool, nil
}

// maxAnswer is above the longest answer of KMS and STS, in bytes.
const maxAnswer = 256 << 10

// newTransport makes connections. There is no proxy: who configures a node says
// in its settings whom it speaks to. HTTP/1.1 only, which is what KMS speaks.
func (s settings) newTransport() *http.Transport {
	return &http.Transport{
		Proxy:               nil, // I1
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: s.roots},
		TLSHandshakeTimeout: s.timeout,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     50 * time.Second,
		// AWS sends no such headers; a stream of them is not read.
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// newClient makes an HTTP client that does one request for one call (I5). A
// redirect would carry a secret to wherever an answer points.
func newClient(t http.RoundTripper) *http.Client {
	return &http.Client{
		Transport:     bounded{t},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// bounded ends answers that are too long.
type bounded struct{ next http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := b.next.RoundTrip(r)
	if err == nil {
		res.Body = http.MaxBytesReader(nil, res.Body, maxAnswer)
	}
	return res, err
}

// partitionOf returns the partition of a region, as ARNs have it.
func partitionOf(region string) string {
	for _, p := range []struct{ prefix, partition string }{
		{"cn-", "aws-cn"},
		{"us-gov-", "aws-us-gov"},
		{"us-iso-", "aws-iso"},
		{"us-isob-", "aws-iso-b"},
		{"eu-isoe-", "aws-iso-e"},
		{"us-isof-", "aws-iso-f"},
		{"eusc-", "aws-eusc"},
	} {
		if strings.HasPrefix(region, p.prefix) {
			return p.partition
		}
	}
	return "aws"
}

var (
	keyIDForm = regexp.MustCompile(`^(mrk-[0-9a-f]{32}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$`)
	aliasForm = regexp.MustCompile(`^alias/[A-Za-z0-9/_-]{1,250}$`)
	arnForm   = regexp.MustCompile(`^arn:(aws[a-z-]*):kms:([a-z0-9-]+):([0-9]{12}):(.+)$`)
)

// checkRef refuses what is not a key's ARN, id or alias of the configured
// region (I1). keyID is the id, where the reference has it.
func (s settings) checkRef(ref keystore.KeyRef) (keyID string, err error) {
	name := string(ref)
	if m := arnForm.FindStringSubmatch(name); m != nil {
		if m[1] != s.partition || m[2] != s.region {
			return "", fmt.Errorf("the ARN is of %s in partition %s, and this keystore of %s in %s; of a multi-Region key, name the replica that is here", m[2], m[1], s.region, s.partition)
		}
		if s.account != "" && m[3] != s.account {
			return "", errors.New("the ARN is of another account than the tenant's role")
		}
		name = m[4]
		if id, isKey := strings.CutPrefix(name, "key/"); isKey {
			name = id
		} else if !aliasForm.MatchString(name) {
			return "", errRef
		}
	}
	switch {
	case keyIDForm.MatchString(name):
		return name, nil
	case aliasForm.MatchString(name):
		return "", nil
	}
	return "", errRef
}

var errRef = errors.New("the key reference is neither the ARN of a key or alias, nor a key id, nor alias/NAME")

// Place returns account and region of a key: those of its ARN, or else the
// account of the role that this keystore uses, which is where a bare id or alias
// is looked up, and the configured region.
func Place(cfg keystore.Config, key keystore.KeyRef) keystore.Place {
	if m := arnForm.FindStringSubmatch(string(key)); m != nil {
		return keystore.Place{Account: m[3], Region: m[2]}
	}
	at := keystore.Place{Region: cfg.Settings[settingRegion]}
	for _, role := range []string{cfg.Settings[settingAssumeRole], cfg.Settings[settingRole]} {
		if m := roleForm.FindStringSubmatch(role); m != nil {
			at.Account = strings.Split(role, ":")[4] // the form has it
			break
		}
	}
	return at
}
