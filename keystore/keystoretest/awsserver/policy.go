package awsserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// policy is a parsed key policy or identity policy.
type policy struct {
	statements []statement
}

type statement struct {
	deny       bool
	principals []string // ARNs; "*" is everybody; empty in identity policies
	actions    []string
	resources  []string
	conditions []condition
}

// condition is one line of a Condition block.
type condition struct {
	operator string
	key      string
	values   []string
}

// attempt is what policies are asked about.
type attempt struct {
	principals []string // the ARNs by which a policy may name who asks
	action     string   // "kms:Decrypt"
	resource   string   // key ARN
	context    map[string]string
}

// words is a JSON string or a list of strings.
type words []string

// UnmarshalJSON implements [json.Unmarshaler].
func (w *words) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*w = words{one}
		return nil
	}
	var many []string
	if err := json.Unmarshal(b, &many); err != nil {
		return err
	}
	*w = many
	return nil
}

// parsePolicy reads a policy document and refuses what it does not understand (I3).
func parsePolicy(text []byte) (*policy, error) {
	var doc struct {
		Version   string
		ID        string `json:"Id"`
		Statement []struct {
			Sid       string
			Effect    string
			Principal struct{ AWS words }
			Action    words
			Resource  words
			Condition map[string]map[string]words
		}
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	if doc.Version != "2012-10-17" {
		return nil, fmt.Errorf("policy: version %q", doc.Version)
	}
	p := &policy{}
	for _, in := range doc.Statement {
		if in.Effect != "Allow" && in.Effect != "Deny" {
			return nil, fmt.Errorf("policy: effect %q", in.Effect)
		}
		st := statement{deny: in.Effect == "Deny", principals: in.Principal.AWS, actions: in.Action, resources: in.Resource}
		for _, operator := range slices.Sorted(maps.Keys(in.Condition)) {
			for _, key := range slices.Sorted(maps.Keys(in.Condition[operator])) {
				c := condition{operator, key, in.Condition[operator][key]}
				if !c.known() {
					return nil, fmt.Errorf("policy: condition %s of %s is not understood here", operator, key)
				}
				st.conditions = append(st.conditions, c)
			}
		}
		p.statements = append(p.statements, st)
	}
	return p, nil
}

const (
	contextKeys = "kms:EncryptionContextKeys"
	contextPair = "kms:EncryptionContext:"
)

func (c condition) known() bool {
	switch c.operator {
	case "ForAllValues:StringEquals", "ForAnyValue:StringEquals":
		return c.key == contextKeys
	case "StringEquals", "StringLike":
		return strings.HasPrefix(c.key, contextPair)
	case "Null":
		return c.key == contextKeys || strings.HasPrefix(c.key, contextPair)
	}
	return false
}

func (c condition) holds(a attempt) bool {
	keys := slices.Sorted(maps.Keys(a.context))
	value, there := a.context[strings.TrimPrefix(c.key, contextPair)]
	switch c.operator {
	case "ForAllValues:StringEquals": // also true of none
		return !slices.ContainsFunc(keys, func(k string) bool { return !slices.Contains(c.values, k) })
	case "ForAnyValue:StringEquals":
		return slices.ContainsFunc(keys, func(k string) bool { return slices.Contains(c.values, k) })
	case "StringEquals", "StringLike":
		return there && slices.ContainsFunc(c.values, func(v string) bool { return matches(v, value) })
	case "Null":
		absent := !there
		if c.key == contextKeys {
			absent = len(keys) == 0
		}
		return slices.Contains(c.values, fmt.Sprint(absent))
	}
	return false
}

// matches compares with a pattern whose only wildcard is * at its end.
func matches(pattern, s string) bool {
	prefix, open := strings.CutSuffix(pattern, "*")
	return pattern == s || open && strings.HasPrefix(s, prefix)
}

func matchesAny(patterns []string, s string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, s) })
}

// says returns whether the policy allows and whether it denies the attempt.
func (p *policy) says(a attempt, withPrincipal bool) (allows, denies bool) {
	for _, st := range p.statements {
		if withPrincipal && !slices.ContainsFunc(a.principals, func(w string) bool {
			return slices.Contains(st.principals, w) || slices.Contains(st.principals, "*")
		}) {
			continue
		}
		if !matchesAny(st.actions, a.action) || len(st.resources) > 0 && !matchesAny(st.resources, a.resource) {
			continue
		}
		if slices.ContainsFunc(st.conditions, func(c condition) bool { return !c.holds(a) }) {
			continue
		}
		if st.deny {
			return false, true
		}
		allows = true
	}
	return allows, false
}

// allowed judges as IAM does: a denial anywhere ends it; within an account the
// key policy may name the principal, or the account whose identity policies
// decide; from another account both have to allow.
func allowed(key, identity *policy, who *session, a attempt) bool {
	root := rootOf(who.principal)
	a.principals = []string{who.principal}
	if who.role != "" {
		a.principals = append(a.principals, who.role)
	}
	named, denied := key.says(a, true)
	if denied {
		return false
	}
	a.principals = []string{root, accountOf(root)}
	delegated, denied := key.says(a, true)
	if denied {
		return false
	}
	var own bool
	if identity != nil {
		if own, denied = identity.says(a, false); denied {
			return false
		}
	}
	if accountOf(who.principal) == accountOf(a.resource) {
		return named || delegated && own
	}
	return (named || delegated) && own
}

func accountOf(arn string) string {
	if parts := strings.Split(arn, ":"); len(parts) > 4 {
		return parts[4]
	}
	return ""
}

func rootOf(arn string) string { return "arn:aws:iam::" + accountOf(arn) + ":root" }
