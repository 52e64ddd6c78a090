package cluster

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
)

// machine is the number of the machine, which may have been other members before.
func (n *simNode) machine() int {
	if n.was != nil {
		return n.was.machine()
	}
	return n.n
}

func (n *simNode) applicant() applicant {
	return applicant{id: n.id, spki: simUID("spki " + string(n.id)), info: &clusterpb.NodeInfo{
		Name: fmt.Sprintf("node-%d", n.machine()), PeerAddress: fmt.Sprintf("10.0.0.%d:8402", n.machine()+1), MaxFormat: fsm.MaxFormatVersion, Version: "v0",
	}}
}

// asking is a node that asks to be let in with a token.
func (l *simLife) asking(a applicant, secret []byte) applicant {
	t := JoinToken{Fingerprint: [32]byte(l.c.machine.View().Cluster().GetFingerprint()), secret: keepSecret(secret)}
	a.token, a.signature = t.applies(memberOf(a))
	return a
}

// token makes a join token and returns its secret, nil if that is not certain.
func (w *simWorld) token(what string, voter bool) []byte {
	secret := sha256.Sum256([]byte("secret " + what))
	hash := JoinKeyHash(secret)
	if _, err := w.insist("token-"+what, &fsmpb.Command{Body: &fsmpb.Command_CreateJoinToken{CreateJoinToken: &fsmpb.CreateJoinToken{
		Token: &fsmpb.JoinToken{Hash: hash[:], ExpireTimeMs: time.Now().Add(time.Hour).UnixMilli(), Voter: voter},
	}}}); err != nil {
		w.note("no token: %v", err)
		return nil
	}
	return secret[:]
}

// join adds a node to the cluster, nil if that did not begin.
func (w *simWorld) join(voter bool) *simNode { return w.joinOn(nil, voter) }

// joinOn is join on the machine of a node that was removed, with an empty disk.
func (w *simWorld) joinOn(was *simNode, voter bool) *simNode {
	if w.node(simNodes-1) != nil {
		return nil
	}
	n := w.addNode()
	if was != nil {
		n.was, n.rate = was, was.rate
	}
	secret := w.token(string(n.id[:8]), voter)
	if secret == nil {
		n.gone.Store(true)
		return nil
	}
	n.start()
	for range 20 {
		if l := w.leader(); l != nil {
			ctx, cancel := context.WithTimeout(w.ctx, 2*time.Second)
			_, err := l.c.admit(ctx, l.asking(n.applicant(), secret), "")
			cancel()
			if err == nil {
				w.count(func(s *simStats) { s.Joined++ })
				break
			}
			w.note("not admitted: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return n // it may be a member all the same
}

// enough makes sure that there are enough members to remove one.
func (w *simWorld) enough() bool {
	if len(w.lives()) < 6 {
		if w.join(w.rnd.IntN(3) > 0) == nil {
			return false
		}
		time.Sleep(w.between(2000, 4000))
	}
	return len(w.lives()) >= 6
}

// remove removes a member; the channel is closed once that is acknowledged, or is
// tried no more.
func (w *simWorld) remove(n *simNode) <-chan struct{} {
	done := make(chan struct{})
	w.spawn(func() {
		defer close(done)
		cmd := &fsmpb.Command{Body: &fsmpb.Command_RemoveMember{RemoveMember: &fsmpb.RemoveMember{Id: string(n.id)}}}
		_, err := w.insist("remove-"+string(n.id[:8]), cmd)
		if refusedByState(err) && w.demote(n) {
			_, err = w.insist("remove-"+string(n.id[:8]), cmd)
		}
		if err != nil {
			w.note("node %d is not removed: %v", n.n, err)
			return
		}
		n.gone.Store(true)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.history.removed[n.n] = true
		w.stats.Removed++
	})
	return done
}

// barred reports whether the removal of the node was acknowledged.
func (w *simWorld) barred(n int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.history.removed[n]
}

// granted is told of every lease that a leader gives another node.
func (w *simWorld) granted(to *simNode, g *clusterpb.Grant) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if at := w.tap.removed[to.id]; at != 0 && g.GetIndex() >= at {
		w.violate("node %d was granted a lease of term %d at entry %d; entry %d had removed it", to.n, g.GetTerm(), g.GetIndex(), at)
	}
}

// forgotten reports whether every removed member is purged, as the leader sees it.
func (w *simWorld) forgotten() bool {
	l := w.leader()
	if l == nil {
		return false
	}
	v := l.c.machine.View()
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range w.tap.removed {
		if m, ok := v.Member(string(id)); !ok || !m.GetPurged() {
			return false
		}
	}
	return true
}

// linger lets the process of a removed member go on for a while. Nobody tells it to
// stop here, and nobody refuses its connections: leases alone keep it from serving.
func (w *simWorld) linger(n *simNode) {
	if !n.gone.Load() {
		return
	}
	ends, again := w.between(2000, 8000), w.rnd.IntN(2) == 0
	if again {
		if l := n.now.Load(); l != nil {
			l.kill()
		}
		n.start()
	}
	w.spawn(func() {
		simSleep(ends, w.ctx.Done())
		if l := n.now.Load(); l != nil {
			l.kill()
		}
	})
	time.Sleep(w.between(500, 2000))
}

// removeRunning removes a member that hears of it, maybe the leader itself.
func (w *simWorld) removeRunning(whom func(*simWorld) *simLife) {
	if !w.enough() {
		return
	}
	if l := whom(w); l != nil {
		w.await(w.remove(l.node))
		w.linger(l.node)
	}
}

// demote takes the vote of a member whose vote the others cannot do without, and
// reports whether another one votes in its place.
func (w *simWorld) demote(n *simNode) bool {
	w.count(func(s *simStats) { s.Demoted++ })
	if _, err := w.insist("demote-"+string(n.id[:8]), &fsmpb.Command{Body: &fsmpb.Command_UpdateMember{
		UpdateMember: &fsmpb.UpdateMember{Member: &fsmpb.Member{Id: string(n.id)}, Fields: []string{"voter"}},
	}}); err != nil {
		w.note("node %d keeps its vote: %v", n.n, err)
		return false
	}
	return w.until(w.scaled(10*time.Second), func() bool {
		l := w.leader()
		return l != nil && l.node != n && (!l.c.IsVoter(n.id) || l.c.Stats().Voters > 2)
	})
}

// await waits for the acknowledgement of a removal, for as long as that can take.
func (w *simWorld) await(done <-chan struct{}) { simSleep(w.scaled(20*time.Second), done) }

// removeCutOff removes a member that cannot hear of it: only time ends its lease.
// The leader that knows its lease may be lost meanwhile.
func (w *simWorld) removeCutOff() {
	if !w.enough() {
		return
	}
	l, m := w.leader(), w.some()
	if l == nil || m == nil || l == m {
		return
	}
	mend := w.net.cut(w.ways(m.node.n, true, true)...)
	defer mend()
	done := w.remove(m.node)
	if w.rnd.IntN(3) > 0 {
		w.until(time.Second, func() bool {
			e, ok := l.c.machine.View().Member(string(m.c.id))
			return !ok || e.GetRemoved()
		})
		time.Sleep(w.between(0, 300))
		voters, _ := w.sides(l)
		for _, to := range voters {
			if to != m {
				w.transfer(l, to)
				break
			}
		}
		if w.rnd.IntN(2) == 0 {
			w.crash(l, time.Millisecond)
		}
	}
	w.await(done)
	time.Sleep(w.between(0, 2000))
	mend()
	w.linger(m.node)
}

// removeLagging removes a member whose state does not get that far.
func (w *simWorld) removeLagging() {
	if !w.enough() {
		return
	}
	m := w.some()
	if m == nil {
		return
	}
	m.upTo.Store(0)
	catchUp := m.lag.close()
	defer catchUp()
	w.await(w.remove(m.node))
	time.Sleep(w.between(0, 1000))
	catchUp()
	w.linger(m.node)
}

// joinAnew has the machine of a removed member join as another one, while the
// process of the removed one may still run somewhere; and the removed one itself,
// which must not be let in.
func (w *simWorld) joinAnew() {
	if !w.enough() {
		return
	}
	m := w.some()
	if m == nil {
		return
	}
	w.await(w.remove(m.node))
	if !m.node.gone.Load() {
		return
	}
	if l, secret := w.leader(), w.token("again-"+string(m.c.id[:8]), true); l != nil && secret != nil {
		ctx, cancel := context.WithTimeout(w.ctx, 2*time.Second)
		if index, err := l.c.admit(ctx, l.asking(m.node.applicant(), secret), ""); err == nil {
			w.violation("node %d, which was removed, is a member again from entry %d on", m.node.n, index)
		}
		cancel()
	}
	w.joinOn(m.node, w.rnd.IntN(2) == 0)
	w.linger(m.node)
}
