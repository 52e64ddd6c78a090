package awsserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
)

// keyMetadata are the members of DescribeKey's answer that the server needs.
type keyMetadata struct {
	Arn      string
	KeyState string
	KeySpec  string
	Origin   string
}

// Overlay are facts about a key that local-kms cannot have. Empty ones stay
// what local-kms says.
type Overlay struct {
	KeyState       string // "Unavailable", "Updating", "PendingReplicaDeletion", "Creating"
	Origin         string // "AWS_CLOUDHSM", "EXTERNAL_KEY_STORE"
	MultiRegionKey string // "PRIMARY" or "REPLICA"
}

// find looks up a key by id, ARN or alias.
func (s *Server) find(ctx context.Context, ref string) (keyMetadata, bool, *refusal) {
	body, _ := json.Marshal(map[string]string{"KeyId": ref})
	res, no := s.pass(ctx, "DescribeKey", body)
	switch {
	case no != nil && no.code == "NotFoundException":
		return keyMetadata{}, false, nil
	case no != nil:
		return keyMetadata{}, false, no
	}
	var out struct{ KeyMetadata keyMetadata }
	if err := json.Unmarshal(res.body, &out); err != nil {
		return keyMetadata{}, false, &refusal{status: http.StatusInternalServerError, code: "KMSInternalException", message: err.Error()}
	}
	return out.KeyMetadata, true, nil
}

func (s *Server) overlay(arn string) Overlay {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.overlays[arn]
}

// describe is local-kms's answer with the key's overlay.
func (s *Server) describe(ctx context.Context, key keyMetadata) (answer, *refusal) {
	body, _ := json.Marshal(map[string]string{"KeyId": key.Arn})
	res, no := s.pass(ctx, "DescribeKey", body)
	if no != nil {
		return answer{}, no
	}
	var out map[string]map[string]any
	if err := json.Unmarshal(res.body, &out); err != nil {
		return answer{}, &refusal{status: http.StatusInternalServerError, code: "KMSInternalException", message: err.Error()}
	}
	m, o := out["KeyMetadata"], s.overlay(key.Arn)
	m["MultiRegion"] = o.MultiRegionKey != ""
	if o.MultiRegionKey != "" {
		m["MultiRegionConfiguration"] = map[string]any{"MultiRegionKeyType": o.MultiRegionKey}
	}
	if o.KeyState != "" {
		m["KeyState"], m["Enabled"] = o.KeyState, o.KeyState == "Enabled" || o.KeyState == "Updating"
	}
	if o.Origin != "" {
		m["Origin"] = o.Origin
	}
	text, err := json.Marshal(out)
	if err != nil {
		return answer{}, &refusal{status: http.StatusInternalServerError, code: "KMSInternalException", message: err.Error()}
	}
	return answer{status: http.StatusOK, body: text}, nil
}

// allows asks the key's policy and the caller's. Material is imported within the
// key's account only, whatever they say.
func (s *Server) allows(who *session, action string, key keyMetadata, in input) bool {
	if (action == "GetParametersForImport" || action == "ImportKeyMaterial") && accountOf(who.principal) != accountOf(key.Arn) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var identity *policy
	if role, ok := s.roles[who.role]; ok {
		identity = role.identity
	} else if who.role == "" {
		identity = everything // a user here has no policy of its own to be tested
	}
	p, ok := s.policies[key.Arn]
	if !ok {
		p = toTheAccount(s.account)
	}
	return allowed(p, identity, who, attempt{action: "kms:" + action, resource: key.Arn, context: in.EncryptionContext})
}

//nolint:gochecknoglobals // A constant.
var everything = &policy{statements: []statement{{actions: []string{"*"}, resources: []string{"*"}}}}

// toTheAccount is the policy of a key whose creator gave none: the identity
// policies of its account decide.
func toTheAccount(account string) *policy {
	return &policy{statements: []statement{{principals: []string{"arn:aws:iam::" + account + ":root"}, actions: []string{"kms:*"}, resources: []string{"*"}}}}
}

// CreateKey makes a symmetric key with the default policy and returns its ARN.
func (s *Server) CreateKey(ctx context.Context) (string, error) { return s.createKey(ctx, "AWS_KMS") }

// CreateExternalKey makes a key that waits for imported material. It takes a
// second, for the wrapping key, so that the call that asks for that one does not.
func (s *Server) CreateExternalKey(ctx context.Context) (string, error) {
	if _, err := s.wrapping(); err != nil {
		return "", err
	}
	return s.createKey(ctx, "EXTERNAL")
}

func (s *Server) createKey(ctx context.Context, origin string) (string, error) {
	var out struct{ KeyMetadata keyMetadata }
	err := s.child.own(ctx, "TrentService.CreateKey", map[string]any{"Origin": origin}, &out)
	return out.KeyMetadata.Arn, err
}

// CreateRSAKey makes an asymmetric key for encryption and returns its ARN.
func (s *Server) CreateRSAKey(ctx context.Context) (string, error) {
	var out struct{ KeyMetadata keyMetadata }
	err := s.child.own(ctx, "TrentService.CreateKey", map[string]any{"KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT"}, &out)
	return out.KeyMetadata.Arn, err
}

// Alias makes alias, "alias/NAME", name the key, whether or not it named another one before.
func (s *Server) Alias(ctx context.Context, alias, key string) error {
	_ = s.child.own(ctx, "TrentService.DeleteAlias", map[string]any{"AliasName": alias}, nil)
	return s.child.own(ctx, "TrentService.CreateAlias", map[string]any{"AliasName": alias, "TargetKeyId": key}, nil)
}

// Disable disables a key.
func (s *Server) Disable(ctx context.Context, key string) error {
	return s.child.own(ctx, "TrentService.DisableKey", map[string]any{"KeyId": key}, nil)
}

// Enable enables a disabled key.
func (s *Server) Enable(ctx context.Context, key string) error {
	return s.child.own(ctx, "TrentService.EnableKey", map[string]any{"KeyId": key}, nil)
}

// ScheduleDeletion schedules the deletion of a key in 7 days, the shortest time AWS has.
func (s *Server) ScheduleDeletion(ctx context.Context, key string) error {
	return s.child.own(ctx, "TrentService.ScheduleKeyDeletion", map[string]any{"KeyId": key, "PendingWindowInDays": 7}, nil)
}

// CancelDeletion cancels it; the key is disabled then.
func (s *Server) CancelDeletion(ctx context.Context, key string) error {
	return s.child.own(ctx, "TrentService.CancelKeyDeletion", map[string]any{"KeyId": key}, nil)
}

// Delete schedules the deletion and lets the waiting time pass.
func (s *Server) Delete(ctx context.Context, key string) error {
	if err := s.ScheduleDeletion(ctx, key); err != nil {
		return err
	}
	return s.child.own(ctx, "Krypton.Elapse", map[string]any{"KeyId": key}, nil)
}

// Rotate gives a key new backing material; old blobs stay readable.
func (s *Server) Rotate(ctx context.Context, key string) error {
	return s.child.own(ctx, "Krypton.Rotate", map[string]any{"KeyId": key}, nil)
}

// DeleteMaterial removes the imported material of an external key.
func (s *Server) DeleteMaterial(ctx context.Context, key string) error {
	return s.child.own(ctx, "TrentService.DeleteImportedKeyMaterial", map[string]any{"KeyId": key}, nil)
}

// Overlay gives a key facts that local-kms cannot have.
func (s *Server) Overlay(key string, o Overlay) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.overlays[key] = o
}

// PutKeyPolicy replaces the policy of a key. Of the language it understands
// Effect, Principal.AWS, Action, Resource, and conditions on the encryption
// context; anything else is an error (I3).
func (s *Server) PutKeyPolicy(key string, document []byte) error {
	p, err := parsePolicy(document)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.policies[key] = p
	return nil
}

// Deny withdraws every principal's access to a key by its policy, the given
// actions only if there are any ("kms:Decrypt").
func (s *Server) Deny(key string, actions ...string) {
	if len(actions) == 0 {
		actions = []string{"kms:*"}
	}
	p := toTheAccount(s.account)
	p.statements = append(p.statements, statement{deny: true, principals: []string{"*"}, actions: actions, resources: []string{"*"}})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.policies[key] = p
}

// Allow restores the default policy of a key.
func (s *Server) Allow(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.policies, key)
}

// KeyARN is the ARN of a key with this id in the server's account and region.
func (s *Server) KeyARN(id string) string {
	return fmt.Sprintf("arn:aws:kms:%s:%s:key/%s", s.region, s.account, id)
}
