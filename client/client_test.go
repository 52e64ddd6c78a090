package client_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/client/clienttest"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var payments = client.Scope{Service: "tenants/demo/services/payments", Resource: "orders/7", Context: map[string]string{"purpose": "invoice", "a": ""}}

func start(t testing.TB) *clienttest.Cluster {
	t.Helper()
	c := clienttest.Start(t, clienttest.Options{})
	if err := c.AddService("demo", "payments"); err != nil {
		t.Fatal(err)
	}
	return c
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestDataKeysOpenOnlyInTheirScope(t *testing.T) {
	c := start(t).Client(t, "demo")
	ctx := within(t, time.Minute)
	key, err := c.GenerateDataKey(ctx, payments, 0)
	if err != nil {
		t.Fatal(err)
	}
	if key.Plaintext.Len() != 32 || key.KeyVersion != "tenants/demo/services/payments/versions/1" {
		t.Errorf("key of %d bytes under %s", key.Plaintext.Len(), key.KeyVersion)
	}
	again, err := c.UnwrapDataKey(ctx, payments, key.Wrapped)
	if err != nil || !bytes.Equal(again.Plaintext.Bytes(), key.Plaintext.Bytes()) {
		t.Fatalf("unwrap: %v", err)
	}
	rewrapped, previous, err := c.RewrapDataKey(ctx, payments, key.Wrapped)
	if err != nil || previous != key.KeyVersion || rewrapped.Plaintext.Bytes() != nil {
		t.Fatalf("rewrap: %v, previous %q", err, previous)
	}
	again, err = c.UnwrapDataKey(ctx, payments, rewrapped.Wrapped)
	if err != nil || !bytes.Equal(again.Plaintext.Bytes(), key.Plaintext.Bytes()) {
		t.Fatalf("unwrap after rewrap: %v", err)
	}
	wrong := payments
	wrong.Context = map[string]string{"purpose": "other", "a": ""}
	if _, err := c.UnwrapDataKey(ctx, wrong, key.Wrapped); !errs.Is(err, errs.Integrity) {
		t.Errorf("other context: %v", err)
	}
	if _, err := c.GenerateDataKey(ctx, payments, 65); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("65 bytes: %v", err)
	}
}

func TestEncryptAndDecrypt(t *testing.T) {
	c := start(t).Client(t, "demo")
	ctx := within(t, time.Minute)
	ct, err := c.Encrypt(ctx, payments, []byte("pay 5"))
	if err != nil {
		t.Fatal(err)
	}
	pt, err := c.Decrypt(ctx, payments, ct)
	if err != nil || string(pt.Bytes()) != "pay 5" {
		t.Fatalf("decrypt: %q, %v", pt.Bytes(), err)
	}
	ct[len(ct)-1] ^= 1
	if _, err := c.Decrypt(ctx, payments, ct); !errs.Is(err, errs.Integrity) {
		t.Errorf("a flipped bit: %v", err)
	}
	if _, err := c.Encrypt(ctx, payments, make([]byte, client.MaxPlaintextBytes+1)); !errs.Is(err, errs.TooLarge) {
		t.Errorf("more than the limit: %v", err)
	}
	if _, err := c.Encrypt(ctx, payments, make([]byte, client.MaxPlaintextBytes)); err != nil {
		t.Errorf("the limit itself: %v", err)
	}
}

// TestG4_NoCallFailsWhenANodeDies kills each node in turn under load, over real
// TLS connections.
func TestG4_NoCallFailsWhenANodeDies(t *testing.T) {
	cluster := start(t)
	c := cluster.Client(t, "demo")
	const workers = 16
	var calls, failed atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				if _, err := c.GenerateDataKey(ctx, payments, 0); err != nil {
					failed.Add(1)
					t.Errorf("call %d: %v", calls.Load(), err)
				}
				cancel()
				calls.Add(1)
			}
		})
	}
	// The load itself is the clock: each step waits for calls, not for time.
	more := func(n int64) {
		for want := calls.Load() + n; calls.Load() < want && failed.Load() == 0; {
			if _, err := c.GenerateDataKey(within(t, 5*time.Second), payments, 0); err != nil {
				t.Error(err)
				return
			}
		}
	}
	for i := range 3 {
		more(200)
		cluster.Kill(i)
		more(500)
		if err := cluster.Restart(i); err != nil {
			t.Fatal(err)
		}
		more(200)
	}
	close(stop)
	wg.Wait()
	if failed.Load() != 0 || calls.Load() < 2000 {
		t.Errorf("%d of %d calls failed", failed.Load(), calls.Load())
	}
}

// TestI1_AMutationActsOnceWhenItsAnswerIsLost loses the answer after the node
// has acted.
func TestI1_AMutationActsOnceWhenItsAnswerIsLost(t *testing.T) {
	cluster := start(t)
	var lost atomic.Int32
	cluster.After(func(_ context.Context, _ int, method string, _ proto.Message) error {
		if strings.HasSuffix(method, "/RotateService") && lost.Add(1) <= 2 {
			return status.Error(codes.Unavailable, "connection reset by peer")
		}
		return nil
	})
	c := cluster.Client(t, "")
	var info client.Info
	svc, err := c.Services().RotateService(within(t, time.Minute), &kryptonv1.RotateServiceRequest{Name: payments.Service}, client.Capture(&info))
	if err != nil {
		t.Fatal(err)
	}
	if svc.GetPrimaryVersion() != 2 || len(svc.GetVersions()) != 2 || info.Attempts != 3 {
		t.Errorf("primary %d of %d versions after %d attempts", svc.GetPrimaryVersion(), len(svc.GetVersions()), info.Attempts)
	}
}

// TestI4_OverARealConnectionAnUnansweredMutationIsIndeterminate kills the only
// node while it works on a mutation: gRPC says UNAVAILABLE, as for a connection
// that was refused.
func TestI4_OverARealConnectionAnUnansweredMutationIsIndeterminate(t *testing.T) {
	cluster := clienttest.Start(t, clienttest.Options{Nodes: 1})
	if err := cluster.AddService("demo", "payments"); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	cluster.Before(func(_ context.Context, _ int, _ string, _ proto.Message) error {
		once.Do(func() { go cluster.Kill(0) })
		<-t.Context().Done() // the call ends with its connection
		return nil
	})
	c := cluster.Client(t, "")
	rotate := func() error {
		_, err := c.Services().RotateService(within(t, time.Second), &kryptonv1.RotateServiceRequest{Name: payments.Service})
		return err
	}
	if err := rotate(); !errs.Is(err, errs.Indeterminate) {
		t.Errorf("killed while acting: %v", err)
	}
	if err := rotate(); !errs.Is(err, errs.Unavailable) {
		t.Errorf("dead from the start: %v", err)
	}
}

func TestErrorsArriveAsTheyWereSaid(t *testing.T) {
	cluster := start(t)
	c := cluster.Client(t, "demo")
	var info client.Info
	var err error
	// On a busy machine a connection may take longer than an attempt, which is made
	// again then. A refusal is not: one of many calls takes one attempt.
	for range 20 {
		info = client.Info{}
		_, err = c.GenerateDataKey(within(t, time.Minute), client.Scope{Service: "tenants/demo/services/none"}, 0, client.Capture(&info))
		if info.Attempts == 1 && errs.Is(err, errs.NotFound) {
			break
		}
	}
	e := errs.From(err)
	if e.Code != errs.NotFound || e.Msg != "no such service" || e.Hint != "list them with: krypton service list" {
		t.Errorf("got %v %q %q", e.Code, e.Msg, e.Hint)
	}
	if len(info.CorrelationID) != 36 || info.Node == "" || info.Index == 0 || info.Attempts != 1 {
		t.Errorf("info of a failed call: %+v", info)
	}
}

func TestInfoIsThereWhenNoNodeWasReached(t *testing.T) {
	cluster := start(t)
	c := cluster.Client(t, "demo")
	cluster.Stop()
	var info client.Info
	_, err := c.GenerateDataKey(within(t, time.Second), payments, 0, client.Capture(&info))
	if !errs.Is(err, errs.Unavailable) || len(info.CorrelationID) != 36 || info.Node != "" {
		t.Errorf("%v, info %+v", err, info)
	}
}

func TestNodeAsksThatNodeAlone(t *testing.T) {
	cluster := start(t)
	c := cluster.Client(t, "")
	for i, addr := range cluster.Addrs() {
		nd := c.Node(addr)
		st, err := nd.Seal().GetSeal(within(t, time.Minute), &kryptonv1.GetSealRequest{})
		if err != nil || st.GetNodeId() != fmt.Sprintf("n%d", i+1) {
			t.Errorf("node %d answered as %q, %v", i, st.GetNodeId(), err)
		}
		if err := nd.Close(); err != nil {
			t.Error(err)
		}
	}
	cluster.Kill(1)
	if _, err := c.Node(cluster.Addrs()[1]).Seal().GetSeal(within(t, time.Minute), &kryptonv1.GetSealRequest{}); !errs.Is(err, errs.Unavailable) {
		t.Errorf("dead node: %v", err)
	}
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	cluster := start(t)
	cert, key, err := cluster.Workload("demo", "x")
	if err != nil {
		t.Fatal(err)
	}
	good := client.Options{Addrs: []string{"h:1"}, CAFile: cluster.CAFile(), CertFile: cert, KeyFile: key}
	junk := t.TempDir() + "/junk"
	if err := os.WriteFile(junk, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*client.Options){
		"no address":       func(o *client.Options) { o.Addrs = nil },
		"empty address":    func(o *client.Options) { o.Addrs = []string{""} },
		"many addresses":   func(o *client.Options) { o.Addrs = make([]string, 65) },
		"no identity":      func(o *client.Options) { o.KeyFile = "" },
		"no CA":            func(o *client.Options) { o.CAFile = junk + "none" },
		"junk CA":          func(o *client.Options) { o.CAFile = junk },
		"junk certificate": func(o *client.Options) { o.CertFile = junk },
		"files and TLS":    func(o *client.Options) { o.TLS = &tls.Config{} },
		"negative timeout": func(o *client.Options) { o.Timeout = -1 },
		"verifies nobody": func(o *client.Options) {
			o.CAFile, o.CertFile, o.KeyFile = "", "", ""
			o.TLS = &tls.Config{InsecureSkipVerify: true}
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := good
			change(&o)
			if c, err := client.New(t.Context(), client.With(o)); !errs.Is(err, errs.InvalidConfig) {
				t.Errorf("got %v, %v", c, err)
			}
		})
	}
	c, err := client.New(t.Context(), client.With(good))
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}

func TestARenewedCertificateIsUsedWithoutARestart(t *testing.T) {
	cluster := start(t)
	cert, key, err := cluster.Workload("other", "x")
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(t.Context(), client.With(client.Options{Addrs: cluster.Addrs()[:1], CAFile: cluster.CAFile(), CertFile: cert, KeyFile: key}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.GenerateDataKey(within(t, time.Minute), payments, 0); !errs.Is(err, errs.NotFound) {
		t.Fatalf("another tenant: %v", err)
	}
	cert2, key2, err := cluster.Workload("demo", "x")
	if err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{cert2: cert, key2: key} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cluster.Kill(0)
	if err := cluster.Restart(0); err != nil {
		t.Fatal(err)
	}
	if _, err := c.GenerateDataKey(within(t, time.Minute), payments, 0); err != nil {
		t.Errorf("with the new certificate: %v", err)
	}
}

// TestI6_ASecretNeverShowsItself sweeps verbs, shapes and encoders.
func TestI6_ASecretNeverShowsItself(t *testing.T) {
	const sentinel = "SENTINEL"
	s := client.NewSecret([]byte(sentinel))
	key := client.DataKey{Plaintext: s}
	type box struct{ hidden client.Secret }
	for _, v := range []any{s, &s, key, &key, box{s}, []client.Secret{s}, map[string]client.Secret{"a": s}, struct{ P *client.Secret }{&s}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%p"} {
			out := fmt.Sprintf(verb, v)
			if strings.Contains(out, sentinel) || strings.Contains(out, "83 69") || strings.Contains(strings.ToLower(out), "53454e") {
				t.Errorf("%s of %T shows the secret: %s", verb, v, out)
			}
		}
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).InfoContext(t.Context(), "x", slog.Any("v", v))
		slog.New(slog.NewJSONHandler(&log, nil)).InfoContext(t.Context(), "x", slog.Any("v", v))
		if strings.Contains(log.String(), sentinel) || strings.Contains(log.String(), "U0VOVElORUw") {
			t.Errorf("a log shows the secret in %T: %s", v, log.String())
		}
	}
	if _, err := json.Marshal(s); err == nil {
		t.Error("JSON encoding works")
	}
	if err := gob.NewEncoder(&bytes.Buffer{}).Encode(s); err == nil {
		t.Error("gob encoding works")
	}
	if _, err := s.MarshalText(); err == nil {
		t.Error("text encoding works")
	}
	if _, err := s.MarshalBinary(); err == nil {
		t.Error("binary encoding works")
	}
}

func TestI6_WipeOverwritesTheBytes(t *testing.T) {
	b := []byte("SENTINEL")
	s := client.NewSecret(b)
	dup := s
	dup.Wipe()
	s.Wipe()
	if !bytes.Equal(b, make([]byte, 8)) || s.Bytes() != nil || s.Len() != 0 {
		t.Errorf("after wiping: %q, %q", b, s.Bytes())
	}
	client.Secret{}.Wipe()
}

// TestTheSDKImportsLittle keeps the closure of the SDK small: whoever embeds it
// must not inherit a database or a cloud SDK.
func TestTheSDKImportsLittle(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	const self = "github.com/openkcm/krypton-cluster/"
	allowed := []string{
		self + "client", self + "api/", self + "internal/errs", self + "internal/clock", self + "internal/answer",
		"google.golang.org/", "golang.org/x/net", "golang.org/x/sys", "golang.org/x/text",
	}
next:
	for p := range strings.FieldsSeq(string(out)) {
		for _, a := range allowed {
			if p == a || strings.HasPrefix(p, strings.TrimSuffix(a, "/")+"/") {
				continue next
			}
		}
		t.Errorf("the SDK imports %s", p)
	}
}
