package node_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/invariants"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal"
)

// walk is a cluster of three members that run, and in which anything happens at any
// time: rekeys are begun, consented to, proved and given up, members lead, lag, die and start.
// Who leads vouches for each command by the MasterKey in force, and everybody judges that.
type walk struct {
	*held

	t    *testing.T
	rnd  *rand.Rand
	ends map[*member]func()

	texts []walkText // that callers were told were encrypted

	mu      sync.Mutex
	base    int
	proofs  map[int]walkProof
	waiting map[*member][]walkProof
	deaths  map[*member]bool // it dies at its next proposal; true: once that is committed
	dead    map[*member]bool // it did
}

type walkText struct{ plain, sealed []byte }

type walkProof struct {
	generation hierarchy.Generation
	at         int
	raw        []byte
	tag        [32]byte
}

func (p walkProof) by(m *member) ([32]byte, bool) {
	return m.MAC(p.generation, []byte("entry"), binary.BigEndian.AppendUint64(nil, uint64(p.at)), p.raw)
}

var errWalkDeath = errors.New("the process died")

func newWalk(t *testing.T, seed uint64) *walk {
	t.Helper()
	k := &walk{
		held: ceremonyWorld(t, 3, autoPlan(t), withClock(clock.System{})), t: t, rnd: rand.New(rand.NewPCG(seed, 1)), ends: map[*member]func(){},
		proofs: map[int]walkProof{}, waiting: map[*member][]walkProof{}, deaths: map[*member]bool{}, dead: map[*member]bool{},
	}
	for _, name := range []string{"anna", "ben"} {
		k.person(t, name)
	}
	k.base = len(k.commands)
	k.vouch = k.vouched
	k.judge = k.judged
	for _, m := range k.members {
		m.proved = func() error { return k.provedOf(m) }
		m.hooks(func(*fsmpb.Command) error { return k.before(m) }, func(*fsmpb.Command) error { return k.died(m, true) })
		k.start(m)
	}
	k.rest(time.Second)
	return k
}

// vouched gives a command the proof of who leads; world.mu is held.
func (k *walk) vouched(at int, raw []byte) {
	lead := k.members[k.leads.Load()]
	p := walkProof{generation: lead.machine.View().Generation(), at: at, raw: raw}
	tag, ok := p.by(lead)
	if !ok {
		return
	}
	p.tag = tag
	k.mu.Lock()
	defer k.mu.Unlock()
	k.proofs[at] = p
}

// judged is what package cluster does with the proof of an entry; world.mu is held.
func (k *walk) judged(m *member, at int, _ []byte) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	p, ok := k.proofs[at]
	if !ok || p.generation != m.machine.View().Generation() {
		return at < k.base
	}
	if tag, known := p.by(m); !known {
		k.waiting[m] = append(k.waiting[m], p)
	} else if tag != p.tag {
		k.t.Errorf("node %d takes entry %d of its log for forged", m.number, at)
	}
	return true
}

func (k *walk) provedOf(m *member) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(k.waiting[m]) > 0 {
		p := k.waiting[m][0]
		tag, known := p.by(m)
		if !known {
			return errs.New(errs.Sealed, "an entry cannot be verified yet")
		}
		if tag != p.tag {
			k.t.Errorf("node %d takes entry %d of its log for forged", m.number, p.at)
		}
		k.waiting[m] = k.waiting[m][1:]
	}
	return nil
}

// before is asked before each proposal of a member.
func (k *walk) before(m *member) error {
	if err := k.died(m, false); err != nil {
		return err
	}
	k.world.mu.Lock()
	lead := k.members[k.leads.Load()].Node
	k.world.mu.Unlock()
	if lead.Believed() != nil {
		return errs.New(errs.NoLeader, "who leads can vouch for nothing")
	}
	return nil
}

func (k *walk) died(m *member, committed bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if at, dies := k.deaths[m]; dies && (at == committed || k.dead[m]) {
		k.dead[m] = true
		return errWalkDeath
	}
	return nil
}

func (k *walk) start(m *member) {
	ctx, cancel := context.WithCancel(k.t.Context())
	done := make(chan error, 1)
	nd := m.Node
	go func() { done <- nd.Run(ctx) }()
	k.ends[m] = func() {
		cancel()
		check(k.t, <-done)
	}
}

// restart ends the process of a member and starts it again, with the log that it had.
func (k *walk) restart(m *member) {
	k.ends[m]()
	synctest.Wait()
	k.world.mu.Lock()
	had := m.applied
	k.mu.Lock()
	delete(k.deaths, m)
	delete(k.dead, m)
	k.waiting[m] = nil
	k.mu.Unlock()
	m.boot(k.t)
	m.catchUpTo(had)
	m.catchUp()
	k.world.mu.Unlock()
	k.start(m)
}

// lag has a member hear of nothing, and have no lease, or hear again.
func (k *walk) lag(m *member, lags bool) {
	if lags {
		m.behind.Store(true)
		m.contact.Store(1 << 62)
		return
	}
	m.follow()
	m.contact.Store(0)
}

func (k *walk) rest(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (k *walk) lead() *member { return k.members[k.leads.Load()] }

func (k *walk) present() seal.Record {
	return must[seal.Record](k.t)(seal.ParseRecord(k.lead().machine.View().Cluster().GetSealRecord()))
}

func has(r seal.Record, name string) bool {
	return slices.ContainsFunc(r.Plan().Holders(), func(h seal.Holder) bool { return h.Name == name })
}

// contributes has a person give what the open ceremony waits for to a member.
func (k *walk) contributes(m *member, name string) {
	c, ok := k.lead().machine.View().OpenCeremony()
	if !ok {
		return
	}
	r := k.present()
	if c.GetState() == ceremonyStaged {
		r = must[seal.Record](k.t)(seal.ParseRecord(c.GetStagedRecord()))
	}
	if has(r, name) {
		share := k.opens(k.t, r, name)
		_, _ = k.give(k.t, m, c.GetId(), share) // it may be dying, or behind
		share.Destroy()
	}
}

// unlocks has the people give their shares to a member that is sealed.
func (k *walk) unlocks(m *member) {
	r, err := seal.ReadFile(m.dir+"/record.pb", hierarchy.KeyspaceID{})
	check(k.t, err)
	for _, name := range []string{"anna", "ben"} {
		if m.Unsealed() || !has(r, name) {
			return
		}
		share := k.opens(k.t, r, name)
		st := must[node.SealStatus](k.t)(m.GetSeal())
		_ = m.contributeRaw(must[[]byte](k.t)(seal.SealShare(st.Offer, m.key.Public(), share))) // a keystore may have been faster
		share.Destroy()
	}
}

func (k *walk) plan() *fsmpb.SealPlan {
	if k.rnd.IntN(2) == 0 {
		return &fsmpb.SealPlan{ProviderKeys: []*fsmpb.SealKey{{Provider: "sealing", Key: sealKey}}}
	}
	return group(2, k.person(k.t, "anna"), k.person(k.t, "ben"), storeHolder("hsm"))
}

// step does one thing.
func (k *walk) step() string {
	for _, m := range k.members {
		k.mu.Lock()
		dead := k.dead[m]
		k.mu.Unlock()
		if dead {
			k.restart(m)
			return fmt.Sprintf("node %d died and is started again", m.number)
		}
	}
	m := k.members[k.rnd.IntN(len(k.members))]
	lagging := slices.IndexFunc(k.members, func(m *member) bool { return m.behind.Load() })
	if c, ok := k.lead().machine.View().OpenCeremony(); ok && c.GetState() == ceremonyStaged && lagging < 0 && m != k.lead() && k.rnd.IntN(2) == 0 {
		k.lag(m, true) // it has the next MasterKey, and does not hear what becomes of it
		if k.rnd.IntN(2) == 0 {
			return fmt.Sprintf("node %d lags behind what is staged", m.number)
		}
		err := k.cancel(k.lead(), c.GetId())
		_, again := k.tryBegin(k.t, k.lead(), rekey, k.plan())
		return fmt.Sprintf("node %d lags behind what is staged, which is cancelled: %v, and begun anew: %v", m.number, err, again)
	}
	switch op := k.rnd.IntN(16); op {
	case 0, 1, 2:
		_, err := k.tryBegin(k.t, m, rekey, k.plan())
		return fmt.Sprintf("a rekey on node %d: %v", m.number, err)
	case 3, 4:
		name := []string{"anna", "ben"}[k.rnd.IntN(2)]
		k.contributes(m, name)
		return fmt.Sprintf("%s contributes on node %d", name, m.number)
	case 5, 6:
		if c, ok := k.lead().machine.View().OpenCeremony(); ok {
			err := k.cancel(m, c.GetId())
			_, again := k.tryBegin(k.t, k.lead(), rekey, k.plan())
			return fmt.Sprintf("cancelled on node %d: %v, and begun anew: %v", m.number, err, again)
		}
	case 7, 8, 9:
		if lagging >= 0 {
			m = k.members[lagging] // one at a time, and long enough for several rekeys
		}
		missed := k.lead().machine.View().Generation() > m.machine.View().Generation()
		if lags := lagging < 0; m != k.lead() && (lags || missed && k.rnd.IntN(3) == 0 || k.rnd.IntN(10) == 0) {
			k.lag(m, lags)
			return fmt.Sprintf("node %d lags: %v", m.number, lags)
		}
	case 10:
		if !m.behind.Load() {
			k.leads.Store(int64(m.number - 1))
			return fmt.Sprintf("node %d leads", m.number)
		}
	case 11:
		if !m.behind.Load() || k.rnd.IntN(4) == 0 { // what it has in memory is what is interesting
			k.restart(m)
			return fmt.Sprintf("node %d is started again", m.number)
		}
	case 12:
		if m.behind.Load() {
			break
		}
		k.mu.Lock()
		k.deaths[m] = k.rnd.IntN(2) == 0
		k.mu.Unlock()
		return fmt.Sprintf("node %d dies at its next proposal", m.number)
	case 13:
		k.unlocks(m)
		return fmt.Sprintf("people come to node %d", m.number)
	default:
		plain := fmt.Appendf(nil, "text %d", len(k.texts))
		if sealed, _, err := m.encrypt(target("acme", "pay"), plain); err == nil {
			k.texts = append(k.texts, walkText{plain, sealed})
		}
		return fmt.Sprintf("a caller of node %d", m.number)
	}
	return "nothing"
}

// holds checks what has to hold at all times. tags are what each MasterKey makes of one
// message, by generation.
func (k *walk) holds(tags map[hierarchy.Generation][32]byte) {
	for _, m := range k.members {
		if err := m.Believed(); errs.Is(err, errs.StateCorrupt) {
			k.t.Errorf("node %d: %v", m.number, err)
		}
		if m.ServingErr() != nil {
			continue
		}
		g := m.machine.View().Generation()
		tag, ok := m.MAC(g, []byte("who are you"))
		if want, known := tags[g]; !ok || known && want != tag {
			k.t.Errorf("node %d serves with another MasterKey %d than the one in force", m.number, g)
		}
		tags[g] = tag
		if n := len(k.texts); n > 0 {
			x := k.texts[k.rnd.IntN(n)]
			if got, _, err := m.decrypt(target("acme", "pay"), x.sealed); err != nil && !errs.Is(err, errs.NotServing) && !errs.Is(err, errs.Sealed) || err == nil && !bytes.Equal(got, x.plain) {
				k.t.Errorf("node %d serves, and does not open %q: %q, %v", m.number, x.plain, got, err)
			}
		}
	}
}

// heal lets everybody come back, and returns the generation at the end.
func (k *walk) heal(tags map[hierarchy.Generation][32]byte) hierarchy.Generation {
	for _, m := range k.members {
		k.mu.Lock()
		dying := k.dead[m]
		delete(k.deaths, m)
		k.mu.Unlock()
		if dying {
			k.restart(m)
		}
		k.lag(m, false)
	}
	all := func() bool {
		return !slices.ContainsFunc(k.members, func(m *member) bool { return m.ServingErr() != nil })
	}
	for range 10 {
		k.rest(40 * time.Second) // the longest pause between two questions to keystores
		for _, m := range k.members {
			k.unlocks(m)
		}
		if all() {
			break
		}
		k.leads.Store(int64(k.rnd.IntN(len(k.members))))
	}
	if c, ok := k.lead().machine.View().OpenCeremony(); ok {
		_ = k.cancel(k.lead(), c.GetId())
	}
	// And one more rekey: nothing is stuck.
	before := k.lead().machine.View().Generation()
	if _, err := k.tryBegin(k.t, k.lead(), rekey, &fsmpb.SealPlan{ProviderKeys: []*fsmpb.SealKey{{Provider: "sealing", Key: sealKey}}}); err != nil {
		k.t.Errorf("after all: no rekey: %v", err)
	}
	k.contributes(k.lead(), "anna")
	k.rest(2 * time.Minute)
	k.holds(tags)
	for _, m := range k.members {
		v := m.machine.View()
		if err := m.ServingErr(); err != nil || v.Generation() != before+1 || v.Digest() != k.lead().machine.View().Digest() {
			k.t.Errorf("node %d at the end: MasterKey %d, want %d: %v", m.number, v.Generation(), before+1, err)
			continue
		}
		if got := m.Parents(); !slices.Equal(got, []hierarchy.Generation{before + 1}) {
			k.t.Errorf("node %d keeps what the MasterKeys %v wrapped", m.number, got)
		}
		for g, want := range tags {
			if tag, ok := m.MAC(g, []byte("who are you")); !ok || tag != want {
				k.t.Errorf("node %d cannot verify what MasterKey %d proved", m.number, g)
			}
		}
		for _, x := range k.texts {
			if got, _, err := m.decrypt(target("acme", "pay"), x.sealed); err != nil || !bytes.Equal(got, x.plain) {
				k.t.Errorf("node %d lost %q: %q, %v", m.number, x.plain, got, err)
			}
		}
	}
	return before + 1
}

// TestI14_AnyCourseOfRekeysLosesNothing: whatever happens to members in the middle of
// rekeys, nobody takes an honest log for forged, nobody serves with a MasterKey that is not
// in force, and when all are back they have one MasterKey and everything that was acknowledged.
func TestI14_AnyCourseOfRekeysLosesNothing(t *testing.T) {
	walks, rekeys := 8, 0
	if invariants.Race || testing.Short() {
		walks = 3
	}
	for seed := range walks {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newWalk(t, uint64(seed))
				tags := map[hierarchy.Generation][32]byte{}
				var course []string
				for range 90 {
					course = append(course, fmt.Sprintf("%d: %s", k.lead().machine.View().Index(), k.step()))
					k.rest(time.Duration(k.rnd.IntN(4000)) * time.Millisecond)
					if k.holds(tags); t.Failed() {
						break
					}
				}
				if !t.Failed() {
					rekeys += int(k.heal(tags)) - 1
				}
				if t.Failed() {
					for _, s := range course {
						t.Log(s)
					}
				}
				for _, m := range k.members {
					k.ends[m]()
				}
			})
		})
	}
	if rekeys < 2*walks {
		t.Errorf("only %d rekeys in %d walks: it looks at nothing", rekeys, walks)
	}
	t.Logf("%d rekeys in %d walks", rekeys, walks)
}
