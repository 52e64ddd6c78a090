package jwt

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
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
		const tenants = 6 // two of them have two issuers
		for i := range tenants + 2 {
			s := &source{}
			s.set.Store(&keySet{static: true})
			issuers = append(issuers, &issuer{Issuer: Issuer{Path: fmt.Sprintf("tenants/t%d/issuers/i%d", i%tenants, i)}, keys: s})
		}
		type entry struct{ id, of, from int } // of is the tenant, from the issuer
		var model []entry                     // oldest first
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
			from := id % len(issuers)
			owner := from % tenants
			switch rapid.IntRange(0, 8).Draw(t, "what") {
			case 0, 1, 2, 3:
				c.put(&remembered{digest: of(id), from: issuers[from], owner: ownerOf(issuers[from].Path), key: &key{}, token: Token{NotAfter: now.Add(time.Hour), ID: string(rune('0' + id))}})
				drop(func(e entry) bool { return e.id == id })
				model = append(model, entry{id, owner, from})
				count := map[int]int{}
				for _, e := range model {
					count[e.of]++
				}
				if count[owner] > max(capacity/ownShare, 1) {
					drop(func(e entry) bool { return e.of == owner })
					count[owner]--
				}
				if len(model) > capacity {
					if count[owner] > capacity/len(count) {
						drop(func(e entry) bool { return e.of == owner })
					} else {
						model = model[1:]
					}
				}
			case 4:
				gone := rapid.IntRange(0, len(issuers)-1).Draw(t, "gone")
				live := map[*source]bool{}
				for i, is := range issuers {
					live[is.keys] = i != gone
				}
				c.sweep(live)
				model = slices.DeleteFunc(model, func(e entry) bool { return e.from == gone })
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

// TestATenantWithManyIssuersTakesOneShare of the cache, and pushes out no token of
// others.
func TestATenantWithManyIssuersTakesOneShare(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	c := newCache(64 * shards)
	put := func(path string, id int) digest {
		s := &source{}
		s.set.Store(&keySet{static: true})
		d := sha256.Sum256(fmt.Appendf(nil, "%s %d", path, id))
		d[0] = 1 // all of one shard
		c.put(&remembered{digest: d, from: &issuer{Issuer: Issuer{Path: path}, keys: s}, owner: ownerOf(path), key: &key{}, token: Token{NotAfter: now.Add(time.Hour)}})
		return d
	}
	honest := []digest{put("issuers/corp", 1), put("tenants/acme/issuers/k8s", 1)}
	for i := range 10_000 {
		put(fmt.Sprintf("tenants/evil/issuers/i%d", i%256), i)
	}
	for i, d := range honest {
		if _, ok := c.get(d, &registration{}, now); !ok {
			t.Errorf("the token of honest caller %d was pushed out", i)
		}
	}
	if n := c.shard(honest[0]).owned["tenants/evil"].n; n != 64/ownShare {
		t.Errorf("one tenant has %d of 64", n)
	}
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
