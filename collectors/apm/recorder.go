package apm

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"nodetap/agent/component"
	"nodetap/agent/containers"
	"nodetap/agent/pods"
	"nodetap/agent/telemetry"
)

// Further reasons why an exchange gives no span; see conn.go for the others.
const (
	dropSelf         = "self"          // the agent is the other end
	dropUserAgent    = "user_agent"    // excluded by the configuration
	dropNotContainer = "not_container" // outside containers
	dropUnwanted     = "no_exporter"   // counted in the metrics, but nobody takes spans
	dropHeld         = "held_limit"    // counted in the metrics; of an unknown cgroup while too many waited to be named
	dropQueue        = "queue_full"    // the pipeline took no more
	dropShutdown     = "shutdown"      // under way when the agent stopped
)

const (
	maxHeld   = 16384 // exchanges waiting for the Resource of their container
	holdFor   = int64(5e9)
	batchSize = 512 // spans
	// ownerUnknown has the metrics of exchanges that could not be held until
	// their cgroup's container was known.
	ownerUnknown = "unknown"
)

// patience is what an exchange whose Resource is not known can do.
type patience int

const (
	mayWait patience = iota
	expired          // it has waited for holdFor: what is known must do, from now on
	noRoom           // it cannot be held: what is known must do, for this one alone
)

// podSource is what of *pods.Store is used.
type podSource interface {
	Version() uint64
	Container(id string) *telemetry.Resource
	Learns() bool
	Peer(addr netip.AddrPort) (pods.Peer, bool)
}

// recorder turns exchanges into spans and metrics. Used by one goroutine; the
// metrics are read by others.
type recorder struct {
	cfg      Config
	all      bool
	pods     podSource
	find     func(cgroup uint64) *containers.Container
	policyOf func(cgroup uint64) uint32
	isSelf   func(remote netip.AddrPort, netns uint32) bool
	self     *containers.Container
	wall     func(int64) int64
	host     component.Host
	node     telemetry.Resource // fields of what runs on the node itself

	red    *red
	stats  *stats
	wants  func() bool
	full   func(*telemetry.SpanBatch) // takes a batch that is full
	routes map[routeKey]*routes

	pairs     pairs
	batches   map[*telemetry.Resource]*telemetry.SpanBatch
	held      []heldExchange
	attrs     []telemetry.Attr
	targets   map[uint64]*target
	processes map[uint32]*telemetry.Resource
	names     map[string]*telemetry.Resource
	unknown   *target // of ownerUnknown
}

type routeKey struct {
	service string
	client  bool
}

type heldExchange struct {
	x     *exchange
	since int64
}

// target is whose requests a cgroup's are.
type target struct {
	container *containers.Container
	res       *telemetry.Resource
	partial   *telemetry.Resource // what is known without its pod; nil until it was needed
	owner     string
	version   uint64
}

func newRecorder(cfg Config) *recorder {
	return &recorder{
		cfg: cfg, all: cfg.Processes == "all", red: newRED(cfg.MaxSeries),
		routes:    make(map[routeKey]*routes),
		batches:   make(map[*telemetry.Resource]*telemetry.SpanBatch),
		targets:   make(map[uint64]*target),
		processes: make(map[uint32]*telemetry.Resource),
		names:     make(map[string]*telemetry.Resource),
	}
}

// done takes an exchange that is complete. now is CLOCK_BOOTTIME.
func (r *recorder) done(x *exchange, now int64) {
	switch {
	case r.excluded(x.req.userAgent):
		r.stats.drop(dropUserAgent, 1)
	case r.toSelf(x):
		r.stats.drop(dropSelf, 1)
	case r.record(x, mayWait):
	case len(r.held) >= maxHeld:
		r.record(x, noRoom)
	default:
		r.held = append(r.held, heldExchange{x, now})
	}
}

// retry looks again at what was held.
func (r *recorder) retry(now int64) {
	keep := r.held[:0]
	for _, h := range r.held {
		p := mayWait
		if now-h.since > holdFor {
			p = expired
		}
		if !r.record(h.x, p) {
			keep = append(keep, h)
		}
	}
	clear(r.held[len(keep):])
	r.held = keep
}

func (r *recorder) excluded(userAgent string) bool {
	for _, prefix := range r.cfg.ExcludeUserAgents {
		if strings.HasPrefix(userAgent, prefix) {
			return true
		}
	}
	return false
}

// toSelf tells whether the agent is the other end: by the address of one of its
// sockets, by its pod, by the name that it gives itself in requests (another
// node's agent, or one behind address translation).
func (r *recorder) toSelf(x *exchange) bool {
	c := x.conn
	if c.self < 0 {
		c.self = 0
		if r.isSelf != nil && r.isSelf(c.remote, c.netns) {
			c.self = 1
		}
	}
	if c.self == 1 || strings.HasPrefix(x.req.userAgent, "nodetap/") {
		return true
	}
	if r.self == nil || r.self.PodUID == "" {
		return false
	}
	p := r.peer(c)
	if p == nil || p.Resource == nil {
		return false
	}
	if p.Resource.PodUID == r.self.PodUID {
		return true
	}
	own := r.pods.Container(r.self.ID)
	return own != nil && own.WorkloadKind == "DaemonSet" && p.Resource.WorkloadKind == "DaemonSet" &&
		own.WorkloadName == p.Resource.WorkloadName && own.Namespace == p.Resource.Namespace
}

// peer returns who is at the other end, nil when nobody knows.
func (r *recorder) peer(c *conn) *pods.Peer {
	if v := r.pods.Version() + 1; c.peerVersion != v {
		c.peer, c.peerOK = r.pods.Peer(c.remote)
		c.peerVersion = v
	}
	if !c.peerOK {
		return nil
	}
	return &c.peer
}

// behind adds the pod that answers for a Service to what the client's address
// tells, where that pod is on this node.
func (r *recorder) behind(x *exchange, p *pods.Peer) *pods.Peer {
	if x.role != roleClient || p == nil || p.Service == "" || p.Resource != nil {
		return p
	}
	if x.conn.server == 0 {
		x.conn.server = r.pairs.server(x) // a connection leads to one pod for as long as it lives
	}
	if x.conn.server == 0 {
		return p
	}
	c := r.find(x.conn.server)
	if c == nil {
		return p
	}
	with := *p
	with.Resource = r.pods.Container(c.ID)
	return &with
}

// record counts the exchange and makes its span. It returns false, which only
// mayWait allows, when it is not known yet whose it is.
func (r *recorder) record(x *exchange, wait patience) bool {
	t := r.target(x, wait)
	if t == nil {
		switch {
		case !r.all && r.policyOf(x.cgroup) == policyDeny, wait == expired:
			r.stats.drop(dropNotContainer, 1)
			return true
		case wait == mayWait:
			return false
		}
		t = r.nobody()
	}
	if t.res == nil {
		return false
	}
	peer := r.behind(x, r.peer(x.conn))
	f := factsOf(x, peer)
	f.route = r.route(t.res, x, &f)
	k := seriesKey{
		client: x.role == roleClient, method: f.method, route: f.route, status: x.status, errType: f.errType,
		version: f.version, peer: f.peer, peerNS: f.peerNS,
	}
	if k.client {
		k.host, k.port = f.host, f.port
	}
	start, end := r.wall(x.start), r.wall(x.end)
	if r.red.record(t.owner, t.res, k, float64(x.end-x.start)/1e9, end) {
		r.stats.overflow.Inc()
	}
	if t.owner == ownerUnknown { // it may be no container's
		r.stats.drop(dropHeld, 1)
		return true
	}
	if !r.cfg.Spans || !r.wants() {
		r.stats.drop(dropUnwanted, 1)
		return true
	}
	b := r.batches[t.res]
	if b == nil {
		b = &telemetry.SpanBatch{Resource: t.res}
		r.batches[t.res] = b
	}
	b.Spans = append(b.Spans, makeSpan(x, &f, peer, start, end, r.room()))
	n := len(b.Spans)
	r.used(b.Spans[n-1].Attrs)
	if n >= batchSize {
		delete(r.batches, t.res)
		r.full(b)
	}
	return true
}

// room and used give the attributes of many spans one array.
func (r *recorder) room() []telemetry.Attr {
	if cap(r.attrs)-len(r.attrs) < maxAttrs {
		r.attrs = make([]telemetry.Attr, 0, 32*maxAttrs)
	}
	n := len(r.attrs)
	return r.attrs[n : n : n+maxAttrs]
}

func (r *recorder) used(attrs []telemetry.Attr) {
	r.attrs = r.attrs[:len(r.attrs)+len(attrs)]
}

// flush hands every batch on.
func (r *recorder) flush() {
	for res, b := range r.batches {
		delete(r.batches, res)
		r.full(b)
	}
}

// route names the route by the tables of the service and direction.
func (r *recorder) route(res *telemetry.Resource, x *exchange, f *facts) string {
	if x.req.method == "CONNECT" || f.path == "" || f.path[0] != '/' {
		return ""
	}
	key := routeKey{client: x.role == roleClient}
	switch {
	case key.client:
		key.service = f.host // a client's routes are those of who serves them
	case res.WorkloadName != "":
		key.service = res.Namespace + "/" + res.WorkloadKind + "/" + res.WorkloadName
	default:
		key.service = res.Namespace + "/" + res.Pod + "/" + res.ServiceName
	}
	t := r.routes[key]
	if t == nil {
		if len(r.routes) >= 1024 {
			return routeOther
		}
		t = &routes{max: r.cfg.MaxRoutes}
		r.routes[key] = t
	}
	// answers that say that there is no such route do not make one
	learn := x.status < 400 || x.status >= 500 || x.status == 401 || x.status == 403 || x.status == 409 || x.status == 422 || x.status == 429
	return t.name(f.path, learn)
}

// target returns whose exchange it is, nil when nobody knows, and one without a
// Resource when its pod is not known yet, which only mayWait allows.
func (r *recorder) target(x *exchange, wait patience) *target {
	version := r.pods.Version() + 1
	t := r.targets[x.cgroup]
	if t != nil && t.version == version && t.res != nil {
		return t
	}
	c := r.find(x.cgroup)
	if c == nil && t != nil {
		c = t.container
	}
	if c == nil || c.Kind != containers.KindContainer {
		if !r.all {
			return nil
		}
		res := r.process(x.tgid)
		return &target{res: res, owner: "process/" + res.ServiceName}
	}
	if t == nil {
		t = &target{container: c, owner: c.ID}
		if len(r.targets) >= 4096 {
			clear(r.targets)
		}
		r.targets[x.cgroup] = t
	}
	if res := r.pods.Container(c.ID); res != nil {
		t.res = res
	} else if t.res == nil && (wait == expired || c.PodUID == "" || !r.pods.Learns()) { // nobody will say more soon
		t.res = r.partial(t)
	}
	t.version = version
	if t.res == nil && wait == noRoom {
		return &target{container: t.container, res: r.partial(t), owner: t.owner}
	}
	return t
}

// partial returns the Resource of a container whose pod is not known.
func (r *recorder) partial(t *target) *telemetry.Resource {
	if t.partial == nil {
		n := r.node
		n.PodUID, n.ContainerID, n.Partial = t.container.PodUID, t.container.ID, true
		t.partial = &n
	}
	return t.partial
}

// nobody returns whom exchanges belong to that cannot wait for their cgroup's
// container.
func (r *recorder) nobody() *target {
	if r.unknown == nil {
		n := r.node
		n.Partial = true
		r.unknown = &target{res: &n, owner: ownerUnknown}
	}
	return r.unknown
}

// process returns the Resource of a process outside containers.
func (r *recorder) process(tgid uint32) *telemetry.Resource {
	if res := r.processes[tgid]; res != nil {
		return res
	}
	name := "unknown"
	if b, err := os.ReadFile(filepath.Join(r.host.Proc, strconv.Itoa(int(tgid)), "comm")); err == nil {
		name = strings.ToValidUTF8(string(bytes.TrimSpace(b)), "\uFFFD")
	}
	res := r.names[name]
	if res == nil {
		if len(r.names) >= 512 {
			clear(r.names)
		}
		n := r.node
		n.ServiceName = name
		n.Attributes = []telemetry.Attr{telemetry.String("process.executable.name", name)}
		res = &n
		r.names[name] = res
	}
	if len(r.processes) >= 4096 {
		clear(r.processes) // ids are used again
	}
	r.processes[tgid] = res
	return res
}
