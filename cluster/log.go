package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/openkcm/krypton-cluster/internal/clock"
)

// maxLogValue bounds one value of a log line of the Raft library.
const maxLogValue = 512

// raftLog writes the log lines of the Raft library to slog. Only values that
// cannot be the content of an entry get through: no byte slices, and no structs
// but those of the Raft configuration.
type raftLog struct {
	hclog.Logger // answers what the library never asks

	to   slog.Handler
	clk  clock.Clock
	name string
	with []slog.Attr
}

func newRaftLog(l *slog.Logger, clk clock.Clock) hclog.Logger {
	return &raftLog{Logger: hclog.NewNullLogger(), to: l.Handler(), clk: clk, name: "raft"}
}

func slogLevel(l hclog.Level) slog.Level {
	switch l {
	case hclog.Trace:
		return slog.LevelDebug - 4
	case hclog.Debug:
		return slog.LevelDebug
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Error:
		return slog.LevelError
	case hclog.Info, hclog.NoLevel, hclog.Off:
	}
	return slog.LevelInfo
}

// Log implements [hclog.Logger].
func (l *raftLog) Log(level hclog.Level, msg string, args ...any) {
	if expected(args) {
		level = hclog.Debug // As it should be, every few minutes while sealed, or until a state was compared.
	}
	ctx := context.Background()
	if !l.to.Enabled(ctx, slogLevel(level)) {
		return
	}
	r := slog.NewRecord(l.clk.Now(), slogLevel(level), msg, caller())
	r.AddAttrs(slog.String("component", l.name))
	r.AddAttrs(l.with...)
	r.AddAttrs(safeAttrs(args)...)
	_ = l.to.Handle(ctx, r) // a log that cannot be written has nobody to tell
}

// expected reports whether the line is about a snapshot that was not written because
// the node is sealed, or about what a node refuses whose state was not compared. The
// library wraps errors as text, and those of another member are text.
func expected(args []any) bool {
	for _, a := range args {
		err, ok := a.(error)
		if !ok {
			continue
		}
		for _, as := range []error{errSealedSnapshot, errUncompared, errTooEarly} {
			if strings.Contains(err.Error(), as.Error()) {
				return true
			}
		}
	}
	return false
}

func caller() uintptr {
	var pcs [1]uintptr
	runtime.Callers(4, pcs[:])
	return pcs[0]
}

func safeAttrs(args []any) []slog.Attr {
	out := make([]slog.Attr, 0, len(args)/2)
	for i := 0; i+1 < len(args); i += 2 {
		key, ok := args[i].(string)
		if !ok {
			continue
		}
		out = append(out, slog.String(key, safeValue(args[i+1])))
	}
	return out
}

func safeValue(v any) string {
	s := safeText(v)
	if len(s) > maxLogValue {
		s = s[:maxLogValue] + "..."
	}
	return s
}

func safeText(v any) string {
	switch x := v.(type) {
	case string:
		return x
	case error:
		return x.Error()
	case bool, int, int32, int64, uint, uint8, uint32, uint64, float64, time.Duration, time.Time,
		raft.ServerID, raft.ServerAddress, raft.RaftState, raft.ServerSuffrage:
		return fmt.Sprint(x)
	case raft.Server:
		return string(x.ID) + "/" + x.Suffrage.String()
	case []raft.Server:
		all := make([]string, len(x))
		for i, s := range x {
			all[i] = safeText(s)
		}
		return strings.Join(all, " ")
	case hclog.Format:
		return safeFormat(x)
	case fmt.Stringer:
		return x.String()
	}
	return fmt.Sprintf("(%T)", v)
}

// safeFormat is what hclog makes of a format and its values, with the values as
// safeText writes them: formats of the library print whole messages.
func safeFormat(f hclog.Format) string {
	if len(f) == 0 {
		return ""
	}
	format, ok := f[0].(string)
	if !ok {
		return "(format)"
	}
	args := make([]any, 0, len(f)-1)
	for _, a := range f[1:] {
		switch a.(type) {
		case int, int32, int64, uint, uint32, uint64, float64:
			args = append(args, a) // for the verbs of numbers
		default:
			args = append(args, safeText(a))
		}
	}
	return fmt.Sprintf(format, args...)
}

// Trace implements [hclog.Logger].
func (l *raftLog) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }

// Debug implements [hclog.Logger].
func (l *raftLog) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }

// Info implements [hclog.Logger].
func (l *raftLog) Info(msg string, args ...any) { l.Log(hclog.Info, msg, args...) }

// Warn implements [hclog.Logger].
func (l *raftLog) Warn(msg string, args ...any) { l.Log(hclog.Warn, msg, args...) }

// Error implements [hclog.Logger].
func (l *raftLog) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

// With implements [hclog.Logger].
func (l *raftLog) With(args ...any) hclog.Logger {
	c := *l
	c.with = append(append([]slog.Attr(nil), l.with...), safeAttrs(args)...)
	return &c
}

// Name implements [hclog.Logger].
func (l *raftLog) Name() string { return l.name }

// Named implements [hclog.Logger].
func (l *raftLog) Named(name string) hclog.Logger { return l.ResetNamed(l.name + "." + name) }

// ResetNamed implements [hclog.Logger].
func (l *raftLog) ResetNamed(name string) hclog.Logger {
	c := *l
	c.name = name
	return &c
}
