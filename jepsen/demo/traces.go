//go:build unix

package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/openkcm/krypton-cluster/audit"
)

// needle is something that must be in no file.
type needle struct {
	what  string
	bytes []byte
}

// needlesOf returns the forms in which a secret could have been written down.
// Base64 is searched for at its three alignments, without the characters at the
// ends that depend on what stands beside it.
func needlesOf(what string, secret []byte) []needle {
	all := []needle{
		{what, bytes.Clone(secret)},
		{what + " in hex", []byte(hex.EncodeToString(secret))},
		{what + " in upper-case hex", []byte(strings.ToUpper(hex.EncodeToString(secret)))},
	}
	for shift := range 3 {
		padded := append(make([]byte, shift), secret...)
		for name, enc := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64url": base64.RawURLEncoding} {
			text := enc.EncodeToString(padded)
			from, to := (shift*8+5)/6, len(padded)*8/6
			all = append(all, needle{what + " in " + name, []byte(text[from:to])})
		}
	}
	return all
}

// search looks through every regular file under the directories and returns
// where it found what, and how much it read.
func search(roots []string, needles []needle) (hits []string, files int, read int64, err error) {
	look := func(path string, text []byte) {
		files++
		read += int64(len(text))
		for _, n := range needles {
			if bytes.Contains(text, n.bytes) {
				hits = append(hits, fmt.Sprintf("%s is in %s", n.what, path))
			}
		}
	}
	for _, root := range roots {
		if st, err := os.Stat(root); err == nil && st.Mode().IsRegular() {
			text, err := os.ReadFile(root)
			if err != nil {
				return hits, files, read, err
			}
			look(root, text)
			continue
		}
		if err := eachFile(root, look); err != nil {
			return hits, files, read, err
		}
	}
	return hits, files, read, nil
}

// eachFile calls look with every regular file under dir.
func eachFile(dir string, look func(path string, text []byte)) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	return fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		text, err := fs.ReadFile(root.FS(), name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a temporary file of a node that runs
		}
		if err == nil {
			look(filepath.Join(dir, name), text)
		}
		return err
	})
}

// auditOf verifies a node's audit trail, every line and every link, and returns
// the records of one correlation id.
func auditOf(dataDir, correlation string) (found []audit.Record, records uint64, err error) {
	sum, err := audit.Read(filepath.Join(dataDir, "audit"), func(r audit.Record) error {
		if string(r.Correlation) == correlation {
			found = append(found, r)
		}
		return nil
	})
	return found, sum.Records, err
}
