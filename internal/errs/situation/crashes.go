package situation

import "github.com/openkcm/krypton-cluster/internal/errs"

func crashes() Group {
	return Group{Name: "crash", Title: "Death in the middle", Rows: []Situation{
		{
			ID: "crash/first-start", When: "the first start of a node dies",
			Outcome: "The next start completes the data directory. The node belongs to no cluster.",
		},
		{
			ID: "crash/start", When: "a start of a member dies",
			Outcome: "The next start goes on. Nothing is lost.",
		},
		{
			ID: "crash/init-not-done", When: "the node dies before init has made the cluster",
			Outcome: "The node says UNINITIALIZED. Run krypton init again; shares of the first attempt are of no cluster.",
		},
		{
			ID: "crash/init-answer-lost", When: "the node or the command dies after init has made the cluster, before its answer is read",
			Code: errs.FailedState,
			Says: "this node belongs to a cluster already",
			Next: "if nobody got its shares and certificates, nothing is lost: stop the node, empty its data directory, start it, and run krypton init again",
		},
		{
			ID: "crash/init-command-done", When: "the command init dies after it has written the certificates and printed the shares",
			Outcome: "The cluster is made and everything is handed out. Go on.",
		},
		{
			ID: "crash/join-not-done", When: "the joining node or the leader dies before the node knows its cluster",
			Outcome: "The node says UNINITIALIZED. Join again with the same token: it stays good for this node, even if the leader has counted it already.",
		},
		{
			ID: "crash/join-answer-lost", When: "the joining node dies after it knows its cluster, and join is given again",
			Code: errs.FailedState,
			Says: "this node belongs to a cluster already",
			Next: "if its join was given again because the answer was lost, it is done: look with krypton status; for another cluster use an empty data directory",
		},
		{
			ID: "crash/remove", When: "the leader dies while it removes a member",
			Outcome: "An acknowledged removal stands. If the answer was lost, look at krypton operator members; give the command again with the same request id. The removed node stops; if nobody could tell it, it serves nothing: stop it.",
		},
		{
			ID: "crash/unseal", When: "a node dies while shares are given",
			Outcome: "It is sealed and has no share. Give all of them again: krypton unseal.",
		},
		{
			ID: "crash/seal", When: "a node dies while it is sealed",
			Outcome: "It unseals as after every start: by itself with a keystore, by shares otherwise.",
		},
		{
			ID: "crash/hold", When: "a node dies while the cluster is sealed",
			Outcome: "An acknowledged hold stands. If the answer was lost, krypton status says HELD yes or no; give the command again.",
		},
		{
			ID: "crash/release-hold", When: "a node dies while a hold is released",
			Outcome: "An acknowledged release stands. If the answer was lost, krypton status says HELD yes or no; give the command again.",
		},
		{
			ID: "crash/rotate", When: "a node dies while a key is rotated",
			Outcome: "The earlier version stays primary, or the new one is. The same request id finishes the rotation, once. Without it a version that is not primary may stay; it does nothing.",
		},
		{
			ID: "crash/failover", When: "the leader dies while a caller of another node changes something",
			Outcome: "The others elect a leader within seconds and go on serving; the node that was called brings the change to its end by itself and answers, or names the request id to try again with.",
		},
		{
			ID: "crash/destroy", When: "a node dies while a destruction is scheduled",
			Outcome: "An acknowledged schedule stands. If the answer was lost, look at the version's state; give the command again with the same request id.",
		},
		{
			ID: "crash/stop", When: "an orderly stop is cut short",
			Outcome: "The next start goes on. Nothing is lost.",
		},
	}}
}
