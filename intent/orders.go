package intent

// What follows are the requests that people sign, one type for each. The state
// machine makes them from the command that it is about to apply, a command line
// from what its user typed: one code for both, so that the digests agree. The
// fields and their order are a format: changing them voids every signature over
// such a request that is on its way.

// BindL1 orders a tenant under a customer key.
type BindL1 struct {
	Tenant    string
	Keystore  string // its name in the nodes' configuration
	Key       string // reference in that keystore
	Archetype string
	Governors [][]byte // uids of role bindings; none: whoever asks
}

// Request returns the canonical form.
func (b BindL1) Request() *Request {
	r := NewRequest(ActBindL1).Text("tenant", b.Tenant).Text("keystore", b.Keystore).Text("key", b.Key).Text("archetype", b.Archetype)
	if len(b.Governors) != 0 {
		r.listBytes("governors", b.Governors)
	}
	return r
}

// BindTenant orders that a tenant without a key is bound to a customer key.
type BindTenant struct {
	Tenant     string
	TenantUID  []byte
	Keystore   string   // its name in the nodes' configuration
	Key        string   // reference in that keystore
	Archetype  string   // how the customer holds the key
	Identity   []string // what the identity is called that is used for this tenant only: name=value, in ascending order of the names
	Regions    []string // where nodes may use the key; none: everywhere
	SharedWith []string // tenants that have the same key
}

// Request returns the canonical form.
func (b BindTenant) Request() *Request {
	r := NewRequest(ActBindL1).Text("tenant", b.Tenant).Bytes("tenant_uid", b.TenantUID).Text("keystore", b.Keystore).Text("key", b.Key).Text("archetype", b.Archetype)
	return r.listText("identity", b.Identity).listText("regions", b.Regions).listText("shared_with", b.SharedWith)
}

// Destroy orders the end of a tenant, a service, or one version of a key.
type Destroy struct {
	Tenant  string // empty: a version of the internal key
	Service string // empty: the tenant or a version of its key
	Version uint32 // 0: the whole tenant or service
	Now     bool   // without the cluster's waiting time
}

// Request returns the canonical form.
func (d Destroy) Request() *Request {
	return NewRequest(ActDestroy).Text("tenant", d.Tenant).Text("service", d.Service).Uint("version", uint64(d.Version)).Uint("now", flag(d.Now))
}

// ResumeAfterUnlink gives a tenant or a service back that was unlinked.
type ResumeAfterUnlink struct {
	Tenant  string
	Service string // empty: the tenant
}

// Request returns the canonical form.
func (u ResumeAfterUnlink) Request() *Request {
	return NewRequest(ActResumeAfterUnlink).Text("tenant", u.Tenant).Text("service", u.Service)
}

// VoterToken orders a join token with which a new node becomes a voter.
type VoterToken struct {
	Hash         []byte // SHA-256 of the token's public key
	Region       string // where the node must say that it is; empty: anywhere
	ExpireTimeMs int64  // unix milliseconds; negative counts as 0
}

// Request returns the canonical form.
func (t VoterToken) Request() *Request {
	return NewRequest(ActAddMember).Bytes("token", t.Hash).Text("region", t.Region).Uint("expire", uint64(max(t.ExpireTimeMs, 0)))
}

// VoterPromotion makes a member a voter. It names the key, because people must
// know whose key they admit.
type VoterPromotion struct {
	Node      string // id of the member
	PublicKey []byte // its SubjectPublicKeyInfo, DER
}

// Request returns the canonical form.
func (p VoterPromotion) Request() *Request {
	return NewRequest(ActAddMember).Text("node", p.Node).Bytes("key", p.PublicKey)
}

// VoterWithdrawal removes or demotes a voter, where what is left is no majority of the
// voters that people let in. It says how many are left, because that is what people
// agree to.
type VoterWithdrawal struct {
	Op     string // "remove" or "demote"
	Node   string // id of the member
	Voters uint64 // that are left
}

// Request returns the canonical form.
func (w VoterWithdrawal) Request() *Request {
	return NewRequest(ActAddMember).Text("op", w.Op).Text("node", w.Node).Uint("voters", w.Voters)
}

// What a recovery goes on from.
const (
	RecoverSnapshot = "snapshot" // a snapshot file, in a new data directory
	RecoverQuorum   = "quorum"   // the data directory of a member
)

// Recovery begins a new incarnation of a cluster with one node. It names the state, and
// every voter that is destroyed: if one of them lived on, there could be two clusters.
type Recovery struct {
	Op          string   // RecoverSnapshot or RecoverQuorum
	Node        string   // id of the one member
	PublicKey   []byte   // its SubjectPublicKeyInfo, DER
	Incarnation []byte   // id
	Index       uint64   // last change of the state from which it goes on
	Chain       []byte   // state chain there, 32 bytes
	Lost        []string // ids of the voters that were destroyed
}

// Request returns the canonical form.
func (r Recovery) Request() *Request {
	q := NewRequest(ActRestore).Text("op", r.Op).Text("node", r.Node).Bytes("key", r.PublicKey).Bytes("incarnation", r.Incarnation).
		Uint("index", r.Index).Bytes("chain", r.Chain).List("lost", len(r.Lost))
	for _, id := range r.Lost {
		q.Text("lost", id)
	}
	return q
}

func flag(on bool) uint64 {
	if on {
		return 1
	}
	return 0
}
