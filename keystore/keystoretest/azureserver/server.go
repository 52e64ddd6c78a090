package azureserver

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys/fake"
	"github.com/google/uuid"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/wire"
)

// Flavour is what the server is. The zero value is [Vault].
type Flavour int

// The flavours.
const (
	Vault      Flavour = iota // Key Vault, premium: RSA keys
	ManagedHSM                // Managed HSM: RSA and AES keys, all in the HSM
)

// String returns the flavour as documents write it.
func (f Flavour) String() string {
	if f == ManagedHSM {
		return "Managed HSM"
	}
	return "Key Vault"
}

// resource is the audience of the flavour's tokens.
func (f Flavour) resource() string {
	if f == ManagedHSM {
		return "https://managedhsm.azure.net"
	}
	return "https://vault.azure.net"
}

// Options configure [Start]. The zero value is a vault.
type Options struct {
	Flavour Flavour
	// TokenLifetime is how long access tokens are valid; 0 means an hour.
	TokenLifetime time.Duration
}

// Server is a running vault with its Entra ID and metadata service. Make one
// with [Start].
type Server struct {
	flavour  Flavour
	tenant   string
	clock    clock.Clock
	ahead    atomic.Int64 // how far the services' clocks are ahead, in nanoseconds
	lifetime time.Duration

	link               *wire.Proxy // in front of the vault
	http               *wire.HTTP  // what the vault answers
	vault, entra, imds *wire.Server
	login              *wire.HTTP // what Entra ID and the metadata service answer
	microsoft          *fake.ServerTransport
	issuer             *issuer
	kubernetes         *issuer

	closed func() error

	mu         sync.Mutex
	keys       map[string]*key // by lower-case name
	identities map[string]*Identity
	roles      []assignment
	records    []Record
	throttled  bool
	failing    *serviceError // answers every authenticated request when not nil
	generation int           // of the tokens that are accepted
	refuse     *entraError   // answers every token request when not nil
	logins     int
}

// Start starts the three services on free ports of 127.0.0.1. They run until
// [Server.Close] or until ctx ends.
func Start(ctx context.Context, o Options) (*Server, error) {
	s := &Server{
		flavour: o.Flavour, tenant: uuid.NewString(), clock: clock.System{}, lifetime: o.TokenLifetime,
		keys: make(map[string]*key), identities: make(map[string]*Identity),
	}
	if s.lifetime == 0 {
		s.lifetime = time.Hour
	}
	s.microsoft = fake.NewServerTransport(s.handlers())
	var err error
	if s.issuer, err = newIssuer(); err != nil {
		return nil, err
	}
	if s.kubernetes, err = newIssuer(); err != nil {
		return nil, err
	}
	s.http, s.login = wire.NewHTTP(http.HandlerFunc(s.serveVault)), wire.NewHTTP(http.HandlerFunc(s.serveLogin))
	var started []func() error
	s.closed = sync.OnceValue(func() error {
		var all []error
		for _, stop := range slices.Backward(started) {
			all = append(all, stop())
		}
		return errors.Join(all...)
	})
	serve := func(h http.Handler, o wire.Options) *wire.Server { //nolint:contextcheck // It lives until Close.
		if err != nil {
			return nil
		}
		var srv *wire.Server
		if srv, err = wire.Serve(h, o); err == nil {
			started = append(started, srv.Close)
		}
		return srv
	}
	s.vault = serve(s.http, wire.Options{})
	s.entra = serve(s.login, wire.Options{})
	s.imds = serve(s.login, wire.Options{Plain: true})
	if err == nil {
		if s.link, err = wire.NewProxy(s.vault.Addr); err == nil { //nolint:contextcheck // It lives until Close.
			started = append(started, s.link.Close)
		}
	}
	if err != nil {
		return nil, errors.Join(err, s.closed())
	}
	context.AfterFunc(ctx, func() { _ = s.closed() })
	return s, nil
}

// Close stops the services and cuts their connections. It is idempotent.
func (s *Server) Close() error { return s.closed() }

// Flavour returns what the server is.
func (s *Server) Flavour() Flavour { return s.flavour }

// VaultURL returns the base URL of the vault or HSM.
func (s *Server) VaultURL() string { return "https://" + s.link.Addr() }

// AuthorityURL returns the base URL of the Entra ID.
func (s *Server) AuthorityURL() string { return s.entra.URL }

// MetadataURL returns the base URL of the instance metadata service.
func (s *Server) MetadataURL() string { return s.imds.URL }

// Link returns what carries the connections to the vault, to break them.
func (s *Server) Link() *wire.Proxy { return s.link }

// HTTP returns what stands before the vault's answers, to change them.
func (s *Server) HTTP() *wire.HTTP { return s.http }

// Login returns what stands before the answers of Entra ID and the metadata
// service, to change them.
func (s *Server) Login() *wire.HTTP { return s.login }

// Tenant returns the id of the one tenant.
func (s *Server) Tenant() string { return s.tenant }

// CA returns the certificates to trust, in PEM.
func (s *Server) CA() []byte { return append(bytes.Clone(s.vault.CA), s.entra.CA...) }

// Advance moves the clocks of all services ahead of the machine's, so that
// tokens expire at once for them while their holders believe them valid.
func (s *Server) Advance(d time.Duration) { s.ahead.Add(int64(d)) }

func (s *Server) now() time.Time { return s.clock.Now().Add(time.Duration(s.ahead.Load())) }

// Throttle answers every request to the vault with 429 until it is turned off.
func (s *Server) Throttle(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.throttled = on
}

// Answer answers every authenticated request to the vault with this status,
// error code and inner code until it is called with status 0.
func (s *Server) Answer(status int, code, inner string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failing = nil
	if status != 0 {
		s.failing = &serviceError{status: status, code: code, inner: inner, message: "The service was told to answer like this."}
	}
}

// RevokeTokens makes the vault refuse every token that was issued so far, as
// after a revocation of sessions.
func (s *Server) RevokeTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generation++
}
