package auth_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/auth"
)

// TestACredentialIsNotPrinted by any verb, in any struct, in any log.
func TestACredentialIsNotPrinted(t *testing.T) {
	t.Parallel()
	const token = "eyJhbGciOiJFUzI1NiJ9.e30.c2ln"
	c := auth.TokenShown(token)
	type hidden struct{ shown auth.Credential }
	type open struct{ Shown auth.Credential }
	var log bytes.Buffer
	l := slog.New(slog.NewTextHandler(&log, nil))
	for _, v := range []any{c, &c, hidden{c}, &hidden{c}, []hidden{{c}}, open{c}, map[string]open{"a": {c}}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			if got := fmt.Sprintf(verb, v); strings.Contains(got, token) || strings.Contains(got, fmt.Sprintf("%x", token)) {
				t.Errorf("%s of %T shows the token", verb, v)
			}
		}
		l.InfoContext(t.Context(), "x", slog.Any("v", v))
	}
	if strings.Contains(log.String(), token) {
		t.Error("the log shows the token")
	}
	if out, err := json.Marshal(open{c}); err == nil {
		t.Errorf("a credential was encoded: %s", out)
	}
	if c.Token() != token || c.Certificate() != nil || c.IsZero() || auth.CertificateShown([]byte("x")).IsZero() || !(auth.Credential{}).IsZero() {
		t.Error("a credential is not what was shown")
	}
}
