package forward

import (
	"context"
	"errors"
	"fmt"

	"nodetap/agent/component"
	"nodetap/agent/telemetry"
)

// ExportLogs sends the batches as chunks and returns nil when the receiver has
// acknowledged all of them. When some were and the call fails, repeating it
// sends the others alone.
func (e *Exporter) ExportLogs(ctx context.Context, batches []*telemetry.LogBatch) error {
	c, err := e.acquire(ctx)
	if err != nil {
		return err
	}
	defer c.leave()
	call := call{e: e, c: c}
	for _, b := range batches {
		call.records += len(b.Records)
	}
	p := e.getPacker()
	err = p.pack(batches, func(ch chunk) error { return call.send(ctx, ch) })
	p.free()
	return call.wait(ctx, err)
}

var errRefused = errors.New("connection lost, or no acknowledgement")

// call is what one ExportLogs has sent.
type call struct {
	e       *Exporter
	c       *conn
	pending []*pending
	skipped []chunkKey
	records int // of all the call, sent or not
}

func (l *call) send(ctx context.Context, ch chunk) error {
	defer putFrame(ch.frame)
	if p := l.c.adopt(ch.key); p != nil {
		l.pending = append(l.pending, p)
		return nil
	}
	fate := l.e.fates.get(ch.key)
	if fate.acked {
		l.skipped = append(l.skipped, ch.key)
		l.e.m.skipped.Inc()
		return nil
	}
	if v := l.verdict(ch.key, fate, errRefused); v != nil {
		return v
	}
	l.e.m.chunks.Inc()
	l.e.m.rawBytes.Add(float64(ch.raw))
	p, err := l.c.send(ctx, ch, fate.suspect)
	if p != nil {
		l.pending = append(l.pending, p)
	}
	return err
}

// wait waits for every chunk's result. sendErr is why not all were sent.
func (l *call) wait(ctx context.Context, sendErr error) error {
	var acked []chunkKey
	err := sendErr
	verdict, _ := errors.AsType[*component.Permanent](sendErr)
	for _, p := range l.pending {
		var result error
		select {
		case result = <-p.result:
		case <-ctx.Done():
			if l.c.abandon(p) {
				result = ctx.Err()
			} else {
				result = <-p.result
			}
		}
		if result == nil {
			acked = append(acked, p.key)
			continue
		}
		if fate, accused := l.e.accuse(p, result); accused {
			if v := l.verdict(p.key, fate, result); v != nil {
				verdict = v
			}
		}
		if err == nil {
			err = result
		}
	}
	if err == nil {
		for _, keys := range [][]chunkKey{acked, l.skipped} {
			for _, k := range keys {
				l.e.fates.forget(k)
			}
		}
		return nil
	}
	for _, k := range acked {
		l.e.fates.update(k, func(f *fate) { *f = fate{acked: true} })
	}
	if verdict != nil {
		return verdict
	}
	return &component.Retry{Err: err}
}

// accuse remembers that a chunk failed. A lost connection and a missing ack
// accuse every chunk in flight, but only one that was alone on the wire is
// counted.
func (e *Exporter) accuse(p *pending, result error) (f fate, accused bool) {
	var lost *lostError
	if !errors.As(result, &lost) && !errors.Is(result, errAckTimeout) ||
		errors.Is(result, errClosed) || errors.Is(result, errOneCall) {
		return fate{}, false
	}
	acks := e.m.acked.Load()
	return e.fates.update(p.key, func(f *fate) {
		if !f.suspect {
			f.suspect, f.acksAt = true, acks
		}
		if p.alone {
			f.resets++
		}
	}), true
}

// late takes the result of a chunk that its call did not wait for.
func (e *Exporter) late(p *pending, result error) {
	if result == nil {
		e.fates.update(p.key, func(f *fate) { *f = fate{acked: true} })
		return
	}
	e.accuse(p, result)
}

// verdict gives a chunk up that failed alone too often; nil otherwise. A call of
// one record, which would be lost, needs proof that the receiver takes others:
// one that refuses everything (a full buffer, a load balancer without a backend)
// is not a reason to lose data.
func (l *call) verdict(key chunkKey, f fate, cause error) *component.Permanent {
	if f.resets < l.e.cfg.MaxResets || l.records == 1 && l.e.m.acked.Load() == f.acksAt {
		return nil
	}
	l.e.fates.forget(key)
	return &component.Permanent{
		Err:    fmt.Errorf("the receiver refused a chunk of %d records %d times: %w", key.records, f.resets, cause),
		Reason: "rejected", Bisect: true,
	}
}
