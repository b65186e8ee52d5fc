package prom

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"flag"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"

	"nodetap/agent/component"
	"nodetap/agent/metrics"
	"nodetap/agent/telemetry"
)

var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	cpu    = &metrics.Desc{Name: "container_cpu_usage_seconds_total", Help: "CPU time, with a \"quote\", a \\ and a\nline.", Type: metrics.Counter, Unit: "seconds"}
	mem    = &metrics.Desc{Name: "container_memory_usage_bytes", Help: "Memory.", Type: metrics.Gauge, Unit: "bytes"}
	odd    = &metrics.Desc{Name: "container_fs_reads", Help: "A counter without _total.", Type: metrics.Counter, Unit: "bytes"}
	info   = &metrics.Desc{Name: "target_info", Help: "Target.", Type: metrics.Info}
	dur    = &metrics.Desc{Name: "http_server_request_duration_seconds", Help: "Duration.", Type: metrics.Histogram, Unit: "seconds"}
	native = &metrics.Desc{Name: "native", Help: "No text form.", Type: metrics.NativeHistogram}
)

// source writes one of everything, a value of each kind among them.
func source(b *metrics.Builder) {
	web := metrics.NewLabels([]metrics.Label{{Name: "pod", Value: "web-1"}, {Name: "namespace", Value: "shop"}})
	row := metrics.NewLabels([]metrics.Label{{Name: "container"}, {Name: "id", Value: "/a\\b\"c\nd"}}, "container")
	for i, v := range []float64{0, 1, -3, 0.25, 1e21, math.Inf(1), math.Inf(-1), math.NaN(), 1 << 53, 123456789.125} {
		l := metrics.NewLabels([]metrics.Label{{Name: "i", Value: string(rune('a' + i))}})
		b.Add(mem, metrics.Series{Labels: l, Value: v})
	}
	b.Add(cpu, metrics.Series{Labels: web, Value: 12.5, Created: 1})
	b.Add(cpu, metrics.Series{Labels: row, Value: 7})
	b.Add(cpu, metrics.Series{Value: 1})
	b.Add(odd, metrics.Series{Labels: web, Value: 3})
	b.Add(info, metrics.Series{Labels: web, Value: 1})
	b.Add(native, metrics.Series{Labels: web})
	trace := telemetry.TraceID{0x4b, 0xf9, 1}
	bounds := []float64{0.005, 1, 2.5}
	b.Add(dur, metrics.Series{Labels: web, Hist: &metrics.Hist{Bounds: bounds, Counts: []uint64{2, 3, 0, 1}, Sum: 9.5, Count: 6,
		Exemplars: []metrics.Exemplar{{}, {TraceID: trace, SpanID: telemetry.SpanID{9}, Value: 0.7, Time: 1795348800123456789}, {}, {TraceID: trace, Value: 3, Time: 1795348800000000000}}}})
	b.Add(dur, metrics.Series{Hist: &metrics.Hist{Bounds: bounds, Counts: []uint64{1, 0, 0, 0}, Sum: 0.001, Count: 1}})
}

func testEnv(t testing.TB) component.Env {
	t.Helper()
	reg := prometheus.NewRegistry()
	env := component.Env{Name: "prom", Logger: slog.New(slog.DiscardHandler), Registerer: reg, Gatherer: reg, Metrics: metrics.NewRegistry(),
		NodeName: "node-<1>", Version: "1.2.3",
		Live: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") }), //nolint:errcheck // a recorder
		Ready: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "waiting for logs\n", http.StatusServiceUnavailable)
		})}
	env.Metrics.Register("/metrics/cadvisor", metrics.SourceFunc(source))
	return env
}

func newExporter(t testing.TB, env component.Env, cfg Config) *Exporter {
	t.Helper()
	e, err := New(env, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func get(t testing.TB, h http.Handler, path string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

const acceptOpen = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"

func TestGoldenScrapes(t *testing.T) {
	e := newExporter(t, testEnv(t), Default())
	for file, accept := range map[string]string{"text.txt": "text/plain;version=0.0.4", "openmetrics.txt": acceptOpen} {
		got := get(t, e.Handler(), "/metrics/cadvisor", "Accept", accept).Body.Bytes()
		path := filepath.Join("testdata", file)
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), string(got)); d != "" {
			t.Errorf("%s: %s", file, d)
		}
	}
}

func parse(t testing.TB, text []byte) map[string]*dto.MetricFamily {
	t.Helper()
	p := expfmt.NewTextParser(model.LegacyValidation)
	out, err := p.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return out
}

func TestTextIsWhatExpfmtReads(t *testing.T) {
	e := newExporter(t, testEnv(t), Default())
	got := parse(t, get(t, e.Handler(), "/metrics/cadvisor").Body.Bytes())
	if n := len(got); n != 5 {
		t.Errorf("%d families, want 5", n)
	}
	m := got["container_cpu_usage_seconds_total"]
	if m.GetType() != dto.MetricType_COUNTER || m.GetHelp() != cpu.Help || len(m.Metric) != 3 {
		t.Fatalf("counter = %v", m)
	}
	if l := m.Metric[1].Label; len(l) != 2 || l[1].GetValue() != "/a\\b\"c\nd" || l[0].GetName() != "container" {
		t.Errorf("labels = %v", l)
	}
	for i, want := range []float64{0, 1, -3, 0.25, 1e21, math.Inf(1), math.Inf(-1), math.NaN(), 1 << 53, 123456789.125} {
		v := got["container_memory_usage_bytes"].Metric[i].GetGauge().GetValue()
		if v != want && !(math.IsNaN(v) && math.IsNaN(want)) {
			t.Errorf("value %d = %v, want %v", i, v, want)
		}
	}
	h := got["http_server_request_duration_seconds"].Metric[0].GetHistogram()
	var counts []uint64
	for _, b := range h.Bucket {
		counts = append(counts, b.GetCumulativeCount())
	}
	if d := cmp.Diff([]uint64{2, 5, 5, 6}, counts); d != "" || h.GetSampleCount() != 6 || h.GetSampleSum() != 9.5 {
		t.Errorf("histogram = %v: %s", h, d)
	}
}

func TestFormatsAndCompressionAreNegotiated(t *testing.T) {
	e := newExporter(t, testEnv(t), Default())
	for _, c := range []struct {
		accept string
		open   bool
	}{
		{"", false}, {"*/*", false}, {"text/plain", false}, {acceptOpen, true}, {"application/openmetrics-text", true},
		{"application/openmetrics-text;version=1.0.0;q=0.1,text/plain;version=0.0.4;q=0.5", false},
		{"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited", false}, {"rubbish;;;q=x", false},
	} {
		w := get(t, e.Handler(), "/metrics/cadvisor", "Accept", c.accept)
		open := strings.HasPrefix(w.Header().Get("Content-Type"), "application/openmetrics-text; version=1.0.0") ||
			strings.HasPrefix(w.Header().Get("Content-Type"), "application/openmetrics-text; version=0.0.1")
		text := strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain; version=0.0.4")
		eof := strings.HasSuffix(w.Body.String(), "\n# EOF\n")
		if open != c.open || text == open || eof != open {
			t.Errorf("Accept %q: %q, ends in EOF %v", c.accept, w.Header().Get("Content-Type"), eof)
		}
	}
	plain := get(t, e.Handler(), "/metrics/cadvisor").Body.Bytes()
	for enc, want := range map[string]bool{"gzip": true, "deflate, gzip;q=0.5": true, "": false, "gzip;q=0": false, "gzip; q=0.0": false, "br": false, "*": true} {
		for range 2 { // the second uses what the first put back
			w := get(t, e.Handler(), "/metrics/cadvisor", "Accept-Encoding", enc)
			body := w.Body.Bytes()
			if got := w.Header().Get("Content-Encoding") == "gzip"; got != want {
				t.Fatalf("Accept-Encoding %q: gzip is %v", enc, got)
			}
			if want {
				z, err := gzip.NewReader(w.Body)
				if err != nil {
					t.Fatal(err)
				}
				if body, err = io.ReadAll(z); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(body, plain) {
				t.Errorf("Accept-Encoding %q: another body", enc)
			}
		}
	}
}

func TestPaths(t *testing.T) {
	env := testEnv(t)
	env.Metrics.Register("/metrics/node", metrics.SourceFunc(func(b *metrics.Builder) {}))
	e := newExporter(t, env, Default())
	for path, want := range map[string]int{"/": 200, "/metrics": 200, "/metrics/cadvisor": 200, "/metrics/apm": 200, "/metrics/node": 200,
		"/metrics/other": 404, "/healthz": 200, "/readyz": 503, "/x": 404, "/metrics/": 404} {
		if w := get(t, e.Handler(), path); w.Code != want {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
	}
	index := get(t, e.Handler(), "/").Body.String()
	for _, want := range []string{`href="/metrics/node"`, `href="/metrics/apm"`, "node-&lt;1&gt;", "1.2.3", `href="/readyz"`} {
		if !strings.Contains(index, want) {
			t.Errorf("the index lacks %s:\n%s", want, index)
		}
	}
	w := httptest.NewRecorder()
	e.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/metrics", nil))
	if w.Code != 405 {
		t.Errorf("POST: %d", w.Code)
	}
	self := parse(t, get(t, e.Handler(), "/metrics").Body.Bytes())
	if self["nodetap_prom_scrapes_total"] == nil || self["nodetap_prom_scrapes_refused_total"] == nil {
		t.Errorf("/metrics lacks the exporter's own: %v", self)
	}
}

func TestOneScrapeTooManyIsRefusedAndCounted(t *testing.T) {
	env := testEnv(t)
	cfg := Default()
	cfg.MaxConcurrentScrapes = 1
	entered, leave := make(chan struct{}), make(chan struct{})
	env.Metrics.Register("/metrics/slow", metrics.SourceFunc(func(*metrics.Builder) { close(entered); <-leave }))
	e := newExporter(t, env, cfg)
	h := e.Handler()
	done := make(chan int)
	go func() { done <- get(t, h, "/metrics/slow").Code }()
	<-entered
	if w := get(t, h, "/metrics/cadvisor"); w.Code != 503 {
		t.Errorf("the second scrape: %d", w.Code)
	}
	if w := get(t, h, "/healthz"); w.Code != 200 {
		t.Errorf("a probe meanwhile: %d", w.Code)
	}
	close(leave)
	if code := <-done; code != 200 {
		t.Errorf("the first scrape: %d", code)
	}
	if w := get(t, h, "/metrics/cadvisor"); w.Code != 200 {
		t.Errorf("afterwards: %d", w.Code)
	}
	if text := get(t, h, "/metrics").Body.String(); !strings.Contains(text, "nodetap_prom_scrapes_refused_total 1\n") {
		t.Error("the refusal is not counted")
	}
}

func TestRunServesUntilItsContextEnds(t *testing.T) {
	e := newExporter(t, testEnv(t), Default())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- e.serve(ctx, ln) }()
	resp, err := http.Get("http://" + ln.Addr().String() + "/metrics/cadvisor")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || len(parse(t, body)) != 5 {
		t.Errorf("%v, %d bytes", err, len(body))
	}
	http.DefaultClient.CloseIdleConnections()

	// The port is taken: another exporter must say so and not wait.
	cfg := Default()
	cfg.Listen = ln.Addr().String()
	env := testEnv(t)
	if err := newExporter(t, env, cfg).Run(ctx); err == nil || !strings.Contains(err.Error(), "listen") {
		t.Errorf("Run on a taken port: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("serve: %v", err)
	}
}

func TestABrokenClientIsNoScrape(t *testing.T) {
	e := newExporter(t, testEnv(t), Default())
	r := httptest.NewRequest(http.MethodGet, "/metrics/cadvisor", nil)
	e.Handler().ServeHTTP(brokenWriter{http.Header{}}, r)
	if w := get(t, e.Handler(), "/metrics").Body.String(); strings.Contains(w, `nodetap_prom_scrapes_total{path="/metrics/cadvisor"}`) {
		t.Error("a scrape that could not be written counts as answered")
	}
}

type brokenWriter struct{ h http.Header }

func (b brokenWriter) Header() http.Header       { return b.h }
func (b brokenWriter) WriteHeader(int)           {}
func (b brokenWriter) Write([]byte) (int, error) { return 0, errors.New("gone") }

func TestConfigErrorsNameTheirKeys(t *testing.T) {
	good := Default()
	if err := good.Validate(); err != nil {
		t.Errorf("the default: %v", err)
	}
	bad := Config{Listen: "9400", Timeout: 1, MaxConcurrentScrapes: 0}
	err := bad.Validate()
	for _, key := range []string{"listen", "timeout", "max_concurrent_scrapes"} {
		if err == nil || !strings.Contains(err.Error(), key+": ") {
			t.Errorf("%v does not name %s", err, key)
		}
	}
	if _, ok := errors.AsType[*component.FieldError](err); !ok {
		t.Errorf("%T", err)
	}
	for _, l := range []string{":99999", "a:b", ""} {
		c := Default()
		if c.Listen = l; c.Validate() == nil {
			t.Errorf("listen %q is taken", l)
		}
	}
}
