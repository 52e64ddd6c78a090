// Package agebox keeps the share of a person encrypted to a key of the age format, which the person alone has.
//
// [Encrypt] makes an age file for one recipient. [ReadIdentities] reads the
// person's identity file, and [Identities.Decrypt] opens the age file with it.
// What is encrypted is opaque here; package seal says what it is.
//
// # Recipients
//
// [NewIdentities] makes a hybrid key (ML-KEM-768 and X25519, "age1pq1..."): what
// is encrypted today lies in logs and backups for as long as the MasterKey
// lives, and whoever keeps it may have a quantum computer by then. X25519
// ("age1..."), SSH keys and keys of plugins are read because people have them;
// [Recipient.Warning] says what is worse about each.
//
// A plugin is a program age-plugin-NAME of the PATH, which age starts. For a
// recipient "age1NAME1..." it has to be on the machine that encrypts, which is a
// node: whoever installs it there allows it. Recipients "age1tag1..." and
// "age1tagpq1..." name keys of hardware too and need no program to encrypt, so
// they are the better choice where the plugin has them.
//
// # Invariants
//
//   - I1: an age file has exactly one recipient, the one that was named, and is at most [MaxFile] bytes.
//   - I2: private keys exist only while one file is opened or one recipient derived, in the scope of package reveal; otherwise the file of them, without its passphrase, lies in protected memory.
//   - I3: what is opened goes straight into protected memory, has exactly the size that was asked for, and nothing of a file that does not open whole comes out.
//   - I4: no error has a byte of an identity, a passphrase, a recipient or a file in it.
//   - I5: a recipient is public: a private key that is given as one is refused before anything is made of it.
//   - I6: the plugin of a recipient ends, with all that it started, before [Encrypt] does, which waits for it no longer than [PluginTime] and its context.
//
// # Concurrency
//
// Everything is safe for concurrent use. The plugin of an identity may wait for a person,
// and a call with it lasts as long; it holds no lock. That of a recipient has a deadline.
//
// # Failure
//
// The library of age copies keys and plaintext on the heap and wipes none of it.
// So it runs in the scope of package reveal, which erases its stack and its
// heap in builds that can ([memsec.Status].Erases), and a collection is asked for
// afterwards; in other builds the copies stay until their memory is used again.
// A plugin is another process, and sees the key of the file. With AGEDEBUG=plugin
// in the environment age would write that key to stderr; plugins are refused then.
//
// # Source
//
// The age file format (C2SP age), with its plugin protocol; docs/adr/0038-persons-hold-shares-with-age.md.
package agebox
