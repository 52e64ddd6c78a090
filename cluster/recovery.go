package cluster

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/atomicfile"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Recovery prepares a data directory from which a cluster begins anew (docs/adr/0042).
// Nothing here needs the MasterKey, and nothing here changes the registry: the node that
// is started on the directory does, once it is unsealed, by a command that people signed.
type Recovery struct {
	Dir   *Dir // held by the caller
	Saved *Saved
	Kind  fsmpb.RecoveryKind
	// File opens the snapshot file again; of a recovery from one.
	File func() (io.ReadCloser, error)
	// More writes what else belongs into the directory: the seal record, a certificate. It
	// may be called again after a death. nil: nothing.
	More func() error

	Clock clock.Clock
	Rand  io.Reader
	Log   *slog.Logger
}

// Plan returns what the recovery is, which is what people sign. It depends on the node id
// and key of the directory and on the state only, so it is the same each time. A
// directory without a key gets one.
func (r Recovery) Plan() (*fsmpb.Recover, error) {
	d := r.Dir
	if err := r.notApplied(); err != nil {
		return nil, err
	}
	key, err := r.key()
	if err != nil {
		return nil, err
	}
	v := r.Saved.View()
	index, _, chain := v.Applied()
	id := string(d.NodeID())
	m, member := v.Member(id)
	begun := d.record().Recovery != recoveryNone // again, with other signatures, say
	switch r.Kind {
	case fsmpb.RecoveryKind_RECOVERY_KIND_SNAPSHOT:
		if left, err := d.remains(); err != nil {
			return nil, err
		} else if !begun && (d.Membership() != MembershipNone || left != "" && left != nodeKeyFile) {
			return nil, errs.New(errs.FailedState, "the data directory is not empty", errs.Hint("recover a snapshot into a new data directory; a member's own is for krypton operator recover quorum"))
		}
	case fsmpb.RecoveryKind_RECOVERY_KIND_QUORUM:
		if d.Membership() != MembershipMember || !member || m.GetRemoved() || string(m.GetPublicKey()) != string(key.spki) {
			return nil, errs.New(errs.FailedState, "this data directory is not that of a member", errs.Hint("recover on a node that is a member, or recover a snapshot into a new data directory"))
		}
	case fsmpb.RecoveryKind_RECOVERY_KIND_UNSPECIFIED:
		return nil, errs.New(errs.Internal, "a recovery without a kind")
	}
	if v.Cluster().GetFormatVersion() < fsm.FormatProofs {
		return nil, errs.New(errs.FailedState, "the cluster is of a format version before recoveries", errs.Hint("it can only be brought back with the disks of a majority of its voters"))
	}
	i := &fsmpb.Incarnation{Kind: r.Kind, Node: id, FromIndex: index, FromChain: chain[:], Lost: v.Lost(id)}
	if len(i.GetLost()) > fsm.MaxLost {
		return nil, errs.Newf(errs.LimitReached, "there are more than %d voters", fsm.MaxLost)
	}
	inc := fsm.IncarnationID(v.Cluster().GetKeyspaceId(), i)
	i.Id = inc[:]
	return &fsmpb.Recover{Incarnation: i, Member: &fsmpb.Member{Id: id, PublicKey: key.spki}}, nil
}

// notApplied refuses a directory whose recovery is in its log already.
func (r Recovery) notApplied() error {
	if !r.Dir.Recovering() {
		return nil
	}
	s, err := LoadDir(r.Dir, r.Clock, r.Log)
	if err == nil && string(s.View().Incarnation().GetId()) == string(r.Dir.Incarnation()) {
		return errs.New(errs.FailedState, "this data directory was recovered already", errs.Hint("start the node: krypton server, and unseal it"))
	}
	return err
}

// Check reports why the cluster would refuse the recovery with these signatures at that
// time.
func (s *Saved) Check(plan *fsmpb.Recover, signed []*fsmpb.SignedIntent, now time.Time) error {
	cmd := &fsmpb.Command{
		Format: fsm.CommandFormat, TimeUnixMs: now.UnixMilli(), Intents: signed,
		Body: &fsmpb.Command_Recover{Recover: &fsmpb.Recover{Incarnation: plan.GetIncarnation(), Member: checkable(plan.GetMember())}},
	}
	return fsm.Err(s.machine.DryRun(cmd))
}

// checkable is a member with what a node says of itself only when it runs.
func checkable(m *fsmpb.Member) *fsmpb.Member {
	return &fsmpb.Member{Id: m.GetId(), PublicKey: m.GetPublicKey(), Name: "node", PeerAddress: "127.0.0.1:1", MaxFormat: fsm.MaxFormatVersion}
}

// key returns the member key of the directory.
func (r Recovery) key() (*MemberKey, error) { return LoadMemberKey(r.Dir, r.Clock, r.Rand) }

// Prepare makes the directory that of a node that begins the cluster anew. What people
// signed of plan goes with it; the node looks at it, not this. A death at any step leaves
// a directory that no node starts on until the same is done again.
func (r Recovery) Prepare(plan *fsmpb.Recover, signed []*fsmpb.SignedIntent) error {
	cmd := &fsmpb.Command{Format: fsm.CommandFormat, Intents: signed, Body: &fsmpb.Command_Recover{Recover: plan}}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(cmd)
	if err != nil {
		return err
	}
	if len(raw) > MaxEntry/2 {
		return errTooLarge()
	}
	id := hex.EncodeToString(plan.GetIncarnation().GetId())
	if err := r.Dir.update(func(n *nodeRecord) { n.Recovery = recoveryBegun }); err != nil {
		return err
	}
	if err := writeFileAtomic(r.Dir.Path(recoveryFile), raw); err != nil {
		return err
	}
	if r.Kind == fsmpb.RecoveryKind_RECOVERY_KIND_SNAPSHOT {
		if err := r.unpack(); err != nil {
			return err
		}
	}
	if r.More != nil {
		if err := r.More(); err != nil {
			return err
		}
	}
	if err := r.alone(); err != nil {
		return err
	}
	cl := r.Saved.View().Cluster()
	return r.Dir.update(func(n *nodeRecord) {
		n.Membership, n.Recovery, n.Incarnation = MembershipMember, recoveryReady, id
		n.ClusterID, n.KeyspaceID, n.Fingerprint = hex.EncodeToString(cl.GetClusterId()), hex.EncodeToString(cl.GetKeyspaceId()), hex.EncodeToString(cl.GetFingerprint())
	})
}

// unpack writes the snapshot and the entries of the file into the directory.
func (r Recovery) unpack() (err error) {
	// What a death of before left is of the same file; Raft is to find none of it.
	if err := os.RemoveAll(r.Dir.Path(raftDir)); err != nil {
		return dirError("empty", r.Dir.Path(raftDir), err)
	}
	if err := os.MkdirAll(r.Dir.Path(snapDir), dirMode); err != nil {
		return dirError("create", r.Dir.Path(snapDir), err)
	}
	f, err := r.File()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	snaps, _, err := stored(r.Dir, newRaftLog(r.Log, r.Clock))
	if err != nil {
		return err
	}
	st, err := openStore(r.Dir.Path(raftDB), r.Clock, func(error) {})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	if err := os.Chmod(r.Dir.Path(raftDB), fileMode); err != nil {
		return dirError("protect", r.Dir.Path(raftDB), err)
	}
	again := newSaved() // the file may be another one by now
	var batch []*raft.Log
	flush := func() error {
		defer func() { batch = batch[:0] }()
		if len(batch) == 0 {
			return nil
		}
		return st.StoreLogs(batch)
	}
	err = eachOfFile(f, func(*clusterpb.SnapshotFileHeader) error { return nil }, func(at place, body io.Reader) error {
		_, trans := raft.NewInmemTransport(raft.ServerAddress(r.Dir.NodeID()))
		sink, err := snaps.Create(raft.SnapshotVersionMax, at.index, at.term, r.self(), at.index, trans)
		if err != nil {
			return dirError("write", r.Dir.Path(snapDir), err)
		}
		if err := again.restore(at, io.TeeReader(body, sink)); err != nil {
			return errors.Join(err, sink.Cancel())
		}
		return sink.Close()
	}, func(l *raft.Log) error {
		if err := again.entry(l); err != nil {
			return err
		}
		if batch = append(batch, l); len(batch) == maxUnpack {
			return flush()
		}
		return nil
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return err
	}
	if _, _, is := again.machine.Applied(); is != r.Saved.chain() {
		return badFile("it changed while it was read")
	}
	return atomicfile.SyncDir(r.Dir.Path(raftDir))
}

// maxUnpack is how many entries are written at a time.
const maxUnpack = 64

// chain is the state chain at the end.
func (s *Saved) chain() [32]byte {
	_, _, chain := s.machine.Applied()
	return chain
}

// self is a Raft configuration of this node alone.
func (r Recovery) self() raft.Configuration {
	id := r.Dir.NodeID()
	return raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: raft.ServerID(id), Address: raft.ServerAddress(id)}}}
}

// alone makes this node the only one in its Raft configuration, by an entry at the end
// of its log. Nothing of the log is removed: its proofs stay what they are. The term is
// one that this node never was in.
//
// Raft's own RecoverCluster writes a snapshot of the state and removes the log; the
// snapshot would need a MAC, and so the MasterKey, here.
func (r Recovery) alone() (err error) {
	_, list, err := stored(r.Dir, newRaftLog(r.Log, r.Clock))
	if err != nil {
		return err
	}
	st, err := openStore(r.Dir.Path(raftDB), r.Clock, func(error) {})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	index, term := st.found.last, st.found.term
	if index != 0 {
		var l raft.Log
		if err := st.GetLog(index, &l); err != nil {
			return err
		}
		if l.Type == raft.LogConfiguration && sameServers(raft.DecodeConfiguration(l.Data), r.self()) {
			return nil // a death of before came after it
		}
		term = max(term, l.Term)
	}
	for _, m := range list {
		index, term = max(index, m.Index), max(term, m.Term)
	}
	last := &raft.Log{Index: index + 1, Term: term + 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(r.self())}
	// The term first: an entry of a term that this node is not in yet would be one of a
	// leader that it never heard of.
	if err := st.SetUint64(keyCurrentTerm, last.Term); err != nil {
		return err
	}
	return st.StoreLog(last)
}

func sameServers(a, b raft.Configuration) bool {
	if len(a.Servers) != len(b.Servers) {
		return false
	}
	for i := range a.Servers {
		if a.Servers[i] != b.Servers[i] {
			return false
		}
	}
	return true
}

// Answers reports whether a member answers at its peer address, under its own key. Who
// has any key is let through the handshake to ask whether it may join, so a node of any
// incarnation answers, and a stranger at that address does not pass for it.
func (r Recovery) Answers(ctx context.Context, m *fsmpb.Member) (bool, error) {
	key, err := r.key()
	if err != nil {
		return false, err
	}
	d := tls.Dialer{
		NetDialer: &net.Dialer{Timeout: dialTime},
		Config: &tls.Config{
			MinVersion: tls.VersionTLS13, NextProtos: []string{protoJoin},
			InsecureSkipVerify:   true, //nolint:gosec // The key is looked at below.
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return key.certificate() },
		},
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	conn, err := d.DialContext(ctx, "tcp", m.GetPeerAddress())
	if err != nil {
		return false, nil // nobody, or nobody who speaks so
	}
	defer func() { _ = conn.Close() }()
	tc, ok := conn.(*tls.Conn)
	if !ok {
		return false, nil
	}
	cert, err := leaf(tc.ConnectionState())
	if err != nil {
		return false, nil // as above
	}
	return sha256.Sum256(cert.RawSubjectPublicKeyInfo) == sha256.Sum256(m.GetPublicKey()), nil
}

// LongestLease returns how long a lease of the cluster in that state can still be in use
// after the last voter that could give or confirm one is gone, by any clock that is at
// most 1 % wrong.
func (s *Saved) LongestLease() time.Duration {
	d := s.View().LeaseDuration()
	return d + d/50 + time.Second
}
