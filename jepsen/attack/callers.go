//go:build unix

package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base32"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
	"github.com/openkcm/krypton-cluster/internal/mutation"
)

const caHolder = "who has the key of the cluster's caller CA"

// callers are attacks by whoever has a credential that was stolen, or that says more
// than it should.
func callers() []attack {
	return []attack{
		{
			name: "mint a governor", who: caHolder, tries: "signs a certificate for the governor alice over a key of the attacker's",
			stops:   "a certificate counts for the keys in the role binding only",
			without: "certificates count for any key", run: minted(mintGovernor),
		},
		{
			name: "mint a workload of a tenant", who: caHolder, tries: "signs a certificate for the tenant's workload, and decrypts",
			stops:   "a certificate counts for the keys in the role binding only",
			without: "certificates count for any key", run: minted(mintWorkload),
		},
		{
			name: "mint an operator", who: caHolder, tries: "signs a certificate for an operator of whom nobody ever heard",
			stops:   "without a role binding there is no role",
			without: "the same certificate, once governors bound that operator to that key", run: mintOperator,
		},
		{
			name: "mint a node", who: "who has the key of the node CA", tries: "signs a node's certificate and calls the peer port, as a member and as Raft",
			stops:   "a peer is known by the key in its member entry, never by who signed",
			without: "the same call, with the key of a member", run: mintNode,
		},
		{
			name: "use keys as governor", who: "a governor", tries: "decrypts with the own certificate",
			stops:   "the table of duties: no role both governs and uses keys",
			without: "the same call by the workload", run: governorDecrypts,
		},
		{
			name: "be a workload with a governor's key", who: "a governor", tries: "binds a workload of the tenant to the own key",
			stops: "a public key stands in one role binding only",
			// What is not prevented: see docs/attacks.md.
			without: "the same binding with another key, which is in the registry with who signed for it", run: secondIdentity,
		},
		{
			name: "govern inside another's tenant", who: "a governor of the platform", tries: "binds a workload of a tenant that lists other governors",
			stops:   "power inside a tenant is held by the governors that it lists",
			without: "the same binding by a governor of that tenant", run: foreignTenant,
		},
		{
			name: "say in headers who one is", who: "an auditor", tries: "suspends a service over HTTP, with headers that gateways turn into metadata, and those of proxies, all in the governor's name",
			stops:   "of the headers of a request a list is read, and identity is not on it",
			without: "the same request with the governor's certificate", run: headers,
		},
		{
			name: "use a join token twice", who: "who saw a join token", tries: "joins with a token that was used",
			stops:   "a token admits one node, once",
			without: "the first use of the token", run: usedToken,
		},
		{
			name: "use a token of a revoked operator", who: "an operator who was put out", tries: "joins with a token made before the own certificate was revoked",
			stops:   "a revocation drops the tokens that were made with the certificate",
			without: "another token of the same operator, before the revocation", run: revokedToken,
		},
		{
			name: "call with the key of a removed member", who: "who kept the key of a member that was removed", tries: "calls the peer port",
			stops:   "each call asks the registry whether the key is a current member's",
			without: "the same call before the removal", run: removedMember,
		},
	}
}

// target returns the cluster whose callers attack it.
func (w *world) target(ctx context.Context) (*theatre, *devcluster.Node, error) {
	t, err := w.cluster(ctx, "callers", 1, honest)
	if err != nil {
		return nil, nil, notTried(err)
	}
	return t, t.Nodes()[0], nil
}

// identityIn returns what a certificate of that cluster says.
func (t *theatre) identityIn(role auth.Role, name string) (auth.ID, error) {
	v, err := t.registry(t.Nodes()[0])
	if err != nil {
		return auth.ID{}, err
	}
	id := auth.ID{TrustDomain: hex.EncodeToString(v.Cluster().GetClusterId()) + ".krypton", Role: role, Name: name}
	if role == auth.RoleWorkload {
		tn, ok := v.Tenant(tenantID)
		if !ok {
			return id, errors.New("there is no tenant")
		}
		id.Tenant, id.TenantUID = tenantID, hierarchy.UID(tn.GetUid())
	}
	return id, nil
}

// stolen mints a caller with the stolen key of the CA.
func (t *theatre) stolen(ctx context.Context, role auth.Role, name string) (tls.Certificate, error) {
	ca, err := t.stealCA(ctx, t.Nodes()[0], callerCA)
	if err != nil {
		return tls.Certificate{}, err
	}
	defer ca.Destroy()
	id, err := t.identityIn(role, name)
	if err != nil {
		return tls.Certificate{}, err
	}
	return mint(ca, id)
}

func mintGovernor(ctx context.Context, t *theatre) error {
	cert, err := t.stolen(ctx, auth.RoleGovernor, "alice")
	if err != nil {
		return notTried(err)
	}
	_, err = t.whoAmI(ctx, cert)
	return err
}

func mintWorkload(ctx context.Context, t *theatre) error {
	cert, err := t.stolen(ctx, auth.RoleWorkload, "app")
	if err != nil {
		return notTried(err)
	}
	c, err := t.caller(ctx, cert)
	if err != nil {
		return notTried(err)
	}
	defer func() { _ = c.Close() }()
	return opens(ctx, c, t.ciphertext)
}

// minted is an attack with a certificate for an identity that is bound.
func minted(try func(context.Context, *theatre) error) func(context.Context, *world) (finding, error) {
	return func(ctx context.Context, w *world) (f finding, err error) {
		t, _, err := w.target(ctx)
		if err != nil {
			return f, err
		}
		f.broke, f.ended, f.evidence = judged(try(ctx, t), errs.Unauthenticated)
		c, _, err := w.defenceless(ctx, mutation.SkipPins)
		if err != nil {
			return f, err
		}
		if try(ctx, c) == nil {
			f.control = "accepted"
		}
		return f, c.lie()
	}
}

func mintOperator(ctx context.Context, w *world) (f finding, err error) {
	t, _, err := w.target(ctx)
	if err != nil {
		return f, err
	}
	cert, err := t.stolen(ctx, auth.RoleOperator, "mallory")
	if err != nil {
		return f, notTried(err)
	}
	_, err = t.whoAmI(ctx, cert)
	f.broke, f.ended, f.evidence = judged(err, errs.Unauthenticated)
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return f, err
	}
	err = t.as(ctx, auth.RoleGovernor, func(c *client.Client) error {
		_, err := c.Access().CreateRoleBinding(ctx, &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "operator-mallory", RoleBinding: &kryptonv1.RoleBinding{
			Role: kryptonv1.Role_ROLE_OPERATOR, Member: "mallory",
			Keys: []*kryptonv1.AuthorityKey{{PublicKey: leaf.RawSubjectPublicKeyInfo, Tls: true}},
		}})
		return err
	})
	if err != nil {
		return f, notTried(err)
	}
	if who, err := t.whoAmI(ctx, cert); err == nil {
		f.control = "accepted as " + who.GetRoleBinding()
	}
	return f, nil
}

func mintNode(ctx context.Context, w *world) (f finding, err error) {
	t, n, err := w.target(ctx)
	if err != nil {
		return f, err
	}
	ca, err := t.stealCA(ctx, n, nodeCA)
	if err != nil {
		return f, notTried(err)
	}
	defer ca.Destroy()
	key, err := newKey()
	if err != nil {
		return f, err
	}
	id, err := t.identityIn(auth.RoleOperator, "any")
	if err != nil {
		return f, notTried(err)
	}
	cert, err := ca.IssueNode(rand.Reader, time.Now(), pki.NodeRequest{
		TrustDomain: id.TrustDomain, Node: n.ID(), PublicKey: key.Public(), IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
	})
	if err != nil {
		return f, notTried(err)
	}
	pair := tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
	health := func(c tls.Certificate) error {
		return asMember(n, c, func(p clusterpb.PeerClient) error {
			_, err := p.Health(ctx, &clusterpb.HealthRequest{})
			return err
		})
	}
	err = health(pair)
	f.broke, f.ended, f.evidence = err == nil, "refused in the handshake", fmt.Sprint(err)
	if conn, err := dialPeer(ctx, n.Addresses().Peer, protoRaft, pair); err == nil {
		// TLS 1.3 tells a client of its refusal with the first read.
		_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
		_, err = conn.Read(make([]byte, 1))
		f.broke = f.broke || err == nil || errors.Is(err, os.ErrDeadlineExceeded)
		_ = conn.Close()
	}
	own, err := memberKey(n)
	if err != nil {
		return f, notTried(err)
	}
	member, err := selfSigned(own)
	if err != nil {
		return f, err
	}
	if health(member) == nil {
		f.control = "answered"
	}
	return f, nil
}

func governorDecrypts(ctx context.Context, w *world) (f finding, err error) {
	t, _, err := w.target(ctx)
	if err != nil {
		return f, err
	}
	err = t.as(ctx, auth.RoleGovernor, func(c *client.Client) error { return opens(ctx, c, t.ciphertext) })
	f.broke, f.ended, f.evidence = judged(err, errs.Denied)
	if t.as(ctx, auth.RoleWorkload, func(c *client.Client) error { return opens(ctx, c, t.ciphertext) }) == nil {
		f.control = "decrypted"
	}
	return f, nil
}

// bindWorkload binds a workload of a tenant to a key, in the name of a caller.
func bindWorkload(ctx context.Context, c *client.Client, tenant, name string, spki []byte) (*kryptonv1.RoleBinding, error) {
	return c.Access().CreateRoleBinding(ctx, &kryptonv1.CreateRoleBindingRequest{Parent: tenant, RoleBindingId: name, RoleBinding: &kryptonv1.RoleBinding{
		Role: kryptonv1.Role_ROLE_WORKLOAD, Member: name, Keys: []*kryptonv1.AuthorityKey{{PublicKey: spki, Tls: true}},
	}})
}

func secondIdentity(ctx context.Context, w *world) (f finding, err error) {
	t, _, err := w.target(ctx)
	if err != nil {
		return f, err
	}
	alice, _ := t.Person(auth.RoleGovernor)
	pair, err := tls.LoadX509KeyPair(alice.CertFile, alice.KeyFile)
	if err != nil {
		return f, notTried(err)
	}
	_, spki, err := newCaller()
	if err != nil {
		return f, err
	}
	return f, t.as(ctx, auth.RoleGovernor, func(c *client.Client) error {
		_, err := bindWorkload(ctx, c, tenant, "alice", pair.Leaf.RawSubjectPublicKeyInfo)
		f.broke, f.ended, f.evidence = judged(err, errs.AlreadyExists)
		b, err := bindWorkload(ctx, c, tenant, "alice", spki)
		if err == nil && len(b.GetAuthorizedBy()) > 0 {
			f.control = "bound; the binding says that " + strings.Join(b.GetAuthorizedBy(), ", ") + " signed for it"
		}
		return nil
	})
}

// newCaller returns a new key and its public half.
func newCaller() (key any, spki []byte, err error) {
	k, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	spki, err = x509.MarshalPKIXPublicKey(k.Public())
	return k, spki, err
}

// foreignTenant lists a governor of its own, gina; alice, who has the platform, made it.
func foreignTenant(ctx context.Context, w *world) (f finding, err error) {
	t, _, err := w.target(ctx)
	if err != nil {
		return f, err
	}
	key, spki, err := newCaller()
	if err != nil {
		return f, err
	}
	const bank = "tenants/bank"
	if err := t.CreateTenant(ctx, "bank"); err != nil {
		return f, notTried(err)
	}
	var gina *client.Client
	err = t.as(ctx, auth.RoleGovernor, func(c *client.Client) error {
		resp, err := c.Access().IssueCertificate(ctx, &kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_GOVERNOR, Name: "gina", PublicKey: spki})
		if err != nil {
			return err
		}
		block, _ := pem.Decode(resp.GetCertificate())
		if gina, err = t.signing(ctx, tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}); err != nil {
			return err
		}
		_, err = c.Tenants().SetGovernors(ctx, &kryptonv1.SetGovernorsRequest{Name: bank, Governors: []string{"roleBindings/governor-gina"}})
		return err
	})
	if err != nil {
		return f, notTried(err)
	}
	defer func() { _ = gina.Close() }()
	_, app, err := newCaller()
	if err != nil {
		return f, err
	}
	err = t.as(ctx, auth.RoleGovernor, func(c *client.Client) error {
		_, err := bindWorkload(ctx, c, bank, "app", app)
		return err
	})
	f.broke, f.ended, f.evidence = judged(err, errs.Denied)
	if _, err := bindWorkload(ctx, gina, bank, "app", app); err == nil {
		f.control = "bound"
	}
	return f, nil
}

// joinToken has an operator make a token for a node that does not vote, and returns
// what is in it.
func joinToken(ctx context.Context, c *client.Client) (invitation, error) {
	resp, err := c.Cluster().CreateJoinToken(ctx, &kryptonv1.CreateJoinTokenRequest{})
	if err != nil {
		return invitation{}, err
	}
	return invitationIn(resp.GetToken())
}

// invitation is what a join token holds: the cluster, and the seed of a key.
type invitation struct {
	fingerprint [32]byte
	key         ed25519.PrivateKey
}

func invitationIn(token string) (i invitation, err error) {
	raw, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.ToUpper(strings.TrimPrefix(token, "kjoin2-")))
	if err != nil || len(raw) < 64 {
		return i, errors.New("the token is not as docs/formats.md says")
	}
	return invitation{[32]byte(raw[:32]), ed25519.NewKeyFromSeed(raw[32:64])}, nil
}

// application is how a ghost asks to be admitted with an invitation.
func (i invitation) application(g ghost) *clusterpb.AdmitRequest {
	info := &clusterpb.NodeInfo{
		Name: "ghost-" + g.id[:8], PeerAddress: "127.0.0.1:1", GrpcAddress: "127.0.0.1:2", Version: "ghost", MaxFormat: fsm.MaxFormatVersion,
	}
	return &clusterpb.AdmitRequest{
		NodeId: g.id, PublicKey: g.spki, Info: info, TokenKey: i.key[ed25519.SeedSize:],
		Signature: ed25519.Sign(i.key, fsm.AdmissionMessage(i.fingerprint, &fsmpb.Member{Id: g.id, PublicKey: g.spki})),
	}
}

// ghost is a node that is a key and nothing more.
type ghost struct {
	id   string
	spki []byte
	cert tls.Certificate
}

func newGhost() (g ghost, err error) {
	key, err := newKey()
	if err != nil {
		return g, err
	}
	g.id = hex.EncodeToString(random16())
	if g.spki, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		return g, err
	}
	g.cert, err = selfSigned(key)
	return g, err
}

// join has a new ghost join with what a token holds.
func join(ctx context.Context, to *devcluster.Node, with invitation) (g ghost, err error) {
	if g, err = newGhost(); err != nil {
		return g, err
	}
	cc, err := grpc.NewClient("passthrough:///"+to.Addresses().Peer, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return dialPeer(ctx, addr, protoJoin, g.cert)
		}))
	if err != nil {
		return g, err
	}
	defer func() { _ = cc.Close() }()
	a := with.application(g)
	_, err = clusterpb.NewJoinClient(cc).Join(ctx, &clusterpb.JoinRequest{NodeId: g.id, TokenKey: a.GetTokenKey(), Signature: a.GetSignature(), Info: a.GetInfo()})
	return g, wire.FromStatus(err)
}

func usedToken(ctx context.Context, w *world) (f finding, err error) {
	t, n, err := w.target(ctx)
	if err != nil {
		return f, err
	}
	return f, t.as(ctx, auth.RoleOperator, func(c *client.Client) error {
		token, err := joinToken(ctx, c)
		if err != nil {
			return notTried(err)
		}
		first, err := join(ctx, n, token)
		if err == nil {
			f.control = "it joined"
		}
		_, err = join(ctx, n, token)
		f.broke, f.ended, f.evidence = judged(err, errs.Denied)
		return remove(ctx, c, first)
	})
}

// remove takes a ghost out of the cluster.
func remove(ctx context.Context, c *client.Client, g ghost) error {
	_, err := c.Cluster().RemoveNode(ctx, &kryptonv1.RemoveNodeRequest{Name: "nodes/" + g.id})
	return err
}

func revokedToken(ctx context.Context, w *world) (f finding, err error) {
	t, n, err := w.target(ctx)
	if err != nil {
		return f, err
	}
	key, spki, err := newCaller()
	if err != nil {
		return f, err
	}
	return f, t.as(ctx, auth.RoleGovernor, func(c *client.Client) error {
		resp, err := c.Access().IssueCertificate(ctx, &kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_OPERATOR, Name: "oscar", PublicKey: spki})
		if err != nil {
			return notTried(err)
		}
		block, _ := pem.Decode(resp.GetCertificate())
		oscar, err := t.caller(ctx, tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key})
		if err != nil {
			return notTried(err)
		}
		defer func() { _ = oscar.Close() }()
		used, err := joinToken(ctx, oscar)
		if err != nil {
			return notTried(err)
		}
		kept, err := joinToken(ctx, oscar)
		if err != nil {
			return notTried(err)
		}
		g, err := join(ctx, n, used)
		if err == nil {
			f.control = "it joined"
		}
		if _, err := c.Access().RevokeCertificate(ctx, &kryptonv1.RevokeCertificateRequest{Certificate: resp.GetCertificate()}); err != nil {
			return notTried(err)
		}
		_, err = join(ctx, n, kept)
		f.broke, f.ended, f.evidence = judged(err, errs.Denied)
		return t.as(ctx, auth.RoleOperator, func(c *client.Client) error { return remove(ctx, c, g) })
	})
}

func removedMember(ctx context.Context, w *world) (f finding, err error) {
	t, n, err := w.target(ctx)
	if err != nil {
		return f, err
	}
	return f, t.as(ctx, auth.RoleOperator, func(c *client.Client) error {
		token, err := joinToken(ctx, c)
		if err != nil {
			return notTried(err)
		}
		g, err := join(ctx, n, token)
		if err != nil {
			return notTried(err)
		}
		ask := func() error {
			return asMember(n, g.cert, func(p clusterpb.PeerClient) error {
				_, err := p.Health(ctx, &clusterpb.HealthRequest{})
				return err
			})
		}
		if ask() == nil {
			f.control = "answered"
		}
		if err := remove(ctx, c, g); err != nil {
			return notTried(err)
		}
		err = ask()
		f.broke, f.ended, f.evidence = err == nil, "refused", fmt.Sprint(err)
		return nil
	})
}
