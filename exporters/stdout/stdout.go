// Package stdout writes telemetry as newline JSON to standard output, for a
// person at a terminal: one object per log record, per span and, at an interval,
// per metric series.
//
// It is not a transport: nothing reads back whether a line was understood. A
// write that succeeded counts as delivered. What the terminal holds up (Ctrl-S,
// a full pipe) holds up the pipeline's queue of this exporter and nothing else.
//
// Invariants: every line is one valid JSON object in valid UTF-8, whatever the
// containers wrote. Lines of concurrent calls never mix. Nothing is allocated
// per record.
package stdout

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"nodetap/agent/component"
	"nodetap/agent/metrics"
	"nodetap/agent/telemetry"
)

// Config is the section `stdout` of the exporters.
type Config struct {
	Resource string  `yaml:"resource" doc:"How much each line says of where it comes from: short (service, namespace, pod, uid, container, workload, node), full (every attribute that OTLP would carry), none."`
	Metrics  Metrics `yaml:"metrics"`
}

// Metrics says which metrics are written.
type Metrics struct {
	Interval time.Duration `yaml:"interval" doc:"How often the metrics are written. 0: never."`
	Include  []string      `yaml:"include" doc:"Names of the metric families to write, with * for any part of a name; an empty list writes none, [\"*\"] all of them."`
}

// Default returns what an empty section means.
func Default() Config {
	return Config{
		Resource: "short",
		Metrics: Metrics{Interval: 15 * time.Second, Include: []string{
			"container_cpu_usage_seconds_total", "container_memory_working_set_bytes",
			"http_server_request_duration_seconds", "http_client_request_duration_seconds",
		}},
	}
}

// Validate reports every key that cannot be used.
func (c *Config) Validate() error {
	var errs []error
	switch c.Resource {
	case "short", "full", "none":
	default:
		errs = append(errs, &component.FieldError{Key: "resource", Msg: fmt.Sprintf("%q is not short, full or none", c.Resource)})
	}
	if c.Metrics.Interval < 0 {
		errs = append(errs, &component.FieldError{Key: "metrics.interval", Msg: "must not be negative; 0 writes no metrics"})
	}
	for i, p := range c.Metrics.Include {
		if _, err := path.Match(p, ""); err != nil {
			errs = append(errs, &component.FieldError{Key: fmt.Sprintf("metrics.include[%d]", i), Msg: fmt.Sprintf("%q is no pattern: %v", p, err)})
		}
	}
	return errors.Join(errs...)
}

// Exporter writes lines. Make it with New.
type Exporter struct {
	cfg       Config
	metrics   *metrics.Registry
	resources *component.ResourceCache[[]byte]
	bytes     prometheus.Counter
	lines     *prometheus.CounterVec

	out    io.Writer
	turn   chan struct{} // holds one token: the right to write
	broken bool          // the last write ended inside a line
	pool   sync.Pool     // *[]byte
}

var (
	_ component.LogExporter  = (*Exporter)(nil)
	_ component.SpanExporter = (*Exporter)(nil)
)

// New returns an exporter to standard output.
func New(env component.Env, cfg Config) (*Exporter, error) {
	return newExporter(env, cfg, os.Stdout), nil
}

func newExporter(env component.Env, cfg Config, out io.Writer) *Exporter {
	e := &Exporter{
		cfg: cfg, metrics: env.Metrics, out: out, turn: make(chan struct{}, 1),
		bytes: component.Register(env.Registerer, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nodetap_stdout_written_bytes_total", Help: "Bytes written to standard output."})),
		lines: component.Register(env.Registerer, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nodetap_stdout_written_lines_total", Help: "Lines written to standard output."}, []string{"signal"})),
	}
	e.resources = component.NewResourceCache(0, e.renderResource)
	return e
}

func (e *Exporter) renderResource(r *telemetry.Resource) []byte {
	var attrs []telemetry.Attr
	switch e.cfg.Resource {
	case "short":
		attrs = r.AppendIdentity(nil)
	case "full":
		attrs = r.AppendAttrs(nil)
	}
	if len(attrs) == 0 {
		return nil
	}
	return appendAttrs([]byte(`,"resource":`), attrs)
}

// Run writes the metrics at their interval until ctx ends.
func (e *Exporter) Run(ctx context.Context) error {
	if e.cfg.Metrics.Interval <= 0 || len(e.cfg.Metrics.Include) == 0 {
		<-ctx.Done()
		return nil
	}
	t := time.NewTicker(e.cfg.Metrics.Interval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			// a failed write shows in the next export of logs; the next interval
			// supersedes these values in any case
			_ = e.writeMetrics(ctx)
		}
	}
}

// ExportLogs writes one line per record.
func (e *Exporter) ExportLogs(ctx context.Context, batches []*telemetry.LogBatch) error {
	b, n := e.buffer(), 0
	for _, batch := range batches {
		res := e.resources.Get(batch.Resource)
		for i := range batch.Records {
			*b = appendLog(*b, batch, i, res)
		}
		n += len(batch.Records)
	}
	return e.write(ctx, b, "log", n)
}

// ExportSpans writes one line per span.
func (e *Exporter) ExportSpans(ctx context.Context, batches []*telemetry.SpanBatch) error {
	b, n := e.buffer(), 0
	for _, batch := range batches {
		res := e.resources.Get(batch.Resource)
		for i := range batch.Spans {
			*b = appendSpan(*b, &batch.Spans[i], res)
		}
		n += len(batch.Spans)
	}
	return e.write(ctx, b, "span", n)
}

func (e *Exporter) writeMetrics(ctx context.Context) error {
	b, n := e.buffer(), 0
	for _, p := range e.metrics.Paths() {
		snap := e.metrics.Snapshot(p)
		for i := range snap.Families {
			f := &snap.Families[i]
			if !e.included(f.Desc.Name) {
				continue
			}
			for j := range f.Series {
				*b = appendSeries(*b, snap.Time, f.Desc, &f.Series[j], e.resources.Get(f.Series[j].Resource))
			}
			n += len(f.Series)
		}
	}
	return e.write(ctx, b, "metric", n)
}

func (e *Exporter) included(name string) bool {
	for _, p := range e.cfg.Metrics.Include {
		if ok, _ := path.Match(p, name); ok {
			return true
		}
	}
	return false
}

func (e *Exporter) buffer() *[]byte {
	if b, ok := e.pool.Get().(*[]byte); ok {
		*b = (*b)[:0]
		return b
	}
	b := make([]byte, 0, 16<<10)
	return &b
}

// write writes the lines in one go and gives the buffer back.
func (e *Exporter) write(ctx context.Context, b *[]byte, signal string, lines int) error {
	defer func() {
		if cap(*b) <= 4<<20 {
			e.pool.Put(b)
		}
	}()
	if len(*b) == 0 {
		return nil
	}
	select {
	case e.turn <- struct{}{}:
		defer func() { <-e.turn }()
	case <-ctx.Done():
		return &component.Retry{Err: ctx.Err()}
	}
	if e.broken {
		if _, err := e.out.Write([]byte{'\n'}); err != nil {
			return &component.Retry{Err: fmt.Errorf("write to standard output: %w", err)}
		}
		e.broken = false
	}
	n, err := e.out.Write(*b)
	e.bytes.Add(float64(n))
	if err != nil {
		e.broken = n > 0 && (*b)[n-1] != '\n'
		return &component.Retry{Err: fmt.Errorf("write to standard output: %w", err)}
	}
	e.lines.WithLabelValues(signal).Add(float64(lines))
	return nil
}
