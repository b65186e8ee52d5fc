package otlp

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/client_golang/prometheus"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"nodetap/agent/component"
	"nodetap/agent/metrics"
	"nodetap/agent/telemetry"
)

// Exporter sends to one OTLP receiver. Make it with New.
type Exporter struct {
	cfg       Config
	log       *slog.Logger
	m         *selfMetrics
	metrics   *metrics.Registry
	gatherer  prometheus.Gatherer
	self      *telemetry.Resource // the agent
	envelope  *envelope
	resources *component.ResourceCache[[]byte]
	taken     memory
	said      [signals]limiter

	version string
	dial    sync.Once
	t       transport
	dialErr error
}

var (
	_ component.LogExporter  = (*Exporter)(nil)
	_ component.SpanExporter = (*Exporter)(nil)
)

// New returns an exporter that connects with its first request.
func New(env component.Env, cfg Config) (*Exporter, error) {
	e := &Exporter{
		cfg: cfg, log: env.Logger, m: newMetrics(env.Registerer), metrics: env.Metrics, gatherer: env.Gatherer, version: env.Version,
		envelope: newEnvelope(env.Version, semconv.SchemaURL),
		self: &telemetry.Resource{Cluster: env.Cluster, Node: env.NodeName, ServiceName: "nodetap",
			ServiceVersion: env.Version, ServiceInstanceID: env.NodeName},
	}
	node := &telemetry.Resource{Cluster: env.Cluster, Node: env.NodeName}
	e.resources = component.NewResourceCache(0, func(r *telemetry.Resource) []byte {
		if r == nil {
			r = node
		}
		return renderResource(r.AppendAttrs(nil))
	})
	return e, nil
}

func (e *Exporter) transport() (transport, error) {
	e.dial.Do(func() { e.t, e.dialErr = newTransport(e.cfg, e.version, e.m) })
	return e.t, e.dialErr
}

// Run sends the metrics at their interval until ctx ends, then closes the
// connections.
func (e *Exporter) Run(ctx context.Context) error {
	t, err := e.transport()
	if err != nil {
		return err
	}
	defer t.close()
	if e.cfg.Metrics.Interval <= 0 {
		<-ctx.Done()
		return nil
	}
	e.runMetrics(ctx)
	return nil
}

// call is one export: the requests that it becomes.
type call struct {
	e       *Exporter
	ctx     context.Context //nolint:containedctx // lives as long as the call
	signal  signal
	w       builder
	taken   []uint64 // hashes of those that the receiver took
	skipped []uint64 // of those that it took in an earlier attempt
}

func (e *Exporter) call(ctx context.Context, s signal) *call {
	c := &call{e: e, ctx: ctx, signal: s}
	c.w = builder{max: int(e.cfg.MaxRequest), envel: e.envelope}
	c.w.send = c.send
	return c
}

func (c *call) free() { c.w.free() }

// send sends a request, unless an earlier attempt of the same call did. The
// content tells: it holds the records' ids and times.
func (c *call) send(request *[]byte, items int) error {
	var sum uint64
	if c.w.several { // a call of one request is taken or not as a whole
		sum = xxhash.Sum64(*request)
		if c.e.taken.has(sum) {
			c.skipped = append(c.skipped, sum)
			c.e.m.skipped.WithLabelValues(c.signal.String()).Inc()
			putBuffer(request)
			return nil
		}
	}
	if err := c.e.sendOne(c.ctx, c.signal, request, items); err != nil {
		return err
	}
	if c.w.several {
		c.taken = append(c.taken, sum)
	}
	return nil
}

// end closes the call with its result.
func (c *call) end(err error) error {
	if err == nil {
		c.e.taken.forget(c.skipped)
	} else {
		c.e.taken.remember(c.taken)
	}
	return err
}

// sendOne sends a request and reads the answer.
func (e *Exporter) sendOne(ctx context.Context, s signal, request *[]byte, items int) error {
	t, err := e.transport()
	if err != nil {
		putBuffer(request)
		return &component.Retry{Err: err}
	}
	e.m.rawBytes.WithLabelValues(s.String()).Add(float64(len(*request)))
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()
	answer, err := t.send(ctx, s, request)
	if err != nil {
		result := "retry"
		if _, ok := errors.AsType[*component.Permanent](err); ok {
			result = "permanent"
		}
		e.m.requests.WithLabelValues(s.String(), result).Inc()
		return err
	}
	p, err := parseAnswer(answer)
	switch {
	case err != nil:
		e.m.malformed.Inc()
	case p.rejected > 0 || p.message != "":
		if p.rejected > int64(items) {
			p.rejected = int64(items) // a receiver cannot refuse more than it got
		}
		e.m.rejected.WithLabelValues(s.String()).Add(float64(p.rejected))
		if e.said[s].allow(time.Now()) {
			e.log.Warn("the receiver took the request and says", "signal", s.String(), "rejected", p.rejected,
				"of", items, "message", short(p.message))
		}
	}
	result := "ok"
	if p.rejected > 0 {
		result = "partial"
	}
	e.m.requests.WithLabelValues(s.String(), result).Inc()
	return nil
}

// limiter allows once a minute. The zero value is ready.
type limiter struct {
	mu   sync.Mutex
	last time.Time
}

func (l *limiter) allow(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.last.IsZero() && now.Sub(l.last) < time.Minute {
		return false
	}
	l.last = now
	return true
}

// memory holds the hashes of requests that were taken though their call failed.
// It holds at most twice maxMemory and forgets the oldest: what is forgotten is
// sent once more, nothing worse.
type memory struct {
	mu       sync.Mutex
	now, old map[uint64]struct{}
}

const maxMemory = 1024

func (m *memory) has(sum uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, a := m.now[sum]
	_, b := m.old[sum]
	return a || b
}

func (m *memory) remember(sums []uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range sums {
		if len(m.now) >= maxMemory || m.now == nil {
			m.old, m.now = m.now, make(map[uint64]struct{})
		}
		m.now[s] = struct{}{}
	}
}

func (m *memory) forget(sums []uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range sums {
		delete(m.now, s)
		delete(m.old, s)
	}
}
