package situation

import "github.com/openkcm/krypton-cluster/internal/errs"

// Next steps that several rows share.
const (
	ports  = "give the gRPC port, 8400 unless configured otherwise; 8401 is HTTP/JSON, 8402 for nodes among themselves, 8404 operations without TLS"
	accept = "check the clock of this machine; if the node was sealed for so long, and is still one of the cluster: krypton unseal --accept-expired-node"
	token  = "KRYPTON_TOKEN_FILE or Options.TokenFile names a file that holds one token and nothing else"
	pair   = "KRYPTON_CERT_FILE and KRYPTON_KEY_FILE, or the Options of these names, are the PEM files of one pair"
)

func identities() Group {
	return Group{Name: "identity", Title: "Identity, certificates, roles", Rows: []Situation{
		{
			ID: "identity/wrong-ca", When: "the client does not trust the node, because its CA file is of another cluster",
			Code: errs.InvalidConfig,
			Says: "the certificate of node {address} is not by the CA in {file}",
			Next: "give the CA file of the cluster that this node belongs to, as krypton init and krypton operator cert issue write it; if its CA was replaced, that of somebody who has the new one (krypton operator ca export)",
		},
		{
			ID: "identity/wrong-server-name", When: "the address of a node is not in its certificate",
			Code: errs.InvalidConfig,
			Says: "the certificate of node {address} is for {names}",
			Next: "use one of these names as the address, or set those under which the node is reached as advertise.grpc in its configuration",
		},
		{
			ID: "identity/node-expired", When: "the certificate of a node has expired, or is not valid yet",
			Code: errs.InvalidConfig,
			Says: "the certificate of node {address} is valid from {time} to {time}, which is not now",
			Next: "check the clock of this machine; if it is right, ask the operator why the node did not renew its certificate",
		},
		{
			ID: "identity/sealed-node-expired", When: "the certificate of a node expired while it was sealed, and shares are handed in",
			Code: errs.InvalidConfig,
			Says: "the certificate of node {address} is valid from {time} to {time}, which is not now",
			Next: accept,
		},
		{
			ID: "identity/sealed-node-shows-expired", When: "the same with tls.mode files, where the certificate of the connection is another one",
			Code: errs.Unauthenticated,
			Says: "node {id} does not prove who it is: its certificate expired at {time}",
			Next: accept,
		},
		{
			ID: "identity/not-a-node", When: "somebody answers at the address with the certificate of a caller",
			Code: errs.InvalidConfig,
			Says: "the certificate of node {address} is not one for a node",
			Next: "check the address, and on the node the files of tls.mode files",
		},
		{
			ID: "identity/port-without-tls", When: "the address is that of the operations port, or of another program",
			Code: errs.InvalidConfig,
			Says: "node {address} does not speak TLS on this port",
			Next: ports,
		},
		{
			ID: "identity/port-of-peers", When: "the address is that of the peer port",
			Code: errs.InvalidConfig,
			Says: "node {address} does not speak gRPC on this port",
			Next: ports,
		},
		{
			ID: "identity/port-of-http", When: "the address is that of the HTTP/JSON port",
			Code: errs.Unimplemented,
			Says: "this port speaks HTTP/JSON, not gRPC",
			Next: "give the gRPC port of the node, 8400 unless configured otherwise",
		},
		{
			ID: "identity/node-has-no-cluster", When: "the node was neither initialised nor joined",
			Code: errs.NotServing,
			Says: "node {address} has no certificate yet: it belongs to no cluster",
			Next: "on the node: krypton init for a new cluster, or krypton join",
		},
		{
			ID: "identity/ca-file-missing", When: "the CA file cannot be read",
			Code: errs.InvalidConfig,
			Says: "read CA file: {cause}",
			Next: "KRYPTON_CA_FILE or Options.CAFile names the PEM file of the cluster's CA",
		},
		{
			ID: "identity/ca-file-empty", When: "the CA file holds no certificate",
			Code: errs.InvalidConfig,
			Says: "CA file {file} holds no certificate",
			Next: "it has to be PEM, as krypton init and krypton operator cert issue write it",
		},
		{
			ID: "identity/cert-file-missing", When: "the certificate file cannot be read",
			Code: errs.InvalidConfig,
			Says: "read certificate file: {cause}",
			Next: pair,
		},
		{
			ID: "identity/key-file-missing", When: "the key file cannot be read",
			Code: errs.InvalidConfig,
			Says: "read key file: {cause}",
			Next: pair,
		},
		{
			ID: "identity/cert-file-empty", When: "the certificate file holds no certificate",
			Code: errs.InvalidConfig,
			Says: "certificate file {file} holds no certificate",
			Next: "it has to be PEM, as krypton init and krypton operator cert issue write it",
		},
		{
			ID: "identity/key-file-empty", When: "the key file holds no private key",
			Code: errs.InvalidConfig,
			Says: "key file {file} holds no private key",
			Next: "it has to be PEM, as krypton operator cert new-key writes it",
		},
		{
			ID: "identity/files-swapped", When: "the files of certificate and key are swapped",
			Code: errs.InvalidConfig,
			Says: "certificate file {file} holds a private key",
			Next: "the files of certificate and key are swapped",
		},
		{
			ID: "identity/key-of-another-cert", When: "the key does not belong to the certificate",
			Code: errs.InvalidConfig,
			Says: "the key in {file} does not fit the certificate in {file}",
			Next: pair,
		},
		{
			ID: "identity/nothing-to-show", When: "the Go client is given neither a certificate with its key nor a token",
			Code: errs.InvalidConfig,
			Says: "no TLS identity is given",
			Next: "set KRYPTON_CA_FILE, KRYPTON_CERT_FILE and KRYPTON_KEY_FILE, or the Options of these names, to PEM files; a caller with a token has KRYPTON_TOKEN_FILE in place of the last two",
		},
		{
			ID: "identity/no-ca-file", When: "there is a certificate or a token, and nothing to verify nodes with",
			Code: errs.InvalidConfig,
			Says: "no CA file is given, and nodes cannot be verified without",
			Next: "set KRYPTON_CA_FILE or Options.CAFile to the PEM file of the cluster's CA",
		},
		{
			ID: "identity/token-file-missing", When: "the token file cannot be read",
			Code: errs.InvalidConfig,
			Says: "read token file: {cause}",
			Next: token,
		},
		{
			ID: "identity/token-file-empty", When: "the token file is empty",
			Code: errs.InvalidConfig,
			Says: "token file {file} holds no token",
			Next: token,
		},
		{
			ID: "identity/token-file-large", When: "the token file is larger than any token",
			Code: errs.InvalidConfig,
			Says: "token file {file} holds more than {number} bytes",
			Next: token,
		},
		{
			ID: "identity/token-file-malformed", When: "the token file holds something that is no token, such as JSON, a key, or two lines",
			Code: errs.InvalidConfig,
			Says: "token file {file} holds something else than one token",
			Next: "it has to be the bare token: no quotes, spaces, further lines or \"Bearer\" before it",
		},
		{
			ID: "identity/no-certificate", When: "a caller presents no certificate",
			Code: errs.Unauthenticated,
			Says: "no client certificate was presented",
			Next: "give --cert-file and --key-file, or set KRYPTON_CERT_FILE and KRYPTON_KEY_FILE",
		},
		{
			ID: "identity/foreign-certificate", When: "the certificate is of another cluster or another CA",
			Code: errs.Unauthenticated,
			Says: "the client certificate is not from a CA that this cluster accepts",
			Next: "use a certificate that this cluster issued, or have the CA registered: krypton issuer create",
		},
		{
			ID: "identity/expired", When: "the certificate has expired, also while a connection is open",
			Code: errs.Unauthenticated,
			Says: "the client certificate expired at {time}, and the node's clock says {time}",
			Next: "renew it: krypton operator cert renew; if the node's clock is wrong (compare date -u), set it right",
		},
		{
			ID: "identity/not-yet-valid", When: "the certificate is not valid yet",
			Code: errs.Unauthenticated,
			Says: "the client certificate is valid only from {time}, and the node's clock says {time}",
			Next: "compare the node's clock with that of who issued the certificate (date -u), and set right the one that is wrong",
		},
		{
			ID: "identity/revoked", When: "the certificate was revoked, also while a connection is open",
			Code: errs.Unauthenticated,
			Says: "the client certificate was revoked at {time}",
			Next: "ask a governor of this cluster why, and for a new one",
		},
		{
			ID: "identity/of-a-node", When: "a node's certificate is used to call",
			Code: errs.Unauthenticated,
			Says: "the client certificate is that of a node",
			Next: "use a certificate of your own; nodes do not call",
		},
		{
			ID: "identity/no-name", When: "the certificate, of a registered CA, has neither a URI name nor a common name",
			Code: errs.Unauthenticated,
			Says: "the credential of {issuer} has no name that a role binding could know",
			Next: "a certificate needs one URI name in the issuer's trust domain, or one common name",
		},
		{
			ID: "identity/unbound", When: "the identity in a certificate of this cluster was never bound to a role, or not any more, also while a connection is open",
			Code: errs.Unauthenticated,
			Says: "the identity {identity} has no role in this cluster: it was never bound, or its role binding was removed",
			Next: "ask a governor: krypton operator cert issue",
		},
		{
			ID: "identity/unbound-subject", When: "a registered CA vouches for somebody who is bound to no role",
			Code: errs.Unauthenticated,
			Says: "the identity {subject} of {issuer} has no role in this cluster",
			Next: "ask a governor to bind it: krypton role bind --issuer {issuer} --subject {subject}",
		},
		{
			ID: "identity/other-key", When: "the certificate is by the cluster's own CA, for a key that the role binding does not have: it was bound anew since, or the CA was misused",
			Code: errs.Unauthenticated,
			Says: "the client certificate is for a key that the role binding of {identity} does not have",
			Next: "use the certificate for the bound key; a governor binds another key: krypton role bind",
		},
		{
			ID: "identity/binding-expired", When: "the role binding of the caller has ended, and nobody removed it yet",
			Code: errs.Unauthenticated,
			Says: "the role binding of this identity expired at {time}",
			Next: "ask a governor for a new one: krypton role bind",
		},
		{
			ID: "identity/issuer-tenant", When: "the issuer of the certificate may not vouch for workloads of the tenant",
			Code: errs.Unauthenticated,
			Says: "{issuer} may not vouch for workloads of this tenant",
			Next: "have the identity issued by the cluster's own CA, or by an issuer of the tenant",
		},
		{
			ID: "identity/of-a-tenant-before", When: "the certificate of a workload is of a tenant that was destroyed, and another workload of that name is bound in the tenant that has its name now",
			Code: errs.Unauthenticated,
			Says: "the credential was issued for another tenant of this name",
			Next: "have a new one issued",
		},
		{
			ID: "identity/two-names", When: "the certificate has more than one URI name",
			Code: errs.Unauthenticated,
			Says: "the client certificate has more than one URI name",
			Next: "a caller's certificate has one URI name (SPIFFE X.509-SVID), or none",
		},
		{
			ID: "identity/other-trust-domain", When: "the certificate names another cluster's trust domain",
			Code: errs.Unauthenticated,
			Says: "the client certificate names a trust domain that its CA does not have",
			Next: "use a certificate of this cluster",
		},
		{
			ID: "identity/server-usage-only", When: "the certificate is not meant for callers",
			Code: errs.Unauthenticated,
			Says: "the client certificate is not valid for a caller",
			Next: "check its usages and its CA",
		},
		{
			ID: "identity/of-a-ca", When: "the certificate is that of a CA",
			Code: errs.Unauthenticated,
			Says: "the client certificate is that of a CA",
			Next: "use a certificate of your own",
		},
		{
			ID: "identity/wrong-role", When: "the role of the caller may not do this",
			Code: errs.Denied,
			Says: "the role {role} may not do {act} here",
			Next: "ask somebody with another role, or who governs the object; krypton whoami says as whom you ask",
		},
		{
			ID: "identity/other-tenant", When: "a workload names an object of another tenant, or of a tenant that was made again under its tenant's name",
			Code: errs.NotFound,
			Says: "no such object",
			Next: "check the name; objects of other tenants are not shown",
		},
		{
			ID: "identity/governor-of-something-else", When: "a governor decides about something that other governors govern: about a tenant that does not list the governor, or about the cluster without being one of the platform",
			Code: errs.Denied,
			Says: "the role {role} may not do {act} here",
			Next: "ask somebody with another role, or who governs the object; krypton whoami says as whom you ask",
		},
		{
			ID: "identity/issue-other-key", When: "a certificate is to be issued for another key than the one that is bound",
			Code: errs.FailedState,
			Says: "the identity has a role binding for another key",
			Next: "issue for the key it has, choose another name, or remove the binding first: krypton role unbind {binding}",
		},
		{
			ID: "identity/renew-unbound", When: "a certificate is to be renewed whose role needs no binding",
			Code: errs.FailedState,
			Says: "this certificate cannot renew itself: no role binding has its key",
			Next: "have a governor issue a new one: krypton operator cert issue",
		},
		{
			ID: "identity/renew-foreign", When: "a certificate of a registered CA is to be renewed",
			Code: errs.FailedState,
			Says: "the cluster renews only certificates of its own CA",
			Next: "renew it where it was issued",
		},
		{
			ID: "identity/revoke-own", When: "a governor revokes the certificate in use",
			Code: errs.FailedState,
			Says: "a governor's certificate is not revoked by itself: it could be the last one",
			Next: "have another governor revoke it",
		},
		{
			ID: "identity/revoke-above", When: "an operator revokes the certificate of a governor or custodian",
			Code: errs.Denied,
			Says: "the certificates of governors and custodians are revoked by governors only",
			Next: "ask a governor",
		},
		{
			ID: "identity/revoke-by-number", When: "an operator gives only the serial number of a certificate",
			Code: errs.Denied,
			Says: "only a governor revokes a certificate by its serial number alone",
			Next: "give the certificate itself, or ask a governor",
		},
		{
			ID: "identity/revoke-foreign", When: "the certificate to revoke is a node's or another cluster's",
			Code: errs.InvalidArgument,
			Says: "the certificate is not one that this cluster gave to a caller",
			Next: "give the certificate of a caller of this cluster; those of nodes end with the membership: krypton operator remove",
		},
		{
			ID: "identity/revoke-nothing", When: "neither a certificate nor a serial number is given, or both",
			Code: errs.InvalidArgument,
			Says: "a revocation names one certificate: by itself, or by its serial number",
			Next: "give the certificate or the serial number, not both",
		},
		{
			ID: "identity/revoke-serial-malformed", When: "a serial number is not one",
			Code: errs.InvalidArgument,
			Says: "the serial number is not one",
			Next: "lower-case hexadecimal as krypton operator cert issue and krypton whoami show it, 1 to 20 bytes",
		},
		{
			ID: "identity/revoke-expired", When: "the certificate to revoke has expired",
			Code: errs.FailedState,
			Says: "the certificate has expired, so there is nothing to revoke",
			Next: "nothing is left to do; check the clock if you think otherwise",
		},
		{
			ID: "identity/revoked-meanwhile", When: "a change was asked for with a certificate that was revoked before the change stood in the log; also of two who revoke each other, the second",
			Code: errs.Unauthenticated,
			Says: "the certificate with which this was asked for was revoked in the meantime",
			Next: "ask a governor of this cluster",
		},
		{
			ID: "identity/revocations-full", When: "there are 10,000 revoked certificates that have not expired",
			Code: errs.LimitReached,
			Says: "10000 certificates are revoked and have not expired, which is the limit",
			Next: "suspend the tenants concerned, or wait until the first of them expires: krypton operator cert revocations",
		},
		{
			ID: "identity/revocations-old-format", When: "a node of a release without revocations is still a member",
			Code: errs.FailedState,
			Says: "the format version of this cluster is older than revocations",
			Next: "upgrade every node; the leader raises the format version when all members support it",
		},
		{
			ID: "identity/revoked-already", When: "a certificate is revoked a second time",
			Code: errs.AlreadyExists,
			Says: "the certificate is revoked already",
			Next: "nothing is left to do; krypton operator cert revocations shows it",
		},
		{
			ID: "identity/revoke-no-certificate", When: "the file to revoke is not a certificate",
			Code: errs.InvalidArgument,
			Says: "{file} is not one certificate",
			Next: "give the file that krypton operator cert issue wrote, such as app1.pem",
		},
		{
			ID: "identity/revoke-no-file", When: "the file to revoke cannot be read",
			Code: errs.InvalidArgument,
			Says: "read {file}: {cause}",
			Next: "give the file of a certificate, or its serial number in hexadecimal",
		},
	}}
}
