// Package wire carries errors of package errs over gRPC and back.
//
// It is apart from errs because google.golang.org/grpc/status pulls in the
// network stack, which the replicated state machine must not import.
//
// # Invariants
//
//   - I1: code, message, hint and the time to wait arrive as they were sent.
//   - I2: no cause, and no text of an error without a code, is ever sent.
//
// # Concurrency
//
// Safe for concurrent use; nothing here has state.
//
// # Failure
//
// A status that no Krypton server made is mapped by its gRPC code.
//
// # Source
//
// AIP-193: google.rpc.Status with google.rpc.ErrorInfo{reason, domain} and, where it
// is known how long to wait, google.rpc.RetryInfo.
package wire

import (
	"errors"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Domain is the domain of every google.rpc.ErrorInfo that Krypton sends.
const Domain = "krypton"

// hintKey is the metadata key of the hint in google.rpc.ErrorInfo.
const hintKey = "hint"

// ToStatus returns err as the gRPC status that goes to a caller. Nothing of an
// error without a code, and nothing of any cause, is in it (I2).
func ToStatus(err error) *status.Status {
	if err == nil {
		return nil
	}
	e := errs.From(err)
	row := e.Code.Row()
	info := &errdetails.ErrorInfo{Reason: row.Name, Domain: Domain}
	if e.Hint != "" {
		info.Metadata = map[string]string{hintKey: e.Hint}
	}
	st := status.New(codes.Code(row.GRPC), e.Msg) //nolint:gosec // google.rpc.Code and gRPC codes are the same small numbers.
	details := []protoadapt.MessageV1{protoadapt.MessageV1Of(info)}
	if e.After > 0 {
		details = append(details, protoadapt.MessageV1Of(&errdetails.RetryInfo{RetryDelay: durationpb.New(e.After)}))
	}
	if with, err := st.WithDetails(details...); err == nil {
		return with
	}
	return st
}

// FromStatus returns the error that a server sent, as the client sees it. An
// error that no Krypton server made (a broken connection, a proxy) is mapped by
// its gRPC code.
func FromStatus(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*errs.Error](err); ok {
		return e
	}
	st, ok := status.FromError(err)
	if !ok {
		return errs.From(err)
	}
	var (
		info  *errdetails.ErrorInfo
		after time.Duration
	)
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if info == nil && d.GetDomain() == Domain {
				info = d
			}
		case *errdetails.RetryInfo:
			if t := d.GetRetryDelay(); t.CheckValid() == nil {
				after = t.AsDuration()
			}
		}
	}
	if info == nil {
		return errs.New(foreign(st.Code()), st.Message(), errs.RetryAfter(after), errs.Cause(err))
	}
	code, _ := errs.ByName(info.GetReason())
	return errs.New(code, st.Message(), errs.Hint("%s", info.GetMetadata()[hintKey]), errs.RetryAfter(after))
}

// foreign maps a gRPC code that arrived without our details.
func foreign(c codes.Code) errs.Code {
	switch c {
	case codes.Canceled:
		return errs.Canceled
	case codes.InvalidArgument, codes.OutOfRange:
		return errs.InvalidArgument
	case codes.DeadlineExceeded:
		return errs.DeadlineExceeded
	case codes.NotFound:
		return errs.NotFound
	case codes.AlreadyExists:
		return errs.AlreadyExists
	case codes.PermissionDenied:
		return errs.Denied
	case codes.Unauthenticated:
		return errs.Unauthenticated
	case codes.ResourceExhausted:
		return errs.Throttled
	case codes.FailedPrecondition:
		return errs.FailedState
	case codes.Aborted:
		return errs.Aborted
	case codes.Unimplemented:
		return errs.Unimplemented
	case codes.Unavailable:
		return errs.Unavailable
	case codes.DataLoss:
		return errs.StateCorrupt
	case codes.OK, codes.Unknown, codes.Internal:
	}
	return errs.Internal
}
