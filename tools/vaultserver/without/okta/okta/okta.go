// Package okta takes the place of Okta's SDK, with the functions that Vault's
// core calls when a login has Okta as its second factor. No login of a test has,
// and the real package takes a twelfth of the time that the server takes to build.
package okta

import (
	"context"
	"errors"
	"net/http"
)

var errNone = errors.New("this server has no second factor with Okta")

// Configuration is nothing.
type Configuration struct{ Context context.Context }

// ConfigSetter is an option.
type ConfigSetter func(*Configuration)

// WithToken and the others are taken and have no effect.
func WithToken(string) ConfigSetter  { return func(*Configuration) {} }
func WithOrgUrl(string) ConfigSetter { return func(*Configuration) {} }
func WithCache(bool) ConfigSetter    { return func(*Configuration) {} }

// NewConfiguration refuses, so that nothing below is ever called.
func NewConfiguration(...ConfigSetter) (*Configuration, error) { return nil, errNone }

// APIClient is nothing.
type APIClient struct {
	UserAPI       userAPI
	UserFactorAPI userFactorAPI
}

func NewAPIClient(*Configuration) *APIClient { return &APIClient{} }
func (*APIClient) GetConfig() *Configuration { return &Configuration{Context: context.Background()} }

type request[T any] struct{}

func (r request[T]) Filter(string) request[T] { return r }

func (request[T]) Execute() (T, *http.Response, error) {
	var none T
	return none, nil, errNone
}

type userAPI struct{}

func (userAPI) ListUsers(context.Context) request[[]User] { return request[[]User]{} }

type userFactorAPI struct{}

func (userFactorAPI) ListFactors(context.Context, string) request[[]Factor] {
	return request[[]Factor]{}
}

func (userFactorAPI) VerifyFactor(context.Context, string, string) request[*Verified] {
	return request[*Verified]{}
}

func (userFactorAPI) GetFactorTransactionStatus(context.Context, string, string, string) request[*Transaction] {
	return request[*Transaction]{}
}

// User is a person.
type User struct{}

func (User) GetId() string { return "" }

// Factor is a second factor.
type Factor struct{ UserFactorPush *UserFactorPush }

// UserFactorPush is one that asks on a telephone.
type UserFactorPush struct{}

func (*UserFactorPush) GetId() string { return "" }

// Verified is the answer to a question.
type Verified struct{ Links map[string]any }

func (*Verified) GetFactorResult() string { return "" }

// Transaction is a question that waits.
type Transaction struct {
	UserFactorPushTransactionWaiting, UserFactorPushTransaction, UserFactorPushTransactionRejected, UserFactorPushTransactionTimeout *struct{}
}
