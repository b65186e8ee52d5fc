package pipeline

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"nodetap/agent/pipeline/spill"
)

// instruments are the pipeline's metrics about itself.
type instruments struct {
	received, receivedBytes *prometheus.CounterVec // collector, signal
	unrouted                *prometheus.CounterVec // collector, signal, reason
	taken, sent, sentBytes  *prometheus.CounterVec // exporter, signal
	dropped                 *prometheus.CounterVec // exporter, signal, reason
	returned                *prometheus.CounterVec // exporter, signal
	errors                  *prometheus.CounterVec // exporter, signal, kind
	detached, spillErrors   *prometheus.CounterVec // exporter, signal
}

func newInstruments(reg prometheus.Registerer) (*instruments, error) {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	in := &instruments{
		received:      vec("nodetap_pipeline_received_records_total", "Records that collectors sent.", "collector", "signal"),
		receivedBytes: vec("nodetap_pipeline_received_bytes_total", "Bytes of bodies (of spans: estimated) that collectors sent.", "collector", "signal"),
		unrouted:      vec("nodetap_pipeline_dropped_records_total", "Records that no exporter gets, by reason.", "collector", "signal", "reason"),
		taken:         vec("nodetap_exporter_received_records_total", "Records that were routed to the exporter, those included that an earlier run left on disk.", "exporter", "signal"),
		sent:          vec("nodetap_exporter_sent_records_total", "Records that the backend acknowledged.", "exporter", "signal"),
		sentBytes:     vec("nodetap_exporter_sent_bytes_total", "Bytes of bodies (of spans: estimated) that the backend acknowledged.", "exporter", "signal"),
		dropped:       vec("nodetap_exporter_dropped_records_total", "Records that the backend will never get, by reason.", "exporter", "signal", "reason"),
		returned:      vec("nodetap_exporter_returned_records_total", "Records that were undelivered when the agent stopped. They come again: from their files, not being acknowledged, or from disk.", "exporter", "signal"),
		errors:        vec("nodetap_exporter_errors_total", "Failed calls: retry for those that are tried again, permanent for those that are not.", "exporter", "signal", "kind"),
		detached:      vec("nodetap_exporter_detached_total", "How often the exporter fell behind and its logs went to disk instead of delaying the others.", "exporter", "signal"),
		spillErrors:   vec("nodetap_exporter_spill_errors_total", "Failed writes of logs to disk: an error, no space, or spill.max_bytes reached.", "exporter", "signal"),
	}
	for _, c := range []prometheus.Collector{
		in.received, in.receivedBytes, in.unrouted, in.taken, in.sent, in.sentBytes, in.dropped, in.returned, in.errors,
		in.detached, in.spillErrors,
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return in, nil
}

// queueMetrics are the counters of one queue.
type queueMetrics struct {
	taken, sentRecords, sentBytes prometheus.Counter
	returned, retry, permanent    prometheus.Counter
	detached, spillErrors         prometheus.Counter
	dropped                       *prometheus.CounterVec // reason
}

func (in *instruments) queue(exporter string, s signal) queueMetrics {
	l := prometheus.Labels{"exporter": exporter, "signal": s.String()}
	errs, dropped := in.errors.MustCurryWith(l), in.dropped.MustCurryWith(l)
	for _, reason := range dropReasons[s] { // 0 says more than nothing does
		dropped.WithLabelValues(reason)
	}
	return queueMetrics{
		taken:       in.taken.With(l),
		sentRecords: in.sent.With(l),
		sentBytes:   in.sentBytes.With(l),
		returned:    in.returned.With(l),
		detached:    in.detached.With(l),
		spillErrors: in.spillErrors.With(l),
		retry:       errs.WithLabelValues("retry"),
		permanent:   errs.WithLabelValues("permanent"),
		dropped:     dropped,
	}
}

func (m *queueMetrics) sent(parts []part) {
	records, bytes := 0, 0
	for _, p := range parts {
		records += p.j - p.i
		bytes += p.it.payload(p.i, p.j)
	}
	m.sentRecords.Add(float64(records))
	m.sentBytes.Add(float64(bytes))
}

// dropReasons are the pipeline's own; an exporter's refusals may add others.
var dropReasons = [signals][]string{
	signalLogs:   {"rejected", "queue_full", "spill_full", "spill_failed", "spill_damaged", "shutdown"},
	signalTraces: {"rejected", "queue_full", "shutdown"},
}

// drop counts records that are given up.
func (m *queueMetrics) drop(reason string, records int) {
	m.dropped.WithLabelValues(reason).Add(float64(records))
}

// gauges reads the state of the queues at each scrape.
type gauges struct {
	mu     sync.Mutex
	queues []*queue
}

var (
	queueLabels  = []string{"exporter", "signal"}
	descBytes    = prometheus.NewDesc("nodetap_exporter_queue_bytes", "Bytes in memory that wait for the exporter or are in a call.", queueLabels, nil)
	descRecords  = prometheus.NewDesc("nodetap_exporter_queue_records", "Records in memory that wait for the exporter or are in a call.", queueLabels, nil)
	descCalls    = prometheus.NewDesc("nodetap_exporter_inflight_calls", "Calls that are in flight, or wait to be tried again.", queueLabels, nil)
	descLag      = prometheus.NewDesc("nodetap_exporter_lag_seconds", "Age of the oldest record that is not delivered, since it was observed. 0 when there is none.", queueLabels, nil)
	descDetached = prometheus.NewDesc("nodetap_exporter_detached", "1 while logs for the exporter go through the disk.", queueLabels, nil)
	descSpillB   = prometheus.NewDesc("nodetap_exporter_spill_bytes", "Bytes on disk of logs for the exporter, compressed.", queueLabels, nil)
	descSpillR   = prometheus.NewDesc("nodetap_exporter_spill_records", "Records on disk that wait for the exporter, without those that are in its queue again.", queueLabels, nil)
	descDamaged  = prometheus.NewDesc("nodetap_exporter_spill_damaged_segments_total", "Segment files with damaged content.", queueLabels, nil)
	gaugesOfAll  = []*prometheus.Desc{descBytes, descRecords, descCalls, descLag, descDetached, descSpillB, descSpillR, descDamaged}
)

// Describe implements prometheus.Collector.
func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range gaugesOfAll {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, q := range g.queues {
		emit := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, q.name, q.signal.String())
		}
		s := q.state()
		emit(descBytes, float64(s.bytes))
		emit(descRecords, float64(s.records))
		emit(descCalls, float64(s.calls))
		emit(descLag, s.lag(time.Now()).Seconds())
		if q.detach.log == nil {
			continue
		}
		detached := 0.0
		if s.detached {
			detached = 1
		}
		emit(descDetached, detached)
		emit(descSpillB, float64(s.disk.Bytes))
		emit(descSpillR, float64(s.disk.Records))
		ch <- prometheus.MustNewConstMetric(descDamaged, prometheus.CounterValue, float64(s.disk.Damaged), q.name, q.signal.String())
	}
}

type queueState struct {
	bytes, records, calls int
	oldest                int64 // unix nanoseconds, 0 for none
	detached              bool
	disk                  spill.Stats
}

func (s queueState) lag(now time.Time) time.Duration {
	if s.oldest == 0 {
		return 0
	}
	return max(0, now.Sub(time.Unix(0, s.oldest)))
}

func (q *queue) state() queueState {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := queueState{bytes: q.own + q.loaded, records: q.records, calls: q.calls, detached: q.detach.detached}
	for _, l := range []*list{&q.flying, &q.waiting, &q.staged} {
		if it := l.head; it != nil && (s.oldest == 0 || it.oldest < s.oldest) {
			s.oldest = it.oldest
		}
	}
	if q.detach.log != nil {
		s.disk = q.detach.log.Stats()
		if o := s.disk.Oldest; o > 0 && (s.oldest == 0 || o < s.oldest) {
			s.oldest = o
		}
	}
	return s
}
