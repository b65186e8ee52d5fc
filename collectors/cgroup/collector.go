package cgroup

import (
	"context"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"nodetap/agent/component"
	"nodetap/agent/containers"
	"nodetap/agent/telemetry"
)

// metricsPath is where kubelet has the same families.
const metricsPath = "/metrics/cadvisor"

// podStore and registry are what the collector asks; tests have their own.
type podStore interface {
	Version() uint64
	Container(id string) *telemetry.Resource
	Pod(uid string) *telemetry.Resource
	HostNetwork(uid string) bool
}

type registry interface {
	Layout() (containers.Layout, error)
	Subscribe(func(containers.Event)) (cancel func())
	Synced() <-chan struct{}
}

// Collector implements component.Collector.
type Collector struct {
	env     component.Env
	cfg     Config
	pods    podStore
	reg     registry
	self    *selfMetrics
	machine machine
	devices devices
	host    hostNet

	// The sampling goroutine's.
	sources   []resolved
	fast      int // the first sources are the fast ones
	units     map[string]*unit
	order     []*unit // by path
	podsBy    map[string]*pod
	buf       []byte
	openFiles int
	maxOpen   int
	now       time.Time
	tick      int
	version   uint64 // of the pods when rows were last named
	naming    bool   // rows have to be named again: something came or went, or still has no name

	idPaths []string                   // of the machine id
	inode   func(cgroup string) uint64 // of the cgroup's directory, 0 for none

	eventsMu sync.Mutex
	events   []containers.Event
	came     chan struct{}

	mu          sync.Mutex // guards rows and what follows
	rows        []*unit    // by path; the source reads row alone
	machineRows []machineRow
}

// New returns a collector of this node's cgroups.
func New(env component.Env, cfg Config) (*Collector, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return newCollector(env, cfg, env.Pods, env.Containers), nil
}

func newCollector(env component.Env, cfg Config, pods podStore, reg registry) *Collector {
	c := &Collector{
		env: env, cfg: cfg, pods: pods, reg: reg,
		units: map[string]*unit{}, podsBy: map[string]*pod{},
		idPaths: []string{"/etc/machine-id", "/var/lib/dbus/machine-id"},
		buf:     make([]byte, 16<<10), came: make(chan struct{}, 1),
		devices: devices{sys: env.Host.Sys, names: map[device]string{}},
	}
	c.self = newSelfMetrics(env.Registerer)
	return c
}

// Run samples until ctx ends.
func (c *Collector) Run(ctx context.Context, _ component.Sink) error {
	layout, err := c.reg.Layout()
	if err != nil {
		return &component.Unsupported{Missing: "the node's cgroups at " + c.env.Host.Cgroup,
			Grant: "- {name: cgroup, hostPath: {path: /sys/fs/cgroup}}", Err: err}
	}
	select {
	case <-ctx.Done():
		return nil
	case <-c.reg.Synced():
	}
	c.begin(layout)
	defer c.end()
	cancel := c.reg.Subscribe(c.take)
	defer cancel()
	defer c.env.Metrics.Register(metricsPath, c)()
	c.env.Collecting()

	tick := time.NewTicker(c.cfg.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.came:
			c.follow()
		case now := <-tick.C:
			start := time.Now()
			c.follow()
			c.sample(now)
			c.self.seconds.Add(time.Since(start).Seconds())
		}
	}
}

// begin makes the rows that no container has.
func (c *Collector) begin(layout containers.Layout) {
	c.sources = sourcesOf(layout)
	if c.inode == nil {
		dir, _ := procsDir(layout)
		c.inode = func(cgroup string) uint64 {
			var st unix.Stat_t
			if unix.Stat(path.Join(dir, cgroup), &st) != nil {
				return 0
			}
			return st.Ino
		}
	}
	c.fast = 0
	for _, s := range c.sources {
		if s.when == tierFast {
			c.fast++
		}
	}
	c.maxOpen = c.cfg.MaxOpenFiles
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) == nil && lim.Cur/2 < uint64(c.maxOpen) {
		c.maxOpen = int(lim.Cur / 2)
	}
	c.machine = readMachine(c.env.Host, c.idPaths...)
	c.host = findHostNet(c.env.Host.Proc)
	c.add(&unit{kind: kindNode, path: "/"})
	c.publish()
}

func (c *Collector) end() {
	c.mu.Lock()
	c.rows = nil
	c.mu.Unlock()
	for _, u := range c.order {
		c.closeUnit(u)
	}
	clear(c.units)
	clear(c.podsBy)
	c.order = nil
}

// take keeps an event for the sampling goroutine.
func (c *Collector) take(e containers.Event) {
	c.eventsMu.Lock()
	c.events = append(c.events, e)
	c.eventsMu.Unlock()
	select {
	case c.came <- struct{}{}:
	default:
	}
}

// follow applies the events. What was removed has no rows when it returns.
func (c *Collector) follow() {
	c.eventsMu.Lock()
	events := c.events
	c.events = nil
	c.eventsMu.Unlock()
	if len(events) == 0 {
		return
	}
	for _, e := range events {
		if e.Container.Nested {
			continue // counted by the container that it runs in
		}
		if old := c.units[e.Container.Path]; old != nil {
			if !e.Removed && old.c.ID == e.Container.ID && !old.gone {
				old.c = e.Container // its cgroup id became known
				continue
			}
			c.remove(old)
		}
		if e.Removed {
			continue
		}
		k := kindContainer
		if e.Container.Kind == containers.KindPod {
			k = kindPod
		}
		c.add(&unit{kind: k, path: e.Container.Path, c: e.Container})
		c.addGroups(path.Dir(e.Container.Path))
	}
	c.naming = true
	c.publish()
}

// addGroups adds the rows of /kubepods and its classes above a pod.
func (c *Collector) addGroups(p string) {
	for ; p != "/" && p != "."; p = path.Dir(p) {
		base := path.Base(p)
		if !strings.Contains(base, "kubepods") && base != "burstable" && base != "besteffort" || strings.Contains(base, "-pod") {
			continue
		}
		c.addGroup(p)
		// The classes without a pod have rows too.
		for _, class := range []string{"burstable", "besteffort"} {
			if base == "kubepods" {
				c.addGroup(path.Join(p, class))
			} else if name, ok := strings.CutSuffix(base, "kubepods.slice"); ok {
				c.addGroup(path.Join(p, name+"kubepods-"+class+".slice"))
			}
		}
	}
}

func (c *Collector) addGroup(p string) {
	if c.units[p] == nil && c.inode(p) != 0 {
		c.add(&unit{kind: kindGroup, path: p})
	}
}

func (c *Collector) add(u *unit) {
	u.fds = slices.Repeat([]int32{closed}, len(c.sources))
	u.fresh = true
	u.details = len(c.units) // spreads the limits over the rounds
	if u.c != nil {
		u.pod = c.podOf(u.c)
		if u.kind == kindPod {
			u.pod.unit = u
		} else {
			u.pod.containers = append(u.pod.containers, u)
		}
	}
	u.inode = c.inode(u.path)
	c.units[u.path] = u
	i, _ := slices.BinarySearchFunc(c.order, u.path, func(u *unit, p string) int { return strings.Compare(u.path, p) })
	c.order = slices.Insert(c.order, i, u)
}

func (c *Collector) podOf(k *containers.Container) *pod {
	key := k.PodUID
	if key == "" {
		key = k.ID
	}
	p := c.podsBy[key]
	if p == nil {
		p = &pod{uid: k.PodUID, offset: len(c.podsBy), net: network{fresh: true}}
		c.podsBy[key] = p
	}
	return p
}

func (c *Collector) remove(u *unit) {
	c.closeUnit(u)
	delete(c.units, u.path)
	c.order = slices.DeleteFunc(c.order, func(o *unit) bool { return o == u })
	p := u.pod
	if p == nil {
		return
	}
	if p.unit == u {
		p.unit = nil
	}
	p.containers = slices.DeleteFunc(p.containers, func(o *unit) bool { return o == u })
	if p.unit == nil && len(p.containers) == 0 {
		key := p.uid
		if key == "" {
			key = u.c.ID
		}
		delete(c.podsBy, key)
	}
}

// publish shows scrapes the units that there are.
func (c *Collector) publish() {
	rows := slices.Clone(c.order)
	c.mu.Lock()
	c.rows = rows
	c.mu.Unlock()
}

// sample reads what is due.
func (c *Collector) sample(now time.Time) {
	c.now = now
	every := max(1, int(c.cfg.DetailInterval/c.cfg.Interval))
	c.order = slices.DeleteFunc(c.order, func(u *unit) bool {
		if u.gone && u.kind == kindGroup { // the registry does not tell about these
			c.closeUnit(u)
			delete(c.units, u.path)
			return true
		}
		return false
	})
	for i, u := range c.order {
		detail := u.fresh || u.young(now) || (c.tick+i)%every == 0
		c.sampleUnit(u, detail)
	}
	for i, u := range slices.Backward(c.order) { // containers before their pods
		if u.start == 0 && (c.tick+i)%every == 0 || u.fresh {
			c.findStart(u)
			u.fresh = false
		}
	}
	for _, p := range c.podsBy {
		if p.net.fresh || (c.tick+p.offset)%every == 0 {
			c.sampleNetwork(p)
		}
	}
	c.tick++
	if v := c.pods.Version(); v != c.version || c.naming {
		c.version, c.naming = v, false
		c.nameRows()
	}
	c.show()
	c.self.last.Set(float64(now.UnixMilli()) / 1000)
	c.self.samples.Inc()
}

// sampleUnit reads what is due of one cgroup. Whose CPU time and memory have not
// moved since its last details was idle: what cannot have changed is then read
// as seldom as the limits, so that the many idle cgroups of a node cost little.
func (c *Collector) sampleUnit(u *unit, detail bool) {
	last := c.fast
	if detail {
		last = len(c.sources)
		u.read.io = u.read.io[:0]
	}
	spec := u.fresh || u.young(c.now) || u.details%specEvery == 0
	idle := false
	for i := range last {
		s := &c.sources[i]
		if i == c.fast {
			now := [2]float64{u.read.v[cpuUsage], u.read.v[memUsage]}
			idle = now == u.moved && u.kind != kindNode
			u.moved = now
		}
		if !spec && (s.when == tierSpec || s.idle && idle) {
			continue
		}
		if s.quota && !u.fresh && u.read.has&(1<<specQuota) == 0 {
			continue
		}
		if c.readSource(u, i); u.gone {
			return
		}
	}
	if detail {
		u.details++
	}
	if u.kind == kindNode {
		c.sampleNode(u, detail)
	}
	u.read.derive()
}

// young tells whether a cgroup's files may still be in the making.
func (u *unit) young(now time.Time) bool {
	return u.c != nil && now.Sub(u.c.FirstSeen) < 5*time.Second
}

type selfMetrics struct {
	samples prometheus.Counter
	seconds prometheus.Counter
	last    prometheus.Gauge
	errors  *prometheus.CounterVec
}

func newSelfMetrics(reg prometheus.Registerer) *selfMetrics {
	m := &selfMetrics{
		samples: prometheus.NewCounter(prometheus.CounterOpts{Name: "nodetap_cgroup_samples_total", Help: "Rounds of reading the cgroups."}),
		seconds: prometheus.NewCounter(prometheus.CounterOpts{Name: "nodetap_cgroup_sampling_seconds_total", Help: "Time spent in them."}),
		last:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "nodetap_cgroup_last_sample_timestamp_seconds", Help: "When the last round ended, unix time: a scrape's CPU and memory are that old."}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "nodetap_cgroup_errors_total",
			Help: "Files of cgroups that could not be opened or read, apart from missing ones."}, []string{"op"}),
	}
	m.samples = component.Register(reg, m.samples)
	m.last = component.Register(reg, m.last)
	m.seconds = component.Register(reg, m.seconds)
	m.errors = component.Register(reg, m.errors)
	return m
}

var _ component.Collector = (*Collector)(nil)
