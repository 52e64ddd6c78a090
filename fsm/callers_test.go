package fsm_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	bignum "math/big"
	"slices"
	"time"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
)

// newest is the format version of the clusters of these tests, where a test does
// not say another one. Releases learn a format before they announce it.
const newest uint32 = fsm.FormatOwnedKeys

// caCert returns a CA certificate, always the same for one name.
func caCert(name string) []byte {
	seed := sha256.Sum256([]byte("ca " + name))
	key := ed25519.NewKeyFromSeed(seed[:])
	from := time.UnixMilli(startMS).UTC()
	tmpl := &x509.Certificate{
		SerialNumber: bignum.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: from.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(nil, tmpl, tmpl, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return der
}

// builtinOf returns the uid of the issuer builtin, as package auth has it.
func builtinOf(cert []byte) []byte {
	c, err := x509.ParseCertificate(cert)
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return sum[:16]
}

//nolint:gochecknoglobals // Constants; Go has no constant slices.
var (
	callerCA = caCert("callers")
	builtin  = builtinOf(callerCA)
)

// caller returns the principal of somebody who is known by builtin.
func caller(role, name string) *fsmpb.Principal {
	return &fsmpb.Principal{Issuer: hex.EncodeToString(builtin), Kind: role, Name: name}
}

func localOperator() *fsmpb.Principal {
	p := auth.LocalOperator()
	return &fsmpb.Principal{Issuer: p.Issuer.String(), Kind: p.Role.String(), Name: p.Name}
}

// founders are in every genesis, beside whom a test names.
func founders() []*fsmpb.Person {
	gov, _ := person("gov", "governor")
	cust, _ := person("cust", "custodian")
	return []*fsmpb.Person{gov, cust}
}

// addFounders adds them where there is nobody of their name.
func addFounders(g *fsmpb.Genesis) {
	for _, p := range founders() {
		if !slices.ContainsFunc(g.GetPersons(), func(q *fsmpb.Person) bool { return q.GetName() == p.GetName() }) {
			g.Persons = append(g.Persons, p)
		}
	}
}

// personUID returns the uid of the binding of a person of the genesis.
func (w *world) personUID(role, name string) []byte {
	u := fsm.PersonUID(w.view().Cluster().GetClusterId(), role, name)
	return u[:]
}

// by has a command asked for by somebody who may order it, if anybody may.
func by(cmd *fsmpb.Command) *fsmpb.Command {
	if cmd.GetPrincipal() == nil {
		cmd.Principal = whoAsks(cmd)
	}
	return cmd
}

// whoAsks returns somebody who may order a command, or nil if that is the leader.
func whoAsks(cmd *fsmpb.Command) *fsmpb.Principal {
	switch b := cmd.GetBody().(type) {
	case *fsmpb.Command_Genesis, *fsmpb.Command_AddInternalKey, *fsmpb.Command_RewrapTenant, *fsmpb.Command_PutSecret, *fsmpb.Command_AddMember,
		*fsmpb.Command_UpdateMember, *fsmpb.Command_PurgeMember, *fsmpb.Command_Tick, *fsmpb.Command_RaiseFormat, *fsmpb.Command_LeaseEpoch, *fsmpb.Command_RepairSeal,
		*fsmpb.Command_DropCarried, *fsmpb.Command_EndInternalKeys, *fsmpb.Command_NoteBackup, *fsmpb.Command_MemberCleared, *fsmpb.Command_FinishExposure,
		*fsmpb.Command_AddVersion, *fsmpb.Command_StageCeremony, *fsmpb.Command_ConfirmHolder, *fsmpb.Command_ProveSeal, *fsmpb.Command_CommitCeremony, *fsmpb.Command_Recover:
		return nil
	case *fsmpb.Command_CreateJoinToken, *fsmpb.Command_RemoveMember:
		return localOperator()
	case *fsmpb.Command_SetHold:
		if !b.SetHold.GetHeld() {
			return caller("custodian", "cust")
		}
	}
	return caller("governor", "gov")
}
