//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/cluster/lease"
)

// drill is a goal that is no ratio: something happens once, and what follows from
// the protocol has to hold whatever the machine can do.
type drill struct {
	name string
	goal string // what has to hold
	why  string // why this is the goal
	run  func(ctx context.Context, e *env) (finding, error)
}

// finding is what became of a drill.
type finding struct {
	drill

	said string
	met  bool
}

func drills() []drill {
	return []drill{
		{
			name: "fence bookkeeping", goal: "no allocation, with 3, 100 and 1,000 holders", run: bookkeeping,
			why: "it is done under the lock that grants and answers need, for every batch of reports",
		},
		{
			name: "a dead holder", goal: "the first fencing write within D, 1 % of it and what one took before; none of the others waits for half of D", run: deadHolder,
			why: "nobody is waited for longer than a lease can last, and a holder whose lease has ended is waited for once",
		},
		{
			name: "a follower during an election", goal: "no refusal, no 500 ms without an answer, half of the rate at least in the second after", run: election,
			why: "leases last longer than an election: who waited for a leader would be silent until a heartbeat, 500 ms, was missed and another node was elected",
		},
	}
}

func chosenDrills(pick *regexp.Regexp) []drill {
	return slices.DeleteFunc(drills(), func(d drill) bool { return !pick.MatchString(d.name) })
}

// drilled runs the drills, one after the other.
func drilled(ctx context.Context, e *env, all []drill) ([]finding, error) {
	out := make([]finding, len(all))
	for i, d := range all {
		fmt.Fprintf(e.out, "drill: %s\n", d.name)
		var err error
		if out[i], err = d.run(ctx, e); err != nil {
			return nil, fmt.Errorf("%s: %w", d.name, err)
		}
		out[i].drill = d
	}
	return out, nil
}

// bookkeeping runs the benchmark of package lease: what a leader does for one
// change, and for the reports of a tenth of the holders.
func bookkeeping(ctx context.Context, e *env) (finding, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-trimpath", "-run", "^$", "-bench", "^BenchmarkFence$", "-benchtime", "200ms", "./cluster/lease")
	cmd.Dir = e.root
	out, err := cmd.CombinedOutput()
	if err != nil {
		return finding{}, fmt.Errorf("go test: %w\n%s", err, out)
	}
	return readBookkeeping(out)
}

// fenceLine is what a benchmark says of one number of holders.
var fenceLine = regexp.MustCompile(`(?m)^BenchmarkFence/holders=(\d+)\S*\s+\d+\s+([\d.]+) ns/op\s+\d+ B/op\s+(\d+) allocs/op`)

func readBookkeeping(out []byte) (finding, error) {
	found := fenceLine.FindAllSubmatch(out, -1)
	if len(found) != 3 {
		return finding{}, fmt.Errorf("the benchmark tells of %d sizes, want 3:\n%s", len(found), out)
	}
	f := finding{met: true}
	var parts []string
	for _, m := range found {
		parts = append(parts, fmt.Sprintf("%s holders: %s ns, %s allocations", m[1], m[2], m[3]))
		f.met = f.met && bytes.Equal(m[3], []byte("0"))
	}
	f.said = strings.Join(parts, "; ")
	return f, nil
}

// changesAfter is how many changes are timed before a holder dies, and how many
// after the first that comes then.
const changesAfter = 20

// deadHolder kills a node that does not lead and changes something at once.
func deadHolder(ctx context.Context, e *env) (f finding, err error) {
	c, err := e.processes(ctx)
	if err != nil {
		return finding{}, err
	}
	leader, err := c.LeaderIndex(ctx)
	if err != nil {
		return finding{}, err
	}
	cc, err := dialAs(c, auth.RoleGovernor, c.Nodes()[leader].Addresses().GRPC)
	if err != nil {
		return finding{}, err
	}
	defer func() { err = errors.Join(err, cc.Close()) }()
	services := kryptonv1.NewServicesClient(cc)
	n := 0
	change := func() (time.Duration, error) {
		ctx, cancel := context.WithTimeout(ctx, deadline)
		defer cancel()
		name := service + "/resources/drill"
		began := time.Now()
		var err error
		if n++; n%2 == 1 {
			_, err = services.PinResource(ctx, &kryptonv1.PinResourceRequest{Name: name})
		} else {
			_, err = services.UnpinResource(ctx, &kryptonv1.UnpinResourceRequest{Name: name})
		}
		return time.Since(began), err
	}
	if _, err := several(change); err != nil { // connections, sessions, files
		return finding{}, err
	}
	before, err := several(change)
	if err != nil {
		return finding{}, err
	}
	dead := c.Nodes()[(leader+1)%len(c.Nodes())]
	dead.Kill()
	first, err := change()
	if err != nil {
		return finding{}, err
	}
	after, err := several(change)
	if err != nil {
		return finding{}, err
	}
	if err := errors.Join(dead.Start(ctx), dead.WaitServing(ctx)); err != nil {
		return finding{}, err
	}
	d := cluster.ProfileLAN.Lease()
	return finding{
		met: first <= lease.LeaderSpan(d)+before[len(before)-1] && after[len(after)-1] < d/2,
		said: fmt.Sprintf("first change after the death %s (D is %s); the next %d: median %s, slowest %s; before: median %s, slowest %s",
			ms(first), d, len(after), ms(median(after)), ms(after[len(after)-1]), ms(median(before)), ms(before[len(before)-1])),
	}, nil
}

// several makes some changes and returns how long they took, sorted.
func several(change func() (time.Duration, error)) ([]time.Duration, error) {
	var all []time.Duration
	for range changesAfter {
		took, err := change()
		if err != nil {
			return nil, err
		}
		all = append(all, took)
	}
	slices.Sort(all)
	return all, nil
}

func median(sorted []time.Duration) time.Duration { return sorted[len(sorted)/2] }

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", d.Seconds()*1e3) }

// Times of the drill of an election.
const (
	electionBefore = 2 * time.Second // measured before the leader dies
	electionAfter  = time.Second     // measured after, and after another one leads
	electionGap    = 500 * time.Millisecond
	electors       = 8 // callers of the follower
)

// election kills the leader while callers use a node that does not lead.
func election(ctx context.Context, e *env) (f finding, err error) {
	c, err := e.processes(ctx)
	if err != nil {
		return finding{}, err
	}
	leader, err := c.LeaderIndex(ctx)
	if err != nil {
		return finding{}, err
	}
	l, err := newListener(c, c.Nodes()[(leader+1)%len(c.Nodes())])
	if err != nil {
		return finding{}, err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	l.start(ctx)
	if err := pause(ctx, electionBefore+electionBefore/4); err != nil {
		return finding{}, err
	}
	killed := time.Now()
	c.Nodes()[leader].Kill()
	if err := pause(ctx, electionAfter); err != nil {
		return finding{}, err
	}
	if _, err := c.LeaderIndex(ctx); err != nil {
		return finding{}, err
	}
	elected := time.Now()
	if err := pause(ctx, electionAfter); err != nil {
		return finding{}, err
	}
	ended := time.Now()
	answers, refused, first := l.stop()
	if err := errors.Join(c.Nodes()[leader].Start(ctx), c.Nodes()[leader].WaitServing(ctx)); err != nil {
		return finding{}, err
	}
	before := rate(answers, killed.Add(-electionBefore), killed)
	after := rate(answers, killed, killed.Add(electionAfter))
	gap := longest(answers, killed, ended)
	f = finding{
		met: refused == 0 && gap < electionGap && after >= before/2 && before > 0,
		said: fmt.Sprintf("%.0f ops/s in the two seconds before the leader died, %.0f in the second after, %.0f until one was known to lead and a second more; longest time without an answer %s, before %s; %d refused",
			before, after, rate(answers, killed, elected.Add(electionAfter)), ms(gap), ms(longest(answers, killed.Add(-electionBefore), killed)), refused),
	}
	if first != nil {
		f.said += fmt.Sprintf(", the first: %v", first)
	}
	return f, nil
}

// pause waits for a time that is measured, not for something to happen.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// rate is answers per second from one time to another. The answers are in order.
func rate(answers []time.Time, from, to time.Time) float64 {
	n := 0
	for _, at := range answers {
		if !at.Before(from) && at.Before(to) {
			n++
		}
	}
	return float64(n) / to.Sub(from).Seconds()
}

// longest is the longest time without an answer from one time to another.
func longest(answers []time.Time, from, to time.Time) time.Duration {
	last, most := from, time.Duration(0)
	for _, at := range answers {
		if !at.After(from) || at.After(to) {
			continue
		}
		most, last = max(most, at.Sub(last)), at
	}
	return max(most, to.Sub(last))
}

// statements prints what became of the drills.
func statements(out io.Writer, all []finding) {
	for _, f := range all {
		verdict := "met"
		if !f.met {
			verdict = "MISSED"
		}
		fmt.Fprintf(out, "%s: %s: %s\n  goal: %s; %s\n", f.name, verdict, f.said, f.goal, f.why)
	}
	if len(all) > 0 {
		fmt.Fprintln(out)
	}
}

// statementsMarkdown is [statements] as a table.
func statementsMarkdown(all []finding) string {
	if len(all) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("\n| drill | goal | found | why this goal |\n| :--- | :--- | :--- | :--- |\n")
	for _, f := range all {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", f.name, f.goal, f.said, f.why)
	}
	return b.String()
}
