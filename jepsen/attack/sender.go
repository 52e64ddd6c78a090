//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/mutation"
)

// enabled is a disabled version of a service made an active one.
func enabled(i *fsmpb.SnapshotItem) (hit bool) {
	s := i.GetService()
	if s.GetName() != filepath.Base(disabledService) {
		return false
	}
	for _, v := range s.GetVersions() {
		if v.GetState() == fsmpb.VersionState_VERSION_STATE_DISABLED {
			v.State, v.StateBefore, hit = v.GetStateBefore(), fsmpb.VersionState_VERSION_STATE_UNSPECIFIED, true
		}
	}
	return hit
}

// forgeSnapshot has a stopped node's state be that of a snapshot whose objects were
// edited: index, term and state chain are the true ones, and the proof is right.
func forgeSnapshot(dataDir string, item func(*fsmpb.SnapshotItem) bool, mac fsm.MACFunc) error {
	if err := writeSnapshot(dataDir, nil, mac); err != nil {
		return err
	}
	state, meta, err := snapshotFiles(dataDir)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(state)
	if err != nil {
		return err
	}
	if b, err = editItems(b, item); err != nil {
		return err
	}
	m := fsm.New(fsm.Options{}) // it does not ask for the proof
	if err := m.Restore(bytes.NewReader(b)); err != nil {
		return err
	}
	var forged bytes.Buffer
	if _, err := m.Snapshot().WriteTo(&forged, mac); err != nil {
		return err
	}
	return putSnapshot(state, meta, forged.Bytes())
}

// lyingSnapshot has n1 lead with a state that it made up, and send it to n3, which was
// away; n2 knows better.
func lyingSnapshot(c corruption) func(context.Context, *world) (finding, error) {
	return func(ctx context.Context, w *world) (f finding, err error) {
		t, err := w.trio(ctx)
		if err != nil {
			return f, notTried(err)
		}
		defer t.killAll()
		liar, other, away := t.Nodes()[0], t.Nodes()[1], t.Nodes()[2]
		try := func(as cast, lies ...mutation.Name) (tried, error) {
			if err := errors.Join(t.reset(ctx, as), t.lie(lies...), t.put(ctx, away, t.before)); err != nil {
				return tried{}, notTried(err)
			}
			mac, err := t.prover(ctx, liar)
			if err != nil {
				return tried{}, notTried(err)
			}
			if err := forgeSnapshot(liar.DataDir(), enabled, mac); err != nil {
				return tried{}, notTried(err)
			}
			if err := errors.Join(t.startAll(ctx, liar, other), t.leads(ctx, liar)); err != nil {
				return tried{}, notTried(err)
			}
			return t.try(ctx, away, c)
		}
		r, err := try(honest)
		if err != nil {
			return f, err
		}
		f.broke, f.ended, f.evidence = r.used, "who got it serves nothing and says so; who knows better goes on", "n3: "+r.said
		if !f.broke {
			said, err := t.diagnosed(ctx, away, "STATE_CORRUPT")
			if err != nil {
				return finding{broke: true, ended: "no command says which node got a state that others do not have", evidence: err.Error()}, nil
			}
			f.evidence += "; krypton status: " + said
		}
		if c.use(ctx, t.scene, other) == nil {
			f.broke, f.ended = true, other.Name()+" obeys the edit"
		}
		if r, err = try(control, mutation.SkipComparison); r.used {
			f.control = "who got it obeys the edit"
		}
		return f, err
	}
}
