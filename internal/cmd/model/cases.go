package main

import "strings"

// testCase is one configuration of a model and what it must show.
type testCase struct {
	model   string   // file without .pml
	defines []string // macros, NAME or NAME=value
	kind    kind
	breaks  string // bug, goal: part of the assertion that must break
	slow    bool   // only with -full
	memory  int    // MiB for the verifier; 0: the usual
	long    bool   // bug, goal: found late enough for an optimised verifier
}

// name is the model and its macros, as one name of a directory.
func (c testCase) name() string {
	return strings.Join(append([]string{c.model}, c.defines...), ",")
}

func (c testCase) optimise() string {
	if c.long {
		return "-O1"
	}
	return "-O0"
}

// Parts of the assertions of the models, as the verifier prints them.
const (
	s1      = "&&(applied[i]<acked)"  // serves without what was acknowledged
	s2      = "&&(applied[i]<served)" // serves older than somebody did
	s3      = "&&(applied[i]<over)"   // acts, tail included, on what is over
	onTwo   = "&&(applied[i]<2)"      // acts on the object before entry 2
	newest  = "&&(applied[2]=="       // goal: node 2 serves the newest state
	again   = "(estTerm[0]==3)"       // goal: node 0 leads for the second time
	restart = "(crashes>0)"           // goal: a restarted node serves
	tail    = "&&(applied[2]<2)"      // goal: a node acts in the tail
)

// gib is a GiB in MiB.
const gib = 1024

// cases are all configurations, those that take longest first within a tier.
var cases = []testCase{
	// What is built, exhaustively.
	{model: "lease", defines: []string{"MAXTERM=3", "LEASE=1"}, kind: exhaustive},
	{model: "lease", kind: exhaustive},
	{model: "lease", defines: []string{"CRASH=1", "MAXTERM=1"}, kind: exhaustive},
	{model: "lease", defines: []string{"HOLD=1"}, kind: exhaustive},
	{model: "lease", defines: []string{"HOLD=6", "MAXTERM=1", "LEASE=1"}, kind: exhaustive},

	// The search is not empty.
	{model: "lease", defines: []string{"REACH"}, kind: goal, breaks: newest},
	{model: "lease", defines: []string{"MAXTERM=3", "REACHFLAP"}, kind: goal, breaks: again},
	{model: "lease", defines: []string{"CRASH=1", "REACHCRASH"}, kind: goal, breaks: restart},

	// Each protection taken away.
	{model: "lease", defines: []string{"BUG_VERIFYLEADER", "LEASE=1"}, kind: bug, breaks: s1, long: true},
	{model: "lease", defines: []string{"BUG_STAR", "LEASE=1"}, kind: bug, breaks: s1},
	{model: "lease", defines: []string{"BUG_RESTORETABLE", "CRASH=1", "LEASE=1"}, kind: bug, breaks: s1, long: true},
	{model: "lease", defines: []string{"BUG_LATEEST", "MAXTERM=3", "MAXLEN=4", "LEASE=1"}, kind: bug, breaks: s1, long: true},
	{model: "lease", defines: []string{"BUG_NOEST", "LEASE=1"}, kind: bug, breaks: s1},
	{model: "lease", defines: []string{"BUG_NOWAIT"}, kind: bug, breaks: s1},
	{model: "lease", defines: []string{"BUG_NONVOTER"}, kind: bug, breaks: s1},
	{model: "lease", defines: []string{"BUG_NOVERIFY"}, kind: bug, breaks: s1},
	{model: "lease", defines: []string{"BUG_FLAPLATE"}, kind: bug, breaks: s1},
	{model: "lease", defines: []string{"BUG_FLAP", "MAXTERM=3"}, kind: bug, breaks: s1},
	{model: "lease", defines: []string{"BUG_CONFTERM", "MAXTERM=3"}, kind: bug, breaks: s1},
	{model: "lease", defines: []string{"BUG_RECVTIME"}, kind: bug, breaks: s1},
	{model: "lease", defines: []string{"BUG_DRIFT"}, kind: bug, breaks: s1},
	{model: "lease", defines: []string{"BUG_NOGRANTIDX"}, kind: bug, breaks: s1},
	{model: "lease", defines: []string{"BUG_RAFTAPPLIED"}, kind: bug, breaks: s1},
	{model: "lease", defines: []string{"BUG_NOGATE", "HOLD=6"}, kind: bug, breaks: s2},
	{model: "lease", defines: []string{"BUG_NOINC", "CRASH=1"}, kind: bug, breaks: s1},
	{model: "lease", defines: []string{"BUG_INCORDER", "CRASH=1"}, kind: bug, breaks: s1},
	{model: "lease", defines: []string{"BUG_RESTORE", "CRASH=1"}, kind: bug, breaks: s1},
	{model: "lease", defines: []string{"BUG_PERSIST", "CRASH=1"}, kind: bug, breaks: s1},
	{model: "lease", defines: []string{"STRICT=1", "BUG_TAILSTRICT"}, kind: bug, breaks: s3},

	// Larger, of what is built.
	{model: "lease", defines: []string{"HOLD=6", "MAXTERM=1"}, kind: exhaustive, slow: true},
	{model: "lease", defines: []string{"CRASH=1"}, kind: exhaustive, slow: true, memory: 7 * gib},
	{model: "lease", defines: []string{"HOLD=6", "LEASE=1"}, kind: exhaustive, slow: true, memory: 7 * gib},
	{model: "lease", defines: []string{"MAXTERM=3"}, kind: exhaustive, slow: true},
	{model: "lease", defines: []string{"MAXTERM=3", "MAXLEN=4", "LEASE=1"}, kind: exhaustive, slow: true, memory: 9 * gib},
	{model: "lease", defines: []string{"CRASH=1", "LEASE=1"}, kind: exhaustive, slow: true},
	{model: "lease", defines: []string{"LEASE=3"}, kind: exhaustive, slow: true},

	// What may come later.
	{model: "lease", defines: []string{"STRICT=1"}, kind: exhaustive, slow: true},
	{model: "lease", defines: []string{"SHORTWAIT"}, kind: exhaustive, slow: true, memory: 8 * gib},
	{model: "lease", defines: []string{"STRICT=1", "REACH2"}, kind: goal, breaks: tail, slow: true, long: true},
	{model: "lease", defines: []string{"STRICT=1", "BUG_TAILNOSTAR"}, kind: bug, breaks: s3, slow: true, long: true},
	{model: "lease", defines: []string{"STRICT=1", "BUG_ONEMAX"}, kind: bug, breaks: onTwo, slow: true, long: true},
	{model: "lease", defines: []string{"STRICT=1", "BUG_LOWERED"}, kind: bug, breaks: onTwo, slow: true, long: true},
	{model: "lease", defines: []string{"SHORTWAIT", "BUG_SELFCONF", "LEASE=1"}, kind: bug, breaks: s1, slow: true, long: true},

	// The first model, which keeps a set of leases per fence and in which a leader always notices its loss.
	{model: "snapshot", kind: exhaustive, slow: true},
	{model: "snapshot", defines: []string{"HOLD=1"}, kind: exhaustive, slow: true},
	{model: "snapshot", defines: []string{"LEASE=3"}, kind: exhaustive, slow: true},
	{model: "snapshot", defines: []string{"REACH"}, kind: goal, breaks: newest, slow: true},
	{model: "snapshot", defines: []string{"BUG_NOINC", "CRASH=1"}, kind: bug, breaks: s1, slow: true, long: true},
	{model: "snapshot", defines: []string{"BUG_VERIFYLEADER"}, kind: bug, breaks: s1, slow: true, long: true},
	{model: "snapshot", defines: []string{"BUG_NOEST"}, kind: bug, breaks: s1, slow: true},
	{model: "snapshot", defines: []string{"BUG_STAR"}, kind: bug, breaks: s1, slow: true},
	{model: "snapshot", defines: []string{"BUG_NOWAIT"}, kind: bug, breaks: s1, slow: true},
	{model: "snapshot", defines: []string{"BUG_NOVERIFY"}, kind: bug, breaks: s1, slow: true},
	{model: "snapshot", defines: []string{"BUG_RECVTIME"}, kind: bug, breaks: s1, slow: true},
	{model: "snapshot", defines: []string{"BUG_DRIFT"}, kind: bug, breaks: s1, slow: true},
	{model: "snapshot", defines: []string{"BUG_NOGRANTIDX"}, kind: bug, breaks: s1, slow: true},
	{model: "snapshot", defines: []string{"BUG_RAFTAPPLIED"}, kind: bug, breaks: s1, slow: true},
	{model: "snapshot", defines: []string{"BUG_NOGATE", "HOLD=6"}, kind: bug, breaks: s2, slow: true},
	{model: "snapshot", defines: []string{"BUG_RESTORE", "CRASH=1"}, kind: bug, breaks: s1, slow: true},
	{model: "snapshot", defines: []string{"BUG_PERSIST", "CRASH=1"}, kind: bug, breaks: s1, slow: true},
}
