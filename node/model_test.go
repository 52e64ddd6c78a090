package node_test

import (
	"bytes"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/invariants"
	"github.com/openkcm/krypton-cluster/node"
)

// dumb is what a caller may expect, without keys, sessions, caches or views: a
// table of versions with three states, and of what was encrypted under which.
type dumb struct {
	services map[hierarchy.Name]*dumbService
	tenant   bool // suspended
	sealed   bool
	blobs    []dumbBlob
}

type dumbService struct {
	primary   uint32
	versions  []fsmpb.VersionState
	tainted   map[uint32]bool // compromised once: enable does not make it active again
	pins      map[hierarchy.ResourceID]uint32
	suspended bool
	gen       int // how often it was made anew
}

type dumbBlob struct {
	service  hierarchy.Name
	gen      int
	version  uint32
	resource hierarchy.ResourceID
	plain    []byte
	cipher   []byte
	dataKey  bool
}

const (
	vActive   = fsmpb.VersionState_VERSION_STATE_ACTIVE
	vDisabled = fsmpb.VersionState_VERSION_STATE_DISABLED
	vComp     = fsmpb.VersionState_VERSION_STATE_COMPROMISED
)

func newDumbService(gen int) *dumbService {
	return &dumbService{primary: 1, versions: []fsmpb.VersionState{vActive}, tainted: map[uint32]bool{}, pins: map[hierarchy.ResourceID]uint32{}, gen: gen}
}

// wraps says under which version an operation wraps, or why it does not.
func (d *dumb) wraps(s hierarchy.Name, r hierarchy.ResourceID) (uint32, errs.Code) {
	svc := d.services[s]
	switch {
	case d.sealed:
		return 0, errs.Sealed
	case svc == nil:
		return 0, errs.NotFound
	}
	n := svc.primary
	if p := svc.pins[r]; r != "" && p != 0 {
		n = p
	}
	if d.tenant || svc.suspended || svc.versions[n-1] != vActive {
		return 0, errs.FailedState
	}
	return n, errs.Unspecified
}

func (d *dumb) opens(b dumbBlob, s hierarchy.Name, r hierarchy.ResourceID) errs.Code {
	svc := d.services[s]
	switch {
	case d.sealed:
		return errs.Sealed
	case svc == nil:
		return errs.NotFound
	case b.service != s || b.gen != svc.gen:
		return errs.Integrity
	case d.tenant || svc.suspended || svc.versions[b.version-1] != vActive:
		return errs.FailedState
	case b.resource != r:
		return errs.Integrity
	}
	return errs.Unspecified
}

func TestRandomHistoriesAgreeWithADumbModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		if invariants.Race && (rapid.Bool().Draw(rt, "leave out") || rapid.Bool().Draw(rt, "too")) {
			return // one call at a time: scripts/ci has them all without the detector
		}
		hold := rapid.SampledFrom([]option{withHold(0), withHold(1 << 40)}).Draw(rt, "hold")
		w, a := cluster1(t, hold)
		b := w.add(t, options{l2Hold: 1 << 40})
		w.join(b)
		check(rt, b.AskKeystores(t.Context()))
		d := &dumb{services: map[hierarchy.Name]*dumbService{"pay": newDumbService(0), "log": newDumbService(0)}}
		names := rapid.SampledFrom([]hierarchy.Name{"pay", "log"})
		resources := rapid.SampledFrom([]hierarchy.ResourceID{"", "r1", "r2"})
		members := []*member{a, b}
		defer func() {
			stop(a.Node)
			stop(b.Node)
		}()
		expect := func(what string, err error, want errs.Code) {
			if errs.Of(err) != want {
				rt.Fatalf("%s: %v (%v), the model says %v", what, err, errs.Of(err), want)
			}
		}
		version := func(s *dumbService) uint32 { return rapid.Uint32Range(1, uint32(len(s.versions))).Draw(rt, "version") }
		obj := func(s hierarchy.Name) node.Object { return object("acme", s) }
		for range rapid.IntRange(1, 40).Draw(rt, "length") {
			s, r, m := names.Draw(rt, "service"), resources.Draw(rt, "resource"), members[rapid.IntRange(0, 1).Draw(rt, "node")]
			svc := d.services[s]
			tg := node.Target{Tenant: "acme", Service: s, Resource: r}
			switch op := rapid.SampledFrom([]string{
				"encrypt", "encrypt", "generate", "open", "open", "open", "rewrap", "rotate", "disable", "enable", "compromise",
				"suspend", "resume", "suspend tenant", "resume tenant", "recreate", "pin", "unpin", "seal", "sweep", "rotate tenant", "expire",
			}).Draw(rt, "op"); op {
			case "encrypt", "generate":
				n, want := d.wraps(s, r)
				blob := dumbBlob{service: s, gen: svc.gen, version: n, resource: r, dataKey: op == "generate"}
				var used node.Used
				var err error
				if blob.dataKey {
					blob.plain, blob.cipher, used, err = m.generate(tg, 0)
				} else {
					blob.plain = rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(rt, "plain")
					blob.cipher, used, err = m.encrypt(tg, blob.plain)
				}
				expect(op, err, want)
				if err == nil {
					if used.Name != obj(s).VersionName(n) {
						rt.Fatalf("%s under %s, the model says %d", op, used.Name, n)
					}
					d.blobs = append(d.blobs, blob)
				}
			case "open":
				if len(d.blobs) == 0 {
					continue
				}
				blob := rapid.SampledFrom(d.blobs).Draw(rt, "blob")
				if rapid.IntRange(0, 3).Draw(rt, "own") != 0 {
					s, r = blob.service, blob.resource
				}
				tg = node.Target{Tenant: "acme", Service: s, Resource: r}
				var plain []byte
				var err error
				if blob.dataKey {
					plain, _, err = m.unwrap(tg, blob.cipher)
				} else {
					plain, _, err = m.decrypt(tg, blob.cipher)
				}
				expect(op, err, d.opens(blob, s, r))
				if err == nil && !bytes.Equal(plain, blob.plain) {
					rt.Fatal("opened to something else")
				}
			case "rewrap":
				if len(d.blobs) == 0 {
					continue
				}
				blob := rapid.SampledFrom(d.blobs).Draw(rt, "blob")
				if !blob.dataKey {
					continue
				}
				tg = node.Target{Tenant: "acme", Service: blob.service, Resource: blob.resource}
				want := d.opens(blob, blob.service, blob.resource)
				n, wrapping := d.wraps(blob.service, blob.resource)
				if want == errs.Unspecified {
					want = wrapping
				}
				out, _, _, err := m.rewrap(tg, blob.cipher)
				expect(op, err, want)
				if err == nil {
					blob.cipher, blob.version = out, n
					d.blobs = append(d.blobs, blob)
				}
			case "rotate":
				want := errs.Unspecified
				switch {
				case d.sealed:
					want = errs.Sealed
				case d.tenant || svc.suspended:
					want = errs.FailedState
				}
				expect(op, m.rotate(w.request(), obj(s)), want)
				if want == errs.Unspecified {
					svc.versions = append(svc.versions, vActive)
					svc.primary = uint32(len(svc.versions))
				}
			case "rotate tenant":
				want := errs.Unspecified
				switch {
				case d.sealed:
					want = errs.Sealed
				case d.tenant:
					want = errs.FailedState
				}
				expect(op, m.rotate(w.request(), obj("")), want)
			case "disable", "enable", "compromise":
				n := version(svc)
				was, want, next := svc.versions[n-1], errs.FailedState, vActive
				e := map[string]fsmpb.VersionEvent{"disable": disable, "enable": enable, "compromise": compromise}[op]
				switch {
				case op == "disable" && was != vDisabled:
					want, next = errs.Unspecified, vDisabled
				case op == "enable" && was == vDisabled:
					want = errs.Unspecified
					if svc.tainted[n] {
						next = vComp
					}
				case op == "compromise" && was != vComp:
					want, next = errs.Unspecified, vComp
					svc.tainted[n] = true
				}
				expect(fmt.Sprintf("%s version %d in %v", op, n, was), m.changeVersion(w.request(), obj(s), n, e, 0), want)
				if want == errs.Unspecified {
					svc.versions[n-1] = next
				}
			case "suspend", "resume", "suspend tenant", "resume tenant":
				e, to, o, was := suspend, true, obj(s), &svc.suspended
				if op == "resume" || op == "resume tenant" {
					e, to = resume, false
				}
				if op == "suspend tenant" || op == "resume tenant" {
					o, was = obj(""), &d.tenant
				}
				want := errs.Unspecified
				if *was == to {
					want = errs.FailedState
				}
				expect(op, m.changeObject(w.request(), o, e, 0), want)
				*was = to
			case "recreate":
				if d.sealed || d.tenant {
					continue
				}
				check(rt, m.changeObject(w.request(), obj(s), destroyO, node.WithoutWait))
				must[*fsmpb.Service](rt)(m.createService(w.request(), "acme", s))
				d.services[s] = newDumbService(svc.gen + 1)
			case "pin":
				n := version(svc)
				if r == "" {
					continue
				}
				want := errs.Unspecified
				if svc.versions[n-1] != vActive || svc.pins[r] == n {
					want = errs.FailedState
				}
				expect(op, m.pinResource(w.request(), obj(s), r, n), want)
				if want == errs.Unspecified {
					svc.pins[r] = n
				}
			case "unpin":
				if r == "" {
					continue
				}
				want := errs.Unspecified
				if svc.pins[r] == 0 {
					want = errs.FailedState
				}
				expect(op, m.unpinResource(w.request(), obj(s), r), want)
				delete(svc.pins, r)
			case "seal": // both, and back the next time
				if d.sealed {
					check(rt, a.setHold(w.request(), node.Released))
					check(rt, a.AskKeystores(t.Context()))
					check(rt, b.AskKeystores(t.Context()))
				} else {
					check(rt, a.setHold(w.request(), node.Held))
					b.Observe(t.Context())
					check(rt, a.setHold(w.request(), node.Released))
					b.Observe(t.Context())
				}
				d.sealed = !d.sealed
			case "sweep":
				a.Sweep()
				b.Sweep()
			case "expire":
				w.advance(61e9) // sessions, and tenant keys
				a.Sweep()
			}
		}
	})
}
