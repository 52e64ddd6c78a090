package errs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"google.golang.org/genproto/googleapis/rpc/code"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

var exits = []int{
	errs.ExitInternal, errs.ExitUsage, errs.ExitNotFound, errs.ExitDenied, errs.ExitState,
	errs.ExitUnavailable, errs.ExitSealed, errs.ExitIntegrity, errs.ExitPending, errs.ExitInterrupted,
}

func TestI1_EveryCodeHasOneRow(t *testing.T) {
	t.Parallel()
	name := regexp.MustCompile(`^[A-Z][A-Z0-9]*(_[A-Z0-9]+)*$`)
	seen := map[string]errs.Code{}
	for _, c := range errs.All() {
		row := c.Row()
		if !name.MatchString(row.Name) {
			t.Errorf("code %d: name %q is not UPPER_SNAKE", c, row.Name)
		}
		if other, dup := seen[row.Name]; dup {
			t.Errorf("codes %d and %d share the name %s", other, c, row.Name)
		}
		seen[row.Name] = c
		if row.GRPC == code.Code_OK || code.Code_name[int32(row.GRPC)] == "" {
			t.Errorf("%s: gRPC code %d is not an error code", row.Name, row.GRPC)
		}
		// 499 has no name in net/http; it is what proxies log for a caller who left.
		if row.HTTP < 400 || row.HTTP > 599 || (http.StatusText(row.HTTP) == "" && row.HTTP != 499) {
			t.Errorf("%s: HTTP status %d is not an error status", row.Name, row.HTTP)
		}
		if !slices.Contains(exits, row.Exit) {
			t.Errorf("%s: exit status %d is not in docs/contract.md", row.Name, row.Exit)
		}
		if row.Retry == errs.RetryUnspecified || row.Retry.String() == "unspecified" {
			t.Errorf("%s: no retry class", row.Name)
		}
		if row.Outcome == errs.OutcomeUnspecified || row.Outcome == errs.OutcomeOK || row.Outcome.String() == "unspecified" {
			t.Errorf("%s: no audit outcome", row.Name)
		}
		if !strings.HasSuffix(row.Meaning, ".") || strings.Count(row.Meaning, "|") > 0 {
			t.Errorf("%s: the meaning must be a sentence that fits a table: %q", row.Name, row.Meaning)
		}
	}
	if len(seen) != len(errs.All()) || len(seen) == 0 {
		t.Errorf("%d names for %d codes", len(seen), len(errs.All()))
	}
}

// A caller who retries an act of unknown outcome elsewhere could act twice;
// a caller told to stop after a mere hiccup would fail for nothing.
func TestRetryClassesFitTheMeaning(t *testing.T) {
	t.Parallel()
	for _, c := range errs.All() {
		row := c.Row()
		if row.Outcome == errs.OutcomeDenied && row.Retry != errs.RetryNever {
			t.Errorf("%s is a denial and is retried %s", row.Name, row.Retry)
		}
		if row.GRPC == code.Code_UNAVAILABLE && row.Retry == errs.RetryNever {
			t.Errorf("%s is UNAVAILABLE and never retried", row.Name)
		}
		if row.Outcome == errs.OutcomeUnknown && (row.Retry == errs.RetryOtherNode || row.Retry == errs.RetrySameNode) {
			t.Errorf("%s has an unknown outcome and is retried at once", row.Name)
		}
	}
}

func TestI1_NamesFindTheirCode(t *testing.T) {
	t.Parallel()
	for _, c := range errs.All() {
		if got, ok := errs.ByName(c.String()); !ok || got != c {
			t.Errorf("ByName(%s) = %v, %t", c, got, ok)
		}
	}
	for _, unknown := range []string{"", "OK", "internal", "FROM_THE_FUTURE"} {
		if got, ok := errs.ByName(unknown); ok || got != errs.Internal {
			t.Errorf("ByName(%q) = %v, %t; want Internal, false", unknown, got, ok)
		}
	}
}

func TestInvalidCodesAreInternal(t *testing.T) {
	t.Parallel()
	last := errs.All()[len(errs.All())-1]
	for _, c := range []errs.Code{-1, errs.Unspecified, last + 1, 1 << 30} {
		if c.Valid() {
			t.Errorf("code %d is valid", c)
		}
		if c.Row() != errs.Internal.Row() {
			t.Errorf("code %d has a row of its own", c)
		}
		if got := errs.New(c, "x").Code; got != errs.Internal {
			t.Errorf("New(%d) made code %v", c, got)
		}
	}
	if got := errs.Unspecified.String(); got != "OK" {
		t.Errorf("Unspecified is called %q", got)
	}
}

func TestI3_AnErrorWithoutCodeShowsNothing(t *testing.T) {
	t.Parallel()
	secret := errors.New("open /var/lib/x: canary")
	e := errs.From(fmt.Errorf("wrap: %w", secret))
	if e.Code != errs.Internal || strings.Contains(e.Error(), "canary") {
		t.Errorf("From = %v (%v)", e, e.Code)
	}
	if !errors.Is(e, secret) {
		t.Error("the cause is lost for the log")
	}
	e = errs.New(errs.Denied, "not yours", errs.Cause(secret))
	if strings.Contains(e.Error(), "canary") {
		t.Errorf("the cause shows in %q", e.Error())
	}
}

func TestEndedContextsHaveTheirOwnCodes(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]errs.Code{
		context.DeadlineExceeded: errs.DeadlineExceeded,
		context.Canceled:         errs.Canceled,
	} {
		wrapped := fmt.Errorf("call: %w", err)
		if !errs.Is(wrapped, want) {
			t.Errorf("%v is %v, want %v", err, errs.Of(wrapped), want)
		}
		if !errors.Is(errs.From(wrapped), err) {
			t.Errorf("From(%v) lost its cause", err)
		}
	}
}

// The first code wins over an ended context that caused it: the code says more.
func TestACodeWinsOverItsCause(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("wrap: %w", errs.New(errs.L1Unavailable, "no answer", errs.Cause(context.DeadlineExceeded)))
	if got := errs.Of(err); got != errs.L1Unavailable {
		t.Errorf("Of = %v", got)
	}
}

func TestI4_EveryFailureToOpenIsOneAnswer(t *testing.T) {
	t.Parallel()
	want := errs.DoesNotOpen(nil)
	for _, cause := range []error{errors.New("wrong tag"), io.ErrUnexpectedEOF, errs.New(errs.NotFound, "no such version")} {
		got := errs.DoesNotOpen(cause)
		if got.Code != errs.Integrity || got.Error() != want.Error() || got.Hint != want.Hint {
			t.Errorf("cause %v shows: %v", cause, got)
		}
		if errs.Of(got) != errs.Integrity {
			t.Errorf("cause %v changes the code to %v", cause, errs.Of(got))
		}
		if !errors.Is(got, cause) {
			t.Errorf("cause %v is lost for the audit record", cause)
		}
	}
}

func TestIsComparesCodesOnly(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("call: %w", errs.New(errs.Sealed, "node n1 is sealed", errs.Hint("krypton unseal")))
	if !errors.Is(err, errs.New(errs.Sealed, "")) {
		t.Error("same code does not match")
	}
	if errors.Is(err, errs.New(errs.Held, "node n1 is sealed")) {
		t.Error("another code matches")
	}
	if errs.Is(nil, errs.Unspecified) || errs.Of(nil) != errs.Unspecified || errs.From(nil) != nil {
		t.Error("nil is an error")
	}
}

func TestWithLeavesTheOriginal(t *testing.T) {
	t.Parallel()
	base := errs.Newf(errs.NotFound, "tenant %s does not exist", "acme")
	with := base.With(errs.Hint("list with %s", "krypton tenant list"), errs.Cause(io.EOF))
	if base.Hint != "" || errors.Unwrap(base) != nil {
		t.Errorf("With changed the original: %#v", base)
	}
	if got, want := with.Error(), "tenant acme does not exist; list with krypton tenant list"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !errors.Is(with, io.EOF) {
		t.Error("With lost the cause")
	}
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	for want, err := range map[errs.Outcome]error{
		errs.OutcomeOK:      nil,
		errs.OutcomeDenied:  errs.New(errs.L1Denied, "x"),
		errs.OutcomeRefused: errs.DoesNotOpen(nil),
		errs.OutcomeFailed:  io.EOF,
		errs.OutcomeUnknown: context.DeadlineExceeded,
		errs.OutcomePending: errs.New(errs.ApprovalPending, "x"),
	} {
		if got := errs.OutcomeOf(err); got != want {
			t.Errorf("OutcomeOf(%v) = %v, want %v", err, got, want)
		}
	}
}

// Messages of this package are read by people: lower case, no full stop.
func TestFixedMessagesFollowTheStyle(t *testing.T) {
	t.Parallel()
	for _, err := range []error{io.EOF, context.Canceled, context.DeadlineExceeded, errs.DoesNotOpen(nil)} {
		msg := errs.From(err).Msg
		if r := []rune(msg); len(r) == 0 || unicode.IsUpper(r[0]) || r[len(r)-1] == '.' || strings.Contains(msg, "failed to") {
			t.Errorf("message %q", msg)
		}
	}
}
