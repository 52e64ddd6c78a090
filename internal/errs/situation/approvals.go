package situation

import "github.com/openkcm/krypton-cluster/internal/errs"

// approvals is what can go wrong when people are asked to sign one after the other.
func approvals() Group {
	const (
		again  = "krypton makes them: sign the request again"
		reread = "read it; request it again if it is still to be done"
	)
	row := func(id, when string, code errs.Code, says, next string) Situation {
		return Situation{ID: "approval/" + id, When: when, Code: code, Says: says, Next: next}
	}
	invalid := func(id, when, says, next string) Situation { return row(id, when, errs.InvalidArgument, says, next) }
	return Group{Name: "approval", Title: "Approvals", Rows: []Situation{
		invalid("name", "the name of an approval is not one", "the name of an approval is approvals/ and 32 hex digits", "krypton approval list shows them"),
		invalid("filter", "a list of approvals has a filter that it does not know", "the filter is not one that approvals know",
			"state=PENDING, state=APPROVED, state=EXECUTED, state=REJECTED, state=EXPIRED or state=FAILED"),
		invalid("no-request", "nothing is asked to be approved", "request is missing", "give the request that shall be approved, with its type"),
		invalid("not-sovereign", "what is asked to be approved is nothing that people sign", "request is not one that people sign",
			"its type is that of a request with the field intents, such as type.googleapis.com/krypton.v1.DeleteTenantRequest"),
		invalid("does-not-decode", "the request to be approved is not what its type says", "request does not decode as its type",
			"encode it with the .proto files of this API; text is valid UTF-8"),
		invalid("field-set", "the request to be approved has signatures, a request id, or is only a check", "request.{field} is set",
			"leave it out: the approval has the signatures, and a request id of its own"),
		row("too-large", "the request to be approved is longer than 72 KiB", errs.TooLarge, "the request is larger than 73728 bytes",
			"order less in one request, or collect the signatures with --sign-only"),
		invalid("signature", "the signature of who asks or approves is missing, or cannot be one", "{field} is {not one}", again),
		invalid("intent", "what who asks signed is not an intent, or one of a later release", "signature.intent is none that this node can read", again),
		invalid("canonical", "what who asks says to have signed cannot be read", "canonical_request is none that this node can read", "leave it out, or send what was signed"),
		row("not-needed", "others are asked to sign what nobody has to sign", errs.FailedState, "nobody has to sign for this", "make the request itself"),
		row("custodian-asks", "a custodian asks for what governors order", errs.Denied, "the role custodian may not do {act} here",
			"ask somebody with another role, or who governs the object; krypton whoami says as whom you ask"),
		row("not-your-signature", "somebody asks or approves with the signature of another person", errs.IntentRefused, "the signature is not the caller's own",
			"sign with a key of the role binding with which you call"),
		row("bad-signature", "somebody approves with a signature over something else", errs.IntentRefused, "a signature does not verify",
			"sign the intent of the approval as it was read"),
		row("all-signed", "somebody approves what has all its signatures", errs.FailedState, "the approval has all its signatures already",
			"nothing is left to sign; the cluster executes it"),
		row("over", "somebody approves or rejects what has ended", errs.FailedState, "the approval has ended: it {how}", reread),
		row("not-to-reject", "somebody rejects who neither asked nor could approve", errs.Denied, "the caller may not reject this",
			"who requested it may, and who could approve it"),
		{
			ID: "approval/keystore-down", When: "the last person approved while the keystore of the customer's key could not be reached",
			Outcome: "The signature counts and the approval is APPROVED, with why the node could not execute it. The leader tries again, first after 5 seconds and then less often, up to every 5 minutes, until the approval expires. " +
				"`krypton_approvals{state=\"stuck\"}` and GetCluster count it after a minute.",
		},
	}}
}
