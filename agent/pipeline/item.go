package pipeline

import (
	"sync/atomic"
	"time"

	"nodetap/agent/pipeline/spill"
	"nodetap/agent/telemetry"
)

// ticket is what a batch still waits for, shared by the queues that hold it.
type ticket struct {
	unacked, unreleased atomic.Int32
	onAcked, onReleased func()
}

// ack tells that one exporter that counts is done with it for good.
func (t *ticket) ack() {
	if t.unacked.Add(-1) == 0 && t.onAcked != nil {
		t.onAcked()
	}
}

// release tells that one exporter will not touch the batch again.
func (t *ticket) release() {
	if t.unreleased.Add(-1) == 0 && t.onReleased != nil {
		t.onReleased()
	}
}

// item is a batch in the queue of one exporter. The queue's lock guards what
// changes.
type item struct {
	logs  *telemetry.LogBatch  // this
	spans *telemetry.SpanBatch // or this

	ticket  *ticket // nil when it was read from disk
	counts  bool    // the exporter counts for the batch's ack
	records int
	bytes   int       // what it weighs in memory
	body    int       // bytes of its bodies; of spans as bytes
	came    time.Time // when it entered the queue
	oldest  int64     // unix nanoseconds of its oldest record

	left  int   // records that are neither delivered nor dropped
	place place // where it lies on disk
	// pinned while it is being written to disk: who finishes it leaves the rest to
	// the writer.
	pinned, finished bool

	lane       *lane
	behind     *item // the next in the lane
	list       *list // that it is in
	prev, next *item
}

// place is where an item lies on disk. The zero value is nowhere.
type place struct {
	frame *spill.Frame
	i     int
}

// payload is what records [i, j) weigh on their way.
func (it *item) payload(i, j int) int {
	switch {
	case i == 0 && j == it.records:
		return it.body
	case it.logs != nil:
		return bodies(it.logs, i, j)
	default:
		return it.spans.Slice(i, j).Bytes()
	}
}

func bodies(b *telemetry.LogBatch, i, j int) int {
	n := 0
	for ; i < j; i++ {
		n += len(b.Body(i))
	}
	return n
}

// finish calls the batch's callbacks and frees its place on disk. Call it
// without the queue's lock, once.
func (it *item) finish() {
	if it.place.frame != nil {
		it.place.frame.Done(it.place.i)
	}
	if it.ticket == nil {
		return
	}
	if it.counts {
		it.counts = false
		it.ticket.ack()
	}
	it.ticket.release()
}

// list is a doubly linked list of items, oldest first.
type list struct{ head, tail *item }

func (l *list) push(it *item) {
	it.list, it.prev, it.next = l, l.tail, nil
	if l.tail != nil {
		l.tail.next = it
	} else {
		l.head = it
	}
	l.tail = it
}

func (it *item) unlink() {
	l := it.list
	if l == nil {
		return
	}
	if it.prev != nil {
		it.prev.next = it.next
	} else {
		l.head = it.next
	}
	if it.next != nil {
		it.next.prev = it.prev
	} else {
		l.tail = it.prev
	}
	it.list, it.prev, it.next = nil, nil, nil
}

// lane is the order of one source. While one of its items is in a call the lane
// is busy, and the rest waits.
type lane struct {
	key         laneKey
	first, last *item
	bytes       int
	busy        bool
	ready       bool // in the list of lanes that a call can take from
	next        *lane
}

// laneKey is what must stay in order: a file, else a container.
type laneKey struct{ path, pod, container string }

func keyOf(b *telemetry.LogBatch) laneKey {
	if b.Source.Path != "" {
		return laneKey{path: b.Source.Path}
	}
	if r := b.Resource; r != nil {
		if r.PodUID != "" {
			return laneKey{pod: r.PodUID, container: r.Container}
		}
		return laneKey{pod: r.Pod, container: r.ContainerID}
	}
	return laneKey{}
}

func (l *lane) push(it *item) {
	it.lane, it.behind = l, nil
	if l.last != nil {
		l.last.behind = it
	} else {
		l.first = it
	}
	l.last = it
	l.bytes += it.bytes
}

func (l *lane) pop() *item {
	it := l.first
	l.first = it.behind
	if l.first == nil {
		l.last = nil
	}
	it.behind = nil
	l.bytes -= it.bytes
	return it
}

// weigh is what records [i, j) weigh in a call.
func (it *item) weigh(i, j int) int {
	n := it.payload(i, j)
	if it.logs != nil {
		n += 96 * (j - i) // as LogBatch.Bytes
	}
	return n
}
