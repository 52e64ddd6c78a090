package client

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/answer"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

// script is a network of fake nodes: answer decides each attempt.
type script struct {
	answer func(ctx context.Context, at attempt) error
	says   func(at attempt) answer.Info // beside it; nil: nothing

	mu    sync.Mutex
	start time.Time
	log   []attempt
	dials int
	open  int
}

// attempt is one attempt as the network saw it.
type attempt struct {
	addr  string
	n     int // of this script, from 1
	after time.Duration
	req   proto.Message
	trace string
	limit time.Duration // time the attempt was given
	async []string
	reply any
}

type wireTo struct {
	s    *script
	addr string
}

func (w wireTo) Invoke(ctx context.Context, _ string, args, reply any, opts ...grpc.CallOption) error {
	md, _ := metadata.FromOutgoingContext(ctx)
	at := attempt{addr: w.addr, after: time.Since(w.s.start), req: proto.Clone(args.(proto.Message)), trace: md.Get("traceparent")[0], async: md.Get("krypton-async"), reply: reply}
	if d, ok := ctx.Deadline(); ok {
		at.limit = time.Until(d)
	}
	w.s.mu.Lock()
	at.n = len(w.s.log) + 1
	w.s.log = append(w.s.log, at)
	w.s.mu.Unlock()
	for _, o := range opts {
		if o, ok := o.(grpc.HeaderCallOption); ok && w.s.says != nil {
			*o.HeaderAddr = metadata.Pairs(answer.Header, answer.Format(w.s.says(at)))
		}
	}
	return w.s.answer(ctx, at)
}

func (w wireTo) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "")
}

func (w wireTo) Close() error {
	w.s.mu.Lock()
	w.s.open--
	w.s.mu.Unlock()
	return nil
}

func (s *script) addrs() []string {
	out := make([]string, 0, len(s.log))
	for _, a := range s.log {
		out = append(out, a.addr)
	}
	return out
}

// scripted stands for the transport of a script, which takes any address.
type scripted struct{ overGRPC }

func (scripted) Check(string) error { return nil }

// client makes a client of n nodes a, b, c... over the script.
func (s *script) client(t *testing.T, n int, change ...func(*Options)) *Client {
	t.Helper()
	s.start = time.Now()
	opts := Options{Rand: rand.Reader, Transport: scripted{}}
	for i := range n {
		opts.Addrs = append(opts.Addrs, string(rune('a'+i)))
	}
	for _, f := range change {
		f(&opts)
	}
	opts, err := complete(opts)
	if err != nil {
		t.Fatal(err)
	}
	return newClient(opts, func(addr string) (Conn, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.dials++
		s.open++
		return wireTo{s: s, addr: addr}, nil
	})
}

// said is an error as a node sends it.
func said(ctx context.Context, code errs.Code) error {
	MarkSent(ctx)
	return wire.ToStatus(errs.New(code, "said "+code.String())).Err()
}

// broken is a connection that ends after the request was written.
func broken(ctx context.Context) error {
	MarkSent(ctx)
	return status.Error(codes.Unavailable, "error reading from server: EOF")
}

// refused is a connection that never came to be.
func refused() error {
	return status.Error(codes.Unavailable, "connection refused")
}

// hang answers nothing until the attempt is given up.
func hang(ctx context.Context) error {
	MarkSent(ctx)
	<-ctx.Done()
	return status.FromContextError(ctx.Err()).Err()
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func get(ctx context.Context, c *Client) error {
	_, err := c.Tenants().GetTenant(ctx, &kryptonv1.GetTenantRequest{Name: "tenants/acme"})
	return err
}

func rotate(ctx context.Context, c *Client, opts ...grpc.CallOption) error {
	_, err := c.Tenants().RotateTenant(ctx, &kryptonv1.RotateTenantRequest{Name: "tenants/acme"}, opts...)
	return err
}

func contribute(ctx context.Context, c *Client) error {
	_, err := kryptonv1.NewSealClient(c).Contribute(ctx, &kryptonv1.ContributeRequest{})
	return err
}

// TestI3_EveryCodeIsRetriedByItsClass walks the whole error table: one node says
// the code, then every node is well.
func TestI3_EveryCodeIsRetriedByItsClass(t *testing.T) {
	for _, code := range errs.All() {
		t.Run(code.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{answer: func(ctx context.Context, at attempt) error {
					if at.n == 1 {
						return said(ctx, code)
					}
					return nil
				}}
				c := s.client(t, 3)
				err := get(within(t, 10*time.Second), c)

				retry := code.Row().Retry
				if code == errs.DeadlineExceeded {
					retry = errs.RetryOtherNode // the node's deadline is our attempt's
				}
				if retry == errs.RetryNever {
					if errs.Of(err) != code || len(s.log) != 1 {
						t.Fatalf("code never to be retried: err %v after %d attempts", err, len(s.log))
					}
					return
				}
				if err != nil || len(s.log) != 2 {
					t.Fatalf("err %v after %d attempts, want success after 2", err, len(s.log))
				}
				waited := s.log[1].after > 0
				same := s.log[0].addr == s.log[1].addr
				switch {
				case retry == errs.RetrySameNode && (!same || waited):
					t.Errorf("same-node: same %v waited %v", same, waited)
				case retry == errs.RetryOtherNode && (same || waited):
					t.Errorf("other-node: same %v waited %v", same, waited)
				case retry == errs.RetryAfterDelay && !waited:
					t.Error("after-delay: did not wait")
				}
			})
		})
	}
}

func TestI3_SameNodeRetriesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: func(ctx context.Context, _ attempt) error { return said(ctx, errs.Aborted) }}
		err := rotate(within(t, time.Minute), s.client(t, 3))
		if !errs.Is(err, errs.Aborted) || len(s.log) != 1+sameNodeTries {
			t.Fatalf("err %v after %d attempts", err, len(s.log))
		}
		if a := s.addrs(); a[0] != a[1] || a[0] != a[len(a)-1] {
			t.Errorf("attempts on %v", a)
		}
	})
}

func TestI1_EveryAttemptOfAMutationHasOneRequestID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: func(ctx context.Context, at attempt) error {
			switch at.n {
			case 1:
				return broken(ctx)
			case 2:
				return hang(ctx)
			case 3:
				return said(ctx, errs.Indeterminate)
			}
			return nil
		}}
		var info Info
		req := &kryptonv1.RotateTenantRequest{Name: "tenants/acme"}
		c := s.client(t, 3)
		if _, err := c.Tenants().RotateTenant(within(t, time.Minute), req, Capture(&info)); err != nil {
			t.Fatal(err)
		}
		if len(s.log) != 4 || info.Attempts != 4 {
			t.Fatalf("%d attempts, info says %d", len(s.log), info.Attempts)
		}
		for _, at := range s.log {
			if id := at.req.(*kryptonv1.RotateTenantRequest).GetRequestId(); id != info.RequestID || len(id) != 36 {
				t.Errorf("attempt %d has request id %q, info says %q", at.n, id, info.RequestID)
			}
		}
		if req.GetRequestId() != "" {
			t.Error("the caller's message was changed")
		}
	})
}

func TestI1_TheCallersRequestIDIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const id = "7b3e4d0c-6d64-4f6b-9b50-3d6d2c1e1a11"
		s := &script{answer: func(context.Context, attempt) error { return nil }}
		c := s.client(t, 1)
		if _, err := c.Tenants().RotateTenant(within(t, time.Second), &kryptonv1.RotateTenantRequest{RequestId: id}); err != nil {
			t.Fatal(err)
		}
		if got := s.log[0].req.(*kryptonv1.RotateTenantRequest).GetRequestId(); got != id {
			t.Errorf("sent request id %q", got)
		}
	})
}

func TestI1_ACallThatCouldActTwiceIsSentAgainOnlyIfItDidNothing(t *testing.T) {
	for _, tt := range []struct {
		name  string
		first func(ctx context.Context) error
		want  errs.Code // of the result
		sent  int
	}{
		{"connection ended after sending", broken, errs.Indeterminate, 1},
		{"no answer in time", hang, errs.Indeterminate, 1},
		{"node does not know", func(ctx context.Context) error { return said(ctx, errs.Indeterminate) }, errs.Indeterminate, 1},
		{"node said it did nothing", func(ctx context.Context) error { return said(ctx, errs.NotServing) }, errs.Unspecified, 2},
		{"never sent", func(context.Context) error { return refused() }, errs.Unspecified, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{answer: func(ctx context.Context, at attempt) error {
					if at.n == 1 {
						return tt.first(ctx)
					}
					return nil
				}}
				err := contribute(within(t, time.Minute), s.client(t, 2))
				if errs.Of(err) != tt.want || len(s.log) != tt.sent {
					t.Errorf("err %v after %d attempts, want %v after %d", err, len(s.log), tt.want, tt.sent)
				}
			})
		})
	}
}

func TestI2_NothingHappensAfterTheDeadline(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer func(ctx context.Context) error
		want   errs.Code
	}{
		{"a change is in progress for ever", func(ctx context.Context) error { return said(ctx, errs.ChangeInProgress) }, errs.ChangeInProgress},
		{"no node serves", func(ctx context.Context) error { return said(ctx, errs.NotServing) }, errs.NotServing},
		{"no node answers", hang, errs.DeadlineExceeded},
		{"no connection", func(context.Context) error { return refused() }, errs.Unavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{answer: func(ctx context.Context, _ attempt) error { return tt.answer(ctx) }}
				c := s.client(t, 3)
				const d = 4 * time.Second
				begin := time.Now()
				err := get(within(t, d), c)
				took := time.Since(begin)
				if !errs.Is(err, tt.want) || took > d || took < d-maxDelay {
					t.Errorf("%v after %v, want %v in the second before %v", err, took, tt.want, d)
				}
				for _, at := range s.log {
					if at.after >= d || at.after+at.limit > d {
						t.Errorf("attempt %d began at %v and was given %v", at.n, at.after, at.limit)
					}
				}
			})
		})
	}
}

func TestI2_ACallWithoutADeadlineGetsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: func(ctx context.Context, _ attempt) error { return hang(ctx) }}
		begin := time.Now()
		err := get(t.Context(), s.client(t, 2))
		if took := time.Since(begin); !errs.Is(err, errs.DeadlineExceeded) || took != DefaultDeadline {
			t.Errorf("%v after %v", err, took)
		}
	})
}

func TestACancelledCallEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := &script{answer: func(actx context.Context, _ attempt) error {
			cancel()
			return hang(actx)
		}}
		err := get(ctx, s.client(t, 2))
		if !errs.Is(err, errs.Canceled) || len(s.log) != 1 {
			t.Errorf("%v after %d attempts", err, len(s.log))
		}
	})
}

func TestI4_AnUnknownOutcomeIsSaidToBeUnknown(t *testing.T) {
	for _, tt := range []struct {
		name   string
		second func(ctx context.Context) error
		want   errs.Code
	}{
		{"then no connection", func(context.Context) error { return refused() }, errs.Indeterminate},
		{"then not serving", func(ctx context.Context) error { return said(ctx, errs.NotServing) }, errs.Indeterminate},
		{"then sealed", func(ctx context.Context) error { return said(ctx, errs.Sealed) }, errs.Indeterminate},
		{"then committed and not complete", func(ctx context.Context) error { return said(ctx, errs.NotComplete) }, errs.NotComplete},
		{"then refused under the same request id", func(ctx context.Context) error { return said(ctx, errs.StaleEtag) }, errs.StaleEtag},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{answer: func(ctx context.Context, at attempt) error {
					if at.n == 1 {
						return broken(ctx)
					}
					return tt.second(ctx)
				}}
				var info Info
				err := rotate(within(t, 5*time.Second), s.client(t, 2), Capture(&info))
				if !errs.Is(err, tt.want) {
					t.Fatalf("got %v, want %v", err, tt.want)
				}
				if hint := errs.From(err).Hint; tt.want == errs.Indeterminate &&
					hint != fmt.Sprintf("try again with request id %s, or look at operation %s", info.RequestID, info.RequestID) {
					t.Errorf("hint %q does not name the request id", hint)
				}
			})
		})
	}
}

// TestAChangeThatIsNotCompleteIsWaitedFor under its request id, and only by callers
// that did not say that they will not wait.
func TestAChangeThatIsNotCompleteIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: func(ctx context.Context, at attempt) error {
			if at.n < 3 {
				return said(ctx, errs.NotComplete)
			}
			return nil
		}}
		if err := rotate(within(t, 10*time.Second), s.client(t, 2)); err != nil {
			t.Fatal(err)
		}
		for _, a := range s.log {
			if a.req.(*kryptonv1.RotateTenantRequest).GetRequestId() != s.log[0].req.(*kryptonv1.RotateTenantRequest).GetRequestId() || a.async != nil {
				t.Errorf("attempt %+v", a)
			}
		}
		s = &script{answer: func(context.Context, attempt) error { return nil }}
		if err := rotate(within(t, 10*time.Second), s.client(t, 2), Async()); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(s.log[0].async, []string{"1"}) {
			t.Errorf("attempt %+v", s.log[0])
		}
	})
}

// TestI4_NothingHidesThatAChangeIsCommitted: a node said so, and what follows, the end
// of the caller's time, a node without an answer, or one that does not trust the
// caller any more, does not take it back. A refusal of what was left to do counts.
func TestI4_NothingHidesThatAChangeIsCommitted(t *testing.T) {
	for _, tt := range []struct {
		name string
		then func(ctx context.Context) error
		want errs.Code
	}{
		{"no answer until the end", hang, errs.NotComplete},
		{"a connection that ends", broken, errs.NotComplete},
		{"no connection", func(context.Context) error { return refused() }, errs.NotComplete},
		{"no leader", func(ctx context.Context) error { return said(ctx, errs.NoLeader) }, errs.NotComplete},
		{"it is not known", func(ctx context.Context) error { return said(ctx, errs.Indeterminate) }, errs.NotComplete},
		{"the caller is revoked", func(ctx context.Context) error { return said(ctx, errs.Unauthenticated) }, errs.NotComplete},
		{"the second half is refused", func(ctx context.Context) error { return said(ctx, errs.FailedState) }, errs.FailedState},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{
					answer: func(ctx context.Context, at attempt) error {
						if at.n == 1 {
							return said(ctx, errs.NotComplete)
						}
						return tt.then(ctx)
					},
					says: func(at attempt) answer.Info {
						i := answer.Info{Correlation: "c", Node: at.addr, Index: 7}
						if at.n == 1 {
							i.Operation = "some-change"
						}
						return i
					},
				}
				var info Info
				err := rotate(within(t, 5*time.Second), s.client(t, 2), Capture(&info))
				if !errs.Is(err, tt.want) || len(s.log) < 2 {
					t.Errorf("%v after %d attempts, want %s", err, len(s.log), tt.want)
				}
				if info.Operation != "operations/some-change" {
					t.Errorf("the operation is %q", info.Operation)
				}
			})
		})
	}
}

// TestWhatWasMadeOnceIsNotMadeForNobody: a token is told in one answer only, so its
// attempt has the time of a lease, and an answer without it is not repeated. A call
// without a request id that is committed is not sent again either.
func TestWhatWasMadeOnceIsNotMadeForNobody(t *testing.T) {
	token := func(ctx context.Context, c *Client) error {
		_, err := c.Cluster().CreateJoinToken(ctx, &kryptonv1.CreateJoinTokenRequest{})
		return err
	}
	synctest.Test(t, func(t *testing.T) {
		// A dead node's lease: no answer before it has ended.
		s := &script{answer: func(ctx context.Context, _ attempt) error {
			MarkSent(ctx)
			select {
			case <-time.After(4 * time.Second):
				return nil
			case <-ctx.Done():
				return said(ctx, errs.NotComplete)
			}
		}}
		if err := token(within(t, 10*time.Second), s.client(t, 3)); err != nil || len(s.log) != 1 {
			t.Errorf("%v after %d attempts", err, len(s.log))
		}
	})
	for name, call := range map[string]func(context.Context, *Client) error{"once": token, "unsafe": contribute} {
		synctest.Test(t, func(t *testing.T) {
			s := &script{answer: func(ctx context.Context, _ attempt) error { return said(ctx, errs.NotComplete) }}
			if err := call(within(t, 10*time.Second), s.client(t, 3)); !errs.Is(err, errs.NotComplete) || len(s.log) != 1 {
				t.Errorf("%s: %v after %d attempts", name, err, len(s.log))
			}
		})
	}
	// No answer at all, and the request id finds out.
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: func(ctx context.Context, at attempt) error {
			if at.n == 1 {
				return broken(ctx)
			}
			return nil
		}}
		if err := token(within(t, 10*time.Second), s.client(t, 3)); err != nil {
			t.Error(err)
		}
		id := func(i int) string { return s.log[i].req.(*kryptonv1.CreateJoinTokenRequest).GetRequestId() }
		if id(0) == "" || id(0) != id(1) {
			t.Errorf("request ids %q and %q", id(0), id(1))
		}
	})
}

// TestWhatPassesByItselfFailsNoCall: while every node says "not now" for the time of a
// lease, all callers at once, with hardly any budget for retries, wait it out.
func TestWhatPassesByItselfFailsNoCall(t *testing.T) {
	const lease = 3 * time.Second
	for _, code := range []errs.Code{errs.ChangeInProgress, errs.NotServing} {
		t.Run(code.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{answer: func(ctx context.Context, at attempt) error {
					if at.after >= lease {
						return nil
					}
					if code == errs.ChangeInProgress { // after the wait of its gate
						time.Sleep(200 * time.Millisecond)
					}
					return said(ctx, code)
				}}
				c := s.client(t, 3, func(o *Options) { o.RetryBudget = 1 })
				var wg sync.WaitGroup
				for range 200 {
					wg.Go(func() {
						ctx, cancel := context.WithTimeout(t.Context(), lease+2*time.Second)
						defer cancel()
						if err := get(ctx, c); err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				if took := time.Since(s.start); took > lease+time.Second {
					t.Errorf("the last call ended after %v", took)
				}
			})
		})
	}
}

// TestAWaitOutlivesTheNodeThatWasAsked: one node answers nothing, the others say at the
// end of each attempt that it is not done. The caller hears that it is, or how things
// stood, and never that a node did not answer.
func TestAWaitOutlivesTheNodeThatWasAsked(t *testing.T) {
	for _, tt := range []struct {
		name string
		at   time.Duration // it is done; 0: never
		dies time.Duration // after which every node answers nothing; 0: never
		want time.Duration // until the call ends, at most
	}{
		{"done", 5 * time.Second, 0, 8 * time.Second},
		{"not done", 0, 0, 10 * time.Second},
		{"not done, and nobody is left to ask", 0, 5 * time.Second, 10 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{answer: func(ctx context.Context, at attempt) error {
					if at.addr == "a" || tt.dies > 0 && at.after > tt.dies {
						return hang(ctx)
					}
					MarkSent(ctx)
					op, _ := at.reply.(*kryptonv1.Operation)
					op.Name, op.Complete = "operations/x", true
					end := at.limit - 250*time.Millisecond
					if left := tt.at - at.after; tt.at > 0 && left <= end {
						time.Sleep(left)
						op.Done = true
						return nil
					}
					time.Sleep(end)
					return nil
				}}
				c := s.client(t, 3)
				op, err := c.Cluster().WaitOperation(within(t, 10*time.Second), &kryptonv1.WaitOperationRequest{Name: "operations/x"})
				if err != nil || op.GetDone() != (tt.at > 0) || op.GetName() != "operations/x" {
					t.Errorf("%v, %v", op, err)
				}
				if took := time.Since(s.start); took > tt.want || tt.at == 0 && took < 9*time.Second {
					t.Errorf("it took %v", took)
				}
				if len(s.log) > 12 {
					t.Errorf("%d attempts", len(s.log))
				}
			})
		})
	}
	// A node that does not wait is not asked as fast as it answers; and a refusal is one.
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: func(ctx context.Context, at attempt) error {
			MarkSent(ctx)
			if at.after > 3*time.Second {
				return said(ctx, errs.Unauthenticated)
			}
			return nil
		}}
		_, err := s.client(t, 2).Cluster().WaitOperation(within(t, 10*time.Second), &kryptonv1.WaitOperationRequest{Name: "operations/x"})
		if !errs.Is(err, errs.Unauthenticated) || len(s.log) > 15 {
			t.Errorf("%v after %d attempts", err, len(s.log))
		}
	})
}

// TestANodeWithoutALeaseIsAskedAgainSoon: it is well, and its penalty does not grow.
func TestANodeWithoutALeaseIsAskedAgainSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		without := true
		s := &script{answer: func(ctx context.Context, at attempt) error {
			if at.addr == "a" && without {
				return said(ctx, errs.NotServing)
			}
			return nil
		}}
		c := s.client(t, 2)
		for range 200 {
			if err := get(within(t, time.Second), c); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Millisecond)
		}
		without = false
		time.Sleep(150 * time.Millisecond)
		before := len(s.log)
		for range 40 {
			if err := get(within(t, time.Second), c); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Contains((&script{log: s.log[before:]}).addrs(), "a") {
			t.Error("a node that has its lease again is still avoided")
		}
	})
}

func TestI4_AMutationThatWasNeverSentDidNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: func(context.Context, attempt) error { return refused() }}
		if err := rotate(within(t, time.Second), s.client(t, 2)); !errs.Is(err, errs.Unavailable) {
			t.Errorf("got %v", err)
		}
	})
}

func TestI5_AllAttemptsShareOneTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: func(ctx context.Context, at attempt) error {
			if at.n < 4 {
				return said(ctx, errs.NotServing)
			}
			return nil
		}}
		var info Info
		c := s.client(t, 3)
		if _, err := c.Access().WhoAmI(within(t, time.Minute), &kryptonv1.WhoAmIRequest{}, Capture(&info)); err != nil {
			t.Fatal(err)
		}
		spans := map[string]bool{}
		for _, at := range s.log {
			trace, span := at.trace[3:35], at.trace[36:52]
			spans[span] = true
			if got := trace[:8] + "-" + trace[8:12] + "-" + trace[12:16] + "-" + trace[16:20] + "-" + trace[20:]; got != info.CorrelationID {
				t.Errorf("attempt %d: trace %s, correlation id %s", at.n, got, info.CorrelationID)
			}
		}
		if len(spans) != 4 {
			t.Errorf("%d spans for 4 attempts", len(spans))
		}
	})
}

func TestAHangingNodeCostsOneAttemptAndItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hung atomic.Value
		s := &script{answer: func(ctx context.Context, at attempt) error {
			if at.n == 1 {
				hung.Store(at.addr)
			}
			if at.addr == hung.Load() {
				return hang(ctx)
			}
			return nil
		}}
		c := s.client(t, 2)
		begin := time.Now()
		if err := get(within(t, 5*time.Second), c); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took != minAttempt {
			t.Errorf("took %v, want %v", took, minAttempt)
		}
		if s.addrs()[0] == s.addrs()[1] {
			t.Errorf("attempts on %v", s.addrs())
		}
		if s.open != 1 {
			t.Errorf("%d connections open, want 1: the dead one is given up", s.open)
		}
		// While its penalty lasts the node is left alone.
		before := len(s.log)
		for range 20 {
			if err := get(within(t, time.Second), c); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(s.log) - before; n != 20 {
			t.Errorf("20 calls took %d attempts", n)
		}
	})
}

func TestTheAttemptTimeoutDoublesUntilASlowNodeAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: func(ctx context.Context, _ attempt) error {
			MarkSent(ctx)
			select { // the customer's keystore takes 900 ms, from every node
			case <-time.After(900 * time.Millisecond):
				return nil
			case <-ctx.Done():
				return status.FromContextError(ctx.Err()).Err()
			}
		}}
		if err := get(within(t, 10*time.Second), s.client(t, 3)); err != nil {
			t.Fatal(err)
		}
		var limits []time.Duration
		for _, at := range s.log {
			limits = append(limits, at.limit)
		}
		if diff := cmp.Diff([]time.Duration{250 * time.Millisecond, 500 * time.Millisecond, time.Second}, limits); diff != "" {
			t.Error(diff)
		}
	})
}

func TestTheAttemptTimeoutFollowsTheRecentPercentile(t *testing.T) {
	c := (&script{}).client(t, 1)
	if got := c.attemptTimeout(kindData, 0); got != minAttempt {
		t.Errorf("without samples: %v", got)
	}
	for range latencyWindow {
		c.lat[kindData].add(80 * time.Millisecond)
	}
	if got := c.attemptTimeout(kindData, 0); got != 400*time.Millisecond {
		t.Errorf("5 x 80 ms is %v", got)
	}
	for range latencyWindow {
		c.lat[kindData].add(time.Millisecond)
	}
	if got := c.attemptTimeout(kindData, 0); got != minAttempt {
		t.Errorf("after a quick window: %v", got)
	}
	if got := c.attemptTimeout(kindMutation, 0); got != minMutation {
		t.Errorf("mutation: %v", got)
	}
	if got := c.attemptTimeout(kindMutation, 50); got != maxAttempt {
		t.Errorf("after many timeouts: %v", got)
	}
	c.opts.Timeout = 3 * time.Second
	if got := c.attemptTimeout(kindMutation, 0); got != 3*time.Second {
		t.Errorf("fixed: %v", got)
	}
}

func TestSealedEverywhereEndsTheCallSealedSomewhereDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var unsealed atomic.Value
		unsealed.Store("none")
		s := &script{answer: func(ctx context.Context, at attempt) error {
			if at.addr == unsealed.Load() {
				return nil
			}
			if at.addr == "a" {
				return refused()
			}
			return said(ctx, errs.Sealed)
		}}
		c := s.client(t, 3)
		if err := get(within(t, time.Minute), c); !errs.Is(err, errs.Sealed) || len(s.log) != 3 || s.log[2].after != 0 {
			t.Errorf("%v after %d attempts", err, len(s.log))
		}
		unsealed.Store("c")
		if err := get(within(t, time.Minute), c); err != nil {
			t.Error(err)
		}
	})
}

// TestASlowNodeIsNotGone: with every other node sealed, one that ran into the
// timeout of its first attempt may answer the next one; one that leaves three
// unanswered does not keep the caller waiting.
func TestASlowNodeIsNotGone(t *testing.T) {
	for _, slowFor := range []int{1, 2, 1000} {
		synctest.Test(t, func(t *testing.T) {
			calls := 0
			s := &script{answer: func(ctx context.Context, at attempt) error {
				if at.addr != "a" {
					return said(ctx, errs.Sealed)
				}
				if calls++; calls <= slowFor {
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			}}
			begin := time.Now()
			err := get(within(t, time.Minute), s.client(t, 2))
			switch took := time.Since(begin); {
			case slowFor < triesOfSlow && err != nil:
				t.Errorf("slow for %d attempts: %v", slowFor, err)
			case slowFor == 1000 && (!errs.Is(err, errs.Sealed) || took > 20*time.Second):
				t.Errorf("never answers: %v after %s", err, took)
			}
		})
	}
}

func TestASickNodeIsTriedAgainAfterItsPenalty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sick atomic.Bool
		sick.Store(true)
		s := &script{answer: func(_ context.Context, at attempt) error {
			if at.addr == "a" && sick.Load() {
				return refused()
			}
			return nil
		}}
		c := s.client(t, 2)
		for range 50 {
			if err := get(within(t, time.Second), c); err != nil {
				t.Fatal(err)
			}
		}
		if n := count(s.addrs(), "a"); n > 2 {
			t.Errorf("the sick node got %d of %d attempts", n, len(s.log))
		}
		sick.Store(false)
		time.Sleep(maxPenalty)
		for range 200 {
			if err := get(within(t, time.Second), c); err != nil {
				t.Fatal(err)
			}
		}
		if n := count(s.addrs(), "a"); n < 40 {
			t.Errorf("the healed node got %d attempts", n)
		}
	})
}

func count(addrs []string, addr string) (n int) {
	for _, a := range addrs {
		if a == addr {
			n++
		}
	}
	return n
}

func TestCallsSpreadOverHealthyNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: func(context.Context, attempt) error { return nil }}
		c := s.client(t, 3)
		for range 3000 {
			if err := get(within(t, time.Second), c); err != nil {
				t.Fatal(err)
			}
		}
		for _, a := range []string{"a", "b", "c"} {
			if n := count(s.addrs(), a); n < 600 {
				t.Errorf("node %s got %d of 3000 calls", a, n)
			}
		}
	})
}

func TestTheRetryBudgetBoundsRetriesOfAllCallsTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: func(ctx context.Context, _ attempt) error { return said(ctx, errs.Throttled) }}
		c := s.client(t, 1, func(o *Options) { o.RetryBudget = 5 })
		var wg sync.WaitGroup
		const calls, seconds = 40, 10
		for range calls {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), seconds*time.Second)
				defer cancel()
				if err := get(ctx, c); !errs.Is(err, errs.Throttled) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if limit := calls + 5 + budgetPerSecond*seconds; len(s.log) > limit {
			t.Errorf("%d attempts, at most %d are in the budget", len(s.log), limit)
		}
	})
}

func TestConnectPatienceEndsCallsToAClusterThatNeverAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		s := &script{answer: func(context.Context, attempt) error {
			if up.Load() {
				return nil
			}
			return refused()
		}}
		c := s.client(t, 2, func(o *Options) { o.ConnectPatience = 2 * time.Second })
		begin := time.Now()
		if err := get(within(t, 20*time.Second), c); !errs.Is(err, errs.Unavailable) {
			t.Error(err)
		}
		if took := time.Since(begin); took < 2*time.Second || took > 4*time.Second {
			t.Errorf("gave up after %v", took)
		}
		up.Store(true)
		if err := get(within(t, time.Second), c); err != nil {
			t.Error(err)
		}
		up.Store(false)
		begin = time.Now()
		if err := get(within(t, 20*time.Second), c); !errs.Is(err, errs.Unavailable) {
			t.Error(err)
		}
		if took := time.Since(begin); took < 18*time.Second {
			t.Errorf("a cluster that has answered before was given up after %v", took)
		}
	})
}

func TestAClosedClientMakesNoCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: func(context.Context, attempt) error { return nil }}
		c := s.client(t, 2)
		if err := get(within(t, time.Second), c); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if err := get(within(t, time.Second), c); !errs.Is(err, errs.Canceled) || len(s.log) != 1 {
			t.Errorf("%v after %d attempts", err, len(s.log))
		}
		if s.open != 0 {
			t.Errorf("%d connections left open", s.open)
		}
	})
}

func TestTooLargeARequestIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: func(context.Context, attempt) error { return nil }}
		c := s.client(t, 1)
		_, err := c.Crypto().Encrypt(within(t, time.Second), &kryptonv1.EncryptRequest{Plaintext: make([]byte, MaxRequestBytes)})
		if !errs.Is(err, errs.TooLarge) || len(s.log) != 0 {
			t.Errorf("%v after %d attempts", err, len(s.log))
		}
	})
}

// TestEveryMethodHasAKind makes the author of a new method decide whether it can
// be sent twice.
func TestEveryMethodHasAKind(t *testing.T) {
	unsafeOnes := []string{"/krypton.v1.Admin/Init", "/krypton.v1.Admin/Join", "/krypton.v1.Seal/Contribute"}
	seen := map[string]bool{}
	protoregistry.GlobalFiles.RangeFilesByPackage("krypton.v1", func(fd protoreflect.FileDescriptor) bool {
		for i := range fd.Services().Len() {
			sd := fd.Services().Get(i)
			for j := range sd.Methods().Len() {
				m := sd.Methods().Get(j)
				name := fmt.Sprintf("/%s/%s", sd.FullName(), m.Name())
				seen[name] = true
				mt, err := protoregistry.GlobalTypes.FindMessageByName(m.Input().FullName())
				if err != nil {
					t.Fatal(err)
				}
				k := kindOf(name, mt.New().Interface())
				if listed := slices.Contains(unsafeOnes, name); listed != (k == kindUnsafe) {
					t.Errorf("%s: kind %d, listed as unsafe: %v", name, k, listed)
				}
				if _, isSafe := safe[name]; isSafe && requestIDField(mt.New().Interface()) != nil {
					t.Errorf("%s is listed as changing nothing but has a request id", name)
				}
			}
		}
		return true
	})
	if len(seen) < 50 {
		t.Fatalf("only %d methods found", len(seen))
	}
	for name := range safe {
		if !seen[name] {
			t.Errorf("%s is no method of the API", name)
		}
	}
}

func TestPlainWords(t *testing.T) {
	t.Parallel()
	for msg, want := range map[string]string{
		`connection error: desc = "transport: Error while dialing: dial tcp 127.0.0.1:1: connect: connection refused"`:         "connection refused",
		`connection error: desc = "transport: Error while dialing: dial tcp [::1]:1: connect: no route to host"`:               "no route to host",
		`connection error: desc = "transport: Error while dialing: dial tcp: lookup nosuch.invalid: no such host"`:             "lookup nosuch.invalid: no such host",
		`connection error: desc = "transport: Error while dialing: dial tcp 10.0.0.1:1: i/o timeout"`:                          "i/o timeout",
		`connection error: desc = "transport: authentication handshake failed: read tcp 1->2: read: connection reset by peer"`: "authentication handshake failed: read tcp 1->2: read: connection reset by peer",
		"error reading from server: EOF": "error reading from server: EOF",
		"":                               "",
	} {
		if got := plainWords(msg); got != want {
			t.Errorf("%q: %q, want %q", msg, got, want)
		}
	}
}
