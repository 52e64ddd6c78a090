package situation

import "github.com/openkcm/krypton-cluster/internal/errs"

func machines() Group {
	return Group{Name: "machine", Title: "Disk and machine of a node", Rows: []Situation{
		{
			ID: "machine/disk-full-at-start", When: "a node starts on a full disk",
			Code: errs.Unavailable,
			Says: "cannot {verb} {file}: no space left on device",
			Next: "free space on that file system, then start the node again; docs/runbooks/disk-full.md",
		},
		{
			ID: "machine/trail-disk-full-at-start", When: "a node starts and the disk of its audit trail is full",
			Code: errs.AuditUnavailable,
			Says: "the disk of the audit log is full",
			Next: "free space under {directory} and start the node again; it needs room for its reserve too",
		},
		{
			ID: "machine/disk-read-only", When: "a node starts on a file system that is mounted read-only",
			Code: errs.Unavailable,
			Says: "cannot {verb} {file}: read-only file system",
			Next: "the file system is mounted read-only: look for disk errors in the kernel's log, mount it writable, then start the node again",
		},
		{
			ID: "machine/disk-full", When: "the disk under the Raft log becomes full",
			Code: errs.Unavailable,
			Says: "the Raft log {file} cannot be written: the disk is full",
			Next: "free space on that file system, then start this node again; what was acknowledged is on a majority of disks",
		},
		{
			ID: "machine/trail-disk-full", When: "the disk under the audit trail becomes full",
			Code: errs.AuditUnavailable,
			Says: "the disk of the audit log is full",
			Next: "free space under {directory} and restart the node",
		},
		{
			ID: "machine/disk-fails", When: "the disk under the Raft log answers with an error",
			Code: errs.Unavailable,
			Says: "the Raft log {file} cannot be read or written: {what}",
			Next: "look at the disk: if it fails, replace it and then this node; docs/runbooks/node-died.md",
		},
		{
			ID: "machine/disk-hangs", When: "the disk under the Raft log of a leader does not answer",
			Code: errs.Unavailable,
			Says: "this leader is stuck: {what} takes {time}",
			Next: "look at the disk and the load of this machine; the other nodes elect a leader",
		},
		{
			ID: "machine/clock-ahead", When: "the clock of the leader is more than a minute ahead of the other voters'",
			Code: errs.Unavailable,
			Says: "the clock of the leader is {time} ahead of the other voters' clocks",
			Next: "set the clock of node {id} right (compare date -u), or hand leadership over: krypton operator transfer",
		},
		{
			ID: "machine/disk-came-back", When: "a disk that was full, read-only, failing or hanging works again and the node is started",
			Outcome: "The node serves. Everything that was acknowledged is there; what was answered with an error may be there or not, and its request id tells.",
		},
	}}
}
