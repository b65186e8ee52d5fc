package pods

import (
	"encoding/json"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"nodetap/agent/telemetry"
)

// samplePods returns the pods that a real kubelet listed.
func samplePods(t testing.TB) []corev1.Pod {
	t.Helper()
	b, err := os.ReadFile("testdata/pods.json")
	if err != nil {
		t.Fatal(err)
	}
	var list corev1.PodList
	if err := json.Unmarshal(b, &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 13 {
		t.Fatalf("%d pods in the sample", len(list.Items))
	}
	return list.Items
}

func testKeep() *keep {
	d := Default()
	return &keep{allow: d.Annotations, deny: d.AnnotationsExclude, maxBytes: d.AnnotationMaxBytes}
}

func newStore(t testing.TB, cfg Config, o Options) *Store {
	t.Helper()
	if o.NodeName == "" {
		o.NodeName = "node-1"
	}
	s, err := New(cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func offline() Config {
	c := Default()
	c.API = "off"
	return c
}

func fill(t testing.TB, s *Store) {
	t.Helper()
	var list []*pod
	for _, p := range samplePods(t) {
		list = append(list, newPod(&p, &s.keep))
	}
	s.replace(list)
}

const (
	webUID   = "f9bf4ce8-40f8-43a0-afe7-c39ab889b4b3"
	webID    = "cf4f329d951ebf0efbb7c34cb16f6287ccefee1a9bce27e922b4e3fb6fc0ba2e"
	webOldID = "80cf0c01f6254bc3a0bc875833bc4b6ed1d8ae3c866b366a7b56258a0b37ed68"
)

func TestARealPodsIdentity(t *testing.T) {
	s := newStore(t, offline(), Options{Cluster: "c1"})
	fill(t, s)
	got := s.Container(webID)
	want := &telemetry.Resource{
		Cluster: "c1", Node: "node-1", Namespace: "demo", Pod: "web-5cddbf469b-5r45s", PodUID: webUID, PodIP: "10.244.0.3",
		Container: "web", ContainerID: webID, Image: "localhost/kt/demo:1",
		ImageID:      "sha256:34df72487ba54b3dbfbf5057a99eaaac1b9a1a2d8f4226334851bb98a4f41033",
		RestartCount: 1,
		WorkloadKind: "Deployment", WorkloadName: "web", OwnerKind: "ReplicaSet", OwnerName: "web-5cddbf469b",
		ServiceName: "web", ServiceNamespace: "demo", ServiceVersion: "1", ServiceInstanceID: "demo.web-5cddbf469b-5r45s.web",
		Labels: map[string]string{"app": "web", "app.kubernetes.io/version": "1.2.3", "pod-template-hash": "5cddbf469b"},
		Annotations: map[string]string{
			"example.test/owner": "shop", "kubernetes.io/config.seen": got.Annotations["kubernetes.io/config.seen"], "kubernetes.io/config.source": "api",
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	old := s.Container(webOldID)
	if old == nil || old.RestartCount != 0 || old.ContainerID != webOldID || old.Container != "web" {
		t.Errorf("the run before = %+v", old)
	}
	if r := s.LogPath("demo", "web-5cddbf469b-5r45s", webUID, "web", 1); r != got {
		t.Errorf("by log path %p, by id %p: two Resources of one run", r, got)
	}
	if r := s.LogPath("demo", "web-5cddbf469b-5r45s", webUID, "web", 0); r != old {
		t.Errorf("the log of the run before has %+v", r)
	}
	if p := s.Pod(webUID); p == nil || p.Container != "" || p.WorkloadName != "web" || p.ServiceInstanceID != "demo.web-5cddbf469b-5r45s" {
		t.Errorf("pod = %+v", p)
	}
	for uid, want := range map[string]bool{webUID: false, "e1e52ca1-0dbe-4c10-982c-cb33c5003542": true, "unknown": false} {
		if got := s.HostNetwork(uid); got != want {
			t.Errorf("HostNetwork(%s) = %v", uid, got)
		}
	}
}

func TestEveryContainerOfTheSampleIsFound(t *testing.T) {
	s := newStore(t, offline(), Options{})
	fill(t, s)
	workloads := map[string]string{}
	n := 0
	for _, p := range samplePods(t) {
		for _, list := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses} {
			for _, c := range list {
				n++
				r := s.Container(strings.TrimPrefix(c.ContainerID, "containerd://"))
				if r == nil || r.PodUID != string(p.UID) || r.Container != c.Name || r.Partial {
					t.Errorf("%s/%s = %+v", p.Name, c.Name, r)
					continue
				}
				workloads[r.WorkloadKind+"/"+r.WorkloadName] = r.ServiceName
			}
		}
	}
	if n != 16 {
		t.Errorf("%d containers, the sample has 16", n)
	}
	want := map[string]string{"Deployment/web": "web", "Deployment/client": "client", "Deployment/coredns": "coredns",
		"StatefulSet/ticker": "ticker", "Job/once": "once", "/": workloads["/"]}
	if d := cmp.Diff(want, workloads); d != "" {
		t.Error(d)
	}
}

func TestWorkloads(t *testing.T) {
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	minutes := "29922480" // at, in minutes
	for _, c := range []struct {
		name        string
		kind, owner string
		labels      map[string]string
		pod         string
		want        owner
	}{
		{"deployment", "ReplicaSet", "web-abc", map[string]string{"pod-template-hash": "abc"}, "", owner{"Deployment", "web"}},
		{"bare replica set", "ReplicaSet", "web-abc", nil, "", owner{"ReplicaSet", "web-abc"}},
		{"hash that is not in the name", "ReplicaSet", "web", map[string]string{"pod-template-hash": "abc"}, "", owner{"ReplicaSet", "web"}},
		{"rollout", "ReplicaSet", "web-abc", map[string]string{"rollouts-pod-template-hash": "abc"}, "", owner{"Rollout", "web"}},
		{"cron job", "Job", "backup-" + minutes, nil, "", owner{"CronJob", "backup"}},
		{"cron job of 1.20", "Job", "backup-" + "1795348800", nil, "", owner{"CronJob", "backup"}},
		{"job named after a date", "Job", "backup-20261122", nil, "", owner{"Job", "backup-20261122"}},
		{"job", "Job", "once", nil, "", owner{"Job", "once"}},
		{"job that is only a number", "Job", minutes, nil, "", owner{"Job", minutes}},
		{"static pod", "Node", "node-1", nil, "etcd-node-1", owner{"Node", "etcd"}},
		{"operator", "CloneSet", "web", nil, "", owner{"CloneSet", "web"}},
		{"none", "", "", nil, "", owner{}},
	} {
		p := &pod{Name: c.pod, Labels: c.labels, Created: at.Unix(), Owner: owner{c.kind, c.owner}}
		if got := workload(p); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestServiceIdentityFollowsTheDocumentedOrder(t *testing.T) {
	p := &pod{UID: "u", Namespace: "ns", Name: "web-abc-1", Labels: map[string]string{}, Resource: map[string]string{},
		Containers: []container{{Name: "c", Image: "r.io:5000/a/web:v3@sha256:77", Version: imageVersion("r.io:5000/a/web:v3@sha256:77")}}}
	plain, labels := &identity{}, &identity{fromLabels: true}
	check := func(step string, d *identity, want ...string) {
		t.Helper()
		r := d.container(p, "c", 0, "")
		if diff := cmp.Diff(want, []string{r.ServiceName, r.ServiceNamespace, r.ServiceVersion, r.ServiceInstanceID}); diff != "" {
			t.Errorf("%s: %s", step, diff)
		}
	}
	check("pod", plain, "web-abc-1", "ns", "v3@sha256:77", "ns.web-abc-1.c")
	p.Workload = owner{"Deployment", "web"}
	check("workload", plain, "web", "ns", "v3@sha256:77", "ns.web-abc-1.c")
	p.Labels["app.kubernetes.io/name"], p.Labels["app.kubernetes.io/version"] = "shop", "9"
	check("labels are an option", plain, "web", "ns", "v3@sha256:77", "ns.web-abc-1.c")
	check("name label", labels, "shop", "ns", "9", "ns.web-abc-1.c")
	p.Labels["app.kubernetes.io/instance"] = "shop-eu"
	check("instance label", labels, "shop-eu", "ns", "9", "ns.web-abc-1.c")
	p.Resource["service.name"], p.Resource["service.namespace"], p.Resource["service.version"], p.Resource["service.instance.id"] = "n", "s", "v", "i"
	p.Resource["team"], p.Resource["deployment.environment.name"] = "blue", "prod"
	check("annotations", labels, "n", "s", "v", "i")
	want := []telemetry.Attr{telemetry.String("deployment.environment.name", "prod"), telemetry.String("team", "blue")}
	if d := cmp.Diff(want, plain.pod(p).Attributes); d != "" {
		t.Error(d)
	}
	p.Workload, p.Resource = owner{"Node", "etcd"}, nil
	check("static pod", plain, "web-abc-1", "ns", "v3@sha256:77", "ns.web-abc-1.c")
}

func TestImageVersions(t *testing.T) {
	for in, want := range map[string]string{
		"nginx": "", "nginx:1.2": "1.2", "host:5000/nginx": "", "host:5000/nginx:1": "1",
		"nginx@sha256:ab": "sha256:ab", "nginx:1@sha256:ab": "1@sha256:ab", "": "",
	} {
		if got := imageVersion(in); got != want {
			t.Errorf("imageVersion(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestAnnotationsAreChosen(t *testing.T) {
	dropped := 0
	k := &keep{allow: []string{"*"}, deny: []string{"kubectl.kubernetes.io/*", "fluentbit.io/*"}, maxBytes: 10, dropped: func(n int) { dropped += n }}
	p := newPod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{
		"kubectl.kubernetes.io/last-applied-configuration": "x", "fluentbit.io/parser": "json", "a": "1", "long": strings.Repeat("x", 11),
		"resource.opentelemetry.io/team": "blue",
	}}}, k)
	want := map[string]string{"fluentbit.io/parser": "json", "a": "1", "resource.opentelemetry.io/team": "blue"}
	if d := cmp.Diff(want, p.Annotations); d != "" || dropped != 1 {
		t.Errorf("dropped %d: %s", dropped, d)
	}
	if d := cmp.Diff(map[string]string{"team": "blue"}, p.Resource); d != "" {
		t.Error(d)
	}
	for _, c := range []struct {
		glob, s string
		want    bool
	}{
		{"*", "", true}, {"a*", "abc", true}, {"a*c", "abc", true}, {"a*c", "ac", true}, {"a*c", "a", false}, {"a*a", "a", false},
		{"*b*", "abc", true}, {"*b*d", "abc", false}, {"abc", "abc", true}, {"abc", "abcd", false}, {"*/x", "a/b/x", true},
	} {
		if got := glob(c.glob, c.s); got != c.want {
			t.Errorf("glob(%q, %q) = %v", c.glob, c.s, got)
		}
	}
}

func TestAStaticPodIsFoundByBothItsUIDs(t *testing.T) {
	const hash = "0123456789abcdef0123456789abcdef"
	s := newStore(t, offline(), Options{})
	before := s.LogPath("kube-system", "etcd-node-1", hash, "etcd", 0)
	if !before.Partial || before.PodUID != hash {
		t.Fatalf("before = %+v", before)
	}
	v := s.Version()
	yes := true
	s.upsert(newPod(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "etcd-node-1", Namespace: "kube-system", UID: "api-uid",
			Annotations:     map[string]string{"kubernetes.io/config.mirror": hash, "kubernetes.io/config.hash": hash},
			OwnerReferences: []metav1.OwnerReference{{Kind: "Node", Name: "node-1", Controller: &yes}}},
		Spec: corev1.PodSpec{HostNetwork: true, Containers: []corev1.Container{{Name: "etcd", Image: "etcd:3"}}},
	}, testKeep()), true)
	if s.Version() == v {
		t.Error("the version did not move")
	}
	r := s.LogPath("kube-system", "etcd-node-1", hash, "etcd", 0)
	if r.Partial || r.PodUID != "api-uid" || r.WorkloadKind != "Node" || r.WorkloadName != "etcd" || r.ServiceName != "etcd-node-1" {
		t.Errorf("after = %+v", r)
	}
	if p := s.Pod(hash); p == nil || p != s.Pod("api-uid") || !s.HostNetwork(hash) {
		t.Errorf("by the hash: %+v", p)
	}
}

func TestAPathThatContradictsTheAPINamesItselfAlone(t *testing.T) {
	s := newStore(t, offline(), Options{})
	fill(t, s)
	r := s.LogPath("evil", "other", webUID, "web", 1)
	if !r.Partial || r.Namespace != "evil" || r.WorkloadName != "" || r.Labels != nil || r.ContainerID != "" {
		t.Errorf("got the identity of another pod: %+v", r)
	}
}

func TestAResourceChangesOnlyWithItsContent(t *testing.T) {
	s := newStore(t, offline(), Options{})
	fill(t, s)
	r, v := s.Container(webID), s.Version()
	fill(t, s) // the same list again
	if s.Version() != v || s.Container(webID) != r {
		t.Error("a list without news changed something")
	}
	for _, p := range samplePods(t) {
		if string(p.UID) == webUID {
			p.Status.ContainerStatuses[0].RestartCount = 2
			p.Status.ContainerStatuses[0].LastTerminationState.Terminated.ContainerID = "containerd://" + webID
			p.Status.ContainerStatuses[0].ContainerID = "containerd://" + strings.Repeat("0a", 32)
			s.upsert(newPod(&p, &s.keep), true)
		}
	}
	if s.Version() == v {
		t.Error("the version did not move with a restart")
	}
	if s.Container(webID) != r {
		t.Error("the run before has a new Resource, although nothing about it changed")
	}
	if n := s.Container(strings.Repeat("0a", 32)); n == nil || n.RestartCount != 2 {
		t.Errorf("the new run = %+v", n)
	}
	if o := s.Container(webOldID); o == nil || o.RestartCount != 0 {
		t.Errorf("the first run = %+v", o)
	}
}

func TestPeersOnThisNode(t *testing.T) {
	s := newStore(t, offline(), Options{})
	fill(t, s)
	for addr, want := range map[string]string{
		"10.244.0.3:8080": webUID, "[::ffff:10.244.0.3]:1": webUID, "10.244.0.6:1": "", "10.9.9.9:1": "", "127.0.0.1:1": "",
	} {
		p, ok := s.Peer(netip.MustParseAddrPort(addr))
		if got := p.Resource; ok != (want != "") || ok && got.PodUID != want {
			t.Errorf("%s = %+v %v", addr, p, ok)
		}
	}
	if p, ok := s.Peer(netip.MustParseAddrPort("192.0.2.2:10250")); !ok || p.Node != "node-1" || p.Resource != nil {
		t.Errorf("the node's address = %+v %v", p, ok)
	}
}

func TestAnAddressBelongsToThePodThatRunsWithIt(t *testing.T) {
	s := newStore(t, offline(), Options{})
	mk := func(uid string, phase corev1.PodPhase) *pod {
		return newPod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: uid, Namespace: "n"},
			Status: corev1.PodStatus{Phase: phase, PodIP: "10.0.0.1"}}, testKeep())
	}
	a, b := mk("a", corev1.PodRunning), mk("b", corev1.PodRunning)
	a.UID, b.UID = "a", "b"
	addr := netip.MustParseAddrPort("10.0.0.1:80")
	who := func() string {
		p, ok := s.Peer(addr)
		if !ok {
			return ""
		}
		return p.Resource.PodUID
	}
	s.upsert(a, true)
	done := mk("a", corev1.PodSucceeded)
	done.UID = "a"
	s.upsert(done, true)
	if who() != "a" {
		t.Errorf("after its end = %q: its late spans need it", who())
	}
	s.upsert(b, true)
	again := mk("a", corev1.PodSucceeded)
	again.UID, again.Labels = "a", map[string]string{"changed": "yes"}
	s.upsert(again, true)
	if who() != "b" {
		t.Errorf("= %q, a finished pod took the address of a running one", who())
	}
}
