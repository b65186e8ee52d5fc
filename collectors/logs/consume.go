package logs

import (
	"context"
	"time"

	"nodetap/agent/telemetry"
)

// consume takes one line of a file: length bytes from pos on, of which raw are
// at hand (less than length-1 when the line is too long). It is false, and
// nothing has changed, when memory ran out.
func (w *worker) consume(s *source, f *file, raw []byte, pos, length int64, now time.Time) bool {
	nul := 0
	for nul < len(raw) && raw[nul] == 0 {
		nul++ // what a crash of the node leaves, or a writer behind a truncation
	}
	var l line
	known := w.parse(raw[nul:], &l)
	if pos < f.skip {
		if p := f.pend[l.stream]; p < 0 || pos < p {
			return true
		}
	}
	if nul > 0 && nul == len(raw) {
		w.nul += nul
		return true
	}
	if l.partial {
		if f.pend[l.stream] < 0 {
			f.pend[l.stream] = pos
			f.dirty = true
		}
		w.hold(&s.part[l.stream], &l)
		w.nul += nul
		return true
	}
	var flags telemetry.LogFlags
	if int64(len(raw)) < length-1 {
		flags = telemetry.Truncated
	}
	if !w.emit(s, f, &l, pos, length, flags, now) {
		return false
	}
	w.nul += nul
	if !known {
		w.malformed++
	}
	return true
}

// hold keeps a part of a line until its end comes.
func (w *worker) hold(p *part, l *line) {
	if !p.active {
		p.active, p.cut, p.time, p.buf = true, false, l.time, p.buf[:0]
	}
	if p.cut {
		return
	}
	room := min(int64(w.c.cfg.MaxLineBytes)-int64(len(p.buf)), int64(w.c.cfg.MaxPartialBytes)-w.c.partial.Load())
	n := max(0, min(room, int64(len(l.body))))
	p.cut = n < int64(len(l.body))
	p.buf = append(p.buf, l.body[:n]...)
	w.c.partial.Add(n)
}

// emit appends a record to the source's batch: what is held of its stream, and
// l. A record that was joined has the time of its first part, begins where the
// first part in this file does, and reaches to its last one: whatever other
// stream's lines stand between. That is the same whenever it is read, whether
// the parts before lie in the file or its predecessor.
func (w *worker) emit(s *source, f *file, l *line, pos, length int64, flags telemetry.LogFlags, now time.Time) bool {
	p := &s.part[l.stream]
	held := 0
	if p.active {
		held = len(p.buf)
	}
	body := l.body
	if over := held + len(body) - int(w.c.cfg.MaxLineBytes); over > 0 {
		body = body[:len(body)-min(over, len(body))]
		flags |= telemetry.Truncated
	}
	if !w.room(s, f, held+len(body), int(pos-w.base), now) {
		return false
	}
	r := telemetry.LogRecord{Time: l.time, Observed: now.UnixNano(), Pos: pos, Stream: l.stream, Flags: flags}
	b := s.batch
	off := len(b.Arena)
	if p.active {
		w.joined++
		r.Flags |= telemetry.Joined
		r.Time = p.time
		if p.cut {
			r.Flags |= telemetry.Truncated
		}
		b.Arena = append(b.Arena, p.buf...)
		w.c.partial.Add(-int64(held))
		p.active, p.cut = false, false
		if cap(p.buf) > 64<<10 {
			p.buf = nil
		}
		if q := f.pend[l.stream]; q >= 0 {
			r.Pos = q
		}
		for _, g := range s.files {
			if g.pend[l.stream] >= 0 {
				g.pend[l.stream] = -1
				g.dirty = true
			}
		}
	}
	r.Len = uint32(min(pos+length-r.Pos, 1<<32-1))
	b.Arena = append(b.Arena, body...)
	b.AppendInPlace(r, off)
	w.records++
	if r.Flags&telemetry.Truncated != 0 {
		w.truncatedLines++
	}
	return true
}

// room makes sure that the batch takes another record of f with n bytes. It may
// send the batch, with f's position at data[at].
func (w *worker) room(s *source, f *file, n, at int, now time.Time) bool {
	if b := s.batch; b != nil {
		if s.from == f {
			if len(b.Records) < cap(b.Records) && len(b.Arena)+n <= cap(b.Arena) {
				return true
			}
			if w.grow(s, n) {
				return true
			}
		}
		w.sync(f, at)
		w.send(s)
	}
	want := max(n, min(len(w.data)-max(at, 0), int(w.c.cfg.BatchBytes)))
	buf := w.c.pool.get(want)
	if buf == nil && want > n {
		buf = w.c.pool.get(n)
	}
	if buf == nil {
		return false
	}
	s.buf, s.from, s.started = buf, f, now
	s.batch = &telemetry.LogBatch{
		Resource: s.resource,
		Source:   telemetry.LogSource{Path: s.path, Restart: s.key.restart, Generation: f.generation},
		Arena:    buf.arena,
		Records:  buf.records,
	}
	return true
}

// grow moves the batch to the next larger buffer.
func (w *worker) grow(s *source, n int) bool {
	p := w.c.pool
	if s.buf.class < 0 || s.buf.class+1 >= len(p.classes) || len(s.batch.Arena)+n > p.classes[len(p.classes)-1] {
		return false
	}
	buf := p.get(max(p.classes[s.buf.class+1], len(s.batch.Arena)+n))
	if buf == nil {
		return false
	}
	s.batch.Arena = append(buf.arena, s.batch.Arena...)
	s.batch.Records = append(buf.records, s.batch.Records...)
	p.put(s.buf)
	s.buf = buf
	return true
}

// send hands the batch over, which may block for as long as the pipeline's
// queues are full. The source's mutex is let go meanwhile, so that its
// directory can be followed.
func (w *worker) send(s *source) {
	b, buf := s.batch, s.buf
	s.batch, s.buf, s.from = nil, nil, nil
	buf.arena, buf.records = b.Arena, b.Records
	n := s.acks.push(s.snapshot())
	c := w.c
	b.OnAcked = func() {
		if s.acks.ack(n) {
			c.noteLater(s)
		}
	}
	b.OnReleased = func() {
		c.pool.put(buf)
		c.taken.Add(-1)
	}
	c.taken.Add(1)
	s.mu.Unlock()
	defer s.mu.Lock()
	for {
		err := c.out.SendLogs(c.sendCtx, b)
		if err == nil {
			return
		}
		if c.stopping.Load() || c.sendCtx.Err() != nil {
			b.OnReleased() // not acknowledged: it is read again after the start
			return
		}
		c.log.Warn("pipeline refused a batch", "error", err)
		sleep(c.sendCtx, time.Second)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
