package config

import (
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/keystore"
)

// Off is the value that turns a listener off.
const Off = "off"

// setting is one key and its value.
type setting struct{ key, value string }

// listeners are the keys of ports that this node binds.
var listeners = []string{"listen.grpc", "listen.rest", "listen.peer", "listen.ops"} //nolint:gochecknoglobals // A constant; Go has no constant slices.

// addresses returns what this node listens on, and then what it tells others.
func (c *Config) addresses() []setting {
	return []setting{
		{listeners[0], c.Listen.GRPC},
		{listeners[1], c.Listen.REST},
		{listeners[2], c.Listen.Peer},
		{listeners[3], c.Listen.Ops},
		{"advertise.grpc", c.Advertise.GRPC},
		{"advertise.rest", c.Advertise.REST},
		{"advertise.peer", c.Advertise.Peer},
	}
}

// contradictions names the pairs of settings that cannot both be meant.
func (c *Config) contradictions(bad func(format string, args ...any)) {
	ports := c.addresses()[:len(listeners)]
	for i, a := range ports {
		for _, b := range ports[:i] {
			if samePort(a.value, b.value) {
				bad("%s and %s are both %s; every listener needs a port of its own", b.key, a.key, a.value)
			}
		}
	}
	if c.Listen.REST == Off && c.Advertise.REST != "" {
		bad("advertise.rest is set and listen.rest is off")
	}
	for i, a := range c.Keystores {
		for j, b := range c.Keystores[:i] {
			// What unseals through one of two could not unseal through the other either.
			if len(a.Settings) > 0 && a.Type == b.Type && maps.Equal(a.Settings, b.Settings) {
				bad("keystores[%d] and keystores[%d] are one keystore under two names", j, i)
			}
		}
	}
	if c.Node.DataDir != "" && c.Audit.Dir != "" && filepath.Clean(c.Audit.Dir) == filepath.Clean(c.Node.DataDir) {
		bad("audit.dir and node.data_dir are both %s; the trail needs a directory of its own", c.Audit.Dir)
	}
}

// samePort reports whether two listeners want one port. A host that is empty is
// every host.
func samePort(a, b string) bool {
	ha, pa, errA := net.SplitHostPort(a)
	hb, pb, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || pa != pb || pa == "0" {
		return false
	}
	every := func(h string) bool { ip := net.ParseIP(h); return h == "" || ip != nil && ip.IsUnspecified() }
	return ha == hb || every(ha) || every(hb)
}

// problems returns everything that is wrong with a decoded configuration.
func (c *Config) problems() []string {
	var p []string
	bad := func(format string, args ...any) { p = append(p, fmt.Sprintf(format, args...)) }
	oneOf := func(key, v string, allowed ...string) {
		if slices.Contains(allowed, v) {
			return
		}
		bad("%s is %q, want one of %q", key, v, allowed)
	}
	upTo := func(key string, v, hi int) {
		if v < 1 || v > hi {
			bad("%s is %d, want 1 to %d", key, v, hi)
		}
	}
	span := func(key string, v, lo, hi time.Duration) {
		if v < lo || v > hi {
			bad("%s is %s, want %s to %s", key, v, lo, hi)
		}
	}
	address := func(key, v string, mayBeOff bool) {
		if mayBeOff && v == Off {
			return
		}
		_, port, err := net.SplitHostPort(v)
		if err != nil {
			bad("%s is %q, want host:port or :port", key, v)
			return
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
			bad("%s has port %q, want 0 to 65535", key, port)
		}
	}

	if c.Node.DataDir == "" {
		bad("node.data_dir is empty")
	}
	if len(c.Node.Name) > 253 || len(c.Node.Region) > 63 || len(c.Node.Zone) > 63 {
		bad("node.name may have 253 bytes, node.region and node.zone 63")
	}
	oneOf("cluster.profile", c.Cluster.Profile, "lan", "wan")
	for _, a := range c.Cluster.Join {
		address("cluster.join", a, false)
	}
	if len(c.Cluster.Join) > 0 && c.Cluster.JoinTokenFile == "" {
		bad("cluster.join needs cluster.join_token_file")
	}
	address("listen.grpc", c.Listen.GRPC, false)
	address("listen.rest", c.Listen.REST, true)
	address("listen.peer", c.Listen.Peer, false)
	address("listen.ops", c.Listen.Ops, true)
	for _, a := range c.addresses()[len(listeners):] {
		if a.value != "" {
			address(a.key, a.value, false)
		}
	}
	c.contradictions(bad)
	oneOf("tls.mode", c.TLS.Mode, "builtin", "files")
	switch {
	case c.TLS.Mode == "files" && (c.TLS.Cert == "" || c.TLS.Key == ""):
		bad("tls.mode files needs tls.cert and tls.key")
	case c.TLS.Mode == "builtin" && (c.TLS.Cert != "" || c.TLS.Key != ""):
		bad("tls.cert and tls.key are used only with tls.mode files")
	}
	oneOf("memory.require", c.Memory.Require, "", "mlock")
	upTo("memory.lock_mib", c.Memory.LockMiB, 1024)
	upTo("audit.segment_mib", c.Audit.SegmentMiB, 1024)
	upTo("audit.reserve_mib", c.Audit.ReserveMiB, 65536)
	c.Limits.problems(bad)
	upTo("limits.concurrent", c.Limits.Concurrent, 65535)
	span("limits.request_budget", c.Limits.RequestBudget, time.Second, 10*time.Minute)
	span("limits.l2_hold", c.Limits.L2Hold, 0, time.Hour)
	span("limits.l1_check", c.Limits.L1Check, 5*time.Second, time.Hour)
	span("limits.l1_grace", c.Limits.L1Grace, 0, 24*time.Hour)
	span("seal.watch", c.Seal.Watch, time.Minute, 24*time.Hour)
	oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	oneOf("log.format", c.Log.Format, "text", "json")

	return p
}

// keystoreProblems checks the entries of keystores against the types that the
// program has. Without types only the names are checked.
func (c *Config) keystoreProblems(types keystore.Types) []string {
	var p []string
	bad := func(format string, args ...any) { p = append(p, fmt.Sprintf(format, args...)) }
	names := map[string]bool{}
	for i, k := range c.Keystores {
		at := fmt.Sprintf("keystores[%d]", i)
		if _, err := hierarchy.ParseName(k.Name); err != nil {
			bad("%s.name: %v", at, err)
		}
		if names[k.Name] {
			bad("%s.name %q stands twice; every keystore has a name of its own", at, k.Name)
		}
		names[k.Name] = true
		if len(types) == 0 {
			continue
		}
		t, ok := types.Find(k.Type)
		if !ok {
			bad("%s.type is %q, want one of %q", at, k.Type, types.Names())
			continue
		}
		for _, s := range t.Settings {
			if s.Required && k.Settings[s.Name] == "" {
				bad("%s.%s is empty; a keystore of type %s needs it", at, s.Name, t.Name)
			}
			if v := k.Settings[s.Name]; v != "" && s.Check != nil {
				if err := s.Check(v); err != nil {
					bad("%s.%s is %q, %v", at, s.Name, v, err)
				}
			}
		}
	}
	return p
}

// problems says which budgets are out of range, and which can never be reached.
func (l Limits) problems(bad func(format string, args ...any)) {
	const connections, rate = 1_000_000, 10_000_000
	for _, f := range []struct {
		key       string
		is        int
		low, high int
	}{
		{"connections", l.Connections, 16, connections},
		{"caller_connections", l.CallerConnections, 1, connections},
		{"tenant_connections", l.TenantConnections, 1, connections},
		{"caller_concurrent", l.CallerConcurrent, 1, connections},
		{"tenant_concurrent", l.TenantConcurrent, 1, connections},
		{"caller_rate", l.CallerRate, 1, rate},
		{"tenant_rate", l.TenantRate, 1, rate},
		{"caller_reads", l.CallerReads, 1, rate},
		{"caller_changes", l.CallerChanges, 1, rate},
	} {
		if f.is < f.low || f.is > f.high {
			bad("limits.%s is %d, want %d to %d", f.key, f.is, f.low, f.high)
		}
	}
}
