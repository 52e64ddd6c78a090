package command

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/agebox"
)

// What the commands that save and recover clusters use of this package. They are made
// elsewhere, because they look into data directories and keystores.

// Bool returns the value of a flag of the command.
func (in *Invocation) Bool(flag string) bool { return in.c.Bool(flag) }

// Duration returns the value of a flag of the command.
func (in *Invocation) Duration(flag string) time.Duration { return in.c.Duration(flag) }

// Strings returns the values of a flag of the command that can be given many times.
func (in *Invocation) Strings(flag string) []string { return in.c.StringSlice(flag) }

// IsSet reports whether a flag of the command was given.
func (in *Invocation) IsSet(flag string) bool { return in.c.IsSet(flag) }

// Confirm asks a person whether that is meant (I5).
func (in *Invocation) Confirm(format string, a ...any) error { return in.confirm(format, a...) }

// Step says what the command is doing, to who watches it on a terminal.
func (in *Invocation) Step(format string, a ...any) { in.meter.step(format, a...) }

// ReadShares reads shares of the MasterKey, one a line, from --share-file or a hidden
// prompt. The caller destroys them.
func (in *Invocation) ReadShares() ([]seal.Share, error) { return in.readShares() }

// OpenShards opens the encrypted shares of the record that the identities in file open,
// for the cluster of that fingerprint, with what its owner types. The caller destroys
// them.
func (in *Invocation) OpenShards(file string, rec seal.Record, cluster seal.Fingerprint) (shares []seal.Share, err error) {
	ids, err := in.readIdentities(file)
	if err != nil {
		return nil, err
	}
	defer ids.Destroy()
	public, err := ids.Public()
	if err != nil {
		return nil, err
	}
	// A plugin's identity does not tell whose share it opens: all are tried.
	plugin := slices.ContainsFunc(public, func(p agebox.Public) bool { return p.Recipient == "" })
	for i, h := range rec.Plan().Holders() {
		mine := slices.ContainsFunc(public, func(p agebox.Public) bool { return p.Recipient == h.Recipient })
		if h.Recipient == "" || !mine && !plugin {
			continue
		}
		s, err := openShard(ids, rec, i+1, cluster)
		if !mine && errors.Is(err, agebox.ErrOtherIdentity) {
			continue
		}
		if err != nil {
			for _, s := range shares {
				s.Destroy()
			}
			return nil, err
		}
		shares = append(shares, s)
	}
	if len(shares) == 0 {
		return nil, errs.Newf(errs.NotFound, "no share is encrypted to the identity in %s", file).
			With(errs.Hint("krypton operator share recipient prints for whom it is; the state may be from before a ceremony that made the share"))
	}
	return shares, nil
}

// openShard opens one share of a record and compares it with the manifest.
func openShard(ids *agebox.Identities, rec seal.Record, index int, cluster seal.Fingerprint) (seal.Share, error) {
	file, err := rec.Shard(index)
	if err != nil {
		return seal.Share{}, err
	}
	plain, err := ids.Decrypt(file, seal.ShardSize)
	if err != nil {
		return seal.Share{}, err
	}
	defer plain.Destroy()
	s, err := seal.ReadShard(plain)
	if err != nil {
		return seal.Share{}, err
	}
	claimed := s
	if err = seal.CheckShare(rec.Manifest(), s); err == nil {
		claimed, err = s.Claim(cluster)
	}
	if err != nil {
		s.Destroy()
		return seal.Share{}, err
	}
	return claimed, nil
}

// Release returns the release of the program.
func (in *Invocation) Release() string { return in.env.Version }

// WriteFile has write make a file, which is there in whole or not at all (I3).
func (in *Invocation) WriteFile(path string, write func(io.Writer) error) error {
	f, err := in.env.create(path, 0o600)
	if err != nil {
		return err
	}
	if err := write(f); err != nil {
		_ = f.abort()
		return err
	}
	return f.commit()
}

// FetchedSnapshot is what a node said of the snapshot that it sent.
type FetchedSnapshot struct {
	Node   string // address
	Index  uint64
	Leased bool
	Bytes  int64
}

// FetchSnapshot writes a snapshot of the registry that a node makes, piece by piece. All
// pieces are of one node: the first of --addr that has one.
func (in *Invocation) FetchSnapshot(ctx context.Context, w io.Writer) (FetchedSnapshot, error) {
	c, err := in.client(ctx)
	if err != nil {
		return FetchedSnapshot{}, err
	}
	var failed error
	for _, addr := range c.Addrs() {
		cl := kryptonv1.NewClusterClient(c.Node(addr))
		is := FetchedSnapshot{Node: addr}
		req := &kryptonv1.SaveSnapshotRequest{}
		for {
			in.meter.step("fetching the snapshot from %s: %d KiB", addr, is.Bytes>>10)
			one, cancel := in.deadline(ctx)
			r, err := cl.SaveSnapshot(one, req)
			cancel()
			if err != nil {
				failed = wire.FromStatus(err)
				break
			}
			if _, err := w.Write(r.GetData()); err != nil {
				return is, err
			}
			is.Bytes += int64(len(r.GetData()))
			is.Index, is.Leased = r.GetIndex(), r.GetLeased()
			if r.GetLast() {
				return is, nil
			}
			req.Session, req.Offset = r.GetSession(), uint64(is.Bytes) //nolint:gosec // Never negative.
		}
		if is.Bytes > 0 {
			return is, failed // part of it is written
		}
	}
	if failed == nil {
		failed = errs.New(errs.InvalidArgument, "no node is named", errs.Hint("give --addr"))
	}
	return FetchedSnapshot{}, failed
}
