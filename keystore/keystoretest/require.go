package keystoretest

import (
	"os"
	"testing"
)

// Require ends a test whose component is not on this machine. err is why it is
// not there, nil if it is; install is the command that brings it. Where every
// component has to be (KRYPTON_REQUIRE=all) the test fails, else it is skipped
// with one line that names the command.
func Require(tb testing.TB, component, install string, err error) {
	tb.Helper()
	if err == nil {
		return
	}
	if os.Getenv("KRYPTON_REQUIRE") == "all" {
		tb.Fatalf("%s is required and not here: %v; install it with: %s", component, err, install)
	}
	tb.Skipf("%s is not here: %v; install it with: %s", component, err, install)
}
