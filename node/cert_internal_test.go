package node

import (
	"slices"
	"testing"
)

func TestANodesCertificateNamesWhereItIsReached(t *testing.T) {
	names, ips := hosts("a.example:1", "127.0.0.1:2", "[::1]:3", "10.0.0.1:4", "a.example:5", "nonsense", "")
	if !slices.Equal(names, []string{"a.example", "localhost"}) || len(ips) != 3 {
		t.Errorf("%v, %v", names, ips)
	}
}
