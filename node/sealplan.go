package node

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/plan"
)

const (
	// describeTime is how long all keystores of a plan together may take to say what
	// protects their keys. A person waits for it, and nothing depends on it.
	describeTime = 5 * time.Second
	// describeAtOnce bounds the keystores that are asked at a time.
	describeAtOnce = 16
)

// PlanSeal returns a plan with what this node knows and its keystores say of the keys
// in it, and what a person should know besides: one note for each keystore that said
// nothing. Nothing is made. A plan that cannot work has the code InvalidArgument; one
// that is only unwise does not fail here, see [plan.Analysis.Refuse].
func (n *Node) PlanSeal(ctx context.Context, tok gate.Token, p plan.Plan) (plan.Plan, []string, error) {
	if err := tok.Require(gate.PlanSeal, ObjectCluster); err != nil {
		return plan.Plan{}, nil, err
	}
	p, err := n.placed(p)
	if err != nil {
		return plan.Plan{}, nil, err
	}
	return n.described(corr.With(ctx, tok.Correlation()), p)
}

// placed checks a plan and adds where its keys are.
func (n *Node) placed(p plan.Plan) (plan.Plan, error) {
	if err := p.Check(); err != nil {
		return plan.Plan{}, err
	}
	return p.Fill(func(k seal.ProviderKey) (string, keystore.Place, bool) {
		typ := n.stores.Type(k.Provider)
		if typ == "" || n.cfg.Place == nil {
			return typ, keystore.Place{}, typ != ""
		}
		return typ, n.cfg.Place(k), true
	})
}

// described asks every keystore of a plan what protects its key. A keystore that does
// not say is a note and no error: its key may be used all the same, and whether it can
// is proved when the seal is made.
func (n *Node) described(ctx context.Context, p plan.Plan) (plan.Plan, []string, error) {
	ctx, cancel := context.WithTimeout(ctx, describeTime)
	defer cancel()
	var g errgroup.Group
	g.SetLimit(describeAtOnce)
	holders := p.Holders()
	said := make([]string, len(holders))
	protection := make(map[seal.ProviderKey]*keystore.Protection)
	for i, h := range holders {
		if !h.IsKeystore() {
			continue
		}
		is := new(keystore.Protection)
		protection[h.Key] = is
		g.Go(func() error {
			store, err := n.stores.Get(h.Key.Provider)
			if err == nil {
				var d keystore.Description
				if d, err = store.Describe(ctx, keystore.DescribeRequest{Key: h.Key.Key, Correlation: correlation(ctx)}); err == nil {
					*is = d.Protection
					if d.State != keystore.StateEnabled && d.State != keystore.StateUnknown {
						said[i] = fmt.Sprintf("%s: its keystore says that the key is %s", h.Name, d.State)
					}
					return nil
				}
			}
			said[i] = fmt.Sprintf("%s: its keystore does not say what protects the key (%s)", h.Name, keystore.ClassOf(err))
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return plan.Plan{}, nil, err
	}
	protect := func(hs []plan.Holder) {
		for i := range hs {
			if is := protection[hs[i].Key]; is != nil {
				hs[i].Protection = *is
			}
		}
	}
	protect(p.Keys)
	for _, group := range p.Groups {
		protect(group.Holders)
	}
	var notes []string
	for _, s := range said {
		if s != "" {
			notes = append(notes, s)
		}
	}
	return p, notes, nil
}

// planned is the part of [InitPlan] that says who opens the MasterKey, as package
// seal takes it: with every key in its place, and refused if nobody accepted what it
// risks.
func (n *Node) planned(p InitPlan) (seal.Plan, error) {
	placed, err := n.placed(p.Seal)
	if err != nil {
		return seal.Plan{}, err
	}
	a := plan.Analyze(placed)
	if err := a.Refuse(p.AcceptRisks, p.Profile); err != nil {
		return seal.Plan{}, err
	}
	out := placed.Seal()
	out.AcceptedRisks = a.Accepted(p.AcceptRisks)
	return out, nil
}
