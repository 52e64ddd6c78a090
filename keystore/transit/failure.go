package transit

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/openkcm/krypton-cluster/keystore"
)

// maxWords is how much of the server's own words an error keeps, in bytes.
const maxWords = 300

// failure is a failed exchange before it is known which operation and key of
// the provider it was for.
type failure struct {
	class   keystore.Class
	request keystore.RequestID
	cause   error
}

// Error implements error.
func (f *failure) Error() string { return f.cause.Error() }

// Unwrap returns the cause.
func (f *failure) Unwrap() error { return f.cause }

func fail(class keystore.Class, id keystore.RequestID, cause error) *failure {
	return &failure{class, id, cause}
}

func misconfigured(cause error) *failure { return fail(keystore.Misconfigured, "", cause) }

// says returns the server's words, bounded, without line breaks.
func (r *reply) says(status int) string {
	words := strings.Join(strings.Fields(strings.Join(r.Errors, "; ")), " ")
	if len(words) > maxWords {
		words = words[:maxWords] + "..."
	}
	if words == "" {
		return fmt.Sprintf("status %d", status)
	}
	return fmt.Sprintf("status %d: %q", status, words)
}

// verdict is what an answer means.
type verdict int

const (
	verdictFailed       verdict = iota // as the failure says
	verdictDone                        // well
	verdictTokenRefused                // the server does not know the token
	verdictForbidden                   // the path is denied, or the token is not known: these servers do not always tell them apart
)

// The server's words. It has no codes beyond the HTTP status; the conformance
// test on a real server holds each of these to what it says.
const (
	saysInvalidToken     = "invalid token"
	saysPermissionDenied = "permission denied"
	saysNoKey            = "encryption key not found"
	saysTooOld           = "disallowed by policy (too old)"
	saysSoftDeleted      = "refusing to use soft-deleted key" // OpenBao
	saysNotAuthentic     = "message authentication failed"
	saysBadCiphertext    = "invalid ciphertext"
	saysUnknownType      = "unknown key type " + noType // a key is missing and may be created
)

// saysNoMaterial is how the engine says, as a failure of its own, that it cannot
// open or use imported material.
var saysNoMaterial = []string{"ciphertext is too short", "crypto/rsa: decryption error", "ephemeral AES key", "kwp:", "invalid key size"} //nolint:gochecknoglobals // A table.

// judge says what an answer means for the key. It trusts an answer only if it
// is in the API's own form: a refusal by something on the way says nothing.
// A missing key that was to be described is 404 without a word.
func judge(res result, rep replier, c call) (verdict, *failure) {
	r := rep.common()
	is := func(class keystore.Class, format string, args ...any) (verdict, *failure) {
		return verdictFailed, fail(class, r.RequestID, fmt.Errorf(format, args...))
	}
	words := strings.Join(r.Errors, "; ")
	if item := rep.item(); item != "" {
		words = item
		r.Errors = []string{item}
	}
	has := func(s string) bool { return strings.Contains(words, s) }
	said := r.says(res.status)
	switch {
	case !r.understood:
		return is(keystore.Unavailable, "an answer with status %d that is not the server's own; something on the way to it answers", res.status)
	case res.status < http.StatusMultipleChoices && words == "":
		return verdictDone, nil
	case res.status >= http.StatusMultipleChoices && res.status < http.StatusBadRequest:
		return is(keystore.Unavailable, "the server sends to another address (status %d); set address to that of the active server, or let it forward", res.status)
	case res.status == http.StatusTooManyRequests:
		return is(keystore.Throttled, "%s", said)
	case res.status == http.StatusForbidden && has(saysInvalidToken):
		return verdictTokenRefused, fail(keystore.Misconfigured, r.RequestID, errors.New("the server does not accept the token"))
	case res.status == http.StatusForbidden && has(saysPermissionDenied):
		return verdictForbidden, fail(keystore.Misconfigured, r.RequestID, errors.New("the server denies the path and does not tell whether it knows the token"))
	case res.status == http.StatusNotFound && words == "" && c.describes:
		return is(keystore.Denied, "there is no such key")
	case res.status == http.StatusNotFound:
		return is(keystore.Misconfigured, "%s; check mount and namespace", said)
	case c.imports && res.status == http.StatusInternalServerError && slices.ContainsFunc(saysNoMaterial, has):
		return is(keystore.Corrupt, "the wrapped material does not open: %s", said)
	case res.status >= http.StatusInternalServerError, res.status == http.StatusPreconditionFailed:
		return is(keystore.Unavailable, "%s", said)
	case res.status == http.StatusForbidden:
		return is(keystore.Unavailable, "%s", said)
	case has(saysNoKey), has(saysUnknownType):
		return is(keystore.Denied, "there is no such key")
	case has(saysTooOld):
		return is(keystore.Denied, "the key's min_decryption_version excludes the blob's version")
	case has(saysSoftDeleted):
		return is(keystore.Denied, "the key is soft-deleted")
	case has(saysNotAuthentic), has(saysBadCiphertext):
		return is(keystore.Corrupt, "the blob does not open: %q", words)
	}
	return is(keystore.Misconfigured, "%s", said)
}

// loginFailure is what a refused login means, nil for one that went well. It is
// never Denied: it says nothing of any key.
func loginFailure(auth string, res result, r *reply) *failure {
	if res.status == http.StatusOK && r.understood {
		return nil
	}
	cause := fmt.Errorf("login with %s: %s", auth, r.says(res.status))
	switch {
	case !r.understood, res.status < http.StatusBadRequest, res.status >= http.StatusInternalServerError, res.status == http.StatusPreconditionFailed:
		return fail(keystore.Unavailable, r.RequestID, cause)
	case res.status == http.StatusTooManyRequests:
		return fail(keystore.Throttled, r.RequestID, cause)
	}
	return fail(keystore.Misconfigured, r.RequestID, cause)
}
