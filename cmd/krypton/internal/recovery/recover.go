//go:build unix

package recovery

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/command"
	"github.com/openkcm/krypton-cluster/config"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/atomicfile"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal"
)

const (
	aboutDestroyed = "Every other voter has to be destroyed: its disk wiped, or gone, so that it never runs again. Name each with --destroyed,\n" +
		"by its id or name. The command asks each whether it answers, and refuses while one does. If one lives where it cannot\n" +
		"be reached, and enough of them do, there are two clusters that change keys behind each other's back."
	aboutSigned = "Where the rules of the cluster ask for it, people sign: --sign-only writes what has to be signed to a file, they add\n" +
		"their signatures with krypton intent sign, and the same command with --intent recovers."
	aboutAfter = "Then start the node and unseal it as ever: it recovers by itself, and krypton status says so. It is the only member; let\n" +
		"other nodes join with empty data directories."
)

func recoverFlags(more ...cli.Flag) []cli.Flag {
	return append([]cli.Flag{
		configFlag(),
		&cli.StringSliceFlag{Name: "destroyed", Usage: "`NODE` that voted and is destroyed, id or name; repeated"},
		&cli.StringFlag{Name: "sign-only", Usage: "write what has to be signed to `FILE`, and change nothing"},
		&cli.DurationFlag{Name: "sign-for", Usage: "`DURATION` in which what is signed can be used, 1m to 696h", Value: sign.DefaultLifetime},
		&cli.StringSliceFlag{Name: "intent", Usage: "`FILE` with signatures; can be given many times"},
		&cli.BoolFlag{Name: "yes", Usage: "do not ask"},
	}, more...)
}

func snapshotCommand() *command.Command {
	return &command.Command{
		Name: "snapshot", Usage: "begin the cluster anew from a snapshot file", Args: "FILE", NArgs: [2]int{1, 1}, Exits: offlineExits(),
		About: "For the case that all nodes are lost. Makes the new data directory of --config that of a node that begins the cluster\n" +
			"anew: keyspace, fingerprint, keys, people and shares stay. The MasterKey is opened here first, by the keystores of\n" +
			"--config or by shares, every MAC of the file is verified, and the node gets its certificate.\n\n" + aboutDestroyed + "\n\n" + aboutSigned + "\n\n" + aboutAfter,
		Examples: []string{"krypton operator recover snapshot registry.krypton --config /etc/krypton/krypton.yaml --destroyed n1 --destroyed n2 --destroyed n3"},
		Flags:    recoverFlags(identityFlag(), shareFlag()),
		Run: func(ctx context.Context, in *command.Invocation) error {
			path := in.Args()[0]
			saved, err := open(path)
			if err != nil {
				return err
			}
			return run(ctx, in, func(_ config.Config, dir *cluster.Dir) (cluster.Recovery, error) {
				r := cluster.Recovery{
					Dir: dir, Saved: saved, Kind: fsmpb.RecoveryKind_RECOVERY_KIND_SNAPSHOT,
					File: func() (io.ReadCloser, error) { return os.Open(path) },
				}
				return r, nil
			})
		},
	}
}

func quorumCommand() *command.Command {
	return &command.Command{
		Name: "quorum", Usage: "make the node of this machine the only voter", Exits: offlineExits(),
		About: "For the case that a majority of the voters is gone for good, and this member has its data directory. Choose the one\n" +
			"that is furthest: krypton operator snapshot save-dir prints the index. What only the others had is lost.\n\n" +
			aboutDestroyed + "\n\n" + aboutSigned + "\n\n" + aboutAfter,
		Examples: []string{"krypton operator recover quorum --config /etc/krypton/krypton.yaml --destroyed n2 --destroyed n3"},
		Flags:    recoverFlags(),
		Run: func(ctx context.Context, in *command.Invocation) error {
			return run(ctx, in, func(_ config.Config, dir *cluster.Dir) (cluster.Recovery, error) {
				saved, err := cluster.LoadDir(dir, clock.System{}, quiet())
				return cluster.Recovery{Dir: dir, Saved: saved, Kind: fsmpb.RecoveryKind_RECOVERY_KIND_QUORUM}, err
			})
		},
	}
}

// run recovers.
func run(ctx context.Context, in *command.Invocation, from func(config.Config, *cluster.Dir) (cluster.Recovery, error)) (err error) {
	cfg, err := load(in)
	if err != nil {
		return err
	}
	clk := clock.System{}
	began := clk.Now()
	dir, err := stopped(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	r, err := from(cfg, dir)
	if err != nil {
		return err
	}
	r.Clock, r.Rand, r.Log = clk, rand.Reader, quiet()
	plan, err := r.Plan() //nolint:contextcheck // A read of the disk ends by itself.
	if err != nil {
		return err
	}
	if err := named(r.Saved.View(), plan.GetIncarnation().GetLost(), in.Strings("destroyed")); err != nil {
		return err
	}
	if err := silent(ctx, in, r); err != nil {
		return err
	}
	signed, done, err := signatures(in, r, plan, clk.Now())
	if err != nil || done {
		return err
	}
	v := r.Saved.View()
	if err := in.Confirm("the cluster begins anew with this node at index %d of %s, under MasterKey %d; what was changed later is lost, also a rekey, and %d other members never come back",
		v.Index(), time.UnixMilli(v.TimeMS()).UTC().Format(time.RFC3339), v.Generation(), len(others(v, plan))); err != nil {
		return err
	}
	if r.Kind == fsmpb.RecoveryKind_RECOVERY_KIND_SNAPSHOT {
		files, err := prove(ctx, in, cfg, r, plan)
		if err != nil {
			return err
		}
		r.More = files
	} else {
		r.More = func() error { return writeRecord(dir, v) }
	}
	in.Step("waiting until no lease that was given before can be in use")
	if err := clk.Sleep(ctx, r.Saved.LongestLease()-clk.Since(began)); err != nil {
		return errs.From(err)
	}
	if err := silent(ctx, in, r); err != nil { // it may have come back meanwhile
		return err
	}
	if err := r.Prepare(plan, signed); err != nil { //nolint:contextcheck // What was begun is written whole.
		return err
	}
	in.Note("start the node now, and unseal it: it recovers by itself then")
	return show(in, []fact{
		{"recovered", "recovered", "prepared; it is done once the node is unsealed"},
		{"node", "node", string(dir.NodeID())},
		{"incarnation", "incarnation", hex.EncodeToString(plan.GetIncarnation().GetId())},
		{"goes on from index", "index", plan.GetIncarnation().GetFromIndex()},
		{"generation of the MasterKey", "generation", uint64(v.Generation())},
		{"last change", "lastChangeTime", time.UnixMilli(v.TimeMS()).UTC().Format(time.RFC3339)},
		{"destroyed", "destroyed", strings.Join(plan.GetIncarnation().GetLost(), ", ")},
	})
}

// others returns the members that a recovery removes.
func others(v *fsm.View, plan *fsmpb.Recover) (all []*fsmpb.Member) {
	for _, m := range v.Members() {
		if !m.GetRemoved() && m.GetId() != plan.GetMember().GetId() {
			all = append(all, m)
		}
	}
	return all
}

// named refuses a recovery unless each lost voter was said to be destroyed, and nobody
// else (I1).
func named(v *fsm.View, lost, said []string) error {
	var missing []string
	left := slices.Clone(said)
	for _, id := range lost {
		m, _ := v.Member(id)
		at := slices.IndexFunc(left, func(s string) bool { return s == id || s == m.GetName() })
		if at < 0 {
			missing = append(missing, fmt.Sprintf("%s (%s, %s)", id, m.GetName(), m.GetPeerAddress()))
			continue
		}
		left = slices.Delete(left, at, at+1)
	}
	switch {
	case len(missing) > 0:
		return errs.Newf(errs.FailedState, "these voters may still live: %s", strings.Join(missing, ", ")).
			With(errs.Hint("bring them back if you can: docs/runbooks/lost-quorum.md; only if they are destroyed, name each with --destroyed"))
	case len(left) > 0:
		return errs.Newf(errs.InvalidArgument, "%q is no other voter of this cluster", left[0]).
			With(errs.Hint("look whether this is the cluster that you mean: krypton operator snapshot inspect"))
	}
	return nil
}

// silent refuses a recovery while a member answers (I1): also one that does not vote, since
// it tells that somebody has a cluster that runs.
func silent(ctx context.Context, in *command.Invocation, r cluster.Recovery) error {
	v := r.Saved.View()
	for _, m := range v.Members() {
		if m.GetRemoved() || m.GetId() == string(r.Dir.NodeID()) {
			continue
		}
		in.Step("asking whether %s answers", m.GetName())
		up, err := r.Answers(ctx, m)
		if err != nil {
			return err
		}
		if up {
			return errs.Newf(errs.FailedState, "node %s (%s) answers at %s", m.GetId(), m.GetName(), m.GetPeerAddress()).
				With(errs.Hint("it lives: bring the others back if you can (docs/runbooks/lost-quorum.md); else stop it and wipe its data directory first"))
		}
	}
	return nil
}

// signatures returns those of people, or writes what they have to sign; done then.
func signatures(in *command.Invocation, r cluster.Recovery, plan *fsmpb.Recover, now time.Time) (signed []*fsmpb.SignedIntent, done bool, err error) {
	v := r.Saved.View()
	req := fsm.RecoveryRequest(plan)
	keyspace, err := hierarchy.KeyspaceIDFromBytes(v.Cluster().GetKeyspaceId())
	if err != nil {
		return nil, false, err
	}
	rule, needed := v.RuleOf(req)
	if only := in.String("sign-only"); only != "" {
		f, err := sign.Draft(sign.Proposal{Keyspace: keyspace, Request: req, Lifetime: in.Duration("sign-for")}, now, rand.Reader)
		if err != nil {
			return nil, false, err
		}
		if err := f.Save(only); err != nil {
			return nil, false, err
		}
		in.Note("nothing was changed; people sign it with krypton intent sign " + only + ", then give the same command with --intent " + only)
		return nil, true, in.Show(map[string]string{"file": only, "act": req.Act().String()}, req.Describe())
	}
	files := in.Strings("intent")
	unsigned := errs.Newf(errs.IntentRefused, "the cluster asks for %s for a recovery", rule).With(errs.Hint("--sign-only FILE writes what they have to sign"))
	switch {
	case len(files) == 0 && needed:
		return nil, false, unsigned
	case len(files) == 0:
		return nil, false, r.Saved.Check(plan, nil, now)
	}
	all := make([]sign.File, len(files))
	for i, name := range files {
		if all[i], err = sign.OpenFile(name); err != nil {
			return nil, false, err
		}
	}
	f, err := sign.Merge(all...)
	if err != nil {
		return nil, false, err
	}
	raw, err := f.Intent.Encode()
	if err != nil {
		return nil, false, errs.New(errs.InvalidArgument, "the intent cannot be used: "+err.Error(), errs.Cause(err))
	}
	for _, s := range f.Signatures {
		id := s.Key.ID()
		signed = append(signed, &fsmpb.SignedIntent{Intent: raw, KeyId: id[:], Signature: s.Sig})
	}
	if needed && len(signed) == 0 { // a forecast asks for none
		return nil, false, unsigned
	}
	return signed, false, r.Saved.Check(plan, signed, now)
}

// prove opens the MasterKey, verifies the file, and returns what writes the files that
// come of it: the seal record, and the certificate with which people know the node.
func prove(ctx context.Context, in *command.Invocation, cfg config.Config, r cluster.Recovery, plan *fsmpb.Recover) (func() error, error) {
	mk, err := openMasterKey(ctx, in, cfg, r.Saved)
	if err != nil {
		return nil, err
	}
	defer mk.Destroy()
	in.Step("verifying the file")
	if err := verify(r.Saved, mk); err != nil {
		return nil, err
	}
	v := r.Saved.View()
	rec, err := seal.ParseRecord(v.Cluster().GetSealRecord())
	if err != nil {
		return nil, err
	}
	m := &fsmpb.Member{
		Id: plan.GetMember().GetId(), PublicKey: plan.GetMember().GetPublicKey(),
		GrpcAddress: reached(cfg.Advertise.GRPC, cfg.Listen.GRPC), RestAddress: reached(cfg.Advertise.REST, cfg.Listen.REST), PeerAddress: reached(cfg.Advertise.Peer, cfg.Listen.Peer),
	}
	leaf, _, err := node.FirstCertificate(mk, v, m, rec, rand.Reader, r.Clock.Now())
	if err != nil {
		return nil, err
	}
	return func() error { return errors.Join(writeRecord(r.Dir, v), writeCertificate(r.Dir, leaf)) }, nil
}

func writeCertificate(d *cluster.Dir, leaf *x509.Certificate) error {
	var b bytes.Buffer
	if err := pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}); err != nil {
		return err
	}
	return atomicfile.Write(d.Path("tls/api.pem"), b.Bytes(), 0o600)
}

// writeRecord puts the seal record of a state into a directory.
func writeRecord(d *cluster.Dir, v *fsm.View) error {
	rec, err := seal.ParseRecord(v.Cluster().GetSealRecord())
	if err != nil {
		return err
	}
	return seal.WriteFile(d.Path("seal/record.pb"), rec)
}

// reached returns the address by which callers know a port.
func reached(advertise, listen string) string {
	host := advertise
	if h, _, err := net.SplitHostPort(advertise); err == nil {
		host = h
	}
	if host == "" {
		host, _, _ = net.SplitHostPort(listen) // off, or wrong: then nobody calls there
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		name, err := os.Hostname()
		if err != nil {
			return ""
		}
		host = name
	}
	return net.JoinHostPort(host, "0")
}

func sealCommand() *command.Command {
	return &command.Command{
		Name: "seal", Usage: "put the seal record of the cluster back", Args: "[FILE]", NArgs: [2]int{0, 1}, Exits: offlineExits(),
		About: "For a node whose seal/record.pb is gone or damaged, so that it cannot unseal without the others. FILE is seal/record.pb\n" +
			"of another node, or a snapshot file. A record of another keyspace than that of the data directory is refused. The\n" +
			"record holds no key in the clear, and who changed it gains nothing: a node believes the MasterKey that it opens by\n" +
			"the commitment of the cluster's genesis.\n\n" +
			"With --previous in place of FILE the node is opened by the seal from before the last ceremony, by its holders: the node\n" +
			"kept that because it was not opened by the new one yet. It opens the same MasterKey, so it is not possible after a rekey.\n" +
			"The node stays with it over restarts until the next ceremony is committed, to which the holders from before consent on\n" +
			"this node; or until the record of the cluster is put back.",
		Examples: []string{
			"krypton operator recover seal /mnt/n2/seal/record.pb --config /etc/krypton/krypton.yaml",
			"krypton operator recover seal --previous --config /etc/krypton/krypton.yaml",
		},
		Flags: []cli.Flag{configFlag(), &cli.BoolFlag{Name: "previous", Usage: "go back to the seal from before the last ceremony, which this node kept"}},
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
			keyspace, fingerprint, err := ofCluster(dir)
			if err != nil {
				return err
			}
			if in.Bool("previous") == (len(in.Args()) == 1) {
				return errs.New(errs.InvalidArgument, "name either a file or --previous", errs.Hint("krypton operator recover seal --help"))
			}
			path := dir.Path("seal/record.pb")
			if in.Bool("previous") {
				rec, err := goBack(path, keyspace)
				if err != nil {
					return err
				}
				return showRecord(in, path, rec)
			}
			rec, err := recordIn(in.Args()[0], fingerprint)
			if err != nil {
				return err
			}
			if rec.Keyspace() != keyspace {
				return errs.New(errs.StateCorrupt, fmt.Sprintf("the seal record is of keyspace %s, and this node of %s", rec.Keyspace(), keyspace),
					errs.Hint("take that of a node of the same cluster"), errs.Cause(seal.ErrForeignRecord))
			}
			if have, err := seal.ReadFile(path, keyspace); err == nil && have.Generation() > rec.Generation() {
				return errs.Newf(errs.FailedState, "the record of this node is of generation %d, and that one of generation %d", have.Generation(), rec.Generation()).
					With(errs.Hint("a MasterKey that was replaced is not taken back; take the record of a node that is up to date"))
			}
			if err := seal.WriteFile(path, rec); err != nil {
				return err
			}
			// Whoever puts a record there means it: nothing is set aside any more.
			if err := os.Remove(path + seal.AsideSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			return showRecord(in, path, rec)
		},
	}
}

func showRecord(in *command.Invocation, path string, rec seal.Record) error {
	return show(in, []fact{
		{"seal record", "file", path},
		{"keyspace", "keyspaceId", rec.Keyspace().String()},
		{"seal", "seal", rec.Mode().String()},
		{"generation", "generation", uint64(rec.Generation())},
		{"persons needed to unseal", "personsNeeded", rec.PersonsNeeded()},
	})
}

// goBack puts the record from before the last ceremony in its place, and that of the last
// one aside. Killed anywhere it leaves what it found or what it makes, and may be run again.
func goBack(path string, keyspace hierarchy.KeyspaceID) (seal.Record, error) {
	was, err := seal.ReadFile(path+seal.PreviousSuffix, keyspace)
	if errors.Is(err, seal.ErrNoRecord) {
		return seal.Record{}, errs.New(errs.FailedState, "this node kept no seal from before: it was opened by the present one, or there was no ceremony since it is a member",
			errs.Hint("another node may have kept it, or take a snapshot file from before the ceremony: krypton operator recover seal FILE"))
	}
	if err != nil {
		return seal.Record{}, err
	}
	now, err := seal.ReadFile(path, keyspace)
	if err != nil {
		return seal.Record{}, err
	}
	if now.ManifestDigest() != was.ManifestDigest() {
		if !was.SameMasterKey(now) {
			return seal.Record{}, errs.Newf(errs.FailedState, "the seal from before is of MasterKey %d, and a rekey put MasterKey %d in its place: it does not open this node", was.Generation(), now.Generation()).
				With(errs.Hint("the new holders have to open it; else recover from a snapshot file from before the rekey: docs/runbooks/all-nodes-lost.md"))
		}
		if err := seal.WriteFile(path+seal.AsideSuffix, now); err != nil {
			return seal.Record{}, err
		}
		if err := seal.WriteFile(path, was); err != nil {
			return seal.Record{}, err
		}
	}
	return was, os.Remove(path + seal.PreviousSuffix)
}

// ofCluster returns which cluster a data directory is pinned to.
func ofCluster(dir *cluster.Dir) (k hierarchy.KeyspaceID, fingerprint [32]byte, err error) {
	fingerprint, ok := dir.Fingerprint()
	raw := dir.Keyspace()
	if !ok || len(raw) == 0 {
		return k, fingerprint, errs.New(errs.FailedState, "this data directory belongs to no cluster", errs.Hint("join the cluster: krypton join; the record comes with it"))
	}
	k, err = hierarchy.KeyspaceIDFromBytes(raw)
	return k, fingerprint, err
}

// recordIn reads the seal record in a record file or a snapshot file.
func recordIn(path string, fingerprint [32]byte) (seal.Record, error) {
	rec, err := seal.ReadFile(path, hierarchy.KeyspaceID{})
	if err == nil || errors.Is(err, os.ErrNotExist) {
		return rec, err
	}
	s, serr := open(path)
	if serr != nil {
		return seal.Record{}, err
	}
	c := s.View().Cluster()
	if !bytes.Equal(c.GetFingerprint(), fingerprint[:]) {
		return seal.Record{}, errs.New(errs.StateCorrupt, "the snapshot file is of another cluster than this node", errs.Hint("take one of the same cluster"), errs.Cause(seal.ErrForeignRecord))
	}
	return seal.ParseRecord(c.GetSealRecord())
}
