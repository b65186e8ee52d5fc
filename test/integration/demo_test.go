// Package integration drives the built binary as a user does, without
// Kubernetes: a black box that is looked at through what it prints and serves.
package integration

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// build returns the path of a program of this module, built for the test.
func build(t *testing.T, pkg string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), filepath.Base(pkg))
	cmd := exec.Command("go", "build", "-o", out, "nodetap/"+pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, b)
	}
	return out
}

func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// record is one line of exporters/stdout.
type record struct {
	Signal   string         `json:"signal"`
	Name     string         `json:"name"`
	Kind     string         `json:"kind"`
	Body     string         `json:"body"`
	Resource map[string]any `json:"resource"`
	Attrs    map[string]any `json:"attributes"`
}

// TestDemoShowsEverySignalTaggedAndLeavesNothingBehind is `make demo` with a
// reader in the place of the person.
func TestDemoShowsEverySignalTaggedAndLeavesNothingBehind(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("NODETAP_REQUIRE_BPF") != "" {
			t.Fatal("needs root: it makes cgroups and loads BPF programs")
		}
		t.Skip("needs root: it makes cgroups and loads BPF programs")
	}
	agent, demo := build(t, "agent"), build(t, "test/demo")
	tmp, addr := t.TempDir(), freeAddr(t)
	cmd := exec.Command(demo, "-agent", agent, "-listen", addr)
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			t.Logf("stderr:\n%s", stderr.String())
		}
	}()

	want := map[string]bool{}
	for _, pod := range []string{"front-0", "orders-0", "stock-0"} {
		want["log of "+pod], want["metric of "+pod], want["server span of "+pod] = true, true, true
	}
	want["client span of front-0"], want["client span of orders-0"] = true, true

	lines := make(chan []byte)
	go func() {
		defer close(lines)
		sc := bufio.NewScanner(stdout)
		sc.Buffer(nil, 4<<20)
		for sc.Scan() {
			lines <- bytes.Clone(sc.Bytes())
		}
	}()
	deadline := time.After(90 * time.Second) // the README says a minute; the machine may be busy
	for len(want) > 0 {
		select {
		case line, ok := <-lines:
			if !ok {
				t.Fatalf("it ended; still missing: %v\n%s", want, stderr.String())
			}
			if got := saw(t, line); got != "" {
				delete(want, got)
			}
		case <-deadline:
			t.Errorf("not seen: %v", want)
			clear(want)
		}
	}
	for _, path := range []string{"/metrics", "/metrics/cadvisor", "/metrics/apm"} {
		if body := httpGet(t, "http://"+addr+path); !strings.Contains(body, "# TYPE ") {
			t.Errorf("%s says nothing: %q", path, body)
		}
	}

	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	for range lines {
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it did not end well: %v", err)
	}
	left, _ := filepath.Glob("/sys/fs/cgroup/nodetap-demo-*")
	deeper, _ := filepath.Glob("/sys/fs/cgroup/*/nodetap-demo-*")
	files, _ := filepath.Glob(tmp + "/*")
	for _, path := range append(append(left, deeper...), files...) {
		if strings.Contains(path, tmp) || strings.Contains(path, fmt.Sprint("nodetap-demo-", cmd.Process.Pid)) {
			t.Errorf("left behind: %s", path)
		}
	}
}

// saw names what a line of the agent's shows, "" for nothing that is waited for.
func saw(t *testing.T, line []byte) string {
	t.Helper()
	var r record
	if err := json.Unmarshal(line, &r); err != nil {
		t.Errorf("not JSON: %q", line)
		return ""
	}
	pod, _ := r.Resource["k8s.pod.name"].(string)
	uid, _ := r.Resource["k8s.pod.uid"].(string)
	if r.Resource["k8s.namespace.name"] != "shop" || len(uid) != 36 {
		return ""
	}
	switch r.Signal {
	case "log", "metric":
		return r.Signal + " of " + pod
	case "span":
		if r.Attrs["http.request.method"] != "GET" {
			t.Errorf("a span without its method: %s", line)
		}
		return strings.ToLower(r.Kind) + " span of " + pod
	}
	return ""
}

func httpGet(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("%s: %s %v", url, resp.Status, err)
	}
	return string(b)
}
