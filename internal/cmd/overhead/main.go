// Command overhead reads the output of several runs of the keystores' benchmarks
// and prints what a wrap and an unwrap cost over the bare call of the client
// library, against the same component: a ratio of medians.
//
// With RESULT_FIELDS in the environment (see scripts/target) the number of ratios
// and the largest also go to that file.
//
// # Invariants
//
//   - I1: a row is a pair NAME/Bare and NAME/Krypton of one package; one without the other fails.
//   - I2: a package that failed, and input without a pair, fail.
//
// # Concurrency
//
// One goroutine.
//
// # Failure
//
// Lines that are no measurements are passed over, but for FAIL.
//
// # Source
//
// The benchmark format of the Go project (golang.org/design/14313-benchmark-format).
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

func main() {
	rows, err := read(os.Stdin)
	if err == nil {
		err = report(os.Stdout, rows, os.Getenv("RESULT_FIELDS"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "overhead:", err)
		os.Exit(1)
	}
}

// row is one call of one keystore, in nanoseconds, a value for each run.
type row struct{ bare, krypton []float64 }

var measured = regexp.MustCompile(`^Benchmark\w+/(.+)/(Bare|Krypton)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op`)

// read returns the rows by keystore and call.
func read(r io.Reader) (map[string]*row, error) {
	rows := map[string]*row{}
	keystore := ""
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		if name, ok := strings.CutPrefix(line, "pkg: "); ok {
			keystore = path.Base(name)
		}
		if strings.HasPrefix(line, "FAIL") || strings.HasPrefix(line, "--- FAIL") {
			return nil, errors.New("a benchmark failed; run it alone: go test -run '^$' -bench . ./keystore/" + keystore)
		}
		m := measured.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		ns, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			return nil, fmt.Errorf("line %q: %w", line, err)
		}
		key := keystore + " " + strings.ToLower(m[1])
		if rows[key] == nil {
			rows[key] = &row{}
		}
		if m[2] == "Bare" {
			rows[key].bare = append(rows[key].bare, ns)
		} else {
			rows[key].krypton = append(rows[key].krypton, ns)
		}
	}
	return rows, lines.Err()
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// report prints the rows and appends the fields of the result.
func report(w io.Writer, rows map[string]*row, fields string) error {
	if len(rows) == 0 {
		return errors.New("nothing was measured")
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "keystore\tcall\tbare µs\tkrypton µs\tratio\t")
	largest := 0.0
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		r := rows[key]
		if len(r.bare) == 0 || len(r.krypton) != len(r.bare) {
			return fmt.Errorf("%s was measured %d times bare and %d times through Krypton", key, len(r.bare), len(r.krypton))
		}
		bare, krypton := median(r.bare), median(r.krypton)
		largest = max(largest, krypton/bare)
		name, call, _ := strings.Cut(key, " ")
		fmt.Fprintf(t, "%s\t%s\t%.0f\t%.0f\t%.2f\t\n", name, call, bare/1000, krypton/1000, krypton/bare)
	}
	if err := t.Flush(); err != nil || fields == "" {
		return err
	}
	f, err := os.OpenFile(fields, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600) //nolint:gosec // The path is the caller's own: scripts/target names it.
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "ratios=%d\nlargest=%.2f\n", len(rows), largest)
	return errors.Join(err, f.Close())
}
