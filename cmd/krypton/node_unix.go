//go:build unix

package main

import (
	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/command"
	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/dev"
	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/localkeys"
	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/planning"
	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/recovery"
	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/serve"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// nodeCommands returns the commands that run a node.
func nodeCommands(version string) []*command.Command {
	server, cluster := command.Native(serve.Command(version)), command.Native(dev.Command())
	server.Exits = []int{errs.ExitState, errs.ExitUnavailable, errs.ExitIntegrity}
	cluster.Exits = []int{errs.ExitState, errs.ExitUnavailable}
	return []*command.Command{server, cluster, localkeys.Command(), planning.Command(), recovery.Commands()}
}
