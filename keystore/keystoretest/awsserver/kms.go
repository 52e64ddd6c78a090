package awsserver

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
)

// maxBody is above the largest request and answer.
const maxBody = 64 << 10

// fault is a prepared refusal.
type fault struct {
	refusal

	left int // calls that it still meets; negative: until it is taken away
}

// input are the members of requests that the server itself looks at.
type input struct {
	KeyID             string            `json:"KeyId"`
	EncryptionContext map[string]string `json:"EncryptionContext"`
	CiphertextBlob    []byte            `json:"CiphertextBlob"`

	EncryptionAlgorithm string `json:"EncryptionAlgorithm"`
}

func (s *Server) serveKMS(w http.ResponseWriter, r *http.Request) {
	rec := Record{Source: "kms.amazonaws.com", RequestID: requestID(), UserAgent: r.UserAgent()}
	service, action, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	rec.Event = action
	var res answer
	body, err := io.ReadAll(r.Body)
	var no *refusal
	if err != nil || service != "TrentService" || r.Method != http.MethodPost {
		no = refuse("UnknownOperationException", "")
	} else {
		res, no = s.handleKMS(r, action, body, &rec)
	}
	if no != nil {
		rec.ErrorCode = no.code
		text, _ := json.Marshal(map[string]string{"__type": no.code, "message": no.message})
		res = answer{status: no.status, body: text}
	}
	s.record(rec) // I2
	w.Header().Set("X-Amzn-RequestId", rec.RequestID)
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("Date", s.now().UTC().Format(http.TimeFormat))
	w.WriteHeader(res.status)
	_, _ = w.Write(res.body)
}

func (s *Server) handleKMS(r *http.Request, action string, body []byte, rec *Record) (answer, *refusal) {
	who, no := s.authenticate(r, body, "kms")
	if who != nil {
		rec.Principal = who.principal
	}
	if no != nil {
		return answer{}, no
	}
	if f := s.takeFault(action); f != nil {
		return answer{}, f
	}
	var in input
	if err := json.Unmarshal(body, &in); err != nil {
		return answer{}, refuse("SerializationException", "")
	}
	rec.Key, rec.EncryptionContext = in.KeyID, in.EncryptionContext
	if in.KeyID == "" {
		// AWS finds the key in the blob then. Krypton never relies on it.
		return answer{}, refuse("ValidationException", "this server wants a KeyId")
	}
	key, exists, no := s.find(r.Context(), in.KeyID)
	if no != nil {
		return answer{}, no
	}
	if exists {
		rec.Key = key.Arn
	}
	// A caller from elsewhere learns of a missing key only that it may not use it.
	if !exists && accountOf(in.KeyID) != "" && accountOf(in.KeyID) != accountOf(who.principal) || exists && !s.allows(who, action, key, in) {
		return answer{}, refuse("AccessDeniedException", "User: "+who.principal+" is not authorized to perform: kms:"+action+
			" on resource: "+rec.Key+" because no resource-based policy allows the kms:"+action+" action")
	}
	if !exists {
		return answer{}, refuse("NotFoundException", "Key '"+in.KeyID+"' does not exist")
	}
	return s.perform(r.Context(), action, key, in, body)
}

// perform does what an allowed call asks for.
func (s *Server) perform(ctx context.Context, action string, key keyMetadata, in input, body []byte) (answer, *refusal) {
	switch action {
	case "DescribeKey":
		return s.describe(ctx, key)
	case "Encrypt", "Decrypt":
		if state := s.overlay(key.Arn).KeyState; state != "" && state != "Enabled" && state != "Updating" {
			return answer{}, refuse("KMSInvalidStateException", key.Arn+" is "+state+".")
		}
		if key.KeySpec != "SYMMETRIC_DEFAULT" && in.EncryptionAlgorithm == "SYMMETRIC_DEFAULT" {
			return answer{}, refuse("InvalidKeyUsageException", "The encryption algorithm is incompatible with the key spec "+key.KeySpec+".")
		}
		if no := s.checkBlob(ctx, action, key, in.CiphertextBlob); no != nil {
			return answer{}, no
		}
	case "GetParametersForImport":
		return s.importParameters(ctx, key, body)
	case "ImportKeyMaterial":
		return s.importMaterial(ctx, key, body)
	default:
		return answer{}, refuse("UnknownOperationException", "")
	}
	return s.pass(ctx, action, body)
}

// pass hands a call to local-kms.
func (s *Server) pass(ctx context.Context, action string, body []byte) (answer, *refusal) {
	res, err := s.child.call(ctx, "TrentService."+action, body)
	if err != nil {
		return answer{}, &refusal{status: http.StatusInternalServerError, code: "KMSInternalException", message: err.Error()}
	}
	if code, message := res.code(); res.status != http.StatusOK {
		return answer{}, &refusal{status: res.status, code: code, message: message}
	}
	return res, nil
}

// checkBlob answers what local-kms does not: blobs of another key, and blobs
// that are too short for it. Its blobs are u8 length, key ARN, 4 bytes version,
// 12 bytes nonce, ciphertext and 16 bytes tag.
func (s *Server) checkBlob(ctx context.Context, action string, key keyMetadata, blob []byte) *refusal {
	if action != "Decrypt" || key.KeyState != "Enabled" || key.KeySpec != "SYMMETRIC_DEFAULT" {
		return nil
	}
	damaged := refuse("InvalidCiphertextException", "")
	if len(blob) < 1 || len(blob) < 1+int(blob[0])+4+12+1+16 {
		return damaged
	}
	of := string(blob[1 : 1+int(blob[0])])
	if of == key.Arn {
		return nil
	}
	if _, exists, no := s.find(ctx, of); no != nil || !exists || !strings.HasPrefix(of, "arn:") {
		return damaged
	}
	return refuse("IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform this operation.")
}

func (s *Server) takeFault(action string) *refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range []string{action, ""} {
		f, ok := s.faults[name]
		if !ok || f.left == 0 {
			continue
		}
		f.left--
		return &f.refusal
	}
	return nil
}

// Fail makes the next n calls of a KMS action be refused with an error as AWS
// documents it; status is 400 for most, 500 for KMSInternalException,
// KeyUnavailableException and their like. An empty action is every action, a
// negative n all calls until Fail is called again.
func (s *Server) Fail(action, code, message string, status, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[action] = &fault{refusal: refusal{status: status, code: code, message: message}, left: n}
}

// Throttle refuses every call of KMS for too many calls until the returned
// function is called.
func (s *Server) Throttle() (enough func()) {
	s.Fail("", "ThrottlingException", "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.", http.StatusBadRequest, -1)
	return func() { s.Fail("", "", "", 0, 0) }
}
