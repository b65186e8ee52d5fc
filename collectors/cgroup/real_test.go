package cgroup

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"nodetap/agent/component"
	"nodetap/agent/containers"
	"nodetap/agent/metrics"
	"nodetap/agent/telemetry"
)

// burnFor is the least CPU time that the helper process of the test burns: what
// its memory costs it, which is more where page faults are emulated, comes on top.
const burnFor = 700 * time.Millisecond

// allocate is the memory that it takes and keeps.
const allocate = 48 << 20

func TestMain(m *testing.M) {
	if os.Getenv("NODETAP_TEST_BURN") != "" {
		burn()
		return
	}
	goleak.VerifyTestMain(m)
}

// burn waits until it is told, burns CPU time and memory, says how much user and
// system time it took in microseconds, and waits to be ended.
func burn() {
	var b [1]byte
	os.Stdin.Read(b[:])
	user, system := cpuTimes()
	start := cpuTime()
	mem := make([]byte, allocate)
	for i := 0; i < len(mem); i += 4096 {
		mem[i] = 1
	}
	for n := uint64(1); cpuTime()-start < burnFor; {
		for range 10000 {
			n = n*6364136223846793005 + 1
		}
		mem[n%allocate] = byte(n)
	}
	userNow, systemNow := cpuTimes()
	fmt.Println((userNow - user).Microseconds(), (systemNow - system).Microseconds())
	os.Stdin.Read(b[:])
}

// cpuTimes returns the process's user and system time.
func cpuTimes() (user, system time.Duration) {
	var u unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano()), time.Duration(u.Stime.Nano())
}

func cpuTime() time.Duration {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts)
	return time.Duration(ts.Nano())
}

const (
	testPod     = "f8086fb9-0486-4311-89c8-80b238f007ad"
	sandboxID   = "f9d132bfbee5493b596e1e3bbb6f24df9bdd852126bb9c3c96fdb131cda92f3d"
	containerID = "855f96e9819bf377f11864ae35bce03194959e97b5c4f25fe76eb7615111ed7d"
)

// fakePods knows what a test tells it.
type fakePods struct {
	version     uint64
	containers  map[string]*telemetry.Resource
	pods        map[string]*telemetry.Resource
	hostNetwork map[string]bool
}

func (f *fakePods) Version() uint64                         { return f.version }
func (f *fakePods) Container(id string) *telemetry.Resource { return f.containers[id] }
func (f *fakePods) Pod(uid string) *telemetry.Resource      { return f.pods[uid] }
func (f *fakePods) HostNetwork(uid string) bool             { return f.hostNetwork[uid] }

func demoPods() *fakePods {
	pod := telemetry.Resource{Namespace: "demo", Pod: "burner", PodUID: testPod}
	container := pod
	container.Container, container.ContainerID, container.Image = "burner", containerID, "localhost/kt/demo:1"
	return &fakePods{version: 1,
		containers: map[string]*telemetry.Resource{containerID: &container},
		pods:       map[string]*telemetry.Resource{testPod: &pod}}
}

// realNode makes cgroups of its own in all of the kernel's real hierarchies.
type realNode struct {
	t      *testing.T
	layout containers.Layout
	dirs   []string // of the hierarchies, each once
	base   string
}

func newRealNode(t *testing.T) *realNode {
	if os.Geteuid() != 0 {
		if os.Getenv("NODETAP_REQUIRE_BPF") == "1" {
			t.Fatal("NODETAP_REQUIRE_BPF=1, but the tests do not run as root")
		}
		t.Skip("needs root to make cgroups")
	}
	layout, err := containers.ReadLayout("/sys/fs/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	n := &realNode{t: t, layout: layout, base: fmt.Sprintf("/nodetap-test-%d", os.Getpid())}
	seen := map[string]bool{}
	for _, d := range layout.V1 {
		if !seen[d] {
			seen[d] = true
			n.dirs = append(n.dirs, d)
		}
	}
	if layout.Unified != "" {
		n.dirs = append(n.dirs, layout.Unified)
	}
	t.Cleanup(func() { n.remove("") })
	return n
}

// make makes the cgroup and those above it, with every controller that there is.
func (n *realNode) make(p string) {
	n.t.Helper()
	for _, d := range n.dirs {
		at := d
		for part := range strings.SplitSeq(strings.TrimPrefix(n.base+p, "/"), "/") {
			if b, err := os.ReadFile(filepath.Join(at, "cgroup.controllers")); err == nil {
				for c := range strings.FieldsSeq(string(b)) {
					// Some cannot be delegated (rt tasks under cpu): what counts is asserted below.
					_ = os.WriteFile(filepath.Join(at, "cgroup.subtree_control"), []byte("+"+c), 0)
				}
			}
			at = filepath.Join(at, part)
			if err := os.MkdirAll(at, 0o755); err != nil {
				n.t.Fatal(err)
			}
			// v1's cpuset takes no process before it has CPUs and memory.
			for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
				if b, err := os.ReadFile(filepath.Join(filepath.Dir(at), f)); err == nil && n.layout.V1["cpuset"] == d {
					_ = os.WriteFile(filepath.Join(at, f), b, 0)
				}
			}
		}
	}
}

func (n *realNode) remove(p string) {
	for _, d := range n.dirs {
		var all []string
		filepath.WalkDir(filepath.Join(d, n.base, p), func(path string, e os.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				all = append(all, path)
			}
			return nil
		})
		for _, dir := range slices.Backward(all) {
			for range 100 { // a process that was killed leaves its cgroup a little later
				if unix.Rmdir(dir) != unix.EBUSY {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
	}
}

func (n *realNode) enter(p string, pid int) {
	n.t.Helper()
	for _, d := range n.dirs {
		if err := os.WriteFile(filepath.Join(d, n.base, p, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			n.t.Fatalf("%s: %v", d, err)
		}
	}
}

// write sets a file of the controller's hierarchy, v1's name or cgroup2's.
func (n *realNode) write(p, controller, v1, v2 string) {
	n.t.Helper()
	dir, unified := n.layout.Dir(controller)
	setting := v1
	if unified {
		setting = v2
	}
	name, value, _ := strings.Cut(setting, "=")
	if err := os.WriteFile(filepath.Join(dir, n.base, p, name), []byte(value), 0); err != nil {
		n.t.Fatal(err)
	}
}

// burner starts the helper process in a cgroup; what it returns lets it burn,
// comes back when it has, and tells the seconds that it burned.
func (n *realNode) burner(p string) func() (user, system float64) {
	n.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		n.t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "NODETAP_TEST_BURN=1")
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	in, err := cmd.StdinPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			n.t.Error(err)
		}
	})
	n.enter(p, cmd.Process.Pid)
	return func() (user, system float64) {
		in.Write([]byte{1})
		if _, err := fmt.Fscan(out, &user, &system); err != nil {
			n.t.Fatal(err)
		}
		return user / 1e6, system / 1e6
	}
}

// scrape returns the series below the test's base, by "row name{extra labels}".
func scrape(reg *metrics.Registry, base string) map[string]float64 {
	out := map[string]float64{}
	for _, f := range reg.Snapshot(metricsPath).Families {
		for _, s := range f.Series {
			row, extra := "", ""
			mine := false
			for _, l := range s.Labels.Pairs() {
				switch l.Name {
				case "id":
					mine = strings.HasPrefix(l.Value, base)
					row = filepath.Base(l.Value)
				case "container", "image", "name", "namespace", "pod":
				default:
					extra += l.Name + "=" + l.Value + ","
				}
			}
			if mine {
				out[row+" "+f.Desc.Name+"{"+strings.TrimSuffix(extra, ",")+"}"] = s.Value
			}
		}
	}
	return out
}

func startCollector(t *testing.T, cfg Config, pods podStore) *metrics.Registry {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	cs, err := containers.New(containers.Default(), "/sys/fs/cgroup", "/proc", log, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	env := component.Env{Logger: log, Registerer: prometheus.NewRegistry(), Metrics: metrics.NewRegistry(), Clock: component.NewClock(),
		Host: component.Host{Proc: "/proc", Sys: "/sys", Cgroup: "/sys/fs/cgroup"}}
	c := newCollector(env, cfg, pods, cs)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- cs.Run(ctx) }()
	go func() { done <- c.Run(ctx, nil) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
	return env.Metrics
}

// What a process does in a real cgroup, v1 or v2, is what the rows say: of the
// container, of its pod and of nobody else.
func TestRealCgroups(t *testing.T) {
	n := newRealNode(t)
	pod := "/kubepods/burstable/pod" + testPod
	sandbox, ctr := pod+"/"+sandboxID, pod+"/"+containerID
	n.make(sandbox)
	n.make(ctr)
	n.write(ctr, "memory", "memory.limit_in_bytes=134217728", "memory.max=134217728")
	n.write(ctr, "cpu", "cpu.cfs_quota_us=20000", "cpu.max=20000 100000")
	burn := n.burner(ctr)
	cfg := Default()
	cfg.Interval, cfg.DetailInterval, cfg.UnknownAfter = 100*time.Millisecond, 200*time.Millisecond, 0
	reg := startCollector(t, cfg, demoPods())

	waitFor(t, "rows", func() bool {
		_, ok := scrape(reg, n.base)[containerID+" container_cpu_usage_seconds_total{cpu=total}"]
		return ok
	})
	before := scrape(reg, n.base)
	user, system := burn()
	burned := user + system
	cpu := containerID + " container_cpu_usage_seconds_total{cpu=total}"
	waitFor(t, "CPU time", func() bool { return scrape(reg, n.base)[cpu]-before[cpu] >= burned*0.9 })
	podRow := filepath.Base(pod)
	// The kernel adds up the memory of a subtree every two seconds.
	waitFor(t, "memory", func() bool {
		got := scrape(reg, n.base)
		return got[containerID+" container_memory_rss{}"] >= allocate && got[podRow+" container_memory_rss{}"] >= allocate
	})
	got := scrape(reg, n.base)

	between := func(key string, low, high float64) {
		t.Helper()
		v, ok := got[key]
		if !ok {
			t.Errorf("%s is absent", key)
		} else if v < low || v > high {
			t.Errorf("%s = %g, want %g to %g", key, v, low, high)
		}
	}
	// The process began here too. User and system time are the kernel's estimate
	// by its ticks, and not the same one for a process and for its cgroup.
	began := before[cpu]
	between(cpu, burned*0.9, began+burned*1.2+0.5)
	between(podRow+" container_cpu_usage_seconds_total{cpu=total}", got[cpu]*0.9, began+burned*1.2+0.5)
	between(containerID+" container_cpu_user_seconds_total{}", user*0.5, began+user*1.5+0.5)
	between(containerID+" container_cpu_system_seconds_total{}", system*0.5, began+system*1.5+0.5)
	// How much it was throttled depends on what else runs here: the kernel knows.
	dir, unified := n.layout.Dir("cpu")
	seconds := map[bool]string{false: "throttled_time", true: "throttled_usec"}[unified]
	waitFor(t, "the kernel's own counts", func() bool {
		b, err := os.ReadFile(filepath.Join(dir, n.base, ctr, "cpu.stat"))
		if err != nil {
			t.Fatal(err)
		}
		kernel := map[string]float64{}
		for l := range strings.Lines(string(b)) {
			var key string
			var v float64
			fmt.Sscan(l, &key, &v)
			kernel[key] = v
		}
		kernel[seconds] /= map[bool]float64{false: 1e9, true: 1e6}[unified]
		got = scrape(reg, n.base)
		return kernel["nr_periods"] > 0 && got[containerID+" container_cpu_cfs_periods_total{}"] == kernel["nr_periods"] &&
			got[containerID+" container_cpu_cfs_throttled_periods_total{}"] == kernel["nr_throttled"] &&
			got[containerID+" container_cpu_cfs_throttled_seconds_total{}"] == kernel[seconds]
	})
	between(containerID+" container_memory_rss{}", allocate, allocate*1.5)
	between(containerID+" container_memory_usage_bytes{}", allocate, 134217728)
	between(containerID+" container_memory_working_set_bytes{}", allocate, 134217728)
	between(podRow+" container_memory_rss{}", allocate, allocate*1.5)
	between(containerID+" container_spec_memory_limit_bytes{}", 134217728, 134217728)
	between(containerID+" container_spec_cpu_quota{}", 20000, 20000)
	between(containerID+" container_spec_cpu_period{}", 100000, 100000)
	between(containerID+" container_processes{}", 1, 1)
	between(containerID+" container_threads{}", 1, 100)
	between(containerID+" container_oom_events_total{}", 0, 0)
	between(containerID+" container_memory_failures_total{failure_type=pgfault,scope=hierarchy}", allocate/4096/512, 1e9)
	between(sandboxID+" container_memory_rss{}", 0, 1<<20)
	now := float64(time.Now().Unix())
	between(containerID+" container_start_time_seconds{}", now-300, now+2)
	for _, key := range []string{
		podRow + " container_cpu_cfs_periods_total{}", sandboxID + " container_spec_cpu_quota{}", // no quota of their own
	} {
		if v, ok := got[key]; ok {
			t.Errorf("%s = %g, want it absent", key, v)
		}
	}

	burnt := got[cpu]
	if again := scrape(reg, n.base)[cpu]; again < burnt {
		t.Errorf("CPU time went back from %g to %g", burnt, again)
	}
}

// The rows of a container end with it.
func TestRowsEndWithTheCgroup(t *testing.T) {
	n := newRealNode(t)
	pod := "/kubepods/pod" + testPod
	n.make(pod + "/" + sandboxID)
	n.make(pod + "/" + containerID)
	cfg := Default()
	cfg.Interval, cfg.DetailInterval, cfg.UnknownAfter = 100*time.Millisecond, 200*time.Millisecond, 0
	reg := startCollector(t, cfg, demoPods())
	rows := func(id string) (n int) {
		for key := range scrape(reg, "/nodetap-test-") {
			if strings.HasPrefix(key, id) {
				n++
			}
		}
		return n
	}
	waitFor(t, "rows", func() bool { return rows(containerID) > 10 && rows(sandboxID) > 10 })
	n.remove(pod + "/" + containerID)
	waitFor(t, "no rows", func() bool { return rows(containerID) == 0 })
	if rows(sandboxID) < 10 {
		t.Error("the sandbox lost its rows too")
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 3000 {
		if ok() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("waited in vain for " + what)
}
