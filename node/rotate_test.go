package node_test

import (
	"sync"
	"testing"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
	"github.com/openkcm/krypton-cluster/node"
)

// A crash between the two entries of a rotation: the retry finishes it, also on
// another node, and meanwhile nothing blocks.
func TestARotationThatWasInterruptedIsFinishedByItsRetry(t *testing.T) {
	for _, o := range []node.Object{object("acme", "pay"), object("acme", "")} {
		w, a := cluster1(t)
		b := w.add(t, options{})
		w.join(b)
		check(t, b.AskKeystores(t.Context()))
		versions := func() ([]*fsmpb.Version, uint32) {
			v := a.machine.View()
			tn, _ := v.Tenant("acme")
			if o.Service == "" {
				return tn.GetVersions(), tn.GetPrimary()
			}
			s, _ := v.ServiceOf(tn, string(o.Service))
			return s.GetVersions(), s.GetPrimary()
		}
		crash := errs.New(errs.Indeterminate, "the process ended here")
		r := w.request()
		r.ETag = etagOf(a, o)
		a.hooks(nil, func(c *fsmpb.Command) error {
			if c.GetAddVersion() != nil {
				return crash
			}
			return nil
		})
		wants(t, a.rotate(r, o), errs.Indeterminate)
		a.hooks(nil, nil)
		if vs, primary := versions(); len(vs) != 2 || primary != 1 || vs[1].GetState() != fsmpb.VersionState_VERSION_STATE_PRE_ACTIVE {
			t.Fatalf("%d versions, primary %d", len(vs), primary)
		}
		// Data goes on under the old one.
		_, used, err := a.encrypt(target("acme", "pay"), nil)
		if err != nil || used.Name != object("acme", "pay").VersionName(1) {
			t.Errorf("%+v, %v", used, err)
		}
		// Somebody else rotates meanwhile: the staged version does not block.
		check(t, b.rotate(w.request(), o))
		if vs, primary := versions(); len(vs) != 3 || primary != 3 {
			t.Fatalf("%d versions, primary %d", len(vs), primary)
		}
		// The retry, on another node; its etag is long stale.
		check(t, b.rotate(r, o))
		if vs, primary := versions(); len(vs) != 3 || primary != 2 {
			t.Errorf("%d versions, primary %d", len(vs), primary)
		}
		check(t, a.rotate(r, o))
		if vs, primary := versions(); len(vs) != 3 || primary != 2 {
			t.Errorf("%d versions, primary %d after one more retry", len(vs), primary)
		}
		check(t, a.rotate(w.request(), o))
		r = w.request()
		r.ETag = 1
		wants(t, a.rotate(r, o), errs.StaleEtag)
	}
}

func etagOf(m *member, o node.Object) uint64 {
	tn, _ := m.machine.View().Tenant(string(o.Tenant))
	if o.Service == "" {
		return tn.GetModIndex()
	}
	s, _ := m.machine.View().ServiceOf(tn, string(o.Service))
	return s.GetModIndex()
}

// The object is destroyed and made anew between the two entries: the new one is
// not touched.
func TestARotationDoesNotReachANewObjectOfTheSameName(t *testing.T) {
	w, m := cluster1(t)
	o := object("acme", "pay")
	m.hooks(nil, func(c *fsmpb.Command) error {
		if c.GetAddVersion() == nil {
			return nil
		}
		m.hooks(nil, nil)
		check(t, m.changeObject(w.request(), o, destroyO, node.WithoutWait))
		must[*fsmpb.Service](t)(m.createService(w.request(), "acme", "pay"))
		// The new one has a staged version of the same number.
		m.hooks(nil, func(*fsmpb.Command) error { return errs.New(errs.Indeterminate, "the process ended here") })
		wants(t, m.rotate(w.request(), o), errs.Indeterminate)
		m.hooks(nil, nil)
		return nil
	})
	situationtest.Error(t, "cluster/parent-moved", m.rotate(w.request(), o))
	s, _ := m.machine.View().Service("acme", "pay")
	if s.GetPrimary() != 1 || len(s.GetVersions()) != 2 {
		t.Errorf("the new service was rotated: %v", s)
	}
}

// A node that has the first entry of a rotation opens what one that has both
// wraps: the rotation shows nowhere.
func TestANodeThatIsOneEntryBehindInARotationOpensWhatTheOthersWrap(t *testing.T) {
	for _, o := range []node.Object{object("acme", "pay"), object("acme", "")} {
		w, a := cluster1(t)
		b := w.add(t, options{})
		w.join(b)
		check(t, b.AskKeystores(t.Context()))
		a.hooks(func(c *fsmpb.Command) error {
			b.behind.Store(c.GetSetPrimary() != nil)
			return nil
		}, nil)
		check(t, a.rotate(w.request(), o))
		a.hooks(nil, nil)
		if v := b.machine.View(); v.Index() >= a.machine.View().Index() {
			t.Fatalf("the node is at %d, so nothing is shown", v.Index())
		}
		ct, _, err := a.encrypt(target("acme", "pay"), []byte("x"))
		check(t, err)
		got, used, err := b.decrypt(target("acme", "pay"), ct)
		check(t, err)
		if string(got) != "x" || o.Service != "" && used.Name != o.VersionName(2) {
			t.Errorf("%q by %+v", got, used)
		}
		if _, used, err := b.encrypt(target("acme", "pay"), nil); err != nil || used.Name != object("acme", "pay").VersionName(1) {
			t.Errorf("the node wraps under %+v, %v", used, err)
		}
	}
}

func TestConcurrentRotationsAllHappen(t *testing.T) {
	w, a := cluster1(t)
	b := w.add(t, options{})
	w.join(b)
	check(t, b.AskKeystores(t.Context()))
	const each = 4
	var wg sync.WaitGroup
	var mu sync.Mutex
	done := 0
	for i := range 2 * each {
		r, m := w.request(), []*member{a, b}[i%2]
		wg.Go(func() {
			for {
				err := m.rotate(r, object("acme", "pay"))
				if errs.Is(err, errs.Aborted) {
					continue // the caller's retry
				}
				if err != nil {
					t.Errorf("%v (%v)", err, errs.Of(err))
					return
				}
				mu.Lock()
				done++
				mu.Unlock()
				return
			}
		})
	}
	wg.Wait()
	s, _ := a.machine.View().Service("acme", "pay")
	if done != 2*each || len(s.GetVersions()) != 1+2*each {
		t.Errorf("%d rotations, %d versions", done, len(s.GetVersions()))
	}
	for _, v := range s.GetVersions() {
		if v.GetState() == fsmpb.VersionState_VERSION_STATE_PRE_ACTIVE {
			t.Errorf("version %d dangles", v.GetNumber())
		}
	}
}

// A parent that moves while a key is being made: it is made again, and only so
// often.
func TestMaterialWhoseParentMovedIsMadeAgain(t *testing.T) {
	w, m := cluster1(t)
	o := object("acme", "pay")
	moves, attempts := 0, 0
	m.hooks(func(c *fsmpb.Command) error {
		if c.GetAddVersion() == nil || c.GetAddVersion().GetObject().GetService() == "" {
			return nil
		}
		attempts++
		if moves > 0 {
			moves--
			return m.rotate(w.request(), object("acme", ""))
		}
		return nil
	}, nil)
	moves = 3
	check(t, m.rotate(w.request(), o))
	if attempts != 4 {
		t.Errorf("%d attempts", attempts)
	}
	moves, attempts = 1<<30, 0
	wants(t, m.rotate(w.request(), o), errs.Aborted)
	if attempts != 4 {
		t.Errorf("%d attempts", attempts)
	}
	moves = 0
	check(t, m.rotate(w.request(), o))
}
