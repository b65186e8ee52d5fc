package containers

import (
	"context"
	"sync"
)

type subscriber struct {
	f     func(Event)
	queue []Event // guarded by Registry.mu

	mu     sync.Mutex // held while f runs
	closed bool
}

// Subscribe calls f for every container that is there, then for each that comes
// or goes, in order, from one goroutine (Run's: nothing is called before Run or
// after it). f must not block. The returned function ends that: f is not called
// once it has returned. It must not be called by f.
func (r *Registry) Subscribe(f func(Event)) (cancel func()) {
	s := &subscriber{f: f}
	r.mu.Lock()
	for _, c := range r.list() {
		s.queue = append(s.queue, Event{Container: c})
	}
	r.subs = append(r.subs, s)
	r.mu.Unlock()
	r.notify()
	return func() {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		r.mu.Lock()
		defer r.mu.Unlock()
		for i := range r.subs {
			if r.subs[i] == s {
				r.subs = append(r.subs[:i:i], r.subs[i+1:]...)
				return
			}
		}
	}
}

// publish queues e; r.mu is held.
func (r *Registry) publish(e Event) {
	for _, s := range r.subs {
		s.queue = append(s.queue, e)
	}
}

func (r *Registry) notify() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// dispatch delivers events until ctx ends.
func (r *Registry) dispatch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
		r.mu.RLock()
		subs := append([]*subscriber(nil), r.subs...)
		r.mu.RUnlock()
		for _, s := range subs {
			r.mu.Lock()
			queue := s.queue
			s.queue = nil
			r.mu.Unlock()
			for _, e := range queue {
				s.mu.Lock()
				if !s.closed && ctx.Err() == nil {
					s.f(e)
				}
				s.mu.Unlock()
			}
		}
	}
}
