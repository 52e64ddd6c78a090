package main

import (
	"strings"
	"testing"
)

const head = "type: google.api.Service\nconfig_version: 3\nhttp:\n  rules:\n"

func TestI1_TheOutputDependsOnTheRulesAlone(t *testing.T) {
	t.Parallel()
	const a, b = "    - selector: p.v1.S.A\n      get: /v1/{name=x/*}:do\n", "    - selector: p.v1.S.B\n      post: /v1/b\n      body: \"*\"\n      additional_bindings:\n        - post: /v1/c\n          body: \"*\"\n"
	var one, other strings.Builder
	if err := run(strings.NewReader(head+a+b), &one); err != nil {
		t.Fatal(err)
	}
	if err := run(strings.NewReader(head+b+a), &other); err != nil || one.String() != other.String() {
		t.Errorf("the order of the rules is seen: %v\n%s\n%s", err, &one, &other)
	}
	for _, want := range []string{
		`"/p.v1.S/A": {`, `{verb: "GET", prefix: "/v1/", field: "name", pattern: "x/*", suffix: ":do"},`,
		`{verb: "POST", prefix: "/v1/b", field: "", pattern: "", suffix: ""},`, `prefix: "/v1/c"`,
	} {
		if !strings.Contains(one.String(), want) {
			t.Errorf("no %s in\n%s", want, &one)
		}
	}
}

func TestI2_WhatCannotBeExpressedIsRefused(t *testing.T) {
	t.Parallel()
	for name, rule := range map[string]string{
		"no verb":             "    - selector: p.S.A\n",
		"two verbs":           "    - selector: p.S.A\n      get: /a\n      delete: /a\n",
		"an unknown verb":     "    - selector: p.S.A\n      patch: /a\n",
		"two names":           "    - selector: p.S.A\n      get: /v1/{a=x/*}/{b=y/*}\n",
		"a name of any depth": "    - selector: p.S.A\n      get: /v1/{a=x/**}\n",
		"a POST without body": "    - selector: p.S.A\n      post: /a\n",
		"a GET with body":     "    - selector: p.S.A\n      get: /a\n      body: \"*\"\n",
		"a body of one field": "    - selector: p.S.A\n      post: /a\n      body: \"x\"\n",
		"no method":           "    - selector: A\n      get: /a\n",
		"an unknown setting":  "    - selector: p.S.A\n      get: /a\n      response_body: x\n",
	} {
		var out strings.Builder
		if err := run(strings.NewReader(head+rule), &out); err == nil {
			t.Errorf("%s is taken:\n%s", name, &out)
		}
	}
}
