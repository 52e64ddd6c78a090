package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// small is what the plugin writes for one method.
const small = `{
  "swagger": "2.0", "info": {"title": "x", "version": "not set"},
  "tags": [{"name": "Crypto", "description": "d"}, {"name": "Admin"}],
  "paths": {"/v1/tenants/{tenant}:encrypt": {"post": {
    "summary": "Encrypt encrypts up to\n1 MiB. For more, take a data key.", "operationId": "Encrypt", "tags": ["Crypto"],
    "parameters": [
      {"name": "tenant", "in": "path", "required": true, "type": "string"},
      {"name": "body", "in": "body", "required": true, "schema": {"$ref": "#/definitions/CryptoEncryptBody"}}],
    "responses": {
      "200": {"description": "A successful response.", "schema": {"$ref": "#/definitions/v1EncryptResponse"}},
      "default": {"schema": {"$ref": "#/definitions/rpcStatus"}}}}}},
  "definitions": {
    "CryptoEncryptBody": {"type": "object", "properties": {"plaintext": {"type": "string", "format": "byte"}}},
    "v1EncryptResponse": {"type": "object", "properties": {
      "version": {"$ref": "#/definitions/v1Version", "description": "What it is."},
      "state": {"$ref": "#/definitions/v1State"},
      "versions": {"type": "array", "items": {"type": "object", "$ref": "#/definitions/v1Version"}},
      "request": {"$ref": "#/definitions/protobufAny", "description": "Any request."},
      "time": {"type": "string", "format": "date-time", "title": "no full stop"}}},
    "v1Version": {"type": "object", "properties": {}},
    "v1State": {"type": "string", "enum": ["A"]},
    "rpcStatus": {"type": "object"}, "protobufAny": {"type": "object"}}
}`

func smallRules() rules {
	return rules{
		parameters: map[string]obj{"path tenant": {"schema": obj{"pattern": "^a$"}, "description": "Id."}},
		properties: map[string]obj{"EncryptRequest.plaintext": {"maxLength": 7}},
		required:   map[string][]string{"EncryptRequest": {"plaintext"}},
		examples:   map[string]obj{"Encrypt example": {"request": obj{"plaintext": "AA=="}}},
	}
}

// made converts small, after a change.
func made(r rules, before, after string) (string, error) {
	var out bytes.Buffer
	err := run(strings.NewReader(strings.Replace(small, before, after, 1)), &out, r)
	return out.String(), err
}

func TestOneMethod(t *testing.T) {
	text, err := made(smallRules(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		OpenAPI    string
		Tags       []obj
		Paths      map[string]obj
		Components struct{ Schemas map[string]obj }
	}
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	ref := func(name string) obj { return obj{"$ref": "#/components/schemas/" + name} }
	header := func(name string) obj { return obj{"$ref": "#/components/headers/" + name} }
	wantPath := obj{"post": obj{
		"operationId": "Encrypt", "tags": []any{"Crypto"}, "summary": "Encrypt encrypts up to 1 MiB",
		"description": "Encrypt encrypts up to\n1 MiB. For more, take a data key.",
		"parameters":  []any{obj{"name": "tenant", "in": "path", "required": true, "description": "Id.", "schema": obj{"type": "string", "pattern": "^a$"}}},
		"requestBody": obj{"required": true, "content": obj{"application/json": obj{"schema": ref("EncryptRequest"), "example": obj{"plaintext": "AA=="}}}},
		"responses": obj{
			"200": obj{
				"description": "It was done.", "content": obj{"application/json": obj{"schema": ref("EncryptResponse")}},
				"headers": obj{
					"krypton-correlation-id": header("krypton-correlation-id"), "krypton-node": header("krypton-node"), "krypton-index": header("krypton-index"),
					"krypton-operation": header("krypton-operation"), "krypton-stale": header("krypton-stale"),
				},
			},
			"default": obj{"$ref": "#/components/responses/Error"},
		},
	}}
	if diff := cmp.Diff(wantPath, got.Paths["/v1/tenants/{tenant}:encrypt"]); diff != "" {
		t.Errorf("path (-want +got):\n%s", diff)
	}
	wantSchemas := map[string]obj{
		"EncryptRequest": {
			"type": "object", "additionalProperties": false, "required": []any{"plaintext"},
			"properties": obj{"plaintext": obj{"type": "string", "format": "byte", "maxLength": 7.0}},
		},
		"EncryptResponse": {"type": "object", "properties": obj{
			"version":  obj{"allOf": []any{ref("Version")}, "nullable": true, "description": "What it is."},
			"state":    ref("State"),
			"versions": obj{"type": "array", "items": ref("Version")},
			"request": obj{
				"type": "object", "nullable": true, "description": "Any request.", "required": []any{"@type"}, "additionalProperties": true,
				"properties": obj{"@type": obj{
					"type": "string", "description": "Full name of the message behind type.googleapis.com/; its fields stand beside it.", "example": "type.googleapis.com/krypton.v1.DeleteTenantRequest",
				}},
			},
			"time": obj{"type": "string", "format": "date-time", "nullable": true, "description": "no full stop"},
		}},
		"Version": {"type": "object", "properties": obj{}},
		"State":   {"type": "string", "enum": []any{"A"}},
	}
	delete(got.Components.Schemas, "Error") // package server's tests look at it
	if diff := cmp.Diff(wantSchemas, got.Components.Schemas); diff != "" {
		t.Errorf("schemas (-want +got):\n%s", diff)
	}
	if len(got.Tags) != 1 || got.OpenAPI != "3.0.3" {
		t.Errorf("OpenAPI %q with the tags %v", got.OpenAPI, got.Tags)
	}
}

func TestI1_TheSameInputGivesTheSameOutput(t *testing.T) {
	first, err := made(smallRules(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	for range 20 { // maps are walked in another order each time
		if again, err := made(smallRules(), "", ""); again != first || err != nil {
			t.Fatalf("%v: %s and %s", err, first, again)
		}
	}
}

func TestI2_ARuleThatFitsNothingIsAnError(t *testing.T) {
	for name, change := range map[string]func(*rules){
		"path none":         func(r *rules) { r.parameters["path none"] = obj{} },
		"EncryptRequest.no": func(r *rules) { r.properties["EncryptRequest.no"] = obj{} },
		".no":               func(r *rules) { r.properties[".no"] = obj{} },
		"NoRequest":         func(r *rules) { r.required["NoRequest"] = []string{"x"} },
		"EncryptRequest":    func(r *rules) { r.required["EncryptRequest"] = []string{"no"} },
		"No example":        func(r *rules) { r.examples["No example"] = obj{} },
	} {
		r := smallRules()
		change(&r)
		if out, err := made(r, "", ""); err == nil || !strings.HasSuffix(err.Error(), ": "+name) || out != "" {
			t.Errorf("%s: %v, and %d bytes are written", name, err, len(out))
		}
	}
}

func TestInputOfAnotherShapeIsAnError(t *testing.T) {
	for name, c := range map[string][2]string{
		"no JSON":        {"{", "x"},
		"another format": {`"2.0"`, `"3.0"`},
		"no comment":     {`"summary": "Encrypt encrypts up to\n1 MiB. For more, take a data key.", `, ""},
		"two tags":       {`"tags": ["Crypto"]`, `"tags": ["Crypto", "Seal"]`},
		"unknown name":   {`"v1State": {`, `"v2State": {`},
		"two of a name":  {`"v1State": {`, `"v1EncryptRequest": {}, "v1State": {`},
		"dangling":       {`"$ref": "#/definitions/v1State"`, `"$ref": "#/definitions/v1None"`},
		"no answer":      {`"schema": {"$ref": "#/definitions/v1EncryptResponse"}`, `"x": 1`},
	} {
		if out, err := made(smallRules(), c[0], c[1]); err == nil || out != "" {
			t.Errorf("%s: no error, and %d bytes are written", name, len(out))
		}
	}
}
