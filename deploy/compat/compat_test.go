package compat_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/client/stream"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/deploy/compat"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/local"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal"
)

func versions(t *testing.T) []compat.Version {
	t.Helper()
	text, err := os.ReadFile("versions.txt")
	if err != nil {
		t.Fatal(err)
	}
	out, err := compat.Parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(out) == 0 {
		t.Fatal("versions.txt records no version")
	}
	return out
}

// TestI1_WhatEveryRecordedReleaseWroteOpens starts a node on each archive.
func TestI1_WhatEveryRecordedReleaseWroteOpens(t *testing.T) {
	for _, v := range versions(t) {
		t.Run(v.Archive, func(t *testing.T) {
			dir := t.TempDir()
			want := unpack(t, v.Archive, dir)
			if s, err := audit.Verify(filepath.Join(dir, "n1", "audit")); err != nil || s.Records == 0 {
				t.Errorf("the audit trail: %v, %d records", err, s.Records)
			}
			n := start(t, dir)
			kinds := map[compat.Kind]int{}
			for i, item := range want.Items {
				got, err := n.open(t, want, item)
				if err != nil || !bytes.Equal(got, item.Content) {
					t.Errorf("item %d, %s: %v", i, item.Kind, err)
				}
				kinds[item.Kind]++
				// That it opens means something only if not everything does.
				item.Context = map[string]string{"other": "context"}
				if _, err := n.open(t, want, item); !errs.Is(err, errs.Integrity) {
					t.Errorf("item %d, %s, with another context: %v", i, item.Kind, err)
				}
			}
			// The formats of then are raised, and what the registry had before stays as it was.
			for end := time.Now().Add(30 * time.Second); n.machine.View().Cluster().GetFormatVersion() != fsm.MaxFormatVersion; {
				if time.Now().After(end) {
					t.Fatalf("the format version is still %d", n.machine.View().Cluster().GetFormatVersion())
				}
				select {
				case <-n.machine.View().Superseded():
				case <-time.After(20 * time.Millisecond):
				}
			}
			if got, err := n.open(t, want, want.Items[0]); err != nil || !bytes.Equal(got, want.Items[0].Content) {
				t.Errorf("after the format version was raised: %v", err)
			}
			for _, k := range []compat.Kind{compat.Ciphertext, compat.DataKey, compat.Stream} {
				if kinds[k] < 3 {
					t.Errorf("%d items of kind %s", kinds[k], k)
				}
			}
		})
	}
}

// unpack puts an archive into dir and returns its list.
func unpack(t *testing.T, archive, dir string) *compat.Expected {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	want := &compat.Expected{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return want
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == compat.ListName {
			if err := json.Unmarshal(content, want); err != nil {
				t.Fatal(err)
			}
			continue
		}
		at := filepath.Join(dir, filepath.FromSlash(h.Name))
		if !filepath.IsLocal(h.Name) {
			t.Fatalf("the archive has a file %q", h.Name)
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o700), os.WriteFile(at, content, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// running is a node on the files of an archive, without its doors: the
// certificates of that time have expired by now.
type running struct {
	node    *node.Node
	machine *fsm.Machine
	gate    *gate.Gate
}

type hooks struct{ node *node.Node }

func (h hooks) Identify(context.Context, auth.Credential) (cluster.Caller, error) {
	return cluster.Caller{}, errs.New(errs.Unauthenticated, "nobody calls another node here")
}

func (h hooks) Forward(gate.Forwarded, func() (auth.Principal, gate.Ours, error)) error {
	return errs.New(errs.Denied, "there is no other node")
}

func (h hooks) Prepare(ctx context.Context, _ cluster.NodeID, request []byte) ([]byte, error) {
	return h.node.Prepare(ctx, request)
}

func (h hooks) Health() cluster.Health { return cluster.Health{SealState: h.node.State()} }

func (h hooks) IssueCertificate(ctx context.Context, id cluster.NodeID, publicKey []byte) (cluster.Certificate, error) {
	leaf, ca, err := h.node.IssueNode(ctx, string(id), publicKey)
	if err != nil {
		return cluster.Certificate{}, err
	}
	return cluster.Certificate{Chain: [][]byte{leaf.Raw}, Authorities: [][]byte{ca.Raw}}, nil
}

// nowhere is an audit trail that is not kept: the one in the archive stays as it was.
type nowhere struct{}

func (nowhere) Append(audit.Record) error { return nil }
func (nowhere) Err() error                { return nil }

func start(t *testing.T, root string) *running {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	log, clk := slog.New(slog.DiscardHandler), clock.System{}
	dir, err := cluster.OpenDir(filepath.Join(root, "n1"), rand.Reader)
	must(err)
	t.Cleanup(func() { _ = dir.Close() })
	stores, err := keystore.Open(t.Context(), keystore.Env{Logger: log, Rand: rand.Reader, Clock: clk},
		[]keystore.Config{{Name: "dev", Type: local.Type, Settings: map[string]string{"dir": filepath.Join(root, "keystore")}}},
		keystore.Constructors{local.Type: local.New})
	must(err)
	t.Cleanup(func() { _ = stores.Close() })
	fingerprint, pinned := dir.Fingerprint()
	if !pinned {
		t.Fatal("the data directory belongs to no cluster")
	}
	r := &running{machine: fsm.New(fsm.Options{Fingerprint: fingerprint})}
	policies := node.NewPolicies("", log)
	r.gate, err = gate.New(gate.Config{Node: string(dir.NodeID()), Sink: nowhere{}, Policy: node.TenantPolicy{Machine: r.machine, Policies: policies, Next: gate.RolePolicy{}}, Clock: clk})
	must(err)
	r.node, err = node.New(node.Config{
		RecordPath: dir.Path("seal/record.pb"), Pinned: func() (seal.Fingerprint, bool) { return fingerprint, true },
		Machine: r.machine, Keystores: stores, Gate: r.gate, Policies: policies, L2Hold: time.Minute, Clock: clk, Rand: rand.Reader, Logger: log,
	})
	must(err)
	c, err := cluster.Open(cluster.Config{
		Dir: dir, Machine: r.machine, Hooks: hooks{r.node}, Listen: "127.0.0.1:0", MAC: r.node.MAC, Believed: r.node.Believed,
		Self: cluster.Self{Name: "n1", Version: "test", MaxFormat: fsm.MaxFormatVersion}, Clock: clk, Rand: rand.Reader, Log: log,
	})
	must(err)
	t.Cleanup(func() { _ = c.Close() })
	r.node.Attach(c)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.node.Run(ctx) })
	wg.Go(func() { _ = c.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })

	// Bounded: a node that cannot open what it finds never serves.
	for end := time.Now().Add(30 * time.Second); r.node.ServingErr() != nil; {
		if time.Now().After(end) {
			t.Fatalf("the node does not serve: %v", r.node.ServingErr())
		}
		select {
		case <-r.machine.View().Superseded():
		case <-time.After(20 * time.Millisecond):
		}
	}
	return r
}

// do runs fn as the workload of the archive's tenant.
func (r *running) do(ctx context.Context, t *testing.T, tenant string, act gate.Act, target node.Target, fn func(gate.Token) error) error {
	t.Helper()
	name, err := hierarchy.ParseName(tenant)
	if err != nil {
		t.Fatal(err)
	}
	v := r.machine.View()
	ten, ok := v.Tenant(tenant)
	if !ok {
		return errs.New(errs.NotFound, "the registry has no tenant "+tenant)
	}
	ca, ok := node.Authority(v, node.SecretCallerCA)
	if !ok {
		return errs.New(errs.NotFound, "the registry has no CA of callers")
	}
	who := auth.Principal{Issuer: pki.IssuerOf(ca), Role: auth.RoleWorkload, Tenant: name, TenantUID: hierarchy.UID(ten.GetUid()), Name: "app"}
	id, err := corr.New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return r.gate.Do(ctx, gate.Request{Principal: who, Act: act, Object: target.Name(), Correlation: id}, fn)
}

func (r *running) open(t *testing.T, want *compat.Expected, item compat.Item) (out []byte, err error) {
	t.Helper()
	target := node.Target{Tenant: hierarchy.Name(want.Tenant), Service: hierarchy.Name(want.Service), Resource: hierarchy.ResourceID(item.Resource)}
	var pairs []hierarchy.ContextPair
	for k, v := range item.Context {
		pairs = append(pairs, hierarchy.ContextPair{Key: k, Value: v})
	}
	if target.Context, err = hierarchy.NewEncryptionContext(pairs...); err != nil {
		return nil, err
	}
	switch item.Kind {
	case compat.Ciphertext:
		err = r.do(t.Context(), t, want.Tenant, gate.Decrypt, target, func(tok gate.Token) error {
			out, _, err = r.node.Decrypt(t.Context(), tok, target, item.Bytes)
			return err
		})
	case compat.DataKey:
		out, _, err = r.unwrap(t.Context(), t, want, target, item.Bytes)
	case compat.Stream:
		d, derr := stream.NewDecryptor(t.Context(), unwrapper{r, t, want, target}, stream.Options{
			Scope: client.Scope{Service: target.Name(), Resource: item.Resource, Context: item.Context}, AAD: item.AAD,
		}, bytes.NewReader(item.Bytes))
		if derr != nil {
			return nil, derr
		}
		out, err = io.ReadAll(d)
	default:
		t.Fatalf("the list has the kind %q", item.Kind)
	}
	return out, err
}

func (r *running) unwrap(ctx context.Context, t *testing.T, want *compat.Expected, target node.Target, wrapped []byte) (out []byte, version string, err error) {
	t.Helper()
	err = r.do(ctx, t, want.Tenant, gate.UnwrapDataKey, target, func(tok gate.Token) error {
		key, used, err := r.node.UnwrapDataKey(ctx, tok, target, wrapped)
		if err != nil {
			return err
		}
		defer key.Destroy()
		version = used.Name
		return reveal.With(key, func(b []byte) error { out = bytes.Clone(b); return nil })
	})
	return out, version, err
}

// unwrapper is the cluster of a stream's reader.
type unwrapper struct {
	r      *running
	t      *testing.T
	want   *compat.Expected
	target node.Target
}

func (u unwrapper) UnwrapDataKey(ctx context.Context, _ client.Scope, wrapped []byte, _ ...grpc.CallOption) (client.DataKey, error) {
	key, version, err := u.r.unwrap(ctx, u.t, u.want, u.target, wrapped)
	return client.DataKey{Plaintext: client.NewSecret(key), KeyVersion: version}, err
}

func (unwrapper) GenerateDataKey(context.Context, client.Scope, int, ...grpc.CallOption) (client.DataKey, error) {
	return client.DataKey{}, errors.New("nothing is encrypted here")
}

func (unwrapper) RewrapDataKey(context.Context, client.Scope, []byte, ...grpc.CallOption) (client.DataKey, string, error) {
	return client.DataKey{}, "", errors.New("nothing is wrapped here")
}

// TestI2_VersionsNameTheirArchives: a line without an archive, or an archive
// without a line, is a slip.
func TestI2_VersionsNameTheirArchives(t *testing.T) {
	named := map[string]bool{}
	for _, v := range versions(t) {
		if named[v.Archive] {
			t.Errorf("%s is named twice", v.Archive)
		}
		named[v.Archive] = true
	}
	files, err := filepath.Glob("*.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !named[f] {
			t.Errorf("versions.txt does not name %s", f)
		}
	}
}

func TestParseRefusesWhatItDoesNotKnow(t *testing.T) {
	good := strings.Repeat("a", 40) + " 1.tar.gz the first"
	for text, want := range map[string]bool{
		good: true, "# only a comment\n\n" + good: true, "": true,
		"short 1.tar.gz the first": false, strings.Repeat("a", 40) + " ../1.tar.gz x": false, strings.Repeat("a", 40) + " 1.tar.gz": false,
	} {
		if _, err := compat.Parse(text); (err == nil) != want {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// FuzzParse: whatever stands in the file, it is a list of lines or an error.
func FuzzParse(f *testing.F) {
	f.Add(strings.Repeat("a", 40) + " 1.tar.gz the first\n# comment\n")
	f.Add("x")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := compat.Parse(text)
		if err != nil {
			return
		}
		for _, v := range got {
			if len(v.Commit) != 40 || filepath.Base(v.Archive) != v.Archive || v.What == "" {
				t.Errorf("%q became %+v", text, v)
			}
		}
	})
}
