package logs

import (
	"container/heap"
	"sync"
	"time"
)

// schedState is where a source is in the scheduler.
type schedState uint8

const (
	idle    schedState = iota // nowhere, or in the timers
	ready                     // in the queue
	running                   // with a worker
	again                     // with a worker, and woken meanwhile
	starved                   // waits for memory
)

// verdict is what a worker's turn came to.
type verdict struct {
	more    bool          // there is more to read
	starved bool          // there was no memory to read into
	after   time.Duration // look again then; 0 never, somebody will wake it
}

// scheduler hands sources to workers, in turn, and looks at idle ones when
// their time has come.
type scheduler struct {
	grid  time.Duration // timers are rounded up to it, so that one wake-up serves many
	begin time.Time     // timers count from it, by the monotonic clock

	mu      sync.Mutex
	cond    *sync.Cond
	queue   []*source
	hungry  []*source
	timers  timerHeap
	kick    chan struct{} // the earliest timer changed
	stopped bool
}

func newScheduler(grid time.Duration) *scheduler {
	q := &scheduler{grid: grid, begin: time.Now(), kick: make(chan struct{}, 1)}
	q.cond = sync.NewCond(&q.mu)
	return q
}

// wake makes a source ready.
func (q *scheduler) wake(s *source) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch s.state {
	case idle:
		q.unschedule(s)
		q.enqueue(s)
	case running:
		s.state = again
	}
}

// fed makes all that wait for memory ready.
func (q *scheduler) fed() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, s := range q.hungry {
		q.enqueue(s)
	}
	clear(q.hungry)
	q.hungry = q.hungry[:0]
}

func (q *scheduler) enqueue(s *source) {
	s.state = ready
	q.queue = append(q.queue, s)
	q.cond.Signal()
}

// next blocks for a ready source; nil when the scheduler has stopped.
func (q *scheduler) next() *source {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.stopped {
		if len(q.queue) > 0 {
			s := q.queue[0]
			q.queue[0] = nil
			q.queue = q.queue[1:]
			s.state = running
			return s
		}
		q.cond.Wait()
	}
	return nil
}

// done takes a source back from a worker.
func (q *scheduler) done(s *source, v verdict) {
	q.mu.Lock()
	defer q.mu.Unlock()
	woken := s.state == again
	s.state = idle
	switch {
	case v.starved:
		s.state = starved
		q.hungry = append(q.hungry, s)
	case v.more || woken:
		q.enqueue(s)
	case v.after > 0:
		q.schedule(s, v.after)
	}
}

func (q *scheduler) schedule(s *source, after time.Duration) {
	s.due = (time.Since(q.begin) + after).Truncate(q.grid) + q.grid
	heap.Push(&q.timers, s)
	if q.timers[0] == s {
		select {
		case q.kick <- struct{}{}:
		default:
		}
	}
}

func (q *scheduler) unschedule(s *source) {
	if s.timer >= 0 {
		heap.Remove(&q.timers, s.timer)
	}
}

// take takes the sources whose time has come, and says how long until the next.
func (q *scheduler) take(buf []*source) (due []*source, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	due = buf[:0]
	now := time.Since(q.begin)
	for len(q.timers) > 0 {
		s := q.timers[0]
		if d := s.due - now; d > 0 {
			return due, d
		}
		heap.Pop(&q.timers)
		s.state = running // the poller has it
		due = append(due, s)
	}
	return due, time.Hour
}

func (q *scheduler) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopped = true
	q.cond.Broadcast()
}

// waiting returns how many sources wait for memory.
func (q *scheduler) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.hungry)
}

// timerHeap orders sources by due.
type timerHeap []*source

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].due < h[j].due }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].timer, h[j].timer = i, j
}

// Push implements heap.Interface.
func (h *timerHeap) Push(x any) {
	s := x.(*source)
	s.timer = len(*h)
	*h = append(*h, s)
}

// Pop implements heap.Interface.
func (h *timerHeap) Pop() any {
	old := *h
	s := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	s.timer = -1
	return s
}
