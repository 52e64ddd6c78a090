package fsm

import (
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/intent"
)

// Who takes votes away decides, in the end, who is left to say what is committed. An
// operator may take some by himself, because a dead node has to go at night; but what
// leaves too few of those that people let in only people may (I29). People let voters
// in, so the most that there were is what they agreed to, until they agree to fewer.

// Ways in which a member loses its vote, as people sign them.
const (
	withdrawRemove = "remove"
	withdrawDemote = "demote"
)

// fewest is how many of n voters stay without a signature: more than the half. An even
// number counts as the odd one below it, because it survives no more failures and is
// what a replacement makes for a while: the new node joins before the dead one goes,
// and of the three that are left then one may die. Of two both stay.
func fewest(n int) int {
	if n == 2 {
		return 2
	}
	return (n + 1) / 2
}

// votersIn counts the members that are to vote.
func votersIn(all []*fsmpb.Member) (n int) {
	for _, m := range all {
		if m.GetVoter() && !m.GetRemoved() {
			n++
		}
	}
	return n
}

// Voters returns how many members are to vote, and how many people agreed to: the
// most that there were since people signed for fewer; 0 before [FormatProofs].
func (v *View) Voters() (now, agreed int) {
	return votersIn(v.Members()), int(v.cluster.GetVotersAgreed())
}

// Withdrawal returns the canonical form of what a command takes a vote away by, if
// people have to sign for it as things are; false: nobody does, or it takes none.
func (v *View) Withdrawal(cmd *fsmpb.Command) (*intent.Request, bool) {
	id, op := withdrawn(cmd)
	m, ok := v.Member(id)
	now, agreed := v.Voters()
	if !ok || op == "" || !m.GetVoter() || m.GetRemoved() || now-1 >= fewest(agreed) || v.cluster.GetFormatVersion() < FormatProofs {
		return nil, false
	}
	return WithdrawalRequest(id, op, now-1), true
}

// withdrawn returns the member that loses its vote by a command if it has one, and how.
func withdrawn(cmd *fsmpb.Command) (id, op string) {
	switch b := cmd.GetBody().(type) {
	case *fsmpb.Command_RemoveMember:
		return b.RemoveMember.GetId(), withdrawRemove
	case *fsmpb.Command_UpdateMember:
		if c := b.UpdateMember; len(c.GetFields()) == 1 && c.GetFields()[0] == "voter" && !c.GetMember().GetVoter() {
			return c.GetMember().GetId(), withdrawDemote
		}
	}
	return "", ""
}

// WithdrawalRequest is the canonical form of taking the vote of a member by "remove" or
// "demote", with so many voters left; see [SovereignRequest]. People sign it only where
// [View.Withdrawal] says so.
func WithdrawalRequest(id, op string, left int) *intent.Request {
	return intent.VoterWithdrawal{Op: op, Node: id, Voters: uint64(max(left, 0))}.Request()
}

func (t *tx) voters() (n int) {
	scan(t.txn, tableMembers, indexID, nil, nil, func(m *fsmpb.Member) bool {
		n += votersIn([]*fsmpb.Member{m})
		return true
	})
	return n
}

// withdraw asks for the signatures of people where too few of the voters that they
// agreed to would be left, and for another voter in any case.
func (t *tx) withdraw(m *fsmpb.Member, op string) error {
	if err := t.otherVoter(m.GetId()); err != nil {
		return err
	}
	left := t.voters() - 1
	if t.cluster.GetFormatVersion() < FormatProofs || left >= fewest(int(t.cluster.GetVotersAgreed())) {
		return nil
	}
	if _, err := t.verify(intent.ActAddMember, WithdrawalRequest(m.GetId(), op, left)); err != nil {
		return err
	}
	t.agree(left)
	return nil
}

// moreVoters notes that people let one more in.
func (t *tx) moreVoters() {
	if n := t.voters(); t.cluster.GetFormatVersion() >= FormatProofs && n > int(t.cluster.GetVotersAgreed()) {
		t.agree(n)
	}
}

// agree does not move mod_index: nothing of the cluster's settings changed for whoever
// read them.
func (t *tx) agree(n int) {
	cl := copyCluster(t.cluster)
	cl.VotersAgreed = uint32(n) //nolint:gosec // At most MaxMembers.
	t.cluster = cl
}

// votersAgreed reports whether what a snapshot says of the voters can be: there are
// never more than people agreed to, nor too few of them.
func (l *loader) votersAgreed(now int) bool {
	agreed := int(l.cluster.GetVotersAgreed())
	if l.cluster.GetFormatVersion() < FormatProofs {
		return agreed == 0
	}
	return now <= agreed && now >= fewest(agreed)
}
