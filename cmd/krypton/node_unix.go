//go:build unix

package main

import (
	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/command"
	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/dev"
	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/localkeys"
	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/serve"
)

// nodeCommands returns the commands that run a node.
func nodeCommands(version string) []*command.Command {
	return []*command.Command{command.Native(serve.Command(version)), command.Native(dev.Command()), localkeys.Command()}
}
