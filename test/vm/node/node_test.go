//go:build vm

package node

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// locked says whether this boot has lockdown=confidentiality, where the kernel
// lets no BPF program read its memory and tracing has to be off.
func locked() bool { return strings.Contains(os.Getenv("VM_APPEND"), "lockdown=confidentiality") }

const lines = 500

// TestNode is a node's life with the agent: pods that were there before it,
// one that comes later, and what it says about each of them.
func TestNode(t *testing.T) {
	web := newPod(t, "shop", "web-7d4b9c6f5-x2x7k", "server", true)
	server := workload("serve", "127.0.0.1:8080")
	web.start(t, server)
	client := newPod(t, "shop", "client-0", "caller", false)
	calls := startCaller(t, client, "127.0.0.1:8080")
	for i := range lines {
		web.logf(t, "before %d", i)
	}

	a := startAgent(t)
	for i := range lines {
		web.logf(t, "after %d", i)
		client.logf(t, "after %d", i)
	}
	burner := newPod(t, "batch", "burner-28374650-qx9zz", "burn", false)
	burn := startBurner(t, burner)

	t.Run("every line once and in order", func(t *testing.T) { checkLogs(t, a, web, client) })
	t.Run("container metrics are the kernel's", func(t *testing.T) { checkMetrics(t, burner) })
	if locked() {
		t.Run("tracing is off and says so", func(t *testing.T) { checkTracingIsOff(t, a, calls) })
	} else {
		t.Run("each request is two spans", func(t *testing.T) { checkSpans(t, a, calls, web, client) })
	}
	t.Run("a container that ended is gone", func(t *testing.T) { checkGone(t, burner, burn) })
	t.Run("nothing about itself", func(t *testing.T) {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, r := range a.printed {
			if r.Resource["k8s.namespace.name"] == "nodetap" {
				t.Errorf("a record about the agent: %+v", r)
			}
		}
		if len(a.foreign) > 0 {
			t.Errorf("lines on stdout that are no records: %q", a.foreign)
		}
	})
	if t.Failed() {
		body, err := get("/metrics")
		t.Logf("the agent about itself (%v):", err)
		for line := range strings.Lines(body) {
			if strings.HasPrefix(line, "nodetap_") && !strings.HasSuffix(line, " 0\n") {
				t.Log(strings.TrimSpace(line))
			}
		}
	}
	t.Run("SIGTERM ends it", func(t *testing.T) {
		if err := a.stop(t); err != nil {
			t.Error(err)
		}
	})
}

func checkLogs(t *testing.T, a *agent, web, client *pod) {
	for _, c := range []struct {
		pod  *pod
		want []string
	}{{web, numbered("before", "after")}, {client, numbered("after")}} {
		var got []string
		eventually(t, fmt.Sprintf("%d lines of %s", len(c.want), c.pod.name), func() error {
			got = nil
			for _, r := range a.records("log", c.pod) {
				got = append(got, r.Body)
			}
			if len(got) < len(c.want) {
				return fmt.Errorf("%d records, %d of any pod", len(got), a.count("log"))
			}
			return nil
		})
		for i := range min(len(got), len(c.want)) {
			if got[i] != c.want[i] {
				t.Fatalf("record %d of %s is %q, want %q", i, c.pod.name, got[i], c.want[i])
			}
		}
		if len(got) > len(c.want) {
			t.Errorf("%d records of %s, want %d", len(got), c.pod.name, len(c.want))
		}
	}
}

func numbered(words ...string) (out []string) {
	for _, w := range words {
		for i := range lines {
			out = append(out, fmt.Sprintf("%s %d", w, i))
		}
	}
	return out
}

// checkMetrics compares the row of a container that burned and now holds still
// with the kernel's own figures.
func checkMetrics(t *testing.T, p *pod) {
	labels := map[string]string{"namespace": p.namespace, "pod": p.name, "container": p.container}
	for _, c := range []struct {
		metric string
		truth  func() float64
		least  float64 // what the workload did for certain
		within float64 // of the truth, relative
	}{
		{"container_cpu_usage_seconds_total", func() float64 { return p.value(t, "cpu.stat", "usage_usec") / 1e6 }, burnedSeconds * 0.5, 0.01},
		{"container_memory_usage_bytes", func() float64 { return p.value(t, "memory.current", "") }, burnedBytes, 0.02},
		{"container_memory_working_set_bytes", func() float64 {
			return p.value(t, "memory.current", "") - p.value(t, "memory.stat", "inactive_file")
		}, burnedBytes, 0.02},
		{"container_memory_rss", func() float64 { return p.value(t, "memory.stat", "anon") }, burnedBytes, 0.02},
		{"container_processes", func() float64 { return 1 }, 1, 0},
		{"container_threads", func() float64 { return p.value(t, "pids.current", "") }, 1, 0},
		{"container_pressure_cpu_waiting_seconds_total", func() float64 { return pressure(t, p, "cpu") }, 0, 0.01},
	} {
		eventually(t, c.metric, func() error {
			all, err := families("/metrics/cadvisor")
			if err != nil {
				return err
			}
			got, n := sample(all, c.metric, labels)
			want := c.truth()
			switch {
			case n != 1:
				return fmt.Errorf("%d series with %v", n, labels)
			case math.Abs(got-want) > c.within*want || got < c.least:
				return fmt.Errorf("%g, the kernel says %g, and the workload used %g at least", got, want, c.least)
			}
			return nil
		})
	}
}

// pressure is the time that the pod's tasks waited, in seconds.
func pressure(t *testing.T, p *pod, what string) float64 {
	b, err := os.ReadFile(p.cgroup + "/" + what + ".pressure")
	if err != nil {
		t.Fatal(err)
	}
	var a10, a60, a300 string
	var total float64
	if _, err := fmt.Sscanf(string(b), "some avg10=%s avg60=%s avg300=%s total=%f", &a10, &a60, &a300, &total); err != nil {
		t.Fatalf("%q: %v", b, err)
	}
	return total / 1e6
}

// checkSpans sends requests over a connection that is older than the agent and
// over a new one, and wants a client's and a server's span of each.
func checkSpans(t *testing.T, a *agent, old *caller, web, client *pod) {
	// Hooking in takes seconds here. What went over the wire before is lost, so
	// the count begins when both ends are seen.
	eventually(t, "a first span of both ends", func() error {
		old.call(t, "GET", warmUp, "200")
		for _, p := range []*pod{web, client} {
			if len(a.records("span", p)) == 0 {
				return fmt.Errorf("none of %s, %d of any pod", p.name, a.count("span"))
			}
		}
		return nil
	})
	fresh := startCaller(t, client, "127.0.0.1:8080")
	want := map[string]int{}
	for range 10 {
		for _, c := range []*caller{old, fresh} {
			c.call(t, "GET", "/orders", "200")
			c.call(t, "POST", "/orders", "200")
			c.call(t, "GET", "/missing", "404")
			want["GET 200"]++
			want["POST 200"]++
			want["GET 404"]++
		}
	}
	for _, side := range []struct {
		kind string
		pod  *pod
	}{{"server", web}, {"client", client}} {
		eventually(t, side.kind+" spans", func() error {
			got := map[string]int{}
			for _, r := range a.records("span", side.pod) {
				if strings.Contains(r.Name, warmUp) {
					continue
				}
				if r.Kind != side.kind {
					return fmt.Errorf("a %s span of %s: %+v", r.Kind, side.pod.name, r)
				}
				got[fmt.Sprintf("%v %v", r.Attributes["http.request.method"], r.Attributes["http.response.status_code"])]++
				if r.Millis <= 0 {
					return fmt.Errorf("a span took %g ms", r.Millis)
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				return fmt.Errorf("got %v, want %v, %d of any pod", got, want, a.count("span"))
			}
			return nil
		})
	}
}

const warmUp = "/warm-up"

func checkTracingIsOff(t *testing.T, a *agent, calls *caller) {
	for range 5 {
		calls.call(t, "GET", "/orders", "200")
	}
	eventually(t, "nodetap_collector_up", func() error {
		all, err := families("/metrics")
		if err != nil {
			return err
		}
		for collector, want := range map[string]float64{"apm": 0, "logs": 1, "cgroup": 1} {
			if got, n := sample(all, "nodetap_collector_up", map[string]string{"collector": collector}); n != 1 || got != want {
				return fmt.Errorf("%s: %g in %d series, want %g", collector, got, n, want)
			}
		}
		return nil
	})
	if n := a.count("span"); n > 0 {
		t.Errorf("%d spans", n)
	}
}

// checkGone ends a container and waits until its rows are gone.
func checkGone(t *testing.T, p *pod, cmd *exec.Cmd) {
	cmd.Process.Kill()
	cmd.Wait()
	for _, dir := range []string{p.cgroup, p.cgroup[:strings.LastIndexByte(p.cgroup, '/')]} {
		eventually(t, "remove "+dir, func() error { return os.Remove(dir) })
	}
	eventually(t, "no row", func() error {
		all, err := families("/metrics/cadvisor")
		if err != nil {
			return err
		}
		if _, n := sample(all, "container_memory_usage_bytes", map[string]string{"namespace": p.namespace, "pod": p.name}); n != 0 {
			return fmt.Errorf("%d series", n)
		}
		return nil
	})
}

// caller is a client in a pod with one connection.
type caller struct {
	in  io.Writer
	out *bufio.Scanner
}

func startCaller(t *testing.T, p *pod, addr string) *caller {
	t.Helper()
	var c *caller
	eventually(t, "the server answers", func() error {
		cmd := workload("call", addr)
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		p.start(t, cmd)
		c = &caller{in: in, out: bufio.NewScanner(out)}
		if !c.out.Scan() || c.out.Text() != "connected" {
			return fmt.Errorf("not connected: %v", cmd.Wait())
		}
		return nil
	})
	return c
}

func (c *caller) call(t *testing.T, method, path, status string) {
	t.Helper()
	if _, err := fmt.Fprintf(c.in, "%s %s\n", method, path); err != nil {
		t.Fatal(err)
	}
	if !c.out.Scan() || c.out.Text() != status {
		t.Fatalf("%s %s: %q, want %s", method, path, c.out.Text(), status)
	}
}

func startBurner(t *testing.T, p *pod) *exec.Cmd {
	t.Helper()
	cmd := workload("burn", fmt.Sprintf("%ds", burnedSeconds))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil { // it waits for the end of its input
		t.Fatal(err)
	}
	p.start(t, cmd)
	if line := bufio.NewScanner(out); !line.Scan() || line.Text() != "done" {
		t.Fatalf("the burner said %q", line.Text())
	}
	return cmd
}
