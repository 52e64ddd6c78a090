package plan

import (
	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/seal"
)

// Proto returns the plan as the API has it.
func (p Plan) Proto() *kryptonv1.SealPlan {
	out := &kryptonv1.SealPlan{Keys: holderProtos(p.Keys)}
	for _, g := range p.Groups {
		out.Groups = append(out.Groups, &kryptonv1.SealGroup{Name: g.Name, Threshold: uint32(min(max(g.Threshold, 0), 1<<16)), Holders: holderProtos(g.Holders)})
	}
	return out
}

func holderProtos(hs []Holder) (out []*kryptonv1.SealHolder) {
	for _, h := range hs {
		one := &kryptonv1.SealHolder{Name: h.Name, Recipient: h.Recipient, Keystore: h.Key.Provider, Key: string(h.Key.Key)}
		if !h.Domain.IsZero() {
			one.Domain = &kryptonv1.SealDomain{ProviderType: h.Domain.ProviderType, Account: h.Domain.Account, Region: h.Domain.Region}
		}
		if h.IsKeystore() {
			one.Protection = h.Protection.String()
		}
		out = append(out, one)
	}
	return out
}

// FromProto returns the plan that the API's message is. Nothing is checked yet, see
// [Plan.Check]; nil is the zero Plan.
func FromProto(m *kryptonv1.SealPlan) Plan {
	p := Plan{Keys: holdersOf(m.GetKeys())}
	for _, g := range m.GetGroups() {
		p.Groups = append(p.Groups, Group{Name: g.GetName(), Threshold: int(min(g.GetThreshold(), 1<<16)), Holders: holdersOf(g.GetHolders())})
	}
	return p
}

func holdersOf(ms []*kryptonv1.SealHolder) (out []Holder) {
	for _, m := range ms {
		d := m.GetDomain()
		h := Holder{
			Name: m.GetName(), Recipient: m.GetRecipient(), Key: seal.ProviderKey{Provider: m.GetKeystore(), Key: keystore.KeyRef(m.GetKey())},
			Domain: seal.Domain{ProviderType: d.GetProviderType(), Account: d.GetAccount(), Region: d.GetRegion()},
		}
		for _, p := range []keystore.Protection{keystore.ProtectionSoftware, keystore.ProtectionHSM} {
			if m.GetProtection() == p.String() {
				h.Protection = p
			}
		}
		out = append(out, h)
	}
	return out
}
