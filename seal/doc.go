// Package seal protects the MasterKey: by shares of people and keystores, of which a number in every group opens it, or by keystores of which any one does.
//
// [Create] makes a MasterKey, a [Record] that says how it is protected, and in
// Shamir mode the [Share] of every person. A node becomes unsealed again by an
// [Opening], which asks keystores, to which people contribute shares, and which
// knows of every holder what came of it. A share of a person reaches a node only
// encrypted to a key that the node made at this start and signed ([StartKey],
// [SealShare]).
//
// Whether a node may unseal at all is not decided here: a cluster that was
// sealed by a person stays so until the hold is released, which is a
// replicated fact that the caller checks first.
//
// The holders of shares are named by a [Plan]: a person gets a share on paper, or
// encrypted to a key of the age format (package agebox); a keystore keeps it under
// a key that it wraps. [Protect] makes another record for the same MasterKey. The
// public part of a record is for package manifest, which needs no key: its rules,
// its digest, and which manifest follows which.
//
// # Formats
//
// All integers are big-endian; lp(x) is a u32 length and x. Changing any of it
// makes existing records or shares unreadable.
//
//	share hash       SHA-256( lp("krypton/share") lp(keyspace) lp(ceremony) lp(u32 index) lp(whole share) )
//	whole share      33 bytes: 32 of the polynomials, and x
//	commitment       HKDF-Expand-SHA-256(MasterKey, "krypton/v1/masterkey-commitment" keyspace u64 generation, 32)
//	place            lp(keyspace) lp(ceremony) lp(u64 generation)
//	keystore AAD     lp("krypton/v1/seal-auto") place
//	wrapping         AES-256-GCM(one-time key, nonce, MasterKey, lp("krypton/v1/seal-masterkey") place)
//	shard, keystore  one-time key wrapped with lp("krypton/v1/seal-shard") place lp(u32 index);
//	                 AES-256-GCM(one-time key, nonce, whole share, lp("krypton/v1/seal-share") place lp(u32 index))
//	shard, person    age file of the share in binary form; the fingerprint is zero where the cluster had none yet
//	several groups   W = HKDF-SHA-256(S_1 S_2 ..., no salt, lp("krypton/v1/seal-groups") place lp(u32 number of groups), 32);
//	                 AES-256-GCM(W, nonce, MasterKey, lp("krypton/v1/seal-groups-masterkey") place)
//	carried key      AES-256-GCM(HKDF-Expand-SHA-256(MasterKey, "krypton/v1/carried-keys", 32), nonce, key,
//	                 lp("krypton/v1/carried-key") lp(keyspace) lp(u64 generation) lp(u64 generation of the key))
//	share, binary    u8 1 | 16 bytes of the fingerprint | 16 keyspace | 16 ceremony | u32 generation | u8 index | 33 share
//	share, text      Bech32m of the binary form with the prefix "kshare", dashes after the separator and every 6 characters
//	transport        HPKE base mode, X-Wing, HKDF-SHA-256, AES-256-GCM; info = lp("krypton/v1/share-transport") lp(fingerprint) lp(node id),
//	                 to a ceremony lp("krypton/v1/share-to-ceremony") lp(fingerprint) lp(node id) lp(ceremony id)
//	handover         the MasterKey in place of a share; info = lp("krypton/v1/masterkey-handover") lp(fingerprint) lp(node id) lp(manifest digest)
//	offer            signed: lp("krypton/v1/start-key") lp(fingerprint) lp(node id) lp(public key)
//	record file      "KRYPSEAL" | u32 1 | u32 length | protobuf of sealpb.Record | SHA-256 of everything before
//
// # Invariants
//
//   - I1: the MasterKey and whole shares are in protected memory, or in the scope of one split, combination, parse or print, and are wiped there.
//   - I2: a MasterKey is used only after it matched the commitment of its keyspace and generation.
//   - I3: a share counts only when its hash is in the manifest; a refused share changes nothing.
//   - I4: no fewer than M shares of a group open it; M is at least 2, all groups together have at most 255.
//   - I5: every byte of a record decides its digest; a record with a field that this version does not know is refused.
//   - I6: no keystore and no proxy before it sees the MasterKey or a share: it wraps a key used once.
//   - I7: a share leaves its holder's machine only for the cluster that is printed on it and a key signed by the target's member key; what was given to unseal is no consent to a ceremony, nor what was given to one to another.
//   - I8: with several groups, every one of them is needed; all shares of the others say nothing about the MasterKey.
//   - I9: shares that are not printed leave a ceremony as ciphertext for their holder only.
//   - I10: a record is returned only after every keystore in it was asked and every share was part of a combination that gave the MasterKey.
//   - I11: a key of an earlier generation opens under the MasterKey that carries it, as of that generation, and otherwise not.
//   - I14: the MasterKey of a record leaves a node only encrypted to a start key that the member key of another node signed, and opens there for that record only.
//   - I15: a record that is proved before it counts is open only if every share hash of its manifest is of a share with which any others that are enough give the MasterKey; it says whose shares opened it.
//   - I16: a wrapping that says to be from later than the time of the merge takes the place of none, and what replaces a wrapping is younger than it or is not made.
//   - I17: an opening that was closed keeps no share and no MasterKey, and gets none: who still holds it asks no keystore, and what was on its way is wiped when it comes.
//
// # Concurrency
//
// Everything is safe for concurrent use. An [Opening] holds no lock while it asks
// keystores, and the goroutines of [Opening.Ask] end before it returns.
//
// # Failure
//
// A damaged record is refused whole and replaced from another node; every node
// has the same one. Shares that are lost below M of them end the keyspace; no
// code here can help then. Shamir over GF(2^8) in package vault/shamir leaves
// copies of coefficients on the heap. All of it runs in the scope of package
// reveal, and a collection is asked for at once; builds that can erase what such
// a scope left on stack and heap do so then, in others the copies stay until
// their memory is used again. The private start key is held by crypto/hpke on the heap; it
// opens only shares that were recorded on their way to this start of this node.
//
// # Source
//
// docs/adr/0037-holders-of-all-kinds-in-groups.md; MasterKey management (Shamir & Seal); ACD-302, "MasterKey Management & System
// Bootstrapping"; RFC 9180 (HPKE); BIP-350 (Bech32m).
package seal
