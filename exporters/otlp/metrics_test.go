package otlp

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"nodetap/agent/component"
	"nodetap/agent/metrics"
	"nodetap/agent/telemetry"
)

var (
	cpuUser = &metrics.Desc{Name: "container_cpu_user_seconds_total", Help: "h", Type: metrics.Counter, Unit: "seconds",
		OTelName: "container.cpu.time", OTelUnit: "s", OTelPodName: "k8s.pod.cpu.time",
		OTelAttrs: []telemetry.Attr{telemetry.String("cpu.mode", "user")}}
	cpuSystem = &metrics.Desc{Name: "container_cpu_system_seconds_total", Help: "h", Type: metrics.Counter,
		OTelName: "container.cpu.time", OTelUnit: "s", OTelPodName: "k8s.pod.cpu.time",
		OTelAttrs: []telemetry.Attr{telemetry.String("cpu.mode", "system")}}
	memory1  = &metrics.Desc{Name: "container_memory_usage_bytes", Type: metrics.Gauge, OTelName: "container.memory.usage", OTelUnit: "By", OTelUpDown: true}
	fallback = &metrics.Desc{Name: "machine_things_total", Type: metrics.Counter, Unit: "bytes"}
	duration = &metrics.Desc{Name: "http_server_request_duration_seconds", Type: metrics.Histogram, OTelName: "http.server.request.duration", OTelUnit: "s"}
)

func source(c, p *telemetry.Resource) metrics.Source {
	return metrics.SourceFunc(func(b *metrics.Builder) {
		b.Add(cpuUser, metrics.Series{Resource: c, Value: 1.5, Created: 1000, Labels: metrics.NewLabels([]metrics.Label{{Name: "pod", Value: "a"}})})
		b.Add(cpuSystem, metrics.Series{Resource: c, Value: 0.5, Created: 1000})
		b.Add(cpuUser, metrics.Series{Resource: c, Value: 99, Labels: metrics.NewLabels(nil).PromOnly()})
		b.Add(cpuUser, metrics.Series{Resource: p, Value: 2})
		b.Add(memory1, metrics.Series{Resource: c, Value: 1 << 20})
		b.Add(fallback, metrics.Series{Value: 7, Labels: metrics.NewLabels([]metrics.Label{{Name: "kind", Value: "k", Attr: "kind"}})})
		b.Add(duration, metrics.Series{Resource: c, Created: 5, Labels: metrics.NewLabels([]metrics.Label{
			{Name: "http_response_status_code", Value: "200", Attr: "http.response.status_code"}, {Name: "empty", Attr: "empty"}}),
			Hist: &metrics.Hist{Bounds: []float64{0.1, 1}, Counts: []uint64{1, 0, 2}, Sum: 9.5, Count: 3,
				Exemplars: []metrics.Exemplar{{TraceID: telemetry.TraceID{1}, SpanID: telemetry.SpanID{2}, Value: 0.05, Time: 77}, {}, {}}}})
	})
}

func wantMetrics(c, p *telemetry.Resource, at pcommon.Timestamp) pmetric.Metrics {
	out := pmetric.NewMetrics()
	group := func(r *telemetry.Resource) pmetric.MetricSlice {
		rm := out.ResourceMetrics().AppendEmpty()
		rm.SetSchemaUrl(semconv.SchemaURL)
		setAttrs(rm.Resource().Attributes(), r.AppendAttrs(nil))
		sm := rm.ScopeMetrics().AppendEmpty()
		sm.Scope().SetName("nodetap")
		sm.Scope().SetVersion("1.2.3")
		return sm.Metrics()
	}
	sumOf := func(ms pmetric.MetricSlice, name, help, unit string, monotonic bool) pmetric.Sum {
		m := ms.AppendEmpty()
		m.SetName(name)
		m.SetDescription(help)
		m.SetUnit(unit)
		s := m.SetEmptySum()
		s.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
		s.SetIsMonotonic(monotonic)
		return s
	}
	number := func(s pmetric.Sum, start pcommon.Timestamp, v float64, attrs ...string) {
		d := s.DataPoints().AppendEmpty()
		d.SetStartTimestamp(start)
		d.SetTimestamp(at)
		d.SetDoubleValue(v)
		for i := 0; i < len(attrs); i += 2 {
			d.Attributes().PutStr(attrs[i], attrs[i+1])
		}
	}
	container := group(c)
	// the families come sorted by name: system before user
	cpu := sumOf(container, "container.cpu.time", "h", "s", true)
	number(cpu, 1000, 0.5, "cpu.mode", "system")
	number(cpu, 1000, 1.5, "cpu.mode", "user")
	number(sumOf(container, "container.memory.usage", "", "By", false), 0, 1<<20)
	h := container.AppendEmpty()
	h.SetName("http.server.request.duration")
	h.SetUnit("s")
	hist := h.SetEmptyHistogram()
	hist.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	d := hist.DataPoints().AppendEmpty()
	d.SetStartTimestamp(5)
	d.SetTimestamp(at)
	d.SetCount(3)
	d.SetSum(9.5)
	d.BucketCounts().FromRaw([]uint64{1, 0, 2})
	d.ExplicitBounds().FromRaw([]float64{0.1, 1})
	d.Attributes().PutInt("http.response.status_code", 200)
	x := d.Exemplars().AppendEmpty()
	x.SetTimestamp(77)
	x.SetDoubleValue(0.05)
	x.SetTraceID(pcommon.TraceID{1})
	x.SetSpanID(pcommon.SpanID{2})
	number(sumOf(group(p), "k8s.pod.cpu.time", "h", "s", true), 0, 2, "cpu.mode", "user")
	number(sumOf(group(&telemetry.Resource{Node: "node-1"}), "machine_things", "", "By", true), 0, 7, "kind", "k")
	return out
}

func TestMetricsArriveAsPdataWouldWriteThem(t *testing.T) {
	eachTransport(t, func(t *testing.T, r *receiver, change func(*Config)) {
		env := testEnv()
		c := pod("a")
		p := &telemetry.Resource{Namespace: "shop", Pod: "a", PodUID: "uid-a"}
		env.Metrics.Register("/metrics/x", source(c, p))
		e := exporter(t, env, r.url, change)
		e.exportMetrics(t.Context(), time.Now().Add(time.Minute))
		if len(r.metrics) != 1 {
			t.Fatalf("%d requests", len(r.metrics))
		}
		got := r.metrics[0]
		at := got.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0).Sum().DataPoints().At(0).Timestamp()
		if since := time.Since(at.AsTime()); since < 0 || since > time.Minute {
			t.Errorf("time = %v", at.AsTime())
		}
		m := &pmetric.JSONMarshaler{}
		w, _ := m.MarshalMetrics(wantMetrics(c, p, at))
		g, _ := m.MarshalMetrics(got)
		if d := cmp.Diff(string(w), string(g)); d != "" {
			t.Error(d)
		}
	})
}

func TestTheAgentsOwnMetricsGoAlongWhenAsked(t *testing.T) {
	r := (&receiver{}).startGRPC(t)
	env := testEnv()
	reg := prometheus.NewRegistry()
	env.Gatherer = reg
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "nodetap_a_total", Help: "a"}, []string{"k"})
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "nodetap_h_seconds", Buckets: []float64{1, 2}})
	s := prometheus.NewSummary(prometheus.SummaryOpts{Name: "nodetap_s"})
	reg.MustRegister(c, h, s)
	c.WithLabelValues("v").Add(3)
	for _, v := range []float64{0.5, 1.5, 1.5, 9} {
		h.Observe(v)
	}
	s.Observe(1)
	e := exporter(t, env, r.url, func(c *Config) { c.Metrics.Self = true })
	e.exportMetrics(t.Context(), time.Now().Add(time.Minute))
	if len(r.metrics) != 1 {
		t.Fatalf("%d requests", len(r.metrics))
	}
	rm := r.metrics[0].ResourceMetrics().At(0)
	want := map[string]any{"service.name": "nodetap", "service.version": "1.2.3", "service.instance.id": "node-1", "k8s.node.name": "node-1"}
	if d := cmp.Diff(want, rm.Resource().Attributes().AsRaw()); d != "" {
		t.Error(d)
	}
	ms := rm.ScopeMetrics().At(0).Metrics()
	if ms.Len() != 2 || ms.At(0).Name() != "nodetap_a" || ms.At(1).Name() != "nodetap_h_seconds" {
		t.Fatalf("%d metrics", ms.Len())
	}
	d := ms.At(0).Sum().DataPoints().At(0)
	if k, _ := d.Attributes().Get("k"); d.DoubleValue() != 3 || k.Str() != "v" || d.StartTimestamp() == 0 {
		t.Errorf("counter = %v", d)
	}
	hd := ms.At(1).Histogram().DataPoints().At(0)
	if got := hd.BucketCounts().AsRaw(); hd.Count() != 4 || hd.Sum() != 12.5 || !cmp.Equal(got, []uint64{1, 2, 1}) {
		t.Errorf("histogram = %v of %d", got, hd.Count())
	}
}

func TestManyPointsAreSplitUnderTheCap(t *testing.T) {
	env := testEnv()
	env.Metrics.Register("/metrics/x", metrics.SourceFunc(func(b *metrics.Builder) {
		for i := range 5000 {
			l := metrics.NewLabels([]metrics.Label{{Name: "i", Attr: "i", Value: strings.Repeat("v", 100) + string(rune('a'+i%26))}})
			b.Add(fallback, metrics.Series{Value: float64(i), Labels: l})
		}
	}))
	e := exporter(t, env, "http://127.0.0.1:1", func(c *Config) { c.MaxRequest = 256 << 10 })
	points := 0
	for _, r := range e.metricRequests() {
		if len(*r.b) > 256<<10 {
			t.Errorf("a request has %d bytes", len(*r.b))
		}
		points += r.items
		putBuffer(r.b)
	}
	if points != 5000 {
		t.Errorf("%d points", points)
	}
}

// scripted answers in a bubble of fake time, where no socket works.
type scripted struct {
	mu    sync.Mutex
	times []time.Time
	err   func(n int) error
}

func (s *scripted) send(_ context.Context, _ signal, b *[]byte) ([]byte, error) {
	putBuffer(b)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.times = append(s.times, time.Now())
	return nil, s.err(len(s.times))
}

func (s *scripted) close() {}

func (s *scripted) sent() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Time(nil), s.times...)
}

func TestMetricsAreRepeatedUntilTheNextIntervalSupersedesThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		env := testEnv()
		env.Metrics.Register("/metrics/x", source(pod("a"), pod("b")))
		cfg := Default()
		cfg.Metrics.Interval = time.Minute
		e, err := New(env, cfg)
		if err != nil {
			t.Fatal(err)
		}
		s := &scripted{}
		e.dial.Do(func() { e.t = s })
		points := float64(e.pointsNow().n)
		hint := 20 * time.Second
		var back atomic.Bool
		s.err = func(n int) error {
			switch {
			case n == 1:
				return &component.Retry{After: hint, Err: errors.New("slow down")}
			case n == 2:
				return nil
			case !back.Load():
				return &component.Retry{Err: errors.New("down")}
			}
			return &component.Permanent{Reason: "unauthorized", Err: errors.New("who are you")}
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = e.Run(ctx) })
		start := time.Now()
		time.Sleep(2 * time.Minute) // the first round lies within the first minute
		synctest.Wait()
		sent := s.sent()
		if len(sent) < 2 || sent[0].Sub(start) > time.Minute || sent[1].Sub(sent[0]) < hint {
			t.Fatalf("rounds at %v", sent)
		}
		round := sent[0]
		// the second round fails until the third begins
		time.Sleep(time.Until(round.Add(2*time.Minute - time.Nanosecond)))
		synctest.Wait()
		if got := count(e.m.droppedPoints.WithLabelValues("superseded")); got != 0 {
			t.Errorf("superseded = %v before the next round", got)
		}
		if n := len(s.sent()); n < 4 || n > 12 {
			t.Errorf("%d requests", n)
		}
		back.Store(true)
		time.Sleep(time.Second)
		synctest.Wait()
		if got := count(e.m.droppedPoints.WithLabelValues("superseded")); got != points {
			t.Errorf("superseded = %v, want %v", got, points)
		}
		if got := count(e.m.droppedPoints.WithLabelValues("unauthorized")); got != points {
			t.Errorf("unauthorized = %v, want %v", got, points)
		}
		cancel()
		wg.Wait()
	})
}
