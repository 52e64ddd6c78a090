package server

import (
	"bytes"
	"encoding/hex"
	"slices"

	"google.golang.org/protobuf/reflect/protoreflect"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// intentsOf reads the signatures of people that a request carries, and refuses what
// can be no signature whatever is asked. What they prove every replica decides when
// it applies the command, and this node no earlier than the others: a check here
// would only be a second one that could differ.
func intentsOf(msg protoreflect.Message) ([]*fsmpb.SignedIntent, error) {
	f := msg.Descriptor().Fields().ByName(fieldIntents)
	if f == nil {
		return nil, nil
	}
	list := msg.Get(f).List()
	bad := func(what, hint string) error {
		return errs.New(errs.InvalidArgument, what, errs.Hint("%s", hint))
	}
	const again = "krypton makes them: sign the request again"
	if list.Len() > intent.MaxSignatures {
		return nil, errs.Newf(errs.InvalidArgument, "there are more than %d intents", intent.MaxSignatures).With(errs.Hint("send one for each person who must sign"))
	}
	var out []*fsmpb.SignedIntent
	for i := range list.Len() {
		one, ok := list.Get(i).Message().Interface().(*kryptonv1.SignedIntent)
		switch {
		case !ok:
			return nil, errs.New(errs.Internal, "the request's intents are of another type")
		case len(one.GetKeyId()) != len(intent.KeyID{}):
			return nil, bad("intents.key_id is not 32 bytes", again)
		case len(one.GetSignature()) == 0 || len(one.GetSignature()) > intent.MaxSignature:
			return nil, bad("intents.signature is missing or too long", again)
		case i > 0 && !bytes.Equal(one.GetIntent(), out[0].GetIntent()):
			return nil, bad("the signatures are not over one intent", "everybody signs the same file; krypton shows what it says")
		}
		if i == 0 {
			if _, err := intent.Decode(one.GetIntent()); err != nil {
				return nil, bad("intents.intent is none that this node can read", again)
			}
		}
		out = append(out, &fsmpb.SignedIntent{Intent: one.GetIntent(), KeyId: one.GetKeyId(), Signature: one.GetSignature()})
	}
	return out, nil
}

// signersOf names who signed for an object as it is: role/name, or the id of a key
// whose binding is gone.
func signersOf(v *fsm.View, all []*fsmpb.SignedIntent) (names []string) {
	for _, s := range all {
		if len(s.GetKeyId()) != len(intent.KeyID{}) {
			continue
		}
		if b, ok := v.BindingByKey(intent.KeyID(s.GetKeyId())); ok {
			names = append(names, b.GetRole()+"/"+b.GetName())
		} else {
			names = append(names, "key/"+hex.EncodeToString(s.GetKeyId()))
		}
	}
	slices.Sort(names)
	return names
}

// rulesToAPI shows the rules in the order of the acts, one for each.
func rulesToAPI(rows []*fsmpb.IntentRule) (out []*kryptonv1.IntentRule) {
	for _, act := range intent.Acts() {
		rule, needed := fsm.RuleFor(rows, act)
		if !needed {
			continue
		}
		out = append(out, &kryptonv1.IntentRule{
			Act: act.String(), Governors: count(rule.Governors), Custodians: count(rule.Custodians), RequesterCounts: rule.Requester == intent.RequesterCounts,
		})
	}
	return out
}
