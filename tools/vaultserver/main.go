// Vaultserver is a Vault server for tests: the core of HashiCorp Vault with its
// storage in memory, served over TLS on a loopback port, with the transit secrets
// engine and the approle, cert and kubernetes auth methods. It is initialised and
// unsealed when it says where it listens; everything else, also sealing it, is done
// over Vault's own API.
//
// It is a module of its own, used by tests only: Vault is under the Business Source
// License 1.1, so nothing of it may be linked into or shipped with Krypton. Package
// keystore/keystoretest/vaultserver starts the program; scripts/tool builds it.
//
// It prints one line when it is ready, and ends when its standard input does, so
// that it never outlives who started it.
package main

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"
	authkubernetes "github.com/hashicorp/vault-plugin-auth-kubernetes"
	"github.com/hashicorp/vault/audit"
	authapprole "github.com/hashicorp/vault/builtin/credential/approle"
	authcert "github.com/hashicorp/vault/builtin/credential/cert"
	"github.com/hashicorp/vault/builtin/logical/transit"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

// state is what the program tells about itself, as JSON in a file of mode 0600.
type state struct {
	Address   string `json:"address"`    // https://127.0.0.1:PORT
	RootToken string `json:"root_token"` // may do everything
	UnsealKey string `json:"unseal_key"` // the one share, in base64 as sys/unseal takes it
	Version   string `json:"version"`    // of Vault
}

// version is that of the module in go.mod; the test of the starting package
// compares it with what the server says.
const version = "1.21.0"

func main() {
	certFile := flag.String("cert", "", "certificate of the server, PEM")
	keyFile := flag.String("key", "", "its private key, PEM")
	stateFile := flag.String("state", "", "where to write address, root token and unseal key when the server is ready")
	flag.Parse()
	if err := run(*certFile, *keyFile, *stateFile); err != nil {
		fmt.Fprintln(os.Stderr, "vaultserver:", err)
		os.Exit(1)
	}
}

func run(certFile, keyFile, stateFile string) error {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return err
	}
	// Vault logs errors of requests; its tests' refusals are no news.
	logger := hclog.New(&hclog.LoggerOptions{Output: os.Stderr, Level: hclog.Warn})
	storage, err := inmem.NewInmem(nil, logger)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := "https://" + listener.Addr().String()
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical:           storage,
		StorageType:        "inmem",
		Logger:             logger,
		DisableMlock:       true,
		RedirectAddr:       address,
		BuiltinRegistry:    builtins{},
		AuditBackends:      map[string]audit.Factory{audit.TypeFile: audit.NewFileBackend},
		LogicalBackends:    map[string]logical.Factory{"transit": transit.Factory},
		CredentialBackends: credentials,
	})
	if err != nil {
		return err
	}
	ctx := context.Background()
	// One share: the server protects nothing, and to seal and unseal it is what tests need.
	initial, err := core.Initialize(ctx, &vault.InitParams{
		BarrierConfig:  &vault.SealConfig{SecretShares: 1, SecretThreshold: 1, StoredShares: 1},
		RecoveryConfig: &vault.SealConfig{},
	})
	if err != nil {
		return fmt.Errorf("initialise: %w", err)
	}
	if len(initial.SecretShares) != 1 {
		return fmt.Errorf("initialise: %d shares", len(initial.SecretShares))
	}
	share := initial.SecretShares[0]
	// Unseal wipes what it is given.
	unsealKey := base64.StdEncoding.EncodeToString(share)
	if _, err := core.Unseal(share); err != nil {
		return fmt.Errorf("unseal: %w", err)
	}

	server := &http.Server{
		Handler: vaulthttp.Handler.Handler(&vault.HandlerProperties{
			Core:           core,
			ListenerConfig: &configutil.Listener{Type: "tcp", Address: listener.Addr().String()},
		}),
		// A client certificate is what the cert method looks at; it decides who is known.
		TLSConfig: &tls.Config{
			Certificates: []tls.Certificate{pair},
			ClientAuth:   tls.RequestClientCert,
			MinVersion:   tls.VersionTLS12,
		},
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          logger.StandardLogger(nil),
	}
	served := make(chan error, 1)
	go func() { served <- server.ServeTLS(listener, "", "") }()
	parentGone := make(chan struct{})
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); close(parentGone) }()

	if err := writeState(stateFile, state{address, initial.RootToken, unsealKey, version}); err != nil {
		return err
	}
	fmt.Println("ready")
	select {
	case err := <-served:
		return err
	case <-parentGone:
		// Nothing in memory is worth an orderly end.
		return server.Close()
	}
}

// writeState makes the file appear whole.
func writeState(path string, s state) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	part := filepath.Clean(path) + ".part"
	if err := os.WriteFile(part, b, 0o600); err != nil {
		return err
	}
	return os.Rename(part, path)
}

var credentials = map[string]logical.Factory{
	"approle":    authapprole.Factory,
	"cert":       authcert.Factory,
	"kubernetes": authkubernetes.Factory,
}

// builtins is the list of plugins that Vault's catalogue asks: the whole list
// would link every database and cloud SDK.
type builtins struct{}

func (builtins) factory(name string, t consts.PluginType) (logical.Factory, bool) {
	if t == consts.PluginTypeSecrets && name == "transit" {
		return transit.Factory, true
	}
	f, ok := credentials[name]
	return f, ok && t == consts.PluginTypeCredential
}

func (b builtins) Contains(name string, t consts.PluginType) bool {
	_, ok := b.factory(name, t)
	return ok
}

func (b builtins) Get(name string, t consts.PluginType) (func() (any, error), bool) {
	f, ok := b.factory(name, t)
	return func() (any, error) { return f, nil }, ok
}

func (b builtins) Keys(t consts.PluginType) []string {
	var names []string
	for _, name := range []string{"approle", "cert", "kubernetes", "transit"} {
		if b.Contains(name, t) {
			names = append(names, name)
		}
	}
	return slices.Clip(names)
}

func (b builtins) DeprecationStatus(name string, t consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, b.Contains(name, t)
}

func (builtins) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
