package cluster_test

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// TestAChangeCarriesTheCertificateItWasAskedForWith to the state machine, from the
// leader and from a node that forwards. A node that is behind lets somebody in
// whose certificate is revoked, as the gate of this test does.
func TestAChangeCarriesTheCertificateItWasAskedForWith(t *testing.T) {
	t.Parallel()
	all := three(t, func(c *cluster.Config) { c.Self.MaxFormat = fsm.MaxFormatVersion })
	leader, others := leaderOf(t, all)
	with := func(m *member, serial string, act gate.Act, cmd *fsmpb.Command) error {
		id, err := corr.New(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return m.gate.Do(limited(t), gate.Request{Principal: cluster.WhoMay(cmd), Serial: serial, Shown: cluster.Shown(cluster.WhoMay(cmd), serial), Act: act, Object: "cluster", Correlation: id}, func(tok gate.Token) error {
			_, err := m.c.Propose(limited(t), tok, cmd, cluster.Complete)
			return err
		})
	}
	for _, m := range all {
		m.eventually("the format version is raised", func() bool {
			return m.machine.View().Cluster().GetFormatVersion() == fsm.MaxFormatVersion
		})
	}
	revoke := request("revoke", &fsmpb.Command{Body: &fsmpb.Command_RevokeCertificate{RevokeCertificate: &fsmpb.RevokeCertificate{
		Revocation: &fsmpb.Revocation{Serial: []byte("stolen"), ExpireTimeMs: time.Now().Add(time.Hour).UnixMilli()},
	}}})
	if err := with(others[0], "own", gate.RevokeCertificate, revoke); err != nil {
		t.Fatal(err)
	}
	for i, m := range []*member{leader, others[0]} {
		if err := with(m, "stolen", gate.SealCluster, write("stolen", i)); !errs.Is(err, errs.Unauthenticated) {
			t.Errorf("%s: %v", m.name, err)
		}
		if err := with(m, "own", gate.SealCluster, write("own", i)); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
	}
}
