// Package answer is what a node says beside an answer over gRPC: correlation id, its own id, its log index, and what is special about the answer.
//
// These facts travel in one header. Each header of an answer is encoded, sent,
// decoded and kept in a map by both sides: three of them were a fifth of what a
// small data operation costs beyond a bare call. Over HTTP/JSON they are three
// headers, which people and proxies read.
//
// # Invariants
//
//   - I1: what [Format] writes, [Parse] reads back; everything else is not understood, in whole.
//
// # Concurrency
//
// Values only.
//
// # Failure
//
// A header that is not understood counts as none.
//
// # Source
//
// docs/contract.md (gRPC); docs/performance.md.
package answer

import (
	"strconv"
	"strings"
)

// Header is the name of the header.
const Header = "krypton-answer"

// Info is what a node says.
type Info struct {
	Correlation string // id of the call, a UUID
	Node        string // id of the node, as in nodes/{id}
	// Index is the log index up to which the node had applied changes; 0: not said.
	Index uint64
	// Operation is the request id of the change that this answers, as in
	// operations/{id}; empty: it answers none.
	Operation string
	// Pending: the caller did not wait until that change was complete, and the node does
	// not know yet that it is. Only beside an operation.
	Pending bool
	// Stale: the node had no serving lease, so another node may know better. Only
	// reads of the registry are answered then.
	Stale bool
}

const (
	operationWord = " operation="
	pendingWord   = " pending"
	staleWord     = " stale"
)

// maxHeader bounds what is read: ids have 36, 32 and 36 characters, an index 20.
const maxHeader = 256

// Format returns the value of the header:
// "CORRELATION NODE INDEX[ operation=REQUEST[ pending]][ stale]".
func Format(i Info) string {
	b := make([]byte, 0, maxHeader) // of this function alone: it costs no allocation
	b = append(b, i.Correlation...)
	b = append(b, ' ')
	b = append(b, i.Node...)
	b = append(b, ' ')
	b = strconv.AppendUint(b, i.Index, 10)
	if i.Operation != "" {
		b = append(append(b, operationWord...), i.Operation...)
		if i.Pending {
			b = append(b, pendingWord...)
		}
	}
	if i.Stale {
		b = append(b, staleWord...)
	}
	return string(b)
}

// Parse reads the value of the header.
func Parse(s string) (i Info, ok bool) {
	if len(s) > maxHeader {
		return Info{}, false
	}
	s, i.Stale = strings.CutSuffix(s, staleWord)
	s, i.Pending = strings.CutSuffix(s, pendingWord)
	s, op, changes := strings.Cut(s, operationWord)
	id, rest, found := strings.Cut(s, " ")
	node, index, found2 := strings.Cut(rest, " ")
	n, err := strconv.ParseUint(index, 10, 64)
	if changes && (op == "" || strings.Contains(op, " ")) || i.Pending && !changes {
		return Info{}, false
	}
	if !found || !found2 || err != nil || id == "" || node == "" || strconv.FormatUint(n, 10) != index {
		return Info{}, false
	}
	i.Correlation, i.Node, i.Index, i.Operation = id, node, n, op
	return i, true
}
