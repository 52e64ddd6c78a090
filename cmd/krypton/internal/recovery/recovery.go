//go:build unix

// Package recovery is `krypton operator snapshot` and `krypton operator recover`: it
// saves the registry to a file, says what is in one, and brings a cluster back that
// cannot bring itself back.
//
// # Invariants
//
//   - I1: nothing is recovered while a voter that is said to be destroyed answers, nor before each of them was named.
//   - I2: a data directory in use is not touched; what is written into one is complete, or no node starts on it.
//   - I3: the MasterKey is in protected memory only, for as long as it takes to verify and to issue one certificate.
//   - I4: a seal record of another keyspace than that of the data directory is refused.
//
// # Concurrency
//
// One command per process.
//
// # Failure
//
// Every command can be given again. A recovery that was cut short keeps the node from
// starting until it was.
//
// # Source
//
// docs/adr/0042-a-recovery-begins-an-incarnation.md; docs/formats.md (Snapshot file).
package recovery

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/command"
	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/keystores"
	"github.com/openkcm/krypton-cluster/config"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/seal"
)

// Commands returns what belongs into the group operator.
func Commands() *command.Command {
	return &command.Command{Name: "operator", Sub: []*command.Command{
		{
			Name: "snapshot", Usage: "save the registry to a file, and look at one",
			Examples: []string{"krypton operator snapshot save registry.krypton"},
			Sub:      []*command.Command{saveCommand(), saveDirCommand(), inspectCommand(), verifyCommand()},
		},
		{
			Name: "recover", Usage: "bring a cluster back that cannot bring itself back",
			About:    "These commands work on the data directory of a node that does not run, on its machine, as its user. Read the runbook\nof the case first: docs/runbooks/.",
			Examples: []string{"krypton operator recover quorum --config /etc/krypton/krypton.yaml --destroyed 0123456789abcdef0123456789abcdef"},
			Sub:      []*command.Command{snapshotCommand(), quorumCommand(), sealCommand()},
		},
	}}
}

// offlineExits are the statuses of a command that asks no node.
func offlineExits() []int {
	return []int{errs.ExitDenied, errs.ExitState, errs.ExitUnavailable, errs.ExitSealed, errs.ExitIntegrity}
}

func configFlag() cli.Flag {
	return &cli.StringFlag{Name: "config", Usage: "`FILE` of the node's configuration", Value: config.DefaultPath, EnvVars: []string{"KRYPTON_CONFIG"}}
}

func identityFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "identity", Usage: "identity `FILE` of a person whose encrypted share the state has, repeated"}
}

func shareFlag() cli.Flag {
	return &cli.StringFlag{Name: "share-file", Usage: "`FILE` with shares of the MasterKey, one a line, - for stdin; default: a hidden prompt"}
}

// load reads the configuration of the node.
func load(in *command.Invocation) (config.Config, error) {
	return config.Load(config.Source{Path: in.String("config"), Env: os.LookupEnv, Keystores: keystores.Types(nil)})
}

// fact is a line of a result, for people and for programs.
type fact struct {
	label, key string
	value      any
}

// show prints facts.
func show(in *command.Invocation, facts []fact) error {
	out := map[string]any{}
	var b bytes.Buffer
	width := 0
	for _, f := range facts {
		width = max(width, len(f.label))
	}
	for _, f := range facts {
		out[f.key] = f.value
		fmt.Fprintf(&b, "%-*s %v\n", width+1, f.label+":", f.value)
	}
	return in.Show(out, b.String())
}

// factsOf says what a state of the registry is.
func factsOf(s *cluster.Saved) []fact {
	v := s.View()
	c, h := v.Cluster(), s.Header
	index, term, chain := v.Applied()
	members, voters := 0, 0
	for _, m := range v.Members() {
		if !m.GetRemoved() {
			members++
			if m.GetVoter() {
				voters++
			}
		}
	}
	saved, from := "", "a running node"
	if h.GetSaveTimeMs() != 0 {
		saved = time.UnixMilli(h.GetSaveTimeMs()).UTC().Format(time.RFC3339)
	}
	if h.GetStopped() {
		from = "a node that did not run"
	}
	out := []fact{
		{"cluster", "cluster", c.GetName()},
		{"keyspace", "keyspaceId", hex.EncodeToString(c.GetKeyspaceId())},
		{"fingerprint", "fingerprint", hex.EncodeToString(c.GetFingerprint())},
		{"incarnation", "incarnation", incarnationOf(v.Incarnation().GetId())},
		{"format version", "formatVersion", c.GetFormatVersion()},
		{"index", "index", index},
		{"term", "term", term},
		{"state chain", "chain", hex.EncodeToString(chain[:])},
		{"last change", "lastChangeTime", time.UnixMilli(v.TimeMS()).UTC().Format(time.RFC3339)},
		{"saved", "saveTime", saved},
		{"saved from", "from", from},
		{"saved by node", "node", h.GetNode()},
		{"has all acknowledged changes", "leased", h.GetLeased()},
		{"entries behind the snapshot", "entries", s.Entries},
		{"members", "members", members},
		{"voters", "voters", voters},
	}
	if rec, err := seal.ParseRecord(c.GetSealRecord()); err == nil {
		out = append(out, fact{"seal", "seal", rec.Mode().String()}, fact{"generation", "generation", uint64(rec.Generation())},
			fact{"persons needed to unseal", "personsNeeded", rec.PersonsNeeded()})
	}
	return out
}

func incarnationOf(id []byte) string {
	if len(id) == 0 {
		return "the first"
	}
	return hex.EncodeToString(id)
}

// open opens a snapshot file and reads it whole.
func open(path string) (*cluster.Saved, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, errs.New(errs.InvalidArgument, "the snapshot file cannot be read: "+err.Error(), errs.Hint("name a file that krypton operator snapshot save made"), errs.Cause(err))
	}
	s, err := cluster.LoadFile(f)
	return s, errors.Join(err, f.Close())
}

func saveCommand() *command.Command {
	return &command.Command{
		Name: "save", Usage: "save the registry to a file", Args: "FILE", NArgs: [2]int{1, 1}, Reach: command.Acts, Exits: []int{errs.ExitIntegrity},
		About: "Asks the nodes of --addr for it, an operator may; the first that is unsealed and believes its state makes it. The file has no\n" +
			"key in the clear: it opens for nobody but the holders of the MasterKey. It has the names of tenants, services and\n" +
			"people, so keep it as you keep the disks of the nodes.",
		Examples: []string{"krypton operator snapshot save registry.krypton"},
		Run: func(ctx context.Context, in *command.Invocation) error {
			path := in.Args()[0]
			var is command.FetchedSnapshot
			err := in.WriteFile(path, func(w io.Writer) (err error) {
				is, err = in.FetchSnapshot(ctx, w)
				return err
			})
			if err != nil {
				return err
			}
			s, err := open(path) // what came is whole, or it is told now
			if err != nil {
				return err
			}
			if !is.Leased {
				in.Note("the node had no serving lease, so changes that were acknowledged may be missing")
			}
			return show(in, append([]fact{{"file", "file", path}, {"bytes", "bytes", is.Bytes}}, factsOf(s)...))
		},
	}
}

func saveDirCommand() *command.Command {
	return &command.Command{
		Name: "save-dir", Usage: "save the registry of a node that does not run to a file", Args: "FILE", NArgs: [2]int{1, 1}, Exits: offlineExits(),
		About: "Reads the data directory of --config: its newest snapshot and the log behind it, with their proofs. Nobody has to be\n" +
			"there for that. Changes at the end may never have been acknowledged; they count.",
		Examples: []string{"krypton operator snapshot save-dir registry.krypton --config /etc/krypton/krypton.yaml"},
		Flags:    []cli.Flag{configFlag()},
		Run: func(_ context.Context, in *command.Invocation) (err error) {
			cfg, err := load(in)
			if err != nil {
				return err
			}
			dir, err := stopped(cfg)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, dir.Close()) }()
			path := in.Args()[0]
			var s *cluster.Saved
			var n int64
			in.Step("reading the log")
			if err := in.WriteFile(path, func(w io.Writer) (err error) { //nolint:contextcheck // A read of the disk ends by itself.
				s, n, err = cluster.SaveDir(dir, w, in.Release(), clock.System{}, quiet())
				return err
			}); err != nil {
				return err
			}
			return show(in, append([]fact{{"file", "file", path}, {"bytes", "bytes", n}}, factsOf(s)...))
		},
	}
}

// stopped opens the data directory of a node that does not run (I2).
func stopped(cfg config.Config) (*cluster.Dir, error) {
	return cluster.OpenDir(cfg.Node.DataDir, rand.Reader)
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func inspectCommand() *command.Command {
	return &command.Command{
		Name: "inspect", Usage: "say what is in a snapshot file", Args: "FILE", NArgs: [2]int{1, 1}, Exits: offlineExits(),
		About:    "Reads all of it and checks what can be checked without the MasterKey. That this cluster wrote it only verify tells.",
		Examples: []string{"krypton operator snapshot inspect registry.krypton --output json"},
		Run: func(_ context.Context, in *command.Invocation) error {
			s, err := open(in.Args()[0])
			if err != nil {
				return err
			}
			return show(in, factsOf(s))
		},
	}
}

func verifyCommand() *command.Command {
	return &command.Command{
		Name: "verify", Usage: "verify a snapshot file, with the holders of the MasterKey or without", Args: "FILE", NArgs: [2]int{1, 1}, Exits: offlineExits(),
		About: "Without --holders: that the file is whole, that its state is one that a log can make, that nothing of its log was moved,\n" +
			"added or left out between two proofs, and with --fingerprint that its genesis is that of your cluster.\n" +
			"With --holders the MasterKey is opened here, by the keystores of --config or by shares, and every MAC is verified:\n" +
			"then nodes that had the MasterKey wrote all of it.",
		Examples: []string{
			"krypton operator snapshot verify registry.krypton --fingerprint 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
			"krypton operator snapshot verify registry.krypton --holders --config /etc/krypton/krypton.yaml",
		},
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "holders", Usage: "open the MasterKey and verify every MAC"},
			&cli.StringFlag{Name: "fingerprint", Usage: "`HEX` of the cluster that it must be of"},
			configFlag(), identityFlag(), shareFlag(),
		},
		Run: func(ctx context.Context, in *command.Invocation) error {
			s, err := open(in.Args()[0])
			if err != nil {
				return err
			}
			if want := in.String("fingerprint"); want != "" && want != hex.EncodeToString(s.View().Cluster().GetFingerprint()) {
				return errs.New(errs.StateCorrupt, "the snapshot file is of another cluster: it has the fingerprint "+hex.EncodeToString(s.View().Cluster().GetFingerprint()),
					errs.Hint("krypton status --output json shows that of yours"))
			}
			proved := "no: nobody opened the MasterKey"
			if in.Bool("holders") {
				cfg, err := load(in)
				if err != nil {
					return err
				}
				mk, err := openMasterKey(ctx, in, cfg, s)
				if err != nil {
					return err
				}
				defer mk.Destroy()
				if err := verify(s, mk); err != nil {
					return err
				}
				proved = "yes"
			}
			return show(in, append([]fact{{"whole", "whole", "yes"}, {"proved by the MasterKey", "proved", proved}}, factsOf(s)...))
		},
	}
}

// verify verifies every MAC of a state (I3). What lies before a rekey is verified by the
// keys that the record carries on.
func verify(s *cluster.Saved, masterKey memsec.Secret) error {
	rec, err := seal.ParseRecord(s.View().Cluster().GetSealRecord())
	if err != nil {
		return err
	}
	carried, err := rec.OpenCarriedKeys(masterKey)
	if err != nil {
		return err
	}
	keys := make(map[hierarchy.Generation]memsec.Secret, len(carried)+1)
	defer func() {
		for _, k := range keys {
			k.Destroy()
		}
	}()
	for _, k := range carried {
		keys[k.Generation] = k.Key
	}
	if keys[rec.Generation()], err = envelope.RegistryMACKey(masterKey); err != nil {
		return err
	}
	return s.Verify(func(g hierarchy.Generation, parts ...[]byte) (sum [32]byte, ok bool) {
		key, ok := keys[g]
		if !ok {
			return sum, false
		}
		sum, err := memsec.MAC(key, parts...)
		return sum, err == nil
	})
}

// keystoreTime is how long one keystore has to answer.
const keystoreTime = 20 * time.Second

// openMasterKey opens the MasterKey of a state: by the keystores of the configuration,
// the encrypted shares that --identity opens, and printed ones, until they are enough.
// The caller destroys it.
func openMasterKey(ctx context.Context, in *command.Invocation, cfg config.Config, s *cluster.Saved) (mk memsec.Secret, err error) {
	if _, err := memsec.Setup(memsec.Options{Require: memsec.Tier(cfg.Memory.Require), LockBytes: cfg.Memory.LockMiB << 20}); err != nil {
		return mk, err
	}
	c := s.View().Cluster()
	rec, err := seal.ParseRecord(c.GetSealRecord())
	if err != nil {
		return mk, err
	}
	o, err := seal.NewOpening(rec, seal.Fingerprint(c.GetFingerprint()), clock.System{}, seal.DefaultPatience)
	if err != nil {
		return mk, err
	}
	defer o.Close()
	missing, err := ask(ctx, in, cfg, o)
	if err != nil {
		return mk, err
	}
	for _, file := range in.Strings("identity") {
		if missing == nil {
			break
		}
		shares, err := in.OpenShards(file, rec, seal.Fingerprint(c.GetFingerprint()))
		if err == nil {
			err = contribute(o, shares)
		}
		if err != nil {
			return mk, err
		}
		missing = &seal.MissingError{Progress: o.Progress()}
		if missing.Progress.Complete() {
			missing = nil
		}
	}
	if missing != nil && !slices.ContainsFunc(rec.Plan().Holders(), seal.Holder.IsPrinted) {
		return mk, missing // nobody could type what would help
	}
	for missing != nil && !o.Progress().Complete() {
		shares, err := in.ReadShares()
		if err == nil {
			err = contribute(o, shares)
		}
		if err != nil {
			return mk, err
		}
		if p := o.Progress(); !p.Complete() {
			if in.String("share-file") != "" {
				return mk, &seal.MissingError{Progress: p}
			}
			in.Note("it takes " + p.Enough())
		}
	}
	mk, ok := o.Take()
	if !ok {
		return mk, errs.New(errs.Sealed, "the shares are not enough", errs.Hint("give more shares"))
	}
	return mk, nil
}

// ask asks the keystores of the configuration; missing is what is needed besides, nil if
// they opened the MasterKey.
func ask(ctx context.Context, in *command.Invocation, cfg config.Config, o *seal.Opening) (missing *seal.MissingError, err error) {
	if rec := o.Record(); rec.Mode() == seal.ModeShamir && !slices.ContainsFunc(rec.Plan().Holders(), seal.Holder.IsKeystore) {
		return &seal.MissingError{Progress: o.Progress()}, nil // people only
	}
	list := make([]keystore.Config, 0, len(cfg.Keystores))
	for _, k := range cfg.Keystores {
		list = append(list, keystore.Config{Name: k.Name, Type: k.Type, Settings: k.Settings})
	}
	in.Step("asking the keystores of the seal")
	stores, err := keystore.Open(ctx, keystore.Env{Logger: quiet(), Rand: rand.Reader, Clock: clock.System{}}, list, keystores.Types(nil).Constructors())
	if err != nil {
		return nil, errs.New(errs.InvalidConfig, "a keystore cannot be opened: "+err.Error(), errs.Hint("check keystores in the configuration"), errs.Cause(err))
	}
	err = o.Ask(ctx, stores, keystoreTime)
	if errors.As(err, &missing) && o.Record().Mode() == seal.ModeShamir {
		err = nil // people can help
	}
	return missing, errors.Join(err, stores.Close())
}

// contribute gives shares until they are enough and wipes the rest.
func contribute(o *seal.Opening, shares []seal.Share) error {
	for i, share := range shares {
		if o.Progress().Complete() {
			share.Destroy()
			continue
		}
		if _, err := o.Contribute(share); err != nil {
			for _, rest := range shares[i+1:] {
				rest.Destroy()
			}
			return err
		}
	}
	return nil
}
