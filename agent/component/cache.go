package component

import (
	"sync"

	"nodetap/agent/telemetry"
)

// ResourceCache keeps what an exporter renders for a *telemetry.Resource, by
// the pointer. It holds at most twice its size and forgets what was not asked
// for longest, in halves. Safe for concurrent use.
type ResourceCache[T any] struct {
	render func(*telemetry.Resource) T
	size   int

	mu       sync.RWMutex
	now, old map[*telemetry.Resource]T
}

// NewResourceCache returns a cache of size entries (1024 when size is not
// positive) that are made by render, which must be pure: it may be called twice
// for one pointer.
func NewResourceCache[T any](size int, render func(*telemetry.Resource) T) *ResourceCache[T] {
	if size <= 0 {
		size = 1024
	}
	return &ResourceCache[T]{render: render, size: size, now: make(map[*telemetry.Resource]T)}
}

// Get returns what render made of r.
func (c *ResourceCache[T]) Get(r *telemetry.Resource) T {
	c.mu.RLock()
	v, ok := c.now[r]
	c.mu.RUnlock()
	if ok {
		return v
	}
	c.mu.Lock()
	v, ok = c.old[r]
	c.mu.Unlock()
	if !ok {
		v = c.render(r)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.now) >= c.size {
		c.old, c.now = c.now, make(map[*telemetry.Resource]T, c.size)
	}
	c.now[r] = v
	return v
}
