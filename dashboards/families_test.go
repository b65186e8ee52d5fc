package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
)

// families are the metrics that the agent has, by name.
type families map[string]*family

type family struct {
	kind   string // counter, gauge, histogram
	labels map[string]bool
}

func (f families) add(name, kind string, labelNames ...string) {
	got := f[name]
	if got == nil {
		got = &family{kind: kind, labels: map[string]bool{}}
		f[name] = got
	}
	for _, l := range labelNames {
		got.labels[l] = true
	}
}

// of returns the family of a series' name, which for histograms has a suffix.
func (f families) of(series string) (*family, string) {
	if got := f[series]; got != nil && got.kind != "histogram" {
		return got, ""
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(series, suffix); ok && f[base] != nil && f[base].kind == "histogram" {
			return f[base], suffix
		}
	}
	return nil, ""
}

func (f families) counter(series string) bool {
	got, suffix := f.of(series)
	return got != nil && (got.kind == "counter" || suffix != "")
}

// labels returns the labels of a series, those of its target included; nil when
// the agent has no such series.
func (f families) labels(series string) map[string]bool {
	got, suffix := f.of(series)
	if got == nil {
		return nil
	}
	out := map[string]bool{"le": suffix == "_bucket"}
	for _, l := range targetLabels {
		out[l] = true
	}
	for l := range got.labels {
		out[l] = true
	}
	return out
}

// targetLabels are those that manifests/prometheus/scrape.yaml gives.
var targetLabels = []string{"job", "node", "instance", "metrics_path"}

var (
	rowPattern    = regexp.MustCompile("^\\| `(\\w+)` \\| (\\w+) \\| ([^|]*) \\|")
	goldenPattern = regexp.MustCompile(`^(\w+)\{(.*)\} \S+`)
	pairPattern   = regexp.MustCompile(`(\w+)="`)
	codePattern   = regexp.MustCompile("`(\\w+)(?:=[^`]*)?`")
)

// knownFamilies reads what the repository says of the agent's metrics: the names
// and types from METRICS.md, which is generated from the code, the labels of the
// agent's own from there too, those of containers from the golden scrapes of
// collectors/cgroup, those of requests from the README of collectors/apm.
func knownFamilies(t *testing.T) families {
	t.Helper()
	known := families{}
	own := false
	for line := range strings.Lines(read(t, "../METRICS.md")) {
		if strings.HasPrefix(line, "## ") {
			own = strings.Contains(line, "The agent itself")
		}
		row := rowPattern.FindStringSubmatch(line)
		if row == nil {
			continue
		}
		known.add(row[1], row[2])
		if own && row[3] != "" {
			known.add(row[1], row[2], strings.Split(row[3], ", ")...)
		}
	}
	if len(known) < 100 {
		t.Fatalf("METRICS.md has %d metrics", len(known))
	}
	known.add("nodetap_build_info", "gauge", "version") // a constant label, which the page has in words

	goldens, _ := filepath.Glob("../collectors/cgroup/testdata/*.golden")
	if len(goldens) == 0 {
		t.Fatal("no golden scrapes")
	}
	for _, golden := range goldens {
		for line := range strings.Lines(read(t, golden)) {
			series := goldenPattern.FindStringSubmatch(line)
			if series == nil || known[series[1]] == nil {
				continue
			}
			for _, pair := range pairPattern.FindAllStringSubmatch(series[2], -1) {
				known.add(series[1], "", pair[1])
			}
		}
	}

	_, requests, ok := strings.Cut(read(t, "../collectors/apm/README.md"), "\n## Metrics\n")
	requests, _, _ = strings.Cut(requests, "\n## ")
	var words []string
	for _, word := range codePattern.FindAllStringSubmatch(requests, -1) {
		words = append(words, word[1])
	}
	for _, name := range []string{"http_server_request_duration_seconds", "http_client_request_duration_seconds"} {
		if !ok || !strings.Contains(requests, "`"+name+"`") {
			t.Fatalf("the README of collectors/apm has no %s", name)
		}
		known.add(name, "histogram", words...)
	}

	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	process, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range process {
		known.add(f.GetName(), strings.ToLower(dto.MetricType_name[int32(f.GetType())]))
	}

	scrape := read(t, "../manifests/prometheus/scrape.yaml")
	for _, l := range targetLabels {
		if !strings.Contains(scrape, "target_label: "+l+",") {
			t.Fatalf("scrape.yaml gives no label %s", l)
		}
	}
	return known
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
