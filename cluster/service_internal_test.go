package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

func TestI8_EveryCallIsFromACurrentMember(t *testing.T) {
	d, err := OpenDir(t.TempDir()+"/d", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	tr, err := openTrust(fsm.New(fsm.Options{}), d)
	if err != nil {
		t.Fatal(err)
	}
	spki := []byte("a public key")
	known := trusted{ID: d.NodeID(), PublicKey: spki, Address: "127.0.0.1:1"}
	if err := tr.learn([]trusted{known}); err != nil {
		t.Fatal(err)
	}
	_, hash, _ := tr.lookup(known.ID)
	c := &Cluster{trust: tr, log: slog.New(slog.DiscardHandler)}
	with := func(pc *peerConn) context.Context {
		if pc == nil {
			return t.Context()
		}
		return grpcpeer.NewContext(t.Context(), &grpcpeer.Peer{AuthInfo: peerAuth{conn: pc}})
	}
	for _, tc := range []struct {
		name   string
		conn   *peerConn
		server any
		code   codes.Code
	}{
		{"a member", &peerConn{peer: known.ID, keyHash: hash}, &peerService{}, codes.OK},
		{"a key that is no member's any more", &peerConn{peer: known.ID, keyHash: [32]byte{1}}, &peerService{}, codes.Unauthenticated},
		{"a member under another id", &peerConn{peer: "other", keyHash: hash}, &peerService{}, codes.Unauthenticated},
		{"a joining node at the members' service", &peerConn{keyHash: hash}, &peerService{}, codes.Unauthenticated},
		{"a joining node at the join service", &peerConn{keyHash: [32]byte{1}}, &joinService{}, codes.OK},
		{"no identity", nil, &joinService{}, codes.Unauthenticated},
	} {
		ran := false
		_, err := c.intercept(with(tc.conn), nil, &grpc.UnaryServerInfo{Server: tc.server, FullMethod: clusterpb.Peer_Members_FullMethodName}, func(context.Context, any) (any, error) {
			ran = true
			return struct{}{}, nil
		})
		if status.Code(err) != tc.code || ran != (tc.code == codes.OK) {
			t.Errorf("%s: %v, ran %v", tc.name, err, ran)
		}
	}
	member := with(&peerConn{peer: known.ID, keyHash: hash})
	for name, handle := range map[string]grpc.UnaryHandler{
		"a panic":              func(context.Context, any) (any, error) { panic("secret") },
		"an error of no code":  func(context.Context, any) (any, error) { return nil, errors.New("secret") },
		"an error with a code": func(context.Context, any) (any, error) { return nil, errs.New(errs.Internal, "internal error") },
	} {
		if _, err := c.intercept(member, nil, &grpc.UnaryServerInfo{Server: &peerService{}, FullMethod: clusterpb.Peer_Members_FullMethodName}, handle); status.Convert(err).Message() != "internal error" {
			t.Errorf("%s leaves as %v", name, err)
		}
	}
}

func TestABrokenConnectionLeavesACommandInDoubt(t *testing.T) {
	dead, cancel := context.WithCancel(t.Context())
	cancel()
	said := wire.ToStatus(errs.New(errs.Unavailable, "the leader says so")).Err()
	for _, tc := range []struct {
		name string
		gone bool // the caller
		err  error
		code errs.Code
	}{
		{"a broken connection", false, status.Error(codes.Unavailable, "reset"), errs.Indeterminate},
		{"a connection that this node closed", false, status.Error(codes.Canceled, "closing"), errs.Indeterminate},
		{"a caller that went away", true, status.Error(codes.Canceled, "canceled"), errs.Canceled},
		{"what the leader said", false, said, errs.Unavailable},
	} {
		ctx := t.Context()
		if tc.gone {
			ctx = dead
		}
		if err := sent(ctx, tc.err); !errs.Is(err, tc.code) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// TestClockOffsetKnowsItsError: what the journey of the question explains is no
// offset.
func TestClockOffsetKnowsItsError(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	ms := func(n int) time.Time { return at.Add(time.Duration(n) * time.Millisecond) }
	for _, tt := range []struct {
		asked, answered, wall int // ms
		want                  time.Duration
	}{
		{0, 10, 5, 0},
		{0, 10, 0, 0},  // answered at once, all of the time on the way back
		{0, 10, 11, 0}, // a millisecond was rounded
		{0, 10, 105, 100 * time.Millisecond},
		{0, 10, -95, -100 * time.Millisecond},
		{0, 1000, 900, 0}, // a slow answer tells little
		{0, 0, 3_600_000, time.Hour},
	} {
		if got := clockOffset(ms(tt.asked), ms(tt.answered), ms(tt.wall)); got != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
	}
}
