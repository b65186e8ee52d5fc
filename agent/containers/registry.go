package containers

import (
	"errors"
	"log/slog"
	"path"
	"sort"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Registry holds the containers of this node. Safe for concurrent use.
type Registry struct {
	cfg       Config
	proc      string
	log       *slog.Logger
	layout    Layout
	layoutErr error
	self      *selfMetrics
	synced    chan struct{}
	wake      chan struct{} // the dispatcher has work; capacity 1

	mu       sync.RWMutex
	live     map[string]*Container // by path
	byID     map[string]*Container // live and removed
	byCgroup map[uint64]*Container // live and removed, and the cgroups nested in them
	removed  []tombstone           // in the order of removal
	own      *Container
	source   string
	subs     []*subscriber
}

// tombstone is a removed container, or a cgroup nested in one, that can still be
// resolved.
type tombstone struct {
	when     time.Time
	c        *Container
	cgroupID uint64
}

// maxTombstones bounds what removed cgroups take of our memory.
const maxTombstones = 1 << 14

// New returns a registry that knows nothing until Run. cgroupRoot is where the
// node's cgroup file systems are mounted ("/sys/fs/cgroup"), proc its /proc. An
// error means a wrong configuration; missing mounts are Run's error.
func New(cfg Config, cgroupRoot, proc string, log *slog.Logger, reg prometheus.Registerer) (*Registry, error) {
	if cfg == (Config{}) {
		cfg = Default()
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r := &Registry{
		cfg: cfg, proc: proc, log: log,
		synced: make(chan struct{}), wake: make(chan struct{}, 1),
		live: map[string]*Container{}, byID: map[string]*Container{}, byCgroup: map[uint64]*Container{},
	}
	r.layout, r.layoutErr = ReadLayout(cgroupRoot)
	var err error
	if r.self, err = newSelfMetrics(reg, r); err != nil {
		return nil, err
	}
	return r, nil
}

// Layout returns where the cgroup hierarchies are, or why there are none.
func (r *Registry) Layout() (Layout, error) { return r.layout, r.layoutErr }

// Synced is closed after the first scan, and when Run failed before it.
func (r *Registry) Synced() <-chan struct{} { return r.synced }

// Source tells how the registry learns of containers: "bpf", "inotify", or
// "scan" where neither works; "" before the first scan.
func (r *Registry) Source() string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.source
}

// List returns the containers and pod cgroups that live now, sorted by path.
func (r *Registry) List() []*Container {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.list()
}

func (r *Registry) list() []*Container {
	out := make([]*Container, 0, len(r.live))
	for _, c := range r.live {
		out = append(out, c)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	return out
}

// ByID returns the container with the runtime's id, nil if it is not known.
// Removed containers stay known for some minutes.
func (r *Registry) ByID(id string) *Container {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.byID[id]
}

// ByCgroupID returns the container or pod whose cgroup2 id, or whose nearest
// ancestor's, this is; nil if it is not known. Removed containers stay known for
// some minutes.
func (r *Registry) ByCgroupID(id uint64) *Container {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.byCgroup[id]
}

// Self returns the agent's own container, nil when it does not run in one, and
// before the first scan.
func (r *Registry) Self() *Container {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.own
}

// owner returns the live container or pod whose cgroup p is or lies in.
func (r *Registry) owner(p string) *Container {
	for {
		if c := r.live[p]; c != nil {
			return c
		}
		if p == "/" || p == "." || p == "" {
			return nil
		}
		p = path.Dir(p)
	}
}

// put makes c known, in place of one with the same path, and tells subscribers.
// unified is its node in cgroup2, nil for none.
func (r *Registry) put(c *Container, unified *node) {
	r.mu.Lock()
	r.live[c.Path] = c
	if c.ID != "" {
		r.byID[c.ID] = c
	}
	if unified != nil {
		r.claim(unified, c)
	}
	if r.own != nil && r.own.Path == c.Path {
		r.own = c
	}
	r.publish(Event{Container: c})
	r.mu.Unlock()
	r.self.events.WithLabelValues("created").Inc()
	r.notify()
}

// claim maps the cgroup ids of n and of what is nested in it to c.
func (r *Registry) claim(n *node, c *Container) {
	r.byCgroup[n.id] = c
	for _, child := range n.children {
		if r.live[child.path] == nil {
			r.claim(child, c)
		}
	}
}

// nest maps the cgroup id of a directory that is no container itself.
func (r *Registry) nest(n *node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.owner(n.path); c != nil {
		r.byCgroup[n.id] = c
	}
}

// drop takes the cgroup at a path out, keeping it resolvable for a while.
func (r *Registry) drop(p string, now time.Time) {
	r.mu.Lock()
	c := r.live[p]
	if c == nil {
		r.mu.Unlock()
		return
	}
	delete(r.live, p)
	r.bury(tombstone{when: now, c: c, cgroupID: c.CgroupID})
	r.publish(Event{Container: c, Removed: true})
	r.mu.Unlock()
	r.self.events.WithLabelValues("removed").Inc()
	r.notify()
}

// dropNested keeps a removed nested cgroup's id resolvable for a while.
func (r *Registry) dropNested(id uint64, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.byCgroup[id]; c != nil && c.CgroupID != id {
		r.bury(tombstone{when: now, cgroupID: id, c: c})
	}
}

func (r *Registry) bury(t tombstone) {
	r.removed = append(r.removed, t)
	if len(r.removed) > maxTombstones {
		r.forget(r.removed[0])
		r.removed = r.removed[1:]
	}
}

// expire forgets what was removed longer ago than the configuration says.
func (r *Registry) expire(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := 0
	for ; i < len(r.removed) && now.Sub(r.removed[i].when) >= r.cfg.KeepRemoved; i++ {
		r.forget(r.removed[i])
	}
	if i > 0 {
		r.removed = append([]tombstone(nil), r.removed[i:]...)
	}
}

func (r *Registry) forget(t tombstone) {
	if r.byCgroup[t.cgroupID] == t.c {
		delete(r.byCgroup, t.cgroupID)
	}
	if t.cgroupID == t.c.CgroupID && r.byID[t.c.ID] == t.c {
		delete(r.byID, t.c.ID)
	}
}

var errNoLayout = errors.New("containers are not followed")
