package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"nodetap/agent/config"
	"nodetap/agent/metrics"
	"nodetap/agent/pipeline"
	"nodetap/agent/telemetry"
)

// capture is a Registerer that only remembers what is registered.
type capture struct {
	mu    sync.Mutex
	lines map[string]string // name to its row
}

var descPattern = regexp.MustCompile(`(?s)^Desc\{fqName: ("(?:[^"\\]|\\.)*"), help: ("(?:[^"\\]|\\.)*")(?:, unit: "[^"]*")?, constLabels: \{(.*?)\}, variableLabels: \{(.*?)\}\}$`)

func (c *capture) Register(m prometheus.Collector) error {
	ch := make(chan *prometheus.Desc)
	go func() { defer close(ch); m.Describe(ch) }()
	for d := range ch {
		f := descPattern.FindStringSubmatch(d.String())
		if f == nil {
			return fmt.Errorf("cannot read %s", d)
		}
		name, help := strings.Trim(f[1], `"`), strings.ReplaceAll(strings.Trim(f[2], `"`), `\"`, `"`)
		kind := "gauge"
		switch m.(type) {
		case prometheus.Histogram, *prometheus.HistogramVec:
			kind = "histogram"
		default:
			if strings.HasSuffix(name, "_total") {
				kind = "counter"
			}
		}
		c.mu.Lock()
		c.lines[name] = fmt.Sprintf("| `%s` | %s | %s | %s |\n", name, kind, strings.ReplaceAll(f[4], ",", ", "), strings.ReplaceAll(help, "|", `\|`))
		c.mu.Unlock()
	}
	return nil
}

func (c *capture) MustRegister(ms ...prometheus.Collector) {
	for _, m := range ms {
		if err := c.Register(m); err != nil {
			panic(err)
		}
	}
}

func (c *capture) Unregister(prometheus.Collector) bool { return true }

// everything is a Sink that wants all signals and keeps none.
type everything struct{}

func (everything) SendLogs(context.Context, *telemetry.LogBatch) error   { return pipeline.ErrStopped }
func (everything) SendSpans(context.Context, *telemetry.SpanBatch) error { return pipeline.ErrStopped }
func (everything) WantsLogs() bool                                       { return true }
func (everything) WantsSpans() bool                                      { return true }

const metricsIntro = `# Metrics

This page is generated from the code (make generate).

## Containers, pods and requests

At /metrics/cadvisor and /metrics/apm, and over OTLP with the names of the semantic conventions. What a node or a cgroup version does not have is absent, never 0.

| metric | type | path | OTLP | meaning |
|---|---|---|---|---|
`

const selfIntro = `
## The agent itself

At /metrics, with Go's and the process's own. Exporters' metrics also carry the label exporter.

| metric | type | labels | meaning |
|---|---|---|---|
`

func metricsPage(t *testing.T) string {
	var b strings.Builder
	b.WriteString(metricsIntro)
	for _, group := range workloadFamilies() {
		for _, d := range group.descs {
			kind := map[metrics.Type]string{metrics.Counter: "counter", metrics.Gauge: "gauge", metrics.Histogram: "histogram", metrics.NativeHistogram: "native histogram", metrics.Info: "info"}[d.Type]
			otel := ""
			if d.OTelName != "" {
				otel = "`" + d.OTelName + "`"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", d.Name, kind, group.path, otel, strings.ReplaceAll(d.Help, "|", `\|`))
		}
	}
	b.WriteString(selfIntro)
	c := selfMetrics(t)
	names := make([]string, 0, len(c.lines))
	for name := range c.lines {
		if strings.HasPrefix(name, "nodetap_") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		b.WriteString(c.lines[name])
	}
	return b.String()
}

// selfMetrics makes every component, and runs every collector for no time, to
// see what they register.
func selfMetrics(t *testing.T) *capture {
	c := &capture{lines: map[string]string{}}
	dir := t.TempDir()
	cfg := newConfiguration()
	cfg.settings.StateDir = dir
	cfg.settings.Host.Log = filepath.Join(dir, "log")
	parsed, err := config.Parse("", []byte(oneOfEach), cfg.schema())
	if err != nil {
		t.Fatal(err)
	}
	cfg.collectors, cfg.exporters = parsed.Collectors, parsed.Exporters
	a, err := buildWith(cfg, slog.New(slog.DiscardHandler), c, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, col := range a.collectors {
		made, err := col.kind.make(a.envFor(col.config.Name, c), col.config.Targets[0])
		if err != nil {
			t.Fatal(err)
		}
		made.Run(ctx, everything{}) //nolint:errcheck // without privilege it says so; what it registers is the same
	}
	return c
}

// oneOfEach names every exporter, with what it cannot do without.
const oneOfEach = `exporters: {forward: {endpoint: "127.0.0.1:1"}, otlp: {endpoint: "http://127.0.0.1:1"}, prom: {}, stdout: {}}`
