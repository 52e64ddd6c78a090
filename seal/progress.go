package seal

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// HolderState says what came of one holder so far. The zero value is invalid.
type HolderState int

// The states of a holder.
const (
	HolderStateUnspecified HolderState = iota
	HolderAwaited                      // a person whose share has not come
	HolderIdle                         // a keystore that was not asked yet
	HolderAsked                        // a keystore that has not answered yet
	HolderGave                         // its share, or in auto mode its answer, counts
	HolderFailed                       // the keystore failed when it was last asked
	HolderMissing                      // auto mode: the record has no wrapping by this keystore
)

// String returns the state as documents and JSON write it.
func (s HolderState) String() string {
	switch s {
	case HolderAwaited:
		return "awaited"
	case HolderIdle:
		return "idle"
	case HolderAsked:
		return "asked"
	case HolderGave:
		return "gave"
	case HolderFailed:
		return "failed"
	case HolderMissing:
		return "missing"
	case HolderStateUnspecified:
	}
	return "unspecified"
}

// Failure is one keystore that did not give its share, or in auto mode the MasterKey.
type Failure struct {
	ProviderKey

	Class     keystore.Class     // Corrupt also for what opens to something else than the record says
	RequestID keystore.RequestID // under which the keystore's log has the call; empty if there was no answer
	Err       error
}

func newFailure(k ProviderKey, err error) Failure {
	f := Failure{ProviderKey: k, Class: keystore.ClassOf(err), Err: err}
	if errs.Is(err, errs.StateCorrupt) {
		f.Class = keystore.Corrupt
	}
	if e, ok := errors.AsType[*keystore.Error](err); ok {
		f.RequestID = e.RequestID
	}
	return f
}

// HolderProgress is one holder: a person, or a key of a keystore.
type HolderProgress struct {
	Index   int         // number of the share; 0 in auto mode
	Group   int         // position in Progress.Groups
	Name    string      // who, for people
	Key     ProviderKey // zero for a person
	State   HolderState
	Since   time.Time // when the state began; of Failed: the first failure in a row
	Failure *Failure  // of Failed, otherwise nil
}

// Person reports whether the holder is a person.
func (h HolderProgress) Person() bool { return h.Key == ProviderKey{} }

// String names the holder and, if it has not given, why: "hsm-2 (denied)", "anna (person)".
func (h HolderProgress) String() string {
	switch {
	case h.Person():
		return h.Name + " (person)"
	case h.Failure != nil:
		return h.Name + " (" + h.Failure.Class.String() + ")"
	}
	return h.Name + " (" + h.State.String() + ")"
}

// GroupProgress is one group of holders.
type GroupProgress struct {
	Name   string // empty if it is the only one and has none
	Have   int    // shares that count, at most Need
	Need   int    // shares that it takes; 1 in auto mode
	Shares int    // holders
	People int    // persons that it takes when every keystore gives
}

// Progress says how far an opening is. In auto mode there is one group, of the
// keystores that the manifest names, any one of which is enough.
type Progress struct {
	Have    int       // shares that count, over all groups
	Need    int       // shares that it takes
	Expires time.Time // when the shares of people are dropped; zero without such, or when complete
	Groups  []GroupProgress
	Holders []HolderProgress
}

// Complete reports whether the MasterKey is open.
func (p Progress) Complete() bool { return p.Have >= p.Need }

// maxNamed bounds how many holders of a group a sentence names.
const maxNamed = 12

// Enough says for people what would be enough: "1 more of: hsm-2 (unavailable),
// anna (person)". Empty when nothing is missing.
func (p Progress) Enough() string {
	var parts []string
	for i, g := range p.Groups {
		if g.Have >= g.Need {
			continue
		}
		var names []string
		for _, h := range p.Holders {
			if h.Group == i && h.State != HolderGave {
				names = append(names, h.String())
			}
		}
		if n := len(names) - maxNamed; n > 0 {
			names = append(names[:maxNamed], fmt.Sprintf("%d others", n))
		}
		more := "more "
		if g.Have == 0 {
			more = ""
		}
		of := ""
		if len(p.Groups) > 1 {
			of = "group " + g.Name + ": "
		}
		parts = append(parts, fmt.Sprintf("%s%d %sof: %s", of, g.Need-g.Have, more, strings.Join(names, ", ")))
	}
	return strings.Join(parts, "; ")
}

// MissingError says that what keystores and people gave is not enough. It has
// the code errs.Sealed and names each holder that would help.
type MissingError struct{ Progress Progress }

// Error says what would be enough.
func (e *MissingError) Error() string {
	return "the MasterKey stays closed; it takes " + e.Progress.Enough()
}

// Unwrap returns the error for a caller and every keystore's own.
func (e *MissingError) Unwrap() []error {
	hint := "look at the keystores that are named; the node asks them again by itself"
	if len(e.Failures()) == 0 {
		hint = "the holders that are named run krypton unseal"
	}
	all := []error{errs.New(errs.Sealed, e.Error(), errs.Hint("%s", hint))}
	for _, f := range e.Failures() {
		all = append(all, f.Err)
	}
	return all
}

// Failures are the keystores that failed.
func (e *MissingError) Failures() []Failure {
	var out []Failure
	for _, h := range e.Progress.Holders {
		if h.Failure != nil {
			out = append(out, *h.Failure)
		}
	}
	return out
}

// Transient reports whether asking again later can help without anybody
// changing something: at least one keystore was away or throttled.
func (e *MissingError) Transient() bool {
	for _, f := range e.Failures() {
		if f.Class == keystore.Unavailable || f.Class == keystore.Throttled {
			return true
		}
	}
	return false
}

// Progress returns who can open the record, as before anything is given.
func (r Record) Progress() Progress {
	p := Progress{Groups: r.groups()}
	for _, g := range p.Groups {
		p.Need += g.Need
	}
	for _, h := range r.holders() {
		at := seat{holder: h}
		p.Holders = append(p.Holders, at.progress())
	}
	return p
}

// Progress returns how far the opening is, without changing it.
func (o *Opening) Progress() Progress {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.progress()
}

// progress is Progress with mu held.
func (o *Opening) progress() Progress {
	p := Progress{Groups: o.groups()}
	open := !o.masterKey.IsZero()
	for i := range p.Groups {
		g := &p.Groups[i]
		if open {
			g.Have = g.Need
		}
		g.Have = min(g.Have, g.Need)
		p.Have += g.Have
		p.Need += g.Need
	}
	for i := range o.seats {
		p.Holders = append(p.Holders, o.seats[i].progress())
	}
	if !open && !o.since.IsZero() {
		p.Expires = o.since.Add(o.patience)
	}
	return p
}

func (at *seat) progress() HolderProgress {
	h := HolderProgress{Index: at.index, Group: at.group, Name: at.name, Key: at.key, State: HolderIdle, Since: at.since, Failure: at.fail}
	switch {
	case at.gave || !at.share.secret.IsZero():
		h.State, h.Failure = HolderGave, nil
	case !at.keystore():
		h.State = HolderAwaited
	case !at.sealed():
		h.State = HolderMissing
	case at.fail != nil:
		h.State = HolderFailed
	case at.asked:
		h.State = HolderAsked
	}
	return h
}

// groups returns how far each group is. mu is held.
func (o *Opening) groups() []GroupProgress {
	groups := o.record.groups()
	for i := range o.seats {
		at := &o.seats[i]
		if !at.share.secret.IsZero() {
			groups[at.group].Have++
		}
	}
	return groups
}

func (o *Opening) group(i int) GroupProgress { return o.groups()[i] }

// holder is who may give something that opens a record.
type holder struct {
	index    int // 0 in auto mode
	group    int
	name     string
	key      ProviderKey      // zero: a person
	wrapping *sealpb.Wrapping // auto mode; nil: the record has none by this key
}

func (h holder) keystore() bool { return h.key != ProviderKey{} }

// sealed reports whether the record has what the keystore would open.
func (h holder) sealed() bool { return h.index > 0 || h.wrapping != nil }

// holders returns who may open the record: the holders of shares in order, or in
// auto mode the provider keys of the manifest.
func (r Record) holders() []holder {
	var all []holder
	p := r.Plan()
	for i, g := range p.Groups {
		for _, h := range g.Holders {
			all = append(all, holder{index: len(all) + 1, group: i, name: h.Name, key: h.Key})
		}
	}
	for _, k := range p.ProviderKeys {
		all = append(all, holder{name: k.String(), key: k, wrapping: r.wrapping(k)})
	}
	return all
}

// wrapping returns the MasterKey's wrapping by a key, or nil.
func (r Record) wrapping(k ProviderKey) *sealpb.Wrapping {
	for _, w := range r.pb.GetWrappings() {
		if providerKey(w) == k {
			return w
		}
	}
	return nil
}

// groups returns the groups of a record, of which nothing is given yet. In auto
// mode the keystores are one group, and one of it is enough.
func (r Record) groups() []GroupProgress {
	p := r.Plan()
	if r.Mode() == ModeAuto {
		return []GroupProgress{{Need: 1, Shares: len(p.ProviderKeys)}}
	}
	groups := make([]GroupProgress, len(p.Groups))
	for i, g := range p.Groups {
		keystores := 0
		for _, h := range g.Holders {
			if h.IsKeystore() {
				keystores++
			}
		}
		groups[i] = GroupProgress{Name: g.Name, Need: g.Threshold, Shares: len(g.Holders), People: max(g.Threshold-keystores, 0)}
	}
	return groups
}
