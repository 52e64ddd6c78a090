package command

import (
	"context"
	"regexp"
	"strings"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

// nodeID is an id in full; shortID is enough of one to be meant as one.
var (
	nodeID  = regexp.MustCompile(`^[0-9a-f]{32}$`)
	shortID = regexp.MustCompile(`^[0-9a-f]{4,31}$`)
)

// node returns the full name of the node that s says: its id or the begin of it,
// its display name, or its address.
func (in *Invocation) node(ctx context.Context, c *client.Client, s string) (string, error) {
	s = strings.TrimPrefix(s, "nodes/")
	lower := strings.ToLower(s)
	if nodeID.MatchString(lower) {
		return "nodes/" + lower, nil
	}
	in.meter.step("looking for node %s", s)
	ctx, cancel := in.deadline(ctx)
	defer cancel()
	list, err := c.Cluster().ListNodes(ctx, &kryptonv1.ListNodesRequest{}, client.Capture(&in.info))
	if err != nil {
		return "", wire.FromStatus(err)
	}
	return nodeCalled(list.GetNodes(), s)
}

// nodeCalled returns the full name of the one node that s says.
func nodeCalled(nodes []*kryptonv1.Node, s string) (string, error) {
	lower := strings.ToLower(s)
	var found []string
	for _, n := range nodes {
		if n.GetRemoved() {
			continue
		}
		if n.GetId() == s || n.GetDisplayName() == s || n.GetGrpcAddress() == s || shortID.MatchString(lower) && strings.HasPrefix(n.GetId(), lower) {
			found = append(found, n.GetId())
		}
	}
	switch len(found) {
	case 1:
		return "nodes/" + found[0], nil
	case 0:
		return "", errs.Newf(errs.NotFound, "no node is %q", s).With(errs.Hint("krypton operator members lists them; give its name, its address or the begin of its id"))
	}
	return "", usagef("give its id, see krypton operator members", "%d nodes are %q", len(found), s)
}
