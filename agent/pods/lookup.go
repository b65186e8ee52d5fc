package pods

import (
	"net/netip"
	"time"

	"nodetap/agent/telemetry"
)

// Container returns the Resource of a container by the runtime's id. It is nil
// while nobody has said what the id is: of a container younger than its pod's
// status and its log's link, and always of a pod's sandbox (pause) container,
// which neither the API server nor a log path names. Whoever knows the pod's UID
// from the cgroup path asks Pod for that.
func (s *Store) Container(id string) *telemetry.Resource {
	if !IsContainerID(id) {
		return nil
	}
	s.mu.RLock()
	if ref, ok := s.ids[id]; ok {
		r := s.cached(ref.e, resKey{ref.name, ref.restart})
		s.mu.RUnlock()
		if r == nil {
			r = s.make(ref.e, resKey{ref.name, ref.restart})
		}
		return r
	}
	f, linked := s.linkIDs[id]
	s.mu.RUnlock()
	if linked {
		return s.logFile(f)
	}
	s.self.missContainer.Inc()
	s.wantLinks()
	return nil
}

// LogPath returns the Resource of the container whose log lies in
// <namespace>_<pod>_<uid>/<container>/<restart>.log. It is never nil: before
// the pod is known it is Partial, made from the path. ContainerID is "" while
// neither the pod's status nor a link in /var/log/containers has told it.
func (s *Store) LogPath(namespace, pod, uid, container string, restart int) *telemetry.Resource {
	return s.logFile(LogFile{namespace, pod, uid, container, restart})
}

func (s *Store) logFile(f LogFile) *telemetry.Resource {
	k := resKey{f.Container, f.Restart}
	s.mu.RLock()
	e := s.find(f.UID)
	if e != nil && (e.pod.Namespace != f.Namespace || e.pod.Name != f.Pod) {
		e = nil // a path that contradicts the API server names itself alone
	}
	var r *telemetry.Resource
	if e != nil {
		r = s.cached(e, k)
	} else if p := s.partial[f]; p != nil {
		p.used.Store(time.Now().UnixNano())
		r = p.res
	}
	s.mu.RUnlock()
	switch {
	case r != nil:
	case e != nil:
		r = s.make(e, k)
	default:
		s.self.missLogPath.Inc()
		r = s.makePartial(f)
	}
	if r.ContainerID == "" {
		s.wantLinks()
	}
	return r
}

func (s *Store) makePartial(f LogFile) *telemetry.Resource {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.partial[f]; p != nil {
		return p.res
	}
	if len(s.partial) >= maxPartial {
		for other := range s.partial { // any: it is made again when it is asked for
			delete(s.partial, other)
			break
		}
	}
	p := &partial{res: s.id.path(f, s.links[f])}
	p.used.Store(time.Now().UnixNano())
	s.partial[f] = p
	return p.res
}

// Pod returns the Resource of a pod itself by UID, nil when it is not known.
// Static pods are found by the UID in their paths (the config hash) too.
func (s *Store) Pod(uid string) *telemetry.Resource {
	s.mu.RLock()
	e := s.find(uid)
	if e == nil {
		s.mu.RUnlock()
		s.self.missPod.Inc()
		return nil
	}
	r := s.cached(e, resKey{})
	s.mu.RUnlock()
	if r == nil {
		r = s.make(e, resKey{})
	}
	return r
}

// HostNetwork tells whether the pod shares the node's network namespace; false
// when it is not known.
func (s *Store) HostNetwork(uid string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e := s.find(uid)
	return e != nil && e.pod.HostNetwork
}

// Peer tells who has the address. ok is false when nobody known does. The
// addresses of host-network pods belong to their node. Loopback addresses are
// nobody's: only the caller knows whose loopback it is.
func (s *Store) Peer(addr netip.AddrPort) (p Peer, ok bool) {
	ip := addr.Addr().Unmap().WithZone("")
	if !ip.IsValid() || ip.IsLoopback() || ip.IsUnspecified() {
		return Peer{}, false
	}
	p, serves, found := s.peers.find(ip, addr.Port())
	s.mu.RLock()
	e := s.ips[ip]
	onNode := s.nodeIPs[ip]
	var r *telemetry.Resource
	if e != nil {
		r = s.cached(e, resKey{})
	}
	s.mu.RUnlock()
	switch {
	case e != nil:
		if r == nil {
			r = s.make(e, resKey{})
		}
		p.Resource, p.Node = r, ""
	case onNode:
		p.Resource, p.Node = nil, s.o.NodeName
		if !serves {
			p.Service, p.ServiceNamespace = "", ""
		}
	case !found:
		s.self.missPeer.Inc()
		return Peer{}, false
	}
	return p, true
}

// find returns the pod by either of its UIDs. The caller holds mu.
func (s *Store) find(uid string) *entry {
	if uid == "" {
		return nil
	}
	if e := s.pods[uid]; e != nil {
		return e
	}
	return s.pods[s.alias[uid]]
}

// cached returns a Resource that has been made already, nil if not. The caller
// holds mu.
func (s *Store) cached(e *entry, k resKey) *telemetry.Resource {
	if !e.deleted.IsZero() {
		e.used.Store(time.Now().UnixNano())
	}
	return e.res[k]
}

func (s *Store) make(e *entry, k resKey) *telemetry.Resource {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := e.res[k]; r != nil {
		return r
	}
	if len(e.res) >= 2*maxRuns {
		for old := range e.res { // any but the pod's own: it is made again when asked for
			if old != (resKey{}) {
				delete(e.res, old)
				break
			}
		}
	}
	r := s.build(e, k)
	e.res[k] = r
	return r
}
