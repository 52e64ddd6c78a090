package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/node/validity"
)

// l1Metrics are what an unsealed node knows of the customers' keys: how many tenants
// they let it serve, and what its proofs came to. They name no tenant.
type l1Metrics struct{ node *node.Node }

//nolint:gochecknoglobals // Immutable.
var (
	descL1Tenants = prometheus.NewDesc("krypton_l1_tenants",
		"Tenants of which keys are in memory, or that are denied, by what the last proofs of the customer's key said.", []string{"state"}, nil)
	descL1Proofs = prometheus.NewDesc("krypton_l1_proofs_total",
		"Real unwraps of tenant keys in customers' keystores since the node was unsealed, for callers and to prove them again, by outcome.", []string{"class"}, nil)
)

// Describe implements prometheus.Collector.
func (m l1Metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- descL1Tenants
	ch <- descL1Proofs
}

// Collect implements prometheus.Collector.
func (m l1Metrics) Collect(ch chan<- prometheus.Metric) {
	tenants, proofs := m.node.L1()
	if tenants == nil {
		return
	}
	for _, s := range []validity.State{validity.Proved, validity.Failing, validity.Denied, validity.Unproved} {
		ch <- prometheus.MustNewConstMetric(descL1Tenants, prometheus.GaugeValue, float64(tenants[s]), s.String())
	}
	for c, n := range proofs {
		name := c.String()
		if c == keystore.ClassUnspecified {
			name = "ok"
		}
		ch <- prometheus.MustNewConstMetric(descL1Proofs, prometheus.CounterValue, float64(n), name)
	}
}
