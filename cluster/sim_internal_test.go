package cluster

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// What `make sim` asks for. Without flags the test is a short one.
var (
	simSeed      = flag.Uint64("sim.seed", 1, "seed of the first history")
	simHistories = flag.Int("sim.histories", 3, "histories with every kind of fault")
	simCalm      = flag.Int("sim.calm", 1, "histories in which leaders are lost one by one and gaps are measured")
	simWAN       = flag.Int("sim.wan", 1, "histories with every kind of fault and voters in different regions")
	simWANCalm   = flag.Int("sim.wancalm", 0, "histories in which leaders are lost one by one, with voters in different regions")
	simLength    = flag.Duration("sim.length", 40*time.Second, "how long faults happen in a history, in simulated time")
	simOnly      = flag.String("sim.fault", "", "the only fault that happens")
	simLikely    = flag.String("sim.likely", "", "the fault that is every second one")
	simFirst     = flag.Bool("sim.first", false, "begin no other history once one shows a violation")
	simReport    = flag.String("sim.report", "", "file for what the histories showed, as JSON")
)

// simSummary is what `make sim` reads.
type simSummary struct {
	simStats

	Histories  int                   `json:"histories"`
	Caught     []uint64              `json:"caught"` // seeds of histories with violations
	Violations []string              `json:"violations"`
	Reads      map[Profile]*simReads `json:"reads"`
	Faults     map[string]int        `json:"faults"`
}

// Any node serves, and what was acknowledged is over everywhere: real Raft, the
// real shell of leases and the real state machine, over a network and clocks that
// do what they can.
func TestSimulation(t *testing.T) {
	sum := simSummary{Faults: map[string]int{}, Reads: map[Profile]*simReads{ProfileLAN: simReadsOf(ProfileLAN), ProfileWAN: simReadsOf(ProfileWAN)}}
	var mu sync.Mutex
	var over atomic.Bool
	// A history is one goroutine at a time for the most part.
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	one := func(seed uint64, plan simPlan) func(*testing.T) {
		return func(t *testing.T) {
			t.Helper()
			t.Parallel()
			slots <- struct{}{}
			defer func() { <-slots }()
			if over.Load() {
				return
			}
			if *simFirst {
				plan.over = over.Load
			}
			plan.likely = *simLikely
			r := simulate(t, seed, plan)
			mu.Lock()
			defer mu.Unlock()
			sum.Histories++
			sum.add(r.simStats)
			sum.Reads[plan.profile].add(r.Reads)
			for f, n := range r.Faults {
				sum.Faults[f] += n
			}
			if len(r.Violations) > 0 {
				over.Store(*simFirst)
				sum.Caught = append(sum.Caught, seed)
				for _, v := range r.Violations {
					sum.Violations = append(sum.Violations, fmt.Sprintf("seed %d: %s", seed, v))
					t.Errorf("seed %d: %s", seed, v)
				}
			}
		}
	}
	t.Run("histories", func(t *testing.T) {
		faults := simFaults()
		if *simOnly != "" {
			faults = slices.DeleteFunc(append(faults, simLosses()...), func(f simFault) bool { return f.name != *simOnly })
		}
		for _, kind := range []struct {
			profile Profile
			all     int
			calm    int
		}{{ProfileLAN, *simHistories, *simCalm}, {ProfileWAN, *simWAN, *simWANCalm}} {
			for i := range kind.all {
				seed := *simSeed + uint64(i)
				t.Run(fmt.Sprintf("%s/seed=%d", kind.profile, seed), one(seed, simPlan{profile: kind.profile, faults: faults, length: *simLength, keys: 2}))
			}
			for i := range kind.calm {
				seed := *simSeed + uint64(i)
				t.Run(fmt.Sprintf("%s/calm/seed=%d", kind.profile, seed), one(seed, simPlan{profile: kind.profile, faults: simLosses(), length: *simLength, keys: 2, calm: true}))
			}
		}
	})
	t.Logf("%d histories from seed %d: %+v", sum.Histories, *simSeed, sum.simStats)
	if *simReport != "" {
		for _, r := range sum.Reads {
			slices.Sort(r.Gaps)
		}
		raw, err := json.Marshal(sum)
		if err == nil {
			err = os.WriteFile(*simReport, raw, 0o600)
		}
		if err != nil {
			t.Error(err)
		}
		return
	}
	if !t.Failed() && *simOnly == "" && (sum.Failovers < 5 || sum.Ops < 2000) {
		t.Errorf("too little happened: %+v", sum.simStats)
	}
}
