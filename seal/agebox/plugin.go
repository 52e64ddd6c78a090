package agebox

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"filippo.io/age"
	"filippo.io/age/plugin"
)

// PluginTime is how long the plugin of a recipient may take for one file. Nobody is at a
// node to touch a token, so one that takes longer waits for nobody.
const PluginTime = 30 * time.Second

const (
	// maxAnswer is the most that a plugin may answer, in bytes; more makes no file of [MaxFile].
	maxAnswer = 2 * MaxFile
	// columns is how long the lines are on which a body stands; the last one is shorter.
	columns = 64
)

// errPluginTime: the plugin did not end in its time, and was killed.
var errPluginTime = errors.New("it did not answer in time and was ended")

// pluginRecipient is the recipient of a plugin. It speaks the protocol of age's own package
// plugin, which starts the program, too, but waits for it without an end, and for its
// exit after that: one that hangs would hold up a ceremony, and the share that is
// encrypted, for ever. Here it has [PluginTime] and the time of whoever waits, and is
// killed with all that it started (I6).
type pluginRecipient struct {
	name, text string
	until      func() context.Context // of the call that encrypts
}

// Wrap implements age.Recipient.
func (r *pluginRecipient) Wrap(fileKey []byte) ([]*age.Stanza, error) {
	stanzas, _, err := r.WrapWithLabels(fileKey)
	return stanzas, err
}

// WrapWithLabels implements age.RecipientWithLabels.
func (r *pluginRecipient) WrapWithLabels(fileKey []byte) (stanzas []*age.Stanza, labels []string, err error) {
	ctx, cancel := context.WithTimeout(r.until(), PluginTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "age-plugin-"+r.name, "--age-plugin=recipient-v1") //nolint:gosec // The name has letters, digits and +-._ only.
	cmd.Dir = os.TempDir()                                                             // as age does: plugins do not depend on where who calls them is
	alone(cmd)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	end := sync.OnceValue(func() error {
		// What it started may hold the pipes open; so they are not waited for.
		return errors.Join(kill(cmd.Process), out.Close(), in.Close())
	})
	cmd.Cancel = end
	if err := cmd.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return nil, nil, &plugin.NotFoundError{Name: r.name, Err: err}
		}
		return nil, nil, err
	}
	stanzas, labels, err = r.talk(in, out, fileKey)
	late := ctx.Err()
	_ = end() // it has said what it had to say, or is not listened to any more
	_ = cmd.Wait()
	if late != nil {
		return nil, nil, fmt.Errorf("%w: %w", errPluginTime, late)
	}
	return stanzas, labels, err
}

// talk is the part of the client in the protocol for recipients.
func (r *pluginRecipient) talk(to io.Writer, from io.Reader, fileKey []byte) (stanzas []*age.Stanza, labels []string, err error) {
	say := func(kind string, body []byte, args ...string) {
		if err == nil {
			err = writeStanza(to, kind, body, args...)
		}
	}
	say("add-recipient", nil, r.text)
	say("wrap-file-key", fileKey)
	say("extension-labels", nil)
	say("done", nil)
	answers := bufio.NewReader(io.LimitReader(from, maxAnswer))
	for err == nil {
		var s *age.Stanza
		if s, err = readStanza(answers); err != nil {
			break
		}
		switch s.Type {
		case "recipient-stanza":
			if len(s.Args) < 2 || s.Args[0] != "0" { // one file key was given
				return nil, nil, errStanza
			}
			stanzas = append(stanzas, &age.Stanza{Type: s.Args[1], Args: s.Args[2:], Body: s.Body})
			say("ok", nil)
		case "labels":
			if labels != nil {
				return nil, nil, errStanza
			}
			labels = s.Args
			say("ok", nil)
		case "error":
			say("ok", nil)
			return nil, nil, errors.New(string(s.Body))
		case "done":
			if len(stanzas) == 0 {
				return nil, nil, errStanza
			}
			return stanzas, labels, nil
		case "msg", "confirm", "request-public", "request-secret":
			say("fail", nil) // nobody is here to answer
		default:
			say("unsupported", nil)
		}
	}
	return nil, nil, err
}

// errStanza: what came is not of the protocol.
var errStanza = errors.New("it does not speak the protocol of age plugins")

// writeStanza writes "-> kind args", and body in base64 on lines of 64 columns of which the
// last is shorter, so that it may be empty.
func writeStanza(w io.Writer, kind string, body []byte, args ...string) error {
	var b bytes.Buffer
	defer func() { clear(b.Bytes()) }() // the key of the file passes here
	fmt.Fprintf(&b, "-> %s\n", strings.Join(append([]string{kind}, args...), " "))
	line := make([]byte, columns)
	for {
		n := min(len(body), columns/4*3)
		line = base64.RawStdEncoding.AppendEncode(line[:0], body[:n])
		b.Write(line)
		b.WriteByte('\n')
		if body = body[n:]; len(line) < columns {
			clear(line)
			break
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// readStanza reads what writeStanza writes.
func readStanza(r *bufio.Reader) (*age.Stanza, error) {
	head, err := r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	words := strings.Split(strings.TrimSuffix(head, "\n"), " ")
	if len(words) < 2 || words[0] != "->" {
		return nil, errStanza
	}
	for _, w := range words[1:] {
		if w == "" || strings.ContainsFunc(w, func(c rune) bool { return c < '!' || c > '~' }) {
			return nil, errStanza
		}
	}
	s := &age.Stanza{Type: words[1], Args: words[2:]}
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return nil, err
		}
		line = line[:len(line)-1]
		if len(line) > columns || bytes.ContainsAny(line, "\r\n") {
			return nil, errStanza
		}
		if s.Body, err = base64.RawStdEncoding.Strict().AppendDecode(s.Body, line); err != nil {
			return nil, errStanza
		}
		if len(line) < columns {
			return s, nil
		}
	}
}
