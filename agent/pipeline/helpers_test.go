package pipeline

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"nodetap/agent/component"
	"nodetap/agent/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// backend is an exporter that keeps what it is given.
type backend struct {
	// answer decides the outcome of a call before it is kept; nil: all is taken.
	answer func(call int, records []string) error
	delay  func(call int) time.Duration

	mu sync.Mutex
	log
}

// log is what a backend saw.
type log struct {
	calls int
	at    []time.Time // of the calls
	sizes []int       // records of the calls
	got   []string    // "<path>:<body>" or the span's name, as acknowledged
	lags  []time.Duration
}

// seen returns what the backend saw so far.
func (b *backend) seen() log {
	b.mu.Lock()
	defer b.mu.Unlock()
	return log{b.calls, slices.Clone(b.at), slices.Clone(b.sizes), slices.Clone(b.got), slices.Clone(b.lags)}
}

func (b *backend) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func (b *backend) take(ctx context.Context, records []string, oldest int64) error {
	b.mu.Lock()
	n := b.calls
	b.calls++
	b.at = append(b.at, time.Now())
	b.sizes = append(b.sizes, len(records))
	b.mu.Unlock()
	if b.delay != nil {
		select {
		case <-time.After(b.delay(n)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if b.answer != nil {
		if err := b.answer(n, records); err != nil {
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.got = append(b.got, records...)
	if oldest > 0 {
		b.lags = append(b.lags, time.Since(time.Unix(0, oldest)))
	}
	return nil
}

func (b *backend) ExportLogs(ctx context.Context, batches []*telemetry.LogBatch) error {
	var records []string
	oldest := int64(0)
	for _, l := range batches {
		for i := range l.Records {
			records = append(records, l.Source.Path+":"+string(l.Body(i)))
			if o := l.Records[i].Observed; oldest == 0 || o < oldest {
				oldest = o
			}
		}
	}
	return b.take(ctx, records, oldest)
}

// received returns what was acknowledged so far.
func (b *backend) received() []string { return b.seen().got }

// traced is a backend for spans alone.
type traced struct{ b backend }

func (t *traced) Run(ctx context.Context) error { return t.b.Run(ctx) }

func (t *traced) ExportSpans(ctx context.Context, batches []*telemetry.SpanBatch) error {
	var names []string
	for _, s := range batches {
		for i := range s.Spans {
			names = append(names, s.Spans[i].Name)
		}
	}
	return t.b.take(ctx, names, 0)
}

// logBatch makes a batch of n lines "<from>".. with bodies padded to size.
func logBatch(path string, from, n, size int) *telemetry.LogBatch {
	b := &telemetry.LogBatch{
		Resource: &telemetry.Resource{Namespace: "ns", Pod: path, Container: "c"},
		Source:   telemetry.LogSource{Path: path},
	}
	for i := range n {
		b.Append(telemetry.LogRecord{Observed: time.Now().UnixNano()}, fmt.Appendf(nil, "%0*d", size, from+i))
	}
	return b
}

func spanBatch(names ...string) *telemetry.SpanBatch {
	b := &telemetry.SpanBatch{Resource: &telemetry.Resource{Namespace: "ns"}}
	for _, n := range names {
		b.Spans = append(b.Spans, telemetry.Span{Name: n})
	}
	return b
}

// counted counts the callbacks of batches.
type counted struct {
	t               testing.TB
	mu              sync.Mutex
	acked, released int
}

func (c *counted) watch(onAcked, onReleased *func()) {
	acked, released := 0, 0
	*onAcked = func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if acked++; acked > 1 || released > 0 {
			c.t.Errorf("acked %d times, after being released %d times", acked, released)
		}
		c.acked++
	}
	*onReleased = func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if released++; released > 1 {
			c.t.Error("released twice")
		}
		c.released++
	}
}

func (c *counted) want(acked, released int) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.acked != acked || c.released != released {
		c.t.Errorf("acked %d, released %d; want %d, %d", c.acked, c.released, acked, released)
	}
}

// rig runs a pipeline inside a synctest bubble.
type rig struct {
	*Pipeline
	t    *testing.T
	reg  *prometheus.Registry
	sink component.Sink
	stop context.CancelFunc
}

func start(t *testing.T, o Options) *rig {
	t.Helper()
	reg := prometheus.NewRegistry()
	o.Registerer = reg
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &rig{Pipeline: p, t: t, reg: reg, sink: p.Sink("test"), stop: stop}
	go func() {
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	synctest.Wait()
	return r
}

func (r *rig) send(b *telemetry.LogBatch) {
	r.t.Helper()
	if err := r.sink.SendLogs(context.Background(), b); err != nil {
		r.t.Fatal(err)
	}
}

// drain ends the pipeline and tells what Drain returned.
func (r *rig) drain(grace time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	err := r.Drain(ctx)
	r.stop()
	return err
}

// value sums a metric over its series whose labels contain want (name, value, ...).
func (r *rig) value(name string, want ...string) float64 {
	r.t.Helper()
	return metric(r.t, r.reg, name, want...)
}

func metric(t testing.TB, reg *prometheus.Registry, name string, want ...string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	series:
		for _, m := range f.GetMetric() {
			has := map[string]string{}
			for _, l := range m.GetLabel() {
				has[l.GetName()] = l.GetValue()
			}
			for i := 0; i < len(want); i += 2 {
				if has[want[i]] != want[i+1] {
					continue series
				}
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

// wantBalance checks that received = sent + dropped + queued + returned + on disk.
func (r *rig) wantBalance(exporter string) {
	r.t.Helper()
	l := []string{"exporter", exporter}
	in := r.value("nodetap_exporter_received_records_total", l...)
	out := 0.0
	for _, m := range []string{
		"nodetap_exporter_sent_records_total", "nodetap_exporter_dropped_records_total",
		"nodetap_exporter_queue_records", "nodetap_exporter_returned_records_total", "nodetap_exporter_spill_records",
	} {
		out += r.value(m, l...)
	}
	if in != out {
		r.t.Errorf("%s: received %v records, accounted for %v", exporter, in, out)
	}
}

func small() QueueConfig {
	c := DefaultQueueConfig()
	c.MaxBytes, c.MaxBatchBytes, c.Flush = 64<<10, 8<<10, 0
	return c
}
