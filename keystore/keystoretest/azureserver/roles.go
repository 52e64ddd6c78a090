package azureserver

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Role is a role definition: a name and its data actions, as role definitions
// of Azure write them below Microsoft.KeyVault/vaults, or, for a Managed HSM,
// below Microsoft.KeyVault/managedHsm.
type Role struct {
	Name    string
	Actions []string
}

// The built-in roles for a service that wraps its keys.
var (
	CryptoServiceEncryptionUser    = Role{"Key Vault Crypto Service Encryption User", []string{"keys/read", "keys/wrap/action", "keys/unwrap/action"}}
	HSMCryptoServiceEncryptionUser = Role{"Managed HSM Crypto Service Encryption User", []string{"keys/read/action", "keys/wrap/action", "keys/unwrap/action"}}
)

// Importer is a custom role that may import keys, beside another one.
var Importer = Role{"Krypton Importer", []string{"keys/import/action"}}

// EncryptionUser returns the built-in role of the server's flavour.
func (s *Server) EncryptionUser() Role {
	if s.flavour == ManagedHSM {
		return HSMCryptoServiceEncryptionUser
	}
	return CryptoServiceEncryptionUser
}

// assignment gives a role to an identity. An empty key is the whole vault.
type assignment struct {
	object string
	role   Role
	key    string
}

// Assign gives a role to an identity, on one key or, with an empty name, on
// the whole vault.
func (s *Server) Assign(id *Identity, role Role, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.roles = append(s.roles, assignment{id.ObjectID, role, strings.ToLower(key)})
}

// Unassign takes every role on that scope from an identity.
func (s *Server) Unassign(id *Identity, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.roles = slices.DeleteFunc(s.roles, func(a assignment) bool {
		return a.object == id.ObjectID && a.key == strings.ToLower(key)
	})
}

// allowed reports whether the caller has the data action on the key.
func (s *Server) allowed(object, action, key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.roles, func(a assignment) bool {
		return a.object == object && (a.key == "" || a.key == strings.ToLower(key)) && slices.Contains(a.role.Actions, action)
	})
}

// operation is one call of the service.
type operation struct {
	method string // of azkeys.Client, for the dispatcher of azkeys/fake
	name   string // in the log
	action string // that the caller needs
}

// operations has the calls by HTTP method and last part of the path; "" stands
// for the key itself.
func (s *Server) operation(method, last string) (operation, bool) {
	read := "keys/read"
	if s.flavour == ManagedHSM {
		read = "keys/read/action"
	}
	switch method + " " + last {
	case http.MethodGet + " ":
		return operation{"Client.GetKey", "KeyGet", read}, true
	case http.MethodPost + " wrapkey":
		return operation{"Client.WrapKey", "KeyWrap", "keys/wrap/action"}, true
	case http.MethodPost + " unwrapkey":
		return operation{"Client.UnwrapKey", "KeyUnwrap", "keys/unwrap/action"}, true
	case http.MethodPut + " ":
		return operation{"Client.ImportKey", "KeyImport", "keys/import/action"}, true
	case http.MethodPost + " create":
		return operation{"Client.CreateKey", "KeyCreate", "keys/create/action"}, true
	case http.MethodPost + " rotate":
		return operation{"Client.RotateKey", "KeyRotate", "keys/rotate/action"}, true
	case http.MethodDelete + " ":
		return operation{"Client.DeleteKey", "KeyDelete", "keys/delete"}, true
	case http.MethodPatch + " ":
		return operation{"Client.UpdateKey", "KeyUpdate", "keys/update/action"}, true
	}
	return operation{}, false
}

func (s *Server) notPermitted(object, action string) *serviceError {
	service := "vaults"
	if s.flavour == ManagedHSM {
		service = "managedHsm"
	}
	return forbidden("ForbiddenByRbac", fmt.Sprintf(
		"Caller is not authorized to perform action on resource.\r\nIf role assignments, deny assignments or role definitions were changed recently, please observe propagation time.\r\nCaller: oid=%s\r\nAction: 'Microsoft.KeyVault/%s/%s'\r\nAssignment: (not found)", object, service, action))
}
