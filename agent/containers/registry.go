package containers

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
)

// Config is the section `containers` of the configuration.
type Config struct{}

// Registry holds the containers of this node. Safe for concurrent use.
type Registry struct{}

// New returns a registry that knows nothing until Run. cgroupRoot is where the
// node's cgroup file systems are mounted ("/sys/fs/cgroup"), proc its /proc.
func New(cfg Config, cgroupRoot, proc string, log *slog.Logger, reg prometheus.Registerer) (*Registry, error) {
	return &Registry{}, nil
}

// Run scans the tree, then follows it until ctx ends.
func (r *Registry) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Synced is closed after the first scan.
func (r *Registry) Synced() <-chan struct{} { c := make(chan struct{}); close(c); return c }

// List returns the containers and pod cgroups that live now.
func (r *Registry) List() []*Container { return nil }

// ByID returns the container with the runtime's id, nil if it is not known.
// Removed containers stay known for some minutes.
func (r *Registry) ByID(id string) *Container { return nil }

// ByCgroupID returns the container whose cgroup2 id, or whose nearest ancestor's,
// this is; nil if it is not known. Removed containers stay known for some minutes.
func (r *Registry) ByCgroupID(id uint64) *Container { return nil }

// Self returns the agent's own container, nil when it does not run in one.
func (r *Registry) Self() *Container { return nil }

// Subscribe calls f for every container that is there, then for each that comes
// or goes, in order, from one goroutine. f must not block. The returned function
// ends that.
func (r *Registry) Subscribe(f func(Event)) (cancel func()) { return func() {} }
