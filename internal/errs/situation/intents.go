package situation

import "github.com/openkcm/krypton-cluster/internal/errs"

// intents is what can be wrong with the signatures of people over a request.
func intents() Group {
	const (
		others = "collect signatures of other persons with the role that the rule asks for"
		fresh  = "read the objects again and have a new intent signed"
		just   = "sign exactly the intent that the cluster printed for this request"
		again  = "krypton makes them: sign the request again"
	)
	refused := func(id, when, says, next string) Situation {
		return Situation{ID: "intent/" + id, When: when, Code: errs.IntentRefused, Says: says, Next: next}
	}
	invalid := func(id, when, says, next string) Situation {
		return Situation{ID: "intent/" + id, When: when, Code: errs.InvalidArgument, Says: says, Next: next}
	}
	return Group{Name: "intent", Title: "Signatures of people", Rows: []Situation{
		refused("unsigned", "a request that people have to sign brings no signature", "the request is not signed: {act} needs the signature of {persons}",
			"sign it with krypton, which does so with the key of your context; if others must sign, have it approved: krypton approval, or Approvals.CreateApproval"),
		refused("too-few", "fewer persons signed than the rule asks for", "intent has too few signatures: {act} needs the signature of {persons}",
			"have the request approved, which keeps it until those have signed whom the rule names: krypton approval, or Approvals.CreateApproval"),
		refused("wrong-role", "somebody signed who has no say in this: a custodian for governors, a governor of another tenant",
			"a signer's role does not count for this act: {act} needs the signature of {persons}", others),
		refused("one-person-twice", "one person signed twice", "one person signed twice: {act} needs the signature of {persons}", others),
		refused("requester-signed", "who asks signed, and only others count", "the requester cannot be one of the signers: {act} needs the signature of {persons}", others),
		refused("unknown-key", "a signature is by a key that no role binding has, or one that has expired", "intent is signed by a key that is not registered",
			"register the key first, or sign with a registered one"),
		refused("bad-signature", "a signature was changed", "a signature does not verify", just),
		refused("other-keyspace", "the intent is for another cluster", "intent is for another keyspace", just),
		refused("other-act", "the intent orders something else", "intent is for another act", just),
		refused("other-request", "the request is not just what was signed, in any field", "intent is for another request", just),
		refused("expired", "the intent has expired", "intent has expired", fresh),
		refused("too-long", "the intent would be valid for more than 30 days", "intent is valid for too long", fresh),
		refused("replayed", "an intent is used a second time", "intent was used before", fresh),
		refused("changed-state", "an object that the signers saw has changed since", "an object changed after the intent was signed: {object}", fresh),
		invalid("key-id", "a key id is not one", "intents.key_id is not 32 bytes", again),
		invalid("signature-size", "a signature is missing, or longer than one can be", "intents.signature is missing or too long", again),
		invalid("two-intents", "the signatures are over different intents", "the signatures are not over one intent", "everybody signs the same file; krypton shows what it says"),
		invalid("unreadable", "an intent is not one, or of a later release", "intents.intent is none that this node can read", again),
		invalid("too-many", "a request brings more than 32 signatures", "there are more than 32 intents", "send one for each person who must sign"),
		invalid("quorum-range", "a new cluster shall have a quorum of more than 16", "a quorum of {number} {role}s is not possible", "0 to 16"),
		invalid("quorum-too-large", "a new cluster shall have a quorum that its persons cannot reach", "a quorum of {number} {role}(s) needs as many, and there are {number}",
			"name more with --{role}, or ask for fewer"),
		invalid("quorum-of-others", "a new cluster shall have a quorum that its persons cannot reach when one of them asks",
			"a quorum of {number} {role}(s) other than the one who asks needs {number}, and there are {number}", "name more with --{role}, or ask for fewer"),
	}}
}
