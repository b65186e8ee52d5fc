package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process is one that we started.
type process struct {
	cmd  *exec.Cmd
	pid  int
	dirs []string // removed when it has ended, the last first
}

const podUID = "11111111-2222-3333-4444-555555555555"

var containerID = func() string {
	id := make([]byte, 32)
	rand.Read(id) //nolint:errcheck // does not fail
	return hex.EncodeToString(id)
}()

func (p *process) stop() {
	p.cmd.Process.Signal(os.Interrupt) //nolint:errcheck // it may have ended
	timer := time.AfterFunc(10*time.Second, func() { p.cmd.Process.Kill() })
	p.cmd.Wait() //nolint:errcheck // we ended it
	timer.Stop()
	for _, v := range slices.Backward(p.dirs) {
		for range 50 {
			if err := os.Remove(v); err == nil || errors.Is(err, os.ErrNotExist) {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// pin binds every thread of the process to one CPU.
func pin(pid, cpu int) {
	var set unix.CPUSet
	set.Set(cpu)
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, t := range tasks {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			unix.SchedSetaffinity(tid, &set) //nolint:errcheck // the thread may have ended
		}
	}
}

// startServer starts this program again as the server, in a cgroup like a
// container's, on the first CPU.
func startServer(addr string) (*process, error) {
	p := &process{}
	roots, err := cgroupRoots()
	if err != nil {
		return nil, err
	}
	var leaves []string
	for _, root := range roots {
		dir := filepath.Join(root, fmt.Sprintf("nodetap-bench-%d", os.Getpid()))
		for _, part := range []string{"", "kubepods", "burstable", "pod" + podUID, containerID} {
			dir = filepath.Join(dir, part)
			if err := os.Mkdir(dir, 0o755); err != nil {
				return nil, err
			}
			p.dirs = append(p.dirs, dir)
		}
		leaves = append(leaves, dir)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p.cmd = exec.Command(self, "-serve", addr, "-body", strconv.Itoa(*body))
	p.cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.pid = p.cmd.Process.Pid
	for _, dir := range leaves {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(p.pid)), 0o644); err != nil {
			p.stop()
			return nil, err
		}
	}
	for range 100 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			pin(p.pid, 0)
			return p, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	p.stop()
	return nil, errors.New("the server does not listen")
}

// cgroupRoots returns where cgroup2 is mounted, which tracing needs, and v1's
// memory controller, by which the agent knows containers where there is one.
func cgroupRoots() (roots []string, err error) {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 3 && strings.HasPrefix(f[1], "/sys/fs/cgroup") && (f[2] == "cgroup2" || f[2] == "cgroup" && filepath.Base(f[1]) == "memory") {
			roots = append(roots, f[1])
		}
	}
	if len(roots) == 0 {
		return nil, errors.New("no cgroup2 is mounted")
	}
	return roots, nil
}

// agent is the agent under test.
type agent struct {
	process
	url string
	log bytes.Buffer
	dir string
}

func startAgent(ctx context.Context, mode, sink string) (*agent, error) {
	dir, err := os.MkdirTemp("", "bench-trace")
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	listen := l.Addr().String()
	l.Close()
	config := fmt.Sprintf("node_name: bench\nstate_dir: %s/state\npprof: \"\"\nhost: {log: %s/log}\ncollectors:\n  logs: {enabled: false}\n  cgroup: {enabled: false}\nexporters:\n  prom: {listen: %q}\n", dir, dir, listen)
	if mode == "spans" {
		config += fmt.Sprintf("  otlp/sink: {endpoint: %q, protocol: http/protobuf, metrics: {interval: 0s}}\n", sink)
	}
	// the link from which the agent knows the container's name, as kubelet makes it
	links := filepath.Join(dir, "log", "containers")
	if err := os.MkdirAll(links, 0o755); err != nil {
		return nil, err
	}
	target := filepath.Join(dir, "log", "pods", "shop_orders-0_"+podUID, "orders", "0.log")
	if err := os.Symlink(target, filepath.Join(links, "orders-0_shop_orders-"+containerID+".log")); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "agent.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	a := &agent{url: "http://" + listen, dir: dir}
	a.cmd = exec.Command(*agentPath, "run", "--config", file)
	a.cmd.Stdout, a.cmd.Stderr = &a.log, &a.log
	if err := a.cmd.Start(); err != nil {
		return nil, err
	}
	a.pid = a.cmd.Process.Pid
	for range 300 {
		if c, err := a.counts(ctx); err == nil && c.up {
			pin(a.pid, 1)
			return a, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	a.stop()
	return nil, fmt.Errorf("tracing did not begin; the agent says:\n%s", a.log.String())
}

func (a *agent) stop() {
	a.process.stop()
	os.RemoveAll(a.dir)
}

// counts is what the agent says.
type counts struct {
	up     bool
	server int // requests in the metrics
	lost   int // events
}

func (a *agent) counts(ctx context.Context) (c counts, err error) {
	err = a.scrape(ctx, "/metrics", func(name, labels string, v float64) {
		switch {
		case name == "nodetap_collector_up" && strings.Contains(labels, `"apm"`):
			c.up = v == 1
		case name == "nodetap_apm_events_dropped_total":
			c.lost += int(v)
		}
	})
	if err == nil && c.up {
		err = a.scrape(ctx, "/metrics/apm", func(name, labels string, v float64) {
			// others may talk HTTP on this machine
			if name == "http_server_request_duration_seconds_count" && strings.Contains(labels, `http_route="/order/*"`) {
				c.server += int(v)
			}
		})
	}
	return c, err
}

// settled waits until the count of requests stands still.
func (a *agent) settled(ctx context.Context) (c counts, err error) {
	for same := 0; same < 3; {
		time.Sleep(150 * time.Millisecond)
		now, err := a.counts(ctx)
		if err != nil {
			return c, err
		}
		if same++; now != c {
			same = 0
		}
		c = now
	}
	return c, ctx.Err()
}

func (a *agent) scrape(ctx context.Context, path string, f func(name, labels string, v float64)) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url+path, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		series, value, ok := strings.Cut(lines.Text(), " ")
		if i := strings.LastIndexByte(lines.Text(), ' '); i > 0 {
			series, value = lines.Text()[:i], lines.Text()[i+1:]
		}
		if !ok || strings.HasPrefix(series, "#") {
			continue
		}
		name, labels, _ := strings.Cut(series, "{")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			f(name, labels, v)
		}
	}
	return lines.Err()
}

// peak returns the largest resident set so far, in KiB.
func peak(pid int) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, _ := strconv.Atoi(strings.Fields(v)[0])
			return n
		}
	}
	return 0
}
