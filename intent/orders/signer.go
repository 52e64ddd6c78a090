package orders

import (
	"context"
	"crypto/rand"
	"io"
	"time"

	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/clock"
)

// SendLifetime is how long an intent counts that is made for a call at once. It is
// the time in which a node that does not hand the call on could do so later, and
// by which the clocks of a person and of the cluster may differ.
const SendLifetime = 10 * time.Minute

// Signer makes a client sign by itself, see [client.Options]. It shows nothing to
// anybody: it is for programs that decide themselves, and for throw-away people.
// Persons at a terminal use the command line.
type Signer struct {
	// Governors and Custodians are the keys of different persons of these roles.
	// As many as the cluster's rule asks for sign, those in front first.
	Governors, Custodians []sign.Signer
	// Keyspace is the only one for which it signs. Zero: the one that the nodes name,
	// which is believed.
	Keyspace hierarchy.KeyspaceID
	Clock    clock.Clock // nil: the system's
	Rand     io.Reader   // nil: the system's
}

var _ client.Signer = Signer{}

// Sign implements [client.Signer].
func (s Signer) Sign(ctx context.Context, c *client.Client, req proto.Message) ([]*kryptonv1.SignedIntent, error) {
	o, err := Of(ctx, c, req)
	if err != nil || o == nil {
		return nil, err
	}
	if !s.Keyspace.IsZero() && s.Keyspace != o.Keyspace {
		return nil, Refused(o.otherKeyspace(s.Keyspace)) // I3
	}
	clk, random := s.Clock, s.Rand
	if clk == nil {
		clk = clock.System{}
	}
	if random == nil {
		random = rand.Reader
	}
	now := clk.Now()
	f, err := o.Draft(now, SendLifetime, random)
	if err != nil {
		return nil, err
	}
	for _, role := range []struct {
		keys []sign.Signer
		need uint32
	}{{s.Governors, o.Rule.GetGovernors()}, {s.Custodians, o.Rule.GetCustodians()}} {
		for i, key := range role.keys {
			if uint32(i) == role.need {
				break
			}
			if f, err = f.Countersign(ctx, key, sign.Expected{Keyspace: o.Keyspace, Request: o.Request, Now: now}); err != nil {
				return nil, Refused(err)
			}
		}
	}
	return Attach(f)
}

// otherKeyspace is why nothing is signed for another keyspace than want.
func (o *Order) otherKeyspace(want hierarchy.KeyspaceID) error {
	return intent.Intent{Keyspace: o.Keyspace}.Match(want, o.Request.Act(), o.Request.Digest(), 1)
}
