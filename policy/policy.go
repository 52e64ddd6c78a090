// Package policy decides by a tenant's own policies what its workloads, and the
// people who work on it, may do. The language is Cedar; the schema is
// krypton.cedarschema in this directory, and docs/policy.md explains both.
//
// [Compile] makes a [Set] of the texts of one tenant. [Set.Decide] answers one
// [Query] from a cache, [Set.Evaluate] without. The package is pure: no clock, no
// I/O, no goroutine; an answer depends on the set and the query alone, which is
// why it can be kept.
//
// It stands behind the table of roles and never in place of it: what the table
// refuses, no policy allows.
//
// # Invariants
//
//   - I1: what is enforced is what is published: the schema in Cedar's notation and the tables of the checker say the same, and every act of a tenant is in them or in the list of those beyond policies.
//   - I2: what was checked is what is evaluated: Cedar evaluates the tree that was checked, and Cedar's own parser reads the same tree in the text.
//   - I3: an error while any policy is evaluated denies, whoever would have allowed it; cedar-go alone would go on without that policy, forbids included.
//   - I4: a kept answer is the answer that an evaluation would give: the key of the cache has everything that the policies for that action can read.
//   - I5: a set belongs to one tenant: it answers for no other and names no other.
//   - I6: hostile text and hostile queries cost bounded time and memory and stop nothing.
//   - I7: without any policy the table of roles decides; with one, what no policy permits to a workload is denied. People are never locked out by a missing permit, only by a forbid.
//
// # Concurrency
//
// A [Set] never changes but for its cache, whose slots are atomic pointers. All
// methods are safe for concurrent use and never block.
//
// # Failure
//
// Compile refuses the whole set when one text is wrong. Whoever holds texts that
// do not compile any more must deny: there is no set to ask. Decide has no error;
// what goes wrong in it is a denial that names the policy.
//
// # Source
//
// Cedar policy language (docs.cedarpolicy.com), github.com/cedar-policy/cedar-go.
package policy

import (
	"iter"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/cedar-policy/cedar-go"
	xast "github.com/cedar-policy/cedar-go/x/exp/ast"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Limits of one tenant's policies. What they bound together is the time of an
// evaluation: FuzzCompile and BenchmarkWorstSet measure it.
const (
	MaxPolicies   = 64        // texts
	MaxTextBytes  = 64 << 10  // of one text
	MaxSetBytes   = 256 << 10 // of all texts together
	MaxStatements = 1024      // permits and forbids in all texts together
	MaxNodes      = 4096      // parts of one statement
	MaxSetNodes   = 32768     // parts of all statements together
	MaxKeys       = 256       // different keys of encryption contexts that the statements for one action read
	MaxDepth      = 32        // of parentheses, sets, records, ifs, attributes and signs in each other
	// MaxMentions is how often all texts together mention the context: each time may
	// cost a pass over 8 KiB that a caller gave. A pattern with a * that is matched
	// with something of the context makes many passes, and counts patternWeight for
	// each of its characters.
	MaxMentions   = 4096
	patternWeight = 4
)

// Text is one policy of a tenant: a name and one or more Cedar statements.
type Text struct {
	Name hierarchy.Name // as in tenants/{t}/policies/{id}
	Text string
}

// Problem is what is wrong with a text. It quotes nothing of the text.
type Problem struct {
	Policy hierarchy.Name // empty: the set as a whole
	Line   int            // from 1; 0: the text as a whole
	Column int            // from 1, in characters
	What   string         // such as "a type that the schema does not have"
	Fix    string         // what to do
}

// String returns the problem in one line, without what to do.
func (p Problem) String() string {
	switch {
	case p.Policy == "":
		return "the policies have " + p.What
	case p.Line == 0:
		return "policy " + string(p.Policy) + " has " + p.What
	}
	return "policy " + string(p.Policy) + ", line " + strconv.Itoa(p.Line) + ", column " + strconv.Itoa(p.Column) + ": " + p.What
}

// Reason is a statement that decided.
type Reason struct {
	Policy hierarchy.Name
	Line   int // where the statement begins in the text
}

// String returns the reason as records have it: name:line.
func (r Reason) String() string { return string(r.Policy) + ":" + strconv.Itoa(r.Line) }

// Set is the compiled policies of one tenant. A set belongs to one state of the
// policies: when they change, compile another, whose cache is empty. The nil Set
// denies.
type Set struct {
	tenant   hierarchy.Name
	byAction [actionEnd]program // index 0 is not used
	cache    *cache             // nil: without statements there is nothing to keep
}

// program is what one action needs.
type program struct {
	steps []step
	reads reads
}

// step is one statement. What steps a program leaves out is decided by the head
// alone: Cedar looks at it first, so that a statement for other actions is false
// and cannot fail.
type step struct {
	id     cedar.PolicyID // the decimal index of the step
	policy *cedar.Policy
	reason Reason
}

// All implements [cedar.PolicyIterator], always in the same order.
func (p *program) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for i := range p.steps {
			if !yield(p.steps[i].id, p.steps[i].policy) {
				return
			}
		}
	}
}

// reasonOf returns the reason that id stands for.
func (p *program) reasonOf(id cedar.PolicyID) Reason {
	i, err := strconv.Atoi(string(id))
	if err != nil || i < 0 || i >= len(p.steps) {
		return Reason{}
	}
	return p.steps[i].reason
}

// Compile checks the texts of tenant and makes a set of them. The order of texts
// does not matter. It returns an errs.InvalidArgument for the first problem, with
// policy, line, column and what to do; [Check] returns all of them.
func Compile(tenant hierarchy.Name, texts []Text) (*Set, error) {
	s, problems := compile(tenant, texts)
	if len(problems) == 0 {
		return s, nil
	}
	msg := problems[0].String()
	if n := len(problems) - 1; n > 0 {
		msg += " (and " + strconv.Itoa(n) + " more)"
	}
	return nil, errs.New(errs.InvalidArgument, msg, errs.Hint("%s", problems[0].Fix))
}

// Check returns the problems of texts, in the order of names: the first of each
// text, or, when every text is well by itself, what is wrong with them together.
func Check(tenant hierarchy.Name, texts []Text) []Problem {
	_, problems := compile(tenant, texts)
	return problems
}

func compile(tenant hierarchy.Name, texts []Text) (*Set, []Problem) {
	if _, err := hierarchy.ParseName(string(tenant)); err != nil {
		return nil, []Problem{{What: "no valid tenant", Fix: "name the tenant whose policies they are"}}
	}
	if p := limits(texts); p != nil {
		return nil, []Problem{*p}
	}
	sorted := slices.Clone(texts)
	slices.SortFunc(sorted, func(a, b Text) int { return strings.Compare(string(a.Name), string(b.Name)) })
	s := &Set{tenant: tenant}
	var problems []Problem
	statements, nodes, mentions := 0, 0, 0
	for i, t := range sorted {
		if i > 0 && sorted[i-1].Name == t.Name {
			return nil, []Problem{{What: "the same name twice", Fix: "give every policy a name of its own"}}
		}
		all, f := parse(t.Text)
		for j := 0; f == nil && j < len(all); j++ {
			f = s.add(t.Name, all[j])
		}
		if f == nil {
			f = sameInCedar(t.Text, all)
		}
		if f != nil {
			problems = append(problems, Problem{Policy: t.Name, Line: f.at.line, Column: f.at.column, What: f.what, Fix: f.fix})
			continue
		}
		statements += len(all)
		for _, st := range all {
			nodes += st.nodes
			mentions += st.mentions
		}
	}
	over := func(what string, n int) {
		problems = append(problems, Problem{What: "more " + what + " than " + strconv.Itoa(n), Fix: "put fewer or simpler conditions into them"})
	}
	switch {
	case len(problems) > 0:
	case statements > MaxStatements:
		over("statements", MaxStatements)
	case nodes > MaxSetNodes:
		over("parts of statements", MaxSetNodes)
	case mentions > MaxMentions:
		over("mentions of context, counting patterns with a * by their characters,", MaxMentions)
	}
	if len(problems) > 0 {
		return nil, problems
	}
	if statements > 0 {
		s.cache = newCache()
	}
	return s, nil
}

// limits judges what can be judged before anything is read.
func limits(texts []Text) *Problem {
	if len(texts) > MaxPolicies {
		return &Problem{What: "more than " + strconv.Itoa(MaxPolicies) + " texts", Fix: "put several statements into one policy"}
	}
	total := 0
	for _, t := range texts {
		if _, err := hierarchy.ParseName(string(t.Name)); err != nil {
			return &Problem{What: "a name that no policy can have", Fix: "a name is 1 to 63 of a-z, 0-9 and '-', starts with a letter and does not end with '-'"}
		}
		if len(t.Text) > MaxTextBytes {
			return &Problem{Policy: t.Name, What: "more than " + strconv.Itoa(MaxTextBytes) + " bytes", Fix: "split it into several policies"}
		}
		total += len(t.Text)
	}
	if total > MaxSetBytes {
		return &Problem{What: "more than " + strconv.Itoa(MaxSetBytes) + " bytes together", Fix: "shorten them; comments count, too"}
	}
	return nil
}

// add checks one statement and puts it into the programs of its actions.
func (s *Set) add(name hierarchy.Name, st *statement) *fault {
	if f := check(s.tenant, st); f != nil {
		return f
	}
	one := step{policy: cedar.NewPolicyFromAST(st.cedar()), reason: Reason{Policy: name, Line: st.at.line}}
	var r reads
	for _, c := range st.conditions {
		r.of(c.body)
	}
	for a := Action(1); a < actionEnd; a++ {
		if !st.action.admitsAction(a) {
			continue
		}
		one.id = cedar.PolicyID(strconv.Itoa(len(s.byAction[a].steps)))
		s.byAction[a].steps = append(s.byAction[a].steps, one)
		s.byAction[a].reads.join(r)
		if len(s.byAction[a].reads.keys) > MaxKeys {
			return &fault{st.at, "more keys of encryption contexts, with the policies before it, than " + strconv.Itoa(MaxKeys), "use fewer different keys"}
		}
	}
	return nil
}

// sameInCedar reads text with Cedar's own parser, now that its size is known to
// be bounded, and compares (I2). Our parser has places and limits; theirs is what
// the rest of the world understands the text to mean.
func sameInCedar(text string, all []*statement) *fault {
	const fix = "write it more plainly, and report this as a bug"
	theirs, err := cedar.NewPolicyListFromBytes("", []byte(text))
	if err != nil || len(theirs) != len(all) {
		return &fault{all[0].at, "something that Cedar itself does not read so", fix}
	}
	for i, p := range theirs {
		a, b := p.AST(), all[i].cedar()
		same := a.Effect == b.Effect && len(a.Conditions) == len(b.Conditions) &&
			reflect.DeepEqual(a.Principal, b.Principal) && reflect.DeepEqual(a.Action, b.Action) && reflect.DeepEqual(a.Resource, b.Resource)
		for j := 0; same && j < len(a.Conditions); j++ {
			same = a.Conditions[j].Condition == b.Conditions[j].Condition &&
				xast.Equal(xast.NewNode(a.Conditions[j].Body), xast.NewNode(b.Conditions[j].Body))
		}
		if !same {
			return &fault{all[i].at, "something that Cedar itself does not read so", fix}
		}
	}
	return nil
}

// Tenant returns whose policies they are.
func (s *Set) Tenant() hierarchy.Name {
	if s == nil {
		return ""
	}
	return s.tenant
}

// Empty reports whether the set has no statement, so that the table of roles
// decides.
func (s *Set) Empty() bool { return s != nil && s.cache == nil }
