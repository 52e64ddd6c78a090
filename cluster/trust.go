package cluster

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// maxTrusted bounds the trust list; a cluster has at most this many nodes that
// a joining or lagging node learns of.
const maxTrusted = 1024

// trusted is a member as a node knows it that has no registry yet.
type trusted struct {
	ID        NodeID `json:"id"`
	PublicKey []byte `json:"public_key"` // SubjectPublicKeyInfo, DER
	Address   string `json:"address"`
}

// trust says which keys are members. The member entries of the view decide;
// beside them stands a list for the time in which the view knows less than the
// cluster: before a new node has the log, after a restart until entries of the
// log are known to be committed, and while a node lags behind a membership that
// grew. The list comes from the join answer, from the view, and from members
// that are in it already; it never overrules a removal that the view knows (I8).
//
// Who is on the list only may be dialled, may speak Raft, and may ask what
// forUnproven names, because a node could not catch up otherwise. Any member
// could have put it there; so it gets nothing else, and it is dropped as soon as
// this node had a lease, when the view has every member there is (I12).
type trust struct {
	machine *fsm.Machine
	path    string

	saving sync.Mutex // held while the list is changed and written, by whom nobody waits for
	kept   []byte     // what the file holds

	mu   sync.Mutex
	list map[NodeID]trusted
}

// peersRecord is tls/peers.json.
type peersRecord struct {
	Format int       `json:"format"`
	Peers  []trusted `json:"peers"`
}

func openTrust(m *fsm.Machine, d *Dir) (*trust, error) {
	t := &trust{machine: m, path: d.Path(peersFile), list: map[NodeID]trusted{}}
	raw, err := readSmall(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return nil, dirError("read", t.path, err)
	}
	t.kept = raw
	var rec peersRecord
	if err = json.Unmarshal(raw, &rec); err == nil && rec.Format != 1 {
		err = fmt.Errorf("format %d is not 1", rec.Format)
	}
	for _, p := range rec.Peers {
		if _, kerr := x509.ParsePKIXPublicKey(p.PublicKey); !p.ID.Valid() || kerr != nil {
			err = errors.New("an entry is malformed")
		}
		t.list[p.ID] = p
	}
	if err != nil {
		return nil, errs.New(errs.StateCorrupt, t.path+" cannot be used: "+jsonProblem(err),
			errs.Hint("copy the file from another member of the cluster, it holds public keys only; where there is no other member, remove it"), errs.Cause(err))
	}
	return t, nil
}

// checkOwn refuses a member key that is not the one under which others know this
// node. Such a node would be shut out by everybody, or be taken for another one.
func (t *trust) checkOwn(id NodeID, spki []byte) error {
	t.mu.Lock()
	own := t.list[id].PublicKey
	t.mu.Unlock()
	if m, ok := t.machine.View().Member(string(id)); ok {
		own = m.GetPublicKey()
	}
	if own == nil || bytes.Equal(own, spki) {
		return nil
	}
	return errs.New(errs.StateCorrupt, "tls/node.key is not the key of this member, node "+string(id),
		errs.Hint("a file in tls/ is damaged or of another node; %s", startAnew))
}

// joined reports whether the list has this node, as one that was admitted gets
// it, and another node that is one of those servers.
func (t *trust) joined(id NodeID, servers map[raft.ServerID]bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, self := t.list[id]
	for other := range t.list {
		if self && other != id && servers[raft.ServerID(other)] {
			return true
		}
	}
	return false
}

// peerOf returns the member with the key, or false for a key that is none (I2).
func (t *trust) peerOf(keyHash [32]byte) (NodeID, bool) {
	if m, ok := t.machine.View().MemberByKey(keyHash); ok {
		return NodeID(m.GetId()), !m.GetRemoved()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.list {
		if sha256.Sum256(p.PublicKey) == keyHash {
			return p.ID, true
		}
	}
	return "", false
}

// memberOf returns the member in the view with the key.
func (t *trust) memberOf(keyHash [32]byte) (NodeID, bool) {
	m, ok := t.machine.View().MemberByKey(keyHash)
	return NodeID(m.GetId()), ok && !m.GetRemoved()
}

// lookup returns the address and the key of a member.
func (t *trust) lookup(id NodeID) (address string, keyHash [32]byte, ok bool) {
	if m, found := t.machine.View().Member(string(id)); found {
		return m.GetPeerAddress(), sha256.Sum256(m.GetPublicKey()), !m.GetRemoved()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p, ok := t.list[id]
	return p.Address, sha256.Sum256(p.PublicKey), ok
}

// current returns every member known, sorted by id.
func (t *trust) current() []trusted {
	all := map[NodeID]trusted{}
	t.mu.Lock()
	maps.Copy(all, t.list)
	t.mu.Unlock()
	for _, m := range t.machine.View().Members() {
		all[NodeID(m.GetId())] = trusted{ID: NodeID(m.GetId()), PublicKey: m.GetPublicKey(), Address: m.GetPeerAddress()}
	}
	view := t.machine.View()
	for id := range all {
		if m, ok := view.Member(string(id)); ok && m.GetRemoved() {
			delete(all, id)
		}
	}
	return sorted(all)
}

// unknown returns those of all that this node does not know, or knows with
// another address or key.
func (t *trust) unknown(all []trusted) []trusted {
	var out []trusted
	for _, p := range all {
		address, keyHash, _ := t.lookup(p.ID)
		if _, inView := t.machine.View().Member(string(p.ID)); !inView && (address != p.Address || keyHash != sha256.Sum256(p.PublicKey)) {
			out = append(out, p)
		}
	}
	return out
}

// learn adds members that a member or the view names, and keeps the list on
// disk: without it a cluster that stopped as a whole could not elect, because
// its nodes know each other from the log, which they may not apply before.
func (t *trust) learn(more []trusted) error {
	t.saving.Lock()
	defer t.saving.Unlock()
	t.mu.Lock()
	for _, p := range more {
		if p.ID.Valid() && len(p.PublicKey) != 0 && (len(t.list) < maxTrusted || t.list[p.ID].ID == p.ID) {
			t.list[p.ID] = p
		}
	}
	t.mu.Unlock()
	return t.keep(t.current())
}

// settle makes the list what the view says and nothing else, for a node that has
// just had a lease. It reports whether there was anybody whom the view never had; the
// connections of removed members end as [Cluster.watchMembers] says.
func (t *trust) settle() (dropped bool, err error) {
	t.saving.Lock()
	defer t.saving.Unlock()
	want := map[NodeID]trusted{}
	view := t.machine.View()
	for _, m := range view.Members() {
		if !m.GetRemoved() {
			want[NodeID(m.GetId())] = trusted{ID: NodeID(m.GetId()), PublicKey: m.GetPublicKey(), Address: m.GetPeerAddress()}
		}
	}
	t.mu.Lock()
	same := len(want) == len(t.list)
	for id, p := range t.list {
		w, ok := want[id]
		same = same && ok && w.Address == p.Address && string(w.PublicKey) == string(p.PublicKey)
		_, was := view.Member(string(id))
		dropped = dropped || !was
	}
	t.mu.Unlock()
	if same || len(want) == 0 {
		return false, nil
	}
	return dropped, t.keep(sorted(want))
}

func sorted(all map[NodeID]trusted) []trusted {
	return slices.SortedFunc(maps.Values(all), func(a, b trusted) int { return strings.Compare(string(a.ID), string(b.ID)) })
}

// keep makes now the list, on disk first. The caller holds saving.
func (t *trust) keep(now []trusted) error {
	raw, err := json.MarshalIndent(peersRecord{Format: 1, Peers: now}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode trust list: %w", err)
	}
	raw = append(raw, '\n')
	if !bytes.Equal(raw, t.kept) {
		if err := writeFileAtomic(t.path, raw); err != nil {
			return err
		}
		t.kept = raw
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = map[NodeID]trusted{}
	for _, p := range now {
		t.list[p.ID] = p
	}
	return nil
}
