//go:build unix

package devcluster

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/client/rest"
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
	base := c.path(peopleDir, role.String())
	p := Person{Role: role, Name: names[role], Tenant: tenant, CertFile: base + ".crt", KeyFile: base + ".key"}
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

// Issue lets the governor issue a certificate for a new key of the throw-away
// caller of that role, in place of an earlier one. tenant is the id of an
// existing tenant for a workload, and empty for a person. Governor and custodian
// have theirs from the initialisation.
func (c *Cluster) Issue(ctx context.Context, role auth.Role, tenant string) (Person, error) {
	if role == auth.RoleGovernor || role == auth.RoleCustodian {
		return Person{}, errs.Newf(errs.InvalidArgument, "the %s is bound to the cluster by its first key", role)
	}
	p, pub, err := c.newPerson(role, tenant)
	if err != nil {
		return p, err
	}
	req := &kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role(role), Name: p.Name, PublicKey: pub}
	if tenant != "" {
		req.Tenant = "tenants/" + tenant
	}
	err = c.as(ctx, auth.RoleGovernor, func(cl *client.Client) error {
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
	all := client.With(client.Options{Addrs: addrs, CAFile: c.CAFile(), CertFile: p.CertFile, KeyFile: p.KeyFile})
	return client.New(ctx, append([]func(*client.Options){all}, set...)...)
}

// as calls the nodes that are started in a role.
func (c *Cluster) as(ctx context.Context, role auth.Role, call func(*client.Client) error) error {
	var addrs []string
	for _, n := range c.nodes {
		if n.Running() && n.Addresses().GRPC != anyPort {
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

func (c *Cluster) path(parts ...string) string {
	return filepath.Join(append([]string{c.dir}, parts...)...)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
