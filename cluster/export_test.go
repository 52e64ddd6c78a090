package cluster

import (
	"context"
	"net"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
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
		_, err = clusterpb.NewJoinClient(cc).Join(ctx, &clusterpb.JoinRequest{Secret: make([]byte, 64<<10)})
	} else {
		_, err = clusterpb.NewPeerClient(cc).Prepare(ctx, &clusterpb.PrepareRequest{Request: make([]byte, maxMessage)})
	}
	return status.Code(err).String()
}

// SetSettleTime changes how long this node, as leader, waits for members to
// apply a caller's command.
func (c *Cluster) SetSettleTime(d time.Duration) { c.settleTime = d }
