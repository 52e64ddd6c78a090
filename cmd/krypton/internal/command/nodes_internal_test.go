package command

import (
	"strings"
	"testing"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

func TestANodeIsMeantByItsNameAddressOrTheBeginOfItsID(t *testing.T) {
	t.Parallel()
	const a, b, c = "0123aaaaaaaaaaaaaaaaaaaaaaaaaaaa", "0123bbbbbbbbbbbbbbbbbbbbbbbbbbbb", "0123cccccccccccccccccccccccccccc"
	nodes := []*kryptonv1.Node{
		{Id: a, DisplayName: "n1", GrpcAddress: "n1:8400"},
		{Id: b, DisplayName: "n2", GrpcAddress: "n2:8400"},
		{Id: c, DisplayName: "n2", GrpcAddress: "n3:8400", Removed: true},
	}
	for _, s := range []string{"n2", "n2:8400", "0123b", "0123BBBB", b} {
		if got, err := nodeCalled(nodes, s); err != nil || got != "nodes/"+b {
			t.Errorf("%s is %q, %v", s, got, err)
		}
	}
	_, err := nodeCalled(nodes, "0123")
	situationtest.Error(t, "cli/node-ambiguous", err)
	// Three digits may be a name that is mistyped, and a node that was removed is none.
	for _, s := range []string{"012", "n3:8400", "0123c", "n"} {
		_, err := nodeCalled(nodes, s)
		situationtest.Error(t, "cli/unknown-node", err)
	}
}

func TestAnOperationSaysByWhichNodeItCame(t *testing.T) {
	t.Parallel()
	if got := operationSheet(&kryptonv1.Operation{Name: "operations/x", ViaNode: "nodes/n2"}); !strings.Contains(got, "via:") || !strings.Contains(got, "nodes/n2") {
		t.Errorf("no node in:\n%s", got)
	}
	if got := operationSheet(&kryptonv1.Operation{Name: "operations/x"}); strings.Contains(got, "via") {
		t.Errorf("a node that there was not, in:\n%s", got)
	}
}
