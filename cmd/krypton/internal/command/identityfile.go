package command

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"golang.org/x/term"

	"github.com/openkcm/krypton-cluster/intent/orders"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal/agebox"
)

// readIdentities reads the identity file of a person, "-" for stdin. Others on
// the machine must have no rights to it, unless a passphrase protects it.
func (in *Invocation) readIdentities(file string) (*agebox.Identities, error) {
	f := in.env.Stdin
	if file != "-" {
		var err error
		if f, err = os.Open(file); err != nil {
			return nil, cannotRead(file, err)
		}
		defer f.Close() //nolint:errcheck // Only read from.
	}
	text := make([]byte, agebox.MaxIdentityFile+1) // at its full size, since a slice that grows leaves copies
	defer clear(text)
	n, err := io.ReadFull(f, text)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, cannotRead(file, err)
	}
	encrypted := ageEncrypted(text[:n])
	ids, err := agebox.ReadIdentities(text[:n], in.person(file))
	if err != nil || encrypted {
		return ids, err
	}
	// Of the open file and not of the path, which may be another file by then.
	// Windows has no such bits; there the profile directory is the person's own.
	if st, err := f.Stat(); err == nil && st.Mode().IsRegular() && st.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows" {
		ids.Destroy()
		return nil, errs.Newf(errs.InvalidConfig, "the identity file %s has mode %#o, so others on this machine can reach it", file, st.Mode().Perm()).
			With(errs.Hint("run: chmod 0600 %s; if others could read it, have the share encrypted to another key", file))
	}
	return ids, nil
}

// ageEncrypted reports whether age encrypted the file, so that reading it gives nobody a key.
func ageEncrypted(b []byte) bool {
	b = bytes.TrimSpace(b)
	return bytes.HasPrefix(b, []byte("-----BEGIN AGE ENCRYPTED FILE-----")) || bytes.HasPrefix(b, []byte("age-encryption.org/"))
}

// person is who sits at the terminal while the identities of file are used.
func (in *Invocation) person(file string) agebox.Person {
	p := agebox.Person{Tell: func(plugin, message string) { in.note("age-plugin-%s: %s", plugin, message) }}
	if !terminal(in.env.Stdin) {
		return p
	}
	p.Passphrase = func() ([]byte, error) { return in.hidden("Passphrase of " + file) }
	p.Ask = func(plugin, question string, secret bool) (string, error) {
		question = "age-plugin-" + plugin + ": " + orders.Printable(question)
		if secret {
			b, err := in.hidden(question)
			return string(b), err // as age's protocol wants it
		}
		return in.line(question)
	}
	p.Confirm = func(plugin, question, yes, no string) (bool, error) {
		question = "age-plugin-" + plugin + ": " + orders.Printable(question)
		if no == "" {
			_, err := in.line(question + " (Enter for " + orders.Printable(yes) + ")")
			return err == nil, err
		}
		answer, err := in.line(fmt.Sprintf("%s (1 for %s, 2 for %s)", question, orders.Printable(yes), orders.Printable(no)))
		if err == nil && answer != "1" && answer != "2" {
			err = errors.New("neither 1 nor 2")
		}
		return answer == "1", err
	}
	return p
}

// hidden asks at the terminal without showing the answer.
func (in *Invocation) hidden(question string) (b []byte, err error) {
	in.meter.ask(func() {
		fmt.Fprint(in.env.Stderr, question+": ")
		b, err = term.ReadPassword(int(in.env.Stdin.Fd()))
		fmt.Fprintln(in.env.Stderr)
	})
	return b, err
}

// line asks at the terminal for what is no secret.
func (in *Invocation) line(question string) (s string, err error) {
	in.meter.ask(func() {
		fmt.Fprint(in.env.Stderr, question+": ")
		s, err = bufio.NewReader(in.env.Stdin).ReadString('\n')
	})
	return strings.TrimSpace(s), err
}
