package pods

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"nodetap/agent/telemetry"
)

// peers knows addresses beyond this node: what Services and EndpointSlices tell,
// and with peers: pods every pod. It holds at most max addresses.
type peers struct {
	max     int
	id      *identity
	dropped func()

	mu       sync.RWMutex
	used     int
	services map[string]*service // by namespace/name
	slices   map[string]*slice
	pods     map[string]*remote // by UID
	byIP     map[netip.Addr]*address
}

// address is what is known of one address.
type address struct {
	services  []*service // whose cluster, external or load balancer address it is
	endpoints []*endpoint
	pods      []*remote
	res       atomic.Pointer[telemetry.Resource]
}

type service struct {
	namespace, name string
	ips             []netip.Addr
	ports           []uint16
}

type slice struct {
	namespace, name, service string
	ports                    []uint16 // none: every port
	endpoints                []*endpoint
}

// endpoint is one address of an EndpointSlice.
type endpoint struct {
	ip             netip.Addr
	pod, namespace string // "" when no pod is behind it
	uid, node      string
	slice          *slice
}

// remote is a pod of another node.
type remote struct {
	uid, namespace, name, node string
	ips                        []netip.Addr
	hostNetwork, done          bool
	workload, owner            owner
}

func newPeers(limit int, id *identity, dropped func()) *peers {
	return &peers{max: limit, id: id, dropped: dropped, services: map[string]*service{},
		slices: map[string]*slice{}, pods: map[string]*remote{}, byIP: map[netip.Addr]*address{}}
}

func (p *peers) count() int {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return len(p.byIP)
}

// find tells who has the address; port chooses between Services. serves tells
// whether the Service has that port: of an address that many pods share, nothing
// else tells whose it is.
func (p *peers) find(ip netip.Addr, port uint16) (out Peer, serves, ok bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	a := p.byIP[ip]
	if a == nil {
		return Peer{}, false, false
	}
	if s := choose(a.services, port, func(s *service) (string, string, []uint16) { return s.namespace, s.name, s.ports }); s != nil {
		out.Service, out.ServiceNamespace = s.name, s.namespace
		return out, hasPort(s.ports, port), true
	}
	e := choose(a.endpoints, port, func(e *endpoint) (string, string, []uint16) {
		return e.slice.namespace, e.slice.service, e.slice.ports
	})
	if e != nil {
		out.Service, out.ServiceNamespace, serves = e.slice.service, e.slice.namespace, hasPort(e.slice.ports, port)
	}
	if node, shared := a.host(); shared {
		if out.Node = node; !serves {
			out.Service, out.ServiceNamespace = "", ""
		}
		return out, serves, true
	}
	out.Resource = a.resource(p.id)
	return out, serves, out.Resource != nil || out.Service != ""
}

// host tells whether the address is a node's: a pod with host network has it, or
// several pods share it.
func (a *address) host() (node string, shared bool) {
	for _, r := range a.pods {
		if r.hostNetwork {
			return r.node, true
		}
	}
	var seen *endpoint
	for _, e := range a.endpoints {
		if e.pod == "" {
			continue
		}
		if seen != nil && (seen.pod != e.pod || seen.namespace != e.namespace) {
			return e.node, true
		}
		seen = e
	}
	return "", false
}

// resource returns the pod that has the address, nil for none.
func (a *address) resource(id *identity) *telemetry.Resource {
	if r := a.res.Load(); r != nil {
		return r
	}
	var r *telemetry.Resource
	for _, q := range a.pods {
		if !q.done {
			r = &telemetry.Resource{Cluster: id.cluster, Node: q.node, Namespace: q.namespace, Pod: q.name, PodUID: q.uid,
				WorkloadKind: q.workload.Kind, WorkloadName: q.workload.Name, OwnerKind: q.owner.Kind, OwnerName: q.owner.Name,
				PodIP: q.ips[0].String(), Partial: true}
		}
	}
	if r == nil {
		for _, e := range a.endpoints {
			if e.pod != "" {
				r = &telemetry.Resource{Cluster: id.cluster, Node: e.node, Namespace: e.namespace, Pod: e.pod, PodUID: e.uid,
					PodIP: e.ip.String(), Partial: true}
				break
			}
		}
	}
	if r != nil && !a.res.CompareAndSwap(nil, r) {
		r = a.res.Load()
	}
	return r
}

// choose returns the entry that has the port, else the first by name.
func choose[T any](list []*T, port uint16, of func(*T) (namespace, name string, ports []uint16)) *T {
	var best *T
	for _, v := range list {
		ns, name, ports := of(v)
		if name == "" {
			continue
		}
		if best == nil {
			best = v
			continue
		}
		bns, bname, bports := of(best)
		if has, had := hasPort(ports, port), hasPort(bports, port); has != had {
			if has {
				best = v
			}
		} else if cmp.Or(strings.Compare(ns, bns), strings.Compare(name, bname)) < 0 {
			best = v
		}
	}
	return best
}

func hasPort(ports []uint16, port uint16) bool {
	return len(ports) == 0 || slices.Contains(ports, port)
}

// at returns the entry of an address to add to, nil when there is no room. The
// caller holds mu.
func (p *peers) at(ip netip.Addr) *address {
	if p.used >= p.max {
		p.dropped()
		return nil
	}
	p.used++
	a := p.byIP[ip]
	if a == nil {
		a = &address{}
		p.byIP[ip] = a
	}
	a.res.Store(nil)
	return a
}

// drop removes v from a list of an address. The caller holds mu.
func drop[T comparable](p *peers, ip netip.Addr, v T, list func(*address) *[]T) {
	a := p.byIP[ip]
	if a == nil {
		return
	}
	l := list(a)
	i := slices.Index(*l, v)
	if i < 0 {
		return
	}
	*l = slices.Delete(*l, i, i+1)
	p.used--
	a.res.Store(nil)
	if len(a.services)+len(a.endpoints)+len(a.pods) == 0 {
		delete(p.byIP, ip)
	}
}

func ofServices(a *address) *[]*service   { return &a.services }
func ofEndpoints(a *address) *[]*endpoint { return &a.endpoints }
func ofPods(a *address) *[]*remote        { return &a.pods }

func (p *peers) setService(s *service) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unsetService(s)
	p.services[s.namespace+"/"+s.name] = s
	for _, ip := range s.ips {
		if a := p.at(ip); a != nil {
			a.services = append(a.services, s)
		}
	}
}

func (p *peers) unsetService(s *service) {
	key := s.namespace + "/" + s.name
	if old := p.services[key]; old != nil {
		for _, ip := range old.ips {
			drop(p, ip, old, ofServices)
		}
		delete(p.services, key)
	}
}

func (p *peers) setSlice(s *slice) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unsetSlice(s)
	p.slices[s.namespace+"/"+s.name] = s
	for _, e := range s.endpoints {
		if a := p.at(e.ip); a != nil {
			a.endpoints = append(a.endpoints, e)
		}
	}
}

func (p *peers) unsetSlice(s *slice) {
	key := s.namespace + "/" + s.name
	if old := p.slices[key]; old != nil {
		for _, e := range old.endpoints {
			drop(p, e.ip, e, ofEndpoints)
		}
		delete(p.slices, key)
	}
}

func (p *peers) setPod(r *remote) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unsetPod(r)
	p.pods[r.uid] = r
	for _, ip := range r.ips {
		if a := p.at(ip); a != nil {
			a.pods = append(a.pods, r)
		}
	}
}

func (p *peers) unsetPod(r *remote) {
	if old := p.pods[r.uid]; old != nil {
		for _, ip := range old.ips {
			drop(p, ip, old, ofPods)
		}
		delete(p.pods, r.uid)
	}
}
