package command

import (
	"strings"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

const tenantsPrefix = "tenants/"

// tenantName returns the full name of the tenant that s says: demo, or
// tenants/demo. "" is the tenant of the settings.
func (in *Invocation) tenantName(s string) (string, error) {
	if s == "" {
		s = in.tenant()
	}
	if s == "" {
		return "", usagef("name one, or set KRYPTON_TENANT", "no tenant is named")
	}
	p, err := hierarchy.ParseName(strings.TrimPrefix(s, tenantsPrefix))
	if err != nil {
		return "", bad("tenant", s, err)
	}
	return hierarchy.TenantPath(p).String(), nil
}

// serviceName returns the full name of the service that s says: demo/payments,
// payments with a tenant in the settings, or the full name. "" is the service of
// the settings.
func (in *Invocation) serviceName(s string) (string, error) {
	if s == "" {
		s = in.setting("service", "KRYPTON_SERVICE", in.ctx.Service)
	}
	if s == "" {
		return "", usagef("name one as tenant/service, or set KRYPTON_SERVICE", "no service is named")
	}
	tenant, service, ok := strings.Cut(s, "/")
	switch {
	case strings.HasPrefix(s, tenantsPrefix):
		if p, err := hierarchy.ParsePath(s); err == nil && p.Kind == hierarchy.KindService {
			return s, nil
		}
		return "", bad("service", s, nil)
	case !ok:
		tenant, service = strings.TrimPrefix(in.tenant(), tenantsPrefix), s
		if tenant == "" {
			return "", usagef("name it as tenant/service, or set KRYPTON_TENANT", "the tenant of service %q is not named", s)
		}
	}
	t, err := hierarchy.ParseName(tenant)
	if err != nil {
		return "", bad("service", s, err)
	}
	v, err := hierarchy.ParseName(service)
	if err != nil {
		return "", bad("service", s, err)
	}
	return hierarchy.ServicePath(t, v).String(), nil
}

// keyName returns the full name of a key: that of a tenant (demo) or of a
// service (demo/payments).
func (in *Invocation) keyName(s string) (name string, ofService bool, err error) {
	rest := strings.TrimPrefix(s, tenantsPrefix)
	if strings.Contains(rest, "/") {
		name, err = in.serviceName(s)
		return name, true, err
	}
	name, err = in.tenantName(s)
	return name, false, err
}

// versionName returns the name of a version of a key; "" is the primary one. The
// key may have the version in its name, as results show it.
func (in *Invocation) versionName(key, version string) (string, error) {
	if k, v, ok := strings.Cut(key, "/versions/"); ok {
		if version != "" && version != v {
			return "", usagef("give one of them", "the name ends in version %s and --version is %s", v, version)
		}
		key, version = k, v
	}
	name, _, err := in.keyName(key)
	if err != nil {
		return "", err
	}
	if version == "" || version == "primary" {
		return name + "/versions/primary", nil
	}
	n, err := hierarchy.ParseVersionNumber(version)
	if err != nil {
		return "", usagef("give its number, see krypton key list", "--version %q is not the number of a version", version)
	}
	return name + "/versions/" + n.String(), nil
}

// resourceName returns the name of a resource of a service, or the full name that
// stands alone.
func (in *Invocation) resourceName(service, resource string) (string, error) {
	if resource == "" && strings.Contains(service, "/resources/") {
		if p, err := hierarchy.ParsePath(service); err != nil || p.Kind != hierarchy.KindResource {
			return "", bad("resource", service, err)
		}
		return service, nil
	}
	name, err := in.serviceName(service)
	if err != nil {
		return "", err
	}
	p, err := hierarchy.ParsePath(name)
	if err != nil {
		return "", err
	}
	r, err := hierarchy.ParseResourceID(resource)
	if err != nil {
		return "", err
	}
	if r == "" {
		return "", usagef("give TENANT/SERVICE RESOURCE, or its full name as krypton resource list prints it", "no resource is named")
	}
	return hierarchy.ResourcePath(p.Tenant, p.Service, r).String(), nil
}

func bad(kind, s string, err error) error {
	hint := "names look like demo/payments or tenants/demo/services/payments"
	if kind == "tenant" {
		hint = "names look like demo or tenants/demo"
	}
	if err != nil {
		return errs.Newf(errs.InvalidArgument, "%q does not name a %s: %s", s, kind, errs.From(err).Msg).With(errs.Hint("%s", hint))
	}
	return usagef(hint, "%q does not name a %s", s, kind)
}
