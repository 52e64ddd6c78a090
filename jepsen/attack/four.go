//go:build unix

package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/anypb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/intent/orders"
	"github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// fourEyes is a cluster of one node in which two governors other than the requester
// have to sign.
type fourEyes struct {
	*fresh

	w    *world
	ca   string // file
	keys map[string]sign.Signer
	cert map[string]string // file of certificate and key, without the ending
	id   string            // of the node
}

// fourEyed returns the stage's cluster with four eyes.
func (w *world) fourEyed(ctx context.Context) (*fourEyes, error) {
	if w.four != nil {
		return w.four, nil
	}
	n, err := w.startFresh(ctx, "four")
	if err != nil {
		return nil, err
	}
	f := &fourEyes{fresh: n, w: w, keys: map[string]sign.Signer{}, cert: map[string]string{}, ca: filepath.Join(filepath.Dir(n.dir), "ca.crt")}
	w.four = f
	req := &kryptonv1.InitRequest{
		ClusterName: "four", Voters: 1, SealMode: kryptonv1.SealMode_SEAL_MODE_SHAMIR, Shares: 3, Threshold: 2, GovernorQuorum: 2, CustodianQuorum: 1,
	}
	pairs := map[string]tls.Certificate{}
	for _, name := range []string{"alice", "gina", "gus", "carol"} {
		key, err := newKey()
		if err != nil {
			return nil, err
		}
		spki, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			return nil, err
		}
		to := &req.Governors
		if name == "carol" {
			to = &req.Custodians
		}
		*to = append(*to, &kryptonv1.PersonKey{Name: name, PublicKey: spki})
		if f.keys[name], err = sign.New(rand.Reader, key); err != nil {
			return nil, err
		}
		pairs[name] = tls.Certificate{PrivateKey: key}
	}
	err = n.admin(func(a kryptonv1.AdminClient) error {
		resp, err := a.Init(ctx, req)
		if err != nil {
			return err
		}
		for _, c := range resp.GetCertificates() {
			block, _ := pem.Decode(c.GetCertificate())
			pair := pairs[c.GetName()]
			pair.Certificate = [][]byte{block.Bytes}
			if f.cert[c.GetName()], err = w.savePair(pair); err != nil {
				return err
			}
		}
		return writeFile(f.ca, resp.GetCa())
	})
	if err != nil {
		return nil, err
	}
	return f, eventually(ctx, "the cluster with four eyes serves", func(ctx context.Context) error {
		st := &kryptonv1.GetStatusResponse{}
		err := n.admin(func(a kryptonv1.AdminClient) (err error) {
			st, err = a.GetStatus(ctx, &kryptonv1.GetStatusRequest{})
			return err
		})
		f.id = st.GetSeal().GetNodeId()
		return errors.Join(err, f.as(ctx, "alice", func(c *client.Client) error {
			_, err := c.Access().WhoAmI(ctx, &kryptonv1.WhoAmIRequest{})
			return err
		}))
	})
}

// as calls the cluster as one of its persons. Nobody signs by themselves.
func (f *fourEyes) as(ctx context.Context, who string, call func(*client.Client) error) error {
	c, err := client.New(ctx, client.With(client.Options{Addrs: []string{f.at.GRPC}, CAFile: f.ca, CertFile: f.cert[who] + ".crt", KeyFile: f.cert[who] + ".key"}))
	if err != nil {
		return notTried(err)
	}
	defer func() { _ = c.Close() }()
	return call(c)
}

// wish is a request that others have to sign: an operator of that name.
type wish struct {
	name     string
	spki     []byte
	approval *kryptonv1.Approval
}

// asks has alice ask for an operator.
func (f *fourEyes) asks(ctx context.Context, name string) (w wish, err error) {
	w.name = name
	if _, w.spki, err = newCaller(); err != nil {
		return w, err
	}
	return w, f.as(ctx, "alice", func(c *client.Client) error {
		req := &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "operator-" + name, RoleBinding: &kryptonv1.RoleBinding{
			Role: kryptonv1.Role_ROLE_OPERATOR, Member: name, Keys: []*kryptonv1.AuthorityKey{{PublicKey: w.spki, Tls: true}},
		}}
		o, err := orders.Of(ctx, c, req)
		if err != nil {
			return err
		}
		file, err := o.Draft(time.Now(), time.Hour, rand.Reader)
		if err != nil {
			return err
		}
		raw, err := file.Intent.Encode()
		if err != nil {
			return err
		}
		sig, err := f.keys["alice"].Sign(ctx, file.Intent)
		if err != nil {
			return err
		}
		inner, err := anypb.New(req)
		if err != nil {
			return err
		}
		w.approval, err = c.Approvals().CreateApproval(ctx, &kryptonv1.CreateApprovalRequest{
			Request: inner, Signature: &kryptonv1.SignedIntent{Intent: raw, KeyId: sig.Key[:], Signature: sig.Sig},
		})
		return err
	})
}

// approves has somebody sign, with the key of somebody.
func (f *fourEyes) approves(ctx context.Context, w *wish, who, key string) error {
	in, err := intent.Decode(w.approval.GetIntent())
	if err != nil {
		return notTried(err)
	}
	sig, err := f.keys[key].Sign(ctx, in)
	if err != nil {
		return notTried(err)
	}
	return f.as(ctx, who, func(c *client.Client) error {
		a, err := c.Approvals().Approve(ctx, &kryptonv1.ApproveRequest{Name: w.approval.GetName(), KeyId: sig.Key[:], Signature: sig.Sig})
		if err == nil {
			w.approval = a
		}
		return err
	})
}

// done reports whether the operator is there.
func (f *fourEyes) done(ctx context.Context, w wish) error {
	return eventually(ctx, "the approval is executed", func(ctx context.Context) error {
		return f.as(ctx, "alice", func(c *client.Client) error {
			_, err := c.Access().GetRoleBinding(ctx, &kryptonv1.GetRoleBindingRequest{Name: "roleBindings/operator-" + w.name})
			return err
		})
	})
}

func eyes() []attack {
	return []attack{
		{
			name: "approve one's own request", who: "a governor", tries: "requests an operator, and approves that", stops: "with four eyes the requester's signature does not count",
			without: "the same request, approved by two others", run: ownRequest,
		},
		{
			name: "approve twice", who: "a governor", tries: "approves somebody's request two times", stops: "as many distinct persons as the rule asks for have to sign",
			without: "the second signature by another governor", run: approvesTwice,
		},
		{
			name: "approve as somebody else", who: "who stole a governor's certificate and its key, and signs with another governor's signature that was seen", tries: "hands in a signature of gina in the name of gus",
			stops: "who approves is the person whose key it is", without: "the same signature, handed in by gina", run: approvesAsOther,
		},
		{
			name: "execute an approval again", who: rootedSeen, tries: "forwards the approved binding once more, after it was done",
			stops: "an approval is executed once, in the entry that says so", without: "the first execution", run: executedAgain,
		},
		{
			name: "use an approval for something else", who: rootedSeen, tries: "forwards the binding of an operator of the attacker's under somebody's approval that waits",
			stops: "an approval counts when all have signed, and for the digest that they signed", without: "the request that was approved", run: otherUnderApproval,
		},
	}
}

func ownRequest(ctx context.Context, w *world) (f finding, err error) {
	c, err := w.fourEyed(ctx)
	if err != nil {
		return f, notTried(err)
	}
	r, err := c.asks(ctx, "own")
	if err != nil {
		return f, notTried(err)
	}
	f.broke, f.ended, f.evidence = judged(c.approves(ctx, &r, "alice", "alice"), errs.IntentRefused)
	if errors.Join(c.approves(ctx, &r, "gina", "gina"), c.approves(ctx, &r, "gus", "gus"), c.done(ctx, r)) == nil {
		f.control = "executed"
	}
	return f, nil
}

func approvesTwice(ctx context.Context, w *world) (f finding, err error) {
	c, err := w.fourEyed(ctx)
	if err != nil {
		return f, notTried(err)
	}
	r, err := c.asks(ctx, "twice")
	if err != nil {
		return f, notTried(err)
	}
	if err := c.approves(ctx, &r, "gina", "gina"); err != nil {
		return f, notTried(err)
	}
	f.broke, f.ended, f.evidence = judged(c.approves(ctx, &r, "gina", "gina"), errs.IntentRefused)
	if errors.Join(c.approves(ctx, &r, "gus", "gus"), c.done(ctx, r)) == nil {
		f.control = "executed"
	}
	return f, nil
}

func approvesAsOther(ctx context.Context, w *world) (f finding, err error) {
	c, err := w.fourEyed(ctx)
	if err != nil {
		return f, notTried(err)
	}
	r, err := c.asks(ctx, "other")
	if err != nil {
		return f, notTried(err)
	}
	f.broke, f.ended, f.evidence = judged(c.approves(ctx, &r, "gus", "gina"), errs.IntentRefused)
	if c.approves(ctx, &r, "gina", "gina") == nil {
		f.control = "counted"
	}
	return f, nil
}

// executed has alice ask for an operator, and the others approve.
func (f *fourEyes) executed(ctx context.Context, name string) (wish, error) {
	r, err := f.asks(ctx, name)
	if err != nil {
		return r, err
	}
	return r, errors.Join(f.approves(ctx, &r, "gina", "gina"), f.approves(ctx, &r, "gus", "gus"), f.done(ctx, r))
}

// forwards has the member's own key forward a binding under an approval.
func (f *fourEyes) forwards(ctx context.Context, r wish, name string, spki []byte) error {
	key, err := keyFile(filepath.Join(f.dir, "tls", "node.key"))
	if err != nil {
		return notTried(err)
	}
	cert, err := selfSigned(key)
	if err != nil {
		return notTried(err)
	}
	m, err := f.w.registryAt(f.dir)
	if err != nil {
		return notTried(err)
	}
	cmd, err := bindOperator(m, name)
	if err != nil {
		return notTried(err)
	}
	raw, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return notTried(err)
	}
	pub, err := sign.PublicKey(raw)
	if err != nil {
		return notTried(err)
	}
	cmd.GetBindRole().GetBinding().Keys[0].Key.Raw = pub.Raw()
	id, err := corr.New(rand.Reader)
	if err != nil {
		return notTried(err)
	}
	cmd.Format, cmd.CorrelationId, cmd.RequestId, cmd.RequestDigest = fsm.CommandFormat, string(id), rand.Text(), make([]byte, 32)
	cmd.Approval = strings.TrimPrefix(r.approval.GetName(), "approvals/")
	return asMemberAt(f.at.Peer, cert, func(p clusterpb.PeerClient) error {
		resp, err := p.Propose(ctx, &clusterpb.ProposeRequest{Command: cmd})
		if err != nil {
			return err
		}
		return fsm.Err(resp.GetResult())
	})
}

func executedAgain(ctx context.Context, w *world) (f finding, err error) {
	c, err := w.fourEyed(ctx)
	if err != nil {
		return f, notTried(err)
	}
	r, err := c.executed(ctx, "once")
	if err != nil {
		return f, notTried(err)
	}
	f.control = "executed"
	err = c.forwards(ctx, r, "once", r.spki)
	f.broke, f.ended, f.evidence = err == nil, "refused with "+errs.From(err).Code.String(), errText(err)
	return f, nil
}

func otherUnderApproval(ctx context.Context, w *world) (f finding, err error) {
	c, err := w.fourEyed(ctx)
	if err != nil {
		return f, notTried(err)
	}
	r, err := c.asks(ctx, "meant")
	if err != nil {
		return f, notTried(err)
	}
	if err := c.approves(ctx, &r, "gina", "gina"); err != nil {
		return f, notTried(err)
	}
	_, spki, err := newCaller()
	if err != nil {
		return f, err
	}
	err = c.forwards(ctx, r, "mallory", spki)
	f.broke, f.ended, f.evidence = err == nil, "refused with "+errs.From(err).Code.String(), errText(err)
	if errors.Join(c.approves(ctx, &r, "gus", "gus"), c.done(ctx, r)) == nil {
		f.control = "executed"
	}
	return f, nil
}
