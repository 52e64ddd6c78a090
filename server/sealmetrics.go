package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal"
)

// sealMetrics are what a node knows of those who can unseal it: sealed, what it
// still needs; as leader, whether the keystores of the seal open it.
type sealMetrics struct{ node *node.Node }

//nolint:gochecknoglobals // Immutable.
var (
	descSealMissing = prometheus.NewDesc("krypton_seal_missing",
		"Shares that a sealed node still needs, or 1 for a keystore; 0 when it is unsealed.", nil, nil)
	descSealFailing = prometheus.NewDesc("krypton_seal_failing_keystores",
		"Keystores that failed when this sealed node last asked them for what they hold of the seal.", nil, nil)
	descSealWatch = prometheus.NewDesc("krypton_seal_watch_timestamp_seconds",
		"When this node, as leader, last had the keystores of the seal open it; absent on others.", nil, nil)
	descSealOpens = prometheus.NewDesc("krypton_seal_keystore_opens",
		"1 when the keystore opened all that it holds of the seal when the leader last asked; absent on nodes that do not lead.", []string{"keystore"}, nil)
	descSealSpareKeystores = prometheus.NewDesc("krypton_seal_spare_keystores",
		"Keystores that may be lost besides before a node needs people to unseal, as the leader found; -1: it needs them. Absent where it always does, and on nodes that do not lead.", nil, nil)
	descSealSpareHolders = prometheus.NewDesc("krypton_seal_spare_holders",
		"Holders that may be lost besides before nothing opens the MasterKey, as the leader found, with all people there; -1: nothing does. Absent on nodes that do not lead.", nil, nil)
	descSealRepairs = prometheus.NewDesc("krypton_seal_repairs_total",
		"Wrappings of the MasterKey that this node made again, as leader.", nil, nil)
)

// Describe implements prometheus.Collector.
func (m sealMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descSealMissing, descSealFailing, descSealWatch, descSealOpens, descSealSpareKeystores, descSealSpareHolders, descSealRepairs} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m sealMetrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if st, err := m.node.GetSeal(); err == nil {
		for d, v := range spareHolders(st) {
			gauge(d, v)
		}
		missing, failing := 0, 0
		if !st.Unsealed {
			missing = st.Progress.Need - st.Progress.Have
			for _, h := range st.Progress.Holders {
				if h.State == seal.HolderFailed {
					failing++
				}
			}
		}
		gauge(descSealMissing, float64(missing))
		gauge(descSealFailing, float64(failing))
	}
	w := m.node.SealWatch()
	if !w.At.IsZero() {
		gauge(descSealWatch, float64(w.At.Unix()))
	}
	for name, opens := range w.Opens {
		v := 0.0
		if opens {
			v = 1
		}
		gauge(descSealOpens, v, name)
	}
	ch <- prometheus.MustNewConstMetric(descSealRepairs, prometheus.CounterValue, float64(w.Repairs))
}

// spareHolders says how many holders may be lost besides, on the node that watches.
func spareHolders(st node.SealStatus) map[*prometheus.Desc]float64 {
	if st.Watched.IsZero() {
		return nil
	}
	spare := st.Progress.Margin()
	out := map[*prometheus.Desc]float64{descSealSpareHolders: float64(max(spare.AtAll, -1))}
	if st.Persons == 0 { // where people are needed anyway, that they are is no alarm
		out[descSealSpareKeystores] = float64(max(spare.WithoutPeople, -1))
	}
	return out
}
