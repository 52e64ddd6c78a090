//go:build unix

package damage_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"hash/crc32"
	"hash/crc64"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/local"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/seal"
)

// entryHead is what stands before the data of a stored entry: docs/formats.md, Raft storage.
const entryHead = 5

// entryData returns the data of a stored entry.
func entryData(l *raft.Log) []byte { return l.Data[entryHead:] }

// withData returns the entry with other data and the checksum that fits it: what
// somebody writes who knows the format.
func withData(l *raft.Log, data []byte) *raft.Log {
	c := *l
	head := binary.BigEndian.AppendUint64(nil, l.Index)
	head = binary.BigEndian.AppendUint64(head, l.Term)
	head = append(head, byte(l.Type))
	head = binary.BigEndian.AppendUint64(head, uint64(len(l.Extensions)))
	sum := crc32.Checksum(slices.Concat(head, l.Extensions, data), crc32.MakeTable(crc32.Castagnoli))
	c.Data = append(binary.BigEndian.AppendUint32([]byte{1}, sum), data...)
	return &c
}

// log opens the node's Raft log, gives it to use and closes it.
func (p *place) log(use func(db *raftboltdb.BoltStore)) {
	p.t.Helper()
	db, err := raftboltdb.NewBoltStore(p.path("raft/raft.db"))
	if err != nil {
		p.t.Fatal(err)
	}
	use(db)
	if err := db.Close(); err != nil {
		p.t.Fatal(err)
	}
}

// entries calls f with every entry of the log.
func (p *place) entries(db *raftboltdb.BoltStore, f func(*raft.Log)) {
	p.t.Helper()
	first, err := db.FirstIndex()
	if err != nil {
		p.t.Fatal(err)
	}
	last, err := db.LastIndex()
	if err != nil {
		p.t.Fatal(err)
	}
	for i := first; i <= last; i++ {
		l := new(raft.Log)
		if err := db.GetLog(i, l); err != nil {
			p.t.Fatal(err)
		}
		f(l)
	}
}

// prover returns the MAC under which the cluster's snapshots are believed.
func prover(t testing.TB, p *place) fsm.MACFunc {
	t.Helper()
	stores, err := keystore.Open(t.Context(), keystore.Env{Logger: slog.New(slog.DiscardHandler), Rand: rand.Reader, Clock: clock.System{}},
		[]keystore.Config{{Name: prepared.ks, Type: local.Type, Settings: map[string]string{"dir": prepared.keys}}}, keystore.Constructors{local.Type: local.New})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stores.Close() })
	rec, err := seal.ReadFile(p.path("seal/record.pb"), hierarchy.KeyspaceID{})
	if err != nil {
		t.Fatal(err)
	}
	master, err := seal.Open(context.Background(), rec, stores, clock.System{}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Destroy()
	key, err := envelope.RegistryMACKey(master)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(key.Destroy)
	return func(_ hierarchy.Generation, parts ...[]byte) ([32]byte, bool) {
		sum, err := memsec.MAC(key, parts...)
		return sum, err == nil
	}
}

// snapshot writes a snapshot of what the log says, as a node does, and returns its index.
func (p *place) snapshot(mac fsm.MACFunc, change func(*raft.Log) *raft.Log) (index uint64) {
	p.t.Helper()
	m := fsm.New(fsm.Options{})
	var conf raft.Configuration
	var confIndex, term uint64
	p.log(func(db *raftboltdb.BoltStore) {
		p.entries(db, func(l *raft.Log) {
			if change != nil {
				l = change(l)
			}
			index, term = l.Index, l.Term
			switch l.Type {
			case raft.LogCommand:
				if _, err := m.Apply(l.Index, l.Term, entryData(l)); err != nil {
					p.t.Fatal(err)
				}
			case raft.LogConfiguration:
				conf, confIndex = raft.DecodeConfiguration(entryData(l)), l.Index
			}
		})
	})
	store, err := raft.NewFileSnapshotStoreWithLogger(p.path("raft"), 2, hclog.NewNullLogger())
	if err != nil {
		p.t.Fatal(err)
	}
	_, none := raft.NewInmemTransport("")
	sink, err := store.Create(1, index, term, conf, confIndex, none)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := m.Snapshot().WriteTo(sink, mac); err != nil {
		p.t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		p.t.Fatal(err)
	}
	return index
}

// truncate removes the entries up to index.
func (p *place) truncate(index uint64) {
	p.log(func(db *raftboltdb.BoltStore) {
		if err := db.DeleteRange(1, index); err != nil {
			p.t.Fatal(err)
		}
	})
}

// mended does f to the one snapshot and mends what Raft checks: its size and checksum.
func mended(f change) change {
	return func(p *place) {
		f(p)
		state, meta := p.matching("raft/snapshots/*/state.bin")[0], p.matching("raft/snapshots/*/meta.json")[0]
		b := p.read(state)
		m := map[string]any{}
		dec := json.NewDecoder(bytes.NewReader(p.read(meta)))
		dec.UseNumber()
		if err := dec.Decode(&m); err != nil {
			p.t.Fatal(err)
		}
		sum := crc64.New(crc64.MakeTable(crc64.ECMA))
		_, _ = sum.Write(b) // never fails
		m["Size"], m["CRC"] = len(b), sum.Sum(nil)
		raw, err := json.Marshal(m)
		if err != nil {
			p.t.Fatal(err)
		}
		p.write(meta, raw)
	}
}

func decodePEM(p *place, raw []byte) *pem.Block {
	p.t.Helper()
	block, _ := pem.Decode(raw)
	if block == nil {
		p.t.Fatal("no PEM")
	}
	return block
}

func encodePEM(b *pem.Block) []byte { return pem.EncodeToMemory(b) }

// stateOf returns a snapshot, without a MAC, of what the log at path says.
func stateOf(path string) ([]byte, error) {
	db, err := raftboltdb.NewBoltStore(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Close() }() // nothing was written
	m := fsm.New(fsm.Options{})
	last, err := db.LastIndex()
	if err != nil {
		return nil, err
	}
	for i := uint64(1); i <= last; i++ {
		l := new(raft.Log)
		if err := db.GetLog(i, l); err != nil {
			return nil, err
		}
		if l.Type == raft.LogCommand {
			if _, err := m.Apply(l.Index, l.Term, entryData(l)); err != nil {
				return nil, err
			}
		}
	}
	var out bytes.Buffer
	_, err = m.Snapshot().WriteTo(&out, nil)
	return out.Bytes(), err
}
