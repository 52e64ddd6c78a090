package wire_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

func TestI1_EveryCodeSurvivesTheWay(t *testing.T) {
	t.Parallel()
	for _, c := range errs.All() {
		for _, hint := range []string{"", "do this: 100% sure"} {
			sent := errs.New(c, "what was wrong", errs.Hint("%s", hint), errs.Cause(errors.New("canary")))
			st := wire.ToStatus(fmt.Errorf("handler: %w", sent))
			if int32(st.Code()) != int32(c.Row().GRPC) {
				t.Errorf("%s left as gRPC %v", c, st.Code())
			}
			got, ok := errors.AsType[*errs.Error](wire.FromStatus(st.Err()))
			if !ok || got.Code != c || got.Msg != sent.Msg || got.Hint != hint {
				t.Errorf("%s arrived as %#v", c, got)
			}
			if strings.Contains(st.Proto().String(), "canary") {
				t.Errorf("%s: the cause was sent: %v", c, st.Proto())
			}
		}
	}
}

func TestI2_NoTextOfAnErrorWithoutCodeIsSent(t *testing.T) {
	t.Parallel()
	st := wire.ToStatus(fmt.Errorf("open file: %w", errors.New("canary")))
	if st.Code() != codes.Internal || strings.Contains(st.Proto().String(), "canary") {
		t.Errorf("sent %v", st.Proto())
	}
}

func TestNilIsNoError(t *testing.T) {
	t.Parallel()
	if wire.ToStatus(nil) != nil || wire.FromStatus(nil) != nil {
		t.Error("nil became an error")
	}
	if err := wire.ToStatus(nil).Err(); err != nil {
		t.Errorf("the nil status is %v", err)
	}
}

func TestForeignCodes(t *testing.T) {
	t.Parallel()
	for c, want := range map[codes.Code]errs.Code{
		codes.Canceled: errs.Canceled, codes.Unknown: errs.Internal, codes.InvalidArgument: errs.InvalidArgument,
		codes.DeadlineExceeded: errs.DeadlineExceeded, codes.NotFound: errs.NotFound, codes.AlreadyExists: errs.AlreadyExists,
		codes.PermissionDenied: errs.Denied, codes.ResourceExhausted: errs.Throttled, codes.FailedPrecondition: errs.FailedState,
		codes.Aborted: errs.Aborted, codes.OutOfRange: errs.InvalidArgument, codes.Unimplemented: errs.Unimplemented,
		codes.Internal: errs.Internal, codes.Unavailable: errs.Unavailable, codes.DataLoss: errs.StateCorrupt,
		codes.Unauthenticated: errs.Unauthenticated, codes.Code(99): errs.Internal,
	} {
		got := wire.FromStatus(fmt.Errorf("call: %w", status.Error(c, "connection refused")))
		if errs.Of(got) != want {
			t.Errorf("gRPC %v became %v, want %v", c, errs.Of(got), want)
		}
	}
}

func TestDetailsOfAnotherDomainAreNotOurs(t *testing.T) {
	t.Parallel()
	st, err := status.New(codes.Unavailable, "from a proxy").WithDetails(
		&errdetails.ErrorInfo{Reason: "SEALED", Domain: "example.com"})
	if err != nil {
		t.Fatal(err)
	}
	if got := errs.Of(wire.FromStatus(st.Err())); got != errs.Unavailable {
		t.Errorf("a foreign reason became %v", got)
	}
}

// A newer server may send a code that this client does not know.
func TestAnUnknownReasonIsInternal(t *testing.T) {
	t.Parallel()
	st, err := status.New(codes.Unavailable, "new trouble").WithDetails(
		&errdetails.ErrorInfo{Reason: "FROM_THE_FUTURE", Domain: wire.Domain})
	if err != nil {
		t.Fatal(err)
	}
	got := errs.From(wire.FromStatus(st.Err()))
	if got.Code != errs.Internal || got.Msg != "new trouble" {
		t.Errorf("arrived as %v (%v)", got, got.Code)
	}
}

func TestOurOwnErrorsPassUnchanged(t *testing.T) {
	t.Parallel()
	e := errs.New(errs.Sealed, "sealed")
	if got := wire.FromStatus(fmt.Errorf("call: %w", e)); !errors.Is(got, e) || errs.From(got) != e {
		t.Errorf("got %v", got)
	}
	if got := errs.Of(wire.FromStatus(context.Canceled)); got != errs.Canceled {
		t.Errorf("an ended context became %v", got)
	}
}

func TestI1_TheTimeToWaitSurvivesTheWay(t *testing.T) {
	t.Parallel()
	for _, after := range []time.Duration{0, time.Nanosecond, 1500 * time.Millisecond, time.Hour} {
		got := errs.From(wire.FromStatus(wire.ToStatus(errs.New(errs.Throttled, "slower", errs.Hint("wait"), errs.RetryAfter(after))).Err()))
		if got.After != after || got.Code != errs.Throttled || got.Hint != "wait" {
			t.Errorf("%v arrived as %#v", after, got)
		}
	}
	// One that no node of ours said, and one that is no time.
	st, err := status.New(codes.ResourceExhausted, "proxy").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	if got := errs.From(wire.FromStatus(st.Err())); got.After != time.Second || got.Code != errs.Throttled {
		t.Errorf("of a proxy: %#v", got)
	}
	if st, err = status.New(codes.ResourceExhausted, "proxy").WithDetails(&errdetails.RetryInfo{RetryDelay: &durationpb.Duration{Seconds: -1 << 60}}); err != nil {
		t.Fatal(err)
	}
	if got := errs.From(wire.FromStatus(st.Err())); got.After != 0 {
		t.Errorf("no time: %#v", got)
	}
}
