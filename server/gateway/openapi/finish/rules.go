package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Patterns and sizes that the protos say only in words. The tests of package
// server compare them with the code that enforces them.
const (
	namePattern   = `^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`
	hexPattern    = `^[0-9a-f]{32}$`
	maxData       = 1 << 20
	maxDataBase64 = (maxData + 2) / 3 * 4
)

// rules are what this program knows beside the protos.
type rules struct {
	parameters map[string]obj
	properties map[string]obj
	required   map[string][]string
	examples   map[string]obj
}

var krypton = rules{parameters: parameters, properties: properties, required: required, examples: examples} //nolint:gochecknoglobals // Immutable table.

// parameters are rules for parameters, by place and name, or by operation, place
// and name where they differ.
var parameters = map[string]obj{
	"path tenant":    {"schema": obj{"pattern": namePattern}, "description": "Id of the tenant."},
	"path service":   {"schema": obj{"pattern": namePattern}, "description": "Id of the service."},
	"path resource":  {"schema": obj{"minLength": 1}, "description": "Id of the resource, 1 to 128 bytes of UTF-8. In names it is percent-encoded, and a path encodes the name once more: a/b is a%252Fb."},
	"path version":   {"schema": obj{"pattern": `^[1-9][0-9]*$`}, "description": "Number of the version."},
	"path node":      {"schema": obj{"pattern": hexPattern}, "description": "Id of the node."},
	"path approval":  {"schema": obj{"pattern": hexPattern}, "description": "Id of the approval."},
	"path operation": {"schema": obj{"format": "uuid"}, "description": "Request id of the change."},

	"GetVersion path version":  {"schema": obj{"pattern": `^([1-9][0-9]*|primary)$`}, "description": "Number of the version, or primary."},
	"GetVersion2 path version": {"schema": obj{"pattern": `^([1-9][0-9]*|primary)$`}, "description": "Number of the version, or primary."},

	"query pageSize":     {"schema": obj{"minimum": 0, "maximum": 1000, "default": 0}, "description": "Objects of one page, at most 1000; 0 means 100. A page may have fewer and not be the last."},
	"query pageToken":    {"description": "nextPageToken of the page before; empty: the first page."},
	"query etag":         {"description": etagText},
	"query requestId":    {"schema": obj{"format": "uuid"}, "description": requestIDText},
	"query validateOnly": {"description": validateText},
}

const (
	etagText      = `The object's etag as it was read, with its quotes: "42". Changed since: STALE_ETAG. Empty: any.`
	requestIDText = "A UUID of the caller's choice. The same id with the same request acts once, for 24 h; send it again after an error that may be tried again."
	validateText  = "Checks everything and changes nothing."
)

// properties are rules for fields: "Message.field", or ".field" of every message.
var properties = map[string]obj{
	".requestId":                 {"format": "uuid", "description": requestIDText},
	".etag":                      {"description": etagText},
	".validateOnly":              {"description": validateText},
	".resource":                  {"description": "A name of the caller's choice, at most 128 bytes of UTF-8, bound to what is made and needed again to open it. May be empty."},
	".encryptionContext":         {"maxItems": 64, "description": "Pairs that are bound to what is made and needed again to open it. They are not secret and not kept."},
	"ClusterInfo.rollbackWindow": {"nullable": true, "description": "Seconds, such as 604800s."},
	"ClusterInfo.destroyWait":    {"nullable": true, "description": "Seconds, such as 604800s."},
	"ClusterInfo.leaseDuration":  {"nullable": true},
	"NodeHealth.contactAge":      {"nullable": true},
	"NodeHealth.leaseRemaining":  {"nullable": true},
	"NodeHealth.leaseHolding":    {"nullable": true},
	"NodeHealth.leaderLeases":    {"nullable": true},
	"LeaseHolding.held":          {"nullable": true},
	"LeaseHolding.clockOver":     {"nullable": true},
	"LeaseHolding.clockAhead":    {"nullable": true},
	"LeaseWait.atMost":           {"nullable": true},
	"NodeHealth.clockOffset":     {"nullable": true},
	".nextPageToken":             {"description": "pageToken of the next page; empty after the last."},

	"CreateTenantRequest.tenantId":       {"pattern": namePattern},
	"CreateServiceRequest.serviceId":     {"pattern": namePattern},
	"EncryptRequest.plaintext":           {"maxLength": maxDataBase64, "description": fmt.Sprintf("At most %d bytes (1 MiB), in base64.", maxData)},
	"GenerateDataKeyRequest.length":      {"minimum": 0, "maximum": 64},
	"IssueCertificateRequest.name":       {"pattern": `^[a-z0-9]([a-z0-9._-]{0,62})$`},
	"SealNodeRequest.reason":             {"maxLength": 256},
	"RejectRequest.reason":               {"maxLength": 256},
	"ContextPair.key":                    {"minLength": 1},
	"CreateJoinTokenRequest.ttlSeconds":  {"minimum": 0, "maximum": 24 * 3600},
	"IssueCertificateRequest.ttlSeconds": {"minimum": 0, "maximum": 30 * 24 * 3600},

	"ReplaceAuthorityRequest.overlapSeconds": {"minimum": 0, "maximum": 30 * 24 * 3600},
}

// required are the fields without which a method cannot do anything.
var required = map[string][]string{
	"CreateTenantRequest":     {"tenantId"},
	"BindTenantRequest":       {"binding"},
	"CreateServiceRequest":    {"serviceId"},
	"UnwrapDataKeyRequest":    {"wrapped"},
	"RewrapDataKeyRequest":    {"wrapped"},
	"DecryptRequest":          {"ciphertext"},
	"IssueCertificateRequest": {"name", "publicKey", "role"},
	"ReplaceAuthorityRequest": {"baseSha256"},
	"RetireAuthorityRequest":  {"baseSha256"},
	"ContributeRequest":       {"nodeId"},
	"CreateApprovalRequest":   {"request", "signature"},
	"ApproveRequest":          {"keyId", "signature"},
}

func (c converter) parameter(op, in, name string, param obj) {
	for _, key := range []string{in + " " + name, op + " " + in + " " + name} {
		rule, ok := c.rules.parameters[key]
		if !ok {
			continue
		}
		c.used[key] = true
		if d, ok := rule["description"]; ok {
			param["description"] = d
		}
		more, _ := rule["schema"].(obj)
		schema, _ := param["schema"].(obj)
		maps.Copy(schema, more)
	}
}

// limits applies the rules for the fields of a message.
func (c converter) limits(message string, schema obj) {
	if fields, ok := c.rules.required[message]; ok {
		schema["required"] = fields
		c.used[message] = true
	}
	props, _ := schema["properties"].(obj)
	for name, p := range props {
		prop, _ := p.(obj)
		if strings.HasSuffix(message, "Request") || name == "nextPageToken" {
			if rule, ok := c.rules.properties["."+name]; ok {
				c.used["."+name] = true
				maps.Copy(prop, rule)
			}
		}
		if rule, ok := c.rules.properties[message+"."+name]; ok {
			c.used[message+"."+name] = true
			maps.Copy(prop, rule)
		}
	}
	for _, field := range c.rules.required[message] {
		if _, ok := props[field]; !ok {
			delete(c.used, message)
		}
	}
}

// unused finds rules that fitted nothing (I2).
func (c converter) unused() error {
	var left []string
	for _, all := range [][]string{
		slices.Collect(maps.Keys(c.rules.parameters)), slices.Collect(maps.Keys(c.rules.properties)),
		slices.Collect(maps.Keys(c.rules.required)), slices.Collect(maps.Keys(c.rules.examples)),
	} {
		for _, key := range all {
			if !c.used[key] {
				left = append(left, key)
			}
		}
	}
	if len(left) > 0 {
		slices.Sort(left)
		return fmt.Errorf("rules that fit nothing: %s", strings.Join(left, ", "))
	}
	return nil
}
