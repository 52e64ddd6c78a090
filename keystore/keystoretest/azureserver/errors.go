package azureserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// The errors of the owner's methods.
var (
	ErrNotFound = errors.New("there is no such key")
	ErrConflict = errors.New("the key is deleted and can be recovered; its name is taken until it is purged")
)

// serviceError is an answer of the vault that is no success.
type serviceError struct {
	status     int
	code       string
	inner      string // innererror.code; empty for none
	message    string
	retryAfter int // seconds; 0 for none
}

func (e *serviceError) Error() string {
	return fmt.Sprintf("%d %s/%s: %s", e.status, e.code, e.inner, e.message)
}

func (e *serviceError) write(w http.ResponseWriter) {
	type inner struct {
		Code string `json:"code"`
	}
	var body struct {
		Error struct {
			Code    string `json:"code"`
			Message string `json:"message"`
			Inner   *inner `json:"innererror,omitempty"`
		} `json:"error"`
	}
	body.Error.Code, body.Error.Message = e.code, e.message
	if e.inner != "" {
		body.Error.Inner = &inner{e.inner}
	}
	if e.retryAfter > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(e.retryAfter))
	}
	writeJSON(w, e.status, body)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the caller went away
}

func notFound(name string) *serviceError {
	return &serviceError{
		status: http.StatusNotFound, code: "KeyNotFound",
		message: fmt.Sprintf("A key with (name/id) %s was not found in this key vault. If you recently deleted this key you may be able to recover it using the correct recovery command.", name),
	}
}

func badParameter(message string) *serviceError {
	return &serviceError{status: http.StatusBadRequest, code: "BadParameter", message: message}
}

func forbidden(inner, message string) *serviceError {
	return &serviceError{status: http.StatusForbidden, code: "Forbidden", inner: inner, message: message}
}

func unauthorized(message string) *serviceError {
	return &serviceError{status: http.StatusUnauthorized, code: "Unauthorized", message: message}
}
