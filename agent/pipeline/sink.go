package pipeline

import (
	"context"
	"math/bits"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"nodetap/agent/component"
	"nodetap/agent/telemetry"
)

// detachCheck is how often a sender that waits looks whether the queue in its
// way can be detached.
const detachCheck = 250 * time.Millisecond

// sink is what one collector sends to.
type sink struct {
	p       *Pipeline
	name    string
	records [signals]prometheus.Counter
	bytes   [signals]prometheus.Counter
}

// Sink returns the sink of a collector; its name is a label of the metrics.
func (p *Pipeline) Sink(collector string) component.Sink {
	s := &sink{p: p, name: collector}
	for sig := range signals {
		s.records[sig] = p.in.received.WithLabelValues(collector, sig.String())
		s.bytes[sig] = p.in.receivedBytes.WithLabelValues(collector, sig.String())
		p.in.unrouted.WithLabelValues(collector, sig.String(), "no_route")
	}
	return s
}

// WantsLogs implements component.Sink.
func (s *sink) WantsLogs() bool { return s.p.routers[signalLogs].reach != 0 }

// WantsSpans implements component.Sink.
func (s *sink) WantsSpans() bool { return s.p.routers[signalTraces].reach != 0 }

// SendLogs implements component.Sink. It waits while the queue of a required
// exporter of the batch's route is full.
func (s *sink) SendLogs(ctx context.Context, b *telemetry.LogBatch) error {
	it := item{logs: b, records: len(b.Records), bytes: b.Bytes(), came: time.Now()}
	it.body = bodies(b, 0, it.records)
	it.oldest = it.came.UnixNano()
	if len(b.Records) > 0 && b.Records[0].Observed > 0 {
		it.oldest = min(it.oldest, b.Records[0].Observed)
	}
	return s.send(ctx, signalLogs, it, b.Resource, b.OnAcked, b.OnReleased)
}

// SendSpans implements component.Sink. It never waits.
func (s *sink) SendSpans(ctx context.Context, b *telemetry.SpanBatch) error {
	it := item{spans: b, records: len(b.Spans), bytes: b.Bytes(), came: time.Now()}
	it.body = it.bytes
	it.oldest = it.came.UnixNano()
	return s.send(ctx, signalTraces, it, b.Resource, b.OnAcked, b.OnReleased)
}

// delivery is a batch on its way: one allocation for the usual case of one or
// two exporters.
type delivery struct {
	ticket ticket
	items  [2]item
}

func (s *sink) send(ctx context.Context, sig signal, it item, res *telemetry.Resource, onAcked, onReleased func()) error {
	p := s.p
	p.intake.RLock()
	defer p.intake.RUnlock()
	if p.stopped {
		return ErrStopped
	}
	to := p.routers[sig].route(res)
	if err := p.admit(ctx, sig, to, it.bytes); err != nil {
		return err
	}
	s.records[sig].Add(float64(it.records))
	s.bytes[sig].Add(float64(it.body))
	if to == 0 || it.records == 0 {
		if it.records > 0 {
			reason := "no_route"
			if p.routers[sig].reach == 0 {
				reason = "no_exporter"
			}
			p.in.unrouted.WithLabelValues(s.name, sig.String(), reason).Add(float64(it.records))
		}
		if onAcked != nil {
			onAcked()
		}
		if onReleased != nil {
			onReleased()
		}
		return nil
	}

	counting := to & p.required
	if counting == 0 {
		counting = to
	}
	d := &delivery{}
	d.ticket.onAcked, d.ticket.onReleased = onAcked, onReleased
	d.ticket.unacked.Store(int32(bits.OnesCount64(uint64(counting))))
	d.ticket.unreleased.Store(int32(bits.OnesCount64(uint64(to))))
	items := d.items[:]
	if n := bits.OnesCount64(uint64(to)); n > len(items) {
		items = make([]item, n)
	}
	it.left, it.ticket = it.records, &d.ticket
	for k, rest := 0, to; rest != 0; k, rest = k+1, rest&(rest-1) {
		i := bits.TrailingZeros64(uint64(rest))
		q, one := p.queues[sig][i], &items[k]
		*one = it
		one.counts = counting&(1<<i) != 0
		q.m.taken.Add(float64(it.records))
		if q.waits() {
			q.push(one)
		} else {
			q.pushOrDrop(one)
		}
	}
	return nil
}

// admit reserves room for a batch in every queue that its sender waits for, in
// all of them at once: what waits for one queue must not fill another.
func (p *Pipeline) admit(ctx context.Context, sig signal, to set, bytes int) error {
	if sig != signalLogs || to&p.required == 0 {
		return nil
	}
	full, room := p.reserve(to&p.required, bytes)
	if full == nil {
		return nil
	}
	tick := time.NewTicker(detachCheck)
	defer tick.Stop()
	for {
		for rest := to & p.required; rest != 0; rest &= rest - 1 {
			p.considerDetach(p.queues[sig][bits.TrailingZeros64(uint64(rest))])
		}
		select {
		case <-room:
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-p.stopping:
			return ErrStopped
		}
		if full, room = p.reserve(to&p.required, bytes); full == nil {
			return nil
		}
	}
}

// reserve takes room in all queues or in none. It returns the first that is
// full, and what to wait for.
func (p *Pipeline) reserve(to set, bytes int) (*queue, <-chan struct{}) {
	now := time.Now()
	var full *queue
	var room <-chan struct{}
	taken := set(0)
	for rest := to; rest != 0; rest &= rest - 1 {
		i := bits.TrailingZeros64(uint64(rest))
		q := p.queues[signalLogs][i]
		// the others are asked too when one is full, so that each knows since when
		// it is
		if wait := q.reserve(bytes, now); wait == nil {
			taken |= 1 << i
		} else if full == nil {
			full, room = q, wait
		}
	}
	if full != nil {
		for ; taken != 0; taken &= taken - 1 {
			p.queues[signalLogs][bits.TrailingZeros64(uint64(taken))].unreserve(bytes)
		}
	}
	return full, room
}
