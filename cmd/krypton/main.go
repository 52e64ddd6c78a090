// Command krypton runs nodes of a Krypton cluster and is the command line of its callers.
//
// # Invariants
//
//   - I1: nothing is decided here: the commands of callers are in internal/command, those that run a node in internal/serve.
//
// # Concurrency
//
// One command per process.
//
// # Failure
//
// The exit status is that of the table in internal/errs.
//
// # Source
//
// docs/contract.md (CLI).
package main

import (
	"os"

	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/command"
)

// version is set by the linker.
var version = "devel" //nolint:gochecknoglobals // -X main.version needs a variable.

func main() { os.Exit(run()) }

func run() int { return command.Main(version, os.Args[1:], nodeCommands(version)...) }
