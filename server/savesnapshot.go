package server

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
)

const (
	// SnapshotPiece is the most bytes of a snapshot that one answer has.
	SnapshotPiece = 512 << 10
	// SnapshotIdle is how long a snapshot is kept for whoever fetches it.
	SnapshotIdle = time.Minute
	// noteTime bounds how long a snapshot waits until it stands in the registry. Without a
	// leader it is given all the same: then it may be what is needed most.
	noteTime = 2 * time.Second
)

// saving is the snapshot that somebody fetches in pieces. One at a time: it lies in a
// file without a name, which is gone with the process.
type saving struct {
	mu      sync.Mutex
	file    *os.File // nil: there is none
	session string
	by      string // who fetches it
	size    int64
	index   uint64
	leased  bool
	used    time.Time
}

// close forgets the snapshot.
func (s *saving) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop()
}

func (s *saving) drop() {
	if s.file != nil {
		_ = s.file.Close() // only read from, and gone
		s.file = nil
	}
}

// SaveSnapshot implements kryptonv1.ClusterServer. Operators may: they keep what the nodes
// keep, and it holds no key in the clear. Auditors may not: it tells more than any record,
// and nothing of what was done.
func (s clusterServer) SaveSnapshot(ctx context.Context, r *kryptonv1.SaveSnapshotRequest) (*kryptonv1.SaveSnapshotResponse, error) {
	if r.GetSession() == "" && r.GetOffset() != 0 {
		return nil, errs.New(errs.InvalidArgument, "a snapshot begins at offset 0", errs.Hint("give the session of the first answer with an offset"))
	}
	var out *kryptonv1.SaveSnapshotResponse
	err := s.do(ctx, gate.SaveSnapshot, node.ObjectCluster, func(tok gate.Token) error {
		by := tok.Principal().String()
		s.saving.mu.Lock()
		defer s.saving.mu.Unlock()
		if r.GetSession() == "" {
			if err := s.beginSaving(by); err != nil {
				return err
			}
			s.noteBackup(ctx, tok)
		}
		var err error
		out, err = s.saving.piece(r, by, s.clock.Now())
		return err
	})
	return out, err
}

// beginSaving writes the snapshot of this moment. The caller holds saving.mu.
func (c *calls) beginSaving(by string) error {
	now, is := c.clock.Now(), &c.saving
	if is.file != nil && is.by != by && now.Sub(is.used) < SnapshotIdle {
		return errs.New(errs.LimitReached, "somebody else fetches a snapshot from this node", errs.Hint("use another node, or retry in a minute"))
	}
	is.drop()
	if err := c.node.Believed(); err != nil {
		return err
	}
	look := c.node.Look()
	if !look.View.Initialized() {
		return errs.New(errs.FailedState, "this node belongs to no cluster yet", errs.Hint("ask a member"))
	}
	session := make([]byte, 16)
	if _, err := io.ReadFull(c.rand, session); err != nil {
		return err
	}
	f, err := unnamed(filepath.Join(c.dataDir, "run"))
	if err != nil {
		return errs.New(errs.Unavailable, "the snapshot cannot be written on this node", errs.Hint("look at the disk of its data directory, or use another node"), errs.Cause(err))
	}
	size, err := cluster.SaveView(look.View, f, c.node.MAC, &clusterpb.SnapshotFileHeader{
		SaveTimeMs: now.UnixMilli(), Node: c.nodeID, Release: c.version, Leased: !look.Stale,
	})
	if err != nil {
		return errors.Join(err, f.Close())
	}
	is.file, is.session, is.by, is.size, is.index, is.leased = f, hex.EncodeToString(session), by, size, look.View.Index(), !look.Stale
	return nil
}

// noteBackup has the registry say that there is this copy of it. The caller holds saving.mu.
func (c *calls) noteBackup(ctx context.Context, tok gate.Token) {
	ctx, cancel := context.WithTimeout(ctx, noteTime)
	defer cancel()
	if err := c.node.NoteBackup(ctx, tok, c.saving.index); err != nil {
		c.log.WarnContext(ctx, "a snapshot was saved, and the registry does not list it; the audit trail has it", slog.Uint64("index", c.saving.index), slog.Any("error", err))
	}
}

// unnamed makes a file in dir that nobody finds.
func unnamed(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "snapshot-*.tmp")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// piece returns what follows the offset. The caller holds mu.
func (s *saving) piece(r *kryptonv1.SaveSnapshotRequest, by string, now time.Time) (*kryptonv1.SaveSnapshotResponse, error) {
	if s.file != nil && now.Sub(s.used) >= SnapshotIdle && r.GetSession() != "" {
		s.drop()
	}
	if s.file == nil || s.by != by || r.GetSession() != "" && r.GetSession() != s.session {
		return nil, errs.New(errs.NotFound, "this node has no such snapshot any more", errs.Hint("begin again, and ask one node for all pieces"))
	}
	offset := int64(min(r.GetOffset(), uint64(s.size))) //nolint:gosec // At most size.
	b := make([]byte, min(SnapshotPiece, s.size-offset))
	if _, err := s.file.ReadAt(b, offset); err != nil {
		return nil, errs.New(errs.Unavailable, "the snapshot cannot be read on this node", errs.Hint("use another node"), errs.Cause(err))
	}
	s.used = now
	return &kryptonv1.SaveSnapshotResponse{Session: s.session, Data: b, Last: offset+int64(len(b)) == s.size, Index: s.index, Leased: s.leased}, nil
}
