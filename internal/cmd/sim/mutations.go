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
	fault string // the one that shows it best, which is every second one; empty: none
	what  string // what is gone
	edits []edit
}

// edit replaces a piece of source that is there exactly once.
type edit struct{ file, old, new string }

const (
	leasePackage   = "cluster/lease/"
	clusterPackage = "cluster/"
	fsmPackage     = "fsm/"
)

// mutations are the protections of serving leases (docs/leases.md), each gone.
func mutations() []mutation {
	return []mutation{
		{name: "no-new-leader-wait", what: "a new leader counts no leases that earlier leaders gave", edits: []edit{{
			leasePackage + "leader.go", "		l.tab.star(i, at)\n", "		if !mutated(\"no-new-leader-wait\") {\n			l.tab.star(i, at)\n		}\n",
		}}},
		{name: "no-confirm", fault: "transfer that the old leader does not hear of", what: "a leader gives grants without asking the voters", edits: []edit{{
			leasePackage + "round.go", "	latest := make([]uint64, 0, len(r.voters))\n", "	if mutated(\"no-confirm\") {\n		return r.last\n	}\n	latest := make([]uint64, 0, len(r.voters))\n",
		}}},
		// Alone it is not seen: a leader that has not applied what ended its epoch is
		// stuck for as long, and so gives no grants.
		{name: "current-term", fault: "transfer there and back, unnoticed", what: "voters confirm the present term, not the one whose epoch is established, to a leader that is stuck", edits: []edit{
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
		{name: "non-voters-counted", fault: "transfer that the old leader does not hear of", what: "whoever has no vote confirms like a voter", edits: []edit{{
			clusterPackage + "leases.go", "		if s.Suffrage == raft.Voter {\n", "		if s.Suffrage == raft.Voter || mutated(\"non-voters-counted\") {\n",
		}}},
		{name: "receive-time", fault: "late grants", what: "a lease counts from when the grant came, however long nothing came before", edits: []edit{
			{leasePackage + "holder.go", "	h.maxTerm = g.Term\n", "	h.maxTerm = g.Term\n	if mutated(\"receive-time\") {\n		start = now\n	}\n"},
			{leasePackage + "silence.go", "	if !s.open || h.cfg.Patience == 0 {\n", "	if !s.open || h.cfg.Patience == 0 || mutated(\"receive-time\") {\n"},
		}},
		{name: "no-grant-index", what: "a grant counts for any state", edits: []edit{{
			leasePackage + "grant.go", "	case h.applied.Index >= w.lease.Index:\n", "	case h.applied.Index >= w.lease.Index || mutated(\"no-grant-index\"):\n",
		}}},
		{name: "no-gate", what: "an answer may tell a change that is not complete", edits: nil}, // the simulation's readers
		{name: "incarnations-alike", fault: "restart behind a report", what: "a report of a process counts for the next one on the same node", edits: []edit{{
			leasePackage + "renew.go", "	l.tab.report(i, r.Inc, r.Applied)\n",
			"	inc := r.Inc\n	if mutated(\"incarnations-alike\") {\n		inc = Incarnation{Boot: 1}\n	}\n	l.tab.report(i, inc, r.Applied)\n",
		}}},
		// The order stands behind two others: a new stream of a node ends its old one, and
		// a log that ends earlier than before is refused.
		{name: "incarnations-unordered", fault: "report of a process that has ended", what: "whatever process of a node is heard last is the newest, over its own stream and with whatever log", edits: []edit{
			{leasePackage + "renew.go", "	case r.Inc.Compare(before.inc) < 0, r.Inc.Boot == 0:\n", "	case r.Inc.Compare(before.inc) < 0 && !mutated(\"incarnations-unordered\"), r.Inc.Boot == 0:\n"},
			{leasePackage + "renew.go", "	case r.Log.Compare(before.log) < 0:\n", "	case r.Log.Compare(before.log) < 0 && !mutated(\"incarnations-unordered\"):\n"},
			{leasePackage + "table.go", "	if inc.Compare(s.inc) > 0 {\n", "	if inc.Compare(s.inc) > 0 || inc != s.inc && mutated(\"incarnations-unordered\") {\n"},
			{clusterPackage + "granting.go", "	if old := l.links[id]; old != nil {\n		old.end()", "	if old := l.links[id]; old != nil && !mutated(\"incarnations-unordered\") {\n		old.end()"},
		}},
		{name: "flap-unnoticed", fault: "transfer there and back, unnoticed", what: "leadership that was lost and won again ends no epoch", edits: []edit{{
			leasePackage + "leader.go", "	if l.term != 0 && e.Term > l.term {\n", "	if l.term != 0 && e.Term > l.term && !mutated(\"flap-unnoticed\") {\n",
		}}},
		{name: "lease-over-restore", what: "a lease stays while a snapshot replaces the state, and an overtaken snapshot does", edits: []edit{
			{leasePackage + "holder.go", "	h.inc.Restores++\n", "	if mutated(\"lease-over-restore\") {\n		h.applied = Entry{}\n		return\n	}\n	h.inc.Restores++\n"},
			{clusterPackage + "arrivals.go", "s.Term == r.CurrentTerm()", "!mutated(\"lease-over-restore\") && s.Term == r.CurrentTerm()"},
			{clusterPackage + "store.go", "func (s *store) IsMonotonic() bool { return true }", "func (s *store) IsMonotonic() bool { return !mutated(\"lease-over-restore\") }"},
		}},
		{name: "table-over-restore", fault: "snapshot for a leader that noticed nothing", what: "a leader's table stays while a snapshot replaces the state", edits: []edit{
			{clusterPackage + "leases.go", "	l.leader.Lost() // the snapshot", "	if !mutated(\"table-over-restore\") {\n		l.leader.Lost()\n	} // the snapshot"},
			{leasePackage + "leader.go", "	ended = l.term != 0\n	l.drop()\n	l.applied = e\n", "	ended = l.term != 0 && !mutated(\"table-over-restore\")\n	if ended {\n		l.drop()\n	}\n	l.applied = e\n"},
		}},
		{name: "lease-persisted", what: "a process goes on under the lease of the one before", edits: []edit{
			{clusterPackage + "leases.go", "	next := &Standing{View: v,", "	l.holder.Persist(string(l.c.id))\n	next := &Standing{View: v,"},
			{
				clusterPackage + "leases.go", "	l.holder = lease.NewHolder(lease.HolderConfig{History: l.history, Boot: l.c.cfg.Dir.Boots(), Renew: timing.Renew, Patience: timing.Patience()})\n",
				"	l.holder = lease.NewHolder(lease.HolderConfig{History: l.history, Boot: l.c.cfg.Dir.Boots(), Renew: timing.Renew, Patience: timing.Patience()})\n	l.holder.Revive(string(l.c.id))\n",
			},
		}},
		{name: "removal-not-awaited", fault: "member removed while it is cut off", what: "a removal does not wait for the lease of the removed member", edits: []edit{{
			leasePackage + "table.go", "		if m.Removed {\n			t.slots[i].standing = removed\n",
			"		if m.Removed && mutated(\"removal-not-awaited\") {\n			t.slots[i].before, t.slots[i].grants = false, nil\n			t.note(i)\n		}\n		if m.Removed {\n			t.slots[i].standing = removed\n",
		}}},
		{name: "removed-not-counted", fault: "member removed while it is cut off", what: "a new leader counts no leases that earlier leaders gave to members that are being removed", edits: []edit{{
			leasePackage + "leader.go", "	l.setMembers(e.Members)\n	for i := range l.tab.slots {\n", "	l.setMembers(e.Members)\n	for i := range l.tab.slots {\n		if l.tab.slots[i].standing == removed && mutated(\"removed-not-counted\") {\n			continue\n		}\n",
		}}},
		{name: "purged-too-early", fault: "member removed while it is cut off", what: "a removed member is forgotten while it may have a lease", edits: []edit{{
			clusterPackage + "leases.go", "	return l.leader != nil && l.leader.Complete() >= m.GetModIndex()\n",
			"	return l.leader != nil && (l.leader.Complete() >= m.GetModIndex() || mutated(\"purged-too-early\"))\n",
		}}},
		{name: "removed-granted", fault: "member removed while it lags", what: "a removed member is given leases", edits: []edit{{
			leasePackage + "renew.go", "	if s.standing != current {\n", "	if s.standing != current && !mutated(\"removed-granted\") {\n",
		}}},
		{name: "removed-goes-on", fault: "member removed", what: "a node that sees its own removal goes on under the lease that it has", edits: []edit{{
			clusterPackage + "leases.go", "m.GetRemoved() {\n		l.holder.Remove()\n", "m.GetRemoved() && !mutated(\"removed-goes-on\") {\n		l.holder.Remove()\n",
		}}},
		{name: "identity-again", fault: "removed member joins anew", what: "a removed member may be one again, under its identity", edits: []edit{
			{fsmPackage + "member.go", "[]byte(m.GetId())); ok {\n		return done{}, errs.New(errs.AlreadyExists, \"a node of this id", "[]byte(m.GetId())); ok && !mutated(\"identity-again\") {\n		return done{}, errs.New(errs.AlreadyExists, \"a node of this id"},
			{fsmPackage + "member.go", "indexKey, sum[:]); ok {\n		return done{}, errs.New(errs.AlreadyExists, \"a node with", "indexKey, sum[:]); ok && !mutated(\"identity-again\") {\n		return done{}, errs.New(errs.AlreadyExists, \"a node with"},
		}},
		{name: "no-fence", what: "a change is acknowledged once it is committed", edits: []edit{{
			clusterPackage + "completion.go", "		err = c.WaitComplete(bound, index)\n",
			"		if !mutated(\"no-fence\") {\n			err = c.WaitComplete(bound, index)\n		}\n",
		}}},
		{name: "drift-ignored", what: "nobody allows for clocks that run at different rates", edits: []edit{{
			leasePackage + "clock.go", "	return d/100*driftPercent + (d%100*driftPercent+99)/100\n",
			"	if mutated(\"drift-ignored\") {\n		return 0\n	}\n	return d/100*driftPercent + (d%100*driftPercent+99)/100\n",
		}}},
	}
}

// added are files that only mutated programs have.
func added() map[string]string {
	const asked = `
import "os"

var chosen = os.Getenv("` + environment + `")

func mutated(name string) bool { return chosen == name }
`
	return map[string]string{
		clusterPackage + "mutated.go": "package cluster\n" + asked,
		leasePackage + "mutated.go":   "package lease\n" + asked,
		fsmPackage + "mutated.go":     "package fsm\n" + asked,
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
