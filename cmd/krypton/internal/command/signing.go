package command

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client/contexts"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/intent/orders"
	"github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// What people sign: a command makes it of what its user typed, shows it, signs it
// with the user's key, and sends it or writes it to a file for others to sign.

const agentPrefix = "agent:"

func signFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "sign-key", Usage: "`KEY` to sign with: a file, or agent:NAME of your SSH agent; default: that of --key-file"},
		&cli.StringFlag{Name: "sign-only", Usage: "write what has to be signed to `FILE`, with your signature, and send nothing; see krypton intent"},
		&cli.DurationFlag{Name: "sign-for", Usage: "`DURATION` in which what others have to sign can be used, 1m to 696h", Value: sign.DefaultLifetime},
		waitFlag(),
		&cli.StringSliceFlag{Name: "intent", Usage: "`FILE` with signatures that were made elsewhere; can be given many times"},
		&cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Usage: "show what is signed also with --output json"},
	}
}

// errDetached ends a command that wrote what it would have sent.
var errDetached = errors.New("written to a file and not sent")

// signKey returns the key that the user signs with.
func (in *Invocation) signKey(ctx context.Context) (sign.Signer, error) {
	name := cmp.Or(in.setting("sign-key", "KRYPTON_SIGN_KEY_FILE", in.ctx.SignKey), in.setting("key-file", "KRYPTON_KEY_FILE", in.ctx.KeyFile))
	if id, ok := strings.CutPrefix(name, agentPrefix); ok {
		return sign.Agent{Socket: in.env.Getenv(sign.AgentVariable)}.Key(ctx, id)
	}
	if name == "" {
		return nil, errs.New(errs.InvalidConfig, "no key to sign with is given", errs.Hint("give --sign-key, or set it in a context with krypton context set"))
	}
	var ask sign.Passphrase
	if terminal(in.env.Stdin) {
		ask = func() (pass []byte, err error) {
			in.meter.ask(func() {
				fmt.Fprintf(in.env.Stderr, "Passphrase of %s: ", name)
				pass, err = term.ReadPassword(int(in.env.Stdin.Fd()))
				fmt.Fprintln(in.env.Stderr)
			})
			return pass, err
		}
	}
	return sign.OpenKey(name, rand.Reader, ask)
}

// ownsKey reports whether the user named a key to sign with.
func (in *Invocation) ownsKey() bool {
	return in.setting("sign-key", "KRYPTON_SIGN_KEY_FILE", in.ctx.SignKey) != ""
}

// signsFiles reports whether the flags are about files of signatures.
func (in *Invocation) signsFiles() bool {
	return in.c.String("sign-only") != "" || len(in.c.StringSlice("intent")) > 0
}

// authorize adds to a request the signatures that the cluster asks for, or writes
// them to a file and returns errDetached.
func (in *Invocation) authorize(ctx context.Context, req proto.Message) error {
	fd := req.ProtoReflect().Descriptor().Fields().ByName("intents")
	if !in.cmd.Signs || fd == nil {
		return nil
	}
	only, files := in.c.String("sign-only"), in.c.StringSlice("intent")
	if in.c.Bool("dry-run") {
		if in.signsFiles() {
			return usagef("leave --dry-run out", "a dry run is not signed: whoever has the signature could use it")
		}
		return in.forecast(ctx, req)
	}
	c, err := in.client(ctx)
	if err != nil {
		return err
	}
	asking, cancel := in.deadline(ctx) // of the nodes; a person may take longer
	defer cancel()
	if err := in.complete(asking, c, req); err != nil {
		return err
	}
	o, err := orders.Of(asking, c, req)
	if err != nil {
		return err
	}
	if o == nil {
		if in.signsFiles() {
			return errs.New(errs.FailedState, "the cluster asks nobody to sign this", errs.Hint("leave --sign-only and --intent out; krypton status --output json shows its rules"))
		}
		return nil
	}
	in.rule = o.Rule
	if err := in.pin(o.Keyspace); err != nil {
		return err
	}
	if !in.signsFiles() {
		others, err := in.needsOthers(asking, c, o.Rule)
		if err != nil {
			return err
		}
		if others {
			return in.askOthers(ctx, c, o, req)
		}
	}
	now := in.env.Clock.Now()
	f, err := in.draft(o, files, only, now)
	if err != nil {
		return err
	}
	key, err := in.adds(ctx, o, f, only != "", len(files) > 0)
	if err != nil {
		return err
	}
	if key != nil || only != "" {
		in.showOrder(o, f)
	}
	if key != nil {
		in.meter.step("waiting for the signature")
		if f, err = f.Countersign(ctx, key, sign.Expected{Keyspace: o.Keyspace, Request: o.Request, Now: now}); err != nil {
			return orders.Refused(err)
		}
	}
	if only != "" {
		return in.writeIntent(only, f)
	}
	signed, err := orders.Attach(f)
	if err != nil {
		return err
	}
	list := req.ProtoReflect().Mutable(fd).List()
	for _, s := range signed {
		list.Append(protoreflect.ValueOfMessage(s.ProtoReflect()))
	}
	return nil
}

// forecast says in a dry run who would have to sign, where that is not always so.
func (in *Invocation) forecast(ctx context.Context, req proto.Message) error {
	switch req.(type) {
	case *kryptonv1.RemoveNodeRequest, *kryptonv1.DemoteNodeRequest:
	default:
		return nil
	}
	c, err := in.client(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := in.deadline(ctx)
	defer cancel()
	o, err := orders.Of(ctx, c, req)
	if err != nil || o == nil {
		return err
	}
	rule := intent.Rule{Governors: int(o.Rule.GetGovernors()), Custodians: int(o.Rule.GetCustodians())}
	if o.Rule.GetRequesterCounts() {
		rule.Requester = intent.RequesterCounts
	}
	in.note("no majority of the voters that people let in would be left: this needs %s", rule)
	return nil
}

// draft returns what has to be signed: that of the files, or a new one.
func (in *Invocation) draft(o *orders.Order, files []string, only string, now time.Time) (sign.File, error) {
	if len(files) == 0 {
		life := orders.SendLifetime
		if only != "" {
			life = in.c.Duration("sign-for")
		}
		return o.Draft(now, life, rand.Reader)
	}
	all, err := openIntents(files)
	if err != nil {
		return sign.File{}, err
	}
	return all, o.Check(all, now)
}

func openIntents(files []string) (sign.File, error) {
	all := make([]sign.File, len(files))
	for i, name := range files {
		var err error
		if all[i], err = sign.OpenFile(name); err != nil {
			return sign.File{}, inFile(name, err)
		}
	}
	return sign.Merge(all...)
}

// inFile says of which file an error is.
func inFile(name string, err error) error {
	e := errs.From(err)
	return errs.New(errs.Of(err), name+": "+e.Msg, errs.Hint("%s", e.Hint), errs.Cause(err))
}

// adds returns the user's key if the user's signature belongs to f, else nil. A
// key that was named for this command always signs, one that was named for good does
// so where the signature of who sends can count. The key of the identity signs if it
// is that of somebody whose signature can count and is still missing.
func (in *Invocation) adds(ctx context.Context, o *orders.Order, f sign.File, detached, gathered bool) (sign.Signer, error) {
	if !detached && !o.Rule.GetRequesterCounts() && !in.c.IsSet("sign-key") { // others sign, and mine would spoil it
		return nil, nil
	}
	if !in.ownsKey() {
		if signers := o.Rule.GetGovernors() + o.Rule.GetCustodians(); gathered && len(f.Signatures) >= int(signers) {
			return nil, nil
		}
		c, err := in.client(ctx)
		if err != nil {
			return nil, err
		}
		who, err := in.who(ctx, c)
		if err != nil {
			return nil, err
		}
		if r := who.GetRole(); r != kryptonv1.Role_ROLE_GOVERNOR && (r != kryptonv1.Role_ROLE_CUSTODIAN || o.Rule.GetCustodians() == 0) {
			return nil, nil
		}
	}
	key, err := in.signKey(ctx)
	if err != nil {
		return nil, err
	}
	pub := key.PublicKey()
	if slices.ContainsFunc(f.Signatures, func(s sign.FileSignature) bool { return s.Key == pub }) {
		return nil, nil
	}
	return key, nil
}

// showOrder shows what is signed, unless the output is for a program.
func (in *Invocation) showOrder(o *orders.Order, f sign.File) {
	if in.jsonOutput() && !in.c.Bool("verbose") {
		return
	}
	trust := ", as the nodes say; no context remembers it"
	if in.ctx.Keyspace != "" {
		trust = ", which your context remembers"
	}
	in.meter.clear()
	fmt.Fprintf(in.env.Stderr, "You sign, for keyspace %s%s:\n%s", o.Keyspace, trust, o.Describe(f))
}

// pin compares the keyspace with the one that the context remembers, and lets it
// remember the first one.
func (in *Invocation) pin(k hierarchy.KeyspaceID) error {
	switch {
	case in.ctx.Keyspace == k.String():
		return nil
	case in.ctx.Keyspace != "":
		return errs.New(errs.FailedState, fmt.Sprintf("the nodes are of keyspace %s, and the context %s is for %s", k, in.ctxName, in.ctx.Keyspace),
			errs.Hint("nothing was signed; look at --addr, or use another context. Only if the cluster was made anew: krypton context set %s --keyspace %s", in.ctxName, k))
	case in.ctxName == "":
		return nil
	}
	path, err := contexts.Path(in.env.Getenv)
	if err != nil {
		return err
	}
	all, err := contexts.Load(path)
	if err != nil {
		return err
	}
	c, err := all.Get(in.ctxName)
	if err != nil {
		return err
	}
	c.Keyspace = k.String()
	all.Contexts[in.ctxName], in.ctx.Keyspace = c, c.Keyspace
	if err := all.Save(); err != nil {
		return err
	}
	if !in.jsonOutput() {
		in.note("the context %s remembers keyspace %s from now on, and signs for no other", in.ctxName, k)
	}
	return nil
}

// writeIntent ends the command with the file.
func (in *Invocation) writeIntent(name string, f sign.File) error {
	if _, err := os.Lstat(name); err == nil {
		return exists(name, "name another file; krypton intent sign adds a signature to this one")
	}
	if err := f.Save(name); err != nil {
		return err
	}
	if err := in.showIntent(name, f); err != nil {
		return err
	}
	if !in.jsonOutput() {
		in.note("nothing was sent; others sign with krypton intent sign %s, then give the same command with --intent %s", name, name)
	}
	return errDetached
}

// showIntent prints where an intent is and who has signed it.
func (in *Invocation) showIntent(name string, f sign.File) error {
	d := f.Request.Digest()
	keys := make([]string, 0, len(f.Signatures))
	for _, s := range f.Signatures {
		keys = append(keys, s.Key.ID().String())
	}
	expire := time.UnixMilli(f.Intent.NotAfter).UTC().Format(time.RFC3339)
	if in.jsonOutput() {
		return in.showJSON(struct {
			File       string   `json:"file"`
			Act        string   `json:"act"`
			Keyspace   string   `json:"keyspaceId"`
			Request    string   `json:"request"`
			Expire     string   `json:"expireTime"`
			Signatures []string `json:"signatures"`
		}{name, f.Intent.Act.String(), f.Intent.Keyspace.String(), hex.EncodeToString(d[:]), expire, keys})
	}
	var s sheet
	s.add("file", name)
	s.add("act", f.Intent.Act.String())
	s.add("request", hex.EncodeToString(d[:]))
	s.add("usable until", expire)
	s.add("signatures", fmt.Sprint(len(keys)))
	for _, k := range keys {
		s.add("signed with key", k)
	}
	return in.write([]byte(s.text()))
}

// unsigned adds to a refusal for want of signatures how to get them.
func (in *Invocation) unsigned(err error) error {
	if in.rule == nil || !errs.Is(err, errs.IntentRefused) {
		return err
	}
	var who []string
	if n := in.rule.GetGovernors(); n > 0 {
		who = append(who, plural(int(n), "governor", "governors"))
	}
	if n := in.rule.GetCustodians(); n > 0 {
		who = append(who, plural(int(n), "custodian", "custodians"))
	}
	you := ""
	if !in.rule.GetRequesterCounts() {
		you = ", none of them you"
	}
	e := errs.From(err)
	return e.With(errs.Hint("%s; %s must sign it%s: give the command with --sign-only FILE, have each run krypton intent sign FILE, then give it with --intent FILE",
		e.Hint, strings.Join(who, " and "), you))
}
