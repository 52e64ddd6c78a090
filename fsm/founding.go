package fsm

import (
	"crypto/sha256"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Founding returns the digest of what a genesis founds: who has authority, by which
// rules, under which CAs, and every other field of it, in the canonical encoding of
// [View.Digest]. Only the wrapped keys are left out, because from [FormatAuthority]
// on what wraps them depends on this digest: a history that begins with other persons
// or rules does not open the keys of this one.
//
//	SHA-256( u32 length | "krypton/v1/founding-digest" | canonical genesis )
func Founding(g *fsmpb.Genesis) (sum [32]byte) {
	g = proto.CloneOf(g)
	if k := g.GetInternalKey(); k != nil {
		k.Blob = nil
	}
	for _, s := range g.GetSecrets() {
		s.Blob = nil
	}
	return sha256.Sum256(appendCanonical(appendPart(nil, "krypton/v1/founding-digest"), g.ProtoReflect()))
}

// FoundingOf is Founding of the genesis that a cluster keeps. bound reports whether
// its internal keys depend on it; those of clusters that were founded before
// [FormatAuthority] do not.
func FoundingOf(c *fsmpb.Cluster) (sum [32]byte, bound bool, err error) {
	g := &fsmpb.Genesis{}
	if err := proto.Unmarshal(c.GetGenesis(), g); err != nil {
		return sum, false, errs.New(errs.StateCorrupt, "the genesis of the cluster does not decode", errs.Cause(err))
	}
	return Founding(g), g.GetFormatVersion() >= FormatAuthority, nil
}
