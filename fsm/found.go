package fsm

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// foundAuthority makes the issuer of the caller CA and the bindings of the persons
// of the genesis: in the genesis itself, or when the format version of an older
// cluster is raised to [FormatAuthority].
//
// In a cluster that was raised, certificates of operators, auditors and workloads
// go on as they are, and its governors govern every tenant, as they did. A governor
// or custodian who is not one of the genesis' persons has no power from then on
// until somebody binds the role: nothing in the registry says that there is one.
func (t *tx) foundAuthority(raised bool) error {
	c := t.cluster
	secret, ok := lookup[*fsmpb.Secret](t.txn, tableSecrets, indexID, []byte(callerCA))
	if !ok {
		return errs.New(errs.FailedState, "the cluster has no CA for callers")
	}
	spki, ok := spkiOf(secret.GetPublic())
	if !ok {
		return errs.New(errs.FailedState, "the certificate of the CA for callers is no certificate in DER")
	}
	i := &fsmpb.Issuer{
		Id:           BuiltinIssuer,
		Uid:          builtinUID(spki),
		Kind:         &fsmpb.Issuer_X509{X509: builtinX509(secret, builtinDomain(c))},
		AllTenants:   true,
		CreateTimeMs: t.timeMS,
		ModIndex:     t.index,
	}
	for _, r := range auth.Roles() {
		i.Roles = append(i.Roles, r.String())
	}
	if raised {
		i.UnboundRoles = []string{auth.RoleOperator.String(), auth.RoleAuditor.String(), auth.RoleWorkload.String()}
	}
	put(t, tableIssuers, i)
	t.issuerRows++

	governors := 0
	for _, p := range c.GetPersons() {
		b := t.bindingOfPerson(p, i, raised)
		keys, err := checkRoleBinding(b, i)
		if err != nil {
			return fmt.Errorf("bind the persons of the genesis: %w", err)
		}
		if b.GetPlatform() {
			governors++
		}
		t.storeBinding(b, keys)
	}
	if governors == 0 {
		return errs.New(errs.FailedState, "the cluster has no governor, so nobody could ever bind a role",
			errs.Hint("a cluster is founded by at least one governor"))
	}
	t.listIssuer(i)
	t.authorityMoved()
	return nil
}

func (t *tx) bindingOfPerson(p *fsmpb.Person, i *fsmpb.Issuer, raised bool) *fsmpb.RoleBinding {
	governor := p.GetRole() == auth.RoleGovernor.String()
	uid := PersonUID(t.cluster.GetClusterId(), p.GetRole(), p.GetName())
	b := &fsmpb.RoleBinding{
		Id:           p.GetName(),
		Uid:          uid[:],
		IssuerUid:    i.GetUid(),
		Role:         p.GetRole(),
		Name:         p.GetName(),
		Platform:     governor,
		EveryTenant:  governor && raised,
		Keys:         []*fsmpb.BindingKey{{Key: p.GetKey(), Sign: true, Tls: true}},
		CreateTimeMs: t.timeMS,
		ModIndex:     t.index,
	}
	b.Subject = builtinSubject(b)
	if checkName(b.GetId()) != nil { // the name of a person may have dots, or begin with a digit
		b.Id = p.GetRole() + "-" + hex.EncodeToString(uid[:8])
	}
	return b
}

// PersonUID returns the uid of the role binding of a person of the genesis: the
// first 16 bytes of SHA-256 over label, cluster id, and role and name with a slash
// between, each with its length in front.
func PersonUID(clusterID []byte, role, name string) hierarchy.UID {
	b := appendPart(appendPart(nil, bindingUIDLabel), clusterID)
	sum := sha256.Sum256(appendPart(b, role+"/"+name))
	return uidOf(sum[:])
}

// builtinDomain is the trust domain of the URIs in the cluster's certificates.
func builtinDomain(c *fsmpb.Cluster) string {
	return hex.EncodeToString(c.GetClusterId()) + builtinDomainSuffix
}
