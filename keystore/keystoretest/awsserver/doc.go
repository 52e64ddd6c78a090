// Package awsserver is AWS for tests and demonstrations: KMS, STS and the instance metadata service on loopback ports.
//
// Two things stand behind the KMS endpoint. The key operations (keys, aliases,
// their states, the encryption with its context, import under RSA-2048) are
// local-kms, a program by others that [Start] runs as a child process from
// tools/localkms. What a cloud adds is this package's own, written from AWS's
// documents and not from AWS's code:
//
//   - TLS, and request ids in the header of every answer;
//   - Signature Version 4, verified in full against credentials that this
//     server issued, with their expiry and a clock that may differ by 5 minutes;
//   - key policies and identity policies, of which a part of the language is
//     understood and anything else refused;
//   - a trail with what CloudTrail records of a call;
//   - IncorrectKeyException, refusals of damaged blobs that local-kms would
//     stumble over, states that local-kms does not have, and throttling;
//   - import under RSA-4096, by principals of the key's own account;
//   - AssumeRoleWithWebIdentity and AssumeRole with trust policies and external
//     ids, and IMDSv2 with its token and hop limit.
//
// # Invariants
//
//   - I1: no call reaches a key without a signature by unexpired credentials of this server and a policy that allows it.
//   - I2: every call that arrives is in the trail, with its error code if it failed, before it is answered.
//   - I3: a policy with a word that this package does not know is an error, never an allowance.
//   - I4: everything listens on 127.0.0.1 or on a unix socket in a directory of mode 0700.
//
// # Concurrency
//
// A [Server] is safe for concurrent use; a control takes effect for calls that
// arrive after it returned.
//
// # Failure
//
// When the child dies, KMS answers 500 KMSInternalException. [Server.Close] ends
// the child; the child also ends by itself when this process does.
//
// # Source
//
// AWS Key Management Service API Reference, AWS Signature Version 4, IAM User
// Guide (policy evaluation), STS API Reference, EC2 User Guide (IMDSv2).
package awsserver
