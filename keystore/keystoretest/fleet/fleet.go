//go:build unix

package fleet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/openkcm/krypton-cluster/keystore/keystoretest/awsserver"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/azureserver"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/hsm"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/vaultserver"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/wire"
)

// Names of the stores, as a node's configuration has them.
const (
	HSM     = "hsm"
	Transit = "transit"
	AWS     = "aws"
	Azure   = "azure"
)

// key is the name of the one key in stores where keys have names.
const key = "masterkey"

// tokenLife is how long the tokens of the platforms live: longer than any test.
const tokenLife = 12 * time.Hour

// Store is one keystore with its key.
type Store struct {
	Name     string
	Type     string            // as keystores[].type has it
	Settings map[string]string // as keystores[] has them, besides name and type
	Key      string            // reference of its key

	cut  func() (heal func() error, err error)
	heal func() error // nil while it answers
	wire *wire.Proxy  // nil: there is no network between
}

// Section returns the store as a node's configuration file has it.
func (s *Store) Section() map[string]any {
	out := map[string]any{"name": s.Name, "type": s.Type}
	for k, v := range s.Settings {
		out[k] = v
	}
	return out
}

// Down cuts the store off until [Store.Up]. It is idempotent.
func (s *Store) Down() (err error) {
	if s.heal == nil {
		s.heal, err = s.cut()
	}
	return err
}

// Slow makes answers come d later until [Store.Up], as over a distance. A token
// has no network and stays as it is.
func (s *Store) Slow(d time.Duration) {
	if s.heal == nil && s.wire != nil {
		s.heal = s.wire.Slow(d)
	}
}

// Up brings the store back. It is idempotent.
func (s *Store) Up() error {
	if s.heal == nil {
		return nil
	}
	heal := s.heal
	s.heal = nil
	return heal()
}

// Options say how to start a fleet.
type Options struct {
	Dir      string // an empty directory of the caller, for all that the stores keep; required
	Programs string // a directory with the programs of [hsm.Build]; required
}

// Fleet is one store of each kind.
type Fleet struct {
	dir     string
	stores  []*Store
	closers []func() error
}

// Start starts the stores. ctx bounds the start and not their life.
func Start(ctx context.Context, o Options) (*Fleet, error) {
	f := &Fleet{dir: o.Dir}
	for _, start := range []struct {
		name string
		of   func(context.Context, Options, string) (*Store, error)
	}{{HSM, f.startHSM}, {Transit, f.startTransit}, {AWS, f.startAWS}, {Azure, f.startAzure}} {
		dir := filepath.Join(o.Dir, start.name)
		err := os.Mkdir(dir, 0o700)
		var s *Store
		if err == nil {
			s, err = start.of(ctx, o, dir)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("start the keystore %s: %w", start.name, err), f.Close())
		}
		s.Name = start.name
		f.stores = append(f.stores, s)
	}
	return f, nil
}

// Stores returns all stores, always in the same order: token, Transit, AWS, Azure.
func (f *Fleet) Stores() []*Store { return append([]*Store(nil), f.stores...) }

// Store returns the store of that name, or nil.
func (f *Fleet) Store(name string) *Store {
	for _, s := range f.stores {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// Sections returns all stores as a node's configuration file has them.
func (f *Fleet) Sections() []map[string]any {
	var out []map[string]any
	for _, s := range f.stores {
		out = append(out, s.Section())
	}
	return out
}

// Close stops everything. It is idempotent.
func (f *Fleet) Close() error {
	var all []error
	for _, stop := range slices.Backward(f.closers) {
		all = append(all, stop())
	}
	f.closers = nil
	return errors.Join(all...)
}

func (f *Fleet) onClose(fn func() error) { f.closers = append(f.closers, fn) }

func (f *Fleet) startHSM(ctx context.Context, o Options, dir string) (*Store, error) {
	token, err := hsm.Start(ctx, hsm.Options{Dir: dir, Programs: o.Programs})
	if err != nil {
		return nil, err
	}
	f.onClose(token.Close)
	if err := token.NewAES(ctx, key, hsm.All); err != nil {
		return nil, err
	}
	return &Store{Type: "pkcs11", Settings: token.Settings(), Key: key, cut: token.Remove}, nil
}

// transitPolicy is what docs/keystores/transit.md gives a node for one key.
const transitPolicy = `
path "transit/encrypt/masterkey" { capabilities = ["update"] }
path "transit/decrypt/masterkey" { capabilities = ["update"] }
path "transit/keys/masterkey" { capabilities = ["read"] }
`

func (f *Fleet) startTransit(ctx context.Context, _ Options, dir string) (*Store, error) {
	const mount, login, role = "transit", "approle", "krypton"
	vault, err := vaultserver.Start(ctx, vaultserver.Options{Dir: dir})
	if err != nil {
		return nil, err
	}
	f.onClose(vault.Close)
	roleID, secretID := filepath.Join(dir, "role-id"), filepath.Join(dir, "secret-id")
	var id, secret string
	for _, step := range []func() error{
		func() error { return vault.Mount(ctx, mount) },
		func() error { return vault.CreateKey(ctx, mount, key, "aes256-gcm96") },
		func() error { return vault.Policy(ctx, role, transitPolicy) },
		func() error { return vault.EnableAuth(ctx, login, "approle") },
		func() (err error) {
			id, err = vault.AppRole(ctx, login, role, map[string]any{"token_policies": role, "token_no_default_policy": true, "token_ttl": "20m"})
			return err
		},
		func() error { return os.WriteFile(roleID, []byte(id), 0o600) },
		func() (err error) { secret, err = vault.SecretID(ctx, login, role); return err },
		func() error { return os.WriteFile(secretID, []byte(secret), 0o600) },
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	proxy, ca, err := f.front(vault, dir) //nolint:contextcheck // It outlives the start.
	if err != nil {
		return nil, err
	}
	return &Store{
		Type: "transit", Key: key, wire: proxy, cut: refuse(proxy),
		Settings: map[string]string{
			"address": "https://" + proxy.Addr(), "mount": mount, "ca_file": ca, "auth": "approle", "auth_mount": login,
			"role_id_file": roleID, "secret_id_file": secretID,
		},
	}, nil
}

// front puts something before the server that can be cut off. The server's
// certificate is for its own address: the front has one of its own.
func (f *Fleet) front(vault *vaultserver.Server, dir string) (proxy *wire.Proxy, caFile string, err error) {
	target, err := url.Parse(vault.URL)
	if err != nil {
		return nil, "", err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(vault.Clients.PEM())
	rt := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}}
	f.onClose(func() error { rt.CloseIdleConnections(); return nil })
	server, err := wire.Serve(wire.Forward(target, rt), wire.Options{})
	if err != nil {
		return nil, "", err
	}
	f.onClose(server.Close)
	if proxy, err = wire.NewProxy(server.Addr); err != nil {
		return nil, "", err
	}
	f.onClose(proxy.Close)
	caFile = filepath.Join(dir, "front.pem")
	return proxy, caFile, os.WriteFile(caFile, server.CA, 0o600)
}

func (f *Fleet) startAWS(ctx context.Context, _ Options, dir string) (*Store, error) {
	const subject, audience = "system:serviceaccount:krypton:node", "sts.amazonaws.com"
	aws, err := awsserver.Start(ctx, awsserver.Options{})
	if err != nil {
		return nil, err
	}
	f.onClose(aws.Close)
	arn, err := aws.CreateKey(ctx)
	if err != nil {
		return nil, err
	}
	role, err := aws.AddRole(awsserver.Role{Name: "krypton-eu", WebIdentity: subject, Audience: audience})
	if err != nil {
		return nil, err
	}
	token, err := aws.WebIdentityToken(subject, audience, tokenLife)
	if err != nil {
		return nil, err
	}
	tokenFile := filepath.Join(dir, "token")
	if err := os.WriteFile(tokenFile, []byte(token+"\n"), 0o600); err != nil {
		return nil, err
	}
	return &Store{
		Type: "awskms", Key: arn, wire: aws.KMS().Proxy, cut: refuse(aws.KMS().Proxy),
		Settings: map[string]string{
			"region": aws.Region(), "endpoint": aws.KMS().URL, "sts_endpoint": aws.STS().URL, "ca_file": aws.CAFile(),
			"auth": "web-identity", "role_arn": role, "token_file": tokenFile, "session_name": "krypton",
		},
	}, nil
}

func (f *Fleet) startAzure(ctx context.Context, _ Options, dir string) (*Store, error) {
	azure, err := azureserver.Start(ctx, azureserver.Options{Flavour: azureserver.Vault})
	if err != nil {
		return nil, err
	}
	f.onClose(azure.Close)
	if err := azure.CreateRSA(key, 2048); err != nil {
		return nil, err
	}
	id := azure.AddWorkload("system:serviceaccount:krypton:node")
	azure.Assign(id, azure.EncryptionUser(), key)
	token, err := azure.FederatedToken(id, tokenLife)
	if err != nil {
		return nil, err
	}
	tokenFile, ca := filepath.Join(dir, "token"), filepath.Join(dir, "ca.pem")
	if err := errors.Join(os.WriteFile(tokenFile, []byte(token+"\n"), 0o600), os.WriteFile(ca, azure.CA(), 0o600)); err != nil {
		return nil, err
	}
	return &Store{
		Type: "azurekv", Key: key, wire: azure.Link(), cut: refuse(azure.Link()),
		Settings: map[string]string{
			"vault": azure.VaultURL(), "auth": "workload", "tenant_id": azure.Tenant(), "client_id": id.ClientID, "token_file": tokenFile,
			"authority": azure.AuthorityURL(), "ca_file": ca, "challenge_resource": "unverified",
		},
	}, nil
}

func refuse(p *wire.Proxy) func() (func() error, error) {
	return func() (func() error, error) { return p.Refuse(), nil }
}
