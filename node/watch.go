package node

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/seal"
)

// How the leader watches the keystores of the seal.
const (
	defaultWatch = 15 * time.Minute
	// watchLook is how often a node looks whether it leads and the next round is due.
	watchLook = 5 * time.Second
	// firstWatch bounds the wait of a new leader before its first round.
	firstWatch = time.Minute
)

// sealWatch is what the leader knows of the keystores of the seal. A cluster that
// runs needs none of them, and would not notice that it could not start again.
type sealWatch struct {
	mu      sync.Mutex
	at      time.Time // of the last round; zero: none since this node leads
	found   map[seal.ProviderKey]found
	repairs uint64 // wrappings that were made again since the node started
}

// found is what a round found of one keystore.
type found struct {
	state      seal.HolderState // Gave: it opens what it has to
	since      time.Time
	failure    *seal.Failure
	protection keystore.Protection
}

// watchSeal has every keystore of the seal open what it holds, at regular times
// while this node leads and is unsealed, and repairs what can be repaired.
func (n *Node) watchSeal(ctx context.Context) error {
	every := n.cfg.SealWatch
	if every == 0 {
		every = defaultWatch
	}
	var next time.Time // zero: this node does not lead
	for {
		if err := n.clock.Sleep(ctx, watchLook); err != nil {
			return err
		}
		now := n.clock.Now()
		switch {
		case !n.watches():
			next = time.Time{}
			n.watch.forget()
			continue
		case next.IsZero():
			first, err := n.jitter(min(every, firstWatch))
			if err != nil {
				return err
			}
			next = now.Add(first)
		}
		if now.Before(next) {
			continue
		}
		if err := n.watchOnce(ctx); err != nil && ctx.Err() == nil {
			n.log.ErrorContext(ctx, "the keystores of the seal could not be watched, or not be repaired", slog.Any("error", err))
		}
		// Not at the same time of every hour, and not with other clusters.
		pause, err := n.jitter(every / 2)
		if err != nil {
			return err
		}
		next = n.clock.Now().Add(every*3/4 + pause)
	}
}

// jitter returns a random time up to d.
func (n *Node) jitter(d time.Duration) (time.Duration, error) {
	var b [4]byte
	if _, err := io.ReadFull(n.rand, b[:]); err != nil {
		return 0, err
	}
	return time.Duration(float64(d) * float64(binary.BigEndian.Uint32(b[:])) / (1 << 32)), nil
}

// watches reports whether it is this node that looks after the seal. A sealed
// leader asks the keystores anyway, to unseal.
func (n *Node) watches() bool {
	return n.cluster.LeaderID() == n.cluster.NodeID() && n.Unsealed() && !n.held()
}

// watchOnce makes one round.
func (n *Node) watchOnce(ctx context.Context) error {
	id, err := corr.New(n.rand)
	if err != nil {
		return err
	}
	ctx = corr.With(ctx, id)
	n.mu.Lock()
	r := n.record
	n.mu.Unlock()
	if r.IsZero() {
		return nil
	}
	round := map[seal.ProviderKey]found{}
	err = n.gate.DoNode(ctx, gate.NodeWatchSeal, ObjectSeal, func(gate.Token) error {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for _, h := range r.Progress().Holders {
			if h.Person() {
				continue
			}
			wg.Go(func() {
				f := n.probe(ctx, r, h)
				mu.Lock()
				defer mu.Unlock()
				if old, twice := round[h.Key]; !twice || old.state == seal.HolderGave {
					round[h.Key] = f // of a key with several shares the one that fails counts
				}
			})
		}
		wg.Wait()
		return ctx.Err()
	})
	if err != nil || len(round) == 0 {
		return err
	}
	n.tell(ctx, r, n.watch.learn(n.clock.Now(), round), round)
	return n.repairSeal(ctx, r, round)
}

// probe asks one keystore.
func (n *Node) probe(ctx context.Context, r seal.Record, h seal.HolderProgress) found {
	ctx, cancel := context.WithTimeout(ctx, keystoreTime)
	defer cancel()
	f := found{state: seal.HolderGave}
	if h.State == seal.HolderMissing {
		f.state = seal.HolderMissing
	} else if failure := r.Probe(ctx, h, n.stores); failure != nil {
		f.state, f.failure = seal.HolderFailed, failure
	}
	// For people; what it says decides nothing.
	if prov, err := n.stores.Get(h.Key.Provider); err == nil {
		if d, err := prov.Describe(ctx, keystore.DescribeRequest{Key: h.Key.Key, Correlation: corr.From(ctx)}); err == nil {
			f.protection = d.Protection
		}
	}
	return f
}

// tell logs what is not as it was.
func (n *Node) tell(ctx context.Context, r seal.Record, changed []seal.ProviderKey, round map[seal.ProviderKey]found) {
	for _, k := range changed {
		switch f := round[k]; f.state {
		case seal.HolderFailed:
			if r.Mode() == seal.ModeShamir {
				n.log.WarnContext(ctx, "no repair makes the share of a keystore again: if its key is lost for good, hold krypton ceremony start reshare", slog.String("keystore", k.Provider))
			}
			n.log.WarnContext(ctx, "a keystore of the seal does not open it; nodes that restart rely on the others",
				slog.String("keystore", k.Provider), slog.String("class", f.failure.Class.String()), slog.Any("error", f.failure.Err))
		case seal.HolderMissing:
			n.log.WarnContext(ctx, "the seal record has no wrapping by a keystore that its manifest names", slog.String("keystore", k.Provider))
		case seal.HolderStateUnspecified, seal.HolderAwaited, seal.HolderIdle, seal.HolderAsked, seal.HolderGave:
			n.log.InfoContext(ctx, "a keystore of the seal opens it", slog.String("keystore", k.Provider))
		}
	}
}

// repairSeal makes the wrappings again that are lost: those that the record lacks,
// and those that a keystore which answers does not open, because the wrapping is
// damaged, or the key or its version is another or gone. One that is away, or asks
// for fewer calls, is left alone: its wrapping may be as good as ever.
func (n *Node) repairSeal(ctx context.Context, r seal.Record, round map[seal.ProviderKey]found) error {
	var lost []seal.ProviderKey
	for _, h := range r.Progress().Holders { // in the order of the manifest
		switch f := round[h.Key]; {
		case f.state == seal.HolderMissing, f.state == seal.HolderFailed && !transient(f.failure.Class):
			lost = append(lost, h.Key)
		}
	}
	v := n.machine.View()
	if len(lost) == 0 || len(lost) == len(round) || r.Mode() != seal.ModeAuto || v.Cluster().GetFormatVersion() < fsm.FormatCeremonies {
		return nil
	}
	return n.gate.DoNode(ctx, gate.NodeRepairSeal, ObjectSeal, func(tok gate.Token) error {
		raw := v.Cluster().GetSealRecord()
		was, err := seal.ParseRecord(raw)
		now := was
		if err == nil {
			now, err = was.Merge(r, n.clock.Now()) // each may have what the other missed
		}
		if err == nil {
			// What this node has besides the registry comes from its disk: it counts if it
			// opened in this round, or is made anew.
			now, err = now.Keep(was, slices.DeleteFunc(now.Replaced(was), func(k seal.ProviderKey) bool {
				return round[k].state == seal.HolderGave || slices.Contains(lost, k)
			}))
		}
		if err != nil {
			return errs.New(errs.Aborted, "the seal changed while it was being repaired", errs.Hint("the leader tries again by itself"), errs.Cause(err))
		}
		better, failures, err := now.Rewrap(ctx, n.rand, lost, n.stores, n.clock, keystoreTime)
		if err != nil {
			return err
		}
		for _, f := range failures {
			n.log.WarnContext(ctx, "a keystore of the seal does not wrap the MasterKey again", slog.String("keystore", f.Provider), slog.String("class", f.Class.String()), slog.Any("error", f.Err))
		}
		base := sha256.Sum256(raw)
		better, words, err := n.witnessed(ctx, v, base, was, better, lost)
		if err != nil {
			return err
		}
		b, err := better.Marshal()
		if err != nil {
			return err
		}
		cmd := &fsmpb.Command{Body: &fsmpb.Command_RepairSeal{RepairSeal: &fsmpb.RepairSeal{Base: base[:], Record: b, Witnesses: words}}}
		if _, err := n.cluster.ProposeOwn(ctx, tok, cmd); err != nil {
			return err
		}
		for _, k := range lost {
			if made := better.Wrapping(k); !proto.Equal(made, was.Wrapping(k)) {
				n.watch.repaired(n.clock.Now(), k)
				n.log.WarnContext(ctx, "the MasterKey is wrapped again under a keystore of the seal", slog.String("keystore", k.Provider))
			}
		}
		return nil
	})
}

func transient(c keystore.Class) bool { return c == keystore.Unavailable || c == keystore.Throttled }

// forget drops what was found: another node watches now, or none.
func (w *sealWatch) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at, w.found = time.Time{}, nil
}

// learn takes over a round and returns the keys whose state is another than in the
// round before; of the first round those that do not open.
func (w *sealWatch) learn(now time.Time, round map[seal.ProviderKey]found) (changed []seal.ProviderKey) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for k, f := range round {
		old, known := w.found[k]
		f.since = now
		if known && old.state == f.state {
			f.since = old.since
		} else if known || f.state != seal.HolderGave {
			changed = append(changed, k)
		}
		round[k] = f
	}
	w.at, w.found = now, round
	return changed
}

// repaired notes that a wrapping was made again, and opened.
func (w *sealWatch) repaired(now time.Time, k seal.ProviderKey) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.repairs++
	if f, ok := w.found[k]; ok {
		f.state, f.since, f.failure = seal.HolderGave, now, nil
		w.found[k] = f
	}
}

// overlay puts what was found into the status of an unsealed node.
func (w *sealWatch) overlay(st *SealStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.at.IsZero() {
		return
	}
	st.Watched, st.Protections, st.Protection = w.at, map[seal.ProviderKey]keystore.Protection{}, keystore.ProtectionHSM
	for i := range st.Progress.Holders {
		h := &st.Progress.Holders[i]
		f, ok := w.found[h.Key]
		if !ok || h.Person() {
			continue
		}
		h.State, h.Since, h.Failure = f.state, f.since, f.failure
		st.Protections[h.Key] = f.protection
		st.Protection = min(st.Protection, f.protection) // unknown is less than software, software less than hsm
	}
}

// SealWatch is what the leader knows of the keystores of the seal, for metrics.
type SealWatch struct {
	At      time.Time       // of the last round; zero: this node does not watch
	Opens   map[string]bool // by configured name: whether all that it holds of the seal opens
	Repairs uint64          // wrappings that were made again since the node started
}

// SealWatch returns what this node found when it last watched the keystores.
func (n *Node) SealWatch() SealWatch {
	w := &n.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	out := SealWatch{At: w.at, Repairs: w.repairs, Opens: map[string]bool{}}
	for k, f := range w.found {
		was, known := out.Opens[k.Provider]
		out.Opens[k.Provider] = (was || !known) && f.state == seal.HolderGave
	}
	return out
}
