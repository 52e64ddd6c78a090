//go:build unix

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
	"github.com/openkcm/krypton-cluster/internal/mutation"
)

// The services of a cluster whose files are edited, beside the common one. Of each
// something was taken away that the edit brings back.
const (
	disabledService  = tenant + "/services/disabled"  // version 1 is disabled
	destroyedService = tenant + "/services/destroyed" // version 1 is destroyed
	rotatedService   = tenant + "/services/rotated"   // version 2 is primary
	suspendedService = tenant + "/services/suspended" // is suspended
	guardedService   = tenant + "/services/guarded"   // a policy forbids to decrypt with it
)

// scene is what was done in a cluster before its files are edited.
type scene struct {
	*theatre

	under map[string][]byte // a ciphertext of each service, under version 1
	gina  tls.Certificate   // a governor who may do nothing: no tenant lists her, and she has not the platform
}

// sceneServices are what the scene adds.
func sceneServices() []string {
	return []string{disabledService, destroyedService, rotatedService, suspendedService, guardedService}
}

// arrange makes the services, and a governor without the platform.
func (t *theatre) arrange(ctx context.Context) (*scene, error) {
	s := &scene{theatre: t, under: map[string][]byte{}}
	all := sceneServices()
	for _, name := range all {
		if err := t.CreateService(ctx, tenantID, filepath.Base(name)); err != nil {
			return nil, err
		}
	}
	err := t.as(ctx, auth.RoleWorkload, func(c *client.Client) error {
		for _, name := range all {
			resp, err := c.Crypto().Encrypt(ctx, &kryptonv1.EncryptRequest{Service: name, Plaintext: []byte(canary)})
			if err != nil {
				return err
			}
			s.under[name] = resp.GetCiphertext()
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	pub, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	return s, t.as(ctx, auth.RoleGovernor, func(c *client.Client) error {
		for _, name := range all[:3] {
			if _, err := c.Services().RotateService(ctx, &kryptonv1.RotateServiceRequest{Name: name}); err != nil {
				return err
			}
		}
		resp, err := c.Access().IssueCertificate(ctx, &kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_GOVERNOR, Name: "gina", PublicKey: pub})
		if err != nil {
			return err
		}
		block, _ := pem.Decode(resp.GetCertificate())
		s.gina = tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}
		return nil
	})
}

// takeAway does what the edits undo.
func (s *scene) takeAway(ctx context.Context) error {
	return s.as(ctx, auth.RoleGovernor, func(c *client.Client) error {
		if _, err := c.Services().DisableVersion(ctx, &kryptonv1.DisableVersionRequest{Name: disabledService + "/versions/1"}); err != nil {
			return err
		}
		if _, err := c.Services().DestroyVersion(ctx, &kryptonv1.DestroyVersionRequest{Name: destroyedService + "/versions/1", Now: true}); err != nil {
			return err
		}
		// Twice, so that the log has a command that resumed it.
		if _, err := c.Services().SuspendService(ctx, &kryptonv1.SuspendServiceRequest{Name: suspendedService}); err != nil {
			return err
		}
		if _, err := c.Services().ResumeService(ctx, &kryptonv1.ResumeServiceRequest{Name: suspendedService}); err != nil {
			return err
		}
		if _, err := c.Services().SuspendService(ctx, &kryptonv1.SuspendServiceRequest{Name: suspendedService}); err != nil {
			return err
		}
		_, err := c.Policies().PutPolicy(ctx, &kryptonv1.PutPolicyRequest{Name: tenant + "/policies/guard", Text: guard})
		return err
	})
}

// guard is the policy of the tenant.
const guard = `permit (principal, action, resource);

forbid (principal is Krypton::Workload, action == Krypton::Action::"crypto.decrypt", resource in Krypton::Service::"guarded");
`

// unguard changes one byte of it.
func unguard(p *fsmpb.Policy) bool {
	if p.GetText() != guard {
		return false
	}
	p.Text = strings.Replace(p.GetText(), "\"guarded\"", "\"guardee\"", 1)
	return true
}

// corruption is an edit of the registry that gives something back.
type corruption struct {
	name string
	edit edit                           // of the command that took it away
	item func(*fsmpb.SnapshotItem) bool // in place of edit, for what replaying the log cannot make
	// vanishes: people signed the command, so an edited one is refused when the log is
	// applied again; and that is all that the attacker wants.
	vanishes bool
	files    func(dataDir string) error // what else is edited; nil: nothing
	// log is in place of edit, for what is no edit of a command.
	log func([]*raft.Log) ([]*raft.Log, error)
	// use is what works only where the edit is believed.
	use func(ctx context.Context, s *scene, n *devcluster.Node) error
}

// of reports whether a command is about a service.
func of(ref *fsmpb.ObjectRef, name string) bool {
	return ref.GetTenant() == tenantID && ref.GetService() == filepath.Base(name)
}

// reads returns a use: what was encrypted under a service is read.
func reads(name string) func(context.Context, *scene, *devcluster.Node) error {
	return func(ctx context.Context, s *scene, n *devcluster.Node) error {
		return s.at(ctx, n, auth.RoleWorkload, func(c *client.Client) error {
			resp, err := c.Crypto().Decrypt(ctx, &kryptonv1.DecryptRequest{Service: name, Ciphertext: s.under[name]})
			if err == nil && string(resp.GetPlaintext()) != canary {
				err = errors.New("it decrypts to something else")
			}
			return err
		})
	}
}

func givePlatform(b *fsmpb.RoleBinding) bool {
	hit := b.GetName() == "gina"
	if hit {
		b.Platform = true
	}
	return hit
}

func corruptions() []corruption {
	return []corruption{
		{
			name: "a disabled version enabled", use: reads(disabledService),
			edit: func(cmd *fsmpb.Command) bool {
				c := cmd.GetChangeVersion()
				hit := of(c.GetObject(), disabledService) && c.GetEvent() == fsmpb.VersionEvent_VERSION_EVENT_DISABLE
				if hit {
					c.Event = fsmpb.VersionEvent_VERSION_EVENT_ENABLE // which it is already: nothing happens
				}
				return hit
			},
		},
		{
			name: "a destroyed version brought back", use: reads(destroyedService),
			edit: func(cmd *fsmpb.Command) bool {
				c := cmd.GetChangeVersion()
				hit := of(c.GetObject(), destroyedService) && c.GetEvent() == fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY
				if hit {
					c.Event = fsmpb.VersionEvent_VERSION_EVENT_CANCEL_DESTROY
				}
				return hit
			},
		},
		{
			name: "the primary pointer moved back",
			use: func(ctx context.Context, s *scene, n *devcluster.Node) error {
				return s.at(ctx, n, auth.RoleWorkload, func(c *client.Client) error {
					resp, err := c.Crypto().Encrypt(ctx, &kryptonv1.EncryptRequest{Service: rotatedService, Plaintext: []byte(canary)})
					if err == nil && resp.GetKeyVersion() != rotatedService+"/versions/1" {
						err = errors.New("it encrypts under " + resp.GetKeyVersion())
					}
					return err
				})
			},
			edit: func(cmd *fsmpb.Command) bool {
				c := cmd.GetSetPrimary()
				hit := of(c.GetObject(), rotatedService) && c.GetNumber() == 2
				if hit {
					c.Number = 1
				}
				return hit
			},
		},
		{
			name: "a suspended service resumed", use: reads(suspendedService),
			edit: func(cmd *fsmpb.Command) bool {
				c := cmd.GetChangeObject()
				hit := of(c.GetObject(), suspendedService) && c.GetEvent() == fsmpb.ObjectEvent_OBJECT_EVENT_SUSPEND
				if hit {
					c.Event = fsmpb.ObjectEvent_OBJECT_EVENT_RESUME
				}
				return hit
			},
		},
		{
			name: "one byte of a policy", use: reads(guardedService), vanishes: true,
			edit: func(cmd *fsmpb.Command) bool { return unguard(cmd.GetPutPolicy().GetPolicy()) },
			item: func(i *fsmpb.SnapshotItem) bool { return unguard(i.GetPolicy()) },
		},
		{
			name: "a governor given the platform",
			use: func(ctx context.Context, s *scene, n *devcluster.Node) error {
				c, err := s.caller(ctx, s.gina, n.Addresses().GRPC)
				if err != nil {
					return err
				}
				defer func() { _ = c.Close() }()
				_, err = c.Tenants().SuspendTenant(ctx, &kryptonv1.SuspendTenantRequest{Name: tenant})
				return err
			},
			edit: func(cmd *fsmpb.Command) bool { return givePlatform(cmd.GetBindRole().GetBinding()) },
			item: func(i *fsmpb.SnapshotItem) bool { return givePlatform(i.GetRoleBinding()) },
		},
	}
}

// editItems changes items of a snapshot, and makes its checksum right. The proof at its
// end stays as it is.
func editItems(b []byte, f func(*fsmpb.SnapshotItem) bool) ([]byte, error) {
	const head = len("KRYPSNAP") + 4 // docs/formats.md, Snapshot
	at, edits := head, 0
	next := func() []byte {
		n := int(binary.BigEndian.Uint32(b[at:]))
		at += 4 + n
		return b[at-n : at]
	}
	header := next()
	out := append(bytes.Clone(b[:head]), binary.BigEndian.AppendUint32(nil, uint32(len(header)))...) //nolint:gosec // It is small.
	out = append(out, header...)
	for binary.BigEndian.Uint32(b[at:]) != 0 {
		raw := next()
		item := &fsmpb.SnapshotItem{}
		if err := proto.Unmarshal(raw, item); err != nil {
			return nil, err
		}
		if f(item) {
			var err error
			if raw, err = (proto.MarshalOptions{Deterministic: true}).Marshal(item); err != nil {
				return nil, err
			}
			edits++
		}
		out = binary.BigEndian.AppendUint32(out, uint32(len(raw))) //nolint:gosec // It is small.
		out = append(out, raw...)
	}
	if edits == 0 {
		return nil, errNothingEdited
	}
	out = append(out, b[at:at+12]...) // the end of the items, and how many there were
	sum := sha256.Sum256(out)
	return append(append(out, sum[:]...), b[at+12+sha256.Size:]...), nil
}

// editSnapshot has a stopped node's state be that of a snapshot which a node wrote
// when it was unsealed, with a valid proof; then it edits that.
func editSnapshot(dataDir string, c corruption, honestMAC fsm.MACFunc) error {
	if c.item != nil {
		if err := writeSnapshot(dataDir, nil, honestMAC); err != nil {
			return err
		}
		state, meta, err := snapshotFiles(dataDir)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(state)
		if err != nil {
			return err
		}
		if b, err = editItems(b, c.item); err != nil {
			return err
		}
		return putSnapshot(state, meta, b)
	}
	// The MAC that the snapshot would have without the edit is the best that an
	// attacker has.
	m, _, err := replay(logFile(dataDir), nil)
	if err != nil {
		return err
	}
	var kept [macSize]byte
	if _, err := m.Snapshot().WriteTo(io.Discard, func(g hierarchy.Generation, parts ...[]byte) ([32]byte, bool) {
		sum, ok := honestMAC(g, parts...)
		kept = sum
		return sum, ok
	}); err != nil {
		return err
	}
	return writeSnapshot(dataDir, c.edit, func(hierarchy.Generation, ...[]byte) ([32]byte, bool) { return kept, true })
}

// copyOf returns a stopped cluster with the files of another stopped one.
func (s *scene) copyOf(ctx context.Context, name string, c cast) (*scene, error) {
	dir, err := s.w.path(name)
	if err != nil {
		return nil, err
	}
	if out, err := exec.CommandContext(ctx, "cp", "-a", s.Dir(), dir).CombinedOutput(); err != nil { //nolint:gosec // Our own paths.
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	t := &theatre{w: s.w, lies: dir + ".lies", liar: map[string]bool{}, ciphertext: s.ciphertext}
	for _, n := range s.Nodes() {
		t.liar[n.Name()] = c == control
		// Ports of its own.
		conf := filepath.Join(dir, n.Name()+".yaml")
		raw, err := os.ReadFile(conf)
		if err != nil {
			return nil, err
		}
		if err := writeFile(conf, ports.ReplaceAll(raw, []byte("127.0.0.1:0"))); err != nil {
			return nil, err
		}
	}
	if t.Cluster, err = devcluster.Open(t.options(dir, len(s.Nodes()))); err != nil {
		return nil, err
	}
	s.w.mu.Lock()
	s.w.clusters[name] = t
	s.w.mu.Unlock()
	return &scene{theatre: t, under: s.under, gina: s.gina}, nil
}

var ports = regexp.MustCompile(`127\.0\.0\.1:\d+`)

// enough is how often a node that serves is asked for what the edit gives.
const enough = 20

// tried is how a node with edited files fared.
type tried struct {
	used   bool   // it served what the edit gives
	serves bool   // it serves, and refuses that
	said   string // why, in its own words
}

// try starts a node and uses what the edit gives, until that works or the node said
// that its state is not to be trusted.
func (s *scene) try(ctx context.Context, n *devcluster.Node, c corruption) (r tried, err error) {
	if err := n.Start(ctx); err != nil && n.Running() {
		return r, notTried(err)
	}
	left := enough
	err = eventually(ctx, "node "+n.Name()+" serves or refuses", func(ctx context.Context) error {
		if !n.Running() {
			r.said = "it stopped: " + s.lastWords(n)
			return nil
		}
		code, body := readyz(ctx, n)
		if strings.Contains(body, "STATE_CORRUPT") {
			r.said = strings.TrimSpace(body)
			return nil
		}
		if code != http.StatusOK {
			return errors.New(body)
		}
		err := c.use(ctx, s, n)
		if r.used = err == nil; r.used {
			r.said = "it answered"
		}
		if left--; err != nil && left == 0 {
			r.serves, r.said, err = true, err.Error(), nil
		}
		return err
	})
	return r, err
}

// lastWords are what a process that ended said last.
func (s *scene) lastWords(n *devcluster.Node) string {
	log, err := os.ReadFile(n.LogFile())
	if err != nil {
		return err.Error()
	}
	return lineWith(string(log), "krypton: ")
}

// readyz asks the operations port of a node.
func readyz(ctx context.Context, n *devcluster.Node) (int, string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.Addresses().Ops+"/readyz", http.NoBody)
	if err != nil {
		return 0, err.Error()
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(body)
}

// place is which file is edited.
type place string

const (
	inSnapshot place = "snapshot"
	inLog      place = "log"
)

func (s *scene) corrupt(ctx context.Context, n *devcluster.Node, where place, c corruption) error {
	if where == inLog {
		var err error
		if c.log != nil {
			err = rewriteLog(n.DataDir(), c.log)
		} else {
			err = editLog(n.DataDir(), c.edit)
		}
		if err == nil && c.files != nil {
			err = c.files(n.DataDir())
		}
		return err
	}
	mac, err := s.prover(ctx, n)
	if err != nil {
		return err
	}
	return editSnapshot(n.DataDir(), c, mac)
}

// prepared returns the stopped cluster of that many nodes of which the others are copies.
func (w *world) prepared(ctx context.Context, nodes int, c cast, lies ...mutation.Name) (*scene, error) {
	name := fmt.Sprintf("prepared-%s-%d", c, nodes)
	w.mu.Lock()
	s, ok := w.scenes[name]
	w.mu.Unlock()
	if ok {
		return s, nil
	}
	t, err := w.cluster(ctx, name, nodes, c, lies...)
	if err != nil {
		return nil, err
	}
	if s, err = t.arrange(ctx); err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.scenes[name] = s
	w.mu.Unlock()
	return s, errors.Join(s.takeAway(ctx), t.stop(ctx))
}

// everywhere is an attack on the files of every node, of a cluster of one.
func everywhere(where place, c corruption, without ...mutation.Name) func(context.Context, *world) (finding, error) {
	return func(ctx context.Context, w *world) (f finding, err error) {
		base, err := w.prepared(ctx, 1, honest)
		if err != nil {
			return f, notTried(err)
		}
		name := strings.ReplaceAll(c.name, " ", "-")
		try := func(as cast, lies ...mutation.Name) (tried, error) {
			s, err := base.copyOf(ctx, name+"-"+string(where)+"-"+string(as), as)
			if err != nil {
				return tried{}, notTried(err)
			}
			if err := errors.Join(s.lie(lies...), s.corrupt(ctx, s.Nodes()[0], where, c)); err != nil {
				return tried{}, notTried(err)
			}
			r, err := s.try(ctx, s.Nodes()[0], c)
			s.Nodes()[0].Kill()
			return r, err
		}
		r, err := try(honest)
		f.broke, f.ended, f.evidence = r.used, "the node serves nothing and says so", r.said
		switch {
		case r.used:
			f.ended = "the node obeys the edit"
		case r.serves:
			f.ended = "the node serves, and does not have what the edit gives"
		}
		if err != nil {
			return f, err
		}
		if len(without) == 0 {
			return f, nil // it needs no control: it works
		}
		r, err = try(control, without...)
		if r.used {
			f.control = "the node obeys the edit"
		}
		return f, err
	}
}

func files() []attack {
	var all []attack
	for _, c := range corruptions() {
		all = append(all, attack{
			name: c.name + ", snapshots of all nodes", who: everyDisk,
			tries: "edits the state in the snapshot, and makes all checksums right", stops: "a MAC under a key derived from the MasterKey, checked before the node serves",
			without: "the proof is not checked, and nobody asks how far a log went", run: everywhere(inSnapshot, c, mutation.SkipSnapshotMAC, mutation.SkipLogEnd),
		})
	}
	for _, c := range corruptions() {
		a := attack{
			name: c.name + ", logs of all nodes", who: everyDisk, tries: "edits the command in the log, and makes all checksums right",
			stops:   "the leader wrote a proof beside the command, with a MAC under a key derived from the MasterKey, checked before the node serves",
			without: "entries are believed without their proofs, and nobody asks how far a log went", run: everywhere(inLog, c, mutation.SkipEntryProof, mutation.SkipLogEnd),
		}
		if c.item != nil && !c.vanishes {
			a.stops += "; and people signed the command"
			a.without, a.run = "entries are believed without their proofs, nobody asks how far a log went, and the signatures are skipped", everywhere(inLog, c, mutation.SkipEntryProof, mutation.SkipLogEnd, mutation.SkipIntents)
		}
		all = append(all, a)
	}
	all = append(all, entries()...)
	return append(all, attack{
		name: "the founding rewritten, logs of all nodes", who: everyDisk,
		tries:   "takes the rules out of the genesis, pins the nodes to its new fingerprint, and registers a CA of the attacker's for workloads of the tenant",
		stops:   "what wraps the internal keys depends on the genesis, so they do not open under another one",
		without: "a cluster whose internal keys do not depend on it, and in which entries are believed without their proofs", run: refounded,
	})
}

const everyDisk = "who can write the files of every node"
