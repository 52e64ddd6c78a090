package client

import (
	"strings"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Variables of the environment that [New] reads.
const (
	envAddr     = "KRYPTON_ADDR"
	envCAFile   = "KRYPTON_CA_FILE"
	envCertFile = "KRYPTON_CERT_FILE"
	envKeyFile  = "KRYPTON_KEY_FILE"
	envContext  = "KRYPTON_CONTEXT"
)

// environment is what options began with, so that they know what was set in code.
type environment struct {
	caFile, certFile, keyFile string
	context                   string // KRYPTON_CONTEXT, which this package cannot read itself
}

// fromEnvironment returns the options that [New] begins with.
func fromEnvironment(getenv func(string) string) Options {
	env := environment{caFile: getenv(envCAFile), certFile: getenv(envCertFile), keyFile: getenv(envKeyFile), context: getenv(envContext)}
	return Options{
		Addrs: splitAddrs(getenv(envAddr)), CAFile: env.caFile, CertFile: env.certFile, KeyFile: env.keyFile, env: env,
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

// onlyTLS takes away the files that the environment named, when a TLS
// configuration was set in code. Files that were set in code stay, and are a
// contradiction.
func (o *Options) onlyTLS() {
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
