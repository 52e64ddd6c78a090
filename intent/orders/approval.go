package orders

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// approvalPrefix begins the name of an approval.
const approvalPrefix = "approvals/"

// ApprovalName returns the name of the approval of an encoded intent. The name
// says which intent it is: who has it from the requester can be shown no other one.
func ApprovalName(encoded []byte) string {
	sum := sha256.Sum256(encoded)
	return approvalPrefix + hex.EncodeToString(sum[:16])
}

// Ask returns the request that others approve req, which o orders and can be
// used for lifetime from now on. key is the requester's: its signature proves who
// asks. A program sends it with [client.Client.Approvals], and finds the approval
// under [ApprovalName] of what it signed.
func (o *Order) Ask(ctx context.Context, req proto.Message, key sign.Signer, now time.Time, lifetime time.Duration, rand io.Reader) (*kryptonv1.CreateApprovalRequest, error) {
	f, err := o.Draft(now, lifetime, rand)
	if err != nil {
		return nil, err
	}
	if f, err = f.Countersign(ctx, key, sign.Expected{Keyspace: o.Keyspace, Request: o.Request, Now: now}); err != nil {
		return nil, Refused(err)
	}
	signed, err := Attach(f)
	if err != nil {
		return nil, err
	}
	asked, err := anypb.New(bare(req))
	if err != nil {
		return nil, errs.New(errs.Internal, "the request cannot be put into an approval", errs.Cause(err))
	}
	return &kryptonv1.CreateApprovalRequest{Request: asked, Signature: signed[0], CanonicalRequest: o.Request.Canonical(), RequestId: o.requestID}, nil
}

// bare returns req without what is of a call and not of what is asked. A
// certificate is asked for in the end by whoever wants it; what others approve is
// the role binding.
func bare(req proto.Message) proto.Message {
	if r, ok := req.(*kryptonv1.IssueCertificateRequest); ok {
		req = bindingFor(r)
	}
	req = proto.Clone(req)
	m := req.ProtoReflect()
	for _, name := range []protoreflect.Name{"request_id", "validate_only", "intents"} {
		if fd := m.Descriptor().Fields().ByName(name); fd != nil {
			m.Clear(fd)
		}
	}
	return req
}

// Approval is a request for approval as its bytes say it (I5). What a node says of
// it in words is not looked at.
type Approval struct {
	Name    string
	Request *intent.Request
	Intent  intent.Intent

	encoded []byte // the intent
	said    *kryptonv1.Approval
}

// ReadApproval reads what an approval orders. An error of code INTEGRITY says that
// the node put together what does not belong together.
func ReadApproval(a *kryptonv1.Approval) (*Approval, error) {
	if a.GetName() != ApprovalName(a.GetIntent()) {
		return nil, liar("the intent of the approval is not the one that its name says", nil)
	}
	in, err := intent.Decode(a.GetIntent())
	if err != nil {
		return nil, liar("the intent of the approval cannot be read", err)
	}
	r, err := intent.ParseRequest(a.GetCanonicalRequest())
	if err != nil {
		return nil, liar("the request of the approval cannot be read", err)
	}
	if in.Request != r.Digest() || in.Act != r.Act() {
		return nil, liar("the intent of the approval is over another request than the one that is shown", nil)
	}
	if len(a.GetSignatures()) > intent.MaxSignatures+1 { // and that of who asks
		return nil, liar("the approval has more signatures than there can be", nil)
	}
	return &Approval{Name: a.GetName(), Request: r, Intent: in, encoded: bytes.Clone(a.GetIntent()), said: a}, nil
}

func liar(what string, cause error) error {
	return errs.New(errs.Integrity, what, errs.Hint("nothing was signed; ask another node with --addr, and look into this one"), errs.Cause(cause))
}

// Describe returns all that is signed, for a person.
func (a *Approval) Describe() string { return a.Request.Describe() + a.Intent.Describe() }

// Object says in one line of printable ASCII what the request is about: the objects
// that it depends on or, if it depends on none, what it says.
func (a *Approval) Object() string {
	var all []string
	for _, p := range a.Intent.Preconditions {
		all = append(all, p.Object)
	}
	if len(all) == 0 {
		for _, f := range a.Request.Fields() {
			switch {
			case f.Kind == intent.KindText && f.Text != "":
				all = append(all, f.Name+"="+Printable(f.Text))
			case f.Kind == intent.KindUint && f.Uint != 0:
				all = append(all, f.Name+"="+strconv.FormatUint(f.Uint, 10))
			}
		}
	}
	return strings.Join(all, " ")
}

// Sign signs what a orders, for keyspace and no other (I3).
func (a *Approval) Sign(ctx context.Context, key sign.Signer, keyspace hierarchy.KeyspaceID, now time.Time) (intent.Signature, error) {
	sig, err := sign.Countersign(ctx, key, a.encoded, sign.Expected{Keyspace: keyspace, Request: a.Request, Now: now})
	if err != nil {
		return sig, Refused(err)
	}
	return sig, nil
}

// Match reports why nobody should sign a for keyspace at that time.
func (a *Approval) Match(keyspace hierarchy.KeyspaceID, now time.Time) error {
	if !a.Request.Known() {
		return errs.New(errs.FailedState, "this release does not know what the request orders, so it cannot be shown to who signs it",
			errs.Hint("nothing was signed; sign it with the release that the cluster runs"))
	}
	if err := a.Intent.Match(keyspace, a.Request.Act(), a.Request.Digest(), now.UnixMilli()); err != nil {
		return Refused(err)
	}
	return nil
}

// Vote is one signature on an approval.
type Vote struct {
	Person  string // such as governor/gabi, printable
	Binding string // roleBindings/{b} of the person, printable; empty: it is gone
	Key     string // id of the key, hex
	Time    time.Time
	Counts  bool // it is one of those that the rule asks for, as the node says
	// Doubt says why the signature does not prove that this person signed. Empty: it
	// was verified, under a key that the role binding has on every node that answers.
	Doubt string
}

// Votes verifies who has signed so far: the one who asks, and those who approved.
// Whose a key is, is asked of every node at hand, which must agree (I2). asked is
// never nil.
func (a *Approval) Votes(ctx context.Context, c *client.Client) (asked *Vote, others []Vote) {
	asked = &Vote{Person: Printable(a.said.GetRequester()), Binding: Printable(a.said.GetRequesterBinding()), Doubt: "the signature of who asks is not shown"}
	found := false
	bound := a.bindings(ctx, c)
	for _, s := range a.said.GetSignatures() {
		v := Vote{
			Person: Printable(s.GetPerson()), Binding: Printable(s.GetRoleBinding()), Key: hex.EncodeToString(s.GetKeyId()), Time: s.GetTime().AsTime(), Counts: s.GetCounts(),
		}
		if err := a.verify(s, bound[s.GetRoleBinding()]); err != nil {
			v.Doubt = Printable(errs.From(err).Msg)
		}
		if !found && s.GetPerson() == a.said.GetRequester() && s.GetRoleBinding() == a.said.GetRequesterBinding() {
			found, *asked = true, v
			continue
		}
		others = append(others, v)
	}
	return asked, others
}

// binding is what the nodes say of a role binding, or why they do not.
type binding struct {
	role kryptonv1.Role
	name string // of the person
	keys []*kryptonv1.AuthorityKey
	err  error
}

// bindings asks for the role bindings of all who signed, at once: a node that does
// not answer holds each question up.
func (a *Approval) bindings(ctx context.Context, c *client.Client) map[string]*binding {
	all := map[string]*binding{"": {err: errs.New(errs.NotFound, "the role binding of the key is gone")}}
	var wg sync.WaitGroup
	for _, s := range a.said.GetSignatures() {
		name := s.GetRoleBinding()
		if all[name] != nil {
			continue
		}
		b := &binding{}
		all[name] = b
		wg.Go(func() { *b = bindingAt(ctx, c, name) })
	}
	wg.Wait()
	return all
}

func bindingAt(ctx context.Context, c *client.Client, name string) binding {
	text, err := each(ctx, c, name, func(ctx context.Context, nd *client.Node) (string, error) {
		b, err := kryptonv1.NewAccessClient(nd).GetRoleBinding(ctx, &kryptonv1.GetRoleBindingRequest{Name: name})
		if err != nil {
			return "", err
		}
		b = &kryptonv1.RoleBinding{Role: b.GetRole(), Member: b.GetMember(), Keys: b.GetKeys()}
		raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(b)
		return string(raw), err
	})
	b := &kryptonv1.RoleBinding{}
	if err == nil {
		err = proto.Unmarshal([]byte(text), b)
	}
	return binding{role: b.GetRole(), name: b.GetMember(), keys: b.GetKeys(), err: err}
}

// verify reports why s does not prove that its person, who has the role binding b,
// signed.
func (a *Approval) verify(s *kryptonv1.ApprovalSignature, b *binding) error {
	if b.err != nil {
		return b.err
	}
	if s.GetPerson() != roleName(b.role)+"/"+b.name {
		return errs.New(errs.Integrity, "the role binding is another person's")
	}
	message, err := a.Intent.Message()
	if err != nil {
		return err
	}
	for _, k := range b.keys {
		pub, err := x509.ParsePKIXPublicKey(k.GetPublicKey())
		if err != nil || !k.GetSign() {
			continue
		}
		key, err := sign.PublicKey(pub)
		if err != nil {
			continue
		}
		if id := key.ID(); bytes.Equal(id[:], s.GetKeyId()) {
			if !key.Verify(message, s.GetSignature()) {
				return errs.New(errs.Integrity, "the signature does not verify")
			}
			return nil
		}
	}
	return errs.New(errs.NotFound, "the role binding does not have the key")
}

// Missing returns how many governors and custodians still have to approve by the
// rule that the node says, of which those votes count that are beyond doubt.
func (a *Approval) Missing(others []Vote, asked *Vote) (governors, custodians uint32) {
	governors, custodians = a.said.GetRule().GetGovernors(), a.said.GetRule().GetCustodians()
	for _, v := range append(slices.Clone(others), *asked) {
		role, _, _ := strings.Cut(v.Person, "/")
		switch {
		case v.Doubt != "" || !v.Counts:
		case role == "governor" && governors > 0:
			governors--
		case role == "custodian" && custodians > 0:
			custodians--
		}
	}
	return governors, custodians
}

// Printable returns s for a terminal: what a node or a caller says must not move the
// cursor, look like another line, or like a name that it is not. What is not
// printable ASCII is escaped as in Go.
func Printable(s string) string {
	for _, r := range s {
		if r < ' ' || r > '~' {
			q := strconv.QuoteToASCII(s)
			return q[1 : len(q)-1]
		}
	}
	return s
}
