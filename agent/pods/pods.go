// Package pods answers one question: which pod is this? By container id, by the
// path of a log file, by pod UID, by IP address. It is the only importer of
// client-go.
//
// Without an API server, or while it is down, it answers from the log paths,
// the cgroup paths and what it knew before. It never blocks a caller.
package pods

import (
	"context"
	"log/slog"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"

	"nodetap/agent/telemetry"
)

// Config is the section `pods` of the configuration.
type Config struct{}

// Options are what the store is given besides its configuration.
type Options struct {
	NodeName string
	Cluster  string
	LogDir   string // /var/log: pods/ and containers/ name what no API server tells
	StateDir string
	Logger   *slog.Logger
	Reg      prometheus.Registerer
}

// Store holds the pods of this node and the peers it may talk to. Safe for
// concurrent use.
type Store struct{}

// New returns a store that knows only what paths tell until Run.
func New(cfg Config, o Options) (*Store, error) { return &Store{}, nil }

// Run watches until ctx ends.
func (s *Store) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Version changes whenever an answer may have changed. It is one atomic load: a
// caller that keeps a *Resource looks again when it moved.
func (s *Store) Version() uint64 { return 0 }

// Container returns the Resource of a container by the runtime's id. It is nil
// while nobody has said what the id is. The sandbox (pause) container of a pod
// has the Resource of its pod with ContainerID set and Container "".
func (s *Store) Container(id string) *telemetry.Resource { return nil }

// LogPath returns the Resource of the container whose log lies in
// <namespace>_<pod>_<uid>/<container>/<restart>.log. It is never nil: before
// the pod is known it is Partial, made from the path.
func (s *Store) LogPath(namespace, pod, uid, container string, restart int) *telemetry.Resource {
	return &telemetry.Resource{Namespace: namespace, Pod: pod, PodUID: uid, Container: container, RestartCount: restart, Partial: true}
}

// Pod returns the Resource of a pod itself by UID, nil when it is not known.
// Static pods are found by the UID in their paths (the config hash) too.
func (s *Store) Pod(uid string) *telemetry.Resource { return nil }

// HostNetwork tells whether the pod shares the node's network namespace; false
// when it is not known.
func (s *Store) HostNetwork(uid string) bool { return false }

// Peer is the other end of a connection.
type Peer struct {
	// Resource is the pod, nil when the address is no pod's that is known.
	Resource *telemetry.Resource
	// Service and ServiceNamespace name the Service whose cluster IP or endpoint
	// this is; "" for none.
	Service          string
	ServiceNamespace string
	// Node is the node whose own address this is; "" for none.
	Node string
}

// Peer tells who has the address. ok is false when nobody known does. The
// addresses of host-network pods belong to their node.
func (s *Store) Peer(addr netip.AddrPort) (p Peer, ok bool) { return Peer{}, false }
