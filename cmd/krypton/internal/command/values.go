package command

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/urfave/cli/v2"
)

// The values of flags, and how values are written for people.

// formats are the values of --output.
func formats() []string { return []string{"table", "json"} }

// roles are the values of --role.
func roles() []string { return []string{"governor", "custodian", "operator", "auditor", "workload"} }

// algorithms are the values of --algorithm.
func algorithms() []string { return []string{"ecdsa", "ed25519"} }

// checkValue makes sure that a flag can take a value. urfave/cli would, too, but
// speaks of parse errors and of flags with one dash.
func checkValue(f cli.Flag, name, value string) error {
	want := ""
	switch f.(type) {
	case *cli.DurationFlag:
		d, err := time.ParseDuration(value)
		switch {
		case err != nil:
			want = "give a duration such as 30s, 10m or 24h"
		case d < 0:
			return usagef("give a duration such as 30s, 10m or 24h", "--%s is negative", name)
		}
	case *cli.UintFlag:
		if _, err := strconv.ParseUint(value, 0, 64); err != nil {
			want = "give a whole number from 0"
		}
	case *cli.IntFlag, *cli.Int64Flag:
		if _, err := strconv.ParseInt(value, 0, 64); err != nil {
			want = "give a whole number"
		}
	case *cli.Float64Flag:
		if _, err := strconv.ParseFloat(value, 64); err != nil {
			want = "give a number"
		}
	case *cli.BoolFlag:
		if _, err := strconv.ParseBool(value); err != nil {
			want = fmt.Sprintf("give --%s, or leave it out", name)
		}
	}
	if want != "" {
		return usagef(want, "%q is no value of --%s", value, name)
	}
	return nil
}

// requestID returns the usual spelling of a UUID, which may be given in capitals,
// without dashes or in braces.
func requestID(what, s string) (string, error) {
	id, err := uuid.Parse(s)
	if err != nil {
		return "", usagef("make one with uuidgen", "%s is not a UUID", what)
	}
	return id.String(), nil
}

// span returns a duration as people say it: 30s, 1h30m, 24h, 7 days.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d == 0:
		return "none"
	case d >= 2*day && d%day == 0:
		return fmt.Sprintf("%d days", d/day)
	}
	s := d.String()
	if cut, ok := strings.CutSuffix(s, "m0s"); ok {
		s = cut + "m"
	}
	if cut, ok := strings.CutSuffix(s, "h0m"); ok {
		s = cut + "h"
	}
	return s
}

// isNull reports whether f is the null device. Go opens it in place of a
// descriptor that was closed, too.
func isNull(f *os.File) bool {
	st, err := f.Stat()
	if err != nil {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err == nil && os.SameFile(st, null)
}
