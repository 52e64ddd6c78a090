package policy

import "github.com/openkcm/krypton-cluster/hierarchy"

// Answer is a query and what became of it.
type Answer struct {
	Query    Query
	Decision Decision
}

// MayDo answers what a subject may do: every action that its kind can ask for,
// on the tenant, and on each of services. Of q it takes the subject and what a
// caller would give: resource, version, context and region. An action on a
// resource is asked about when q names one. Actions come in the order of the
// schema, services as they are given.
//
// The answer holds for exactly that context: [Set.Reads] says what it depends on.
func (s *Set) MayDo(q Query, services []hierarchy.Name) []Answer {
	var all []Answer
	for _, a := range Actions() {
		q.Action = a
		if q.who()&actions[a].principals == noType {
			continue
		}
		if actions[a].resources&typeTenant != noType {
			q.Service = ""
			all = append(all, Answer{Query: q, Decision: s.Evaluate(q)})
		}
		if actions[a].resources == typeTenant || actions[a].resources == typeResource && q.Resource == "" {
			continue
		}
		for _, q.Service = range services {
			all = append(all, Answer{Query: q, Decision: s.Evaluate(q)})
		}
	}
	return all
}

// WhoMay answers who of among may do what q asks for, in the order given.
func (s *Set) WhoMay(q Query, among []Subject) []Answer {
	all := make([]Answer, 0, len(among))
	for _, q.Subject = range among {
		all = append(all, Answer{Query: q, Decision: s.Evaluate(q)})
	}
	return all
}
