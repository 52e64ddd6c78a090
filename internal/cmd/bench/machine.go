//go:build unix

package main

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/hashicorp/go-memdb"
	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
)

// tenants is how many tenants with a service each the registry has.
const tenants = 2000

func machinePairs() []pair {
	return []pair{
		{
			name: "state machine, apply a change", goal: 0.15, open: applying,
			baseline: "decode the command, replace one object in a copy-on-write table, SHA-256",
			why:      "beside its object a change rewrites the indexes that the object stands in; it checks the states and parents, and hashes the chain",
		},
		{
			name: "snapshot of 4,000 objects", baseline: "encode each object, write, fsync", goal: 0.33, open: snapshotting,
			why: "at most three times what cannot be avoided; a snapshot is also read in order, hashed, and proved by a MAC",
		},
		{
			name: "restore of 4,000 objects", baseline: "read, SHA-256, decode each object, put it into a copy-on-write table", goal: 0.10, open: restoring,
			why: "an object stands in three to six tables and indexes, and is checked against the others before it counts",
		},
	}
}

// registry is a state machine with tenants and services.
type registry struct {
	m     *fsm.Machine
	index uint64
	uids  uint64
}

const commandTime = int64(1_700_000_000_000)

func (r *registry) uid() []byte {
	r.uids++
	sum := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("uid"), r.uids))
	return sum[:16]
}

// encode is what the leader does before a command is replicated.
func encode(c *fsmpb.Command) ([]byte, error) {
	c.Format, c.TimeUnixMs = fsm.CommandFormat, commandTime
	return fsm.EncodeCommand(c)
}

func (r *registry) apply(raw []byte) error {
	r.index++
	res, err := r.m.Apply(r.index, 1, raw)
	if err != nil {
		return err
	}
	return fsm.Err(res)
}

func (r *registry) do(c *fsmpb.Command) error {
	raw, err := encode(c)
	if err != nil {
		return err
	}
	return r.apply(raw)
}

// blob has the size of a wrapped key.
func blob() []byte { return make([]byte, 138) }

// registered returns the registry that all pairs share.
func (e *env) registered() (*registry, error) {
	if e.registry != nil {
		return e.registry, nil
	}
	r := &registry{m: fsm.New(fsm.Options{})}
	ivk := r.uid()
	err := r.do(&fsmpb.Command{Body: &fsmpb.Command_Genesis{Genesis: &fsmpb.Genesis{
		KeyspaceId: r.uid(), ClusterId: r.uid(), Name: "bench", FormatVersion: 1, SealRecord: []byte("seal record"),
		FirstMember: &fsmpb.Member{
			Id: fmt.Sprintf("%x", r.uid()), Name: "n1", PublicKey: []byte("spki"), PeerAddress: "10.0.0.1:8402", GrpcAddress: "10.0.0.1:8400",
			Region: "eu", Zone: "a", MaxFormat: 1, Version: "bench", Voter: true,
		},
		Settings:    &fsmpb.Settings{RollbackWindowMs: 86_400_000, DestroyWaitMs: 7 * 86_400_000, Voters: 3},
		InternalKey: &fsmpb.Version{Number: 1, Uid: ivk, Blob: blob()},
		Secrets:     []*fsmpb.Secret{{Name: "node-ca", IvkUid: ivk, Blob: blob(), Public: []byte("certificate")}},
	}}})
	for i := 0; i < tenants && err == nil; i++ {
		err = r.tenant(tenantName(i), ivk)
	}
	if err != nil {
		return nil, err
	}
	e.registry = r
	return r, nil
}

func tenantName(i int) string { return "t" + strconv.Itoa(i) }

func (r *registry) tenant(name string, ivk []byte) error {
	tenant, l2, version := r.uid(), r.uid(), r.uid()
	return errors.Join(
		r.do(&fsmpb.Command{Body: &fsmpb.Command_CreateTenant{CreateTenant: &fsmpb.CreateTenant{
			Name: name, Uid: tenant, L2Uid: l2, L2Blob: blob(), L2IvkUid: ivk,
			Binding: &fsmpb.Binding{Keystore: "local", Key: "kek", Archetype: "local"},
			Version: &fsmpb.Version{Number: 1, Uid: version, ParentUid: l2, Blob: blob()},
		}}}),
		r.do(&fsmpb.Command{Body: &fsmpb.Command_CreateService{CreateService: &fsmpb.CreateService{
			Tenant: name, Name: serviceID, Uid: r.uid(), TenantUid: tenant,
			Version: &fsmpb.Version{Number: 1, Uid: r.uid(), ParentUid: version, Blob: blob()},
		}}}))
}

// changes are commands that can be applied again and again: each service is
// suspended and, a round later, resumed. Each is asked for under a request id.
func changes() ([][]byte, error) {
	var all [][]byte
	for _, e := range []fsmpb.ObjectEvent{fsmpb.ObjectEvent_OBJECT_EVENT_SUSPEND, fsmpb.ObjectEvent_OBJECT_EVENT_RESUME} {
		for i := range tenants {
			raw, err := encode(&fsmpb.Command{
				Principal: &fsmpb.Principal{Issuer: "ca", Kind: "governor", Name: "alice"},
				Body: &fsmpb.Command_ChangeObject{ChangeObject: &fsmpb.ChangeObject{
					Object: &fsmpb.ObjectRef{Tenant: tenantName(i), Service: serviceID}, Event: e,
				}},
			})
			if err != nil {
				return nil, err
			}
			all = append(all, raw)
		}
	}
	return all, nil
}

func applying(_ context.Context, e *env) (match, error) {
	r, err := e.registered()
	if err != nil {
		return match{}, err
	}
	all, err := changes()
	if err != nil {
		return match{}, err
	}
	db, err := newTable()
	if err != nil {
		return match{}, err
	}
	n, k := 0, 0
	var chain [sha256.Size]byte
	return match{
		subject: side{loop: alone(func() error {
			n++
			return r.apply(all[(n-1)%len(all)])
		})},
		baseline: side{loop: alone(func() error {
			raw := all[k%len(all)]
			k++
			c := &fsmpb.Command{}
			if err := proto.Unmarshal(raw, c); err != nil {
				return err
			}
			txn := db.Txn(true)
			if err := txn.Insert("object", stored{c.GetChangeObject().GetObject().GetTenant(), c}); err != nil {
				return err
			}
			txn.Commit()
			chain = sha256.Sum256(append(chain[:], raw...))
			return nil
		})},
	}, nil
}

// mac is a MAC as an unsealed node has it.
func mac(_ hierarchy.Generation, parts ...[]byte) (sum [32]byte, ok bool) {
	h := hmac.New(sha256.New, []byte("bench"))
	for _, p := range parts {
		h.Write(p)
	}
	h.Sum(sum[:0])
	return sum, true
}

// toDisk writes a file anew and makes it durable.
func toDisk(name string, write func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	buf := bufio.NewWriterSize(f, 64<<10)
	if err = write(buf); err == nil {
		err = buf.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// objects are the tenants and services of a registry.
func (r *registry) objects() []proto.Message {
	v := r.m.View()
	var all []proto.Message
	for _, t := range v.Tenants("", tenants) {
		all = append(all, t)
		for _, s := range v.Services(t, "", tenants) {
			all = append(all, s)
		}
	}
	return all
}

func snapshotting(_ context.Context, e *env) (match, error) {
	r, err := e.registered()
	if err != nil {
		return match{}, err
	}
	name := filepath.Join(e.dir, "snapshot")
	return match{
		subject: side{loop: alone(func() error {
			return toDisk(name, func(w io.Writer) error {
				_, err := r.m.Snapshot().WriteTo(w, mac)
				return err
			})
		})},
		baseline: side{loop: alone(func() error {
			return toDisk(name+"-baseline", func(w io.Writer) error {
				var room []byte
				for _, o := range r.objects() {
					raw, err := proto.MarshalOptions{}.MarshalAppend(room[:0], o)
					if err == nil {
						_, err = w.Write(raw)
					}
					if err != nil {
						return err
					}
					room = raw
				}
				return nil
			})
		})},
	}, nil
}

// stored is an object of the baseline's table.
type stored struct {
	Key    string
	Object proto.Message
}

func newTable() (*memdb.MemDB, error) {
	return memdb.NewMemDB(&memdb.DBSchema{Tables: map[string]*memdb.TableSchema{
		"object": {Name: "object", Indexes: map[string]*memdb.IndexSchema{
			"id": {Name: "id", Unique: true, Indexer: &memdb.StringFieldIndex{Field: "Key"}},
		}},
	}})
}

func restoring(_ context.Context, e *env) (match, error) {
	r, err := e.registered()
	if err != nil {
		return match{}, err
	}
	name := filepath.Join(e.dir, "restore")
	if err := toDisk(name, func(w io.Writer) error {
		_, err := r.m.Snapshot().WriteTo(w, mac)
		return err
	}); err != nil {
		return match{}, err
	}
	var encoded [][]byte
	objects := r.objects()
	for _, o := range objects {
		raw, err := proto.Marshal(o)
		if err != nil {
			return match{}, err
		}
		encoded = append(encoded, raw)
	}
	return match{
		subject: side{loop: alone(func() error {
			f, err := os.Open(name)
			if err != nil {
				return err
			}
			return errors.Join(fsm.New(fsm.Options{}).Restore(f), f.Close())
		})},
		baseline: side{loop: alone(func() error {
			h := sha256.New()
			if err := readInto(h, name); err != nil {
				return err
			}
			db, err := newTable()
			if err != nil {
				return err
			}
			txn := db.Txn(true)
			for i, raw := range encoded {
				o := objects[i].ProtoReflect().New().Interface()
				if err := proto.Unmarshal(raw, o); err != nil {
					return err
				}
				if err := txn.Insert("object", stored{strconv.Itoa(i), o}); err != nil {
					return err
				}
			}
			txn.Commit()
			return nil
		})},
	}, nil
}
