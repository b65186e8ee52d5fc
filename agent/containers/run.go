package containers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"
)

// loop is Run's state: what only its goroutine touches.
type loop struct {
	r       *Registry
	main    *tree // its directories are the containers
	unified *tree // its inodes are the cgroup ids; the same as main on cgroup2 alone, nil without cgroup2
	watcher watcher

	first    bool                  // the scan at the start
	waiting  map[string]*Container // seen in main, not yet in unified
	deadline map[string]time.Time
	rescan   bool // asked for by an event that does not fit
	last     time.Time
}

// watcher tells which directories come and go.
type watcher interface {
	// changes is closed when the watcher fails.
	changes() <-chan change
	// apply makes the trees follow a change; it returns false when only a scan can.
	apply(l *loop, c change) bool
	// lost returns how many events were lost since the last call.
	lost() uint64
	name() string
	close()
}

// change is one event of a watcher.
type change struct {
	made    bool // else removed
	unified bool
	id      uint64 // of the cgroup, and of the one above; BPF alone
	parent  uint64
	wd      int32 // of the directory above, and inotify's flags; inotify alone
	mask    uint32
	name    string // the last component
}

const (
	// unifiedGrace is how long a container of a v1 hierarchy waits for its
	// directory in cgroup2, which the runtime makes within the same call.
	unifiedGrace = 200 * time.Millisecond
	// minRescan bounds the cost of events that do not fit.
	minRescan = time.Second
)

// Run scans the tree, then follows it until ctx ends. It returns an error when
// there is no tree to follow.
func (r *Registry) Run(ctx context.Context) error {
	var once sync.Once
	synced := func() { once.Do(func() { close(r.synced) }) }
	defer synced()
	if r.layoutErr != nil {
		return fmt.Errorf("%w: %w", errNoLayout, r.layoutErr)
	}
	l, err := r.newLoop()
	if err != nil {
		return fmt.Errorf("%w: %w", errNoLayout, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { r.dispatch(ctx) })
	defer wg.Wait()
	defer cancel()

	l.openWatcher()
	defer func() {
		if l.watcher != nil {
			l.watcher.close()
		}
	}()
	l.first = true
	l.scan()
	l.first = false
	l.announceWaiting(time.Time{})
	own := l.findSelf()
	r.mu.Lock()
	r.own = own
	r.mu.Unlock()
	attrs := []any{"source", r.Source(), "cgroups", r.layout.Mode(), "containers", len(r.List())}
	if own != nil {
		attrs = append(attrs, "self", own.ID)
	}
	r.log.Info("following containers", attrs...)
	synced()
	l.follow(ctx)
	return nil
}

func (r *Registry) newLoop() (*loop, error) {
	dir, _ := r.layout.main()
	l := &loop{r: r, waiting: map[string]*Container{}, deadline: map[string]time.Time{}}
	var err error
	if l.main, err = newTree(dir); err != nil {
		return nil, err
	}
	l.main.added, l.main.removed = l.mainAdded, l.mainRemoved
	switch {
	case r.layout.Unified == dir:
		l.unified = l.main
	case r.layout.Unified != "":
		if l.unified, err = newTree(r.layout.Unified); err != nil {
			return nil, err
		}
		l.unified.added, l.unified.removed = l.unifiedAdded, l.unifiedRemoved
	}
	return l, nil
}

func (l *loop) openWatcher() {
	var errs []error
	if l.r.cfg.Source != "inotify" {
		w, err := newBPFWatcher(l)
		if err == nil {
			l.setWatcher(w)
			return
		}
		errs = append(errs, err)
	}
	if l.r.cfg.Source != "bpf" {
		w, err := newInotifyWatcher(l)
		if err == nil {
			if len(errs) > 0 {
				l.r.log.Info("containers are followed by inotify, BPF is not to be had", "reason", errs[0])
			}
			l.setWatcher(w)
			return
		}
		errs = append(errs, err)
	}
	l.r.log.Warn("containers are found by scanning alone, up to a second late", "reason", errors.Join(errs...))
	l.setWatcher(nil)
}

func (l *loop) setWatcher(w watcher) {
	l.watcher = w
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	if w != nil {
		l.r.source = w.name()
		return
	}
	l.r.source = "scan"
	for _, t := range []*tree{l.main, l.unified} {
		if t != nil {
			t.watch = nil
		}
	}
}

func (l *loop) follow(ctx context.Context) {
	tick := time.NewTicker(minRescan)
	defer tick.Stop()
	for {
		var changes <-chan change
		if l.watcher != nil {
			changes = l.watcher.changes()
		}
		var grace <-chan time.Time
		if len(l.waiting) > 0 {
			grace = time.After(unifiedGrace)
		}
		select {
		case <-ctx.Done():
			return
		case c, ok := <-changes:
			if !ok {
				l.r.log.Warn("events about containers ended", "source", l.watcher.name())
				l.watcher.close()
				l.setWatcher(nil)
				continue
			}
			if !l.watcher.apply(l, c) {
				l.rescan = true
			}
			l.announceWaiting(time.Now())
		case <-grace:
			l.announceWaiting(time.Now())
		case now := <-tick.C:
			l.tick(now)
		}
	}
}

// tick rescans when it is time, or when events were lost.
func (l *loop) tick(now time.Time) {
	if l.watcher != nil {
		if n := l.watcher.lost(); n > 0 {
			l.r.self.drops.WithLabelValues(l.watcher.name()).Add(float64(n))
			l.rescan = true
		}
	}
	if l.watcher == nil || l.rescan || now.Sub(l.last) >= l.r.cfg.RescanInterval {
		l.scan()
	}
	l.announceWaiting(now)
	l.r.expire(now)
}

// scan compares the trees with the directories.
func (l *loop) scan() {
	l.rescan, l.last = false, time.Now()
	trees := []*tree{l.main}
	if l.unified != nil && l.unified != l.main {
		trees = append(trees, l.unified)
	}
	for _, t := range trees {
		n, err := t.scan(t.root)
		if err != nil {
			l.r.log.Warn("scan of the cgroup tree", "error", err)
		}
		if !l.first && l.watcher != nil {
			l.r.self.missed.Add(float64(n))
		}
	}
	l.r.self.scans.Inc()
}

func (l *loop) mainAdded(n *node) {
	what := identify(n.path)
	if what.kind == 0 {
		if l.unified == l.main {
			l.r.nest(n)
		}
		return
	}
	c := &Container{
		Kind: what.kind, ID: what.id, PodUID: what.podUID, Runtime: what.runtime, Nested: what.nested,
		Path: n.path, FirstSeen: time.Now(), Existing: l.first,
	}
	switch l.unified {
	case nil:
		l.r.put(c, nil)
	case l.main:
		c.CgroupID = n.id
		l.r.put(c, n)
	default:
		if u := l.unified.find(n.path); u != nil {
			c.CgroupID = u.id
			l.r.put(c, u)
			return
		}
		l.waiting[n.path] = c
		l.deadline[n.path] = c.FirstSeen.Add(unifiedGrace)
	}
}

func (l *loop) mainRemoved(n *node) {
	if l.waiting[n.path] != nil { // it lived shorter than the grace
		l.announce(n.path)
	}
	now := time.Now()
	l.r.drop(n.path, now)
	if l.unified == l.main {
		l.r.dropNested(n.id, now)
	}
}

func (l *loop) unifiedAdded(n *node) {
	if c := l.waiting[n.path]; c != nil {
		c.CgroupID = n.id
		delete(l.waiting, n.path)
		delete(l.deadline, n.path)
		l.r.put(c, n)
		return
	}
	l.r.mu.RLock()
	c := l.r.live[n.path]
	l.r.mu.RUnlock()
	if c == nil {
		l.r.nest(n)
		return
	}
	later := *c
	later.CgroupID = n.id
	l.r.put(&later, n)
}

func (l *loop) unifiedRemoved(n *node) { l.r.dropNested(n.id, time.Now()) }

// announceWaiting lets those go that have waited for their cgroup id long
// enough; the zero time means all.
func (l *loop) announceWaiting(now time.Time) {
	for p, d := range l.deadline {
		if now.IsZero() || !now.Before(d) {
			l.announce(p)
		}
	}
}

func (l *loop) announce(p string) {
	c := l.waiting[p]
	delete(l.waiting, p)
	delete(l.deadline, p)
	l.r.put(c, nil)
}

// find returns the node at a path, nil for none.
func (t *tree) find(p string) *node {
	if p == "/" {
		return t.root
	}
	up := t.find(path.Dir(p))
	if up == nil {
		return nil
	}
	return up.children[path.Base(p)]
}

// findSelf returns the agent's container. /proc/self/cgroup names it where the
// agent sees the host's cgroup namespace; in one of its own it says "/", so we
// look for our pid: cgroup.procs shows pids as the reader's pid namespace has
// them, and others' as 0, so our own number stands in our own cgroup alone.
func (l *loop) findSelf() *Container {
	l.r.mu.RLock()
	defer l.r.mu.RUnlock()
	_, controller := l.r.layout.main()
	if b, err := os.ReadFile(filepath.Join(l.r.proc, "self/cgroup")); err == nil {
		if p := pathOf(b, controller); p != "" && p != "/" {
			if c := l.r.owner(p); c != nil && c.Kind == KindContainer {
				return c
			}
		}
	}
	pid := os.Getpid()
	for _, n := range l.main.byID {
		c := l.r.owner(n.path)
		if c == nil || c.Kind != KindContainer {
			continue
		}
		b, err := os.ReadFile(filepath.Join(l.main.dir, n.path, "cgroup.procs"))
		if err == nil && hasLine(b, pid) {
			return c
		}
	}
	return nil
}
