// Package local is a keystore in a directory of this machine, for development and demonstrations.
//
// It protects nothing against whoever can read its files: the keys lie there
// unencrypted, and opening it says so in the log. It behaves otherwise like a
// real keystore: named keys with versions that can be rotated, disabled,
// scheduled for deletion and deleted, by one process while others use them, so
// that the kill switch and rotation can be shown and tested.
//
// # Format
//
// The directory (mode 0700) holds keys (0600), lock (0600) and, during a
// change, keys.tmp (0600). Integers are big-endian. Changing this breaks
// existing key files and blobs.
//
//	keys     header     "krypton local keystore 1: unprotected keys, development only\n"
//	         revision   u64, one more with every change
//	         count      u32, at most 1024 keys, in order of name
//	         key        u8 length, name | u8 state (1 enabled, 2 disabled, 3 pending deletion, 4 deleted)
//	                    i64 unix time of deletion (0 unless pending) | u32 count, at most 256 versions
//	         version    u32 number, ascending | i64 unix time of creation | 32 bytes key
//	         checksum   SHA-256 of everything before
//	blob     u8 format (1) | u8 mechanism (1: AES-256-GCM) | u32 key version | 12 bytes nonce | ciphertext and tag
//	         AAD = u32 length, "krypton/v1/local-keystore" | u32 length, key name | the 6 bytes before the nonce | caller's AAD
//
// # Invariants
//
//   - I1: files are used only when they belong to the user of this process and nobody else can read or write them.
//   - I2: a change is on disk, whole, before it is reported done, or it did not happen; a crash leaves the old or the new file.
//   - I3: a call that starts after a change was reported done, in any process of the machine, sees it.
//   - I4: a version keeps its number and key for life; a deleted key's name is never used again.
//   - I5: key bytes are in protected memory, or in the one buffer that is being read or written and wiped at once.
//
// # Concurrency
//
// Safe for concurrent use by many processes. Changes exclude each other by
// flock on the file lock; users take no lock across processes: they compare
// the identity of the file, which every change replaces.
//
// # Failure
//
// A missing, unreadable or damaged file gives Unavailable or Misconfigured,
// never Denied: only a state written in a sound file denies. There is no
// repair; a damaged key file is lost unless a copy exists.
//
// # Source
//
// ACD-302, "Keystore Integration Archetypes". The real providers answer for
// production; the suite in keystoretest holds all of them to one contract.
package local
