package gcpserver

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// destroyWait is how long a version is scheduled for destruction, as at Google.
const destroyWait = 30 * 24 * time.Hour

// versionID stands at the start of a ciphertext and finds the version; like
// Google's it says nothing to anybody else.
type versionID [16]byte

type cryptoKey struct {
	name       string
	purpose    kmspb.CryptoKey_CryptoKeyPurpose
	protection kmspb.ProtectionLevel
	created    time.Time
	labels     map[string]string // never changed, but replaced
	versions   []*version
	primary    *version // nil before there is one
}

type version struct {
	key       *cryptoKey
	number    int
	id        versionID
	state     kmspb.CryptoKeyVersion_CryptoKeyVersionState
	aead      cipher.AEAD // nil when destroyed, and before an import is done
	created   time.Time
	destroyAt time.Time // of state DESTROY_SCHEDULED
	job       string    // of imported ones
	failure   string    // of state IMPORT_FAILED
	pending   cipher.AEAD
}

func (v *version) name() string { return v.key.name + "/cryptoKeyVersions/" + strconv.Itoa(v.number) }

func newAEAD(material []byte) (cipher.AEAD, error) {
	b, err := aes.NewCipher(material)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

// add makes a version without a key.
func (k *cryptoKey) add(now time.Time) *version {
	v := &version{key: k, number: len(k.versions) + 1, created: now}
	_, _ = rand.Read(v.id[:]) // never fails
	k.versions = append(k.versions, v)
	return v
}

// generate makes an enabled version.
func (k *cryptoKey) generate(now time.Time) (*version, error) {
	material := make([]byte, 32)
	defer clear(material)
	_, _ = rand.Read(material) // never fails
	aead, err := newAEAD(material)
	if err != nil {
		return nil, err
	}
	v := k.add(now)
	v.aead, v.state = aead, kmspb.CryptoKeyVersion_ENABLED
	return v, nil
}

// settle lets what was scheduled happen.
func (v *version) settle(now time.Time) {
	if v.state == kmspb.CryptoKeyVersion_DESTROY_SCHEDULED && !now.Before(v.destroyAt) {
		v.state, v.aead = kmspb.CryptoKeyVersion_DESTROYED, nil
	}
}

func (v *version) proto() *kmspb.CryptoKeyVersion {
	p := &kmspb.CryptoKeyVersion{
		Name: v.name(), State: v.state, ProtectionLevel: v.key.protection,
		Algorithm:  kmspb.CryptoKeyVersion_GOOGLE_SYMMETRIC_ENCRYPTION,
		CreateTime: timestamppb.New(v.created), ImportJob: v.job, ImportFailureReason: v.failure,
	}
	if v.state == kmspb.CryptoKeyVersion_DESTROY_SCHEDULED {
		p.DestroyTime = timestamppb.New(v.destroyAt)
	}
	return p
}

func (k *cryptoKey) proto() *kmspb.CryptoKey {
	p := &kmspb.CryptoKey{
		Name: k.name, Purpose: k.purpose, Labels: maps.Clone(k.labels), CreateTime: timestamppb.New(k.created),
		VersionTemplate:          &kmspb.CryptoKeyVersionTemplate{ProtectionLevel: k.protection, Algorithm: kmspb.CryptoKeyVersion_GOOGLE_SYMMETRIC_ENCRYPTION},
		DestroyScheduledDuration: durationpb.New(destroyWait),
	}
	if k.purpose != kmspb.CryptoKey_ENCRYPT_DECRYPT {
		p.VersionTemplate.Algorithm = kmspb.CryptoKeyVersion_RSA_DECRYPT_OAEP_3072_SHA256
	}
	if k.primary != nil {
		p.Primary = k.primary.proto()
	}
	return p
}

// key and version find resources by name. The caller holds mu.
func (s *Server) key(name string) (*cryptoKey, error) {
	k, ok := s.keys[name]
	if !ok {
		return nil, status.Error(codes.NotFound, "CryptoKey "+name+" not found.")
	}
	for _, v := range k.versions {
		v.settle(s.now())
	}
	return k, nil
}

func (s *Server) version(name string) (*version, error) {
	parent, number, ok := strings.Cut(name, "/cryptoKeyVersions/")
	if !ok {
		return nil, status.Error(codes.InvalidArgument, "Resource name does not match the pattern of a CryptoKeyVersion.")
	}
	k, err := s.key(parent)
	if err != nil {
		return nil, err
	}
	for _, v := range k.versions {
		if strconv.Itoa(v.number) == number {
			return v, nil
		}
	}
	return nil, status.Error(codes.NotFound, "CryptoKeyVersion "+name+" not found.")
}

// use is version or the primary of a key, in state ENABLED (I3).
func (s *Server) use(name string) (*version, error) {
	var v *version
	if strings.Contains(name, "/cryptoKeyVersions/") {
		found, err := s.version(name)
		if err != nil {
			return nil, err
		}
		v = found
	} else {
		k, err := s.key(name)
		if err != nil {
			return nil, err
		}
		v = k.primary
		if v == nil && k.purpose == kmspb.CryptoKey_ENCRYPT_DECRYPT {
			return nil, status.Error(codes.FailedPrecondition, "CryptoKey "+name+" has no primary version.")
		}
	}
	if v == nil || v.key.purpose != kmspb.CryptoKey_ENCRYPT_DECRYPT {
		return nil, status.Error(codes.InvalidArgument, "The purpose of "+name+" is not ENCRYPT_DECRYPT.")
	}
	if v.state != kmspb.CryptoKeyVersion_ENABLED {
		return nil, notEnabled(v)
	}
	return v, nil
}

// GetKeyRing implements Google's interface, as the methods below do.
func (s *Server) GetKeyRing(_ context.Context, req *kmspb.GetKeyRingRequest) (*kmspb.KeyRing, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.rings[req.GetName()] {
		return nil, status.Error(codes.NotFound, "KeyRing "+req.GetName()+" not found.")
	}
	return &kmspb.KeyRing{Name: req.GetName()}, nil
}

// GetCryptoKey returns a key with its primary version.
func (s *Server) GetCryptoKey(_ context.Context, req *kmspb.GetCryptoKeyRequest) (*kmspb.CryptoKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.key(req.GetName())
	if err != nil {
		return nil, err
	}
	return k.proto(), nil
}

// GetCryptoKeyVersion returns a version. One whose import was pending has it done now.
func (s *Server) GetCryptoKeyVersion(_ context.Context, req *kmspb.GetCryptoKeyVersionRequest) (*kmspb.CryptoKeyVersion, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.version(req.GetName())
	if err != nil {
		return nil, err
	}
	v.finishImport()
	return v.proto(), nil
}

// CreateCryptoKey makes a key, with a first version unless it is asked for none.
func (s *Server) CreateCryptoKey(_ context.Context, req *kmspb.CreateCryptoKeyRequest) (*kmspb.CryptoKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.rings[req.GetParent()] {
		return nil, status.Error(codes.NotFound, "KeyRing "+req.GetParent()+" not found.")
	}
	name := req.GetParent() + "/cryptoKeys/" + req.GetCryptoKeyId()
	if s.keys[name] != nil {
		return nil, status.Error(codes.AlreadyExists, "CryptoKey "+name+" already exists.")
	}
	k := &cryptoKey{
		name: name, purpose: req.GetCryptoKey().GetPurpose(), created: s.now(),
		protection: req.GetCryptoKey().GetVersionTemplate().GetProtectionLevel(),
	}
	if k.protection == kmspb.ProtectionLevel_PROTECTION_LEVEL_UNSPECIFIED {
		k.protection = kmspb.ProtectionLevel_SOFTWARE
	}
	if k.purpose == kmspb.CryptoKey_ENCRYPT_DECRYPT && !req.GetSkipInitialVersionCreation() {
		v, err := k.generate(k.created)
		if err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
		k.primary = v
	}
	s.keys[name] = k
	return k.proto(), nil
}

// CreateCryptoKeyVersion makes a version, which is not primary yet.
func (s *Server) CreateCryptoKeyVersion(_ context.Context, req *kmspb.CreateCryptoKeyVersionRequest) (*kmspb.CryptoKeyVersion, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.key(req.GetParent())
	if err != nil {
		return nil, err
	}
	v, err := k.generate(s.now())
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return v.proto(), nil
}

// UpdateCryptoKeyPrimaryVersion makes a version the one that encrypts.
func (s *Server) UpdateCryptoKeyPrimaryVersion(_ context.Context, req *kmspb.UpdateCryptoKeyPrimaryVersionRequest) (*kmspb.CryptoKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.version(req.GetName() + "/cryptoKeyVersions/" + req.GetCryptoKeyVersionId())
	if err != nil {
		return nil, err
	}
	if v.state != kmspb.CryptoKeyVersion_ENABLED {
		return nil, notEnabled(v)
	}
	v.key.primary = v
	return v.key.proto(), nil
}

// UpdateCryptoKeyVersion enables and disables.
func (s *Server) UpdateCryptoKeyVersion(_ context.Context, req *kmspb.UpdateCryptoKeyVersionRequest) (*kmspb.CryptoKeyVersion, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.version(req.GetCryptoKeyVersion().GetName())
	if err != nil {
		return nil, err
	}
	to := req.GetCryptoKeyVersion().GetState()
	between := []kmspb.CryptoKeyVersion_CryptoKeyVersionState{kmspb.CryptoKeyVersion_ENABLED, kmspb.CryptoKeyVersion_DISABLED}
	if !slices.Contains(req.GetUpdateMask().GetPaths(), "state") || !slices.Contains(between, to) {
		return nil, status.Error(codes.InvalidArgument, "Only the states ENABLED and DISABLED can be set.")
	}
	if !slices.Contains(between, v.state) {
		return nil, notEnabled(v)
	}
	v.state = to
	return v.proto(), nil
}

// DestroyCryptoKeyVersion schedules the destruction of a version.
func (s *Server) DestroyCryptoKeyVersion(_ context.Context, req *kmspb.DestroyCryptoKeyVersionRequest) (*kmspb.CryptoKeyVersion, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.version(req.GetName())
	if err != nil {
		return nil, err
	}
	if v.state != kmspb.CryptoKeyVersion_ENABLED && v.state != kmspb.CryptoKeyVersion_DISABLED {
		return nil, notEnabled(v)
	}
	v.state, v.destroyAt = kmspb.CryptoKeyVersion_DESTROY_SCHEDULED, s.now().Add(destroyWait)
	return v.proto(), nil
}

// RestoreCryptoKeyVersion cancels a scheduled destruction; the version is disabled then.
func (s *Server) RestoreCryptoKeyVersion(_ context.Context, req *kmspb.RestoreCryptoKeyVersionRequest) (*kmspb.CryptoKeyVersion, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.version(req.GetName())
	if err != nil {
		return nil, err
	}
	if v.state != kmspb.CryptoKeyVersion_DESTROY_SCHEDULED {
		return nil, status.Error(codes.FailedPrecondition, req.GetName()+" is not scheduled for destruction.")
	}
	v.state, v.destroyAt = kmspb.CryptoKeyVersion_DISABLED, time.Time{}
	return v.proto(), nil
}

// What the owner of the keys does, without a call.

// KeyName is the resource name of a key in [KeyRing].
func KeyName(id string) string { return KeyRing + "/cryptoKeys/" + id }

// CreateKey makes an enabled symmetric key in [KeyRing] and returns its name.
func (s *Server) CreateKey(id string, protection kmspb.ProtectionLevel) (string, error) {
	k, err := s.CreateCryptoKey(context.Background(), &kmspb.CreateCryptoKeyRequest{
		Parent: KeyRing, CryptoKeyId: id,
		CryptoKey: &kmspb.CryptoKey{Purpose: kmspb.CryptoKey_ENCRYPT_DECRYPT, VersionTemplate: &kmspb.CryptoKeyVersionTemplate{ProtectionLevel: protection}},
	})
	return k.GetName(), err
}

// SetLabels gives a key other labels.
func (s *Server) SetLabels(key string, labels map[string]string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.key(key)
	if err == nil {
		k.labels = maps.Clone(labels)
	}
	return err
}

// each runs fn for every version of a key.
func (s *Server) each(key string, fn func(*version)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.key(key)
	if err != nil {
		return err
	}
	for _, v := range k.versions {
		fn(v)
	}
	return nil
}

// Disable disables every version of a key.
func (s *Server) Disable(key string) error {
	return s.each(key, func(v *version) {
		if v.state == kmspb.CryptoKeyVersion_ENABLED {
			v.state = kmspb.CryptoKeyVersion_DISABLED
		}
	})
}

// Enable enables every disabled version of a key.
func (s *Server) Enable(key string) error {
	return s.each(key, func(v *version) {
		if v.state == kmspb.CryptoKeyVersion_DISABLED {
			v.state = kmspb.CryptoKeyVersion_ENABLED
		}
	})
}

// SetState puts one version into a state, whatever its own was. Its key stays,
// so that it can be put back.
func (s *Server) SetState(key string, number int, state kmspb.CryptoKeyVersion_CryptoKeyVersionState) error {
	found, at := false, s.now().Add(destroyWait)
	err := s.each(key, func(v *version) {
		if v.number == number {
			v.state, v.destroyAt, found = state, at, true
		}
	})
	if err == nil && !found {
		err = fmt.Errorf("key %s has no version %d", key, number)
	}
	return err
}

// ScheduleDestruction schedules the destruction of every version of a key.
func (s *Server) ScheduleDestruction(key string) error {
	at := s.now().Add(destroyWait)
	return s.each(key, func(v *version) {
		v.state, v.destroyAt = kmspb.CryptoKeyVersion_DESTROY_SCHEDULED, at
	})
}

// CancelDestruction cancels the scheduled destruction of every version of a key; they are
// disabled then, as at Google.
func (s *Server) CancelDestruction(key string) error {
	return s.each(key, func(v *version) {
		if v.state == kmspb.CryptoKeyVersion_DESTROY_SCHEDULED {
			v.state, v.destroyAt = kmspb.CryptoKeyVersion_DISABLED, time.Time{}
		}
	})
}

// Destroy destroys every version of a key, as if its schedule had run out.
func (s *Server) Destroy(key string) error {
	return s.each(key, func(v *version) { v.state, v.aead = kmspb.CryptoKeyVersion_DESTROYED, nil })
}

// Rotate gives a key a new version and makes it primary.
func (s *Server) Rotate(key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.key(key)
	if err != nil {
		return err
	}
	v, err := k.generate(s.now())
	if err != nil {
		return err
	}
	k.primary = v
	return nil
}
