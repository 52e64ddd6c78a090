//go:build unix

package dev

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/client/contexts"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
)

// prefix begins the names of this command's contexts.
const prefix = "dev-"

// contextName is the context of a role.
func contextName(r auth.Role) string { return prefix + r.String() }

// installed is what was done to the person's contexts, to be undone.
type installed struct {
	path    string
	current string // selected now

	mine    map[string]contexts.Context
	before  map[string]contexts.Context // those of the same names
	was     string                      // selected before
	existed bool                        // the file
	dir     bool                        // its directory
}

// contextsOf returns one context per caller of the cluster, by name.
func contextsOf(c *devcluster.Cluster) map[string]contexts.Context {
	all := map[string]contexts.Context{}
	for _, p := range c.People() {
		one := contexts.Context{Addr: c.Addrs(), CAFile: c.CAFile(), CertFile: p.CertFile, KeyFile: p.KeyFile, Tenant: tenantID}
		if p.Role == auth.RoleWorkload {
			one.Service = tenantID + "/" + serviceID
		}
		all[contextName(p.Role)] = one
	}
	return all
}

// install adds contexts to the file at path. dev-workload becomes the selected
// one unless the person has selected one of their own: then a command must go on
// reaching what it reached before.
func install(path string, mine map[string]contexts.Context) (*installed, error) {
	f, err := contexts.Load(path)
	if err != nil {
		return nil, err
	}
	in := &installed{
		path: path, was: f.Current, existed: exists(path), dir: exists(filepath.Dir(path)),
		mine: mine, before: map[string]contexts.Context{},
	}
	for name, one := range mine {
		if old, ok := f.Contexts[name]; ok {
			in.before[name] = old
		}
		f.Contexts[name] = one
	}
	if f.Current == "" || strings.HasPrefix(f.Current, prefix) {
		f.Current = contextName(auth.RoleWorkload)
	}
	in.current = f.Current
	return in, f.Save()
}

// remove puts everything back (I2), but for what the person changed meanwhile,
// and for contexts of an earlier run whose files are gone.
func (in *installed) remove() error {
	f, err := contexts.Load(in.path)
	if err != nil {
		return err
	}
	for name, mine := range in.mine {
		now, ok := f.Contexts[name]
		if !ok || now.CertFile != mine.CertFile {
			continue // of another run, or of the person
		}
		delete(f.Contexts, name)
		if old, ok := in.before[name]; ok && exists(old.CertFile) {
			f.Contexts[name] = old
		}
	}
	if _, there := f.Contexts[f.Current]; !there && strings.HasPrefix(f.Current, prefix) {
		f.Current = ""
		if _, there := f.Contexts[in.was]; there {
			f.Current = in.was
		}
	}
	if len(f.Contexts) == 0 && f.Current == "" && !in.existed {
		if err := os.Remove(in.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if !in.dir {
			_ = os.Remove(filepath.Dir(in.path)) // stays if somebody put something there
		}
		return nil
	}
	return f.Save()
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
