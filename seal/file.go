package seal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/atomicfile"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Suffixes of files beside the record of a node, in the same format.
const (
	// PreviousSuffix is of the record before, kept until the node was opened by the one that
	// took its place.
	PreviousSuffix = ".previous"
	// AsideSuffix is of the record that a person set aside to open the node by the one
	// before: as long as it is the cluster's, the node does not take it over again.
	AsideSuffix = ".aside"
)

const (
	// fileMagic starts every record file; fileVersion is the layout around the
	// protobuf. Changing either makes existing files unreadable.
	fileMagic   = "KRYPSEAL"
	fileVersion = 1
	fileHead    = len(fileMagic) + 4 + 4
	maxFile     = fileHead + MaxRecord + sha256.Size

	fileMode fs.FileMode = 0o600
)

// Causes of failures to read a record file.
var (
	// ErrNoRecord: there is no file; the node was never initialised or joined (errs.NotSealed).
	ErrNoRecord = errors.New("no seal record")
	// ErrForeignRecord: the file is of another keyspace (errs.StateCorrupt).
	ErrForeignRecord = errors.New("seal record of another keyspace")
)

// WriteFile puts the record at path, with mode 0600, in place of what is there.
// When it returns nil the record is on disk; after a crash at any point there
// is the old file or the new one. The directory must exist. One process writes
// at a time: the owner of the data directory.
func WriteFile(path string, r Record) error {
	if r.IsZero() {
		return errors.New("write seal record: no record")
	}
	b, err := encodeFile(r)
	if err == nil {
		err = atomicfile.Write(path, b, fileMode)
	}
	if err != nil {
		return fmt.Errorf("write seal record: %w", err)
	}
	return nil
}

func encodeFile(r Record) ([]byte, error) {
	payload, err := r.Marshal()
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, fileHead+len(payload)+sha256.Size)
	b = append(b, fileMagic...)
	b = binary.BigEndian.AppendUint32(b, fileVersion)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload))) //nolint:gosec // At most MaxRecord.
	b = append(b, payload...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...), nil
}

// SameMasterKey reports whether two records commit to one MasterKey. Whoever can make
// another record with that commitment can give it to other holders only with the
// MasterKey in hand.
func (r Record) SameMasterKey(other Record) bool {
	return !r.IsZero() && !other.IsZero() && r.Keyspace() == other.Keyspace() && r.Generation() == other.Generation() &&
		bytes.Equal(r.pb.GetManifest().GetMasterKeyCommitment(), other.pb.GetManifest().GetMasterKeyCommitment())
}

// ReadFile reads the record of that keyspace from path; the zero KeyspaceID
// accepts any. A missing file is errs.NotSealed with [ErrNoRecord], anything
// wrong with the content errs.StateCorrupt.
//
// The checksum finds what a disk did to the file, not what an attacker did:
// trust in the record comes from the manifest's digest in the genesis.
func ReadFile(path string, keyspace hierarchy.KeyspaceID) (Record, error) {
	f, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Record{}, errs.New(errs.NotSealed, fmt.Sprintf("there is no seal record at %s", path),
			errs.Hint("run krypton init for a new cluster, or krypton join for an existing one"), errs.Cause(errors.Join(ErrNoRecord, err)))
	case err != nil:
		return Record{}, unreadable(path, err)
	}
	b, err := io.ReadAll(io.LimitReader(f, int64(maxFile)+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return Record{}, unreadable(path, err)
	}
	r, err := decodeFile(b)
	if err != nil {
		return Record{}, fmt.Errorf("read seal record %s: %w", path, err)
	}
	if !keyspace.IsZero() && r.Keyspace() != keyspace {
		return Record{}, errs.New(errs.StateCorrupt, fmt.Sprintf("the seal record at %s is of keyspace %s; this node is of %s", path, r.Keyspace(), keyspace),
			errs.Hint("a data directory was mixed up; copy seal/record.pb from another node of this cluster"), errs.Cause(ErrForeignRecord))
	}
	return r, nil
}

// unreadable is the error of a file that is there and cannot be read.
func unreadable(path string, err error) error {
	said := err.Error()
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		said = errno.Error()
	}
	return errs.New(errs.StateCorrupt, fmt.Sprintf("the seal record %s cannot be read: %s", path, said),
		errs.Hint("give the file to the user that runs the node, or copy seal/record.pb from another node of the cluster; all nodes have the same"), errs.Cause(err))
}

func decodeFile(b []byte) (Record, error) {
	switch {
	case len(b) > maxFile:
		return Record{}, refuseRecord(fmt.Errorf("the file has more than %d bytes", maxFile))
	case len(b) < fileHead+sha256.Size:
		return Record{}, refuseRecord(fmt.Errorf("the file has %d bytes, which are too few", len(b)))
	case string(b[:len(fileMagic)]) != fileMagic:
		return Record{}, refuseRecord(errors.New("the file does not start as a seal record"))
	}
	if v := binary.BigEndian.Uint32(b[len(fileMagic):]); v != fileVersion {
		return Record{}, refuseRecord(fmt.Errorf("the file has layout %d, this version reads %d", v, fileVersion))
	}
	body, sum := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	payload := body[fileHead:]
	if n := binary.BigEndian.Uint32(b[len(fileMagic)+4:]); uint64(n) != uint64(len(payload)) {
		return Record{}, refuseRecord(fmt.Errorf("the file says that the record has %d bytes and has room for %d", n, len(payload)))
	}
	if want := sha256.Sum256(body); !bytes.Equal(want[:], sum) {
		return Record{}, refuseRecord(errors.New("the checksum of the file does not match"))
	}
	return ParseRecord(payload)
}
