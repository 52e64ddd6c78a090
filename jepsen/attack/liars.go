//go:build unix

package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/mutation"
)

const (
	rooted     = "who took over a member, and has its key"
	rootedSeen = "who took over a member, and saw what people signed"
)

// liars are attacks by members. The order matters: the last one leaves a node behind
// that has stopped.
func liars() []attack {
	return []attack{
		{
			name: "assert a governor, sovereign act", who: rooted,
			tries:   "forwards the binding of an operator of the attacker's, and says that the governor alice asked",
			stops:   "every replica asks for the signatures of people when it applies the change",
			without: "all replicas skip the signatures", run: forwarded(errs.IntentRefused, forgery{bindMallory, 0}, mutation.SkipIntents),
		},
		{
			name: "assert a governor that there is not", who: rooted,
			tries:   "forwards a new service in the name of a governor who is not bound, with an auditor's certificate",
			stops:   "the leader verifies what the caller showed, and every replica looks the caller up in the registry",
			without: "the leader believes the member, and the replicas the name", run: forwarded(errs.Denied, forgery{asNobody, auth.RoleAuditor}, mutation.SkipForwarded, mutation.SkipPrincipal),
		},
		{
			name: "assert a governor with another's certificate", who: rooted,
			tries:   "forwards a new service in the name of the governor alice, with an auditor's certificate",
			stops:   "the leader verifies what the caller showed, and compares",
			without: "the leader believes the member", run: forwarded(errs.Denied, forgery{asAliceByArthur, auth.RoleAuditor}, mutation.SkipForwarded),
		},
		{
			name: "assert an auditor who governs", who: rooted,
			tries:   "forwards a new service in the name of an auditor who is bound",
			stops:   "every replica asks whether the role may order the command",
			without: "all replicas believe it", run: forwarded(errs.Denied, forgery{asAuditor, 0}, mutation.SkipPrincipal),
		},
		{
			name: "assert a workload who governs", who: rooted,
			tries:   "forwards a new service in the name of the tenant's workload",
			stops:   "every replica asks whether the role may order the command",
			without: "all replicas believe it", run: forwarded(errs.Denied, forgery{asWorkload, 0}, mutation.SkipPrincipal),
		},
		{
			name: "assert a governor who showed a certificate", who: "who took over a member, and saw the governor's certificate",
			tries: "forwards a new service in the name of the governor alice, for which nobody has to sign, with her certificate",
			stops: "nothing: that the person asked for this is the word of the node. The entry of the log says by way of which node it came", open: true,
			run: asAlice,
		},
		{
			name: "assert another node", who: rooted,
			tries:   "forwards a suspension of the tenant as the act of another member",
			stops:   "the leader takes the sender from the connection and not from the command",
			without: "the leader takes whatever is forwarded, and the replicas believe it", run: forwarded(errs.Denied, forgery{asOtherNode, 0}, mutation.SkipForwarded, mutation.SkipPrincipal),
		},
		{
			name: "give the leader's own commands", who: rooted,
			tries:   "forwards a new internal secret, as if the leader did its housekeeping",
			stops:   "the leader commits only the commands that callers give",
			without: "the leader takes whatever is forwarded", run: forwarded(errs.InvalidArgument, forgery{asLeader, 0}, mutation.SkipForwarded),
		},
		{
			name: "replay an intent", who: rootedSeen,
			tries:   "binds an operator again whom the governors have removed, with the signatures of the first time",
			stops:   "every replica remembers the nonce until the intent ends",
			without: "all replicas skip the signatures", run: signedWrongly("intent was used before", replayed),
		},
		{
			name: "re-target an intent", who: rootedSeen,
			tries:   "uses an unused intent for one operator to bind another one, with a key of the attacker's",
			stops:   "the digest of the canonical request is signed, and every replica computes it from the command",
			without: "all replicas skip the signatures", run: signedWrongly("another request", retargeted),
		},
		{
			name: "use an expired intent", who: rootedSeen,
			tries:   "uses an intent whose time is over",
			stops:   "the end is signed, and is compared with the cluster's time",
			without: "all replicas skip the signatures", run: signedWrongly("expired", expired),
		},
		{
			name: "use a stale intent", who: rootedSeen,
			tries:   "uses an intent after an object changed that the signer looked at",
			stops:   "the index of the last change of each such object is signed",
			without: "all replicas skip the signatures", run: signedWrongly("changed after the intent was signed", stale),
		},
		{
			name: "use an intent of another cluster", who: rootedSeen,
			tries:   "uses an intent that the same governor signed for another keyspace",
			stops:   "the keyspace is signed",
			without: "all replicas skip the signatures", run: signedWrongly("another keyspace", otherKeyspace),
		},
		{
			name: "sign with a key of one's own", who: rooted,
			tries:   "signs the binding of an operator with a key that nobody registered",
			stops:   "signatures count by keys of role bindings",
			without: "all replicas skip the signatures", run: signedWrongly("not registered", ownKey),
		},
		{
			name: "admit a node with another's token", who: "who took over the member that a node with a voter's token asks first",
			tries:   "has the leader admit a node of the attacker's, with all that the new node showed of its token",
			stops:   "the token is a key, which signs id and key of the node that joins; the leader and every replica verify it",
			without: "nobody asks for that signature", run: anothersToken,
		},
		{
			name: "lead without asking for signatures", who: "a leader whose build skips the intents",
			tries:   "commits the binding of an operator that nobody signed, and answers that it was done",
			stops:   "the other replicas refuse it; the state chain has the outcome, so the leader's differs, and it stops",
			without: "all replicas skip the signatures", run: lyingLeader(unsignedBinding()),
		},
		{
			name: "lead and admit a node of one's own", who: "a leader whose build skips the signature of a token's key, and to whom a node with a voter's token came",
			tries:   "makes a node of the attacker's a voter, with all that the new node showed of its token",
			stops:   "the other replicas refuse it; the state chain has the outcome, so the leader's differs, and it stops",
			without: "nobody asks for that signature", run: lyingLeader(ownVoter()),
		},
	}
}

// members returns the cluster whose members are attacked by one of them. n1 can lie,
// and does not until the last attack; another node leads.
func (w *world) members(ctx context.Context) (t *theatre, leader, liar *devcluster.Node, err error) {
	if t, err = w.cluster(ctx, "members", 3, liarOne); err != nil {
		return nil, nil, nil, notTried(err)
	}
	liar, leader = t.Nodes()[0], t.Nodes()[1]
	if err := t.leads(ctx, leader); err != nil {
		return nil, nil, nil, notTried(err)
	}
	return t, leader, liar, nil
}

// defenceless returns a cluster of one node that leaves these defences out.
func (w *world) defenceless(ctx context.Context, names ...mutation.Name) (*theatre, *devcluster.Node, error) {
	t, err := w.cluster(ctx, "control", 1, control)
	if err != nil {
		return nil, nil, notTried(err)
	}
	return t, t.Nodes()[0], t.lie(names...)
}

// forgery is a command that a lying member forwards, and what it says that the caller
// showed: the certificate of the person in a role; of the role in the command, if it
// does not say.
type forgery struct {
	command func(t *theatre, v *fsm.View) (*fsmpb.Command, error)
	shows   auth.Role
}

// forwarded is an attack by a forged command; the code is what it has to be refused with.
func forwarded(want errs.Code, forge forgery, without ...mutation.Name) func(context.Context, *world) (finding, error) {
	return func(ctx context.Context, w *world) (f finding, err error) {
		t, leader, liar, err := w.members(ctx)
		if err != nil {
			return f, err
		}
		err = t.forge(ctx, liar, leader, forge)
		f.broke, f.ended, f.evidence = judged(err, want)
		c, alone, err := w.defenceless(ctx, without...)
		if err != nil {
			return f, err
		}
		if err = c.forge(ctx, alone, alone, forge); err == nil {
			f.control = "done"
		}
		return f, c.lie()
	}
}

func (t *theatre) forge(ctx context.Context, from, to *devcluster.Node, forge forgery) error {
	v, err := t.registry(from)
	if err != nil {
		return notTried(err)
	}
	cmd, err := forge.command(t, v)
	if err != nil {
		return notTried(err)
	}
	return t.forward(ctx, from, to, cmd, forge.shows)
}

// judged reads how an attack ended: whether it worked, how, and in which words.
func judged(err error, want errs.Code) (broke bool, ended, evidence string) {
	if err == nil {
		return true, "done", "no error"
	}
	e := errs.From(err)
	if e.Code != want {
		return true, "ended otherwise than it should have: " + e.Code.String() + ", not " + want.String(), err.Error()
	}
	return false, "refused with " + e.Code.String(), e.Msg
}

// builtinPrincipal is a caller of the cluster's own CA, as commands name it.
func builtinPrincipal(v *fsm.View, role auth.Role, name string) *fsmpb.Principal {
	i, _ := v.Issuer("", fsm.BuiltinIssuer)
	return &fsmpb.Principal{Issuer: hex.EncodeToString(i.GetUid()), Kind: role.String(), Name: name}
}

// bindOperator orders a binding of an operator to a new key of the attacker's.
func bindOperator(v *fsm.View, name string) (*fsmpb.Command, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	pub, err := key.PublicKey.ECDH()
	if err != nil {
		return nil, err
	}
	i, _ := v.Issuer("", fsm.BuiltinIssuer)
	return &fsmpb.Command{
		Principal: builtinPrincipal(v, auth.RoleGovernor, "alice"),
		Body: &fsmpb.Command_BindRole{BindRole: &fsmpb.BindRole{Binding: &fsmpb.RoleBinding{
			Id: "operator-" + name, IssuerUid: i.GetUid(), Role: auth.RoleOperator.String(), Name: name,
			Keys: []*fsmpb.BindingKey{{Key: &fsmpb.PublicKey{Algorithm: fsmpb.KeyAlgorithm_KEY_ALGORITHM_ECDSA_P256_SHA256, Raw: pub.Bytes()}, Tls: true}},
		}}},
	}, nil
}

func bindMallory(_ *theatre, v *fsm.View) (*fsmpb.Command, error) { return bindOperator(v, "mallory") }

// newService orders a service in somebody's name. Its key is junk, which no replica
// can know.
func newService(v *fsm.View, p *fsmpb.Principal) (*fsmpb.Command, error) {
	tn, ok := v.Tenant(tenantID)
	if !ok {
		return nil, errors.New("the registry has no tenant")
	}
	parent, ok := fsm.VersionAt(tn.GetVersions(), tn.GetPrimary())
	if !ok {
		return nil, errors.New("the tenant has no key")
	}
	return &fsmpb.Command{Principal: p, Body: &fsmpb.Command_CreateService{CreateService: &fsmpb.CreateService{
		Tenant: tenantID, Name: "s" + strings.ToLower(rand.Text()[:8]), Uid: random16(), TenantUid: tn.GetUid(),
		Version: &fsmpb.Version{Number: 1, Uid: random16(), ParentUid: parent.GetUid(), Blob: []byte("junk")},
	}}}, nil
}

func random16() []byte {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return b
}

// asAliceByArthur names a governor who is bound, and shows what an auditor showed.
func asAliceByArthur(_ *theatre, v *fsm.View) (*fsmpb.Command, error) {
	return newService(v, builtinPrincipal(v, auth.RoleGovernor, "alice"))
}

func asNobody(_ *theatre, v *fsm.View) (*fsmpb.Command, error) {
	return newService(v, builtinPrincipal(v, auth.RoleGovernor, "mallory"))
}

func asAuditor(_ *theatre, v *fsm.View) (*fsmpb.Command, error) {
	return newService(v, builtinPrincipal(v, auth.RoleAuditor, "arthur"))
}

func asWorkload(_ *theatre, v *fsm.View) (*fsmpb.Command, error) {
	return newService(v, builtinPrincipal(v, auth.RoleWorkload, tenantID+"/app"))
}

// asAlice is what a member can do in the name of others today.
func asAlice(ctx context.Context, w *world) (f finding, err error) {
	t, leader, liar, err := w.members(ctx)
	if err != nil {
		return f, err
	}
	id := ""
	err = t.forge(ctx, liar, leader, forgery{command: func(_ *theatre, v *fsm.View) (*fsmpb.Command, error) {
		cmd, err := newService(v, builtinPrincipal(v, auth.RoleGovernor, "alice"))
		id = cmd.GetCreateService().GetName()
		return cmd, err
	}})
	if f.broke = err == nil; !f.broke {
		return finding{ended: "refused", evidence: err.Error()}, nil
	}
	f.ended = "done"
	raw, err := os.ReadFile(logFile(leader.DataDir()))
	if err != nil {
		return f, err
	}
	path, err := w.path("via.db")
	if err != nil {
		return f, err
	}
	if err := writeFile(path, raw); err != nil {
		return f, err
	}
	return f, entriesOf(path, func(l *raft.Log, data []byte) ([]byte, error) {
		cmd := &fsmpb.Command{}
		if l.Type == raft.LogCommand && proto.Unmarshal(data, cmd) == nil && cmd.GetCreateService().GetName() == id {
			f.evidence = "via node " + cmd.GetViaNode() + ", in the name of " + cmd.GetPrincipal().GetKind() + "/" + cmd.GetPrincipal().GetName()
			if cmd.GetViaNode() != liar.ID() {
				return nil, errors.New("the entry does not say who forwarded it")
			}
		}
		return nil, nil
	})
}

// asOtherNode names the last member, which is not the one that lies, or one that
// there is not.
func asOtherNode(t *theatre, v *fsm.View) (*fsmpb.Command, error) {
	all := t.Nodes()
	p := &fsmpb.Principal{Kind: "node", Name: hex.EncodeToString(random16())}
	if len(all) > 1 {
		p.Name = all[len(all)-1].ID()
	}
	cmd := &fsmpb.Command{Principal: p, Body: &fsmpb.Command_ChangeObject{ChangeObject: &fsmpb.ChangeObject{
		Object: &fsmpb.ObjectRef{Tenant: tenantID}, Event: fsmpb.ObjectEvent_OBJECT_EVENT_SUSPEND, Cause: "l1_denied",
	}}}
	if tn, ok := v.Tenant(tenantID); !ok || tn.GetState() != fsmpb.ObjectState_OBJECT_STATE_ACTIVE {
		return nil, errors.New("the tenant is not active")
	}
	return cmd, nil
}

func asLeader(_ *theatre, v *fsm.View) (*fsmpb.Command, error) {
	ivk := v.Cluster().GetInternalKeys()[0].GetUid()
	return &fsmpb.Command{Body: &fsmpb.Command_PutSecret{PutSecret: &fsmpb.PutSecret{Secret: &fsmpb.Secret{
		Name: "evil-" + strings.ToLower(rand.Text()[:8]), IvkUid: ivk, Blob: []byte("junk"), Public: []byte("junk"),
	}}}}, nil
}

// signature is how an intent over a command is made.
type signature struct {
	keyspace []byte
	notAfter time.Time
	pre      []intent.Precondition
	by       sign.Signer
}

// governor returns alice's key.
func (t *theatre) governor() (sign.Signer, error) {
	s, err := t.Signer()
	if err != nil {
		return nil, err
	}
	return s.Governors[0], nil
}

// genuine is what a governor who means it signs.
func (t *theatre) genuine(v *fsm.View) (signature, error) {
	key, err := t.governor()
	return signature{keyspace: v.Cluster().GetKeyspaceId(), notAfter: time.Now().Add(time.Hour), by: key}, err
}

// over signs a command and returns the signature as the command carries it.
func (s signature) over(ctx context.Context, cmd *fsmpb.Command) (*fsmpb.SignedIntent, error) {
	act, req, ok := fsm.SovereignRequest(cmd)
	if !ok {
		return nil, errors.New("the command is no sovereign act")
	}
	nonce, err := sign.Nonce(rand.Reader)
	if err != nil {
		return nil, err
	}
	in := intent.Intent{
		Keyspace: hierarchy.KeyspaceID(s.keyspace), Act: act, Request: req.Digest(), NotAfter: s.notAfter.UnixMilli(), Nonce: nonce,
		Preconditions: intent.SortPreconditions(s.pre),
	}
	raw, err := in.Encode()
	if err != nil {
		return nil, err
	}
	sig, err := s.by.Sign(ctx, in)
	if err != nil {
		return nil, err
	}
	return &fsmpb.SignedIntent{Intent: raw, KeyId: sig.Key[:], Signature: sig.Sig}, nil
}

// misuse makes a command with signatures that must not count, and does before what
// the attacker waited for.
type misuse func(ctx context.Context, t *theatre, from, to *devcluster.Node, v *fsm.View) (*fsmpb.Command, error)

// signedWrongly is an attack with signatures that are not for what is ordered.
func signedWrongly(reason string, abuse misuse) func(context.Context, *world) (finding, error) {
	try := func(ctx context.Context, t *theatre, from, to *devcluster.Node) error {
		v, err := t.registry(from)
		if err != nil {
			return notTried(err)
		}
		cmd, err := abuse(ctx, t, from, to, v)
		if err != nil {
			return notTried(err)
		}
		return t.forward(ctx, from, to, cmd, 0)
	}
	return func(ctx context.Context, w *world) (f finding, err error) {
		t, leader, liar, err := w.members(ctx)
		if err != nil {
			return f, err
		}
		err = try(ctx, t, liar, leader)
		f.broke, f.ended, f.evidence = judged(err, errs.IntentRefused)
		if err != nil && !strings.Contains(err.Error(), reason) {
			f.broke, f.ended = true, "refused, and not because "+reason
		}
		c, alone, err := w.defenceless(ctx, mutation.SkipIntents)
		if err != nil {
			return f, err
		}
		if err = try(ctx, c, alone, alone); err == nil {
			f.control = "done"
		}
		return f, c.lie()
	}
}

func replayed(ctx context.Context, t *theatre, from, to *devcluster.Node, v *fsm.View) (*fsmpb.Command, error) {
	cmd, err := bindOperator(v, "olaf")
	if err != nil {
		return nil, err
	}
	s, err := t.genuine(v)
	if err != nil {
		return nil, err
	}
	one, err := s.over(ctx, cmd)
	if err != nil {
		return nil, err
	}
	cmd.Intents = []*fsmpb.SignedIntent{one}
	if err := t.forward(ctx, from, to, proto.CloneOf(cmd), 0); err != nil { // as the governor meant it
		return nil, fmt.Errorf("the first use: %w", err)
	}
	// The signer asks every node whom it removes, and some hear of it a moment later.
	return cmd, eventually(ctx, "the operator is removed again", func(ctx context.Context) error {
		return t.as(ctx, auth.RoleGovernor, func(c *client.Client) error {
			_, err := c.Access().DeleteRoleBinding(ctx, &kryptonv1.DeleteRoleBindingRequest{Name: "roleBindings/operator-olaf"})
			return err
		})
	})
}

// misused is a command with a signature of s over it, or over another one.
func misused(ctx context.Context, v *fsm.View, s signature, name, signedFor string) (*fsmpb.Command, error) {
	cmd, err := bindOperator(v, name)
	if err != nil {
		return nil, err
	}
	what := cmd
	if signedFor != name {
		if what, err = bindOperator(v, signedFor); err != nil {
			return nil, err
		}
	}
	one, err := s.over(ctx, what)
	cmd.Intents = []*fsmpb.SignedIntent{one}
	return cmd, err
}

func retargeted(ctx context.Context, t *theatre, _, _ *devcluster.Node, v *fsm.View) (*fsmpb.Command, error) {
	s, err := t.genuine(v)
	if err != nil {
		return nil, err
	}
	return misused(ctx, v, s, "mallory-retargeted", "otto")
}

func expired(ctx context.Context, t *theatre, _, _ *devcluster.Node, v *fsm.View) (*fsmpb.Command, error) {
	s, err := t.genuine(v)
	if err != nil {
		return nil, err
	}
	s.notAfter = time.Now().Add(-time.Minute)
	return misused(ctx, v, s, "late", "late")
}

func stale(ctx context.Context, t *theatre, _, _ *devcluster.Node, v *fsm.View) (*fsmpb.Command, error) {
	s, err := t.genuine(v)
	if err != nil {
		return nil, err
	}
	sv, ok := v.Service(tenantID, serviceID)
	if !ok {
		return nil, errors.New("the registry has no service")
	}
	s.pre = []intent.Precondition{{Object: service, ModIndex: sv.GetModIndex()}}
	cmd, err := misused(ctx, v, s, "stale", "stale")
	if err != nil {
		return nil, err
	}
	return cmd, t.as(ctx, auth.RoleGovernor, func(c *client.Client) error {
		if _, err := c.Services().SuspendService(ctx, &kryptonv1.SuspendServiceRequest{Name: service}); err != nil {
			return err
		}
		_, err := c.Services().ResumeService(ctx, &kryptonv1.ResumeServiceRequest{Name: service})
		return err
	})
}

func otherKeyspace(ctx context.Context, t *theatre, _, _ *devcluster.Node, v *fsm.View) (*fsmpb.Command, error) {
	s, err := t.genuine(v)
	if err != nil {
		return nil, err
	}
	s.keyspace = random16()
	return misused(ctx, v, s, "elsewhere", "elsewhere")
}

func ownKey(ctx context.Context, t *theatre, _, _ *devcluster.Node, v *fsm.View) (*fsmpb.Command, error) {
	s, err := t.genuine(v)
	if err != nil {
		return nil, err
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	if s.by, err = sign.New(rand.Reader, key); err != nil {
		return nil, err
	}
	return misused(ctx, v, s, "mallory-signed", "mallory-signed")
}

// lie is what a leader does whose build skips a check.
type lie struct {
	cluster string // it is used up
	without mutation.Name
	does    func(ctx context.Context, t *theatre, from, leader *devcluster.Node) (object string, err error)
	read    func(ctx context.Context, c *client.Client, object string) error // NotFound: it was not done
}

// lyingLeader has n1 lead, and leave a check out. It answers that it was done; the
// others refuse it, and n1 stops.
func lyingLeader(l lie) func(context.Context, *world) (finding, error) {
	return func(ctx context.Context, w *world) (f finding, err error) {
		t, err := w.cluster(ctx, l.cluster, 3, liarOne)
		if err != nil {
			return f, notTried(err)
		}
		liar := t.Nodes()[0]
		if err := errors.Join(t.leads(ctx, liar), t.lie(l.without)); err != nil {
			return f, notTried(err)
		}
		said := "the leader answered that it was done"
		object, err := l.does(ctx, t, t.Nodes()[1], liar)
		if object == "" {
			return f, notTried(err)
		}
		if err != nil {
			said = "the leader answered: " + err.Error()
		}
		select {
		case <-liar.Done():
		case <-time.After(patience):
			return finding{broke: true, ended: "the leader goes on", evidence: said}, nil
		}
		log, err := os.ReadFile(liar.LogFile())
		if err != nil {
			return f, err
		}
		line := lineWith(string(log), "STATE_CORRUPT")
		// Who is left has another leader, and not what it did.
		for _, n := range t.Nodes()[1:] {
			if err := n.WaitServing(ctx); err != nil {
				return finding{broke: true, ended: n.Name() + " does not serve without the liar", evidence: err.Error()}, nil //nolint:nilerr // It is what the attacker wanted.
			}
			err := t.at(ctx, n, auth.RoleOperator, func(c *client.Client) error { return l.read(ctx, c, object) })
			if ctx.Err() != nil {
				return f, notTried(err)
			}
			if !errs.Is(err, errs.NotFound) {
				return finding{broke: true, ended: n.Name() + " has " + object, evidence: fmt.Sprint(err)}, nil
			}
		}
		f.broke, f.ended = line == "", "the others refused it, the liar stopped with STATE_CORRUPT and the others serve under another leader"
		f.evidence = said + "; its log: " + line
		seen, err := t.diagnosed(ctx, liar, "does not answer the other nodes")
		if err != nil {
			return finding{broke: true, ended: "no command says which node has stopped", evidence: err.Error()}, nil //nolint:nilerr // As above.
		}
		f.evidence += "; krypton status: " + seen
		c, alone, err := w.defenceless(ctx, l.without)
		if err != nil {
			return f, err
		}
		if _, err = l.does(ctx, c, alone, alone); err == nil {
			f.control = "done, and it stays"
		}
		return f, c.lie()
	}
}

// unsignedBinding is a role binding that nobody signed.
func unsignedBinding() lie {
	return lie{
		cluster: "members", without: mutation.SkipIntents,
		does: func(ctx context.Context, t *theatre, from, leader *devcluster.Node) (string, error) {
			v, err := t.registry(leader)
			if err != nil {
				return "", err
			}
			cmd, err := bindOperator(v, "liam")
			if err != nil {
				return "", err
			}
			return "roleBindings/operator-liam", t.forward(ctx, from, leader, cmd, 0)
		},
		read: func(ctx context.Context, c *client.Client, object string) error {
			_, err := c.Access().GetRoleBinding(ctx, &kryptonv1.GetRoleBindingRequest{Name: object})
			return err
		},
	}
}

// ownVoter is a node that is admitted with what another one showed.
func ownVoter() lie {
	return lie{
		cluster: "admitting", without: mutation.SkipAdmission,
		does: admitInstead,
		read: func(ctx context.Context, c *client.Client, object string) error {
			_, err := c.Cluster().GetNode(ctx, &kryptonv1.GetNodeRequest{Name: object})
			return err
		},
	}
}

func anothersToken(ctx context.Context, w *world) (f finding, err error) {
	t, leader, liar, err := w.members(ctx)
	if err != nil {
		return f, err
	}
	name, err := admitInstead(ctx, t, liar, leader)
	if name == "" {
		return f, notTried(err)
	}
	f.broke, f.ended, f.evidence = judged(err, errs.Denied)
	c, alone, err := w.defenceless(ctx, mutation.SkipAdmission)
	if err != nil {
		return f, err
	}
	if _, err := admitInstead(ctx, c, alone, alone); err == nil {
		f.control = "it is a member, with a vote"
	}
	return f, c.lie()
}

// admitInstead has a node with a voter's token ask a member that lies, which asks the
// leader to admit another node with what it was shown; and returns that node's name,
// empty if it could not be tried.
func admitInstead(ctx context.Context, t *theatre, from, leader *devcluster.Node) (name string, err error) {
	var text string
	if err := t.as(ctx, auth.RoleOperator, func(c *client.Client) error {
		text, err = t.Invite(ctx, c)
		return err
	}); err != nil {
		return "", err
	}
	token, err := invitationIn(text)
	if err != nil {
		return "", err
	}
	honest, err := newGhost()
	if err != nil {
		return "", err
	}
	own, err := newGhost()
	if err != nil {
		return "", err
	}
	a := token.application(honest)
	a.NodeId, a.PublicKey = own.id, own.spki
	key, err := memberKey(from)
	if err != nil {
		return "", err
	}
	cert, err := selfSigned(key)
	if err != nil {
		return "", err
	}
	return "nodes/" + own.id, asMember(leader, cert, func(p clusterpb.PeerClient) error {
		_, err := p.Admit(ctx, a)
		return err
	})
}

// lineWith returns the last line of a text that has all of these words.
func lineWith(text string, words ...string) (found string) {
	for line := range strings.SplitSeq(text, "\n") {
		all := true
		for _, w := range words {
			all = all && strings.Contains(line, w)
		}
		if all {
			found = line
		}
	}
	return found
}
