//go:build !noazurekv

package azurekv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"github.com/openkcm/krypton-cluster/keystore"
)

// verdict is what a failed request means.
type verdict int

// The verdicts.
const (
	passing   verdict = iota // Unavailable
	throttled                // Throttled
	setup                    // Misconfigured
	withdrawn                // Denied, on the vault's word (I3)
	missing                  // 404: a look decides
	forbidden                // 403 without a reason that we know: a look decides
	refused                  // 400: a look decides
)

// answer is what the vault said.
type answer struct {
	status  int
	inner   string // innererror.code
	message string
}

func (a answer) String() string {
	s := fmt.Sprintf("the vault answered %d", a.status)
	if a.inner != "" {
		s += " " + clip(strconv.Quote(a.inner))
	}
	if a.message != "" {
		s += ": " + clip(strconv.Quote(a.message))
	}
	return s
}

// parseAnswer reads the body behind a ResponseError. The code of a 403 is always
// "Forbidden"; the reason is the inner one.
func parseAnswer(e *azcore.ResponseError) answer {
	a := answer{status: e.StatusCode}
	if e.RawResponse == nil {
		return a
	}
	body, err := runtime.Payload(e.RawResponse)
	if err != nil {
		return a
	}
	var doc struct {
		Error struct {
			Code    string `json:"code"`
			Message string `json:"message"`
			Inner   struct {
				Code string `json:"code"`
			} `json:"innererror"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &doc) != nil {
		return a
	}
	a.inner, a.message = doc.Error.Inner.Code, doc.Error.Message
	if a.inner == "" && doc.Error.Code != "Forbidden" {
		a.inner = doc.Error.Code
	}
	return a
}

// judge classifies an answer. What is not listed is passing, or decided by a
// look at the key; nothing is guessed to be a withdrawal (I3).
func (a answer) judge() verdict {
	switch {
	case a.status == http.StatusForbidden:
		switch a.inner {
		case "KeyDisabled", // the version
			"KeyOperationForbidden",           // its key_ops
			"ForbiddenByRbac", "AccessDenied": // no role; no access policy
			return withdrawn
		case "ForbiddenByFirewall", "ForbiddenByConnection", "ForbiddenByPolicy":
			return setup
		}
		return forbidden
	case a.status == http.StatusNotFound:
		return missing
	case a.status == http.StatusBadRequest:
		return refused
	case a.status == http.StatusTooManyRequests:
		return throttled
	case a.status == http.StatusRequestTimeout, a.status >= 500, a.status < 300:
		return passing
	}
	return setup // 401 after a new login, 3xx, the rest of 4xx
}

// failed turns the error of a request into the verdict and the text.
func (c *call) failed(ctx context.Context, err error) (verdict, error) {
	if e, ok := errors.AsType[*azcore.ResponseError](err); ok {
		a := parseAnswer(e)
		return a.judge(), errors.New(a.String())
	}
	// An ended context of the caller is told as such. Our own deadline is not:
	// that the caller has time left decides whether to try again.
	if cerr := c.caller.Err(); cerr != nil {
		return passing, cerr
	}
	if e, ok := errors.AsType[*identityError](err); ok {
		switch e.class {
		case keystore.Misconfigured:
			return setup, e.err
		case keystore.Throttled:
			return throttled, e.err
		case keystore.Unavailable, keystore.Denied, keystore.Corrupt, keystore.ClassUnspecified:
		}
		return passing, e.err
	}
	if ctx.Err() != nil {
		return passing, fmt.Errorf("the vault did not answer within %s", callTimeout)
	}
	if c.last.err == nil && c.last.resp != nil && c.last.resp.StatusCode == http.StatusUnauthorized {
		// The vault wants a login and the client would not have it: no
		// challenge, or one for the tokens of another service.
		return setup, fmt.Errorf("the vault's challenge: %s", clip(err.Error()))
	}
	return passing, errors.New(clip(err.Error()))
}

// class is the class of a verdict that needs no look.
func (v verdict) class() keystore.Class {
	switch v {
	case throttled:
		return keystore.Throttled
	case setup:
		return keystore.Misconfigured
	case withdrawn:
		return keystore.Denied
	case passing, missing, forbidden, refused:
	}
	return keystore.Unavailable
}
