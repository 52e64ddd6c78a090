package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/openkcm/krypton-cluster/cluster"
)

// leaseMetrics reads a node's leases once for each look. Those of everybody are
// there on the leader that gives them and nowhere else: a member that is missed on
// the leader asked for none. Labels are node ids, of which a cluster has few and
// whom no caller can invent, and the reasons of a closed set.
type leaseMetrics struct{ c *cluster.Cluster }

//nolint:gochecknoglobals // Immutable.
var (
	leaseRemaining = prometheus.NewDesc("krypton_lease_remaining_seconds", "What is left of the node's serving lease; 0: it has none and serves nothing.", nil, nil)
	leaseTerm      = prometheus.NewDesc("krypton_lease_term", "Raft term in which this node began to give leases; 0: it gives none.", nil, nil)
	leaseHolders   = prometheus.NewDesc("krypton_lease_holders", "Members heard by this leader that may hold a lease; 0 elsewhere.", nil, nil)
	leaseLag       = prometheus.NewDesc("krypton_lease_holder_lag", "Log indexes that this leader has applied and the member has not reported.", []string{"node"}, nil)
	leaseClock     = prometheus.NewDesc("krypton_lease_clock_difference", "By which part the member's clock runs faster (negative: slower) than this leader's, over 30 to 50 s; leases allow for 0.01.", []string{"node"}, nil)
	leaseRefused   = prometheus.NewDesc("krypton_lease_refusals_total", "Leases that this node did not give as leader, or did not take as holder, by reason.", []string{"by", "reason"}, nil)
	fencesInFlight = prometheus.NewDesc("krypton_fences_in_flight", "Changes of callers that are committed and not complete on this leader: a node may still act on the state before them.", nil, nil)
	fenceSeconds   = prometheus.NewDesc("krypton_fence_seconds", "Time from committed to complete of changes of callers on this leader, whether or not they waited.", nil, nil)
)

// Describe implements [prometheus.Collector].
func (leaseMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{leaseRemaining, leaseTerm, leaseHolders, leaseLag, leaseClock, leaseRefused, fencesInFlight, fenceSeconds} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (m leaseMetrics) Collect(ch chan<- prometheus.Metric) {
	l := m.c.Lease()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(leaseRemaining, l.Remaining.Seconds())
	for _, r := range l.Refusals {
		ch <- prometheus.MustNewConstMetric(leaseRefused, prometheus.CounterValue, float64(r.Count), string(r.By), r.Reason)
	}
	buckets := map[float64]uint64{}
	for i, bound := range cluster.FenceBounds {
		buckets[bound.Seconds()] = l.Fences.Buckets[i]
	}
	ch <- prometheus.MustNewConstHistogram(fenceSeconds, l.Fences.Count, l.Fences.Sum.Seconds(), buckets)
	report := l.Report
	if report == nil {
		report = &cluster.LeaseReport{}
	}
	holders := 0
	for _, h := range report.Holders {
		if h.Held > 0 {
			holders++
		}
		gauge(leaseLag, float64(h.Lag), string(h.ID))
		if h.Drift.Over > 0 {
			gauge(leaseClock, float64(h.Drift.Ahead)/float64(h.Drift.Over), string(h.ID))
		}
	}
	gauge(leaseTerm, float64(report.Term))
	gauge(leaseHolders, float64(holders))
	gauge(fencesInFlight, float64(report.Fences))
}
