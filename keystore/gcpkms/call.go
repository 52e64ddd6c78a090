package gcpkms

import (
	"context"
	"fmt"

	kms "cloud.google.com/go/kms/apiv1"
	"cloud.google.com/go/kms/apiv1/kmspb"
	"github.com/googleapis/gax-go/v2"
	"github.com/googleapis/gax-go/v2/callctx"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/keystore"
)

// headerReason carries our correlation id into Google's audit log, where it
// stands as requestMetadata.requestAttributes.reason.
const headerReason = "x-goog-request-reason"

// headerRequestID is where an answer may carry Google's own id. Google does not
// document one for Cloud KMS; where there is none, there is none in results.
const headerRequestID = "x-goog-request-id"

// call is one call of the provider. It may be several of Google's: the secret
// under the version that answered, a second opinion, a second try with a new
// token.
type call struct {
	p      *Provider
	caller context.Context //nolint:containedctx // A call lives no longer than the method whose ctx this is.
	op     keystore.Op
	key    keystore.KeyRef
	corr   corr.ID
	id     keystore.RequestID // of the last answer
}

// begin returns the call and the caller's context with our own limit, which end ends.
func (p *Provider) begin(caller context.Context, op keystore.Op, key keystore.KeyRef, id corr.ID) (c *call, ctx context.Context, end context.CancelFunc) {
	ctx, end = context.WithTimeout(caller, p.limit)
	return &call{p: p, caller: caller, op: op, key: key, corr: id}, ctx, end
}

// usable fails for a call that has no time or no keystore.
func (c *call) usable() error {
	if c.p.closed.Load() {
		return c.fail(keystore.Unavailable, errClosed)
	}
	if err := c.caller.Err(); err != nil {
		return c.fail(keystore.Unavailable, err)
	}
	return nil
}

func (c *call) fail(class keystore.Class, cause error) error {
	key := c.key
	if len(key) > keystore.MaxKeyRef {
		key = key[:64] + "..."
	}
	return keystore.NewError(keystore.Error{Class: class, Provider: c.p.name, Key: key, Op: c.op, RequestID: c.id}, cause)
}

// method is a call of Google's client.
type method[Req, Resp any] func(*kms.KeyManagementClient, context.Context, Req, ...gax.CallOption) (Resp, error)

// ask makes one call of Google's: one attempt, and a second one with a new
// token when the first was refused. Retries are our caller's.
func ask[Req, Resp any](ctx context.Context, c *call, m method[Req, Resp], req Req) (Resp, error) {
	var none Resp
	for again := false; ; again = true {
		bearer, err := c.p.tokens.get(ctx)
		if err != nil {
			return none, err
		}
		l, err := c.p.links.take(ctx)
		if err != nil {
			return none, err
		}
		with := metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+bearer)
		if c.corr != "" {
			with = callctx.SetHeaders(with, headerReason, string(c.corr))
		}
		var head, tail metadata.MD
		resp, err := m(l.client, with, req, gax.WithRetry(nil), gax.WithGRPCOptions(grpc.Header(&head), grpc.Trailer(&tail)))
		c.p.links.back(l, status.Code(err))
		c.id = requestID(err, head, tail)
		if status.Code(err) != codes.Unauthenticated || again {
			return resp, err
		}
		c.p.tokens.drop(bearer)
	}
}

// requestID is the id of an answer, where it has one: in a header, or in the
// details of an error.
func requestID(err error, mds ...metadata.MD) keystore.RequestID {
	for _, md := range mds {
		if v := md.Get(headerRequestID); len(v) == 1 {
			return keystore.RequestID(v[0][:min(len(v[0]), keystore.MaxRequestID)])
		}
	}
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.RequestInfo); ok {
			return keystore.RequestID(info.GetRequestId()[:min(len(info.GetRequestId()), keystore.MaxRequestID)])
		}
	}
	return ""
}

// getKey and getVersion read what a key is; they show nothing secret.
func (c *call) getKey(ctx context.Context, name string) (*kmspb.CryptoKey, error) {
	return ask(ctx, c, (*kms.KeyManagementClient).GetCryptoKey, &kmspb.GetCryptoKeyRequest{Name: name})
}

func (c *call) getVersion(ctx context.Context, name string) (*kmspb.CryptoKeyVersion, error) {
	return ask(ctx, c, (*kms.KeyManagementClient).GetCryptoKeyVersion, &kmspb.GetCryptoKeyVersionRequest{Name: name})
}

// said is what an answer of Google's says, for an error: code, reason and a
// bounded, quoted text.
func said(err error) error {
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	text := "Google answers " + st.Code().String()
	if r := reasonOf(st); r != "" {
		text += " " + clip(r)
	}
	return fmt.Errorf("%s: %q", text, clip(st.Message()))
}
