package command

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

func statusCommand() *Command {
	return &Command{
		Name: "status", Usage: "show at a glance how the cluster and its nodes are", Reach: Reads,
		About: "The first line is the verdict: healthy, degraded (it works, and somebody should look) or down. Below stand the nodes\n" +
			"and, for people, what the cluster knows of itself. Every node of --addr is asked about itself, one of them about\n" +
			"all members. With --data-dir it asks the node of this machine over its administration socket, which needs no\n" +
			"certificate and works before krypton init.\n\n" +
			"LEASE is how long a node may serve without hearing from the leader again: a node without one serves nothing. Of one\n" +
			"that does not answer, it is what the leader gave it: it may be serving for that long. BEHIND is how many entries it\n" +
			"has not applied that the leader has: changes wait for a node that holds a lease and is behind.\n" +
			"CLOCK is its distance from the clock of the node that answered. Below, changes waiting are those that are committed\n" +
			"and not acknowledged yet, and the nodes that they wait for: one that died keeps a change waiting until its lease ends.\n\n" +
			"The exit status is 7 when a node is sealed or belongs to no cluster, 6 when one does not answer.",
		Examples: []string{"krypton status --addr n1:8400,n2:8400,n3:8400", "krypton status --data-dir /var/lib/krypton", "krypton status --output json | jq -r .verdict.state"},
		Flags:    []cli.Flag{&cli.StringFlag{Name: "data-dir", Usage: "ask the node whose data directory is `DIR`"}},
		Run: func(ctx context.Context, in *Invocation) error {
			if in.c.IsSet("data-dir") {
				return in.localStatus(ctx)
			}
			return in.clusterStatus(ctx)
		},
	}
}

func (in *Invocation) localStatus(ctx context.Context) error {
	admin, done, err := in.admin(in.c.String("data-dir"))
	if err != nil {
		return err
	}
	defer done()
	st, err := call(ctx, in, admin.GetStatus, &kryptonv1.GetStatusRequest{})
	if err != nil {
		return err
	}
	err = in.show(st, func() string {
		var s sheet
		s.add("data directory", st.GetDataDir())
		s.add("version", st.GetVersion())
		var text strings.Builder
		text.WriteString(s.text() + sealSheet(st.GetSeal()))
		if st.GetCluster().GetFingerprint() != "" {
			text.WriteString("\n" + clusterSheet(st.GetCluster()))
		}
		for _, f := range st.GetPolicyFaults() {
			fmt.Fprintf(&text, "\npolicies of %s do not compile on this node, which refuses what they decide: %s\n", f.GetTenant(), f.GetReason())
		}
		return text.String()
	})
	return errors.Join(err, sealedError(st.GetSeal()))
}

// sealedError is nil for an unsealed node.
func sealedError(st *kryptonv1.SealStatus) error {
	switch st.GetState() {
	case kryptonv1.SealState_SEAL_STATE_UNINITIALIZED:
		return errs.Newf(errs.Sealed, "node %s belongs to no cluster", nodeLabel(st)).With(errs.Hint("use krypton init or krypton join"))
	case kryptonv1.SealState_SEAL_STATE_UNSPECIFIED, kryptonv1.SealState_SEAL_STATE_SEALED:
		says := fmt.Sprintf("node %s is sealed", nodeLabel(st))
		if st.GetEnough() != "" {
			says += "; it takes " + st.GetEnough()
		}
		return errs.New(errs.Sealed, says).With(errs.Hint("krypton unseal gives the shares of people who are named; the node asks keystores by itself"))
	case kryptonv1.SealState_SEAL_STATE_UNSEALED:
	}
	return nil
}

func (in *Invocation) clusterStatus(ctx context.Context) error {
	v, err := in.look(ctx)
	if err != nil {
		return err
	}
	if in.jsonOutput() {
		err = in.statusJSON(v)
	} else {
		err = in.write([]byte(in.statusText(v)))
	}
	return errors.Join(err, v.worst())
}

func (in *Invocation) statusText(v *view) string {
	verdict := v.verdict()
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", in.paint(verdict.State, verdict.color()), verdict.Summary)
	for _, p := range verdict.Problems {
		fmt.Fprintf(&b, "  - %s\n", p)
	}
	b.WriteString("\n" + v.grid().text())
	if s := v.sheet(); len(s) > 0 {
		b.WriteString("\n" + s.text())
	}
	if s := v.holdersSeen(); s != "" {
		b.WriteString("\n" + s)
	}
	return b.String()
}

func (in *Invocation) statusJSON(v *view) error {
	type node struct {
		Addr  string `json:"addr"`
		Seal  any    `json:"seal"`
		Error string `json:"error"`
		Code  string `json:"code"`
	}
	out := struct {
		Verdict verdict `json:"verdict"`
		Cluster any     `json:"cluster"`
		Nodes   []node  `json:"nodes"`
		Members []any   `json:"members"`
	}{Verdict: v.verdict(), Nodes: []node{}, Members: []any{}}
	var err error
	if v.info != nil {
		if out.Cluster, err = toJSON(v.info); err != nil {
			return err
		}
	}
	for _, a := range v.answers {
		n := node{Addr: a.addr}
		if a.err != nil {
			n.Error, n.Code = errs.From(a.err).Msg, errs.Of(a.err).String()
		} else if n.Seal, err = toJSON(a.status); err != nil {
			return err
		}
		out.Nodes = append(out.Nodes, n)
	}
	for _, m := range v.members {
		raw, err := toJSON(m)
		if err != nil {
			return err
		}
		out.Members = append(out.Members, raw)
	}
	return in.showJSON(out)
}

// grid is one line for each node: the members, and those of --addr that are
// none or are not known as such.
func (v *view) grid() *grid {
	g := &grid{head: []string{"NODE", "ROLE", "STATE", "SERVES", "LEASE", "BEHIND", "DISK FREE", "CLOCK", "VERSION", "ADDRESS", "NOTE"}}
	shown := map[string]bool{}
	for _, m := range v.members {
		shown[m.GetId()] = true
		a := v.answerOf(m)
		h := m.GetHealth()
		role := strings.ToLower(strings.ReplaceAll(enum(m.GetRole(), "NODE_ROLE_"), "_", "-"))
		if m.GetLeader() {
			role += ", leads"
		}
		row := []string{nodeName(m), role, stateOf(a, h), "", "", "", "", "", "", m.GetGrpcAddress(), noteOf(a, h)}
		if h.GetReachable() {
			row[3] = yesNo(h.GetServing())
			row[4] = leaseText(h)
			row[5] = fmt.Sprint(v.behind(h))
			row[6] = diskText(h)
			row[7] = clockText(h)
			row[8] = h.GetVersion()
		} else if held := h.GetLeaseHolding().GetHeld().AsDuration(); held > 0 {
			row[4] = noLonger(held)
		}
		g.add(row...)
	}
	for _, a := range v.answers {
		if a.err == nil && shown[a.status.GetNodeId()] || a.err != nil && v.memberAt(a.addr) != nil {
			continue
		}
		name := ""
		if a.err == nil {
			name = nodeLabel(a.status)
		}
		g.add(name, "", stateOf(&a, nil), "", "", "", "", "", "", a.addr, noteOf(&a, nil))
	}
	return g.withoutEmptyColumns()
}

func nodeName(m *kryptonv1.Node) string {
	if m.GetDisplayName() == "" {
		return m.GetId()
	}
	return m.GetDisplayName()
}

// stateOf says how a node is sealed, from its own answer or from what a member
// heard of it.
func stateOf(a *answer, h *kryptonv1.NodeHealth) string {
	switch {
	case a != nil && a.err == nil:
		switch a.status.GetState() {
		case kryptonv1.SealState_SEAL_STATE_UNINITIALIZED:
			return "no cluster"
		case kryptonv1.SealState_SEAL_STATE_UNSEALED:
			return "unsealed"
		case kryptonv1.SealState_SEAL_STATE_SEALED, kryptonv1.SealState_SEAL_STATE_UNSPECIFIED:
		}
		if a.status.GetHeld() {
			return "held"
		}
		if p := shareProgress(a.status); p != "" {
			return "sealed, " + p + " shares"
		}
		return "sealed"
	case h.GetReachable():
		return strings.ToLower(enum(h.GetSeal(), "SEAL_STATE_"))
	}
	return "no answer"
}

func noteOf(a *answer, h *kryptonv1.NodeHealth) string {
	switch {
	case a != nil && a.err != nil:
		return errs.From(a.err).Msg
	case a != nil && a.status.GetHeld():
		return a.status.GetHoldReason()
	case a != nil && a.status.GetEnough() != "":
		return "it takes " + a.status.GetEnough()
	case a != nil && a.status.GetLastFailure() != "":
		return a.status.GetLastFailure()
	case h.GetReachable() && !h.GetServing():
		return h.GetNotServingReason()
	case h != nil && !h.GetReachable():
		return h.GetNotServingReason()
	}
	return ""
}

func leaseText(h *kryptonv1.NodeHealth) string {
	if h.GetLeaseRemaining() == nil {
		return "none"
	}
	return fmt.Sprintf("%.1f s", h.GetLeaseRemaining().AsDuration().Seconds())
}

// noLonger says how long something lasts at most, rounded up: it is a promise.
func noLonger(d time.Duration) string {
	return fmt.Sprintf("at most %.1f s", math.Ceil(d.Seconds()*10)/10)
}

func clockText(h *kryptonv1.NodeHealth) string {
	d := h.GetClockOffset().AsDuration()
	if d == 0 {
		return "same"
	}
	return fmt.Sprintf("%+d ms", d.Milliseconds())
}

func diskText(h *kryptonv1.NodeHealth) string {
	if h.GetDiskTotalBytes() == 0 {
		return ""
	}
	return fmt.Sprintf("%s (%d %%)", bytesText(h.GetDiskFreeBytes()), 100*h.GetDiskFreeBytes()/h.GetDiskTotalBytes())
}

// bytesText returns a size as people read it: 3.4 GiB.
func bytesText(n uint64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	div, exp := uint64(unit), 0
	for m := n / unit; m >= unit; m /= unit {
		div, exp = div*unit, exp+1
	}
	return fmt.Sprintf("%.1f %ciB", float64(n)/float64(div), "KMGTPE"[exp])
}

// sheet is what is the same for all nodes.
func (v *view) sheet() sheet {
	var s sheet
	if st := v.anySeal(); st != nil {
		mode := map[kryptonv1.SealMode]string{
			kryptonv1.SealMode_SEAL_MODE_AUTO: "a keystore opens the MasterKey", kryptonv1.SealMode_SEAL_MODE_SHAMIR: "shares open the MasterKey",
		}[st.GetMode()]
		s.add("seal", mode)
		people := "yes"
		if !st.GetUnsealsWithoutPeople() {
			people = fmt.Sprintf("no; persons needed: %d", st.GetPersonsNeeded())
		}
		s.add("unseals without people", people)
	}
	for _, a := range v.answers {
		if a.err == nil && a.status.GetWatchTime() != nil {
			s.add("strength of the seal", strengthText(a.status))
			s.add("holders to spare", spareText(a.status))
			break
		}
	}
	if v.info == nil {
		return s
	}
	s.add("cluster", v.info.GetName())
	s.add("fingerprint", v.info.GetFingerprint())
	s.add("keyspace", v.info.GetKeyspaceId())
	s.add("term", fmt.Sprint(v.info.GetTerm()))
	s.add("index", fmt.Sprint(v.info.GetAppliedIndex()))
	s.add("format", fmt.Sprint(v.info.GetFormatVersion()))
	s.add("quorum of people", quorumText(v.info.GetRules()))
	s.add("leases", v.leasesText())
	if l := v.leaderLeases(); l.GetFences() > 0 {
		s.add("changes waiting", v.waitingText(l))
	}
	s.add("internal key version", fmt.Sprint(v.info.GetInternalKeyVersion()))
	s.add("rollback window", span(v.info.GetRollbackWindow().AsDuration()))
	s.add("wait before a key is destroyed", span(v.info.GetDestroyWait().AsDuration().Round(time.Second)))
	if v.info.GetApprovalsPending()+v.info.GetApprovalsApproved() > 0 {
		s.add("approvals", approvalsText(v.info))
	}
	return s
}

// approvalsText says how many approvals have not come to their end, and for what they wait.
func approvalsText(c *kryptonv1.ClusterInfo) string {
	var parts []string
	if n := int(c.GetApprovalsPending()); n > 0 {
		parts = append(parts, plural(n, "waits", "wait")+" for signatures")
	}
	if n := int(c.GetApprovalsApproved()); n > 0 {
		parts = append(parts, plural(n, "is signed", "are signed")+" and not done yet")
	}
	if len(parts) == 0 {
		return "none waits"
	}
	return strings.Join(parts, ", ")
}

// leasesText says how long leases last and who gives them.
func (v *view) leasesText() string {
	text := span(v.info.GetLeaseDuration().AsDuration())
	l := v.leaderLeases()
	if l == nil {
		return text + ", given by nobody"
	}
	return fmt.Sprintf("%s, given by %s since term %d", text, nodeName(v.leader()), l.GetTerm())
}

// waitingText says how many changes wait, and for whom.
func (v *view) waitingText(l *kryptonv1.LeaderLeases) string {
	names := make([]string, len(l.GetWaits()))
	for i, w := range l.GetWaits() {
		names[i] = fmt.Sprintf("%s (%s)", v.nameOf(w.GetNode()), noLonger(w.GetAtMost().AsDuration()))
	}
	if len(names) == 0 {
		return fmt.Sprint(l.GetFences())
	}
	return fmt.Sprintf("%d, for %s", l.GetFences(), strings.Join(names, " and "))
}
