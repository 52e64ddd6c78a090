package command

import (
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/client/clienttest"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/intent/orders"
	"github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

// door is a command line in front of nodes that verify nothing: what they say of an
// approval is what the test wants them to say. It is for lies; what honest nodes do
// is in testdata/real/approval.txtar.
type door struct {
	cluster *clienttest.Cluster
	clk     *clock.Fake
	dir     string
	keys    map[string]string // of persons
	stdin   *os.File          // of commands; nil: an empty file
}

func newDoor(t *testing.T, rules ...*kryptonv1.IntentRule) *door {
	t.Helper()
	d := &door{
		cluster: clienttest.Start(t, clienttest.Options{Nodes: 2, Rules: rules}), clk: clock.NewFake(time.UnixMilli(1_700_000_000_000)), dir: t.TempDir(),
		keys: map[string]string{},
	}
	if err := d.cluster.AddService("demo", "payments"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"gabi", "gerd"} {
		_, key, err := d.cluster.Person("governor", name)
		if err != nil {
			t.Fatal(err)
		}
		d.keys[name] = key
	}
	return d
}

// output is what a command said, and how it ended.
type output struct {
	status         int
	stdout, stderr string
}

// run gives a command as somebody.
func (d *door) run(t *testing.T, who string, args ...string) output {
	t.Helper()
	dir := t.TempDir()
	file := func(name string) *os.File {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	vars := map[string]string{
		"XDG_CONFIG_HOME": d.dir, "KRYPTON_ADDR": strings.Join(d.cluster.Addrs(), ","), "KRYPTON_CA_FILE": d.cluster.CAFile(),
		"KRYPTON_CERT_FILE": strings.TrimSuffix(d.keys[who], ".key") + ".pem", "KRYPTON_KEY_FILE": d.keys[who],
	}
	env := &Env{
		Stdin: file("stdin"), Stdout: file("stdout"), Stderr: file("stderr"), Clock: d.clk, Version: "test", cleanup: map[int]func(){},
		Getenv: func(k string) string { return vars[k] },
	}
	if d.stdin != nil {
		env.Stdin = d.stdin
	}
	out := output{status: env.main(Tree(), args)}
	for name, at := range map[string]*string{"stdout": &out.stdout, "stderr": &out.stderr} {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		*at = string(raw)
	}
	return out
}

// client speaks to the nodes as somebody.
func (d *door) client(t *testing.T, who string) *client.Client {
	t.Helper()
	c, err := client.New(t.Context(), client.With(client.Options{
		Addrs: d.cluster.Addrs(), CAFile: d.cluster.CAFile(), CertFile: strings.TrimSuffix(d.keys[who], ".key") + ".pem", KeyFile: d.keys[who],
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// asks has the nodes show a request of gabi's for r, as change has it.
func (d *door) asks(t *testing.T, r *intent.Request, signer string, change func(in *intent.Intent, r *kryptonv1.CreateApprovalRequest)) *kryptonv1.Approval {
	t.Helper()
	key, err := sign.OpenKey(d.keys[signer], rand.Reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	space, err := hierarchy.ParseKeyspaceID(clienttest.KeyspaceID)
	if err != nil {
		t.Fatal(err)
	}
	in := intent.Intent{Keyspace: space, Act: r.Act(), Request: r.Digest(), NotAfter: d.clk.Now().Add(time.Hour).UnixMilli(), Nonce: intent.Nonce{2}}
	asked, err := anypb.New(&kryptonv1.DeleteTenantRequest{Name: "tenants/demo"})
	if err != nil {
		t.Fatal(err)
	}
	create := &kryptonv1.CreateApprovalRequest{Request: asked, CanonicalRequest: r.Canonical()}
	if change != nil {
		change(&in, create)
	}
	sig, err := key.Sign(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := in.Encode()
	if err != nil {
		t.Fatal(err)
	}
	create.Signature = &kryptonv1.SignedIntent{Intent: encoded, KeyId: sig.Key[:], Signature: sig.Sig}
	a, err := d.client(t, "gabi").Approvals().CreateApproval(t.Context(), create)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func destroyByOthers() *kryptonv1.IntentRule {
	return &kryptonv1.IntentRule{Act: intent.ActDestroy.String(), Governors: 1}
}

func TestWhatOthersHaveToSignIsAskedFor(t *testing.T) {
	t.Parallel()
	d := newDoor(t, destroyByOthers())
	asked := d.run(t, "gabi", "tenant", "delete", "demo", "--yes")
	name := strings.TrimSpace(asked.stdout)
	if asked.status != errs.ExitPending || asked.stdout != name+"\n" {
		t.Fatalf("%+v", asked)
	}
	for _, bad := range situationtest.ExitDiff("cli/approval-waits", asked.status, asked.stderr) {
		t.Error(bad)
	}
	for _, want := range []string{
		"You sign, for keyspace " + clienttest.KeyspaceID + ", as the nodes say; no context remembers it:\ndestroy (act 8): destroy key material",
		"  only if tenants/demo has not changed since index 1\n", "  usable until 2023-11-15T22:13:20Z\n",
	} {
		if !strings.Contains(asked.stderr, want) {
			t.Errorf("it does not say %q:\n%s", want, asked.stderr)
		}
	}

	// Programs get the object, and an error for programs.
	again := d.run(t, "gabi", "tenant", "delete", "demo", "--yes", "--output", "json")
	var a kryptonv1.Approval
	if err := protojson.Unmarshal([]byte(again.stdout), &a); err != nil || again.status != errs.ExitPending || a.GetRequester() != "governor/gabi" {
		t.Errorf("%v: %+v", err, again)
	}
	if strings.Contains(again.stderr, "You sign") || !strings.Contains(again.stderr, `"code":"APPROVAL_PENDING"`) {
		t.Errorf("a program reads %s", again.stderr)
	}
	if a.GetName() == name {
		t.Error("a second request is the same one")
	}

	list := d.run(t, "gerd", "approval", "list")
	if lines := strings.Split(list.stdout, "\n"); list.status != 0 || len(lines) != 4 || !strings.Contains(list.stdout, strings.TrimPrefix(name, approvalPrefix)+"  pending  destroy  tenants/demo  governor/gabi  1 governor") {
		t.Errorf("%+v", list)
	}

	// It is shown, and signed only by who says so.
	unsure := d.run(t, "gerd", "approval", "approve", name)
	for _, bad := range situationtest.ExitDiff("cli/not-confirmed", unsure.status, unsure.stderr) {
		t.Error(bad)
	}
	if !strings.Contains(unsure.stderr, `tenant: "demo"`) || !strings.Contains(unsure.stderr, "you sign what stands above, which governor/gabi asks for, for keyspace "+clienttest.KeyspaceID) {
		t.Errorf("it is not shown:\n%s", unsure.stderr)
	}
	own := d.run(t, "gabi", "approval", "approve", name, "--yes")
	if own.status != errs.ExitDenied || !strings.Contains(own.stderr, "the requester cannot be one of the signers") {
		t.Errorf("%+v", own)
	}
	done := d.run(t, "gerd", "approval", "approve", name, "--yes")
	if done.status != errs.ExitOK || !strings.Contains(done.stdout, "state:     executed\n") {
		t.Errorf("%+v", done)
	}
	late := d.run(t, "gerd", "approval", "approve", name, "--yes")
	for _, bad := range situationtest.ExitDiff("cli/approval-done", late.status, late.stderr) {
		t.Error(bad)
	}
	if got := d.run(t, "gerd", "approval", "get", name); got.status != errs.ExitOK || !strings.Contains(got.stdout, "asked by governor/gabi (roleBindings/gabi)") || strings.Contains(got.stdout, "NOT PROVED") {
		t.Errorf("%+v", got)
	}
	if got := d.run(t, "gerd", "approval", "list", "--state", "executed"); strings.Count(got.stdout, "\n") != 2 {
		t.Errorf("%+v", got)
	}
}

// What a node says is believed only as far as signatures and names prove it; else
// nothing is signed.
func TestALyingNodeGetsNoSignature(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		signer string // whose signature is shown as that of gabi, who asks
		args   []string
		change func(in *intent.Intent, r *kryptonv1.CreateApprovalRequest)
		status int
		says   string
		row    string
	}{
		"another request is shown than the one that is signed": {
			"gabi", nil,
			func(_ *intent.Intent, r *kryptonv1.CreateApprovalRequest) {
				r.CanonicalRequest = intent.Destroy{Tenant: "harmless"}.Request().Canonical()
			},
			errs.ExitIntegrity, "is over another request than the one that is shown", "",
		},
		"somebody else asked": {"gerd", nil, nil, errs.ExitState, "NOT PROVED: the role binding does not have the key", "cli/approval-not-proved"},
		"it is for another cluster": {
			"gabi", nil, func(in *intent.Intent, _ *kryptonv1.CreateApprovalRequest) { in.Keyspace = hierarchy.KeyspaceID{9} },
			errs.ExitDenied, "intent is for another keyspace", "",
		},
		"it has expired": {
			"gabi", nil, func(in *intent.Intent, _ *kryptonv1.CreateApprovalRequest) { in.NotAfter = 1_700_000_000_000 },
			errs.ExitDenied, "intent has expired", "",
		},
		"nobody here knows what it orders": {
			"gabi", nil,
			func(in *intent.Intent, r *kryptonv1.CreateApprovalRequest) {
				later := intent.NewRequest(intent.ActDestroy).Text("planet", "earth")
				in.Request, r.CanonicalRequest = later.Digest(), later.Canonical()
			},
			errs.ExitState, "this release does not know what the request orders", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDoor(t, destroyByOthers())
			a := d.asks(t, intent.Destroy{Tenant: "demo"}.Request(), tc.signer, tc.change)
			got := d.run(t, "gerd", append([]string{"approval", "approve", a.GetName(), "--yes"}, tc.args...)...)
			if got.status != tc.status || !strings.Contains(got.stderr, tc.says) {
				t.Errorf("%+v", got)
			}
			if tc.row != "" {
				for _, bad := range situationtest.ExitDiff(tc.row, got.status, got.stderr) {
					t.Error(bad)
				}
			}
			now, err := d.client(t, "gerd").Approvals().GetApproval(t.Context(), &kryptonv1.GetApprovalRequest{Name: a.GetName()})
			if err != nil || len(now.GetSignatures()) != 1 {
				t.Errorf("%v: it was signed: %v", err, now.GetSignatures())
			}
		})
	}
	// The one that the others differ from.
	d := newDoor(t, destroyByOthers())
	a := d.asks(t, intent.Destroy{Tenant: "demo"}.Request(), "gabi", nil)
	if got := d.run(t, "gerd", "approval", "approve", a.GetName(), "--yes"); got.status != errs.ExitOK {
		t.Errorf("%+v", got)
	}
}

// TestWaitEndsAsTheRequestDoes lets the time of the command go on until others have
// decided, or until it is over.
func TestWaitEndsAsTheRequestDoes(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		decide func(t *testing.T, c *client.Client, name string) // nil: nobody does
		status int
		row    string
	}{
		"executed": {func(t *testing.T, c *client.Client, name string) {
			t.Helper()
			if _, err := c.Approvals().Approve(t.Context(), &kryptonv1.ApproveRequest{Name: name}); err != nil {
				t.Error(err)
			}
		}, errs.ExitOK, ""},
		"rejected": {func(t *testing.T, c *client.Client, name string) {
			t.Helper()
			if _, err := c.Approvals().Reject(t.Context(), &kryptonv1.RejectRequest{Name: name, Reason: "no"}); err != nil {
				t.Error(err)
			}
		}, errs.ExitDenied, "cli/approval-rejected"},
		"nobody decides": {nil, errs.ExitPending, "cli/approval-waits"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDoor(t, destroyByOthers())
			got := make(chan output, 1)
			go func() { got <- d.run(t, "gabi", "tenant", "delete", "demo", "--yes", "--wait", "1h") }()
			c, decided := d.client(t, "gerd"), false
			var out output
			for end := false; !end; {
				select {
				case out = <-got:
					end = true
				case <-t.Context().Done():
					t.Fatal("it never ended")
				default:
					if !decided {
						for a, err := range c.AllApprovals(t.Context(), "") {
							if err != nil {
								t.Fatal(err)
							}
							if decided = true; tc.decide != nil {
								tc.decide(t, c, a.GetName())
							}
						}
						continue
					}
					d.clk.Advance(time.Minute)
				}
			}
			if out.status != tc.status || !strings.HasPrefix(out.stdout, "approvals/") {
				t.Errorf("%+v", out)
			}
			if tc.row != "" {
				for _, bad := range situationtest.ExitDiff(tc.row, out.status, out.stderr) {
					t.Error(bad)
				}
			}
		})
	}
}

func TestOneSignatureThatMayBeOnesOwnAsksNobody(t *testing.T) {
	t.Parallel()
	d := newDoor(t, &kryptonv1.IntentRule{Act: intent.ActDestroy.String(), Governors: 1, RequesterCounts: true})
	if got := d.run(t, "gabi", "tenant", "delete", "demo", "--yes"); got.status != errs.ExitOK || strings.Contains(got.stdout, "approvals/") {
		t.Errorf("%+v", got)
	}
	if all := approvalsOf(t.Context(), t, d.client(t, "gabi")); len(all) != 0 {
		t.Errorf("it was asked for: %v", all)
	}
}

func approvalsOf(ctx context.Context, t *testing.T, c *client.Client) (names []string) {
	t.Helper()
	for a, err := range c.AllApprovals(ctx, "") {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, a.GetName())
	}
	return names
}

func TestApprovalsAreCompletedByTheirIDs(t *testing.T) {
	t.Parallel()
	d := newDoor(t, destroyByOthers())
	a := d.asks(t, intent.Destroy{Tenant: "demo"}.Request(), "gabi", nil)
	id := strings.TrimPrefix(a.GetName(), approvalPrefix)
	for _, tc := range []struct {
		words []string
		want  string
	}{
		{[]string{"approval", "approve", id[:4]}, id + "\n"},
		{[]string{"approval", "list", "--state", "e"}, "executed\nexpired\n"},
		{[]string{"operator", "join-token", "--approval", ""}, id + "\n"},
	} {
		got := output{}
		for got.stdout == "" && t.Context().Err() == nil { // who presses Tab does not wait for a busy machine
			got = d.run(t, "gerd", append([]string{"__complete", "--"}, tc.words...)...)
		}
		if got.stdout != tc.want {
			t.Errorf("%v: %+v", tc.words, got)
		}
	}
	if diff := cmp.Diff(orders.ApprovalName(a.GetIntent()), a.GetName()); diff != "" {
		t.Error(diff)
	}
}
