//go:build unix

package localkeys

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/command"
	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/keystores"
	"github.com/openkcm/krypton-cluster/config"
)

func configFlag() cli.Flag {
	return &cli.StringFlag{Name: "config", Usage: "configuration `FILE` of the node", Value: config.DefaultPath, EnvVars: []string{"KRYPTON_CONFIG"}}
}

// configured are the keystores of the node's configuration.
func configured(in *command.Invocation) ([]config.Keystore, error) {
	cfg, err := config.Load(config.Source{Path: in.String("config"), Env: os.LookupEnv, Keystores: keystores.Types(nil)})
	if err != nil {
		return nil, err
	}
	return cfg.Keystores, nil
}

func listCommand() *command.Command {
	return &command.Command{
		Name: "list", Usage: "list the keystores of a node's configuration, and the types this program has", Flags: []cli.Flag{configFlag()},
		About: "Reads the node's configuration file and asks nobody. No setting is a secret: secrets are in files, whose paths\n" +
			"are shown.",
		Examples: []string{"krypton keystore list --config /etc/krypton/krypton.yaml", "krypton keystore list --output json | jq -r '.types[]'"},
		Run:      list,
	}
}

func list(_ context.Context, in *command.Invocation) error {
	all, err := configured(in)
	if err != nil {
		return err
	}
	type entry struct {
		Name     string            `json:"name"`
		Type     string            `json:"type"`
		Settings map[string]string `json:"settings"`
	}
	out := struct {
		Keystores []entry  `json:"keystores"`
		Types     []string `json:"types"`
	}{Keystores: []entry{}, Types: keystores.Types(nil).Names()}
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tTYPE\tSETTINGS")
	for _, k := range all {
		out.Keystores = append(out.Keystores, entry{k.Name, k.Type, k.Settings})
		var settings []string
		for _, name := range slices.Sorted(maps.Keys(k.Settings)) {
			settings = append(settings, name+"="+printable(k.Settings[name]))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", k.Name, k.Type, strings.Join(settings, " "))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return in.Show(out, b.String())
}
