//go:build linux && (amd64 || arm64)

package crash_test

import (
	"context"
	"testing"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
	"github.com/openkcm/krypton-cluster/jepsen/crash/steps"
)

// Worlds in which scenarios begin.
var (
	// autoNode is a node with a tenant that unseals by itself.
	autoNode = once{make: func(w *world) {
		w.keystore()
		n := w.node("n1")
		n.run()
		w.must(n.found(w.Context(), w.initRequest(auto)))
		n.furnish()
		w.must(n.serves())
	}}
	// sharesNode is the same, and opens by 2 of 3 shares.
	sharesNode = once{make: func(w *world) {
		w.keystore()
		n := w.node("n1")
		n.run()
		w.must(n.found(w.Context(), w.initRequest(shares)))
		n.furnish()
		w.must(n.serves())
	}}
)

func nothing(w *world) { w.keystore() }

func answers(w *world) error { return w.node("n1").answers() }

func serves(w *world) error {
	n := w.node("n1")
	if err := n.answers(); err != nil {
		return err
	}
	return n.serves()
}

// A new directory becomes a node in several files.
func TestFirstStart(t *testing.T) {
	scenario{
		name: "first start", base: nothing, boot: true, ready: answers,
		after: func(w *world, _ bool) {
			n := w.node("n1")
			if st := n.state().GetState(); st != kryptonv1.SealState_SEAL_STATE_UNINITIALIZED {
				w.Errorf("a node that never was in a cluster says %v", st)
			}
			w.must(n.found(w.Context(), w.initRequest(shares)))
			situationtest.Outcome(w, "crash/first-start")
		},
	}.test(t)
}

// A member starts again and unseals by itself.
func TestStart(t *testing.T) {
	scenario{
		name: "start", base: autoNode.in, boot: true, ready: serves,
		after: func(w *world, _ bool) {
			w.must(w.node("n1").serves())
			situationtest.Outcome(w, "crash/start")
		},
	}.test(t)
}

func TestInitWithShares(t *testing.T) { initScenario(shares).test(t) }

func TestInitWithKeystore(t *testing.T) { initScenario(auto).test(t) }

// initScenario founds a cluster. What it answers exists nowhere else.
func initScenario(m mode) scenario {
	return scenario{
		name: "init", base: nothing, ready: answers,
		do: func(ctx context.Context, w *world) error { return w.node("n1").found(ctx, w.initRequest(m)) },
		after: func(w *world, acked bool) {
			n := w.node("n1")
			state := n.state().GetState()
			switch {
			case acked && state == kryptonv1.SealState_SEAL_STATE_UNINITIALIZED:
				w.Fatal("init was acknowledged, and the node belongs to no cluster")
			case acked:
			case state == kryptonv1.SealState_SEAL_STATE_UNINITIALIZED:
				situationtest.Outcome(w, "crash/init-not-done")
				w.must(n.found(w.Context(), w.initRequest(m)))
			default:
				// The cluster is there and its answer is lost: nobody has its shares
				// and nobody the governor's certificate.
				err := n.found(w.Context(), w.initRequest(m))
				situationtest.Error(w, "crash/init-answer-lost", err)
				w.must(n.proc.Close())
				w.must(emptied(n.data()))
				n.run()
				w.must(n.found(w.Context(), w.initRequest(m)))
			}
			if fp := n.state().GetFingerprint(); fp != w.fprint {
				w.Fatalf("init answered with cluster %s, the node is of %s", w.fprint, fp)
			}
			// What was handed out works, over one more death.
			w.must(n.proc.Close())
			n.run()
			if m == shares {
				w.must(n.until("shares unseal it", func(ctx context.Context) error { return n.contribute(ctx, w.shares[1:]) }))
			}
			n.furnish()
			w.must(n.serves())
		},
	}
}

// Shares are given one after the other; the last one unseals.
func TestUnseal(t *testing.T) {
	scenario{
		name: "unseal", base: sharesNode.in, ready: answers,
		do: func(ctx context.Context, w *world) error { return w.node("n1").contribute(ctx, w.shares[:2]) },
		after: func(w *world, _ bool) {
			n := w.node("n1")
			st := n.state()
			if again := n.proc.Disarm(); st.GetState() == kryptonv1.SealState_SEAL_STATE_SEALED && st.GetHave() != 0 {
				w.Errorf("%d shares outlived the process (%d steps)", st.GetHave(), len(again))
			}
			situationtest.Outcome(w, "crash/unseal")
			w.must(n.contribute(w.Context(), w.shares[1:]))
			w.must(n.serves())
		},
	}.test(t)
}

const request = "4b3f8a52-6a0e-4d2b-9a55-3f4c1d2e5b60"

func TestRotateService(t *testing.T) {
	rotation("crash/rotate", func(ctx context.Context, c *client.Client) (uint32, int, error) {
		r, err := c.Services().RotateService(ctx, &kryptonv1.RotateServiceRequest{Name: service, RequestId: request})
		return r.GetPrimaryVersion(), len(r.GetVersions()), err
	}, func(ctx context.Context, c *client.Client) (uint32, int, error) {
		r, err := c.Services().GetService(ctx, &kryptonv1.GetServiceRequest{Name: service})
		return r.GetPrimaryVersion(), len(r.GetVersions()), err
	}).test(t)
}

func TestRotateTenant(t *testing.T) {
	rotation("crash/rotate", func(ctx context.Context, c *client.Client) (uint32, int, error) {
		r, err := c.Tenants().RotateTenant(ctx, &kryptonv1.RotateTenantRequest{Name: tenant, RequestId: request})
		return r.GetPrimaryVersion(), len(r.GetVersions()), err
	}, func(ctx context.Context, c *client.Client) (uint32, int, error) {
		r, err := c.Tenants().GetTenant(ctx, &kryptonv1.GetTenantRequest{Name: tenant})
		return r.GetPrimaryVersion(), len(r.GetVersions()), err
	}).test(t)
}

// rotation is two entries of the log: a version, and that it is primary.
func rotation(row string, rotate, get func(context.Context, *client.Client) (primary uint32, versions int, err error)) scenario {
	as := func(ctx context.Context, w *world, f func(context.Context, *client.Client) (uint32, int, error)) (p uint32, v int, err error) {
		err = w.node("n1").as(ctx, "governor", func(ctx context.Context, c *client.Client) (err error) {
			p, v, err = f(ctx, c)
			return err
		})
		return p, v, err
	}
	return scenario{
		name: "rotate", base: autoNode.in, ready: serves,
		do: func(ctx context.Context, w *world) error {
			_, _, err := as(ctx, w, rotate)
			return err
		},
		after: func(w *world, acked bool) {
			w.must(w.node("n1").serves()) // with the version before, whatever became of the new one
			p, v, err := as(w.Context(), w, get)
			w.must(err)
			switch {
			case acked && (p != 2 || v != 2):
				w.Errorf("the rotation was acknowledged; primary %d of %d", p, v)
			case p == 2 && v != 2 || p > 2 || v > 2:
				w.Errorf("primary %d of %d", p, v)
			}
			situationtest.Outcome(w, row)
			if p, v, err = as(w.Context(), w, rotate); err != nil || p != 2 || v != 2 {
				w.Errorf("the same request again: primary %d of %d, %v", p, v, err)
			}
			w.must(w.node("n1").serves())
		},
	}
}

// A version of a key is destroyed in a week, unless somebody says no.
func TestDestroy(t *testing.T) {
	name := service + "/versions/1"
	as := func(ctx context.Context, w *world, f func(context.Context, kryptonv1.ServicesClient) error) error {
		return w.node("n1").as(ctx, "governor", func(ctx context.Context, c *client.Client) error { return f(ctx, c.Services()) })
	}
	destroy := func(ctx context.Context, c kryptonv1.ServicesClient) error {
		_, err := c.DestroyVersion(ctx, &kryptonv1.DestroyVersionRequest{Name: name, RequestId: request})
		return err
	}
	scenario{
		name: "destroy", base: autoNode.in,
		ready: func(w *world) error {
			if err := serves(w); err != nil {
				return err
			}
			return as(w.Context(), w, func(ctx context.Context, c kryptonv1.ServicesClient) error {
				_, err := c.RotateService(ctx, &kryptonv1.RotateServiceRequest{Name: service})
				if err == nil {
					_, err = c.DisableVersion(ctx, &kryptonv1.DisableVersionRequest{Name: name})
				}
				return err
			})
		},
		do: func(ctx context.Context, w *world) error { return as(ctx, w, destroy) },
		after: func(w *world, acked bool) {
			n := w.node("n1")
			w.must(n.ready())
			var v *kryptonv1.KeyVersion
			w.must(n.until("versions are read", func(ctx context.Context) error {
				return as(ctx, w, func(ctx context.Context, c kryptonv1.ServicesClient) (err error) {
					v, err = c.GetVersion(ctx, &kryptonv1.GetVersionRequest{Name: name})
					return err
				})
			}))
			if acked && v.GetState() != kryptonv1.VersionState_VERSION_STATE_DESTROY_SCHEDULED {
				w.Errorf("the destruction was acknowledged; the version is %v", v.GetState())
			}
			situationtest.Outcome(w, "crash/destroy")
			w.must(n.until("the same request again", func(ctx context.Context) error { return as(ctx, w, destroy) }))
			w.must(as(w.Context(), w, func(ctx context.Context, c kryptonv1.ServicesClient) error {
				_, err := c.CancelDestroyVersion(ctx, &kryptonv1.CancelDestroyVersionRequest{Name: name})
				if err == nil {
					_, err = c.EnableVersion(ctx, &kryptonv1.EnableVersionRequest{Name: name})
				}
				return err
			}))
			w.must(n.serves())
		},
	}.test(t)
}

// hold asks for the hold of the cluster, release ends it.
func (n *node) hold(ctx context.Context) error {
	return n.as(ctx, "custodian", func(ctx context.Context, c *client.Client) error {
		_, err := kryptonv1.NewSealClient(c).SealNode(ctx, &kryptonv1.SealNodeRequest{Cluster: true, Reason: "drill", RequestId: request})
		return err
	})
}

func (n *node) release(ctx context.Context) error {
	return n.as(ctx, "custodian", func(ctx context.Context, c *client.Client) error {
		_, err := kryptonv1.NewSealClient(c).ReleaseHold(ctx, &kryptonv1.ReleaseHoldRequest{RequestId: "9d0c7be1-52a7-4f0e-8a43-0e9b7c6d5a41"})
		return err
	})
}

func TestHold(t *testing.T) {
	scenario{
		name: "hold", base: autoNode.in, ready: serves,
		do: func(ctx context.Context, w *world) error { return w.node("n1").hold(ctx) },
		after: func(w *world, acked bool) {
			n := w.node("n1")
			if st := n.state(); acked && (!st.GetHeld() || st.GetState() == kryptonv1.SealState_SEAL_STATE_UNSEALED) {
				w.Errorf("the hold was acknowledged; held %v, %v", st.GetHeld(), st.GetState())
			}
			situationtest.Outcome(w, "crash/hold")
			w.must(n.until("the same request again", n.hold))
			if st := n.state(); !st.GetHeld() || st.GetState() != kryptonv1.SealState_SEAL_STATE_SEALED {
				w.Errorf("held %v, %v", st.GetHeld(), st.GetState())
			}
			w.must(n.until("the hold is released", n.release))
			w.must(n.serves())
		},
	}.test(t)
}

func TestReleaseHold(t *testing.T) {
	scenario{
		name: "release hold", base: autoNode.in,
		ready: func(w *world) error {
			if err := serves(w); err != nil {
				return err
			}
			return w.node("n1").hold(w.Context())
		},
		do: func(ctx context.Context, w *world) error { return w.node("n1").release(ctx) },
		after: func(w *world, _ bool) {
			n := w.node("n1")
			situationtest.Outcome(w, "crash/release-hold")
			w.must(n.until("the same request again", n.release))
			w.must(n.serves())
			if n.state().GetHeld() {
				w.Error("held after the release")
			}
		},
	}.test(t)
}

// One node is sealed by a custodian: a matter of memory only.
func TestSealNode(t *testing.T) {
	scenario{
		name: "seal", base: autoNode.in, ready: serves,
		do: func(ctx context.Context, w *world) error {
			n := w.node("n1")
			return n.as(ctx, "custodian", func(ctx context.Context, c *client.Client) error {
				_, err := c.Node(n.addr.GRPC).Seal().SealNode(ctx, &kryptonv1.SealNodeRequest{RequestId: request})
				return err
			})
		},
		after: func(w *world, _ bool) {
			n := w.node("n1")
			if _, died := n.proc.At(); !died && n.state().GetState() == kryptonv1.SealState_SEAL_STATE_SEALED {
				n.run() // the node that was sealed still runs
			}
			situationtest.Outcome(w, "crash/seal")
			w.must(n.serves())
		},
	}.test(t)
}

// An orderly stop is cut short.
func TestStop(t *testing.T) {
	scenario{
		name: "stop", base: autoNode.in, ready: serves, fates: []steps.Fate{steps.Kill, steps.PowerCut},
		do: func(_ context.Context, w *world) error {
			n := w.node("n1")
			n.proc.Signal(15)
			if status, err := n.proc.Wait(); err != nil || status != 0 {
				if _, died := n.proc.At(); !died {
					w.Errorf("the stop ended with status %d, %v", status, err)
				}
			}
			return nil
		},
		after: func(w *world, _ bool) {
			n := w.node("n1")
			select {
			case <-n.proc.Done():
				n.run()
			default:
			}
			situationtest.Outcome(w, "crash/stop")
			w.must(n.serves())
		},
	}.test(t)
}
