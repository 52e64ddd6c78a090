package gcpkms

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/openkcm/krypton-cluster/keystore"
)

// reasonDenied is the reason of a refusal by IAM, in google.api.ErrorReason.
const reasonDenied = "IAM_PERMISSION_DENIED"

// reasonOf returns the reason from the details of an error, or "".
func reasonOf(st *status.Status) string {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// byIAM reports whether a refusal is one of IAM: it says so, or says nothing.
func byIAM(st *status.Status) bool {
	r := reasonOf(st)
	return r == "" || r == reasonDenied
}

// violated reports whether an error names a precondition of the resource.
func violated(st *status.Status) bool {
	for _, d := range st.Details() {
		if f, ok := d.(*errdetails.PreconditionFailure); ok && len(f.GetViolations()) > 0 {
			return true
		}
	}
	return false
}

// judge makes the [*keystore.Error] of a failed call. version is the one that a
// blob names, or "" where the primary was asked for.
//
// Denied purges keys, so that nothing but an answer about the key, or about our
// right to use it, becomes it; and what may have another cause is asked once
// more, in another way (I3).
func (c *call) judge(ctx context.Context, err error, key resource, version keystore.KeyVersion) error {
	if v := c.local(ctx, err); v.class != keystore.ClassUnspecified {
		return c.fail(v.class, v.cause)
	}
	st := status.Convert(err)
	class := keystore.Unavailable
	cause := said(err)
	switch st.Code() {
	case codes.NotFound:
		class = keystore.Denied
	case codes.PermissionDenied:
		// Other reasons are about the project, the token or the network: a
		// service that is not enabled, a scope, a perimeter.
		if !byIAM(st) {
			class = keystore.Misconfigured
			break
		}
		// Who may not read a key learns nothing about its use by asking again,
		// and health asks about no key.
		if c.op != keystore.OpWrap && c.op != keystore.OpUnwrap {
			class = keystore.Misconfigured
			break
		}
		class, cause = c.secondOpinion(ctx, st, cause, key, version)
	case codes.FailedPrecondition:
		if c.op != keystore.OpWrap && c.op != keystore.OpUnwrap {
			class = keystore.Misconfigured
			break
		}
		class, cause = c.secondOpinion(ctx, st, cause, key, version)
	case codes.InvalidArgument:
		class = keystore.Misconfigured
		if c.op == keystore.OpUnwrap {
			class = keystore.Corrupt
		}
		if strings.Contains(st.Message(), "crc32c") { // the request was damaged on its way
			class = keystore.Unavailable
		}
	case codes.Unauthenticated, codes.OutOfRange, codes.AlreadyExists:
		class = keystore.Misconfigured
	case codes.ResourceExhausted:
		class = keystore.Throttled
	case codes.OK, codes.Canceled, codes.Unknown, codes.DeadlineExceeded, codes.Aborted, codes.Unimplemented,
		codes.Internal, codes.Unavailable, codes.DataLoss:
	}
	return c.fail(class, cause)
}

// verdict is the class of a failure and what is said of it; the class is
// ClassUnspecified where it is not settled yet.
type verdict struct {
	class keystore.Class
	cause error
}

// local judges failures that no answer of the key service made.
func (c *call) local(ctx context.Context, err error) verdict {
	if ended := c.caller.Err(); ended != nil {
		return verdict{keystore.Unavailable, fmt.Errorf("%w: %w", ended, said(err))}
	}
	if t, ok := errors.AsType[*tokenError](err); ok {
		return verdict{t.class, t}
	}
	switch {
	case errors.Is(err, errClosed), c.p.closed.Load():
		return verdict{keystore.Unavailable, errClosed}
	case errors.Is(err, errDamaged):
		return verdict{keystore.Unavailable, err}
	case errors.Is(err, context.DeadlineExceeded), status.Code(err) == codes.DeadlineExceeded, ctx.Err() != nil:
		return verdict{keystore.Unavailable, fmt.Errorf("no answer within %s: %w", c.p.limit, said(err))}
	}
	if _, ok := status.FromError(err); !ok {
		return verdict{keystore.Unavailable, err}
	}
	return verdict{}
}

// secondOpinion reads the state of the key, or of the version of a blob, after
// its use was refused. Google answers "permission denied" for a key that is
// gone, for a role that was taken away and for an identity that is not what it
// was; and "failed precondition" for a version that its owner disabled as well
// as for one whose external keystore does not answer.
func (c *call) secondOpinion(ctx context.Context, st *status.Status, first error, key resource, version keystore.KeyVersion) (keystore.Class, error) {
	precondition := st.Code() == codes.FailedPrecondition
	var state kmspb.CryptoKeyVersion_CryptoKeyVersionState
	var err error
	if version == "" {
		var k *kmspb.CryptoKey
		k, err = c.getKey(ctx, key.keyName())
		state = k.GetPrimary().GetState()
	} else {
		var v *kmspb.CryptoKeyVersion
		v, err = c.getVersion(ctx, key.versionName(version))
		state = v.GetState()
	}
	both := func(text string) error { return fmt.Errorf("%w; asked again, %s", first, text) }
	if err != nil {
		if v := c.local(ctx, err); v.class != keystore.ClassUnspecified {
			return v.class, both(v.cause.Error())
		}
		second := status.Convert(err)
		switch {
		case second.Code() == codes.NotFound:
			return keystore.Denied, both(said(err).Error())
		case second.Code() == codes.PermissionDenied && byIAM(second):
			// Refused twice. Of a precondition only its own details tell then.
			if precondition && !violated(st) {
				return keystore.Unavailable, both("the state of the key may not be read; grant cloudkms.cryptoKeys.get and cloudkms.cryptoKeyVersions.get")
			}
			return keystore.Denied, both(said(err).Error())
		case second.Code() == codes.Unauthenticated:
			return keystore.Misconfigured, both(said(err).Error())
		case second.Code() == codes.ResourceExhausted:
			return keystore.Throttled, both(said(err).Error())
		}
		return keystore.Unavailable, both(said(err).Error())
	}
	switch stateOf(state) {
	case keystore.StateDisabled, keystore.StatePendingDeletion, keystore.StateDeleted:
		return keystore.Denied, both("the key is " + stateOf(state).String())
	case keystore.StateEnabled:
		if precondition { // enabled again meanwhile, or its external keystore is away
			return keystore.Unavailable, both("the key is enabled")
		}
		return keystore.Denied, both("the key is enabled and its use is not granted")
	case keystore.StateUnknown:
	}
	if precondition {
		return keystore.Misconfigured, both("the key is in state " + state.String())
	}
	return keystore.Denied, both("the key is in state " + state.String() + " and its use is not granted")
}

// answersToIdentity reports whether err says that the identity was accepted.
func answersToIdentity(err error) bool {
	st, ok := status.FromError(err)
	if !ok {
		return false
	}
	switch st.Code() {
	case codes.NotFound, codes.InvalidArgument:
		return true
	case codes.PermissionDenied:
		return byIAM(st)
	case codes.OK, codes.Canceled, codes.Unknown, codes.DeadlineExceeded, codes.AlreadyExists, codes.ResourceExhausted,
		codes.FailedPrecondition, codes.Aborted, codes.OutOfRange, codes.Unimplemented, codes.Internal, codes.Unavailable,
		codes.DataLoss, codes.Unauthenticated:
	}
	return false
}
