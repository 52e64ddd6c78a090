package fsm_test

import (
	"testing"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// TestNothingOfAuthorityBeforeItsFormat: a release that does not know these
// commands would stop at one, so they are refused until every member does.
func TestNothingOfAuthorityBeforeItsFormat(t *testing.T) {
	w := newWorld(t, ofFormat(fsm.FormatAuthority-1))
	for _, cmd := range []*fsmpb.Command{
		{Body: &fsmpb.Command_PutIssuer{PutIssuer: &fsmpb.PutIssuer{}}},
		{Body: &fsmpb.Command_RemoveIssuer{RemoveIssuer: &fsmpb.RemoveIssuer{}}},
		{Body: &fsmpb.Command_BindRole{BindRole: &fsmpb.BindRole{}}},
		{Body: &fsmpb.Command_UnbindRole{UnbindRole: &fsmpb.UnbindRole{}}},
		{Body: &fsmpb.Command_SetTenantGovernors{SetTenantGovernors: &fsmpb.SetTenantGovernors{}}},
		func() *fsmpb.Command {
			c := w.createTenant("acme")
			c.GetCreateTenant().Governors = [][]byte{w.uid()}
			return c
		}(),
	} {
		w.refused(errs.FailedState, cmd)
	}
	v := w.view()
	if len(v.Issuers()) != 0 || len(v.Bindings("", "", 10)) != 0 || v.AuthorityAt() != 0 {
		t.Errorf("issuers %v, authority at %d", v.Issuers(), v.AuthorityAt())
	}
	g := w.genesis()
	ofFormat(fsm.FormatAuthority - 1)(g)
	g.Rules = []*fsmpb.IntentRule{{Act: 17, Role: "governor"}}
	emptyWorld(t).refused(errs.InvalidArgument, &fsmpb.Command{Body: &fsmpb.Command_Genesis{Genesis: g}})
}
