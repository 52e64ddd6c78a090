package command

import (
	"fmt"
	"strings"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// holdersText is the table of who can open the MasterKey, and what came of each on
// one node; empty where the node says nothing of it: to workloads, and unsealed
// unless it watches the keystores.
func holdersText(st *kryptonv1.SealStatus) string {
	watched := st.GetWatchTime() != nil
	if len(st.GetHolders()) == 0 || st.GetState() != kryptonv1.SealState_SEAL_STATE_SEALED && !watched {
		return ""
	}
	g := &grid{head: []string{"SHARE", "GROUP", "HOLDER", "STATE", "SINCE", "PROTECTION", "REQUEST"}}
	for _, h := range st.GetHolders() {
		share := ""
		if h.GetIndex() > 0 {
			share = fmt.Sprint(h.GetIndex())
		}
		state := holderText(h)
		if watched && h.GetState() == kryptonv1.HolderState_HOLDER_STATE_GAVE {
			state = "opens it"
		}
		g.add(share, h.GetGroup(), h.GetName(), state, when(h.GetSince()), keptText(h.GetProtection()), h.GetRequestId())
	}
	return g.withoutEmptyColumns().text()
}

func holderText(h *kryptonv1.HolderProgress) string {
	switch h.GetState() {
	case kryptonv1.HolderState_HOLDER_STATE_AWAITED:
		return "awaited"
	case kryptonv1.HolderState_HOLDER_STATE_IDLE:
		return "not asked"
	case kryptonv1.HolderState_HOLDER_STATE_ASKED:
		return "being asked"
	case kryptonv1.HolderState_HOLDER_STATE_GAVE:
		return "given"
	case kryptonv1.HolderState_HOLDER_STATE_FAILED:
		return "failed: " + h.GetFailure()
	case kryptonv1.HolderState_HOLDER_STATE_MISSING:
		return "missing in the record"
	case kryptonv1.HolderState_HOLDER_STATE_UNSPECIFIED:
	}
	return ""
}

func keptText(p kryptonv1.KeyProtection) string {
	switch p {
	case kryptonv1.KeyProtection_KEY_PROTECTION_HSM:
		return "hsm"
	case kryptonv1.KeyProtection_KEY_PROTECTION_SOFTWARE:
		return "software"
	case kryptonv1.KeyProtection_KEY_PROTECTION_UNSPECIFIED:
	}
	return ""
}

// strengthText says how well the keystores of the seal protect it.
func strengthText(st *kryptonv1.SealStatus) string {
	if st.GetWatchTime() == nil {
		return ""
	}
	text := keptText(st.GetProtection())
	if text == "" {
		text = "unknown"
	}
	if len(st.GetHolders()) > 1 {
		text += ", that of the weakest keystore"
	}
	return text
}

// groupsText is "legal 1 of 2, ops 0 of 3"; empty while there is one group, whose
// numbers stand elsewhere.
func groupsText(st *kryptonv1.SealStatus) string {
	if len(st.GetGroups()) < 2 {
		return ""
	}
	var parts []string
	for _, g := range st.GetGroups() {
		parts = append(parts, fmt.Sprintf("%s %d of %d", g.GetName(), g.GetHave(), g.GetNeed()))
	}
	return strings.Join(parts, ", ")
}

// holdersSeen is the table of the first node that is sealed, because somebody is
// to act on it, or else of the one that watches the keystores.
func (v *view) holdersSeen() string {
	var seen *kryptonv1.SealStatus
	for _, a := range v.answers {
		switch {
		case a.err != nil || holdersText(a.status) == "":
		case seen == nil, seen.GetState() != kryptonv1.SealState_SEAL_STATE_SEALED && a.status.GetState() == kryptonv1.SealState_SEAL_STATE_SEALED:
			seen = a.status
		}
	}
	if seen == nil {
		return ""
	}
	return fmt.Sprintf("who opens the MasterKey, as %s has it:\n%s", visible(nodeLabel(seen)), holdersText(seen))
}

// checkSealHolders looks at the keystores of the seal before they are needed: a
// cluster that runs does not notice that it could not start again.
func checkSealHolders(f facts) finding {
	for _, a := range f.view.answers {
		st := a.status
		if a.err != nil || st.GetWatchTime() == nil {
			continue
		}
		var bad []string
		keystores := 0
		for _, h := range st.GetHolders() {
			if h.GetKeystore() == "" {
				continue
			}
			keystores++
			if st := h.GetState(); st == kryptonv1.HolderState_HOLDER_STATE_FAILED || st == kryptonv1.HolderState_HOLDER_STATE_MISSING {
				bad = append(bad, fmt.Sprintf("%s (%s since %s)", h.GetName(), strings.TrimPrefix(holderText(h), "failed: "), when(h.GetSince())))
			}
		}
		return keystoresFound(st, keystores, bad)
	}
	if st := f.view.anySeal(); st != nil && st.GetMode() == kryptonv1.SealMode_SEAL_MODE_SHAMIR {
		return leftOut("no keystore holds a share, or no unsealed leader answers")
	}
	return leftOut("the leader has not watched the keystores yet, or is not among --addr")
}

// keystoresFound says what the leader's look at the keystores means for a node that starts
// again: they open all, somebody is missing, or too many are.
func keystoresFound(st *kryptonv1.SealStatus, keystores int, bad []string) finding {
	const restartNone = "restart no node that is unsealed; bring a keystore back first. While too few holders are left no ceremony can replace them"
	shamir := st.GetMode() == kryptonv1.SealMode_SEAL_MODE_SHAMIR
	next := "look at the keystore and at this node's rights on the key; what was lost is wrapped again by itself once it answers"
	if shamir {
		next = "look at the keystore and at this node's rights on the key. A share is not made again by itself: if the key is lost for good, give the MasterKey to other holders with krypton ceremony start reshare"
	}
	names, margin := strings.Join(bad, ", "), spareText(st)
	if margin != "" {
		margin = "; " + margin
	}
	switch {
	case len(bad) == 0:
		return fine("%s of the seal opens it: %s%s", plural(keystores, "keystore", "keystores"), strengthText(st), margin)
	case st.GetMargin() != nil && !st.GetMargin().GetOpens() && shamir:
		return brokenf(errs.Sealed, restartNone, "too few holders of the seal are left to open it, so that a node which restarts stays sealed: %s", names)
	case len(bad) == keystores && !shamir:
		return brokenf(errs.Sealed, next, "no keystore of the seal opens it, so that a node which restarts stays sealed: %s", names)
	}
	return warn(next, "%d of %s of the seal cannot open it: %s%s", len(bad), plural(keystores, "keystore", "keystores"), names, margin)
}

// spareText says how many holders may be lost besides; empty where no leader has looked.
func spareText(st *kryptonv1.SealStatus) string {
	m := st.GetMargin()
	switch {
	case m == nil:
		return ""
	case !m.GetOpens():
		return "nothing opens it any more"
	}
	atAll := plural(int(m.GetHoldersToSpare()), "more holder", "more holders") + " may be lost before nothing opens it"
	switch {
	case st.GetMode() == kryptonv1.SealMode_SEAL_MODE_AUTO:
		return atAll
	case !m.GetWithoutPeople():
		return "a node that starts needs people; " + atAll
	}
	return fmt.Sprintf("%s may be lost before a node that starts needs people, %d before nothing opens it",
		plural(int(m.GetKeystoresToSpare()), "more keystore", "more keystores"), m.GetHoldersToSpare())
}
