package seal_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/seal"
)

// A MasterKey is made with three shares, of which any two open it. Two people
// come with theirs.
func Example() {
	ceremony := seal.Ceremony{
		Keyspace: hierarchy.KeyspaceID{1}, Cluster: hierarchy.ClusterID{2}, ID: hierarchy.UID{3}, Generation: 1,
		Time: time.Date(2026, 2, 3, 0, 0, 0, 0, time.UTC),
	}
	plan := seal.Plan{Groups: []seal.Group{{Threshold: 2, Holders: []seal.Holder{{Name: "alice"}, {Name: "bob"}, {Name: "carol"}}}}}
	record, masterKey, shares, err := seal.Create(context.Background(), rand.Reader, ceremony, plan, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer masterKey.Destroy()

	// The genesis is built from the record; its SHA-256 is the fingerprint.
	fingerprint := seal.Fingerprint(record.Digest())

	opening, err := seal.NewOpening(record, fingerprint, clock.System{}, seal.DefaultPatience)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer opening.Reset()
	for _, s := range shares[1:] {
		var paper bytes.Buffer
		if err := s.ForCluster(fingerprint).Print(&paper); err != nil {
			fmt.Println(err)
			return
		}
		given, err := seal.ParseShare(paper.Bytes())
		if err != nil {
			fmt.Println(err)
			return
		}
		progress, err := opening.Contribute(given)
		fmt.Println(progress.Have, "of", progress.Need, err)
	}
	for _, s := range shares {
		s.Destroy()
	}
	opened, ok := opening.Take()
	defer opened.Destroy()
	fmt.Println("unsealed:", ok)
	// Output:
	// 1 of 2 <nil>
	// 2 of 2 <nil>
	// unsealed: true
}
