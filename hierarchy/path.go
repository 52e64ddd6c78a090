package hierarchy

import (
	"strconv"
	"strings"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// VersionNumber counts the versions of one key from 1. It is the name of a
// version in paths; its identity is a [UID]. Zero means none.
type VersionNumber uint64

// Kind says what a [Path] names. Zero is invalid. The numbers exist in memory only.
type Kind int

// The kinds, each with its pattern.
const (
	KindUnspecified       Kind = iota
	KindTenant                 // tenants/{t}
	KindBinding                // tenants/{t}/binding
	KindTenantVersion          // tenants/{t}/versions/{n}: L2.1
	KindService                // tenants/{t}/services/{s}
	KindServiceVersion         // tenants/{t}/services/{s}/versions/{n}: L3
	KindResource               // tenants/{t}/services/{s}/resources/{r}
	KindPolicy                 // tenants/{t}/policies/{id}
	KindTenantIssuer           // tenants/{t}/issuers/{id}: vouches for workloads of the tenant
	KindTenantRoleBinding      // tenants/{t}/roleBindings/{id}: of a workload
	KindIssuer                 // issuers/{id}
	KindRoleBinding            // roleBindings/{id}: of a person
	KindApproval               // approvals/{id}
	KindCeremony               // ceremonies/{id}
	KindInternalKey            // internalKeys/{n}: IVK version
	KindInternalSecret         // internalSecrets/{id}
	KindNode                   // nodes/{id}
	KindOperation              // operations/{id}
	KindSeal                   // seal
	KindCluster                // cluster
	kindEnd
)

// pattern of each kind. {r} is a percent-encoded ResourceID; everything else in
// braces is a Name, {n} a version number.
var pattern = [kindEnd]string{
	KindTenant:            "tenants/{t}",
	KindBinding:           "tenants/{t}/binding",
	KindTenantVersion:     "tenants/{t}/versions/{n}",
	KindService:           "tenants/{t}/services/{s}",
	KindServiceVersion:    "tenants/{t}/services/{s}/versions/{n}",
	KindResource:          "tenants/{t}/services/{s}/resources/{r}",
	KindPolicy:            "tenants/{t}/policies/{id}",
	KindTenantIssuer:      "tenants/{t}/issuers/{id}",
	KindTenantRoleBinding: "tenants/{t}/roleBindings/{id}",
	KindIssuer:            "issuers/{id}",
	KindRoleBinding:       "roleBindings/{id}",
	KindApproval:          "approvals/{id}",
	KindCeremony:          "ceremonies/{id}",
	KindInternalKey:       "internalKeys/{n}",
	KindInternalSecret:    "internalSecrets/{id}",
	KindNode:              "nodes/{id}",
	KindOperation:         "operations/{id}",
	KindSeal:              "seal",
	KindCluster:           "cluster",
}

// shape is the segments of each pattern. A name is parsed and written on every
// call, so the patterns are split once.
//
//nolint:gochecknoglobals // Immutable.
var shape = func() (all [kindEnd][]string) {
	for k, p := range pattern {
		all[k] = strings.Split(p, "/")
	}
	return all
}()

// maxSegments is the number of segments of the longest pattern.
const maxSegments = 6

// Kinds returns every valid kind.
func Kinds() []Kind {
	all := make([]Kind, 0, kindEnd-1)
	for k := KindUnspecified + 1; k < kindEnd; k++ {
		all = append(all, k)
	}
	return all
}

// String returns the pattern of the kind, such as "tenants/{t}".
func (k Kind) String() string {
	if k <= KindUnspecified || k >= kindEnd {
		return "invalid kind"
	}
	return pattern[k]
}

// Path is the parsed name of an object. Which fields are set is said by Kind's
// pattern; the others are zero, so that two paths are equal exactly when their
// texts are.
type Path struct {
	Kind     Kind
	Tenant   Name
	Service  Name
	ID       Name          // last segment of policies, issuers, roleBindings, approvals, ceremonies, internalSecrets, nodes, operations
	Version  VersionNumber // last segment of versions and internalKeys
	Resource ResourceID    // last segment of resources; never empty
}

// maxPathBytes bounds what ParsePath looks at: three names, a resource id with
// every byte escaped, and the fixed words.
const maxPathBytes = 3*MaxNameBytes + 3*MaxResourceIDBytes + 64

// ParsePath parses the name of an object. A name has one spelling: numbers
// without leading zeros, and in a resource id every byte but A-Z a-z 0-9 - . _ ~
// as %XX with upper-case digits.
func ParsePath(s string) (Path, error) {
	bad := func() (Path, error) {
		return Path{}, errs.New(errs.InvalidArgument, "not the name of an object",
			errs.Hint("names look like tenants/acme, tenants/acme/services/payments, tenants/acme/services/payments/versions/3"))
	}
	if len(s) > maxPathBytes {
		return bad()
	}
	var room [maxSegments + 1]string // one more, which fits no pattern
	segs := room[:0]
	for rest, more := s, true; more && len(segs) < len(room); {
		var seg string
		seg, rest, more = strings.Cut(rest, "/")
		segs = append(segs, seg)
	}
	for k := KindUnspecified + 1; k < kindEnd; k++ {
		if !sameShape(shape[k], segs) {
			continue
		}
		p := Path{Kind: k}
		for i, w := range shape[k] {
			if err := set(&p, w, segs[i]); err != nil {
				return Path{}, err
			}
		}
		return p, nil
	}
	return bad()
}

func sameShape(want, segs []string) bool {
	if len(want) != len(segs) {
		return false
	}
	for i, w := range want {
		if w[0] != '{' && w != segs[i] {
			return false
		}
	}
	return true
}

func set(p *Path, placeholder, seg string) (err error) {
	switch placeholder {
	case "{t}":
		p.Tenant, err = ParseName(seg)
	case "{s}":
		p.Service, err = ParseName(seg)
	case "{id}":
		p.ID, err = ParseName(seg)
	case "{n}":
		p.Version, err = ParseVersionNumber(seg)
	case "{r}":
		p.Resource, err = unescapeResource(seg)
	}
	return err
}

// ParseVersionNumber reads a decimal number from 1 without sign or leading zeros.
func ParseVersionNumber(s string) (VersionNumber, error) {
	bad := errs.New(errs.InvalidArgument, "version is not a decimal number from 1 without leading zeros",
		errs.Hint("list the versions of the key; names of versions end like versions/3"))
	if s == "" || s[0] < '1' || s[0] > '9' {
		return 0, bad
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, bad
	}
	return VersionNumber(n), nil
}

// String returns the number in decimal.
func (n VersionNumber) String() string { return strconv.FormatUint(uint64(n), 10) }

// String returns the name of the object, or "" for an invalid kind. It is the
// inverse of [ParsePath] for every path whose fields are valid.
func (p Path) String() string {
	if p.Kind <= KindUnspecified || p.Kind >= kindEnd {
		return ""
	}
	var room [maxSegments]string
	segs := room[:copy(room[:], shape[p.Kind])]
	for i, w := range segs {
		switch w {
		case "{t}":
			segs[i] = string(p.Tenant)
		case "{s}":
			segs[i] = string(p.Service)
		case "{id}":
			segs[i] = string(p.ID)
		case "{n}":
			segs[i] = p.Version.String()
		case "{r}":
			segs[i] = escapeResource(p.Resource)
		}
	}
	return strings.Join(segs, "/")
}

// TenantPath names a tenant.
func TenantPath(t Name) Path { return Path{Kind: KindTenant, Tenant: t} }

// BindingPath names the L1 binding of a tenant.
func BindingPath(t Name) Path { return Path{Kind: KindBinding, Tenant: t} }

// TenantVersionPath names an L2.1 version.
func TenantVersionPath(t Name, n VersionNumber) Path {
	return Path{Kind: KindTenantVersion, Tenant: t, Version: n}
}

// ServicePath names a service.
func ServicePath(t, s Name) Path { return Path{Kind: KindService, Tenant: t, Service: s} }

// ServiceVersionPath names an L3 version.
func ServiceVersionPath(t, s Name, n VersionNumber) Path {
	return Path{Kind: KindServiceVersion, Tenant: t, Service: s, Version: n}
}

// ResourcePath names a resource of a service.
func ResourcePath(t, s Name, r ResourceID) Path {
	return Path{Kind: KindResource, Tenant: t, Service: s, Resource: r}
}

// IssuerPath names an issuer: the cluster's if t is empty, else one of that tenant.
func IssuerPath(t, id Name) Path {
	if t == "" {
		return Path{Kind: KindIssuer, ID: id}
	}
	return Path{Kind: KindTenantIssuer, Tenant: t, ID: id}
}

// RoleBindingPath names a role binding: of a person if t is empty, else of a
// workload of that tenant.
func RoleBindingPath(t, id Name) Path {
	if t == "" {
		return Path{Kind: KindRoleBinding, ID: id}
	}
	return Path{Kind: KindTenantRoleBinding, Tenant: t, ID: id}
}

// PolicyPath names a policy of a tenant.
func PolicyPath(t, id Name) Path { return Path{Kind: KindPolicy, Tenant: t, ID: id} }

// InternalKeyPath names an IVK version.
func InternalKeyPath(n VersionNumber) Path { return Path{Kind: KindInternalKey, Version: n} }

// Escaping of resource ids in paths. Written here and not taken from net/url,
// because the replicated state machine, which parses names, must not import net.
const upperHex = "0123456789ABCDEF"

func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

func escapeResource(r ResourceID) string {
	var b strings.Builder
	for i := range len(r) {
		c := r[i]
		if unreserved(c) {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(upperHex[c>>4])
		b.WriteByte(upperHex[c&15])
	}
	return b.String()
}

func unescapeResource(s string) (ResourceID, error) {
	bad := errs.New(errs.InvalidArgument, "resource id in a name is not percent-encoded in the one allowed way",
		errs.Hint("encode every byte but A-Z a-z 0-9 - . _ ~ as %%XX with upper-case digits"))
	if s == "" {
		return "", errs.New(errs.InvalidArgument, "resource id in a name is empty", errs.Hint("end the name with resources/ and the id, percent-encoded"))
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", bad
		}
		hi, lo := strings.IndexByte(upperHex, s[i+1]), strings.IndexByte(upperHex, s[i+2])
		if hi < 0 || lo < 0 {
			return "", bad
		}
		b.WriteByte(byte(hi<<4 | lo)) //nolint:gosec // Both are 0..15.
		i += 2
	}
	r, err := ParseResourceID(b.String())
	if err != nil {
		return "", err
	}
	if escapeResource(r) != s { // e.g. "%41" for "A", or "/" that should have been escaped
		return "", bad
	}
	return r, nil
}
