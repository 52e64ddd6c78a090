//go:build !unix

package main

import "github.com/openkcm/krypton-cluster/cmd/krypton/internal/command"

// nodeCommands returns nothing: nodes run on unix only, callers everywhere.
func nodeCommands(string) []*command.Command { return nil }
