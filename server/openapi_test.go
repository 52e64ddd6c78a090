package server_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/server"
	"github.com/openkcm/krypton-cluster/server/gateway"
	"github.com/openkcm/krypton-cluster/server/gateway/openapi"
)

// description reads the OpenAPI file and checks that it is one, examples included.
func description(t testing.TB) *openapi3.T {
	t.Helper()
	loader := openapi3.NewLoader()
	doc, err := loader.LoadFromData(openapi.Document)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context(), openapi3.EnableExamplesValidation()); err != nil {
		t.Fatal(err)
	}
	return doc
}

// operations are those of the file by their ids. A second form of a method has
// the same schemas.
func operations(doc *openapi3.T) map[string]*openapi3.Operation {
	out := map[string]*openapi3.Operation{}
	for _, item := range doc.Paths.Map() {
		for _, op := range item.Operations() {
			out[op.OperationID] = op
		}
	}
	return out
}

func jsonSchema(c openapi3.Content) *openapi3.Schema { return c.Get("application/json").Schema.Value }

// fits checks an instance against a schema of the file.
func fits(schema *openapi3.Schema, raw []byte) error {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return err
	}
	if err := schema.VisitJSON(v, openapi3.MultiErrors()); err != nil {
		return err
	}
	return complete(schema, v, "")
}

// complete finds fields that only one of schema and instance has: the gateway
// writes every field, and the file lists every field.
func complete(schema *openapi3.Schema, v any, at string) error {
	if len(schema.AllOf) == 1 {
		schema = schema.AllOf[0].Value
	}
	switch v := v.(type) {
	case []any:
		for i, e := range v {
			if err := complete(schema.Items.Value, e, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
	case map[string]any:
		for name, e := range v {
			p, ok := schema.Properties[name]
			if !ok && schema.AdditionalProperties.Has != nil && *schema.AdditionalProperties.Has {
				continue // of a message of any type: which one, @type says
			}
			if !ok {
				return fmt.Errorf("%s.%s is not in the file", at, name)
			}
			if err := complete(p.Value, e, at+"."+name); err != nil {
				return err
			}
		}
		for name := range schema.Properties {
			if _, ok := v[name]; !ok && name != "hint" && !otherKind(v, name) { // what may be absent
				return fmt.Errorf("%s.%s is in the file and not in the answer", at, name)
			}
		}
	}
	return nil
}

// otherKind reports whether an issuer lacks a field because it is of the other kind,
// or, deleted by an earlier answer to the same request, of none any more.
func otherKind(v map[string]any, name string) bool {
	other, ok := map[string]string{"x509": "jwt", "jwt": "x509"}[name]
	return ok && (v[other] != nil || v["etag"] == "")
}

// conforms checks one call of the story against the file: the answer, and the
// request if the node took it.
func conforms(op *openapi3.Operation, req *http.Request, a httpAnswer) error {
	answer, kind := op.Responses.Default(), "an error"
	switch a.status {
	case http.StatusOK:
		if answer, kind = op.Responses.Status(http.StatusOK), "an answer"; a.header.Get("krypton-operation") != "" && op.Responses.Status(http.StatusAccepted) == nil {
			return errors.New("the file does not say that it may be answered before it is complete")
		}
	case http.StatusAccepted:
		if answer, kind = op.Responses.Status(http.StatusAccepted), "an answer before it is complete"; answer == nil {
			return errors.New("the file knows no answer before it is complete")
		}
	}
	if err := fits(jsonSchema(answer.Value.Content), a.body); err != nil {
		return fmt.Errorf("%s does not fit the file: %w: %s", kind, err, a.body)
	}
	for name, h := range answer.Value.Headers {
		if h.Value.Required && a.header.Get(name) == "" {
			return fmt.Errorf("%s has no header %s", kind, name)
		}
	}
	if a.status != http.StatusOK && a.status != http.StatusAccepted {
		return nil
	}
	for name := range a.header {
		if name = strings.ToLower(name); strings.HasPrefix(name, "krypton-") && answer.Value.Headers[name] == nil {
			return fmt.Errorf("%s has a header %s, which is not in the file", kind, name)
		}
	}
	values := req.URL.Query()
	for _, p := range op.Parameters {
		if p.Value.In != "query" || !values.Has(p.Value.Name) {
			continue
		}
		raw := []byte(values.Get(p.Value.Name))
		if p.Value.Schema.Value.Type.Is("string") {
			raw, _ = json.Marshal(values.Get(p.Value.Name))
		}
		var v any
		if err := errors.Join(json.Unmarshal(raw, &v), p.Value.Schema.Value.VisitJSON(v)); err != nil {
			return fmt.Errorf("a parameter that the node takes does not fit the file: %w", err)
		}
	}
	if op.RequestBody == nil {
		return nil
	}
	body, err := req.GetBody()
	if err != nil {
		return err
	}
	raw, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return err
	}
	if err := jsonSchema(op.RequestBody.Value.Content).VisitJSON(v, openapi3.MultiErrors()); err != nil {
		return fmt.Errorf("a request that the node takes does not fit the file: %w", err)
	}
	return nil
}

// TestOpenAPIListsExactlyTheTable holds that whoever reads the OpenAPI file sees
// every path of http.yaml and no other.
func TestOpenAPIListsExactlyTheTable(t *testing.T) {
	t.Parallel()
	var listed []string
	for path, item := range description(t).Paths.Map() {
		for verb, op := range item.Operations() {
			at := path
			for _, p := range op.Parameters {
				if p.Value.In == "path" { // one per segment, so that a generated client has tenant and service and not one "name"
					at = strings.Replace(at, "{"+p.Value.Name+"}", "*", 1)
				}
			}
			listed = append(listed, verb+" "+at)
		}
	}
	var table []string
	for _, forms := range httpTable(t) {
		for _, b := range forms {
			table = append(table, b.Verb+" "+variable.ReplaceAllString(b.Path, "$2"))
		}
	}
	slices.Sort(listed)
	slices.Sort(table)
	if !slices.Equal(listed, table) {
		t.Fatalf("OpenAPI lists\n%s\nand the table has\n%s", strings.Join(listed, "\n"), strings.Join(table, "\n"))
	}
}

// TestOpenAPIHasTheFieldsOfTheProtos compares every request and every answer,
// field by field.
func TestOpenAPIHasTheFieldsOfTheProtos(t *testing.T) {
	t.Parallel()
	ops := operations(description(t))
	for method, forms := range httpTable(t) {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(method))
		if err != nil {
			t.Fatal(err)
		}
		m, _ := d.(protoreflect.MethodDescriptor)
		for i, b := range forms {
			id := string(m.Name())
			if i > 0 {
				id += fmt.Sprint(i + 1)
			}
			op, ok := ops[id]
			if !ok {
				t.Errorf("%s is not in the file", id)
				continue
			}
			var have, want []string
			for _, p := range op.Parameters {
				if p.Value.In == "query" {
					have = append(have, p.Value.Name)
				}
			}
			if op.RequestBody != nil {
				schema := jsonSchema(op.RequestBody.Value.Content)
				if closed := schema.AdditionalProperties.Has; closed == nil || *closed {
					t.Errorf("%s: the file allows unknown fields, the gateway does not", id)
				}
				for name := range schema.Properties {
					have = append(have, name)
				}
			}
			inPath := ""
			if v := variable.FindStringSubmatch(b.Path); v != nil {
				inPath = v[1]
			}
			for f := range m.Input().Fields().Len() {
				fd := m.Input().Fields().Get(f)
				if b.Verb == http.MethodDelete && fd.Name() == "intents" {
					continue // a URL has no room for them; the POST of the method has
				}
				if string(fd.Name()) != inPath {
					want = append(want, fd.JSONName())
				}
			}
			slices.Sort(have)
			slices.Sort(want)
			if !slices.Equal(have, want) {
				t.Errorf("request of %s: the file has %v, the proto %v", id, have, want)
			}
			if err := sameFields(jsonSchema(op.Responses.Status(http.StatusOK).Value.Content), m.Output(), id); err != nil {
				t.Error(err)
			}
			if later := op.Responses.Status(http.StatusAccepted); later != nil {
				if err := sameFields(jsonSchema(later.Value.Content), m.Output(), id); err != nil {
					t.Errorf("answered before it is complete: %v", err)
				}
			}
			if op.Summary == "" || len(op.Summary) > 140 {
				t.Errorf("%s has the summary %q", id, op.Summary)
			}
		}
	}
}

func sameFields(schema *openapi3.Schema, m protoreflect.MessageDescriptor, at string) error {
	for name := range schema.Properties {
		if m.Fields().ByJSONName(name) == nil {
			return fmt.Errorf("%s.%s is in the file and not in the proto", at, name)
		}
	}
	for i := range m.Fields().Len() {
		fd := m.Fields().Get(i)
		p, ok := schema.Properties[fd.JSONName()]
		if !ok {
			return fmt.Errorf("%s.%s is not in the file", at, fd.JSONName())
		}
		inner := p.Value
		if fd.IsList() {
			inner = inner.Items.Value
		}
		if fd.Message() != nil && !fd.IsList() && !inner.Nullable {
			return fmt.Errorf("%s.%s may be null, and the file does not say so", at, fd.JSONName())
		}
		if fd.Message() == nil || fd.Message().ParentFile().Package() != "krypton.v1" { // a time is a string
			continue
		}
		if len(inner.AllOf) == 1 {
			inner = inner.AllOf[0].Value
		}
		if err := sameFields(inner, fd.Message(), at+"."+fd.JSONName()); err != nil {
			return err
		}
	}
	return nil
}

// TestOpenAPIKnowsEveryError holds that the body of every code of the table fits
// the file, and that the file lists no other.
func TestOpenAPIKnowsEveryError(t *testing.T) {
	t.Parallel()
	schema := description(t).Components.Schemas["Error"].Value
	for _, c := range errs.All() {
		w := httptest.NewRecorder()
		gateway.WriteError(w, errs.New(c, "message", errs.Hint("hint")))
		if err := fits(schema, w.Body.Bytes()); err != nil {
			t.Errorf("%s: %v", c, err)
		}
	}
	if got := schema.Properties["error"].Value.Properties["reason"].Value.Enum; len(got) != len(errs.All()) {
		t.Errorf("the file has %d reasons, the table %d", len(got), len(errs.All()))
	}
	for _, other := range []string{
		`{"code":5,"message":"m","details":[]}`, `{"error":{"code":404,"reason":"NOPE","message":"m","retry":"never"}}`,
		`{"error":{"code":404,"reason":"NOT_FOUND","message":"m"}}`, `{}`,
	} {
		if fits(schema, []byte(other)) == nil {
			t.Errorf("%s fits as well", other)
		}
	}
}

func same[N uint64 | float64](t *testing.T, what string, file *N, code N) {
	t.Helper()
	if file == nil {
		t.Errorf("%s: the file has no limit, the code %v", what, code)
	} else if *file != code {
		t.Errorf("%s: the file has %v, the code %v", what, *file, code)
	}
}

// TestOpenAPIHasTheLimitsOfTheCode compares each limit with who enforces it.
func TestOpenAPIHasTheLimitsOfTheCode(t *testing.T) {
	t.Parallel()
	doc := description(t)
	ops := operations(doc)
	field := func(op, name string) *openapi3.Schema {
		return jsonSchema(ops[op].RequestBody.Value.Content).Properties[name].Value
	}
	param := func(op, name string) *openapi3.Schema {
		for _, p := range ops[op].Parameters {
			if p.Value.Name == name {
				return p.Value.Schema.Value
			}
		}
		t.Fatalf("%s has no parameter %s", op, name)
		return nil
	}
	same(t, "bytes of a plaintext", field("Encrypt", "plaintext").MaxLength, uint64(base64.StdEncoding.EncodedLen(node.MaxData)))
	same(t, "length of a data key", field("GenerateDataKey", "length").Max, node.MaxDataKey)
	same(t, "pairs", field("Encrypt", "encryptionContext").MaxItems, hierarchy.MaxContextPairs)
	for _, op := range []string{"ListTenants", "ListServices", "ListResources"} {
		same(t, "page of "+op, param(op, "pageSize").Max, server.MaxPage)
	}
	ids := map[string]*openapi3.Schema{
		"tenantId": field("CreateTenant", "tenantId"), "serviceId": field("CreateService", "serviceId"),
		"tenant": param("GetService", "tenant"), "service": param("Encrypt", "service"),
	}
	for name, schema := range ids {
		pattern := regexp.MustCompile(schema.Pattern)
		for _, id := range []string{"a", "a1", "a-b", "z" + strings.Repeat("0", 62), "z" + strings.Repeat("0", 63), "", "1a", "A", "a-", "-a", "a_b", "ä", "a b"} {
			_, err := hierarchy.ParseName(id)
			if fit := schema.Pattern != "" && pattern.MatchString(id); fit != (err == nil) {
				t.Errorf("%s %q: the file says %t, the node %v", name, id, fit, err)
			}
		}
	}
}

// TestANodeServesItsOpenAPIFile to every caller with a certificate, and to nobody else.
func TestANodeServesItsOpenAPIFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	w.tenant("acme", "pay")
	for _, who := range []string{"governor", "workload/acme"} {
		a := w.send(t, who, http.MethodGet, gateway.DescriptionPath, "")
		if a.status != http.StatusOK || !bytes.Equal(a.body, openapi.Document) || a.header.Get("Content-Type") != "application/json" ||
			a.header.Get("Cache-Control") != "no-store" || a.header.Get("Krypton-Correlation-Id") == "" {
			t.Errorf("%s: %d with %d bytes, headers %v", who, a.status, len(a.body), a.header)
		}
	}
	if a := w.send(t, "", http.MethodGet, gateway.DescriptionPath, ""); a.refusal(t).Code != errs.Unauthenticated || len(a.body) > 1<<10 {
		t.Errorf("a stranger gets %d with %d bytes: %s", a.status, len(a.body), a.body[:min(len(a.body), 1<<10)])
	}
	if a := w.send(t, "governor", http.MethodPost, gateway.DescriptionPath, "{}"); a.refusal(t).Code != errs.NotFound {
		t.Errorf("a POST is answered with %d", a.status)
	}
	// Refusals of the gateway itself fit the file too.
	schema := description(t).Components.Schemas["Error"].Value
	for _, path := range []string{"/v1/none", "/v1/tenants?x=1", "/v1/tenants/acme/services/pay:encrypt"} {
		if a := w.send(t, "governor", http.MethodGet, path, ""); a.status == http.StatusOK || fits(schema, a.body) != nil {
			t.Errorf("%s: %d %s: %v", path, a.status, a.body, fits(schema, a.body))
		}
	}
	// The examples of what needs no earlier answer are requests that a node takes.
	for _, method := range []string{"Encrypt", "GenerateDataKey"} {
		example := operations(description(t))[method].RequestBody.Value.Content.Get("application/json").Example
		raw, err := json.Marshal(example)
		if err != nil {
			t.Fatal(err)
		}
		path := "/v1/tenants/acme/services/pay:" + strings.ToLower(method[:1]) + method[1:]
		if a := w.send(t, "workload/acme", http.MethodPost, path, string(raw)); a.status != http.StatusOK {
			t.Errorf("the example of %s: %d %s", method, a.status, a.body)
		}
	}
}
