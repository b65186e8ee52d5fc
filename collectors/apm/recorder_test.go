package apm

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"nodetap/agent/containers"
	"nodetap/agent/pods"
	"nodetap/agent/telemetry"
)

var testContainer = &containers.Container{Kind: containers.KindContainer, ID: strings.Repeat("c", 64), PodUID: "u", CgroupID: 1}

// testRecorder returns a recorder for one container and what it hands on.
func testRecorder(cfg Config) (*recorder, *fakePods, *[]got) {
	r := newRecorder(cfg)
	p := &fakePods{byAddr: map[netip.Addr]pods.Peer{}}
	var out []got
	r.pods, r.stats = p, newStats(prometheus.NewRegistry())
	r.find = func(id uint64) *containers.Container {
		if id == 1 {
			return testContainer
		}
		return nil
	}
	r.policyOf = func(uint64) uint32 { return policyPending }
	r.wall = func(t int64) int64 { return t + 1e18 }
	r.wants = func() bool { return true }
	r.full = func(b *telemetry.SpanBatch) {
		for _, s := range b.Spans {
			out = append(out, got{s, b.Resource})
		}
	}
	return r, p, &out
}

func testExchange(role role, target string) *exchange {
	c := &conn{local: netip.MustParseAddrPort("10.0.0.1:8080"), remote: netip.MustParseAddrPort("10.0.0.2:40000"), self: -1}
	if role == roleClient {
		c.local, c.remote = c.remote, c.local
	}
	return &exchange{
		conn: c, role: role, cgroup: 1, tgid: 5, start: 1e9, firstByte: 1e9 + 1e6, end: 1e9 + 20e6, status: 200,
		req: head{request: true, minor: '1', method: "GET", target: target, host: "shop:8080", userAgent: "test"},
	}
}

func TestExchangesWaitForTheirPodAndNotForEver(t *testing.T) {
	r, p, out := testRecorder(Default())
	r.done(testExchange(roleServer, "/a"), 0)
	r.retry(1e9)
	if r.flush(); len(*out) != 0 || len(r.held) != 1 {
		t.Fatalf("%d spans, %d held", len(*out), len(r.held))
	}
	full := &telemetry.Resource{Pod: "p"}
	p.set(testContainer.ID, full)
	r.retry(2e9)
	if r.flush(); len(*out) != 1 || (*out)[0].res != full || len(r.held) != 0 {
		t.Fatalf("%d spans, %d held", len(*out), len(r.held))
	}

	r, _, out = testRecorder(Default())
	r.done(testExchange(roleServer, "/a"), 0)
	r.retry(holdFor + 1)
	if r.flush(); len(*out) != 1 || !(*out)[0].res.Partial || (*out)[0].res.PodUID != "u" {
		t.Fatalf("%+v", *out)
	}
	// what comes after that does not wait
	r.done(testExchange(roleServer, "/b"), holdFor+2)
	if r.flush(); len(*out) != 2 {
		t.Errorf("%d spans, %d held", len(*out), len(r.held))
	}
}

// counted returns the requests in the metrics, by the series' identity.
func counted(r *recorder) map[string]uint64 {
	n := map[string]uint64{}
	for _, f := range collect(r.red).Families {
		for _, s := range f.Series {
			n[strings.Join([]string{s.Resource.Pod, s.Resource.PodUID, s.Resource.ContainerID}, "/")] += s.Hist.Count
		}
	}
	return n
}

// drops returns what was dropped for the reason.
func drops(t *testing.T, r *recorder, reason string) float64 {
	t.Helper()
	var m dto.Metric
	if err := r.stats.dropped.WithLabelValues(reason).Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

func TestWhatCannotBeHeldIsCountedAllTheSame(t *testing.T) {
	r, p, out := testRecorder(Default())
	r.node = telemetry.Resource{Node: "n"}
	for range maxHeld {
		r.done(testExchange(roleServer, "/a"), 0)
	}
	if r.flush(); len(r.held) != maxHeld || len(*out) != 0 {
		t.Fatalf("%d held, %d spans", len(r.held), len(*out))
	}
	partial := "/u/" + testContainer.ID
	for range 2 {
		r.done(testExchange(roleServer, "/b"), 0)
	}
	stray := testExchange(roleServer, "/c")
	stray.cgroup = 7 // no container is known, and nobody has said that it is none
	r.done(stray, 0)
	r.flush()
	if n := counted(r); n[partial] != 2 || n["//"] != 1 || len(n) != 2 {
		t.Errorf("counted %v", n)
	}
	if len(*out) != 2 || (*out)[0].res != (*out)[1].res || !(*out)[0].res.Partial || (*out)[0].res.ContainerID != testContainer.ID {
		t.Errorf("spans %+v", *out)
	}
	if d := drops(t, r, dropHeld); d != 1 {
		t.Errorf("%v spans dropped, want that of the unknown cgroup", d)
	}

	// those that are held still get their name
	r.retry(1e9)
	if len(r.held) != maxHeld {
		t.Fatalf("%d held", len(r.held))
	}
	p.set(testContainer.ID, &telemetry.Resource{Pod: "p", PodUID: "u", ContainerID: testContainer.ID})
	r.retry(2e9)
	r.flush()
	if n := counted(r); n["p"+partial] != maxHeld+2 || n["//"] != 1 || len(n) != 2 {
		t.Errorf("counted %v", n)
	}
	if len(r.held) != 0 || len(*out) != maxHeld+2 || (*out)[maxHeld+1].res.Pod != "p" {
		t.Errorf("%d held, %d spans", len(r.held), len(*out))
	}

	// a process outside containers is none of ours, room or not
	for range maxHeld {
		stray.cgroup = 8
		r.done(stray, 0)
	}
	r.policyOf = func(uint64) uint32 { return policyDeny }
	r.done(stray, 0)
	if n := counted(r); n["//"] != 1 || drops(t, r, dropNotContainer) != 1 {
		t.Errorf("counted %v, %v were no container's", n, drops(t, r, dropNotContainer))
	}
}

func TestNothingIsHeldWhenNobodyWillNameIt(t *testing.T) {
	r, p, out := testRecorder(Default())
	p.deaf = true
	r.done(testExchange(roleServer, "/a"), 0)
	r.flush()
	if len(r.held) != 0 || len(*out) != 1 || !(*out)[0].res.Partial || (*out)[0].res.PodUID != "u" {
		t.Fatalf("%d held, spans %+v", len(r.held), *out)
	}
	full := &telemetry.Resource{Pod: "p"}
	p.set(testContainer.ID, full) // somebody does after all
	r.done(testExchange(roleServer, "/b"), 0)
	if r.flush(); len(*out) != 2 || (*out)[1].res != full {
		t.Errorf("spans %+v", *out)
	}
}

func TestSeriesOfContainersWithoutNamesDiffer(t *testing.T) {
	k := seriesKey{method: "GET"}
	a := redLabels(&telemetry.Resource{PodUID: "u", ContainerID: "a"}, k).Text()
	b := redLabels(&telemetry.Resource{PodUID: "u", ContainerID: "b"}, k).Text()
	if a == b || !strings.Contains(a, `container_id="a"`) {
		t.Errorf("%s and %s", a, b)
	}
	if named := redLabels(&telemetry.Resource{PodUID: "u", Container: "c", ContainerID: "a"}, k).Text(); strings.Contains(named, "container_id") {
		t.Errorf("%s", named)
	}
}

func TestTheNumberOfSeriesIsThatOfTheScrape(t *testing.T) {
	r, p, _ := testRecorder(Default())
	p.set(testContainer.ID, &telemetry.Resource{Pod: "p"})
	reg := prometheus.NewRegistry()
	reg.MustRegister(&kernelStats{
		read: func() (v [cMax]uint64) { return v }, misses: func() uint64 { return 0 }, ring: func() int { return 0 }, series: r.red.size,
	})
	for i, path := range []string{"/a", "/b", "/c"} {
		r.done(testExchange(roleServer, path), 0)
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := -1.0
		for _, f := range families {
			if f.GetName() == "nodetap_apm_series" {
				got = f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		if got != float64(i+1) {
			t.Errorf("%v series, want %d", got, i+1)
		}
	}
}

func TestSpansFollowTheConventions(t *testing.T) {
	type want struct {
		name   string
		kind   telemetry.SpanKind
		status telemetry.SpanStatus
		attrs  map[string]any
		absent []string
	}
	const none = telemetry.StatusUnset
	for what, c := range map[string]struct {
		x    func() *exchange
		want want
	}{
		"server": {
			func() *exchange { return testExchange(roleServer, "/users/42?token=secret") },
			want{"GET /users/*", telemetry.SpanServer, none, map[string]any{
				"http.request.method": "GET", "http.route": "/users/*", "url.path": "/users/*", "url.scheme": "http", "client.address": "10.0.0.2",
				"server.address": "shop", "server.port": int64(8080), "network.peer.address": "10.0.0.2", "network.peer.port": int64(40000), "http.response.status_code": int64(200),
			}, []string{"url.full", "url.query", "error.type"}},
		},
		"client": {
			func() *exchange { return testExchange(roleClient, "/users/42?token=secret") },
			want{"GET /users/*", telemetry.SpanClient, none, map[string]any{
				"url.template": "/users/*", "url.full": "http://shop:8080/users/*", "network.peer.address": "10.0.0.1", "server.port": int64(8080),
			}, []string{"http.route", "client.address", "url.query"}},
		},
		"server 404": {
			func() *exchange { x := testExchange(roleServer, "/nothing"); x.status = 404; return x },
			want{"GET", telemetry.SpanServer, none, nil, []string{"http.route", "error.type"}},
		},
		"client 404": {
			func() *exchange { x := testExchange(roleClient, "/nothing"); x.status = 404; return x },
			want{"GET", telemetry.SpanClient, telemetry.StatusError, map[string]any{"error.type": "404"}, nil},
		},
		"server 500": {
			func() *exchange { x := testExchange(roleServer, "/a"); x.status = 500; return x },
			want{"GET /a", telemetry.SpanServer, telemetry.StatusError, map[string]any{"error.type": "500"}, nil},
		},
		"closed": {
			func() *exchange {
				x := testExchange(roleClient, "/a")
				x.status, x.broken = 0, true
				return x
			},
			want{"GET /a", telemetry.SpanClient, telemetry.StatusError, map[string]any{"error.type": errConnection}, []string{"http.response.status_code"}},
		},
		"unknown method": {
			func() *exchange { x := testExchange(roleServer, "/a"); x.req.method = "PURGE"; return x },
			want{"HTTP /a", telemetry.SpanServer, none, map[string]any{"http.request.method": "_OTHER", "http.request.method_original": "PURGE"}, nil},
		},
		"hostile host": {
			func() *exchange { x := testExchange(roleServer, "/a"); x.req.host = "a\"b\xff"; return x },
			want{"GET /a", telemetry.SpanServer, none, map[string]any{"server.address": "10.0.0.1"}, nil},
		},
	} {
		t.Run(what, func(t *testing.T) {
			r, p, out := testRecorder(Default())
			p.set(testContainer.ID, &telemetry.Resource{Pod: "p"})
			r.done(c.x(), 0)
			r.flush()
			if len(*out) != 1 {
				t.Fatalf("%d spans", len(*out))
			}
			s := (*out)[0]
			if s.Name != c.want.name || s.Kind != c.want.kind || s.Status != c.want.status || s.TraceID.IsZero() || s.SpanID.IsZero() || !s.ParentID.IsZero() {
				t.Errorf("%+v", s.Span)
			}
			for k, v := range c.want.attrs {
				if s.attr(k) != v {
					t.Errorf("%s = %v, want %v", k, s.attr(k), v)
				}
			}
			for _, k := range c.want.absent {
				if s.attr(k) != nil {
					t.Errorf("%s = %v", k, s.attr(k))
				}
			}
			if len(s.Attrs) > maxAttrs {
				t.Errorf("%d attributes, maxAttrs is %d", len(s.Attrs), maxAttrs)
			}
		})
	}
}

func TestSeriesAreBoundedAndNothingIsLost(t *testing.T) {
	cfg := Default()
	cfg.MaxSeries = 10
	r, p, _ := testRecorder(cfg)
	p.set(testContainer.ID, &telemetry.Resource{Pod: "p"})
	for i := range 100 {
		x := testExchange(roleClient, "/a")
		x.req.host = "host-" + string(rune('a'+i%26)) + string(rune('a'+i/26))
		r.done(x, 0)
	}
	var n, overflow uint64
	var b = collect(r.red)
	for _, f := range b.Families {
		for _, s := range f.Series {
			n += s.Hist.Count
			if strings.Contains(s.Labels.Text(), `otel_metric_overflow="true"`) {
				overflow += s.Hist.Count
			}
		}
	}
	if n != 100 || overflow != 90 || len(b.Families[0].Series) != 11 {
		t.Errorf("%d counted, %d of them in overflow, %d series", n, overflow, len(b.Families[0].Series))
	}
	r.red.expire(1, 10, func(string) bool { return false })
	r.red.expire(12, 10, func(string) bool { return false })
	if r.red.size() != 0 || len(collect(r.red).Families) != 0 {
		t.Error("the series of a container that went are kept")
	}
}

func TestPolicyAnswers(t *testing.T) {
	known := map[uint64]*containers.Container{1: testContainer, 3: testContainer, 2: {Kind: containers.KindPod, CgroupID: 2}}
	kernel := map[uint64]uint32{}
	p := newPolicy(false, func(id uint64) *containers.Container { return known[id] },
		func(id uint64, v uint32) error { kernel[id] = v; return nil },
		func(id uint64) error { delete(kernel, id); return nil })
	p.excludeSelf(9)
	p.asked(1, 0)
	p.asked(3, 0) // a child of 1
	p.asked(2, 0) // a pod's own cgroup
	p.asked(4, 0) // nobody knows
	p.asked(5, 0) // nobody knows yet
	p.review(1e9)
	if kernel[1] != policyTrace || kernel[3] != policyTrace || kernel[9] != policyDeny || p.of(4) != policyPending {
		t.Fatalf("%v", kernel)
	}
	known[5] = &containers.Container{Kind: containers.KindContainer, ID: "five", CgroupID: 5}
	p.review(2e9)
	p.review(pendingFor + 1)
	if kernel[5] != policyTrace || kernel[4] != policyDeny || kernel[2] != policyDeny {
		t.Fatalf("%v", kernel)
	}
	known[4] = &containers.Container{Kind: containers.KindContainer, ID: "four", CgroupID: 4}
	p.review(pendingFor + 2)
	if kernel[4] != policyTrace {
		t.Error("a container that became known late stays denied")
	}
	p.event(containers.Event{Container: known[4], Removed: true})
	p.event(containers.Event{Container: &containers.Container{Kind: containers.KindContainer, CgroupID: 6}})
	if _, ok := kernel[4]; ok || kernel[6] != policyTrace {
		t.Errorf("%v", kernel)
	}
	p.review(700e9)
	if _, ok := kernel[2]; ok {
		t.Error("what was denied long ago is kept")
	}
}

func TestConfigMistakesAreToldAtOnce(t *testing.T) {
	if c := Default(); c.Validate() != nil {
		t.Fatal(c.Validate())
	}
	c := Config{Processes: "some", ExcludeUserAgents: []string{""}, CaptureBytes: 1, RingBytes: 100000, MaxConnections: 0, MaxRoutes: 0, MaxSeries: 0}
	err := c.Validate()
	for _, key := range []string{"processes", "exclude_user_agents[0]", "capture_bytes", "ring_bytes", "max_connections", "max_routes", "max_series"} {
		if err == nil || !strings.Contains(err.Error(), key+": ") {
			t.Errorf("nothing about %s in %v", key, err)
		}
	}
}

// BenchmarkExchange is what one request costs the agent above the ring buffer:
// two events, a span and a count.
func BenchmarkExchange(b *testing.B) {
	r, p, _ := testRecorder(Default())
	p.set(testContainer.ID, &telemetry.Resource{Namespace: "shop", Pod: "cart-1", Container: "cart", ServiceName: "cart", WorkloadKind: "Deployment", WorkloadName: "cart"})
	r.full = func(*telemetry.SpanBatch) {}
	w := newWire(4096)
	w.call(dirRecv, crlf("GET /order/1234 HTTP/1.1\nHost: shop\nUser-Agent: bench\nAccept: */*\n\n"), "")
	w.call(dirSend, crlf("HTTP/1.1 200 OK\nDate: Mon, 01 Jan 2024 00:00:00 GMT\nContent-Length: 200\nContent-Type: text/plain\n\n")+strings.Repeat("x", 200), "")
	tr := newTracker(10)
	tr.note, tr.drop = func() {}, func(string, int) {}
	tr.done = func(x *exchange) { r.done(x, 0) }
	lens := [2]uint32{}
	var ev bpfEvent
	for i, e := range w.events {
		if _, err := decode(e, &ev); err != nil {
			b.Fatal(err)
		}
		lens[i] = ev.Len
	}
	b.ReportAllocs()
	for n := range uint32(b.N) {
		for i, e := range w.events {
			data, _ := decode(e, &ev)
			ev.Seq += n * lens[i]
			ev.Ack = w.next[1-ev.Dir] - lens[1-i]*uint32(1-i) + n*lens[1-i]
			tr.handle(&ev, data)
		}
	}
	if r.red.size() != 1 {
		b.Fatalf("%d series", r.red.size())
	}
}
