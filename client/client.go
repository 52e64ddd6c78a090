package client

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/clock"
)

// Client calls a cluster. Make one with [New], share it, and [Client.Close] it.
type Client struct {
	opts   Options
	clk    clock.Clock
	jitter jitter
	budget *budget
	dial   dialer
	nodes  []*node
	shown  []grpc.CallOption // the token of every call; empty: the certificate alone

	lat     [kindEnd]latency
	reached atomic.Bool // some node has answered
	closed  atomic.Bool
}

var _ grpc.ClientConnInterface = (*Client)(nil)

// New makes a client. Its options begin with what the environment says, see
// [Options]; each set then changes them, in order. [With] hands in all options at
// once, contexts.Use of package client/contexts takes those of a context.
//
// It reads the files of the identity and does not connect: the first call does.
// Errors are of code INVALID_CONFIG.
func New(ctx context.Context, set ...func(*Options)) (*Client, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	opts := fromEnvironment(os.Getenv)
	for _, f := range set {
		f(&opts)
	}
	opts, err := complete(opts)
	if err != nil {
		return nil, err
	}
	cfg, err := opts.tlsConfig()
	if err != nil {
		return nil, err
	}
	var token tokens
	if opts.TokenFile != "" {
		if token, err = tokenFile(opts.TokenFile); err != nil {
			return nil, err
		}
	}
	c := newClient(opts, func(addr string) (Conn, error) {
		if opts.expired == nil {
			return opts.Transport.Dial(addr, cfg)
		}
		return opts.Transport.Dial(addr, opts.acceptExpired(cfg, addr, opts.Clock.Now))
	})
	if token != nil {
		c.shown = []grpc.CallOption{grpc.PerRPCCredentials(bearer{token})}
	}
	return c, nil
}

func newClient(opts Options, dial dialer) *Client {
	c := &Client{opts: opts, clk: opts.Clock, jitter: jitter{rand: opts.Rand}, dial: dial}
	c.budget = newBudget(opts.Clock, opts.RetryBudget)
	for _, a := range opts.Addrs {
		c.nodes = append(c.nodes, newNode(a, dial))
	}
	return c
}

// Close ends all connections. Calls that are still running end with CANCELED.
func (c *Client) Close() error {
	c.closed.Store(true)
	var all []error
	for _, n := range c.nodes {
		all = append(all, n.close())
	}
	return errors.Join(all...)
}

// Addrs returns the addresses of the client's nodes.
func (c *Client) Addrs() []string { return append([]string(nil), c.opts.Addrs...) }

// The generated clients of the API's services, over the balanced connection.

// Crypto returns the data-key operations.
func (c *Client) Crypto() kryptonv1.CryptoClient { return kryptonv1.NewCryptoClient(c) }

// Tenants returns the management of tenants.
func (c *Client) Tenants() kryptonv1.TenantsClient { return kryptonv1.NewTenantsClient(c) }

// Services returns the management of service keys, versions and resources.
func (c *Client) Services() kryptonv1.ServicesClient { return kryptonv1.NewServicesClient(c) }

// Access returns identity and certificates.
func (c *Client) Access() kryptonv1.AccessClient { return kryptonv1.NewAccessClient(c) }

// Ceremonies returns what changes who can open the MasterKey.
func (c *Client) Ceremonies() kryptonv1.CeremoniesClient { return kryptonv1.NewCeremoniesClient(c) }

// Approvals returns the requests that wait for signatures of people.
func (c *Client) Approvals() kryptonv1.ApprovalsClient { return kryptonv1.NewApprovalsClient(c) }

// Policies says what workloads of a tenant may do.
func (c *Client) Policies() kryptonv1.PoliciesClient { return kryptonv1.NewPoliciesClient(c) }

// Cluster returns nodes and operations.
func (c *Client) Cluster() kryptonv1.ClusterClient { return kryptonv1.NewClusterClient(c) }

// Node is a connection to one node of the cluster, for what one node alone can
// be asked. It makes one attempt per call.
type Node struct {
	c *Client
	n *node
}

var _ grpc.ClientConnInterface = (*Node)(nil)

// Node returns the node at addr, over the client's own connection if it is one
// of the client's addresses. Close it when it is not needed any more.
func (c *Client) Node(addr string) *Node {
	for _, n := range c.nodes {
		if n.addr == addr {
			return &Node{c: c, n: n}
		}
	}
	return &Node{c: c, n: newNode(addr, c.dial)}
}

// Addr returns the address of the node.
func (nd *Node) Addr() string { return nd.n.addr }

// Seal returns the seal of this node.
func (nd *Node) Seal() kryptonv1.SealClient { return kryptonv1.NewSealClient(nd) }

// Ceremonies returns the ceremonies as this node knows them: what it gathered for one
// is in its memory only.
func (nd *Node) Ceremonies() kryptonv1.CeremoniesClient { return kryptonv1.NewCeremoniesClient(nd) }

// Close ends the connection, unless it is one of the client's own.
func (nd *Node) Close() error {
	if slices.Contains(nd.c.nodes, nd.n) {
		return nil
	}
	return nd.n.close()
}

// String returns the addresses, for logs.
func (c *Client) String() string { return "krypton client of " + strings.Join(c.opts.Addrs, ",") }
