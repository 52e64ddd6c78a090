package cluster

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"google.golang.org/grpc"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
)

// EntryAt returns the command at a log index as it is stored.
func (c *Cluster) EntryAt(index uint64) (*fsmpb.Command, error) {
	var l raft.Log
	if err := c.store.GetLog(index, &l); err != nil {
		return nil, err
	}
	cmd := &fsmpb.Command{}
	return cmd, proto.Unmarshal(l.Data, cmd)
}

// TakeSnapshot makes Raft write one now.
func (c *Cluster) TakeSnapshot() error { return c.raft.Snapshot().Error() }

// AskForVotes asks a member for a vote, for one before that, and to take a snapshot, as
// a candidate and a leader do, and returns the errors.
func (c *Cluster) AskForVotes(id NodeID) (all []error) {
	to := raft.ServerID(id)
	h := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(c.id), Addr: []byte(c.id)}
	return append(all,
		c.transport.RequestVote(to, "", &raft.RequestVoteRequest{RPCHeader: h}, &raft.RequestVoteResponse{}),
		c.transport.RequestPreVote(to, "", &raft.RequestPreVoteRequest{RPCHeader: h}, &raft.RequestPreVoteResponse{}),
		c.transport.InstallSnapshot(to, "", &raft.InstallSnapshotRequest{RPCHeader: h}, &raft.InstallSnapshotResponse{}, new(bytes.Reader)))
}

// SaysLead tells a member to become a candidate at once, as a leader that hands over does.
func (c *Cluster) SaysLead(id NodeID) error {
	return c.transport.TimeoutNow(raft.ServerID(id), "", &raft.TimeoutNowRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(c.id), Addr: []byte(c.id)},
	}, &raft.TimeoutNowResponse{})
}

// CaughtUp reports whether this leader would make the member a voter.
func (c *Cluster) CaughtUp(ctx context.Context, id NodeID) bool { return c.caughtUp(ctx, id, c.Term()) }

// FirstIndex is the first entry that is still in the log.
func (c *Cluster) FirstIndex() (uint64, error) { return c.store.FirstIndex() }

// DialMember connects to a member as this node does.
func (c *Cluster) DialMember(ctx context.Context, id NodeID, proto string) (net.Conn, error) {
	return c.port.dial(ctx, id, proto)
}

// DialAs connects to an address as this node does, knowing the other's key.
func (c *Cluster) DialAs(ctx context.Context, address string, keyHash [32]byte, proto string) (net.Conn, error) {
	return c.port.dialKey(ctx, address, keyHash, proto)
}

// Secret is the token's secret.
func (t JoinToken) Secret() []byte {
	s := t.secret()
	return s[:]
}

// The protocols of the peer port.
const (
	ProtoRaft = protoRaft
	ProtoPeer = protoPeer
	ProtoJoin = protoJoin
)

// ApplyRaw makes bytes an entry, whatever they are.
func (c *Cluster) ApplyRaw(b []byte) error {
	f := c.raft.Apply(b, 0)
	if err := f.Error(); err != nil {
		return err
	}
	err, _ := f.Response().(error)
	return err
}

// SendLarge sends a message above every limit and returns the status code.
func (c *Cluster) SendLarge(ctx context.Context, address string, keyHash [32]byte, proto string) string {
	cc, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(peerCreds{}), grpc.WithDisableServiceConfig(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return c.port.dialKey(ctx, address, keyHash, proto)
		}))
	if err != nil {
		return err.Error()
	}
	defer func() { _ = cc.Close() }()
	if proto == protoJoin {
		_, err = clusterpb.NewJoinClient(cc).Join(ctx, &clusterpb.JoinRequest{TokenKey: make([]byte, 64<<10)})
	} else {
		_, err = clusterpb.NewPeerClient(cc).Prepare(ctx, &clusterpb.PrepareRequest{Request: make([]byte, maxMessage)})
	}
	return status.Code(err).String()
}

// AsPeer runs f with a client of a member's peer service.
func (c *Cluster) AsPeer(ctx context.Context, to NodeID, f func(clusterpb.PeerClient) error) error {
	p, err := c.peers.ready(ctx, to)
	if err != nil {
		return err
	}
	return f(p)
}

// Intercept asks whether the holder of a key may call a method of this node.
func (c *Cluster) Intercept(ctx context.Context, id NodeID, keyHash [32]byte, method string) error {
	ctx = grpcpeer.NewContext(ctx, &grpcpeer.Peer{AuthInfo: peerAuth{conn: &peerConn{peer: id, keyHash: keyHash}}})
	_, err := c.intercept(ctx, nil, &grpc.UnaryServerInfo{Server: &peerService{}, FullMethod: method}, func(context.Context, any) (any, error) {
		return struct{}{}, nil
	})
	return err
}

// Plant puts a key on the trust list, as a member that lies does.
func (c *Cluster) Plant(id NodeID, key []byte, address string) error {
	return c.trust.learn([]trusted{{ID: id, PublicKey: key, Address: address}})
}

// Trusts reports whether the holder of the key gets a connection.
func (c *Cluster) Trusts(keyHash [32]byte) bool {
	_, ok := c.trust.peerOf(keyHash)
	return ok
}

// LeaseStream is a member's end of its stream to the leader.
type LeaseStream = leaseStream

// WrapLeases stands between this node and its streams. It is called before Run.
func (c *Cluster) WrapLeases(wrap func(LeaseStream) LeaseStream) { c.leases.through = wrap }

// Never is the time since a contact that never was.
const Never = never

// EditLog changes the data of the last command in the log of a stopped node that
// f changes, and mends its checksum, as somebody does who knows the format.
func EditLog(path string, f func(command []byte) []byte) error {
	db, err := raftboltdb.NewBoltStore(path)
	if err != nil {
		return err
	}
	last, err := db.LastIndex()
	for i := last; i > 0 && err == nil; i-- {
		l := new(raft.Log)
		if err = db.GetLog(i, l); err != nil {
			break
		}
		if err = unsealEntry(l); err != nil || l.Type != raft.LogCommand {
			continue
		}
		if now := f(l.Data); !bytes.Equal(now, l.Data) {
			l.Data = now
			return errors.Join(db.StoreLog(sealEntry(l)), db.Close())
		}
	}
	return errors.Join(err, errors.New("no command was changed"), db.Close())
}

// CutLog removes all but the first keep entries from the log of a stopped node:
// what a node has that stopped while its leader was still sending the log.
func CutLog(path string, keep uint64) error {
	db, err := raftboltdb.NewBoltStore(path)
	if err != nil {
		return err
	}
	first, err := db.FirstIndex()
	if err != nil {
		return errors.Join(err, db.Close())
	}
	last, err := db.LastIndex()
	if err == nil {
		err = db.DeleteRange(first+keep, last)
	}
	return errors.Join(err, db.Close())
}

// OldEntries puts entries at the indexes from 1 to n into the log of a stopped
// node, as it had before its leader sent it a snapshot.
func OldEntries(path string, n uint64) error {
	db, err := raftboltdb.NewBoltStore(path)
	for i := uint64(1); i <= n && err == nil; i++ {
		err = db.StoreLog(sealEntry(&raft.Log{Index: i, Term: 1, Type: raft.LogNoop}))
	}
	return errors.Join(err, db.Close())
}

// ListenAddress is where the peer port is, whatever this node tells the others.
func (c *Cluster) ListenAddress() string { return c.port.ln.Addr().String() }

// GiveSnapshot is Raft that installs a snapshot, whatever it is.
func (c *Cluster) GiveSnapshot(b []byte) error {
	return c.adapter.Restore(io.NopCloser(bytes.NewReader(b)))
}

// ForgetChains is the moment between a command that readers see and the note of
// its chain.
func (c *Cluster) ForgetChains() { c.chains.forget() }

// Forwarded is what the leader does with what a member forwards.
func (c *Cluster) Forwarded(ctx context.Context, req *clusterpb.ProposeRequest, via NodeID) (*clusterpb.ProposeResponse, error) {
	return c.forwarded(ctx, req, via)
}

// OnForward has f see every request that this node is about to forward.
func (c *Cluster) OnForward(f func(*clusterpb.ProposeRequest)) {
	ready := c.peers.ready
	c.peers.ready = func(ctx context.Context, id NodeID) (clusterpb.PeerClient, error) {
		p, err := ready(ctx, id)
		return seenPeer{p, f}, err
	}
}

type seenPeer struct {
	clusterpb.PeerClient

	see func(*clusterpb.ProposeRequest)
}

func (p seenPeer) Propose(ctx context.Context, req *clusterpb.ProposeRequest, opts ...grpc.CallOption) (*clusterpb.ProposeResponse, error) {
	p.see(req)
	return p.PeerClient.Propose(ctx, req, opts...)
}

// Shows returns what a node with that id and key shows of the token when it joins.
func (t JoinToken) Shows(id NodeID, spki []byte, region string) (key, signature []byte) {
	return t.applies(memberOf(applicant{id: id, spki: spki, info: &clusterpb.NodeInfo{Region: region}}))
}
