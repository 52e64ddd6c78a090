package gcpserver

import (
	"maps"
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
)

// Google's predefined roles, with the permissions that this server judges, as
// Google publishes them.
const (
	RoleEncrypterDecrypter = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
	RoleViewer             = "roles/cloudkms.viewer"
	RoleImporter           = "roles/cloudkms.importer"
	RoleAdmin              = "roles/cloudkms.admin"
	RoleTokenCreator       = "roles/iam.serviceAccountTokenCreator"
)

const (
	permEncrypt   = "cloudkms.cryptoKeyVersions.useToEncrypt"
	permDecrypt   = "cloudkms.cryptoKeyVersions.useToDecrypt"
	permTokens    = "iam.serviceAccounts.getAccessToken"
	domainIAM     = "iam.googleapis.com"
	domainAPI     = "googleapis.com"
	serviceName   = "cloudkms.googleapis.com"
	reasonDenied  = "IAM_PERMISSION_DENIED"
	reasonTooMany = "RATE_LIMIT_EXCEEDED"
	reasonMissing = "CREDENTIALS_MISSING"
	reasonExpired = "ACCESS_TOKEN_EXPIRED"
	reasonUnknown = "ACCESS_TOKEN_TYPE_UNSUPPORTED"
	reasonScope   = "ACCESS_TOKEN_SCOPE_INSUFFICIENT"
)

// permissions says what each method needs. A method that is not here is
// refused by the generated server as unimplemented.
func permissions() map[string]string {
	return map[string]string{
		"GetKeyRing":                    "cloudkms.keyRings.get",
		"GetCryptoKey":                  "cloudkms.cryptoKeys.get",
		"GetCryptoKeyVersion":           "cloudkms.cryptoKeyVersions.get",
		"CreateCryptoKey":               "cloudkms.cryptoKeys.create",
		"CreateCryptoKeyVersion":        "cloudkms.cryptoKeyVersions.create",
		"UpdateCryptoKeyVersion":        "cloudkms.cryptoKeyVersions.update",
		"UpdateCryptoKeyPrimaryVersion": "cloudkms.cryptoKeys.update",
		"DestroyCryptoKeyVersion":       "cloudkms.cryptoKeyVersions.destroy",
		"RestoreCryptoKeyVersion":       "cloudkms.cryptoKeyVersions.restore",
		"Encrypt":                       permEncrypt,
		"Decrypt":                       permDecrypt,
		"CreateImportJob":               "cloudkms.importJobs.create",
		"GetImportJob":                  "cloudkms.importJobs.get",
		"ImportCryptoKeyVersion":        "cloudkms.cryptoKeyVersions.create",
	}
}

// policy says which principal has which role on which resource. A role on a
// resource holds for everything below it.
type policy struct {
	roles  map[string][]string                   // permissions by role
	grants map[string]map[string]map[string]bool // resource, principal, role
}

func newPolicy() policy {
	view := []string{"cloudkms.keyRings.get", "cloudkms.cryptoKeys.get", "cloudkms.cryptoKeyVersions.get", "cloudkms.importJobs.get"}
	return policy{
		roles: map[string][]string{
			RoleEncrypterDecrypter: {permEncrypt, permDecrypt},
			RoleViewer:             view,
			RoleImporter:           {"cloudkms.importJobs.create", "cloudkms.importJobs.get", "cloudkms.importJobs.useToImport"},
			RoleAdmin: append([]string{
				"cloudkms.cryptoKeys.create", "cloudkms.cryptoKeys.update", "cloudkms.cryptoKeyVersions.create",
				"cloudkms.cryptoKeyVersions.update", "cloudkms.cryptoKeyVersions.destroy", "cloudkms.cryptoKeyVersions.restore",
				"cloudkms.importJobs.create", "cloudkms.importJobs.useToImport",
			}, view...),
			RoleTokenCreator: {permTokens},
		},
		grants: map[string]map[string]map[string]bool{},
	}
}

// DefineRole makes or replaces a custom role.
func (s *Server) DefineRole(role string, perms ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.iam.roles[role] = perms
}

// Grant gives principal a role on a resource and everything below it.
func (s *Server) Grant(resource, principal, role string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	on := s.iam.grants[resource]
	if on == nil {
		on = map[string]map[string]bool{}
		s.iam.grants[resource] = on
	}
	if on[principal] == nil {
		on[principal] = map[string]bool{}
	}
	on[principal][role] = true
}

// Revoke takes roles on a resource from principal, or all of them when none is named.
func (s *Server) Revoke(resource, principal string, roles ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	has := s.iam.grants[resource][principal]
	if len(roles) == 0 {
		roles = slices.Collect(maps.Keys(has))
	}
	for _, r := range roles {
		delete(has, r)
	}
}

// allows reports whether principal has perm on resource or on what it is below.
func (p policy) allows(principal, perm, resource string) bool {
	for {
		for role := range p.grants[resource][principal] {
			if slices.Contains(p.roles[role], perm) {
				return true
			}
		}
		i := strings.LastIndexByte(resource, '/')
		if i < 0 {
			return false
		}
		resource = resource[:i]
	}
}

// refusal is a status with details, as Google's are.
func refusal(code codes.Code, text string, details ...protoadapt.MessageV1) error {
	st, err := status.New(code, text).WithDetails(details...)
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	return st.Err()
}

func denied(perm, resource string) error {
	return refusal(codes.PermissionDenied, "Permission '"+perm+"' denied on resource '"+resource+"' (or it may not exist).",
		&errdetails.ErrorInfo{Reason: reasonDenied, Domain: domainIAM, Metadata: map[string]string{"permission": perm, "resource": resource}})
}

func apiError(code codes.Code, reason, text string) error {
	return refusal(code, text, &errdetails.ErrorInfo{Reason: reason, Domain: domainAPI, Metadata: map[string]string{"service": serviceName}})
}

// notEnabled is the answer to the use of a version in another state.
func notEnabled(v *version) error {
	name, state := v.name(), v.state.String()
	return refusal(codes.FailedPrecondition, name+" is not enabled, current state is: "+state+".",
		&errdetails.PreconditionFailure{Violations: []*errdetails.PreconditionFailure_Violation{
			{Type: "KEY_VERSION_STATE", Subject: name, Description: "current state is: " + state},
		}})
}
