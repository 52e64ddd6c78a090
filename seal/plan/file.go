package plan

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/strictyaml"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/agebox"
)

// MaxFile is the largest plan file that is read, in bytes.
const MaxFile = 1 << 20

// document is a plan file. The tags are its keys; docs/seals.md describes them.
type document struct {
	Groups []groupEntry `yaml:"groups"`
	Keys   []entry      `yaml:"keys"`
}

type groupEntry struct {
	Name      string  `yaml:"name"`
	Threshold int     `yaml:"threshold"`
	Holders   []entry `yaml:"holders"`
}

type entry struct {
	Name          string `yaml:"name"`
	Keystore      string `yaml:"keystore"`
	Key           string `yaml:"key"`
	Recipient     string `yaml:"recipient"`
	RecipientFile string `yaml:"recipient_file"`
	Printed       bool   `yaml:"printed"`
	Account       string `yaml:"account"`
	Region        string `yaml:"region"`
}

// ReadFile reads a plan file of at most [MaxFile] bytes and the files of recipients
// that it names, which are looked for beside it. What is read keeps [Plan.Check].
// An error has the code InvalidArgument and names every problem.
func ReadFile(path string) (Plan, error) {
	b, err := readAll(path, MaxFile)
	if err != nil {
		return Plan{}, errs.Newf(errs.InvalidArgument, "the plan of the seal cannot be read: %v", err).With(errs.Hint("docs/seals.md has examples"), errs.Cause(err))
	}
	return Parse(path, b, func(name string) (string, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(path), name)
		}
		text, err := readAll(name, 2*agebox.MaxRecipient)
		return string(text), err
	})
}

func readAll(path string, limit int64) (_ []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only: nothing can be lost
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return b, err
}

// Parse reads a plan from YAML. file is what problems call it. open returns the text of
// a file of a recipient that the plan names. See [ReadFile].
func Parse(file string, b []byte, open func(name string) (string, error)) (Plan, error) {
	var doc document
	if problems := strictyaml.Decode(file, b, &doc, nil); len(problems) > 0 {
		return Plan{}, refuse(problems)
	}
	r := reader{file: file, open: open}
	var p Plan
	for i, g := range doc.Groups {
		pg := Group{Name: g.Name, Threshold: g.Threshold}
		for j, e := range g.Holders {
			pg.Holders = append(pg.Holders, r.holder(fmt.Sprintf("groups[%d].holders[%d]", i, j), e))
		}
		p.Groups = append(p.Groups, pg)
	}
	for i, e := range doc.Keys {
		if e.Name == "" {
			e.Name = e.Keystore
		}
		p.Keys = append(p.Keys, r.holder(fmt.Sprintf("keys[%d]", i), e))
	}
	if len(r.problems) > 0 {
		return Plan{}, refuse(r.problems)
	}
	return p, p.Check()
}

type reader struct {
	file     string
	open     func(name string) (string, error)
	problems []string
}

// holder takes over one entry. What decides who holds the share has to be said in
// exactly one way: a holder without any of them would otherwise be a person whose
// share is printed.
func (r *reader) holder(at string, e entry) Holder {
	bad := func(format string, args ...any) {
		r.problems = append(r.problems, fmt.Sprintf("%s: %s %s", r.file, at, fmt.Sprintf(format, args...)))
	}
	h := Holder{
		Name: e.Name, Recipient: e.Recipient, Key: seal.ProviderKey{Provider: e.Keystore, Key: keystore.KeyRef(e.Key)},
		Domain: seal.Domain{Account: e.Account, Region: e.Region},
	}
	var said []string
	for _, way := range []struct {
		key  string
		said bool
	}{{"keystore", e.Keystore != "" || e.Key != ""}, {"recipient", e.Recipient != ""}, {"recipient_file", e.RecipientFile != ""}, {"printed", e.Printed}} {
		if way.said {
			said = append(said, way.key)
		}
	}
	switch len(said) {
	case 0:
		bad("says nothing of who holds the share; give keystore and key, recipient, recipient_file, or printed: true")
	case 1:
	default:
		bad("has %s; give one of them", strings.Join(said, " and "))
	}
	if e.RecipientFile != "" && len(said) == 1 {
		text, err := r.open(e.RecipientFile)
		if err == nil {
			h.Recipient, err = recipientIn(text)
		}
		if err != nil {
			bad("recipient_file: %v", err)
		}
	}
	return h
}

// recipientIn returns the one recipient of a file as age has it: lines, of which
// those that are empty or begin with # do not count.
func recipientIn(text string) (string, error) {
	found := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
		case strings.HasPrefix(line, "AGE-SECRET-KEY-") || strings.HasPrefix(line, "AGE-PLUGIN-") || strings.Contains(line, "PRIVATE KEY"):
			return "", errors.New("it holds an identity, which only its owner may have; name the file with the public recipient")
		case found != "":
			return "", errors.New("it holds more than one recipient; a share has one holder")
		default:
			found = line
		}
	}
	if found == "" {
		return "", errors.New("it holds no recipient")
	}
	return found, nil
}
