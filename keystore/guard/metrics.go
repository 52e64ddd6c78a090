package guard

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/openkcm/krypton-cluster/keystore"
)

// latencyBuckets are in seconds: from a token on the bus to a cloud on another
// continent, and what waits for a deadline.
//
//nolint:gochecknoglobals // Immutable.
var latencyBuckets = []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}

// Reasons for which a call or a retry was not made.
const (
	refusedByBreaker = "breaker"
	refusedByRate    = "rate"
	refusedByBudget  = "retry-budget"
)

// Metrics counts the calls of all keystores of a node. It is a
// prometheus.Collector. nil counts nothing.
type Metrics struct {
	latency *prometheus.HistogramVec
	retries *prometheus.CounterVec
	refused *prometheus.CounterVec
	state   *prometheus.Desc

	mu       sync.Mutex
	breakers map[string]*breakers // by keystore
}

// NewMetrics returns metrics without a value.
func NewMetrics() *Metrics {
	return &Metrics{
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "krypton_keystore_call_duration_seconds", Buckets: latencyBuckets,
			Help: "Time of calls to a keystore with their retries, by configured name, operation and class; ok for success.",
		}, []string{"keystore", "op", "class"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "krypton_keystore_retries_total", Help: "Attempts that were made because an earlier one of the same call failed.",
		}, []string{"keystore"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "krypton_keystore_refused_total", Help: "Attempts that were not made, by reason: an open breaker, the setting rate, no budget for retries.",
		}, []string{"keystore", "reason"}),
		state: prometheus.NewDesc("krypton_keystore_breakers",
			"Keys of a keystore whose circuit breaker is open, or half-open: waiting for the outcome of one call.", []string{"keystore", "state"}, nil),
		breakers: map[string]*breakers{},
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	m.latency.Describe(ch)
	m.retries.Describe(ch)
	m.refused.Describe(ch)
	ch <- m.state
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.latency.Collect(ch)
	m.retries.Collect(ch)
	m.refused.Collect(ch)
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, b := range m.breakers {
		open, half := b.count()
		ch <- prometheus.MustNewConstMetric(m.state, prometheus.GaugeValue, float64(open), name, "open")
		ch <- prometheus.MustNewConstMetric(m.state, prometheus.GaugeValue, float64(half), name, "half-open")
	}
}

// provider returns the metrics of one keystore, nil if m is.
func (m *Metrics) provider(name string, b *breakers) *providerMetrics {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.breakers[name] = b
	for _, reason := range []string{refusedByBreaker, refusedByRate, refusedByBudget} {
		m.refused.WithLabelValues(name, reason) // 0 and not absent, for alerts
	}
	return &providerMetrics{m: m, name: name, retries: m.retries.WithLabelValues(name)}
}

// providerMetrics counts for one keystore. nil counts nothing.
type providerMetrics struct {
	m       *Metrics
	name    string
	retries prometheus.Counter
}

func (p *providerMetrics) call(op keystore.Op, class string, took time.Duration) {
	if p != nil {
		p.m.latency.WithLabelValues(p.name, op.String(), class).Observe(took.Seconds())
	}
}

func (p *providerMetrics) retry() {
	if p != nil {
		p.retries.Inc()
	}
}

func (p *providerMetrics) refuse(reason string) {
	if p != nil {
		p.m.refused.WithLabelValues(p.name, reason).Inc()
	}
}
