//go:build unix

package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/crc64"
	"os"
	"path/filepath"
	"slices"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
)

// What who can read and write the files of a node does with them. Every checksum is
// made right again; what is left to find the edit is what needs a key.

// entryHead is what stands before the data of a stored entry: docs/formats.md, Raft storage.
const entryHead = 5

func logFile(dataDir string) string { return filepath.Join(dataDir, "raft", "raft.db") }

// entriesOf calls f with the data of every entry of a log, which f may change.
func entriesOf(path string, f func(l *raft.Log, data []byte) (changed []byte, err error)) (err error) {
	db, err := raftboltdb.NewBoltStore(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	first, err := db.FirstIndex()
	if err != nil {
		return err
	}
	last, err := db.LastIndex()
	if err != nil {
		return err
	}
	for i := first; i <= last; i++ {
		l := new(raft.Log)
		if err := db.GetLog(i, l); err != nil {
			return err
		}
		changed, err := f(l, l.Data[entryHead:])
		if err != nil {
			return err
		}
		if changed == nil {
			continue
		}
		l.Data = sealed(l, changed)
		if err := db.StoreLog(l); err != nil {
			return err
		}
	}
	return nil
}

// sealed is data as a node stores it, with the checksum that fits.
func sealed(l *raft.Log, data []byte) []byte {
	head := binary.BigEndian.AppendUint64(nil, l.Index)
	head = binary.BigEndian.AppendUint64(head, l.Term)
	head = append(head, byte(l.Type))
	head = binary.BigEndian.AppendUint64(head, uint64(len(l.Extensions)))
	sum := crc32.Checksum(slices.Concat(head, l.Extensions, data), crc32.MakeTable(crc32.Castagnoli))
	return append(binary.BigEndian.AppendUint32([]byte{1}, sum), data...)
}

// edit changes a command, and reports whether it did.
type edit func(*fsmpb.Command) bool

// editCommand applies e to an encoded command; nil: there was nothing to change.
func editCommand(data []byte, e edit) ([]byte, error) {
	cmd := &fsmpb.Command{}
	if err := proto.Unmarshal(data, cmd); err != nil {
		return nil, err
	}
	if !e(cmd) {
		return nil, nil
	}
	return fsm.EncodeCommand(cmd)
}

// alone has the files of a stopped node say that it is the only member.
func alone(dataDir, id string) error {
	err := editLog(dataDir, func(cmd *fsmpb.Command) bool {
		hit := cmd.GetAddMember() != nil || cmd.GetUpdateMember().GetMember().GetId() != "" && cmd.GetUpdateMember().GetMember().GetId() != id
		if hit {
			cmd.Body = &fsmpb.Command_Tick{Tick: &fsmpb.Tick{}}
		}
		return hit
	})
	if err != nil {
		return err
	}
	return onlyMember(dataDir, id)
}

// onlyMember has Raft and the list of peers of a stopped node name nobody else. The
// registry stays as it is.
func onlyMember(dataDir, id string) error {
	path := filepath.Join(dataDir, "tls", "peers.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var list struct {
		Format int              `json:"format"`
		Peers  []map[string]any `json:"peers"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return err
	}
	list.Peers = slices.DeleteFunc(list.Peers, func(p map[string]any) bool { return p["id"] != id })
	if raw, err = json.Marshal(list); err != nil {
		return err
	}
	if err := writeFile(path, raw); err != nil {
		return err
	}
	return entriesOf(logFile(dataDir), func(l *raft.Log, _ []byte) ([]byte, error) {
		if l.Type != raft.LogConfiguration {
			return nil, nil
		}
		return raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: raft.ServerID(id), Address: raft.ServerAddress(id)}}}), nil
	})
}

var errNothingEdited = errors.New("there was nothing to edit")

// editLog edits the log of a stopped node.
func editLog(dataDir string, e edit) error {
	edits := 0
	err := entriesOf(logFile(dataDir), func(l *raft.Log, data []byte) ([]byte, error) {
		if l.Type != raft.LogCommand {
			return nil, nil
		}
		changed, err := editCommand(data, e)
		if changed != nil {
			edits++
		}
		return changed, err
	})
	if err == nil && edits == 0 {
		err = errNothingEdited
	}
	return err
}

// replay returns the machine that the log of a stopped node makes, with e if there
// is one, and where the log ends.
func replay(path string, e edit) (m *fsm.Machine, end tail, err error) {
	m = fsm.New(fsm.Options{})
	err = entriesOf(path, func(l *raft.Log, data []byte) ([]byte, error) {
		end.index, end.term = l.Index, l.Term
		switch l.Type { //nolint:exhaustive // The others do not matter here.
		case raft.LogConfiguration:
			end.conf, end.confIndex = raft.DecodeConfiguration(data), l.Index
		case raft.LogCommand:
			if e != nil {
				changed, err := editCommand(data, e)
				if err != nil {
					return nil, err
				}
				if changed != nil {
					data = changed
					end.edits++
				}
			}
			_, err := m.Apply(l.Index, l.Term, data)
			return nil, err
		}
		return nil, nil
	})
	if err == nil && e != nil && end.edits == 0 {
		err = errNothingEdited
	}
	return m, end, err
}

// tail is the end of a log.
type tail struct {
	index, term, confIndex uint64
	conf                   raft.Configuration
	edits                  int
}

// registry returns what the files of a node say, running or not: the log is copied
// and replayed.
func (t *theatre) registry(n *devcluster.Node) (*fsm.View, error) {
	return t.w.registryAt(n.DataDir())
}

func (w *world) registryAt(dataDir string) (*fsm.View, error) {
	raw, err := os.ReadFile(logFile(dataDir))
	if err != nil {
		return nil, err
	}
	copied, err := w.path("registry.db")
	if err != nil {
		return nil, err
	}
	if err := writeFile(copied, raw); err != nil {
		return nil, err
	}
	m, _, err := replay(copied, nil)
	return m.View(), errors.Join(err, os.Remove(copied))
}

// macSize is the proof at the end of a snapshot: 1 and the MAC.
const macSize = 32

// writeSnapshot writes a snapshot of what the log of a stopped node says, with e,
// and lets the log begin after it. The proof at its end is mac's.
func writeSnapshot(dataDir string, e edit, mac fsm.MACFunc) error {
	m, end, err := replay(logFile(dataDir), e)
	if err != nil {
		return err
	}
	store, err := raft.NewFileSnapshotStoreWithLogger(filepath.Join(dataDir, "raft"), 2, hclog.NewNullLogger())
	if err != nil {
		return err
	}
	_, none := raft.NewInmemTransport("")
	sink, err := store.Create(1, end.index, end.term, end.conf, end.confIndex, none)
	if err != nil {
		return err
	}
	if _, err := m.Snapshot().WriteTo(sink, mac); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	if err := sink.Close(); err != nil {
		return err
	}
	db, err := raftboltdb.NewBoltStore(logFile(dataDir))
	if err != nil {
		return err
	}
	return errors.Join(db.DeleteRange(1, end.index-1), db.Close())
}

// snapshotFiles returns the state and the description of the newest snapshot of a node.
func snapshotFiles(dataDir string) (state, meta string, err error) {
	all, err := filepath.Glob(filepath.Join(dataDir, "raft", "snapshots", "*", "state.bin"))
	if err != nil || len(all) == 0 {
		return "", "", fmt.Errorf("%s has no snapshot: %w", dataDir, err)
	}
	state = slices.Max(all)
	return state, filepath.Join(filepath.Dir(state), "meta.json"), nil
}

// putSnapshot puts other bytes in the place of a snapshot's, and mends what Raft checks.
func putSnapshot(state, meta string, b []byte) error {
	raw, err := os.ReadFile(meta)
	if err != nil {
		return err
	}
	m := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw, &m); err != nil {
		return err
	}
	sum := crc64.New(crc64.MakeTable(crc64.ECMA))
	_, _ = sum.Write(b) // never fails
	for name, v := range map[string]any{"Size": len(b), "CRC": sum.Sum(nil)} {
		if m[name], err = json.Marshal(v); err != nil {
			return err
		}
	}
	if raw, err = json.Marshal(m); err != nil {
		return err
	}
	return errors.Join(writeFile(state, b), writeFile(meta, raw))
}
