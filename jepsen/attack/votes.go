//go:build unix

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/mutation"
)

// votes are attacks on who decides what is committed.
func votes() []attack {
	const stops = "what leaves no majority of the voters that people let in is signed by them; every replica counts when it applies the change"
	return []attack{
		{
			name: "take the votes of two of three", who: "who stole an operator's certificate and key", tries: "removes one voter and demotes another, so that the third decides alone",
			stops: stops, without: "all replicas skip the signatures", run: twoOfThree(false),
		},
		{
			name: "take the votes one by one", who: "who stole an operator's certificate and key", tries: "removes a voter, lets a node without a vote join, removes that, and then the second voter",
			stops: stops, without: "all replicas skip the signatures", run: twoOfThree(true),
		},
	}
}

// twoOfThree takes two votes of three, with a node that joins and leaves between them
// or without. The first one is an operator's to take: a node may be dead.
func twoOfThree(between bool) func(context.Context, *world) (finding, error) {
	try := func(ctx context.Context, t *theatre) error {
		left, err := t.remaining(ctx)
		if err != nil {
			return notTried(err)
		}
		who, ok := t.Person(auth.RoleOperator)
		if !ok {
			return notTried(errors.New("there is no operator"))
		}
		pair, err := tls.LoadX509KeyPair(who.CertFile, who.KeyFile)
		if err != nil {
			return notTried(err)
		}
		c, err := t.caller(ctx, pair, left.Addresses().GRPC) // and no key of a governor
		if err != nil {
			return notTried(err)
		}
		defer func() { _ = c.Close() }()
		first, second := t.Nodes()[2], t.Nodes()[1]
		if _, err := c.Cluster().RemoveNode(ctx, &kryptonv1.RemoveNodeRequest{Name: "nodes/" + first.ID()}); err != nil && !errs.Is(err, errs.FailedState) && !errs.Is(err, errs.NotFound) {
			return notTried(err)
		}
		if err := ends(ctx, first); err != nil {
			return notTried(err)
		}
		if between {
			if err := t.joinAndLeave(ctx, c, left); err != nil {
				return notTried(err)
			}
			if _, err = c.Cluster().RemoveNode(ctx, &kryptonv1.RemoveNodeRequest{Name: "nodes/" + second.ID()}); err == nil {
				err = ends(ctx, second)
			}
			return err
		}
		_, err = c.Cluster().DemoteNode(ctx, &kryptonv1.DemoteNodeRequest{Name: "nodes/" + second.ID()})
		return err
	}
	return func(ctx context.Context, w *world) (f finding, err error) {
		// Of the attacked cluster two voters stay, so both attacks use one.
		t, err := w.cluster(ctx, "voters", 3, honest)
		if err != nil {
			return f, notTried(err)
		}
		f.broke, f.ended, f.evidence = judged(try(ctx, t), errs.IntentRefused)
		c, err := w.cluster(ctx, fmt.Sprintf("control %v", between), 3, control, mutation.SkipIntents)
		if err != nil {
			return f, notTried(err)
		}
		if err := try(ctx, c); err == nil {
			f.control = "one node decides alone"
		} else {
			f.evidence += "; the control: " + err.Error()
		}
		return f, nil
	}
}

// ends waits for a removed node to stop by itself, with a status that says so: whoever
// cleans up would take that for a failure.
func ends(ctx context.Context, n *devcluster.Node) error {
	return eventually(ctx, n.Name()+" stops", func(context.Context) error {
		if n.Running() {
			return errors.New("it runs")
		}
		return nil
	})
}

// remaining is the node that is to decide alone, which leads.
func (t *theatre) remaining(ctx context.Context) (*devcluster.Node, error) {
	n := t.Nodes()[0]
	return n, t.leads(ctx, n)
}

// joinAndLeave lets a node without a vote join and removes it.
func (t *theatre) joinAndLeave(ctx context.Context, c *client.Client, n *devcluster.Node) error {
	token, err := joinToken(ctx, c)
	if err != nil {
		return err
	}
	g, err := join(ctx, n, token)
	if err != nil {
		return err
	}
	return remove(ctx, c, g)
}
