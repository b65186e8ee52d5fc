// Package pods answers one question: which pod is this? By container id, by the
// path of a log file, by pod UID, by IP address. It is the only importer of
// client-go.
//
// It watches the pods of its own node (one watch with a field selector,
// protobuf, an own struct of about a kilobyte a pod instead of the API object's
// ten), and for the other end of connections the cluster's Services and
// EndpointSlices. Workloads come from names: no ReplicaSet, Job or Namespace is
// read.
//
// Without an API server, or while it is down, it answers from the log paths,
// from the links in /var/log/containers and from the pods that it knew before,
// which it keeps in a file. It never blocks a caller on any of these.
//
// Invariants: a *telemetry.Resource never changes; a new one is made only when
// its content did, so callers may compare pointers. A deleted pod stays known
// until nobody has asked for it for a while and its logs are gone. It does not
// read cgroups, containers' runtimes or logs.
package pods

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/util/wait"

	"nodetap/agent/telemetry"
)

// Options are what the store is given besides its configuration.
type Options struct {
	NodeName string
	Cluster  string
	LogDir   string // /var/log: pods/ and containers/ name what no API server tells; "" for none
	StateDir string // pods.json is kept here; "" for no memory over a restart
	BootID   string // /proc/sys/kernel/random/boot_id; addresses remembered from another boot are not used
	Version  string // of the agent, for the User-Agent
	Logger   *slog.Logger
	Reg      prometheus.Registerer

	backoff *wait.Backoff // tests; nil for 0.8 s to 30 s with jitter
}

// Store holds the pods of this node and the peers it may talk to. Safe for
// concurrent use.
type Store struct {
	cfg   Config
	o     Options
	id    identity
	keep  keep
	self  *selfMetrics
	api   *api // nil: no API server
	peers *peers

	version atomic.Uint64
	synced  chan struct{}
	settle  sync.Once
	wanted  chan struct{} // a link is missing: scan
	dirty   atomic.Bool   // the state file is out of date
	noLinks atomic.Bool   // /var/log/containers is not there or cannot be read

	mu      sync.RWMutex
	pods    map[string]*entry     // by the API server's UID
	alias   map[string]string     // UID in paths of a static pod -> the API server's
	ids     map[string]runRef     // by container id
	ips     map[netip.Addr]*entry // of pods with a network of their own
	nodeIPs map[netip.Addr]bool   // of this node
	partial map[LogFile]*partial  // what only a path has told so far
	links   map[LogFile]string    // /var/log/containers: run -> container id
	linkIDs map[string]LogFile    // and the other way round
}

// New returns a store that knows what its state file and paths tell, until Run.
// It is an error when the kubeconfig cannot be read; not when there is no API
// server.
func New(cfg Config, o Options) (*Store, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{
		cfg:     cfg,
		o:       o,
		id:      identity{cluster: o.Cluster, node: o.NodeName, fromLabels: cfg.ServiceFromLabels},
		synced:  make(chan struct{}),
		wanted:  make(chan struct{}, 1),
		pods:    map[string]*entry{},
		alias:   map[string]string{},
		ids:     map[string]runRef{},
		ips:     map[netip.Addr]*entry{},
		nodeIPs: map[netip.Addr]bool{},
		partial: map[LogFile]*partial{},
		links:   map[LogFile]string{},
		linkIDs: map[string]LogFile{},
	}
	var err error
	if s.self, err = newSelfMetrics(o.Reg, s); err != nil {
		return nil, fmt.Errorf("pods: metrics: %w", err)
	}
	s.keep = keep{allow: cfg.Annotations, deny: cfg.AnnotationsExclude, maxBytes: cfg.AnnotationMaxBytes,
		dropped: func(n int) { s.self.annotations.Add(float64(n)) }}
	s.peers = newPeers(cfg.MaxPeers, &s.id, s.self.peersDropped.Inc)
	if s.api, err = newAPI(cfg, o, s.self); err != nil {
		return nil, fmt.Errorf("pods: %w", err)
	}
	s.load()
	return s, nil
}

// Run watches until ctx ends. Before and after it the store answers from what
// it knows.
func (s *Store) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { s.followLinks(ctx) })
	wg.Go(func() { s.sweep(ctx) })
	wg.Go(func() { s.persist(ctx) })
	if s.api == nil {
		s.o.Logger.Info("no API server: pods are named by their log paths alone", "reason", noAPIReason(s.cfg))
		s.settled()
	} else {
		s.watchAll(ctx, &wg)
	}
	wg.Wait()
	if s.api != nil {
		s.api.close()
	}
	return nil
}

// Synced is closed once the API server has listed this node's pods, or when
// there is no API server to ask.
func (s *Store) Synced() <-chan struct{} { return s.synced }

func (s *Store) settled() { s.settle.Do(func() { close(s.synced) }) }

// Learns tells whether a container that Container does not know may become
// known: false when there is neither an API server nor a directory of log links
// to tell it, which callers need not wait for then.
func (s *Store) Learns() bool {
	return s.api != nil || s.o.LogDir != "" && !s.noLinks.Load()
}

// Version changes whenever an answer of Container, LogPath, Pod or HostNetwork
// may have changed; Peer's answers are not covered. It is one atomic load: a
// caller that keeps a *Resource looks again when it moved.
func (s *Store) Version() uint64 { return s.version.Load() }

// changed tells callers to look again, and the state file to be written.
func (s *Store) changed() {
	s.version.Add(1)
	s.dirty.Store(true)
}

// sweep forgets what has been deleted and drained.
func (s *Store) sweep(ctx context.Context) {
	t := time.NewTicker(30 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			s.expire(now)
		}
	}
}

// Peer is the other end of a connection.
type Peer struct {
	// Resource is the pod, nil when the address is no pod's that is known. Of a
	// pod on another node it is Partial: name, namespace, UID and address.
	Resource *telemetry.Resource
	// Service and ServiceNamespace name the Service whose cluster IP or endpoint
	// this is; "" for none. Of several Services with the same endpoint it is one
	// that has the port, by name.
	Service          string
	ServiceNamespace string
	// Node is the node whose own address this is; "" for none.
	Node string
}
