package forward

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"nodetap/agent/component"
)

type selfMetrics struct {
	wireBytes, rawBytes, chunks, skipped prometheus.Counter
	acks, connections                    *prometheus.CounterVec
	inFlight, connected                  prometheus.Gauge

	acked atomic.Uint64 // the sum of acks{result="ok"} of this life
}

func newMetrics(r prometheus.Registerer) *selfMetrics {
	counter := func(name, help string) prometheus.Counter {
		return component.Register(r, prometheus.NewCounter(prometheus.CounterOpts{Name: "nodetap_forward_" + name, Help: help}))
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		return component.Register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "nodetap_forward_" + name, Help: help}, []string{label}))
	}
	gauge := func(name, help string) prometheus.Gauge {
		return component.Register(r, prometheus.NewGauge(prometheus.GaugeOpts{Name: "nodetap_forward_" + name, Help: help}))
	}
	m := &selfMetrics{
		wireBytes:   counter("wire_bytes_total", "Bytes of messages written to the connection, before TLS."),
		rawBytes:    counter("uncompressed_bytes_total", "Bytes of entries before compression."),
		chunks:      counter("chunks_total", "Chunks made, those that are sent again among them."),
		skipped:     counter("skipped_chunks_total", "Chunks of repeated calls that were left out, because the receiver had acknowledged them before."),
		acks:        vec("acks_total", "Acknowledgements: ok, unknown (of no chunk in flight: late, or made up), timeout (did not come).", "result"),
		connections: vec("connections_total", "Attempts to connect: ok, or failed at dial, tls or handshake.", "result"),
		inFlight:    gauge("in_flight_chunks", "Chunks that wait for their acknowledgement."),
		connected:   gauge("connected", "1 while the connection stands."),
	}
	m.connected.Set(0)
	m.inFlight.Set(0)
	return m
}
