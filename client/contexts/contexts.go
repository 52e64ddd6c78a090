// Package contexts keeps the clusters that a person works with, in a file of theirs.
//
// The command line writes the file (krypton context set), and programs can use
// what stands in it:
//
//	c, err := client.New(ctx, contexts.Use("prod"))
//
// It is a package of its own because it needs a YAML decoder, which the client
// does without.
//
// # Invariants
//
//   - I1: a file that others may read or write is refused: it says which cluster a person's next command goes to.
//   - I2: a file is replaced as a whole or not at all, with mode 0600.
//   - I3: a field that this version does not know is an error and is never dropped.
//
// # Concurrency
//
// A File is used by one goroutine. Two commands that write at once: the last wins.
//
// # Failure
//
// Every error is of code INVALID_CONFIG and names the file.
//
// # Source
//
// docs/contract.md (ENV): $XDG_CONFIG_HOME/krypton/contexts.yaml; XDG Base Directory Specification.
package contexts

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"gopkg.in/yaml.v3"

	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// maxFile bounds what Load reads, in bytes.
const maxFile = 1 << 20

// Context is one cluster and the identity with which to speak to it. An empty
// field is left to the environment, the flags and the defaults.
type Context struct {
	Addr      []string `yaml:"addr,omitempty" json:"addr"`
	CAFile    string   `yaml:"ca_file,omitempty" json:"caFile"`
	CertFile  string   `yaml:"cert_file,omitempty" json:"certFile"`
	KeyFile   string   `yaml:"key_file,omitempty" json:"keyFile"`
	TokenFile string   `yaml:"token_file,omitempty" json:"tokenFile"`
	SignKey   string   `yaml:"sign_key,omitempty" json:"signKey"`    // file or agent:NAME; empty: KeyFile
	Keyspace  string   `yaml:"keyspace,omitempty" json:"keyspaceId"` // for which its person signs, 32 hex digits; empty: not known yet
	Tenant    string   `yaml:"tenant,omitempty" json:"tenant"`
	Service   string   `yaml:"service,omitempty" json:"service"`
	Output    string   `yaml:"output,omitempty" json:"output"`
}

// File is all contexts of a person. Load one, change it, Save it.
type File struct {
	Current  string             `yaml:"current,omitempty"`
	Contexts map[string]Context `yaml:"contexts,omitempty"`

	path string
}

// Path returns where the file is: $XDG_CONFIG_HOME/krypton/contexts.yaml, or
// ~/.config/krypton/contexts.yaml. getenv is os.Getenv.
func Path(getenv func(string) string) (string, error) {
	dir := getenv("XDG_CONFIG_HOME")
	if dir == "" || !filepath.IsAbs(dir) { // the specification says to ignore a relative one
		home, err := os.UserHomeDir()
		if err != nil {
			return "", errs.New(errs.InvalidConfig, "no home directory is known", errs.Hint("set XDG_CONFIG_HOME"), errs.Cause(err))
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "krypton", "contexts.yaml"), nil
}

// Use returns the options of a context, for [client.New]: addresses and files.
// With an empty name it is the context that KRYPTON_CONTEXT names, or else the
// current one. What the context has goes before the environment, because it was
// asked for in code; what it leaves empty stays as it was, but that the token of the
// environment does not stand in for the certificate of a context. An error is returned
// by client.New, with code INVALID_CONFIG.
func Use(name string) func(*client.Options) {
	return func(o *client.Options) {
		c, err := find(name, os.Getenv)
		if err != nil {
			o.Fail(err)
			return
		}
		if len(c.Addr) > 0 {
			o.Addrs = slices.Clone(c.Addr)
		}
		o.CAFile, o.CertFile, o.KeyFile = cmp.Or(c.CAFile, o.CAFile), cmp.Or(c.CertFile, o.CertFile), cmp.Or(c.KeyFile, o.KeyFile)
		o.TokenFile = cmp.Or(c.TokenFile, o.TokenFile)
	}
}

func find(name string, getenv func(string) string) (Context, error) {
	path, err := Path(getenv)
	if err != nil {
		return Context{}, err
	}
	f, err := Load(path)
	if err != nil {
		return Context{}, err
	}
	if name = cmp.Or(name, getenv("KRYPTON_CONTEXT"), f.Current); name == "" {
		return Context{}, f.bad("has no current context", "choose one with krypton context use, or name one")
	}
	return f.Get(name)
}

// Load reads the file at path. A file that does not exist is an empty one.
func Load(path string) (*File, error) {
	f := &File{path: path, Contexts: map[string]Context{}}
	r, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return nil, f.bad("is not readable: "+err.Error(), "")
	}
	defer r.Close() //nolint:errcheck // Only read from.
	if err := f.checkMode(r); err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, f.bad("is not readable: "+err.Error(), "")
	}
	if len(raw) > maxFile {
		return nil, f.bad("is larger than 1 MiB", "")
	}
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true) // I3
	if err := dec.Decode(f); err != nil && !errors.Is(err, io.EOF) {
		return nil, f.bad("is not valid: "+err.Error(), "mend it, or remove it and use krypton context set")
	}
	if err := dec.Decode(&struct{}{}); !errors.Is(err, io.EOF) {
		return nil, f.bad("has more than one document", "")
	}
	if f.Contexts == nil {
		f.Contexts = map[string]Context{}
	}
	return f, nil
}

func (f *File) bad(why, hint string) error {
	return errs.New(errs.InvalidConfig, "the context file "+f.path+" "+why, errs.Hint("%s", hint))
}

// checkMode holds I1. Windows has no such bits; there the profile directory is
// the person's own.
func (f *File) checkMode(r *os.File) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	st, err := r.Stat()
	if err != nil {
		return f.bad("is not readable: "+err.Error(), "")
	}
	if st.Mode().Perm()&0o077 != 0 {
		return f.bad("can be used by others", "chmod 600 "+f.path)
	}
	return nil
}

// Save writes the file (I2).
func (f *File) Save() error {
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(f), enc.Close()); err != nil {
		return f.bad("cannot be written: "+err.Error(), "")
	}
	dir := filepath.Dir(f.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return f.bad("cannot be written: "+err.Error(), "")
	}
	tmp, err := os.CreateTemp(dir, ".contexts-*") // mode 0600
	if err != nil {
		return f.bad("cannot be written: "+err.Error(), "")
	}
	_, err = tmp.Write(out.Bytes())
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), f.path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return f.bad("cannot be written: "+err.Error(), "")
	}
	return nil
}

// Names returns the names of all contexts, sorted.
func (f *File) Names() []string { return slices.Sorted(maps.Keys(f.Contexts)) }

// Get returns the context of that name.
func (f *File) Get(name string) (Context, error) {
	c, ok := f.Contexts[name]
	if !ok {
		return Context{}, errs.Newf(errs.InvalidConfig, "there is no context %q", name).
			With(errs.Hint("list them with krypton context list, make one with krypton context set"))
	}
	return c, nil
}
