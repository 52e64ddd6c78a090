package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

func info() obj {
	return obj{
		"title": "Krypton", "version": "v1",
		"description": strings.Join([]string{
			"The API of a Krypton node over HTTP/JSON, krypton.v1: the services that gRPC has, with the same rules. Every node answers every path.",
			"**Who calls** is said by the TLS connection: mutual TLS 1.3, with a certificate from `krypton operator cert issue` or `POST /v1/access:issueCertificate`, and the CA of the cluster to verify the node. " +
				"There are no tokens, passwords or API keys, and OpenAPI 3.0 has no word for that, so no securityScheme stands here: give the certificate, its key and the CA to the HTTP library.",
			"**Bytes** are base64 with padding. Fields without a value are written too: as 0, \"\", false, [] or null. 64-bit numbers are strings.",
			"**Requests**: parameters of a POST stand in its body, which is a JSON object, `{}` if there is nothing to say; those of GET and DELETE stand in the URL. " +
				"What a method would not read is refused: unknown fields and parameters, a body of a GET or DELETE. A body has at most 2 MiB. Of the headers only `traceparent` and `Prefer: respond-async` are read: with the latter a change is answered once it is committed, with 202 unless it is complete already.",
			"**Errors** have one body, see the schema Error: look at `reason`, which stays, not at `message`; `retry` says whether and where to try again.",
			"Later releases of v1 may add fields, paths and reasons.",
		}, "\n\n"),
		"license": obj{"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
	}
}

func servers() []obj {
	return []obj{{
		"url": "https://{node}", "description": "Any node; mutual TLS 1.3.",
		"variables": obj{"node": obj{"default": "127.0.0.1:8401", "description": "host:port of listen.rest of a node."}},
	}}
}

func headers() obj {
	sometimes := func(description, example string) obj {
		return obj{"description": description, "schema": obj{"type": "string"}, "example": example}
	}
	text := func(description, example string) obj {
		h := sometimes(description, example)
		h["required"] = true
		return h
	}
	return obj{
		"krypton-correlation-id": text("Names the call in the audit trail and in logs. Made from the trace id of `traceparent`, if that was sent.", "0af76519-16cd-43dd-8448-eb211c80319c"),
		"krypton-node":           text("Id of the node that answers.", "0f8b4a3c2d1e4f5a6b7c8d9e0f1a2b3c"),
		"krypton-index":          text("Log index up to which the node had applied changes when it answered.", "42"),
		"krypton-operation":      sometimes("Name of the change that was made, for `GET /v1/operations/{id}`; only of changes. With `Prefer: respond-async` a change is answered once it is committed, and this tells when it is complete.", "operations/0190a3c4-1f2e-7c3d-9a4b-5c6d7e8f9a0b"),
		"krypton-stale":          sometimes("`1`: the node had no serving lease when it answered this read, so another node may know better. Absent otherwise.", "1"),
	}
}

func answerHeaders() obj {
	out := obj{}
	for name := range headers() {
		out[name] = obj{"$ref": "#/components/headers/" + name}
	}
	return out
}

// noOperations take a request id and are not committed as an operation: what they do
// is not a change that other nodes follow.
var noOperations = []string{"IssueCertificate", "TransferLeadership"}

// accepted is the answer of a change that the caller did not wait for.
func accepted(body obj) obj {
	h := answerHeaders()
	delete(h, "krypton-stale")
	h["Preference-Applied"] = obj{"description": "The preference by which it was not waited for.", "schema": obj{"type": "string"}, "example": "respond-async"}
	h["Location"] = obj{"description": "Where it is told how far the change is: the path of `krypton-operation`.", "schema": obj{"type": "string"}, "example": "/v1/operations/0190a3c4-1f2e-7c3d-9a4b-5c6d7e8f9a0b"}
	return obj{
		"description": "Only with `Prefer: respond-async`: it is committed and stays, and for a moment other nodes may act on the state before it. The operation tells when it is complete. The body is that of 200.",
		"headers":     h,
		"content":     content(body, nil),
	}
}

// errorResponse is every answer but 200 and 202. A refusal that does not reach a handler has no index.
func errorResponse() obj {
	e := errs.DoesNotOpen(nil)
	h := answerHeaders()
	delete(h, "krypton-index")
	delete(h, "krypton-stale")
	return obj{
		"description": "It was not done; with INDETERMINATE it may have been. The status is `code` of the body.",
		"headers":     h,
		"content": content(obj{"$ref": "#/components/schemas/Error"}, obj{"error": obj{
			"code": e.Code.Row().HTTP, "reason": e.Code.String(), "message": e.Msg, "hint": e.Hint, "retry": e.Code.Row().Retry.String(),
		}}),
	}
}

// anySchema is a field that holds a message of any type of the API.
func anySchema() obj {
	return obj{
		"type": "object", "required": []string{"@type"}, "additionalProperties": true,
		"properties": obj{"@type": obj{
			"type": "string", "description": "Full name of the message behind type.googleapis.com/; its fields stand beside it.", "example": "type.googleapis.com/krypton.v1.DeleteTenantRequest",
		}},
	}
}

// errorSchema is the body of every error, with the codes of the table.
func errorSchema() obj {
	var reasons, lines []string
	var statuses []int
	for _, c := range errs.All() {
		row := c.Row()
		reasons = append(reasons, row.Name)
		statuses = append(statuses, row.HTTP)
		lines = append(lines, fmt.Sprintf("| %s | %d | %s | %s |", row.Name, row.HTTP, row.Retry, row.Meaning))
	}
	slices.Sort(statuses)
	table := "| reason | HTTP status | retry | meaning |\n| :--- | ---: | :--- | :--- |\n" + strings.Join(lines, "\n")
	var classes []string
	for _, r := range []errs.Retry{errs.RetryNever, errs.RetrySameNode, errs.RetryOtherNode, errs.RetryAfterDelay} {
		classes = append(classes, r.String())
	}
	detail := obj{
		"type": "object", "required": []string{"code", "message", "reason", "retry"},
		"properties": obj{
			"code":    obj{"type": "integer", "format": "int32", "enum": slices.Compact(statuses), "description": "The HTTP status."},
			"reason":  obj{"type": "string", "enum": reasons, "description": "What went wrong, for programs. A reason that is not listed comes from a later release: go by `retry`.\n\n" + table},
			"message": obj{"type": "string", "description": "What went wrong, for people. It may change, and never has what the caller sent."},
			"hint":    obj{"type": "string", "description": "What to do next. Absent if there is nothing to say."},
			"retry": obj{"type": "string", "enum": classes, "description": "never: the same call fails again. same-node: read again what the change is based on, then try at once. " +
				"other-node: at once, on another node. after-delay: later, on any node, with backoff. A change is tried again with the same requestId."},
		},
	}
	return obj{"type": "object", "description": "The body of every answer that is neither 200 nor 202.", "required": []string{"error"}, "properties": obj{"error": detail}}
}

// Pieces of the examples. What is said to be encrypted is only of the right form.
const (
	exampleVersion = "tenants/acme/services/payments/versions/1"
	exampleSealed  = "S1JZUFRPTi1FWEFNUExFLU5PVC1BLVJFQUwtQ0lQSEVSVEVYVA=="
	exampleKey     = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
)

func exampleContext() []obj { return []obj{{"key": "purpose", "value": "backup"}} }

// examples are requests and answers of the data operations, by operation.
var examples = map[string]obj{
	"GenerateDataKey example": {
		"request":  obj{"resource": "file-17", "encryptionContext": exampleContext(), "length": 32},
		"response": obj{"plaintext": exampleKey, "wrapped": exampleSealed, "keyVersion": exampleVersion},
	},
	"UnwrapDataKey example": {
		"request":  obj{"resource": "file-17", "encryptionContext": exampleContext(), "wrapped": exampleSealed},
		"response": obj{"plaintext": exampleKey, "keyVersion": exampleVersion},
	},
	"RewrapDataKey example": {
		"request":  obj{"resource": "file-17", "encryptionContext": exampleContext(), "wrapped": exampleSealed},
		"response": obj{"wrapped": exampleSealed, "keyVersion": exampleVersion, "previousKeyVersion": exampleVersion},
	},
	"Encrypt example": {
		"request":  obj{"resource": "card-4711", "encryptionContext": exampleContext(), "plaintext": "aGVsbG8="},
		"response": obj{"ciphertext": exampleSealed, "keyVersion": exampleVersion},
	},
	"Decrypt example": {
		"request":  obj{"resource": "card-4711", "encryptionContext": exampleContext(), "ciphertext": exampleSealed},
		"response": obj{"plaintext": "aGVsbG8=", "keyVersion": exampleVersion},
	},
}

func (c converter) example(op, side string) any {
	key := op + " example"
	both, ok := c.rules.examples[key]
	if !ok {
		return nil
	}
	c.used[key] = true
	return both[side]
}
