package cluster

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

func said(voices map[NodeID]voice) func(NodeID) (voice, bool) {
	return func(id NodeID) (voice, bool) {
		v, ok := voices[id]
		return v, ok
	}
}

func TestI11_OnlyAMajorityOfVotersInTheTermCountsFromItsOldestVoice(t *testing.T) {
	const term = 7
	now := time.Now()
	voter, nonvoter := raft.Voter, raft.Nonvoter
	type says struct {
		term uint64 // 0: nothing
		age  int    // seconds
	}
	for _, tc := range []struct {
		name    string
		servers []raft.ServerSuffrage // the first is the leader
		others  []says
		age     int // -1: no majority
	}{
		{"alone", []raft.ServerSuffrage{voter}, nil, 0},
		{"itself of two", []raft.ServerSuffrage{voter, voter}, []says{{}}, -1},
		{"the newest of two others", []raft.ServerSuffrage{voter, voter, voter}, []says{{term, 5}, {term, 2}}, 2},
		{"one of two others", []raft.ServerSuffrage{voter, voter, voter}, []says{{}, {term, 9}}, 9},
		{"none of two others", []raft.ServerSuffrage{voter, voter, voter}, []says{{}, {}}, -1},
		{"others in a later term", []raft.ServerSuffrage{voter, voter, voter}, []says{{term + 1, 1}, {term + 1, 1}}, -1},
		{"others in an earlier term", []raft.ServerSuffrage{voter, voter, voter}, []says{{term - 1, 1}, {term - 1, 1}}, -1},
		{"the fresher one in a later term", []raft.ServerSuffrage{voter, voter, voter}, []says{{term + 1, 1}, {term, 4}}, 4},
		{"non-voters only", []raft.ServerSuffrage{voter, voter, voter, nonvoter, nonvoter}, []says{{}, {}, {term, 1}, {term, 1}}, -1},
		{"fresh non-voters", []raft.ServerSuffrage{voter, voter, voter, nonvoter}, []says{{term, 6}, {term, 7}, {term, 1}}, 6},
		{"two of four others", []raft.ServerSuffrage{voter, voter, voter, voter, voter}, []says{{}, {term, 3}, {term, 8}, {}}, 8},
		{"one of four others", []raft.ServerSuffrage{voter, voter, voter, voter, voter}, []says{{}, {}, {term, 1}, {}}, -1},
		{"a leader that is no voter", []raft.ServerSuffrage{nonvoter, voter, voter}, []says{{term, 1}, {}}, -1},
	} {
		var servers []raft.Server
		voices := map[NodeID]voice{}
		for i, s := range tc.servers {
			id := fmt.Sprintf("n%d", i)
			servers = append(servers, raft.Server{ID: raft.ServerID(id), Suffrage: s})
			if i > 0 && tc.others[i-1].term != 0 {
				o := tc.others[i-1]
				voices[NodeID(id)] = voice{term: o.term, since: now.Add(-time.Duration(o.age) * time.Second)}
			}
		}
		at, ok := quorumTime("n0", servers, term, now, said(voices))
		if ok != (tc.age >= 0) || ok && now.Sub(at) != time.Duration(tc.age)*time.Second {
			t.Errorf("%s: %s ago, %v; want %d s", tc.name, now.Sub(at), ok, tc.age)
		}
	}
}

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
		voices := map[NodeID]voice{"nonvoter": {ahead: time.Hour}}
		for i, s := range tc.ahead {
			id := NodeID(fmt.Sprintf("n%d", i))
			servers = append(servers, raft.Server{ID: raft.ServerID(id)})
			voices[id] = voice{ahead: time.Duration(s) * time.Second}
		}
		for i := range tc.silent {
			servers = append(servers, raft.Server{ID: raft.ServerID(fmt.Sprintf("silent%d", i))})
		}
		servers = append(servers, raft.Server{ID: "nonvoter", Suffrage: raft.Nonvoter})
		d, ok := clockAhead("self", servers, said(voices))
		if ok != (tc.want != -1) || ok && d != time.Duration(tc.want)*time.Second {
			t.Errorf("%s: %s, %v; want %d s", tc.name, d, ok, tc.want)
		}
		if d > maxAhead {
			situationtest.Error(t, "machine/clock-ahead", errClockAhead("self", d))
		}
	}
}

// TestI15_OnlyMostVotersStopALeader: neither one that lies, nor two of five, nor
// any number of others.
func TestI15_OnlyMostVotersStopALeader(t *testing.T) {
	const term = 7
	v, n := raft.Voter, raft.Nonvoter
	for _, tc := range []struct {
		name    string
		servers []raft.ServerSuffrage // the first is the leader
		against []int
		old     []int // contradicted in the term before
		stops   bool
	}{
		{"alone", []raft.ServerSuffrage{v}, nil, nil, false},
		{"alone with others that are no voters", []raft.ServerSuffrage{v, n, n}, []int{1, 2}, nil, false},
		{"the other one of two", []raft.ServerSuffrage{v, v}, []int{1}, nil, false},
		{"one of three", []raft.ServerSuffrage{v, v, v}, []int{1}, nil, false},
		{"both others of three", []raft.ServerSuffrage{v, v, v}, []int{1, 2}, nil, true},
		{"one of three and two that are no voters", []raft.ServerSuffrage{v, v, v, n, n}, []int{1, 3, 4}, nil, false},
		{"one, and one in the term before", []raft.ServerSuffrage{v, v, v}, []int{1}, []int{2}, false},
		{"two of four", []raft.ServerSuffrage{v, v, v, v}, []int{1, 2}, nil, false},
		{"two of five", []raft.ServerSuffrage{v, v, v, v, v}, []int{1, 2}, nil, false},
		{"three of five", []raft.ServerSuffrage{v, v, v, v, v}, []int{1, 2, 4}, nil, true},
		{"one that was removed, of three", []raft.ServerSuffrage{v, v, v}, []int{1, 9}, nil, false},
	} {
		ct := &contact{asked: map[NodeID]question{}}
		var servers []raft.Server
		for i, s := range tc.servers {
			servers = append(servers, raft.Server{ID: raft.ServerID(fmt.Sprintf("n%d", i)), Suffrage: s})
		}
		for _, i := range tc.against {
			ct.asked[NodeID(fmt.Sprintf("n%d", i))] = question{voice: voice{term: term, since: time.Now(), differs: true}}
		}
		for _, i := range tc.old {
			ct.asked[NodeID(fmt.Sprintf("n%d", i))] = question{voice: voice{term: term - 1, since: time.Now(), differs: true}}
		}
		if got := ct.contradicted(servers, term); got != tc.stops {
			t.Errorf("%s: stops %v", tc.name, got)
		}
	}
}
