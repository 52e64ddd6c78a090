package cluster

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/openkcm/krypton-cluster/internal/atomicfile"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Names in the data directory.
const (
	lockFile   = "LOCK"
	nodeFile   = "node.json"
	formatFile = "format"
	raftDir    = "raft"
	raftDB     = "raft/raft.db"
	snapDir    = "raft/snapshots"
	sealDir    = "seal"
	tlsDir     = "tls"
	auditDir   = "audit"
	runDir     = "run"

	sealRecord    = "seal/record.pb"
	nodeKeyFile   = "tls/node.key"
	peersFile     = "tls/peers.json"
	addressesFile = "run/addresses.json"
	recoveryFile  = "recovery.pb"
)

// dirFormat is the layout of the data directory that this program writes and
// the highest that it opens. Changing it breaks every older program, on purpose.
const dirFormat = "1"

// maxSmallFile bounds what is read of the small files, so that a wrong file in
// their place does not fill the memory.
const maxSmallFile = 1 << 20

const (
	dirMode  fs.FileMode = 0o700
	fileMode fs.FileMode = 0o600
)

// NodeID is the identity of a node: 32 hex digits, random, born with the data
// directory and never used again.
type NodeID string

// Valid reports whether id has the form of a node id.
func (id NodeID) Valid() bool {
	if len(id) != 32 {
		return false
	}
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Membership says how far a data directory is on its way into a cluster.
type Membership string

// The stages. Only a new directory may be bootstrapped or join.
const (
	MembershipNone          Membership = ""              // no cluster yet
	MembershipBootstrapping Membership = "bootstrapping" // its own cluster is being made: the genesis may or may not be in the log
	MembershipMember        Membership = "member"        // it belongs to a cluster for good
)

// nodeRecord is node.json.
type nodeRecord struct {
	Format      int        `json:"format"`
	NodeID      NodeID     `json:"node_id"`
	Boots       uint64     `json:"boots"`
	Membership  Membership `json:"membership"`
	ClusterID   string     `json:"cluster_id,omitempty"`
	KeyspaceID  string     `json:"keyspace_id,omitempty"`
	Fingerprint string     `json:"fingerprint,omitempty"`

	// Incarnation is that of the cluster to which the node listens, 32 hex digits;
	// empty: the first one.
	Incarnation string        `json:"incarnation,omitempty"`
	Recovery    recoveryStage `json:"recovery,omitempty"`
}

// recoveryStage says how far a recovery of this data directory is.
type recoveryStage string

const (
	recoveryNone  recoveryStage = ""
	recoveryBegun recoveryStage = "begun"   // files are being written; the node does not start
	recoveryReady recoveryStage = "pending" // the node proposes the recovery once it is unsealed
)

// Dir is a data directory that this process holds. Its methods are safe for
// concurrent use. Close gives the directory back.
type Dir struct {
	path string
	lock *os.File

	mu     sync.Mutex
	node   nodeRecord
	closed bool
}

// OpenDir creates or opens the data directory at path, takes its lock and counts
// the start. Directories get mode 0700, files 0600; a directory that others can
// reach into, of a newer format, or held by another process is refused, and so
// is one that has lost its identity or its log. A creation that a crash cut
// short is completed. The id of a new directory comes from rand.
func OpenDir(path string, rand io.Reader) (*Dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, errs.New(errs.InvalidConfig, "the data directory has no absolute path", errs.Cause(err))
	}
	if err = makeDir(path); err != nil {
		return nil, dirError("create", path, err)
	}
	if err = checkMode(path); err != nil {
		return nil, err
	}
	if err = checkOwner(path); err != nil {
		return nil, err
	}
	lock, err := takeLock(filepath.Join(path, lockFile))
	if err != nil {
		return nil, err
	}
	d := &Dir{path: path, lock: lock}
	if err := d.open(rand); err != nil {
		_ = lock.Close()
		return nil, err
	}
	return d, nil
}

// makeDir makes the directory at path and those above it that are missing. The
// name of each is on disk when it returns: what is synced in a directory whose
// own name is not is lost with it.
func makeDir(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	above := filepath.Dir(path)
	if err := makeDir(above); err != nil {
		return err
	}
	if err := os.Mkdir(path, dirMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return atomicfile.SyncDir(above)
}

// unfinished matches what an earlier process was writing when it died: a file or
// snapshot that was to be renamed when it was whole.
//
//nolint:gochecknoglobals // A constant; Go has no constant slices.
var unfinished = []string{"*.tmp", sealDir + "/*.tmp", tlsDir + "/*.tmp", tlsDir + "/*.new", runDir + "/*.tmp", snapDir + "/*.tmp", raftDir + "/*.tmp"}

// removeUnfinished keeps such files from lying there for ever: some are written
// again only months later, and snapshots are large.
func (d *Dir) removeUnfinished() error {
	for _, pattern := range unfinished {
		found, err := d.glob(pattern)
		if err != nil {
			return err
		}
		for _, f := range found {
			if err := os.RemoveAll(d.Path(f)); err != nil {
				return dirError("remove", d.Path(f), err)
			}
		}
	}
	return nil
}

// open runs under the lock. Its order makes a crash at any step harmless: what
// comes later is missing and is made by the next start, and node.json, which
// makes the directory an identity, comes last.
func (d *Dir) open(rand io.Reader) error {
	if err := d.checkFormat(); err != nil {
		return err
	}
	for _, sub := range []string{raftDir, snapDir, sealDir, tlsDir, auditDir, runDir} {
		p := d.Path(sub)
		if err := os.Mkdir(p, dirMode); err != nil && !errors.Is(err, fs.ErrExist) {
			return dirError("create", p, err)
		}
		if err := checkMode(p); err != nil {
			return err
		}
	}
	if err := atomicfile.SyncDir(d.path); err != nil {
		return dirError("sync", d.path, err)
	}
	if err := d.removeUnfinished(); err != nil {
		return err
	}
	for _, f := range []string{nodeFile, formatFile, endFile, compareFile, raftDB, nodeKeyFile, peersFile} {
		if err := checkMode(d.Path(f)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	log, dbErr := os.Stat(d.Path(raftDB))
	hasLog := dbErr == nil && log.Size() > 0 // the database would be made anew in an empty file
	raw, err := readSmall(d.Path(nodeFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// A new identity among the remains of an old one would hide what was lost.
		left, err := d.remains()
		if err != nil {
			return err
		}
		if left != "" {
			return errs.New(errs.StateCorrupt, "node.json is missing although the data directory has "+left, errs.Hint("%s", startAnew))
		}
		id := make([]byte, 16)
		if _, err := io.ReadFull(rand, id); err != nil {
			return fmt.Errorf("make node id: %w", err)
		}
		d.node = nodeRecord{Format: 1, NodeID: NodeID(hex.EncodeToString(id))}
	case err != nil:
		return dirError("read", d.Path(nodeFile), err)
	default:
		if err := d.decodeNode(raw); err != nil {
			return err
		}
	}
	if d.node.Membership == MembershipMember && !hasLog && d.node.Recovery != recoveryBegun {
		// I1: the same id with an empty log could vote twice in one term.
		what := "missing"
		if dbErr == nil {
			what = "empty"
		}
		return errs.New(errs.StateCorrupt, "the Raft log of this member is "+what, errs.Hint("%s", startAnew))
	}
	d.node.Boots++
	return d.writeNode(d.node)
}

// startAnew is what to do about a data directory that cannot be trusted any
// more. A node that went on from a part of it might vote twice.
const startAnew = "put the file back if you moved it; else replace this node: krypton operator remove, then krypton join with an empty data directory"

// remains returns a file that only a node with an identity writes, or "".
func (d *Dir) remains() (string, error) {
	for _, pattern := range []string{raftDB, endFile, compareFile, snapDir + "/*", sealDir + "/*", nodeKeyFile, peersFile} {
		found, err := d.glob(pattern)
		if err != nil {
			return "", err
		}
		if len(found) > 0 {
			return found[0], nil
		}
	}
	return "", nil
}

// glob returns the files of the data directory that match, relative to it. The
// path of the directory is no part of the pattern: it may have brackets in it.
func (d *Dir) glob(pattern string) ([]string, error) {
	found, err := fs.Glob(os.DirFS(d.path), pattern)
	if err != nil {
		return nil, dirError("read", d.Path(pattern), err)
	}
	return found, nil
}

func (d *Dir) decodeNode(raw []byte) error {
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	dec.DisallowUnknownFields()
	var n nodeRecord
	err := dec.Decode(&n)
	facts := n.ClusterID != "" || n.KeyspaceID != "" || n.Fingerprint != ""
	switch {
	case err != nil:
	case n.Format != 1:
		err = fmt.Errorf("format %d is not 1", n.Format)
	case !n.NodeID.Valid():
		err = errors.New("node_id is not 32 hex digits")
	case n.Membership != MembershipNone && n.Membership != MembershipBootstrapping && n.Membership != MembershipMember:
		err = errors.New("membership is unknown")
	case facts != (n.Membership == MembershipMember):
		err = errors.New("cluster facts do not fit the membership")
	case facts && (len(n.ClusterID) != 32 || len(n.KeyspaceID) != 32 || len(n.Fingerprint) != 64 || !isHex(n.ClusterID+n.KeyspaceID+n.Fingerprint)):
		err = errors.New("cluster facts are malformed")
	case n.Incarnation != "" && (len(n.Incarnation) != 32 || !isHex(n.Incarnation)):
		err = errors.New("incarnation is not 32 hex digits")
	case n.Recovery != recoveryNone && n.Recovery != recoveryBegun && n.Recovery != recoveryReady || n.Recovery == recoveryReady && (n.Incarnation == "" || !facts):
		err = errors.New("recovery is unknown, or of nothing")
	}
	if err == nil && dec.More() {
		err = errors.New("something follows its end")
	}
	if err != nil {
		return errs.New(errs.StateCorrupt, "node.json cannot be used: "+jsonProblem(err), errs.Hint("%s", startAnew), errs.Cause(err))
	}
	d.node = n
	return nil
}

// jsonProblem says what is wrong with a file of JSON, in words that are no
// programmer's.
func jsonProblem(err error) string {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "it is empty or cut short"
	}
	return err.Error()
}

func isHex(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil && strings.ToLower(s) == s
}

// checkFormat refuses a directory of a newer program, and writes the format
// into a new one.
func (d *Dir) checkFormat() error {
	p := d.Path(formatFile)
	raw, err := readSmall(p)
	_, used := os.Lstat(d.Path(nodeFile))
	got := strings.TrimSpace(string(raw))
	number, notNumber := strconv.ParseUint(got, 10, 32)
	switch {
	case errors.Is(err, fs.ErrNotExist) && errors.Is(used, fs.ErrNotExist):
		return writeFileAtomic(p, []byte(dirFormat+"\n"))
	case errors.Is(err, fs.ErrNotExist):
		// It is written first of all. Without it, nobody knows whether a newer
		// release has changed what lies here.
		return errs.New(errs.StateCorrupt, p+" is missing, and the data directory is not new",
			errs.Hint("put the file back; it holds the number of the format, which this release writes as %s", dirFormat))
	case err != nil:
		return dirError("read", p, err)
	case got == dirFormat:
		return nil
	case notNumber != nil || number == 0:
		return errs.New(errs.StateCorrupt, p+" does not hold the number of a format",
			errs.Hint("put the file back; this release writes %s into it, and a damaged file is a reason to look at the disk", dirFormat))
	}
	return errs.Newf(errs.InvalidConfig, "the data directory has format %d, which this program does not know", number).
		With(errs.Hint("this release opens format %s; start the release that wrote the directory, or a newer one", dirFormat))
}

func (d *Dir) writeNode(n nodeRecord) error {
	raw, err := json.MarshalIndent(n, "", "  ")
	if err != nil {
		return fmt.Errorf("encode node.json: %w", err)
	}
	return writeFileAtomic(d.Path(nodeFile), append(raw, '\n'))
}

// update changes node.json on disk first and in memory after.
func (d *Dir) update(change func(*nodeRecord)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.node
	change(&n)
	if err := d.writeNode(n); err != nil {
		return err
	}
	d.node = n
	return nil
}

func (d *Dir) record() nodeRecord {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.node
}

// Path returns the absolute path of a file in the directory; name has slashes.
func (d *Dir) Path(name string) string { return filepath.Join(d.path, filepath.FromSlash(name)) }

// NodeID returns the identity that was born with the directory.
func (d *Dir) NodeID() NodeID { return d.record().NodeID }

// Boots returns how often the directory was opened, this time included.
func (d *Dir) Boots() uint64 { return d.record().Boots }

// Membership returns how far the directory is on its way into a cluster.
func (d *Dir) Membership() Membership { return d.record().Membership }

// Incarnation returns the id of the incarnation of the cluster to which this node
// listens; empty: the first one.
func (d *Dir) Incarnation() []byte {
	raw, _ := hex.DecodeString(d.record().Incarnation) // decodeNode looked at it
	return raw
}

// Keyspace returns the id of the keyspace that the directory belongs to; empty while it
// belongs to none.
func (d *Dir) Keyspace() []byte {
	raw, _ := hex.DecodeString(d.record().KeyspaceID) // decodeNode looked at it
	return raw
}

// Fingerprint returns SHA-256 of the genesis of the cluster that the directory
// belongs to, and false while it belongs to none.
func (d *Dir) Fingerprint() (sum [32]byte, ok bool) {
	n := d.record()
	raw, err := hex.DecodeString(n.Fingerprint)
	if err != nil || len(raw) != len(sum) {
		return sum, false
	}
	return [32]byte(raw), true
}

// Close gives the directory back. It is idempotent.
func (d *Dir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	return d.lock.Close() // the lock goes with the descriptor
}

// Addresses are the real addresses of a node's ports, as run/addresses.json
// has them. An empty one is a port that is off.
type Addresses struct {
	GRPC   string `json:"grpc,omitempty"`
	REST   string `json:"rest,omitempty"`
	Peer   string `json:"peer,omitempty"`
	Gossip string `json:"gossip,omitempty"`
	Ops    string `json:"ops,omitempty"`
	KMIP   string `json:"kmip,omitempty"`
}

// WriteAddresses replaces run/addresses.json, for whoever started the node with
// port 0 and needs to know which ports it got.
func (d *Dir) WriteAddresses(a Addresses) error {
	raw, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return fmt.Errorf("encode addresses: %w", err)
	}
	return writeFileAtomic(d.Path(addressesFile), append(raw, '\n'))
}

// ReadAddresses reads run/addresses.json of the data directory at path. It
// needs no lock: the file is replaced in one step.
func ReadAddresses(path string) (Addresses, error) {
	var a Addresses
	raw, err := readSmall(filepath.Join(path, filepath.FromSlash(addressesFile)))
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(raw, &a); err != nil {
		return a, fmt.Errorf("decode %s: %w", addressesFile, err)
	}
	return a, nil
}

func checkMode(path string) error {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return err
	case err != nil:
		return dirError("look at", path, err)
	case st.Mode().Perm()&0o077 == 0:
		return nil
	}
	want := fileMode
	if st.IsDir() {
		want = dirMode
	}
	return errs.New(errs.InvalidConfig, fmt.Sprintf("%s has mode %#o, so others on this machine can reach it", path, st.Mode().Perm()),
		errs.Hint("run: chmod %#o %s", want, path))
}

// dirError is the error of a call into the file system: what was tried on which
// path, what the system said, and what a person does about just that.
func dirError(verb, path string, err error) error {
	code, hint := errs.InvalidConfig, "the data directory must be on a local disk and writable for the user that runs the node"
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		code, hint = errs.Unavailable, "free space on that file system, then start the node again; docs/runbooks/disk-full.md"
	case errors.Is(err, syscall.EROFS):
		code, hint = errs.Unavailable, "the file system is mounted read-only: look for disk errors in the kernel's log, mount it writable, then start the node again"
	case errors.Is(err, syscall.EIO):
		code, hint = errs.Unavailable, "the disk fails: replace it, then this node; docs/runbooks/node-died.md"
	case errors.Is(err, fs.ErrPermission):
		hint = fmt.Sprintf("give it to the user that runs the node (uid %d): chown -R", os.Geteuid())
	case errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ENOTDIR):
		hint = "a directory and a file have changed places; look at node.data_dir and at what was put there"
	}
	return errs.New(code, fmt.Sprintf("cannot %s %s: %s", verb, path, systemSays(err)), errs.Hint("%s", hint), errs.Cause(err))
}

// systemSays returns what the operating system said, without the call and the
// path, which stand in the sentence already.
func systemSays(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	return err.Error()
}

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, maxSmallFile+1))
	if err == nil && len(raw) > maxSmallFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxSmallFile)
	}
	return raw, err
}

// writeFileAtomic replaces a file in one step: after a crash it is the old or
// the new one, and after it returned it is the new one.
func writeFileAtomic(path string, content []byte) error {
	if err := atomicfile.Write(path, content, fileMode); err != nil {
		return dirError("write", path, err)
	}
	return nil
}
