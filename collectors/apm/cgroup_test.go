package apm

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"nodetap/agent/containers"
	"nodetap/agent/pods"
	"nodetap/agent/telemetry"
)

// cgroup2 returns where cgroup2 is mounted.
func cgroup2(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1]
		}
	}
	t.Fatal("no cgroup2 is mounted")
	return ""
}

// makeCgroup makes a cgroup for the test and returns its directory and id.
func makeCgroup(t *testing.T, name string) (string, uint64) {
	t.Helper()
	dir := filepath.Join(cgroup2(t), fmt.Sprintf("nodetap-apm-%d-%s", os.Getpid(), name))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 100 { // its processes may be on their way out
			if err := os.Remove(dir); err == nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Errorf("%s is left behind", dir)
	})
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	return dir, st.Ino
}

// inCgroup prepares a helper that runs in the cgroup.
func inCgroup(t *testing.T, dir, what string, args ...string) *exec.Cmd {
	t.Helper()
	fd, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fd.Close() })
	cmd := exec.Command(os.Args[0], append([]string{"-test.run=^TestHelper$"}, args...)...)
	cmd.Env = append(os.Environ(), "APM_TEST_HELPER="+what)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(fd.Fd())}
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	cmd.WaitDelay = 2 * time.Second
	return cmd
}

func TestContainersAreTracedAndNamedAndOthersAreNot(t *testing.T) {
	needBPF(t)
	serverDir, serverID := makeCgroup(t, "server")
	clientDir, clientID := makeCgroup(t, "client")
	idOf := func(c byte) string { return strings.Repeat(string(c), 64) }
	serverRes := &telemetry.Resource{Namespace: "shop", Pod: "cart-1", PodUID: "u1", Container: "cart", ContainerID: idOf('a'), WorkloadKind: "Deployment", WorkloadName: "cart", ServiceName: "cart"}
	clientRes := &telemetry.Resource{Namespace: "shop", Pod: "web-1", PodUID: "u2", Container: "web", ContainerID: idOf('b'), WorkloadKind: "Deployment", WorkloadName: "web", ServiceName: "web"}
	port := free(t)
	a := start(t, func(cfg *Config, a *agent) {
		cfg.Processes = "containers"
		a.containers.add(&containers.Container{Kind: containers.KindContainer, ID: idOf('a'), PodUID: "u1", CgroupID: serverID})
		a.pods.set(idOf('a'), serverRes)
		a.pods.byAddr = map[netip.Addr]pods.Peer{netip.MustParseAddr("127.0.0.1"): {Resource: clientRes, Service: "cart", ServiceNamespace: "shop"}}
	})
	server := inCgroup(t, serverDir, "go-server", fmt.Sprint(port))
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	listening(t, port)

	// a client outside containers, then one in a container that comes later and
	// whose pod is known only after its requests
	url := fmt.Sprintf("http://127.0.0.1:%d/users/{i}", port)
	run1(t, "go-client", url, "10")
	a.expect(t, port, 10, 0)
	a.containers.add(&containers.Container{Kind: containers.KindContainer, ID: idOf('b'), PodUID: "u2", CgroupID: clientID})
	if out, err := inCgroupOutput(inCgroup(t, clientDir, "go-client", url, "10")); err != nil {
		t.Fatalf("client: %v\n%s", err, out)
	}
	a.expect(t, port, 20, 0)
	a.pods.set(idOf('b'), clientRes)
	servers, clients := a.expect(t, port, 20, 10)
	for _, s := range servers {
		if s.res != serverRes || s.attr(attrPeerPod) != "web-1" || s.attr(attrPeerNamespace) != "shop" {
			t.Fatalf("server span of %+v: %v", s.res, s.Attrs)
		}
	}
	for _, s := range clients {
		if s.res != clientRes || s.attr("service.peer.name") != "cart" || s.attr("url.template") != "/users/*" {
			t.Fatalf("client span of %+v: %v", s.res, s.Attrs)
		}
	}

	var text []string
	for _, f := range a.metrics.Snapshot(MetricsPath).Families {
		for _, s := range f.Series {
			text = append(text, fmt.Sprintf("%s{%s} %d", f.Desc.Name, s.Labels.Text(), s.Hist.Count))
			total := uint64(0)
			for _, n := range s.Hist.Counts {
				total += n
			}
			if total != s.Hist.Count || s.Hist.Sum <= 0 {
				t.Errorf("%+v", s.Hist)
			}
		}
	}
	want := []string{
		fmt.Sprintf(`http_client_request_duration_seconds{http_request_method="GET",http_response_status_code="200",k8s_container_name="web",k8s_deployment_name="web",k8s_namespace_name="shop",k8s_pod_name="web-1",k8s_pod_uid="u2",network_protocol_version="1.1",server_address="127.0.0.1",server_port="%d",service_name="web",service_peer_name="cart",service_peer_namespace="shop",url_scheme="http",url_template="/users/*"} 10`, port),
		`http_server_request_duration_seconds{http_request_method="GET",http_response_status_code="200",http_route="/users/*",k8s_container_name="cart",k8s_deployment_name="cart",k8s_namespace_name="shop",k8s_pod_name="cart-1",k8s_pod_uid="u1",network_protocol_version="1.1",service_name="cart",service_peer_name="cart",service_peer_namespace="shop",url_scheme="http"} 20`,
	}
	if strings.Join(text, "\n") != strings.Join(want, "\n") {
		t.Errorf("metrics:\n%s\nwant:\n%s", strings.Join(text, "\n"), strings.Join(want, "\n"))
	}

	// and everything adds up: 20 server ends, 10 client ends of a container, and
	// the 10 of the client outside, traced until it was clear that it is none
	a.stop()
	requests, _ := a.sum(t, "nodetap_apm_requests_total")
	sent, _ := a.sum(t, "nodetap_apm_spans_sent_total")
	dropped, by := a.sum(t, "nodetap_apm_spans_dropped_total")
	if requests != sent+dropped || sent != 30 {
		t.Errorf("%v requests, %v sent, %v dropped %v", requests, sent, dropped, by)
	}
}

func inCgroupOutput(cmd *exec.Cmd) (string, error) {
	cmd.Stdout, cmd.Stderr = nil, nil
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestTheAgentsOwnTrafficGivesNothing(t *testing.T) {
	port := free(t)
	a := start(t, nil)
	helper(t, "go-server", fmt.Sprint(port))
	listening(t, port)
	base := fmt.Sprintf("http://127.0.0.1:%d", port)

	own := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "metrics") }))
	defer own.Close()
	for range 5 {
		res, err := http.Get(base + "/ok") // as an exporter does
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()
	run1(t, "go-client", own.URL+"/metrics", "5") // as a scraper does
	// an agent on another node, behind address translation
	run1(t, "raw", fmt.Sprintf("127.0.0.1:%d", port), "GET /ok HTTP/1.1%0d%0aHost: x%0d%0aUser-Agent: nodetap/1.0%0d%0aConnection: close%0d%0a%0d%0a")
	run1(t, "go-client", base+"/users/{i}", "3") // what is no traffic of ours
	servers, clients := a.expect(t, port, 3, 3)
	_, ownPort, _ := strings.Cut(strings.TrimPrefix(own.URL, "http://"), ":")
	for _, s := range a.all() {
		if s.attr("user_agent.original") == "nodetap/1.0" || fmt.Sprint(s.attr("server.port")) == ownPort {
			t.Errorf("a span about the agent: %v", s.Attrs)
		}
	}
	for _, s := range append(servers, clients...) {
		if s.Name != "GET /users/*" {
			t.Errorf("%s", s.Name)
		}
	}
}

func TestUserAgentsCanBeExcluded(t *testing.T) {
	port := free(t)
	a := start(t, func(cfg *Config, _ *agent) { cfg.ExcludeUserAgents = []string{"Go-http-client/"} })
	helper(t, "go-server", fmt.Sprint(port))
	listening(t, port)
	run1(t, "go-client", fmt.Sprintf("http://127.0.0.1:%d/ok", port), "3")
	run1(t, "raw", fmt.Sprintf("127.0.0.1:%d", port), "GET /ok HTTP/1.1%0d%0aHost: x%0d%0aConnection: close%0d%0a%0d%0a")
	a.expect(t, port, 1, 1)
	if _, by := a.sum(t, "nodetap_apm_spans_dropped_total"); by[dropUserAgent] < 6 {
		t.Errorf("dropped %v", by)
	}
}

func TestMetricsRemainWithoutAnExporterOfSpans(t *testing.T) {
	port := free(t)
	a := start(t, func(_ *Config, a *agent) { a.refuse = true })
	helper(t, "go-server", fmt.Sprint(port))
	listening(t, port)
	run1(t, "go-client", fmt.Sprintf("http://127.0.0.1:%d/users/{i}", port), "7")
	count := func() (n uint64) {
		for _, f := range a.metrics.Snapshot(MetricsPath).Families {
			for _, s := range f.Series {
				if f.Desc == clientDesc && strings.Contains(s.Labels.Text(), fmt.Sprintf(`server_port="%d"`, port)) {
					n += s.Hist.Count
				}
			}
		}
		return n
	}
	if !wait(func() bool { return count() == 7 }) {
		t.Errorf("%d requests in the metrics", count())
	}
	if len(a.all()) != 0 {
		t.Error("spans that nobody takes")
	}
}

func TestAFullRingIsCountedAndPairsStayRight(t *testing.T) {
	port := free(t)
	a := start(t, func(cfg *Config, _ *agent) { cfg.RingBytes = 8 << 10 }) // two messages fill it
	helper(t, "go-server", fmt.Sprint(port))
	listening(t, port)
	run1(t, "flood", fmt.Sprintf("127.0.0.1:%d", port), "100")
	var ring map[string]float64
	wait(func() bool {
		_, ring = a.sum(t, "nodetap_apm_events_dropped_total")
		return ring["ring_full"] > 0
	})
	if ring["ring_full"] == 0 {
		t.Fatal("the ring was never full: the test proves nothing")
	}
	time.Sleep(closeGraceDuration + 4*drainEvery)
	for _, s := range a.all() {
		if want := map[string]int64{"POST /echo": 200, "GET /fail": 503}[s.Name]; want != 0 && s.attr("http.response.status_code") != want && s.attr("error.type") != errConnection {
			t.Fatalf("%s got %v", s.Name, s.attr("http.response.status_code"))
		}
	}
	a.stop()
	requests, _ := a.sum(t, "nodetap_apm_requests_total")
	sent, _ := a.sum(t, "nodetap_apm_spans_sent_total")
	dropped, by := a.sum(t, "nodetap_apm_spans_dropped_total")
	if requests != sent+dropped || requests == 0 {
		t.Errorf("%v requests, %v sent, %v dropped %v", requests, sent, dropped, by)
	}
	t.Logf("requests %v sent %v dropped %v events dropped %v", requests, sent, by, ring)
}

const closeGraceDuration = time.Duration(closeGrace)
