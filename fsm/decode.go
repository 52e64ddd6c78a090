package fsm

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
)

const (
	// CommandFormat is the only format of commands so far.
	CommandFormat = 1

	// MaxCommandBytes bounds an encoded command. Proposers refuse a longer one
	// ([CheckSize]); Apply does not look, since a longer one that is in the log
	// must have the same effect everywhere.
	MaxCommandBytes = 1 << 20

	// MaxFormatVersion is the format version with which this program founds
	// clusters and to which it raises them. Members announce it. What each brought
	// stands in docs/formats.md.
	MaxFormatVersion = 8

	// knownFormat is the highest format version that Apply and Restore understand. A
	// release learns one before it announces it.
	knownFormat = FormatOwnedKeys

	// FormatRevocations is the format version of a cluster from which on
	// certificates can be revoked and commands say with which one they were asked
	// for: a release before it would stop at such a command.
	FormatRevocations = 2

	// FormatLeases is the format version of a cluster from which on objects have
	// gate indexes and leaders begin epochs of serving leases.
	FormatLeases = 3

	// FormatAuthority is the format version of a cluster from which on roles come
	// from issuers and role bindings in the registry, and tenants have governors.
	FormatAuthority = 4

	// FormatProofs is the format version of a cluster from which on an entry of the log
	// counts only if a node with the MasterKey vouched for it, see [NeedsProof], and a
	// member is admitted by a signature of its join token's key over the member.
	FormatProofs = 5

	// FormatCeremonies is the format version of a cluster from which on its seal changes,
	// by ceremonies, repairs and rekeys, and from which on it is recovered.
	FormatCeremonies = 6

	// FormatSealProof is the format version of a cluster from which on more than one
	// member proves what its seal becomes: proofs of new seals, rekeys of an exposed MasterKey.
	FormatSealProof = 7

	// FormatOwnedKeys is the format version of a cluster from which on tenants are bound
	// after they were made, by an identity that no other tenant has.
	FormatOwnedKeys = 8

	// maxDepth bounds nesting, so that hostile bytes cannot exhaust the stack.
	maxDepth = 32
)

var (
	errUnknownFields = errors.New("the command has fields or values that this release does not know")
	errNoBody        = errors.New("the command has no body that this release knows")
)

// decodeCommand decodes one command. skip means that this program does not
// understand it and it says that it may be skipped.
//
// Unknown fields count as not understood, at any depth: a replica that ignored
// a field that another one obeys would diverge from it.
func decodeCommand(raw []byte) (cmd *fsmpb.Command, skip bool, err error) {
	cmd = new(fsmpb.Command)
	if err := unmarshal(raw, cmd); err != nil {
		return nil, false, fmt.Errorf("decode command: %w", err)
	}
	if f := cmd.GetFormat(); f != CommandFormat {
		// The flag itself is part of the format, so it says nothing here.
		return nil, false, fmt.Errorf("unknown command format %d", f)
	}
	switch {
	case hasUnknown(cmd.ProtoReflect()):
		err = errUnknownFields
	case cmd.GetBody() == nil:
		err = errNoBody
	}
	if err != nil && cmd.GetSkippable() {
		return nil, true, nil
	}
	return cmd, false, err
}

// EncodeCommand returns the bytes of a command for the log, or an error if it
// is longer than [MaxCommandBytes]. Only the proposer encodes; every replica
// works on these bytes.
func EncodeCommand(cmd *fsmpb.Command) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(cmd)
	if err != nil {
		return nil, fmt.Errorf("encode command: %w", err)
	}
	if err := CheckSize(b); err != nil {
		return nil, err
	}
	return b, nil
}

func unmarshal(b []byte, m proto.Message) error {
	return proto.UnmarshalOptions{RecursionLimit: maxDepth}.Unmarshal(b, m)
}

// hasUnknown reports whether m or any message in it has a field or an enum
// number that this program does not know.
func hasUnknown(m protoreflect.Message) bool {
	if len(m.GetUnknown()) != 0 {
		return true
	}
	unknown := false
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.Enum() != nil && !fd.IsList():
			unknown = fd.Enum().Values().ByNumber(v.Enum()) == nil
		case fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				unknown = unknown || hasUnknown(v.List().Get(i).Message())
			}
		default:
			unknown = hasUnknown(v.Message())
		}
		return !unknown
	})
	return unknown
}
