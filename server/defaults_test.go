package server_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/config"
	"github.com/openkcm/krypton-cluster/server"
)

// TestDefaultsOfTheServerAreThoseOfTheConfiguration so that a server which is not told
// limits has those that docs/config.md states.
func TestDefaultsOfTheServerAreThoseOfTheConfiguration(t *testing.T) {
	t.Parallel()
	c := config.Default().Limits
	want := server.Limits{
		CallerConnections: c.CallerConnections, TenantConnections: c.TenantConnections, CallerConcurrent: c.CallerConcurrent, TenantConcurrent: c.TenantConcurrent,
		CallerRate: c.CallerRate, TenantRate: c.TenantRate, CallerReads: c.CallerReads, CallerChanges: c.CallerChanges,
		CallerProtects: server.DefaultLimits().CallerProtects,
	}
	if diff := cmp.Diff(want, server.DefaultLimits()); diff != "" {
		t.Error(diff)
	}
}
