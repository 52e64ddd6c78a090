//go:build unix

package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
	"github.com/openkcm/krypton-cluster/internal/mutation"
)

// tampering is an edit of a log as a whole, of which every single entry may be one that
// a leader wrote.
type tampering struct {
	name, tries string
	do          func(log []*raft.Log) ([]*raft.Log, error)
	use         func(ctx context.Context, s *scene, n *devcluster.Node) error
	files       func(dataDir string) error // what else is edited; nil: nothing
}

// rewriteLog has the log of a stopped node be another one. Entries carry their data
// without what the store puts before it.
func rewriteLog(dataDir string, f func([]*raft.Log) ([]*raft.Log, error)) (err error) {
	db, err := raftboltdb.NewBoltStore(logFile(dataDir))
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
	var all []*raft.Log
	for i := first; i <= last; i++ {
		l := new(raft.Log)
		if err := db.GetLog(i, l); err != nil {
			return err
		}
		l.Data = l.Data[entryHead:]
		all = append(all, l)
	}
	if all, err = f(all); err != nil {
		return err
	}
	if err := db.DeleteRange(first, last); err != nil {
		return err
	}
	for i, l := range all {
		l.Index = first + uint64(i)
		l.Data = sealed(l, l.Data)
	}
	return db.StoreLogs(all)
}

// find returns where the last command is that fits.
func find(all []*raft.Log, fits func(*fsmpb.Command) bool) (at int, cmd *fsmpb.Command, err error) {
	at = -1
	for i, l := range all {
		if l.Type != raft.LogCommand {
			continue
		}
		c := &fsmpb.Command{}
		if err := proto.Unmarshal(l.Data, c); err != nil {
			return at, nil, err
		}
		if fits(c) {
			at, cmd = i, c
		}
	}
	if at < 0 {
		err = errNothingEdited
	}
	return at, cmd, err
}

func disables(cmd *fsmpb.Command) bool {
	c := cmd.GetChangeVersion()
	return of(c.GetObject(), disabledService) && c.GetEvent() == fsmpb.VersionEvent_VERSION_EVENT_DISABLE
}

func suspends(e fsmpb.ObjectEvent) func(*fsmpb.Command) bool {
	return func(cmd *fsmpb.Command) bool {
		c := cmd.GetChangeObject()
		return of(c.GetObject(), suspendedService) && c.GetEvent() == e
	}
}

func tamperings() []tampering {
	return []tampering{
		{
			name: "a forged command appended", tries: "writes a command that enables the disabled version behind the last one", use: reads(disabledService),
			do: func(all []*raft.Log) ([]*raft.Log, error) {
				_, cmd, err := find(all, disables)
				if err != nil {
					return nil, err
				}
				cmd.GetChangeVersion().Event, cmd.RequestId, cmd.RequestDigest = fsmpb.VersionEvent_VERSION_EVENT_ENABLE, "", nil
				data, err := fsm.EncodeCommand(cmd)
				return append(all, &raft.Log{Term: all[len(all)-1].Term, Type: raft.LogCommand, Data: data}), err
			},
		},
		{
			name:  "an old command put at the end again",
			tries: "copies the command that resumed the service once to the end, with its proof, under another request id", use: reads(suspendedService),
			do: func(all []*raft.Log) ([]*raft.Log, error) {
				at, cmd, err := find(all, suspends(fsmpb.ObjectEvent_OBJECT_EVENT_RESUME))
				if err != nil {
					return nil, err
				}
				cmd.RequestId, cmd.RequestDigest = "", nil
				data, err := fsm.EncodeCommand(cmd)
				return append(all, &raft.Log{Term: all[len(all)-1].Term, Type: raft.LogCommand, Data: data, Extensions: all[at].Extensions}), err
			},
		},
		{
			name: "two commands in another order", tries: "has the last suspension of a service be before it was resumed, each with its proof", use: reads(suspendedService),
			do: func(all []*raft.Log) ([]*raft.Log, error) {
				resumed, _, err := find(all, suspends(fsmpb.ObjectEvent_OBJECT_EVENT_RESUME))
				if err != nil {
					return nil, err
				}
				suspended, _, err := find(all, suspends(fsmpb.ObjectEvent_OBJECT_EVENT_SUSPEND))
				a, b := all[resumed], all[suspended]
				a.Data, b.Data, a.Extensions, b.Extensions = b.Data, a.Data, b.Extensions, a.Extensions
				return all, err
			},
		},
		{
			name: "a command dropped from the middle", tries: "puts an empty entry in the place of the one that disabled a version", use: reads(disabledService),
			do: func(all []*raft.Log) ([]*raft.Log, error) {
				at, _, err := find(all, disables)
				if err != nil {
					return nil, err
				}
				all[at].Type, all[at].Data, all[at].Extensions = raft.LogNoop, nil, nil
				return all, nil
			},
		},
	}
}

// cutting takes the end of the log away.
func cutting() tampering {
	return tampering{
		name: "the end cut off", tries: "removes the entry that disabled a version, and all behind it", use: reads(disabledService),
		do: func(all []*raft.Log) ([]*raft.Log, error) {
			at, _, err := find(all, disables)
			return all[:max(at, 0)], err
		},
	}
}

// tampered is an attack on the log of every node, of a cluster of one.
func tampered(m tampering, lies ...mutation.Name) func(context.Context, *world) (finding, error) {
	c := corruption{name: strings.ReplaceAll(m.name, " ", "-"), use: m.use, log: m.do, files: m.files}
	return everywhere(inLog, c, lies...)
}

// entries are the attacks on logs of which no entry is edited.
func entries() []attack {
	const believed = "entries are believed without their proofs, and nobody asks how far a log went"
	var all []attack
	for _, m := range tamperings() {
		all = append(all, attack{
			name: m.name + ", logs of all nodes", who: everyDisk, tries: m.tries + ", and makes all checksums right",
			stops:   "the proof of an entry names its place, its term, its number among those of its leader, and the state before it; one without a proof is not done",
			without: believed, run: tampered(m, mutation.SkipEntryProof, mutation.SkipLogEnd),
		})
	}
	m := cutting()
	all = append(all, attack{
		name: m.name + ", logs of all nodes", who: everyDisk, tries: m.tries,
		stops:   "each node keeps how far its log went, with a MAC under a key derived from the MasterKey, and serves nothing before it is there again",
		without: "nobody asks how far a log went", run: tampered(m, mutation.SkipLogEnd),
	})
	m = deleting()
	return append(all, attack{
		name: m.name + ", files of all nodes", who: everyDisk, tries: m.tries,
		stops:   "without it a leader gives no leases: the cluster stops",
		without: "nobody asks how far a log went", run: tampered(m, mutation.SkipLogEnd),
	})
}

// deleting cuts the end off, and removes what says how far the log went.
func deleting() tampering {
	m := cutting()
	m.name, m.tries = "the end cut off and forgotten", m.tries+", and the file that says how far the log went"
	m.files = forget
	return m
}

// forget removes what says how far the log of a node went.
func forget(dataDir string) error { return os.Remove(filepath.Join(dataDir, "logend")) }
