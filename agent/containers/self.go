package containers

import (
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// pathOf returns the path of a v1 controller, or of cgroup2 for "", from the
// text of /proc/<pid>/cgroup; "" when it is not there.
func pathOf(procCgroup []byte, controller string) string {
	for line := range strings.Lines(string(procCgroup)) {
		_, rest, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		names, p, ok2 := strings.Cut(rest, ":")
		if !ok || !ok2 {
			continue
		}
		for name := range strings.SplitSeq(names, ",") {
			if name == controller {
				return p
			}
		}
	}
	return ""
}

// hasLine tells whether a line of text is the number.
func hasLine(text []byte, number int) bool {
	want := strconv.Itoa(number)
	for line := range strings.Lines(string(text)) {
		if strings.TrimSuffix(line, "\n") == want {
			return true
		}
	}
	return false
}

// selfMetrics are the registry's metrics about itself.
type selfMetrics struct {
	events *prometheus.CounterVec
	drops  *prometheus.CounterVec
	missed prometheus.Counter
	scans  prometheus.Counter
}

func newSelfMetrics(reg prometheus.Registerer, r *Registry) (*selfMetrics, error) {
	m := &selfMetrics{
		events: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "nodetap_containers_events_total",
			Help: "Containers and pod cgroups that came or went."}, []string{"event"}),
		drops: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "nodetap_containers_events_dropped_total",
			Help: "Events about cgroups that were lost; a scan made up for them."}, []string{"source"}),
		missed: prometheus.NewCounter(prometheus.CounterOpts{Name: "nodetap_containers_scan_changes_total",
			Help: "Cgroup directories that a scan found to differ from what the events said."}),
		scans: prometheus.NewCounter(prometheus.CounterOpts{Name: "nodetap_containers_scans_total",
			Help: "Scans of the cgroup tree."}),
	}
	live := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "nodetap_containers_live",
		Help: "Containers and pod cgroups that live now."}, func() float64 {
		r.mu.RLock()
		defer r.mu.RUnlock()
		return float64(len(r.live))
	})
	source := prometheus.NewDesc("nodetap_containers_source", "How containers are noticed: bpf, inotify or scan.", []string{"source"}, nil)
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.events, m.drops, m.missed, m.scans, live, sourceCollector{source, r}} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

type sourceCollector struct {
	desc *prometheus.Desc
	r    *Registry
}

func (s sourceCollector) Describe(ch chan<- *prometheus.Desc) { ch <- s.desc }

func (s sourceCollector) Collect(ch chan<- prometheus.Metric) {
	if src := s.r.Source(); src != "" {
		ch <- prometheus.MustNewConstMetric(s.desc, prometheus.GaugeValue, 1, src)
	}
}
