package command

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal/plan"
)

// admin connects to the administration socket of the node whose data directory
// is dir. The permissions of the socket are the authentication.
func (in *Invocation) admin(dir string) (kryptonv1.AdminClient, func(), error) {
	path, err := filepath.Abs(filepath.Join(dir, "run", "admin.sock"))
	if err != nil {
		return nil, nil, err
	}
	if _, err := os.Stat(path); err != nil {
		return nil, nil, errs.Newf(errs.Unavailable, "there is no administration socket in %s: %s", dir, reason(err)).
			With(errs.Hint("start the node with krypton server, and name its data directory with --data-dir"), errs.Cause(err))
	}
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(client.MaxResponseBytes)))
	if err != nil {
		return nil, nil, errs.New(errs.InvalidConfig, "connect to "+path+": "+err.Error(), errs.Cause(err))
	}
	return kryptonv1.NewAdminClient(conn), func() { _ = conn.Close() }, nil
}

func initCommand() *Command {
	return &Command{
		Name: "init", Usage: "make a new cluster of the node of this machine", Reach: Socket, Exits: []int{errs.ExitDenied}, Waits: "making the cluster",
		About: "Governors decide over tenants and keys, custodians hold the MasterKey; there has to be one of each at least, and no\n" +
			"person is both with the same key. The public keys come from krypton operator cert new-key.\n\n" +
			"What cannot be taken back, such as destroying keys, and what changes who has a say, is done only with the signatures\n" +
			"of --governor-quorum governors, and where it is about who signs, of --custodian-quorum custodians besides. With 1,\n" +
			"the person who asks may sign. From 2 on others must, so there has to be a governor more. With 0 nobody signs:\n" +
			"whoever controls one node can order all of it.\n\n" +
			"Who opens the MasterKey stands in the file of --seal-plan: keystores and people, in groups. Two forms are short:\n" +
			"with --shares the MasterKey opens by --threshold of as many shares, which are printed once, on stdout, and kept\n" +
			"nowhere; with --keystore the key there opens it without people.\n\n" +
			"What the seal means is printed before anything is made: what is lost with each holder, account, kind of keystore\n" +
			"and region, and what it opens in wrong hands. A seal that one of them can end or open is refused, unless that is\n" +
			"accepted with --accept-risk concentration, which its manifest then says for good. --dry-run prints it and stops.\n\n" +
			"The certificates of the persons and the CA that nodes are verified with are written to --out.",
		Examples: []string{
			"krypton init --governor gabi=gabi.pub.pem --custodian carl=carl.pub.pem --shares 5 --threshold 3 --voters 3 --out certs",
			"krypton init --governor gabi=gabi.pub.pem --custodian carl=carl.pub.pem --keystore local --key seal --out certs",
			"krypton init --governor gabi=gabi.pub.pem --custodian carl=carl.pub.pem --seal-plan seal.yaml --profile four-eyes --out certs",
		},
		Flags: append([]cli.Flag{
			dataDirFlag("`DIR` of the node"),
			&cli.StringFlag{Name: "name", Usage: "`NAME` of the cluster, for people"},
			&cli.UintFlag{Name: "voters", Usage: "`NUMBER` of voters wanted: 1, 3, 5 or 7", Value: 3},
			&cli.StringSliceFlag{Name: "governor", Usage: "`NAME=FILE` of a governor's public key, repeated", Required: true},
			&cli.StringSliceFlag{Name: "custodian", Usage: "`NAME=FILE` of a custodian's public key, repeated", Required: true},
			&cli.UintFlag{Name: "governor-quorum", Usage: "`NUMBER` of governors who sign what cannot be taken back or changes who has a say; 0: nobody signs", Value: 1},
			&cli.UintFlag{Name: "custodian-quorum", Usage: "`NUMBER` of custodians who sign for the MasterKey and for who signs; 0: none", Value: 1},
		}, append(sealFlags(), []cli.Flag{
			&cli.DurationFlag{Name: "destroy-wait", Usage: "`DURATION` before destroyed keys are gone; default: 7 days"},
			&cli.BoolFlag{Name: "no-destroy-wait", Usage: "destroy at once; only for development"},
			&cli.DurationFlag{Name: "rollback-window", Usage: "`DURATION` in which a rotation can be rolled back; default: 24 h"},
			&cli.StringFlag{Name: "out", Usage: "`DIR` for certificates", Required: true},
		}...)...),
		Run: initCluster,
	}
}

// people reads NAME=FILE flags.
func people(flag string, values []string) ([]*kryptonv1.PersonKey, error) {
	var out []*kryptonv1.PersonKey
	for _, v := range values {
		name, file, ok := strings.Cut(v, "=")
		if !ok || name == "" || file == "" {
			return nil, usagef("give it as --"+flag+" gabi=gabi.pub.pem", "--%s %q is not NAME=FILE", flag, v)
		}
		der, err := publicKeyIn(file)
		if err != nil {
			return nil, err
		}
		if _, err := x509.ParsePKIXPublicKey(der); err != nil {
			return nil, usagef("krypton operator cert new-key makes one", "%s holds no public key", file)
		}
		out = append(out, &kryptonv1.PersonKey{Name: name, PublicKey: der})
	}
	return out, nil
}

func initRequest(in *Invocation, sealing plan.Plan) (*kryptonv1.InitRequest, error) {
	u := func(name string) uint32 { return uint32(min(in.c.Uint(name), 1<<20)) }
	secs := func(name string) uint32 { return uint32(min(max(in.c.Duration(name).Seconds(), 0), 1<<31)) }
	req := &kryptonv1.InitRequest{
		ClusterName: in.c.String("name"), Voters: u("voters"), SealPlan: sealing.Proto(),
		AcceptRisks: in.c.StringSlice("accept-risk"), SealProfile: in.c.String("profile"),
		GovernorQuorum: u("governor-quorum"), CustodianQuorum: u("custodian-quorum"),
		DestroyWaitSeconds: secs("destroy-wait"), NoDestroyWait: in.c.Bool("no-destroy-wait"), RollbackWindowSeconds: secs("rollback-window"),
	}
	var err1, err2 error
	req.Governors, err1 = people("governor", in.c.StringSlice("governor"))
	req.Custodians, err2 = people("custodian", in.c.StringSlice("custodian"))
	return req, errors.Join(err1, err2)
}

// certificateOut is one certificate as init and cert issue report it.
type certificateOut struct {
	Name string `json:"name"`
	Role string `json:"role"`
	File string `json:"file"`
}

func initCluster(ctx context.Context, in *Invocation) error {
	sealing, err := in.wantedSeal()
	if err != nil {
		return err
	}
	req, err := initRequest(in, sealing)
	if err != nil {
		return err
	}
	if sealing.Prints() > 0 && !in.c.Bool("dry-run") && isNull(in.env.Stdout) {
		return usagef("print them on a terminal, or name a file of yours", "the shares would be lost: stdout is closed, or is "+os.DevNull)
	}
	if req.GetGovernorQuorum() == 0 || req.GetCustodianQuorum() == 0 {
		in.note("with a quorum of 0 nobody of that role signs: whoever controls one node can order what people should sign")
	}
	admin, done, err := in.admin(in.c.String("data-dir"))
	if err != nil {
		return err
	}
	defer done()
	filled, view, err := in.weighSeal(ctx, admin, sealing)
	if err != nil {
		return err
	}
	if !in.jsonOutput() && !in.c.Bool("dry-run") || view.refusal != nil {
		in.aside(view.text()) // before anything is made: this is the last moment to think again
	}
	if view.refusal != nil {
		return view.refusal
	}
	dir := in.c.String("out")
	if !in.c.Bool("dry-run") {
		// What comes back exists nowhere else: make sure now that it can be written.
		if err := prepareDir(dir, append(req.GetGovernors(), req.GetCustodians()...), req); err != nil {
			return err
		}
	}
	resp, err := call(ctx, in, admin.Init, req)
	if err != nil {
		return err
	}
	if in.c.Bool("dry-run") {
		return in.Show(view, view.text())
	}
	out := struct {
		Fingerprint          string           `json:"fingerprint"`
		KeyspaceID           string           `json:"keyspaceId"`
		ClusterID            string           `json:"clusterId"`
		UnsealsWithoutPeople bool             `json:"unsealsWithoutPeople"`
		PersonsNeeded        uint32           `json:"personsNeeded"`
		CAFile               string           `json:"caFile"`
		Certificates         []certificateOut `json:"certificates"`
		Shares               []string         `json:"shares"`
		ShareHolders         []string         `json:"shareHolders"` // of the shares, in their order
		AcceptedRisks        []string         `json:"acceptedRisks"`
		Seal                 sealView         `json:"seal"`
	}{
		Fingerprint: resp.GetFingerprint(), KeyspaceID: resp.GetKeyspaceId(), ClusterID: resp.GetClusterId(),
		UnsealsWithoutPeople: resp.GetUnsealsWithoutPeople(), PersonsNeeded: resp.GetPersonsNeeded(), CAFile: filepath.Join(dir, "ca.pem"),
		AcceptedRisks: append([]string{}, resp.GetAcceptedRisks()...), Seal: view,
	}
	// Shares first: whatever goes wrong with a file can be mended by issuing
	// another certificate, a share cannot be had again.
	for _, s := range resp.GetShares() {
		out.Shares = append(out.Shares, strings.TrimSpace(string(s)))
	}
	printed := printedShares(filled)
	for _, h := range printed {
		out.ShareHolders = append(out.ShareHolders, h.name)
	}
	filesErr := save(out.CAFile, resp.GetCa(), 0o644)
	for i, c := range resp.GetCertificates() {
		file := filepath.Join(dir, certificateFile(c.GetRole(), c.GetName()))
		out.Certificates = append(out.Certificates, certificateOut{c.GetName(), c.GetRole(), file})
		filesErr = errors.Join(filesErr, checkIssued(c.GetCertificate(), wanted(req, i)), save(file, c.GetCertificate(), 0o644))
	}
	if in.jsonOutput() {
		return errors.Join(in.showJSON(out), filesErr)
	}
	var s sheet
	s.add("fingerprint", out.Fingerprint)
	s.add("keyspace", out.KeyspaceID)
	s.add("cluster id", out.ClusterID)
	s.add("unseals without people", yesNo(out.UnsealsWithoutPeople))
	s.add("persons needed", fmt.Sprint(out.PersonsNeeded))
	s.add("CA of the nodes", out.CAFile)
	for _, c := range out.Certificates {
		s.add(c.Role+" "+c.Name, c.File)
	}
	s.add("accepted risks", strings.Join(out.AcceptedRisks, ", "))
	for i, sh := range out.Shares {
		s.add(shareTitle(printed, i), sh)
	}
	if err := errors.Join(in.write([]byte(s.text())), filesErr); err != nil {
		return err
	}
	if len(out.Shares) > 0 {
		in.note("give each share to its holder now; they are not shown again")
	}
	return nil
}

// printedShare is a share that is printed: its index in the plan, and whose it is.
type printedShare struct {
	index int
	name  string
}

func printedShares(p plan.Plan) (out []printedShare) {
	for i, h := range p.Holders() {
		if !h.IsKeystore() && h.Recipient == "" {
			out = append(out, printedShare{i + 1, h.Name})
		}
	}
	return out
}

// shareTitle is what is printed before share i of those that are printed. A holder
// that nobody named has only a number.
func shareTitle(printed []printedShare, i int) string {
	if i >= len(printed) {
		return fmt.Sprintf("share %d", i+1)
	}
	if h := printed[i]; h.name != plan.PrintedName(h.index) {
		return fmt.Sprintf("share %d of %s", h.index, h.name)
	}
	return fmt.Sprintf("share %d", printed[i].index)
}

func certificateFile(role, name string) string { return role + "-" + name + ".pem" }

// prepareDir makes dir and makes sure that nothing is in the way there.
func prepareDir(dir string, _ []*kryptonv1.PersonKey, req *kryptonv1.InitRequest) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return cannotMake(dir, err)
	}
	files := []string{"ca.pem"}
	for _, p := range req.GetGovernors() {
		files = append(files, certificateFile("governor", p.GetName()))
	}
	for _, p := range req.GetCustodians() {
		files = append(files, certificateFile("custodian", p.GetName()))
	}
	for _, f := range files {
		if _, err := os.Lstat(filepath.Join(dir, f)); err == nil {
			return exists(filepath.Join(dir, f), "name an empty directory with --out")
		}
	}
	if err := writable(dir); err != nil {
		return cannotMake(dir, err)
	}
	return nil
}

// wanted returns the public key of person i of a request: governors, then custodians.
func wanted(req *kryptonv1.InitRequest, i int) []byte {
	all := append(append([]*kryptonv1.PersonKey(nil), req.GetGovernors()...), req.GetCustodians()...)
	if i >= len(all) {
		return nil
	}
	return all[i].GetPublicKey()
}

// checkIssued makes sure that a certificate is for the key it was asked for: one
// for another key would give its holder's authority to somebody else.
func checkIssued(certPEM, publicKey []byte) error {
	b, _ := pem.Decode(certPEM)
	if b == nil {
		return errs.New(errs.Internal, "the node returned no certificate")
	}
	cert, err := x509.ParseCertificate(b.Bytes)
	if err != nil || !bytes.Equal(cert.RawSubjectPublicKeyInfo, publicKey) {
		return errs.New(errs.Internal, "the node returned a certificate for another key", errs.Hint("do not use it; look into the node"))
	}
	return nil
}

func joinCommand() *Command {
	return &Command{
		Name: "join", Usage: "make the node of this machine a member of a cluster", Reach: Socket, Exits: []int{errs.ExitDenied}, Waits: "waiting for the cluster to take the node in",
		About:    "The token comes from krypton operator join-token. It is read from --token-file or stdin, or asked for without being\nshown; it is never an argument.",
		Examples: []string{"krypton join --token-file token", "krypton operator join-token --voter | ssh n2 krypton join"},
		Flags: []cli.Flag{
			dataDirFlag("`DIR` of the node"),
			&cli.StringFlag{Name: "token-file", Usage: "`FILE` with the token, - for stdin"},
		},
		Run: func(ctx context.Context, in *Invocation) error {
			if in.c.Bool("dry-run") {
				return in.noDryRun()
			}
			admin, done, err := in.admin(in.c.String("data-dir"))
			if err != nil {
				return err
			}
			defer done()
			raw, err := in.readSecret(in.c.String("token-file"), "Token", 64<<10)
			if err != nil {
				return err
			}
			token := strings.TrimSpace(string(raw))
			if token == "" {
				return usagef("make one with krypton operator join-token", "no token is given")
			}
			resp, err := call(ctx, in, admin.Join, &kryptonv1.JoinRequest{Token: token})
			if err != nil {
				return err
			}
			return in.show(resp, func() string {
				var s sheet
				s.add("node", resp.GetNodeId())
				s.add("fingerprint", resp.GetFingerprint())
				s.add("voter", yesNo(resp.GetVoter()))
				return s.text()
			})
		},
	}
}

// publicDER returns the SubjectPublicKeyInfo of a key.
func publicDER(pub crypto.PublicKey) ([]byte, error) { return x509.MarshalPKIXPublicKey(pub) }
