// Package openapi holds the description of the HTTP/JSON API in OpenAPI 3.0.
//
// # Invariants
//
//   - I1: the file lists every path, HTTP method and field of the gateway, and nothing else.
//   - I2: what a node answers fits the file: every success, and every error of the error table.
//   - I3: what a node accepts fits the file: no limit in it is tighter than the node's.
//
// The tests of package server hold them, against a real node.
//
// # Concurrency
//
// The document never changes.
//
// # Failure
//
// There is none: the file is part of the program.
//
// # Source
//
// Made by scripts/generate: protoc-gen-openapiv2 writes Swagger 2.0 from the
// protos and http.yaml, and the program in finish makes of it what stands here.
package openapi

import _ "embed"

// Document is the file, JSON in UTF-8, about 170 KB. Nobody may change it.
//
//go:embed krypton.openapi.json
var Document []byte
