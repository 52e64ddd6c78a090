package config

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/openkcm/krypton-cluster/hierarchy"
)

// Off is the value that turns a listener off.
const Off = "off"

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
		if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
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
	for key, v := range map[string]string{"advertise.grpc": c.Advertise.GRPC, "advertise.rest": c.Advertise.REST, "advertise.peer": c.Advertise.Peer} {
		if v != "" {
			address(key, v, false)
		}
	}
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
	upTo("limits.connections", c.Limits.Connections, 1_000_000)
	upTo("limits.concurrent", c.Limits.Concurrent, 65535)
	span("limits.request_budget", c.Limits.RequestBudget, time.Second, 10*time.Minute)
	span("limits.l2_hold", c.Limits.L2Hold, 0, time.Hour)
	oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	oneOf("log.format", c.Log.Format, "text", "json")

	names := map[string]bool{}
	for i, k := range c.Keystores {
		at := fmt.Sprintf("keystores[%d]", i)
		if _, err := hierarchy.ParseName(k.Name); err != nil {
			bad("%s.name: %v", at, err)
		}
		if names[k.Name] {
			bad("%s.name %q stands twice", at, k.Name)
		}
		names[k.Name] = true
		oneOf(at+".type", k.Type, "local")
		if k.Type == "local" && k.Dir == "" {
			bad("%s.dir is empty; a local keystore needs the directory of its key files", at)
		}
	}
	return p
}
