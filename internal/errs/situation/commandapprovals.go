package situation

import "github.com/openkcm/krypton-cluster/internal/errs"

// commandApprovals are requests that others have to approve, as who asks and who
// approves meets them.
func commandApprovals() []Situation {
	row := func(id, when string, code errs.Code, says, next string) Situation {
		return Situation{ID: "cli/approval-" + id, When: when, Code: code, Says: says, Next: next}
	}
	return []Situation{
		row("waits", "others have to approve what a command asks for", errs.ApprovalPending, "approvals/{id} waits until {persons} approved, at the latest {time}",
			"they look at it and sign with krypton approval approve {id}; what became of it: krypton approval get {id}"),
		row("approved", "enough have approved, and the cluster could not do it yet", errs.ApprovalPending,
			"approvals/{id} has all signatures, and waits until the cluster can do it", "what became of it: krypton approval get {id} --wait 1m"),
		row("stuck", "enough have approved, and something is in the way", errs.ApprovalPending,
			"approvals/{id} has all signatures, and waits until the cluster can do it: {why}", "what became of it: krypton approval get {id} --wait 1m"),
		row("rejected", "somebody rejected what was asked for", errs.Denied, "approvals/{id} was rejected by {person}",
			"nothing was changed; talk to them, and give the command again"),
		row("expired", "too few approved in time", errs.IntentRefused, "approvals/{id} expired before it could be done",
			"nothing was changed; give the command again, with a longer --sign-for if that was too short"),
		row("failed", "what was approved is not possible any more; the code is that of the refusal", errs.IntentRefused, "approvals/{id} was approved and then refused: {why}",
			"nothing was changed; look at what it is about, and give the command again"),
		row("done", "what was done already is to be approved", errs.FailedState, "approvals/{id} was done already", "nothing was signed; krypton approval get shows it"),
		row("not-proved", "the signature of who asks does not verify under a key that the nodes agree on", errs.FailedState, "it is not proved who asks: {why}",
			"nothing was signed; if their role binding was removed, the request ends with it: krypton approval reject {id}"),
		row("forged", "a node shows another request than the one that the name of the approval says", errs.Integrity,
			"the intent of the approval is not the one that its name says", "nothing was signed; ask another node with --addr, and look into this one"),
		row("of-no-token", "a join token is asked for of an approval of something else", errs.FailedState, "approvals/{id} is not of a join token",
			"krypton approval get shows what it is of"),
		usage("bad-approval-name", "the name of an approval is not one", `"{value}" names no approval`,
			"give the 32 hex digits, or approvals/ID; krypton approval list shows them"),
		usage("unknown-approval-state", "approvals do not have a state of that name", `there is no state "{value}"`, "use one of: {states}"),
		usage("approval-new-key", "others have to approve a certificate for a key that is made with the command",
			"others have to approve this, and a key that is made now would be gone by then",
			"have the caller make one with krypton operator cert new-key, and give its public half with --public-key"),
	}
}
