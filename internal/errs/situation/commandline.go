package situation

import (
	"slices"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

const (
	seeHelp      = "see {command} --help"
	checkPath    = "check the path and its permissions"
	giveDuration = "give a duration such as 30s, 10m or 24h"
	chooseOne    = "give one of them"
)

func commandLine() Group {
	return Group{Name: "cli", Title: "Command line", Rows: slices.Concat(commandWords(), commandFiles(), identityFiles(), commandSettings(), commandApprovals())}
}

// usage is a row of wrong usage.
func usage(id, when, says, next string) Situation {
	return Situation{ID: "cli/" + id, When: when, Code: errs.InvalidArgument, Says: says, Next: next}
}

// commandWords are commands, flags, arguments and values.
func commandWords() []Situation {
	return []Situation{
		usage("unknown-command", "a command does not exist", `{command} has no command "{word}"`, "use one of: {commands}"),
		usage("mistyped-command", "a command does not exist, and one is like it", `{command} has no command "{word}"`, "did you mean {other}?"),
		usage("command-missing", "the command of a group is not named", "{command} needs a command", "use one of: {commands}"),
		usage("unknown-flag", "a flag does not exist", "{command} has no flag --{flag}", seeHelp),
		usage("mistyped-flag", "a flag does not exist, and one is like it", "{command} has no flag --{flag}", "did you mean --{other}?"),
		usage("flag-without-value", "the value of a flag is missing", "flag {flag} needs a value", seeHelp),
		usage("flag-missing", "a flag that is needed is not given", "{command} needs --{flag}", seeHelp),
		usage("version-missing", "it is not said which version of a key is meant", "{command} needs --version", "see krypton key list"),
		usage("argument-missing", "an argument is missing", "{command} needs {argument}", seeHelp),
		usage("arguments-too-many", "there are more arguments than a command takes", "{command} takes {number}, {count} given", seeHelp),
		usage("argument-empty", "an argument is empty, mostly because a variable of a script is not set", "an argument of {command} is empty",
			"leave it out, or check that the variable of your script is set"),
		usage("context-empty", "--context is given an empty value", "--context is empty", "name one, or leave --context out"),
		usage("addr-empty", "--addr is given an empty value", "--addr is empty", "give host:port, or leave --addr out"),
		usage("addr-mixed", "addresses of both doors are given", "some addresses are https:// and some are not",
			"give https://host:port for HTTP/JSON, or host:port for gRPC"),
		usage("dir-empty", "krypton man is given an empty --dir", "--dir is empty", "name one, or leave --dir out to print one page"),
		usage("bad-duration", "a duration cannot be read", `"{value}" is no value of --{flag}`, giveDuration),
		usage("negative-duration", "a duration is negative", "--{flag} is negative", giveDuration),
		usage("duration-out-of-range", "a lifetime is too short or too long", "--{flag} is {duration}", "give 1s to {duration}"),
		usage("bad-number", "a number cannot be read", `"{value}" is no value of --{flag}`, "give a whole number from 0"),
		usage("bad-signed-number", "a number that may be negative cannot be read", `"{value}" is no value of --{flag}`, "give a whole number"),
		usage("bad-fraction", "a number with a point cannot be read", `"{value}" is no value of --{flag}`, "give a number"),
		usage("bad-switch", "a flag without a value is given one", `"{value}" is no value of --{flag}`, "give --{flag}, or leave it out"),
		usage("bad-uuid", "a request id is not a UUID", "{what} is not a UUID", "make one with uuidgen"),
		usage("output-format", "a format of the result does not exist", `there is no output format "{value}"`, "use table or json"),
		usage("bad-keyspace", "the id of a keyspace cannot be read", `"{value}" is no keyspace id`, "32 hex digits; krypton init and krypton status --output json show it"),
		usage("dry-run-unsigned", "what people sign is checked only, and a file of signatures is named", "a dry run is not signed: whoever has the signature could use it", "leave --dry-run out"),
		usage("sign-only-new-key", "a certificate for a key that is made each time is to be signed by several", "--sign-only and --intent need a key that is the same each time",
			"have the caller make one with krypton operator cert new-key, and give its public half with --public-key"),
		usage("sign-longer-life", "a file of signatures orders a longer life than the command that sends it", "the signed intent orders a longer life than --ttl says",
			"give the --ttl with which the intent was made; krypton intent show says when what it orders ends"),
		usage("unknown-role", "a role does not exist", `there is no role "{value}"`, "use one of: {roles}"),
		usage("unknown-key-type", "a type of key does not exist", `there is no key type "{value}"`, "use ecdsa or ed25519"),
		usage("unknown-ca", "a CA of the cluster is named that it does not have", `the cluster has no CA "{value}"`, "use caller-ca or node-ca"),
		usage("unknown-operation", "bench is asked for an operation that does not exist", `there is no operation "{value}"`, "use one of: {operations}"),
		usage("bad-person-name", "the name of a person or workload is not one", `"{value}" is not a name`,
			"lower-case letters, digits, dot, dash and underscore, at most 63"),
		usage("bad-tenant-name", "the name of a tenant is not one", `"{value}" does not name a tenant: {why}`, "names look like demo or tenants/demo"),
		usage("bad-path", "the name of a service, a resource or a context is not one at all", `"{value}" does not name a {kind}`,
			"names look like demo/payments or tenants/demo/services/payments"),
		usage("bad-name", "a part of a name is not one", `"{value}" does not name a {kind}: {why}`,
			"names look like demo/payments or tenants/demo/services/payments"),
		usage("bad-issuer-name", "the name of an issuer is not one", `"{value}" names no issuer`,
			"give ID or issuers/ID of the cluster's, TENANT/ID of a tenant's own; krypton issuer list shows them"),
		usage("bad-ceremony-name", "the name of a ceremony is not one", `"{value}" names no ceremony`,
			"give the 32 hex digits, or ceremonies/ID; krypton ceremony status shows them"),
		usage("bad-policy-name", "the name of a policy is not one", `"{value}" names no policy`,
			"give TENANT/ID or tenants/TENANT/policies/ID; krypton policy list TENANT shows them"),
		usage("policy-subject", "policy test is told of whom it knows no name", "--role and --issuer are of whom --as names", "give --as, too"),
		usage("policy-change", "policy test is told of a change without a file", `change "{value}" is not ID=FILE`, "give it as --change payments=payments.cedar"),
		usage("bad-binding-name", "the name of a role binding is not one", `"{value}" names no role binding`,
			"give ID or roleBindings/ID of a person's, TENANT/ID of a workload's; krypton role list shows them"),
		usage("bad-binding-id", "no id can be made of the name of who is bound", `"{value}" cannot be the id of a role binding`,
			"give one with --id: a lower-case letter, then letters, digits and dashes, at most 63"),
		usage("binding-without-key", "somebody is bound to the cluster's own CA without a key", "nothing says which key is {name}'s",
			"give --public-key, which krypton operator cert new-key makes, or --issuer and --subject"),
		usage("binding-without-subject", "somebody of another issuer is bound without a subject", "nothing says whom {issuer} means",
			"give --subject: uri:URI or cn:COMMON-NAME of a certificate, or what the subject claim of a token says"),
		usage("binding-too-short", "a role is to end at once", "--ttl is {duration}", "give a minute or more, such as 720h"),
		usage("issuer-of-two-kinds", "an issuer is to vouch by certificates and by tokens", "an issuer vouches by certificates or by tokens, not both",
			"give --ca for certificates, or --url and --audience for tokens"),
		usage("issuer-of-no-kind", "an issuer is to vouch by nothing", "nothing says how the issuer vouches",
			"give --ca for certificates, or --url and --audience for tokens"),
		usage("issuer-unchanged", "no flag says what of an issuer is to change", "nothing is to be changed", "give at least one flag that changes something, see --help"),
		usage("issuer-contradiction", "an issuer is to require bindings and not to", "--require-bindings and --unbound-workloads contradict each other", "choose one"),
		usage("bad-version", "the number of a version is not one", `--version "{value}" is not the number of a version`, "give its number, see krypton key list"),
		usage("version-twice", "a name has a version, and --version another one", "the name ends in version {version} and --version is {other}", chooseOne),
		usage("service-twice", "a service is named by an argument and by --service", "the service is named twice", chooseOne),
		usage("no-tenant", "a tenant is needed and not named", "no tenant is named", "name one, or set KRYPTON_TENANT"),
		usage("no-service", "a service is needed and not named", "no service is named", "name one as tenant/service, or set KRYPTON_SERVICE"),
		usage("no-tenant-of-service", "a service is named without its tenant", `the tenant of service "{service}" is not named`,
			"name it as tenant/service, or set KRYPTON_TENANT"),
		usage("no-resource", "a resource is needed and not named", "no resource is named",
			"give TENANT/SERVICE RESOURCE, or its full name as krypton resource list prints it"),
		usage("flags-contradict", "the MasterKey is to be opened in two ways", "--{flag} and --{other} both say who opens the MasterKey", "choose one"),
		usage("no-seal", "nothing says who opens the MasterKey", "nothing says who opens the MasterKey", "give --seal-plan, or --shares and --threshold, or --keystore and --key"),
		usage("seal-plan", "a plan of the seal cannot be read or cannot work", "the plan of the seal cannot be used: {problems}",
			"docs/seals.md has examples; krypton operator seal plan FILE checks one without making anything"),
		usage("seal-plan-file", "the file of a plan of the seal cannot be read", "the plan of the seal cannot be read: {reason}", "docs/seals.md has examples"),
		usage("seal-concentrated", "one account, kind of keystore, region, key or person could end the MasterKey, or open it", "the seal is concentrated: {what}",
			"spread it, or accept that with --accept-risk concentration; krypton operator seal plan shows all of it"),
		usage("seal-not-four-eyes", "the seal opens with fewer than two people, and that is asked for", "the seal is not four-eyes: {why}",
			"raise the threshold of a group of people, so that keystores alone lack two people or more; or accept that with --accept-risk no-four-eyes"),
		usage("seal-no-such-risk", "a risk is accepted that there is none of", `there is no risk "{name}"`, "there is: concentration, no-four-eyes"),
		usage("seal-no-such-profile", "a rule for the seal is asked for that there is none of", `there is no profile "{name}"`, "there is: four-eyes"),
		usage("seal-no-such-keystore", "the plan of the seal names a keystore that the node does not have", `holder {name}: the configuration has no keystore "{keystore}"`,
			"krypton keystore list shows those that this node has; every node needs those of the seal"),
		usage("bad-person", "a person of krypton init is not NAME=FILE", `--{role} "{value}" is not NAME=FILE`, "give it as --{role} gabi=gabi.pub.pem"),
		usage("bad-context-pair", "a pair of the encryption context is not KEY=VALUE", `encryption context "{value}" is not KEY=VALUE`,
			"give it as --context purpose=invoice"),
		usage("context-key-twice", "a key of the encryption context is given twice", `encryption context has the key "{key}" twice`, "give each key once"),
		usage("file-twice", "a file is named by an argument and by a flag", "--{flag} and an argument both name a file", "give it once"),
		usage("part-negative", "--offset or --length is negative", "--offset or --length is negative", "count from the beginning"),
		usage("part-of-pipe", "a part of what cannot be read at any place is asked for",
			"--offset and --length need a file, and {input} can only be read from its beginning", "name a file, or leave them out and cut what comes"),
		usage("part-behind-end", "a part behind the end is asked for", "the file holds {size} bytes", "give an --offset of up to {size}"),
		usage("bad-wrapped-key", "a wrapped data key is not base64", "the wrapped key is not base64", "give what krypton datakey generate printed"),
		usage("bad-key-length", "a data key of an impossible length is asked for", "a data key of {length} bytes is asked for", "give 16 to 64"),
		usage("bench-key-length", "bench is asked for data keys of an impossible length", "a data key of {length} bytes is not possible",
			"give --payload 16 to 64, or leave it out"),
		usage("bench-out-of-range", "a number of bench is too small or too large", "--{flag} is {value}", "give --{flag} {from} to {to}"),
		usage("bench-duration", "a duration of bench is too short or too long", "--duration is {duration} and --warmup {warmup}",
			"give --duration up to 24h and --warmup up to 1h"),
		usage("no-dry-run", "--dry-run is given to a command that has none", "{command} has no dry run", "leave --dry-run out"),
		usage("no-async", "--async is given where nothing is committed that other nodes follow", "--async has no effect here: {why}", "leave --async out"),
		usage("one-node", "one node is to be sealed, and several are addressed", "{number} nodes are addressed", "name one node with --addr, or use --cluster"),
		usage("node-ambiguous", "a name is that of several nodes", `{number} nodes are "{name}"`, "give its id, see krypton operator members"),
		{
			ID: "cli/unknown-node", When: "no node has that name", Code: errs.NotFound,
			Says: `no node is "{name}"`, Next: "krypton operator members lists them; give its name, its address or the begin of its id",
		},
	}
}

// commandFiles are files, pipes and terminals.
func commandFiles() []Situation {
	return []Situation{
		usage("input-unreadable", "a file that is read does not exist or may not be read", "{file} cannot be read: {reason}", checkPath),
		usage("input-directory", "a directory is to be encrypted", "{file} is a directory", "pack it with tar first"),
		{
			ID: "cli/input-too-large", When: "a file of shares or a token is too large to be one", Code: errs.TooLarge,
			Says: "{input} has more than {limit} bytes", Next: "give the file of the secret alone",
		},
		usage("output-unwritable", "a file that is written cannot be made", "{file} cannot be written: {reason}", checkPath),
		{
			ID: "cli/output-exists", When: "a key or certificate would be overwritten", Code: errs.AlreadyExists,
			Says: "{file} exists already", Next: "choose another directory or name",
		},
		{
			ID: "cli/init-output-exists", When: "krypton init would overwrite a certificate", Code: errs.AlreadyExists,
			Says: "{file} exists already", Next: "name an empty directory with --out",
		},
		{
			ID: "cli/output-lost", When: "the disk is full while a result is written", Code: errs.Internal,
			Says: "{output} was not written: {reason}", Next: "nothing that came out is complete; make room where it goes, and run it again",
		},
		usage("output-terminal", "a ciphertext would go to a terminal", "the result is not for a terminal", "name a file, or --out - if you mean it"),
		usage("shares-nowhere", "the shares of krypton init would go to a closed stdout or to the null device",
			"the shares would be lost: stdout is closed, or is {null}", "print them on a terminal, or name a file of yours"),
		usage("not-pem", "a file of a public key holds something else", `{file} is not one PEM block "{type}"`, "krypton operator cert new-key makes one"),
		usage("bad-issuer-file", "a file of certificates or keys of an issuer is none", "{file} is empty, or larger than {limit} bytes",
			"give the certificates or keys and nothing else"),
		usage("no-public-key", "a file of a public key holds none", "{file} holds no public key", "krypton operator cert new-key makes one"),
		usage("no-share", "no share comes from stdin or the file", "no share is given", "give one share a line"),
		usage("no-token", "no token comes from stdin or the file", "no token is given", "make one with krypton operator join-token"),
		usage("not-confirmed", "something that cannot be undone is asked for without a terminal and without --yes", "not confirmed: {what}", "give --yes if you mean it"),
		{
			ID: "cli/declined", When: "the answer to a question was not yes", Code: errs.Canceled,
			Says: "nothing was changed", Next: "type yes in full, or give --yes",
		},
		{
			ID: "cli/interrupted", When: "a command is interrupted with Ctrl-C", Code: errs.Canceled,
			Says: "interrupted", Next: "a change may have happened all the same; look before you try it again",
		},
		{
			ID: "cli/no-socket", When: "the node of this machine does not run", Code: errs.Unavailable,
			Says: "there is no administration socket in {dir}: {reason}", Next: "start the node with krypton server, and name its data directory with --data-dir",
		},
	}
}

// commandSettings are contexts and identities.
func commandSettings() []Situation {
	const identity = "give --ca-file, and --cert-file with --key-file, or --token-file; or set them in a context with krypton context set"
	return []Situation{
		{
			ID: "cli/no-identity", When: "there is no certificate to show", Code: errs.InvalidConfig,
			Says: "no identity is given", Next: identity,
		},
		{
			ID: "cli/unknown-context", When: "there is no context of that name", Code: errs.InvalidConfig,
			Says: `there is no context "{name}"`, Next: "list them with krypton context list, make one with krypton context set",
		},
		usage("no-context", "there is no current context", "there is no current context", "choose one with krypton context use"),
		{
			ID: "cli/context-file-open", When: "others may read or write the file of contexts", Code: errs.InvalidConfig,
			Says: "the context file {file} can be used by others", Next: "chmod 600 {file}",
		},
		{
			ID: "cli/context-file-broken", When: "the file of contexts cannot be read", Code: errs.InvalidConfig,
			Says: "the context file {file} is not valid: {reason}", Next: "mend it, or remove it and use krypton context set",
		},
	}
}
