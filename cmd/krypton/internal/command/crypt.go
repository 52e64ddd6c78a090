package command

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/urfave/cli/v2"
	"google.golang.org/grpc"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/client/stream"
	"github.com/openkcm/krypton-cluster/internal/clock"
)

const scopeAbout = "The same --service, --resource and --context are needed to open it again. They are bound to the data; the context\n" +
	"is not stored with it. None of them is secret."

func scopeFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "service", Usage: "`TENANT/SERVICE` whose key is used"},
		&cli.StringFlag{Name: "resource", Usage: "`NAME` of what is encrypted, at most 128 bytes"},
		scopeContextFlag(),
		&cli.StringSliceFlag{Name: "encryption-context", Usage: "`KEY=VALUE` of the encryption context, repeated; the same as --context KEY=VALUE"},
	}
}

func fileFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "in", Usage: "`FILE` to read, - for stdin"},
		&cli.StringFlag{Name: "out", Usage: "`FILE` to write, - for stdout"},
	}
}

// scope returns what the flags say of service, resource and context.
func (in *Invocation) scope() (client.Scope, error) {
	service, err := in.serviceName("")
	if err != nil {
		return client.Scope{}, err
	}
	s := client.Scope{Service: service, Resource: in.c.String("resource")}
	pairs := in.c.StringSlice("encryption-context")
	for _, p := range in.c.StringSlice("context") {
		if strings.Contains(p, "=") {
			pairs = append(pairs, p)
		}
	}
	for _, p := range pairs {
		k, v, ok := strings.Cut(p, "=")
		if !ok || k == "" {
			return s, usagef("give it as --context purpose=invoice", "encryption context %q is not KEY=VALUE", p)
		}
		if _, twice := s.Context[k]; twice {
			return s, usagef("give each key once", "encryption context has the key %q twice", k)
		}
		if s.Context == nil {
			s.Context = map[string]string{}
		}
		s.Context[k] = v
	}
	return s, nil
}

// timed is the client with --timeout on each call, which a stream makes one of.
type timed struct {
	in *Invocation
	c  *client.Client
}

func (t timed) GenerateDataKey(ctx context.Context, s client.Scope, n int, _ ...grpc.CallOption) (client.DataKey, error) {
	ctx, cancel := t.in.deadline(ctx)
	defer cancel()
	return t.c.GenerateDataKey(ctx, s, n, client.Capture(&t.in.info))
}

func (t timed) UnwrapDataKey(ctx context.Context, s client.Scope, wrapped []byte, _ ...grpc.CallOption) (client.DataKey, error) {
	ctx, cancel := t.in.deadline(ctx)
	defer cancel()
	return t.c.UnwrapDataKey(ctx, s, wrapped, client.Capture(&t.in.info))
}

func (t timed) RewrapDataKey(ctx context.Context, s client.Scope, wrapped []byte, _ ...grpc.CallOption) (client.DataKey, string, error) {
	ctx, cancel := t.in.deadline(ctx)
	defer cancel()
	return t.c.RewrapDataKey(ctx, s, wrapped, client.Capture(&t.in.info))
}

// files returns where to read and to write: arguments, flags, or "-".
func (in *Invocation) files() (from, to string, err error) {
	from, to = in.arg(0), in.arg(1)
	for _, f := range []struct {
		flag string
		at   *string
	}{{"in", &from}, {"out", &to}} {
		if !in.c.IsSet(f.flag) {
			continue
		}
		if *f.at != "" {
			return "", "", usagef("give it once", "--%s and an argument both name a file", f.flag)
		}
		*f.at = in.c.String(f.flag)
	}
	if from == "" {
		from = "-"
	}
	if to == "" {
		to = "-"
	}
	return from, to, nil
}

// cryptCommand makes a command that turns one file into another.
func cryptCommand(name, usage, about string, examples []string, mode os.FileMode,
	do func(ctx context.Context, in *Invocation, keys stream.Keys, s client.Scope, r *input, w io.Writer) error,
) *Command {
	return &Command{
		Name: name, Args: "[IN [OUT]]", Usage: usage, About: about, Examples: examples, Reach: Uses, NArgs: [2]int{0, 2},
		Flags: append(scopeFlags(), fileFlags()...),
		Run: func(ctx context.Context, in *Invocation) error {
			if in.c.Bool("dry-run") {
				return in.noDryRun()
			}
			scope, err := in.scope()
			if err != nil {
				return err
			}
			from, to, err := in.files()
			if err != nil {
				return err
			}
			if name != "decrypt" && to == "-" && !in.c.IsSet("out") && len(in.args) < 2 && terminal(in.env.Stdout) {
				return usagef("name a file, or --out - if you mean it", "the result is not for a terminal")
			}
			c, err := in.client(ctx)
			if err != nil {
				return err
			}
			return in.transform(ctx, from, to, mode, func(r *input, w io.Writer) error {
				return do(ctx, in, timed{in, c}, scope, r, w)
			})
		},
	}
}

func encryptCommand() *Command {
	return cryptCommand("encrypt", "encrypt a file of any size with a data key of its own", scopeAbout,
		[]string{
			"krypton encrypt --service demo/payments --resource orders report.pdf report.pdf.krypton",
			"tar c . | krypton encrypt --service demo/payments --context purpose=backup > backup.krypton",
		}, 0o644,
		func(ctx context.Context, _ *Invocation, keys stream.Keys, s client.Scope, r *input, w io.Writer) error {
			e, err := stream.NewEncryptor(ctx, keys, stream.Options{Scope: s}, w)
			if err != nil {
				return err
			}
			if _, err := io.Copy(e, r); err != nil {
				return err
			}
			return e.Close()
		})
}

func decryptCommand() *Command {
	c := cryptCommand("decrypt", "decrypt what krypton encrypt made",
		scopeAbout+"\n\nA file appears only when all of it was authenticated. To stdout every part is written once it was authenticated; when\n"+
			"the exit status is not 0, throw away what came.\n\n"+
			"With --offset or --length only the end of the file and that part of it are read, and both are authenticated; the rest\n"+
			"is not checked. They count bytes of the plaintext and need a file, not a pipe.",
		[]string{
			"krypton decrypt --service demo/payments --resource orders report.pdf.krypton report.pdf",
			"krypton decrypt --service demo/payments --offset 1000000 --length 100 big.krypton",
		}, 0o600,
		func(ctx context.Context, in *Invocation, keys stream.Keys, s client.Scope, r *input, w io.Writer) error {
			part, err := in.part()
			switch {
			case err != nil:
				return err
			case part != nil:
				return decryptPart(ctx, keys, s, *part, r, w)
			}
			d, err := stream.NewDecryptor(ctx, keys, stream.Options{Scope: s}, r)
			if err != nil {
				return err
			}
			_, err = io.Copy(w, d)
			return err
		})
	c.Flags = append(c.Flags,
		&cli.Int64Flag{Name: "offset", Usage: "how many `BYTES` to leave out at the beginning"},
		&cli.Int64Flag{Name: "length", Usage: "how many `BYTES` to decrypt at most, without it to the end"})
	run := c.Run
	c.Run = func(ctx context.Context, in *Invocation) error {
		if _, err := in.part(); err != nil { // before a node is asked
			return err
		}
		return run(ctx, in)
	}
	return c
}

// part is the part of a plaintext that is asked for.
type part struct{ offset, length int64 }

// part returns what --offset and --length say, or nil without them.
func (in *Invocation) part() (*part, error) {
	if !in.c.IsSet("offset") && !in.c.IsSet("length") {
		return nil, nil //nolint:nilnil // No part is the whole.
	}
	p := part{offset: in.c.Int64("offset"), length: math.MaxInt64}
	if in.c.IsSet("length") {
		p.length = in.c.Int64("length")
	}
	if p.offset < 0 || p.length < 0 {
		return nil, usagef("count from the beginning", "--offset or --length is negative")
	}
	if from, _, err := in.files(); err != nil || from == "-" {
		return nil, cmp.Or(err, noPartOf("stdin"))
	}
	return &p, nil
}

func noPartOf(what string) error {
	return usagef("name a file, or leave them out and cut what comes", "--offset and --length need a file, and %s can only be read from its beginning", what)
}

func decryptPart(ctx context.Context, keys stream.Keys, s client.Scope, p part, in *input, w io.Writer) error {
	size := in.size
	if size < 0 {
		return noPartOf("the input")
	}
	in.size = -1 // how much of it will be read is not known
	r, err := stream.NewReaderAt(ctx, keys, stream.Options{Scope: s}, in, size)
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // It has no error; it wipes.
	if p.offset > r.Size() {
		return usagef(fmt.Sprintf("give an --offset of up to %d", r.Size()), "the file holds %d bytes", r.Size())
	}
	_, err = io.Copy(w, io.NewSectionReader(r, p.offset, min(p.length, r.Size()-p.offset)))
	return err
}

func rewrapCommand() *Command {
	return cryptCommand("rewrap", "wrap the data key of a file by the present version of its service key",
		scopeAbout+"\n\nThe data itself stays as it is and is not decrypted. IN and OUT may be the same file.",
		[]string{"krypton rewrap --service demo/payments --resource orders report.pdf.krypton report.pdf.krypton"}, 0o644,
		func(ctx context.Context, in *Invocation, keys stream.Keys, s client.Scope, r *input, w io.Writer) error {
			did, err := stream.Rewrap(ctx, keys, stream.Options{Scope: s}, r, w)
			if err != nil {
				return err
			}
			in.note("wrapped by %s, was %s", did.KeyVersion, did.Previous)
			return nil
		})
}

// transform opens both ends and runs do between them.
func (in *Invocation) transform(ctx context.Context, from, to string, mode os.FileMode, do func(*input, io.Writer) error) (err error) {
	r := in.env.Stdin
	size := int64(-1)
	if from == "-" && terminal(r) {
		in.note("reading what you type; Ctrl-D ends it, Ctrl-C gives up")
	}
	if from != "-" {
		r, err = os.Open(from)
		if err != nil {
			return cannotRead(from, err)
		}
		defer r.Close() //nolint:errcheck // Only read from.
		st, err := r.Stat()
		switch {
		case err != nil:
			return cannotRead(from, err)
		case st.IsDir():
			return usagef("pack it with tar first", "%s is a directory", from)
		case st.Mode().IsRegular():
			size = st.Size()
		}
	}
	src := &input{r: r, ctx: ctx, size: size, clk: in.env.Clock, begin: in.env.Clock.Now()}
	if !terminal(r) && (to != "-" || !terminal(in.env.Stdout)) { // else the line stands among what is typed or comes out
		in.meter.watch(src.progress)
		defer in.meter.watch(nil)
	}
	if to == "-" {
		err := do(src, in.env.Stdout)
		if isOutput(err) {
			return cannotWrite("the result", err)
		}
		return err
	}
	out, err := in.env.create(to, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.abort()) }()
	if err := do(src, out); isOutput(err) {
		return cannotWrite(to, err)
	} else if err != nil {
		return err
	}
	return out.commit()
}

// input is what a command reads: it tells how far it is, and ends with its context.
type input struct {
	r     *os.File
	ctx   context.Context //nolint:containedctx // io.Reader has no other way.
	size  int64           // of a regular file; -1: not known
	n     atomic.Int64
	clk   clock.Clock
	begin time.Time
}

// Read implements [io.Reader].
func (p *input) Read(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := p.r.Read(b)
	p.n.Add(int64(n))
	return n, err
}

// ReadAt implements [io.ReaderAt], but for one goroutine.
func (p *input) ReadAt(b []byte, off int64) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := p.r.ReadAt(b, off)
	p.n.Add(int64(n))
	return n, err
}

// progress says how far the reader is: of a file how much of it, and how long the
// rest takes at the rate so far.
func (p *input) progress() string {
	n := p.n.Load()
	took := p.clk.Since(p.begin).Seconds()
	rate := float64(n) / max(took, 1e-3)
	if p.size <= 0 || n > p.size {
		return fmt.Sprintf("%s, %s/s", bytesText(uint64(n)), bytesText(uint64(rate))) //nolint:gosec // Not negative.
	}
	left := ""
	if n > 0 {
		left = fmt.Sprintf(", %d s left", int(math.Ceil(float64(p.size-n)/rate)))
	}
	return fmt.Sprintf("%d %%, %s of %s, %s/s%s", 100*n/p.size, bytesText(uint64(n)), bytesText(uint64(p.size)), bytesText(uint64(rate)), left) //nolint:gosec // Not negative.
}

func dataKeyCommands() *Command {
	wrappedArg := func(in *Invocation) ([]byte, error) {
		text := in.args[0]
		if text == "-" {
			raw, err := io.ReadAll(io.LimitReader(in.env.Stdin, 64<<10))
			if err != nil {
				return nil, cannotRead("the wrapped key", err)
			}
			text = string(raw)
		}
		b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
		if err != nil || len(b) == 0 {
			return nil, usagef("give what krypton datakey generate printed", "the wrapped key is not base64")
		}
		return b, nil
	}
	return group("datakey", "make and open data keys",
		&Command{
			Name: "generate", Usage: "make a data key and print it, in the clear and wrapped, in base64", About: scopeAbout, Reach: Uses,
			Examples: []string{"krypton datakey generate --service demo/payments", "krypton datakey generate --service demo/payments --wrapped-only --output json"},
			Flags: append(scopeFlags(),
				&cli.UintFlag{Name: "length", Usage: "`BYTES` of the key, 16 to 64", Value: 32},
				&cli.BoolFlag{Name: "wrapped-only", Usage: "do not show the key itself"}),
			Run: func(ctx context.Context, in *Invocation) error {
				scope, err := in.scope()
				if err != nil {
					return err
				}
				if n := in.c.Uint("length"); n < 16 || n > 64 {
					return usagef("give 16 to 64", "a data key of %d bytes is asked for", n)
				}
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				k, err := call(ctx, in, c.Crypto().GenerateDataKey, &kryptonv1.GenerateDataKeyRequest{
					Service: scope.Service, Resource: scope.Resource, EncryptionContext: pairs(scope),
					Length: uint32(in.c.Uint("length")), WithoutPlaintext: in.c.Bool("wrapped-only"), //nolint:gosec // 16 to 64.
				})
				if err != nil {
					return err
				}
				return in.show(k, func() string {
					var s sheet
					s.add("plaintext", base64.StdEncoding.EncodeToString(k.GetPlaintext()))
					s.add("wrapped", base64.StdEncoding.EncodeToString(k.GetWrapped()))
					s.add("key version", k.GetKeyVersion())
					return s.text()
				})
			},
		},
		&Command{
			Name: "unwrap", Args: "WRAPPED", Usage: "print a data key in the clear, in base64", Reach: Uses, NArgs: [2]int{1, 1},
			About:    scopeAbout + "\n\nWRAPPED is base64, or - to read it from stdin.",
			Examples: []string{"krypton datakey unwrap --service demo/payments - < key.wrapped"},
			Flags:    scopeFlags(),
			Run: func(ctx context.Context, in *Invocation) error {
				scope, err := in.scope()
				if err != nil {
					return err
				}
				wrapped, err := wrappedArg(in)
				if err != nil {
					return err
				}
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				k, err := call(ctx, in, c.Crypto().UnwrapDataKey, &kryptonv1.UnwrapDataKeyRequest{
					Service: scope.Service, Resource: scope.Resource, EncryptionContext: pairs(scope), Wrapped: wrapped,
				})
				if err != nil {
					return err
				}
				return in.show(k, func() string {
					var s sheet
					s.add("plaintext", base64.StdEncoding.EncodeToString(k.GetPlaintext()))
					s.add("key version", k.GetKeyVersion())
					return s.text()
				})
			},
		},
		&Command{
			Name: "rewrap", Args: "WRAPPED", Usage: "wrap a data key by the present version of its service key", Reach: Uses, NArgs: [2]int{1, 1},
			About:    scopeAbout + "\n\nWRAPPED is base64, or - to read it from stdin. The data key is not shown and stays the same.",
			Examples: []string{"krypton datakey rewrap --service demo/payments - < key.wrapped"},
			Flags:    scopeFlags(),
			Run: func(ctx context.Context, in *Invocation) error {
				scope, err := in.scope()
				if err != nil {
					return err
				}
				wrapped, err := wrappedArg(in)
				if err != nil {
					return err
				}
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				k, err := call(ctx, in, c.Crypto().RewrapDataKey, &kryptonv1.RewrapDataKeyRequest{
					Service: scope.Service, Resource: scope.Resource, EncryptionContext: pairs(scope), Wrapped: wrapped,
				})
				if err != nil {
					return err
				}
				return in.show(k, func() string {
					var s sheet
					s.add("wrapped", base64.StdEncoding.EncodeToString(k.GetWrapped()))
					s.add("key version", k.GetKeyVersion())
					s.add("previous key version", k.GetPreviousKeyVersion())
					return s.text()
				})
			},
		},
	)
}

func pairs(s client.Scope) []*kryptonv1.ContextPair {
	var out []*kryptonv1.ContextPair
	for k, v := range s.Context {
		out = append(out, &kryptonv1.ContextPair{Key: k, Value: v})
	}
	return out
}
