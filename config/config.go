// Package config reads and checks the configuration of a node.
//
// The configuration is one YAML file, by default /etc/krypton/krypton.yaml.
// Every key can also be given by an environment variable: KRYPTON_ + section +
// _ + key in upper case. A flag goes before the environment, the environment
// before the file, the file before the default. docs/config.md is generated
// from the fields of this package.
//
// # Invariants
//
//   - I1: an unknown key is an error that names the file, the line and the nearest known key.
//   - I2: the zero value of every key has a stated meaning, which is the safe one.
//   - I3: no key holds a secret; secrets are named by the path of a file.
//   - I4: every key stands in docs/config.md with its default, as the code has it.
//
// # Concurrency
//
// A Config is a value without references to shared state, except the list of keystores and their settings, which nobody writes after [Load].
//
// # Failure
//
// A configuration that cannot be used is refused as a whole, before anything
// listens or is written, with every problem found and not just the first.
//
// # Source
//
// docs/contract.md, CONFIG and ENV.
package config

import (
	"time"

	"github.com/openkcm/krypton-cluster/keystore"
)

// DefaultPath is where a node looks for its configuration.
const DefaultPath = "/etc/krypton/krypton.yaml"

// MaxSize is the largest configuration file that is read, in bytes.
const MaxSize = 1 << 20

// Config is the whole configuration of one node. The tags say how a key is
// called, what it means when absent, and what docs/config.md says of it.
type Config struct {
	Node      Node       `yaml:"node"      doc:"This node."`
	Cluster   Cluster    `yaml:"cluster"   doc:"The cluster this node belongs to or will join."`
	Listen    Listen     `yaml:"listen"    doc:"Addresses to listen on. Port 0 takes any free port; the real ones are in run/addresses.json."`
	Advertise Advertise  `yaml:"advertise" doc:"Addresses under which others reach this node, where they differ from those it listens on."`
	TLS       TLS        `yaml:"tls"       doc:"Certificates of the public ports."`
	Memory    Memory     `yaml:"memory"    doc:"Protection of keys in memory."`
	Audit     Audit      `yaml:"audit"     doc:"The audit trail of this node."`
	Limits    Limits     `yaml:"limits"    doc:"Bounds on what callers may ask of this node."`
	Log       Log        `yaml:"log"       doc:"The log on stderr. It never contains key material or callers' data."`
	Seal      Seal       `yaml:"seal"      doc:"The seal of the MasterKey."`
	Keystores []Keystore `yaml:"keystores" doc:"Keystores that hold customer keys (L1) or seal the MasterKey."`
}

// Node names this node.
type Node struct {
	Name    string `yaml:"name"     doc:"Name for people. Empty: the host name."`
	DataDir string `yaml:"data_dir" default:"/var/lib/krypton" doc:"Directory of everything this node keeps. One process at a time."`
	Region  string `yaml:"region"   default:"default" doc:"Region of the node, for join tokens and for people."`
	Zone    string `yaml:"zone"     doc:"Zone within the region. Empty: none."`
}

// Cluster says how to find the cluster.
type Cluster struct {
	Profile       string   `yaml:"profile"         default:"lan" doc:"Timers by the distance between voters: lan (a few milliseconds) or wan. All nodes alike, as the cluster was founded: serving leases of 3 s (lan) or 8 s (wan) are fixed then."`
	Join          []string `yaml:"join"            doc:"Peer addresses to join through at the first start. Empty: those in the join token."`
	JoinTokenFile string   `yaml:"join_token_file" doc:"File with a join token. A node without a cluster joins by itself when it is set."`
}

// Listen holds the addresses to listen on.
type Listen struct {
	GRPC string `yaml:"grpc" default:":8400" doc:"gRPC for callers, mTLS."`
	REST string `yaml:"rest" default:":8401" doc:"HTTP/JSON for callers, mTLS. \"off\": none."`
	Peer string `yaml:"peer" default:":8402" doc:"Raft and forwarding between nodes, mTLS by member key."`
	Ops  string `yaml:"ops"  default:"127.0.0.1:8404" doc:"/healthz, /readyz and /metrics, plain HTTP without certificates; names no tenant. \"off\": none."`
}

// Advertise holds the addresses that others use.
type Advertise struct {
	GRPC string `yaml:"grpc" doc:"host:port of gRPC. Empty: host name and the real port."`
	REST string `yaml:"rest" doc:"host:port of HTTP/JSON. Empty: host name and the real port."`
	Peer string `yaml:"peer" doc:"host:port of the peer port. Empty: host name and the real port."`
}

// TLS says where the certificate of the public ports comes from.
type TLS struct {
	Mode string `yaml:"mode" default:"builtin" doc:"builtin: the cluster's own CA issues it. files: from cert and key below."`
	Cert string `yaml:"cert" doc:"PEM file with the certificate chain, for mode files."`
	Key  string `yaml:"key"  doc:"PEM file with the private key, 0600, for mode files."`
}

// Memory says how keys in memory are protected.
type Memory struct {
	Require string `yaml:"require"  doc:"Refuse to start below this tier: mlock. Empty: any tier, which status then names."`
	LockMiB int    `yaml:"lock_mib" default:"8" doc:"MiB of memory to lock for keys, 1 to 1024."`
}

// Audit says where the audit trail goes.
type Audit struct {
	Dir        string `yaml:"dir"         doc:"Directory of the audit segments. Empty: audit in data_dir."`
	SegmentMiB int    `yaml:"segment_mib" default:"64" doc:"MiB of one segment, 1 to 1024."`
	ReserveMiB int    `yaml:"reserve_mib" default:"64" doc:"MiB of disk kept back in a file of its own, so that the trail can still record that it fails when the disk is full. 1 to 65536."`
}

// Limits bounds what callers may ask for.
type Limits struct {
	Connections       int           `yaml:"connections"        default:"4096" doc:"Connections on each public port, 16 to 1000000. An eighth is for those on which nobody has shown an identity yet; a sixteenth is kept for people."`
	CallerConnections int           `yaml:"caller_connections" default:"1024" doc:"Connections of one caller on each public port, 1 to 1000000."`
	TenantConnections int           `yaml:"tenant_connections" default:"2048" doc:"Connections of all workloads of one tenant on each public port, 1 to 1000000."`
	Concurrent        int           `yaml:"concurrent"         default:"256" doc:"Calls at a time on one connection, 1 to 65535."`
	CallerConcurrent  int           `yaml:"caller_concurrent"  default:"1024" doc:"Calls of one caller at a time: so many data operations, so many reads, so many changes. 1 to 1000000."`
	TenantConcurrent  int           `yaml:"tenant_concurrent"  default:"2048" doc:"Data operations of all workloads of one tenant at a time, 1 to 1000000."`
	CallerRate        int           `yaml:"caller_rate"        default:"100000" doc:"Data operations of one caller a second, and at once after a pause, 1 to 10000000. A request counts once more for each 64 KiB."`
	TenantRate        int           `yaml:"tenant_rate"        default:"200000" doc:"Data operations of all workloads of one tenant a second, 1 to 10000000."`
	CallerReads       int           `yaml:"caller_reads"       default:"5000" doc:"Reads of the registry of one caller a second, 1 to 10000000."`
	CallerChanges     int           `yaml:"caller_changes"     default:"1000" doc:"Changes of one caller a second, 1 to 10000000. Acts that only take power away have a budget of their own."`
	RequestBudget     time.Duration `yaml:"request_budget"     default:"60s" doc:"Longest time that a call without a deadline may take, from its headers on, 1s to 10m."`
	L2Hold            time.Duration `yaml:"l2_hold"            default:"60s" doc:"How long a tenant key (L2) stays unwrapped after its last use, 0s to 1h. 0s: one operation."`
	L1Check           time.Duration `yaml:"l1_check"           default:"30s" doc:"Longest time between two proofs that a customer's key (L1) lets its tenant be served, while keys of the tenant are in memory, 5s to 1h. Each proof is a real unwrap in the customer's keystore; a denial ends the use at once."`
	L1Grace           time.Duration `yaml:"l1_grace"           default:"15m" doc:"How long a tenant is served after its last proof while the customer's keystore does not answer, 0s to 24h. 0s: until the first proof that fails."`
}

// Seal says how the keystores of the seal are looked after.
type Seal struct {
	Watch time.Duration `yaml:"watch" default:"15m" doc:"How often the leader has every keystore of the seal open what it holds, and wraps again what is lost. 1m to 24h."`
}

// Log says what is logged.
type Log struct {
	Level  string `yaml:"level"  default:"info" doc:"debug, info, warn or error."`
	Format string `yaml:"format" default:"text" doc:"text or json."`
}

// Keystore is one configured keystore. What else an entry may have depends on
// its type; this package knows no type, and checks against [Source.Keystores].
type Keystore struct {
	Name     string            `yaml:"name" doc:"Name that tenants and the seal refer to: a lower-case label of letters, digits and dashes."`
	Type     string            `yaml:"type" doc:"What it is; the types of this program and their settings stand below."`
	Settings map[string]string `yaml:",inline"`
}

// KeystoreConfigs returns the keystores as package keystore takes them.
func (c *Config) KeystoreConfigs() []keystore.Config {
	out := make([]keystore.Config, 0, len(c.Keystores))
	for _, k := range c.Keystores {
		out = append(out, keystore.Config{Name: k.Name, Type: k.Type, Settings: k.Settings})
	}
	return out
}
