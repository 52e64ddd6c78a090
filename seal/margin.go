package seal

// Margin says how far a record is from not opening any more, by what is known of its
// holders: those that failed or that the record lacks count as lost, and of people nobody
// knows, so they count as there.
type Margin struct {
	// WithoutPeople is how many keystores may be lost besides, in the worst case, and it
	// still opens without people; below 0 it does not, and that many shares are missing.
	WithoutPeople int
	// AtAll is how many holders may be lost besides, in the worst case, and it still opens;
	// below 0 it does not, and that many shares are missing.
	AtAll int
}

// Margin returns how many holders may still be lost. Every group has to reach its
// threshold, so the group with the least counts.
func (p Progress) Margin() Margin {
	var m Margin
	for i, g := range p.Groups {
		here := Margin{WithoutPeople: -g.Need, AtAll: -g.Need}
		for _, h := range p.Holders {
			switch {
			case h.Group != i || h.State == HolderFailed || h.State == HolderMissing:
				continue
			case !h.Person():
				here.WithoutPeople++
			}
			here.AtAll++
		}
		if i == 0 {
			m = here
			continue
		}
		m = Margin{WithoutPeople: min(m.WithoutPeople, here.WithoutPeople), AtAll: min(m.AtAll, here.AtAll)}
	}
	return m
}
