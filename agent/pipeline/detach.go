package pipeline

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"nodetap/agent/pipeline/spill"
	"nodetap/agent/telemetry"
)

const (
	// deadAfter: a full queue of which no call ended for this long is in the way
	// of others. Shorter than the lag of 5 s that the others are promised.
	deadAfter = 2 * time.Second
	// slowAfter: so is one that did not get out of being full for this long,
	// though calls end.
	slowAfter = 30 * time.Second
	// giveUpAfter: what cannot be written to disk is dropped when no call ended
	// for this long and another exporter waits. Before that the sender waits.
	giveUpAfter = 30 * time.Second

	spillEvery = 200 * time.Millisecond // how long writes are gathered for one fsync
	spillRetry = time.Second
	saveEvery  = time.Second
	spillFrame = 512 << 10 // bytes of batches in one frame, if max_bytes is not small
	spillGroup = 4 << 20   // bytes of batches between two fsyncs
)

// detachState is the part of a queue that lies on disk. While the queue is
// detached, what is sent is staged, written to disk and acknowledged there; and
// what lies on disk is loaded into the lanes, as far as half of max_bytes goes.
type detachState struct {
	log      *spill.Log // nil: the exporter is never detached
	detached bool
	kick     chan struct{} // the spiller may have something to do
	saved    time.Time
	wrote    time.Time
	failedAt time.Time // of the last write, zero when it worked
}

// kickSpiller wakes the spiller. Locked.
func (q *queue) kickSpiller() {
	if q.detach.log == nil {
		return
	}
	select {
	case q.detach.kick <- struct{}{}:
	default:
	}
}

// openSpills gives the required log exporters their place on disk. A single one
// is never detached, but what an earlier run left for it is still delivered.
func (p *Pipeline) openSpills(o Options) {
	if o.StateDir == "" {
		return
	}
	root := filepath.Join(o.StateDir, "pipeline")
	required := 0
	for _, q := range p.queues[signalLogs] {
		if q != nil && q.required {
			required++
		}
	}
	known := map[string]bool{}
	for _, q := range p.queues[signalLogs] {
		if q == nil || !q.required {
			continue
		}
		name := url.PathEscape(q.name) // "otlp/payments" is one directory
		known[name] = true
		dir := filepath.Join(root, name)
		_, err := os.Stat(dir)
		if q.cfg.Spill.MaxBytes == 0 || required < 2 && err != nil {
			if err == nil {
				o.Logger.Warn("an earlier run left logs on disk for this exporter, and spill is off: they are not sent", "exporter", q.name, "path", dir)
			}
			continue
		}
		log, err := spill.Open(spill.Options{
			Dir: dir, MaxBytes: int64(q.cfg.Spill.MaxBytes), MinFreePercent: q.cfg.Spill.MinFreePercent,
			Logger: q.logger, OnLost: func(n int) { q.m.drop("spill_damaged", n) },
		})
		if err != nil {
			q.logger.Error("cannot use the state directory: this exporter delays the others while it is down", "error", err)
			continue
		}
		q.detach.log, q.detach.kick = log, make(chan struct{}, 1)
		if st := log.Stats(); st.Records > 0 {
			q.detach.detached = true
			q.m.taken.Add(float64(st.Records))
			q.logger.Info("an earlier run left logs on disk for this exporter", "records", st.Records, "bytes", st.Bytes)
		}
		q.kickSpiller()
	}
	entries, _ := os.ReadDir(root) // an error leaves nothing to warn about
	for _, e := range entries {
		if !known[e.Name()] {
			o.Logger.Warn("the state directory holds logs for an exporter that is not configured as required", "path", filepath.Join(root, e.Name()))
		}
	}
}

// closeSpill saves how far the exporter is. Only after the spiller ended.
func (q *queue) closeSpill() {
	if q.detach.log == nil {
		return
	}
	if err := q.detach.log.Close(); err != nil {
		q.logger.Warn("cannot close the spilled logs", "error", err)
	}
}

// stalled tells whether others may wait for the exporter: it is detached, or its
// queue is full and no call ends.
func (q *queue) stalled(now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.detach.detached || !q.fullSince.IsZero() && now.Sub(q.progress) >= deadAfter
}

// othersLive tells whether another required exporter is there to be delayed. If
// all are in the same state, the network is down, say, then reading stops: the
// files on the node are the buffer, and nothing is written twice.
func (p *Pipeline) othersLive(q *queue, now time.Time) bool {
	for _, o := range p.queues[signalLogs] {
		if o != nil && o != q && o.required && !o.stalled(now) {
			return true
		}
	}
	return false
}

// considerDetach detaches the exporter of a full queue that is dead or slow
// while another lives.
func (p *Pipeline) considerDetach(q *queue) {
	now := time.Now()
	if q.detach.log == nil || !p.othersLive(q, now) {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	dead, slow := now.Sub(q.progress) >= deadAfter, now.Sub(q.fullSince) >= slowAfter
	if q.detach.detached || q.fullSince.IsZero() || !dead && !slow || now.Sub(q.detach.failedAt) < spillRetry {
		return
	}
	q.logger.Warn("exporter falls behind: its logs go to disk, so that it does not delay the others", "dead", dead)
	q.m.detached.Inc()
	q.detachNow()
}

// detachNow stages all that waits and is not on disk. Locked.
func (q *queue) detachNow() {
	q.detach.detached = true
	for it := q.waiting.head; it != nil; {
		next := it.next
		if it.place.frame == nil {
			it.unlink()
			q.staged.push(it)
		}
		it = next
	}
	// of each lane the items that came from disk stay, which are its first
	for _, l := range q.lanes {
		var keep lane
		for it := l.first; it != nil; {
			behind := it.behind
			if it.place.frame != nil {
				keep.push(it)
			}
			it = behind
		}
		for it := keep.first; it != nil; it = it.behind {
			it.lane = l
		}
		l.first, l.last, l.bytes = keep.first, keep.last, keep.bytes
	}
	ready := q.readyHead
	q.readyHead, q.readyTail, q.readyBytes = nil, nil, 0
	for ready != nil {
		l := ready
		ready, l.next, l.ready = l.next, nil, false
		if l.first != nil {
			q.makeReady(l)
		} else {
			delete(q.lanes, l.key)
		}
	}
	q.kickSpiller()
}

// attach takes the queue back into memory. Locked.
func (q *queue) attach() {
	q.detach.detached = false
	for it := q.staged.head; it != nil; it = q.staged.head {
		it.unlink()
		q.enqueue(it)
	}
}

// spiller moves what belongs to a detached exporter to disk and back.
type spiller struct {
	p *Pipeline
	q *queue
}

// run works until ctx ends.
func (s *spiller) run(ctx context.Context) {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.q.detach.kick:
		case <-t.C:
		}
		if wait := s.step(); wait > 0 {
			t.Reset(wait)
		} else {
			t.Stop()
		}
	}
}

// step does what is due, and returns when to come again: 0 for when kicked.
func (s *spiller) step() time.Duration {
	q, now := s.q, time.Now()
	wait := time.Duration(0)
	soon := func(d time.Duration) {
		if wait == 0 || d < wait {
			wait = max(d, time.Millisecond)
		}
	}
	q.mu.Lock()
	detached, failed := q.detach.detached, q.detach.failedAt
	q.mu.Unlock()
	if detached {
		if d := now.Sub(failed); d < spillRetry {
			soon(spillRetry - d)
		} else if d := s.write(now); d > 0 {
			soon(d)
		}
		s.load()
		s.attach(now)
	}
	if q.detach.log.Dirty() {
		if d := now.Sub(q.detach.saved); d < saveEvery {
			soon(saveEvery - d)
		} else {
			q.detach.saved = now
			if err := q.detach.log.Save(); err != nil {
				q.m.spillErrors.Inc()
				q.health.spill(q.logger, err)
			}
			soon(saveEvery)
		}
	}
	return wait
}

// attach ends the detachment when all on disk is loaded, and either delivered or
// little enough for an exporter that lives.
func (s *spiller) attach(now time.Time) {
	q := s.q
	if q.detach.log.Unread() {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	near := now.Sub(q.progress) < deadAfter && q.loaded <= int(q.cfg.MaxBytes)/4
	done := q.loaded == 0 && q.flying.head == nil
	if q.detach.detached && (near || done) {
		q.attach()
		q.logger.Info("exporter has caught up: its logs no longer go to disk")
	}
}

// write puts what is staged on disk. It returns how long to wait for more.
func (s *spiller) write(now time.Time) time.Duration {
	q := s.q
	var flying, staged []*item
	q.mu.Lock()
	for it := q.flying.head; it != nil; it = it.next {
		if it.place.frame == nil {
			it.pinned = true
			flying = append(flying, it)
		}
	}
	oldest := q.staged.head
	hurry := len(flying) > 0 || q.isDrain || q.room != nil
	if oldest != nil && !hurry && now.Sub(q.detach.wrote) < spillEvery {
		q.mu.Unlock()
		return spillEvery - now.Sub(q.detach.wrote)
	}
	size := 0
	for it := oldest; it != nil && size < spillGroup; it = it.next {
		staged = append(staged, it)
		size += it.bytes
	}
	more := len(staged) > 0 && staged[len(staged)-1].next != nil
	q.mu.Unlock()
	if len(flying)+len(staged) == 0 {
		return 0
	}
	q.detach.wrote = now
	places, err := s.commit(flying, staged)
	if err != nil {
		s.failed(now, flying, staged, err)
		return spillRetry
	}
	s.wrote(flying, staged, places)
	if more {
		return time.Millisecond
	}
	return 0
}

// commit writes both groups and waits until they are on disk.
func (s *spiller) commit(flying, staged []*item) (map[*item]place, error) {
	log := s.q.detach.log
	places := map[*item]place{}
	for _, group := range s.groups(flying) {
		at, err := log.AppendLoaded(batches(group))
		if err != nil {
			return nil, err
		}
		for i, it := range group {
			places[it] = place{at, i}
		}
	}
	for _, group := range s.groups(staged) {
		if err := log.Append(batches(group)); err != nil {
			return nil, err
		}
	}
	return places, log.Commit()
}

// groups cuts items into what one frame holds.
func (s *spiller) groups(items []*item) [][]*item {
	var out [][]*item
	limit := min(spillFrame, int(s.q.cfg.MaxBytes)/8)
	from, size := 0, 0
	for i, it := range items {
		if i > from && size+it.bytes > limit {
			out = append(out, items[from:i])
			from, size = i, 0
		}
		size += it.bytes
	}
	if from < len(items) {
		out = append(out, items[from:])
	}
	return out
}

func batches(items []*item) []*telemetry.LogBatch {
	out := make([]*telemetry.LogBatch, len(items))
	for i, it := range items {
		out[i] = it.logs
	}
	return out
}

// wrote acknowledges what is on disk, and frees the memory of what is in no
// call.
func (s *spiller) wrote(flying, staged []*item, places map[*item]place) {
	q := s.q
	for _, it := range append(flying, staged...) {
		if it.counts { // a pinned item is finished here alone
			it.ticket.ack()
			it.counts = false
		}
	}
	var finished []*item
	q.mu.Lock()
	q.detach.failedAt = time.Time{}
	for _, it := range flying {
		it.pinned, it.place = false, places[it]
		if it.finished {
			finished = append(finished, it)
			continue
		}
		q.own -= it.bytes
		q.loaded += it.bytes
	}
	for _, it := range staged {
		q.forget(it)
	}
	q.freed()
	q.mu.Unlock()
	for _, it := range append(finished, staged...) {
		it.finish()
	}
}

// failed is for what could not be written. Its senders wait, unless that delays
// a living exporter for the sake of one that has long been dead.
func (s *spiller) failed(now time.Time, flying, staged []*item, err error) {
	q := s.q
	q.m.spillErrors.Inc()
	q.health.spill(q.logger, err)
	others := s.p.othersLive(q, now)
	var finished []*item
	q.mu.Lock()
	q.detach.failedAt = now
	for _, it := range flying {
		if it.pinned = false; it.finished {
			finished = append(finished, it)
		}
	}
	drop := others && now.Sub(q.progress) >= giveUpAfter && q.flying.head != nil
	if drop {
		for _, it := range staged {
			q.forget(it)
		}
	}
	q.mu.Unlock()
	if drop {
		reason := "spill_failed"
		if errors.Is(err, spill.ErrFull) {
			reason = "spill_full"
		}
		for _, it := range staged {
			q.m.drop(reason, it.left)
		}
		finished = append(finished, staged...)
	}
	for _, it := range finished {
		it.finish()
	}
}

// load puts what lies on disk into the lanes, up to half of max_bytes.
func (s *spiller) load() {
	q := s.q
	for {
		q.mu.Lock()
		full := q.isDrain || q.loaded > 0 && q.loaded >= int(q.cfg.MaxBytes)/2
		q.mu.Unlock()
		if full || !q.detach.log.Unread() {
			return
		}
		logs, at, err := q.detach.log.Next()
		if err != nil { // io.EOF: what was left was damaged, or being delivered already
			return
		}
		s.enqueue(logs, at)
	}
}

func (s *spiller) enqueue(logs []*telemetry.LogBatch, at *spill.Frame) {
	q := s.q
	for i, b := range logs {
		it := &item{logs: b, records: len(b.Records), left: len(b.Records), bytes: b.Bytes(), place: place{at, i}}
		it.body = bodies(b, 0, it.records)
		if it.records == 0 {
			at.Done(i)
			continue
		}
		it.oldest = b.Records[0].Observed
		q.mu.Lock()
		q.records += it.records
		q.loaded += it.bytes
		q.enqueue(it)
		q.mu.Unlock()
	}
}

// spill logs what keeps the disk from being used, at most once a minute.
func (h *health) spill(l *slog.Logger, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now := time.Now(); now.Sub(h.spilled) >= time.Minute {
		h.spilled = now
		l.Error("cannot keep logs on disk for an exporter that is down", "error", err)
	}
}
