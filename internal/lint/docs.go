package lint

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// ADRRule finds decision records that docs/adr/README.md does not link, names
// that are not NNNN-title.md, numbers used twice, and records without their
// parts.
func ADRRule(root fs.FS) []string {
	index, err := fs.ReadFile(root, "docs/adr/README.md")
	if err != nil {
		return []string{"docs/adr/README.md: " + err.Error()}
	}
	entries, err := fs.Glob(root, "docs/adr/*.md")
	if err != nil {
		return []string{err.Error()}
	}
	form := regexp.MustCompile(`^(\d{4})-[a-z0-9-]+\.md$`)
	var bad []string
	numbers := map[string]string{}
	for _, p := range entries {
		name := path.Base(p)
		if name == "README.md" {
			continue
		}
		m := form.FindStringSubmatch(name)
		if m == nil {
			bad = append(bad, p+": the name is not NNNN-title.md")
			continue
		}
		if other, dup := numbers[m[1]]; dup {
			bad = append(bad, fmt.Sprintf("%s: number %s is taken by %s", p, m[1], other))
		}
		numbers[m[1]] = name
		if !strings.Contains(string(index), "]("+name+")") {
			bad = append(bad, p+": not linked from docs/adr/README.md")
		}
		text, err := fs.ReadFile(root, p)
		if err != nil {
			bad = append(bad, err.Error())
			continue
		}
		for _, part := range []string{"\nStatus: ", "\n## Context\n", "\n## Decision\n", "\n## Consequences\n", "\n## How we would notice that it is wrong\n"} {
			if !strings.Contains(string(text), part) {
				bad = append(bad, fmt.Sprintf("%s: lacks %q", p, strings.TrimSpace(part)))
			}
		}
	}
	return bad
}

var (
	mdLink    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	mdHeading = regexp.MustCompile(`(?m)^#{1,6} +(.+)$`)
	mdFence   = regexp.MustCompile("(?ms)^```.*?^```")
	mdCode    = regexp.MustCompile("`[^`\n]*`")
)

// LinkRule finds relative links in Markdown files whose file or heading is not there.
func LinkRule(root fs.FS, files []string) []string {
	var bad []string
	for _, p := range files {
		if !strings.HasSuffix(p, ".md") {
			continue
		}
		text, err := fs.ReadFile(root, p)
		if err != nil {
			bad = append(bad, err.Error())
			continue
		}
		prose := mdCode.ReplaceAllString(mdFence.ReplaceAllString(string(text), ""), "")
		for _, m := range mdLink.FindAllStringSubmatch(prose, -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			file, anchor, _ := strings.Cut(m[1], "#")
			target := p
			if file != "" {
				target = path.Join(path.Dir(p), file)
			}
			if _, err := fs.Stat(root, target); err != nil {
				bad = append(bad, fmt.Sprintf("%s: link to %s, which is not there", p, m[1]))
				continue
			}
			if anchor == "" {
				continue
			}
			linked, err := fs.ReadFile(root, target)
			if err != nil || !slices.Contains(anchors(string(linked)), anchor) {
				bad = append(bad, fmt.Sprintf("%s: link to %s, which has no such heading", p, m[1]))
			}
		}
	}
	return bad
}

// anchors returns what a Markdown file's headings are called in links.
func anchors(text string) []string {
	var all []string
	for _, m := range mdHeading.FindAllStringSubmatch(mdFence.ReplaceAllString(text, ""), -1) {
		all = append(all, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
				return unicode.ToLower(r)
			}
			return -1
		}, strings.TrimSpace(m[1])))
	}
	return all
}

var (
	makeRule    = regexp.MustCompile(`(?m)^([a-z][a-z0-9-]*):([^=\n]*)$`)
	makeScript  = regexp.MustCompile(`(?m)^\t.*\$\(RUN\) (scripts/[a-z-]+)`)
	makeMention = regexp.MustCompile("`(?:[A-Z_]+=\\S+ )*make ([a-z][a-z0-9-]*)[^`]*`")
)

// Planned are documents that may name make targets that do not exist yet: they
// say themselves which do.
var planned = []string{"docs/contract.md"}

// MakeRule finds make targets without a help text, without .PHONY or without
// their script, and targets that documents name and the Makefile has not.
func MakeRule(root fs.FS, files []string) []string {
	makefile, err := fs.ReadFile(root, "Makefile")
	if err != nil {
		return []string{err.Error()}
	}
	var bad, targets []string
	for _, m := range makeRule.FindAllStringSubmatch(string(makefile), -1) {
		targets = append(targets, m[1])
		if !strings.Contains(m[2], "## ") {
			bad = append(bad, fmt.Sprintf("Makefile: target %s has no `## ` text, so `make help` does not show it", m[1]))
		}
		if !strings.Contains(string(makefile), "\n.PHONY: "+m[1]+"\n") {
			bad = append(bad, fmt.Sprintf("Makefile: target %s is not .PHONY", m[1]))
		}
	}
	for _, m := range makeScript.FindAllStringSubmatch(string(makefile), -1) {
		if info, err := fs.Stat(root, m[1]); err != nil || info.Mode()&0o111 == 0 {
			bad = append(bad, fmt.Sprintf("Makefile: %s is not an executable file", m[1]))
		}
	}
	for _, p := range files {
		if !strings.HasSuffix(p, ".md") || slices.Contains(planned, p) {
			continue
		}
		text, err := fs.ReadFile(root, p)
		if err != nil {
			bad = append(bad, err.Error())
			continue
		}
		for _, m := range makeMention.FindAllStringSubmatch(string(text), -1) {
			if !slices.Contains(targets, m[1]) {
				bad = append(bad, fmt.Sprintf("%s: names `make %s`, which does not exist", p, m[1]))
			}
		}
	}
	return bad
}

// machine matches paths of somebody's machine. The words are put together here
// so that this file does not match itself.
var machine = regexp.MustCompile(`(?:^|[^A-Za-z0-9_.$}-])/(?:` + "wo" + "rk|tm" + "p" + `)/`)

// MachinePathRule finds files that name a path that exists on one machine only.
// Sums are not text.
func MachinePathRule(root fs.FS, files []string) []string {
	var bad []string
	for _, p := range files {
		if strings.HasSuffix(p, ".sum") {
			continue
		}
		text, err := fs.ReadFile(root, p)
		if err != nil {
			continue // deleted in the working tree
		}
		for i, line := range strings.Split(string(text), "\n") {
			if machine.MatchString(line) {
				bad = append(bad, fmt.Sprintf("%s:%d: names a path of one machine: %.80q", p, i+1, line))
			}
		}
	}
	return bad
}
