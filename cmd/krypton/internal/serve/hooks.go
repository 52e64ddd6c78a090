//go:build unix

package serve

import (
	"context"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/node"
)

// hooks is what a node does for its peers.
type hooks struct{ node *node.Node }

// Prepare implements cluster.Hooks.
func (h hooks) Prepare(ctx context.Context, _ cluster.NodeID, request []byte) ([]byte, error) {
	return h.node.Prepare(ctx, request)
}

// Health implements cluster.Hooks.
func (h hooks) Health() cluster.Health {
	return cluster.Health{SealState: h.node.State(), Serving: h.node.ServingErr() == nil, MemoryTier: string(memsec.Report().Tier)}
}

// IssueCertificate implements cluster.Hooks.
func (h hooks) IssueCertificate(ctx context.Context, id cluster.NodeID, publicKey []byte) (cluster.Certificate, error) {
	leaf, ca, err := h.node.IssueNode(ctx, string(id), publicKey)
	if err != nil {
		return cluster.Certificate{}, err
	}
	return cluster.Certificate{Chain: [][]byte{leaf.Raw}, Authorities: [][]byte{ca.Raw}}, nil
}
