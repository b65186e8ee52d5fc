package apm

import (
	"github.com/prometheus/client_golang/prometheus"

	"nodetap/agent/component"
)

// Indices of the kernel side's counters, as in bpf/apm.bpf.c.
const (
	cEvents = iota
	cBytes
	cConns
	cRingFull
	cRingFullStart
	cRingFullState
	cReadFault
	cConnFull
	cNotTCP
	cULP
	cSelf
	cMax
)

// stats are the collector's metrics about itself.
type stats struct {
	requests prometheus.Counter
	sent     prometheus.Counter
	dropped  *prometheus.CounterVec
	overflow prometheus.Counter
	refused  prometheus.Counter
	bad      prometheus.Counter
	lag      prometheus.Gauge
	conns    prometheus.Gauge
	waiting  prometheus.Gauge
	held     prometheus.Gauge
}

func newStats(r prometheus.Registerer) *stats {
	counter := func(name, help string) prometheus.Counter {
		return component.Register(r, prometheus.NewCounter(prometheus.CounterOpts{Name: "nodetap_apm_" + name, Help: help}))
	}
	gauge := func(name, help string) prometheus.Gauge {
		return component.Register(r, prometheus.NewGauge(prometheus.GaugeOpts{Name: "nodetap_apm_" + name, Help: help}))
	}
	return &stats{
		requests: counter("requests_total", "Requests seen, by client and server end. Each is a span sent, a span dropped with a reason, waiting for its response, held for its pod, or on its way to the pipeline."),
		sent:     counter("spans_sent_total", "Spans that the pipeline took."),
		dropped: component.Register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nodetap_apm_spans_dropped_total",
			Help: "Requests seen that gave no span, by reason.",
		}, []string{"reason"})),
		overflow: counter("series_overflow_total", "Requests counted in an overflow series because max_series was reached."),
		refused:  counter("connections_refused_total", "Events of connections beyond max_connections."),
		bad:      counter("events_invalid_total", "Events that could not be decoded: a fault of the agent."),
		lag:      gauge("ring_lag_seconds", "Age of the last event when it was read."),
		conns:    gauge("connections", "HTTP connections followed."),
		waiting:  gauge("requests_waiting", "Requests without a whole response."),
		held:     gauge("requests_held", "Requests that wait for their pod to be known."),
	}
}

func (s *stats) drop(reason string, n int) { s.dropped.WithLabelValues(reason).Add(float64(n)) }

// kernelStats reads the kernel side's counters, and the number of series, when
// it is scraped.
type kernelStats struct {
	read   func() [cMax]uint64
	misses func() uint64
	ring   func() int
	series func() int
}

var (
	eventsDesc  = prometheus.NewDesc("nodetap_apm_events_total", "Events that the kernel side sent.", nil, nil)
	bytesDesc   = prometheus.NewDesc("nodetap_apm_event_bytes_total", "Bytes of events that the kernel side sent.", nil, nil)
	connsDesc   = prometheus.NewDesc("nodetap_apm_connections_total", "HTTP connections found.", nil, nil)
	ringDesc    = prometheus.NewDesc("nodetap_apm_ring_bytes", "Bytes in the ring buffer that wait to be read.", nil, nil)
	seriesDesc  = prometheus.NewDesc("nodetap_apm_series", "Series of the request duration metrics.", nil, nil)
	droppedDesc = prometheus.NewDesc("nodetap_apm_events_dropped_total", "Events that the kernel side could not send, by reason. ring_full_start are those of ring_full that began a message, so at least as many requests or responses were lost.", []string{"reason"}, nil)
	skippedDesc = prometheus.NewDesc("nodetap_apm_connections_skipped_total", "Connections that look like HTTP and are not traced, by reason.", []string{"reason"}, nil)
)

// Describe implements prometheus.Collector.
func (k *kernelStats) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{eventsDesc, bytesDesc, connsDesc, ringDesc, seriesDesc, droppedDesc, skippedDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (k *kernelStats) Collect(ch chan<- prometheus.Metric) {
	v := k.read()
	send := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	send(eventsDesc, v[cEvents])
	send(bytesDesc, v[cBytes])
	send(connsDesc, v[cConns])
	ch <- prometheus.MustNewConstMetric(ringDesc, prometheus.GaugeValue, float64(k.ring()))
	ch <- prometheus.MustNewConstMetric(seriesDesc, prometheus.GaugeValue, float64(k.series()))
	send(droppedDesc, v[cRingFull], "ring_full")
	send(droppedDesc, v[cRingFullStart], "ring_full_start")
	send(droppedDesc, v[cRingFullState], "ring_full_state")
	send(droppedDesc, v[cReadFault], "read_fault")
	send(droppedDesc, v[cConnFull], "connection_map")
	send(droppedDesc, k.misses(), "recursion")
	send(skippedDesc, v[cNotTCP], "not_tcp")
	send(skippedDesc, v[cULP], "kernel_tls")
	send(skippedDesc, v[cSelf], "self")
}
