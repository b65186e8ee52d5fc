package apm

import (
	"sync"

	"nodetap/agent/containers"
)

// What a cgroup's policy can be, as in bpf/apm.bpf.c.
const (
	policyPending uint32 = 0
	policyTrace   uint32 = 1
	policyDeny    uint32 = 2
)

// pendingFor is how long a cgroup that no container is known for stays traced
// before it is denied: the registry may learn of it a moment later. Nanoseconds.
const pendingFor = int64(3e9)

const maxPolicies = 65536

// policy says which cgroups are traced. The kernel asks about each cgroup once
// and traces it until it is answered. Safe for concurrent use.
type policy struct {
	all    bool // processes outside containers too
	lookup func(cgroup uint64) *containers.Container
	put    func(cgroup uint64, policy uint32) error
	remove func(cgroup uint64) error

	mu      sync.Mutex
	state   map[uint64]uint32
	pending map[uint64]int64 // since when
	denied  map[uint64]int64
	self    uint64
}

func newPolicy(all bool, lookup func(uint64) *containers.Container, put func(uint64, uint32) error, remove func(uint64) error) *policy {
	return &policy{
		all: all, lookup: lookup, put: put, remove: remove,
		state: make(map[uint64]uint32), pending: make(map[uint64]int64), denied: make(map[uint64]int64),
	}
}

// excludeSelf denies the agent's own container for good.
func (p *policy) excludeSelf(cgroup uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if cgroup != 0 {
		p.self = cgroup
		p.set(cgroup, policyDeny)
	}
}

// asked answers the kernel's question about a cgroup.
func (p *policy) asked(cgroup uint64, now int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if v, known := p.state[cgroup]; known {
		_ = p.put(cgroup, v) // evicted from the kernel's map: say it again
		return
	}
	if len(p.state) >= maxPolicies {
		clear(p.state) // cgroups that came and went; those in use are asked about again
		clear(p.pending)
		clear(p.denied)
		p.set(p.self, policyDeny)
	}
	if c := p.lookup(cgroup); c != nil && c.CgroupID == p.self && p.self != 0 {
		p.set(cgroup, policyDeny) // a child of the agent's own container
	} else if p.all || c != nil && c.Kind == containers.KindContainer {
		p.set(cgroup, policyTrace)
	} else {
		p.state[cgroup] = policyPending
		p.pending[cgroup] = now
	}
}

// event follows the life of containers: one that is new is traced before its
// first request.
func (p *policy) event(e containers.Event) {
	if e.Container.Kind != containers.KindContainer || e.Container.CgroupID == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	id := e.Container.CgroupID
	switch {
	case id == p.self:
	case e.Removed:
		delete(p.state, id)
		delete(p.pending, id)
		delete(p.denied, id)
		_ = p.remove(id) // it may never have been asked for
	default:
		p.set(id, policyTrace)
	}
}

// review decides what is pending, looks again at what was denied, and forgets
// cgroups that were denied long ago: should they live, the kernel asks anew.
func (p *policy) review(now int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, since := range p.pending {
		if c := p.lookup(id); c != nil && c.Kind == containers.KindContainer {
			p.set(id, policyTrace)
		} else if now-since > pendingFor {
			p.set(id, policyDeny)
			p.denied[id] = now
		}
	}
	for id, since := range p.denied {
		if c := p.lookup(id); c != nil && c.Kind == containers.KindContainer {
			p.set(id, policyTrace)
		} else if now-since > 600e9 {
			delete(p.denied, id)
			delete(p.state, id)
			_ = p.remove(id)
		}
	}
}

// of returns the policy of a cgroup; pending when it is not known.
func (p *policy) of(cgroup uint64) uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state[cgroup]
}

func (p *policy) set(cgroup uint64, policy uint32) {
	p.state[cgroup] = policy
	delete(p.pending, cgroup)
	delete(p.denied, cgroup)
	if p.put(cgroup, policy) != nil {
		delete(p.state, cgroup) // it stays as the kernel has it
	}
}
