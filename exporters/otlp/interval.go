package otlp

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"nodetap/agent/component"
)

// pointsNow asks every source.
func (e *Exporter) pointsNow() *points {
	g := &points{}
	for _, path := range e.metrics.Paths() {
		g.snapshot(e.metrics.Snapshot(path))
	}
	if e.cfg.Metrics.Self && e.gatherer != nil {
		families, err := e.gatherer.Gather() // what it could gather comes with the error
		if err != nil && e.said[metricsSignal].allow(time.Now()) {
			e.log.Warn("gather the agent's own metrics", "error", err)
		}
		g.snapshot(selfSnapshot(families, e.self, time.Now().UnixNano()))
	}
	return g
}

// request is one encoded metrics request.
type request struct {
	b     *[]byte
	items int
}

func (e *Exporter) metricRequests() (list []request) {
	w := builder{max: int(e.cfg.MaxRequest), envel: e.envelope, send: func(b *[]byte, items int) error {
		list = append(list, request{b, items})
		return nil
	}}
	g := e.pointsNow()
	// the builder's only errors are send's
	_ = w.metrics(g, e.resources)
	_ = w.flush()
	return list
}

// runMetrics sends the metrics at each interval until ctx ends. The first time
// is random within it, so that a thousand nodes do not speak at once.
func (e *Exporter) runMetrics(ctx context.Context) {
	interval := e.cfg.Metrics.Interval
	next := time.Now().Add(rand.N(interval))
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(next)):
		}
		if next = next.Add(interval); time.Until(next) <= 0 { // the agent stood still
			next = time.Now().Add(interval)
		}
		e.exportMetrics(ctx, next)
	}
}

// exportMetrics sends one round. Metrics are state: what could not be sent by
// the next round is superseded by it.
func (e *Exporter) exportMetrics(ctx context.Context, until time.Time) {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	for _, r := range e.metricRequests() {
		reason, err := e.sendMetrics(ctx, r)
		if err == nil {
			continue
		}
		e.m.droppedPoints.WithLabelValues(reason).Add(float64(r.items))
		if e.said[metricsSignal].allow(time.Now()) {
			e.log.Warn("metrics were not delivered", "points", r.items, "reason", reason, "error", err)
		}
	}
}

// sendMetrics repeats a request until it is taken, refused, or superseded.
func (e *Exporter) sendMetrics(ctx context.Context, r request) (reason string, err error) {
	defer putBuffer(r.b)
	wait := time.Second
	for {
		again := getBuffer()
		*again = append(*again, *r.b...)
		if err = e.sendOne(ctx, metricsSignal, again, r.items); err == nil {
			return "", nil
		}
		if p, ok := errors.AsType[*component.Permanent](err); ok {
			return p.Reason, err
		}
		after := wait/2 + rand.N(wait/2)
		if hint, ok := errors.AsType[*component.Retry](err); ok {
			after = max(after, hint.After)
		}
		wait = min(2*wait, 30*time.Second)
		select {
		case <-ctx.Done():
			return "superseded", err
		case <-time.After(after):
		}
	}
}
