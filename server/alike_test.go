package server_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/client/rest"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// doors are the two ways in which the Go client reaches a node.
var doors = []string{"gRPC", "REST"}

// sdk returns the client of a person over a door, for the given members.
func (w *world) sdk(t testing.TB, door, person string, members []*member, set ...func(*client.Options)) *client.Client {
	t.Helper()
	// A long attempt: on a machine that is busy with other tests, a node that is
	// slow must not look like one that is away.
	o := client.Options{TLS: w.tlsConfig(w.certOf(person)...), Timeout: 15 * time.Second}
	for _, m := range members {
		if door == "REST" {
			o.Addrs = append(o.Addrs, "https://"+m.addrs.REST)
		} else {
			o.Addrs = append(o.Addrs, m.addrs.GRPC)
		}
	}
	all := []func(*client.Options){client.With(o)}
	if door == "REST" {
		all = append(all, rest.Use())
	}
	c, err := client.New(t.Context(), append(all, set...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestI7_TheClientIsAnsweredAlike tells the story of both doors through the Go
// client, over gRPC and over HTTP/JSON: the same message or the same error, and
// the same of what stands beside it.
func TestI7_TheClientIsAnsweredAlike(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	w.tenant("acme", "pay")
	w.tenant("other", "pay")
	w.l1("fresh-l1")
	clients := map[string]*client.Client{}
	as := func(door, who string) *client.Client {
		if clients[door+who] == nil {
			clients[door+who] = w.sdk(t, door, who, w.members)
		}
		return clients[door+who]
	}
	told := map[string]bool{}
	for n, c := range conformance(w) {
		told[c.method] = true
		name := fmt.Sprintf("%03d %s by %s %s", n, c.method, c.who, c.want)
		req := withRequestID(c.req)
		// One trace, so that both calls have one correlation id.
		id := strings.ReplaceAll(uuid.NewString(), "-", "")
		ctx := metadata.AppendToOutgoingContext(limited(t), "traceparent", "00-"+id+"-00f067aa0ba902b7-01")
		var answers [2]proto.Message
		var infos [2]client.Info
		var said [2]refusal
		for i, door := range doors {
			answers[i] = responseOf(t, c.method)
			err := as(door, c.who).Invoke(ctx, "/krypton.v1."+strings.Replace(c.method, ".", "/", 1), proto.Clone(req), answers[i], client.Capture(&infos[i]))
			said[i] = refusalOf(err)
			if said[i].Code != c.want {
				t.Errorf("%s: over %s the client gets %s (%v)", name, door, said[i].Code, err)
			}
		}
		if diff := cmp.Diff(said[0], said[1]); diff != "" {
			t.Errorf("%s: errors differ (-gRPC +REST):\n%s", name, diff)
		}
		opts := []cmp.Option{protocmp.Transform()}
		for _, f := range c.fresh {
			opts = append(opts, protocmp.IgnoreMessages(f))
		}
		if diff := cmp.Diff(answers[0], answers[1], opts...); diff != "" {
			t.Errorf("%s: answers differ (-gRPC +REST):\n%s", name, diff)
		}
		a, b := infos[0], infos[1]
		if a.CorrelationID != b.CorrelationID || strings.ReplaceAll(a.CorrelationID, "-", "") != id || a.RequestID != b.RequestID || a.Node != b.Node || a.Node == "" || b.Index < a.Index || a.Index == 0 {
			t.Errorf("%s: beside the answer stands\n%+v over gRPC\n%+v over REST", name, a, b)
		}
	}
	for _, d := range services() {
		for _, m := range d.Methods {
			if name := strings.TrimPrefix(d.ServiceName, "krypton.v1.") + "." + m.MethodName; !told[name] {
				t.Errorf("%s has no line in the story", name)
			}
		}
	}

	// What is refused before it is sent, and names that fit no path: the words of
	// the second kind are the node's over gRPC and the client's over REST.
	for name, call := range map[string]func(ctx context.Context, c *client.Client) error{
		"no scope": func(ctx context.Context, c *client.Client) error {
			_, err := c.Encrypt(ctx, client.Scope{}, nil)
			return err
		},
		"too large": func(ctx context.Context, c *client.Client) error {
			_, err := c.Encrypt(ctx, client.Scope{Service: "tenants/acme/services/pay"}, make([]byte, client.MaxPlaintextBytes+1))
			return err
		},
		"request too large": func(ctx context.Context, c *client.Client) error {
			_, err := c.Crypto().Encrypt(ctx, &kryptonv1.EncryptRequest{Service: "tenants/acme/services/pay", Plaintext: make([]byte, client.MaxRequestBytes)})
			return err
		},
		"just not too large": func(ctx context.Context, c *client.Client) error {
			_, err := c.Crypto().Encrypt(ctx, &kryptonv1.EncryptRequest{Service: "tenants/acme/services/pay", Plaintext: make([]byte, client.MaxPlaintextBytes+1)})
			return err
		},
	} {
		a, b := refusalOf(call(limited(t), as("gRPC", "workload/acme"))), refusalOf(call(limited(t), as("REST", "workload/acme")))
		if diff := cmp.Diff(a, b); diff != "" || a.Code == errs.Unspecified || a.Hint == "" {
			t.Errorf("%s (-gRPC +REST):\n%s\n%+v", name, diff, a)
		}
	}
	for name, call := range map[string]func(ctx context.Context, c *client.Client) error{
		"no name": func(ctx context.Context, c *client.Client) error {
			_, err := c.Tenants().GetTenant(ctx, &kryptonv1.GetTenantRequest{})
			return err
		},
		"a short name": func(ctx context.Context, c *client.Client) error {
			_, err := c.Services().RotateService(ctx, &kryptonv1.RotateServiceRequest{Name: "acme/pay"})
			return err
		},
		"no parent": func(ctx context.Context, c *client.Client) error {
			_, err := c.Services().ListServices(ctx, &kryptonv1.ListServicesRequest{})
			return err
		},
		"a version of nothing": func(ctx context.Context, c *client.Client) error {
			_, err := c.Services().GetVersion(ctx, &kryptonv1.GetVersionRequest{Name: "versions/1"})
			return err
		},
	} {
		for _, door := range doors {
			if err := call(limited(t), as(door, "governor")); codeOf(err) != errs.InvalidArgument || refusalOf(err).Hint == "" {
				t.Errorf("%s over %s: %v", name, door, err)
			}
		}
	}
}

// touch excuses calls that met a node which had lost its leader, as nodes do on a
// machine that is busy with other tests: of so few nodes, none may then be left.
type touch struct{ lost atomic.Bool }

func (x *touch) watch(o *client.Options) {
	next := o.OnRetry
	o.OnRetry = func(r client.Retry) {
		if codeOf(r.Err) == errs.NotServing {
			x.lost.Store(true)
		}
		if next != nil {
			next(r)
		}
	}
}

// excuses reports whether err is such a call's end, and forgets the call.
func (x *touch) excuses(err error) bool {
	return x.lost.Swap(false) && err != nil || codeOf(err) == errs.NotServing
}

// TestI7_TheClientRetriesAlike: what happens to one node happens to the calls of
// no client, over neither door.
func TestI7_TheClientRetriesAlike(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	w.tenant("acme", "pay")
	scope := client.Scope{Service: "tenants/acme/services/pay"}

	// A request id is one, whichever door it comes through.
	id := uuid.NewString()
	var first *kryptonv1.Service
	for _, door := range []string{"gRPC", "REST", "gRPC"} {
		c := w.sdk(t, door, "governor", w.members)
		got, err := c.Services().RotateService(limited(t), &kryptonv1.RotateServiceRequest{Name: scope.Service, RequestId: id})
		if err != nil {
			t.Fatalf("%s: %v", door, err)
		}
		if first == nil {
			first = got
		}
		if diff := cmp.Diff(first, got, protocmp.Transform()); diff != "" || got.GetPrimaryVersion() != 2 {
			t.Errorf("%s: a repeated request is answered otherwise (-first +now):\n%s", door, diff)
		}
		_, err = c.Services().RotateService(limited(t), &kryptonv1.RotateServiceRequest{Name: scope.Service + "x", RequestId: id})
		if codeOf(err) != errs.RequestReplayed {
			t.Errorf("%s: another request under the id: %v", door, err)
		}
	}

	// The caller's own end.
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	late, cancelLate := context.WithDeadline(context.Background(), time.Unix(0, 0))
	defer cancelLate()
	for _, door := range doors {
		c := w.sdk(t, door, "workload/acme", w.members)
		if _, err := c.GenerateDataKey(ended, scope, 0); codeOf(err) != errs.Canceled {
			t.Errorf("%s: a cancelled call: %v", door, err)
		}
		if _, err := c.GenerateDataKey(late, scope, 0); codeOf(err) != errs.DeadlineExceeded {
			t.Errorf("%s: a late call: %v", door, err)
		}
	}

	// Load over both doors while one node is sealed and another one stops.
	calls := map[string]*atomic.Int64{}
	stop, done := make(chan struct{}), make(chan error, len(doors))
	for _, door := range doors {
		calls[door] = new(atomic.Int64)
		var touch touch
		c := w.sdk(t, door, "workload/acme", w.members, touch.watch)
		go func() {
			for {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				key, err := c.GenerateDataKey(limited(t), scope, 0)
				if err == nil {
					_, err = c.UnwrapDataKey(limited(t), scope, key.Wrapped)
				}
				switch {
				case touch.excuses(err):
				case err != nil:
					done <- fmt.Errorf("%s: %w", door, err)
					return
				default:
					calls[door].Add(1)
				}
			}
		}()
	}
	more := func(n int64) {
		for _, door := range doors {
			want := calls[door].Load() + n
			until(t, "calls went on over "+door, func() error {
				if got := calls[door].Load(); got < want && len(done) == 0 {
					return fmt.Errorf("%d of %d", got, want)
				}
				return nil
			})
		}
	}
	more(20)
	victim := w.members[2]
	op := w.sdk(t, "REST", "operator", []*member{victim})
	if _, err := kryptonv1.NewSealClient(op).SealNode(limited(t), &kryptonv1.SealNodeRequest{}); err != nil {
		t.Fatal(err)
	}
	more(50)
	// A client that knows nothing yet draws its first node: of twenty, some draw
	// the sealed one, and their calls succeed on the other.
	for _, door := range doors {
		retried := 0
		for range 20 {
			var touch touch
			c := w.sdk(t, door, "workload/acme", []*member{victim, w.members[0]}, func(o *client.Options) {
				o.OnRetry = func(r client.Retry) {
					if codeOf(r.Err) == errs.Sealed && r.Attempt == 1 && r.Delay == 0 {
						retried++
					}
				}
			}, touch.watch)
			until(t, "a call is answered", func() error {
				_, err := c.GenerateDataKey(limited(t), scope, 0)
				if touch.excuses(err) {
					return err
				}
				if err != nil {
					t.Errorf("%s: %v", door, err)
				}
				return nil
			})
		}
		if retried == 0 {
			t.Errorf("%s: no call came to the sealed node", door)
		}
	}
	// Asked alone, the sealed node says the same over both doors.
	var said [2]refusal
	for i, door := range doors {
		c := w.sdk(t, door, "workload/acme", []*member{victim})
		_, err := c.GenerateDataKey(limited(t), scope, 0)
		said[i] = refusalOf(err)
		sdk := w.sdk(t, door, "auditor", w.members)
		until(t, "health says which node is sealed over "+door, func() error {
			h := sdk.Health(limited(t))
			if len(h) != 3 || h[0].Err != nil || h[0].Serving != client.ServingYes || !h[2].Sealed() || h[2].Serving != client.ServingNo || h[2].Name != victim.name {
				return fmt.Errorf("%+v", h)
			}
			return nil
		})
	}
	if diff := cmp.Diff(said[0], said[1]); diff != "" || said[0].Code != errs.Sealed {
		t.Errorf("a sealed node (-gRPC +REST):\n%s\n%+v", diff, said[0])
	}
	victim.close()
	more(50)
	close(stop)
	for range doors {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
