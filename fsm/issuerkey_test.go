package fsm_test

import (
	"testing"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// TestACAIsOfOneIssuer: a CA's certificate is public, so whoever could register it a
// second time could take over, or cut off, the callers of another tenant.
func TestACAIsOfOneIssuer(t *testing.T) {
	w := newWorld(t)
	w.ok(putIssuer(x509Issuer("corp")))
	copied := x509Issuer("copy")
	copied.Kind = x509Issuer("corp").GetKind()
	w.refused(errs.AlreadyExists, putIssuer(copied))
	w.ok(putIssuer(x509Issuer("copy")))
	beside := x509Issuer("copy")
	beside.GetX509().Certificates = append(beside.GetX509().GetCertificates(), x509Issuer("corp").GetX509().GetCertificates()...)
	w.refused(errs.AlreadyExists, putIssuer(beside))
	// The CA with which keys are fetched signs no caller.
	tokens := jwtIssuer("idp")
	tokens.GetJwt().Ca = x509Issuer("corp").GetX509().GetCertificates()
	w.ok(putIssuer(tokens))
	w.ok(putIssuer(x509Issuer("corp"))) // what it was before is no other
	w.ok(&fsmpb.Command{Body: &fsmpb.Command_RemoveIssuer{RemoveIssuer: &fsmpb.RemoveIssuer{Id: "corp"}}})
	w.ok(putIssuer(copied)) // and what is gone is free
}
