//go:build unix

// Package planning is `krypton operator seal plan`: it says what a planned seal would mean, before there is a node.
//
// # Invariants
//
//   - I1: nothing is made, and nobody is asked: the answer is made of the plan file and the configuration.
//   - I2: a seal that init would refuse ends with the same error here.
//
// # Concurrency
//
// One command per process.
//
// # Failure
//
// The analysis is printed also when the seal is refused, so that a person sees why.
//
// # Source
//
// docs/seals.md; package seal/plan.
package planning

import (
	"context"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/command"
	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/keystores"
	"github.com/openkcm/krypton-cluster/config"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/plan"
)

// Command is `krypton operator seal`, to be merged into the group operator.
func Command() *command.Command {
	return &command.Command{Name: "operator", Sub: []*command.Command{{
		Name: "seal", Usage: "who opens the MasterKey", Sub: []*command.Command{planCommand()},
	}}}
}

func planCommand() *command.Command {
	return &command.Command{
		Name: "plan", Args: "FILE", Usage: "say what a planned seal would mean, without making it", NArgs: [2]int{1, 1}, Run: run,
		About: "Reads a plan file (docs/seals.md) and says for every holder, account, kind of keystore and region what is left if it is\n" +
			"lost, and what it lacks if it is in wrong hands; whether the MasterKey opens without people; and how many people it\n" +
			"takes. Where the keys of keystores are is taken from --config, so a plan that names none needs no configuration.\n" +
			"Nobody is asked, and no node has to run.\n\n" +
			"A seal that init would refuse is printed, and then refused: the exit status is 2.",
		Examples: []string{
			"krypton operator seal plan seal.yaml",
			"krypton operator seal plan seal.yaml --profile four-eyes --config krypton.yaml --output json | jq .personsNeeded",
		},
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "config", Usage: "configuration `FILE` of the node", Value: config.DefaultPath, EnvVars: []string{"KRYPTON_CONFIG"}},
		}, command.SealRuleFlags()...),
	}
}

func run(_ context.Context, in *command.Invocation) error {
	p, err := plan.ReadFile(in.Args()[0])
	if err != nil {
		return err
	}
	var notes []string
	for _, h := range p.Holders() {
		if !h.IsKeystore() {
			continue
		}
		if p, err = placed(in, p); err != nil {
			return err
		}
		notes = append(notes, "the keystores were not asked what protects their keys; krypton init --dry-run asks them")
		break
	}
	return in.ShowSeal(p, notes)
}

// placed adds where the keys of a plan are, as the node's configuration says.
func placed(in *command.Invocation, p plan.Plan) (plan.Plan, error) {
	types := keystores.Types(nil)
	cfg, err := config.Load(config.Source{Path: in.String("config"), Env: os.LookupEnv, Keystores: types})
	if err != nil {
		return plan.Plan{}, err
	}
	list := cfg.KeystoreConfigs()
	return p.Fill(func(k seal.ProviderKey) (string, keystore.Place, bool) { return types.PlaceOf(list, k.Provider, k.Key) })
}
