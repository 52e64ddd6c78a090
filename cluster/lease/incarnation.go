package lease

import (
	"cmp"
	"fmt"
)

// Incarnation names one life of a node's view, in order. Within one the view only
// grows, so that what was reported once stays true (I6). The zero value is no
// incarnation; a node's first has Boot 1.
type Incarnation struct {
	// Boot counts the starts of the process. It is durable in the data directory
	// before the first request of that start leaves.
	Boot uint64
	// Restores counts how often the state machine was given a snapshot since.
	Restores uint64
}

// Compare returns -1, 0 or 1 as i is older than, the same as, or newer than j.
func (i Incarnation) Compare(j Incarnation) int {
	return cmp.Or(cmp.Compare(i.Boot, j.Boot), cmp.Compare(i.Restores, j.Restores))
}

// String returns boot.restores.
func (i Incarnation) String() string { return fmt.Sprintf("%d.%d", i.Boot, i.Restores) }
