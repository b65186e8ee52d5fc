package pods

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"nodetap/agent/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quick makes the reflector try again at once.
var quick = &wait.Backoff{Duration: 5 * time.Millisecond, Factor: 1, Steps: 1, Cap: 5 * time.Millisecond}

// eventually waits for something that comes by itself. The limit is no part of
// what is tested.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

// start runs a store; the returned function stops it and waits.
func start(t *testing.T, s *Store) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("Run goes on after its context has ended")
		}
	}
	t.Cleanup(stop)
	return stop
}

func online(f *fakeAPI) Config {
	c := Default()
	c.Kubeconfig = f.kubeconfig()
	return c
}

func TestPodsAreWatchedByFieldSelectorInProtobuf(t *testing.T) {
	for _, streamed := range []bool{true, false} {
		t.Run(fmt.Sprintf("watchList=%v", streamed), func(t *testing.T) {
			f := newFakeAPI(t)
			f.watchList = streamed
			sample := samplePods(t)
			for i := range sample {
				f.set(&sample[i])
			}
			elsewhere := sample[0].DeepCopy()
			elsewhere.Name, elsewhere.UID, elsewhere.Spec.NodeName = "elsewhere", "11111111-0000-0000-0000-000000000000", "node-2"
			f.set(elsewhere)

			reg := prometheus.NewRegistry()
			s := newStore(t, online(f), Options{Reg: reg, backoff: quick})
			stop := start(t, s)
			synced(t, s)
			if live, deleted := s.count(); live != 13 || deleted != 0 {
				t.Errorf("%d pods live, %d deleted; the node has 13", live, deleted)
			}
			r := s.Container(webID)
			if r == nil || r.WorkloadName != "web" || r.Labels["app"] != "web" {
				t.Fatalf("web = %+v", r)
			}
			if s.Pod(string(elsewhere.UID)) != nil {
				t.Error("a pod of another node is known")
			}

			// News: a pod that comes, changes and goes.
			late := sample[0].DeepCopy()
			late.Name, late.UID = "late", "22222222-0000-0000-0000-000000000000"
			late.Status = corev1.PodStatus{}
			f.set(late)
			eventually(t, "the new pod", func() bool { return s.Pod(string(late.UID)) != nil })
			before, v := s.Pod(string(late.UID)), s.Version()
			late.Labels["new"] = "label"
			f.set(late)
			eventually(t, "the label", func() bool { return s.Pod(string(late.UID)).Labels["new"] == "label" })
			if s.Version() == v || before.Labels["new"] != "" {
				t.Error("a Resource was changed in place, or the version stands still")
			}
			f.del(late)
			eventually(t, "the deletion", func() bool { _, deleted := s.count(); return deleted == 1 })
			if s.Pod(string(late.UID)) == nil {
				t.Error("a deleted pod is forgotten at once")
			}

			wantRequests := []string{"watch pods spec.nodeName=node-1", "watch services", "watch endpointslices", "get nodes/node-1"}
			if !streamed {
				wantRequests = append(wantRequests, "list pods spec.nodeName=node-1")
			}
			for _, want := range wantRequests {
				eventually(t, want, func() bool { return f.seen(want) })
			}
			f.mu.Lock()
			for a := range f.accepts {
				if !strings.HasPrefix(a, "application/vnd.kubernetes.protobuf") {
					t.Errorf("Accept: %s", a)
				}
			}
			for _, r := range f.requests {
				switch r {
				case "watch pods spec.nodeName=node-1", "list pods spec.nodeName=node-1", "watch services", "list services",
					"watch endpointslices", "list endpointslices", "get nodes/node-1":
				default:
					t.Errorf("a request that the RBAC rules do not name: %s", r)
				}
			}
			f.mu.Unlock()
			want := map[string]float64{`nodetap_pods_api_up`: 1, `nodetap_pods_known{state="deleted"}`: 1, `nodetap_pods_known{state="live"}`: 13,
				`nodetap_pods_annotations_dropped_total`: 0, `nodetap_pods_peers_dropped_total`: 0, `nodetap_pods_peers`: 0}
			got := gathered(t, reg)
			for name, v := range want {
				if w, ok := got[name]; !ok || w != v {
					t.Errorf("%s = %v, want %v", name, w, v)
				}
			}
			stop()
		})
	}
}

func TestWhileTheAPIServerIsDownWhatIsKnownStays(t *testing.T) {
	f := newFakeAPI(t)
	sample := samplePods(t)
	for i := range sample {
		f.set(&sample[i])
	}
	reg := prometheus.NewRegistry()
	var log syncBuffer
	s := newStore(t, online(f), Options{Reg: reg, backoff: quick, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	start(t, s)
	synced(t, s)
	web := s.Container(webID)

	f.stop()
	eventually(t, "the API server is seen to be down", func() bool { return value(t, s.self.apiUp) == 0 })
	if s.Container(webID) != web {
		t.Error("what was known is gone")
	}
	if value(t, s.self.watchErrors.WithLabelValues("pods")) == 0 {
		t.Error("no error is counted")
	}
	late := sample[0].DeepCopy()
	late.Name, late.UID = "late", "22222222-0000-0000-0000-000000000000"
	r := s.LogPath("demo", "late", string(late.UID), "once", 0)
	if !r.Partial || r.Pod != "late" || r.Namespace != "demo" || r.ServiceName != "late" {
		t.Errorf("a new pod by its path = %+v", r)
	}
	if s.LogPath("demo", "late", string(late.UID), "once", 0) != r {
		t.Error("the same path gives another pointer")
	}

	f.set(late)
	f.del(&sample[5])
	f.start()
	eventually(t, "the new pod is known", func() bool { return !s.LogPath("demo", "late", string(late.UID), "once", 0).Partial })
	if r := s.LogPath("demo", "late", string(late.UID), "once", 0); r.WorkloadKind != "Job" || r.Labels["job-name"] != "once" {
		t.Errorf("= %+v", r)
	}
	eventually(t, "what was deleted meanwhile is seen", func() bool { _, deleted := s.count(); return deleted == 1 })
	if s.Container(webID) != web {
		t.Error("a list without news about a pod made a new Resource of it")
	}
	eventually(t, "up again", func() bool { return value(t, s.self.apiUp) == 1 })
	if n := strings.Count(log.String(), "API server does not answer"); n < 1 || n > 4 {
		t.Errorf("%d warnings, want one per resource:\n%s", n, log.String())
	}
}

func TestAnAPIServerThatIsAwayAtStartHoldsUpNothing(t *testing.T) {
	f := newFakeAPI(t)
	state := t.TempDir()
	sample := samplePods(t)
	for i := range sample {
		f.set(&sample[i])
	}
	cfg := online(f)
	first := newStore(t, cfg, Options{StateDir: state, BootID: "b", backoff: quick})
	stop := start(t, first)
	synced(t, first)
	f.del(&sample[2])
	eventually(t, "a deletion", func() bool { _, deleted := first.count(); return deleted == 1 })
	web, old := first.Container(webID), first.Container(webOldID)
	stop()
	f.stop()

	s := newStore(t, cfg, Options{StateDir: state, BootID: "b"}) // with the real backoff: it must end all the same
	stop = start(t, s)
	if d := cmp.Diff(web, s.Container(webID)); d != "" {
		t.Errorf("after a restart: %s", d)
	}
	if d := cmp.Diff(old, s.Container(webOldID)); d != "" {
		t.Errorf("the run before, after a restart: %s", d)
	}
	if live, deleted := s.count(); live != 12 || deleted != 1 {
		t.Errorf("%d live and %d deleted are remembered, want 12 and 1", live, deleted)
	}
	if p, ok := s.Peer(netip.MustParseAddrPort("10.244.0.3:80")); !ok || p.Resource.PodUID != webUID {
		t.Errorf("by address: %+v", p)
	}
	eventually(t, "an attempt", func() bool { return value(t, s.self.watchErrors.WithLabelValues("pods")) > 0 })
	select {
	case <-s.Synced():
		t.Error("synced without an API server")
	default:
	}
	stop()

	other := newStore(t, cfg, Options{StateDir: state, BootID: "another boot"})
	if _, ok := other.Peer(netip.MustParseAddrPort("10.244.0.3:80")); ok {
		t.Error("an address from before the node's start is believed")
	}
	if other.Container(webID) == nil {
		t.Error("a container id from before the node's start is gone")
	}
	if n := newStore(t, cfg, Options{StateDir: state, NodeName: "node-2"}); n.Container(webID) != nil {
		t.Error("another node's pods are believed")
	}
}

func TestAStateFileThatCannotBeReadIsIgnored(t *testing.T) {
	for name, text := range map[string]string{
		"garbage": "\x00\x01", "another version": `{"version":99,"node":"node-1","pods":[]}`, "cut": `{"version":1,"node":"node-1","pods":[{"uid":"x"`,
		"hostile": `{"version":1,"node":"node-1","pods":[{},{"pod":{}},{"pod":{"uid":"../../x","namespace":"a","name":"b"}},{"pod":{"uid":"u","namespace":"A/B","name":"b"}}]}`,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, stateFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s := newStore(t, offline(), Options{StateDir: dir})
		if live, deleted := s.count(); live+deleted != 0 {
			t.Errorf("%s: %d pods", name, live+deleted)
		}
	}
}

func TestPeersByServiceAndSlice(t *testing.T) {
	f := newFakeAPI(t)
	sample := samplePods(t)
	for i := range sample {
		f.set(&sample[i])
	}
	f.set(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.77"}, {Type: corev1.NodeHostName, Address: "node-1"}}}})
	svc := func(name, ip string, port int32) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop"},
			Spec: corev1.ServiceSpec{ClusterIP: ip, ClusterIPs: []string{ip}, Ports: []corev1.ServicePort{{Port: port}}}}
	}
	web := svc("web", "10.96.0.1", 80)
	f.set(web)
	f.set(svc("headless", "None", 80))
	slice := func(name, service string, port int32, eps ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: &port}}, Endpoints: eps}
	}
	ep := func(ip, node, pod string) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{Addresses: []string{ip}, NodeName: &node,
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: pod, UID: "uid-" + "of-pod"}}
	}
	f.set(slice("web-1", "web", 8080, ep("10.244.1.1", "node-2", "web-a"), ep("10.244.0.3", "node-1", "local")))
	f.set(slice("admin-1", "admin", 9090, ep("10.244.1.1", "node-2", "web-a")))
	f.set(slice("hosts-1", "exporter", 9100, ep("192.0.2.3", "node-3", "exporter-x")))
	f.set(slice("hosts-2", "proxy", 9200, ep("192.0.2.3", "node-3", "proxy-x")))
	f.set(slice("own-host", "agent", 9400, ep("192.0.2.2", "node-1", "agent-mounts")))
	f.set(slice("names", "external", 443, discoveryv1.Endpoint{Addresses: []string{"example.test"}}))

	s := newStore(t, online(f), Options{Cluster: "c1", backoff: quick})
	start(t, s)
	synced(t, s)
	type answer struct{ Pod, Node, Service, PeerNode string }
	ask := func(addr string) answer {
		p, ok := s.Peer(netip.MustParseAddrPort(addr))
		if !ok {
			return answer{}
		}
		a := answer{Service: p.Service, PeerNode: p.Node}
		if p.Resource != nil {
			a.Pod, a.Node = p.Resource.Pod, p.Resource.Node
		}
		return a
	}
	for addr, want := range map[string]answer{
		"10.96.0.1:80":          {Service: "web"},
		"10.96.0.1:81":          {Service: "web"}, // the address is its alone
		"10.244.1.1:8080":       {Pod: "web-a", Node: "node-2", Service: "web"},
		"10.244.1.1:9090":       {Pod: "web-a", Node: "node-2", Service: "admin"},
		"10.244.1.1:40000":      {Pod: "web-a", Node: "node-2", Service: "admin"}, // a client's port: the first by name
		"10.244.0.3:8080":       {Pod: "web-5cddbf469b-5r45s", Node: "node-1", Service: "web"},
		"192.0.2.3:9200":        {Service: "proxy", PeerNode: "node-3"},
		"192.0.2.3:40000":       {PeerNode: "node-3"},
		"192.0.2.77:10250":      {PeerNode: "node-1"},
		"192.0.2.2:9400":        {Service: "agent", PeerNode: "node-1"},
		"192.0.2.2:40000":       {PeerNode: "node-1"}, // from the node itself or any of its host-network pods
		"[fd00::1]:1":           {},
		"203.0.113.9:443":       {},
		"[::ffff:10.96.0.1]:80": {Service: "web"},
	} {
		eventually(t, addr+" = "+fmt.Sprint(want), func() bool { return ask(addr) == want })
	}
	a, _ := s.Peer(netip.MustParseAddrPort("10.244.1.1:8080"))
	b, _ := s.Peer(netip.MustParseAddrPort("10.244.1.1:9090"))
	if a.Resource != b.Resource || !a.Resource.Partial || a.Resource.Cluster != "c1" || a.Resource.PodIP != "10.244.1.1" {
		t.Errorf("two Resources of one peer: %+v, %+v", a.Resource, b.Resource)
	}

	f.del(web)
	f.set(slice("web-1", "web", 8080, ep("10.244.1.2", "node-2", "web-b")))
	eventually(t, "the new endpoint", func() bool { return ask("10.244.1.2:8080") == answer{"web-b", "node-2", "web", ""} })
	eventually(t, "the Service is gone", func() bool { return ask("10.96.0.1:80") == answer{} })
	if got := (answer{"web-a", "node-2", "admin", ""}); ask("10.244.1.1:8080") != got {
		t.Errorf("= %+v, want %+v", ask("10.244.1.1:8080"), got)
	}
}

func TestPeersPods(t *testing.T) {
	f := newFakeAPI(t)
	yes := true
	remote := func(name, ip string, host bool) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop", UID: "u-1",
			Labels: map[string]string{"pod-template-hash": "abc"}, OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web-abc", Controller: &yes}}},
			Spec: corev1.PodSpec{NodeName: "node-2", HostNetwork: host}, Status: corev1.PodStatus{PodIP: ip, HostIP: "192.0.2.9"}}
	}
	p := remote("web-abc-1", "10.244.1.1", false)
	f.set(p)
	h := remote("host", "192.0.2.9", true)
	h.UID = "u-2"
	f.set(h)
	cfg := online(f)
	cfg.Peers = "pods"
	s := newStore(t, cfg, Options{backoff: quick})
	start(t, s)
	addr := netip.MustParseAddrPort("10.244.1.1:1")
	eventually(t, "the pod", func() bool { _, ok := s.Peer(addr); return ok })
	want := &telemetry.Resource{Node: "node-2", Namespace: "shop", Pod: "web-abc-1", PodUID: "u-1", PodIP: "10.244.1.1",
		WorkloadKind: "Deployment", WorkloadName: "web", OwnerKind: "ReplicaSet", OwnerName: "web-abc", Partial: true}
	got, _ := s.Peer(addr)
	if d := cmp.Diff(want, got.Resource); d != "" {
		t.Error(d)
	}
	eventually(t, "the node", func() bool {
		p, ok := s.Peer(netip.MustParseAddrPort("192.0.2.9:5"))
		return ok && p.Node == "node-2" && p.Resource == nil
	})
	f.del(p)
	eventually(t, "the pod is gone", func() bool { _, ok := s.Peer(addr); return !ok })
}

func TestPeersAreBounded(t *testing.T) {
	dropped := 0
	p := newPeers(3, &identity{}, func() { dropped++ })
	for i := range 5 {
		p.setService(&service{namespace: "n", name: fmt.Sprint("s", i), ips: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}})
	}
	if p.count() != 3 || dropped != 2 {
		t.Errorf("%d kept, %d dropped", p.count(), dropped)
	}
	m := p.servicesMirror()
	m.replace([]*service{{namespace: "n", name: "s9", ips: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, 9})}}})
	if p.count() != 1 || p.used != 1 || len(p.services) != 1 {
		t.Errorf("%d addresses of %d services are left", p.count(), len(p.services))
	}
}

func TestNoPeersAsksForPodsAndItsNodeAlone(t *testing.T) {
	f := newFakeAPI(t)
	f.mu.Lock()
	f.forbid["nodes"] = true
	f.mu.Unlock()
	cfg := online(f)
	cfg.Peers = "none"
	s := newStore(t, cfg, Options{backoff: quick})
	stop := start(t, s)
	synced(t, s)
	eventually(t, "the node is asked for", func() bool { return f.seen("get nodes/node-1") })
	stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.requests {
		if r != "watch pods spec.nodeName=node-1" && r != "get nodes/node-1" {
			t.Errorf("asked for %s", r)
		}
	}
}

func TestWithoutAnAPIServerPathsAndLinksTell(t *testing.T) {
	dir := t.TempDir()
	id := strings.Repeat("ab", 32)
	pod := filepath.Join(dir, "pods", "shop_web-0_0f0f0f0f-0000-0000-0000-000000000000", "app")
	links := filepath.Join(dir, "containers")
	for _, d := range []string{pod, links} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	var log syncBuffer
	s := newStore(t, Default(), Options{LogDir: dir, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	start(t, s)
	synced(t, s)
	r := s.LogPath("shop", "web-0", "0f0f0f0f-0000-0000-0000-000000000000", "app", 3)
	want := &telemetry.Resource{Node: "node-1", Namespace: "shop", Pod: "web-0", PodUID: "0f0f0f0f-0000-0000-0000-000000000000", Container: "app",
		RestartCount: 3, ServiceName: "web-0", ServiceNamespace: "shop", ServiceInstanceID: "shop.web-0.app", Partial: true}
	if d := cmp.Diff(want, r); d != "" {
		t.Error(d)
	}
	if s.Container(id) != nil {
		t.Error("a container that nobody has named is known")
	}
	v := s.Version()
	for name, target := range map[string]string{
		"web-0_shop_app-" + id + ".log":                            filepath.Join(pod, "3.log"),
		"evil_shop_app-" + strings.Repeat("cd", 32) + ".log":       filepath.Join(pod, "4.log"), // names another pod than it leads to
		"web-0_shop_app-" + strings.Repeat("ef", 32) + ".log":      "/etc/passwd",
		"web-0_shop_app-" + strings.Repeat("01", 32) + ".log.junk": filepath.Join(pod, "5.log"),
	} {
		if err := os.Symlink(target, filepath.Join(links, name)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the link is seen", func() bool { return s.Container(id) != nil })
	if got := s.Container(id); s.Version() == v || got.ContainerID != id || got.Pod != "web-0" || got.RestartCount != 3 || !got.Partial {
		t.Errorf("= %+v", got)
	}
	if s.LogPath("shop", "web-0", "0f0f0f0f-0000-0000-0000-000000000000", "app", 3) != s.Container(id) {
		t.Error("two Resources of one run")
	}
	for _, bad := range []string{"cd", "ef", "01"} {
		if r := s.Container(strings.Repeat(bad, 32)); r != nil {
			t.Errorf("a planted link is believed: %+v", r)
		}
	}
	if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "level=INFO") {
		t.Errorf("the log should have one info line:\n%s", log.String())
	}
}

func TestWhoeverCanNameNoContainerSaysSo(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, offline(), Options{LogDir: dir})
	if !s.Learns() {
		t.Error("given up before the directory was looked for")
	}
	scan := func() {
		t.Helper()
		if _, err := s.scanLinks(time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	if scan(); s.Learns() {
		t.Error("no API server and no links, and yet something is to come")
	}
	if err := os.Mkdir(filepath.Join(dir, "containers"), 0o755); err != nil {
		t.Fatal(err)
	}
	if scan(); !s.Learns() {
		t.Error("links that came are not noticed")
	}
	if newStore(t, offline(), Options{}).Learns() {
		t.Error("no API server and no log directory, and yet something is to come")
	}
	if online := newStore(t, online(newFakeAPI(t)), Options{}); !online.Learns() {
		t.Error("an API server will tell nothing")
	}
}

func TestALinkTellsTheIDBeforeTheStatusDoes(t *testing.T) {
	s := newStore(t, offline(), Options{})
	fill(t, s)
	id := strings.Repeat("ab", 32)
	f := LogFile{"demo", "web-5cddbf469b-5r45s", webUID, "web", 2}
	r := s.logFile(f)
	if r.ContainerID != "" || r.Partial || r.WorkloadName != "web" {
		t.Fatalf("= %+v", r)
	}
	s.learnLinks([]link{{id, f}})
	if r := s.logFile(f); r.ContainerID != id || s.Container(id) != r {
		t.Errorf("= %+v", r)
	}
}

func TestDeletedPodsAreRememberedUntilDrained(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, offline(), Options{LogDir: dir})
	fill(t, s)
	s.remove(webUID)
	logs := filepath.Join(dir, "pods", "demo_web-5cddbf469b-5r45s_"+webUID)
	if err := os.MkdirAll(logs, 0o755); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	s.expire(start.Add(time.Hour))
	if s.Pod(webUID) == nil {
		t.Fatal("forgotten although its logs are there")
	}
	if err := os.Remove(logs); err != nil {
		t.Fatal(err)
	}
	s.expire(time.Now().Add(s.cfg.KeepDeleted - time.Minute))
	if s.Container(webID) == nil { // and this use keeps it
		t.Fatal("forgotten before its time")
	}
	v := s.Version()
	s.expire(time.Now().Add(s.cfg.KeepDeleted + time.Minute))
	if s.Pod(webUID) != nil || s.Container(webID) != nil || s.Container(webOldID) != nil || s.Version() == v {
		t.Error("still known, or the version stands still")
	}
	if _, ok := s.Peer(netip.MustParseAddrPort("10.244.0.3:1")); ok {
		t.Error("its address is still its")
	}
	if live, deleted := s.count(); live != 12 || deleted != 0 {
		t.Errorf("%d live, %d deleted", live, deleted)
	}
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	s := newStore(t, offline(), Options{})
	for i := range maxDeleted + 10 {
		uid := fmt.Sprintf("u-%d", i)
		s.upsert(&pod{UID: uid, Namespace: "n", Name: "p", Containers: []container{{Name: "c", ID: fmt.Sprintf("%064x", i)}}}, true)
		s.remove(uid)
	}
	s.expire(time.Now())
	if _, deleted := s.count(); deleted != maxDeleted || len(s.ids) != maxDeleted {
		t.Errorf("%d deleted pods and %d ids are remembered", deleted, len(s.ids))
	}
	for i := range maxPartial + 10 {
		s.LogPath("n", "p", "other", "c", i)
	}
	if len(s.partial) != maxPartial {
		t.Errorf("%d partial Resources", len(s.partial))
	}
	crashing := &pod{UID: "crash", Namespace: "n", Name: "crash"}
	for i := range 5 * maxRuns {
		c := *crashing
		c.Containers = []container{{Name: "c", Restart: i, ID: fmt.Sprintf("f%063x", i)}}
		s.upsert(&c, true)
		s.LogPath("n", "crash", "crash", "c", i)
	}
	if e := s.pods["crash"]; len(e.runs) != maxRuns || len(e.res) > 2*maxRuns {
		t.Errorf("%d runs and %d Resources of one pod", len(e.runs), len(e.res))
	}
	if r := s.Container(fmt.Sprintf("f%063x", 5*maxRuns-1)); r == nil || r.RestartCount != 5*maxRuns-1 {
		t.Errorf("the last run = %+v", r)
	}
}

func TestConfigErrorsNameTheirKeys(t *testing.T) {
	good := Default()
	if err := good.Validate(); err != nil {
		t.Errorf("the default: %v", err)
	}
	bad := Config{API: "x", KeepDeleted: 1, Annotations: []string{""}, AnnotationsExclude: []string{" "}, AnnotationMaxBytes: -1, Peers: "x", MaxPeers: -1}
	err := bad.Validate()
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("%T", err)
	}
	var keys []string
	for _, e := range joined.Unwrap() {
		keys = append(keys, e.(interface{ FieldKey() string }).FieldKey())
	}
	if d := cmp.Diff([]string{"api", "keep_deleted", "annotations", "annotations_exclude", "annotation_max_bytes", "peers", "max_peers"}, keys); d != "" {
		t.Error(d)
	}
	both := Default()
	both.API, both.Kubeconfig = "off", "/x"
	if both.Validate() == nil {
		t.Error("a kubeconfig beside api: off is taken")
	}
}

func TestAKubeconfigThatCannotBeReadIsAnError(t *testing.T) {
	cfg := Default()
	cfg.Kubeconfig = filepath.Join(t.TempDir(), "none")
	if _, err := New(cfg, Options{NodeName: "n"}); err == nil || !strings.Contains(err.Error(), "kubeconfig") {
		t.Errorf("%v", err)
	}
	f := newFakeAPI(t)
	if _, err := New(online(f), Options{}); err == nil || !strings.Contains(err.Error(), "NODE_NAME") {
		t.Errorf("without a node name: %v", err)
	}
}

func TestAccessIsToldVerbByVerb(t *testing.T) {
	f := newFakeAPI(t)
	f.set(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}})
	f.mu.Lock()
	f.forbid["services"] = true
	f.mu.Unlock()
	list, err := CheckAccess(t.Context(), online(f), Options{NodeName: "node-1"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range list {
		s := strings.TrimSpace(a.Verb + " " + a.Resource + " " + a.Group)
		if a.Denied() {
			s += ": no"
		} else if a.Err != nil {
			t.Error(a.Err)
		}
		got = append(got, s)
	}
	want := []string{"list pods", "watch pods", "get nodes", "list services: no", "list endpointslices discovery.k8s.io", "watch endpointslices discovery.k8s.io"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if list, err := CheckAccess(t.Context(), offline(), Options{}); list != nil || err != nil {
		t.Errorf("without an API server: %v, %v", list, err)
	}
}
