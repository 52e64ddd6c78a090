package node

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"log/slog"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal"
)

// witnessTask asks a voter, over the peer port, to open what a repair of the seal would
// put in the place of wrappings, and to sign that it did. An encoded command follows, with
// the repair and the correlation id of the leader's round. As [offerTask] it is none itself.
const witnessTask = "krypton/v1/witness-wrapping"

// witnessed has voters open what a repair replaces (I17), and returns the repair and what
// they sign. A wrapping that too few of them opened stays as it was, and so does one if all
// would go. Nothing that is left is an error.
func (n *Node) witnessed(ctx context.Context, v *fsm.View, base [32]byte, was, better seal.Record, lost []seal.ProviderKey) (seal.Record, []*fsmpb.WrappingWitness, error) {
	replaced := better.Replaced(was)
	voters, _ := v.Voters()
	need := fsm.WitnessNeed(voters)
	if v.Cluster().GetFormatVersion() < fsm.FormatSealProof || len(replaced) == 0 {
		return better, nil, nil
	}
	if len(replaced) == len(was.Proto().GetWrappings()) {
		// One has to stay as it was; another round replaces that. It is one that opens, of
		// which this node has a younger wrapping than the registry, or what was added opens.
		stays := max(0, slices.IndexFunc(replaced, func(k seal.ProviderKey) bool { return !slices.Contains(lost, k) }))
		var err error
		if better, err = better.Keep(was, replaced[stays:stays+1]); err != nil {
			return seal.Record{}, nil, err
		}
		replaced = slices.Delete(replaced, stays, stays+1)
	}
	var words []*fsmpb.WrappingWitness
	if need > 0 {
		all, err := n.askWitnesses(ctx, v, base, better, replaced)
		if err != nil {
			return seal.Record{}, nil, err
		}
		replaced = slices.DeleteFunc(replaced, func(k seal.ProviderKey) bool {
			if len(all[k]) < need {
				return false // stays below, as one that is not replaced
			}
			words = append(words, all[k][:need]...)
			return true
		})
	} else {
		replaced = nil
	}
	for _, k := range replaced {
		n.log.WarnContext(ctx, "the wrapping of the seal by a keystore is lost, and no second voter opened what would replace it", slog.String("keystore", k.Provider))
	}
	left, err := better.Keep(was, replaced)
	if err != nil {
		return seal.Record{}, nil, err
	}
	if left.Digest() == was.Digest() {
		return seal.Record{}, nil, errs.New(errs.Unavailable, "no second voter opened the new wrapping of the MasterKey, so the seal is not repaired",
			errs.Hint("every node needs the keystores of the seal in its configuration, and another voter has to run; the leader tries again by itself"))
	}
	return left, words, nil
}

// askWitnesses asks all voters at once, this one among them, and returns by key what those
// sign who opened the wrapping.
func (n *Node) askWitnesses(ctx context.Context, v *fsm.View, base [32]byte, better seal.Record, replaced []seal.ProviderKey) (map[seal.ProviderKey][]*fsmpb.WrappingWitness, error) {
	b, err := better.Marshal()
	if err != nil {
		return nil, err
	}
	task, err := proto.Marshal(&fsmpb.Command{
		CorrelationId: string(corr.From(ctx)),
		Body:          &fsmpb.Command_RepairSeal{RepairSeal: &fsmpb.RepairSeal{Base: base[:], Record: b}},
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*keystoreTime) // they ask their keystores
	defer cancel()
	var (
		mu  sync.Mutex
		wg  sync.WaitGroup
		out = map[seal.ProviderKey][]*fsmpb.WrappingWitness{}
	)
	fingerprint := [32]byte(v.Cluster().GetFingerprint())
	for _, m := range v.Members() {
		if m.GetRemoved() || !m.GetVoter() {
			continue
		}
		wg.Go(func() {
			var answer []byte
			var err error
			if m.GetId() == n.id {
				answer, err = n.witness(ctx, task)
			} else {
				answer, err = n.cluster.PrepareOn(ctx, m.GetId(), append([]byte(witnessTask), task...))
			}
			says := &fsmpb.RepairSeal{}
			if err == nil {
				err = proto.Unmarshal(answer, says)
			}
			if err != nil {
				n.log.WarnContext(ctx, "a voter opened nothing of a repair of the seal", slog.String("peer", m.GetId()), slog.Any("error", err))
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, k := range replaced {
				w := better.Wrapping(k)
				d := fsm.WrappingDigest(w)
				i := slices.IndexFunc(says.GetWitnesses(), func(x *fsmpb.WrappingWitness) bool {
					return string(x.GetWrapping()) == string(d[:]) && fsm.WitnessSigned(fingerprint, m, base, w, x.GetSignature())
				})
				if i >= 0 {
					out[k] = append(out[k], &fsmpb.WrappingWitness{NodeId: m.GetId(), Wrapping: d[:], Signature: says.GetWitnesses()[i].GetSignature()})
				}
			}
		})
	}
	wg.Wait()
	return out, ctx.Err()
}

// witness answers [witnessTask]: it opens, with its own keystores, each wrapping that the
// repair would replace, and signs for those that gave the MasterKey of the manifest. What
// it opens is wiped at once.
func (n *Node) witness(ctx context.Context, task []byte) ([]byte, error) {
	cmd := &fsmpb.Command{}
	if err := proto.Unmarshal(task, cmd); err != nil || cmd.GetRepairSeal() == nil {
		return nil, errs.New(errs.InvalidArgument, "there is no repair of the seal to look at")
	}
	id, err := corr.Parse(cmd.GetCorrelationId())
	if err != nil {
		return nil, errs.New(errs.InvalidArgument, "the repair to look at has no correlation id", errs.Cause(err))
	}
	ctx = corr.With(ctx, id)
	c := n.machine.View().Cluster()
	base := sha256.Sum256(c.GetSealRecord())
	if string(base[:]) != string(cmd.GetRepairSeal().GetBase()) {
		return nil, errs.New(errs.Aborted, "the seal is not the one that is repaired", errs.Hint("retry"))
	}
	was, err := seal.ParseRecord(c.GetSealRecord())
	if err != nil {
		return nil, err
	}
	now, err := seal.ParseRecord(cmd.GetRepairSeal().GetRecord())
	if err != nil {
		return nil, err
	}
	if now.ManifestDigest() != was.ManifestDigest() {
		return nil, errs.New(errs.InvalidArgument, "the repair is of another seal")
	}
	if err := n.mayWitness(was); err != nil {
		return nil, err
	}
	var opened []seal.ProviderKey
	err = n.gate.DoNode(ctx, gate.NodeWatchSeal, ObjectSeal, func(gate.Token) error {
		opened = n.opens(ctx, now, now.Replaced(was))
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	says := &fsmpb.RepairSeal{}
	for _, k := range opened {
		w := now.Wrapping(k)
		signature, err := n.signAs(fsm.WitnessMessage([32]byte(c.GetFingerprint()), n.id, base, w))
		if err != nil {
			return nil, err
		}
		d := fsm.WrappingDigest(w)
		says.Witnesses = append(says.Witnesses, &fsmpb.WrappingWitness{NodeId: n.id, Wrapping: d[:], Signature: signature})
	}
	return proto.Marshal(says)
}

// mayWitness returns why this node asks no keystore for another: it is held, sealed by a
// person, or cannot say that the seal is the cluster's. A sealed one that waits for its
// keystores asks them anyway; its word counts, because what it cannot open yet may be
// what is repaired.
func (n *Node) mayWitness(was seal.Record) error {
	n.mu.Lock()
	have, resting := n.record, n.resting
	n.mu.Unlock()
	switch {
	case n.held():
		return n.heldErr(n.machine.View())
	case n.Unsealed():
		return n.Believed()
	case resting:
		return errs.New(errs.Sealed, "this node was sealed by a person", errs.Hint("unseal it: krypton unseal"))
	case have.IsZero() || have.ManifestDigest() != was.ManifestDigest():
		return errs.New(errs.Sealed, "this node does not know this seal yet", errs.Hint("retry"))
	}
	return nil
}

// opens returns those of the keys whose wrapping a real unwrap opens here.
func (n *Node) opens(ctx context.Context, r seal.Record, keys []seal.ProviderKey) (out []seal.ProviderKey) {
	var (
		mu sync.Mutex
		wg sync.WaitGroup
	)
	for _, h := range r.Progress().Holders {
		if !slices.Contains(keys, h.Key) {
			continue
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, keystoreTime)
			defer cancel()
			if f := r.Probe(ctx, h, n.stores); f != nil {
				n.log.WarnContext(ctx, "a repair of the seal does not open here", slog.String("keystore", h.Key.Provider),
					slog.String("class", f.Class.String()), slog.Any("error", f.Err))
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out = append(out, h.Key)
		})
	}
	wg.Wait()
	return out
}

// signAs signs with the member key of a node.
func (n *Node) signAs(message []byte) ([]byte, error) {
	key, hash := n.cluster.Signer(), crypto.Hash(0)
	if _, ok := key.Public().(*ecdsa.PublicKey); ok {
		sum := sha256.Sum256(message)
		message, hash = sum[:], crypto.SHA256
	}
	return key.Sign(n.rand, message, hash)
}
