package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"nodetap/agent/component"
)

// Instance is one configured exporter.
type Instance struct {
	Name     string // "otlp/payments"
	Exporter component.Exporter
	Queue    QueueConfig // the zero value: DefaultQueueConfig
	Required bool        // as ExporterConfig.Required
}

// Options are what a pipeline is made of.
type Options struct {
	Exporters  []Instance
	Routes     Routes
	Registerer prometheus.Registerer // for the metrics about itself; nil: none
	Logger     *slog.Logger          // nil: silent
	// StateDir is where logs of detached exporters are kept. "": no exporter is
	// ever detached.
	StateDir string
}

// Pipeline carries batches to exporters. Make one with New, run it with Run.
type Pipeline struct {
	logger  *slog.Logger
	in      *instruments
	routers [signals]router
	// queues by signal and index of the exporter, nil where it does not take the
	// signal or no route leads there
	queues [signals][]*queue
	all    []*queue
	// counting are the exporters that decide acks of a route that has some
	required set

	intake   sync.RWMutex // held for reading by whoever sends
	stopped  bool
	stopping chan struct{}
	stopOnce sync.Once

	run  sync.Mutex
	ran  bool
	end  context.CancelFunc // of the calls; nil before Run
	over chan struct{}      // closed when Run is done
}

// ErrStopped is what a Sink returns once the pipeline drains or has stopped.
var ErrStopped = errors.New("pipeline: stopped")

// New builds the queues and routes. Errors of the configuration are joined
// *component.FieldError values.
func New(o Options) (*Pipeline, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	if err := check(o); err != nil {
		return nil, err
	}
	p := &Pipeline{logger: o.Logger, stopping: make(chan struct{}), over: make(chan struct{})}
	var err error
	if p.in, err = newInstruments(o.Registerer); err != nil {
		return nil, fmt.Errorf("register the pipeline's metrics: %w", err)
	}
	names := make([]string, len(o.Exporters))
	var takes [signals]set
	for i, e := range o.Exporters {
		names[i] = e.Name
		if _, ok := e.Exporter.(component.LogExporter); ok {
			takes[signalLogs] |= 1 << i
		}
		if _, ok := e.Exporter.(component.SpanExporter); ok {
			takes[signalTraces] |= 1 << i
		}
		if e.Required {
			p.required |= 1 << i
		}
	}
	for s := range signals {
		p.routers[s] = newRouter(o.Routes, names, s, takes[s])
		p.queues[s] = make([]*queue, len(o.Exporters))
		for i, e := range o.Exporters {
			if p.routers[s].reach&(1<<i) == 0 {
				continue
			}
			p.queues[s][i] = p.newQueue(o, e, s)
			p.all = append(p.all, p.queues[s][i])
		}
	}
	p.openSpills(o)
	if err := o.Registerer.Register(&gauges{queues: p.all}); err != nil {
		return nil, fmt.Errorf("register the pipeline's metrics: %w", err)
	}
	return p, nil
}

func (p *Pipeline) newQueue(o Options, e Instance, s signal) *queue {
	q := newQueue()
	q.name, q.signal, q.required = e.Name, s, e.Required
	if q.cfg = e.Queue; q.cfg == (QueueConfig{}) {
		q.cfg = DefaultQueueConfig()
	}
	q.logs, _ = e.Exporter.(component.LogExporter)
	q.spans, _ = e.Exporter.(component.SpanExporter)
	q.logger = o.Logger.With("exporter", e.Name, "signal", s.String())
	q.m = p.in.queue(e.Name, s)
	return q
}

func check(o Options) error {
	var errs []error
	if len(o.Exporters) > maxExporters {
		errs = append(errs, fmt.Errorf("%d exporters: at most %d are possible", len(o.Exporters), maxExporters))
	}
	names := make([]string, 0, len(o.Exporters))
	seen := map[string]bool{}
	for _, e := range o.Exporters {
		if seen[e.Name] {
			errs = append(errs, fmt.Errorf("two exporters are named %q", e.Name))
		}
		seen[e.Name] = true
		names = append(names, e.Name)
		if e.Queue != (QueueConfig{}) {
			if err := e.Queue.Validate(); err != nil {
				errs = append(errs, fmt.Errorf("exporter %q: %w", e.Name, err))
			}
		}
	}
	return errors.Join(append(errs, o.Routes.Validate(), o.Routes.Check(names))...)
}

// Run delivers until Drain has ended or ctx ends; in the latter case what is
// undelivered is released without being acknowledged. It blocks, can be called
// once, and its ctx must outlive Drain for there to be any draining.
func (p *Pipeline) Run(ctx context.Context) error {
	p.run.Lock()
	if p.ran {
		p.run.Unlock()
		return errors.New("pipeline: run twice")
	}
	p.ran = true
	ctx, p.end = context.WithCancel(ctx)
	p.run.Unlock()
	defer p.end()
	defer close(p.over)

	var wg sync.WaitGroup
	for _, q := range p.all {
		for range q.cfg.Window {
			wg.Go(func() { (&worker{q: q}).run(ctx) })
		}
		if q.detach.log != nil {
			wg.Go(func() { (&spiller{p, q}).run(ctx) })
		}
	}
	<-ctx.Done()
	p.close()
	for _, q := range p.all {
		q.close()
	}
	wg.Wait()
	for _, q := range p.all {
		q.abandon()
		q.closeSpill()
	}
	return nil
}

// Drain is for after the collectors have stopped. It takes nothing more,
// delivers what is queued until ctx ends, releases what is then left without
// acknowledging it, and ends Run. It returns ctx's error if something was left.
func (p *Pipeline) Drain(ctx context.Context) error {
	p.close()
	var err error
	p.run.Lock()
	running := p.ran
	p.ran = true // none may run after it
	p.run.Unlock()
	for _, q := range p.all {
		q.drain()
	}
	for _, q := range p.all {
		if !running {
			q.close()
			q.abandon()
			q.closeSpill()
			continue
		}
		select {
		case <-q.drained:
		case <-p.over:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if running {
		p.end()
		<-p.over
	}
	return err
}

// close lets nothing more in, and waits until nobody is in a send.
func (p *Pipeline) close() {
	p.stopOnce.Do(func() {
		close(p.stopping)
		p.intake.Lock()
		p.stopped = true
		p.intake.Unlock()
	})
}
