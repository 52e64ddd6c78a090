// Package fsm is the replicated state machine: the encrypted key registry of a cluster as a function of its log.
//
// A [Machine] applies commands (package fsmpb; its comments specify each one)
// and publishes after each an immutable [View]. It knows states, names, blobs
// and uids, and cannot see a key: it imports nothing that could open a blob.
// The rules of states are those of package hierarchy; the signatures of people
// are verified by package intent, here, on every replica.
//
// The formats of commands, chain and snapshots are in docs/formats.md.
//
// # Invariants
//
//   - I1: the state is a function of the log: two machines with one log have one digest, also when one of them was restored from a snapshot in between.
//   - I2: the chain covers every command and, from [FormatAuthority] on, whether it was refused and why: c_i = SHA-256(c_(i-1) | i | SHA-256(command) | outcome). Nobody changes, drops or adds a command, or does what others refuse, without changing every later c.
//   - I3: a uid is never used again, whatever became of its object and its name.
//   - I4: what a view returned never changes.
//   - I5: a request acts at most once: (principal, request id, step) is remembered for 24 h of command time.
//   - I6: states have the numbers of package hierarchy and change only by its rules.
//   - I7: what is DESTROYED has no material in the state.
//   - I8: a sovereign act that the rules name happens only with the signatures that they ask for, over exactly that act, once.
//   - I9: an internal key version under which something is wrapped can unwrap.
//   - I10: a refused command changes nothing but the index, the chain, the time, the memory of requests, and of the approval that it was to execute that it failed.
//   - I11: command time never goes back.
//   - I12: a command or a snapshot that is not understood to the last field is not applied.
//   - I13: an edited snapshot does not pass [Proof.Verify], whatever checksum it carries.
//   - I14: a tick touches at most [MaxTickObjects] objects, and repeated ticks come to an end.
//   - I15: an internal secret stays, with its name and its public part, but for a CA that is replaced (I40); wrapping it again changes nothing else.
//   - I16: an internal key version is added by the leader's own housekeeping only, and takes nothing from those before it.
//   - I17: a revoked certificate stays revoked until it would have expired, and nothing that is asked for with it changes the state after its revocation.
//   - I18: from [FormatLeases] on, a data operation decides alike in two states in which the gate indexes of what it reads are the same, but for which version is the primary; and no command that a release may skip moves one.
//   - I19: an epoch of leases changes no object, is begun by the leader's own housekeeping only, and is never remembered as a request.
//   - I20: from [FormatAuthority] on a command acts only if who asked for it, as the node that let it in says, is in the registry in that role at that moment, may order such a command in it, and, as a governor, governs what it is about; what no caller orders, the leader does without one.
//   - I21: one identity has one role, and one public key one holder: an issuer's subject, its name in a role and tenant, and a key each stand in one role binding that counts.
//   - I22: from [FormatAuthority] on the platform and every tenant keep governors whose bindings have no end, and the cluster its custodians if it had any: one, and as many as the largest rule asks for, with keys to sign, and one governor more where who asks does not count.
//   - I23: nobody is bound beyond what the issuer may vouch for; and the issuer builtin is the CA of the genesis, for ever, and no other.
//   - I24: an approval is executed once or never: by a command that orders exactly what its intent says, in the name of who requested it and by what that person may do then, with its outcome in the same entry. Its signatures are of use nowhere else, and after its end nowhere.
//   - I25: what is approved has as many signatures as the larger of the rule when it was requested and the rule now asks for, each by another person who is bound and has the power at that moment, none by who asked unless both rules count that one; and who asked has signed.
//   - I26: what only takes away power that can be given back needs no signature and waits for no approval; of votes it is what leaves enough of them (I29).
//   - I27: the number of signatures changes only with as many as the larger of the rules before and after asks for, never to none, and to nothing that those who are bound could not fulfil.
//   - I28: from [FormatProofs] on a member is admitted only by a signature of its join token's key over the cluster and its id, key and region, with the vote that the token says: nobody who saw a node join can admit another one in its place.
//   - I29: from [FormatProofs] on what leaves no majority of the voters that people let in is signed by them; those are the most that there were since they agreed to fewer, and an even number above two counts as the odd one below it.
//   - I30: from [FormatProofs] on a command for which no leader with the MasterKey vouched changes nothing, and moves no time, unless it is one of those that [NeedsProof] names.
//   - I31: a repair changes wrappings of the seal record and nothing else: the manifest, and so who may open the MasterKey, stays; each wrapping is by a key that the manifest names; none goes; what replaces one is younger.
//   - I32: from [FormatCeremonies] on the seal changes by a ceremony that custodians signed for, one at a time; what is staged is the plan that they signed, of the MasterKey that the kind says, and until it is committed the seal is what it was.
//   - I33: a ceremony is committed only with the record that was staged, in place of the one that the signers saw, after as many holders of every group as it needs opened it, as a member says.
//   - I34: the manifests of the seal are one line from the genesis on: each names the digest of the one before it, and whose signatures ordered it.
//   - I35: a recovery begins an incarnation with one member, removes every other one, and names each voter that there was besides; people sign who, from which state, and who is lost.
//   - I36: the state says at which entry each MasterKey came into force, in the order of the log; that never changes afterwards. A rekey brings one into force with every internal key under it and with a record that carries on what authenticated the registry, in one entry, or not at all.
//   - I37: from [FormatSealProof] on a new seal counts only with the signatures of two voters, of the one that made it and of another one that combined as many of its shares as it takes; of one where people let in no second voter. A plan has no two holders of one name, and keeps the profile of the genesis unless people sign that it does not.
//   - I38: an exposure of the MasterKey is done only when nothing is wrapped under an internal key from before and none of those keys is left, every member said that its disk holds nothing from before that, the seal record carries no key of an earlier MasterKey, and no CA from before is trusted.
//   - I39: a MasterKey takes the place of an exposed one only after custodians signed, where the rules of the genesis or of now ask for it, which one it is and which CAs come with it, so that the genesis alone tells who did.
//   - I40: a CA of the cluster is replaced only as custodians ordered it, by one whose certificate the one before signed, so that from the CA that people vouched for a line of signatures leads to the present one; or with the MasterKey, by one that they confirmed. The issuer builtin, its role bindings and revocations stay, and it vouches by the CAs before for no longer than the order says.
//   - I41: from [FormatOwnedKeys] on no two tenants that are there have one identity in a keystore, as the keystore calls it.
//   - I42: from [FormatOwnedKeys] on no two tenants get one customer key outside of the nodes' own keystores, unless the order names the tenants that have it and two governors signed it, whatever the rules ask for a binding.
//   - I43: from [FormatSealProof] on a repair leaves at least one wrapping as it was, and what takes the place of one was opened by two voters, as both sign over that wrapping and the record that is repaired, unless the cluster has one voter.
//
// # Concurrency
//
// [Machine.Apply], [Machine.Snapshot] and [Machine.Restore] are for the one
// goroutine that applies the log. Views, snapshots and everything that they
// return are immutable and safe for concurrent use; readers take no lock, and
// publishing is one pointer store.
//
// # Failure
//
// What a command may not do is a refusal: a result with the name of an error
// code, the same on every replica. What this program does not understand is an
// error of Apply, after which the machine applies nothing more and the node
// must stop: serving on would be serving another state than the rest of the
// cluster. A snapshot that is not sound in every detail is an error, and the
// state stays as it was. Broken assumptions about the program itself stop the
// process.
//
// # Source
//
// ACD-302 (key hierarchy, rotation, destruction, four eyes); docs/formats.md;
// for stopping at unknown commands, the state machine of Consul.
package fsm
