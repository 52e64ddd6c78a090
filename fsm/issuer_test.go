package fsm_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

func TestAnIssuerIsRegisteredReplacedAndRemoved(t *testing.T) {
	w := acme(t)
	in := x509Issuer("corp")
	res := w.ok(putIssuer(in))
	made := w.index
	want := proto.CloneOf(in)
	want.Uid, want.CreateTimeMs, want.ModIndex = res.GetUid(), w.now, w.index
	got := w.issuerOf("", "corp")
	if !proto.Equal(got, want) || res.GetObject() != "issuers/corp" || w.view().AuthorityAt() != w.index {
		t.Errorf("issuer %v, want %v", got, want)
	}
	if all := w.view().Issuers(); len(all) != 2 || all[0].GetId() != fsm.BuiltinIssuer || all[1] != got {
		t.Errorf("issuers %v", all)
	}
	if by, ok := w.view().IssuerByUID(res.GetUid()); !ok || by != got {
		t.Errorf("by uid: %v", by)
	}
	old := w.view().Issuers()
	w.now += hourMS
	in.Roles, in.GetX509().Certificates = []string{"workload"}, [][]byte{caCert("corp"), caCert("corp 2")}
	c := putIssuer(in)
	c.GetPutIssuer().Etag = made + 1
	w.refused(errs.StaleEtag, c)
	c.GetPutIssuer().Etag = made
	w.ok(c)
	is := w.issuerOf("", "corp")
	if !bytes.Equal(is.GetUid(), res.GetUid()) || is.GetCreateTimeMs() != startMS || is.GetModIndex() != w.index || len(is.GetX509().GetCertificates()) != 2 {
		t.Errorf("replaced by %v", is)
	}
	if old[1] != got || len(old[1].GetRoles()) != 4 {
		t.Error("I4: what a view returned changed")
	}
	w.ok(putIssuer(w.ownIssuer("acme", "corp"))) // a tenant's ids are its own
	r := removeIssuer("", "corp")
	r.GetRemoveIssuer().Etag = 1
	w.refused(errs.StaleEtag, r)
	r.GetRemoveIssuer().Etag = is.GetModIndex()
	if res := w.ok(r); !bytes.Equal(res.GetUid(), is.GetUid()) || w.view().AuthorityAt() != w.index {
		t.Errorf("removed %v", res)
	}
	if _, ok := w.view().Issuer("", "corp"); ok {
		t.Error("still there")
	}
	w.issuerOf("acme", "corp")
	if again := w.ok(putIssuer(x509Issuer("corp"))); bytes.Equal(again.GetUid(), res.GetUid()) {
		t.Error("I3: a uid is used again")
	}
	w.refused(errs.NotFound, removeIssuer("", "nobody"))
	w.refused(errs.NotFound, removeIssuer("nobody", "corp"))
}

// TestI23_AnIssuersLimitsHoldForWhoIsBound: narrower limits, another kind and
// removal are refused while somebody is bound under what would go.
func TestI23_AnIssuersLimitsHoldForWhoIsBound(t *testing.T) {
	w := acme(t)
	for _, name := range []string{"beta", "gamma"} {
		w.ok(w.createTenant(name))
	}
	limited := func(tenants ...string) *fsmpb.Command {
		i := jwtIssuer("idp")
		i.AllTenants = false
		for _, n := range tenants {
			i.TenantUids = append(i.TenantUids, w.tenantOf(n).GetUid())
		}
		sortUIDs(i.GetTenantUids())
		return putIssuer(i)
	}
	w.ok(limited("acme", "gamma"))
	idp := w.issuerOf("", "idp")
	w.refused(errs.FailedState, bind(under(idp, w.workload("beta", "app"), "s0")))
	for i, tenant := range []string{"acme", "acme", "gamma"} {
		name := fmt.Sprintf("app%d", i)
		w.ok(bind(under(idp, w.workload(tenant, name), name)))
	}
	w.ok(bind(under(idp, bindingFor("operator", "olga"), "olga")))

	w.refused(errs.FailedState, limited("acme"))
	w.refused(errs.FailedState, limited("gamma", "beta"))
	w.refused(errs.FailedState, limited())
	w.ok(limited("acme", "beta", "gamma"))
	narrow := limited("acme", "gamma")
	narrow.GetPutIssuer().GetIssuer().Roles = []string{"governor", "workload"}
	w.refused(errs.FailedState, narrow)
	kind := x509Issuer("idp")
	w.refused(errs.FailedState, putIssuer(kind))
	w.refused(errs.FailedState, removeIssuer("", "idp"))

	w.ok(unbind("gamma", "app2"))
	w.ok(limited("acme"))
	w.ok(unbind("", "olga"))
	narrow = limited("acme")
	narrow.GetPutIssuer().GetIssuer().Roles = []string{"workload"}
	w.ok(narrow)
	w.refused(errs.NotFound, func() *fsmpb.Command {
		c := limited("acme")
		i := c.GetPutIssuer().GetIssuer()
		i.TenantUids = append(i.TenantUids, w.uid())
		sortUIDs(i.GetTenantUids())
		return c
	}())

	// A destroyed tenant's workloads count for nobody, so they hold nothing.
	w.ok(limited("acme", "gamma"))
	w.ok(bind(under(idp, w.workload("gamma", "app9"), "app9")))
	w.ok(destroyNow("gamma", ""))
	w.ok(limited("acme"))
	w.ok(tick())
	w.ok(unbind("acme", "app0"))
	w.ok(unbind("acme", "app1"))
	w.ok(removeIssuer("", "idp"))
}

func sortUIDs(uids [][]byte) {
	for i := range uids {
		for j := range i {
			if bytes.Compare(uids[i], uids[j]) < 0 {
				uids[i], uids[j] = uids[j], uids[i]
			}
		}
	}
}

func TestBuiltinStaysWhatItIs(t *testing.T) {
	w := acme(t)
	base := func() *fsmpb.Issuer { return proto.CloneOf(sent(w.issuerOf("", fsm.BuiltinIssuer))) }
	for name, change := range map[string]func(i *fsmpb.Issuer){
		"another CA":           func(i *fsmpb.Issuer) { i.GetX509().Certificates = [][]byte{caCert("rogue")} },
		"a second CA":          func(i *fsmpb.Issuer) { i.GetX509().Certificates = append(i.GetX509().Certificates, caCert("rogue")) },
		"another trust domain": func(i *fsmpb.Issuer) { i.GetX509().TrustDomain = "rogue" },
		"fewer roles":          func(i *fsmpb.Issuer) { i.Roles = i.GetRoles()[1:] },
		"some tenants":         func(i *fsmpb.Issuer) { i.AllTenants = false },
		"tokens":               func(i *fsmpb.Issuer) { i.Kind = jwtIssuer("x").GetKind() },
	} {
		i := base()
		change(i)
		if res := w.refused(errs.FailedState, putIssuer(i)); !strings.Contains(res.GetMessage(), "builtin") {
			t.Errorf("%s: %s", name, res.GetMessage())
		}
	}
	w.refused(errs.FailedState, removeIssuer("", fsm.BuiltinIssuer))
	i := base()
	i.UnboundRoles = []string{"governor"}
	w.refused(errs.InvalidArgument, putIssuer(i))
	i.UnboundRoles = []string{"operator", "auditor", "workload"}
	w.ok(putIssuer(i))
	i.UnboundRoles = nil
	w.ok(putIssuer(i))
	// No other issuer has its CA: its certificates would count without their keys.
	corp := x509Issuer("corp")
	corp.GetX509().Certificates = append(corp.GetX509().GetCertificates(), callerCA)
	w.refused(errs.InvalidArgument, putIssuer(corp))
	own := w.ownIssuer("acme", "builtin") // a tenant may use the name; it is not the cluster's
	w.ok(putIssuer(own))
	w.ok(removeIssuer("acme", "builtin"))
}

func TestIssuersThatAreNotSoundAreRefused(t *testing.T) {
	x, j := x509Issuer, jwtIssuer
	for name, tc := range map[string]struct {
		from func(string) *fsmpb.Issuer
		edit func(w *world, i *fsmpb.Issuer)
		code errs.Code
	}{
		"no id":                     {x, func(_ *world, i *fsmpb.Issuer) { i.Id = "" }, errs.InvalidArgument},
		"its own uid":               {x, func(w *world, i *fsmpb.Issuer) { i.Uid = w.uid() }, errs.InvalidArgument},
		"its own time":              {x, func(_ *world, i *fsmpb.Issuer) { i.CreateTimeMs = 1 }, errs.InvalidArgument},
		"its own index":             {x, func(_ *world, i *fsmpb.Issuer) { i.ModIndex = 1 }, errs.InvalidArgument},
		"its own approval":          {x, func(_ *world, i *fsmpb.Issuer) { i.AuthorizedBy = []*fsmpb.SignedIntent{{}} }, errs.InvalidArgument},
		"no kind":                   {x, func(_ *world, i *fsmpb.Issuer) { i.Kind = nil }, errs.InvalidArgument},
		"no roles":                  {x, func(_ *world, i *fsmpb.Issuer) { i.Roles = nil }, errs.InvalidArgument},
		"a role that is none":       {x, func(_ *world, i *fsmpb.Issuer) { i.Roles = []string{"admin"} }, errs.InvalidArgument},
		"roles out of order":        {x, func(_ *world, i *fsmpb.Issuer) { i.Roles = []string{"workload", "governor"} }, errs.InvalidArgument},
		"a role twice":              {x, func(_ *world, i *fsmpb.Issuer) { i.Roles = []string{"workload", "workload"} }, errs.InvalidArgument},
		"unbound governors":         {x, func(_ *world, i *fsmpb.Issuer) { i.UnboundRoles = []string{"governor"} }, errs.InvalidArgument},
		"unbound operators":         {x, func(_ *world, i *fsmpb.Issuer) { i.UnboundRoles = []string{"operator"} }, errs.InvalidArgument},
		"unbound above the ceiling": {x, func(_ *world, i *fsmpb.Issuer) { i.Roles, i.UnboundRoles = []string{"operator"}, []string{"workload"} }, errs.InvalidArgument},
		"unbound without a domain":  {x, func(_ *world, i *fsmpb.Issuer) { i.GetX509().TrustDomain, i.UnboundRoles = "", []string{"workload"} }, errs.InvalidArgument},
		"unbound by a token":        {j, func(_ *world, i *fsmpb.Issuer) { i.UnboundRoles = []string{"workload"} }, errs.InvalidArgument},
		"all tenants and some":      {x, func(w *world, i *fsmpb.Issuer) { i.TenantUids = [][]byte{w.tenantOf("acme").GetUid()} }, errs.InvalidArgument},
		"a tenant that is no uid":   {x, func(_ *world, i *fsmpb.Issuer) { i.AllTenants, i.TenantUids = false, [][]byte{{1}} }, errs.InvalidArgument},
		"a tenant twice": {x, func(w *world, i *fsmpb.Issuer) {
			u := w.tenantOf("acme").GetUid()
			i.AllTenants, i.TenantUids = false, [][]byte{u, u}
		}, errs.InvalidArgument},
		"no certificate":           {x, func(_ *world, i *fsmpb.Issuer) { i.GetX509().Certificates = nil }, errs.InvalidArgument},
		"five certificates":        {x, func(_ *world, i *fsmpb.Issuer) { i.GetX509().Certificates = fiveCerts() }, errs.InvalidArgument},
		"a certificate twice":      {x, func(_ *world, i *fsmpb.Issuer) { i.GetX509().Certificates = [][]byte{caCert("a"), caCert("a")} }, errs.InvalidArgument},
		"no DER":                   {x, func(_ *world, i *fsmpb.Issuer) { i.GetX509().Certificates = [][]byte{[]byte("-----BEGIN")} }, errs.InvalidArgument},
		"a domain in upper case":   {x, func(_ *world, i *fsmpb.Issuer) { i.GetX509().TrustDomain = "Corp" }, errs.InvalidArgument},
		"no URL":                   {j, func(_ *world, i *fsmpb.Issuer) { i.GetJwt().Url = "" }, errs.InvalidArgument},
		"a URL in the clear":       {j, func(_ *world, i *fsmpb.Issuer) { i.GetJwt().Url = "http://idp.example" }, errs.InvalidArgument},
		"a URL of no host":         {j, func(_ *world, i *fsmpb.Issuer) { i.GetJwt().Url = "https://" }, errs.InvalidArgument},
		"a URL with a blank":       {j, func(_ *world, i *fsmpb.Issuer) { i.GetJwt().Url = "https://a b" }, errs.InvalidArgument},
		"no audience":              {j, func(_ *world, i *fsmpb.Issuer) { i.GetJwt().Audiences = nil }, errs.InvalidArgument},
		"an empty audience":        {j, func(_ *world, i *fsmpb.Issuer) { i.GetJwt().Audiences = []string{""} }, errs.InvalidArgument},
		"an audience twice":        {j, func(_ *world, i *fsmpb.Issuer) { i.GetJwt().Audiences = []string{"a", "a"} }, errs.InvalidArgument},
		"an audience of a tenant":  {j, func(_ *world, i *fsmpb.Issuer) { i.GetJwt().Audiences = []string{"krypton:tenants/acme"} }, errs.InvalidArgument},
		"a token for 31 days":      {j, func(_ *world, i *fsmpb.Issuer) { i.GetJwt().MaxLifeS = fsm.MaxTokenLifeS + 1 }, errs.InvalidArgument},
		"nine audiences":           {j, func(_ *world, i *fsmpb.Issuer) { i.GetJwt().Audiences = strings.Split("abcdefghi", "") }, errs.InvalidArgument},
		"five CAs":                 {j, func(_ *world, i *fsmpb.Issuer) { i.GetJwt().Ca = fiveCerts() }, errs.InvalidArgument},
		"a CA that is none":        {j, func(_ *world, i *fsmpb.Issuer) { i.GetJwt().Ca = [][]byte{{0x30}} }, errs.InvalidArgument},
		"keys that are no text":    {j, func(_ *world, i *fsmpb.Issuer) { i.GetJwt().Keys = []byte{0xff} }, errs.InvalidArgument},
		"too many keys":            {j, func(_ *world, i *fsmpb.Issuer) { i.GetJwt().Keys = make([]byte, 64<<10+1) }, errs.InvalidArgument},
		"clocks far apart":         {j, func(_ *world, i *fsmpb.Issuer) { i.GetJwt().SkewMs = 300_001 }, errs.InvalidArgument},
		"tokens for a quarter":     {j, func(_ *world, i *fsmpb.Issuer) { i.GetJwt().MaxLifeS = fsm.MaxTokenLifeS + 1 }, errs.InvalidArgument},
		"a claim of two words":     {j, func(_ *world, i *fsmpb.Issuer) { i.GetJwt().SubjectClaim = "a b" }, errs.InvalidArgument},
		"a uid without its tenant": {j, func(w *world, i *fsmpb.Issuer) { i.TenantUid = w.tenantOf("acme").GetUid() }, errs.InvalidArgument},
		"a tenant without its uid": {j, func(_ *world, i *fsmpb.Issuer) { i.Tenant = "acme" }, errs.Aborted},
		"another tenant's uid":     {j, func(w *world, i *fsmpb.Issuer) { i.Tenant, i.TenantUid = "acme", w.uid() }, errs.Aborted},
		"an unknown tenant":        {j, func(w *world, i *fsmpb.Issuer) { i.Tenant, i.TenantUid = "nobody", w.uid() }, errs.NotFound},
		"a tenant's for operators": {j, func(w *world, i *fsmpb.Issuer) {
			i.Tenant, i.TenantUid, i.AllTenants = "acme", w.tenantOf("acme").GetUid(), false
		}, errs.InvalidArgument},
		"a tenant's for all tenants": {j, func(w *world, i *fsmpb.Issuer) {
			i.Tenant, i.TenantUid, i.Roles = "acme", w.tenantOf("acme").GetUid(), []string{"workload"}
		}, errs.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			w := acme(t)
			i := tc.from("idp")
			tc.edit(w, i)
			w.refused(tc.code, putIssuer(i))
			w.ok(putIssuer(tc.from("idp")))
		})
	}
	w := acme(t)
	w.refused(errs.InvalidArgument, &fsmpb.Command{Body: &fsmpb.Command_PutIssuer{}})
	w.refused(errs.NotFound, &fsmpb.Command{Body: &fsmpb.Command_BindRole{}})
}

func fiveCerts() (all [][]byte) {
	for i := range 5 {
		all = append(all, caCert(fmt.Sprint(i)))
	}
	return all
}

func TestIssuersAreLimited(t *testing.T) {
	t.Parallel()
	w := acme(t)
	put := func(tenant string, n int) *fsmpb.Command {
		i := jwtIssuer(fmt.Sprintf("i%d", n))
		if tenant != "" {
			i = w.ownIssuer(tenant, i.GetId())
		}
		i.GetJwt().Ca = nil
		return putIssuer(i)
	}
	for n := 1; n < fsm.MaxIssuersPerOwner; n++ { // builtin is one
		w.ok(put("", n))
	}
	w.refused(errs.LimitReached, put("", 0))
	w.ok(put("", 1)) // it is there already
	left := fsm.MaxIssuers - fsm.MaxIssuersPerOwner
	for _, tenant := range []string{"acme", "b", "c"} {
		if tenant != "acme" {
			w.ok(w.createTenant(tenant))
		}
		for n := range min(left, fsm.MaxIssuersPerOwner) {
			w.ok(put(tenant, n))
			left--
		}
	}
	w.ok(w.createTenant("d"))
	w.refused(errs.LimitReached, put("d", 0))
	w.ok(removeIssuer("acme", "i0"))
	w.ok(put("d", 0))
	m := fsm.New(fsm.Options{})
	if err := m.Restore(bytes.NewReader(snapshot(t, w.m, nil))); err != nil {
		t.Fatal(err)
	}
	sameState(t, w.m, m)
	if len(m.View().Issuers()) != fsm.MaxIssuers {
		t.Errorf("%d issuers", len(m.View().Issuers()))
	}
}

// TestTokensAreOfOneIssuer: of one owner no two issuers share URL and audience, and
// of two owners none can.
func TestTokensAreOfOneIssuer(t *testing.T) {
	w := acme(t)
	first, second := jwtIssuer("idp"), jwtIssuer("other")
	w.ok(putIssuer(first))
	second.GetJwt().Url = first.GetJwt().GetUrl()
	w.refused(errs.AlreadyExists, putIssuer(second))
	second.GetJwt().Audiences = []string{"elsewhere", first.GetJwt().GetAudiences()[0]}
	w.refused(errs.AlreadyExists, putIssuer(second))
	second.GetJwt().Audiences = []string{"elsewhere"}
	w.ok(putIssuer(second))
	second.GetJwt().Audiences = first.GetJwt().GetAudiences()
	w.refused(errs.AlreadyExists, putIssuer(second)) // nor by a change
	w.ok(putIssuer(first))                           // itself does not stand in its way

	own := w.ownIssuer("acme", "idp")
	own.GetJwt().Url = first.GetJwt().GetUrl()
	w.ok(putIssuer(own)) // its audience is the tenant's
	for _, audience := range []string{first.GetJwt().GetAudiences()[0], fsm.TenantAudience("acm"), fsm.TenantAudience("acme") + "x", fsm.TenantAudience("other")} {
		bad := proto.CloneOf(own)
		bad.GetJwt().Audiences = []string{audience}
		w.refused(errs.InvalidArgument, putIssuer(bad))
	}
	own.GetJwt().Audiences = []string{fsm.TenantAudience("acme") + "/prod"}
	w.ok(putIssuer(own))
}
