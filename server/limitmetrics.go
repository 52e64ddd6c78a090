package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/openkcm/krypton-cluster/limit"
)

// limitMetrics counts what was refused for a budget. Labels are classes of calls and
// whose budget it was, never who: that is in the audit trail and in GetCluster.
type limitMetrics struct {
	refused [limit.Classes][limitedBys]prometheus.Counter
}

func newLimitMetrics(r prometheus.Registerer) *limitMetrics {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "krypton_limit_refused_calls_total", Help: "Calls refused for a budget, by class of calls and whose budget it was.",
	}, []string{"class", "of"})
	r.MustRegister(vec)
	m := &limitMetrics{}
	for c := range limit.Classes {
		for b := range limitedBys {
			m.refused[c][b] = vec.WithLabelValues(c.String(), b.String())
		}
	}
	return m
}

// gauges registers how many budgets are counted.
func (l *limits) gauges(r prometheus.Registerer) {
	for of, count := range map[string]func() int{"caller": l.callers.Len, "tenant": l.tenants.Len} {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "krypton_limit_accounts", Help: "Callers and tenants whose calls are counted.", ConstLabels: prometheus.Labels{"of": of},
		}, func() float64 { return float64(count()) }))
	}
}

// doorRefusal is why a connection was not kept.
type doorRefusal int

const (
	doorSource doorRefusal = iota // its address begins too many
	doorCrowd                     // strangers have more than their places
	doorCaller
	doorTenant
	doorFull
	doorRefusals
)

func (d doorRefusal) String() string {
	return [...]string{"source", "strangers", "caller", "tenant", "full"}[d]
}

// doorMetrics counts what became of connections to one port.
type doorMetrics struct {
	counters [doorRefusals]prometheus.Counter
}

// doors are the metrics of all doors.
type doors struct {
	registry prometheus.Registerer
	vec      *prometheus.CounterVec
}

func newDoors(r prometheus.Registerer) *doors {
	d := &doors{registry: r, vec: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "krypton_server_connections_refused_total",
		Help: "Connections that got no place, by port and whose share was used up: of their address, of strangers, of their caller, of its tenant, of the port.",
	}, []string{"port", "share"})}
	r.MustRegister(d.vec)
	return d
}

func (d *doors) of(port string) *doorMetrics {
	m := &doorMetrics{}
	for r := range doorRefusals {
		m.counters[r] = d.vec.WithLabelValues(port, r.String())
	}
	return m
}

// gauges registers how many connections a door has.
func (d *doors) gauges(port string, at *door) {
	for state, count := range map[string]func() int{
		"stranger": func() int { n, _ := at.count(); return n }, "caller": func() int { _, n := at.count(); return n },
	} {
		d.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "krypton_server_connections", Help: "Connections, by port and whether a caller has shown who it is.",
			ConstLabels: prometheus.Labels{"port": port, "of": state},
		}, func() float64 { return float64(count()) }))
	}
}

func (m *doorMetrics) refused(r doorRefusal) { m.counters[r].Inc() }
