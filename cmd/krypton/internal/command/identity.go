package command

import (
	"cmp"
	"time"

	"github.com/openkcm/krypton-cluster/client"
)

// caFile returns the file that nodes are verified with.
func (in *Invocation) caFile() string {
	return in.setting("ca-file", "KRYPTON_CA_FILE", in.ctx.CAFile)
}

func (in *Invocation) certFile() string {
	return in.setting("cert-file", "KRYPTON_CERT_FILE", in.ctx.CertFile)
}

func (in *Invocation) keyFile() string {
	return in.setting("key-file", "KRYPTON_KEY_FILE", in.ctx.KeyFile)
}

// tokenFile returns the file of the caller's token. A token decides who asks, so
// one that is only in the environment or the context does not overrule a
// certificate that was named more directly (I6).
func (in *Invocation) tokenFile() string {
	env := in.env.Getenv
	switch {
	case in.c.IsSet("token-file"):
		return in.c.String("token-file")
	case in.c.IsSet("cert-file"), in.c.IsSet("key-file"):
		return ""
	case env("KRYPTON_TOKEN_FILE") != "":
		return env("KRYPTON_TOKEN_FILE")
	case env("KRYPTON_CERT_FILE") != "", env("KRYPTON_KEY_FILE") != "":
		return ""
	}
	return in.ctx.TokenFile
}

// remindToRenew says on stderr, once per command, that the certificate in use
// ends within a third of its life. It says nothing to a program that reads JSON,
// and nothing of a certificate beside a token, which does not decide who asks.
func (in *Invocation) remindToRenew() {
	if in.reminded || in.jsonOutput() || in.certFile() == "" || in.tokenFile() != "" {
		return
	}
	in.reminded = true
	leaf, err := readLeaf(in.certFile())
	if err != nil {
		return // the client says so
	}
	now := in.env.Clock.Now()
	end := leaf.NotAfter.UTC().Format(time.RFC3339)
	switch left := leaf.NotAfter.Sub(now); {
	case left <= 0:
		in.note("your certificate in %s expired at %s; renew it: krypton operator cert renew", in.certFile(), end)
	case left < leaf.NotAfter.Sub(leaf.NotBefore)/3:
		in.note("your certificate in %s expires at %s; renew it: krypton operator cert renew", in.certFile(), end)
	}
}

// identity puts the caller's files into the options of a client, and reports
// whether that is enough to be somebody.
func (in *Invocation) identity(o *client.Options) bool {
	o.CAFile, o.CertFile, o.KeyFile, o.TokenFile = in.caFile(), in.certFile(), in.keyFile(), in.tokenFile()
	pair := o.CertFile != "" && o.KeyFile != ""
	half := cmp.Or(o.CertFile, o.KeyFile) != ""
	return o.CAFile != "" && pair == half && (pair || o.TokenFile != "")
}
