package metrics

import (
	"sort"
	"sync"
	"time"
)

// Source writes what it knows now. It is called for each scrape, by one
// goroutine at a time per source, and must not block on anything slow: a source
// that reads the kernel does so on a schedule of its own.
type Source interface {
	Collect(b *Builder)
}

// SourceFunc makes a function a Source.
type SourceFunc func(b *Builder)

// Collect calls f.
func (f SourceFunc) Collect(b *Builder) { f(b) }

// Registry knows the sources of each scrape path. Safe for concurrent use.
type Registry struct {
	mu    sync.Mutex
	paths map[string][]*entry
}

type entry struct {
	mu     sync.Mutex
	source Source
}

// NewRegistry returns an empty registry.
func NewRegistry() *Registry { return &Registry{paths: map[string][]*entry{}} }

// Register adds a source to a path ("/metrics/cadvisor") and returns the
// function that takes it out again.
func (r *Registry) Register(path string, s Source) (unregister func()) {
	e := &entry{source: s}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.paths[path] = append(r.paths[path], e)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		list := r.paths[path]
		for i := range list {
			if list[i] == e {
				r.paths[path] = append(list[:i:i], list[i+1:]...)
				break
			}
		}
	}
}

// Paths returns the paths that have a source, sorted.
func (r *Registry) Paths() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for p, list := range r.paths {
		if len(list) > 0 {
			out = append(out, p)
		}
	}
	sort.Strings(out)
	return out
}

// Snapshot asks every source of the path. It returns an empty snapshot for a
// path without sources.
func (r *Registry) Snapshot(path string) *Snapshot {
	r.mu.Lock()
	list := append([]*entry(nil), r.paths[path]...)
	r.mu.Unlock()
	b := &Builder{}
	for _, e := range list {
		e.mu.Lock()
		e.source.Collect(b)
		e.mu.Unlock()
	}
	return b.Snapshot(time.Now().UnixNano())
}

// Builder gathers families. The zero value is ready.
type Builder struct {
	byDesc   map[*Desc]int
	families []Family
}

// Family returns the family of d to append series to. The pointer is valid
// until the next call.
func (b *Builder) Family(d *Desc) *Family {
	if b.byDesc == nil {
		b.byDesc = make(map[*Desc]int, 64)
	}
	i, ok := b.byDesc[d]
	if !ok {
		i = len(b.families)
		b.byDesc[d] = i
		b.families = append(b.families, Family{Desc: d})
	}
	return &b.families[i]
}

// Add appends one series to the family of d.
func (b *Builder) Add(d *Desc, s Series) {
	f := b.Family(d)
	f.Series = append(f.Series, s)
}

// Snapshot returns what was gathered, sorted by name, without empty families.
// The builder must not be used afterwards.
func (b *Builder) Snapshot(unixNano int64) *Snapshot {
	out := b.families[:0]
	for _, f := range b.families {
		if len(f.Series) > 0 {
			out = append(out, f)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Desc.Name < out[j].Desc.Name })
	return &Snapshot{Families: out, Time: unixNano}
}
