package awskms

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
)

// userAgentKey stands before the correlation id in the user agent, which
// CloudTrail records.
const userAgentKey = "krypton-corr/"

// signer dates signatures by the process's clock. The SDK would use the
// machine's, corrected silently by what the service says: a clock that is wrong
// is to be mended, since leases and certificates depend on it as well (I5).
type signer struct {
	v4    *v4.Signer
	clock clock.Clock
}

func newSigner(c clock.Clock) signer { return signer{v4.NewSigner(), c} }

// SignHTTP implements the signer of the SDK's clients.
func (s signer) SignHTTP(ctx context.Context, creds aws.Credentials, r *http.Request, hash, service, region string, _ time.Time, opts ...func(*v4.SignerOptions)) error {
	return s.v4.SignHTTP(ctx, creds, r, hash, service, region, s.clock.Now().UTC(), opts...)
}

// agent makes the user agent: who we are and the call's correlation id (I6),
// and nothing of the machine or its environment.
func agent(ctx context.Context) func(*middleware.Stack) error {
	text := aws.SDKName + "/" + aws.SDKVersion + " app/krypton"
	if id := corr.From(ctx); id != "" {
		text += " " + userAgentKey + string(id)
	}
	return func(s *middleware.Stack) error {
		return s.Build.Add(middleware.BuildMiddlewareFunc("KryptonAgent", func(ctx context.Context, in middleware.BuildInput, next middleware.BuildHandler) (middleware.BuildOutput, middleware.Metadata, error) {
			r, ok := in.Request.(*smithyhttp.Request)
			if !ok {
				return middleware.BuildOutput{}, middleware.Metadata{}, fmt.Errorf("request of type %T", in.Request)
			}
			r.Header.Set("User-Agent", text)
			return next.HandleBuild(ctx, in)
		}), middleware.After)
	}
}

// clean takes out of the SDK's steps the one that copies a variable of the
// environment into a header (I1).
func clean() []func(*middleware.Stack) error {
	return []func(*middleware.Stack) error{func(s *middleware.Stack) error {
		_, err := s.Build.Remove("RecursionDetection")
		return err
	}}
}

// wiped is the body of a request with a secret in it. It is read like any
// other, by the connection's own goroutine, until wipe.
type wiped struct {
	mu   sync.Mutex
	r    *bytes.Reader
	b    []byte
	gone bool
}

var errGone = errors.New("the request is over")

// Read implements [io.Reader].
func (w *wiped) Read(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone {
		return 0, errGone
	}
	return w.r.Read(p)
}

// Seek implements [io.Seeker].
func (w *wiped) Seek(offset int64, whence int) (int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.r.Seek(offset, whence)
}

// Len is how many bytes are left.
func (w *wiped) Len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.r.Len()
}

// wipe ends reading and clears the bytes. The connection may still hold on to
// the body when a call was given up: it finds nothing then.
func (w *wiped) wipe() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gone = true
	clear(w.b)
}

// wiping makes the body of one request one that can be wiped, without a copy:
// a bytes.Reader hands its own bytes to a writer.
type wiping struct{ body *wiped }

func (w *wiping) step(s *middleware.Stack) error {
	return s.Build.Add(middleware.BuildMiddlewareFunc("KryptonWipe", func(ctx context.Context, in middleware.BuildInput, next middleware.BuildHandler) (middleware.BuildOutput, middleware.Metadata, error) {
		r, ok := in.Request.(*smithyhttp.Request)
		if !ok {
			return middleware.BuildOutput{}, middleware.Metadata{}, fmt.Errorf("request of type %T", in.Request)
		}
		stream, ok := r.GetStream().(*bytes.Reader)
		if !ok {
			return middleware.BuildOutput{}, middleware.Metadata{}, fmt.Errorf("body of type %T", r.GetStream())
		}
		var b alias
		if _, err := stream.WriteTo(&b); err != nil {
			return middleware.BuildOutput{}, middleware.Metadata{}, err
		}
		w.body = &wiped{r: bytes.NewReader(b), b: b}
		out, err := r.SetStream(w.body)
		if err != nil {
			return middleware.BuildOutput{}, middleware.Metadata{}, err
		}
		in.Request = out
		return next.HandleBuild(ctx, in)
	}), middleware.Before)
}

// end wipes the body of the request, if it came to one.
func (w *wiping) end() {
	if w.body != nil {
		w.body.wipe()
	}
}

// alias is a writer that keeps the bytes it is given instead of a copy.
type alias []byte

// Write implements [io.Writer].
func (a *alias) Write(p []byte) (int, error) {
	if *a != nil {
		return 0, io.ErrShortWrite
	}
	*a = p
	return len(p), nil
}
