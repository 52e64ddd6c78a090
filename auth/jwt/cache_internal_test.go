package jwt

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestTheCacheIsBoundedAndForgetsWhatWasNotUsedForLongest compares one shard with a
// list.
func TestTheCacheIsBoundedAndForgetsWhatWasNotUsedForLongest(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	rapid.Check(t, func(t *rapid.T) {
		capacity := rapid.IntRange(1, 12).Draw(t, "capacity")
		c := newCache(capacity * shards)
		reg := &registration{}
		var issuers []*issuer
		for range 3 {
			s := &source{}
			s.set.Store(&keySet{static: true})
			issuers = append(issuers, &issuer{keys: s})
		}
		type entry struct{ id, of int }
		var model []entry // oldest first
		drop := func(which func(e entry) bool) {
			if i := slices.IndexFunc(model, which); i >= 0 {
				model = slices.Delete(model, i, i+1)
			}
		}
		of := func(id int) digest { // all of one shard
			var b [8]byte
			binary.BigEndian.PutUint64(b[:], uint64(id))
			d := sha256.Sum256(b[:])
			d[0] = 3
			return d
		}
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			id := rapid.IntRange(0, 30).Draw(t, "id")
			owner := id % len(issuers)
			switch rapid.IntRange(0, 8).Draw(t, "what") {
			case 0, 1, 2, 3:
				c.put(&remembered{digest: of(id), from: issuers[owner], key: &key{}, token: Token{NotAfter: now.Add(time.Hour), ID: string(rune('0' + id))}})
				drop(func(e entry) bool { return e.id == id })
				model = append(model, entry{id, owner})
				n := 0
				for _, e := range model {
					if e.of == owner {
						n++
					}
				}
				if n > max(capacity/ownShare, 1) {
					drop(func(e entry) bool { return e.of == owner })
				}
				if len(model) > capacity {
					model = model[1:]
				}
			case 4:
				gone := rapid.IntRange(0, 2).Draw(t, "gone")
				live := map[*source]bool{}
				for i, is := range issuers {
					live[is.keys] = i != gone
				}
				c.sweep(live)
				model = slices.DeleteFunc(model, func(e entry) bool { return e.of == gone })
			default:
				got, ok := c.get(of(id), reg, now)
				i := slices.IndexFunc(model, func(e entry) bool { return e.id == id })
				if ok != (i >= 0) || ok && got.ID != string(rune('0'+id)) {
					t.Fatalf("get %d: %t %q, the list is %v", id, ok, got.ID, model)
				}
				if i >= 0 {
					e := model[i]
					model = append(slices.Delete(model, i, i+1), e)
				}
			}
			s := c.shard(of(0))
			owned := 0
			for _, o := range s.owned {
				owned += o.n
			}
			if len(s.entries) != len(model) || s.all.n != len(model) || owned != len(model) {
				t.Fatalf("%d entries, %d in the order, %d owned; want %d", len(s.entries), s.all.n, owned, len(model))
			}
		}
	})
}

// TestTheCacheKeepsFewAudiences: a token with many is not remembered across a
// change of the issuers.
func TestTheCacheKeepsFewAudiences(t *testing.T) {
	t.Parallel()
	if got := keptAuds([]string{"a", "b"}); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("%v", got)
	}
	if got := keptAuds([]string{"a", string(make([]byte, maxKeptAuds))}); got != nil {
		t.Errorf("%d audiences are kept", len(got))
	}
}

func TestTheDigestIsThatOfTheWholeToken(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 511, 512, 513, 1024, MaxToken} {
		token := make([]byte, n)
		for i := range token {
			token[i] = byte('a' + i%26)
		}
		if digestOf(string(token)) != sha256.Sum256(token) {
			t.Errorf("%d bytes have another digest", n)
		}
	}
}
