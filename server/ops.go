package server

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// opsHandler answers on the operations port, without certificates: alive, ready,
// metrics. Nothing there names a tenant, a key or a caller.
func (c *calls) opsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := c.node.ServingErr(); err != nil {
			// The code and what it means, not the message: that can say who sealed
			// the cluster, and anybody may ask here.
			row := errs.Of(err).Row()
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(row.Name + ": " + row.Meaning + "\n"))
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(c.metrics.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		mux.ServeHTTP(w, r)
	})
}
