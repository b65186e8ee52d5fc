package promparse

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"nodetap/agent/component"
	"nodetap/agent/metrics"
	"nodetap/agent/telemetry"
	"nodetap/exporters/prom"
)

const (
	acceptText = "text/plain;version=0.0.4"
	acceptOpen = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
)

func scrape(t testing.TB, accept string, source metrics.SourceFunc) (body []byte, contentType string) {
	t.Helper()
	reg := prometheus.NewRegistry()
	env := component.Env{Logger: slog.New(slog.DiscardHandler), Registerer: reg, Gatherer: reg, Metrics: metrics.NewRegistry(),
		Live: http.NotFoundHandler(), Ready: http.NotFoundHandler()}
	env.Metrics.Register("/metrics/cadvisor", source)
	e, err := prom.New(env, prom.Default())
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, "/metrics/cadvisor", nil)
	r.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	e.Handler().ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Fatalf("status %d", w.Code)
	}
	return w.Body.Bytes(), w.Header().Get("Content-Type")
}

// parsed is what Prometheus made of a scrape.
type parsed struct {
	values    map[string]float64 // by the series as Prometheus writes it
	types     map[string]string
	units     map[string]string
	help      map[string]string
	exemplars map[string]string
}

// parse reads as Prometheus' scrape loop does.
func parse(t testing.TB, body []byte, contentType string) parsed {
	t.Helper()
	out := parsed{map[string]float64{}, map[string]string{}, map[string]string{}, map[string]string{}, map[string]string{}}
	p, err := textparse.New(body, contentType, labels.NewSymbolTable(), textparse.ParserOptions{})
	if err != nil {
		t.Fatalf("%s: %v", contentType, err)
	}
	for {
		kind, err := p.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("%s: %v in\n%s", contentType, err, body)
		}
		switch kind {
		case textparse.EntryType:
			name, typ := p.Type()
			out.types[string(name)] = string(typ)
		case textparse.EntryUnit:
			name, unit := p.Unit()
			out.units[string(name)] = string(unit)
		case textparse.EntryHelp:
			name, help := p.Help()
			out.help[string(name)] = string(help)
		case textparse.EntrySeries:
			_, ts, v := p.Series()
			if ts != nil {
				t.Errorf("a timestamp: %d", *ts)
			}
			var l labels.Labels
			p.Labels(&l)
			l = labels.NewBuilder(l).Labels() // as the scrape loop does: an empty label is an absent one
			if _, twice := out.values[l.String()]; twice {
				t.Errorf("%s twice", l)
			}
			out.values[l.String()] = v
			var x exemplar.Exemplar
			for p.Exemplar(&x) {
				out.exemplars[l.String()] = fmt.Sprintf("%s %v %d", x.Labels, x.Value, x.Ts)
			}
		default:
			t.Errorf("an entry of kind %d", kind)
		}
	}
}

var hostile = []string{"plain", `\`, `"`, "\n", "a\\\"\nb", "# EOF\n", "} 1\nx 2", "日本", "\xff\xfe", " ", "\t", "\x00", `\n`}

func source(b *metrics.Builder) {
	cpu := &metrics.Desc{Name: "container_cpu_usage_seconds_total", Help: "CPU \"time\"\\\nof a container.", Type: metrics.Counter, Unit: "seconds"}
	mem := &metrics.Desc{Name: "container_memory_usage_bytes", Help: "Memory.", Type: metrics.Gauge, Unit: "bytes"}
	odd := &metrics.Desc{Name: "container_oom", Type: metrics.Counter, Unit: "seconds"}
	info := &metrics.Desc{Name: "target_info", Help: "Target.", Type: metrics.Info}
	dur := &metrics.Desc{Name: "http_server_request_duration_seconds", Help: "Duration.", Type: metrics.Histogram, Unit: "seconds"}
	for i, h := range hostile {
		l := metrics.NewLabels([]metrics.Label{{Name: "i", Value: fmt.Sprint(i)}, {Name: "v", Value: h}, {Name: "container"}}, "container")
		b.Add(cpu, metrics.Series{Labels: l, Value: float64(i) + 0.5, Created: 1e18})
		b.Add(odd, metrics.Series{Labels: l, Value: float64(i)})
		b.Add(info, metrics.Series{Labels: l, Value: 1})
		b.Add(dur, metrics.Series{Labels: l, Hist: &metrics.Hist{Bounds: []float64{0.005, 1, 10, 1e6}, Counts: []uint64{1, 2, 0, 3, 4}, Sum: 12.25, Count: 10,
			Exemplars: []metrics.Exemplar{{}, {TraceID: telemetry.TraceID{15: 1}, SpanID: telemetry.SpanID{7: 2}, Value: 0.5, Time: 1795348800123000000}, {}, {}, {}}}})
	}
	for i, v := range []float64{0, -1, 1.5, 1e300, 5e-324, math.Inf(1), math.Inf(-1), math.NaN(), 1<<53 - 1, 1 << 60} {
		b.Add(mem, metrics.Series{Labels: metrics.NewLabels([]metrics.Label{{Name: "i", Value: fmt.Sprint(i)}}), Value: v})
	}
	b.Add(mem, metrics.Series{Value: 7})
}

func TestPrometheusReadsBothFormatsAlike(t *testing.T) {
	text, textType := scrape(t, acceptText, source)
	open, openType := scrape(t, acceptOpen, source)
	if !strings.HasPrefix(textType, "text/plain") || !strings.HasPrefix(openType, "application/openmetrics-text") {
		t.Fatalf("content types %q and %q", textType, openType)
	}
	a, b := parse(t, text, textType), parse(t, open, openType)
	if want := len(hostile)*(3+7) + 11; len(a.values) != want {
		t.Errorf("%d series, want %d", len(a.values), want)
	}
	// Prometheus writes le as OpenMetrics does, and the text format need not.
	norm := maps.Collect(func(yield func(string, float64) bool) {
		for k, v := range a.values {
			for _, le := range []string{"1", "10"} {
				k = strings.ReplaceAll(k, `le="`+le+`"`, `le="`+le+`.0"`)
			}
			k = strings.ReplaceAll(k, `le="1000000"`, `le="1000000.0"`)
			if !yield(k, v) {
				return
			}
		}
	})
	for k, v := range b.values {
		w, ok := norm[k]
		if !ok || w != v && !(math.IsNaN(v) && math.IsNaN(w)) {
			t.Errorf("%s is %v in OpenMetrics and %v (%v) in text", k, v, w, ok)
		}
	}
	if len(b.values) != len(a.values) {
		t.Errorf("%d series in OpenMetrics, %d in text", len(b.values), len(a.values))
	}
	for name, want := range map[string]string{"container_cpu_usage_seconds": "counter", "container_memory_usage_bytes": "gauge", "container_oom": "unknown",
		"target": "info", "http_server_request_duration_seconds": "histogram"} {
		if b.types[name] != want {
			t.Errorf("OpenMetrics type of %s is %q, want %q", name, b.types[name], want)
		}
	}
	if u := b.units; len(u) != 3 || u["container_cpu_usage_seconds"] != "seconds" || u["container_oom"] != "" {
		t.Errorf("units = %v", u)
	}
	if h := b.help["container_cpu_usage_seconds"]; h != "CPU \"time\"\\\nof a container." {
		t.Errorf("help = %q", h)
	}
	if len(b.exemplars) != len(hostile) || len(a.exemplars) != 0 {
		t.Fatalf("%d exemplars in OpenMetrics, %d in text", len(b.exemplars), len(a.exemplars))
	}
	for k, x := range b.exemplars {
		if !strings.Contains(k, `le="1.0"`) || x != `{span_id="0000000000000002", trace_id="00000000000000000000000000000001"} 0.5 1795348800123` {
			t.Errorf("%s # %s", k, x)
		}
	}
}

func TestLabelValuesComeBack(t *testing.T) {
	for _, accept := range []string{acceptText, acceptOpen} {
		body, typ := scrape(t, accept, source)
		got := parse(t, body, typ)
		for i, h := range hostile {
			want := labels.FromStrings("__name__", "container_oom", "i", fmt.Sprint(i), "v", strings.ToValidUTF8(h, "\uFFFD"))
			if v, ok := got.values[want.String()]; !ok || v != float64(i) {
				t.Errorf("%s: %s is not there", typ, want)
			}
		}
	}
}

func TestAnEmptyScrapeIsValid(t *testing.T) {
	for _, accept := range []string{acceptText, acceptOpen} {
		body, typ := scrape(t, accept, func(*metrics.Builder) {})
		if got := parse(t, body, typ); len(got.values) != 0 {
			t.Errorf("%v", got.values)
		}
	}
}

func FuzzLabelValues(f *testing.F) {
	for i, h := range hostile {
		f.Add(h, float64(i))
	}
	d := &metrics.Desc{Name: "m_bytes", Help: "M.", Type: metrics.Gauge, Unit: "bytes"}
	f.Fuzz(func(t *testing.T, s string, v float64) {
		for _, accept := range []string{acceptText, acceptOpen} {
			body, typ := scrape(t, accept, func(b *metrics.Builder) {
				b.Add(d, metrics.Series{Labels: metrics.NewLabels([]metrics.Label{{Name: "v", Value: s}}), Value: v})
			})
			got := parse(t, body, typ)
			want := labels.FromStrings("__name__", "m_bytes", "v", strings.ToValidUTF8(s, "\uFFFD")).String()
			if s == "" {
				want = labels.FromStrings("__name__", "m_bytes").String()
			}
			w, ok := got.values[want]
			if len(got.values) != 1 || !ok || w != v && !(math.IsNaN(v) && math.IsNaN(w)) {
				t.Errorf("%s: %v, want %s %v", typ, got.values, want, v)
			}
		}
	})
}
