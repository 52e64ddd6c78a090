//go:build unix

package serve

import (
	"context"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/server"
)

// hooks is what a node does for its peers.
type hooks struct {
	node            *node.Node
	gate            *gate.Gate
	dataDir, audits string                        // where they are on disk
	doors           atomic.Pointer[server.Server] // nil: not made yet
}

// Prepare implements cluster.Hooks.
func (h *hooks) Prepare(ctx context.Context, _ cluster.NodeID, request []byte) ([]byte, error) {
	return h.node.Prepare(ctx, request)
}

// Health implements cluster.Hooks.
func (h *hooks) Health() cluster.Health {
	mem := memsec.Report()
	err := h.node.ServingErr()
	out := cluster.Health{
		SealState: h.node.State(), Serving: err == nil, MemoryTier: string(mem.Tier),
		Memory: cluster.Memory{Used: uint64(max(mem.UsedBytes, 0)), Limit: mem.LimitBytes, Hardened: mem.Hardened},
	}
	if errs.Is(err, errs.StateCorrupt) {
		out.StateCorrupt = errs.From(err).Msg // members and operators may know; /readyz tells anybody the code
	}
	out.Space.DataFree, out.Space.DataTotal = space(h.dataDir)
	out.Space.AuditFree, _ = space(h.audits)
	return out
}

// space returns the bytes that this process may still write to the file system
// of dir, and its size; zeros when they cannot be found out.
func space(dir string) (free, total uint64) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Bsize <= 0 {
		return 0, 0
	}
	size := uint64(st.Bsize)
	return uint64(st.Bavail) * size, uint64(st.Blocks) * size //nolint:unconvert // The types differ between systems.
}

// IssueCertificate implements cluster.Hooks.
func (h *hooks) IssueCertificate(ctx context.Context, id cluster.NodeID, publicKey []byte) (cluster.Certificate, error) {
	leaf, ca, err := h.node.IssueNode(ctx, string(id), publicKey)
	if err != nil {
		return cluster.Certificate{}, err
	}
	// What leads to the CA from one before it, the member adds from its own registry.
	return cluster.Certificate{Chain: [][]byte{leaf.Raw}, Authorities: [][]byte{ca.Raw}}, nil
}

// Identify implements cluster.Hooks.
func (h *hooks) Identify(ctx context.Context, shown auth.Credential) (cluster.Caller, error) {
	srv := h.doors.Load()
	if srv == nil {
		return cluster.Caller{}, errs.New(errs.NoLeader, "the leader has just started and does not know callers yet", errs.Hint("retry"))
	}
	return srv.Identify(ctx, shown)
}

// Forward implements cluster.Hooks.
func (h *hooks) Forward(f gate.Forwarded, commit func() (auth.Principal, gate.Ours, error)) error {
	return h.gate.Forward(f, commit)
}
