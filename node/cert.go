package node

import (
	"context"
	"crypto"
	"crypto/x509"
	"net"
	"net/netip"

	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

func trustDomain(c *fsmpb.Cluster) (string, error) {
	id, err := hierarchy.ClusterIDFromBytes(c.GetClusterId())
	if err != nil {
		return "", errs.New(errs.StateCorrupt, "the registry has no cluster id", errs.Cause(err))
	}
	return TrustDomain(id), nil
}

// IssueNode signs the API certificate of a member: the public key and the
// addresses are those of its member entry.
func (n *Node) IssueNode(ctx context.Context, id string, publicKey []byte) (leaf, nodeCA *x509.Certificate, err error) {
	c := corr.From(ctx)
	if c == "" {
		if c, err = corr.New(n.rand); err != nil {
			return nil, nil, err
		}
		ctx = corr.With(ctx, c)
	}
	m, err := memberWith(n.machine.View(), id, publicKey)
	if err != nil {
		return nil, nil, err
	}
	err = n.gate.DoNode(ctx, gate.NodeIssueCertificate, NodeName(id), func(gate.Token) error {
		leaf, nodeCA, err = n.issueMember(ctx, m)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return leaf, nodeCA, nil
}

// memberWith returns a present member, if that is its key.
func memberWith(v *fsm.View, id string, publicKey []byte) (*fsmpb.Member, error) {
	m, ok := v.Member(id)
	if !ok || m.GetRemoved() || string(m.GetPublicKey()) != string(publicKey) {
		return nil, errs.New(errs.Denied, "certificates are only for members, under the key of their member entry")
	}
	return m, nil
}

func (n *Node) issueMember(ctx context.Context, m *fsmpb.Member) (leaf, nodeCA *x509.Certificate, err error) {
	pub, err := pki.ParsePublicKey(m.GetPublicKey())
	if err != nil {
		return nil, nil, err
	}
	ca, err := n.openCA(ctx, SecretNodeCA)
	if err != nil {
		return nil, nil, err
	}
	defer ca.Destroy()
	// Asked of the view that there is a lease for: the one in which the member was
	// found may be from before its removal was acknowledged.
	_, st, err := n.serving()
	if err != nil {
		return nil, nil, err
	}
	if m, err = memberWith(st.View, m.GetId(), m.GetPublicKey()); err != nil {
		return nil, nil, err
	}
	domain, err := trustDomain(st.View.Cluster())
	if err != nil {
		return nil, nil, err
	}
	leaf, err = issueNode(n, ca, domain, m, pub)
	return leaf, ca.Certificate(), err
}

func issueNode(n *Node, ca *pki.CA, domain string, m *fsmpb.Member, pub crypto.PublicKey) (*x509.Certificate, error) {
	names, ips := hosts(m.GetGrpcAddress(), m.GetRestAddress(), m.GetPeerAddress())
	return ca.IssueNode(n.rand, n.clock.Now(), pki.NodeRequest{
		TrustDomain: domain, Node: m.GetId(), PublicKey: pub, DNSNames: names, IPs: ips,
	})
}

// hosts splits addresses into the names and IPs a certificate has to carry. A
// node reached over loopback is also reached as localhost.
func hosts(addrs ...string) (names []string, ips []netip.Addr) {
	seen := map[string]bool{"": true}
	for _, a := range addrs {
		host, _, err := net.SplitHostPort(a)
		if err != nil || seen[host] {
			continue
		}
		seen[host] = true
		ip, err := netip.ParseAddr(host)
		switch {
		case err != nil:
			names = append(names, host)
		case ip.IsLoopback() && !seen["localhost"]:
			seen["localhost"] = true
			names = append(names, "localhost")
			ips = append(ips, ip)
		default:
			ips = append(ips, ip)
		}
	}
	return names, ips
}
