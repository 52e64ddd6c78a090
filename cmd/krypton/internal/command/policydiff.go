package command

import (
	"strconv"
	"strings"
)

// maxDiffCells bounds the table that a comparison needs. Texts of more lines than
// that are shown whole, the old one and the new one.
const maxDiffCells = 1 << 22

// policyDiff says how a text changes, line by line, for who decides whether to sign
// it: what stays behind two blanks, what goes behind "- ", what comes behind "+ ".
// Every line is shown. What is no printable ASCII is escaped, so that no text can
// move the cursor or look like another.
func policyDiff(name, was, is string) string {
	var b strings.Builder
	line := func(mark, s string) {
		quoted := strconv.QuoteToASCII(s)
		quoted = strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
		b.WriteString(mark + quoted + "\n")
	}
	switch was {
	case "":
		b.WriteString(name + " is new:\n")
	case is:
		b.WriteString(name + " stays as it is:\n")
	default:
		b.WriteString(name + " changes:\n")
	}
	old, now := lines(was), lines(is)
	// Equal beginnings and ends need no table.
	head := 0
	for head < len(old) && head < len(now) && old[head] == now[head] {
		head++
	}
	tail := 0
	for tail < len(old)-head && tail < len(now)-head && old[len(old)-1-tail] == now[len(now)-1-tail] {
		tail++
	}
	for _, s := range old[:head] {
		line("  ", s)
	}
	for _, step := range steps(old[head:len(old)-tail], now[head:len(now)-tail]) {
		line(step.mark, step.text)
	}
	for _, s := range old[len(old)-tail:] {
		line("  ", s)
	}
	return b.String()
}

// lines are those of a text. Whether the last one is ended counts: it is signed.
func lines(s string) []string {
	if s == "" {
		return nil
	}
	all := strings.Split(s, "\n")
	if all[len(all)-1] == "" {
		return all[:len(all)-1]
	}
	all[len(all)-1] += " (without a line end)"
	return all
}

type diffStep struct{ mark, text string }

// steps turns old into now by a longest common subsequence.
func steps(old, now []string) (out []diffStep) {
	n, m := len(old), len(now)
	var common []int32
	if n*m <= maxDiffCells {
		common = make([]int32, (n+1)*(m+1))
		for i := n - 1; i >= 0; i-- {
			for j := m - 1; j >= 0; j-- {
				at := i*(m+1) + j
				if old[i] == now[j] {
					common[at] = common[at+m+2] + 1
				} else {
					common[at] = max(common[at+m+1], common[at+1])
				}
			}
		}
	}
	i, j := 0, 0
	for i < n && j < m && common != nil {
		at := i*(m+1) + j
		switch {
		case old[i] == now[j]:
			out = append(out, diffStep{"  ", old[i]})
			i, j = i+1, j+1
		case common[at+m+1] >= common[at+1]:
			out = append(out, diffStep{"- ", old[i]})
			i++
		default:
			out = append(out, diffStep{"+ ", now[j]})
			j++
		}
	}
	for _, s := range old[i:] {
		out = append(out, diffStep{"- ", s})
	}
	for _, s := range now[j:] {
		out = append(out, diffStep{"+ ", s})
	}
	return out
}
