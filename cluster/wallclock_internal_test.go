package cluster

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

func TestALeaderFarAheadOfTheMedianClockIsFound(t *testing.T) {
	for _, tc := range []struct {
		name   string
		ahead  []int // seconds, of each voter that told its time
		silent int   // other voters
		want   int   // -1: not known
	}{
		{"alone", nil, 0, 0},
		{"nobody told", nil, 2, -1},
		{"all agree", []int{0, 1}, 0, 0},
		{"one other is behind", []int{0, 900}, 0, 0},
		{"this one is ahead", []int{90, 95}, 0, 90},
		{"this one is behind", []int{-90, -95}, 0, -90},
		{"one of two is silent: in doubt it is this one", []int{90}, 1, 90},
		{"two of four are ahead of nobody", []int{90, 90, 0, 0}, 0, 0},
		{"three of four", []int{90, 90, 90, 0}, 0, 90},
	} {
		servers := []raft.Server{{ID: "self"}}
		voices := map[NodeID]time.Duration{"nonvoter": time.Hour}
		for i, s := range tc.ahead {
			id := NodeID(fmt.Sprintf("n%d", i))
			servers = append(servers, raft.Server{ID: raft.ServerID(id)})
			voices[id] = time.Duration(s) * time.Second
		}
		for i := range tc.silent {
			servers = append(servers, raft.Server{ID: raft.ServerID(fmt.Sprintf("silent%d", i))})
		}
		servers = append(servers, raft.Server{ID: "nonvoter", Suffrage: raft.Nonvoter})
		d, ok := clockAhead("self", servers, func(id NodeID) (time.Duration, bool) {
			d, ok := voices[id]
			return d, ok
		})
		if ok != (tc.want != -1) || ok && d != time.Duration(tc.want)*time.Second {
			t.Errorf("%s: %s, %v; want %d s", tc.name, d, ok, tc.want)
		}
		if d > maxAhead {
			situationtest.Error(t, "machine/clock-ahead", errClockAhead("self", d))
		}
	}
}
