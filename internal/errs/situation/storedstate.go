package situation

import "github.com/openkcm/krypton-cluster/internal/errs"

// startAnew is the next step when a data directory cannot be trusted any more.
const startAnew = "put the file back if you moved it; else replace this node: krypton operator remove, then krypton join with an empty data directory"

func storedState() Group {
	return Group{Name: "stored", Title: "Files of a node", Rows: []Situation{
		{
			ID: "stored/format-newer", When: "the data directory was written by a newer release",
			Code: errs.InvalidConfig,
			Says: "the data directory has format {number}, which this program does not know",
			Next: "this release opens format 1; start the release that wrote the directory, or a newer one",
		},
		{
			ID: "stored/format-missing", When: "the file format is gone from a data directory that is in use",
			Code: errs.StateCorrupt,
			Says: "{file} is missing, and the data directory is not new",
			Next: "put the file back; it holds the number of the format, which this release writes as 1",
		},
		{
			ID: "stored/format-damaged", When: "the file format is empty or holds something else",
			Code: errs.StateCorrupt,
			Says: "{file} does not hold the number of a format",
			Next: "put the file back; this release writes 1 into it, and a damaged file is a reason to look at the disk",
		},
		{
			ID: "stored/identity-missing", When: "node.json is gone and other files of the node are there",
			Code: errs.StateCorrupt,
			Says: "node.json is missing although the data directory has {file}",
			Next: startAnew,
		},
		{
			ID: "stored/identity-damaged", When: "node.json is empty, cut short, damaged, or of a newer format",
			Code: errs.StateCorrupt,
			Says: "node.json cannot be used: {what}",
			Next: startAnew,
		},
		{
			ID: "stored/identity-foreign", When: "node.json or the Raft log is of another node",
			Code: errs.StateCorrupt,
			Says: "the Raft log is of another node: it never names node {id}",
			Next: startAnew,
		},
		{
			ID: "stored/cluster-foreign", When: "node.json names another cluster than the Raft log holds",
			Code: errs.StateCorrupt,
			Says: "the Raft log holds another cluster than node.json names",
			Next: "data directories were mixed up; " + startAnew,
		},
		{
			ID: "stored/log-missing", When: "the Raft log of a member is gone",
			Code: errs.StateCorrupt,
			Says: "the Raft log of this member is missing",
			Next: startAnew,
		},
		{
			ID: "stored/log-empty", When: "the Raft log of a member is an empty file, or a new database",
			Code: errs.StateCorrupt,
			Says: "the Raft log of this member is empty",
			Next: startAnew,
		},
		{
			ID: "stored/log-damaged", When: "a bit, a page, a part, or all of the Raft log is something else",
			Code: errs.StateCorrupt,
			Says: "the Raft log {file} cannot be used: {what}",
			Next: startAnew,
		},
		{
			ID: "stored/log-newer", When: "the Raft log has a command that only a newer release knows, or that is none",
			Code: errs.StateCorrupt,
			Says: "entry {number} of the Raft log cannot be applied: {what}",
			Next: "if the cluster runs a newer release, start that one; else " + startAnew,
		},
		{
			ID: "stored/log-edited", When: "an entry of the Raft log was changed and its checksums mended, and another node leads",
			Code: errs.StateCorrupt,
			Says: "the state of this node differs from its leader's at entry {number} of the log",
			Next: "find out who can write to the data directories; if only this node says so, replace it: krypton operator remove, then krypton join with an empty data directory",
		},
		{
			ID: "stored/leader-log-edited", When: "as before, and the node itself leads",
			Code: errs.StateCorrupt,
			Says: "the state of this node differs from that of most voters",
			Next: "find out who can write to its data directory; " + startAnew,
		},
		{
			ID: "stored/snapshot-missing", When: "the snapshot before the Raft log is gone, or what describes it is damaged",
			Code: errs.StateCorrupt,
			Says: "the Raft log begins at entry {number}, and no snapshot in {directory} can be read that reaches so far",
			Next: startAnew,
		},
		{
			ID: "stored/snapshot-damaged", When: "a snapshot is cut short or has a wrong bit, and there is no other",
			Code: errs.StateCorrupt,
			Says: "the Raft state under {directory} cannot be loaded: {what}",
			Next: startAnew,
		},
		{
			ID: "stored/snapshot-malformed", When: "a snapshot has Raft's checksum, and its content is damaged or of a newer format",
			Code: errs.StateCorrupt,
			Says: "the snapshot is damaged: {what}",
			Next: startAnew,
		},
		{
			ID: "stored/snapshot-foreign", When: "a snapshot is of another cluster",
			Code: errs.StateCorrupt,
			Says: "the snapshot is of another cluster than node.json names",
			Next: "data directories were mixed up: put the right files back, or replace this node: krypton operator remove, then krypton join with an empty data directory",
		},
		{
			ID: "stored/snapshot-edited", When: "a snapshot was changed and all its checksums mended",
			Code: errs.StateCorrupt,
			Says: "the snapshot that this node started from is not authentic",
			Next: "find out who can write to the data directory; then remove this node (krypton operator remove) and let it join again with an empty one",
		},
		{
			ID: "stored/snapshot-unproved", When: "a snapshot was put there without a MAC",
			Code: errs.StateCorrupt,
			Says: "the snapshot that this node started from has no proof of who wrote it",
			Next: "no node writes such a snapshot: find out who can write to the data directory; then remove this node (krypton operator remove) and let it join again with an empty one",
		},
		{
			ID: "stored/snapshot-lost", When: "snapshots are gone or cannot be read, and the Raft log is whole from its first entry",
			Outcome: "The node makes its state from the log and serves. Nothing is lost.",
		},
		{
			ID: "stored/seal-record-damaged", When: "seal/record.pb is empty, cut short, damaged, or of a newer layout",
			Code: errs.StateCorrupt,
			Says: "the seal record is not valid: {what}",
			Next: "copy seal/record.pb from another node of the cluster; all nodes have the same",
		},
		{
			ID: "stored/seal-record-unreadable", When: "seal/record.pb cannot be read",
			Code: errs.StateCorrupt,
			Says: "the seal record {file} cannot be read: {what}",
			Next: "give the file to the user that runs the node, or copy seal/record.pb from another node of the cluster; all nodes have the same",
		},
		{
			ID: "stored/seal-record-lost", When: "seal/record.pb is gone, or of another cluster",
			Outcome: "The node takes the record from the registry and writes it again; its log says so. A node that has no quorum stays sealed until it has one.",
		},
		{
			ID: "stored/hold-damaged", When: "seal/held is there and does not say since when the cluster is held",
			Code: errs.Held,
			Says: "the cluster was held when this node last heard from it, and the file seal/held does not say since when",
			Next: "if no other node is held, remove seal/held from the data directory and start this node again",
		},
		{
			ID: "stored/hold-unreadable", When: "seal/held cannot be read",
			Code: errs.StateCorrupt,
			Says: "it cannot be told whether the cluster was held: {what}",
			Next: "put seal/held back as the file it was; if no other node is held, remove it",
		},
		{
			ID: "stored/member-key-damaged", When: "tls/node.key is gone, empty, cut short, damaged, or no key",
			Code: errs.StateCorrupt,
			Says: "the member key {file} cannot be used: {what}",
			Next: startAnew,
		},
		{
			ID: "stored/member-key-foreign", When: "tls/node.key is of another node, or a wrong bit made another key of it",
			Code: errs.StateCorrupt,
			Says: "tls/node.key is not the key of this member, node {id}",
			Next: "a file in tls/ is damaged or of another node; " + startAnew,
		},
		{
			ID: "stored/peers-damaged", When: "tls/peers.json is empty, cut short, damaged, or of a newer format",
			Code: errs.StateCorrupt,
			Says: "{file} cannot be used: {what}",
			Next: "copy the file from another member of the cluster, it holds public keys only; where there is no other member, remove it",
		},
		{
			ID: "stored/public-data-lost", When: "tls/peers.json is gone, or tls/api.pem or tls/callers.pem is gone or damaged",
			Outcome: "The node serves. It has these files again from the cluster as soon as it can ask; until then callers cannot connect to a node whose certificate is lost.",
		},
		{
			ID: "stored/reachable-by-others", When: "the data directory, or a file in it that must not be, can be reached by other users",
			Code: errs.InvalidConfig,
			Says: "{file} has mode {mode}, so others on this machine can reach it",
			Next: "run: chmod {mode} {file}",
		},
		{
			ID: "stored/trail-broken", When: "a line of the audit trail was changed, or another file is in its place",
			Code: errs.StateCorrupt,
			Says: "audit log is broken at {file} line {number}: {what}",
			Next: "keep the directory as evidence, move it away, and compare it with the cluster's anchors",
		},
		{
			ID: "stored/trail-unopened", When: "the audit trail cannot be opened",
			Code: errs.AuditUnavailable,
			Says: "the audit log in {directory} cannot be opened: {what}",
			Next: "look at the directory and at the disk under it, then start the node again",
		},
		{
			ID: "stored/trail-lost", When: "the audit trail is gone, or its end was cut off",
			Outcome: "The node serves and goes on with what is there; a trail that begins anew is a warning in the node's log. What was cut off is not found out on this node alone: compare with a copy.",
		},
		{
			ID: "stored/run-files-lost", When: "LOCK, a file in run/, or audit/reserve is gone or damaged",
			Outcome: "The node makes it again and serves. None of them holds anything.",
		},
		{
			ID: "stored/kind-changed", When: "a directory is where a file should be, or a file where a directory should be",
			Code: errs.InvalidConfig,
			Says: "cannot {verb} {file}: {what}",
			Next: "a directory and a file have changed places; look at node.data_dir and at what was put there",
		},
	}}
}
