package ports

import (
	"errors"
	"net"
	"os"
	"strconv"
	"testing"
)

func TestI1_AnAddressIsBelowWhatTheKernelLends(t *testing.T) {
	begin := lentFrom(os.ReadFile(rangeFile))
	for range 20 {
		addr, err := Loopback()
		if err != nil {
			t.Fatal(err)
		}
		host, p, err := net.SplitHostPort(addr)
		if err != nil {
			t.Fatal(err)
		}
		if port, err := strconv.Atoi(p); err != nil || port < first || port >= begin || host != "127.0.0.1" {
			t.Errorf("%s is not on loopback from %d to %d", addr, first, begin)
		}
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
	}
}

func TestI2_NoAddressTwice(t *testing.T) {
	seen := map[string]bool{}
	for range 200 {
		addr, err := Loopback()
		if err != nil {
			t.Fatal(err)
		}
		if seen[addr] {
			t.Fatalf("%s was given before", addr)
		}
		seen[addr] = true
	}
}

func TestARangeThatIsNotToldIsTheUsualOne(t *testing.T) {
	for _, c := range []struct {
		raw  string
		err  error
		want int
	}{
		{"32768\t60999\n", nil, 32768},
		{"49152\t65535\n", nil, 49152},
		{"", errors.New("no such file"), usual},
		{"", nil, usual},
		{"x\ty\n", nil, usual},
		{"1024\t65535\n", nil, usual}, // no room below
		{"99999\t99999\n", nil, usual},
	} {
		if got := lentFrom([]byte(c.raw), c.err); got != c.want {
			t.Errorf("lentFrom(%q, %v) = %d, want %d", c.raw, c.err, got, c.want)
		}
	}
}
