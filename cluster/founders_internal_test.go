package cluster

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"math/big"
	"strings"
	"time"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Who asks in the tests of this package. Every replica asks the registry for the
// role of who orders a command, so a cluster is founded with a CA for callers and a
// governor and a custodian under it; others are bound by commands.

// keyOf is the key of somebody, always the same for one name.
func keyOf(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("key of " + name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func publicKeyOf(name string) *fsmpb.PublicKey {
	pub, _ := keyOf(name).Public().(ed25519.PublicKey)
	return &fsmpb.PublicKey{Algorithm: fsmpb.KeyAlgorithm_KEY_ALGORITHM_ED25519, Raw: pub}
}

// callerCA is always the same: simulated histories are told by their seeds.
//
//nolint:gochecknoglobals // Immutable.
var callerCA = func() *x509.Certificate {
	key, from := keyOf("caller-ca"), time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "callers"}, NotBefore: from, NotAfter: from.AddDate(100, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(nil, tmpl, tmpl, key.Public(), key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return cert
}()

// Found adds the CA for callers and the first persons to a genesis.
func Found(g *fsmpb.Genesis) *fsmpb.Genesis {
	g.Secrets = append(g.Secrets, &fsmpb.Secret{Name: "caller-ca", IvkUid: g.GetInternalKey().GetUid(), Blob: []byte("wrapped"), Public: callerCA.Raw})
	for _, p := range []auth.Principal{Governor(), Custodian()} {
		g.Persons = append(g.Persons, &fsmpb.Person{Name: p.Name, Role: p.Role.String(), Key: publicKeyOf(p.Name)})
	}
	return g
}

// Governor is the one of the genesis.
func Governor() auth.Principal { return callerOf(auth.RoleGovernor, "grace") }

// Custodian is the one of the genesis.
func Custodian() auth.Principal { return callerOf(auth.RoleCustodian, "carol") }

// Operator is somebody whom [BindOperator] binds.
func Operator() auth.Principal { return callerOf(auth.RoleOperator, "olivia") }

func callerOf(role auth.Role, name string) auth.Principal {
	return auth.Principal{Issuer: pki.IssuerOf(callerCA), Role: role, Name: name}
}

// BindOperator gives [Operator] the role.
func BindOperator() *fsmpb.Command {
	o := Operator()
	return &fsmpb.Command{Body: &fsmpb.Command_BindRole{BindRole: &fsmpb.BindRole{Binding: &fsmpb.RoleBinding{
		Id: o.Name, IssuerUid: bytes.Clone(o.Issuer[:]), Role: o.Role.String(), Name: o.Name,
		Keys: []*fsmpb.BindingKey{{Key: publicKeyOf(o.Name), Tls: true}},
	}}}}
}

// WhoMay returns somebody who may order a command.
func WhoMay(cmd *fsmpb.Command) auth.Principal {
	switch b := cmd.GetBody().(type) {
	case *fsmpb.Command_Genesis:
		return auth.LocalOperator()
	case *fsmpb.Command_CreateJoinToken, *fsmpb.Command_UpdateMember, *fsmpb.Command_RemoveMember, *fsmpb.Command_RevokeCertificate:
		return Operator()
	case *fsmpb.Command_SetHold:
		if !b.SetHold.GetHeld() {
			return Custodian()
		}
	}
	return Governor()
}

// Shown is what p shows in tests of this package, in which nobody has certificates:
// the name, and the serial number of a certificate that there would be.
func Shown(p auth.Principal, serial string) auth.Credential {
	return auth.CertificateShown([]byte(p.String() + " " + hex.EncodeToString([]byte(serial))))
}

// WhoShowed is the inverse of Shown: what a real node finds out with its CAs.
func WhoShowed(c auth.Credential) (Caller, error) {
	name, number, _ := strings.Cut(string(c.Certificate()), " ")
	p, err := auth.ParsePrincipal(name)
	if err != nil {
		return Caller{}, errs.New(errs.Unauthenticated, "not what somebody showed", errs.Cause(err))
	}
	serial, err := hex.DecodeString(number)
	return Caller{Principal: p, Serial: string(serial)}, err
}
