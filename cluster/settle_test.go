package cluster_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/fsm"
)

func TestAnAnsweredWriteIsVisibleOnEveryMemberThatIsNotSlow(t *testing.T) {
	t.Parallel()
	all := three(t)
	for _, m := range all {
		m.c.SetSettleTime(time.Minute) // no machine is so slow that it would not be waited for
	}
	for i := range 20 {
		res := all[i%len(all)].write("settle", i)
		for _, m := range all {
			if got := m.machine.View().Index(); got < res.GetIndex() {
				t.Fatalf("write %d was answered at index %d while a member stood at %d", i, res.GetIndex(), got)
			}
		}
	}
}

func TestASlowMemberDelaysAWriteByTheSettleTimeAndNoMore(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	a.c.SetSettleTime(20 * time.Millisecond)
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	defer release()
	var held atomic.Bool
	b := newMember(t, "b", func(c *cluster.Config) {
		c.Machine = fsm.New(fsm.Options{Publish: func(_ fsm.Published, swap func()) {
			if held.Load() {
				<-hold
			}
			swap()
		}})
	})
	b.join(a.invite(wanted{}))
	b.applied(a.write("x", 0).GetIndex())
	held.Store(true)
	res := a.write("slow", 1) // a wait without end would run into the test's deadline
	if b.machine.View().Index() >= res.GetIndex() {
		t.Fatal("the member was not slow, so the test shows nothing")
	}
	release()
	b.applied(res.GetIndex())
}
