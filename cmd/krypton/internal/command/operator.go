package command

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

const (
	pemPublic  = "PUBLIC KEY"
	pemPrivate = "PRIVATE KEY"
)

const (
	nodeAbout = "NODE is a node's name, its address, its id or the begin of that."

	// fewVoters is said of what takes a vote away.
	fewVoters = nodeAbout + " If it leaves\n" +
		"no majority of the voters that people let in, people sign for it, as they do for a voter that is let in."
)

func operatorCommands() *Command {
	onNode := func(name, usage string, danger string, do func(ctx context.Context, in *Invocation, c kryptonv1.ClusterClient, node string) (*kryptonv1.Node, error)) *Command {
		about := fewVoters
		if name == "promote" {
			about = nodeAbout
		}
		return &Command{
			Name: name, Args: "NODE", Usage: usage, Reach: Changes, Signs: true, About: about, Waits: "waiting for the other nodes to agree", NArgs: [2]int{1, 1}, Flags: []cli.Flag{etagFlag()},
			Examples: []string{"krypton operator " + name + " n3", "krypton operator " + name + " nodes/0123456789abcdef0123456789abcdef"},
			Run: func(ctx context.Context, in *Invocation) error {
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				node, err := in.node(ctx, c, in.args[0])
				if err != nil {
					return err
				}
				if danger != "" {
					if err := in.confirm(danger, node); err != nil {
						return err
					}
				}
				n, err := do(ctx, in, c.Cluster(), node)
				if err != nil {
					return err
				}
				if n.GetRole() == kryptonv1.NodeRole_NODE_ROLE_BECOMING_VOTER {
					in.note("%s votes once it has caught up, and there is another voter or one that becomes one with it: two are worse than one", nodeName(n))
				}
				return in.show(n, func() string { return nodeSheet(n) })
			},
		}
	}
	return group("operator", "run the cluster: members, leadership, certificates, shares",
		&Command{
			Name: "members", Usage: "list the nodes of the cluster", Reach: Reads, Examples: []string{"krypton operator members"},
			Run: func(ctx context.Context, in *Invocation) error {
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				r, err := call(ctx, in, c.Cluster().ListNodes, &kryptonv1.ListNodesRequest{})
				if err != nil {
					return err
				}
				return in.show(r, func() string { return nodeGrid(r.GetNodes()) })
			},
		},
		&Command{
			Name: "join-token", Usage: "print a token that lets one new node join once", Reach: Changes, Signs: true,
			About: "For a voter people sign the hash of the token's public key; the secret is made here, and no node sees it but the one that\n" +
				"joins. If others have to approve it, the\n" +
				"secret waits in ID.secret in this directory, and --approval ID prints the token when they have.",
			Examples: []string{
				"krypton operator join-token --voter --ttl 10m",
				"krypton operator join-token --approval 0123456789abcdef0123456789abcdef",
			},
			Flags: []cli.Flag{
				&cli.DurationFlag{Name: "ttl", Usage: "`DURATION` in which it can be used, at most 24h", Value: time.Hour},
				&cli.BoolFlag{Name: "voter", Usage: "the node becomes a voter once it has caught up"},
				&cli.StringFlag{Name: "region", Usage: "only for a node of `REGION`"},
				&cli.StringFlag{Name: "approval", Usage: "print the token that was asked for with `APPROVAL`, once others have approved it"},
			},
			Run: func(ctx context.Context, in *Invocation) error {
				if in.c.IsSet("approval") {
					return approvedToken(ctx, in)
				}
				ttl, err := seconds("ttl", in.c.Duration("ttl"), 24*time.Hour)
				if err != nil {
					return err
				}
				return joinToken(ctx, in, &kryptonv1.CreateJoinTokenRequest{TtlSeconds: ttl, Voter: in.c.Bool("voter"), Region: in.c.String("region")})
			},
		},
		onNode("promote", "make a node a voter once it has caught up", "",
			func(ctx context.Context, in *Invocation, c kryptonv1.ClusterClient, n string) (*kryptonv1.Node, error) {
				return call(ctx, in, c.PromoteNode, &kryptonv1.PromoteNodeRequest{Name: n})
			}),
		onNode("demote", "make a voter a non-voter; it goes on serving", "",
			func(ctx context.Context, in *Invocation, c kryptonv1.ClusterClient, n string) (*kryptonv1.Node, error) {
				return call(ctx, in, c.DemoteNode, &kryptonv1.DemoteNodeRequest{Name: n})
			}),
		onNode("remove", "end the membership of a node for good", "%s can never be a member again under its identity",
			func(ctx context.Context, in *Invocation, c kryptonv1.ClusterClient, n string) (*kryptonv1.Node, error) {
				return call(ctx, in, c.RemoveNode, &kryptonv1.RemoveNodeRequest{Name: n})
			}),
		&Command{
			Name: "transfer", Args: "[NODE]", Usage: "hand the leadership to another node", Reach: Acts, NArgs: [2]int{0, 1},
			About:    "Without NODE the leader chooses. " + nodeAbout,
			Waits:    "waiting for the new leader",
			Examples: []string{"krypton operator transfer", "krypton operator transfer n2"},
			Run: func(ctx context.Context, in *Invocation) error {
				req := &kryptonv1.TransferLeadershipRequest{}
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				if n := in.arg(0); n != "" {
					if req.Target, err = in.node(ctx, c, n); err != nil {
						return err
					}
				}
				r, err := call(ctx, in, c.Cluster().TransferLeadership, req)
				if err != nil {
					return err
				}
				if r.GetLeader() == "" && !in.jsonOutput() {
					in.note("the new leader is not known yet; krypton operator members shows it")
				}
				return in.show(r, func() string { return clusterSheet(r) })
			},
		},
		&Command{
			Name: "release-hold", Usage: "let nodes unseal again after krypton seal --cluster", Reach: Changes,
			Examples: []string{"krypton operator release-hold"},
			Run: func(ctx context.Context, in *Invocation) error {
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				st, err := call(ctx, in, kryptonv1.NewSealClient(c).ReleaseHold, &kryptonv1.ReleaseHoldRequest{})
				if err != nil {
					return err
				}
				return in.show(st, func() string { return sealSheet(st) })
			},
		},
		group("quorum", "how many persons sign what people sign", setQuorumCommand()),
		group("cert", "make, issue and revoke certificates of callers", newKeyCommand(), issueCommand(), renewCommand(), revokeCommand(), revocationsCommand()),
		caCommands(),
		shareCommands(),
	)
}

// seconds turns a duration flag into what the API takes.
func seconds(flag string, d, limit time.Duration) (uint32, error) {
	if d < time.Second || d > limit {
		return 0, usagef("give 1s to "+span(limit), "--%s is %s", flag, span(d))
	}
	return uint32(d / time.Second), nil //nolint:gosec // Bounded by limit.
}

func algorithmFlag() cli.Flag {
	return &cli.StringFlag{Name: "algorithm", Usage: "`NAME` of the key type: ecdsa (P-256) or ed25519", Value: "ecdsa"}
}

// newKey makes a key pair: the private key in PKCS#8 PEM, the public key in DER.
func newKey(algorithm string) (private, public []byte, err error) {
	var key crypto.Signer
	switch algorithm {
	case "ecdsa":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		return nil, nil, usagef("use "+strings.Join(algorithms(), " or "), "there is no key type %q", algorithm)
	}
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	defer clear(der)
	public, err = publicDER(key.Public())
	return pem.EncodeToMemory(&pem.Block{Type: pemPrivate, Bytes: der}), public, err
}

func newKeyCommand() *Command {
	return &Command{
		Name: "new-key", Args: "NAME", Usage: "make a person's key; it never leaves this machine", NArgs: [2]int{1, 1}, Exits: []int{errs.ExitState},
		About:    "Writes NAME.key, mode 0600, and NAME.pub.pem, which goes to krypton init or krypton operator cert issue.",
		Examples: []string{"krypton operator cert new-key gabi --out keys"},
		Flags:    []cli.Flag{algorithmFlag(), &cli.StringFlag{Name: "out", Usage: "`DIR` for both files", Value: "."}},
		Run: func(_ context.Context, in *Invocation) error {
			name, dir := in.args[0], in.c.String("out")
			if !auth.ValidName(name) {
				return usagef("lower-case letters, digits, dot, dash and underscore, at most 63", "%q is not a name", name)
			}
			private, public, err := newKey(in.c.String("algorithm"))
			if err != nil {
				return err
			}
			defer clear(private)
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return cannotMake(dir, err)
			}
			keyFile, pubFile := filepath.Join(dir, name+".key"), filepath.Join(dir, name+".pub.pem")
			if err := save(keyFile, private, 0o600); err != nil {
				return err
			}
			if err := save(pubFile, pem.EncodeToMemory(&pem.Block{Type: pemPublic, Bytes: public}), 0o644); err != nil {
				return errors.Join(err, os.Remove(keyFile))
			}
			if in.jsonOutput() {
				return in.showJSON(map[string]string{"keyFile": keyFile, "publicKeyFile": pubFile})
			}
			var s sheet
			s.add("key", keyFile)
			s.add("public key", pubFile)
			return in.write([]byte(s.text()))
		},
	}
}

func issueCommand() *Command {
	return &Command{
		Name: "issue", Args: "NAME", Usage: "issue a certificate for a caller", Reach: Acts, Signs: true, NArgs: [2]int{1, 1},
		About: "Without --public-key a key is made on this machine, which alone ever has it. Writes NAME.pem, ca.pem and, unless\n" +
			"--public-key is given, NAME.key with mode 0600. Who has no role yet is bound to it under that key; see krypton role. An\n" +
			"identity keeps its key: for another one remove the role binding first (krypton role unbind), or choose another name.",
		Examples: []string{
			"krypton operator cert issue app1 --role workload --tenant demo --out certs",
			"krypton operator cert issue olga --role operator --public-key olga.pub.pem --out certs",
		},
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "role", Usage: "`ROLE`: governor, custodian, operator, auditor or workload", Required: true},
			&cli.StringFlag{Name: "public-key", Usage: "PEM `FILE` of the caller's own public key"},
			&cli.DurationFlag{Name: "ttl", Usage: "`DURATION` that it is valid, at most 720h", Value: 720 * time.Hour},
			algorithmFlag(),
			&cli.StringFlag{Name: "out", Usage: "`DIR` for the files", Value: "."},
		},
		Run: issue,
	}
}

func issue(ctx context.Context, in *Invocation) (err error) {
	name, dir := in.args[0], in.c.String("out")
	role, err := roleCalled(in.c.String("role"))
	if err != nil {
		return err
	}
	if !auth.ValidName(name) {
		return usagef("lower-case letters, digits, dot, dash and underscore, at most 63", "%q is not a name", name)
	}
	req := &kryptonv1.IssueCertificateRequest{Role: role, Name: name}
	if req.TtlSeconds, err = seconds("ttl", in.c.Duration("ttl"), 720*time.Hour); err != nil {
		return err
	}
	if req.GetRole() == kryptonv1.Role_ROLE_WORKLOAD {
		if req.Tenant, err = in.tenantName(""); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return cannotMake(dir, err)
	}
	files := map[string]string{"certFile": filepath.Join(dir, name+".pem"), "caFile": filepath.Join(dir, "ca.pem")}
	if _, err := os.Lstat(files["certFile"]); err == nil {
		return exists(files["certFile"], "choose another directory or name")
	}
	if f := in.c.String("public-key"); f != "" {
		if req.PublicKey, err = publicKeyIn(f); err != nil {
			return err
		}
	} else if in.signsFiles() {
		return usagef("have the caller make one with krypton operator cert new-key, and give its public half with --public-key",
			"--sign-only and --intent need a key that is the same each time")
	} else {
		var private []byte
		if private, req.PublicKey, err = newKey(in.c.String("algorithm")); err != nil {
			return err
		}
		defer clear(private)
		files["keyFile"] = filepath.Join(dir, name+".key")
		if err := save(files["keyFile"], private, 0o600); err != nil {
			return err
		}
		defer func() {
			if err != nil { // a key without its certificate is of no use
				err = errors.Join(err, os.Remove(files["keyFile"]))
			}
		}()
	}
	if err := in.saveIssued(ctx, req, files); err != nil {
		return err
	}
	if in.jsonOutput() {
		return in.showJSON(files)
	}
	var s sheet
	s.add("certificate", files["certFile"])
	s.add("key", files["keyFile"])
	s.add("CA of the nodes", files["caFile"])
	s.add("serial", files["serial"])
	return in.write([]byte(s.text()))
}

// saveIssued has the certificate issued, writes it and the CA, and adds its
// serial number to files.
func (in *Invocation) saveIssued(ctx context.Context, req *kryptonv1.IssueCertificateRequest, files map[string]string) error {
	c, err := in.client(ctx)
	if err != nil {
		return err
	}
	resp, err := call(ctx, in, c.Access().IssueCertificate, req)
	if err != nil {
		return err
	}
	if err := checkIssued(resp.GetCertificate(), req.GetPublicKey()); err != nil {
		return err
	}
	files["serial"] = resp.GetSerial()
	if err := save(files["certFile"], resp.GetCertificate(), 0o644); err != nil {
		return err
	}
	ca, err := in.env.create(files["caFile"], 0o644)
	if err != nil {
		return err
	}
	if _, err := ca.Write(resp.GetCa()); err != nil {
		return errors.Join(err, ca.abort())
	}
	return ca.commit()
}

func renewCommand() *Command {
	return &Command{
		Name: "renew", Usage: "get a new certificate in place of the one in use", Reach: Acts,
		About: "For the same identity and the same key. It works with a certificate that has expired, too: what counts is the role\n" +
			"binding, which has the key. The file of the certificate in use is replaced, unless --out is given. The CA file in use is\n" +
			"brought up to date, too, when the CA of the nodes was replaced.",
		Examples: []string{"krypton operator cert renew", "krypton operator cert renew --context app1 --out certs/app1.pem"},
		Flags: []cli.Flag{
			&cli.DurationFlag{Name: "ttl", Usage: "`DURATION` that it is valid, at most 720h", Value: 720 * time.Hour},
			&cli.StringFlag{Name: "out", Usage: "`FILE` for the new certificate"},
		},
		Run: func(ctx context.Context, in *Invocation) error {
			ttl, err := seconds("ttl", in.c.Duration("ttl"), 720*time.Hour)
			if err != nil {
				return err
			}
			inUse := in.setting("cert-file", "KRYPTON_CERT_FILE", in.ctx.CertFile)
			file := cmp.Or(in.c.String("out"), inUse)
			c, err := in.client(ctx)
			if err != nil {
				return err
			}
			leaf, err := readLeaf(inUse)
			if err != nil {
				return err
			}
			resp, err := call(ctx, in, c.Access().RenewCertificate, &kryptonv1.RenewCertificateRequest{TtlSeconds: ttl})
			if err != nil {
				return err
			}
			if err := checkIssued(resp.GetCertificate(), leaf.RawSubjectPublicKeyInfo); err != nil {
				return err
			}
			f, err := in.env.create(file, 0o644)
			if err != nil {
				return err
			}
			if _, err := f.Write(resp.GetCertificate()); err != nil {
				return errors.Join(err, f.abort())
			}
			if err := f.commit(); err != nil {
				return err
			}
			if err := in.updateCA(resp.GetCa()); err != nil {
				in.note("warning: the CA file %s is not up to date: %s; next: krypton operator ca export", in.caFile(), errs.From(err).Msg)
			}
			if in.jsonOutput() {
				return in.showJSON(map[string]string{"certFile": file, "serial": resp.GetSerial(), "expireTime": resp.GetExpireTime().AsTime().UTC().Format(time.RFC3339)})
			}
			var s sheet
			s.add("certificate", file)
			s.add("serial", resp.GetSerial())
			s.add("expires", when(resp.GetExpireTime()))
			return in.write([]byte(s.text()))
		},
	}
}

// operationError is the error that an operation ended with, or that it has not.
func operationError(op *kryptonv1.Operation) error {
	switch {
	case op.GetDone():
	case op.GetIndex() != 0 && !op.GetComplete():
		return errs.New(errs.NotComplete, "the change is committed, and nodes may still act on the state before it", errs.Hint("wait with krypton operation wait"))
	default:
		return errs.New(errs.ApprovalPending, "the change is not done", errs.Hint("wait with krypton operation wait"))
	}
	if op.GetReason() == "" {
		return nil
	}
	code, _ := errs.ByName(op.GetReason())
	return errs.New(code, op.GetMessage(), errs.Hint("%s", op.GetHint()))
}
