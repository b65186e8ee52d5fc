package pods

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"nodetap/agent/telemetry"
)

const (
	maxDeleted = 2048 // deleted pods that are remembered at most
	maxPartial = 8192 // log files of unknown pods that are remembered at most
	maxRuns    = 64   // container ids that are remembered of a pod
)

// entry is a pod and what was made of it. Guarded by Store.mu, except used.
type entry struct {
	pod       *pod
	runs      []run // newest last
	res       map[resKey]*telemetry.Resource
	deleted   time.Time // zero: it lives
	confirmed bool      // the API server has named it since this agent's start
	used      atomic.Int64
}

// run is one run of a container: its id, and the restart that it is.
type run struct {
	id      string
	name    string
	restart int
}

type runRef struct {
	e *entry
	run
}

// resKey is one Resource of a pod; the zero key is the pod's own.
type resKey struct {
	container string
	restart   int
}

type partial struct {
	res  *telemetry.Resource
	used atomic.Int64
}

// upsert takes in what the API server (or the state file) says.
func (s *Store) upsert(p *pod, confirmed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.pods[p.UID]
	if e == nil {
		e = &entry{pod: &pod{}, res: map[resKey]*telemetry.Resource{}}
		s.pods[p.UID] = e
	} else if e.confirmed == confirmed && e.deleted.IsZero() && reflect.DeepEqual(e.pod, p) {
		return
	}
	old := e.pod
	if maps.Equal(old.Labels, p.Labels) {
		p.Labels = old.Labels
	}
	if maps.Equal(old.Annotations, p.Annotations) {
		p.Annotations = old.Annotations
	}
	e.pod, e.deleted = p, time.Time{}
	e.confirmed = e.confirmed || confirmed
	if p.PathUID != "" {
		s.alias[p.PathUID] = p.UID
	}
	s.learnRuns(e)
	s.learnAddrs(e, old)
	s.refresh(e)
	for f := range s.partial {
		if f.UID == p.UID || f.UID == p.PathUID {
			delete(s.partial, f)
		}
	}
	s.changed()
}

// learnRuns remembers the container ids that the status has now. It forgets the
// oldest of a pod that crashes forever.
func (s *Store) learnRuns(e *entry) {
	add := func(r run) {
		if r.id == "" || r.restart < 0 {
			return
		}
		if ref, ok := s.ids[r.id]; ok && ref.e == e {
			return
		}
		e.runs = append(e.runs, r)
		s.ids[r.id] = runRef{e, r}
	}
	for i := range e.pod.Containers {
		c := &e.pod.Containers[i]
		add(run{c.LastID, c.Name, c.Restart - 1})
		add(run{c.ID, c.Name, c.Restart})
	}
	for limit := max(maxRuns, 2*len(e.pod.Containers)); len(e.runs) > limit; e.runs = e.runs[1:] {
		delete(s.ids, e.runs[0].id)
	}
}

// learnAddrs makes the pod the owner of its addresses. A pod that has ended
// keeps them only until another has them: the network plugin gives them away
// before the API object is gone.
func (s *Store) learnAddrs(e *entry, old *pod) {
	p := e.pod
	for _, ip := range old.IPs {
		if s.ips[ip] == e && (p.HostNetwork || !slices.Contains(p.IPs, ip)) {
			delete(s.ips, ip)
		}
	}
	if p.HostNetwork {
		for _, ip := range p.IPs {
			s.nodeIPs[ip] = true
		}
	} else if !p.Done {
		for _, ip := range p.IPs {
			s.ips[ip] = e
		}
	}
	for _, ip := range p.HostIPs {
		s.nodeIPs[ip] = true
	}
}

// refresh renews the Resources that were handed out, where they changed.
func (s *Store) refresh(e *entry) (changed bool) {
	for k, old := range e.res {
		if r := s.build(e, k); !reflect.DeepEqual(old, r) {
			e.res[k], changed = r, true
		}
	}
	return changed
}

func (s *Store) build(e *entry, k resKey) *telemetry.Resource {
	if k == (resKey{}) {
		return s.id.pod(e.pod)
	}
	return s.id.container(e.pod, k.container, k.restart, s.runID(e, k))
}

// runID finds the container id of a run, "" while nobody has named it.
func (s *Store) runID(e *entry, k resKey) string {
	for i := len(e.runs) - 1; i >= 0; i-- {
		if r := &e.runs[i]; r.name == k.container && r.restart == k.restart {
			return r.id
		}
	}
	f := LogFile{Namespace: e.pod.Namespace, Pod: e.pod.Name, UID: e.pod.UID, Container: k.container, Restart: k.restart}
	if e.pod.PathUID != "" {
		f.UID = e.pod.PathUID
	}
	return s.links[f]
}

// remove marks a pod as deleted.
func (s *Store) remove(uid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.pods[uid]; e != nil && e.deleted.IsZero() {
		e.deleted = time.Now()
		s.dirty.Store(true)
	}
}

// replace takes a whole list: what is not in it has been deleted.
func (s *Store) replace(list []*pod) {
	seen := make(map[string]bool, len(list))
	for _, p := range list {
		seen[p.UID] = true
		s.upsert(p, true)
	}
	s.mu.RLock()
	var gone []string
	for uid := range s.pods {
		if !seen[uid] {
			gone = append(gone, uid)
		}
	}
	s.mu.RUnlock()
	for _, uid := range gone {
		s.remove(uid)
	}
	s.settled()
}

// expire forgets deleted pods that nobody asked for during KeepDeleted and whose
// log directory is gone. A pod that only the state file knows counts as deleted
// when its log directory is gone.
func (s *Store) expire(now time.Time) {
	type candidate struct {
		e    *entry
		last time.Time
	}
	var drained, unsure []candidate
	count := 0
	s.mu.RLock()
	for _, e := range s.pods {
		last := e.deleted
		if used := time.Unix(0, e.used.Load()); used.After(last) {
			last = used
		}
		switch {
		case e.deleted.IsZero() && !e.confirmed:
			unsure = append(unsure, candidate{e, last})
		case !e.deleted.IsZero():
			count++
			if now.Sub(last) >= s.cfg.KeepDeleted {
				drained = append(drained, candidate{e, last})
			}
		}
	}
	s.mu.RUnlock()

	var drop []*entry
	for _, c := range drained {
		if !s.hasLogs(c.e.pod) {
			drop = append(drop, c.e)
		}
	}
	var gone []string
	for _, c := range unsure {
		if s.o.LogDir != "" && !s.hasLogs(c.e.pod) {
			gone = append(gone, c.e.pod.UID)
		}
	}
	for _, uid := range gone {
		s.remove(uid)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range drop {
		s.forget(e)
	}
	for excess := count - len(drop) - maxDeleted; excess > 0; excess-- {
		var oldest *entry
		for _, e := range s.pods {
			if !e.deleted.IsZero() && (oldest == nil || e.deleted.Before(oldest.deleted)) {
				oldest = e
			}
		}
		if oldest == nil {
			break
		}
		s.forget(oldest)
	}
	for f, p := range s.partial {
		if now.Sub(time.Unix(0, p.used.Load())) >= s.cfg.KeepDeleted {
			delete(s.partial, f)
		}
	}
}

func (s *Store) forget(e *entry) {
	p := e.pod
	delete(s.pods, p.UID)
	if s.alias[p.PathUID] == p.UID {
		delete(s.alias, p.PathUID)
	}
	for _, r := range e.runs {
		if s.ids[r.id].e == e {
			delete(s.ids, r.id)
		}
	}
	for _, ip := range p.IPs {
		if s.ips[ip] == e {
			delete(s.ips, ip)
		}
	}
	s.changed()
}

// hasLogs tells whether kubelet still has a directory for the pod's logs.
func (s *Store) hasLogs(p *pod) bool {
	if s.o.LogDir == "" {
		return false
	}
	uid := p.UID
	if p.PathUID != "" {
		uid = p.PathUID
	}
	_, err := os.Lstat(filepath.Join(s.o.LogDir, "pods", p.Namespace+"_"+p.Name+"_"+uid))
	return err == nil
}
