package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"nodetap/agent/component"
	"nodetap/agent/telemetry"
)

const (
	// maxHint is the longest that a backend may tell us to stay away.
	maxHint = 5 * time.Minute
	// maxRefusals in a row end the bisection of a call: a backend that refuses
	// everything is not asked about each record.
	maxRefusals = 1024
	// drainWait is the longest wait between two tries while the queue drains.
	drainWait = time.Second
)

// worker makes calls, one at a time.
type worker struct {
	q        *queue
	c        call
	logs     []*telemetry.LogBatch
	spans    []*telemetry.SpanBatch
	done     []*item
	refusals int
}

// run makes calls until the queue is closed. What is in a call when ctx ends
// stays unsettled.
func (w *worker) run(ctx context.Context) {
	for w.q.next(&w.c) {
		w.refusals = 0
		if w.c.bytes > int(w.q.cfg.MaxBatchBytes) && len(w.c.parts) == 1 {
			w.pieces(ctx, w.c.parts[0])
		} else {
			w.try(ctx, w.c.parts)
		}
		w.q.end(&w.c)
	}
}

// pieces delivers one batch that is larger than a call may be, in order.
func (w *worker) pieces(ctx context.Context, p part) {
	for i := p.i; i < p.j && ctx.Err() == nil; {
		j, size := i, 0
		for j < p.j && (j == i || size < int(w.q.cfg.MaxBatchBytes)) {
			size += p.it.weigh(j, j+1)
			j++
		}
		if j-i > 1 && size > int(w.q.cfg.MaxBatchBytes) {
			j--
		}
		w.try(ctx, []part{{p.it, i, j}})
		i = j
	}
}

// try delivers the parts, however often that takes, or gives them up.
func (w *worker) try(ctx context.Context, parts []part) {
	q := w.q
	for attempt := 0; ; attempt++ {
		err := w.export(ctx, parts)
		if err == nil {
			w.refusals = 0
			q.health.ok(q.logger)
			q.m.sent(parts)
			w.done = q.settle(parts, w.done)
			return
		}
		if ctx.Err() != nil {
			return
		}
		if perm, ok := errors.AsType[*component.Permanent](err); ok {
			q.m.permanent.Inc()
			w.refuse(ctx, parts, perm)
			return
		}
		q.m.retry.Inc()
		q.health.failed(q.logger, err)
		wait := q.backoff(attempt, err)
		if !q.sleep(ctx, wait) {
			return
		}
	}
}

// refuse halves what was refused for good, until only what is bad is dropped.
func (w *worker) refuse(ctx context.Context, parts []part, perm *component.Permanent) {
	w.refusals++
	n := 0
	for _, p := range parts {
		n += p.j - p.i
	}
	if perm.Bisect && n > 1 && w.refusals < maxRefusals {
		left, right := halve(parts, n/2)
		w.try(ctx, left)
		if ctx.Err() == nil {
			w.try(ctx, right)
		}
		return
	}
	reason := perm.Reason
	if reason == "" {
		reason = "rejected"
	}
	w.q.m.drop(reason, n)
	w.q.health.refused(w.q.logger, perm, reason, n)
	w.done = w.q.settle(parts, w.done)
}

// halve splits parts behind their first n records.
func halve(parts []part, n int) (left, right []part) {
	for k, p := range parts {
		if have := p.j - p.i; have < n {
			n -= have
			continue
		}
		at := p.i + n
		left = append(append(left, parts[:k]...), part{p.it, p.i, at})
		if at < p.j {
			right = append(right, part{p.it, at, p.j})
		}
		return left, append(right, parts[k+1:]...)
	}
	return parts, nil
}

// export makes one call. A panic of the exporter refuses what it was given.
func (w *worker) export(ctx context.Context, parts []part) (err error) {
	ctx, cancel := context.WithTimeout(ctx, w.q.cfg.Timeout)
	defer cancel()
	defer func() {
		if r := recover(); r != nil {
			w.q.logger.Error("exporter panicked", "panic", r, "stack", string(debug.Stack()))
			err = &component.Permanent{Err: fmt.Errorf("panic: %v", r), Reason: "panic", Bisect: true}
		}
	}()
	if w.q.signal == signalLogs {
		w.logs = w.logs[:0]
		for _, p := range parts {
			w.logs = append(w.logs, p.log())
		}
		err = w.q.logs.ExportLogs(ctx, w.logs)
		clear(w.logs)
		return err
	}
	w.spans = w.spans[:0]
	for _, p := range parts {
		w.spans = append(w.spans, p.span())
	}
	err = w.q.spans.ExportSpans(ctx, w.spans)
	clear(w.spans)
	return err
}

// backoff returns how long to wait after the attempt (from 0) failed: random
// between 0 and a limit that doubles ("full jitter"), on top of what the backend
// asked for.
func (q *queue) backoff(attempt int, err error) time.Duration {
	limit := q.cfg.Retry.Max
	if attempt < 32 {
		if d := q.cfg.Retry.Initial << attempt; d > 0 && d < limit {
			limit = d
		}
	}
	var r *component.Retry
	if errors.As(err, &r) && r.After > 0 {
		return min(r.After, maxHint) + rand.N(q.cfg.Retry.Initial)
	}
	return rand.N(limit)
}

// sleep waits, less when the queue drains. It tells whether ctx goes on.
func (q *queue) sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	case <-q.draining:
	}
	t.Reset(min(d, drainWait))
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// health logs when an exporter begins to fail, that it still does once a
// minute, and when it works again.
type health struct {
	mu      sync.Mutex
	bad     bool
	since   time.Time
	logged  time.Time
	refusal time.Time
	spilled time.Time
	fails   int
}

func (h *health) ok(l *slog.Logger) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.bad {
		return
	}
	h.bad = false
	l.Info("export works again", "failed_for", time.Since(h.since).Round(time.Millisecond), "failures", h.fails)
}

func (h *health) failed(l *slog.Logger, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if !h.bad {
		h.bad, h.since, h.fails = true, now, 0
	}
	if h.fails++; now.Sub(h.logged) >= time.Minute {
		h.logged = now
		l.Warn("export failed and will be tried again", "failures", h.fails, "error", err)
	}
}

func (h *health) refused(l *slog.Logger, err error, reason string, records int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now := time.Now(); now.Sub(h.refusal) >= time.Minute {
		h.refusal = now
		l.Warn("backend refused records, which are dropped", "reason", reason, "records", records, "error", err)
	}
}
