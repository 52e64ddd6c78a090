package policy

import (
	"slices"
	"strings"
)

// EnforcedSchema writes the tables of the checker as lines, for a comparison with
// the published schema.
func EnforcedSchema() []string {
	names := func(bits entityType) string {
		var all []string
		for _, s := range entityShapes {
			if s.bit&bits != 0 {
				all = append(all, string(s.name))
			}
		}
		slices.Sort(all)
		return strings.Join(all, " ")
	}
	var all []string
	for _, s := range entityShapes {
		if s.bit == typeAction {
			continue
		}
		attrs := make([]string, 0, len(s.attrs))
		for _, a := range s.attrs {
			attrs = append(attrs, a+": String")
		}
		slices.Sort(attrs)
		direct := s.parents
		if s.bit == typeResource {
			direct = typeService // and through it the tenant
		}
		all = append(all, "entity "+string(s.name)+" in "+names(direct)+" = {"+strings.Join(attrs, ", ")+"}")
	}
	for _, a := range Actions() {
		r := actions[a]
		var context []string
		for name, t := range r.context.fields {
			switch t.kind {
			case kindLong:
				context = append(context, name+": Long")
			case kindOpen:
				context = append(context, name+": {}")
			default:
				context = append(context, name+": String")
			}
		}
		slices.Sort(context)
		all = append(all, "action "+r.name+" in "+r.group+" | "+names(r.principals)+" | "+names(r.resources)+" | {"+strings.Join(context, ", ")+"}")
	}
	all = append(all, "action "+groupUse, "action "+groupRead, "action "+groupGovern)
	slices.Sort(all)
	return all
}

// Admits reports which kinds of principals the schema has a for.
func Admits(a Action) (workload, person bool) {
	return actions[a].principals&typeWorkload != 0, actions[a].principals&typePerson != 0
}

// Kept reports whether the answer to q would come from the cache.
func Kept(s *Set, q Query) bool {
	on, _, settled := s.settle(&q)
	if settled {
		return false
	}
	key := s.byAction[q.Action].reads.appendKey(nil, &q, on)
	_, ok := s.cache.slot(key).get(key)
	return ok
}

// KeptAnswers counts the answers in the cache, and the bytes of their keys.
func KeptAnswers(s *Set) (answers, bytes int) {
	for i := range s.cache.slots {
		if k := s.cache.slots[i].Load(); k != nil {
			answers++
			bytes += len(k.key)
		}
	}
	return answers, bytes
}

// Bounds of the cache, for tests.
const (
	CacheSlots = cacheSlots
	MaxKey     = maxKey
)

// SameInCedar reads mine as this package does, and theirs as Cedar does, and says
// how they differ.
func SameInCedar(mine, theirs string) string {
	all, f := parse(mine)
	if f == nil {
		f = sameInCedar(theirs, all)
	}
	if f == nil {
		return ""
	}
	return f.what
}

// ReadAlike says what is wrong with text for this package's parser, and otherwise
// how Cedar's reads it differently.
func ReadAlike(text string) (mine, differently string) {
	all, f := parse(text)
	if f != nil {
		return f.what, ""
	}
	if f = sameInCedar(text, all); f != nil {
		return "", f.what
	}
	return "", ""
}
