package logs

import "sync"

// snap is what a file's mark becomes once a batch is acknowledged.
type snap struct {
	f *file
	m mark
}

// tracker turns acknowledgements of a source's batches, in any order, into
// marks of its files that move only over what is acknowledged without a gap.
type tracker struct {
	mu    sync.Mutex
	first uint64 // number of queue[0]
	queue []sent
}

type sent struct {
	acked bool
	snaps []snap
}

// push adds a batch behind those before it and returns its number.
func (t *tracker) push(snaps []snap) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queue = append(t.queue, sent{snaps: snaps})
	return t.first + uint64(len(t.queue)) - 1
}

// ack notes that a batch was delivered and tells whether a mark moved.
func (t *tracker) ack(n uint64) (moved bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n < t.first || n-t.first >= uint64(len(t.queue)) {
		return false
	}
	t.queue[n-t.first].acked = true
	k := 0
	for k < len(t.queue) && t.queue[k].acked {
		for _, s := range t.queue[k].snaps {
			s.f.saved = s.m
			moved = true
		}
		k++
	}
	if k > 0 {
		rest := copy(t.queue, t.queue[k:])
		clear(t.queue[rest:])
		t.queue = t.queue[:rest]
		t.first += uint64(k)
	}
	return moved
}

// waiting returns how many batches are not acknowledged, or wait for one that
// is not.
func (t *tracker) waiting() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.queue)
}
