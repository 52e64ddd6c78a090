package command

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"slices"
	"strconv"

	"github.com/urfave/cli/v2"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent/orders"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/manifest"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

func checkShareCommand() *Command {
	return &Command{
		Name: "check", Usage: "try whether you can still open your share; sends nothing of it", Reach: Reads, Exits: []int{errs.ExitIntegrity},
		About: "Gets the encrypted share from a node, opens it with the identity and compares it with the manifest, as krypton unseal\n" +
			"does before it sends a share. Run it after a ceremony, and once in a while: a key that is lost is noticed here.\n" +
			"--keep writes the encrypted share to a file, once it was compared.\n\n" +
			"With --seals no node is asked: the encrypted share in --file is compared with the manifests that krypton ceremony\n" +
			"manifest export wrote, which are verified first, from the fingerprint alone. The file is no proof by itself: anybody can\n" +
			"encrypt something to a recipient. Without --identity nothing is opened, and it is said whose share of which seal the\n" +
			"file is. That no ceremony was held since the manifests were exported only a node tells.",
		Examples: []string{
			"krypton operator share check --identity anna.identity", "krypton operator share check --identity token.identity --holder anna",
			"krypton operator share check --file anna.age --seals seals.json --fingerprint $FINGERPRINT",
		},
		Flags: append(heldFlags(),
			&cli.StringFlag{Name: "keep", Usage: "write the encrypted share to `FILE`, once it was compared"},
			&cli.StringFlag{Name: "file", Usage: "encrypted share in a `FILE`, in place of that of a node"},
			&cli.StringFlag{Name: "seals", Usage: "`FILE` of krypton ceremony manifest export that --file is compared with"},
			&cli.StringFlag{Name: "fingerprint", Usage: "`HEX` of the cluster that --seals must be of, 64 digits"},
		),
		Run: checkShare,
	}
}

func checkShare(ctx context.Context, in *Invocation) error {
	if in.c.IsSet("file") || in.c.IsSet("seals") || in.c.IsSet("fingerprint") {
		return checkShareFile(in)
	}
	if in.c.String("identity") == "" {
		return usagef("see krypton operator share check --help", "krypton operator share check needs --identity")
	}
	c, err := in.client(ctx)
	if err != nil {
		return err
	}
	h, err := in.held()
	if err != nil {
		return err
	}
	defer h.Destroy()
	var failed error
	for _, addr := range c.Addrs() {
		nd := c.Node(addr)
		st, err := call(ctx, in, nd.Seal().GetSeal, &kryptonv1.GetSealRequest{})
		if err != nil { // this node does not answer; they all have the same
			failed = errors.Join(failed, err)
			continue
		}
		var cluster seal.Fingerprint
		if !hexBytes(cluster[:], st.GetFingerprint()) {
			failed = errors.Join(failed, errs.Newf(errs.NotSealed, "node %s belongs to no cluster", nodeLabel(st)).With(errs.Hint("use --addr of one that does")))
			continue
		}
		got, err := in.fetch(ctx, nd, st, h, cluster)
		if err != nil {
			return err
		}
		if file := in.c.String("keep"); file != "" {
			if err := in.WriteFile(file, func(w io.Writer) error { _, err := w.Write(got.file); return err }); err != nil {
				return err
			}
		}
		return in.showHeld(got.manifest, got.holder, got.share.Index(), cluster, true)
	}
	return failed
}

// checkShareFile compares an encrypted share in a file with the manifests of a cluster that
// is not asked.
func checkShareFile(in *Invocation) error {
	path := in.c.String("file")
	if path == "" || in.c.String("seals") == "" || in.c.String("fingerprint") == "" || in.c.IsSet("keep") {
		return usagef("give the three together, without --keep; no node is asked then", "--file, --seals and --fingerprint need each other")
	}
	cluster, err := in.clusterFingerprint()
	if err != nil {
		return err
	}
	l, err := verifiedSeals(in.c.String("seals"), cluster)
	if err != nil {
		return err
	}
	shard, err := readShardFile(path)
	if err != nil {
		return err
	}
	m, i, err := sealOf(l.Lineage, path, shard)
	if err != nil {
		return err
	}
	if in.c.String("identity") != "" {
		h, err := in.held()
		if err != nil {
			return err
		}
		defer h.Destroy()
		if _, err := h.compare(m, i, shard, cluster, func(why string, cause error) error { return refuseFile(path, why, cause) }); err != nil {
			return err
		}
	}
	return in.showHeld(m, m.GetHolders()[i-1], i, cluster, in.c.String("identity") != "")
}

func readShardFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, cannotRead(path, err)
	}
	defer f.Close() //nolint:errcheck // Only read from.
	b, err := io.ReadAll(io.LimitReader(f, seal.MaxShard+1))
	if err != nil {
		return nil, cannotRead(path, err)
	}
	if len(b) > seal.MaxShard {
		return nil, errs.Newf(errs.TooLarge, "%s is larger than %d bytes", path, seal.MaxShard).With(errs.Hint("give the encrypted share, an age file"))
	}
	return b, nil
}

func refuseFile(path, why string, cause error) error {
	return errs.New(errs.ShareRefused, "the share in "+path+" is refused: "+why,
		errs.Hint("do not rely on it: have a node give you yours with krypton operator share check --keep; and find out who gave you this one"), errs.Cause(cause))
}

// sealOf returns the seal that an encrypted share is of, and its number there: the last seal
// of the cluster, or it is refused.
func sealOf(l fsm.Lineage, path string, shard []byte) (*sealpb.Manifest, int, error) {
	file := sha256.Sum256(shard)
	for n, m := range slices.Backward(l.Manifests) {
		i := slices.IndexFunc(m.GetHolders(), func(h *sealpb.Holder) bool { return bytes.Equal(h.GetEncryptedShardHash(), file[:]) })
		switch {
		case i < 0:
		case n < len(l.Manifests)-1:
			return nil, 0, refuseFile(path, "it is of the seal of ceremony "+hierarchy.UID(m.GetCeremonyId()).String()+", which was replaced", nil)
		default:
			return m, i + 1, nil
		}
	}
	return nil, 0, refuseFile(path, "no seal of the cluster has it", nil)
}

// showHeld says whose share of which seal it is.
func (in *Invocation) showHeld(m *sealpb.Manifest, h *sealpb.Holder, index int, cluster seal.Fingerprint, opened bool) error {
	d := manifest.Of(m)
	ceremony := hierarchy.UID(m.GetCeremonyId())
	if in.jsonOutput() {
		return in.showJSON(map[string]any{
			"index": index, "holder": h.GetName(), "recipient": h.GetRecipient(), "fingerprint": hex.EncodeToString(cluster[:]),
			"ceremony": ceremony.String(), "generation": m.GetGeneration(), "manifestDigest": hex.EncodeToString(d[:]), "opened": opened,
		})
	}
	var s sheet
	s.add("share", strconv.Itoa(index))
	s.add("holder", orders.Printable(h.GetName()))
	s.add("fingerprint", hex.EncodeToString(cluster[:]))
	s.add("ceremony", ceremony.String())
	s.add("generation", strconv.FormatUint(m.GetGeneration(), 10))
	s.add("manifest", hex.EncodeToString(d[:]))
	s.add("opened", yesNo(opened))
	return in.write([]byte(s.text()))
}
