package situation

import "github.com/openkcm/krypton-cluster/internal/errs"

// identityFiles is what can be wrong with the files that open persons' shares.
func identityFiles() []Situation {
	const giveFile = "give the file that krypton operator share new-identity or age-keygen made, or a private key of ssh-keygen"
	identity := func(id, when, says, next string) Situation {
		return Situation{ID: "cli/identity-" + id, When: when, Code: errs.InvalidConfig, Says: says, Next: next}
	}
	return []Situation{
		usage("passphrase-nobody", "a new identity shall have a passphrase, and nobody sits at a terminal", "nobody can be asked for a passphrase here", "run it at a terminal, or give --no-passphrase"),
		usage("passphrase-length", "the passphrase of a new identity is too short or too long", "the passphrase has {number} bytes, the limits are {number} and {number}", "take several random words"),
		usage("passphrases-differ", "the passphrase of a new identity is typed in two ways", "the passphrases differ", "try again; no file was written"),
		usage("bad-manifest-digest", "the digest of a manifest cannot be read", "--manifest is no digest of a manifest", "give the 64 hex digits that krypton operator share check prints"),
		usage("share-file-alone", "an encrypted share in a file shall be compared without what it is compared with",
			"--file, --seals and --fingerprint need each other", "give the three together, without --keep; no node is asked then"),
		usage("identity-and-share", "an identity and a printed share are given at once", "--identity and --share-file contradict each other", "choose one"),
		usage("holder-without-identity", "a holder or a manifest is named for a printed share", "--holder and --manifest need --identity", "give the file that opens your share with --identity"),
		usage("identity-tells-no-holder", "the identity is that of a plugin, and nobody says whose share it opens",
			"a plugin's identity does not tell whose share it opens", "give --holder with your name or number; krypton status shows the holders"),
		{
			ID: "cli/recipient-of-plugin", When: "the recipient of a plugin's identity is asked for", Code: errs.FailedState,
			Says: "nothing here tells a recipient", Next: "ask the plugin's own tool for it",
		},
		identity("unknown", "a file is no identity", "the identity file has a line that is no identity", giveFile),
		identity("is-recipient", "a recipient is given as an identity", "the identity file holds a recipient, which is public and opens nothing", giveFile),
		identity("nobody-to-ask", "an identity is encrypted, and nobody sits at a terminal",
			"the identity file is encrypted, and nobody can be asked for its passphrase here", "run the command at a terminal"),
		identity("wrong-passphrase", "the passphrase of an identity is wrong", "the passphrase of the identity file is wrong", "try again; nothing was sent"),
		identity("mode", "others on the machine can read an identity that has no passphrase",
			"the identity file {file} has mode {mode}, so others on this machine can reach it", "run: chmod 0600 {file}; if others could read it, have the share encrypted to another key"),
		{
			ID: "cli/plugin-missing", When: "the program of a plugin is not installed", Code: errs.FailedState,
			Says: "the program age-plugin-{name} is not on this machine", Next: "install it in the PATH of this process, or take a recipient that needs none",
		},
		{
			ID: "cli/plugin-refused", When: "a plugin does not do what it is asked to, for example because of a wrong PIN", Code: errs.FailedState,
			Says: "the program age-plugin-{name} did not do its part: {what it says}", Next: "try the key with the age program; the plugin's own messages say more there",
		},
	}
}

// heldShares is what can go wrong with a share that nodes keep encrypted.
func heldShares() []Situation {
	const (
		elsewhere = "ask another node; nothing was sent. If they all say the same, somebody changed their seal"
		refused   = "the share that node {node} gave is refused: "
		otherFile = "do not rely on it: have a node give you yours with krypton operator share check --keep; and find out who gave you this one"
	)
	row := func(id, when string, code errs.Code, says, next string) Situation {
		return Situation{ID: "cluster/share-" + id, When: when, Code: code, Says: says, Next: next}
	}
	return []Situation{
		row("no-holder", "no share is encrypted to the identity that is given", errs.NotFound, "node {node}: no share is encrypted to this identity",
			"compare krypton operator share recipient with the holders in krypton status; or name yourself with --holder"),
		row("unknown-holder", "the share of somebody is asked for who has none", errs.NotFound, "node {node}: nobody like that holds a share",
			"krypton status shows who does; a new holder comes with a ceremony"),
		row("printed", "a share is asked for that was printed", errs.FailedState, "node {node}: share {number} was printed, and no node has it", "give what was printed to krypton unseal"),
		row("other-identity", "the share is encrypted to another key than the identity's", errs.ShareRefused,
			"the identity does not open the share: it is encrypted to another key", "give the identity whose recipient the manifest has; krypton operator share recipient prints that of a file"),
		row("other-manifest", "the manifest of a node is not the one that a person expects", errs.ShareRefused,
			refused+"the manifest is another one than --manifest says, with the digest {digest}", elsewhere),
		row("not-in-manifest", "a node gives another file than its manifest has the hash of", errs.ShareRefused, refused+"the manifest has another one", elsewhere),
		row("file-unknown", "an encrypted share in a file is of no seal of the cluster", errs.ShareRefused, "the share in {file} is refused: no seal of the cluster has it", otherFile),
		row("file-replaced", "an encrypted share in a file is of a seal that a ceremony replaced", errs.ShareRefused,
			"the share in {file} is refused: it is of the seal of ceremony {id}, which was replaced", otherFile),
		row("made-up", "what a node gives opens to another share than was given out", errs.ShareRefused,
			"the share says that it is number {number} and is not the one that was given out as such",
			"check with the others who held the ceremony; if nobody made a mistake, somebody made this share"),
	}
}
