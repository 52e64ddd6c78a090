// Package mutation is the seam by which the attack tests build a program that lies.
//
// A test that an attack fails proves little if the attack could not have worked
// anyhow. So the tests also build the program with the tag mutation, in which one
// defence after another can be left out, and show that the same attack works then.
// Such a build is for tests and never released.
//
// # Invariants
//
//   - I1: without the tag [On] is the constant false: the program has neither the name of the variable nor the branches behind On.
//   - I2: with the tag, and without the variable, the program does what it does without the tag.
//
// # Concurrency
//
// Safe for concurrent use; nothing here has state.
//
// # Failure
//
// A file that cannot be read means that nothing is left out.
//
// # Source
//
// docs/attacks.md.
package mutation

// Name is a defence that can be left out.
type Name string

// The defences. Each stands at one place in the code.
const (
	// SkipIntents: a replica does not ask for the signatures of people.
	SkipIntents Name = "skip-intents"
	// SkipPrincipal: a replica does not ask whether who is said to have asked is
	// bound and may order it.
	SkipPrincipal Name = "skip-principal"
	// SkipPins: a certificate of the cluster's own CA counts for any key.
	SkipPins Name = "skip-pins"
	// SkipForwarded: the leader commits whatever a member forwards, in whose name it says.
	SkipForwarded Name = "skip-forwarded"
	// SkipSnapshotMAC: a snapshot is believed without its proof.
	SkipSnapshotMAC Name = "skip-snapshot-mac"
	// SkipEntryProof: an entry of the log is believed without its proof.
	SkipEntryProof Name = "skip-entry-proof"
	// SkipLogEnd: nobody asks how far a log went.
	SkipLogEnd Name = "skip-log-end"
	// SkipComparison: a state that another member sent is served without asking others.
	SkipComparison Name = "skip-comparison"
	// SkipFounding: the internal keys do not depend on the genesis.
	SkipFounding Name = "skip-founding"
	// SkipPolicyErrors: a policy that cannot be evaluated is left out.
	SkipPolicyErrors Name = "skip-policy-errors"
	// SkipAdmission: nobody asks for the signature of a join token's key.
	SkipAdmission Name = "skip-admission"
	// SkipChain: nobody compares the state of another node with the own one.
	SkipChain Name = "skip-chain"
)

// Names returns all of them.
func Names() []Name {
	return []Name{SkipIntents, SkipPrincipal, SkipPins, SkipForwarded, SkipSnapshotMAC, SkipEntryProof, SkipLogEnd, SkipComparison, SkipFounding, SkipPolicyErrors, SkipAdmission, SkipChain}
}
