package logs

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"nodetap/agent/component"
	"nodetap/agent/containers"
	"nodetap/agent/pods"
	"nodetap/agent/telemetry"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("NODETAP_LOGS_TEST_AGENT"); dir != "" {
		agentProcess(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// got is one record as a sink saw it.
type got struct {
	Body   string
	ID     string
	Path   string
	Time   int64
	Stream telemetry.Stream
	Flags  telemetry.LogFlags
	Pos    int64
	Len    uint32
}

// sink keeps what it is sent and acknowledges it at once, unless held.
type sink struct {
	mu      sync.Mutex
	cond    *sync.Cond
	records []got
	held    []*telemetry.LogBatch
	hold    bool
}

func newSink() *sink {
	s := &sink{}
	s.cond = sync.NewCond(&s.mu)
	return s
}

func (s *sink) WantsLogs() bool                                       { return true }
func (s *sink) WantsSpans() bool                                      { return false }
func (s *sink) SendSpans(context.Context, *telemetry.SpanBatch) error { return nil }
func (s *sink) SendLogs(ctx context.Context, b *telemetry.LogBatch) error {
	s.mu.Lock()
	for i := range b.Records {
		r := &b.Records[i]
		s.records = append(s.records, got{
			Body: string(b.Body(i)), ID: string(b.AppendID(nil, i)), Path: b.Source.Path,
			Time: r.Time, Stream: r.Stream, Flags: r.Flags, Pos: r.Pos, Len: r.Len,
		})
	}
	hold := s.hold
	if hold {
		s.held = append(s.held, b)
	}
	s.cond.Broadcast()
	s.mu.Unlock()
	if !hold {
		b.OnAcked()
		b.OnReleased()
	}
	return nil
}

func (s *sink) holdAcks() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold = true
}

// wait blocks until n records have come. A test that waits in vain is ended by
// the test binary's own time limit.
func (s *sink) wait(n int) []got {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.records) < n {
		s.cond.Wait()
	}
	return append([]got(nil), s.records...)
}

func (s *sink) bodies(n int) []string {
	var l []string
	for _, r := range s.wait(n) {
		l = append(l, r.Body)
	}
	return l
}

// node is a directory of pods and an agent's state.
type node struct {
	t     testing.TB
	root  string // holds pods/ and state/
	cfg   Config
	clock time.Time

	looked func(dir string) // Collector.looked of the agents that start
}

func newNode(t testing.TB) *node {
	n := &node{t: t, root: t.TempDir(), cfg: Default(), clock: time.Date(2026, 11, 22, 12, 0, 0, 1, time.UTC)}
	n.cfg.ResourceWait = 0
	n.cfg.ExcludeOwnLogs = false
	n.cfg.PollMin, n.cfg.PollMax = 2*time.Millisecond, 10*time.Millisecond
	n.cfg.FlushInterval = 10 * time.Millisecond
	n.cfg.RescanInterval = 100 * time.Millisecond
	n.cfg.RotatedLinger = 100 * time.Millisecond
	n.cfg.DeletedLinger = 100 * time.Millisecond
	n.mkdir("pods")
	return n
}

func (n *node) check(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) path(rel string) string { return filepath.Join(n.root, rel) }
func (n *node) mkdir(rel string)       { n.t.Helper(); n.check(os.MkdirAll(n.path(rel), 0o755)) }

const testDir = "pods/ns_pod_uid-1/app"

func (n *node) log(name string) string { return testDir + "/" + name }

func (n *node) write(rel, content string) {
	n.t.Helper()
	n.mkdir(filepath.Dir(rel))
	f, err := os.OpenFile(n.path(rel), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	n.check(err)
	_, err = f.WriteString(content)
	n.check(err)
	n.check(f.Close())
}

func (n *node) rename(from, to string) {
	n.t.Helper()
	n.check(os.Rename(n.path(from), n.path(to)))
}

func (n *node) remove(rel string) { n.t.Helper(); n.check(os.RemoveAll(n.path(rel))) }

// gzip compresses a file as kubelet does.
func (n *node) gzip(rel string) {
	n.t.Helper()
	n.check(gzipFile(n.path(rel)))
}

func gzipFile(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	if _, err := w.Write(b); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := os.WriteFile(path+".tmp", z.Bytes(), 0o644); err != nil {
		return err
	}
	if err := os.Rename(path+".tmp", path+".gz"); err != nil {
		return err
	}
	return os.Remove(path)
}

// cri returns lines as a container runtime writes them, each a nanosecond later.
func (n *node) cri(bodies ...string) string {
	var b strings.Builder
	for _, body := range bodies {
		b.WriteString(n.tagged("stdout", "F", body))
	}
	return b.String()
}

func (n *node) tagged(stream, tag, body string) string {
	n.clock = n.clock.Add(time.Nanosecond)
	return fmt.Sprintf("%s %s %s %s\n", n.clock.Format(time.RFC3339Nano), stream, tag, body)
}

func numbers(from, to int) []string {
	var l []string
	for i := from; i < to; i++ {
		l = append(l, fmt.Sprintf("line %d", i))
	}
	return l
}

func testEnv(root string) (component.Env, error) {
	log := slog.New(slog.DiscardHandler)
	reg := prometheus.NewRegistry()
	store, err := pods.New(pods.Config{}, pods.Options{Logger: log, LogDir: root, StateDir: root, Reg: prometheus.NewRegistry()})
	if err != nil {
		return component.Env{}, err
	}
	cs, err := containers.New(containers.Config{}, filepath.Join(root, "cgroup"), "/proc", log, prometheus.NewRegistry())
	if err != nil {
		return component.Env{}, err
	}
	return component.Env{
		Name: "logs", Logger: log, Registerer: reg, Gatherer: reg, Pods: store, Containers: cs,
		Host: component.Host{Log: root}, StateDir: filepath.Join(root, "state"),
	}, nil
}

// agent is a collector that runs.
type agent struct {
	*Collector
	n    *node
	sink *sink
	stop func()
}

// start runs a collector; kill ends it as kill -9 does, for what is on disk.
func (n *node) start(s *sink) *agent {
	n.t.Helper()
	env, err := testEnv(n.root)
	n.check(err)
	c, err := New(env, n.cfg)
	n.check(err)
	c.looked = n.looked
	a := &agent{Collector: c, n: n, sink: s}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx, s) }()
	var once sync.Once
	a.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				n.t.Error(err)
			}
		})
	}
	n.t.Cleanup(a.stop)
	return a
}

// counter returns the sum of a counter's values, once it is at least min.
func (a *agent) counter(name string, min float64) float64 {
	a.n.t.Helper()
	for {
		mfs, err := a.env.Gatherer.Gather()
		a.n.check(err)
		sum := 0.0
		for _, mf := range mfs {
			if mf.GetName() == name {
				for _, m := range mf.Metric {
					sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
				}
			}
		}
		if sum >= min {
			return sum
		}
		time.Sleep(time.Millisecond)
	}
}

// lookAgainAt waits until the directory has been read once more.
func (a *agent) lookAgainAt(dir string) {
	for _, s := range a.list() {
		if s.key.dir != dir {
			continue
		}
		s.mu.Lock()
		before := s.scans
		s.mu.Unlock()
		for {
			a.lookAgain(s)
			time.Sleep(time.Millisecond)
			s.mu.Lock()
			now := s.scans
			s.mu.Unlock()
			if now > before+1 {
				return
			}
		}
	}
	a.n.t.Fatalf("no source in %s", dir)
}
