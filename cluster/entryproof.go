package cluster

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"

	"github.com/hashicorp/raft"
)

// What a leader that has the MasterKey writes beside a command, in the extensions of
// the log entry. Changing any of it needs a format version of the cluster.
//
//	format u8 = 1 | prev u64 | applied u64 | chain 32 bytes | mac 32 bytes
const (
	entryProofFormat = 1
	entryProofBytes  = 1 + 8 + 8 + 32 + 32

	// entryProofLabel begins what the MAC is over. No other message under that key
	// begins with it.
	entryProofLabel = "krypton/v1/log-entry"
)

// entryProof is what a leader vouches for: this command stands in the log at this index
// and in this term, behind such an entry of the leader, and the leader had applied such and
// such before.
type entryProof struct {
	prev    uint64   // the entry before it for which the leader of its term vouched; 0: none
	applied uint64   // the last command that it had applied
	chain   [32]byte // the state chain there
	mac     [32]byte
}

func (p entryProof) encode() []byte {
	b := make([]byte, 0, entryProofBytes)
	b = append(b, entryProofFormat)
	b = binary.BigEndian.AppendUint64(b, p.prev)
	b = binary.BigEndian.AppendUint64(b, p.applied)
	b = append(b, p.chain[:]...)
	return append(b, p.mac[:]...)
}

// decodeEntryProof decodes the extensions of an entry; false: they are no proof.
func decodeEntryProof(b []byte) (p entryProof, ok bool) {
	if len(b) != entryProofBytes || b[0] != entryProofFormat {
		return p, false
	}
	p.prev, p.applied = binary.BigEndian.Uint64(b[1:]), binary.BigEndian.Uint64(b[9:])
	p.chain, p.mac = [32]byte(b[17:49]), [32]byte(b[49:])
	return p, true
}

// digest is what the MAC is over, behind its label. Index and term are those of the
// entry: a proof fits one place of one log.
//
//	SHA-256( part(keyspace id) | index u64 | term u64 | prev u64 | applied u64 | chain | SHA-256(command) )
func (p entryProof) digest(keyspace []byte, l *raft.Log) (sum [32]byte) {
	command := sha256.Sum256(l.Data)
	b := make([]byte, 0, 4+16+4*8+32+32)
	b = binary.BigEndian.AppendUint32(b, uint32(len(keyspace))) //nolint:gosec // 16.
	b = append(b, keyspace...)
	for _, n := range []uint64{l.Index, l.Term, p.prev, p.applied} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	b = append(b, p.chain[:]...)
	b = append(b, command[:]...)
	return sha256.Sum256(b)
}

// macFunc computes a MAC under a key that only an unsealed node has; false: sealed.
type macFunc = func(parts ...[]byte) ([32]byte, bool)

func macOf(mac macFunc, digest [32]byte) ([32]byte, bool) {
	return mac([]byte(entryProofLabel), digest[:])
}

// unverified is a proof that this node could not verify yet, because it was sealed.
type unverified struct {
	index  uint64
	digest [32]byte
	mac    [32]byte
}

// right reports whether the MAC is right; known is false on a sealed node.
func (u unverified) right(mac macFunc) (right, known bool) {
	want, ok := macOf(mac, u.digest)
	return ok && hmac.Equal(want[:], u.mac[:]), ok
}
