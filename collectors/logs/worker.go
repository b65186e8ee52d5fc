package logs

import (
	"bytes"
	"time"

	"nodetap/agent/telemetry"
)

const (
	// readBytes is what is read at once, and a source's share in one turn: from
	// here on larger reads gain nothing.
	readBytes = 256 << 10
	// lineFraming is added to the longest body for the format around it.
	lineFraming = 64 << 10
	// settleTime is how long a rotated file must be quiet before its successor
	// is read: the runtime may still have had it open.
	settleTime = 100 * time.Millisecond
	// quietTime is how long a source must be quiet for its batch to be sent
	// before it is full.
	quietTime = 200 * time.Millisecond
	// retryTime is how soon a failed read, or an unknown pod, is tried again.
	retryTime = 50 * time.Millisecond
)

// worker reads sources in turn. All it holds between turns are buffers.
type worker struct {
	c   *Collector
	buf []byte
	parser
	tally

	// of the chunk in hand
	data   []byte
	base   int64 // of data in the file
	synced int   // data[:synced] is in the file's off and tail
}

func newWorker(c *Collector) *worker { return &worker{c: c, buf: make([]byte, tailBytes+readBytes)} }

func (w *worker) run() {
	for {
		s := w.c.sched.next()
		if s == nil {
			return
		}
		v := w.turn(s)
		w.c.meters.add(&w.tally)
		w.c.sched.done(s, v)
		if v.starved && !w.c.pool.hungry() {
			w.c.sched.fed() // what came back before done woke nobody
		}
	}
}

// turn reads a source's share.
func (w *worker) turn(s *source) verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if !w.c.settle(s, now) {
		return verdict{after: retryTime}
	}
	if s.excluded {
		return verdict{}
	}
	if s.batch != nil && s.batch.Resource != s.resource {
		w.send(s)
	}
	s.deficit = min(s.deficit, 0) + readBytes
	var v verdict
	read, caughtUp := 0, false
	for !w.c.stopping.Load() {
		if s.deficit <= 0 {
			v.more = true
			break
		}
		f := w.current(s, now)
		if f == nil {
			caughtUp = true
			break
		}
		n, ok, err := w.chunk(s, f, now)
		read += n
		s.deficit -= n
		if err != nil {
			w.c.failed(f, err)
			caughtUp = true
			break
		}
		if !ok {
			v.starved = true
			break
		}
	}
	if read > 0 {
		s.last, s.pause = now, 0
	}
	if s.batch != nil && (now.Sub(s.started) >= w.c.cfg.FlushInterval || v.starved ||
		caughtUp && now.Sub(s.last) >= quietTime) {
		w.send(s)
	}
	if caughtUp {
		v.after = w.c.nextLook(s, now)
	}
	return v
}

// current returns the oldest file with something to read, nil when there is
// none now. It finishes files on its way that will not get more.
func (w *worker) current(s *source, now time.Time) *file {
	for i := 0; i < len(s.files); i++ {
		f := s.files[i]
		if f.fd < 0 {
			continue
		}
		if f.gz != nil {
			return f
		}
		st, err := fstat(f.fd)
		if err != nil {
			w.c.failed(f, err)
			continue
		}
		f.st = st
		if st.size < max(f.off, f.skip, f.eof) {
			w.truncated(s, f)
		}
		if st.size > f.eof {
			return f
		}
		quiet := now.Sub(time.Unix(0, st.mtime))
		if w.c.over(s, f, quiet) {
			if !w.finish(s, f, now) {
				return nil
			}
			continue
		}
		if !s.newest(f) && quiet >= 0 && quiet < settleTime {
			if s.gate.IsZero() {
				s.gate = now
			}
			if now.Sub(s.gate) < time.Second { // not for ever: it may go on being written to
				s.pause = 0
				return nil
			}
		}
	}
	return nil
}

// over tells whether a file at its end, quiet for that long, is done with.
func (c *Collector) over(s *source, f *file, quiet time.Duration) bool {
	switch {
	case f.st.nlink == 0 && s.newest(f) && !s.removed:
		return quiet >= c.cfg.DeletedLinger
	case f.st.nlink == 0, f.name.stamp != "" && !s.newest(f):
		return quiet >= c.cfg.RotatedLinger
	}
	return false
}

// finish takes what stands at a file's end without a newline, and closes it. It
// is false when there was no memory.
func (w *worker) finish(s *source, f *file, now time.Time) bool {
	if f.eof > f.off {
		b, err := w.rest(f)
		if err != nil {
			w.c.failed(f, err)
		}
		w.begin(b, f.off)
		if !w.consume(s, f, b, f.off, f.eof-f.off, now) {
			return false
		}
		w.bytes += int(f.eof - f.off)
		f.tail.push(b)
		if f.long {
			f.tail = f.longTail
		}
		f.off, f.long, f.dirty = f.eof, false, true
	}
	if s.newest(f) && f.st.nlink == 0 { // nothing will continue what was begun
		w.begin(nil, f.off)
		for i := range s.part {
			if s.part[i].active && !w.emit(s, f, &line{stream: telemetry.Stream(i)}, f.off, 0, telemetry.Split, now) {
				return false
			}
		}
	}
	f.closeFile()
	return true
}

// rest returns what stands from f.off to f.eof, as much as a line may have.
func (w *worker) rest(f *file) ([]byte, error) {
	n := min(f.eof-f.off, int64(w.c.cfg.MaxLineBytes)+lineFraming)
	if f.gz != nil && f.long {
		return f.gz.first[:min(n, int64(len(f.gz.first)))], nil
	}
	b := make([]byte, n)
	k, err := w.read(f, b, f.off)
	return b[:k], err
}

// truncated begins a file anew that became shorter, or has other content
// before the position.
func (w *worker) truncated(s *source, f *file) {
	if s.batch != nil && s.from == f {
		w.send(s) // its records are of the generation before
	}
	f.restart()
	w.c.meters.rotations.WithLabelValues("truncate").Inc()
	w.c.lookAgain(s) // a copy may hold what was not read
}

func (w *worker) read(f *file, b []byte, off int64) (int, error) {
	if f.gz != nil {
		return f.gz.readAt(b, off)
	}
	return pread(f.fd, b, off)
}

// begin makes b, which begins at off in the file, the chunk in hand.
func (w *worker) begin(b []byte, off int64) { w.data, w.base, w.synced = b, off, 0 }

// sync moves the file's position to data[at].
func (w *worker) sync(f *file, at int) {
	if at > w.synced {
		f.tail.push(w.data[w.synced:at])
		f.off = w.base + int64(at)
		f.dirty = true
		w.synced = at
	}
}

// chunk reads once and takes all whole lines of it. It returns how many bytes
// that were; ok is false when memory ran out.
func (w *worker) chunk(s *source, f *file, now time.Time) (n int, ok bool, err error) {
	lead := 0
	if f.gz == nil && !f.long {
		lead = f.tail.n // read again, to see that it is the same file still
	} else if f.gz != nil {
		if n, done, err := w.forward(f); !done || err != nil {
			return n, true, err
		}
	}
	if f.long {
		return w.longChunk(s, f, now)
	}
	k, err := w.read(f, w.buf[:lead+readBytes], f.off-int64(lead))
	if err != nil {
		return 0, true, err
	}
	if k < lead || !bytes.Equal(w.buf[:lead], f.tail.b[:lead]) {
		w.truncated(s, f)
		return 0, true, nil
	}
	data := w.buf[lead:k]
	if f.head.n < headBytes && f.gz == nil {
		if err := w.identify(f, data); err != nil {
			return 0, true, err
		}
	}
	w.begin(data, f.off)
	if f.off == 0 {
		f.generation = generationOf(data)
	}
	at := 0
	for {
		i := bytes.IndexByte(data[at:], '\n')
		if i < 0 {
			break
		}
		w.bytes += i + 1
		if !w.consume(s, f, data[at:at+i], w.base+int64(at), int64(i+1), now) {
			w.bytes -= i + 1
			w.sync(f, at)
			f.eof = f.off
			w.keep(f, data[at:])
			return at, false, nil
		}
		at += i + 1
	}
	w.sync(f, at)
	f.eof = w.base + int64(len(data))
	switch {
	case at == 0 && len(data) == readBytes:
		f.long, f.longTail = true, f.tail
		f.longTail.push(data)
		if f.gz != nil {
			f.gz.first = append(f.gz.first[:0], data...)
		}
		return len(data), true, nil
	case f.gz != nil && f.gz.end:
		if f.gz.broken != nil {
			w.c.failed(f, f.gz.broken)
		}
		w.keep(f, data[at:])
		if !w.finish(s, f, now) {
			return at, false, nil
		}
	default:
		w.keep(f, data[at:])
	}
	return at, true, nil
}

func (w *worker) keep(f *file, b []byte) {
	if f.gz != nil {
		f.gz.keep(b)
	}
}

// forward brings a compressed file that is resumed to its position, some of the
// way at a time, and looks whether what stands before it is what was delivered.
func (w *worker) forward(f *file) (n int, done bool, err error) {
	g := f.gz
	if !g.resuming {
		return 0, true, nil
	}
	before := g.pos
	t := int64(f.from.tailLen)
	at := max(f.off, f.skip) - t
	if f.skip > 0 { // parts of an unfinished line come first: nothing to compare yet
		at, t = f.off, 0
	}
	done, err = g.skipTo(at, 8*readBytes)
	n = int(g.pos-before) / 8 // decompressing alone is cheaper than all the rest
	if err != nil || !done && !g.end {
		return n, false, err
	}
	g.resuming = false
	if t > 0 {
		k, err := g.readAt(f.tail.b[:t], at)
		f.tail.n = k
		m := f.mark()
		if err != nil || m.tailHash != f.from.tailHash {
			// another file with the same beginning: all of it is new
			f.tail, f.off, f.eof = tail{}, 0, 0
			return n, false, g.rewind()
		}
	}
	return n, true, nil
}

// identify takes the hash of the file's beginning again while it grows.
func (w *worker) identify(f *file, data []byte) error {
	if f.off > 0 {
		b, err := readHead(f.fd)
		if err != nil {
			return err
		}
		data = b
	}
	f.head = newHead(data)
	return nil
}

// longChunk looks for the end of a line that is longer than the buffer.
func (w *worker) longChunk(s *source, f *file, now time.Time) (n int, ok bool, err error) {
	k, err := w.read(f, w.buf[:readBytes], f.eof)
	if err != nil {
		return 0, true, err
	}
	data := w.buf[:k]
	most := int64(w.c.cfg.MaxLineBytes) + lineFraming
	if g := f.gz; g != nil {
		if room := most - int64(len(g.first)); room > 0 {
			g.first = append(g.first, data[:min(room, int64(k))]...)
		}
	}
	i := bytes.IndexByte(data, '\n')
	if i < 0 {
		f.eof += int64(k)
		f.longTail.push(data)
		if f.gz != nil && f.gz.end {
			return k, w.finish(s, f, now), nil
		}
		return k, true, nil
	}
	total := f.eof + int64(i) - f.off
	var b []byte
	if f.gz != nil {
		b = f.gz.first[:min(total, int64(len(f.gz.first)))]
	} else {
		b = make([]byte, min(total, most))
		m, err := pread(f.fd, b, f.off)
		if err != nil {
			return 0, true, err
		}
		b = b[:m]
	}
	w.begin(nil, f.off)
	if !w.consume(s, f, b, f.off, total+1, now) {
		w.keep(f, data)
		if f.gz != nil { // data is read again
			f.gz.first = f.gz.first[:min(int64(len(f.gz.first)), f.eof-f.off)]
		}
		return 0, false, nil
	}
	w.bytes += int(total + 1)
	f.longTail.push(data[:i+1])
	f.tail = f.longTail
	f.off += total + 1
	f.eof, f.long, f.dirty = f.off, false, true
	w.keep(f, data[i+1:])
	if f.gz != nil {
		f.gz.first = nil
	}
	return k, true, nil
}
