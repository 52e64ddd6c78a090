package command

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/intent/orders"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Requests that wait for the signatures of several people.

const approvalPrefix = "approvals/"

var approvalID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// approvalNameOf returns the name of an approval that a person gave: the id, or
// approvals/ID. An id cannot be shortened, because it says what will be signed.
func approvalNameOf(arg string) (string, error) {
	id := strings.TrimPrefix(arg, approvalPrefix)
	if !approvalID.MatchString(id) {
		return "", usagef("give the 32 hex digits, or approvals/ID; krypton approval list shows them", "%q names no approval", arg)
	}
	return approvalPrefix + id, nil
}

// approvalStates are the values of --state.
func approvalStates() []string {
	return []string{"open", "pending", "approved", "executed", "rejected", "expired", "failed"}
}

func waitFlag() cli.Flag {
	return &cli.DurationFlag{Name: "wait", Usage: "`DURATION` to wait until those who have to approve have, and it is done; default: not at all"}
}

func approvalCommands() *Command {
	g := group("approval", "requests that others have to approve",
		&Command{
			Name: "list", Usage: "list what waits, or did", Reach: Reads,
			About: "What it is about is made from what is signed, not from what the node says of it. MISSING is who still has to approve.",
			Examples: []string{
				"krypton approval list",
				"krypton approval list --state failed --output json",
			},
			Flags: []cli.Flag{&cli.StringFlag{Name: "state", Usage: "only those in `STATE`: pending, approved, executed, rejected, expired or failed; default: open, the first two"}},
			Run:   listApprovals,
		},
		&Command{
			Name: "get", Args: "APPROVAL", Usage: "show what is asked, by whom, who has approved, and what became of it", Reach: Reads, NArgs: [2]int{1, 1},
			About: "APPROVAL is ID or approvals/ID. Signatures are verified here, under keys that every node of --addr must name alike. The exit\n" +
				"status is that of the request: 0 once it was done, 9 while it waits.",
			Examples: []string{
				"krypton approval get 0123456789abcdef0123456789abcdef",
				"krypton approval get approvals/0123456789abcdef0123456789abcdef --wait 8h",
			},
			Flags: []cli.Flag{waitFlag()},
			Exits: []int{errs.ExitPending, errs.ExitIntegrity},
			Run: func(ctx context.Context, in *Invocation) error {
				a, c, err := in.getApproval(ctx)
				if err != nil {
					return err
				}
				if a, err = in.awaitApproval(ctx, c, a, in.c.Duration("wait")); err != nil {
					return err
				}
				if err := in.showApproval(ctx, c, a); err != nil {
					return err
				}
				return approvalError(a)
			},
		},
		&Command{
			Name: "approve", Args: "APPROVAL", Usage: "look at what is asked, and sign it", Reach: Changes, NArgs: [2]int{1, 1}, Exits: []int{errs.ExitIntegrity},
			About: "APPROVAL is ID or approvals/ID: have it told by who asks, since it names what you sign. Shows on stderr all that is signed,\n" +
				"made from its bytes on this machine, and who asks; that signature is verified under a key that every node of --addr must name\n" +
				"alike. Then it asks. What this release cannot show is not signed, nor anything for another keyspace than your context\n" +
				"remembers. With the last signature the cluster does it, and the answer says so.",
			Examples: []string{
				"krypton approval approve 0123456789abcdef0123456789abcdef",
				"krypton approval approve 0123456789abcdef0123456789abcdef --sign-key agent:gerd --yes",
			},
			Flags: []cli.Flag{signFlags()[0]},
			Waits: waitsForAll,
			Run:   approve,
		},
		&Command{
			Name: "reject", Args: "APPROVAL", Usage: "end a request that waits; it can be made again", Reach: Changes, NArgs: [2]int{1, 1},
			About:    "Whoever asks may, and whoever could approve. Nobody signs it.",
			Examples: []string{"krypton approval reject 0123456789abcdef0123456789abcdef --reason 'wrong tenant'"},
			Flags:    []cli.Flag{&cli.StringFlag{Name: "reason", Usage: "`TEXT` for people and the record, at most 256 bytes, no secret"}},
			Run: func(ctx context.Context, in *Invocation) error {
				name, err := approvalNameOf(in.args[0])
				if err != nil {
					return err
				}
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				a, err := call(ctx, in, c.Approvals().Reject, &kryptonv1.RejectRequest{Name: name, Reason: in.c.String("reason")})
				if err != nil {
					return err
				}
				return in.show(readable(a), func() string { return approvalSheet(a, nil) })
			},
		},
	)
	g.About = "A command that the cluster does only when several have signed makes a request for approval by itself, and prints its name.\n" +
		"The others look at it with krypton approval approve, and the cluster does it with the last signature, once."
	return g
}

func (in *Invocation) getApproval(ctx context.Context) (*kryptonv1.Approval, *client.Client, error) {
	name, err := approvalNameOf(in.args[0])
	if err != nil {
		return nil, nil, err
	}
	c, err := in.client(ctx)
	if err != nil {
		return nil, nil, err
	}
	a, err := call(ctx, in, c.Approvals().GetApproval, &kryptonv1.GetApprovalRequest{Name: name})
	if err != nil {
		return nil, nil, err
	}
	if a.GetName() != name {
		return nil, nil, errs.New(errs.Integrity, "the node answers with another approval than it was asked for", errs.Hint("ask another node with --addr, and look into this one"))
	}
	return a, c, nil
}

func listApprovals(ctx context.Context, in *Invocation) error {
	state := in.c.String("state")
	if state != "" && !slices.Contains(approvalStates(), state) {
		return usagef("use one of: "+strings.Join(approvalStates(), ", "), "there is no state %q", state)
	}
	filter := ""
	if state != "" && state != "open" {
		filter = "state=" + strings.ToUpper(state)
	}
	c, err := in.client(ctx)
	if err != nil {
		return err
	}
	all := &kryptonv1.ListApprovalsResponse{}
	for token := ""; ; {
		page, err := call(ctx, in, c.Approvals().ListApprovals, &kryptonv1.ListApprovalsRequest{PageSize: pageSize, PageToken: token, Filter: filter})
		if err != nil {
			return err
		}
		all.Approvals = append(all.Approvals, page.GetApprovals()...)
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	if in.jsonOutput() {
		for i, a := range all.GetApprovals() {
			all.Approvals[i] = readable(a)
		}
		return in.show(all, nil)
	}
	g := grid{head: []string{"APPROVAL", "STATE", "ACT", "OF", "ASKED BY", "MISSING", "EXPIRES"}}
	for _, a := range all.GetApprovals() {
		act, object := "?", "not what its name says"
		if read, err := orders.ReadApproval(a); err == nil {
			act, object = read.Request.Act().String(), read.Object()
		}
		g.add(strings.TrimPrefix(orders.Printable(a.GetName()), approvalPrefix), approvalState(a), act, object,
			orders.Printable(a.GetRequester()), missing(a.GetGovernorsMissing(), a.GetCustodiansMissing()), when(a.GetExpireTime()))
	}
	return in.write([]byte(g.text()))
}

// readable returns a without a request of the API that this release does not know,
// which has no JSON here. What is signed is in a all the same.
func readable(a *kryptonv1.Approval) *kryptonv1.Approval {
	if a.GetRequest() == nil {
		return a
	}
	if _, err := a.GetRequest().UnmarshalNew(); err == nil {
		return a
	}
	a = proto.CloneOf(a)
	a.Request = nil
	return a
}

func approvalState(a *kryptonv1.Approval) string {
	return strings.ToLower(enum(a.GetState(), "APPROVAL_STATE_"))
}

// missing says who still has to approve; "" is nobody.
func missing(governors, custodians uint32) string {
	if governors+custodians == 0 {
		return ""
	}
	text := persons(governors, custodians)
	return text[:strings.LastIndexByte(text, ' ')]
}

// approve signs what somebody else asked for.
func approve(ctx context.Context, in *Invocation) error {
	a, c, err := in.getApproval(ctx)
	if err != nil {
		return err
	}
	if ended(a) {
		return approvalEnded(a)
	}
	read, err := orders.ReadApproval(a)
	if err != nil {
		return err
	}
	want, from, err := in.signsFor(ctx)
	if err != nil {
		return err
	}
	in.meter.step("asking whose the signatures are")
	asking, cancel := in.deadline(ctx)
	asked, others := read.Votes(asking, c)
	names := orders.NamesIn(asking, c, read.Request)
	cancel()
	in.meter.watch(nil)
	in.meter.clear()
	fmt.Fprint(in.env.Stderr, read.Describe())
	for _, n := range names {
		fmt.Fprintf(in.env.Stderr, "  uid %s is %s, as the nodes say\n", orders.Printable(n.UID), orders.Printable(n.Name))
	}
	fmt.Fprint(in.env.Stderr, votesText(read, asked, others))
	if err := read.Match(want, in.env.Clock.Now()); err != nil {
		return err
	}
	if asked.Doubt != "" {
		return errs.New(errs.FailedState, "it is not proved who asks: "+asked.Doubt,
			errs.Hint("nothing was signed; if their role binding was removed, the request ends with it: krypton approval reject %s", in.args[0]))
	}
	if err := in.confirm("you sign what stands above, which %s asks for, for keyspace %s, %s", asked.Person, want, from); err != nil {
		return err
	}
	key, err := in.signKey(ctx)
	if err != nil {
		return err
	}
	in.meter.step("waiting for the signature")
	sig, err := read.Sign(ctx, key, want, in.env.Clock.Now())
	if err != nil {
		return err
	}
	if a, err = call(ctx, in, c.Approvals().Approve, &kryptonv1.ApproveRequest{Name: a.GetName(), KeyId: sig.Key[:], Signature: sig.Sig}); err != nil {
		return err
	}
	if err := in.show(readable(a), func() string { return approvalSheet(a, nil) }); err != nil {
		return err
	}
	if ended(a) {
		return approvalError(a)
	}
	if !in.jsonOutput() {
		in.note("you approved; %s", waitingFor(a))
	}
	return nil
}

// approvalEnded is why an approval that has ended is not approved any more.
func approvalEnded(a *kryptonv1.Approval) error {
	if err := approvalError(a); err != nil {
		return err
	}
	return errs.New(errs.FailedState, a.GetName()+" was done already", errs.Hint("nothing was signed; krypton approval get shows it"))
}

// votesText says who asks, who has approved and who is missing, with how that is
// known.
func votesText(a *orders.Approval, asked *orders.Vote, others []orders.Vote) string {
	var b strings.Builder
	one := func(what string, v orders.Vote) {
		fmt.Fprintf(&b, "%s %s", what, v.Person)
		if v.Binding != "" {
			fmt.Fprintf(&b, " (%s)", v.Binding)
		}
		if !v.Time.IsZero() && v.Time.Unix() != 0 {
			fmt.Fprintf(&b, " on %s", v.Time.UTC().Format(time.RFC3339))
		}
		b.WriteString("\n")
		switch {
		case v.Doubt != "":
			fmt.Fprintf(&b, "  NOT PROVED: %s\n", v.Doubt)
		default:
			fmt.Fprintf(&b, "  proved by the signature of key %s, which is theirs on every node that answers\n", v.Key)
		}
	}
	one("asked by", *asked)
	for _, v := range others {
		one("approved by", v)
	}
	if m := missing(a.Missing(others, asked)); m != "" {
		fmt.Fprintf(&b, "missing, as the nodes say: %s\n", m)
	}
	return b.String()
}

// showApproval shows all of an approval.
func (in *Invocation) showApproval(ctx context.Context, c *client.Client, a *kryptonv1.Approval) error {
	if in.jsonOutput() {
		return in.show(readable(a), nil)
	}
	read, err := orders.ReadApproval(a)
	if err != nil {
		return err
	}
	in.meter.step("asking whose the signatures are")
	asking, cancel := in.deadline(ctx)
	asked, others := read.Votes(asking, c)
	cancel()
	in.meter.watch(nil)
	return in.write([]byte(approvalSheet(a, read) + "\n" + read.Describe() + votesText(read, asked, others)))
}

// approvalSheet says how an approval stands. read is nil if its bytes were looked
// at, and shown, before.
func approvalSheet(a *kryptonv1.Approval, read *orders.Approval) string {
	var s sheet
	s.add("approval", orders.Printable(a.GetName()))
	s.add("state", approvalState(a))
	if read != nil {
		s.add("act", read.Request.Act().String())
		s.add("of", read.Object())
	}
	s.add("asked by", orders.Printable(a.GetRequester()))
	s.add("missing", missing(a.GetGovernorsMissing(), a.GetCustodiansMissing()))
	if !ended(a) {
		s.add("expires", when(a.GetExpireTime()))
	}
	s.add("ended", when(a.GetEndTime()))
	s.add("rejected by", orders.Printable(a.GetRejectedBy()))
	if r := a.GetRejectReason(); r != "" {
		s.add("reason", quoted(r))
	}
	if why := refusalOf(a); why != "" && ended(a) {
		s.add("refused", why)
	} else {
		s.add("in the way", why)
	}
	s.add("result", orders.Printable(a.GetResult()))
	return s.text()
}

// refusalOf returns why what was approved was refused or, of what is approved and not
// done, what was in the way the last time.
func refusalOf(a *kryptonv1.Approval) string {
	if a.GetErrorCode() == "" {
		return ""
	}
	return orders.Printable(a.GetErrorCode()) + ": " + orders.Printable(a.GetErrorMessage())
}

// quoted returns what a person wrote, in quotes. Letters of all scripts stay, what
// moves a cursor or turns the direction of writing is escaped.
func quoted(text string) string { return strconv.Quote(text) }
