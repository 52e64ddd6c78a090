package lint

import (
	"fmt"
	"slices"
	"strings"
)

// The layers that are not a number. Nothing of ours may import a tool or a side
// package, except another one of the same kind and, for the client, the command.
const (
	LayerTool   = -1 // developer tools and rules; import nothing of ours but tools
	LayerClient = -2 // the SDK; its closure is judged by [ClientClosure]
	LayerChaos  = -3 // jepsen: black box over real binaries; may import anything
)

// Layers says in which layer each package stands. A package may import packages
// of its own layer and of lower ones. A name that ends in /... covers everything
// below it; the longest name that fits counts. A new package needs a line here:
// choose the lowest layer that what it imports allows.
var Layers = map[string]int{
	"internal/lint":       LayerTool,
	"internal/cmd/...":    LayerTool,
	"internal/cmd/bench":  LayerChaos, // measures real binaries beside what they are made of
	"internal/pages":      LayerTool,
	"internal/leaktest":   LayerTool,
	"internal/errs/...":   0,
	"internal/answer":     0,
	"internal/mutation":   0,
	"internal/clock":      0,
	"internal/invariants": 0,
	"internal/corr":       0,
	"internal/atomicfile": 0,
	"internal/ports":      0,
	"internal/strictyaml": 0,
	"api/...":             0,

	"limit":      1,
	"memsec/...": 1,
	"hierarchy":  1,

	"hierarchy/envelope/...": 2,
	"keystore":               2,
	"keystore/blob":          2, // the form of a provider's blob
	"keystore/byok":          2, // what a customer's tool does before an import
	"keystore/keystoretest":  2,
	"seal/...":               2,
	"auth/...":               2,
	"intent/...":             2,
	"audit/...":              2,
	"gate/...":               2,
	"policy":                 2,
	"fsm/...":                2,
	"cluster/lease":          2, // the protocol alone, without what carries it
	"config":                 2,

	"keystore/local/...":   3,
	"keystore/guard":       3,
	"keystore/pkcs11/...":  3,
	"keystore/transit/...": 3,
	"keystore/awskms/...":  3,
	"keystore/azurekv/...": 3,
	"keystore/gcpkms/...":  3,
	"cluster/...":          3,

	"keystore/keystoretest/wire":        3, // faults between a provider and its keystore, for tests and demonstrations
	"keystore/keystoretest/hsm/...":     3, // real components and vendors' fakes, for tests and demonstrations
	"keystore/keystoretest/vaultserver": 3,
	"keystore/keystoretest/awsserver":   3,
	"keystore/keystoretest/azureserver": 3,
	"keystore/keystoretest/gcpserver":   3,
	"keystore/keystoretest/fleet":       3,

	"node/...":            4,
	"server/...":          5,
	"cmd/...":             6,
	"intent/orders":       6, // speaks to nodes through the client
	"internal/devcluster": 6, // only for `krypton dev` and jepsen
	"client/...":          LayerClient,
	"jepsen/...":          LayerChaos,
	"deploy/compat/...":   LayerChaos, // starts whole nodes on what older releases wrote
}

// layerOf returns the layer of the package at dir.
func layerOf(layers map[string]int, dir string) (int, bool) {
	if l, ok := layers[dir]; ok {
		return l, true
	}
	best, layer, found := -1, 0, false
	for name, l := range layers {
		prefix, subtree := strings.CutSuffix(name, "/...")
		if subtree && (dir == prefix || strings.HasPrefix(dir, prefix+"/")) && len(prefix) > best {
			best, layer, found = len(prefix), l, true
		}
	}
	return layer, found
}

// LayerRule finds packages without a layer (I1) and imports of higher layers.
// Tests may import what they like: a conformance suite or an end-to-end test
// stands where its subject is.
func LayerRule(tree Tree, layers map[string]int) []string {
	var bad []string
	for _, f := range tree {
		from, ok := layerOf(layers, f.Package)
		if !ok {
			bad = append(bad, fmt.Sprintf("%s: package %q has no layer; add a line to Layers in internal/lint/imports.go and to docs/architecture.md", f.Path, f.Package))
			continue
		}
		if f.Test {
			continue
		}
		for _, imp := range f.Imports() {
			dir, ours := own(imp)
			if !ours {
				continue
			}
			to, ok := layerOf(layers, dir)
			if !ok || !mayImport(from, to) {
				bad = append(bad, fmt.Sprintf("%s: %s (layer %d) may not import %s (layer %d)", f.Path, f.Package, from, dir, to))
			}
		}
	}
	return bad
}

func mayImport(from, to int) bool {
	switch from {
	case LayerChaos:
		return true
	case LayerTool:
		return to == LayerTool
	case LayerClient:
		return to == LayerClient || to == 0
	}
	if to == LayerClient {
		return from == Layers["cmd/..."] // the command line is a client too
	}
	return to >= 0 && to <= from
}

// Restriction says who may import something.
type Restriction struct {
	What      []string          // import paths; everything below them counts too
	Importers map[string]string // directory of an importer (and below) -> why it needs it
	Tests     bool              // whether the tests of other packages may, too
	Instead   string            // what others do
}

// Restrictions are the imports with a short list of importers.
var Restrictions = []Restriction{
	{
		What:      []string{"github.com/awnumar/memguard", "github.com/awnumar/memcall"},
		Importers: map[string]string{"memsec": "it is what memsec is made of"},
		Instead:   "use memsec.Secret",
	},
	{
		What:      []string{"github.com/hashicorp/vault"},
		Importers: map[string]string{"seal": "splits and joins the MasterKey (MPL-2.0 part, see NOTICE)"},
		Instead:   "call package seal",
	},
	{
		What: []string{"golang.org/x/crypto"},
		Importers: map[string]string{
			"intent/sign": "a person's key may be in an SSH agent or a file of ssh-keygen",
			"seal/agebox": "a person's share may be encrypted to a key of ssh-keygen",
		},
		Instead: "use the standard library; for a person's key call intent/sign",
	},
	{
		What:      []string{"filippo.io/age"},
		Importers: map[string]string{"seal/agebox": "it is what agebox is made of, and keeps what age leaves on the heap together"},
		Instead:   "call package seal/agebox",
	},
	{
		What: []string{Module + "/memsec/reveal"},
		Importers: map[string]string{
			"memsec":           "its own tests and conformance suite",
			"seal":             "Shamir splits and joins bytes, and a share leaves for a person",
			"keystore/local":   "encrypts under a key that this process holds",
			"keystore/blob":    "a one-time key goes through a mechanism that has no AAD",
			"keystore/byok":    "wraps material for a keystore's import",
			"keystore/pkcs11":  "a secret goes to the helper that speaks to the token",
			"keystore/transit": "a secret goes to the keystore, which wraps it",
			"keystore/awskms":  "a secret goes to the keystore, which wraps it",
			"keystore/azurekv": "a one-time key goes to the keystore, which wraps it",
			"keystore/gcpkms":  "a secret goes to the keystore, which wraps it",
			"auth/pki":         "crypto/x509 reads an issuer's key from bytes",
			"node":             "a data key leaves in the answer to a call",
			"server":           "a data key leaves in the answer to a call",
			"cmd/krypton":      "a person asked to see or hand in key material",
		},
		Tests:   true,
		Instead: "keep the memsec.Secret and use memsec's own Seal, Open, Expand and MAC",
	},
	{
		What: []string{
			Module + "/keystore/keystoretest",
		},
		Importers: map[string]string{
			"keystore/keystoretest": "the suite and the components it is run against",
			"jepsen":                "plays scenarios against them",
			"internal/cmd":          "starts them for measurements and demonstrations",
		},
		Tests:   true,
		Instead: "a keystore of a test has no place in the program",
	},
	{
		What:      []string{"github.com/miekg/pkcs11"},
		Importers: map[string]string{"cmd/krypton-pkcs11": "the one program with cgo, which a vendor's library may take down", "keystore/keystoretest/hsm": "makes tokens for tests"},
		Instead:   "speak to the helper program through package keystore/pkcs11",
	},
	{
		What:      []string{"github.com/openbao/openbao"},
		Importers: map[string]string{"keystore/transit": "it is a client of it", "keystore/keystoretest/vaultserver": "sets the server up"},
		Instead:   "use keystore.Provider",
	},
	{
		What:      []string{"github.com/aws"},
		Importers: map[string]string{"keystore/awskms": "it is a client of it", "keystore/keystoretest/awsserver": "answers as the service does"},
		Tests:     true,
		Instead:   "use keystore.Provider",
	},
	{
		What:      []string{"github.com/Azure", "github.com/AzureAD"},
		Importers: map[string]string{"keystore/azurekv": "it is a client of it", "keystore/keystoretest/azureserver": "answers as the service does"},
		Tests:     true,
		Instead:   "use keystore.Provider",
	},
	{
		What:      []string{"cloud.google.com/go", "google.golang.org/api", "github.com/googleapis"},
		Importers: map[string]string{"keystore/gcpkms": "it is a client of it", "keystore/keystoretest/gcpserver": "answers as the service does"},
		Tests:     true,
		Instead:   "use keystore.Provider",
	},
	{
		What: []string{"github.com/coreos/go-oidc", "github.com/go-jose/go-jose"},
		Importers: map[string]string{
			"auth/jwt":                          "judges callers' tokens, by stricter rules than the libraries'",
			"keystore/keystoretest/azureserver": "signs tokens and verifies assertions as Entra ID does",
		},
		Instead: "call package auth/jwt",
	},
	{
		What:      []string{"github.com/hashicorp/raft", "github.com/hashicorp/raft-boltdb", "go.etcd.io/bbolt"},
		Importers: map[string]string{"cluster": "it is what cluster is made of", "jepsen": "looks into stopped nodes", "cmd/krypton/internal/damage": "breaks stopped nodes; tests only"},
		Instead:   "call package cluster",
	},
}

// RestrictionRule finds importers that are not on the list.
func RestrictionRule(tree Tree, restrictions []Restriction) []string {
	var bad []string
	for _, f := range tree {
		for _, r := range restrictions {
			if f.Test && r.Tests {
				continue
			}
			importers := make([]string, 0, len(r.Importers))
			for dir := range r.Importers {
				importers = append(importers, dir)
			}
			if within(f.Package, importers) {
				continue
			}
			for _, imp := range f.Imports() {
				if within(imp, r.What) {
					bad = append(bad, fmt.Sprintf("%s: may not import %s; %s", f.Path, imp, r.Instead))
				}
			}
		}
	}
	return bad
}

// pure are imports that nothing which the replicated state machine is made of may name.
var pure = []string{
	Module + "/memsec", Module + "/api", "net", "crypto/rand", "math/rand", "crypto/cipher", "crypto/aes",
	"github.com/hashicorp/raft", "google.golang.org/grpc",
}

// PurityRule judges what the replicated state machine is made of: every
// package below root, and every package of ours or of third parties that it
// imports, directly or not. None of them may import anything impure. What the
// standard library does inside does not count: crypto/sha256 itself reaches
// crypto/cipher (docs/adr/0004-what-the-state-machine-may-import.md).
func PurityRule(g Graph, root string) []string {
	var roots []string
	for p := range g {
		if within(p, []string{Module + "/" + root}) {
			roots = append(roots, p)
		}
	}
	var bad []string
	for _, p := range g.closure(roots...) {
		if g[p].Standard || !strings.Contains(p, ".") {
			continue
		}
		for _, imp := range g[p].Imports {
			if within(imp, pure) {
				bad = append(bad, fmt.Sprintf("%s imports %s, and the state machine in %s is made of it", p, imp, root))
			}
		}
	}
	return bad
}

// ClientClosure finds what the SDK would pull into a program that uses it:
// only the standard library, grpc, protobuf, what these import, api,
// internal/errs, internal/clock and internal/answer (which import only the standard library) are allowed.
func ClientClosure(g Graph) []string {
	client := Module + "/client"
	if _, ok := g[client]; !ok {
		return nil
	}
	roots := []string{
		"google.golang.org/grpc", "google.golang.org/protobuf/proto", "google.golang.org/genproto/googleapis/rpc/errdetails",
		Module + "/internal/errs/wire", Module + "/internal/clock", Module + "/internal/answer",
	}
	for p := range g {
		if within(p, []string{Module + "/api", "google.golang.org/grpc", "google.golang.org/protobuf", Module + "/internal/errs"}) {
			roots = append(roots, p)
		}
	}
	allowed := g.closure(roots...)
	var bad []string
	for _, p := range g.closure(client) {
		if p == client || g[p].Standard {
			continue
		}
		if _, ok := slices.BinarySearch(allowed, p); !ok {
			bad = append(bad, fmt.Sprintf("client pulls in %s; it belongs in a package of its own below client/", p))
		}
	}
	return bad
}
