package client

import (
	"strings"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Variables of the environment that [New] reads.
const (
	envAddr      = "KRYPTON_ADDR"
	envCAFile    = "KRYPTON_CA_FILE"
	envCertFile  = "KRYPTON_CERT_FILE"
	envKeyFile   = "KRYPTON_KEY_FILE"
	envTokenFile = "KRYPTON_TOKEN_FILE"
	envContext   = "KRYPTON_CONTEXT"
)

// environment is what options began with, so that they know what was set in code.
type environment struct {
	caFile, certFile, keyFile, tokenFile string

	context string // KRYPTON_CONTEXT, which this package cannot read itself
}

// fromEnvironment returns the options that [New] begins with.
func fromEnvironment(getenv func(string) string) Options {
	env := environment{
		caFile: getenv(envCAFile), certFile: getenv(envCertFile), keyFile: getenv(envKeyFile), tokenFile: getenv(envTokenFile), context: getenv(envContext),
	}
	return Options{
		Addrs: splitAddrs(getenv(envAddr)), CAFile: env.caFile, CertFile: env.certFile, KeyFile: env.keyFile, TokenFile: env.tokenFile, env: env,
	}
}

func splitAddrs(list string) []string {
	var out []string
	for a := range strings.SplitSeq(list, ",") {
		if a = strings.TrimSpace(a); a != "" {
			out = append(out, a)
		}
	}
	return out
}

// With makes the options of [New] exactly o: nothing of the environment and of
// what was set before is left.
func With(o Options) func(*Options) {
	return func(dst *Options) { *dst = o }
}

// Fail makes [New] return err. It is for functions that change options, and
// find out that they cannot. The first error counts.
func (o *Options) Fail(err error) {
	if o.failed == nil {
		o.failed = err
	}
}

// ownIdentity takes away what the environment named, when an identity was set in
// code: the files beside a TLS configuration, and the token beside that or a
// certificate, which it would overrule. Files that were set in code stay, and
// beside TLS are a contradiction.
func (o *Options) ownIdentity() {
	certInCode := o.CertFile != o.env.certFile || o.KeyFile != o.env.keyFile
	if (o.TLS != nil || certInCode) && o.TokenFile == o.env.tokenFile {
		o.TokenFile = ""
	}
	if o.TLS == nil {
		return
	}
	for _, f := range []struct {
		file *string
		env  string
	}{{&o.CAFile, o.env.caFile}, {&o.CertFile, o.env.certFile}, {&o.KeyFile, o.env.keyFile}} {
		if *f.file == f.env {
			*f.file = ""
		}
	}
}

// missing says that something has to be given, and how.
func (o *Options) missing(what, how string) error {
	if o.env.context != "" {
		return errs.New(errs.InvalidConfig, what+"; "+envContext+" names a context, which is not read without package client/contexts",
			errs.Hint(`call client.New(ctx, contexts.Use("")), or %s`, how))
	}
	return errs.New(errs.InvalidConfig, what, errs.Hint("%s", how))
}
