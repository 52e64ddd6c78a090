package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal/manifest"
	"github.com/openkcm/krypton-cluster/seal/plan"
)

type ceremoniesServer struct {
	kryptonv1.UnimplementedCeremoniesServer
	*calls
}

const ceremonyPrefix = "ceremonies/"

// ceremonyID takes the id out of ceremonies/{c}.
func ceremonyID(name string) ([]byte, error) {
	text, ok := strings.CutPrefix(name, ceremonyPrefix)
	id, err := hex.DecodeString(text)
	if !ok || err != nil || len(id) != hierarchy.UIDSize || text != strings.ToLower(text) {
		return nil, errs.New(errs.InvalidArgument, "the name of a ceremony is ceremonies/ and 32 hex digits", errs.Hint("krypton ceremony status shows it"))
	}
	return id, nil
}

// StartCeremony implements kryptonv1.CeremoniesServer.
func (s ceremoniesServer) StartCeremony(ctx context.Context, r *kryptonv1.StartCeremonyRequest) (*kryptonv1.Ceremony, error) {
	kind := fsmpb.CeremonyKind(r.GetKind())
	if fsm.CeremonyKindName(kind) == "" {
		return nil, errs.New(errs.InvalidArgument, "kind is not one of a ceremony", errs.Hint("RESHARE, MIGRATE or REKEY"))
	}
	if len(r.GetBaseManifest()) != 32 {
		return nil, errs.New(errs.InvalidArgument, "base_manifest is not the digest of a manifest", errs.Hint("32 bytes: that of the last of Ceremonies.GetManifests"))
	}
	wanted := plan.FromProto(r.GetPlan())
	accepted, err := plan.ParseRisks(r.GetAcceptRisks())
	if err != nil {
		return nil, err
	}
	profile, err := plan.ParseProfile(r.GetSealProfile())
	if err != nil {
		return nil, err
	}
	req, err := s.mutation(ctx, r)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.Ceremony
	err = s.do(ctx, gate.StartCeremony, node.ObjectSeal, func(tok gate.Token) error {
		if s.changedAt(tok, req.ID) == 0 { // a retry is answered from memory
			if err := s.node.WeighCeremony(wanted, accepted, profile); err != nil {
				return err
			}
		}
		c, err := s.node.BeginCeremony(ctx, tok, req, kind, r.GetBaseManifest(), sealPlanOf(wanted, r.GetAcceptRisks()), time.Duration(r.GetLifeSeconds())*time.Second)
		if err != nil {
			return err
		}
		out = s.ceremonyToAPI(c)
		return s.after(ctx, tok, req, newest(out))
	})
	return out, err
}

// sealPlanOf is a plan as people sign it and the registry has it: as it was asked for,
// without what a node knows of its keystores.
func sealPlanOf(p plan.Plan, risks []string) *fsmpb.SealPlan {
	out := &fsmpb.SealPlan{AcceptedRisks: risks}
	for _, k := range p.Keys {
		out.ProviderKeys = append(out.ProviderKeys, &fsmpb.SealKey{Provider: k.Key.Provider, Key: string(k.Key.Key)})
	}
	for _, g := range p.Groups {
		to := &fsmpb.SealGroup{Name: g.Name, Threshold: count(g.Threshold)}
		for _, h := range g.Holders {
			one := &fsmpb.SealHolder{Name: h.Name, Recipient: h.Recipient, ProviderType: h.Domain.ProviderType, Account: h.Domain.Account, Region: h.Domain.Region}
			if h.IsKeystore() {
				one.Key = &fsmpb.SealKey{Provider: h.Key.Provider, Key: string(h.Key.Key)}
			}
			to.Holders = append(to.Holders, one)
		}
		out.Groups = append(out.Groups, to)
	}
	return out
}

// GetCeremony implements kryptonv1.CeremoniesServer.
func (s ceremoniesServer) GetCeremony(ctx context.Context, r *kryptonv1.GetCeremonyRequest) (*kryptonv1.Ceremony, error) {
	id, err := ceremonyID(r.GetName())
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.Ceremony
	err = s.do(ctx, gate.GetCeremony, node.CeremonyName(id), func(gate.Token) error {
		l := s.look(ctx)
		c, ok := l.View.Ceremony(id)
		if !ok {
			return s.shown(ctx, l, 0, gate.NoSuchObject())
		}
		out = s.ceremonyToAPI(c)
		return s.shown(ctx, l, newest(out), nil)
	})
	return out, err
}

// ListCeremonies implements kryptonv1.CeremoniesServer.
func (s ceremoniesServer) ListCeremonies(ctx context.Context, _ *kryptonv1.ListCeremoniesRequest) (*kryptonv1.ListCeremoniesResponse, error) {
	out := &kryptonv1.ListCeremoniesResponse{}
	err := s.do(ctx, gate.ListCeremonies, "ceremonies", func(gate.Token) error {
		l := s.look(ctx)
		all := l.View.Ceremonies(nil, fsm.MaxCeremonies)
		slices.SortStableFunc(all, func(a, b *fsmpb.Ceremony) int { return int(b.GetCreateTimeMs() - a.GetCreateTimeMs()) })
		for _, c := range all {
			out.Ceremonies = append(out.Ceremonies, s.ceremonyToAPI(c))
		}
		return s.shown(ctx, l, newest(out), nil)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// ContributeToCeremony implements kryptonv1.CeremoniesServer.
func (s ceremoniesServer) ContributeToCeremony(ctx context.Context, r *kryptonv1.ContributeToCeremonyRequest) (*kryptonv1.Ceremony, error) {
	id, err := ceremonyID(r.GetName())
	switch {
	case err != nil:
		return nil, err
	case r.GetNodeId() != s.nodeID:
		return nil, errs.New(errs.ShareRefused, "the share is for another node than the one that answers", errs.Hint("a share goes to one node: give --addr of exactly one"))
	case len(r.GetSealedShare()) == 0:
		return nil, errs.New(errs.InvalidArgument, "the request has no share", errs.Hint("krypton ceremony contribute sends one"))
	}
	req, err := s.mutation(ctx, r)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.Ceremony
	err = s.do(ctx, gate.ContributeToCeremony, node.CeremonyName(id), func(tok gate.Token) error {
		c, err := s.node.ContributeToCeremony(ctx, tok, req, id, r.GetSealedShare())
		if err != nil {
			return err
		}
		out = s.ceremonyToAPI(c)
		return s.after(ctx, tok, req, newest(out))
	})
	return out, err
}

// ConfirmCeremony implements kryptonv1.CeremoniesServer.
func (s ceremoniesServer) ConfirmCeremony(ctx context.Context, r *kryptonv1.ConfirmCeremonyRequest) (*kryptonv1.Ceremony, error) {
	id, err := ceremonyID(r.GetName())
	switch {
	case err != nil:
		return nil, err
	case len(r.GetManifest()) != sha256.Size, len(r.GetAuthorities()) != sha256.Size:
		return nil, errs.New(errs.InvalidArgument, "manifest or authorities is not a digest", errs.Hint("32 bytes each: krypton ceremony confirm makes them of what was staged"))
	}
	req, err := s.mutation(ctx, r)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.Ceremony
	err = s.do(ctx, gate.ConfirmCeremony, node.CeremonyName(id), func(tok gate.Token) error {
		c, err := s.node.ConfirmCeremony(ctx, tok, req, id, r.GetManifest(), r.GetAuthorities())
		if err != nil {
			return err
		}
		out = s.ceremonyToAPI(c)
		return s.after(ctx, tok, req, newest(out))
	})
	return out, err
}

// CancelCeremony implements kryptonv1.CeremoniesServer.
func (s ceremoniesServer) CancelCeremony(ctx context.Context, r *kryptonv1.CancelCeremonyRequest) (*kryptonv1.Ceremony, error) {
	id, err := ceremonyID(r.GetName())
	if err != nil {
		return nil, err
	}
	req, err := s.mutation(ctx, r)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.Ceremony
	err = s.do(ctx, gate.CancelCeremony, node.CeremonyName(id), func(tok gate.Token) error {
		c, err := s.node.CancelCeremony(ctx, tok, req, id, r.GetReason())
		if err != nil {
			return err
		}
		out = s.ceremonyToAPI(c)
		return s.after(ctx, tok, req, newest(out))
	})
	return out, err
}

// GetManifests implements kryptonv1.CeremoniesServer.
func (s ceremoniesServer) GetManifests(ctx context.Context, _ *kryptonv1.GetManifestsRequest) (*kryptonv1.Manifests, error) {
	var out *kryptonv1.Manifests
	err := s.do(ctx, gate.GetManifests, node.ObjectSeal, func(gate.Token) error {
		l := s.look(ctx)
		c := l.View.Cluster()
		if c == nil {
			return errs.New(errs.Unavailable, "this node has not read its registry yet", errs.Hint("retry, or ask another node"))
		}
		out = &kryptonv1.Manifests{Genesis: c.GetGenesis(), Manifests: c.GetSealManifests()}
		for _, confirmed := range c.GetSealConfirmations() {
			b, err := proto.MarshalOptions{Deterministic: true}.Marshal(confirmed)
			if err != nil {
				return errs.New(errs.Internal, "a confirmation does not encode", errs.Cause(err))
			}
			out.Confirmations = append(out.Confirmations, b)
		}
		return s.shown(ctx, l, c.GetModIndex(), nil)
	})
	return out, err
}

// ceremonyToAPI shows a ceremony, and what this node knows of it besides.
func (c *calls) ceremonyToAPI(is *fsmpb.Ceremony) *kryptonv1.Ceremony {
	out := &kryptonv1.Ceremony{
		Name: node.CeremonyName(is.GetId()), Etag: etag(is.GetModIndex()), Kind: kryptonv1.CeremonyKind(is.GetKind()), State: kryptonv1.CeremonyState(is.GetState()),
		Plan: sealPlanToAPI(is.GetPlan()), AcceptedRisks: is.GetPlan().GetAcceptedRisks(), BaseManifest: is.GetBaseManifest(), NewManifest: is.GetNewManifest(),
		Requester: principalName(is.GetRequester()), CreateTime: stamp(is.GetCreateTimeMs()), ExpireTime: stamp(is.GetExpireTimeMs()), EndTime: stamp(is.GetEndTimeMs()),
		Confirmed: is.GetConfirmed(), CancelReason: is.GetCancelReason(), NodeId: c.nodeID, NodeName: c.nodeName,
	}
	v := c.machine.View()
	name := func(id string) string {
		if m, ok := v.Member(id); ok && m.GetName() != "" {
			return m.GetName()
		}
		return id
	}
	out.MadeBy, out.GatheredAt, out.ProvedBy = name(is.GetStagedNode()), name(is.GetGatheredAt()), name(is.GetProof().GetNode())
	if is.GetCancelledBy() != nil {
		out.CancelledBy = principalName(is.GetCancelledBy())
	}
	if is.GetState() == fsmpb.CeremonyState_CEREMONY_STATE_STAGED {
		for _, n := range fsm.CeremonyMissing(is) {
			out.Missing = append(out.Missing, count(n))
		}
		if is.GetProof() == nil {
			out.Provers = node.Provers(v, is)
		}
	}
	out.Exposure = c.exposureToAPI(v, is.GetId())
	if !fsm.CeremonyOpen(is) {
		return out
	}
	if cas := is.GetRekey().GetNewAuthorities(); len(cas) > 0 {
		out.StagedManifest = stagedManifest(is)
		for _, ca := range cas {
			out.NewAuthorities = append(out.NewAuthorities, &kryptonv1.NewAuthority{Name: ca.GetName(), Certificate: ca.GetPublic()})
		}
		out.NeedsConfirmation, out.ConfirmedBy = v.NeedsConfirmation(is), signersOf(v, is.GetConfirmedBy())
	}
	p := c.node.Ceremony(is.GetId())
	out.LastFailure = p.Failure
	out.ConsentHave, out.ConsentNeed, out.ConsentEnough = count(p.Gathered.Have), count(p.Gathered.Need), p.Gathered.Enough()
	return out
}

// stagedManifest is the manifest of the seal that a ceremony made; empty: there is none.
func stagedManifest(is *fsmpb.Ceremony) []byte {
	r, err := manifest.Parse(is.GetStagedRecord())
	if err != nil {
		return nil // the registry looked at it; who reads it compares it with its digest
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r.GetManifest())
	if err != nil {
		return nil
	}
	return b
}

func principalName(p *fsmpb.Principal) string {
	if p.GetKind() == "" {
		return ""
	}
	return p.GetKind() + "/" + p.GetName()
}

func sealPlanToAPI(p *fsmpb.SealPlan) *kryptonv1.SealPlan {
	out := &kryptonv1.SealPlan{}
	for _, k := range p.GetProviderKeys() {
		out.Keys = append(out.Keys, &kryptonv1.SealHolder{Keystore: k.GetProvider(), Key: k.GetKey()})
	}
	for _, g := range p.GetGroups() {
		to := &kryptonv1.SealGroup{Name: g.GetName(), Threshold: g.GetThreshold()}
		for _, h := range g.GetHolders() {
			one := &kryptonv1.SealHolder{Name: h.GetName(), Recipient: h.GetRecipient(), Keystore: h.GetKey().GetProvider(), Key: h.GetKey().GetKey()}
			if d := (&kryptonv1.SealDomain{ProviderType: h.GetProviderType(), Account: h.GetAccount(), Region: h.GetRegion()}); proto.Size(d) > 0 {
				one.Domain = d
			}
			to.Holders = append(to.Holders, one)
		}
		out.Groups = append(out.Groups, to)
	}
	return out
}
