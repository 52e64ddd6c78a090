package node

import (
	"crypto/x509"
	"io"
	"time"

	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/seal"
)

// FirstCertificate issues the API certificate of a node that is about to begin a new
// incarnation of a cluster, for whoever has the MasterKey of the state in view and has
// verified that state, whose seal record r is: no node runs that could, and without it
// nobody could tell that node from another one when its people unseal it. It also proves
// that the MasterKey is that of the cluster (I11).
func FirstCertificate(masterKey memsec.Secret, v *fsm.View, m *fsmpb.Member, r seal.Record, rand io.Reader, now time.Time) (leaf, nodeCA *x509.Certificate, err error) {
	keyspace, err := hierarchy.KeyspaceIDFromBytes(v.Cluster().GetKeyspaceId())
	if err != nil {
		return nil, nil, errs.New(errs.StateCorrupt, "the registry has no keyspace id", errs.Cause(err))
	}
	keys, err := newGenerations(r, masterKey)
	if err != nil {
		return nil, nil, err
	}
	defer keys.shut()
	k := &keyring{keyspace: keyspace, keys: keys}
	ca, err := k.openNodeCA(v)
	if err != nil {
		return nil, nil, err
	}
	defer ca.Destroy()
	pub, err := pki.ParsePublicKey(m.GetPublicKey())
	if err != nil {
		return nil, nil, err
	}
	domain, err := trustDomain(v.Cluster())
	if err != nil {
		return nil, nil, err
	}
	names, ips := hosts(m.GetGrpcAddress(), m.GetRestAddress(), m.GetPeerAddress())
	leaf, err = ca.IssueNode(rand, now, pki.NodeRequest{TrustDomain: domain, Node: m.GetId(), PublicKey: pub, DNSNames: names, IPs: ips})
	return leaf, ca.Certificate(), err
}
