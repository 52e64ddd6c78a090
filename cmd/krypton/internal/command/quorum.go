package command

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/intent"
)

func setQuorumCommand() *Command {
	return &Command{
		Name: "set", Usage: "change how many governors and custodians sign", Reach: Changes, Signs: true, Waits: waitsForAll,
		About: "Governors sign acts of governance, custodians acts on the MasterKey, and both who may sign. With 1 who asks may be the one, from 2\n" +
			"on others must: there has to be one more than the number. The change needs the larger of both numbers itself, and what waits\n" +
			"for approval then needs it, too. krypton status shows what holds now.",
		Examples: []string{"krypton operator quorum set --governors 2 --custodians 1"},
		Flags: []cli.Flag{
			&cli.UintFlag{Name: "governors", Usage: "`NUMBER` of governors, 1 to 16", Required: true},
			&cli.UintFlag{Name: "custodians", Usage: "`NUMBER` of custodians, 1 to 16", Required: true},
		},
		Run: func(ctx context.Context, in *Invocation) error {
			g, cu := min(in.c.Uint("governors"), 1<<16), min(in.c.Uint("custodians"), 1<<16)
			if err := in.confirm("%s to sign from then on, and only as many can change that again", persons(uint32(g), uint32(cu))); err != nil {
				return err
			}
			c, err := in.client(ctx)
			if err != nil {
				return err
			}
			info, err := call(ctx, in, c.Cluster().SetQuorum, &kryptonv1.SetQuorumRequest{Governors: uint32(g), Custodians: uint32(cu)})
			if err != nil {
				return err
			}
			return in.show(info, func() string { return quorumSheet(info) })
		},
	}
}

func quorumSheet(info *kryptonv1.ClusterInfo) string {
	var s sheet
	s.add("cluster", info.GetName())
	s.add("quorum of people", quorumText(info.GetRules()))
	return s.text()
}

// quorumText says how many persons sign: the rule for a change of the rules asks for
// all of them.
func quorumText(rules []*kryptonv1.IntentRule) string {
	for _, r := range rules {
		if r.GetAct() != intent.ActSetQuorum.String() {
			continue
		}
		if r.GetRequesterCounts() {
			return fmt.Sprintf("%s; who asks may be one", missing(r.GetGovernors(), r.GetCustodians()))
		}
		return fmt.Sprintf("%s; other than who asks", missing(r.GetGovernors(), r.GetCustodians()))
	}
	return "nobody signs"
}
