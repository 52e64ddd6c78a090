package server

import (
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/node"
)

// metrics counts calls. Labels come from closed sets: methods of the API and
// codes of the error table. No tenant, key or caller is ever in one.
type metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.CounterVec
	latency  *prometheus.HistogramVec

	// methods are the two of each known method, found by label once: a call that
	// succeeds looks up nothing else.
	methods map[string]*methodMetrics
}

// methodMetrics is what is counted of one method. Its time series begin with its
// first call, as if they were found by label.
type methodMetrics struct {
	label   string
	once    sync.Once
	ok      prometheus.Counter
	latency prometheus.Observer
}

// latencyBuckets are in seconds: 0.1 to 10 ms is where a data operation belongs.
//
//nolint:gochecknoglobals // Immutable.
var latencyBuckets = []float64{0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 1, 10}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "krypton_server_calls_total", Help: "Calls by method and code; OK for success.",
		}, []string{"method", "code"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "krypton_server_call_duration_seconds", Help: "Time from the first byte understood to the answer handed over.",
			Buckets: latencyBuckets,
		}, []string{"method"}),
	}
	m.methods = make(map[string]*methodMetrics, len(known))
	for method, label := range known {
		m.methods[method] = &methodMetrics{label: label}
	}
	m.registry.MustRegister(m.calls, m.latency, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// known are the methods of the API, so that nobody can invent a label.
//
//nolint:gochecknoglobals // Immutable.
var known = func() map[string]string {
	out := map[string]string{}
	for _, d := range []grpc.ServiceDesc{
		kryptonv1.Crypto_ServiceDesc, kryptonv1.Tenants_ServiceDesc, kryptonv1.Services_ServiceDesc, kryptonv1.Seal_ServiceDesc,
		kryptonv1.Cluster_ServiceDesc, kryptonv1.Access_ServiceDesc, kryptonv1.Approvals_ServiceDesc, kryptonv1.Policies_ServiceDesc, kryptonv1.Admin_ServiceDesc, kryptonv1.Ceremonies_ServiceDesc,
	} {
		for _, m := range d.Methods {
			out["/"+d.ServiceName+"/"+m.MethodName] = strings.TrimPrefix(d.ServiceName, "krypton.v1.") + "." + m.MethodName
		}
	}
	return out
}()

func (m *metrics) observe(method string, err error, d time.Duration) {
	is, ok := m.methods[method]
	if ok && err == nil {
		is.once.Do(func() {
			is.ok, is.latency = m.calls.WithLabelValues(is.label, codeOK), m.latency.WithLabelValues(is.label)
		})
		is.ok.Inc()
		is.latency.Observe(d.Seconds())
		return
	}
	label, code := "other", codeOK
	if ok {
		label = is.label
	}
	if err != nil {
		code = errs.Of(wire.FromStatus(err)).String()
	}
	m.calls.WithLabelValues(label, code).Inc()
	m.latency.WithLabelValues(label).Observe(d.Seconds())
}

// codeOK is the label of a call without an error.
const codeOK = "OK"

// gauges registers what is read when somebody asks.
func (m *metrics) gauges(n *node.Node, c *cluster.Cluster, g *gate.Gate) {
	gauge := func(name, help string, f func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
	}
	flag := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	gauge("krypton_node_unsealed", "1 when the keys of the MasterKey are in memory.", func() float64 { return flag(n.Unsealed()) })
	gauge("krypton_node_serving", "1 when the node answers data operations.", func() float64 { return flag(n.ServingErr() == nil) })
	gauge("krypton_cluster_leader", "1 when the node leads.", func() float64 { return flag(c.IsLeader()) })
	gauge("krypton_cluster_term", "Raft term.", func() float64 { return float64(c.Stats().Term) })
	gauge("krypton_cluster_applied_index", "Log index of the last applied command.", func() float64 { return float64(c.Stats().AppliedIndex) })
	gauge("krypton_cluster_commit_index", "Log index known to be committed.", func() float64 { return float64(c.Stats().CommitIndex) })
	gauge("krypton_node_policy_faults", "Tenants whose policies do not compile on this node, so that it refuses what they would decide.", func() float64 { return float64(len(n.PolicyFaults())) })
	m.registry.MustRegister(leaseMetrics{c}, sealMetrics{n}, l1Metrics{n}, exposureMetrics{n})
	gauge("krypton_gate_in_flight", "Operations between gate and reply.", func() float64 { return float64(g.InFlight()) })
	gauge("krypton_memsec_locked_bytes", "Bytes of locked memory in use for keys.", func() float64 { return float64(memsec.Report().LockedBytes) })
	gauge("krypton_memsec_limit_bytes", "Bytes of memory that may be locked for keys.", func() float64 { return float64(memsec.Report().LimitBytes) })
	for layer, pick := range map[string]func() int{
		"ivk": func() int { v, _, _, _ := n.Loaded(); return v }, "l2": func() int { _, v, _, _ := n.Loaded(); return v },
		"l21": func() int { _, _, v, _ := n.Loaded(); return v }, "l3": func() int { _, _, _, v := n.Loaded(); return v },
	} {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "krypton_node_keys_unwrapped", Help: "Keys unwrapped in memory, by layer.", ConstLabels: prometheus.Labels{"layer": layer},
		}, func() float64 { return float64(pick()) }))
	}
}
