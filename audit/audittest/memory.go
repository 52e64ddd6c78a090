// Package audittest is what tests of the audit trail and of its users need: a
// sink in memory, a file system with faults, and the suite that every sink passes.
//
// # Invariants
//
//   - I1: Memory behaves as a Sink must: it stamps seq and node, and after one failure it accepts nothing.
//   - I2: a fault hits exactly the operation it was set for, and every later one of that kind until Heal.
//
// # Concurrency
//
// Memory and FS are safe for concurrent use.
//
// # Failure
//
// Faults are what this package is for; it has none of its own.
//
// # Source
//
// The conformance suites of SPIRE, the fault file systems of Pebble.
package audittest

import (
	"slices"
	"sync"

	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Memory is a sink that keeps its records. The zero value is ready to use.
type Memory struct {
	mu      sync.Mutex
	records []audit.Record
	left    int // appends until failure; only if armed
	armed   bool
	failure error
}

// Append implements [audit.Sink].
func (m *Memory) Append(r audit.Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failure == nil && m.armed {
		if m.left == 0 {
			m.failure = errs.New(errs.AuditUnavailable, "the audit log cannot be written: test")
		}
		m.left--
	}
	if m.failure != nil {
		return m.failure
	}
	r.Seq = uint64(len(m.records)) + 1
	r.Node = "test"
	m.records = append(m.records, r)
	return nil
}

// Err implements [audit.Sink].
func (m *Memory) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failure
}

// FailAfter makes every append fail once n more have succeeded.
func (m *Memory) FailAfter(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.armed, m.left = true, n
}

// Records returns a copy of what was appended.
func (m *Memory) Records() []audit.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.records)
}
