package situation

import "github.com/openkcm/krypton-cluster/internal/errs"

func configurations() Group {
	const (
		says = "the configuration cannot be used: "
		next = "docs/config.md lists every key; `krypton server --check-config` checks without starting"
	)
	config := func(id, when, problem string) Situation {
		return Situation{ID: id, When: when, Code: errs.InvalidConfig, Says: says + problem, Next: next}
	}
	return Group{Name: "config", Title: "Configuration and start", Rows: []Situation{
		config("config/file-unreadable", "the configuration file is not there, cannot be read, or is a directory", "{file}: {what}"),
		config("config/not-yaml", "the configuration file is no YAML, or more than one document", "{file}: {what}"),
		config("config/too-large", "the configuration file is larger than 1 MiB", "{file}: larger than 1048576 bytes"),
		config("config/unknown-key", "a key does not exist", "{file}:{line}: unknown key \"{key}\", did you mean \"{nearest}\"?"),
		config("config/key-twice", "a key stands twice", "{file}:{line}: key \"{key}\" stands twice"),
		config("config/not-a-section", "a section is a single value", "{file}:{line}: \"{section}\" must be a section with keys"),
		config("config/wrong-type", "a value is of another type", "{file}: line {line}: cannot unmarshal {what} into {type}"),
		config("config/not-possible", "a value is none of those that are possible", "{key} is {value}, want {values}"),
		config("config/bad-address", "an address is no host:port, or its port is none", "{key} {what}, want {form}"),
		config("config/same-port", "two listeners have one port", "{key} and {other} are both {address}; every listener needs a port of its own"),
		config("config/keystore-twice", "two keystores have one name", "keystores[{number}].name \"{name}\" stands twice; every keystore has a name of its own"),
		config("config/contradiction", "two settings cannot both be meant", "{setting} {what} {other}"),
		config("config/unknown-variable", "an environment variable begins like those of a node and is none", "unknown environment variable {name}, did you mean {nearest}?"),
		config("config/malformed-variable", "an environment variable has a value that its key cannot have", "{name}: {what}"),
		{
			ID: "config/port-in-use", When: "a port is in use",
			Code: errs.InvalidConfig,
			Says: "listen.{listener} cannot listen on {address}: address already in use",
			Next: "find who has it with ss -ltnp 'sport = :{port}', and stop that or change listen.{listener}",
		},
		{
			ID: "config/no-such-address", When: "a listener's address is none of this machine's",
			Code: errs.InvalidConfig,
			Says: "listen.{listener} cannot listen on {address}: cannot assign requested address",
			Next: "use an address that this machine has (ip addr), or change listen.{listener} to :{port}",
		},
		{
			ID: "config/bad-name", When: "the name, region or zone of the node has a form that none may have",
			Code: errs.InvalidConfig,
			Says: "{key} \"{value}\" cannot be used: {what}",
			Next: "{what}",
		},
		{
			ID: "config/keystore-unopened", When: "a keystore cannot be opened",
			Code: errs.InvalidConfig,
			Says: "a keystore cannot be opened: {what}",
			Next: "check keystores in the configuration",
		},
		{
			ID: "config/token-unreadable", When: "the file of cluster.join_token_file cannot be read",
			Code: errs.InvalidConfig,
			Says: "the join token cannot be read: {what}",
			Next: "cluster.join_token_file names a file with one join token; make one with krypton operator join-token",
		},
		{
			ID: "config/token-malformed", When: "the file of cluster.join_token_file holds something else",
			Code: errs.InvalidConfig,
			Says: "the file {file} holds no join token",
			Next: "cluster.join_token_file names a file with one join token; make one with krypton operator join-token",
		},
		{
			ID: "config/certificate-missing", When: "a file of tls.mode files cannot be read",
			Code: errs.InvalidConfig,
			Says: "{key} {file} cannot be read: {what}",
			Next: "tls.cert and tls.key name PEM files that the user that runs the node can read; or use tls.mode builtin",
		},
		{
			ID: "config/certificate-unusable", When: "tls.cert and tls.key are damaged, or do not belong together",
			Code: errs.InvalidConfig,
			Says: "tls.cert {file} and tls.key {key} cannot be used: {what}",
			Next: "give the chain, leaf first, and the key of that leaf, both in PEM; or use tls.mode builtin",
		},
		{
			ID: "config/certificate-key-open", When: "others can read the file of tls.key",
			Code: errs.InvalidConfig,
			Says: "tls.key {file} has mode {mode}, so others on this machine can read it",
			Next: "run: chmod 0600 {file}",
		},
		{
			ID: "config/directory-missing", When: "a directory above the data directory cannot be made",
			Code: errs.InvalidConfig,
			Says: "cannot create {directory}: permission denied",
			Next: "give it to the user that runs the node (uid {number}): chown -R",
		},
		{
			ID: "config/directory-unwritable", When: "a file of the node cannot be read or written for want of a right",
			Code: errs.InvalidConfig,
			Says: "cannot {verb} {file}: permission denied",
			Next: "give it to the user that runs the node (uid {number}): chown -R",
		},
		{
			ID: "config/log-unreadable", When: "the Raft log cannot be opened for want of a right",
			Code: errs.InvalidConfig,
			Says: "the Raft log {file} cannot be opened: permission denied",
			Next: "give the file to the user that runs the node (uid {number})",
		},
		{
			ID: "config/directory-of-another", When: "the data directory belongs to another user",
			Code: errs.InvalidConfig,
			Says: "{directory} belongs to uid {number}, and this process runs as uid {number}",
			Next: "run the node as the owner of its data directory (sudo -u), or give it the directory: chown -R",
		},
		{
			ID: "config/directory-in-use", When: "another process runs on the data directory",
			Code: errs.FailedState,
			Says: "another process holds the data directory: pid {number}",
			Next: "stop that process, or give this node a directory of its own",
		},
		{
			ID: "config/path-too-long", When: "the path of the data directory is too long for the socket in it",
			Code: errs.InvalidConfig,
			Says: "cannot listen on the administration socket {file}",
			Next: "a path of a socket has at most about 100 bytes; use a shorter node.data_dir",
		},
		{
			ID: "config/profile-of-leases", When: "the profile of a node cannot work with the leases of its cluster: they would run out at every failover",
			Code: errs.InvalidConfig,
			Says: "cluster.profile {profile} does not fit the leases of this cluster: {what}",
			Next: "set cluster.profile to what the cluster was founded with: the length of its leases is fixed; or found a new cluster with cluster.profile {profile}",
		},
		{
			ID: "config/memory-limit", When: "the process may not lock as much memory as the configuration asks for",
			Code: errs.InvalidConfig,
			Says: "the process may lock {number} bytes of memory and needs {number} bytes",
			Next: "set LimitMEMLOCK={number} in the systemd unit, or ulimit -l {number} in the shell, or lower memory.lock_mib",
		},
	}}
}
