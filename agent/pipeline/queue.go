package pipeline

import (
	"log/slog"
	"sync"
	"time"

	"nodetap/agent/component"
	"nodetap/agent/telemetry"
)

// queue is what waits for one exporter, of one signal.
type queue struct {
	name     string
	signal   signal
	cfg      QueueConfig
	required bool // logs only: senders wait, nothing is dropped when it is full
	logs     component.LogExporter
	spans    component.SpanExporter
	logger   *slog.Logger
	m        queueMetrics
	health   health

	mu       sync.Mutex
	work     *sync.Cond    // a call may be ready, or the queue was closed
	room     chan struct{} // closed when there is room again; nil while nobody waits
	drained  chan struct{} // closed when nothing is left, once draining
	draining chan struct{} // closed when the queue drains
	isDrain  bool
	closed   bool

	lanes      map[laneKey]*lane
	readyHead  *lane // lanes with items and without a call
	readyTail  *lane
	readyBytes int
	flushAt    time.Time   // when what is ready leaves at the latest
	timer      *time.Timer // wakes a worker at flushAt
	armedAt    time.Time   // when the timer rings; zero: it is not armed

	waiting, flying, staged list // in lanes; in calls; on their way to disk
	calls                   int
	records                 int
	own, loaded             int // bytes in memory alone; bytes that are on disk too

	// since when, for detaching; zero for not
	fullSince time.Time
	progress  time.Time // last end of a call, or when work began after none
	detach    detachState
}

func newQueue() *queue {
	q := &queue{lanes: map[laneKey]*lane{}, drained: make(chan struct{}), draining: make(chan struct{})}
	q.work = sync.NewCond(&q.mu)
	return q
}

// waits tells whether senders wait for this queue.
func (q *queue) waits() bool { return q.required && q.signal == signalLogs }

// reserve makes room for a batch of that many bytes if there is any, and
// otherwise returns a channel that is closed when there may be.
func (q *queue) reserve(bytes int, now time.Time) <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.own == 0 || q.own+q.loaded+bytes <= int(q.cfg.MaxBytes) {
		if q.records == 0 && q.own == 0 {
			q.progress = now
		}
		q.own += bytes
		return nil
	}
	if q.fullSince.IsZero() {
		q.fullSince = now
	}
	if q.room == nil {
		q.room = make(chan struct{})
	}
	return q.room
}

// unreserve gives back what reserve took.
func (q *queue) unreserve(bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.own -= bytes
	q.freed()
}

// push takes an item whose room is reserved.
func (q *queue) push(it *item) {
	q.mu.Lock()
	q.records += it.records
	if q.detach.detached {
		q.staged.push(it)
		q.kickSpiller()
	} else {
		q.enqueue(it)
	}
	q.mu.Unlock()
}

// pushOrDrop takes an item without waiting: the oldest that are in no call make
// room for it, and if that is not enough it is dropped itself.
func (q *queue) pushOrDrop(it *item) {
	var dropped []*item
	q.mu.Lock()
	if q.records == 0 {
		q.progress = it.came
	}
	for q.own > 0 && q.own+it.bytes > int(q.cfg.MaxBytes) && q.waiting.head != nil {
		old := q.waiting.head // the oldest of all is the first of its lane
		if old.lane.pop(); old.lane.ready {
			q.readyBytes -= old.bytes
		}
		q.forget(old)
		dropped = append(dropped, old)
	}
	if q.own > 0 && q.own+it.bytes > int(q.cfg.MaxBytes) {
		dropped = append(dropped, it)
	} else {
		q.own += it.bytes
		q.records += it.records
		q.enqueue(it)
	}
	q.mu.Unlock()
	for _, old := range dropped {
		q.m.drop("queue_full", old.left)
		old.finish()
	}
}

// forget takes an item out of the queue's books. Locked.
func (q *queue) forget(it *item) {
	it.unlink()
	q.records -= it.left
	if it.place.frame != nil {
		q.loaded -= it.bytes
	} else {
		q.own -= it.bytes
	}
	q.freed()
}

// freed wakes who waits for room, or for the queue to be empty. Locked.
func (q *queue) freed() {
	if q.own+q.loaded <= int(q.cfg.MaxBytes)/2 {
		q.fullSince = time.Time{}
	}
	if q.room != nil {
		close(q.room)
		q.room = nil
	}
	q.checkDrained()
}

// checkDrained closes drained when the queue drains and has nothing. Locked.
func (q *queue) checkDrained() {
	if q.isDrain && q.records == 0 && q.own == 0 && q.drained != nil {
		select {
		case <-q.drained:
		default:
			close(q.drained)
		}
	}
}

// enqueue puts an item at the end of its lane. Locked.
func (q *queue) enqueue(it *item) {
	var key laneKey // of spans: one lane, never busy
	if it.logs != nil {
		key = keyOf(it.logs)
	}
	l := q.lanes[key]
	if l == nil {
		l = &lane{key: key}
		q.lanes[key] = l
	}
	l.push(it)
	q.waiting.push(it)
	if l.ready {
		q.readyBytes += it.bytes
		if q.readyBytes < int(q.cfg.MaxBatchBytes) {
			return
		}
	} else if l.busy {
		return
	} else {
		q.makeReady(l)
	}
	if q.armedAt.IsZero() || q.readyBytes >= int(q.cfg.MaxBatchBytes) {
		q.work.Signal()
	}
}

// makeReady lets calls take from the lane. Locked.
func (q *queue) makeReady(l *lane) {
	at := l.first.came.Add(q.cfg.Flush)
	if q.readyHead == nil {
		q.readyHead, q.flushAt = l, at
	} else {
		q.readyTail.next = l
		if at.Before(q.flushAt) {
			q.flushAt = at
		}
	}
	q.readyTail, l.next, l.ready = l, nil, true
	q.readyBytes += l.bytes
}

// unready takes the first lane from the list. Locked.
func (q *queue) unready() *lane {
	l := q.readyHead
	if q.readyHead = l.next; q.readyHead == nil {
		q.readyTail = nil
	}
	l.next, l.ready = nil, false
	q.readyBytes -= l.bytes
	return l
}

// part is a range of records of an item.
type part struct {
	it   *item
	i, j int
}

// call is what one call of the exporter delivers.
type call struct {
	parts []part
	lanes []*lane
	bytes int
}

// next waits for a call and takes it. It returns false when the queue is closed.
func (q *queue) next(c *call) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if q.closed {
			return false
		}
		if q.readyHead != nil {
			wait := time.Duration(0)
			if q.readyBytes < int(q.cfg.MaxBatchBytes) && !q.isDrain {
				wait = time.Until(q.flushAt)
			}
			if wait <= 0 {
				if q.take(c); len(c.parts) > 0 {
					q.calls++
					if q.readyHead != nil {
						q.work.Signal()
					}
					return true
				}
				continue
			}
			if q.armedAt.IsZero() || q.flushAt.Before(q.armedAt) {
				q.armedAt = q.flushAt
				if q.timer == nil {
					q.timer = time.AfterFunc(wait, q.ring)
				} else {
					q.timer.Reset(wait)
				}
			}
		}
		q.work.Wait()
	}
}

func (q *queue) ring() {
	q.mu.Lock()
	q.armedAt = time.Time{}
	q.mu.Unlock()
	q.work.Signal()
}

// take moves what fits from the ready lanes into the call. Locked.
func (q *queue) take(c *call) {
	c.parts, c.lanes, c.bytes = c.parts[:0], c.lanes[:0], 0
	limit := int(q.cfg.MaxBatchBytes)
	for q.readyHead != nil && c.bytes < limit {
		if f := q.readyHead.first; f != nil && c.bytes > 0 && c.bytes+f.bytes > limit {
			break
		}
		l := q.unready()
		for l.first != nil && (c.bytes == 0 || c.bytes+l.first.bytes <= limit) {
			it := l.pop()
			it.unlink()
			q.flying.push(it)
			c.parts = append(c.parts, part{it, 0, it.records})
			c.bytes += it.bytes
			l.busy = q.signal == signalLogs
		}
		switch {
		case l.busy:
			c.lanes = append(c.lanes, l)
		case l.first != nil:
			q.makeReady(l)
		default:
			delete(q.lanes, l.key)
		}
	}
	if l := q.readyHead; l != nil && l.first != nil {
		q.flushAt = l.first.came.Add(q.cfg.Flush)
	}
}

// settle ends the parts: delivered, or given up and already counted.
func (q *queue) settle(parts []part, done []*item) []*item {
	q.mu.Lock()
	q.progress = time.Now()
	for _, p := range parts {
		n := p.j - p.i
		p.it.left -= n
		q.records -= n
		if p.it.left > 0 {
			continue
		}
		if q.forget(p.it); p.it.pinned {
			p.it.finished = true
		} else {
			done = append(done, p.it)
		}
	}
	q.mu.Unlock()
	for _, it := range done {
		it.finish()
	}
	clear(done)
	return done[:0]
}

// end lets other calls take from the lanes of the call.
func (q *queue) end(c *call) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.calls--
	for _, l := range c.lanes {
		l.busy = false
		if l.first == nil {
			delete(q.lanes, l.key)
			continue
		}
		q.makeReady(l)
		q.work.Signal()
	}
	clear(c.parts)
	clear(c.lanes)
	c.parts, c.lanes = c.parts[:0], c.lanes[:0]
	q.kickSpiller()
}

// drain makes waits short and lets nobody wait for company.
func (q *queue) drain() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.isDrain {
		q.isDrain = true
		close(q.draining)
	}
	q.checkDrained()
	q.kickSpiller()
	q.work.Broadcast()
}

// close ends the workers once their calls end.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	if q.timer != nil {
		q.timer.Stop()
	}
	q.work.Broadcast()
}

// abandon releases what is left, unacknowledged. Only after the workers ended.
func (q *queue) abandon() {
	q.mu.Lock()
	var left []*item
	for _, l := range []*list{&q.flying, &q.waiting, &q.staged} {
		for l.head != nil {
			it := l.head
			q.forget(it)
			left = append(left, it)
		}
	}
	clear(q.lanes)
	q.readyHead, q.readyTail, q.readyBytes = nil, nil, 0
	q.mu.Unlock()
	for _, it := range left {
		switch {
		case q.waits(): // comes again, from its file or from disk
			q.m.returned.Add(float64(it.left))
		default:
			q.m.drop("shutdown", it.left)
		}
		if it.ticket != nil {
			it.ticket.release()
		}
	}
}

// log returns the part as a batch.
func (p part) log() *telemetry.LogBatch {
	if p.i == 0 && p.j == p.it.records {
		return p.it.logs
	}
	return p.it.logs.Slice(p.i, p.j)
}

// span returns the part as a batch.
func (p part) span() *telemetry.SpanBatch {
	if p.i == 0 && p.j == p.it.records {
		return p.it.spans
	}
	return p.it.spans.Slice(p.i, p.j)
}
