package fsm

import (
	"sort"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
)

// MaxGenerations bounds how many MasterKeys a keyspace has in its life.
const MaxGenerations = 4096

// GenerationOf returns the generation of the MasterKey in a cluster: 1 at its
// founding, and one more with every rekey. What a leader vouches for, what wraps the
// internal keys, and what a snapshot is authenticated by depends on that MasterKey.
func GenerationOf(c *fsmpb.Cluster) hierarchy.Generation {
	return hierarchy.Generation(1 + len(c.GetGenerationBegins()))
}

// Generation is [GenerationOf] the cluster in the view.
func (v *View) Generation() hierarchy.Generation { return GenerationOf(v.cluster) }

// GenerationAt returns the generation after the command at index, which is not
// behind the view.
func (v *View) GenerationAt(index uint64) hierarchy.Generation {
	begins := v.cluster.GetGenerationBegins()
	return hierarchy.Generation(1 + sort.Search(len(begins), func(i int) bool { return begins[i] > index })) //nolint:gosec // Not negative.
}

// checkGenerations checks a cluster of a snapshot.
func (l *loader) checkGenerations(c *fsmpb.Cluster) error {
	begins := c.GetGenerationBegins()
	if len(begins) > 0 && c.GetFormatVersion() < FormatCeremonies || len(begins) >= MaxGenerations {
		return corrupt("its cluster has MasterKeys that cannot be")
	}
	last := uint64(1) // the genesis is not before it
	for _, b := range begins {
		if b <= last || b > l.index {
			return corrupt("its MasterKeys have indexes that cannot be")
		}
		last = b
	}
	return nil
}
