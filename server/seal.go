package server

import (
	"context"
	"encoding/hex"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal"
)

type sealServer struct {
	kryptonv1.UnimplementedSealServer
	*calls
}

// MaxReason is the longest reason of a seal, in bytes.
const MaxReason = fsm.MaxReasonBytes

func (c *calls) sealStatus() (*kryptonv1.SealStatus, error) {
	st, err := c.node.GetSeal()
	if err != nil {
		return nil, err
	}
	out := &kryptonv1.SealStatus{
		NodeId: c.nodeID, NodeName: c.nodeName, State: kryptonv1.SealState_SEAL_STATE_UNINITIALIZED,
		Generation: uint32(st.Generation), //nolint:gosec // One per rekey; the record holds 32 bits.
		Have:       count(st.Have), Need: count(st.Need), Shares: count(st.Shares),
		StartKey: st.Offer.Public, StartKeySignature: st.Offer.Signature, NodeCertificate: c.certificate(), NodeCertificateChain: c.leads(),
		Held: st.Held, HoldReason: st.HoldReason, LastFailure: st.LastFailure, WayBack: st.WayBack,
		PolicyFaults:  count(len(c.node.PolicyFaults())),
		PersonsNeeded: count(st.Persons), UnsealsWithoutPeople: unsealsWithoutPeople(st),
	}
	if st.Offer.Target.Cluster != (seal.Fingerprint{}) {
		out.Fingerprint = hex.EncodeToString(st.Offer.Target.Cluster[:])
	}
	switch {
	case st.Unsealed:
		out.State = kryptonv1.SealState_SEAL_STATE_UNSEALED
	case st.Initialized:
		out.State = kryptonv1.SealState_SEAL_STATE_SEALED
	}
	switch st.Mode {
	case seal.ModeAuto:
		out.Mode = kryptonv1.SealMode_SEAL_MODE_AUTO
	case seal.ModeShamir:
		out.Mode = kryptonv1.SealMode_SEAL_MODE_SHAMIR
	case seal.ModeUnspecified:
	}
	describeHolders(out, st)
	return out, nil
}

// unsealsWithoutPeople: also where keystores hold as many shares as it takes.
func unsealsWithoutPeople(st node.SealStatus) bool {
	return st.Mode != seal.ModeUnspecified && st.Persons == 0
}

// describeHolders says who can unseal the node, and what came of each.
func describeHolders(out *kryptonv1.SealStatus, st node.SealStatus) {
	p := st.Progress
	for _, g := range p.Groups {
		out.Groups = append(out.Groups, &kryptonv1.GroupProgress{
			Name: g.Name, Have: count(g.Have), Need: count(g.Need), Shares: count(g.Shares), PersonsNeeded: count(g.People),
		})
	}
	for _, h := range p.Holders {
		one := &kryptonv1.HolderProgress{
			Index: count(h.Index), Group: p.Groups[h.Group].Name, Name: h.Name, Keystore: h.Key.Provider, Key: string(h.Key.Key),
			State: holderStates[h.State], Since: moment(h.Since), Protection: protections[st.Protections[h.Key]],
		}
		if f := h.Failure; f != nil {
			one.Failure, one.RequestId = f.Class.String(), printable(string(f.RequestID))
		}
		out.Holders = append(out.Holders, one)
	}
	if !st.Unsealed {
		out.Enough, out.SharesExpireTime = p.Enough(), moment(p.Expires)
	}
	out.WatchTime, out.Protection = moment(st.Watched), protections[st.Protection]
	if !st.Watched.IsZero() {
		m := p.Margin()
		out.Margin = &kryptonv1.SealMargin{
			WithoutPeople: m.WithoutPeople >= 0, KeystoresToSpare: count(m.WithoutPeople), Opens: m.AtAll >= 0, HoldersToSpare: count(m.AtAll),
		}
	}
}

// moment is nil for no time.
func moment(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// printable leaves of what a keystore said what a terminal can show.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
}

//nolint:gochecknoglobals // Immutable.
var (
	holderStates = map[seal.HolderState]kryptonv1.HolderState{
		seal.HolderAwaited: kryptonv1.HolderState_HOLDER_STATE_AWAITED,
		seal.HolderIdle:    kryptonv1.HolderState_HOLDER_STATE_IDLE,
		seal.HolderAsked:   kryptonv1.HolderState_HOLDER_STATE_ASKED,
		seal.HolderGave:    kryptonv1.HolderState_HOLDER_STATE_GAVE,
		seal.HolderFailed:  kryptonv1.HolderState_HOLDER_STATE_FAILED,
		seal.HolderMissing: kryptonv1.HolderState_HOLDER_STATE_MISSING,
	}
	protections = map[keystore.Protection]kryptonv1.KeyProtection{
		keystore.ProtectionSoftware: kryptonv1.KeyProtection_KEY_PROTECTION_SOFTWARE,
		keystore.ProtectionHSM:      kryptonv1.KeyProtection_KEY_PROTECTION_HSM,
	}
)

// count turns a small number of our own into what the API has.
func count(n int) uint32 {
	return uint32(max(n, 0)) //nolint:gosec // Counts of shares, persons and versions; lines of a text of 64 KiB.
}

// GetSeal implements kryptonv1.SealServer.
func (s sealServer) GetSeal(ctx context.Context, _ *kryptonv1.GetSealRequest) (*kryptonv1.SealStatus, error) {
	var out *kryptonv1.SealStatus
	err := s.do(ctx, gate.GetSeal, node.ObjectSeal, func(tok gate.Token) (err error) {
		if out, err = s.sealStatus(); err == nil && tok.Principal().Role == auth.RoleWorkload {
			// What people wrote, and what the operator's keystore said, is not for
			// the programs of tenants.
			out.HoldReason, out.LastFailure, out.WayBack, out.Enough, out.Holders, out.Margin = "", "", "", "", nil, nil
			for _, g := range out.GetGroups() {
				g.Name = ""
			}
		}
		return err
	})
	return out, err
}

// Contribute implements kryptonv1.SealServer.
func (s sealServer) Contribute(ctx context.Context, r *kryptonv1.ContributeRequest) (*kryptonv1.SealStatus, error) {
	if r.GetNodeId() != s.nodeID {
		return nil, errs.New(errs.ShareRefused, "the share is for another node than the one that answers",
			errs.Hint("every node unseals by itself: give --addr of exactly one node"))
	}
	if len(r.GetSealedShare()) == 0 && !r.GetReset_() {
		return nil, errs.New(errs.InvalidArgument, "the request has neither a share nor reset", errs.Hint("krypton unseal sends a share"))
	}
	var out *kryptonv1.SealStatus
	err := s.do(ctx, gate.Contribute, node.ObjectSeal, func(tok gate.Token) (err error) {
		if r.GetReset_() {
			if err := s.node.ResetShares(tok); err != nil {
				return err
			}
		}
		if len(r.GetSealedShare()) > 0 {
			if err := s.node.Contribute(ctx, tok, r.GetSealedShare()); err != nil {
				return err
			}
		}
		out, err = s.sealStatus()
		return err
	})
	return out, err
}

// GetShard implements kryptonv1.SealServer.
func (s sealServer) GetShard(ctx context.Context, r *kryptonv1.GetShardRequest) (*kryptonv1.EncryptedShard, error) {
	of := node.ShardOf{Index: int(r.GetIndex()), Holder: r.GetHolder(), Recipient: r.GetRecipient()}
	if r.GetCeremony() != "" {
		id, err := ceremonyID(r.GetCeremony())
		if err != nil {
			return nil, err
		}
		of.Ceremony = id
	}
	set := 0
	for _, is := range []bool{of.Index != 0, of.Holder != "", of.Recipient != ""} {
		if is {
			set++
		}
	}
	if set != 1 {
		return nil, errs.New(errs.InvalidArgument, "not exactly one of index, holder and recipient is given", errs.Hint("name the share in one way"))
	}
	// Parameters of a URL come here as they are, fields of a message only as text.
	if !utf8.ValidString(of.Holder) || !utf8.ValidString(of.Recipient) {
		return nil, errs.New(errs.InvalidArgument, "holder or recipient is no valid UTF-8", errs.Hint("krypton status shows the holders"))
	}
	var out *kryptonv1.EncryptedShard
	err := s.do(ctx, gate.GetShard, node.ObjectSeal, func(tok gate.Token) error {
		shard, err := s.node.GetShard(tok, of)
		if err != nil {
			return err
		}
		m, err := proto.MarshalOptions{Deterministic: true}.Marshal(shard.Manifest)
		if err != nil {
			return err
		}
		out = &kryptonv1.EncryptedShard{Index: count(shard.Index), Shard: shard.File, Manifest: m}
		return nil
	})
	return out, err
}

// SealNode implements kryptonv1.SealServer.
func (s sealServer) SealNode(ctx context.Context, r *kryptonv1.SealNodeRequest) (*kryptonv1.SealStatus, error) {
	if len(r.GetReason()) > MaxReason {
		return nil, errs.Newf(errs.TooLarge, "the reason has %d bytes, at most %d are kept", len(r.GetReason()), MaxReason).
			With(errs.Hint("say it in fewer words"))
	}
	if strings.ContainsFunc(r.GetReason(), unicode.IsControl) {
		return nil, errs.New(errs.InvalidArgument, "the reason has a control character", errs.Hint("write it as one line of text"))
	}
	req, err := s.mutation(ctx, r)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.SealStatus
	if r.GetCluster() {
		err = s.do(ctx, gate.SealCluster, node.ObjectSeal, func(tok gate.Token) (err error) {
			if err := s.node.SetHold(ctx, tok, req, node.Held, r.GetReason()); err != nil {
				return err
			}
			out, err = s.sealStatus()
			return err
		})
		return out, err
	}
	callOf(ctx).operation = "" // this node seals by itself, which no other waits for
	err = s.do(ctx, gate.SealNode, node.ObjectSeal, func(tok gate.Token) (err error) {
		if err := s.node.Seal(ctx, tok); err != nil {
			return err
		}
		out, err = s.sealStatus()
		return err
	})
	return out, err
}

// ReleaseHold implements kryptonv1.SealServer.
func (s sealServer) ReleaseHold(ctx context.Context, r *kryptonv1.ReleaseHoldRequest) (*kryptonv1.SealStatus, error) {
	req, err := s.mutation(ctx, r)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.SealStatus
	err = s.do(ctx, gate.ReleaseHold, node.ObjectSeal, func(tok gate.Token) (err error) {
		if err := s.node.SetHold(ctx, tok, req, node.Released, ""); err != nil {
			return err
		}
		out, err = s.sealStatus()
		return err
	})
	return out, err
}
