//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"
)

func (r *result) verdict() string {
	if r.met() {
		return "met"
	}
	return "MISSED"
}

// spread is the lowest and the highest ratio of a round: what the machine did.
func (r *result) spread() string {
	lowest, highest := r.ratios[0], r.ratios[0]
	for _, x := range r.ratios {
		lowest, highest = min(lowest, x), max(highest, x)
	}
	return fmt.Sprintf("%.2f-%.2f", lowest, highest)
}

func per(total float64, t tally) string { return fmt.Sprintf("%.1f", total/float64(t.ops)) }

// micros is the processor time per operation, in microseconds; of the server and
// of its caller, where the side is another process.
func (r *result) micros(c cost, t tally) string {
	per := func(seconds float64) float64 { return seconds / float64(t.ops) * 1e6 }
	if !r.remote {
		return fmt.Sprintf("%.1f", per(c.cpu))
	}
	return fmt.Sprintf("%.1f+%.1f", per(c.cpu), per(c.caller))
}

var columns = []string{ //nolint:gochecknoglobals // A constant.
	"goal", "at least", "ratio", "rounds", "verdict", "allocs/op", "B/op", "CPU us/op", "baseline: allocs", "B", "CPU us", "ops/s", "baseline",
}

func (r *result) cells() []string {
	return []string{
		r.name, fmt.Sprintf("%.2f", r.goal), fmt.Sprintf("%.2f", r.ratio()), r.spread(), r.verdict(),
		per(r.used.allocs, r.subject), per(r.used.bytes, r.subject), r.micros(r.used, r.subject),
		per(r.usedBase.allocs, r.baseline), per(r.usedBase.bytes, r.baseline), r.micros(r.usedBase, r.baseline),
		fmt.Sprintf("%.0f", r.subject.rate()), r.pair.baseline,
	}
}

func table(out io.Writer, results []result) {
	if len(results) == 0 {
		return
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(columns, "\t"))
	for _, r := range results {
		fmt.Fprintln(w, strings.Join(r.cells(), "\t"))
	}
	_ = w.Flush() // A terminal that is gone.
	for _, r := range results {
		if !r.met() {
			fmt.Fprintf(out, "\nmissed: %s: %.2f of %s, the goal is %.2f: %s\n", r.name, r.ratio(), r.pair.baseline, r.goal, r.why)
		}
	}
	fmt.Fprintln(out)
}

func markdownTable(results []result) string {
	var b strings.Builder
	b.WriteString("| goal | compared with | at least | ratio | rounds | why this goal |\n| :--- | :--- | ---: | ---: | ---: | :--- |\n")
	for _, r := range results {
		fmt.Fprintf(&b, "| %s | %s | %.2f | %.2f | %s | %s |\n", r.name, r.pair.baseline, r.goal, r.ratio(), r.spread(), r.why)
	}
	return b.String()
}

// line is one goal in build/results/bench-goals.json.
type line struct {
	Goal         string    `json:"goal"`
	Baseline     string    `json:"baseline"`
	AtLeast      float64   `json:"at_least"`
	Ratio        float64   `json:"ratio"`
	Rounds       []float64 `json:"rounds"`
	Met          bool      `json:"met"`
	Why          string    `json:"why"`
	AllocsPerOp  float64   `json:"allocs_per_op"`
	BytesPerOp   float64   `json:"bytes_per_op"`
	CPUMicros    float64   `json:"cpu_us_per_op,omitempty"`
	BaselineCPU  float64   `json:"baseline_cpu_us_per_op,omitempty"`
	OpsPerSecond float64   `json:"ops_per_second"`
	Found        string    `json:"found,omitempty"` // of a drill, which has nothing of the rest but its goal
}

// summary is how many goals were met, and the verdict (I2).
func summary(results []result, found []finding) (fields, verdict string) {
	met := 0
	for _, r := range results {
		if r.met() {
			met++
		}
	}
	for _, f := range found {
		if f.met {
			met++
		}
	}
	all := len(results) + len(found)
	verdict = "pass"
	if met < all || met == 0 {
		verdict = "miss"
	}
	return fmt.Sprintf("goals_met=%d/%d", met, all), verdict
}

// report hands the result to scripts/target, or prints it itself when it was not
// started by that. The error is [errMissed] when a goal was.
func report(out io.Writer, results []result, found []finding, took time.Duration) error {
	fields, verdict := summary(results, found)
	if path := os.Getenv("RESULT_FIELDS"); path == "" {
		fmt.Fprintf(out, "RESULT bench %s %s seconds=%d\n", verdict, fields, int(took.Seconds()))
	} else if err := hand(results, found, path, fields, verdict); err != nil {
		return err
	}
	if verdict != "pass" {
		return errMissed
	}
	return nil
}

// hand writes the files that scripts/target reads, and the goals in full beside
// the result.
func hand(results []result, found []finding, path, fields, verdict string) error {
	lines := make([]line, 0, len(results)+len(found))
	for _, r := range results {
		ops := float64(r.subject.ops)
		lines = append(lines, line{
			Goal: r.name, Baseline: r.pair.baseline, AtLeast: r.goal, Ratio: r.ratio(), Rounds: r.ratios, Met: r.met(), Why: r.why,
			AllocsPerOp: r.used.allocs / ops, BytesPerOp: r.used.bytes / ops,
			CPUMicros: r.used.cpu / ops * 1e6, BaselineCPU: r.usedBase.cpu / float64(r.baseline.ops) * 1e6, OpsPerSecond: r.subject.rate(),
		})
	}
	for _, f := range found {
		lines = append(lines, line{Goal: f.name + ": " + f.goal, Why: f.why, Met: f.met, Found: f.said})
	}
	raw, err := json.MarshalIndent(lines, "", "  ")
	if err != nil {
		return err
	}
	root, err := repository()
	if err != nil {
		return err
	}
	for name, content := range map[string]string{
		filepath.Join(root, "build", "results", "bench-goals.json"): string(raw) + "\n",
		path:                        fields + "\n",
		os.Getenv("RESULT_VERDICT"): verdict + "\n",
	} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			return err
		}
	}
	return nil
}
