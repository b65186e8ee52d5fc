package stdout

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"nodetap/agent/component"
	"nodetap/agent/metrics"
	"nodetap/agent/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testEnv() component.Env {
	return component.Env{Registerer: prometheus.NewRegistry(), Metrics: metrics.NewRegistry()}
}

var pod = &telemetry.Resource{
	Node: "n1", Namespace: "shop", Pod: "say-1", PodUID: "u1", Container: "say", ServiceName: "say",
	WorkloadKind: "Deployment", WorkloadName: "say", Image: "say:1",
}

func logBatch(bodies ...string) *telemetry.LogBatch {
	b := &telemetry.LogBatch{Resource: pod}
	for i, body := range bodies {
		b.Append(telemetry.LogRecord{Time: 1700000000_000000000 + int64(i), Stream: telemetry.Stderr}, []byte(body))
	}
	return b
}

func count(c prometheus.Metric) float64 {
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		panic(err)
	}
	return m.GetCounter().GetValue()
}

func decode(t *testing.T, out []byte) []map[string]any {
	t.Helper()
	var lines []map[string]any
	for line := range strings.Lines(string(out)) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("not JSON: %v: %s", err, line)
		}
		lines = append(lines, m)
	}
	return lines
}

func TestALogLineSaysWhatAndWhere(t *testing.T) {
	var out bytes.Buffer
	e := newExporter(testEnv(), Default(), &out)
	b := logBatch("hello\x1b[31m \xff\"\\\n\u4f60\u0085")
	b.Records[0].Severity = telemetry.SeverityWarn
	b.Records[0].Flags = telemetry.Truncated
	b.Records[0].TraceID[15], b.Records[0].SpanID[7] = 1, 2
	b.Attrs = []telemetry.Attr{telemetry.Int("n", 3), telemetry.Bool("t", true), telemetry.Strings("l", "a", "b"), telemetry.Float("inf", math.Inf(1))}
	b.EventName = "k8s.oom"
	if err := e.ExportLogs(t.Context(), []*telemetry.LogBatch{b}); err != nil {
		t.Fatal(err)
	}
	want := []map[string]any{{
		"signal": "log", "time": "2023-11-14T22:13:20Z", "severity": "WARN", "stream": "stderr", "event": "k8s.oom",
		"body": "hello\x1b[31m \uFFFD\"\\\n\u4f60\u0085", "truncated": true,
		"trace_id": strings.Repeat("0", 31) + "1", "span_id": "0000000000000002",
		"attributes": map[string]any{"n": 3.0, "t": true, "l": []any{"a", "b"}, "inf": "+Inf"},
		"resource": map[string]any{
			"service.name": "say", "k8s.namespace.name": "shop", "k8s.pod.name": "say-1", "k8s.pod.uid": "u1",
			"k8s.container.name": "say", "k8s.deployment.name": "say", "k8s.node.name": "n1",
		},
	}}
	if d := cmp.Diff(want, decode(t, out.Bytes())); d != "" {
		t.Error(d)
	}
	if i := bytes.IndexFunc(out.Bytes(), func(r rune) bool { return r < ' ' && r != '\n' || r >= 0x7f && r <= 0x9f }); i >= 0 {
		t.Errorf("a control character reaches the terminal at %d: %q", i, out.String())
	}
	if got := count(e.lines.WithLabelValues("log")); got != 1 {
		t.Errorf("lines counted = %v", got)
	}
	if got := count(e.bytes); got != float64(out.Len()) {
		t.Errorf("bytes counted = %v of %d", got, out.Len())
	}
}

func TestASpanLineHasIDsDurationAndAttributes(t *testing.T) {
	var out bytes.Buffer
	cfg := Default()
	cfg.Resource = "none"
	e := newExporter(testEnv(), cfg, &out)
	s := telemetry.Span{
		TraceID: telemetry.TraceID{1}, SpanID: telemetry.SpanID{2}, ParentID: telemetry.SpanID{3}, Kind: telemetry.SpanServer,
		Name: "GET /a", Start: 1700000000_000000000, End: 1700000000_001500000, Status: telemetry.StatusError, StatusMsg: "m",
		Attrs: []telemetry.Attr{telemetry.Int("http.response.status_code", 500)},
		Links: []telemetry.SpanLink{{TraceID: telemetry.TraceID{4}, SpanID: telemetry.SpanID{5}, Attrs: []telemetry.Attr{telemetry.String("k", "v")}}},
	}
	if err := e.ExportSpans(t.Context(), []*telemetry.SpanBatch{{Resource: pod, Spans: []telemetry.Span{s}}}); err != nil {
		t.Fatal(err)
	}
	want := []map[string]any{{
		"signal": "span", "time": "2023-11-14T22:13:20Z", "kind": "server", "name": "GET /a", "duration_ms": 1.5,
		"status": "error", "status_message": "m",
		"trace_id": "01" + strings.Repeat("0", 30), "span_id": "0200000000000000", "parent_id": "0300000000000000",
		"attributes": map[string]any{"http.response.status_code": 500.0},
		"links": []any{map[string]any{"trace_id": "04" + strings.Repeat("0", 30), "span_id": "0500000000000000",
			"attributes": map[string]any{"k": "v"}}},
	}}
	if d := cmp.Diff(want, decode(t, out.Bytes())); d != "" {
		t.Error(d)
	}
}

// locked is a buffer that the test reads while Run writes to it.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestMetricsComeAtTheirIntervalAndOnlyThoseIncluded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		env := testEnv()
		hist := &metrics.Desc{Name: "http_server_request_duration_seconds", Type: metrics.Histogram}
		mem := &metrics.Desc{Name: "container_memory_working_set_bytes", Type: metrics.Gauge}
		other := &metrics.Desc{Name: "container_other", Type: metrics.Gauge}
		env.Metrics.Register("/metrics/x", metrics.SourceFunc(func(b *metrics.Builder) {
			b.Add(mem, metrics.Series{Resource: pod, Value: 1048576, Labels: metrics.NewLabels([]metrics.Label{{Name: "a", Value: "b"}})})
			b.Add(other, metrics.Series{Value: 1})
			b.Add(hist, metrics.Series{Hist: &metrics.Hist{Bounds: []float64{0.005, 1}, Counts: []uint64{2, 0, 1}, Count: 3, Sum: 4.5}})
		}))
		var out locked
		e := newExporter(env, Default(), &out)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = e.Run(ctx) })
		time.Sleep(14 * time.Second)
		synctest.Wait()
		if out.String() != "" {
			t.Errorf("written before the interval: %s", out.String())
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		cancel()
		wg.Wait()
		lines := decode(t, []byte(out.String()))
		if len(lines) != 2 {
			t.Fatalf("%d lines, want 2: %s", len(lines), out.String())
		}
		for _, l := range lines {
			delete(l, "time")
			delete(l, "resource")
		}
		want := []map[string]any{
			{"signal": "metric", "name": "container_memory_working_set_bytes", "type": "gauge", "value": 1048576.0, "labels": map[string]any{"a": "b"}},
			{"signal": "metric", "name": "http_server_request_duration_seconds", "type": "histogram", "count": 3.0, "sum": 4.5,
				"buckets": map[string]any{"0.005": 2.0, "+Inf": 1.0}},
		}
		if d := cmp.Diff(want, lines); d != "" {
			t.Error(d)
		}
		if !strings.Contains(out.String(), `"value":1048576,`) {
			t.Errorf("a number of bytes is not plain: %s", out.String())
		}
	})
}

// halting accepts some bytes of a write, then fails.
type halting struct {
	bytes.Buffer
	room int
}

func (h *halting) Write(p []byte) (int, error) {
	if h.room >= 0 && len(p) > h.room {
		n, _ := h.Buffer.Write(p[:h.room])
		h.room = 0
		return n, errors.New("no space")
	}
	return h.Buffer.Write(p)
}

func TestAfterAHalfWrittenLineTheNextStartsOnItsOwn(t *testing.T) {
	out := &halting{room: 40}
	e := newExporter(testEnv(), Default(), out)
	err := e.ExportLogs(t.Context(), []*telemetry.LogBatch{logBatch("one")})
	if _, ok := errors.AsType[*component.Retry](err); !ok {
		t.Fatalf("err = %v, want a Retry", err)
	}
	out.room = -1
	if err := e.ExportLogs(t.Context(), []*telemetry.LogBatch{logBatch("one")}); err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(out.String(), "\n")
	if got := decode(t, []byte(rest)); len(got) != 1 || got[0]["body"] != "one" {
		t.Errorf("second line = %v", got)
	}
}

func TestAnExportWaitsForItsTurnOnlyAsLongAsItsContext(t *testing.T) {
	r, w := io.Pipe() // nobody reads
	defer r.Close()
	e := newExporter(testEnv(), Default(), w)
	var wg sync.WaitGroup
	wg.Go(func() { _ = e.ExportLogs(context.Background(), []*telemetry.LogBatch{logBatch("held up")}) })
	for len(e.turn) == 0 {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.ExportLogs(ctx, []*telemetry.LogBatch{logBatch("two")}); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
	r.Close()
	wg.Wait()
}

func TestValidateNamesEveryWrongKey(t *testing.T) {
	cfg := Default()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	cfg.Resource, cfg.Metrics.Interval, cfg.Metrics.Include = "long", -1, []string{"ok", "["}
	err := cfg.Validate()
	for _, key := range []string{"resource:", "metrics.interval:", "metrics.include[1]:"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%v does not name %s", err, key)
		}
	}
}

func FuzzEveryBodyGivesOneLineOfJSON(f *testing.F) {
	f.Add([]byte("plain"))
	f.Add([]byte("\x00\x1b\x7f\x80\xc2\x85\xed\xa0\x80\xff\"\\\u2028"))
	f.Fuzz(func(t *testing.T, body []byte) {
		b := logBatch(string(body))
		line := appendLog(nil, b, 0, nil)
		if n := bytes.Count(line, []byte{'\n'}); n != 1 || line[len(line)-1] != '\n' {
			t.Fatalf("%d lines", n)
		}
		var m map[string]any
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		// encoding/json reads an invalid byte as U+FFFD just as we write it
		want, _ := json.Marshal(string(body))
		var s string
		if err := json.Unmarshal(want, &s); err != nil || m["body"] != s {
			t.Fatalf("body = %q, want %q", m["body"], s)
		}
	})
}

func BenchmarkExportLogs(b *testing.B) {
	e := newExporter(testEnv(), Default(), io.Discard)
	batch := logBatch()
	for range 1000 {
		batch.Append(telemetry.LogRecord{Time: 1700000000_123456789}, []byte(strings.Repeat("a line of the log ", 8)))
	}
	list := []*telemetry.LogBatch{batch}
	b.ReportAllocs()
	for b.Loop() {
		if err := e.ExportLogs(b.Context(), list); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/line")
}
