package gcpserver

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// maxRecords is how many calls a server remembers; older ones go first.
const maxRecords = 10_000

// Record is one call as Cloud Audit Logs show it.
type Record struct {
	InsertID  string // of the log entry; no client is told
	Time      time.Time
	Method    string     // methodName: "Decrypt"
	Resource  string     // resourceName
	Principal string     // authenticationInfo.principalSubject; empty when the token was refused
	Reason    string     // requestMetadata.requestAttributes.reason, from x-goog-request-reason
	UserAgent string     // requestMetadata.callerSuppliedUserAgent
	Routing   string     // x-goog-request-params, by which Google finds the location
	Code      codes.Code // status.code
}

// Records returns the calls so far, oldest first.
func (s *Server) Records() []Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.records)
}

// faults are answers that tests ask for.
type faults struct {
	tooMany  bool
	nonsense bool
	answers  map[string]error // by method; "" is for all
	garble   Garble
}

// Garble is a way in which an answer is damaged on its way.
type Garble int

// The ways.
const (
	GarbleNothing  Garble = iota
	GarblePayload         // a bit of the ciphertext or plaintext, under the checksum of the true one
	GarbleChecksum        // the checksum
	GarbleVerified        // it does not say that it checked the request
	GarbleName            // it names a version of another key
)

// Throttle makes every call fail for too many calls until it is called with false.
func (s *Server) Throttle(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.tooMany = on
}

// Nonsense makes every call succeed with an empty answer, until it is called with false.
func (s *Server) Nonsense(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.nonsense = on
}

// Answer makes a method ("Decrypt") fail with err, a status, after it has
// accepted the token; nil ends that. "" stands for every method without an
// answer of its own.
func (s *Server) Answer(method string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.faults.answers == nil {
		s.faults.answers = map[string]error{}
	}
	if err == nil {
		delete(s.faults.answers, method)
		return
	}
	s.faults.answers[method] = err
}

// Damage makes every answer of Encrypt and Decrypt damaged.
func (s *Server) Damage(how Garble) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.garble = how
}

// intercept is what stands before every method: the token, the quota, the
// policy; and behind it the record (I2, I4).
func (s *Server) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	method, resource := path.Base(info.FullMethod), resourceOf(req)
	md, _ := metadata.FromIncomingContext(ctx)
	first := func(name string) string { return strings.Join(md.Get(name), ",") }
	rec := Record{
		Method: method, Resource: resource, Reason: first("x-goog-request-reason"),
		UserAgent: first("user-agent"), Routing: first("x-goog-request-params"),
	}
	var resp any
	principal, err := s.admit(method, resource, first("authorization"))
	if err == nil {
		resp, err = handler(context.WithValue(ctx, principalKey{}, principal), req)
	}
	if m, ok := resp.(proto.Message); ok && err == nil && s.talksNonsense() {
		resp = m.ProtoReflect().New().Interface()
	}
	rec.Principal, rec.Code = principal, status.Code(err)

	s.mu.Lock()
	defer s.mu.Unlock()
	rec.Time = s.now()
	rec.InsertID = fmt.Sprintf("%016x", len(s.records)+1)
	if len(s.records) >= maxRecords {
		s.records = slices.Delete(s.records, 0, maxRecords/10)
	}
	s.records = append(s.records, rec)
	return resp, err
}

func (s *Server) talksNonsense() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults.nonsense
}

func resourceOf(req any) string {
	switch r := req.(type) {
	case interface{ GetName() string }:
		return r.GetName()
	case interface{ GetParent() string }:
		return r.GetParent()
	case *kmspb.UpdateCryptoKeyVersionRequest:
		return r.GetCryptoKeyVersion().GetName()
	}
	return ""
}

func (s *Server) admit(method, resource, authorization string) (principal string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	principal, err = s.accounts.principal(authorization, s.now(), scopeKMS)
	if err != nil {
		return "", err
	}
	if s.faults.tooMany {
		return principal, refusal(codes.ResourceExhausted, "Quota exceeded for quota metric 'Cryptographic requests' of service '"+serviceName+"'.",
			&errdetails.ErrorInfo{Reason: reasonTooMany, Domain: domainAPI, Metadata: map[string]string{"service": serviceName}},
			&errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{{Subject: "project:" + Project, Description: "cryptographic requests per minute"}}})
	}
	if err, own := s.faults.answers[method]; own {
		return principal, err
	}
	if err := s.faults.answers[""]; err != nil {
		return principal, err
	}
	perm, known := permissions()[method]
	if known && !s.iam.allows(principal, perm, resource) {
		return principal, denied(perm, resource)
	}
	return principal, nil
}
