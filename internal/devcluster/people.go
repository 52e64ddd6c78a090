//go:build unix

package devcluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/client/rest"
	"github.com/openkcm/krypton-cluster/intent/orders"
	"github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Person is a throw-away caller: a person in one role, or a workload.
type Person struct {
	Role   auth.Role
	Name   string
	Tenant string // of a workload, without "tenants/"

	CertFile, KeyFile string // PEM
}

// names are what the throw-away people are called. The cluster itself wants
// governors and custodians to be different people with different keys.
var names = map[auth.Role]string{ //nolint:gochecknoglobals // Immutable table.
	auth.RoleGovernor:  "alice",
	auth.RoleCustodian: "carol",
	auth.RoleOperator:  "olivia",
	auth.RoleAuditor:   "arthur",
	auth.RoleWorkload:  "app",
}

// newPerson makes a key in the people directory and returns its public half,
// SubjectPublicKeyInfo in DER. The person has no certificate yet.
func (c *Cluster) newPerson(role auth.Role, tenant string) (Person, []byte, error) {
	p := c.person(role, tenant)
	key, pub, err := pki.GenerateKey(c.opts.Rand, pki.ECDSAP256)
	if err != nil {
		return p, nil, err
	}
	defer key.Destroy()
	var text bytes.Buffer
	text.Grow(1 << 10) // one piece, so that the wipe below gets all of it
	defer func() { clear(text.Bytes()) }()
	if err := pki.WriteKey(&text, key); err != nil {
		return p, nil, err
	}
	if err := replaceFile(p.KeyFile, text.Bytes()); err != nil {
		return p, nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	return p, spki, err
}

// Issue lets the governor issue a certificate for the throw-away caller of that
// role, in place of an earlier one. tenant is the id of an existing tenant for a
// workload, and empty for a person. Who has a key keeps it, because the cluster
// accepts no other one of that identity; who has none, or one of another tenant,
// gets a new key, and the role binding of an earlier one is removed first.
// Governor and custodian have theirs from the initialisation.
func (c *Cluster) Issue(ctx context.Context, role auth.Role, tenant string) (Person, error) {
	if role == auth.RoleGovernor || role == auth.RoleCustodian {
		return Person{}, errs.Newf(errs.InvalidArgument, "the %s is bound to the cluster by its first key", role)
	}
	p, pub, kept := c.keptPerson(role, tenant)
	if !kept {
		var err error
		if p, pub, err = c.newPerson(role, tenant); err != nil {
			return p, err
		}
	}
	req := &kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role(role), Name: p.Name, PublicKey: pub}
	binding := "roleBindings/" + role.String() + "-" + p.Name
	if tenant != "" {
		req.Tenant = "tenants/" + tenant
		binding = req.GetTenant() + "/roleBindings/" + p.Name
	}
	err := c.as(ctx, auth.RoleGovernor, func(cl *client.Client) error {
		if !kept {
			_, err := cl.Access().DeleteRoleBinding(ctx, &kryptonv1.DeleteRoleBindingRequest{Name: binding})
			if err != nil && !errs.Is(err, errs.NotFound) {
				return err
			}
		}
		resp, err := cl.Access().IssueCertificate(ctx, req)
		if err != nil {
			return err
		}
		return replaceFile(p.CertFile, resp.GetCertificate())
	})
	if err != nil {
		return p, fmt.Errorf("issue a certificate for the %s: %w", role, err)
	}
	c.setPerson(p)
	return p, nil
}

// keptPerson returns who has a key and a certificate for it in the people
// directory, with the public half of the key; false: nobody of that role and
// tenant has. Files of which only one was replaced before a crash are nobody's.
func (c *Cluster) keptPerson(role auth.Role, tenant string) (Person, []byte, bool) {
	p := c.person(role, tenant)
	pair, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
	if err != nil || len(pair.Leaf.URIs) != 1 {
		return p, nil, false
	}
	id, err := auth.ParseID(pair.Leaf.URIs[0].String())
	if err != nil || id.Role != role || string(id.Tenant) != tenant || id.Name != p.Name {
		return p, nil, false
	}
	return p, pair.Leaf.RawSubjectPublicKeyInfo, true
}

// renew lets a person get a new certificate in place of one that has less than
// half of its life left, also of one that has ended.
func (c *Cluster) renew(ctx context.Context, role auth.Role) error {
	p, _, kept := c.keptPerson(role, "")
	if !kept {
		return errs.Newf(errs.NotFound, "the files of the %s in %s do not belong together", role, c.path(peopleDir)).
			With(errs.Hint("remove %s, or put the files back", c.dir))
	}
	c.setPerson(p)
	pair, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
	if err != nil {
		return err
	}
	life := pair.Leaf.NotAfter.Sub(pair.Leaf.NotBefore)
	if pair.Leaf.NotAfter.Sub(c.clk.Now()) > life/2 {
		return nil
	}
	err = c.as(ctx, role, func(cl *client.Client) error {
		resp, err := cl.Access().RenewCertificate(ctx, &kryptonv1.RenewCertificateRequest{})
		if err != nil {
			return err
		}
		return replaceFile(p.CertFile, resp.GetCertificate())
	})
	if err != nil {
		return fmt.Errorf("renew the certificate of the %s: %w", role, err)
	}
	return nil
}

// person returns who has that role, and where the files are.
func (c *Cluster) person(role auth.Role, tenant string) Person {
	base := c.path(peopleDir, role.String())
	return Person{Role: role, Name: names[role], Tenant: tenant, CertFile: base + ".crt", KeyFile: base + ".key"}
}

func (c *Cluster) setPerson(p Person) {
	c.mu.Lock()
	c.people[p.Role] = p
	c.mu.Unlock()
}

// Person returns the throw-away caller of that role; false before it has a
// certificate.
func (c *Cluster) Person(role auth.Role) (Person, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.people[role]
	return p, ok
}

// People returns every caller that has a certificate, in the order of roles.
func (c *Cluster) People() []Person {
	var all []Person
	for _, r := range auth.Roles() {
		if p, ok := c.Person(r); ok {
			all = append(all, p)
		}
	}
	return all
}

// CAFile returns the path of the PEM file that callers verify nodes with.
func (c *Cluster) CAFile() string { return c.path(peopleDir, "ca.crt") }

// Addrs returns the gRPC addresses of all nodes, dead ones included.
func (c *Cluster) Addrs() []string {
	all := make([]string, 0, len(c.nodes))
	for _, n := range c.nodes {
		all = append(all, n.Addresses().GRPC)
	}
	return all
}

// Client returns a client of all nodes with the identity of that role. The
// caller closes it.
func (c *Cluster) Client(ctx context.Context, role auth.Role) (*client.Client, error) {
	return c.dial(ctx, role, c.Addrs())
}

// RESTClient is [Cluster.Client] over HTTP/JSON.
func (c *Cluster) RESTClient(ctx context.Context, role auth.Role) (*client.Client, error) {
	addrs := make([]string, 0, len(c.nodes))
	for _, n := range c.nodes {
		addrs = append(addrs, "https://"+n.Addresses().REST)
	}
	return c.dial(ctx, role, addrs, rest.Use())
}

// NodeClient returns a client of one node alone. The caller closes it.
func (c *Cluster) NodeClient(ctx context.Context, role auth.Role, n *Node) (*client.Client, error) {
	return c.dial(ctx, role, []string{n.Addresses().GRPC})
}

func (c *Cluster) dial(ctx context.Context, role auth.Role, addrs []string, set ...func(*client.Options)) (*client.Client, error) {
	p, ok := c.Person(role)
	if !ok {
		return nil, errs.Newf(errs.NotFound, "there is no %s with a certificate", role)
	}
	signer, err := c.Signer()
	if err != nil {
		return nil, err
	}
	all := client.With(client.Options{Addrs: addrs, CAFile: c.CAFile(), CertFile: p.CertFile, KeyFile: p.KeyFile, Signer: signer})
	return client.New(ctx, append([]func(*client.Options){all}, set...)...)
}

// as calls the nodes that are started in a role.
func (c *Cluster) as(ctx context.Context, role auth.Role, call func(*client.Client) error) error {
	var addrs []string
	for _, n := range c.nodes {
		if n.Running() {
			addrs = append(addrs, n.Addresses().GRPC)
		}
	}
	cl, err := c.dial(ctx, role, addrs)
	if err != nil {
		return err
	}
	err = call(cl)
	_ = cl.Close() // nothing is in flight
	return err
}

// Signer signs as the governor and the custodian what the cluster asks people to
// sign. Every client of this package has it, in whatever role: the directory has
// all keys anyhow.
func (c *Cluster) Signer() (orders.Signer, error) {
	s := orders.Signer{Clock: c.opts.Clock, Rand: c.opts.Rand}
	for role, keys := range map[auth.Role]*[]sign.Signer{auth.RoleGovernor: &s.Governors, auth.RoleCustodian: &s.Custodians} {
		p, ok := c.Person(role)
		if !ok {
			return s, errs.Newf(errs.NotFound, "there is no %s", role)
		}
		key, err := sign.OpenKey(p.KeyFile, c.opts.Rand, nil)
		if err != nil {
			return s, err
		}
		*keys = append(*keys, key)
	}
	return s, nil
}

func (c *Cluster) path(parts ...string) string {
	return filepath.Join(append([]string{c.dir}, parts...)...)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
