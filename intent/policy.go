package intent

// PutPolicy makes a policy of a tenant, or replaces its text.
type PutPolicy struct {
	Tenant    string
	TenantUID []byte // as the command has it
	ID        string
	Text      string // Cedar, whole: who signs reads every line of it
}

// Request returns the canonical form.
func (p PutPolicy) Request() *Request {
	return NewRequest(ActSetPolicy).Text("op", "put").Text("tenant", p.Tenant).Bytes("tenant_uid", p.TenantUID).Text("id", p.ID).Text("text", p.Text)
}

// RemovePolicy removes a policy of a tenant.
type RemovePolicy struct {
	Tenant string
	ID     string
}

// Request returns the canonical form.
func (p RemovePolicy) Request() *Request {
	return NewRequest(ActSetPolicy).Text("op", "remove").Text("tenant", p.Tenant).Text("id", p.ID)
}

// policyForms are the forms of the types above.
//
//nolint:gochecknoglobals // Immutable.
var policyForms = []form{
	{
		act: ActSetPolicy, orders: "say by a policy what workloads of a tenant may do",
		fields: []shape{
			opIs("put"),
			{name: "tenant", kind: KindText, fits: notEmpty},
			{name: "tenant_uid", kind: KindBytes, note: noteAlways("uid of the tenant")},
			anID(),
			{name: "text", kind: KindText, fits: notEmpty, note: noteAlways("all of it, in Cedar")},
		},
	},
	{
		act: ActSetPolicy, orders: "remove a policy; without any, workloads may use every key",
		fields: []shape{opIs("remove"), {name: "tenant", kind: KindText, fits: notEmpty}, anID()},
	},
}
