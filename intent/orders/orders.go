// Package orders makes what people sign of the requests of the API.
//
// A person types a command, which is a request of the API; the state machine
// applies a command of its own, and people sign the canonical form of that. [Of]
// makes the same form here, of what was asked and not of what a node says was
// asked, so that a node cannot put another request before the person. What the
// person cannot know (uids, the key of a node) comes from the nodes.
//
// [Signer] makes a client sign by itself, for programs and throw-away clusters.
//
// # Invariants
//
//   - I1: an [Order] says of a request just what the state machine says of the command that the request becomes; what a caller leaves to a node is in no order.
//   - I2: what a node says wrongly can only make an order that the cluster refuses, or that the person sees: uids that stand for a person or an issuer and for nothing else in the order are asked of every node at hand, and these must agree.
//   - I3: nothing is signed for a cluster that asks nobody to, and with a pinned keyspace for no other.
//   - I4: a request id has one nonce, so that a request that is signed and sent again acts once.
//   - I5: what a node says cannot look, to the person who signs, like another field, another line or the end of what is signed.
//   - I6: an [Approval] is what its name says: the intent has that digest, and the request has the digest in the intent. Nothing else is shown to who approves, and nothing else is signed.
//
// # Concurrency
//
// Safe for concurrent use as far as the client and the signers are.
//
// # Failure
//
// If the nodes do not answer or contradict each other, there is no order and nothing is signed.
//
// # Source
//
// fsm.SovereignRequest; docs/identity.md (Signing).
package orders

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Order is a request of the API in the form in which people sign it.
type Order struct {
	Keyspace      hierarchy.KeyspaceID
	Request       *intent.Request
	Preconditions []intent.Precondition
	Rule          *kryptonv1.IntentRule // whose signatures the cluster asks for
	Names         []Name                // what the uids in the request stand for

	requestID string
}

// Name is what the nodes say that a uid in a request is of.
type Name struct {
	UID  string // hex
	Name string // of the object, such as roleBindings/governor-bob
}

// Of returns what req orders, or nil if it is nothing for which the cluster asks
// signatures. It asks the nodes of c for what req does not say.
func Of(ctx context.Context, c *client.Client, req proto.Message) (*Order, error) {
	build := builderOf(req)
	if build == nil {
		return nil, nil //nolint:nilnil // No order is an answer.
	}
	rules, err := Rules(ctx, c)
	if err != nil {
		return nil, err
	}
	if _, first := req.(*kryptonv1.SetQuorumRequest); len(rules) == 0 && !first {
		return nil, nil //nolint:nilnil // As above; an older cluster does not know what a signature is, either.
	}
	o := &Order{}
	if o.Keyspace, err = Keyspace(ctx, c); err != nil {
		return nil, err
	}
	n := nodes{c: c}
	if o.Request, err = build(ctx, &n, o); err != nil || o.Request == nil {
		return nil, err
	}
	for _, r := range rules {
		if o.Rule == nil && r.GetAct() == o.Request.Act().String() {
			o.Rule = r
		}
	}
	if o.Rule.GetGovernors()+o.Rule.GetCustodians() == 0 {
		return nil, nil //nolint:nilnil // As above.
	}
	if id := req.ProtoReflect().Descriptor().Fields().ByName("request_id"); id != nil {
		o.requestID = req.ProtoReflect().Get(id).String()
	}
	return o, nil
}

// Describe returns what who signs f orders, for a person, with what the nodes say that
// the uids stand for. The conditions and the end are those of f, which somebody else may
// have made: with fewer conditions than the order has, or a later end.
func (o *Order) Describe(f sign.File) string {
	var b strings.Builder
	b.WriteString(o.Request.Describe())
	for _, n := range o.Names {
		fmt.Fprintf(&b, "  uid %s is %s, as the nodes say\n", Printable(n.UID), Printable(n.Name))
	}
	fmt.Fprintf(&b, "  usable until %s\n", time.UnixMilli(f.Intent.NotAfter).UTC().Format(time.RFC3339))
	for _, p := range o.Preconditions {
		if !slices.ContainsFunc(f.Intent.Preconditions, func(has intent.Precondition) bool { return has.Object == p.Object }) {
			fmt.Fprintf(&b, "  even if %s changes before: who made the intent left that out\n", p.Object)
		}
	}
	for _, p := range f.Intent.Preconditions {
		if p.ModIndex == 0 {
			fmt.Fprintf(&b, "  only if %s does not exist\n", p.Object)
		} else {
			fmt.Fprintf(&b, "  only if %s has not changed since index %d\n", p.Object, p.ModIndex)
		}
	}
	return b.String()
}

// Draft makes the intent of the order, which nobody has signed.
func (o *Order) Draft(now time.Time, lifetime time.Duration, rand io.Reader) (sign.File, error) {
	if o.requestID != "" {
		rand = nonceOf(o.requestID, o.Request.Digest())
	}
	return sign.Draft(sign.Proposal{Keyspace: o.Keyspace, Request: o.Request, Preconditions: o.Preconditions, Lifetime: lifetime}, now, rand)
}

// Check reports why f does not order what o does. The expiry, the nonce and the
// preconditions of f are its own.
func (o *Order) Check(f sign.File, now time.Time) error {
	if !f.Request.Equal(o.Request) {
		return errs.New(errs.InvalidArgument, "the signed intent is over another request than this command",
			errs.Hint("give the command with the arguments with which the intent was made; krypton intent show says what it orders:\n%s",
				strings.TrimRight(intent.Differences(o.Request, f.Request), "\n")))
	}
	if err := f.Intent.Match(o.Keyspace, o.Request.Act(), o.Request.Digest(), now.UnixMilli()); err != nil {
		return Refused(err)
	}
	return nil
}

// Refused is err of package intent as an error of the table, with what to do.
func Refused(err error) error {
	r, ok := err.(*intent.RefusalError) //nolint:errorlint // Package intent returns it itself.
	if !ok {
		return err
	}
	hint := "have it made and signed anew: --sign-only"
	if r.Reason == intent.ReasonOtherKeyspace {
		hint = "look which cluster the command goes to, and for which the intent was made: krypton intent show"
	}
	return errs.New(errs.IntentRefused, r.Error(), errs.Cause(r), errs.Hint("%s", hint))
}

// Attach returns the signatures of f as a request carries them.
func Attach(f sign.File) ([]*kryptonv1.SignedIntent, error) {
	encoded, err := f.Intent.Encode()
	if err != nil {
		return nil, errs.New(errs.InvalidArgument, "the intent cannot be sent: "+err.Error(), errs.Cause(err))
	}
	out := make([]*kryptonv1.SignedIntent, 0, len(f.Signatures))
	for _, s := range f.Signatures {
		id := s.Key.ID()
		out = append(out, &kryptonv1.SignedIntent{Intent: encoded, KeyId: id[:], Signature: s.Sig})
	}
	return out, nil
}

// nonceOf returns the bytes of the nonce of a request id (I4). Who signs and sends
// a request again, because it is not known what became of it, makes an intent with
// the nonce of the first one, which the cluster takes once; the request id alone is
// remembered for a day only.
func nonceOf(requestID string, d intent.Digest) io.Reader {
	h := sha256.New()
	for _, part := range [][]byte{[]byte("krypton/v1/intent-nonce"), []byte(requestID), d[:]} {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(part))) //nolint:gosec // Some bytes.
		h.Write(n[:])
		h.Write(part)
	}
	return strings.NewReader(string(h.Sum(nil)))
}
