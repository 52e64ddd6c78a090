// Package plan says what a seal would mean before it is made: who could open the MasterKey, and with whom it would be lost.
//
// A [Plan] names keystores and people. [Parse] reads one from YAML, [Plan.Fill]
// adds where each key is, and [Analyze] counts: for every holder, account, kind of
// keystore and region, what is left if it is lost, and what it lacks if it falls
// into wrong hands. [Analysis.Refuse] is the rule by which init and ceremonies refuse
// a seal that only looks spread out.
//
//	seal that is planned     analysis                                   refused unless accepted
//	2 of 3 in one account    that account lost: gone; taken: open       concentration
//	2 of 3 in three          each one lost: opens; taken: 1 more        -
//	any of 2 keys, 1 account that account lost: gone                    concentration
//
// # Invariants
//
//   - I1: an analysis is exact: it says of each set of holders that it names what trying every subset of holders would say.
//   - I2: nothing here asks a keystore, a node or the clock; the same plan gives the same analysis.
//   - I3: a key of a plan file that this version does not know is an error that names the file, the line and the nearest known key.
//   - I4: a risk is accepted by name and only when it is there; what was accepted goes into the manifest.
//   - I5: a plan without a stated account never hides one behind another: what is not known is said to be unknown.
//
// # Concurrency
//
// Plans and analyses are values without shared state; the functions have none.
//
// # Failure
//
// An analysis is only as true as the accounts and regions in it. Two accounts with one
// administrator, or two regions on one river, have to be said by people, in the plan file.
//
// # Source
//
// docs/seals.md; docs/adr/0043-a-seal-is-weighed-before-it-is-made.md.
package plan
