package orders

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// askTimeout bounds what one node of several may take to answer.
const askTimeout = 3 * time.Second

// pageSize is what one call of a list asks for.
const pageSize = 1000

// nodes are asked for what a request does not say.
type nodes struct {
	c *client.Client
}

// each asks every node of the client at once and returns what they say. Those that
// do not answer are left out, those that do must agree. That there is no such thing,
// or that it may not be seen, is an answer: else the one node that lies would be the
// only one that says something.
func each(ctx context.Context, c *client.Client, what string, ask func(context.Context, *client.Node) (string, error)) (string, error) {
	type answer struct {
		text string
		err  error
	}
	addrs := c.Addrs()
	answers := make([]answer, len(addrs))
	var wg sync.WaitGroup
	for i, addr := range addrs {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			nd := c.Node(addr)
			defer nd.Close() //nolint:errcheck // It is one of the client's own, and stays open.
			answers[i].text, answers[i].err = ask(ctx, nd)
		})
	}
	wg.Wait()
	said, found, denied := "", false, false
	var err error
	for _, a := range answers {
		switch {
		case errs.Is(a.err, errs.NotFound), errs.Is(a.err, errs.Denied):
			err, denied = a.err, true
		case a.err != nil:
			if !denied {
				err = a.err
			}
		case found && a.text != said:
			return "", contradiction(what)
		default:
			said, found = a.text, true
		}
	}
	switch {
	case !found:
		return "", err
	case denied:
		return "", contradiction(what)
	}
	return said, nil
}

func contradiction(what string) error {
	return errs.New(errs.FailedState, "the nodes contradict each other about "+what+", so nothing is signed",
		errs.Hint("if it was changed this moment, try again; else one of them lies: look with --addr at each alone"))
}

// agreed returns the uid of the object of that name, on which the nodes agree
// (I2): it decides alone who or what is meant.
func (n *nodes) agreed(ctx context.Context, o *Order, name string, at func(context.Context, *client.Node, string) (string, error)) ([]byte, error) {
	text, err := each(ctx, n.c, name, func(ctx context.Context, nd *client.Node) (string, error) { return at(ctx, nd, name) })
	if err != nil {
		return nil, missing(name, err)
	}
	uid, err := uidOf(text)
	if err != nil {
		return nil, err
	}
	o.Names = append(o.Names, Name{UID: text, Name: name})
	return uid, nil
}

func issuerUIDAt(ctx context.Context, nd *client.Node, name string) (string, error) {
	i, err := kryptonv1.NewAccessClient(nd).GetIssuer(ctx, &kryptonv1.GetIssuerRequest{Name: name})
	return i.GetUid(), err
}

func bindingUIDAt(ctx context.Context, nd *client.Node, name string) (string, error) {
	b, err := kryptonv1.NewAccessClient(nd).GetRoleBinding(ctx, &kryptonv1.GetRoleBindingRequest{Name: name})
	return b.GetUid(), err
}

func tenantUIDAt(ctx context.Context, nd *client.Node, name string) (string, error) {
	t, err := kryptonv1.NewTenantsClient(nd).GetTenant(ctx, &kryptonv1.GetTenantRequest{Name: name})
	return t.GetUid(), err
}

// governors returns the uids of role bindings, as the registry keeps them.
func (n *nodes) governors(ctx context.Context, o *Order, names []string) ([][]byte, error) {
	var uids [][]byte
	for _, name := range names {
		p, err := pathOf(name, hierarchy.KindRoleBinding)
		if err != nil {
			return nil, err
		}
		uid, err := n.agreed(ctx, o, p.String(), bindingUIDAt)
		if err != nil {
			return nil, err
		}
		uids = append(uids, uid)
	}
	return sorted(uids), nil
}

// tenantUID returns the uid of the tenant of which an object is; nil for none. One
// node is enough: the order has the name, too, and the cluster refuses two that
// do not belong together.
func (n *nodes) tenantUID(ctx context.Context, tenant hierarchy.Name) ([]byte, error) {
	if tenant == "" {
		return nil, nil
	}
	name := hierarchy.TenantPath(tenant).String()
	t, err := n.c.Tenants().GetTenant(ctx, &kryptonv1.GetTenantRequest{Name: name})
	if err != nil {
		return nil, missing(name, err)
	}
	return uidOf(t.GetUid())
}

// missing says of which object err is, if it is that there is none.
func missing(name string, err error) error {
	if !errs.Is(err, errs.NotFound) {
		return err
	}
	return errs.New(errs.NotFound, name+", which what you sign names by its uid, does not exist, or you may not see it", errs.Hint("check the name"), errs.Cause(err))
}

// unchanged makes the order depend on the object as it is now, also if there is
// none. A node that says a wrong index makes an order that is refused.
func (n *nodes) unchanged(ctx context.Context, o *Order, p hierarchy.Path) error {
	var is interface{ GetEtag() string }
	var err error
	switch name := p.String(); p.Kind { //nolint:exhaustive // Others are no object of an order.
	case hierarchy.KindTenant:
		is, err = n.c.Tenants().GetTenant(ctx, &kryptonv1.GetTenantRequest{Name: name})
	case hierarchy.KindService:
		is, err = n.c.Services().GetService(ctx, &kryptonv1.GetServiceRequest{Name: name})
	case hierarchy.KindTenantVersion, hierarchy.KindServiceVersion:
		is, err = n.c.Services().GetVersion(ctx, &kryptonv1.GetVersionRequest{Name: name})
	case hierarchy.KindIssuer, hierarchy.KindTenantIssuer:
		is, err = n.c.Access().GetIssuer(ctx, &kryptonv1.GetIssuerRequest{Name: name})
	case hierarchy.KindRoleBinding, hierarchy.KindTenantRoleBinding:
		is, err = n.c.Access().GetRoleBinding(ctx, &kryptonv1.GetRoleBindingRequest{Name: name})
	case hierarchy.KindPolicy:
		is, err = n.c.Policies().GetPolicy(ctx, &kryptonv1.GetPolicyRequest{Name: name})
	}
	switch {
	case errs.Is(err, errs.NotFound):
		return o.unchanged(p, "")
	case err != nil:
		return err
	}
	return o.unchanged(p, is.GetEtag())
}

// bound reports whether the identity of a certificate has a role binding with its
// key already, so that nothing is ordered. People's are looked for everywhere: the
// persons of the genesis are bound under other ids. Of a workload that is bound
// under another one something is signed for nothing, and does nothing.
func (n *nodes) bound(ctx context.Context, name string, r *kryptonv1.IssueCertificateRequest) (bool, error) {
	b, err := n.c.Access().GetRoleBinding(ctx, &kryptonv1.GetRoleBindingRequest{Name: name})
	switch {
	case err == nil:
		return hasKey(b, r), nil
	case !errs.Is(err, errs.NotFound):
		return false, err
	case r.GetTenant() != "":
		return false, nil
	}
	for token := ""; ; {
		page, err := n.c.Access().ListRoleBindings(ctx, &kryptonv1.ListRoleBindingsRequest{PageSize: pageSize, PageToken: token})
		if err != nil {
			return false, err
		}
		for _, b := range page.GetRoleBindings() {
			if hasKey(b, r) {
				return true, nil
			}
		}
		if token = page.GetNextPageToken(); token == "" {
			return false, nil
		}
	}
}

func hasKey(b *kryptonv1.RoleBinding, r *kryptonv1.IssueCertificateRequest) bool {
	for _, k := range b.GetKeys() {
		if k.GetTls() && bytes.Equal(k.GetPublicKey(), r.GetPublicKey()) && b.GetMember() == r.GetName() && b.GetRole() == r.GetRole() {
			return true
		}
	}
	return false
}

// memberKey returns the public key of a member, which the member itself shows: its
// certificate is for it. The order depends on no index: id and key say it all, and
// a member that was removed never comes back.
func (n *nodes) memberKey(ctx context.Context, o *Order, name, id string) ([]byte, error) {
	m, err := n.c.Cluster().GetNode(ctx, &kryptonv1.GetNodeRequest{Name: name})
	if err != nil {
		return nil, err
	}
	nd := n.c.Node(m.GetGrpcAddress())
	defer nd.Close() //nolint:errcheck // It was only asked.
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	st, err := nd.Seal().GetSeal(ctx, &kryptonv1.GetSealRequest{})
	if err != nil {
		return nil, errs.New(errs.Of(err), "the node whose key people sign cannot be asked for it: "+errs.From(err).Msg,
			errs.Hint("see that %s answers at %s", name, m.GetGrpcAddress()), errs.Cause(err))
	}
	cert, err := x509.ParseCertificate(st.GetNodeCertificate())
	if err != nil || st.GetNodeId() != id {
		return nil, errs.New(errs.FailedState, "what answers at the address of the node is not the node", errs.Hint("look at %s: krypton operator members", name), errs.Cause(err))
	}
	o.Names = append(o.Names, Name{UID: id, Name: "node " + shown(m.GetDisplayName()) + " at " + shown(m.GetGrpcAddress())})
	return cert.RawSubjectPublicKeyInfo, nil
}

// modIndex returns the log index that an etag stands for; 0 for none.
func modIndex(etag string) (uint64, error) {
	if etag == "" {
		return 0, nil
	}
	at, err := strconv.ParseUint(strings.Trim(etag, `"`), 10, 64)
	if err != nil {
		return 0, errs.New(errs.Internal, "a node says an etag that is none", errs.Hint("ask another node"), errs.Cause(err))
	}
	return at, nil
}

// Keyspace returns the keyspace on which the nodes of c agree (I2): a signature
// that was made for another one is good there.
func Keyspace(ctx context.Context, c *client.Client) (hierarchy.KeyspaceID, error) {
	text, err := each(ctx, c, "the keyspace", func(ctx context.Context, nd *client.Node) (string, error) {
		info, err := kryptonv1.NewClusterClient(nd).GetCluster(ctx, &kryptonv1.GetClusterRequest{})
		return info.GetKeyspaceId(), err
	})
	if err != nil {
		return hierarchy.KeyspaceID{}, err
	}
	id, err := hierarchy.ParseKeyspaceID(text)
	if err != nil {
		return id, errs.New(errs.Internal, "a node says a keyspace that is none", errs.Hint("ask another node"), errs.Cause(err))
	}
	return id, nil
}

// OwnBinding returns the name of the role binding by which the caller is a governor, on
// which the nodes of c agree (I2); empty if the caller is none. It is for what is
// filled in for a person who did not type it.
func OwnBinding(ctx context.Context, c *client.Client) (string, error) {
	return each(ctx, c, "who you are", func(ctx context.Context, nd *client.Node) (string, error) {
		who, err := kryptonv1.NewAccessClient(nd).WhoAmI(ctx, &kryptonv1.WhoAmIRequest{})
		if who.GetRole() != kryptonv1.Role_ROLE_GOVERNOR {
			return "", err
		}
		return who.GetRoleBinding(), err
	})
}

// Rules returns which acts the cluster wants to be signed, and by whom.
func Rules(ctx context.Context, c *client.Client) ([]*kryptonv1.IntentRule, error) {
	info, err := c.Cluster().GetCluster(ctx, &kryptonv1.GetClusterRequest{})
	return info.GetRules(), err
}

// NamesIn returns what the nodes of c say of the uids in a request: whose role
// binding, which issuer, which tenant. It is for who signs what somebody else
// made, so every node is asked, and where those that answer do not say the same,
// that is what the name is. What cannot be found, in the first thousand of each, has
// no name.
func NamesIn(ctx context.Context, c *client.Client, r *intent.Request) (names []Name) {
	var uids []string
	for _, f := range r.Fields() {
		if uid := hex.EncodeToString(f.Bytes); len(f.Bytes) == hierarchy.UIDSize && !slices.Contains(uids, uid) {
			uids = append(uids, uid)
		}
	}
	if len(uids) == 0 {
		return nil
	}
	all := make([]map[string]string, len(c.Addrs()))
	var wg sync.WaitGroup
	for i, addr := range c.Addrs() {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			nd := c.Node(addr)
			defer nd.Close() //nolint:errcheck // It is one of the client's own, and stays open.
			all[i] = namesAt(ctx, nd)
		})
	}
	wg.Wait()
	for _, uid := range uids {
		name, answers := "", 0
		for _, known := range all {
			switch is := known[uid]; {
			case known == nil: // it did not answer
			case answers == 0 || is == name:
				name, answers = is, answers+1
			default:
				name, answers = "something else on each node: one of them lies, or it was changed this moment", answers+1
			}
		}
		if name != "" {
			names = append(names, Name{UID: uid, Name: name})
		}
	}
	return names
}

// namesAt returns the names of all uids that a node says; nil if it does not answer.
// What the caller may not list has no name.
func namesAt(ctx context.Context, nd *client.Node) map[string]string {
	known, access := map[string]string{}, kryptonv1.NewAccessClient(nd)
	bindings, err1 := access.ListRoleBindings(ctx, &kryptonv1.ListRoleBindingsRequest{PageSize: pageSize})
	for _, b := range bindings.GetRoleBindings() {
		known[b.GetUid()] = boundTo(b.GetName(), b)
	}
	issuers, err2 := access.ListIssuers(ctx, &kryptonv1.ListIssuersRequest{PageSize: pageSize})
	for _, i := range issuers.GetIssuers() {
		known[i.GetUid()] = shown(i.GetName())
	}
	tenants, err3 := kryptonv1.NewTenantsClient(nd).ListTenants(ctx, &kryptonv1.ListTenantsRequest{PageSize: pageSize})
	for _, t := range tenants.GetTenants() {
		known[t.GetUid()] = shown(t.GetName())
	}
	for _, err := range []error{err1, err2, err3} {
		if err != nil && !errs.Is(err, errs.Denied) {
			return nil
		}
	}
	return known
}

func boundTo(name string, b *kryptonv1.RoleBinding) string {
	return shown(name) + " of " + roleName(b.GetRole()) + " " + shown(b.GetMember())
}

// shownLen is how many bytes of a name that a node says are shown at most.
const shownLen = 256

// shown is a name that a node says, as it may stand before a person who decides what
// to sign (I5): one that is none, because it could move the cursor over what is
// signed, or look like another line of it, is quoted, and one that is too long is cut.
func shown(name string) string {
	cut := ""
	if len(name) > shownLen {
		name, cut = name[:shownLen], "..."
	}
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return strconv.QuoteToASCII(name) + cut
	}
	return name + cut
}
