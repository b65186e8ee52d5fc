package pods

import (
	"github.com/prometheus/client_golang/prometheus"
)

// selfMetrics are the store's metrics about itself.
type selfMetrics struct {
	watchErrors  *prometheus.CounterVec
	apiUp        prometheus.Gauge
	annotations  prometheus.Counter
	peersDropped prometheus.Counter

	missContainer, missPod, missLogPath, missPeer prometheus.Counter
}

func newSelfMetrics(reg prometheus.Registerer, s *Store) (*selfMetrics, error) {
	misses := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "nodetap_pods_misses_total",
		Help: "Questions that had no answer, by what was asked. A log path always has one, from the path: a miss is one whose pod was not known.",
	}, []string{"kind"})
	m := &selfMetrics{
		watchErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nodetap_pods_watch_errors_total",
			Help: "Requests to the API server that failed, by resource.",
		}, []string{"resource"}),
		apiUp: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nodetap_pods_api_up",
			Help: "Whether the API server answered the last request about this node's pods. 0 also where there is none.",
		}),
		annotations: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nodetap_pods_annotations_dropped_total",
			Help: "Annotations that were left out because their values are longer than annotation_max_bytes, counted at each change of their pod.",
		}),
		peersDropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nodetap_pods_peers_dropped_total",
			Help: "Addresses of peers that were left out because there are more than max_peers.",
		}),
		missContainer: misses.WithLabelValues("container"),
		missPod:       misses.WithLabelValues("pod"),
		missLogPath:   misses.WithLabelValues("log_path"),
		missPeer:      misses.WithLabelValues("peer"),
	}
	if reg == nil {
		return m, nil
	}
	known := prometheus.NewDesc("nodetap_pods_known", "Pods of this node that are known, by whether they still exist.", []string{"state"}, nil)
	peers := prometheus.NewDesc("nodetap_pods_peers", "Addresses of other nodes' pods and of Services that are known.", nil, nil)
	for _, c := range []prometheus.Collector{
		misses, m.watchErrors, m.apiUp, m.annotations, m.peersDropped,
		collectFunc{[]*prometheus.Desc{known, peers}, func(ch chan<- prometheus.Metric) {
			live, deleted := s.count()
			ch <- prometheus.MustNewConstMetric(known, prometheus.GaugeValue, float64(live), "live")
			ch <- prometheus.MustNewConstMetric(known, prometheus.GaugeValue, float64(deleted), "deleted")
			ch <- prometheus.MustNewConstMetric(peers, prometheus.GaugeValue, float64(s.peers.count()))
		}},
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (s *Store) count() (live, deleted int) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, e := range s.pods {
		if e.deleted.IsZero() {
			live++
		} else {
			deleted++
		}
	}
	return live, deleted
}

// collectFunc is a prometheus.Collector that reads state when it is asked.
type collectFunc struct {
	descs   []*prometheus.Desc
	collect func(chan<- prometheus.Metric)
}

func (c collectFunc) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

func (c collectFunc) Collect(ch chan<- prometheus.Metric) { c.collect(ch) }
