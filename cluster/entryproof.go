package cluster

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"

	"github.com/hashicorp/raft"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/hierarchy"
)

// What a leader that has the MasterKey writes beside a command, in the extensions of
// the log entry. Changing any of it needs a format version of the cluster.
//
//	under the first MasterKey:  format u8 = 1 | prev u64 | applied u64 | chain 32 bytes | mac 32 bytes
//	under a later one:          format u8 = 2 | generation u64 | and so on
//
// So a cluster that was never rekeyed writes what older releases read, and what they
// do not read is in no log that they have.
const (
	firstProofFormat = 1
	firstProofBytes  = 1 + 8 + 8 + 32 + 32
	laterProofFormat = 2
	laterProofBytes  = firstProofBytes + 8

	// entryProofLabel begins what the MAC is over. No other message under that key
	// begins with it.
	entryProofLabel = "krypton/v1/log-entry"
)

// entryProof is what a leader vouches for: this command stands in the log at this index
// and in this term, behind such an entry of the leader, and the leader had applied such and
// such before.
type entryProof struct {
	generation hierarchy.Generation // of the MasterKey that its key comes from
	prev       uint64               // the entry before it for which the leader of its term vouched; 0: none
	applied    uint64               // the last command that it had applied
	chain      [32]byte             // the state chain there
	mac        [32]byte
}

func (p entryProof) encode() []byte {
	b := make([]byte, 0, laterProofBytes)
	if p.generation > 1 {
		b = append(b, laterProofFormat)
		b = binary.BigEndian.AppendUint64(b, uint64(p.generation))
	} else {
		b = append(b, firstProofFormat)
	}
	b = binary.BigEndian.AppendUint64(b, p.prev)
	b = binary.BigEndian.AppendUint64(b, p.applied)
	b = append(b, p.chain[:]...)
	return append(b, p.mac[:]...)
}

// decodeEntryProof decodes the extensions of an entry; false: they are no proof.
func decodeEntryProof(b []byte) (p entryProof, ok bool) {
	switch {
	case len(b) == firstProofBytes && b[0] == firstProofFormat:
		p.generation, b = 1, b[1:]
	case len(b) == laterProofBytes && b[0] == laterProofFormat:
		p.generation, b = hierarchy.Generation(binary.BigEndian.Uint64(b[1:])), b[9:]
		if p.generation < 2 {
			return entryProof{}, false // it has one encoding, and this is not it
		}
	default:
		return p, false
	}
	p.prev, p.applied = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	p.chain, p.mac = [32]byte(b[16:48]), [32]byte(b[48:])
	return p, true
}

// digest is what the MAC is over, behind its label. Index and term are those of the
// entry: a proof fits one place of one log.
//
//	SHA-256( part(keyspace id) | index u64 | term u64 | prev u64 | applied u64 | chain | SHA-256(command) )
//
// and from the second MasterKey on, whose number follows the keyspace id:
//
//	SHA-256( part(keyspace id) | generation u64 | index u64 | ... )
func (p entryProof) digest(keyspace []byte, l *raft.Log) (sum [32]byte) {
	command := sha256.Sum256(l.Data)
	b := make([]byte, 0, 4+16+5*8+32+32)
	b = binary.BigEndian.AppendUint32(b, uint32(len(keyspace))) //nolint:gosec // 16.
	b = append(b, keyspace...)
	if p.generation > 1 {
		b = binary.BigEndian.AppendUint64(b, uint64(p.generation))
	}
	for _, n := range []uint64{l.Index, l.Term, p.prev, p.applied} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	b = append(b, p.chain[:]...)
	b = append(b, command[:]...)
	return sha256.Sum256(b)
}

// macFunc computes a MAC under the key of a generation that only an unsealed node has;
// false: it has none.
type macFunc = fsm.MACFunc

func macOf(mac macFunc, g hierarchy.Generation, digest [32]byte) ([32]byte, bool) {
	return mac(g, []byte(entryProofLabel), digest[:])
}

// unverified is a proof that this node could not verify yet, because it was sealed
// or had another MasterKey.
type unverified struct {
	index      uint64
	generation hierarchy.Generation
	digest     [32]byte
	mac        [32]byte
}

func (p entryProof) unverified(keyspace []byte, l *raft.Log) unverified {
	return unverified{index: l.Index, generation: p.generation, digest: p.digest(keyspace, l), mac: p.mac}
}

// right reports whether the MAC is right; known is false on a node without the key.
func (u unverified) right(mac macFunc) (right, known bool) {
	want, ok := macOf(mac, u.generation, u.digest)
	return ok && hmac.Equal(want[:], u.mac[:]), ok
}
