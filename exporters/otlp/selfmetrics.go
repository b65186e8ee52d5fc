package otlp

import (
	"github.com/prometheus/client_golang/prometheus"

	"nodetap/agent/component"
)

// signal is what a request carries.
type signal int

const (
	logs signal = iota
	traces
	metricsSignal
	signals // how many there are
)

func (s signal) String() string { return [...]string{"logs", "traces", "metrics"}[s] }

func (s signal) method() string {
	return [...]string{
		"/opentelemetry.proto.collector.logs.v1.LogsService/Export",
		"/opentelemetry.proto.collector.trace.v1.TraceService/Export",
		"/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
	}[s]
}

type selfMetrics struct {
	wireBytes, connections, malformed prometheus.Counter
	rawBytes, rejected, skipped       *prometheus.CounterVec // signal
	requests                          *prometheus.CounterVec // signal, result
	droppedPoints                     *prometheus.CounterVec // reason
}

func newMetrics(r prometheus.Registerer) *selfMetrics {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return component.Register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "nodetap_otlp_" + name, Help: help}, labels))
	}
	one := func(name, help string) prometheus.Counter {
		return component.Register(r, prometheus.NewCounter(prometheus.CounterOpts{Name: "nodetap_otlp_" + name, Help: help}))
	}
	return &selfMetrics{
		wireBytes:     one("wire_bytes_total", "Bytes of requests after compression, before TLS and without headers."),
		connections:   one("connections_total", "Connections made."),
		malformed:     one("malformed_answers_total", "Answers to requests that the receiver took which could not be read."),
		rawBytes:      vec("uncompressed_bytes_total", "Bytes of requests before compression.", "signal"),
		rejected:      vec("rejected_total", "Records, spans or data points that the receiver refused of requests that it took (partial success). They are not sent again.", "signal"),
		skipped:       vec("skipped_requests_total", "Requests of repeated calls that were left out, because the receiver had taken them before.", "signal"),
		requests:      vec("requests_total", "Requests by result: ok, partial, retry, permanent.", "signal", "result"),
		droppedPoints: vec("dropped_points_total", "Metric data points that were given up, by reason: superseded by the next interval's, or what the receiver said.", "reason"),
	}
}
