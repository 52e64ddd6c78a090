package situation

import "github.com/openkcm/krypton-cluster/internal/errs"

// policies is what is refused of what governors of a tenant write. What a policy
// itself refuses is identity/wrong-role: the caller learns no more.
func policies() Group {
	return Group{Name: "policy", Title: "Policies of tenants", Rows: []Situation{
		{
			ID: "policy/not-right", When: "a policy is stored that is wrong at some place",
			Code: errs.InvalidArgument,
			Says: "policy {name}, line {line}, column {column}: {problem}",
			Next: "{what to write}",
		},
		{
			ID: "policy/not-right-together", When: "a policy is stored that is right by itself, and not together with the others",
			Code: errs.InvalidArgument,
			Says: "the policies have more {what} than {number}",
			Next: "put fewer or simpler conditions into them",
		},
		{
			ID: "policy/exists", When: "a policy is created a second time",
			Code: errs.AlreadyExists,
			Says: "a policy of this name exists already",
			Next: "read it, then replace it with its etag: krypton policy set",
		},
		{
			ID: "policy/too-long", When: "a policy is longer than 64 KiB",
			Code: errs.InvalidArgument,
			Says: "policy {name} has more than {number} bytes",
			Next: "split it into several policies",
		},
		{
			ID: "policy/too-many", When: "a tenant shall have more than 64 policies",
			Code: errs.InvalidArgument,
			Says: "the policies have more than {number} texts",
			Next: "put several statements into one policy",
		},
		{
			ID: "policy/unknown-action", When: "policy test is asked about an action that the schema does not have",
			Code: errs.InvalidArgument,
			Says: "action is none about which policies decide",
			Next: "such as crypto.decrypt: krypton policy schema has them all",
		},
		{
			ID: "policy/unknown-issuer", When: "policy test is asked about a caller of an issuer that vouches for nobody there",
			Code: errs.InvalidArgument,
			Says: "subject.issuer is none that vouches for callers of this tenant",
			Next: "leave it out for issuers/builtin",
		},
	}}
}
