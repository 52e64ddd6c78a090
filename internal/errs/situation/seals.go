package situation

import "github.com/openkcm/krypton-cluster/internal/errs"

// seals is what can go wrong with who opens the MasterKey, and with changing it.
func seals() Group {
	row := func(id, when string, code errs.Code, says, next string) Situation {
		return Situation{ID: "seal/" + id, When: when, Code: code, Says: says, Next: next}
	}
	const (
		over  = "read it; start another one if it is still to be done: krypton ceremony start"
		asked = `give the line that starts with "age1pq1", as krypton operator share recipient prints it`
	)
	return Group{Name: "seal", Title: "The seal, ceremonies, and keys of persons", Rows: []Situation{
		row("concentrated", "one account, provider, region, keystore or person could end or open the seal that is planned", errs.InvalidArgument,
			"the seal is concentrated: {which}", "spread it, or accept that with --accept-risk concentration; krypton operator seal plan shows all of it"),
		row("not-four-eyes", "keystores and one person would open a seal that shall need two people", errs.InvalidArgument,
			"the seal is not four-eyes: {why}", "raise the threshold of a group of people, so that keystores alone lack two people or more; or accept that with --accept-risk no-four-eyes"),
		row("no-such-risk", "a risk is accepted that there is not", errs.InvalidArgument, `there is no risk "{name}"`, "there is: concentration, no-four-eyes"),
		row("no-such-profile", "a seal shall have a profile that there is not", errs.InvalidArgument, `there is no profile "{name}"`, "there is: four-eyes"),

		row("ceremony-life", "a ceremony shall take less than a minute or more than a week", errs.InvalidArgument, "a ceremony takes a minute to 7 days", "give another time"),
		row("ceremony-open", "a ceremony is begun while another one is open", errs.FailedState,
			"another ceremony has not ended: ceremonies/{id}", "continue or cancel it: krypton ceremony status"),
		row("ceremony-id-used", "a ceremony is begun under the id of another one", errs.AlreadyExists, "a ceremony of this id was held already", "draw another id"),
		row("ceremony-moved", "the seal was replaced after a ceremony was planned", errs.StaleEtag,
			"the seal is another one than the ceremony is to replace", "read the seal again, and have the new request signed"),
		row("ceremony-nobody-consents", "a ceremony is begun where keystores open the MasterKey and no custodian has to sign", errs.FailedState,
			"nobody would consent: keystores open the MasterKey, and no custodian has to sign", "let custodians sign first: krypton operator quorum set"),
		row("ceremony-is-migration", "a reshare shall go to keystores that open the MasterKey alone", errs.InvalidArgument,
			"a reshare goes from holders of shares to holders of shares", "to or from keystores that open the MasterKey alone it is a migration: krypton ceremony start migrate"),
		row("ceremony-is-reshare", "a migration shall go from shares to shares", errs.InvalidArgument,
			"a migration goes to or from keystores that open the MasterKey alone", "between holders of shares it is a reshare: krypton ceremony start reshare"),
		row("ceremony-printed", "a person without a key shall hold a share after a ceremony", errs.InvalidArgument,
			"a holder is neither a person with an age recipient nor a keystore, or both",
			"shares cannot be printed in a ceremony: give every person an age recipient, krypton operator share new-identity"),
		row("ceremony-threshold", "the threshold of a group is below 2 or above the number of its holders", errs.InvalidArgument,
			"the threshold of a group of holders cannot be", "2 to the number of its holders"),
		row("ceremony-group-name", "two groups of a plan have one name, or one has none", errs.InvalidArgument,
			"a group of holders has no name, one that is too long, or another's", "give each its own"),
		row("ceremony-key-twice", "a plan names a key of a keystore twice", errs.InvalidArgument, "a key of a keystore stands twice in the plan of the seal", "name each once"),
		row("ceremony-plan-large", "a plan is longer than people could read", errs.TooLarge, "the plan of the seal has more than 96 KiB", "name fewer holders"),
		row("ceremony-no-seal-yet", "a step of a ceremony comes before the present holders consented", errs.FailedState,
			"the ceremony has no new seal yet", "it waits for the consent of those who open the MasterKey now: krypton ceremony status"),
		row("ceremony-cancelled", "a step comes after somebody cancelled the ceremony", errs.FailedState, "the ceremony has ended: it was cancelled", over),
		row("ceremony-expired", "a step comes after the time of the ceremony", errs.FailedState, "the ceremony has ended: it expired", over),
		row("ceremony-not-opened", "a ceremony is committed before enough holders opened the new seal", errs.Aborted,
			"not enough holders have opened the new seal", "have more of them contribute: krypton ceremony contribute"),

		row("repair-no-second-voter", "a wrapping of the seal is lost, and only the leader can open what would replace it", errs.Unavailable,
			"no second voter opened the new wrapping of the MasterKey, so the seal is not repaired",
			"every node needs the keystores of the seal in its configuration, and another voter has to run; the leader tries again by itself"),

		row("recipient-private", "a private key is given as the recipient of a share", errs.InvalidArgument,
			"the recipient of a share is a private key", `make a new key, since this one was shown; the recipient is public and starts with "age1"`),
		row("recipient-unknown", "the recipient of a share is no key that age knows", errs.InvalidArgument, "the recipient of a share is none that this version knows", asked),
		row("recipient-damaged", "a character of a recipient was lost or changed", errs.InvalidArgument,
			"the recipient of a share is damaged", "copy it whole, as krypton operator share recipient prints it"),
		row("recipient-long", "the recipient of a share is too long", errs.TooLarge, "the recipient of a share has {number} bytes, the limit is {number}", asked),
		row("plugin-late", "the plugin of a recipient does not end", errs.FailedState,
			"the program age-plugin-{name} did not do its part: {step}: it did not answer in time and was ended: {why}", "try the key with the age program; the plugin's own messages say more there"),
	}}
}
