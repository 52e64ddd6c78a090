// Package devcluster runs a whole cluster of real `krypton server` processes on
// the loopback interface of one machine, for development, demonstrations and
// tests.
//
// [Start] does what people do to make a cluster, with the same programs and the
// same API, and with throw-away people: it starts the first node, initialises it
// over its administration socket, lets the governor issue certificates, lets the
// operator invite the other nodes, and waits until every node is a voter and
// serves. The cluster unseals by a local keystore whose keys lie unencrypted
// beside it. It protects nothing.
//
// The directory of a cluster, all of it 0700 and 0600:
//
//	cluster.json             written last; says that the rest is complete
//	nN/ nN.yaml nN.log       data directory, configuration and output of node N
//	keystore/                local keystore: seals the MasterKey, holds L1
//	people/<role>.crt .key   one throw-away person or workload per role; keys stay, certificates are renewed
//	people/ca.crt            what callers verify nodes with
//
// # Invariants
//
//   - I1: no process that was started here outlives [Cluster.Close], nor on Linux the death of the process that started it, however it dies.
//   - I2: a node that is started again has the addresses it had before.
//   - I3: what was made without a given directory is gone after Close; a given directory keeps everything.
//   - I4: listeners are on the loopback interface only.
//   - I5: nothing of the environment of the caller that begins with KRYPTON_ reaches a node, but for what [Options.Program] gives it.
//
// # Concurrency
//
// A Cluster and its Nodes are safe for concurrent use. Each running process has
// one goroutine, which ends when the process has; Close waits for it. Node.mu is
// a leaf, but for the start and the end of that node's own process.
//
// # Failure
//
// A step that does not succeed in [Options.Patience] is an error that names the
// step and the last reason, with the end of each node's output in
// [Options.Output]. A Start that fails leaves nothing behind but a given
// directory. After kill -9 of the starting process a temporary directory stays;
// on macOS the nodes stay too.
//
// # Source
//
// docs/contract.md (configuration, data directory, administration socket).
package devcluster
