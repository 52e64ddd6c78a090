package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// run feeds the table with events, written PACKAGE TEST ACTION [OUTPUT].
func run(t *testing.T, events ...string) (text, fields string, ok bool) {
	t.Helper()
	var in, out strings.Builder
	for _, e := range events {
		f := strings.SplitN(e, " ", 4)
		if f[1] == "-" {
			f[1] = ""
		}
		ev := event{Package: "example.org/keystore/" + f[0], Test: f[1], Action: f[2]}
		if len(f) == 4 {
			ev.Output = f[3]
		}
		raw, err := json.Marshal(ev)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&in, "%s\n", raw)
	}
	tab := newTable(&out)
	if err := tab.read(strings.NewReader(in.String())); err != nil {
		t.Fatal(err)
	}
	ok = tab.finish()
	return out.String(), tab.fields(), ok
}

const (
	hsm   = `    a_test.go:1: CONFORMANCE {"provider":"pkcs11","component":"SoftHSM","version":"2.6.1","origin":"real","cases":30,"na":[{"case":"c1","ability":"x","reason":"r"},{"case":"c2","ability":"x","reason":"r"}]}` + "\n"
	other = `    a_test.go:1: CONFORMANCE {"provider":"pkcs11","component":"openCryptoki","version":"3.8.1","origin":"real","cases":20,"na":null}` + "\n"
	files = `    b_test.go:1: CONFORMANCE {"provider":"local","component":"files","version":"1","origin":"real","cases":27,"na":null}` + "\n"
)

func TestTable(t *testing.T) {
	text, fields, ok := run(t,
		"pkcs11 TestConformance output "+hsm[:100], "pkcs11 TestConformance/c3 pass", "pkcs11 TestConformance output "+hsm[100:], "pkcs11 TestConformance pass",
		"pkcs11 TestConformanceOther output "+other, "pkcs11 TestConformanceOther pass", "pkcs11 - pass",
		"local TestConformance output "+files, "local TestConformance pass", "local - pass",
		"blob - output ok  no tests to run\n", "blob - pass",
	)
	if !ok || fields != "providers=2\ncases=77\nna=2\n" {
		t.Errorf("%v, %q", ok, fields)
	}
	want := `PROVIDER  COMPONENT           ORIGIN  CASES  N/A  RESULT
local     files 1             real    27     0    pass
pkcs11    SoftHSM 2.6.1       real    30     2    pass
pkcs11    openCryptoki 3.8.1  real    20     0    pass

pkcs11, SoftHSM: n/a: it cannot x: r (cases: 2)
`
	if text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
}

func TestI1_I2_WhatIsNoSuccess(t *testing.T) {
	good := []string{"local TestConformance output " + files, "local TestConformance pass", "local - pass"}
	for name, c := range map[string]struct {
		events []string
		text   string
	}{
		"a case fails":      {append(good[:1:1], "local TestConformance/c fail", "local TestConformance fail", "local - fail"), "FAIL keystore/local TestConformance (1 cases failed)"},
		"no verdict":        {good[:1], "FAIL keystore/local TestConformance"},
		"no report":         {append(good[:3:3], "aws TestConformance pass", "aws - pass"), "FAIL keystore/aws TestConformance"},
		"does not compile":  {append(good[:3:3], "aws - output undefined: x\n", "aws - fail"), "undefined: x"},
		"dies":              {append(good[:3:3], "aws TestConformance output panic: x\n", "aws - fail"), "panic: x"},
		"nothing ran":       {nil, "PROVIDER"},
		"all were not here": {[]string{"hsm TestConformance output     x_test.go:3: SoftHSM is not here\n", "hsm TestConformance skip", "hsm - pass"}, "hsm: not run: SoftHSM is not here"},
	} {
		t.Run(name, func(t *testing.T) {
			if text, _, ok := run(t, c.events...); ok || !strings.Contains(text, c.text) {
				t.Errorf("%v\n%s", ok, text)
			}
		})
	}
}

func TestI3_AMissingComponentIsNamedAndNotCounted(t *testing.T) {
	text, fields, ok := run(t,
		"local TestConformance output "+files, "local TestConformance pass", "local - pass",
		"hsm TestConformance output     x_test.go:3: SoftHSM is not here: no module; install it with: apt-get install softhsm2\n", "hsm TestConformance skip", "hsm - pass",
	)
	if !ok || fields != "providers=1\ncases=27\nna=0\n" || !strings.Contains(text, "keystore/hsm: not run: SoftHSM is not here: no module; install it with: apt-get install softhsm2\n") {
		t.Errorf("%v, %q\n%s", ok, fields, text)
	}
}

func TestTextThatIsNoEventIsPassedOn(t *testing.T) {
	var out strings.Builder
	tab := newTable(&out)
	if err := tab.read(strings.NewReader("go: downloading x\n{\"Action\":\"build-output\",\"ImportPath\":\"x\",\"Output\":\"y.go:1: bad\\n\"}\n")); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != "go: downloading x\ny.go:1: bad\n" {
		t.Errorf("%q", got)
	}
}
