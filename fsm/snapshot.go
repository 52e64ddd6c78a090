package fsm

import (
	"bufio"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"hash"
	"io"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// The layout of a snapshot, integers big endian. Changing any of it breaks the
// restart of every node that has one.
//
//	"KRYPSNAP" | u32 format
//	u32 len | SnapshotHeader
//	any number of:  u32 len, not 0 | SnapshotItem      in the order of their keys
//	u32 0 | u64 number of items
//	32 bytes SHA-256 of everything before
//	u8 0, or u8 1 | 32 bytes MAC
const (
	snapshotMagic = "KRYPSNAP"
	// SnapshotFormat is the only format of snapshots so far.
	SnapshotFormat = 1
	// MaxItemBytes bounds one item of a snapshot. The largest is a key of
	// hierarchy.MaxVersions versions.
	MaxItemBytes = 16 << 20

	maxHeaderBytes = 4096
	// snapshotLabel begins what the MAC is over.
	snapshotLabel = "krypton/v1/snapshot"
)

// MACFunc computes a MAC over the concatenation of parts, under a key that comes from
// the MasterKey of that generation and that only an unsealed node has. All callers in
// this package give parts of fixed lengths. false: the node has no such key, because it
// is sealed, or opened by an older MasterKey, or the key is not kept any more.
type MACFunc func(g hierarchy.Generation, parts ...[]byte) (mac [32]byte, ok bool)

// Snapshot is the state at one index, to be written out. Taking it costs a
// pointer, and it may be written while commands are applied.
type Snapshot struct{ v *View }

// Snapshot returns the present state for writing.
func (m *Machine) Snapshot() *Snapshot { return m.View().Snapshot() }

// Snapshot returns the state in the view for writing.
func (v *View) Snapshot() *Snapshot { return &Snapshot{v: v} }

// Index and term of the last command in the snapshot.
func (s *Snapshot) Index() (index, term uint64) { return s.v.index, s.v.term }

// WriteTo writes the snapshot and returns how many bytes it wrote. mac may be
// nil, which is the same as a sealed node: the snapshot then proves nothing, and
// no node serves from it.
func (s *Snapshot) WriteTo(w io.Writer, mac MACFunc) (int64, error) {
	buf := bufio.NewWriterSize(w, 64<<10)
	sw := &snapshotWriter{w: buf, sum: sha256.New()}
	sw.bytes([]byte(snapshotMagic))
	sw.u32(SnapshotFormat)
	sw.message(s.v.header())
	var items uint64
	s.v.items(func(it *fsmpb.SnapshotItem) bool {
		sw.message(it)
		items++
		return sw.err == nil
	})
	sw.u32(0)
	sw.bytes(binary.BigEndian.AppendUint64(nil, items))

	p := Proof{Index: s.v.index, Chain: s.v.chain, Generation: s.v.Generation()}
	sw.sum.Sum(p.Digest[:0])
	sw.bytes(p.Digest[:])
	if mac != nil {
		p.MAC, p.HasMAC = p.compute(mac)
	}
	if p.HasMAC {
		sw.bytes([]byte{1})
		sw.bytes(p.MAC[:])
	} else {
		sw.bytes([]byte{0})
	}
	if sw.err == nil {
		sw.err = buf.Flush()
	}
	if sw.err != nil {
		return sw.n, fmt.Errorf("write snapshot: %w", sw.err)
	}
	return sw.n, nil
}

type snapshotWriter struct {
	w   io.Writer
	sum hash.Hash
	buf []byte
	n   int64
	err error // the first one; nothing is written after it
}

func (sw *snapshotWriter) bytes(b []byte) {
	if sw.err != nil {
		return
	}
	sw.sum.Write(b)
	n, err := sw.w.Write(b)
	sw.n += int64(n)
	sw.err = err
}

func (sw *snapshotWriter) u32(n uint32) { sw.bytes(binary.BigEndian.AppendUint32(nil, n)) }

func (sw *snapshotWriter) message(m proto.Message) {
	if sw.err != nil {
		return
	}
	b, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(sw.buf[:0], m)
	switch {
	case err != nil:
		sw.err = err
		return
	case len(b) > MaxItemBytes:
		sw.err = fmt.Errorf("an object has %d bytes, at most %d fit into a snapshot", len(b), MaxItemBytes)
		return
	}
	sw.buf = b
	sw.u32(uint32(len(b))) //nolint:gosec // At most MaxItemBytes.
	sw.bytes(b)
}

func (v *View) header() *fsmpb.SnapshotHeader {
	return &fsmpb.SnapshotHeader{
		Format:        SnapshotFormat,
		AppliedIndex:  v.index,
		AppliedTerm:   v.term,
		Chain:         v.chain[:],
		TimeUnixMs:    v.timeMS,
		KeyspaceId:    v.cluster.GetKeyspaceId(),
		ClusterId:     v.cluster.GetClusterId(),
		FormatVersion: v.cluster.GetFormatVersion(),
		Commands:      v.commands,
	}
}

// items calls f with every object in the canonical order, until f returns
// false: by kind, destroyed ones whose name was taken again after the others,
// and within that by key. See [itemKey].
func (v *View) items(f func(*fsmpb.SnapshotItem) bool) {
	if v.cluster == nil {
		return
	}
	on := f(&fsmpb.SnapshotItem{Object: &fsmpb.SnapshotItem_Cluster{Cluster: v.cluster}})
	tenant := func(replaced bool) func(*fsmpb.Tenant) bool {
		return func(t *fsmpb.Tenant) bool {
			on = on && f(&fsmpb.SnapshotItem{Object: &fsmpb.SnapshotItem_Tenant{Tenant: t}, Replaced: replaced})
			return on
		}
	}
	service := func(replaced bool) func(*fsmpb.Service) bool {
		return func(s *fsmpb.Service) bool {
			on = on && f(&fsmpb.SnapshotItem{Object: &fsmpb.SnapshotItem_Service{Service: s}, Replaced: replaced})
			return on
		}
	}
	scan(v.txn, tableTenants, indexID, nil, nil, tenant(false))
	scan(v.txn, tableTombs, indexID, nil, nil, tenant(true))
	scan(v.txn, tableServices, indexID, nil, nil, service(false))
	scan(v.txn, tableSvcTombs, indexID, nil, nil, service(true))
	scan(v.txn, tableResources, indexID, nil, nil, func(r *fsmpb.Resource) bool {
		on = on && f(&fsmpb.SnapshotItem{Object: &fsmpb.SnapshotItem_Resource{Resource: r}})
		return on
	})
	scan(v.txn, tableSecrets, indexID, nil, nil, func(s *fsmpb.Secret) bool {
		on = on && f(&fsmpb.SnapshotItem{Object: &fsmpb.SnapshotItem_Secret{Secret: s}})
		return on
	})
	scan(v.txn, tableMembers, indexID, nil, nil, func(m *fsmpb.Member) bool {
		on = on && f(&fsmpb.SnapshotItem{Object: &fsmpb.SnapshotItem_Member{Member: m}})
		return on
	})
	scan(v.txn, tableTokens, indexID, nil, nil, func(k *fsmpb.JoinToken) bool {
		on = on && f(&fsmpb.SnapshotItem{Object: &fsmpb.SnapshotItem_JoinToken{JoinToken: k}})
		return on
	})
	scan(v.txn, tableRequests, indexID, nil, nil, func(r *fsmpb.Request) bool {
		on = on && f(&fsmpb.SnapshotItem{Object: &fsmpb.SnapshotItem_Request{Request: r}})
		return on
	})
	scan(v.txn, tableNonces, indexID, nil, nil, func(n *fsmpb.UsedNonce) bool {
		on = on && f(&fsmpb.SnapshotItem{Object: &fsmpb.SnapshotItem_UsedNonce{UsedNonce: n}})
		return on
	})
	scan(v.txn, tableRevoked, indexID, nil, nil, func(r *fsmpb.Revocation) bool {
		on = on && f(&fsmpb.SnapshotItem{Object: &fsmpb.SnapshotItem_Revocation{Revocation: r}})
		return on
	})
	scan(v.txn, tableIssuers, indexID, nil, nil, func(i *fsmpb.Issuer) bool {
		on = on && f(&fsmpb.SnapshotItem{Object: &fsmpb.SnapshotItem_Issuer{Issuer: i}})
		return on
	})
	scan(v.txn, tableBindings, indexID, nil, nil, func(b *fsmpb.RoleBinding) bool {
		on = on && f(&fsmpb.SnapshotItem{Object: &fsmpb.SnapshotItem_RoleBinding{RoleBinding: b}})
		return on
	})
	scan(v.txn, tableApprovals, indexID, nil, nil, func(a *fsmpb.Approval) bool {
		on = on && f(&fsmpb.SnapshotItem{Object: &fsmpb.SnapshotItem_Approval{Approval: a}})
		return on
	})
	scan(v.txn, tablePolicies, indexID, nil, nil, func(p *fsmpb.Policy) bool {
		on = on && f(&fsmpb.SnapshotItem{Object: &fsmpb.SnapshotItem_Policy{Policy: p}})
		return on
	})
	scan(v.txn, tableCeremonies, indexID, nil, nil, func(c *fsmpb.Ceremony) bool {
		on = on && f(&fsmpb.SnapshotItem{Object: &fsmpb.SnapshotItem_Ceremony{Ceremony: c}})
		return on
	})
}

// Proof is what a snapshot said about itself when it was restored. Its MAC can
// only be checked by an unsealed node, so a node restores first and serves
// nothing before Verify returned nil.
type Proof struct {
	Digest [32]byte // SHA-256 of the snapshot up to it
	Index  uint64   // of the last command in the snapshot
	Chain  [32]byte // state chain there
	MAC    [32]byte
	HasMAC bool // false: it proves nothing; no node writes such a snapshot
	// Generation of the MasterKey that the MAC is of: the one in force in the state.
	// The snapshot says it nowhere else, so that there is nothing to make agree.
	Generation hierarchy.Generation
}

func (p Proof) compute(mac MACFunc) ([32]byte, bool) {
	return mac(p.Generation, []byte(snapshotLabel), p.Digest[:], binary.BigEndian.AppendUint64(nil, p.Index), p.Chain[:])
}

// Verify reports whether the snapshot was written by a node that had the
// MasterKey. The error has the code SEALED if this node cannot tell, and
// STATE_CORRUPT if the snapshot must be replaced by the leader's.
func (p Proof) Verify(mac MACFunc) error {
	if !p.HasMAC {
		return errs.New(errs.StateCorrupt, "the snapshot has no proof of who wrote it",
			errs.Hint("no node writes such a snapshot: find out who can write to the data directory"))
	}
	want, ok := p.compute(mac)
	if !ok {
		return errs.New(errs.Sealed, fmt.Sprintf("the snapshot cannot be verified without the MasterKey of generation %d", p.Generation))
	}
	if subtle.ConstantTimeCompare(want[:], p.MAC[:]) != 1 {
		return errs.New(errs.StateCorrupt, "the snapshot was changed after it was written, or is of another cluster",
			errs.Hint("have the leader send its snapshot; find out who can write to the data directory"))
	}
	return nil
}

// RestoreProof returns the proof of the snapshot that the state began with;
// false: it began empty.
func (m *Machine) RestoreProof() (Proof, bool) {
	p := m.proof.Load()
	if p == nil {
		return Proof{}, false
	}
	return *p, true
}
