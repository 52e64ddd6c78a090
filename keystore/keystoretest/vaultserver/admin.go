package vaultserver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"time"
)

// Mount enables a transit engine at a path.
func (s *Server) Mount(ctx context.Context, path string) error {
	return s.Admin(ctx, http.MethodPost, "sys/mounts/"+path, map[string]any{"type": "transit"}, nil)
}

// Unmount takes a transit engine away with all its keys.
func (s *Server) Unmount(ctx context.Context, path string) error {
	return s.Admin(ctx, http.MethodDelete, "sys/mounts/"+path, nil, nil)
}

// CreateKey makes a key of the given type, "aes256-gcm96" for instance.
func (s *Server) CreateKey(ctx context.Context, mount, name, typ string) error {
	return s.Admin(ctx, http.MethodPost, mount+"/keys/"+name, map[string]any{"type": typ}, nil)
}

// Rotate gives a key a new version.
func (s *Server) Rotate(ctx context.Context, mount, name string) error {
	return s.Admin(ctx, http.MethodPost, mount+"/keys/"+name+"/rotate", nil, nil)
}

// DeleteKey allows the deletion of a key and deletes it, for good.
func (s *Server) DeleteKey(ctx context.Context, mount, name string) error {
	if err := s.ConfigureKey(ctx, mount, name, map[string]any{"deletion_allowed": true}); err != nil {
		return err
	}
	return s.Admin(ctx, http.MethodDelete, mount+"/keys/"+name, nil, nil)
}

// ConfigureKey changes settings of a key: min_decryption_version, deletion_allowed.
func (s *Server) ConfigureKey(ctx context.Context, mount, name string, settings map[string]any) error {
	return s.Admin(ctx, http.MethodPost, mount+"/keys/"+name+"/config", settings, nil)
}

// Policy writes a policy in Vault's language. It holds from the next call on.
func (s *Server) Policy(ctx context.Context, name, text string) error {
	return s.Admin(ctx, http.MethodPut, "sys/policies/acl/"+name, map[string]any{"policy": text}, nil)
}

// Token is what a login or a creation gives.
type Token struct {
	ClientToken string `json:"client_token"`
	Accessor    string `json:"accessor"`
}

// CreateToken makes a token. params are those of auth/token/create: policies,
// ttl, no_default_policy, num_uses.
func (s *Server) CreateToken(ctx context.Context, params map[string]any) (Token, error) {
	var out struct{ Auth Token }
	err := s.Admin(ctx, http.MethodPost, "auth/token/create", params, &out)
	return out.Auth, err
}

// RevokeToken ends a token.
func (s *Server) RevokeToken(ctx context.Context, token string) error {
	return s.Admin(ctx, http.MethodPost, "auth/token/revoke", map[string]any{"token": token}, nil)
}

// RevokeLogins ends every token that an auth method at a path gave out.
func (s *Server) RevokeLogins(ctx context.Context, auth string) error {
	return s.Admin(ctx, http.MethodPut, "sys/leases/revoke-prefix/auth/"+auth, nil, nil)
}

// EnableAuth enables an auth method at a path.
func (s *Server) EnableAuth(ctx context.Context, path, typ string) error {
	return s.Admin(ctx, http.MethodPost, "sys/auth/"+path, map[string]any{"type": typ}, nil)
}

// AppRole writes a role of an approle method and returns its role id. params
// are those of Vault: token_policies, token_ttl, token_max_ttl, token_type.
func (s *Server) AppRole(ctx context.Context, auth, role string, params map[string]any) (string, error) {
	base := "auth/" + auth + "/role/" + role
	if err := s.Admin(ctx, http.MethodPost, base, params, nil); err != nil {
		return "", err
	}
	var out struct {
		Data struct {
			RoleID string `json:"role_id"`
		}
	}
	err := s.Admin(ctx, http.MethodGet, base+"/role-id", nil, &out)
	return out.Data.RoleID, err
}

// SecretID makes a secret id of a role.
func (s *Server) SecretID(ctx context.Context, auth, role string) (string, error) {
	var out struct {
		Data struct {
			SecretID string `json:"secret_id"`
		}
	}
	err := s.Admin(ctx, http.MethodPost, "auth/"+auth+"/role/"+role+"/secret-id", nil, &out)
	return out.Data.SecretID, err
}

// DestroySecretID makes a secret id useless.
func (s *Server) DestroySecretID(ctx context.Context, auth, role, id string) error {
	return s.Admin(ctx, http.MethodPost, "auth/"+auth+"/role/"+role+"/secret-id/destroy", map[string]any{"secret_id": id}, nil)
}

// Seal seals the server. Every call but Unseal fails with 503 from then on.
func (s *Server) Seal(ctx context.Context) error {
	return s.Admin(ctx, http.MethodPut, "sys/seal", nil, nil)
}

// Unseal unseals it again. What it stored is still there.
func (s *Server) Unseal(ctx context.Context) error {
	var out struct{ Sealed bool }
	if err := s.Call(ctx, "", http.MethodPut, "sys/unseal", map[string]any{"key": s.unsealKey}, &out); err != nil {
		return err
	}
	if out.Sealed {
		return fmt.Errorf("the server is still sealed")
	}
	return nil
}

// Limit lets one request a second pass below a path, and then none for block,
// until the returned function is called.
func (s *Server) Limit(ctx context.Context, name, path string, block time.Duration) (lift func(context.Context) error, err error) {
	quota := "sys/quotas/rate-limit/" + name
	lift = func(ctx context.Context) error { return s.Admin(ctx, http.MethodDelete, quota, nil, nil) }
	return lift, s.Admin(ctx, http.MethodPost, quota, map[string]any{
		"path": path, "rate": 1, "interval": "1s", "block_interval": block.String(),
	}, nil)
}

// AuditHeader makes a request header stand in the audit log in clear, as the
// documentation of the transit keystore tells administrators to do.
func (s *Server) AuditHeader(ctx context.Context, name string) error {
	return s.Admin(ctx, http.MethodPost, "sys/config/auditing/request-headers/"+name, map[string]any{"hmac": false}, nil)
}

// Entry is one line of the audit log.
type Entry struct {
	Type    string // "request" or "response"
	Error   string
	Request struct {
		ID        string
		Path      string
		Operation string
		Headers   map[string][]string
	}
}

// AuditLog returns the audit log as it is on disk.
func (s *Server) AuditLog() ([]byte, error) { return os.ReadFile(s.audit) }

// Audited returns the entries of the audit log.
func (s *Server) Audited() ([]Entry, error) {
	b, err := s.AuditLog()
	if err != nil {
		return nil, err
	}
	var all []Entry
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, maxAnswer)
	for lines.Scan() {
		var e Entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("audit log: %w", err)
		}
		all = append(all, e)
	}
	return all, lines.Err()
}
