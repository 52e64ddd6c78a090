// Command finish makes the OpenAPI 3.0 description of the HTTP/JSON API from the
// Swagger 2.0 that protoc-gen-openapiv2 wrote: it reads one on stdin and writes the
// other to stdout. scripts/generate runs it.
//
// The plugin knows the paths and the messages. It does not know what stands
// outside the protos: the body of errors and its codes, the headers of answers,
// limits, that the gateway sends fields without a value as null, and mutual TLS.
// OpenAPI 3.0 and not 2.0, because 2.0 has no null; not 3.1, because common
// generators read 3.0 best; and not by protoc-gen-openapiv3, which calls itself
// alpha and writes 3.1.
//
// # Invariants
//
//   - I1: the output is a function of the input and of package errs.
//   - I2: a rule of this program that fits nothing in the input is an error, so that no limit is lost when a field is renamed.
//
// # Concurrency
//
// None.
//
// # Failure
//
// Input of another shape than the plugin's is an error, and nothing is written.
//
// # Source
//
// OpenAPI 3.0.3; docs/contract.md (REST). It imports no generated code, so
// that it also builds while generated code is out of date.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

func main() {
	if err := run(os.Stdin, os.Stdout, krypton); err != nil {
		fmt.Fprintln(os.Stderr, "finish:", err)
		os.Exit(1) //nolint:forbidigo // This is main.
	}
}

func run(in io.Reader, out io.Writer, r rules) error {
	var doc swagger
	dec := json.NewDecoder(in)
	if err := dec.Decode(&doc); err != nil {
		return fmt.Errorf("read Swagger: %w", err)
	}
	if doc.Swagger != "2.0" || len(doc.Paths) == 0 || len(doc.Definitions) == 0 {
		return errors.New("the input is not Swagger 2.0 with paths and definitions")
	}
	made, err := convert(doc, r)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(made)
}
