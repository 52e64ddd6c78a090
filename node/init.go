package node

import (
	"bytes"
	"context"
	"crypto/x509"
	"time"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/mutation"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/plan"
)

// Defaults of a new cluster.
const (
	DefaultDestroyWait    = 7 * 24 * time.Hour
	DefaultRollbackWindow = 24 * time.Hour
)

// Person is someone who will hold authority over the cluster, by a key of their
// own.
type Person struct {
	Name      string
	PublicKey []byte // SubjectPublicKeyInfo, DER
}

// InitPlan says what cluster to make.
type InitPlan struct {
	ClusterName    string
	Voters         int // 1, 3, 5 or 7
	Governors      []Person
	Custodians     []Person
	Seal           plan.Plan     // who opens the MasterKey
	AcceptRisks    []plan.Risk   // of the seal; those that are there are kept in its manifest
	Profile        plan.Profile  // that the seal has to keep, now and after every ceremony
	DestroyWait    time.Duration // 0 only on purpose: development
	RollbackWindow time.Duration
	ValidateOnly   bool

	// How many governors sign sovereign acts, and how many custodians those on the
	// MasterKey; both sign for who signs. 0: nobody of that role; at most
	// [intent.MaxRule]. See [fsm.RulesOf].
	GovernorQuorum  int
	CustodianQuorum int
}

// checkQuorums refuses quorums that these persons could never fulfil: nothing would
// ever be ordered, and nobody could change that.
func (p InitPlan) checkQuorums() error {
	for _, q := range []struct {
		role string
		n    int
	}{{"governor", p.GovernorQuorum}, {"custodian", p.CustodianQuorum}} {
		if q.n < 0 || q.n > intent.MaxRule {
			return errs.Newf(errs.InvalidArgument, "a quorum of %d %ss is not possible", q.n, q.role).With(errs.Hint("0 to %d", intent.MaxRule))
		}
	}
	short := func(role string, people int, format string, args ...any) error {
		return errs.Newf(errs.InvalidArgument, format+", and there are %d", append(args, people)...).With(errs.Hint("name more with --%s, or ask for fewer", role))
	}
	g, c := p.GovernorQuorum, p.CustodianQuorum
	switch {
	case g > 0 && (g > 1 || c > 1) && g+1 > len(p.Governors): // who asks is a governor
		return short("governor", len(p.Governors), "a quorum of %d governor(s) other than the one who asks needs %d", g, g+1)
	case g > len(p.Governors):
		return short("governor", len(p.Governors), "a quorum of %d governor(s) needs as many", g)
	case c > len(p.Custodians):
		return short("custodian", len(p.Custodians), "a quorum of %d custodian(s) needs as many", c)
	}
	return nil
}

// InitResult is what init hands out, once.
type InitResult struct {
	Fingerprint  seal.Fingerprint
	Keyspace     hierarchy.KeyspaceID
	Cluster      hierarchy.ClusterID
	ShareTexts   [][]byte // what is printed for each holder, in order; the caller wipes them
	Certificates []IssuedCertificate
	NodeCA       *x509.Certificate
	CallerCA     *x509.Certificate
	OwnCert      *x509.Certificate // API certificate of this node
	Persons      int               // needed to unseal
	Risks        []string          // that were accepted, as the manifest has them
}

// IssuedCertificate is the first certificate of a person.
type IssuedCertificate struct {
	Name string
	Role auth.Role
	Cert *x509.Certificate
}

// newborn is everything of a cluster that does not exist yet: secrets, and what
// will be public of them. destroy is called whatever happens.
type newborn struct {
	keyspace           hierarchy.KeyspaceID
	cluster            hierarchy.ClusterID
	record             seal.Record
	masterKey          memsec.Secret
	shares             []seal.Share
	callerCA, nodeCA   *pki.CA
	ivkUID             hierarchy.UID
	ivk                memsec.Secret
	callerSec, nodeSec *fsmpb.Secret
}

func (b *newborn) destroy() {
	for _, s := range b.shares {
		s.Destroy()
	}
	if b.callerCA != nil {
		b.callerCA.Destroy()
	}
	if b.nodeCA != nil {
		b.nodeCA.Destroy()
	}
	b.ivk.Destroy()
	b.masterKey.Destroy()
}

// Init makes a new cluster of this one node: the MasterKey and its protection,
// the first internal key, both CAs, and the genesis that binds the persons. The
// node is unsealed when it returns.
//
// What it returns exists nowhere else. A crash before the caller has it leaves a
// cluster that nobody can unseal by shares; its data directory is then removed
// and init run again.
func (n *Node) Init(ctx context.Context, tok gate.Token, p InitPlan) (*InitResult, error) {
	if err := tok.Require(gate.Init, ObjectCluster); err != nil {
		return nil, err
	}
	if n.Initialized() {
		return nil, cluster.ErrInitialised()
	}
	persons, err := p.check()
	if err != nil {
		return nil, err
	}
	sealing, err := n.planned(p)
	if err != nil || p.ValidateOnly {
		return nil, err
	}
	b, err := n.conceive(ctx, p, sealing)
	if err != nil {
		return nil, err
	}
	defer b.destroy()

	genesis, raw, err := n.genesis(p, b, persons)
	if err != nil {
		return nil, err
	}
	out, err := n.handOut(p, sealing.AcceptedRisks, b, fsm.Fingerprint(raw))
	if err != nil {
		return nil, err
	}
	if _, err := n.cluster.Bootstrap(ctx, tok, &fsmpb.Command{Body: &fsmpb.Command_Genesis{Genesis: genesis}}); err != nil {
		out.wipe()
		return nil, err
	}
	if err := n.adoptRecord(ctx, n.machine.View()); err != nil {
		out.wipe()
		return nil, err
	}
	n.mu.Lock()
	a := n.begin()
	n.mu.Unlock()
	mk, err := memsec.Copy(b.masterKey, memsec.Cold)
	if err != nil {
		out.wipe()
		return nil, err
	}
	if err := n.unsealWith(ctx, a, mk); err != nil {
		out.wipe()
		return nil, err
	}
	return out, nil
}

func (r *InitResult) wipe() {
	for _, s := range r.ShareTexts {
		clear(s)
	}
}

// check refuses a plan that cannot work, before anything is made.
func (p InitPlan) check() ([]*fsmpb.Person, error) {
	bad := func(format string, args ...any) error { return errs.Newf(errs.InvalidArgument, format, args...) }
	switch {
	case p.Voters != 1 && p.Voters != 3 && p.Voters != 5 && p.Voters != 7:
		return nil, bad("%d voters are not possible, want 1, 3, 5 or 7", p.Voters)
	case len(p.Governors) == 0 || len(p.Custodians) == 0:
		return nil, errs.New(errs.InvalidArgument, "a cluster needs at least one governor and one custodian",
			errs.Hint("krypton init --governor NAME=PUBLIC_KEY_FILE --custodian NAME=PUBLIC_KEY_FILE"))
	case p.DestroyWait < 0 || p.DestroyWait > 365*24*time.Hour || p.RollbackWindow < 0 || p.RollbackWindow > 365*24*time.Hour:
		return nil, bad("a wait or window is not between 0 and one year")
	}
	if err := p.checkQuorums(); err != nil {
		return nil, err
	}
	var persons []*fsmpb.Person
	for _, group := range []struct {
		role   auth.Role
		people []Person
	}{{auth.RoleGovernor, p.Governors}, {auth.RoleCustodian, p.Custodians}} {
		for _, who := range group.people {
			key, err := personKey(who)
			if err != nil {
				return nil, err
			}
			for _, other := range persons {
				if bytes.Equal(other.GetKey().GetRaw(), key.GetRaw()) {
					return nil, bad("%s and %s have one and the same key; authority over the cluster needs distinct keys", other.GetName(), who.Name)
				}
				if other.GetName() == who.Name && other.GetRole() == group.role.String() {
					return nil, bad("%s %s stands twice", group.role, who.Name)
				}
			}
			persons = append(persons, &fsmpb.Person{Name: who.Name, Role: group.role.String(), Key: key})
		}
	}
	return persons, nil
}

// conceive makes everything secret of a new cluster.
func (n *Node) conceive(ctx context.Context, p InitPlan, sealing seal.Plan) (_ *newborn, err error) {
	b := &newborn{}
	defer func() {
		if err != nil {
			b.destroy()
		}
	}()
	if b.keyspace, err = hierarchy.NewKeyspaceID(n.rand); err != nil {
		return nil, err
	}
	if b.cluster, err = hierarchy.NewClusterID(n.rand); err != nil {
		return nil, err
	}
	uids, err := n.uids(2)
	if err != nil {
		return nil, err
	}
	now := n.clock.Now()
	ceremony := seal.Ceremony{Keyspace: b.keyspace, Cluster: b.cluster, ID: uids[0], Generation: 1, Time: now}
	b.record, b.masterKey, b.shares, err = seal.Create(ctx, n.rand, ceremony, sealing, n.stores)
	if err != nil {
		return nil, initSealError(err)
	}
	b.ivkUID = uids[1]
	if b.ivk, err = memsec.Random(n.rand, memsec.KeySize, memsec.Cold); err != nil {
		return nil, err
	}
	if b.callerCA, err = pki.NewCA(n.rand, now, pki.ForCallers, p.ClusterName); err != nil {
		return nil, err
	}
	if b.nodeCA, err = pki.NewCA(n.rand, now, pki.ForNodes, p.ClusterName); err != nil {
		return nil, err
	}
	if b.callerSec, err = n.sealCA(SecretCallerCA, b.callerCA, b.keyspace, b.ivkUID, b.ivk); err != nil {
		return nil, err
	}
	b.nodeSec, err = n.sealCA(SecretNodeCA, b.nodeCA, b.keyspace, b.ivkUID, b.ivk)
	return b, err
}

// initSealError names the keystore as misconfigured instead of letting the
// customer's kill switch answer: there is no customer yet.
func initSealError(err error) error {
	if keystore.IsDenied(err) {
		return errs.New(errs.KeystoreMisconfigured, "the keystore of the seal refuses the key", errs.Hint("check the key and this node's rights on it"), errs.Cause(err))
	}
	return l1Error("seal", err)
}

// genesis builds the first command. Its encoding is part of the cluster's
// identity, so it is made once and kept.
func (n *Node) genesis(p InitPlan, b *newborn, persons []*fsmpb.Person) (*fsmpb.Genesis, []byte, error) {
	rec, err := b.record.Marshal()
	if err != nil {
		return nil, nil, err
	}
	first := n.cluster.Member()
	g := &fsmpb.Genesis{
		KeyspaceId: b.keyspace[:], ClusterId: b.cluster[:], Persons: persons, Name: p.ClusterName,
		Rules: fsm.RulesOf(p.GovernorQuorum, p.CustodianQuorum),
		Settings: &fsmpb.Settings{
			RollbackWindowMs: p.RollbackWindow.Milliseconds(), DestroyWaitMs: p.DestroyWait.Milliseconds(), Voters: uint32(p.Voters), //nolint:gosec // 1 to 7.
		},
		SealRecord:    rec,
		InternalKey:   &fsmpb.Version{Number: 1, Uid: b.ivkUID[:]},
		Secrets:       []*fsmpb.Secret{b.callerSec, b.nodeSec},
		FirstMember:   first,
		FormatVersion: min(fsm.MaxFormatVersion, max(first.GetMaxFormat(), 1)), // what its first member says it supports
		LeaseMs:       uint32(n.cfg.Lease.Milliseconds()),                      //nolint:gosec // Checked when the genesis is applied; at most 60,000.
	}
	if g.GetFormatVersion() >= fsm.FormatSealProof {
		g.SealProfile = string(p.Profile)
	}
	if g.InternalKey.Blob, err = n.wrapFirstKey(b, g); err != nil {
		return nil, nil, err
	}
	raw, err := fsm.EncodeGenesis(g)
	return g, raw, err
}

// wrapFirstKey wraps the first internal key under what the MasterKey and the genesis
// give together (I11). So it comes last.
func (n *Node) wrapFirstKey(b *newborn, g *fsmpb.Genesis) ([]byte, error) {
	parent, err := envelope.IVKParent(b.masterKey)
	if err != nil {
		return nil, err
	}
	defer func() { parent.Destroy() }()
	if g.GetFormatVersion() >= fsm.FormatAuthority && !mutation.On(mutation.SkipFounding) {
		founded, err := envelope.FoundedIVKParent(parent, fsm.Founding(g))
		if err != nil {
			return nil, err
		}
		parent.Destroy()
		parent = founded
	}
	return envelope.Wrap(n.rand, parent, ivkBinding(b.keyspace, b.record.Generation(), b.ivkUID), b.ivk)
}

// handOut makes everything that init returns, before the cluster exists: what
// cannot be handed out must not come to be.
func (n *Node) handOut(p InitPlan, risks []string, b *newborn, fingerprint [32]byte) (out *InitResult, err error) {
	made := &InitResult{
		Fingerprint: fingerprint, Keyspace: b.keyspace, Cluster: b.cluster,
		NodeCA: b.nodeCA.Certificate(), CallerCA: b.callerCA.Certificate(), Persons: b.record.PersonsNeeded(), Risks: risks,
	}
	out = made
	defer func() {
		if err != nil {
			made.wipe() // the texts of shares that nobody will get
		}
	}()
	for _, s := range b.shares {
		var text bytes.Buffer
		text.Grow(256)
		if err := s.ForCluster(fingerprint).Print(&text); err != nil {
			return nil, err
		}
		out.ShareTexts = append(out.ShareTexts, text.Bytes())
	}
	domain := TrustDomain(b.cluster)
	for _, group := range []struct {
		role   auth.Role
		people []Person
	}{{auth.RoleGovernor, p.Governors}, {auth.RoleCustodian, p.Custodians}} {
		for _, who := range group.people {
			pub, err := pki.ParsePublicKey(who.PublicKey)
			if err != nil {
				return nil, err
			}
			cert, err := b.callerCA.IssueCaller(n.rand, n.clock.Now(), pki.CallerRequest{
				ID: auth.ID{TrustDomain: domain, Role: group.role, Name: who.Name}, PublicKey: pub,
			})
			if err != nil {
				return nil, err
			}
			out.Certificates = append(out.Certificates, IssuedCertificate{Name: who.Name, Role: group.role, Cert: cert})
		}
	}
	member := n.cluster.Member()
	pub, err := pki.ParsePublicKey(member.GetPublicKey())
	if err != nil {
		return nil, err
	}
	out.OwnCert, err = issueNode(n, b.nodeCA, domain, member, pub)
	return out, err
}
