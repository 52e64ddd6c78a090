// Package ageboxtest is a plugin of age, and makes keys, for tests of those that meet them.
//
// A test program registers [Main] as the program age-plugin-test. The recipient
// and the identity have a key of age in them, which a person's token would have
// inside, and what the plugin shall do before it uses it.
//
// # Invariants
//
//   - I1: it speaks age's own plugin protocol over the pipes of a process of its own; nothing of it is in the process that starts it.
//
// # Concurrency
//
// None: a plugin is a process for one file.
//
// # Failure
//
// What it does not understand it answers with an error of the protocol.
//
// # Source
//
// The plugin protocol of age (C2SP age-plugin).
package ageboxtest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
	"filippo.io/age/plugin"
	"golang.org/x/crypto/ssh"
)

// Name is the name of the plugin; its program is called "age-plugin-" and that.
const Name = "test"

// PIN is what [Asks] wants to hear.
const PIN = "2718"

// Behaviour is what the plugin does before it uses its key.
type Behaviour string

// The behaviours.
const (
	Quiet   Behaviour = "quiet"   // nothing
	Asks    Behaviour = "asks"    // shows a message, asks for the PIN, and for a choice
	Refuses Behaviour = "refuses" // answers with an error
	Hangs   Behaviour = "hangs"   // to encrypt: starts a program and waits for ever, whatever signal asks it to end; see [Lock]
	Stays   Behaviour = "stays"   // to encrypt: does its part and does not end then; see [Lock]
	Floods  Behaviour = "floods"  // to encrypt: never ends its answer
)

// Lock names the variable of the environment with a file that [Hangs] and [Stays], and what
// they start, keep locked for as long as one of them lives.
const Lock = "AGEBOXTEST_LOCK"

// New makes a key for the plugin and returns its recipient and its identity.
func New(b Behaviour) (recipient, identity string, err error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return "", "", err
	}
	return plugin.EncodeRecipient(Name, []byte(string(b)+":"+id.Recipient().String())),
		plugin.EncodeIdentity(Name, []byte(string(b)+":"+id.String())), nil
}

// Main is the main function of the plugin's program.
func Main() {
	stays := false
	p, err := plugin.New(Name)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:forbidigo // It is a main function.
	}
	p.HandleRecipient(func(data []byte) (age.Recipient, error) {
		behaviour, text, _ := strings.Cut(string(data), ":")
		to, err := age.ParseX25519Recipient(text)
		switch Behaviour(behaviour) {
		case Hangs:
			linger()
			select {}
		case Stays:
			linger()
			stays = true
		case Floods:
			for {
				_, _ = os.Stdout.WriteString("-> unheard-of\n\n")
			}
		case Quiet, Asks, Refuses:
		}
		if err == nil && Behaviour(behaviour) == Refuses {
			err = errors.New("the token\x1b[2J is not there")
		}
		return to, err
	})
	p.HandleIdentity(func(data []byte) (age.Identity, error) {
		behaviour, text, _ := strings.Cut(string(data), ":")
		id, err := age.ParseX25519Identity(text)
		return &token{p, Behaviour(behaviour), id}, err
	})
	code := p.Main()
	if stays {
		select {}
	}
	os.Exit(code) //nolint:forbidigo // It is a main function.
}

// SSH returns the recipient and the file of a new Ed25519 key of ssh-keygen, under
// a passphrase.
func SSH(passphrase string) (recipient, file string, err error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", "", err
	}
	block, err := ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(passphrase))
	if err != nil {
		return "", "", err
	}
	public, err := ssh.NewPublicKey(private.Public())
	if err != nil {
		return "", "", err
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public))), string(pem.EncodeToMemory(block)), nil
}

// Missing is an identity whose plugin no machine has.
func Missing() string { return plugin.EncodeIdentity("no-such", []byte("key")) }

// Protect returns the identity file under a passphrase that is as quick to try as
// can be.
func Protect(file, passphrase string) (string, error) {
	to, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return "", err
	}
	to.SetWorkFactor(1)
	var out bytes.Buffer
	outer := armor.NewWriter(&out)
	inner, err := age.Encrypt(outer, to)
	if err != nil {
		return "", err
	}
	_, err = io.WriteString(inner, file)
	err = errors.Join(err, inner.Close(), outer.Close())
	return out.String(), err
}

// token is a key that asks before it is used.
type token struct {
	p         *plugin.Plugin
	behaviour Behaviour
	id        *age.X25519Identity
}

// Unwrap implements age.Identity.
func (t *token) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	switch t.behaviour {
	case Quiet:
	case Asks:
		if err := t.p.DisplayMessage("touch the token"); err != nil {
			return nil, err
		}
		pin, err := t.p.RequestValue("PIN of the token", true)
		if err != nil {
			return nil, err
		}
		yes, err := t.p.Confirm("use the key?", "yes", "no")
		if err != nil {
			return nil, err
		}
		if pin != PIN || !yes {
			return nil, errors.New("the PIN is wrong")
		}
	case Refuses:
		return nil, errors.New("the token\x1b[2J is not there")
	}
	return t.id.Unwrap(stanzas)
}
