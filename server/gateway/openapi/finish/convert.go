package main

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// obj is a JSON object. encoding/json sorts its keys, which makes the output stable.
type obj = map[string]any

// swagger is what this program reads of Swagger 2.0.
type swagger struct {
	Swagger     string                          `json:"swagger"`
	Tags        []obj                           `json:"tags"`
	Paths       map[string]map[string]operation `json:"paths"`
	Definitions map[string]obj                  `json:"definitions"`
}

type operation struct {
	Summary     string         `json:"summary"`
	Description string         `json:"description"`
	OperationID string         `json:"operationId"`
	Parameters  []parameter    `json:"parameters"`
	Responses   map[string]obj `json:"responses"`
	Tags        []string       `json:"tags"`
}

type parameter struct {
	Name        string `json:"name"`
	In          string `json:"in"`
	Description string `json:"description"`
	Required    bool   `json:"required"`
	Type        string `json:"type"`
	Format      string `json:"format"`
	Schema      obj    `json:"schema"`
}

// Names of the plugin's own error message, which no node sends.
const (
	pluginError = "rpcStatus"
	pluginAny   = "protobufAny"
)

// converter holds what is looked up on the way.
type converter struct {
	rules rules
	names map[string]string // of a definition: there -> here
	enums map[string]bool   // names here of definitions that are enumerations
	used  map[string]bool   // rules that fitted something (I2)
	ids   map[string]bool   // names here of requests that have a request id
}

// requestID is the field by which a change acts once.
const requestID = "requestId"

// changes reports whether an operation of the file makes a change that it names.
func (c converter) changes(op operation) bool {
	if slices.Contains(noOperations, op.OperationID) {
		return false
	}
	return slices.ContainsFunc(op.Parameters, func(p parameter) bool {
		if p.In != "body" {
			return p.Name == requestID
		}
		ref, _ := p.Schema["$ref"].(string)
		return c.ids[c.names[strings.TrimPrefix(ref, "#/definitions/")]]
	})
}

func convert(doc swagger, r rules) (obj, error) {
	c := converter{rules: r, names: map[string]string{}, enums: map[string]bool{}, used: map[string]bool{}, ids: map[string]bool{}}
	if err := c.name(doc.Definitions); err != nil {
		return nil, err
	}
	requests := map[string]bool{}
	paths := obj{}
	for path, ops := range doc.Paths {
		item := obj{}
		for verb, op := range ops {
			made, err := c.operation(op, requests)
			if err != nil {
				return nil, fmt.Errorf("%s %s: %w", verb, path, err)
			}
			item[verb] = made
		}
		paths[path] = item
	}
	schemas := obj{"Error": errorSchema()}
	for old, def := range doc.Definitions {
		name, ok := c.names[old]
		if !ok {
			continue
		}
		made, err := c.schema(def)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", old, err)
		}
		c.limits(name, made)
		if requests[name] {
			made["additionalProperties"] = false // unknown fields are refused
		}
		schemas[name] = made
	}
	if err := c.unused(); err != nil {
		return nil, err
	}
	tags := slices.DeleteFunc(doc.Tags, func(t obj) bool { return t["name"] == "Admin" }) // only on the administration socket, not here
	slices.SortFunc(tags, func(a, b obj) int { return strings.Compare(fmt.Sprint(a["name"]), fmt.Sprint(b["name"])) })
	return obj{
		"openapi": "3.0.3", "info": info(), "servers": servers(), "tags": tags, "paths": paths,
		"components": obj{
			"schemas": schemas, "headers": headers(),
			"responses": obj{"Error": errorResponse()},
		},
	}, nil
}

// prefix is what the plugin puts before a name: the package of a message, or the
// service before the body of a method.
var prefix = regexp.MustCompile(`^(v1|(?:Access|Approvals|Ceremonies|Cluster|Crypto|Policies|Seal|Services|Tenants)([A-Z].*)Body$)`)

// name gives every definition the name that its message has in the protos:
// CryptoEncryptBody is an EncryptRequest, without the fields that stand in the path.
func (c converter) name(defs map[string]obj) error {
	taken := map[string]string{"Error": pluginError}
	for _, old := range slices.Sorted(maps.Keys(defs)) {
		if old == pluginError || old == pluginAny {
			continue
		}
		m := prefix.FindStringSubmatch(old)
		if m == nil {
			return fmt.Errorf("definition %s has a name of another form than the plugin's", old)
		}
		name := strings.TrimPrefix(old, "v1")
		if m[2] != "" {
			name = m[2] + "Request"
			if _, whole := defs["v1"+name]; whole { // one path of the method has all fields in its body
				name = m[2] + "Body"
			}
		}
		if other, ok := taken[name]; ok {
			return fmt.Errorf("definitions %s and %s would both be called %s", other, old, name)
		}
		taken[name] = old
		c.names[old] = name
		c.enums[name] = defs[old]["enum"] != nil
		fields, _ := defs[old]["properties"].(obj)
		c.ids[name] = fields[requestID] != nil
	}
	return nil
}

func (c converter) operation(op operation, requests map[string]bool) (obj, error) {
	switch {
	case op.Summary == "" && op.Description == "":
		return nil, fmt.Errorf("%s has no comment in its proto", op.OperationID)
	case len(op.Tags) != 1:
		return nil, fmt.Errorf("%s has not one tag", op.OperationID)
	}
	text := strings.TrimSpace(op.Summary + "\n\n" + op.Description)
	first, _, _ := strings.Cut(strings.ReplaceAll(text, "\n", " "), ". ")
	made := obj{"operationId": op.OperationID, "tags": op.Tags, "summary": strings.TrimSuffix(first, "."), "description": text}
	var params []obj
	for _, p := range op.Parameters {
		if p.In == "body" {
			body, err := c.schema(p.Schema)
			if err != nil {
				return nil, err
			}
			requests[local(body)] = true
			made["requestBody"] = obj{"required": true, "content": content(body, c.example(op.OperationID, "request"))}
			continue
		}
		schema := obj{"type": p.Type}
		if p.Format != "" {
			schema["format"] = p.Format
		}
		param := obj{"name": p.Name, "in": p.In, "schema": schema}
		if p.Description != "" {
			param["description"] = p.Description
		}
		if p.In == "path" {
			param["required"] = true
		}
		c.parameter(op.OperationID, p.In, p.Name, param)
		params = append(params, param)
	}
	if len(params) > 0 {
		made["parameters"] = params
	}
	ok := op.Responses["200"]
	ref, isObj := ok["schema"].(obj)
	if !isObj {
		return nil, errors.New("no schema for the answer")
	}
	body, err := c.schema(ref)
	if err != nil {
		return nil, err
	}
	responses := obj{
		"200": obj{
			"description": "It was done.",
			"headers":     answerHeaders(),
			"content":     content(body, c.example(op.OperationID, "response")),
		},
		"default": obj{"$ref": "#/components/responses/Error"},
	}
	if c.changes(op) {
		responses["202"] = accepted(body)
	}
	made["responses"] = responses
	return made, nil
}

func content(schema obj, example any) obj {
	media := obj{"schema": schema}
	if example != nil {
		media["example"] = example
	}
	return obj{"application/json": media}
}

// local is the name of the definition that a schema refers to.
func local(schema obj) string {
	ref, _ := schema["$ref"].(string)
	return strings.TrimPrefix(ref, "#/components/schemas/")
}

// schema converts a schema with everything in it.
func (c converter) schema(in obj) (obj, error) {
	if ref, ok := in["$ref"].(string); ok {
		if ref == "#/definitions/"+pluginAny {
			return anySchema(), nil
		}
		name, ok := c.names[strings.TrimPrefix(ref, "#/definitions/")]
		if !ok {
			return nil, fmt.Errorf("reference to %s", ref)
		}
		return obj{"$ref": "#/components/schemas/" + name}, nil // the plugin's siblings of $ref mean nothing
	}
	out := maps.Clone(in)
	// The plugin makes a title of a comment without a full stop.
	if title, ok := out["title"]; ok && out["description"] == nil {
		out["description"] = title
	}
	delete(out, "title")
	if items, ok := in["items"].(obj); ok {
		made, err := c.schema(items)
		if err != nil {
			return nil, err
		}
		out["items"] = made
	}
	props, ok := in["properties"].(obj)
	if !ok {
		return out, nil
	}
	made := obj{}
	for name, p := range props {
		prop, ok := p.(obj)
		if !ok {
			return nil, fmt.Errorf("property %s is no schema", name)
		}
		schema, err := c.schema(prop)
		if err != nil {
			return nil, err
		}
		made[name] = c.nullable(schema, prop)
	}
	out["properties"] = made
	return out, nil
}

// nullable says of a field that has a message in it that it may be null: the
// gateway writes all fields, and those without a message so. A reference has no
// siblings in OpenAPI 3.0, so it goes into allOf.
func (c converter) nullable(schema, before obj) obj {
	name := local(schema)
	switch {
	case name != "" && c.enums[name]:
		return schema
	case name != "":
		out := obj{"allOf": []obj{schema}, "nullable": true}
		if d, ok := before["description"]; ok {
			out["description"] = d
		}
		return out
	case schema["format"] == "date-time":
		schema["nullable"] = true
	case before["$ref"] == "#/definitions/"+pluginAny:
		schema["nullable"] = true
		if d, ok := before["description"]; ok {
			schema["description"] = d
		}
	}
	return schema
}
