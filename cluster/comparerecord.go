package cluster

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	grpcpeer "google.golang.org/grpc/peer"
)

// compareRecord is compare.json.
type compareRecord struct {
	Format int `json:"format"`
	// Foreign: the state is, or is about to be, that of another member's snapshot. Else
	// the record only keeps whom a join token named, in case one comes.
	Foreign bool `json:"foreign"`
	// Sender is who sent it; without a key: unknown.
	Sender witness `json:"sender"`
	// Joined: the witnesses are those of a join token, and not voters of a registry.
	Joined    bool      `json:"joined,omitempty"`
	Witnesses []witness `json:"witnesses"`
}

// witness is a member with whom this node compares its state. What it is asked by is the
// key under which it was known before the snapshot came: who makes up a state makes up
// keys too.
type witness struct {
	ID      NodeID `json:"id,omitempty"` // empty: only its key is known
	KeyHash string `json:"key_sha256"`   // of its SubjectPublicKeyInfo, hex
}

func (w witness) hash() (sum [32]byte) {
	b, _ := hex.DecodeString(w.KeyHash) // checked when it was read
	copy(sum[:], b)
	return sum
}

// is reports whether that is the other end of a call.
func (w witness) is(from grpcpeer.Peer) bool {
	a, ok := from.AuthInfo.(peerAuth)
	return ok && a.conn.keyHash == w.hash()
}

func (w witness) String() string {
	if w.ID == "" {
		return "with the key " + w.KeyHash[:16]
	}
	return string(w.ID)
}

func decodeCompareRecord(raw []byte) (*compareRecord, error) {
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	dec.DisallowUnknownFields()
	r := new(compareRecord)
	err := dec.Decode(r)
	switch {
	case err != nil:
	case r.Format != 1:
		err = fmt.Errorf("format %d is not 1", r.Format)
	case dec.More():
		err = errors.New("something follows its end")
	case len(r.Witnesses) > maxTrusted:
		err = errors.New("it names too many members")
	case !r.Joined && r.Foreign && len(r.Witnesses) == 0:
		err = errors.New("it names nobody to compare with")
	}
	known := r.Witnesses
	if r.Sender.KeyHash != "" {
		known = append(slices.Clip(known), r.Sender)
	}
	for _, w := range known {
		if len(w.KeyHash) != 64 || !isHex(w.KeyHash) || w.ID != "" && !w.ID.Valid() || w.ID == "" && !r.Joined {
			err = errors.New("a member in it is malformed")
		}
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (r *compareRecord) from() string {
	if r.Sender.ID == "" {
		return "another member"
	}
	return "member " + string(r.Sender.ID)
}
