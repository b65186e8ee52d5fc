package cgroup

import (
	"bytes"
	"strconv"
	"time"

	"nodetap/agent/metrics"
	"nodetap/agent/telemetry"
)

// role is what a row says it is.
type role uint8

const (
	roleNone      role = iota // not decided yet: no row
	roleContainer             // a container with a name
	roleSandbox               // a pod's pause container
	rolePod
	roleOther // the node, /kubepods, and containers that nobody names
)

// set chooses among the label sets of a row.
type set uint8

const (
	setBase set = iota
	setTotal
	setFault
	setMajorFault
	setFaultAll
	setMajorFaultAll
	numSets
)

// rowLabels are the rendered labels of one row. They live as long as its name.
type rowLabels struct {
	pairs      []metrics.Label
	promOnly   bool // OTLP has no such row
	noDisks    bool // OTLP has the row, without its devices: no pod's in the conventions
	sets       [numSets]*metrics.Labels
	devices    map[device]*metrics.Labels
	interfaces map[string]*metrics.Labels
}

// The labels that kubelet writes on every row, be they empty.
var always = []string{"container", "id", "image", "name", "namespace", "pod"}

func newRowLabels(id, name, image string, r *telemetry.Resource, promOnly bool) *rowLabels {
	l := &rowLabels{promOnly: promOnly, devices: map[device]*metrics.Labels{}, interfaces: map[string]*metrics.Labels{}}
	if r == nil {
		r = &telemetry.Resource{}
	}
	l.pairs = []metrics.Label{
		{Name: "container", Value: r.Container}, {Name: "id", Value: id}, {Name: "image", Value: image},
		{Name: "name", Value: name}, {Name: "namespace", Value: r.Namespace}, {Name: "pod", Value: r.Pod},
	}
	fault := func(kind, scope, attr string) *metrics.Labels {
		return l.with(metrics.Label{Name: "failure_type", Value: kind, Attr: attr}, metrics.Label{Name: "scope", Value: scope})
	}
	l.sets = [numSets]*metrics.Labels{
		setBase:          l.with(),
		setTotal:         l.with(metrics.Label{Name: "cpu", Value: "total"}).PromOnly(), // OTLP has user and system
		setFault:         fault("pgfault", "container", "").PromOnly(),
		setMajorFault:    fault("pgmajfault", "container", "").PromOnly(),
		setFaultAll:      fault("pgfault", "hierarchy", "failure_type"),
		setMajorFaultAll: fault("pgmajfault", "hierarchy", "failure_type"),
	}
	return l
}

func (l *rowLabels) with(extra ...metrics.Label) *metrics.Labels {
	out := metrics.NewLabels(append(l.pairs[:len(l.pairs):len(l.pairs)], extra...), always...)
	if l.promOnly {
		out.PromOnly()
	}
	return out
}

func (l *rowLabels) device(d device, name func(device) string) *metrics.Labels {
	got := l.devices[d]
	if got == nil {
		if got = l.with(metrics.Label{Name: "device", Value: name(d), Attr: "system.device"}); l.noDisks {
			got.PromOnly()
		}
		l.devices[d] = got
	}
	return got
}

// network is labels for an interface; unlike the other rows of a sandbox they
// are not Prometheus' alone, for the pod's network stands nowhere else.
func (l *rowLabels) network(name string) *metrics.Labels {
	got := l.interfaces[name]
	if got == nil {
		got = metrics.NewLabels(append(l.pairs[:len(l.pairs):len(l.pairs)],
			metrics.Label{Name: "interface", Value: name, Attr: "network.interface.name"}), always...)
		l.interfaces[name] = got
	}
	return got
}

// nameRows asks who each row is about.
func (c *Collector) nameRows() {
	for _, u := range c.order {
		was, whose := u.role, u.names
		switch u.kind {
		case kindNode, kindGroup:
			u.role, u.names = roleOther, nil
		case kindPod:
			u.role, u.names = rolePod, c.podResource(u.pod)
		case kindContainer:
			u.role, u.names = c.nameContainer(u)
			if u.role == roleNone || u.role == roleOther && u.young(c.now) {
				c.naming = true
			}
		}
		if u.role == was && u.names == whose && u.row.labels != nil || u.role == roleNone {
			continue
		}
		l := c.labelsOf(u)
		l.noDisks = u.role != roleContainer
		c.mu.Lock()
		u.row.labels, u.row.resource = l, u.names
		c.mu.Unlock()
	}
}

func (c *Collector) labelsOf(u *unit) *rowLabels {
	switch u.role {
	case roleContainer:
		return newRowLabels(u.path, u.c.ID, u.names.Image, u.names, false)
	case roleSandbox:
		// Its pod's resource: OTLP would take its values for the pod's.
		return newRowLabels(u.path, u.c.ID, c.cfg.SandboxImage, u.names, true)
	case rolePod:
		return newRowLabels(u.path, "", "", u.names, u.names == nil)
	}
	name := ""
	if u.c != nil {
		name = u.c.ID
	}
	return newRowLabels(u.path, name, "", u.names, u.kind == kindGroup)
}

// nameContainer tells what a container is. A container whose name nobody knows
// yet has no row for a while: kubelet writes names into the pod's status a
// second or two after the cgroup is there, and a row without them would be
// another series.
func (c *Collector) nameContainer(u *unit) (role, *telemetry.Resource) {
	if r := c.pods.Container(u.c.ID); r != nil && r.Container != "" {
		return roleContainer, r
	}
	if u.pod.uid == "" {
		return roleOther, c.anonymous(u, nil)
	}
	known := c.podResource(u.pod)
	old := c.now.Sub(u.c.FirstSeen) >= c.cfg.UnknownAfter
	switch {
	case known != nil && c.oldest(u) && (old || c.isPause(u)):
		return roleSandbox, known
	case old:
		return roleOther, c.anonymous(u, known)
	}
	return roleNone, nil
}

// anonymous returns the Resource of a container whose name nobody knows: its id
// and what is known of its pod.
func (c *Collector) anonymous(u *unit, pod *telemetry.Resource) *telemetry.Resource {
	if u.anonymous == nil || u.anonymousIn != pod {
		r := telemetry.Resource{Cluster: c.env.Cluster, Node: c.env.NodeName, PodUID: u.pod.uid}
		if pod != nil {
			r = *pod
		}
		r.ContainerID, r.Partial = u.c.ID, true
		u.anonymous, u.anonymousIn = &r, pod
	}
	return u.anonymous
}

// podResource returns the Resource of the pod itself, nil while nobody knows it.
func (c *Collector) podResource(p *pod) *telemetry.Resource {
	if p.uid == "" {
		return nil
	}
	if r := c.pods.Pod(p.uid); r != nil {
		return r
	}
	for _, u := range p.containers {
		r := c.pods.Container(u.c.ID)
		if r == nil || r.Pod == "" {
			continue
		}
		if p.from != r {
			p.from = r
			p.derived = &telemetry.Resource{Cluster: r.Cluster, Node: r.Node, Namespace: r.Namespace, Pod: r.Pod,
				PodUID: p.uid, PodIP: r.PodIP, WorkloadKind: r.WorkloadKind, WorkloadName: r.WorkloadName, Partial: true}
		}
		return p.derived
	}
	return nil
}

// oldest tells whether the cgroup was made before those of the pod's other
// containers: runtimes make the sandbox first, and neither the API server nor
// kubelet's links name it.
func (c *Collector) oldest(u *unit) bool {
	for _, o := range u.pod.containers {
		if o.inode < u.inode {
			return false
		}
	}
	return true
}

func (c *Collector) isPause(u *unit) bool {
	if len(u.read.pids) == 0 {
		return false
	}
	b, err := c.readFile(c.procPath(u.read.pids[0], "comm"))
	return err == nil && string(bytes.TrimSpace(b)) == "pause"
}

func (c *Collector) procPath(pid uint64, name string) string {
	return c.env.Host.Proc + "/" + strconv.FormatUint(pid, 10) + "/" + name
}

// findStart finds when the row's cgroup began: the start of its oldest process,
// since times of cgroup directories move. Whole seconds, so that another run of
// the agent finds the same.
func (c *Collector) findStart(u *unit) {
	switch {
	case u.start != 0:
		return
	case u.kind == kindNode:
		u.start = c.wallSeconds(0)
	case u.kind == kindPod:
		for _, o := range u.pod.containers {
			if o.start != 0 && (u.start == 0 || o.start < u.start) {
				u.start = o.start
			}
		}
	case u.kind == kindContainer:
		var first uint64
		for _, pid := range u.read.pids {
			b, err := c.readFile(c.procPath(pid, "stat"))
			if err != nil {
				continue
			}
			if t, ok := parseStartTime(b); ok && (first == 0 || t < first) {
				first = t
			}
		}
		if first != 0 {
			u.start = c.wallSeconds(first)
		}
	}
	if u.start == 0 && u.c != nil && !u.c.Existing && !u.young(c.now) {
		u.start = float64(u.c.FirstSeen.Unix())
	}
}

func (c *Collector) wallSeconds(sinceBoot uint64) float64 {
	return float64(c.env.Clock.Wall(int64(sinceBoot)*(int64(time.Second)/ticks)) / int64(time.Second))
}

// show gives scrapes what was read.
func (c *Collector) show() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.machineRows = c.machine.rows()
	for _, u := range c.order {
		r := &u.row
		r.shown = u.role != roleNone && r.labels != nil && !u.gone
		if !r.shown {
			continue
		}
		r.values = u.read.values
		r.set(lastSeen, float64(c.now.Unix()))
		r.created = 0
		if u.start != 0 {
			r.set(startTime, u.start)
			r.created = int64(u.start) * int64(time.Second)
		}
		r.io = r.io[:0]
		for _, d := range u.read.io {
			r.io = append(r.io, deviceRow{r.labels.device(d.device, c.devices.name), d.ioCounts})
		}
		r.net = r.net[:0]
		if u.kind == kindNode {
			r.net = c.host.net.appendRows(r.net, r.labels)
		}
	}
	for _, p := range c.podsBy {
		if u := p.networkUnit(); u != nil && u.row.shown {
			u.row.net = p.net.appendRows(u.row.net, u.row.labels)
		}
	}
}

// networkUnit returns the unit whose row has the pod's network: the sandbox's,
// the pod's where there is no sandbox (CRI-O can do without), the container's
// own outside Kubernetes; nil while that is not decided.
func (p *pod) networkUnit() *unit {
	for _, u := range p.containers {
		if u.role == roleSandbox || p.uid == "" {
			return u
		}
	}
	for _, u := range p.containers {
		if u.role == roleNone {
			return nil
		}
	}
	return p.unit
}
