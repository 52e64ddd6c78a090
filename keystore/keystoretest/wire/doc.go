// Package wire breaks what lies between a provider and its keystore: connections that are refused, reset, cut in the middle, held or slowed down, and answers that a keystore gives when it is busy or broken.
//
// [Proxy] works on the bytes of TCP connections and knows no protocol, so that
// it also stands in front of TLS that it cannot read. [HTTP] stands in front of
// an http.Handler, records every request, and answers in its place. [Serve]
// starts a TLS server on loopback with a CA of its own.
//
// Nothing here needs a testing.T: demonstrations use it too.
//
// # Invariants
//
//   - I1: without a fault it changes nothing: bytes, requests and answers pass as they are.
//   - I2: it listens on loopback only.
//   - I3: when Close returns, no goroutine of it runs and no connection is open.
//
// # Concurrency
//
// Safe for concurrent use. A fault holds for what happens after it was set;
// what is under way may still end well.
//
// # Failure
//
// A keystore that cannot be reached through a [Proxy] is a reset connection to
// the provider.
//
// # Source
//
// The faults that a conformance suite of keystores has to meet: package keystoretest.
package wire
