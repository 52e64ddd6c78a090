package command

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent/orders"
	"github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

func intentCommands() *Command {
	g := group("intent", "what several people sign, in a file that they hand on",
		&Command{
			Name: "show", Args: "FILE", Usage: "show what a file orders, and which keys have signed it", NArgs: [2]int{1, 1},
			About:    "Every signature in the file verifies, or it is not shown. Whose the keys are is said by krypton role list --output json.",
			Examples: []string{"krypton intent show delete-demo.intent"},
			Run: func(_ context.Context, in *Invocation) error {
				f, err := sign.OpenFile(in.args[0])
				if err != nil {
					return inFile(in.args[0], err)
				}
				if in.jsonOutput() {
					return in.showIntent(in.args[0], f)
				}
				return in.write([]byte(f.Describe()))
			},
		},
		&Command{
			Name: "sign", Args: "FILE", Usage: "look at what a file orders, and add your signature", Reach: Reads, NArgs: [2]int{1, 1}, Exits: []int{errs.ExitState},
			About: "Shows all that is signed on stderr and asks. It is signed only for the keyspace that you name with --keyspace, that your\n" +
				"context remembers, or that all nodes name which can be asked. With --keyspace it works on a machine without a network.",
			Examples: []string{
				"krypton intent sign delete-demo.intent",
				"krypton intent sign delete-demo.intent --sign-key agent:gabi --yes",
			},
			Flags: []cli.Flag{
				signFlags()[0],
				&cli.StringFlag{Name: "keyspace", Usage: "`ID` of the keyspace for which you sign; default: that of the context, or of the nodes"},
			},
			Run: countersign,
		},
	)
	g.About = "A command with --sign-only FILE writes such a file, each of the others adds a signature with krypton intent sign, and the\n" +
		"command with --intent FILE sends it. The file holds no secret."
	return g
}

// countersign signs what somebody else wants to be done.
func countersign(ctx context.Context, in *Invocation) error {
	name := in.args[0]
	f, err := sign.OpenFile(name)
	if err != nil {
		return inFile(name, err)
	}
	want, from, err := in.signsFor(ctx)
	if err != nil {
		return err
	}
	in.meter.clear()
	fmt.Fprintf(in.env.Stderr, "%s", f.Describe())
	for _, n := range in.namesIn(ctx, f) {
		fmt.Fprintf(in.env.Stderr, "  uid %s is %s, as the nodes say\n", orders.Printable(n.UID), orders.Printable(n.Name))
	}
	now := in.env.Clock.Now()
	if err := f.Intent.Match(want, f.Request.Act(), f.Request.Digest(), now.UnixMilli()); err != nil {
		return orders.Refused(err)
	}
	if err := in.confirm("you sign what stands above, for keyspace %s, %s", want, from); err != nil {
		return err
	}
	if from == asNodesSay { // and who signs believes it
		if err := in.pin(want); err != nil {
			return err
		}
	}
	key, err := in.signKey(ctx)
	if err != nil {
		return err
	}
	in.meter.step("waiting for the signature")
	if f, err = f.Countersign(ctx, key, sign.Expected{Keyspace: want, Request: f.Request, Now: now}); err != nil {
		return orders.Refused(err)
	}
	if err := f.Save(name); err != nil {
		return err
	}
	return in.showIntent(name, f)
}

// signsFor returns the keyspace for which the user signs, and who says so.
func (in *Invocation) signsFor(ctx context.Context) (hierarchy.KeyspaceID, string, error) {
	for _, named := range []struct{ text, from string }{{in.c.String("keyspace"), "which you named"}, {in.ctx.Keyspace, "which your context remembers"}} {
		if named.text == "" {
			continue
		}
		k, err := hierarchy.ParseKeyspaceID(named.text)
		if err != nil {
			return k, "", usagef("32 hex digits; krypton init and krypton status --output json show it", "%q is no keyspace id", named.text)
		}
		return k, named.from, nil
	}
	c, err := in.client(ctx)
	if err != nil {
		return hierarchy.KeyspaceID{}, "", err
	}
	k, err := orders.Keyspace(ctx, c)
	if err != nil {
		return k, "", errs.From(err).With(errs.Hint("name the keyspace for which you sign with --keyspace"))
	}
	return k, asNodesSay, nil
}

// asNodesSay is who says the keyspace that nobody named.
const asNodesSay = "as the nodes say"

// namesIn returns what the nodes say of the uids in a request, nothing if they
// cannot be asked.
func (in *Invocation) namesIn(ctx context.Context, f sign.File) []orders.Name {
	c, err := in.client(ctx)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return orders.NamesIn(ctx, c, f.Request)
}
