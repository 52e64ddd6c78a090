package situationtest_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

// recorder is a test that may fail without failing this one.
type recorder struct {
	testing.TB

	failed bool
}

func (r *recorder) Helper()               {}
func (r *recorder) Errorf(string, ...any) { r.failed = true }
func (r *recorder) Error(...any)          { r.failed = true }

// some returns a row with an error, and an error that is what it says.
func some(t *testing.T) (situation.Situation, *errs.Error) {
	t.Helper()
	for _, s := range situation.All() {
		if s.Code != errs.Unspecified && s.Code != errs.Unimplemented && !strings.Contains(s.Says+s.Next, "{") { // a placeholder at the end would take anything

			return s, errs.New(s.Code, s.Says, errs.Hint("%s", s.Next))
		}
	}
	t.Fatal("the table has no error")
	return situation.Situation{}, nil
}

func TestI1_EveryDifferenceIsSeen(t *testing.T) {
	t.Parallel()
	s, e := some(t)
	for name, err := range map[string]error{
		"none":    nil,
		"code":    errs.New(errs.Unimplemented, e.Msg, errs.Hint("%s", e.Hint)),
		"message": errs.New(e.Code, e.Msg+"!", errs.Hint("%s", e.Hint)),
		"hint":    errs.New(e.Code, e.Msg, errs.Hint("pray")),
		"foreign": errors.New(e.Msg),
	} {
		r := &recorder{TB: t}
		if situationtest.Error(r, s.ID, err); !r.failed {
			t.Errorf("%s: not seen", name)
		}
	}
	r := &recorder{TB: t}
	if situationtest.Error(r, s.ID, e); r.failed {
		t.Error("the row itself fails")
	}
	stderr := fmt.Sprintf("krypton: %s (%s)\n", e.Error(), e.Code)
	if bad := situationtest.ExitDiff(s.ID, s.Code.Row().Exit, "progress\n"+stderr); bad != nil {
		t.Errorf("the line itself fails: %q", bad)
	}
	for name, bad := range map[string][]string{
		"status": situationtest.ExitDiff(s.ID, 99, stderr),
		"two":    situationtest.ExitDiff(s.ID, s.Code.Row().Exit, stderr+stderr),
		"none":   situationtest.ExitDiff(s.ID, s.Code.Row().Exit, ""),
		"id":     situationtest.ExitDiff("no/such", s.Code.Row().Exit, stderr),
	} {
		if len(bad) == 0 {
			t.Errorf("%s: not seen", name)
		}
	}
}

func TestI2_SecretsAndLongLinesAreSeen(t *testing.T) {
	t.Parallel()
	s, e := some(t)
	secret := []byte(e.Msg[:8])
	r := &recorder{TB: t}
	if situationtest.Error(r, s.ID, e, secret); !r.failed {
		t.Error("a secret in the message is not seen")
	}
}
