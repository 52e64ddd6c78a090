package server_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// peerPort dials the peer port of a member with the key of another one, as that one
// would if it were made to: the real protocol, and anything in it.
func (w *world) peerPort(t testing.TB, to, as int, protocol string) *grpc.ClientConn {
	t.Helper()
	key, err := cluster.LoadMemberKey(w.members[as].dir, clock.System{}, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := key.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{protocol}, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key.Signer()}},
		InsecureSkipVerify: true, // it is the liar's business whom it talks to
	}
	cc, err := grpc.NewClient("passthrough:///"+w.members[to].addrs.Peer, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

// liar is a member that was taken over: it has the key of one that follows.
type liar struct {
	*world

	leader int
	id     string // of the member whose key it has
	peer   clusterpb.PeerClient
}

// lying is a cluster of two nodes, of which the second lies to the first.
func lying(t testing.TB) *liar {
	t.Helper()
	w := newWorld(t, 2)
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	w.tenant("acme", "pay")
	lead := w.leader()
	follow := 1 - lead
	return &liar{w, lead, string(w.members[follow].c.NodeID()), clusterpb.NewPeerClient(w.peerPort(t, lead, follow, "krypton-peer/1"))}
}

func withCertificate(c tls.Certificate) *clusterpb.Shown {
	return &clusterpb.Shown{By: &clusterpb.Shown_Certificate{Certificate: c.Certificate[0]}}
}

func withToken(token string) *clusterpb.Shown {
	return &clusterpb.Shown{By: &clusterpb.Shown_Token{Token: []byte(token)}}
}

// principal is who a certificate of the cluster's CA is for, as commands name it.
func (l *liar) principal(role, name string) *fsmpb.Principal {
	l.t.Helper()
	i, ok := l.members[l.leader].state.View().Issuer("", "builtin")
	if !ok {
		l.t.Fatal("no issuer builtin")
	}
	return &fsmpb.Principal{Issuer: auth.Issuer(i.GetUid()).String(), Kind: role, Name: name}
}

// command is one that the principal may give: nothing but who asks is wrong with it.
func command(p *fsmpb.Principal) *fsmpb.Command {
	id := uuid.NewString()
	sum := sha256.Sum256([]byte(id))
	cmd := &fsmpb.Command{Format: fsm.CommandFormat, Principal: p, RequestId: id, RequestDigest: sum[:], CorrelationId: uuid.NewString()}
	if p.GetKind() == "operator" {
		cmd.Body = &fsmpb.Command_CreateJoinToken{CreateJoinToken: &fsmpb.CreateJoinToken{Token: &fsmpb.JoinToken{Hash: sum[:], ExpireTimeMs: time.Now().Add(time.Hour).UnixMilli()}}}
		return cmd
	}
	cmd.Body = &fsmpb.Command_ChangeObject{ChangeObject: &fsmpb.ChangeObject{
		Object: &fsmpb.ObjectRef{Tenant: "acme", Service: "pay"}, Event: fsmpb.ObjectEvent_OBJECT_EVENT_SUSPEND, Cause: "operator",
	}}
	return cmd
}

// forward sends what the liar says, and returns the refusal of the leader or of the
// state machine.
func (l *liar) forward(t testing.TB, req *clusterpb.ProposeRequest) error {
	t.Helper()
	resp, err := l.peer.Propose(limited(t), req)
	if err != nil {
		return err
	}
	return fsm.Err(resp.GetResult())
}

// caught checks that the leader changed nothing, and recorded the refusal with the
// liar's name on it and with nobody else's.
func (l *liar) caught(t *testing.T, what string, cmd *fsmpb.Command, err error, want errs.Code) {
	t.Helper()
	if codeOf(err) != want {
		t.Errorf("%s: %v, want %s", what, err, want)
	}
	leader := l.members[l.leader]
	if s, ok := leader.state.View().Service("acme", "pay"); !ok || s.GetState() != fsmpb.ObjectState_OBJECT_STATE_ACTIVE {
		t.Fatalf("%s: the service was suspended", what)
	}
	if _, ok := leader.state.View().JoinToken(cmd.GetRequestDigest()); ok {
		t.Fatalf("%s: there is a join token", what)
	}
	got := leader.recordsOf(t, cmd.GetCorrelationId())
	claim := cmd.GetPrincipal().GetKind() + "/" + cmd.GetPrincipal().GetName()
	if len(got) != 1 || got[0].Act != "node.forward" || got[0].Via != l.id || got[0].Principal != "unauthenticated" || got[0].Role != "" ||
		got[0].Code != want.String() || got[0].Outcome == "ok" || !strings.Contains(got[0].Cause, claim) {
		t.Errorf("%s is recorded as %+v, want one refusal by the node %s which says that it acts for %s", what, got, l.id, claim)
	}
}

// TestALyingMemberAssertsNobody whom it did not see: each assertion is refused by the
// leader, changes nothing, and is recorded with the name of the member.
func TestALyingMemberAssertsNobody(t *testing.T) {
	t.Parallel()
	l := lying(t)
	p, foreign := newProvider(t, "https://idp.example"), newProvider(t, "https://idp.example")
	l.must(t, "Access.CreateIssuer", &kryptonv1.CreateIssuerRequest{IssuerId: "idp", Issuer: &kryptonv1.Issuer{
		Kind:  &kryptonv1.Issuer_Jwt{Jwt: &kryptonv1.JWTIssuer{Url: p.url, Audiences: []string{"krypton"}, Keys: p.jwks(t)}},
		Roles: []kryptonv1.Role{kryptonv1.Role_ROLE_OPERATOR, kryptonv1.Role_ROLE_AUDITOR}, AllTenants: true,
	}})
	idp, _ := l.members[0].state.View().Issuer("", "idp")
	for name, role := range map[string]kryptonv1.Role{"otto": kryptonv1.Role_ROLE_OPERATOR, "ada": kryptonv1.Role_ROLE_AUDITOR} {
		l.must(t, "Access.CreateRoleBinding", &kryptonv1.CreateRoleBindingRequest{RoleBindingId: name, RoleBinding: &kryptonv1.RoleBinding{
			Issuer: "issuers/idp", Subject: name, Role: role, Member: name,
		}})
	}
	alice, opera := l.principal("governor", "alice"), l.principal("operator", "x")
	otto := &fsmpb.Principal{Issuer: auth.Issuer(idp.GetUid()).String(), Kind: "operator", Name: "otto"}
	node, err := tls.LoadX509KeyPair(l.members[0].dir.Path("tls/api.pem"), l.members[0].dir.Path("tls/node.key"))
	if err != nil {
		t.Fatal(err)
	}
	exp := func(at time.Time) func(map[string]any) {
		return func(c map[string]any) { c["iat"], c["exp"] = at.Add(-time.Hour).Unix(), at.Unix() }
	}
	for what, c := range map[string]struct {
		as    *fsmpb.Principal
		shown *clusterpb.Shown
		want  errs.Code
	}{
		"a governor, and shows nothing":                  {alice, nil, errs.Unauthenticated},
		"an operator, and shows nothing":                 {opera, nil, errs.Unauthenticated},
		"who has a token, and shows nothing":             {otto, nil, errs.Unauthenticated},
		"a governor, and an empty showing":               {alice, &clusterpb.Shown{}, errs.Unauthenticated},
		"a governor by an empty certificate":             {alice, withCertificate(tls.Certificate{Certificate: [][]byte{{}}}), errs.Unauthenticated},
		"a governor by junk":                             {alice, withCertificate(tls.Certificate{Certificate: [][]byte{[]byte("junk")}}), errs.Unauthenticated},
		"a governor by a certificate of another CA":      {alice, withCertificate(forged(t, l.people["governor"])), errs.Unauthenticated},
		"a governor by the certificate of an operator":   {alice, withCertificate(l.people["operator"]), errs.Denied},
		"a governor by the certificate of a workload":    {alice, withCertificate(l.people["workload/acme"]), errs.Denied},
		"a governor by the certificate of a node":        {alice, withCertificate(node), errs.Unauthenticated},
		"an operator by the certificate of an auditor":   {opera, withCertificate(l.people["auditor"]), errs.Denied},
		"a workload by the certificate of another":       {l.principal("workload", "acme/y"), withCertificate(l.people["workload/acme"]), errs.Denied},
		"a governor by the token of an operator":         {alice, withToken(p.token(t, "otto")), errs.Denied},
		"somebody of another issuer":                     {&fsmpb.Principal{Issuer: otto.GetIssuer(), Kind: "governor", Name: "alice"}, withCertificate(l.people["governor"]), errs.Denied},
		"an operator by the token of another":            {otto, withToken(p.token(t, "ada")), errs.Denied},
		"an operator by a token that has expired":        {otto, withToken(p.token(t, "otto", exp(time.Now().Add(-time.Hour)))), errs.Unauthenticated},
		"an operator by a token for another audience":    {otto, withToken(p.token(t, "otto", func(c map[string]any) { c["aud"] = "billing" })), errs.Unauthenticated},
		"an operator by a token of another issuer":       {otto, withToken(p.token(t, "otto", func(c map[string]any) { c["iss"] = "https://other.example" })), errs.Unauthenticated},
		"an operator by a token that another key signed": {otto, withToken(foreign.token(t, "otto")), errs.Unauthenticated},
		"an operator by a token that nobody is bound to": {otto, withToken(p.token(t, "nobody")), errs.Unauthenticated},
		"an operator by no token":                        {otto, withToken("x.y.z"), errs.Unauthenticated},
		"an operator by a token that is too long":        {otto, withToken(strings.Repeat("a", auth.MaxToken+1)), errs.Unauthenticated},
		"a governor by a certificate that is too long":   {alice, withCertificate(tls.Certificate{Certificate: [][]byte{make([]byte, auth.MaxCertificate+1)}}), errs.TooLarge},
		"the local operator of its socket":               {&fsmpb.Principal{Issuer: auth.LocalIssuer.String(), Kind: "operator", Name: "local"}, nil, errs.Denied},
		"the local operator by somebody's certificate":   {&fsmpb.Principal{Issuer: auth.LocalIssuer.String(), Kind: "operator", Name: "local"}, withCertificate(l.people["operator"]), errs.Denied},
		"another node": {&fsmpb.Principal{Kind: "node", Name: string(l.members[l.leader].c.NodeID())}, nil, errs.Denied},
	} {
		cmd := command(c.as)
		l.caught(t, what, cmd, l.forward(t, &clusterpb.ProposeRequest{Command: cmd, Shown: c.shown}), c.want)
	}
	// What is wrong with the rest of it.
	cmd := command(alice)
	l.caught(t, "a state that is not this cluster's", cmd, l.forward(t, &clusterpb.ProposeRequest{Command: cmd, Shown: withCertificate(l.people["governor"]), Authority: 1 << 60}), errs.InvalidArgument)
	cmd = command(alice)
	cmd.Approval = strings.Repeat("a", 32)
	l.caught(t, "an approval that does not exist", cmd, l.forward(t, &clusterpb.ProposeRequest{Command: cmd}), errs.Denied)
	cmd = command(alice)
	cmd.CorrelationId = "x\n\"" + cmd.GetCorrelationId()
	if err := l.forward(t, &clusterpb.ProposeRequest{Command: cmd, Shown: withCertificate(l.people["governor"])}); codeOf(err) != errs.InvalidArgument {
		t.Errorf("a correlation id that is none: %v", err)
	}
}

// TestALyingMemberHasNoUseOfWhatEnded: a certificate that was revoked, one that has
// expired, one whose role was taken away, one that was replaced by another key.
func TestALyingMemberHasNoUseOfWhatEnded(t *testing.T) {
	t.Parallel()
	l := lying(t)
	opera := l.principal("operator", "x")
	old := l.people["operator"]
	works := func(what string, c tls.Certificate) {
		t.Helper()
		if err := l.forward(t, &clusterpb.ProposeRequest{Command: command(opera), Shown: withCertificate(c)}); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	refused := func(what string, c tls.Certificate) {
		t.Helper()
		cmd := command(opera)
		l.caught(t, what, cmd, l.forward(t, &clusterpb.ProposeRequest{Command: cmd, Shown: withCertificate(c)}), errs.Unauthenticated)
	}
	works("a certificate", old)
	short := l.issue("operator", "", time.Hour)
	works("another certificate for the same key", short)
	l.members[l.leader].door.advance(2 * time.Hour)
	refused("an expired certificate", short)
	l.members[l.leader].door.advance(-2 * time.Hour)
	works("the same before it expires", short)

	l.must(t, "Access.RevokeCertificate", &kryptonv1.RevokeCertificateRequest{Certificate: old.Certificate[0]})
	refused("a revoked certificate", old)
	works("a certificate that was not revoked", short)

	l.must(t, "Access.DeleteRoleBinding", &kryptonv1.DeleteRoleBindingRequest{Name: "roleBindings/operator-x"})
	refused("a certificate whose role was taken away", short)
	delete(l.keys, "operator")
	other := l.issue("operator", "", 0)
	refused("a certificate for the key before", short)
	works("a certificate for the bound key", other)
}

// TestWhatIsLeftToALyingMember: it can use a certificate or token that a caller really
// showed to it, for another command. That is so, and stands in the threat model; the
// record and the log say by which node it came.
func TestWhatIsLeftToALyingMember(t *testing.T) {
	t.Parallel()
	l := lying(t)
	gov := l.principal("governor", "alice")
	cmd := command(gov)
	cmd.ViaNode, cmd.Proposer = "somebody", "else"
	if err := l.forward(t, &clusterpb.ProposeRequest{Command: cmd, Shown: withCertificate(l.people["governor"])}); err != nil {
		t.Fatal(err)
	}
	want := gov.GetIssuer() + "/governor/alice"
	got := l.members[l.leader].recordsOf(t, cmd.GetCorrelationId())
	if len(got) != 1 || got[0].Via != l.id || got[0].Principal != want || got[0].Role != "governor" || got[0].Outcome != "ok" || got[0].Object != "tenants/acme/services/pay" || got[0].Cause != "change_object" {
		t.Errorf("recorded as %+v", got)
	}
	// What it does by itself is its own, and it may do neither of these by itself.
	for _, e := range []fsmpb.ObjectEvent{fsmpb.ObjectEvent_OBJECT_EVENT_RESUME, fsmpb.ObjectEvent_OBJECT_EVENT_SCHEDULE_DESTROY} {
		for _, cause := range []string{"", "operator", "l1_denied"} {
			own := command(&fsmpb.Principal{Kind: "node", Name: l.id})
			own.GetChangeObject().Event, own.GetChangeObject().Cause = e, cause
			if err := l.forward(t, &clusterpb.ProposeRequest{Command: own}); codeOf(err) != errs.Denied {
				t.Errorf("a node did %s by itself for the cause %q: %v", e, cause, err)
			}
			if got := l.members[l.leader].recordsOf(t, own.GetCorrelationId()); len(got) != 1 || got[0].Principal != "node/"+l.id || got[0].Via != l.id || got[0].Code != "DENIED" {
				t.Errorf("recorded as %+v", got)
			}
		}
	}
}

// TestALeaderVerifiesACallerOfAnotherNodeOnce for as long as the registry stays: a
// second change costs a lookup. What was refused costs whoever sends it each time.
func TestALeaderVerifiesACallerOfAnotherNodeOnce(t *testing.T) {
	t.Parallel()
	l := lying(t)
	leader, opera := l.members[l.leader], l.principal("operator", "x")
	send := func(shown *clusterpb.Shown) error {
		return l.forward(t, &clusterpb.ProposeRequest{Command: command(opera), Shown: shown})
	}
	none := leader.srv.Handed()
	for range 3 {
		if err := send(withCertificate(l.people["operator"])); err != nil {
			t.Fatal(err)
		}
		if err := send(withCertificate(forged(t, l.people["operator"]))); codeOf(err) != errs.Unauthenticated {
			t.Fatal(err)
		}
	}
	if handed := leader.srv.Handed(); handed != none+1 {
		t.Errorf("%d certificates are kept, from %d", handed, none)
	}
}

// TestForwardingGoesOnOverLeadersAndRenewals: real callers over real doors of a node
// that follows, by certificate and by token, before and after the leader is another.
func TestForwardingGoesOnOverLeadersAndRenewals(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	w.tenant("other", "pay")
	p := newProvider(t, "https://idp.example")
	w.must(t, "Access.CreateIssuer", &kryptonv1.CreateIssuerRequest{IssuerId: "idp", Issuer: &kryptonv1.Issuer{
		Kind:  &kryptonv1.Issuer_Jwt{Jwt: &kryptonv1.JWTIssuer{Url: p.url, Audiences: []string{"krypton"}, Keys: p.jwks(t)}},
		Roles: []kryptonv1.Role{kryptonv1.Role_ROLE_OPERATOR}, AllTenants: true,
	}})
	w.must(t, "Access.CreateRoleBinding", &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "otto", RoleBinding: &kryptonv1.RoleBinding{
		Issuer: "issuers/idp", Subject: "otto", Role: kryptonv1.Role_ROLE_OPERATOR, Member: "otto",
	}})
	until(t, "three voters", func() error {
		if w.members[w.leader()].c.Stats().Voters < 3 {
			return errs.New(errs.NoLeader, "fewer")
		}
		return nil
	})
	for turn := range 3 {
		lead := w.leader()
		for i, m := range w.members {
			if i == lead {
				continue
			}
			for j, door := range []string{"grpc", "h2"} {
				verb, _ := toggled(j)
				request := uuid.NewString()
				id := w.change(t, i, door, verb, request, lie{})
				op, err := kryptonv1.NewClusterClient(w.grpc(i, "governor")).GetOperation(limited(t), &kryptonv1.GetOperationRequest{Name: "operations/" + request})
				if err != nil || op.GetViaNode() != "nodes/"+string(m.c.NodeID()) {
					t.Errorf("turn %d: the operation is shown as via %q, %v", turn, op.GetViaNode(), err)
				}
				got := w.recordsAnywhere(t, id, "node.forward")
				if len(got) != 1 || got[0].Via != string(m.c.NodeID()) || got[0].Outcome != "ok" || !strings.HasSuffix(got[0].Principal, "/governor/alice") {
					t.Errorf("turn %d: over %s of a follower, recorded as %+v", turn, door, got)
				}
			}
			cc := w.dial(i, w.tlsConfig())
			if _, err := kryptonv1.NewClusterClient(cc).CreateJoinToken(bearer(limited(t), p.token(t, "otto")), &kryptonv1.CreateJoinTokenRequest{}); err != nil {
				t.Errorf("turn %d: by a token: %v", turn, err)
			}
			_ = cc.Close()
		}
		if turn == 0 { // another certificate for the same key
			resp, err := kryptonv1.NewAccessClient(w.grpc(0, "governor")).RenewCertificate(limited(t), &kryptonv1.RenewCertificateRequest{})
			if err != nil {
				t.Fatal(err)
			}
			key, ok := w.people["governor"].PrivateKey.(*ecdsa.PrivateKey)
			if !ok {
				t.Fatal("not the key of a person")
			}
			w.people["governor"] = certificate(t, resp.GetCertificate(), key)
			w.hangUp()
			continue
		}
		if err := w.members[lead].c.TransferLeadership(limited(t), ""); err != nil {
			t.Fatal(err)
		}
		until(t, "another leader", func() error {
			if w.leader() == lead {
				return errs.New(errs.NoLeader, "the same")
			}
			return nil
		})
		for _, m := range w.members {
			m.waitServing()
		}
	}
}

// recordsAnywhere returns the records of a call with that act on all nodes.
func (w *world) recordsAnywhere(t testing.TB, correlation, act string) (all []record) {
	t.Helper()
	for _, m := range w.members {
		for _, r := range m.recordsOf(t, correlation) {
			if r.Act == act {
				all = append(all, r)
			}
		}
	}
	return all
}

// TestPortsHaveTheirOwnServices: what members ask each other is not on the ports of
// callers, and what callers ask is not on that of members, whoever connects.
func TestPortsHaveTheirOwnServices(t *testing.T) {
	t.Parallel()
	l := lying(t)
	follower := 1 - l.leader
	key, err := cluster.LoadMemberKey(l.members[follower].dir, clock.System{}, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := key.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	member := l.dial(l.leader, l.tlsConfig(tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key.Signer()}))
	defer func() { _ = member.Close() }()
	governor := l.grpc(l.leader, "governor")
	for _, sd := range []grpc.ServiceDesc{clusterpb.Peer_ServiceDesc, clusterpb.Join_ServiceDesc} {
		var names []string
		for _, m := range sd.Methods {
			names = append(names, m.MethodName)
		}
		for _, m := range sd.Streams {
			names = append(names, m.StreamName)
		}
		for _, name := range names {
			for who, cc := range map[string]*grpc.ClientConn{"a member": member, "a governor": governor} {
				if err := cc.Invoke(limited(t), "/"+sd.ServiceName+"/"+name, &clusterpb.ProposeRequest{}, &clusterpb.ProposeResponse{}); codeOf(err) != errs.Unimplemented {
					t.Errorf("%s asks the public port for %s/%s: %v", who, sd.ServiceName, name, err)
				}
			}
		}
	}
	for _, protocol := range []string{"krypton-peer/1", "krypton-join/1"} {
		peer := l.peerPort(t, l.leader, follower, protocol)
		for _, sd := range append(services(), kryptonv1.Admin_ServiceDesc) {
			for _, m := range sd.Methods {
				if err := peer.Invoke(limited(t), "/"+sd.ServiceName+"/"+m.MethodName, &kryptonv1.WhoAmIRequest{}, &kryptonv1.WhoAmIResponse{}); codeOf(err) != errs.Unimplemented {
					t.Errorf("a member asks the peer port (%s) for %s/%s: %v", protocol, sd.ServiceName, m.MethodName, err)
				}
			}
		}
	}
	// A caller is no member, whatever protocol it speaks there.
	for _, protocol := range []string{"krypton-peer/1", "krypton-raft/1", "h2", "http/1.1", ""} {
		cfg := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: l.certOf("governor")}
		if protocol != "" {
			cfg.NextProtos = []string{protocol}
		}
		conn, err := (&tls.Dialer{Config: cfg}).DialContext(limited(t), "tcp", l.members[l.leader].addrs.Peer)
		if err == nil {
			_, err = conn.Read(make([]byte, 1)) // TLS 1.3 tells a client with the first record
			_ = conn.Close()
		}
		if err == nil {
			t.Errorf("a governor got a connection to the peer port with %q", protocol)
		}
	}
}
