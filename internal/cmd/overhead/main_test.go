package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const twoRuns = `goos: linux
pkg: example.org/keystore/transit
BenchmarkOverhead/Wrap/Bare-4      200   1000 ns/op
BenchmarkOverhead/Wrap/Krypton-4   200   3000 ns/op  12 B/op
ok  	example.org/keystore/transit	1.2s
pkg: example.org/keystore/pkcs11
BenchmarkOverhead/aes-kwp/wrap/Bare  200   500.5 ns/op
BenchmarkOverhead/aes-kwp/wrap/Krypton  200   1001 ns/op
pkg: example.org/keystore/transit
BenchmarkOverhead/Wrap/Bare-4      200   2000 ns/op
BenchmarkOverhead/Wrap/Krypton-4   200   1500 ns/op
PASS
`

func TestRatiosAreThoseOfMedians(t *testing.T) {
	rows, err := read(strings.NewReader(twoRuns))
	if err != nil {
		t.Fatal(err)
	}
	fields := filepath.Join(t.TempDir(), "fields")
	var out strings.Builder
	if err := report(&out, rows, fields); err != nil {
		t.Fatal(err)
	}
	got := strings.Join(strings.Fields(out.String()), " ")
	if want := "keystore call bare µs krypton µs ratio pkcs11 aes-kwp/wrap 1 1 2.00 transit wrap 2 2 1.50"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if b, err := os.ReadFile(fields); err != nil || string(b) != "ratios=2\nlargest=2.00\n" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestI1_I2_WhatWasNotMeasuredIsNoResult(t *testing.T) {
	for name, in := range map[string]string{
		"nothing":      "PASS\n",
		"a failure":    twoRuns + "FAIL\texample.org/keystore/awskms\t0.1s\n",
		"half a pair":  twoRuns + "BenchmarkOverhead/Unwrap/Bare-4 200 7 ns/op\n",
		"one run less": twoRuns + "BenchmarkOverhead/Wrap/Bare-4 200 7 ns/op\n",
	} {
		rows, err := read(strings.NewReader(in))
		if err == nil {
			err = report(&strings.Builder{}, rows, "")
		}
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
