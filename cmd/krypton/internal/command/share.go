package command

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/urfave/cli/v2"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/agebox"
	"github.com/openkcm/krypton-cluster/seal/manifest"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// heldFlags are how a person names the key to the own share, and the share.
func heldFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "identity", Usage: "identity `FILE` that opens your encrypted share: of age, a plugin of it, or ssh-keygen; - for stdin"},
		&cli.StringFlag{Name: "holder", Usage: "`NAME` or number of the share's holder, where the identity does not tell"},
		&cli.StringFlag{Name: "manifest", Usage: "`DIGEST` that the manifest of the seal must have, 64 hex digits; krypton operator share check prints it"},
	}
}

// held is the share of a person, opened with the person's identity. Nodes have
// the same file for it, so one opening, and one touch of a token, is enough for
// all of them.
type held struct {
	ids    *agebox.Identities
	wanted []*kryptonv1.GetShardRequest // how a node may be asked for it, the likeliest first
	pin    *manifest.Digest             // nil: none

	file  [sha256.Size]byte // of what was opened last
	share seal.Share        // as it was in that file
	open  bool
}

// held reads the flags of [heldFlags].
func (in *Invocation) held() (*held, error) {
	h := &held{}
	if s := in.c.String("manifest"); in.c.IsSet("manifest") {
		h.pin = new(manifest.Digest)
		if !hexBytes(h.pin[:], s) {
			return nil, usagef("give the 64 hex digits that krypton operator share check prints", "--manifest is no digest of a manifest")
		}
	}
	var err error
	if h.ids, err = in.readIdentities(in.c.String("identity")); err != nil {
		return nil, err
	}
	if h.wanted, err = shardsOf(h.ids, in.c.String("holder")); err != nil {
		h.Destroy()
		return nil, err
	}
	return h, nil
}

// hexBytes reads as many hex digits as dst takes, and reports whether s is just these.
// hex.Decode by itself panics on more: a node says what it likes.
func hexBytes(dst []byte, s string) bool {
	if len(s) != hex.EncodedLen(len(dst)) {
		return false
	}
	_, err := hex.Decode(dst, []byte(s))
	return err == nil
}

// Destroy wipes identity and share.
func (h *held) Destroy() {
	h.ids.Destroy()
	h.share.Destroy()
}

// shardsOf returns how a node may be asked for the share of the holder, or for the
// one that the identities open.
func shardsOf(ids *agebox.Identities, holder string) ([]*kryptonv1.GetShardRequest, error) {
	if holder != "" {
		if n, err := strconv.ParseUint(holder, 10, 32); err == nil && n > 0 {
			return []*kryptonv1.GetShardRequest{{Index: uint32(n)}}, nil
		}
		return []*kryptonv1.GetShardRequest{{Holder: holder}}, nil
	}
	public, err := ids.Public()
	if err != nil {
		return nil, err
	}
	var all []*kryptonv1.GetShardRequest
	for _, p := range public {
		if p.Recipient != "" {
			all = append(all, &kryptonv1.GetShardRequest{Recipient: p.Recipient})
		}
	}
	if len(all) == 0 {
		return nil, usagef("give --holder with your name or number; krypton status shows the holders", "a plugin's identity does not tell whose share it opens")
	}
	return all, nil
}

// heldShare is a share that was compared with the manifest of the node that gave it.
type heldShare struct {
	share    seal.Share // of held, which wipes it; marked for the cluster
	manifest *sealpb.Manifest
	holder   *sealpb.Holder
	file     []byte // encrypted, as it was given
}

// fetch gets the person's share from a node of the cluster, opens it, and
// compares it with the node's manifest. What does not fit is not returned, so
// that nothing of it leaves this machine.
func (in *Invocation) fetch(ctx context.Context, nd *client.Node, st *kryptonv1.SealStatus, h *held, cluster seal.Fingerprint) (heldShare, error) {
	var got *kryptonv1.EncryptedShard
	var err error
	for _, req := range h.wanted {
		got, err = call(ctx, in, nd.Seal().GetShard, req)
		if !errs.Is(err, errs.NotFound) {
			break
		}
	}
	if errs.Is(err, errs.NotFound) && h.wanted[0].GetRecipient() != "" {
		e := errs.From(err).With(errs.Hint("compare krypton operator share recipient with the holders in krypton status; or name yourself with --holder"))
		e.Msg = "no share is encrypted to this identity"
		err = e
	}
	if err != nil {
		e := errs.From(err)
		c := e.With()
		c.Msg = fmt.Sprintf("node %s: %s", nodeLabel(st), e.Msg)
		return heldShare{}, c
	}
	refuse := func(why string, cause error) error {
		return errs.New(errs.ShareRefused, "the share that node "+nodeLabel(st)+" gave is refused: "+why,
			errs.Hint("ask another node; nothing was sent. If they all say the same, somebody changed their seal"), errs.Cause(cause))
	}
	m, err := manifest.ParseManifest(got.GetManifest())
	if err == nil {
		err = manifest.Check(m)
	}
	if err != nil {
		return heldShare{}, refuse("its manifest is not valid: "+err.Error(), err)
	}
	return h.compare(m, int(got.GetIndex()), got.GetShard(), cluster, refuse)
}

// compare opens the encrypted share of that number and compares all of it with a manifest.
func (h *held) compare(m *sealpb.Manifest, i int, shard []byte, cluster seal.Fingerprint, refused func(why string, cause error) error) (heldShare, error) {
	refuse := func(why string) (heldShare, error) { return heldShare{}, refused(why, nil) }
	if d := manifest.Of(m); h.pin != nil && d != *h.pin {
		return refuse("the manifest is another one than --manifest says, with the digest " + hex.EncodeToString(d[:]))
	}
	if i < 1 || i > len(m.GetHolders()) {
		return refuse("the manifest has no such holder")
	}
	holder := m.GetHolders()[i-1]
	file := sha256.Sum256(shard)
	if !bytes.Equal(file[:], holder.GetEncryptedShardHash()) {
		return refuse("the manifest has another one")
	}
	if !h.open || h.file != file {
		plain, err := h.ids.Decrypt(shard, seal.ShardSize)
		if err != nil {
			return heldShare{}, err
		}
		defer plain.Destroy()
		s, err := seal.ReadShard(plain)
		if err != nil {
			return heldShare{}, err
		}
		h.share.Destroy()
		h.share, h.file, h.open = s, file, true
	}
	s, err := h.share.Claim(cluster)
	if err == nil && s.Index() != i {
		return refuse(fmt.Sprintf("it is share %d, and not %d", s.Index(), i))
	}
	if err == nil {
		err = seal.CheckShare(m, s)
	}
	if err != nil {
		return heldShare{}, err
	}
	return heldShare{share: s, manifest: m, holder: holder, file: shard}, nil
}

func shareCommands() *Command {
	return group("share", "keys of persons that hold encrypted shares of the MasterKey",
		newIdentityCommand(),
		&Command{
			Name: "recipient", Args: "FILE", Usage: "print to whom a share is encrypted that this identity opens", NArgs: [2]int{1, 1},
			About:    "The recipient is public: it goes into the plan of the seal. What a plugin's identity opens only the plugin's own tool tells.",
			Examples: []string{"krypton operator share recipient anna.identity", "krypton operator share recipient ~/.ssh/id_ed25519"},
			Run: func(_ context.Context, in *Invocation) error {
				ids, err := in.readIdentities(in.args[0])
				if err != nil {
					return err
				}
				defer ids.Destroy()
				all, err := ids.Public()
				if err != nil {
					return err
				}
				return in.showRecipients(all)
			},
		},
		checkShareCommand(),
	)
}

func (in *Invocation) showRecipients(all []agebox.Public) error {
	type row struct {
		Kind        string `json:"kind"`
		Recipient   string `json:"recipient,omitempty"`
		Plugin      string `json:"plugin,omitempty"`
		PostQuantum bool   `json:"postQuantum"`
		Warning     string `json:"warning,omitempty"`
	}
	rows, lines := []row{}, ""
	for _, p := range all {
		rows = append(rows, row{p.Kind.String(), p.Recipient, p.Plugin, p.Kind.PostQuantum(), p.Kind.Warning()})
		if p.Recipient != "" {
			lines += p.Recipient + "\n"
		}
	}
	if in.jsonOutput() {
		return in.showJSON(map[string]any{"identities": rows})
	}
	for _, r := range rows {
		if r.Plugin != "" {
			in.note("an identity of age-plugin-%s: the plugin's own tool prints its recipient", r.Plugin)
		}
		if r.Warning != "" {
			in.note("%s: %s", r.Kind, r.Warning)
		}
	}
	if lines == "" {
		return errs.New(errs.FailedState, "nothing here tells a recipient", errs.Hint("ask the plugin's own tool for it"))
	}
	return in.write([]byte(lines))
}

func newIdentityCommand() *Command {
	return &Command{
		Name: "new-identity", Args: "NAME", Usage: "make the key that opens a person's encrypted share; it never leaves this machine", NArgs: [2]int{1, 1}, Exits: []int{errs.ExitState},
		About: "Writes NAME.identity, mode 0600 and encrypted with a passphrase that is asked for twice, and NAME.recipient, which is\n" +
			"public and goes into the plan of the seal. The key is a hybrid one (ML-KEM-768 and X25519); age opens what it protects, too.\n\n" +
			"Make one for each cluster. A copy of NAME.identity belongs where a paper would lie: who loses it has lost the share.",
		Examples: []string{"krypton operator share new-identity anna --out keys", "krypton operator share new-identity anna --no-passphrase"},
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "no-passphrase", Usage: "write the key as it is: whoever reads the file has it"},
			&cli.StringFlag{Name: "out", Usage: "`DIR` for both files", Value: "."},
		},
		Run: func(_ context.Context, in *Invocation) error {
			name, dir := in.args[0], in.c.String("out")
			if !auth.ValidName(name) {
				return usagef("lower-case letters, digits, dot, dash and underscore, at most 63", "%q is not a name", name)
			}
			var pass []byte
			defer func() { clear(pass) }()
			if !in.c.Bool("no-passphrase") {
				var err error
				if pass, err = in.newPassphrase(name); err != nil {
					return err
				}
			}
			return in.newIdentity(name, dir, pass)
		},
	}
}

// newPassphrase asks for a passphrase twice.
func (in *Invocation) newPassphrase(name string) ([]byte, error) {
	if !terminal(in.env.Stdin) {
		return nil, usagef("run it at a terminal, or give --no-passphrase", "nobody can be asked for a passphrase here")
	}
	pass, err := in.hidden("New passphrase of " + name + ".identity")
	if err != nil {
		return nil, err
	}
	if len(pass) < agebox.MinPassphrase || len(pass) > agebox.MaxPassphrase {
		n := len(pass)
		clear(pass)
		return nil, usagef("take several random words", "the passphrase has %d bytes, the limits are %d and %d", n, agebox.MinPassphrase, agebox.MaxPassphrase)
	}
	again, err := in.hidden("The same again")
	defer clear(again)
	if err == nil && !bytes.Equal(pass, again) {
		err = usagef("try again; no file was written", "the passphrases differ")
	}
	if err != nil {
		clear(pass)
		return nil, err
	}
	return pass, nil
}

// newIdentity makes the files; pass may be nil. It wipes pass.
func (in *Invocation) newIdentity(name, dir string, pass []byte) error {
	ids, err := agebox.NewIdentities(in.env.Clock.Now())
	if err != nil {
		return err
	}
	defer ids.Destroy()
	public, err := ids.Public()
	if err != nil {
		return err
	}
	text := bytes.NewBuffer(make([]byte, 0, agebox.MaxIdentityFile)) // so that it does not grow
	defer func() { clear(text.Bytes()) }()
	if pass == nil {
		err = ids.Save(text)
	} else {
		in.meter.step("encrypting the identity")
		err = ids.SaveEncrypted(text, pass)
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return cannotMake(dir, err)
	}
	idFile, toFile := filepath.Join(dir, name+".identity"), filepath.Join(dir, name+".recipient")
	if err := save(idFile, text.Bytes(), 0o600); err != nil {
		return err
	}
	if err := save(toFile, []byte(public[0].Recipient+"\n"), 0o644); err != nil {
		return errors.Join(err, os.Remove(idFile))
	}
	if pass == nil {
		in.note("whoever reads %s can open the share", idFile)
	}
	if in.jsonOutput() {
		return in.showJSON(map[string]any{"identityFile": idFile, "recipientFile": toFile, "recipient": public[0].Recipient, "encrypted": pass != nil})
	}
	var s sheet
	s.add("identity", idFile)
	s.add("recipient", toFile)
	return in.write([]byte(s.text()))
}
