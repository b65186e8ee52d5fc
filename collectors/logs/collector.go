// Package logs collects the logs of the containers on this node from kubelet's
// files.
//
// It discovers and follows the files below /var/log/pods through rotation,
// compression, truncation and deletion, parses the format of the container
// runtime interface and docker's json-file, joins what runtimes split, and
// sends batches of lines. It does not interpret lines beyond their framing, nor
// deliver them.
//
// Invariants:
//   - A line is read again after a restart unless it was acknowledged: positions
//     move only over what is acknowledged without a gap, and what is
//     acknowledged is noted on disk at once.
//   - The same line has the same id whenever it is read.
//   - A file is opened when it is created and held until it is read to its end.
//   - One worker at a time reads a source; a source is the log of one start of
//     one container. There is no goroutine for a file, and no allocation for a
//     line.
//   - The bytes of batches that fill or are undelivered are bounded; then
//     reading stops, and kubelet's files are the buffer.
package logs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"nodetap/agent/component"
	"nodetap/agent/telemetry"
)

// Collector is the component. Run may be called again after it has returned.
type Collector struct {
	env  component.Env
	cfg  Config
	log  *slog.Logger
	path string // of the directory of all pods
	self self

	// of one Run
	out      component.Sink
	sendCtx  context.Context //nolint:containedctx // ends later than Run's: see drain
	meters   *meters
	sched    *scheduler
	pool     *pool
	partial  atomic.Int64 // bytes held of unfinished lines
	taken    atomic.Int64 // batches that the pipeline has
	stopping atomic.Bool

	mu        sync.Mutex
	sources   map[*source]struct{}
	unclaimed map[sourceKey][]*orphan
	acked     map[*source]struct{} // marks moved and are not in the journal
	rescan    map[string]struct{}  // directories that scanContainer is to read

	again  chan struct{} // rescan has something
	poke   chan struct{} // acked has something
	noted  func(uint64)  // called when what made change this is on disk; nil but in tests
	looked func(string)  // called when a container's directory was read and before its files are looked at; nil but in tests
	change atomic.Uint64 // counts what the next full save would have new
}

// self is what is known of the agent's own pod.
type self struct{ uid, namespace, pod, container string }

// New returns a collector that reads nothing until Run.
func New(env component.Env, cfg Config) (*Collector, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c := &Collector{env: env, cfg: cfg.withDefaults(), log: env.Logger, path: cfg.Path}
	if c.path == "" {
		c.path = env.Host.PodLogs()
	}
	if cfg.ExcludeOwnLogs {
		c.self = self{uid: os.Getenv("POD_UID"), namespace: os.Getenv("POD_NAMESPACE"), pod: os.Getenv("POD_NAME")}
	}
	return c, nil
}

// Run implements component.Collector. After ctx has ended it still sends what
// it has read and waits for acknowledgements, at most Config.DrainTimeout.
func (c *Collector) Run(ctx context.Context, out component.Sink) error {
	if !out.WantsLogs() {
		c.env.Collecting()
		<-ctx.Done()
		return nil
	}
	ck, entries, warn, err := openCheckpoint(filepath.Join(c.env.StateDir, "logs"))
	if err != nil {
		return err
	}
	if warn != nil {
		c.log.Error("checkpoint is damaged: some lines will come twice", "error", warn)
	}
	c.reset(out, entries)
	for _, m := range c.meters.all {
		if err := c.env.Registerer.Register(m); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
		defer c.env.Registerer.Unregister(m)
	}
	if warn != nil {
		c.meters.saveErrors.Inc()
	}
	// The journal counts only beside a checkpoint of its epoch. Without one a
	// kill would lose nothing, but send everything again.
	if err := ck.save(c.entries()); err != nil {
		return err
	}
	c.meters.saves.Inc()
	c.findSelf(ctx)

	sendCtx, stopSending := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSending()
	c.sendCtx = sendCtx
	group, tasks := component.NewGroup(ctx)
	sc := newScanner(c)
	group.Go(func() error { sc.run(tasks); return nil })
	group.Go(func() error { c.poll(tasks); return nil })
	for range c.workers() {
		group.Go(func() error { newWorker(c).run(); return nil })
	}
	keeper, _ := component.NewGroup(context.WithoutCancel(ctx))
	kept := make(chan struct{})
	keeper.Go(func() error { c.keep(ck, kept); return nil })

	c.env.Collecting()
	<-tasks.Done()
	c.stopping.Store(true)
	late := time.AfterFunc(c.cfg.DrainTimeout, stopSending)
	defer late.Stop()
	c.sched.stop()
	err = group.Wait()
	sc.close()
	c.drain(ctx)
	close(kept)
	err = errors.Join(err, keeper.Wait())
	c.closeAll()
	return err
}

func (c *Collector) reset(out component.Sink, entries []entry) {
	c.out = out
	c.stopping.Store(false)
	c.partial.Store(0)
	c.taken.Store(0)
	c.sched = newScheduler(max(c.cfg.PollMin/2, time.Millisecond))
	c.pool = newPool(int(c.cfg.MaxMemory), int(c.cfg.BatchBytes), c.sched.fed)
	c.meters = newMeters(c)
	c.sources = map[*source]struct{}{}
	c.acked = map[*source]struct{}{}
	c.rescan = map[string]struct{}{}
	c.unclaimed = map[sourceKey][]*orphan{}
	c.again, c.poke = make(chan struct{}, 1), make(chan struct{}, 1)
	for _, e := range entries {
		// A position at the beginning says nothing, and that of a file that was
		// empty would fit whatever has its inode by now.
		if name, ok := parseFileName(e.base); ok && !e.atBegin() {
			key := sourceKey{e.dir, name.restart}
			c.unclaimed[key] = append(c.unclaimed[key], &orphan{uid: e.uid, base: e.base, m: e.mark})
		}
	}
}

func (c *Collector) workers() int {
	if c.cfg.Workers > 0 {
		return c.cfg.Workers
	}
	return min(runtime.GOMAXPROCS(0), 4)
}

// findSelf waits for a moment for the registry to tell which container the
// agent is, unless the environment has told.
func (c *Collector) findSelf(ctx context.Context) {
	if !c.cfg.ExcludeOwnLogs {
		return
	}
	if c.self.uid == "" && c.self.pod == "" {
		t := time.NewTimer(2 * time.Second)
		defer t.Stop()
		select {
		case <-c.env.Containers.Synced():
		case <-t.C:
		case <-ctx.Done():
		}
	}
	if own := c.env.Containers.Self(); own != nil {
		c.self.container = own.ID
		if c.self.uid == "" {
			c.self.uid = own.PodUID
		}
	}
}

func (c *Collector) ownPod(p podName) bool {
	return c.self.uid != "" && p.uid == c.self.uid ||
		c.self.pod != "" && p.pod == c.self.pod && p.namespace == c.self.namespace
}

// predecessor tells whether the log is of an agent that this one replaces, or
// that replaces this one: a pod of the same DaemonSet on this node.
func (c *Collector) predecessor(r *telemetry.Resource) bool {
	if c.self.uid == "" || r.WorkloadKind != "DaemonSet" {
		return false
	}
	own := c.env.Pods.Pod(c.self.uid)
	return own != nil && own.WorkloadKind == r.WorkloadKind && own.WorkloadName == r.WorkloadName && own.Namespace == r.Namespace
}

func (c *Collector) newSource(p podName, dir, container string, restart int) *source {
	s := &source{
		key:       sourceKey{dir, restart},
		pod:       p,
		container: container,
		path:      fmt.Sprintf("%s/%s/%d.log", c.path, dir, restart),
		created:   time.Now(),
		timer:     -1,
		byID:      map[fileID]*file{},
		twins:     map[fileID]*twin{},
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.orphans = c.unclaimed[s.key]
	delete(c.unclaimed, s.key)
	c.sources[s] = struct{}{}
	return s
}

// settle looks the source's pod up when something may have changed. It is false
// while the first lines wait for it.
func (c *Collector) settle(s *source, now time.Time) bool {
	if v := c.env.Pods.Version(); s.resource == nil || v != s.version {
		s.version = v
		s.resource = c.env.Pods.LogPath(s.pod.namespace, s.pod.pod, s.pod.uid, s.container, s.key.restart)
		if id := c.self.container; id != "" && s.resource.ContainerID == id || c.predecessor(s.resource) {
			s.excluded = true
			for _, f := range s.files {
				f.closeFile()
			}
		}
	}
	if !s.settled {
		// the id comes with kubelet's first status, after the pod itself
		s.settled = !s.resource.Partial && s.resource.ContainerID != "" || now.Sub(s.created) >= c.cfg.ResourceWait
	}
	return s.settled
}

// failed counts an operation on a file that failed. It is tried again.
func (c *Collector) failed(f *file, err error) {
	op := "read"
	if f.gz != nil {
		op = "gzip"
	}
	c.meters.errors.WithLabelValues(op).Inc()
	c.log.Warn("cannot read a log file", "file", f.base, "error", err)
}

// retire forgets a source that has no files left, and tells whether it did.
func (c *Collector) retire(s *source, empty, removed bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removed = removed
	if !empty || len(s.files) > 0 || len(s.orphans) > 0 || s.batch != nil || s.acks.waiting() > 0 {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sources, s)
	c.change.Add(1)
	return true
}

// lookAgain has a source's directory read.
func (c *Collector) lookAgain(s *source) {
	c.mu.Lock()
	c.rescan[s.key.dir] = struct{}{}
	c.mu.Unlock()
	signal(c.again)
}

func (c *Collector) takeAgain() (dirs []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for dir := range c.rescan {
		dirs = append(dirs, dir)
	}
	clear(c.rescan)
	return dirs
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (c *Collector) list() []*source {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.listLocked()
}

func (c *Collector) listLocked() []*source {
	l := make([]*source, 0, len(c.sources))
	for s := range c.sources {
		l = append(l, s)
	}
	return l
}

type sums struct {
	lag                    int64
	open, sources, unacked int
}

func (c *Collector) sum() (t sums) {
	for _, s := range c.list() {
		n, open := s.lag()
		t.lag += n
		t.open += open
		t.sources++
		t.unacked += s.acks.waiting()
	}
	return t
}

var _ component.Collector = (*Collector)(nil)
