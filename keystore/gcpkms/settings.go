package gcpkms

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/openkcm/krypton-cluster/keystore"
)

// Type is this keystore's type in configuration.
const Type = "gcpkms"

// The settings.
const (
	settingEndpoint    = "endpoint"
	settingProject     = "project"
	settingLocation    = "location"
	settingAuth        = "auth"
	settingAudience    = "audience"
	settingTokenFile   = "token_file"
	settingSTS         = "sts_endpoint"
	settingImpersonate = "impersonate"
	settingIAM         = "iam_endpoint"
	settingMetadata    = "metadata_host"
	settingKeyFile     = "credentials_file"
	settingToken       = "token_endpoint"
	settingCA          = "ca_file"
)

// The ways to an identity.
const (
	authMetadata   = "metadata"
	authFederation = "federation"
	authKeyFile    = "service-account-file"
)

// Settings describes what [New] reads.
func Settings() []keystore.Setting {
	return []keystore.Setting{
		{Name: settingAuth, Check: checkWay, Required: true, Doc: "Which identity: `metadata` (the service account of this machine or pod), `federation` (a token of another identity provider is exchanged) or `service-account-file` (a key file of a service account; the weakest of the three, as the key does not expire)."},
		{Name: settingEndpoint, Check: checkHostPort, Default: "cloudkms.googleapis.com:443", Doc: "Host and port of the key service, for instance that of one region: `cloudkms.europe-west3.rep.googleapis.com:443`."},
		{Name: settingProject, Check: checkProject, Doc: "The only project whose keys may be named. Absent: any project that the identity may use."},
		{Name: settingLocation, Check: checkLocation, Doc: "The only location whose keys may be named. Absent: any."},
		{Name: settingAudience, Doc: "For `federation`: the full name of the workload identity provider, `//iam.googleapis.com/projects/N/locations/global/workloadIdentityPools/POOL/providers/PROVIDER`."},
		{Name: settingTokenFile, Check: checkPath, Doc: "For `federation`: the path of the token of the other identity provider. It is read anew for every exchange."},
		{Name: settingSTS, Check: checkURL, Default: "https://sts.googleapis.com/v1/token", Doc: "For `federation`: URL of the security token service."},
		{Name: settingImpersonate, Check: checkEmail, Doc: "E-mail of a service account to act as, with any `auth`. Absent: the identity acts as itself."},
		{Name: settingIAM, Check: checkURL, Default: "https://iamcredentials.googleapis.com", Doc: "For `impersonate`: URL of the IAM credentials service."},
		{Name: settingMetadata, Check: checkHost, Default: "169.254.169.254", Doc: "For `metadata`: host, or host and port, of the metadata server."},
		{Name: settingKeyFile, Check: checkPath, Doc: "For `service-account-file`: the path of the key file, not readable for others. It is read anew for every token."},
		{Name: settingToken, Check: checkURL, Default: "https://oauth2.googleapis.com/token", Doc: "For `service-account-file`: URL of the token endpoint. The one in the key file has to be the same."},
		{Name: settingCA, Check: checkPath, Doc: "Certificates to trust in place of the system's, for the key service and the token services, as PEM."},
	}
}

// Endpoint returns the URL that a provider of these settings talks to.
func Endpoint(c keystore.Config) string {
	c, err := c.Only(Settings())
	if err != nil {
		return ""
	}
	return "https://" + c.Settings[settingEndpoint]
}

// options are the settings, checked.
type options struct {
	endpoint          string
	project, location string
	auth              string
	audience          string
	tokenFile         string
	stsURL            string
	impersonate       string
	iamURL            string
	metadataURL       string
	keyFile           string
	tokenURL          string
	tls               *tls.Config
}

// read makes options of the settings. It opens local files and makes no call.
func read(c keystore.Config) (options, error) {
	c, err := c.Only(Settings())
	if err != nil {
		return options{}, err
	}
	s := c.Settings
	o := options{
		endpoint: s[settingEndpoint], project: s[settingProject], location: s[settingLocation], auth: s[settingAuth],
		audience: s[settingAudience], tokenFile: s[settingTokenFile], stsURL: s[settingSTS],
		impersonate: s[settingImpersonate], iamURL: strings.TrimSuffix(s[settingIAM], "/"),
		metadataURL: "http://" + s[settingMetadata], keyFile: s[settingKeyFile], tokenURL: s[settingToken],
	}
	if err := o.checkAuth(c); err != nil {
		return options{}, err
	}
	o.tls, err = trust(s[settingCA])
	return o, err
}

// checkAuth refuses a setting that the chosen way to an identity would not
// read: whoever wrote it expects it to count.
func (o options) checkAuth(c keystore.Config) error {
	for _, of := range [][2]string{{settingAudience, authFederation}, {settingTokenFile, authFederation}, {settingKeyFile, authKeyFile}} {
		name, auth := of[0], of[1]
		value := c.Settings[name]
		switch {
		case auth == o.auth && value == "":
			return fmt.Errorf("%s %q needs %s", settingAuth, o.auth, name)
		case auth != o.auth && value != "":
			return fmt.Errorf("%s is for %s %q, and it is %q", name, settingAuth, auth, o.auth)
		}
	}
	return nil
}

// What values have to be.

func checkWay(v string) error {
	switch v {
	case authMetadata, authFederation, authKeyFile:
		return nil
	}
	return fmt.Errorf("want %s, %s or %s", authMetadata, authFederation, authKeyFile)
}

func checkHostPort(v string) error {
	if host, port, err := net.SplitHostPort(v); err != nil || host == "" || port == "" || strings.ContainsAny(v, "/@?#") {
		return errors.New("want a host and port, as cloudkms.googleapis.com:443")
	}
	return nil
}

func checkHost(v string) error {
	if u, err := url.Parse("http://" + v); err != nil || u.Host != v || u.Hostname() == "" {
		return errors.New("want a host, or host and port")
	}
	return nil
}

func checkProject(v string) error {
	if !validID(v, ".:") {
		return errors.New("want the id or number of a project")
	}
	return nil
}

func checkLocation(v string) error {
	if !validID(v, "") {
		return errors.New("want a location, as europe-west3")
	}
	return nil
}

func checkPath(v string) error {
	if !filepath.IsAbs(v) {
		return errors.New("want an absolute path")
	}
	return nil
}

func checkURL(v string) error {
	if u, err := url.Parse(v); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("want an https URL without credentials, query and fragment")
	}
	return nil
}

func checkEmail(v string) error {
	if strings.Count(v, "@") != 1 || strings.ContainsAny(v, "/:?#% ") {
		return errors.New("want the e-mail of a service account")
	}
	return nil
}

// trust makes the TLS configuration of all connections.
func trust(caFile string) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS13}
	if caFile == "" {
		return conf, nil
	}
	text, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	conf.RootCAs = x509.NewCertPool()
	if !conf.RootCAs.AppendCertsFromPEM(text) {
		return nil, errors.New(settingCA + " has no certificate")
	}
	return conf, nil
}
