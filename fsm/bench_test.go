package fsm_test

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
)

// big is a world of so many tenants with a service each.
func big(t tb, tenants int) *world {
	t.Helper()
	w := newWorld(t)
	for i := range tenants {
		name := fmt.Sprintf("t%05d", i)
		w.ok(w.createTenant(name))
		w.ok(w.createService(name, "payments"))
	}
	w.log = nil
	return w
}

func BenchmarkApply(b *testing.B) {
	w := big(b, 5000)
	ten := w.tenantOf("t00007").GetName()
	for range 9 {
		w.rotate(ten, "payments")
	}
	bench := func(name string, cmd func(i int) *fsmpb.Command) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				c := cmd(i)
				c.Format, c.TimeUnixMs = 1, w.now
				raw, err := fsm.EncodeCommand(c)
				if err != nil {
					b.Fatal(err)
				}
				w.index++
				b.StartTimer()
				if _, err := w.m.Apply(w.index, 1, raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	n := 0
	bench("CreateTenant", func(int) *fsmpb.Command { n++; return w.createTenant(fmt.Sprintf("n%d", n)) })
	bench("CreateServiceAsked", func(int) *fsmpb.Command {
		n++
		c := asked(fmt.Sprintf("r%d", n), w.createService(ten, fmt.Sprintf("n%d", n)))
		c.Principal.Name = fmt.Sprintf("p%d", n%100)
		return c
	})
	bench("SuspendResume10Versions", func(i int) *fsmpb.Command {
		return changeObject(ten, "payments", []fsmpb.ObjectEvent{suspend, resume}[i%2], "")
	})
	bench("DisableEnable10Versions", func(i int) *fsmpb.Command {
		return changeVersion(ten, "payments", 3, []fsmpb.VersionEvent{fsmpb.VersionEvent_VERSION_EVENT_DISABLE, fsmpb.VersionEvent_VERSION_EVENT_ENABLE}[i%2])
	})
	bench("Pin", func(i int) *fsmpb.Command { return pin(ten, "payments", fmt.Sprintf("r%d", i/2), uint32(9+i%2)) })
	bench("Rewrap", func(int) *fsmpb.Command { return w.rewrap(ten) })
	bench("IdleTick", func(int) *fsmpb.Command { return tick() })
}

// BenchmarkFullTick is the dearest entry there is: a full tick of services is destroyed.
func BenchmarkFullTick(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		w := newWorld(b)
		w.ok(w.createTenant("acme"))
		for i := range fsm.MaxTickObjects {
			w.ok(w.createService("acme", fmt.Sprintf("s%d", i)))
		}
		w.ok(destroyNow("acme", ""))
		b.StartTimer()
		w.ok(tick())
	}
}

func BenchmarkSnapshot(b *testing.B) {
	w := big(b, 5000) // 10,000 objects
	raw := snapshot(b, w.m, testMAC)
	b.Run("Take", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w.m.Snapshot()
		}
	})
	b.Run("Write10kObjects", func(b *testing.B) {
		b.SetBytes(int64(len(raw)))
		for b.Loop() {
			if _, err := w.m.Snapshot().WriteTo(io.Discard, testMAC); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Restore10kObjects", func(b *testing.B) {
		b.SetBytes(int64(len(raw)))
		for b.Loop() {
			if err := w.m.Restore(bytes.NewReader(raw)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Digest10kObjects", func(b *testing.B) {
		for b.Loop() {
			w.view().Digest()
		}
	})
}

func BenchmarkView(b *testing.B) {
	w := big(b, 5000)
	uid := w.serviceOf("t01234", "payments").GetVersions()[0].GetUid()
	b.Run("TenantServiceVersion", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			dataPath(b, w.view(), uid)
		}
	})
	b.Run("VersionByUID", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, ok := w.view().Version(uid); !ok {
				b.Fatal("not found")
			}
		}
	})
}

// dataPath is what a data operation looks up.
func dataPath(t tb, v *fsm.View, uid []byte) *fsmpb.Version {
	tn, ok := v.Tenant("t01234")
	if !ok {
		t.Fatalf("no tenant")
	}
	s, ok := v.ServiceOf(tn, "payments")
	if !ok {
		t.Fatalf("no service")
	}
	ver, ok := fsm.VersionByUID(s.GetVersions(), uid)
	if !ok {
		t.Fatalf("no version")
	}
	return ver
}
