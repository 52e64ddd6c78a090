package lint

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"
)

// proofLink is a link whose text is the name of a test, to the file it is in.
var proofLink = regexp.MustCompile(`\[(Test[A-Za-z0-9_]+)\]\(([^)\s]+)\)`)

// ProofRule finds documents that name a test as a proof which is not in the file
// that they link. The README is bounded: it is read on one screen or not at all.
func ProofRule(root fs.FS, docs ...string) []string {
	const maxReadme = 60 // lines
	var bad []string
	for _, doc := range docs {
		text, err := fs.ReadFile(root, doc)
		if err != nil {
			bad = append(bad, err.Error())
			continue
		}
		if n := strings.Count(string(text), "\n"); doc == "README.md" && n > maxReadme {
			bad = append(bad, fmt.Sprintf("%s has %d lines, at most %d fit a screen", doc, n, maxReadme))
		}
		for _, m := range proofLink.FindAllStringSubmatch(string(text), -1) {
			file := path.Join(path.Dir(doc), m[2])
			code, err := fs.ReadFile(root, file)
			if err != nil {
				bad = append(bad, fmt.Sprintf("%s: %s: %v", doc, m[1], err))
				continue
			}
			if !strings.Contains(string(code), "\nfunc "+m[1]+"(") {
				bad = append(bad, fmt.Sprintf("%s: %s has no test %s", doc, file, m[1]))
			}
		}
	}
	return bad
}
