//go:build unix

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// auditRecords is how many records the log that is verified has, about 6 MiB.
const auditRecords = 15_000

func auditPairs() []pair {
	const written = "write(2) of the same bytes, one per record"
	return []pair{
		{
			name: "audit append, 1 caller", baseline: written, goal: 0.20, open: appending(1),
			why: "the record is encoded and hashed, and written by another goroutine, because a disk that hangs must not hold its caller",
		},
		{
			name: "audit append, 32 callers", baseline: written + ", the callers in turn", goal: 0.30, open: appending(many),
			why: "records that arrive together share a system call, which has to pay for the hand-over",
		},
		{
			name: "audit verify", baseline: "reading the same files, and SHA-256", goal: 0.25, open: verifying,
			why: "every line is hashed, decoded, and encoded again to prove that it has one form",
		},
	}
}

// dataRecord is what a data operation records.
func dataRecord() audit.Record {
	return audit.Record{
		Class: audit.Data, Phase: audit.Whole, Act: "crypto.encrypt", Outcome: errs.OutcomeOK,
		Correlation: "0198c0de-0000-7000-8000-000000000000", Object: service, LatencyUs: 123, BytesIn: 256, BytesOut: 256 + 106,
		Principal:  "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef/workload/acme/0123456789abcdef0123456789abcdef/app",
		Role:       "workload",
		KeyVersion: "0123456789abcdef0123456789abcdef",
	}
}

func openLog(e *env, name string) (*audit.Log, string, error) {
	dir := filepath.Join(e.dir, name)
	l, err := audit.Open(audit.Config{Dir: dir, Node: "n1", ReserveBytes: audit.MinReserveBytes, Clock: clock.System{}})
	return l, dir, err
}

func appending(callers int) func(context.Context, *env) (match, error) {
	return func(_ context.Context, e *env) (match, error) {
		name := "append-one"
		if callers > 1 {
			name = "append-many"
		}
		l, dir, err := openLog(e, name) //nolint:contextcheck // The log lives until it is closed.
		if err != nil {
			return match{}, err
		}
		r := dataRecord()
		line := append(audit.AppendLine(nil, &r), '\n')
		f, err := os.Create(filepath.Join(e.dir, name+"-baseline"))
		if err != nil {
			return match{}, errors.Join(err, l.Close())
		}
		var mu sync.Mutex
		return match{
			subject: side{loop: crowd(callers, func(context.Context, int) error { return l.Append(r) })},
			baseline: side{loop: crowd(callers, func(context.Context, int) error {
				mu.Lock()
				defer mu.Unlock()
				_, err := f.Write(line)
				return err
			})},
			// Gone at once: two logs of some seconds would fill a small disk.
			close: func() error { return errors.Join(l.Close(), f.Close(), os.RemoveAll(dir), os.Remove(f.Name())) },
		}, nil
	}
}

func verifying(ctx context.Context, e *env) (match, error) {
	l, dir, err := openLog(e, "verify") //nolint:contextcheck // The log lives until it is closed.
	if err != nil {
		return match{}, err
	}
	for range auditRecords {
		if err := l.Append(dataRecord()); err != nil {
			return match{}, errors.Join(err, l.Close())
		}
		if ctx.Err() != nil {
			return match{}, errors.Join(ctx.Err(), l.Close())
		}
	}
	if err := l.Close(); err != nil {
		return match{}, err
	}
	segments, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		return match{}, err
	}
	slices.Sort(segments)
	return match{
		subject: side{loop: alone(func() error {
			sum, err := audit.Verify(dir)
			if err == nil && sum.Records < auditRecords {
				return errors.New("a part of the log was not verified")
			}
			return err
		})},
		baseline: side{loop: alone(func() error {
			h := sha256.New()
			for _, name := range segments {
				if err := readInto(h, name); err != nil {
					return err
				}
			}
			h.Sum(nil)
			return nil
		})},
	}, nil
}

// readInto reads a whole file into w.
func readInto(w io.Writer, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return errors.Join(err, f.Close())
}
