package prom

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"nodetap/agent/metrics"
)

func FuzzLabelValues(f *testing.F) {
	f.Add("web-1", "a\nb", 1.5)
	f.Add(`\`, `"} 1`, math.Copysign(0, -1))
	f.Add("\xff\xfe", "# EOF\n", 1e300)
	f.Add("", "日本", 0.1)
	f.Fuzz(func(t *testing.T, a, b string, v float64) {
		l := metrics.NewLabels([]metrics.Label{{Name: "a", Value: a}, {Name: "b", Value: b}})
		build := &metrics.Builder{}
		build.Add(mem, metrics.Series{Labels: l, Value: v})
		build.Add(dur, metrics.Series{Labels: l, Hist: &metrics.Hist{Bounds: []float64{1}, Counts: []uint64{1, 2}, Sum: v}})
		s := build.Snapshot(0)
		var text, open bytes.Buffer
		e := &encoder{}
		if err := e.encode(&text, s, false); err != nil {
			t.Fatal(err)
		}
		if err := e.encode(&open, s, true); err != nil {
			t.Fatal(err)
		}
		got := parse(t, text.Bytes())
		m := got[mem.Name].Metric[0]
		if w := m.GetGauge().GetValue(); w != v && !(math.IsNaN(v) && math.IsNaN(w)) {
			t.Errorf("value %v came back as %v", v, w)
		}
		want := map[string]string{"a": strings.ToValidUTF8(a, "\uFFFD"), "b": strings.ToValidUTF8(b, "\uFFFD")}
		for _, p := range m.Label {
			if want[p.GetName()] != p.GetValue() {
				t.Errorf("%s=%q came back as %q", p.GetName(), want[p.GetName()], p.GetValue())
			}
			delete(want, p.GetName())
		}
		for k, v := range want {
			if v != "" {
				t.Errorf("%s=%q is gone", k, v)
			}
		}
		if n := strings.Count(text.String(), "\n"); n != 4+1+4 || strings.Count(open.String(), "\n") != n+3 {
			t.Errorf("a value made lines:\n%s%s", text.String(), open.String())
		}
	})
}

func TestTwoSourcesOfOneFamilyAreOneFamily(t *testing.T) {
	a, b := *mem, *mem
	c := metrics.Desc{Name: mem.Name, Type: metrics.Counter}
	build := &metrics.Builder{}
	build.Add(&a, metrics.Series{Value: 1})
	build.Add(&b, metrics.Series{Value: 2, Labels: metrics.NewLabels([]metrics.Label{{Name: "x", Value: "y"}})})
	build.Add(&c, metrics.Series{Value: 3, Labels: metrics.NewLabels([]metrics.Label{{Name: "z", Value: "y"}})})
	var out bytes.Buffer
	if err := new(encoder).encode(&out, build.Snapshot(0), true); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "# TYPE"); n != 1 || strings.Count(out.String(), "\n"+mem.Name) != 2 {
		t.Errorf("%d families:\n%s", n, out.String())
	}
}

// series50k is what 500 cgroups with 100 series each come to.
func series50k() *metrics.Snapshot {
	b := &metrics.Builder{}
	labels := make([]*metrics.Labels, 500)
	for i := range labels {
		labels[i] = metrics.NewLabels(benchLabels(i))
	}
	for f := range 100 {
		d := &metrics.Desc{Name: fmt.Sprintf("container_metric_%02d_total", f), Help: "One of a hundred.", Type: metrics.Counter}
		for i := range labels {
			b.Add(d, metrics.Series{Labels: labels[i], Value: benchValue(f, i)})
		}
	}
	return b.Snapshot(0)
}

func benchLabels(i int) []metrics.Label {
	id := fmt.Sprintf("%064x", i*7919)
	return []metrics.Label{
		{Name: "container", Value: "app"}, {Name: "id", Value: "/kubepods/burstable/podf9bf4ce8-40f8-43a0-afe7-c39ab889b4b3/" + id},
		{Name: "image", Value: "registry.example.test/shop/web:1.2.3"}, {Name: "name", Value: id},
		{Name: "namespace", Value: "shop"}, {Name: "pod", Value: fmt.Sprintf("web-5cddbf469b-%05d", i)},
	}
}

// Half of the values are whole numbers, half have decimals.
func benchValue(f, i int) float64 {
	if f%2 == 0 {
		return float64(f*1_000_003 + i*4096)
	}
	return float64(f*1000+i) * 0.000123
}

func TestEncodingAllocatesNothingPerSeries(t *testing.T) {
	s, e := series50k(), &encoder{}
	if err := e.encode(io.Discard, s, true); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(3, func() {
		if err := e.encode(io.Discard, s, true); err != nil {
			t.Error(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations for 50,000 series, want 0", n)
	}
}

// benchCollector gives client_golang the same series, with its descriptions kept.
type benchCollector struct {
	descs  []*prometheus.Desc
	values [][]string
}

func newBenchCollector() *benchCollector {
	c := &benchCollector{}
	var names []string
	for _, l := range benchLabels(0) {
		names = append(names, l.Name)
	}
	for f := range 100 {
		c.descs = append(c.descs, prometheus.NewDesc(fmt.Sprintf("container_metric_%02d_total", f), "One of a hundred.", names, nil))
	}
	for i := range 500 {
		var v []string
		for _, l := range benchLabels(i) {
			v = append(v, l.Value)
		}
		c.values = append(c.values, v)
	}
	return c
}

func (c *benchCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

func (c *benchCollector) Collect(ch chan<- prometheus.Metric) {
	for f, d := range c.descs {
		for i, v := range c.values {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, benchValue(f, i), v...)
		}
	}
}

// BenchmarkScrape compares a scrape of 50,000 series. Compare CPU time, not the
// wall time alone: client_golang gathers on several goroutines.
func BenchmarkScrape(b *testing.B) {
	s := series50k()
	b.Run("own", func(b *testing.B) {
		e := &encoder{}
		b.ReportAllocs()
		for b.Loop() {
			if err := e.encode(io.Discard, s, false); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(e.n), "bytes/scrape")
	})
	b.Run("own-gzip", func(b *testing.B) {
		e := &encoder{}
		z, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			z.Reset(io.Discard)
			if err := e.encode(z, s, false); err != nil {
				b.Fatal(err)
			}
			if err := z.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("client_golang", func(b *testing.B) {
		reg := prometheus.NewRegistry()
		reg.MustRegister(newBenchCollector())
		b.ReportAllocs()
		for b.Loop() {
			families, err := reg.Gather()
			if err != nil {
				b.Fatal(err)
			}
			enc := expfmt.NewEncoder(io.Discard, expfmt.NewFormat(expfmt.TypeTextPlain))
			for _, f := range families {
				if err := enc.Encode(f); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}
