package keystore

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/openkcm/krypton-cluster/internal/clock"
)

// MaxProviders is how many keystores one node can have configured.
const MaxProviders = 64

// maxName is the longest name of a configured keystore, in bytes: a DNS label.
const maxName = 63

// Config is one configured keystore. It is plain text from whatever format the
// program reads; credentials are never in it, only where they are.
type Config struct {
	Name     string            // how bindings, the seal record and logs call it, for good; a DNS label of at most 63 bytes
	Type     string            // a key of [Constructors]
	Settings map[string]string // settings of this type, by name; the constructor refuses those it does not know, see [Config.Only]
}

// Env is what a provider needs of the process. All fields are required.
type Env struct {
	Logger *slog.Logger // for warnings at start and one debug line per call; never secrets
	Rand   io.Reader    // cryptographic randomness
	Clock  clock.Clock
}

// Constructor makes a provider from its configuration. It checks settings and
// local files and makes no call to the keystore: a node starts while a
// keystore is away. It returns a [*Error], mostly [Misconfigured].
type Constructor func(ctx context.Context, env Env, cfg Config) (Provider, error)

// Constructors are the constructors of provider types, by type name.
type Constructors map[string]Constructor

// Registry holds the configured providers by name. Make one with [Open].
type Registry struct {
	providers map[string]Provider
	types     map[string]string // by name
	owned     owned
	close     func() error
}

// Open constructs every configured provider, or none: on the first failure it
// closes those already made and returns a [*Error].
func Open(ctx context.Context, env Env, configs []Config, types Constructors) (*Registry, error) {
	r := &Registry{providers: make(map[string]Provider, len(configs)), types: make(map[string]string, len(configs))}
	r.owned.all, r.owned.idle = map[string]*ownedEntry{}, list.New()
	r.close = sync.OnceValue(r.closeAll)
	fail := func(name string, cause error) (*Registry, error) {
		return nil, errors.Join(NewError(Error{Class: Misconfigured, Provider: name, Op: OpOpen}, cause), r.Close())
	}
	if len(configs) > MaxProviders {
		return fail("*", fmt.Errorf("%d keystores are configured, the limit is %d", len(configs), MaxProviders))
	}
	for _, c := range configs {
		if !validName(c.Name) {
			return fail(c.Name, fmt.Errorf("name %q is not a lower-case label of letters, digits and dashes, at most %d bytes", c.Name, maxName))
		}
		if _, dup := r.providers[c.Name]; dup {
			return fail(c.Name, errors.New("two keystores have this name"))
		}
		construct, ok := types[c.Type]
		if !ok {
			have := strings.Join(slices.Sorted(maps.Keys(types)), ", ")
			return fail(c.Name, fmt.Errorf("type %q is not in this binary; it has: %s", c.Type, have))
		}
		p, err := construct(ctx, env, c)
		if err != nil {
			if _, ok := errors.AsType[*Error](err); ok {
				return nil, errors.Join(err, r.Close())
			}
			return fail(c.Name, err)
		}
		r.providers[c.Name], r.types[c.Name] = p, c.Type
	}
	return r, nil
}

// Get returns the provider of that name, or a [Misconfigured] error: a record
// that names a keystore which this node has not configured.
func (r *Registry) Get(name string) (Provider, error) {
	p, ok := r.providers[name]
	if !ok {
		return nil, NewError(Error{Class: Misconfigured, Provider: name, Op: OpOpen},
			errors.New("no keystore of this name is configured on this node; add it under keystores"))
	}
	return p, nil
}

// Type returns the type of the keystore of that name, or "".
func (r *Registry) Type(name string) string { return r.types[name] }

// Names returns the configured names in order.
func (r *Registry) Names() []string { return slices.Sorted(maps.Keys(r.providers)) }

// Close closes every provider and returns what failed. It is idempotent.
func (r *Registry) Close() error { return r.close() }

func (r *Registry) closeAll() error {
	all := []error{r.owned.close()}
	for _, name := range r.Names() {
		if err := r.providers[name].Close(); err != nil {
			all = append(all, err)
		}
	}
	return errors.Join(all...)
}

func validName(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z'
		inner := (c >= '0' && c <= '9') || (c == '-' && i != len(s)-1)
		if !letter && (i == 0 || !inner) {
			return false
		}
	}
	return true
}
