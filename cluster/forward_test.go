package cluster_test

import (
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// forwardAs makes a change at m under a token that says what req does, whether that is
// so or not: a real gate says only what is.
func (m *member) forwardAs(ctx context.Context, req gate.Request, cmd *fsmpb.Command) (res *fsmpb.Result, err error) {
	req.Act, req.Object = gate.SealCluster, "cluster"
	req.Correlation, err = corr.New(rand.Reader)
	if err != nil {
		return nil, err
	}
	err = m.gate.Do(ctx, req, func(tok gate.Token) error {
		res, err = m.c.Propose(ctx, tok, cmd, cluster.Complete)
		return err
	})
	return res, err
}

// TestI18_TheLeaderFindsOutWhoAsks: principal and serial number of a forwarded command
// are what the leader verified; nothing that the member says of them counts.
func TestI18_TheLeaderFindsOutWhoAsks(t *testing.T) {
	t.Parallel()
	leader, others := leaderOf(t, three(t))
	f, gov := others[0], cluster.Governor()
	serial := "\x05\x06"
	res, err := f.forwardAs(limited(t), gate.Request{Principal: gov, Serial: "\x01\x02", Shown: cluster.Shown(gov, serial)}, write("shown", 0))
	if err != nil {
		t.Fatal(err)
	}
	got, err := leader.c.EntryAt(res.GetIndex())
	if err != nil {
		t.Fatal(err)
	}
	if string(got.GetCallerSerial()) != serial || got.GetViaNode() != string(f.c.NodeID()) {
		t.Errorf("the entry has the serial number %x and came via %q", got.GetCallerSerial(), got.GetViaNode())
	}
	for name, c := range map[string]struct {
		shown auth.Credential
		want  errs.Code
	}{
		"nothing shown":           {auth.Credential{}, errs.Unauthenticated},
		"somebody else showed it": {cluster.Shown(cluster.Operator(), ""), errs.Denied},
		"a token that is none":    {auth.TokenShown("x"), errs.Unauthenticated},
	} {
		before := len(leader.forwards())
		if _, err := f.forwardAs(limited(t), gate.Request{Principal: gov, Shown: c.shown}, write("lie", 1)); !errs.Is(err, c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
		all := leader.forwards()
		if len(all) != before+1 || all[before].Via != string(f.c.NodeID()) || all[before].Code != c.want || all[before].Principal != "unauthenticated" {
			t.Errorf("%s: recorded as %+v", name, all[before:])
		}
	}
	// On the leader itself nothing is forwarded, so there is nobody to doubt.
	if _, err := leader.forwardAs(limited(t), gate.Request{Principal: gov}, write("own", 2)); err != nil {
		t.Error(err)
	}
}

// forwards returns the records of forwarded changes on a node.
func (m *member) forwards() (all []audit.Record) {
	for _, r := range m.trail.Records() {
		if r.Act == gate.NodeForward.String() {
			all = append(all, r)
		}
	}
	return all
}

// TestI18_TheLeaderJudgesByNoOlderStateThanTheSender: a caller who was bound a moment
// ago, and whom the sender knows already, is waited for and not refused.
func TestI18_TheLeaderJudgesByNoOlderStateThanTheSender(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	defer release()
	var held atomic.Bool
	asked := make(chan struct{}, 1)
	a := newMember(t, "a", func(c *cluster.Config) {
		if h, ok := c.Hooks.(*hooks); ok {
			h.identify = func() { asked <- struct{}{} }
		}
		c.Machine = fsm.New(fsm.Options{Publish: func(_ fsm.Published, swap func()) {
			if held.Load() {
				<-hold
			}
			swap()
		}})
	})
	a.bootstrap()
	b := newMember(t, "b")
	b.join(a.invite(wanted{}))
	b.applied(a.write("x", 0).GetIndex())

	index := b.machine.View().Index()
	held.Store(true)
	go func() { _, _ = a.propose(limited(t), gate.SealCluster, write("slow", 1)) }() // answered after release
	b.applied(index + 1)
	done := make(chan error, 1)
	go func() {
		_, err := b.forwardAs(limited(t), gate.Request{Principal: cluster.Governor(), Shown: cluster.Shown(cluster.Governor(), ""), Authority: index + 1}, write("y", 2))
		done <- err
	}()
	select {
	case <-asked:
		t.Error("the leader judged by a state that is older than the sender's")
	case err := <-done:
		t.Errorf("it was answered: %v", err)
	case <-time.After(300 * time.Millisecond): // what must not happen would happen within a round trip
	}
	release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// And what no state of this cluster is, is not waited for.
	if _, err := b.forwardAs(limited(t), gate.Request{Principal: cluster.Governor(), Shown: cluster.Shown(cluster.Governor(), ""), Authority: 1 << 60}, write("z", 3)); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("a state to come: %v", err)
	}
}

// TestTokensAreWipedOnceTheyAreVerified in the messages of both sides, and no entry of
// the log has one.
func TestTokensAreWipedOnceTheyAreVerified(t *testing.T) {
	t.Parallel()
	const token = "eyJ.token.of-somebody"
	var sent []*clusterpb.ProposeRequest
	leader, gov := newMember(t, "a"), cluster.Governor()
	leader.bootstrap()
	f := &member{t: t, name: "b", path: t.TempDir() + "/data", watch: func(r *clusterpb.ProposeRequest) {
		if string(r.GetShown().GetToken()) != token {
			t.Errorf("the token is forwarded as %q", r.GetShown().GetToken())
		}
		sent = append(sent, r)
	}}
	f.start()
	t.Cleanup(f.stop)
	f.join(leader.invite(wanted{}))
	if _, err := f.forwardAs(limited(t), gate.Request{Principal: gov, Shown: auth.TokenShown(token)}, write("token", 0)); !errs.Is(err, errs.Unauthenticated) {
		t.Fatal(err) // in these tests no token is of anybody
	}
	got := &clusterpb.ProposeRequest{
		Command: &fsmpb.Command{Principal: &fsmpb.Principal{Issuer: gov.Issuer.String(), Kind: "governor", Name: gov.Name}, Body: write("x", 1).GetBody(), CorrelationId: "0193f1e2-7b3c-7abc-8def-0123456789ab"},
		Shown:   &clusterpb.Shown{By: &clusterpb.Shown_Token{Token: []byte(token)}},
	}
	if _, err := leader.c.Forwarded(limited(t), got, f.c.NodeID()); !errs.Is(err, errs.Unauthenticated) {
		t.Fatal(err)
	}
	if len(sent) != 1 {
		t.Fatalf("%d requests were forwarded", len(sent))
	}
	for side, r := range map[string]*clusterpb.ProposeRequest{"the node that forwards": sent[0], "the leader": got} {
		b := r.GetShown().GetToken()
		if len(b) != len(token) || strings.Trim(string(b), "\x00") != "" {
			t.Errorf("%s keeps %q", side, b)
		}
	}
}
