//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/openkcm/krypton-cluster/internal/devcluster"
	"github.com/openkcm/krypton-cluster/internal/mutation"
)

// trio is a cluster of three whose files are put back before each attack. Its nodes
// keep their ports, because they know each other by them.
type trio struct {
	*scene

	before, after string // copies of its files: before the power was taken away, and after
}

func (w *world) trio(ctx context.Context) (*trio, error) {
	w.mu.Lock()
	t := w.three
	w.mu.Unlock()
	if t != nil {
		return t, nil
	}
	c, err := w.cluster(ctx, "trio", 3, honest)
	if err != nil {
		return nil, err
	}
	s, err := c.arrange(ctx)
	if err != nil {
		return nil, err
	}
	t = &trio{scene: s, before: c.Dir() + ".before", after: c.Dir() + ".after"}
	if err := errors.Join(s.stop(ctx), t.save(ctx, t.before)); err != nil {
		return nil, err
	}
	if err := errors.Join(s.start(ctx), s.WaitServing(ctx)); err != nil {
		return nil, err
	}
	if err := errors.Join(s.takeAway(ctx), s.stop(ctx), t.save(ctx, t.after)); err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.three = t
	w.mu.Unlock()
	return t, nil
}

// save copies the nodes' directories.
func (t *trio) save(ctx context.Context, to string) error {
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	for _, n := range t.Nodes() {
		if out, err := exec.CommandContext(ctx, "cp", "-a", n.DataDir(), to).CombinedOutput(); err != nil { //nolint:gosec // Our own paths.
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	return nil
}

// put puts a node's directory back.
func (t *trio) put(ctx context.Context, n *devcluster.Node, from string) error {
	n.Kill()
	if err := os.RemoveAll(n.DataDir()); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "cp", "-a", filepath.Join(from, n.Name()), n.DataDir()).CombinedOutput(); err != nil { //nolint:gosec // Our own paths.
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// reset has the cluster be what it was, all nodes stopped and honest, or of the build
// that lies.
func (t *trio) reset(ctx context.Context, as cast) error {
	for _, n := range t.Nodes() {
		t.liar[n.Name()] = as == control
		if err := t.put(ctx, n, t.after); err != nil {
			return err
		}
	}
	return t.lie()
}

func (t *trio) killAll() {
	for _, n := range t.Nodes() {
		n.Kill()
	}
}

// oneOfThree edits the files of n1, starts the others and then n1, as a follower. If
// that holds, n1 is made to lead.
func oneOfThree(where place, c corruption, without ...mutation.Name) func(context.Context, *world) (finding, error) {
	return func(ctx context.Context, w *world) (f finding, err error) {
		t, err := w.trio(ctx)
		if err != nil {
			return f, notTried(err)
		}
		defer t.killAll()
		n1 := t.Nodes()[0]
		try := func(as cast, lies ...mutation.Name) (tried, error) {
			if err := errors.Join(t.reset(ctx, as), t.lie(lies...), t.corrupt(ctx, n1, where, c)); err != nil {
				return tried{}, notTried(err)
			}
			if err := t.startAll(ctx, t.Nodes()[1:]...); err != nil {
				return tried{}, notTried(err)
			}
			return t.try(ctx, n1, c)
		}
		r, err := try(honest)
		if err != nil {
			return f, err
		}
		f.broke, f.ended, f.evidence = r.used, "it serves nothing and says so; the others go on", "n1: "+r.said
		for _, n := range t.Nodes()[1:] {
			if err := n.WaitServing(ctx); err != nil {
				return finding{broke: true, ended: "the others do not serve", evidence: err.Error()}, nil
			}
		}
		if n1.Running() && !f.broke {
			said, err := t.diagnosed(ctx, n1, "STATE_CORRUPT")
			if err != nil {
				return finding{broke: true, ended: "no command says which node was edited", evidence: err.Error()}, nil
			}
			f.evidence += "; krypton status: " + said
		}
		for _, n := range t.Nodes()[1:] {
			if err := c.use(ctx, t.scene, n); err == nil {
				f.broke, f.ended = true, n.Name()+" obeys the edit"
			}
		}
		if where == inLog && !f.broke {
			// As leader it decides by its own state; it must not get to.
			err := eventually(ctx, "the edited leader stops", func(ctx context.Context) error {
				if !n1.Running() {
					return nil
				}
				if c.use(ctx, t.scene, n1) == nil {
					f.broke, f.ended = true, "as leader it obeys the edit"
					return nil
				}
				return errors.Join(errors.New("it runs"), t.transfer(ctx, n1))
			})
			if err != nil {
				return f, err
			}
			f.ended += "; made to lead, it stops"
			f.evidence += "; as leader: " + t.lastWords(n1)
		}
		if r, err = try(control, without...); r.used {
			f.control = "it obeys the edit"
		}
		return f, err
	}
}

func (t *trio) startAll(ctx context.Context, nodes ...*devcluster.Node) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range nodes {
		g.Go(func() error {
			if err := n.Start(ctx); err != nil {
				return err
			}
			return n.WaitServing(ctx)
		})
	}
	return g.Wait()
}

// mostOfThree edits two nodes alike.
func mostOfThree(c corruption, without ...mutation.Name) func(context.Context, *world) (finding, error) {
	return func(ctx context.Context, w *world) (f finding, err error) {
		t, err := w.trio(ctx)
		if err != nil {
			return f, notTried(err)
		}
		defer t.killAll()
		try := func(as cast, lies ...mutation.Name) (said [2]tried, err error) {
			if err := errors.Join(t.reset(ctx, as), t.lie(lies...)); err != nil {
				return said, notTried(err)
			}
			for _, n := range t.Nodes()[:len(said)] {
				if err := t.corrupt(ctx, n, inLog, c); err != nil {
					return said, notTried(err)
				}
			}
			g, gctx := errgroup.WithContext(ctx)
			for i, n := range t.Nodes()[:len(said)] {
				g.Go(func() (err error) {
					said[i], err = t.try(gctx, n, c)
					return err
				})
			}
			return said, g.Wait()
		}
		said, err := try(honest)
		if err != nil {
			return f, err
		}
		f.broke, f.ended, f.evidence = said[0].used || said[1].used, "they serve nothing and say so", "n1: "+said[0].said
		if f.broke {
			f.ended = "they obey the edit"
		}
		if said, err = try(control, without...); said[0].used || said[1].used {
			f.control = "they obey the edit"
		}
		return f, err
	}
}

// forked edits one node of three, and lets it be alone.
func forked(without ...mutation.Name) func(context.Context, *world) (finding, error) {
	return func(ctx context.Context, w *world) (f finding, err error) {
		t, err := w.trio(ctx)
		if err != nil {
			return f, notTried(err)
		}
		defer t.killAll()
		c, n1 := corruptions()[0], t.Nodes()[0]
		try := func(as cast, lies ...mutation.Name) (tried, error) {
			if err := errors.Join(t.reset(ctx, as), t.lie(lies...), t.corrupt(ctx, n1, inLog, c), alone(n1.DataDir(), n1.ID())); err != nil {
				return tried{}, notTried(err)
			}
			if err := t.startAll(ctx, t.Nodes()[1:]...); err != nil {
				return tried{}, notTried(err)
			}
			return t.try(ctx, n1, c)
		}
		r, err := try(honest)
		f.broke, f.ended, f.evidence = r.used, "it serves nothing and says so", r.said
		if r.used {
			f.ended = "the node obeys the edit, beside a cluster that goes on without it"
		}
		if err != nil {
			return f, err
		}
		if r, err = try(control, without...); r.used {
			f.control = "the node obeys the edit, beside a cluster that goes on without it"
		}
		return f, err
	}
}

// leftBehind puts the old files of one node back, and has it be the only member.
func leftBehind(ctx context.Context, w *world) (f finding, err error) {
	t, err := w.trio(ctx)
	if err != nil {
		return f, notTried(err)
	}
	defer t.killAll()
	n1 := t.Nodes()[0]
	if err := errors.Join(t.reset(ctx, honest), t.put(ctx, n1, t.before), onlyMember(n1.DataDir(), n1.ID())); err != nil {
		return f, notTried(err)
	}
	// The others run elsewhere: the attacker holds the network of this one, too.
	r, err := t.try(ctx, n1, corruptions()[0]) // in the old state the version is not disabled
	f.broke, f.ended, f.evidence = r.used, "it serves nothing", r.said
	if r.used {
		f.ended, f.evidence = "what was disabled is served again", ""
	}
	return f, err
}

// setBack replays the old files of some nodes.
func setBack(of int) func(context.Context, *world) (finding, error) {
	c := corruptions()[0] // in the old state the version is not disabled
	return func(ctx context.Context, w *world) (f finding, err error) {
		t, err := w.trio(ctx)
		if err != nil {
			return f, notTried(err)
		}
		defer t.killAll()
		try := func(of int) (r tried, err error) {
			if err := t.reset(ctx, honest); err != nil {
				return r, notTried(err)
			}
			for _, n := range t.Nodes()[:of] {
				if err := t.put(ctx, n, t.before); err != nil {
					return r, notTried(err)
				}
			}
			g, gctx := errgroup.WithContext(ctx)
			for _, n := range t.Nodes()[1:] {
				g.Go(func() error { return n.Start(gctx) })
			}
			g.Go(func() (err error) {
				r, err = t.try(gctx, t.Nodes()[0], c)
				return err
			})
			return r, g.Wait()
		}
		r, err := try(of)
		if err != nil {
			return f, err
		}
		f.broke, f.ended, f.evidence = r.used, "it catches up before it serves", "n1: "+r.said
		if r.used {
			f.ended, f.evidence = "what was disabled is served again", ""
			return f, nil
		}
		if r, err = try(len(t.Nodes())); r.used {
			f.control = "what was disabled is served again"
		}
		return f, err
	}
}

// trios are attacks on the files of some nodes of three.
func trios() []attack {
	const oneDisk, mostDisks = "who can write the files of one node", "who can write the files of most nodes"
	var all []attack
	for i, c := range corruptions() {
		if c.item == nil && i < 2 {
			all = append(all, attack{
				name: c.name + ", log of one node of three", who: oneDisk, tries: "edits the command in the log, and makes all checksums right",
				stops:   "the proof of the entry; and members compare their state chains with each request for a lease",
				without: "entries are believed without their proofs, nobody asks how far a log went, and nobody compares", run: oneOfThree(inLog, c, mutation.SkipEntryProof, mutation.SkipLogEnd, mutation.SkipChain),
			})
		}
	}
	c := corruptions()[0]
	return append(all,
		attack{
			name: c.name + ", snapshot of one node of three", who: oneDisk, tries: "edits the state in the snapshot, and makes all checksums right",
			stops:   "the MAC of the snapshot",
			without: "proofs are not checked, nobody asks how far a log went, and nobody compares", run: oneOfThree(inSnapshot, c, mutation.SkipSnapshotMAC, mutation.SkipEntryProof, mutation.SkipLogEnd, mutation.SkipChain),
		},
		attack{
			name: c.name + ", logs of two nodes of three", who: mostDisks, tries: "edits the command in both logs alike, and makes all checksums right",
			stops:   "the proof of the entry, which a majority does not replace",
			without: "entries are believed without their proofs, and nobody asks how far a log went", run: mostOfThree(c, mutation.SkipEntryProof, mutation.SkipLogEnd),
		},
		attack{
			name: c.name + ", a lying leader's snapshot", who: "who took over the leader, and has the MasterKey",
			tries:   "edits the state in the leader's snapshot, with a right proof and the true state chain, and has a member that was away get it",
			stops:   "a member compares a state that another one sent with a majority of the voters that it knew before, and serves nothing until then",
			without: "nobody compares", run: lyingSnapshot(c),
		},
		attack{
			name: "old files of one node of three", who: "who kept a copy of the files of one node", tries: "puts the files back from before a version was disabled",
			stops:   "a node has no lease before it has everything that the leader has",
			without: "old files of all nodes", run: setBack(1),
		},
		attack{
			name: "one node of three made a cluster of its own", who: oneDisk,
			tries:   "edits the log of one node: a disabled version is enabled, and the node is the only member",
			stops:   "the proofs of the entries, which need nobody to compare with",
			without: "entries are believed without their proofs, and nobody asks how far a log went", run: forked(mutation.SkipEntryProof, mutation.SkipLogEnd),
		},
		attack{
			name: "old files of one node of three, made a cluster of its own", who: "who kept a copy of the files of one node, and can cut it off",
			tries: "puts the files back from before a version was disabled, and has Raft's configuration name nobody else",
			stops: "nothing: Raft's own entries have no proof, and the node finds the majority of one", open: true, run: leftBehind,
		},
		attack{
			name: "old files of all nodes", who: "who kept copies of the files of all nodes", tries: "puts the files back from before a version was disabled",
			stops: "nothing: no party is left that knows better", open: true, run: setBack(3),
		},
	)
}
