package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestCounts(t *testing.T) {
	t.Parallel()
	const head = `{"Action":"start","Package":"p"}` + "\n"
	for name, tc := range map[string]struct {
		in      string
		strict  bool
		closing string
		ok      bool
		says    string
	}{
		"I1 subtests count once each": {
			in: head + `{"Action":"run","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"A/x"}
{"Action":"pass","Package":"p","Test":"A/x"}
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"pass","Package":"p"}`,
			closing: "2 passed, 0 failed, 0 skipped", ok: true, says: "ok\tp",
		},
		"a failing test shows its output": {
			in: head + `{"Action":"output","Package":"p","Test":"A","Output":"boom\n"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"fail","Package":"p"}`,
			closing: "0 passed, 1 failed, 0 skipped", says: "boom",
		},
		"I2 a package that does not compile is one failure": {
			in: `{"ImportPath":"p","Action":"build-output","Output":"p.go:1: syntax\n"}
{"ImportPath":"p","Action":"build-fail"}
` + head + `{"Action":"fail","Package":"p","FailedBuild":"p"}`,
			closing: "0 passed, 1 failed, 0 skipped", says: "syntax",
		},
		"I2 a crash is one failure and shows the test that ran": {
			in: head + `{"Action":"output","Package":"p","Test":"A","Output":"panic: x\n"}
{"Action":"fail","Package":"p"}`,
			closing: "0 passed, 1 failed, 0 skipped", says: "panic: x",
		},
		"I2 an end without a verdict is a failure": {
			in:      head + `{"Action":"run","Package":"p","Test":"A"}`,
			closing: "0 passed, 1 failed, 0 skipped", says: "without a verdict",
		},
		"a skip shows its reason": {
			in: head + `{"Action":"output","Package":"p","Test":"A","Output":"=== RUN A\n"}
{"Action":"output","Package":"p","Test":"A","Output":"    a_test.go:3: no spin; apt-get install spin\n"}
{"Action":"output","Package":"p","Test":"A","Output":"--- SKIP: A\n"}
{"Action":"skip","Package":"p","Test":"A"}
{"Action":"pass","Package":"p"}`,
			closing: "0 passed, 0 failed, 1 skipped", ok: true, says: "apt-get install spin",
		},
		"I3 a skip fails where everything is required": {
			in: head + `{"Action":"skip","Package":"p","Test":"A"}
{"Action":"pass","Package":"p"}`,
			strict: true, closing: "0 passed, 0 failed, 1 skipped", says: "no reason given",
		},
		"I3 nothing at all is a failure": {
			in: "go: no packages\n", closing: "0 passed, 0 failed, 0 skipped", says: "go: no packages",
		},
		"a package without tests is nothing": {
			in:      head + `{"Action":"skip","Package":"p"}`,
			closing: "0 passed, 0 failed, 0 skipped", ok: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			c := newCounter(&out)
			if err := c.read(strings.NewReader(tc.in)); err != nil {
				t.Fatal(err)
			}
			if ok := c.finish(tc.strict); ok != tc.ok {
				t.Errorf("ok = %t, want %t", ok, tc.ok)
			}
			if got := c.closing(); got != tc.closing {
				t.Errorf("closing line %q, want %q", got, tc.closing)
			}
			if !strings.Contains(out.String(), tc.says) {
				t.Errorf("output %q does not say %q", out.String(), tc.says)
			}
		})
	}
}
