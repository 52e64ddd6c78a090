package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// environment is the variable by which a program that was built from mutated
// sources knows which protection it does without. No other program has it.
const environment = "KRYPTON_MUTATION"

// mutation takes one protection away. Its edits are in every mutated program and
// count only in the one whose name the environment says.
type mutation struct {
	name  string
	what  string // what is gone
	edits []edit
}

// edit replaces a piece of source that is there exactly once.
type edit struct{ file, old, new string }

const (
	leasePackage   = "cluster/lease/"
	clusterPackage = "cluster/"
)

// mutations are the protections of serving leases (docs/leases.md), each gone.
func mutations() []mutation {
	return []mutation{
		{"no-new-leader-wait", "a new leader counts no leases that earlier leaders gave", []edit{{
			leasePackage + "leader.go", "		l.tab.star(i, at)\n", "		if !mutated(\"no-new-leader-wait\") {\n			l.tab.star(i, at)\n		}\n",
		}}},
		{"no-confirm", "a leader gives grants without asking the voters", []edit{{
			leasePackage + "round.go", "	latest := make([]uint64, 0, len(r.voters))\n", "	if mutated(\"no-confirm\") {\n		return r.last\n	}\n	latest := make([]uint64, 0, len(r.voters))\n",
		}}},
		// Alone it is not seen: a leader that has not applied what ended its epoch is
		// stuck for as long, and so gives no grants.
		{"current-term", "voters confirm the present term, not the one whose epoch is established, to a leader that is stuck", []edit{
			{leasePackage + "limits.go", "return oldest > StuckAfter }", "return oldest > StuckAfter && !mutated(\"current-term\") }"},
			{clusterPackage + "watchdog.go", "age > limit {", "age > limit && !mutated(\"current-term\") {"},
			{
				clusterPackage + "granting.go", "	grants, question, asks := l.leader.Begin(now, voters, own, nil)\n",
				"	if mutated(\"current-term\") && established {\n		own = term\n	}\n	grants, question, asks := l.leader.Begin(now, voters, own, nil)\n",
			},
			{clusterPackage + "granting.go", "	if !established || term != own {\n", "	if !established || term != c.raft.CurrentTerm() {\n"},
			{
				clusterPackage + "granting.go", "		if l.asked.round == confirmed.Round {\n",
				"		if term, _, ok := l.leader.Established(); mutated(\"current-term\") && ok && confirmed.Term == c.raft.CurrentTerm() {\n			confirmed.Term = term\n		}\n		if l.asked.round == confirmed.Round {\n",
			},
		}},
		{"non-voters-counted", "whoever has no vote confirms like a voter", []edit{{
			clusterPackage + "leases.go", "		if s.Suffrage == raft.Voter {\n", "		if s.Suffrage == raft.Voter || mutated(\"non-voters-counted\") {\n",
		}}},
		{"receive-time", "a lease counts from when the grant came", []edit{{
			leasePackage + "holder.go", "	h.maxTerm = g.Term\n", "	h.maxTerm = g.Term\n	if mutated(\"receive-time\") {\n		start = now\n	}\n",
		}}},
		{"no-grant-index", "a grant counts for any state", []edit{{
			leasePackage + "grant.go", "	case h.applied.Index >= w.lease.Index:\n", "	case h.applied.Index >= w.lease.Index || mutated(\"no-grant-index\"):\n",
		}}},
		{"no-gate", "an answer may tell a change that is not complete", nil}, // the simulation's readers
		{"incarnations-alike", "a report of a process counts for the next one on the same node", []edit{{
			leasePackage + "renew.go", "	l.tab.report(i, r.Inc, r.Applied)\n",
			"	inc := r.Inc\n	if mutated(\"incarnations-alike\") {\n		inc = Incarnation{Boot: 1}\n	}\n	l.tab.report(i, inc, r.Applied)\n",
		}}},
		{"flap-unnoticed", "leadership that was lost and won again ends no epoch", []edit{{
			leasePackage + "leader.go", "	if l.term != 0 && e.Term > l.term {\n", "	if l.term != 0 && e.Term > l.term && !mutated(\"flap-unnoticed\") {\n",
		}}},
		{"lease-over-restore", "a lease stays while a snapshot replaces the state, and an overtaken snapshot does", []edit{
			{leasePackage + "holder.go", "	h.inc.Restores++\n", "	if mutated(\"lease-over-restore\") {\n		h.applied = Entry{}\n		return\n	}\n	h.inc.Restores++\n"},
			{clusterPackage + "arrivals.go", "s.Term == r.CurrentTerm()", "!mutated(\"lease-over-restore\") && s.Term == r.CurrentTerm()"},
			{clusterPackage + "store.go", "func (s *store) IsMonotonic() bool { return true }", "func (s *store) IsMonotonic() bool { return !mutated(\"lease-over-restore\") }"},
		}},
		{"lease-persisted", "a process goes on under the lease of the one before", []edit{
			{clusterPackage + "leases.go", "	next := &Standing{View: v,", "	l.holder.Persist(string(l.c.id))\n	next := &Standing{View: v,"},
			{
				clusterPackage + "leases.go", "	l.holder = lease.NewHolder(lease.HolderConfig{History: l.history, Boot: l.c.cfg.Dir.Boots(), Renew: timing.Renew, Patience: timing.Patience()})\n",
				"	l.holder = lease.NewHolder(lease.HolderConfig{History: l.history, Boot: l.c.cfg.Dir.Boots(), Renew: timing.Renew, Patience: timing.Patience()})\n	l.holder.Revive(string(l.c.id))\n",
			},
		}},
		{"no-fence", "a change is acknowledged once it is committed", []edit{{
			clusterPackage + "completion.go", "		err = c.WaitComplete(bound, index)\n",
			"		if !mutated(\"no-fence\") {\n			err = c.WaitComplete(bound, index)\n		}\n",
		}}},
		{"drift-ignored", "nobody allows for clocks that run at different rates", []edit{{
			leasePackage + "clock.go", "	return d/100*driftPercent + (d%100*driftPercent+99)/100\n",
			"	if mutated(\"drift-ignored\") {\n		return 0\n	}\n	return d/100*driftPercent + (d%100*driftPercent+99)/100\n",
		}}},
	}
}

// added are files that only mutated programs have.
func added() map[string]string {
	const asked = `
import "os"

var mutation = os.Getenv("` + environment + `")

func mutated(name string) bool { return mutation == name }
`
	return map[string]string{
		clusterPackage + "mutated.go": "package cluster\n" + asked,
		leasePackage + "mutated.go":   "package lease\n" + asked,
		leasePackage + "persisted.go": `package lease

import "sync"

var persisted sync.Map

type kept struct {
	lease    Lease
	complete uint64
}

func (h *Holder) Persist(node string) {
	if mutated("lease-persisted") {
		persisted.Store(node, kept{h.inUse, h.complete})
	}
}

func (h *Holder) Revive(node string) {
	if k, ok := persisted.Load(node); ok {
		h.inUse, h.complete = k.(kept).lease, k.(kept).complete
	}
}
`,
	}
}

// mutate returns the sources of the mutated program that differ, by path below root.
func mutate(root string, all []mutation) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, m := range all {
		for _, e := range m.edits {
			src, ok := out[e.file]
			if !ok {
				raw, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(e.file)))
				if err != nil {
					return nil, fmt.Errorf("mutation %s: %w", m.name, err)
				}
				src = raw
			}
			if n := bytes.Count(src, []byte(e.old)); n != 1 {
				return nil, fmt.Errorf("mutation %s: %s has the place %d times, not once: %q", m.name, e.file, n, e.old)
			}
			out[e.file] = bytes.Replace(src, []byte(e.old), []byte(e.new), 1)
		}
	}
	for name, src := range added() {
		out[name] = []byte(src)
	}
	return out, nil
}

// overlay writes the mutated sources below dir, and the file by which the go
// command takes them for those of the project.
func overlay(root, dir string, all []mutation) (path string, err error) {
	files, err := mutate(root, all)
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	for name, src := range files {
		to := filepath.Join(dir, filepath.FromSlash(name)) + ".mutated" // or it would be a package of this module
		if err := os.MkdirAll(filepath.Dir(to), 0o750); err != nil {
			return "", err
		}
		if err := os.WriteFile(to, src, 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(root, filepath.FromSlash(name))] = to
	}
	raw, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, raw, 0o600)
}
