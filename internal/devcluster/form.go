//go:build unix

package devcluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore/local"
)

// form makes a new cluster, step by step as people would.
func (c *Cluster) form(ctx context.Context) error {
	if err := c.makeKeystore(ctx); err != nil {
		return err
	}
	if err := os.Mkdir(c.path(peopleDir), dirMode); err != nil {
		return err
	}
	if err := c.startAll(ctx); err != nil {
		return err
	}
	c.opts.Progress(fmt.Sprintf("%d processes run", len(c.nodes)))
	if err := c.init(ctx); err != nil {
		return fmt.Errorf("initialise the cluster on %s: %w", c.nodes[0].name, err)
	}
	if err := c.nodes[0].WaitServing(ctx); err != nil {
		return err
	}
	c.opts.Progress(c.nodes[0].name + " is initialised and unsealed")
	for _, r := range []auth.Role{auth.RoleOperator, auth.RoleAuditor} {
		if _, err := c.Issue(ctx, r, ""); err != nil {
			return err
		}
	}
	for _, n := range c.nodes[1:] {
		if err := c.join(ctx, n); err != nil {
			return fmt.Errorf("join node %s: %w", n.name, err)
		}
		c.opts.Progress(n.name + " joined")
	}
	if err := c.waitVoters(ctx); err != nil {
		return err
	}
	if err := c.WaitServing(ctx); err != nil {
		return err
	}
	c.opts.Progress("every node is a voter and serves")
	if c.opts.Tenant != "" {
		if err := c.addSample(ctx); err != nil {
			return err
		}
	}
	raw, err := json.MarshalIndent(state{
		Format: 1, Nodes: len(c.nodes), Tenant: c.opts.Tenant,
		Warning: "for development only: every key of this cluster lies unencrypted in this directory",
	}, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(c.path(stateFile), append(raw, '\n'))
}

// resume starts the nodes of an earlier cluster. Its people keep their keys, and
// get new certificates for them.
func (c *Cluster) resume(ctx context.Context, old state) error {
	for _, n := range c.nodes {
		if err := n.readConfig(); err != nil {
			return err
		}
	}
	if err := c.startAll(ctx); err != nil {
		return err
	}
	c.opts.Progress(fmt.Sprintf("%d processes run again", len(c.nodes)))
	if err := c.WaitServing(ctx); err != nil {
		return err
	}
	c.opts.Progress("every node unsealed itself and serves")
	for _, r := range []auth.Role{auth.RoleGovernor, auth.RoleCustodian} {
		if err := c.renew(ctx, r); err != nil {
			return err
		}
	}
	issue := map[auth.Role]string{auth.RoleOperator: "", auth.RoleAuditor: ""}
	if old.Tenant != "" {
		issue[auth.RoleWorkload] = old.Tenant
	}
	for r, tenant := range issue {
		if _, err := c.Issue(ctx, r, tenant); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) startAll(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range c.nodes {
		g.Go(func() error { return n.Start(ctx) })
	}
	return g.Wait()
}

// makeKeystore makes the local keystore with the key that seals the MasterKey.
func (c *Cluster) makeKeystore(ctx context.Context) error {
	ks, err := local.Create(ctx, c.keystoreEnv(), KeystoreName, c.path(keystoreDir))
	if err != nil {
		return err
	}
	return errors.Join(ks.CreateKey(ctx, sealKey), ks.Close())
}

// Keystore opens the local keystore for use, with the rights of its owner: a
// test takes a customer's key away with it.
func (c *Cluster) Keystore(ctx context.Context, use func(*local.Keystore) error) error {
	ks, err := local.Open(ctx, c.keystoreEnv(), KeystoreName, c.path(keystoreDir))
	if err != nil {
		return err
	}
	return errors.Join(use(ks), ks.Close())
}

// init makes the cluster on the first node.
func (c *Cluster) init(ctx context.Context) error {
	governor, governorKey, err := c.newPerson(auth.RoleGovernor, "")
	if err != nil {
		return err
	}
	custodian, custodianKey, err := c.newPerson(auth.RoleCustodian, "")
	if err != nil {
		return err
	}
	var resp *kryptonv1.InitResponse
	req := &kryptonv1.InitRequest{
		ClusterName: "dev",
		Voters:      uint32(len(c.nodes)), //nolint:gosec // 1, 3 or 5.
		Governors:   []*kryptonv1.PersonKey{{Name: governor.Name, PublicKey: governorKey}},
		Custodians:  []*kryptonv1.PersonKey{{Name: custodian.Name, PublicKey: custodianKey}},
		// The throw-away people sign, so that a developer sees what production asks.
		GovernorQuorum: 1, CustodianQuorum: 1,
		SealMode: kryptonv1.SealMode_SEAL_MODE_AUTO,
		Keystore: KeystoreName,
		Key:      sealKey,
		// A developer destroys keys to see it happen.
		NoDestroyWait: true,
	}
	if c.opts.Seal != nil {
		c.opts.Seal(req)
	}
	err = c.nodes[0].admin(func(a kryptonv1.AdminClient) error {
		resp, err = a.Init(ctx, req)
		return err
	})
	if err != nil {
		return err
	}
	if len(resp.GetCertificates()) != 2 {
		return errs.Newf(errs.Internal, "init returned %d certificates for 2 people", len(resp.GetCertificates()))
	}
	for i, p := range []Person{governor, custodian} {
		if err := replaceFile(p.CertFile, resp.GetCertificates()[i].GetCertificate()); err != nil {
			return err
		}
		c.setPerson(p)
	}
	return replaceFile(c.CAFile(), resp.GetCa())
}

// join lets the operator invite a node, which then joins with the token.
func (c *Cluster) join(ctx context.Context, n *Node) error {
	var token string
	err := c.as(ctx, auth.RoleOperator, func(cl *client.Client) (err error) {
		token, err = c.Invite(ctx, cl)
		return err
	})
	if err != nil {
		return fmt.Errorf("invite it: %w", err)
	}
	return n.admin(func(a kryptonv1.AdminClient) error {
		_, err := a.Join(ctx, &kryptonv1.JoinRequest{Token: token})
		return err
	})
}

// inviteFor is how long a token of [Cluster.Invite] can be used.
const inviteFor = time.Hour

// Invite has cl make a token with which one node joins as a voter. The secret in it
// is made here: people sign the hash of its public half.
func (c *Cluster) Invite(ctx context.Context, cl *client.Client) (string, error) {
	var secret [32]byte
	if _, err := io.ReadFull(c.opts.Rand, secret[:]); err != nil {
		return "", err
	}
	hash := cluster.JoinKeyHash(secret)
	resp, err := cl.Cluster().CreateJoinToken(ctx, &kryptonv1.CreateJoinTokenRequest{
		Voter: true, KeyHash: hash[:], ExpireTime: timestamppb.New(c.clk.Now().Add(inviteFor).Truncate(time.Millisecond)),
	})
	if err != nil {
		return "", err
	}
	t, err := cluster.FillJoinToken(resp.GetToken(), secret)
	if err != nil {
		return "", err
	}
	return t.Text(), nil
}

// waitVoters returns when every node is a voter.
func (c *Cluster) waitVoters(ctx context.Context) error {
	return until(ctx, c.clk, c.opts.Patience, "every node is a voter", func(ctx context.Context) error {
		return c.as(ctx, auth.RoleOperator, func(cl *client.Client) error {
			resp, err := cl.Cluster().ListNodes(ctx, &kryptonv1.ListNodesRequest{})
			if err != nil {
				return err
			}
			voters := 0
			for _, n := range resp.GetNodes() {
				if n.GetRole() == kryptonv1.NodeRole_NODE_ROLE_VOTER && !n.GetRemoved() {
					voters++
				}
			}
			if voters != len(c.nodes) {
				return fmt.Errorf("%d of %d nodes are voters", voters, len(c.nodes))
			}
			return nil
		})
	})
}

// addSample makes the tenant and the service of the options, and a workload.
func (c *Cluster) addSample(ctx context.Context) error {
	if err := c.CreateTenant(ctx, c.opts.Tenant); err != nil {
		return err
	}
	if c.opts.Service != "" {
		if err := c.CreateService(ctx, c.opts.Tenant, c.opts.Service); err != nil {
			return err
		}
	}
	if _, err := c.Issue(ctx, auth.RoleWorkload, c.opts.Tenant); err != nil {
		return err
	}
	c.opts.Progress(fmt.Sprintf("tenant %s has its own L1 key, a service and a workload", c.opts.Tenant))
	return nil
}

// CreateTenant lets the governor create a tenant that is bound to a new key
// <id>-l1 of the local keystore, and returns when every node knows it.
func (c *Cluster) CreateTenant(ctx context.Context, id string) error {
	l1 := id + "-l1"
	if err := c.Keystore(ctx, func(ks *local.Keystore) error { return ks.CreateKey(ctx, l1) }); err != nil {
		return fmt.Errorf("create key %s for tenant %s: %w", l1, id, err)
	}
	err := c.as(ctx, auth.RoleGovernor, func(cl *client.Client) error {
		who, err := cl.Access().WhoAmI(ctx, &kryptonv1.WhoAmIRequest{})
		if err != nil {
			return err
		}
		_, err = cl.Tenants().CreateTenant(ctx, &kryptonv1.CreateTenantRequest{
			TenantId: id, Binding: &kryptonv1.Binding{Keystore: KeystoreName, Key: l1, Archetype: "local"},
			Governors: []string{who.GetRoleBinding()},
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("create tenant %s: %w", id, err)
	}
	return c.everyNodeKnows(ctx, "tenant "+id, func(ctx context.Context, cl *client.Client) error {
		_, err := cl.Tenants().GetTenant(ctx, &kryptonv1.GetTenantRequest{Name: "tenants/" + id})
		return err
	})
}

// CreateService lets the governor create a service of an existing tenant, and
// returns when every node knows it.
func (c *Cluster) CreateService(ctx context.Context, tenant, id string) error {
	err := c.as(ctx, auth.RoleGovernor, func(cl *client.Client) error {
		_, err := cl.Services().CreateService(ctx, &kryptonv1.CreateServiceRequest{Parent: "tenants/" + tenant, ServiceId: id})
		return err
	})
	if err != nil {
		return fmt.Errorf("create service %s of tenant %s: %w", id, tenant, err)
	}
	return c.everyNodeKnows(ctx, "service "+id, func(ctx context.Context, cl *client.Client) error {
		_, err := cl.Services().GetService(ctx, &kryptonv1.GetServiceRequest{Name: "tenants/" + tenant + "/services/" + id})
		return err
	})
}

// everyNodeKnows waits until a read succeeds on every node that runs: a change
// is acknowledged by the node that was asked, and others apply it some
// milliseconds later.
func (c *Cluster) everyNodeKnows(ctx context.Context, what string, read func(context.Context, *client.Client) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range c.nodes {
		if !n.Running() {
			continue
		}
		g.Go(func() error {
			cl, err := c.NodeClient(ctx, auth.RoleGovernor, n)
			if err != nil {
				return err
			}
			defer func() { _ = cl.Close() }()
			return n.wait(ctx, "node "+n.name+" knows "+what, func(ctx context.Context) error { return read(ctx, cl) })
		})
	}
	return g.Wait()
}
