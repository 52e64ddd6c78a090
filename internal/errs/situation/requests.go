package situation

import "github.com/openkcm/krypton-cluster/internal/errs"

func requests() Group {
	rows := append(names(), fields()...)
	rows = append(rows, moments()...)
	return Group{Name: "request", Title: "Requests", Rows: append(rows, messages()...)}
}

// names is what can be wrong with what a request names.
func names() []Situation {
	return []Situation{
		{
			ID: "request/name-missing", When: "the name of the object is missing",
			Code: errs.InvalidArgument,
			Says: "{field} is missing",
			Next: "it looks like {example}",
		},
		{
			ID: "request/name-not-of-an-object", When: "a name is not of the form that names have",
			Code: errs.InvalidArgument,
			Says: "{field}: not the name of an object",
			Next: "names look like tenants/acme, tenants/acme/services/payments, tenants/acme/services/payments/versions/3",
		},
		{
			ID: "request/name-of-another-kind", When: "a service is named where a tenant is meant, or the other way round",
			Code: errs.InvalidArgument,
			Says: "{field} names another kind of object",
			Next: "it looks like {example}",
		},
		{
			ID: "request/name-empty", When: "a tenant or service has an empty name",
			Code: errs.InvalidArgument,
			Says: "{field} is empty",
			Next: "a name is 1 to 63 of a-z, 0-9 and '-', starts with a letter and does not end with '-'",
		},
		{
			ID: "request/name-first-character", When: "a name begins with a capital letter or a digit",
			Code: errs.InvalidArgument,
			Says: "{field} does not start with a lower-case letter",
			Next: "a name is 1 to 63 of a-z, 0-9 and '-', starts with a letter and does not end with '-'",
		},
		{
			ID: "request/name-character", When: "a name has a character that names do not have",
			Code: errs.InvalidArgument,
			Says: "{field} has a character other than a-z, 0-9 and '-'",
			Next: "a name is 1 to 63 of a-z, 0-9 and '-', starts with a letter and does not end with '-'",
		},
		{
			ID: "request/name-last-character", When: "a name ends with a dash",
			Code: errs.InvalidArgument,
			Says: "{field} ends with '-'",
			Next: "a name is 1 to 63 of a-z, 0-9 and '-', starts with a letter and does not end with '-'",
		},
		{
			ID: "request/name-too-long", When: "a name is longer than 63 bytes",
			Code: errs.InvalidArgument,
			Says: "{field} is longer than 63 bytes",
			Next: "a name is 1 to 63 of a-z, 0-9 and '-', starts with a letter and does not end with '-'",
		},
		{
			ID: "request/version-not-a-number", When: "a version is not a number",
			Code: errs.InvalidArgument,
			Says: "name: version is not a decimal number from 1 without leading zeros",
			Next: "list the versions of the key; names of versions end like versions/3",
		},
		{
			ID: "request/resource-too-long", When: "a resource id is longer than 128 bytes",
			Code: errs.InvalidArgument,
			Says: "resource id is longer than 128 bytes",
			Next: "a resource id is at most 128 bytes of UTF-8 without control characters, and not . or ..",
		},
		{
			ID: "request/resource-control-character", When: "a resource id has a control character or changes the direction of writing",
			Code: errs.InvalidArgument,
			Says: "resource id has a control character",
			Next: "a resource id is at most 128 bytes of UTF-8 without control characters, and not . or ..",
		},
		{
			ID: "request/resource-relative", When: "a resource id is one or two dots, which proxies rewrite in paths",
			Code: errs.InvalidArgument,
			Says: "resource id is a relative path segment",
			Next: "a resource id is at most 128 bytes of UTF-8 without control characters, and not . or ..",
		},
		{
			ID: "request/resource-in-name-empty", When: "the name of a resource ends before its id",
			Code: errs.InvalidArgument,
			Says: "name: resource id in a name is empty",
			Next: "end the name with resources/ and the id, percent-encoded",
		},
		{
			ID: "request/resource-in-name-encoding", When: "the id in the name of a resource is not percent-encoded, or too much of it is",
			Code: errs.InvalidArgument,
			Says: "name: resource id in a name is not percent-encoded in the one allowed way",
			Next: "encode every byte but A-Z a-z 0-9 - . _ ~ as %XX with upper-case digits",
		},
		{
			ID: "request/resource-in-name-not-utf8", When: "the id in the name of a resource is not UTF-8",
			Code: errs.InvalidArgument,
			Says: "name: resource id is not valid UTF-8",
			Next: "a resource id is at most 128 bytes of UTF-8 without control characters, and not . or ..",
		},
		{
			ID: "request/resource-in-name-too-long", When: "the id in the name of a resource is longer than 128 bytes",
			Code: errs.InvalidArgument,
			Says: "name: resource id is longer than 128 bytes",
			Next: "a resource id is at most 128 bytes of UTF-8 without control characters, and not . or ..",
		},
		{
			ID: "request/resource-in-name-relative", When: "the id in the name of a resource is one or two dots",
			Code: errs.InvalidArgument,
			Says: "name: resource id is a relative path segment",
			Next: "a resource id is at most 128 bytes of UTF-8 without control characters, and not . or ..",
		},
		{
			ID: "request/node-name", When: "a node is not named by its id",
			Code: errs.InvalidArgument,
			Says: "the name of a node is nodes/ and 32 hex digits",
			Next: "krypton operator members lists them",
		},
		{
			ID: "request/operation-name", When: "an operation is not named by a request id",
			Code: errs.InvalidArgument,
			Says: "the name of an operation is operations/ and the request id of the change",
			Next: "such as operations/0190a3c4-1f2e-7c3d-9a4b-5c6d7e8f9a0b",
		},
		{
			ID: "request/object-unknown", When: "the object does not exist, or the caller may not know of it",
			Code: errs.NotFound,
			Says: "no such object",
			Next: "check the name; objects of other tenants are not shown",
		},
		{
			ID: "request/version-unknown", When: "a key has no version of that number",
			Code: errs.NotFound,
			Says: "the key version does not exist",
			Next: "list the versions of the key",
		},
	}
}

// fields is what can be wrong with the rest of a request.
func fields() []Situation {
	return []Situation{
		{
			ID: "request/plaintext-too-large", When: "more than 1 MiB is given to be encrypted",
			Code: errs.TooLarge,
			Says: "{n} bytes are more than one call encrypts (1048576)",
			Next: "take a data key (krypton encrypt does) and encrypt locally",
		},
		{
			ID: "request/data-key-length", When: "a data key of an impossible length is asked for",
			Code: errs.InvalidArgument,
			Says: "a data key of {n} bytes is not possible",
			Next: "16 to 64 bytes are; 0 means 32",
		},
		{
			ID: "request/context-key-twice", When: "an encryption context has a key twice",
			Code: errs.InvalidArgument,
			Says: "encryption context has a key twice",
			Next: "give each key once",
		},
		{
			ID: "request/context-key-empty", When: "a pair of an encryption context has no key",
			Code: errs.InvalidArgument,
			Says: "encryption context has an empty key",
			Next: "give every value a key",
		},
		{
			ID: "request/context-key-reserved", When: "a key of an encryption context begins with krypton",
			Code: errs.InvalidArgument,
			Says: "encryption context has a key with the reserved prefix krypton",
			Next: "choose another key",
		},
		{
			ID: "request/context-too-many-pairs", When: "an encryption context has more than 64 pairs",
			Code: errs.TooLarge,
			Says: "encryption context has {n} pairs, at most 64 are allowed",
			Next: "give one pair with a digest of what the others say",
		},
		{
			ID: "request/context-too-large", When: "an encryption context has more than 8 KiB",
			Code: errs.TooLarge,
			Says: "encryption context has {n} bytes, at most 8192 are allowed",
			Next: "give a digest of what the values say",
		},
		{
			ID: "request/service-suspended", When: "something is encrypted under a service that is suspended",
			Code: errs.FailedState,
			Says: "service {name} is suspended",
			Next: "resume it first",
		},
		{
			ID: "request/service-destroy-scheduled", When: "something is encrypted under a service that waits to be destroyed",
			Code: errs.FailedState,
			Says: "service {name} is scheduled to be destroyed",
			Next: "cancel the destruction first",
		},
		{
			ID: "request/service-destroyed", When: "something is encrypted under a destroyed service",
			Code: errs.FailedState,
			Says: "service {name} is destroyed",
			Next: "its keys do not come back; use another one, or make it anew",
		},
		{
			ID: "request/request-id-malformed", When: "a request id is not a UUID",
			Code: errs.InvalidArgument,
			Says: "request_id is not a UUID",
			Next: "36 characters such as 0190a3c4-1f2e-7c3d-9a4b-5c6d7e8f9a0b, or none",
		},
		{
			ID: "request/request-id-used", When: "a request id comes again with another request",
			Code: errs.RequestReplayed,
			Says: "the request id was used for a different request",
			Next: "use a new request id for a new request",
		},
		{
			ID: "request/join-token-shown-once", When: "a join token is asked for again with the same request id",
			Code: errs.FailedState,
			Says: "this request made a token before, which was shown once",
			Next: "make another one, with a new request id",
		},
		{
			ID: "request/etag-malformed", When: "an etag is not one",
			Code: errs.InvalidArgument,
			Says: "the etag is not one that this cluster gave out",
			Next: "read the object again and pass its etag as it stands, with the quotes",
		},
		{
			ID: "request/etag-stale", When: "somebody changed the object since it was read",
			Code: errs.StaleEtag,
			Says: "the object changed since it was read",
			Next: "read it again and retry with its new etag",
		},
		{
			ID: "request/page-size", When: "a page is asked for that is too large",
			Code: errs.InvalidArgument,
			Says: "page_size is too large",
			Next: "at most 1000; 0 means 100",
		},
		{
			ID: "request/page-token", When: "a page token is not one",
			Code: errs.InvalidArgument,
			Says: "page_token is not one that this cluster gave out for this list",
			Next: "begin again without a token, and keep parent and filter from page to page",
		},
		{
			ID: "request/page-token-of-another-list", When: "a page token is of another list, or of the same with another filter",
			Code: errs.InvalidArgument,
			Says: "page_token is not one that this cluster gave out for this list",
			Next: "begin again without a token, and keep parent and filter from page to page",
		},
		{
			ID: "request/filter", When: "a list is asked for with a filter that it does not have",
			Code: errs.InvalidArgument,
			Says: "the filter is not one that lists know",
			Next: "state=ACTIVE, state=SUSPENDED, state=DESTROY_SCHEDULED or state=DESTROYED",
		},
		{
			ID: "request/binding-missing", When: "a tenant is bound without the name of its customer's key",
			Code: errs.InvalidArgument,
			Says: "a binding needs keystore and key of the customer's key (L1)",
			Next: "krypton tenant create NAME --keystore NAME --key KEY",
		},
		{
			ID: "request/binding-version", When: "the version of a customer's key is chosen",
			Code: errs.InvalidArgument,
			Says: "binding.key_version is what the keystore says; it cannot be chosen",
			Next: "leave it out",
		},
		{
			ID: "request/binding-too-long", When: "the name of a customer's key or of its keystore is too long",
			Code: errs.InvalidArgument,
			Says: "the binding names a keystore or a key with too long a name",
			Next: "a keystore has at most 63 bytes, a key 2048",
		},
		{
			ID: "request/binding-keystore-unknown", When: "the nodes have no keystore of that name",
			Code: errs.KeystoreMisconfigured,
			Says: "no keystore of the binding's name is configured on this node",
			Next: "name one of the keystores in the nodes' configuration",
		},
		{
			ID: "request/binding-key-unknown", When: "the keystore has no key of that name",
			Code: errs.KeystoreMisconfigured,
			Says: "the keystore does not have this key, or is not configured for it",
			Next: "compare the binding of the tenant with the keystore: its name in the nodes' configuration, the name of the key, files and permissions; the node's audit trail has the cause",
		},
		{
			ID: "request/role", When: "a certificate is asked for without a role, or for an unknown one",
			Code: errs.InvalidArgument,
			Says: "role is missing, or none that this node knows",
			Next: "governor, custodian, operator, auditor or workload",
		},
		{
			ID: "request/role-and-tenant", When: "a workload's certificate is asked for without its tenant, or another with one",
			Code: errs.InvalidArgument,
			Says: "a workload's certificate names its tenant, any other names none",
			Next: "give tenant for the role workload and only for it",
		},
		{
			ID: "request/person-name", When: "a certificate is asked for a name that it cannot have",
			Code: errs.InvalidArgument,
			Says: "name is missing, or none that a certificate can have",
			Next: "1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit",
		},
		{
			ID: "request/public-key", When: "a certificate is asked for something that is no public key",
			Code: errs.InvalidArgument,
			Says: "public key is not a SubjectPublicKeyInfo in DER",
			Next: "give an ECDSA P-256 or Ed25519 key; krypton operator cert new-key makes one",
		},
		{
			ID: "request/public-key-kind", When: "a certificate is asked for a key of another kind",
			Code: errs.InvalidArgument,
			Says: "key is not ECDSA P-256 or Ed25519",
			Next: "krypton operator cert new-key makes one of the right kind",
		},
		{
			ID: "request/certificate-lifetime", When: "a certificate is asked for a time that is too short or too long",
			Code: errs.InvalidArgument,
			Says: "lifetime of a certificate is out of range",
			Next: "60 to 2592000 seconds",
		},
		{
			ID: "request/join-token-lifetime", When: "a join token is asked for more than a day",
			Code: errs.InvalidArgument,
			Says: "the join token would live too long",
			Next: "ttl_seconds is at most 86400; 0 means 3600",
		},
		{
			ID: "request/region", When: "a join token is for a region that is not a name",
			Code: errs.InvalidArgument,
			Says: "region: name {rule}",
			Next: "a name is 1 to 63 of a-z, 0-9 and '-', starts with a letter and does not end with '-'",
		},
		{
			ID: "request/reason-too-long", When: "the reason of a seal has more than 256 bytes",
			Code: errs.TooLarge,
			Says: "the reason has {n} bytes, at most 256 are kept",
			Next: "say it in fewer words",
		},
		{
			ID: "request/reason-control-character", When: "the reason of a seal has a control character",
			Code: errs.InvalidArgument,
			Says: "the reason has a control character",
			Next: "write it as one line of text",
		},
		{
			ID: "request/share-missing", When: "nothing is contributed to an unseal",
			Code: errs.InvalidArgument,
			Says: "the request has neither a share nor reset",
			Next: "krypton unseal sends a share",
		},
		{
			ID: "request/share-of-another-node", When: "a share is contributed to another node than it was encrypted for",
			Code: errs.ShareRefused,
			Says: "the share is for another node than the one that answers",
			Next: "every node unseals by itself: give --addr of exactly one node",
		},
		{
			ID: "request/share-not-needed", When: "a share is contributed to a node that is unsealed",
			Code: errs.NotSealed,
			Says: "this node is unsealed already",
			Next: "nothing is left to do",
		},
		{
			ID: "request/repeated", When: "a change comes again with the same request id and the same body",
			Outcome: "It acts once: the second answer is the first one, for 24 h.",
		},
		{
			ID: "request/page-token-of-somebody-else", When: "a page token of another caller is used",
			Outcome: "The list goes on there: a token is a place, and what may be read is decided anew.",
		},
	}
}

// moments is what the state of an object does not allow.
func moments() []Situation {
	return []Situation{
		{
			ID: "request/tenant-exists", When: "a tenant is made that is there already",
			Code: errs.AlreadyExists,
			Says: "a tenant of this name exists already",
			Next: "read it, or choose another name",
		},
		{
			ID: "request/service-exists", When: "a service is made that is there already",
			Code: errs.AlreadyExists,
			Says: "a service of this name exists already",
			Next: "read it, or choose another name",
		},
		{
			ID: "request/already-so", When: "something is changed to what it is",
			Code: errs.FailedState,
			Says: "the {object} is in that state already",
			Next: "nothing is left to do; read it to be sure",
		},
		{
			ID: "request/not-suspended", When: "something is resumed that is not suspended",
			Code: errs.FailedState,
			Says: "the {object} is not suspended for this cause",
			Next: "its state names the causes; whoever set one lifts it",
		},
		{
			ID: "request/not-disabled", When: "a version is enabled that is not disabled",
			Code: errs.FailedState,
			Says: "the key version is not disabled",
			Next: "only a disabled version can be enabled; read its state",
		},
		{
			ID: "request/not-scheduled", When: "something is saved that was not to be destroyed",
			Code: errs.FailedState,
			Says: "the {object} is not scheduled to be destroyed",
			Next: "schedule the destruction first",
		},
		{
			ID: "request/destroy-scheduled", When: "something is changed that waits to be destroyed",
			Code: errs.FailedState,
			Says: "the {object} is scheduled to be destroyed",
			Next: "cancel the destruction first",
		},
		{
			ID: "request/destroyed", When: "something is changed that is destroyed",
			Code: errs.FailedState,
			Says: "the {object} is destroyed",
			Next: "its keys do not come back; use another one, or make it anew",
		},
		{
			ID: "request/suspended", When: "a key is made or rotated under what is suspended",
			Code: errs.FailedState,
			Says: "the {object} is suspended",
			Next: "resume it first",
		},
		{
			ID: "request/version-deprecated", When: "a resource is pinned to a deprecated version",
			Code: errs.FailedState,
			Says: "the key version is deprecated, which is one way",
			Next: "rotate to a new version",
		},
		{
			ID: "request/version-compromised", When: "a compromised version is pinned or enabled",
			Code: errs.FailedState,
			Says: "the key version is or was compromised",
			Next: "rotate to a new version; what is under this one stays closed",
		},
		{
			ID: "request/version-disabled", When: "a disabled version is pinned or made primary",
			Code: errs.FailedState,
			Says: "the key version is disabled",
			Next: "enable it first",
		},
		{
			ID: "request/rollback-too-late", When: "a rotation is taken back after the rollback window",
			Code: errs.FailedState,
			Says: "the key version is outside its rollback window",
			Next: "rotate to a new version",
		},
		{
			ID: "request/rollback-nothing-before", When: "a rotation is taken back and there was none",
			Code: errs.FailedState,
			Says: "there is no earlier version to return to",
			Next: "rotate to get a new one",
		},
		{
			ID: "request/resource-not-pinned", When: "a pin is taken away from a resource that has none",
			Code: errs.FailedState,
			Says: "the resource is not pinned",
			Next: "pin it first; a resource without a pin follows the primary",
		},
		{
			ID: "request/last-voter", When: "the last voter is demoted or removed",
			Code: errs.FailedState,
			Says: "the node is the last voter",
			Next: "make another node a voter first",
		},
		{
			ID: "request/nobody-to-hand-over-to", When: "leadership is handed over and no other voter is there",
			Code: errs.FailedState,
			Says: "leadership was not handed over: {cause}",
			Next: "it goes to a voter that has caught up: krypton operator members",
		},
		{
			ID: "request/tenant-with-services-deleted", When: "a tenant is deleted that has services",
			Outcome: "They go with it: nothing of the tenant opens from then on. During the wait, undelete and resume bring everything back.",
		},
	}
}

// messages is what can be wrong with the form of a request.
func messages() []Situation {
	return []Situation{
		{
			ID: "request/message-not-decoded", When: "what came over gRPC is not a message of the method, or its text is not UTF-8",
			Code: errs.InvalidArgument,
			Says: "the request is not a message of this method",
			Next: "encode it with the .proto files of this API; text is valid UTF-8",
		},
		{
			ID: "request/field-unknown", When: "a message has a field that the node does not know",
			Code: errs.InvalidArgument,
			Says: "the request has fields that this node does not know",
			Next: "the node may be older than the client",
		},
		{
			ID: "request/message-too-large", When: "a gRPC message is larger than 2 MiB",
			Code: errs.TooLarge,
			Says: "the request is larger than 2097152 bytes",
			Next: "encrypt large data with a data key",
		},
		{
			ID: "request/method-unknown", When: "a gRPC method does not exist",
			Code: errs.Unimplemented,
			Says: "this node does not know the method",
			Next: "it may be older than the client",
		},
		{
			ID: "request/body-not-json", When: "the body of an HTTP request is not JSON, or something stands behind it",
			Code: errs.InvalidArgument,
			Says: "the body is not one JSON object",
			Next: "send one object and nothing behind it, as GET /v1/openapi.json has it",
		},
		{
			ID: "request/body-field", When: "a field of a body does not exist, is there twice or in the path, or has the wrong type",
			Code: errs.InvalidArgument,
			Says: "a field of the body does not exist, stands there twice, is in the path already, or is not of its type{place}",
			Next: "compare it with GET /v1/openapi.json; bytes are base64, enums are names, text is valid UTF-8",
		},
		{
			ID: "request/body-field-of-the-path", When: "a field of a body is in the path, too",
			Code: errs.InvalidArgument,
			Says: "a field of the body does not exist, stands there twice, is in the path already, or is not of its type",
			Next: "compare it with GET /v1/openapi.json; bytes are base64, enums are names, text is valid UTF-8",
		},
		{
			ID: "request/body-text", When: "a text in a body is half a character (an escape without its other half)",
			Code: errs.InvalidArgument,
			Says: "a field of the body does not exist, stands there twice, is in the path already, or is not of its type",
			Next: "compare it with GET /v1/openapi.json; bytes are base64, enums are names, text is valid UTF-8",
		},
		{
			ID: "request/body-too-large", When: "the body of an HTTP request is larger than 2 MiB",
			Code: errs.TooLarge,
			Says: "the request body is larger than 2097152 bytes",
			Next: "encrypt at most 1 MiB in one call; for more, take a data key and encrypt locally",
		},
		{
			ID: "request/body-not-taken", When: "a GET or DELETE has a body",
			Code: errs.InvalidArgument,
			Says: "this HTTP method takes no body",
			Next: "its parameters stand in the URL",
		},
		{
			ID: "request/parameter", When: "a parameter of the URL does not exist, is there twice, or has the wrong type",
			Code: errs.InvalidArgument,
			Says: "a parameter of the URL does not exist, stands there twice, or is not of its type",
			Next: "compare it with GET /v1/openapi.json; enums are names, text is valid UTF-8",
		},
		{
			ID: "request/parameter-of-the-path", When: "a parameter of the URL is in the path, too",
			Code: errs.InvalidArgument,
			Says: "a parameter of the URL is in the path already",
			Next: "leave it out",
		},
		{
			ID: "request/parameter-of-a-post", When: "a POST has parameters in its URL",
			Code: errs.InvalidArgument,
			Says: "parameters of a POST stand in its body, not in the URL",
			Next: "move them into the JSON of the body",
		},
		{
			ID: "request/path-unknown", When: "there is no such path, or a name in it is not encoded",
			Code: errs.NotFound,
			Says: "no such path",
			Next: "GET /v1/openapi.json lists every path; a name in a path is percent-encoded as a whole",
		},
		{
			ID: "request/http-method", When: "a path does not take the HTTP method",
			Code: errs.Unimplemented,
			Says: "this path does not take that HTTP method",
			Next: "GET /v1/openapi.json lists every path",
		},
		{
			ID: "request/other-site", When: "a page of another site sends the request with a person's certificate",
			Code: errs.Denied,
			Says: "the request comes from a page of another site",
			Next: "use the command line, an SDK or a page of the same origin",
		},
	}
}
