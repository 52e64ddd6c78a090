package gcpserver

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// jobLifetime is how long material can be imported with one job, as at Google.
const jobLifetime = 3 * 24 * time.Hour

// wrappingKeyBits is the size of the RSA key of an import job.
const wrappingKeyBits = 4096

// wrappingKey is the RSA key of the import jobs of the process: making one of
// 4096 bits takes seconds, and jobs of tests need not differ in it.
//
//nolint:gochecknoglobals // Made once for the process, never written.
var wrappingKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, wrappingKeyBits) })

type importJob struct {
	name    string
	created time.Time
	active  bool // a job is active from the second time it is looked at, as its key is made meanwhile
	rsa     *rsa.PrivateKey
	level   kmspb.ProtectionLevel
}

func (j *importJob) expired(now time.Time) bool { return !now.Before(j.created.Add(jobLifetime)) }

func (j *importJob) proto(now time.Time) (*kmspb.ImportJob, error) {
	p := &kmspb.ImportJob{
		Name: j.name, ImportMethod: kmspb.ImportJob_RSA_OAEP_4096_SHA256_AES_256, ProtectionLevel: j.level,
		CreateTime: timestamppb.New(j.created), ExpireTime: timestamppb.New(j.created.Add(jobLifetime)),
		State: kmspb.ImportJob_PENDING_GENERATION,
	}
	switch {
	case j.expired(now):
		p.State = kmspb.ImportJob_EXPIRED
	case j.active:
		der, err := x509.MarshalPKIXPublicKey(&j.rsa.PublicKey)
		if err != nil {
			return nil, err
		}
		p.State = kmspb.ImportJob_ACTIVE
		p.PublicKey = &kmspb.ImportJob_WrappingPublicKey{Pem: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}
	}
	return p, nil
}

// CreateImportJob makes a job, whose key is not there yet.
func (s *Server) CreateImportJob(_ context.Context, req *kmspb.CreateImportJobRequest) (*kmspb.ImportJob, error) {
	if req.GetImportJob().GetImportMethod() != kmspb.ImportJob_RSA_OAEP_4096_SHA256_AES_256 {
		return nil, status.Error(codes.InvalidArgument, "This server has the import method RSA_OAEP_4096_SHA256_AES_256 only.")
	}
	key, err := wrappingKey() // before the lock: it takes seconds once
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	name := req.GetParent() + "/importJobs/" + req.GetImportJobId()
	if !s.rings[req.GetParent()] {
		return nil, status.Error(codes.NotFound, "KeyRing "+req.GetParent()+" not found.")
	}
	if s.jobs[name] != nil || req.GetImportJobId() == "" {
		return nil, status.Error(codes.AlreadyExists, "ImportJob "+name+" already exists.")
	}
	j := &importJob{name: name, created: s.now(), rsa: key, level: req.GetImportJob().GetProtectionLevel()}
	s.jobs[name] = j
	return jobAnswer(j.proto(s.now()))
}

func jobAnswer(p *kmspb.ImportJob, err error) (*kmspb.ImportJob, error) {
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return p, nil
}

// GetImportJob returns a job, whose key is there from now on.
func (s *Server) GetImportJob(_ context.Context, req *kmspb.GetImportJobRequest) (*kmspb.ImportJob, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.jobs[req.GetName()]
	if j == nil {
		return nil, status.Error(codes.NotFound, "ImportJob "+req.GetName()+" not found.")
	}
	p, err := j.proto(s.now())
	j.active = true
	return jobAnswer(p, err)
}

// ImportCryptoKeyVersion takes material that is wrapped with the key of a job.
// The version is pending until it is looked at; material that does not unwrap
// makes it IMPORT_FAILED then, as at Google.
func (s *Server) ImportCryptoKeyVersion(ctx context.Context, req *kmspb.ImportCryptoKeyVersionRequest) (*kmspb.CryptoKeyVersion, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.key(req.GetParent())
	if err != nil {
		return nil, err
	}
	j := s.jobs[req.GetImportJob()]
	if j == nil {
		return nil, status.Error(codes.NotFound, "ImportJob "+req.GetImportJob()+" not found.")
	}
	if perm := "cloudkms.importJobs.useToImport"; !s.iam.allows(principalOf(ctx), perm, j.name) {
		return nil, denied(perm, j.name)
	}
	ring, _, _ := strings.Cut(k.name, "/cryptoKeys/")
	switch {
	case !strings.HasPrefix(j.name, ring+"/importJobs/"):
		return nil, status.Error(codes.InvalidArgument, "The ImportJob is of another KeyRing.")
	case !j.active || j.expired(s.now()):
		return nil, status.Error(codes.FailedPrecondition, "ImportJob "+j.name+" is not active.")
	case req.GetAlgorithm() != kmspb.CryptoKeyVersion_GOOGLE_SYMMETRIC_ENCRYPTION || j.level != k.protection:
		return nil, status.Error(codes.InvalidArgument, "Algorithm or protection level do not match the CryptoKey.")
	}
	v := k.add(s.now())
	v.state, v.job = kmspb.CryptoKeyVersion_PENDING_IMPORT, j.name
	material, err := unwrapMaterial(j.rsa, req.GetWrappedKey())
	if err == nil {
		v.pending, err = newAEAD(material)
		clear(material)
	}
	if err != nil {
		v.failure = "the wrapped key material does not unwrap to 32 bytes"
	}
	return v.proto(), nil
}

// finishImport ends a pending import.
func (v *version) finishImport() {
	if v.state != kmspb.CryptoKeyVersion_PENDING_IMPORT {
		return
	}
	if v.pending == nil {
		v.state = kmspb.CryptoKeyVersion_IMPORT_FAILED
		return
	}
	v.state, v.aead, v.pending = kmspb.CryptoKeyVersion_ENABLED, v.pending, nil
}

var errUnwrap = errors.New("does not unwrap")

// unwrapMaterial undoes CKM_RSA_AES_KEY_WRAP: an AES key under RSA-OAEP with
// SHA-256, and 32 bytes under that key with AES-KWP (RFC 5649).
func unwrapMaterial(key *rsa.PrivateKey, wrapped []byte) ([]byte, error) {
	n := key.Size()
	if len(wrapped) != n+40 {
		return nil, errUnwrap
	}
	kek, err := rsa.DecryptOAEP(sha256.New(), nil, key, wrapped[:n], nil)
	if err != nil || len(kek) != 32 {
		return nil, errUnwrap
	}
	defer clear(kek)
	b, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
	}
	return unwrapKWP(b, wrapped[n:])
}

// unwrapKWP is RFC 5649, section 4.2, for material of whole 8 byte blocks.
func unwrapKWP(b cipher.Block, wrapped []byte) ([]byte, error) {
	n := len(wrapped)/8 - 1
	r := append([]byte(nil), wrapped[8:]...)
	var block [16]byte
	copy(block[:8], wrapped[:8])
	for t := 6 * n; t >= 1; t-- {
		i := (t - 1) % n * 8
		binary.BigEndian.PutUint64(block[:8], binary.BigEndian.Uint64(block[:8])^uint64(t))
		copy(block[8:], r[i:i+8])
		b.Decrypt(block[:], block[:])
		copy(r[i:i+8], block[8:])
	}
	want := binary.BigEndian.AppendUint32([]byte{0xa6, 0x59, 0x59, 0xa6}, uint32(len(r)))
	if subtle.ConstantTimeCompare(block[:8], want) != 1 {
		clear(r)
		return nil, errUnwrap
	}
	return r, nil
}
