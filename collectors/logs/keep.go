package logs

import (
	"context"
	"time"
)

// poll looks at idle sources when their time has come and wakes those that have
// something to do.
func (c *Collector) poll(ctx context.Context) {
	t := time.NewTimer(0)
	defer t.Stop()
	trim := time.NewTicker(10 * time.Second)
	defer trim.Stop()
	var due []*source
	for {
		select {
		case <-ctx.Done():
			return
		case <-trim.C:
			c.pool.trim()
			continue
		case <-t.C:
		case <-c.sched.kick:
		}
		for {
			var wait time.Duration
			if due, wait = c.sched.take(due); len(due) == 0 {
				t.Reset(wait)
				break
			}
			for _, s := range due {
				c.sched.done(s, c.look(s, time.Now()))
			}
		}
	}
}

// look tells whether a source needs a worker, and when to look again if not.
func (c *Collector) look(s *source, now time.Time) verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.excluded {
		return verdict{}
	}
	if !s.settled {
		if c.env.Pods.Version() != s.version || now.Sub(s.created) >= c.cfg.ResourceWait {
			return verdict{more: true}
		}
		return verdict{after: retryTime}
	}
	if s.batch != nil && (now.Sub(s.started) >= c.cfg.FlushInterval || now.Sub(s.last) >= quietTime) {
		return verdict{more: true}
	}
	for _, f := range s.files {
		if f.fd < 0 {
			continue
		}
		if f.gz != nil {
			return verdict{more: true}
		}
		st, err := fstat(f.fd)
		if err != nil || st.size != f.eof {
			return verdict{more: true}
		}
		f.st = st
		if c.over(s, f, now.Sub(time.Unix(0, st.mtime))) {
			return verdict{more: true}
		}
	}
	return verdict{after: c.nextLook(s, now)}
}

// nextLook says when to look at a source that has nothing to read: soon after
// it had something, then ever later. 0 is never: its directory's changes wake it.
func (c *Collector) nextLook(s *source, now time.Time) time.Duration {
	open := false
	for _, f := range s.files {
		open = open || f.fd >= 0
	}
	if !open && s.batch == nil {
		return 0
	}
	s.pause = min(max(2*s.pause, c.cfg.PollMin), c.cfg.PollMax)
	after := s.pause
	if s.batch != nil {
		after = min(after, c.cfg.FlushInterval-now.Sub(s.started), quietTime-now.Sub(s.last))
	}
	return max(after, time.Millisecond)
}

// noteLater has the keeper write what was acknowledged. It does not block.
func (c *Collector) noteLater(s *source) {
	c.mu.Lock()
	c.acked[s] = struct{}{}
	c.mu.Unlock()
	c.change.Add(1)
	signal(c.poke)
}

// keep writes positions until done: to the journal as they are acknowledged,
// in full when SaveInterval has gone by and something changed, and at the end.
func (c *Collector) keep(ck *checkpoint, done <-chan struct{}) {
	t := time.NewTicker(c.cfg.SaveInterval)
	defer t.Stop()
	var saved uint64
	failing := false
	save := func() {
		now := c.change.Load()
		if now == saved {
			return
		}
		c.takeAcked()
		err := ck.save(c.entries())
		if err != nil {
			c.meters.saveErrors.Inc()
			if !failing {
				c.log.Error("cannot save the checkpoint: it is tried again", "error", err)
			}
		} else {
			saved = now
			c.meters.saves.Inc()
			c.tell(now)
		}
		failing = err != nil
	}
	var buf []entry
	for {
		select {
		case <-done:
			c.change.Add(1)
			save()
			if err := ck.close(); err != nil {
				c.log.Error("cannot close the checkpoint", "error", err)
			}
			return
		case <-t.C:
			save()
		case <-c.poke:
			buf = buf[:0]
			now := c.change.Load()
			for _, s := range c.takeAcked() {
				buf = s.moved(buf)
			}
			if len(buf) == 0 {
				continue // a full save has it
			}
			if err := ck.note(buf); err != nil {
				c.meters.saveErrors.Inc()
				if !failing {
					c.log.Error("cannot write the checkpoint's journal: the next full save has it all", "error", err)
				}
				continue
			}
			c.meters.notes.Inc()
			c.tell(now)
		}
	}
}

func (c *Collector) tell(change uint64) {
	if c.noted != nil {
		c.noted(change)
	}
}

func (c *Collector) takeAcked() []*source {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := make([]*source, 0, len(c.acked))
	for s := range c.acked {
		l = append(l, s)
	}
	clear(c.acked)
	return l
}

// entries returns the whole checkpoint.
func (c *Collector) entries() (dst []entry) {
	c.mu.Lock() // once for both: a new source takes what is unclaimed
	for key, l := range c.unclaimed {
		for _, o := range l {
			dst = append(dst, entry{uid: o.uid, dir: key.dir, base: o.base, mark: o.m})
		}
	}
	sources := c.listLocked()
	c.mu.Unlock()
	for _, s := range sources {
		dst = s.entries(dst)
	}
	return dst
}

// dropUnclaimed forgets the positions of files whose directories are gone.
func (c *Collector) dropUnclaimed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.unclaimed) > 0 {
		clear(c.unclaimed)
		c.change.Add(1)
	}
}

// drain sends what was read, if the pipeline still takes it, and waits until it
// has dealt with all that it took, or sendCtx ends.
func (c *Collector) drain(ctx context.Context) {
	if ctx.Err() == nil {
		return // a crash: begin anew at once
	}
	w := newWorker(c)
	l := c.list()
	for _, s := range l {
		s.mu.Lock()
		if s.batch != nil {
			w.send(s)
		}
		s.mu.Unlock()
	}
	for c.taken.Load() > 0 && c.sendCtx.Err() == nil {
		sleep(c.sendCtx, 5*time.Millisecond)
	}
}

func (c *Collector) closeAll() {
	for _, s := range c.list() {
		s.mu.Lock()
		for _, f := range s.files {
			f.closeFile()
		}
		s.mu.Unlock()
	}
}
