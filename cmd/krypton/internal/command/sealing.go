package command

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal"
)

func dataDirFlag(usage string) cli.Flag {
	return &cli.StringFlag{Name: "data-dir", Usage: usage, Value: "/var/lib/krypton"}
}

func unsealCommand() *Command {
	return &Command{
		Name: "unseal", Usage: "give shares of the MasterKey to nodes", Reach: Acts, Exits: []int{errs.ExitSealed, errs.ExitPending},
		About: "Every node unseals by itself: the share goes to each sealed node of --addr. With --identity it is the encrypted share\n" +
			"that the nodes keep for you: it is fetched, opened on this machine with your identity, and compared with the manifest of\n" +
			"the seal. A printed share is asked for without being shown, or read from stdin or --share-file, one share a line; it is\n" +
			"never an argument.\n\n" +
			"Before it leaves this machine the node has to prove with its certificate that the key it offers for shares is its\n" +
			"own, and the share has to be of the node's cluster. On its way only that start of that node can open it.\n\n" +
			"A node cannot renew its certificate while it is sealed. After a month of that, --accept-expired-node accepts one that has\n" +
			"expired, when nothing else is wrong with it. Whoever has the key of a node that was removed could pose as that node, so\n" +
			"stderr says which certificate it was: go on only if the node is still one of the cluster.\n\n" +
			"The exit status is 9 when the shares were taken and a node waits for those of other holders; the result says how many\n" +
			"it has and needs.",
		Examples: []string{
			"krypton unseal --addr n1:8400,n2:8400,n3:8400 --identity anna.identity", "krypton unseal --addr n1:8400,n2:8400,n3:8400",
			"krypton unseal --addr n1:8400 < share.txt",
		},
		Flags: append(heldFlags(),
			&cli.StringFlag{Name: "share-file", Usage: "`FILE` with printed shares, - for stdin"},
			&cli.BoolFlag{Name: "reset", Usage: "first forget the shares that the node has got so far"},
			&cli.BoolFlag{Name: "accept-expired-node", Usage: "accept the certificate of a node that is wrong in nothing but that it has expired"},
		),
		Run: unseal,
	}
}

func unseal(ctx context.Context, in *Invocation) error {
	if in.c.Bool("dry-run") {
		return in.noDryRun()
	}
	roots, err := in.roots()
	if err != nil {
		return err
	}
	var set []func(*client.Options)
	var old *expiredNodes
	if in.c.Bool("accept-expired-node") {
		old = newExpiredNodes()
		set = append(set, client.AcceptExpiredNodes(old.accepted))
	}
	c, err := in.client(ctx, set...)
	if err != nil {
		return err
	}
	from, err := in.sharesOf()
	if err != nil {
		return err
	}
	defer from.Destroy()
	var after []*kryptonv1.SealStatus
	var failed error
	g := grid{head: []string{"NODE", "STATE", "SHARES", "NOTE"}}
	for _, addr := range c.Addrs() {
		in.waits = "giving the share to " + addr
		st, err := in.unsealNode(ctx, c.Node(addr), roots, from, old)
		name, state, note := addr, "no answer", ""
		if st != nil {
			after = append(after, st)
			name, state = nodeLabel(st), enum(st.GetState(), "SEAL_STATE_")
		}
		switch {
		case err != nil: // the error that ends the command is that of the first node only
			note = errs.From(err).Msg
		case st.GetEnough() != "":
			note = "it takes " + st.GetEnough()
		}
		g.add(name, state, shareProgress(st), note)
		failed = errors.Join(failed, err)
	}
	var out error
	if in.jsonOutput() {
		all := []any{}
		for _, st := range after {
			raw, err := toJSON(st)
			if err != nil {
				return err
			}
			all = append(all, raw)
		}
		out = in.showJSON(map[string]any{"nodes": all})
	} else {
		out = in.write([]byte(g.withoutEmptyColumns().text()))
	}
	if failed == nil {
		failed = waiting(after)
	}
	return errors.Join(out, failed)
}

// waiting says which nodes took the shares and wait for those of other holders,
// or is nil.
func waiting(all []*kryptonv1.SealStatus) error {
	var nodes []string
	for _, st := range all {
		if st.GetState() == kryptonv1.SealState_SEAL_STATE_SEALED {
			says := nodeLabel(st) + " has " + shareProgress(st)
			if st.GetEnough() != "" {
				says += " and takes " + st.GetEnough()
			}
			nodes = append(nodes, says)
		}
	}
	if len(nodes) == 0 {
		return nil
	}
	return errs.New(errs.ApprovalPending, "the shares were taken, and more are needed: "+strings.Join(nodes, ", "),
		errs.Hint("the other holders run krypton unseal too, within 15 minutes of the first share"))
}

// shareSource is where the shares for a node come from: paper, or the person's
// identity and what the nodes keep for it.
type shareSource struct {
	printed []seal.Share
	held    *held
}

// Destroy wipes whatever it has.
func (s shareSource) Destroy() {
	for _, p := range s.printed {
		p.Destroy()
	}
	if s.held != nil {
		s.held.Destroy()
	}
}

// sharesOf reads the shares, or what opens them, as the flags say.
func (in *Invocation) sharesOf() (s shareSource, err error) {
	identity := in.c.String("identity") != ""
	switch {
	case identity && in.c.IsSet("share-file"):
		return s, usagef("choose one", "--identity and --share-file contradict each other")
	case identity:
		s.held, err = in.held()
	case in.c.IsSet("holder") || in.c.IsSet("manifest"):
		return s, usagef("give the file that opens your share with --identity", "--holder and --manifest need --identity")
	default:
		s.printed, err = in.readShares()
	}
	return s, err
}

// sharesFor returns the shares for the node that made the offer.
func (in *Invocation) sharesFor(ctx context.Context, nd *client.Node, from shareSource, st *kryptonv1.SealStatus, offer seal.Offer, member crypto.PublicKey) ([]seal.Share, error) {
	if from.held == nil {
		return from.printed, nil
	}
	if err := offer.Verify(member); err != nil { // before anybody is asked for a PIN
		return nil, err
	}
	got, err := in.fetch(ctx, nd, st, from.held, offer.Target.Cluster)
	if err != nil {
		return nil, err
	}
	return []seal.Share{got.share}, nil
}

// unsealNode gives the shares to one node and returns its last status.
func (in *Invocation) unsealNode(ctx context.Context, nd *client.Node, roots *x509.CertPool, from shareSource, old *expiredNodes) (*kryptonv1.SealStatus, error) {
	st, err := call(ctx, in, nd.Seal().GetSeal, &kryptonv1.GetSealRequest{})
	if err != nil {
		return nil, in.orAccept(err)
	}
	in.warnOfExpired(nd.Addr(), old)
	switch {
	case st.GetState() == kryptonv1.SealState_SEAL_STATE_UNSEALED:
		in.note("node %s is unsealed already", nodeLabel(st))
		return st, nil
	case st.GetState() == kryptonv1.SealState_SEAL_STATE_UNINITIALIZED:
		return st, errs.Newf(errs.NotSealed, "node %s belongs to no cluster", nodeLabel(st)).With(errs.Hint("use krypton init or krypton join"))
	case st.GetMode() != kryptonv1.SealMode_SEAL_MODE_SHAMIR:
		why := "it unseals by itself through its keystores"
		if f := st.GetEnough(); f != "" {
			why += ", and takes " + f
		}
		return st, errs.Newf(errs.FailedState, "node %s takes no shares: %s", nodeLabel(st), why).
			With(errs.Hint("wait, or look at the keystore of the seal; krypton status shows how it goes"))
	}
	offer, member, err := verifyOffer(st, nd.Addr(), roots, in.env.Clock.Now(), old)
	if err != nil {
		return st, err
	}
	in.warnOfExpired(nd.Addr(), old)
	shares, err := in.sharesFor(ctx, nd, from, st, offer, member)
	if err != nil {
		return st, err
	}
	reset := in.c.Bool("reset")
	for _, s := range shares {
		sealed, err := seal.SealShare(offer, member, s)
		if err != nil {
			return st, named(err, s, st)
		}
		now, err := call(ctx, in, nd.Seal().Contribute, &kryptonv1.ContributeRequest{NodeId: st.GetNodeId(), SealedShare: sealed, Reset_: reset})
		if err != nil {
			return st, named(err, s, st)
		}
		reset, st = false, now
		if st.GetState() == kryptonv1.SealState_SEAL_STATE_UNSEALED {
			in.note("node %s: share %d taken, unsealed", nodeLabel(st), s.Index())
			return st, nil
		}
		in.note("node %s: share %d taken, %s", nodeLabel(st), s.Index(), shareProgress(st))
	}
	return st, nil
}

// named says which share and which node an error is about.
func named(err error, s seal.Share, st *kryptonv1.SealStatus) error {
	e := errs.From(err)
	c := e.With()
	c.Msg = fmt.Sprintf("share %d, node %s: %s", s.Index(), nodeLabel(st), e.Msg)
	return c
}

// verifyOffer checks that the node's certificate is of the cluster and names the
// node, and returns the key it offers for shares with the key that must have
// signed it. Whether it did is checked by seal.SealShare.
func verifyOffer(st *kryptonv1.SealStatus, addr string, roots *x509.CertPool, now time.Time, old *expiredNodes) (seal.Offer, crypto.PublicKey, error) {
	refuse := func(why string, cause error) (seal.Offer, crypto.PublicKey, error) {
		return seal.Offer{}, nil, errs.Newf(errs.Unauthenticated, "node %s does not prove who it is: %s", nodeLabel(st), why).
			With(errs.Hint("check the address and --ca-file; no share was sent"), errs.Cause(cause))
	}
	cert, err := x509.ParseCertificate(st.GetNodeCertificate())
	if err != nil {
		return refuse("it shows no certificate", err)
	}
	if err := verifyNode(cert, st.GetNodeCertificateChain(), addr, roots, now, old); err != nil {
		if isExpired(err, now) {
			return seal.Offer{}, nil, errs.Newf(errs.Unauthenticated, "node %s does not prove who it is: its certificate expired at %s", nodeLabel(st), endOf(cert)).
				With(errs.Hint(acceptHint), errs.Cause(err))
		}
		return refuse("its certificate is not of the cluster's CA", err)
	}
	if _, id, err := pki.NodeOf(cert); err != nil || id != st.GetNodeId() {
		return refuse("its certificate names another node", err)
	}
	offer := seal.Offer{Target: seal.Target{Node: st.GetNodeId()}, Public: st.GetStartKey(), Signature: st.GetStartKeySignature()}
	if !hexBytes(offer.Target.Cluster[:], st.GetFingerprint()) {
		return refuse("it names no cluster", nil)
	}
	return offer, cert.PublicKey, nil
}

// roots returns what nodes are verified with.
func (in *Invocation) roots() (*x509.CertPool, error) {
	raw, err := os.ReadFile(in.caFile())
	if err != nil {
		return nil, errs.New(errs.InvalidConfig, "read CA file: "+err.Error(), errs.Cause(err))
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) {
		return nil, errs.Newf(errs.InvalidConfig, "CA file %s holds no certificate", in.caFile())
	}
	return pool, nil
}

// readSecret reads a secret that is never an argument: from a file, from stdin,
// or from the person at the terminal, without showing it.
func (in *Invocation) readSecret(file, prompt string, limit int64) ([]byte, error) {
	if file == "" && terminal(in.env.Stdin) {
		var b []byte
		var err error
		in.meter.ask(func() {
			fmt.Fprint(in.env.Stderr, prompt+": ")
			b, err = term.ReadPassword(int(in.env.Stdin.Fd()))
			fmt.Fprintln(in.env.Stderr)
		})
		return b, err
	}
	r := in.env.Stdin
	if file != "" && file != "-" {
		var err error
		if r, err = os.Open(file); err != nil {
			return nil, cannotRead(file, err)
		}
		defer r.Close() //nolint:errcheck // Only read from.
	}
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, cannotRead("the input", err)
	}
	if int64(len(b)) > limit {
		return nil, errs.Newf(errs.TooLarge, "%s has more than %d bytes", cmp.Or(strings.Trim(file, "-"), "stdin"), limit).
			With(errs.Hint("give the file of the secret alone"))
	}
	return b, nil
}

// readShares reads one share or more, one a line.
func (in *Invocation) readShares() (_ []seal.Share, err error) {
	raw, err := in.readSecret(in.c.String("share-file"), "Share", int64(255*seal.MaxShareText))
	if err != nil {
		return nil, err
	}
	defer clear(raw)
	var shares []seal.Share
	defer func() {
		if err != nil {
			for _, s := range shares {
				s.Destroy()
			}
		}
	}()
	for line := range bytes.SplitSeq(raw, []byte("\n")) {
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		s, err := seal.ParseShare(line)
		if err != nil {
			return nil, err
		}
		shares = append(shares, s)
	}
	if len(shares) == 0 {
		return nil, usagef("give one share a line", "no share is given")
	}
	return shares, nil
}

func sealCommand() *Command {
	return &Command{
		Name: "seal", Usage: "wipe every key from the memory of a node, or of all nodes", Reach: Changes, Waits: "waiting for the seal",
		About: "Without --cluster the node that --addr names is sealed and unseals again as it does after a start. With --cluster all\n" +
			"nodes are, and stay so until krypton operator release-hold.",
		Examples: []string{"krypton seal --addr n2:8400", "krypton seal --cluster --reason 'suspected intrusion' --yes"},
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "cluster", Usage: "all nodes, until the hold is released"},
			&cli.StringFlag{Name: "reason", Usage: "`TEXT` that status shows while the cluster is held"},
		},
		Run: func(ctx context.Context, in *Invocation) error {
			c, err := in.client(ctx)
			if err != nil {
				return err
			}
			req := &kryptonv1.SealNodeRequest{Cluster: in.c.Bool("cluster"), Reason: in.c.String("reason")}
			var st *kryptonv1.SealStatus
			if req.GetCluster() {
				if err := in.confirm("every node stops serving until the hold is released"); err != nil {
					return err
				}
				st, err = call(ctx, in, kryptonv1.NewSealClient(c).SealNode, req)
			} else {
				if in.c.Bool("async") {
					return noAsync("without --cluster one node seals itself")
				}
				addrs := c.Addrs()
				if len(addrs) != 1 {
					return usagef("name one node with --addr, or use --cluster", "%d nodes are addressed", len(addrs))
				}
				st, err = call(ctx, in, c.Node(addrs[0]).Seal().SealNode, req)
			}
			if err != nil {
				return err
			}
			return in.show(st, func() string { return sealSheet(st) })
		},
	}
}

// publicKeyIn returns the bytes of the one PEM block in a file, which is a public key.
func publicKeyIn(file string) ([]byte, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, cannotRead(file, err)
	}
	b, rest := pem.Decode(raw)
	if b == nil || b.Type != pemPublic || len(bytes.TrimSpace(rest)) != 0 {
		return nil, usagef("krypton operator cert new-key makes one", "%s is not one PEM block %q", file, pemPublic)
	}
	return b.Bytes, nil
}
