package fsm

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/invariants"
)

// Options of a [Machine]. The zero value is a machine that starts empty, takes
// the first genesis it is given and publishes by itself.
type Options struct {
	// Fingerprint is SHA-256 of the genesis message of the cluster that this
	// node belongs to, as its configuration pins it. A genesis or a snapshot of
	// another cluster is then an error. Zero: not pinned.
	Fingerprint [32]byte

	// Publish, if set, is called once per command and once per snapshot that was
	// restored, with a function that makes the new view visible, and must call it
	// exactly once before it returns. It is where a leader holds its lease mutex:
	// the swap is a pointer store, all work of the command is done by then. It runs
	// on the goroutine of Apply.
	Publish func(p Published, swap func())

	// Restoring, if set, is called by [Machine.Restore] before it reads anything:
	// whatever was promised of the present state ends here. The state stays as it
	// was until Publish is called, and for good if the snapshot is refused. It runs
	// on the goroutine of Restore.
	Restoring func()
}

// Published is what [Options.Publish] is told of the state that it makes visible.
type Published struct {
	// View is the new state. Its index and term are those of the command, or of
	// the last one in the snapshot.
	View *View
	// Epoch is the epoch of leases that the command began, if it began one: a
	// [fsmpb.LeaseEpoch] that was done. A node that replays its log, or that another
	// one leads, is told too; who asked knows the nonce.
	Epoch Epoch
	// Restored: it comes from a snapshot. Its index may be lower than the one before.
	Restored bool
}

// Machine is the replicated state machine. Apply, Restore and Snapshot are
// called by one goroutine; everything else is safe for concurrent use.
type Machine struct {
	opts  Options
	view  atomic.Pointer[View]
	proof atomic.Pointer[Proof]

	watch     func(p Published, swap func())
	restoring func()

	// stopped is the first error of Apply. A machine that could not apply a
	// command has not the state of its index, so it applies nothing after it.
	// Only the goroutine that applies touches it.
	stopped error
}

// New makes an empty machine: the only command it accepts is a genesis, the
// only other way to fill it is Restore.
func New(opts Options) *Machine {
	m := &Machine{opts: opts}
	m.view.Store(emptyState().view())
	return m
}

// Watch sets, before the first command, what is told of every new state within
// Options.Publish, and before every restore within Options.Restoring, on the same
// terms. It is for who gets a machine and did not make it.
func (m *Machine) Watch(publish func(p Published, swap func()), restoring func()) {
	m.watch, m.restoring = publish, restoring
}

// View returns the present state: an immutable snapshot, at the price of one
// atomic load. It never returns nil.
func (m *Machine) View() *View { return m.view.Load() }

// Applied returns the log index and term of the last command that was applied
// and published, and the state chain there. All zero: none.
func (m *Machine) Applied() (index, term uint64, chain [32]byte) {
	return m.View().Applied()
}

// Applied returns the log index and term of the last command in the view, and the
// state chain there. All zero: none.
func (v *View) Applied() (index, term uint64, chain [32]byte) { return v.index, v.term, v.chain }

// Wait returns once a command of an index >= index is published, or with the
// error of ctx. Only commands count: a log index of another kind of entry is
// reached with the next command after it.
func (m *Machine) Wait(ctx context.Context, index uint64) error {
	for {
		// The view is loaded before its channel is waited on, and a view's
		// channel is closed only after its successor is visible: no wake-up is lost.
		v := m.View()
		if v.index >= index {
			return nil
		}
		select {
		case <-v.next:
		case <-ctx.Done():
			return fmt.Errorf("wait for index %d: %w", index, ctx.Err())
		}
	}
}

// errStopped wraps the reasons for which a machine stops.
var errStopped = errors.New("the command cannot be applied, the node must stop")

// Stopped reports whether err is an error of Apply after which the node must
// not go on.
func Stopped(err error) bool { return errors.Is(err, errStopped) }

// Apply applies the command of log index index and term term and publishes the
// new state.
//
// A refusal is a [fsmpb.Result] with a reason, not an error: every replica
// refuses alike, and the index is applied. An error means that this program
// does not understand the log: an unknown format or command that is not
// skippable, a field it does not know, bytes that do not decode, an index that
// does not grow. The state stays as it was, and from then on every Apply
// returns that error: going on would silently diverge from the other replicas.
//
// The caller keeps cmd and may use it again.
func (m *Machine) Apply(index, term uint64, cmd []byte) (*fsmpb.Result, error) {
	return m.step(index, term, cmd, proved)
}

func (m *Machine) step(index, term uint64, cmd []byte, p provedness) (*fsmpb.Result, error) {
	if m.stopped != nil {
		return nil, m.stopped
	}
	res, err := m.apply(index, term, cmd, p)
	if err != nil {
		m.stopped = fmt.Errorf("apply log index %d: %w: %w", index, errStopped, err)
		return nil, m.stopped
	}
	return res, nil
}

func (m *Machine) apply(index, term uint64, raw []byte, p provedness) (*fsmpb.Result, error) {
	before := m.View()
	switch {
	case index <= before.index:
		return nil, fmt.Errorf("index does not follow the applied index %d", before.index)
	case term < before.term:
		return nil, fmt.Errorf("term %d is lower than the applied term %d", term, before.term)
	}
	cmd, skip, err := decodeCommand(raw)
	if err != nil {
		return nil, err
	}
	next := before.meta
	next.index, next.term = index, term
	next.commands++

	var res *fsmpb.Result
	var began Epoch
	after := &View{state: before.state, meta: next, next: make(chan struct{})}
	if skip {
		res = &fsmpb.Result{Index: index}
	} else if res, began, err = m.run(after, cmd, raw, p); err != nil {
		return nil, err
	}
	switch {
	case before.cluster.GetFormatVersion() < FormatAuthority:
		after.chain = chainStep(before.chain, index, raw)
	case skip || cmd.GetSkippable():
		// Not every release can say more of it than that it is there.
		after.chain = outcomeStep(before.chain, index, raw, "")
	default:
		after.chain = outcomeStep(before.chain, index, raw, res.GetReason())
	}
	if !res.GetReplayed() {
		res.Term = term // not before it was remembered: it is never stored
	}
	m.publish(before, Published{View: after, Epoch: began})
	return res, nil
}

// publish makes the new view visible and wakes whoever waits on before.
func (m *Machine) publish(before *View, p Published) {
	swap := func() { m.view.Store(p.View) }
	if watch := m.watch; watch != nil {
		below := swap
		swap = func() { watch(p, below) }
	}
	if m.opts.Publish == nil {
		swap()
	} else {
		m.opts.Publish(p, swap)
	}
	if m.opts.Publish != nil || m.watch != nil {
		if m.view.Load() != p.View {
			invariants.Violated("fsm", "the publisher did not publish index %d", p.View.index)
		}
	}
	close(before.next)
}

// outcomeStep returns c_i of the state chain (I2), from [FormatAuthority] on:
//
//	c_i = SHA-256( c_(i-1) | u64be i | SHA-256(command bytes) | name of the error code, if it was refused )
//
// With the outcome in it a node that does what the others refuse, because it does
// not ask for the signatures of people, say, is found out at that entry. A chain of
// the commands alone would be the same on all of them.
func outcomeStep(prev [32]byte, index uint64, cmd []byte, reason string) (c [32]byte) {
	sum := sha256.Sum256(cmd)
	h := sha256.New()
	h.Write(prev[:])
	h.Write(binary.BigEndian.AppendUint64(nil, index))
	h.Write(sum[:])
	h.Write([]byte(reason))
	h.Sum(c[:0])
	return c
}

// chainStep is outcomeStep for clusters older than that:
//
//	c_i = SHA-256( c_(i-1) | u64be i | command bytes )
func chainStep(prev [32]byte, index uint64, cmd []byte) (c [32]byte) {
	h := sha256.New()
	h.Write(prev[:])
	h.Write(binary.BigEndian.AppendUint64(nil, index))
	h.Write(cmd)
	h.Sum(c[:0])
	return c
}

// refusal makes the result of a command that was refused.
func refusal(index uint64, e *errs.Error) *fsmpb.Result {
	return &fsmpb.Result{Reason: e.Code.String(), Message: e.Msg, Hint: e.Hint, Index: index}
}

// Err returns the refusal in a result as an error that a caller may see, or nil
// if the command was done.
func Err(r *fsmpb.Result) error {
	if r.GetReason() == "" {
		return nil
	}
	code, _ := errs.ByName(r.GetReason())
	e := errs.New(code, r.GetMessage())
	e.Hint = r.GetHint()
	return e
}
