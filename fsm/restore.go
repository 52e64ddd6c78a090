package fsm

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Restore replaces the state by a snapshot. It builds the new state beside the
// old one and swaps at the end, so a snapshot that is refused changes nothing.
//
// Bytes on a disk are untrusted: everything in a snapshot is checked as if an
// enemy had written it, so that no snapshot can break the machine. That it is
// the state of this cluster only its MAC proves; see [Machine.RestoreProof].
//
// Options.Restoring is called first: the index may go back, so whatever depends
// on the old state is void, also when the snapshot is refused. An error has the
// code STATE_CORRUPT, except for one of r.
func (m *Machine) Restore(r io.Reader) error {
	if m.opts.Restoring != nil {
		m.opts.Restoring()
	}
	if m.restoring != nil {
		m.restoring()
	}
	v, proof, err := read(r)
	if err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	}
	before := m.View()
	if err := m.sameCluster(before, v); err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	}
	m.proof.Store(&proof)
	m.publish(before, Published{View: v, Restored: true})
	m.stopped = nil // no lock: it belongs to the goroutine that applies, and this is it
	return nil
}

// sameCluster refuses the snapshot of another cluster, however well it is formed.
func (m *Machine) sameCluster(old, v *View) error {
	c := v.cluster
	pin := m.opts.Fingerprint
	if pin != ([32]byte{}) && c != nil && !bytes.Equal(pin[:], c.GetFingerprint()) {
		return errs.New(errs.StateCorrupt, "the snapshot is of another cluster than node.json names",
			errs.Hint("data directories were mixed up: put the right files back, or replace this node: krypton operator remove, then krypton join with an empty data directory"))
	}
	o := old.cluster
	if o == nil {
		return nil
	}
	if !bytes.Equal(o.GetKeyspaceId(), c.GetKeyspaceId()) || !bytes.Equal(o.GetClusterId(), c.GetClusterId()) ||
		!bytes.Equal(o.GetFingerprint(), c.GetFingerprint()) {
		return errs.New(errs.StateCorrupt, "the snapshot is of another cluster than the present state",
			errs.Hint("start with an empty data directory to change clusters"))
	}
	return nil
}

// corrupt is the error for everything that is wrong with a snapshot.
func corrupt(format string, args ...any) error {
	return errs.New(errs.StateCorrupt, "the snapshot is damaged: "+fmt.Sprintf(format, args...),
		errs.Hint("put the file back if you moved it; else replace this node: krypton operator remove, then krypton join with an empty data directory"))
}

type snapshotReader struct {
	r   io.Reader
	sum hash.Hash
}

// bytes reads n bytes. It grows with what is there, not with what a length says.
func (sr *snapshotReader) bytes(n int) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(sr.r, int64(n)))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read: %w", err)
	case len(b) < n:
		return nil, corrupt("it is cut short")
	}
	sr.sum.Write(b)
	return b, nil
}

func (sr *snapshotReader) u32() (uint32, error) {
	b, err := sr.bytes(4)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint32(b), nil
}

// message reads one message; false: the end of the items.
func (sr *snapshotReader) message(m proto.Message, limit int) (bool, error) {
	n, err := sr.u32()
	if err != nil || n == 0 {
		return false, err
	}
	if int64(n) > int64(limit) {
		return false, corrupt("a length exceeds its limit")
	}
	b, err := sr.bytes(int(n))
	if err != nil {
		return false, err
	}
	if err := unmarshal(b, m); err != nil {
		return false, corrupt("an object does not decode")
	}
	if hasUnknown(m.ProtoReflect()) {
		return false, corrupt("an object has fields or values that this release does not know")
	}
	return true, nil
}

// read reads and checks a whole snapshot.
func read(r io.Reader) (*View, Proof, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	sr := &snapshotReader{r: br, sum: sha256.New()}
	head, err := sr.bytes(len(snapshotMagic) + 4)
	if err != nil {
		return nil, Proof{}, err
	}
	if string(head[:len(snapshotMagic)]) != snapshotMagic {
		return nil, Proof{}, corrupt("it is not a snapshot")
	}
	if f := binary.BigEndian.Uint32(head[len(snapshotMagic):]); f != SnapshotFormat {
		return nil, Proof{}, corrupt("it has the unknown format %d", f)
	}
	h := new(fsmpb.SnapshotHeader)
	if ok, err := sr.message(h, maxHeaderBytes); err != nil || !ok {
		return nil, Proof{}, firstErr(err, corrupt("it has no header"))
	}
	l, err := newLoader(h)
	if err != nil {
		return nil, Proof{}, err
	}
	for {
		it := new(fsmpb.SnapshotItem)
		more, err := sr.message(it, MaxItemBytes)
		if err != nil {
			return nil, Proof{}, err
		}
		if !more {
			break
		}
		if err := l.load(it); err != nil {
			return nil, Proof{}, err
		}
	}
	count, err := sr.bytes(8)
	if err != nil {
		return nil, Proof{}, err
	}
	if binary.BigEndian.Uint64(count) != l.items {
		return nil, Proof{}, corrupt("it has another number of objects than it says")
	}
	p := Proof{Index: l.index, Chain: l.chain}
	sr.sum.Sum(p.Digest[:0])
	if err := sr.trailer(&p); err != nil {
		return nil, Proof{}, err
	}
	v, err := l.finish()
	if err != nil {
		return nil, Proof{}, err
	}
	p.Generation = v.Generation()
	return v, p, nil
}

func firstErr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// trailer reads the digest, which must be p's, the MAC, and the end.
func (sr *snapshotReader) trailer(p *Proof) error {
	b, err := sr.bytes(len(p.Digest) + 1)
	if err != nil {
		return err
	}
	if !bytes.Equal(b[:len(p.Digest)], p.Digest[:]) {
		return corrupt("its checksum does not match")
	}
	switch b[len(p.Digest)] {
	case 0:
	case 1:
		mac, err := sr.bytes(len(p.MAC))
		if err != nil {
			return err
		}
		p.MAC, p.HasMAC = [32]byte(mac), true
	default:
		return corrupt("its trailer is malformed")
	}
	if n, err := sr.r.Read(make([]byte, 1)); n != 0 {
		return corrupt("something follows its end")
	} else if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read: %w", err)
	}
	return nil
}
