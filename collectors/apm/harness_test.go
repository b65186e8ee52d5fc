package apm

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"nodetap/agent/component"
	"nodetap/agent/containers"
	"nodetap/agent/metrics"
	"nodetap/agent/pods"
	"nodetap/agent/telemetry"
)

// needBPF skips a test that loads programs when the tests do not run as root.
// CI sets NODETAP_REQUIRE_BPF=1: there that is a failure.
func needBPF(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("NODETAP_REQUIRE_BPF") == "1" {
		t.Fatal("NODETAP_REQUIRE_BPF=1, but the tests do not run as root")
	}
	t.Skip("loading BPF programs takes root; NODETAP_REQUIRE_BPF=1 makes this a failure")
}

// fakeContainers is a registry of the cgroups that a test made.
type fakeContainers struct {
	mu   sync.Mutex
	byCg map[uint64]*containers.Container
	self *containers.Container
	subs []func(containers.Event)
}

func (f *fakeContainers) ByCgroupID(id uint64) *containers.Container {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.byCg[id]
}

func (f *fakeContainers) ByID(id string) *containers.Container {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.byCg {
		if c.ID == id {
			return c
		}
	}
	return nil
}

func (f *fakeContainers) Self() *containers.Container { return f.self }

func (f *fakeContainers) Subscribe(fn func(containers.Event)) func() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subs = append(f.subs, fn)
	return func() {}
}

func (f *fakeContainers) add(c *containers.Container) {
	f.mu.Lock()
	if f.byCg == nil {
		f.byCg = make(map[uint64]*containers.Container)
	}
	f.byCg[c.CgroupID] = c
	subs := f.subs
	f.mu.Unlock()
	for _, fn := range subs {
		fn(containers.Event{Container: c})
	}
}

// fakePods knows containers by id and peers by address.
type fakePods struct {
	mu      sync.Mutex
	version uint64
	byID    map[string]*telemetry.Resource
	byAddr  map[netip.Addr]pods.Peer
	deaf    bool // nobody will name another container
}

func (f *fakePods) Version() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.version
}

func (f *fakePods) Container(id string) *telemetry.Resource {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.byID[id]
}

func (f *fakePods) Learns() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.deaf
}

func (f *fakePods) Peer(a netip.AddrPort) (pods.Peer, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, ok := f.byAddr[a.Addr()]
	return p, ok
}

func (f *fakePods) set(id string, r *telemetry.Resource) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byID == nil {
		f.byID = make(map[string]*telemetry.Resource)
	}
	f.byID[id] = r
	f.version++
}

// got is a span with its resource.
type got struct {
	telemetry.Span
	res *telemetry.Resource
}

func (g got) attr(key string) any {
	for _, a := range g.Attrs {
		if a.Key == key {
			return a.Value()
		}
	}
	return nil
}

// memory is a sink that keeps spans.
type memory struct {
	mu     sync.Mutex
	spans  []got
	refuse bool
}

func (m *memory) SendLogs(context.Context, *telemetry.LogBatch) error { return nil }
func (m *memory) WantsLogs() bool                                     { return false }
func (m *memory) WantsSpans() bool                                    { return !m.refuse }

func (m *memory) SendSpans(_ context.Context, b *telemetry.SpanBatch) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range b.Spans {
		m.spans = append(m.spans, got{s, b.Resource})
	}
	return nil
}

func (m *memory) all() []got {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]got(nil), m.spans...)
}

// port returns the spans of requests to the server port, by kind.
func (m *memory) port(port int) (server, client []got) {
	for _, s := range m.all() {
		peer, _ := s.attr("network.peer.port").(int64)
		srv, _ := s.attr("server.port").(int64)
		switch {
		case s.Kind == telemetry.SpanServer && srv == int64(port):
			server = append(server, s)
		case s.Kind == telemetry.SpanClient && peer == int64(port):
			client = append(client, s)
		}
	}
	return server, client
}

// agent is a running collector.
type agent struct {
	*memory
	containers *fakeContainers
	pods       *fakePods
	metrics    *metrics.Registry
	reg        *prometheus.Registry
	stop       func()
}

// start runs a collector until the test ends, with programs attached when it
// returns.
func start(t *testing.T, change func(*Config, *agent)) *agent {
	t.Helper()
	needBPF(t)
	a := &agent{memory: &memory{}, containers: &fakeContainers{}, pods: &fakePods{}, metrics: metrics.NewRegistry(), reg: prometheus.NewRegistry()}
	cfg := Default()
	cfg.Processes = "all"
	if change != nil {
		change(&cfg, a)
	}
	attached := make(chan struct{})
	c := &Collector{
		env: component.Env{
			OnCollecting: func() { close(attached) },
			Logger:       slog.New(slog.NewTextHandler(t.Output(), nil)), Registerer: a.reg, Metrics: a.metrics,
			Clock: component.NewClock(), Host: testHost, NodeName: "test-node",
		},
		cfg: cfg, containers: a.containers, pods: a.pods,
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx, a.memory) }()
	select {
	case <-attached:
	case err := <-done:
		cancel()
		t.Fatalf("run: %v", err)
	}
	var once sync.Once
	a.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("run: %v", err)
			}
		})
	}
	t.Cleanup(a.stop)
	return a
}

// wait polls until f is true; false after ten seconds, which only a failing test
// takes.
func wait(f func() bool) bool {
	for range 500 {
		if f() {
			return true
		}
		time.Sleep(20 * time.Millisecond)
	}
	return false
}

// sum adds up the values of a metric of the agent about itself.
func (a *agent) sum(t *testing.T, name string) (total float64, by map[string]float64) {
	t.Helper()
	families, err := a.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	by = map[string]float64{}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			v := m.GetCounter().GetValue() + m.GetGauge().GetValue()
			total += v
			for _, l := range m.GetLabel() {
				by[l.GetValue()] += v
			}
		}
	}
	return total, by
}

var testHost = component.Host{Proc: "/proc", Sys: "/sys", Cgroup: "/sys/fs/cgroup"}

func collect(s metrics.Source) *metrics.Snapshot {
	r := metrics.NewRegistry()
	r.Register("/", s)
	return r.Snapshot("/")
}
