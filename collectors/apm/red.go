package apm

import (
	"strconv"
	"strings"
	"sync"

	"nodetap/agent/metrics"
	"nodetap/agent/telemetry"
)

// bounds are the buckets of the semantic conventions, in seconds.
var bounds = []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10}

var (
	serverDesc = &metrics.Desc{
		Name: "http_server_request_duration_seconds", Type: metrics.Histogram, Unit: "seconds",
		Help:     "Duration of HTTP requests that a container answered, from the first byte received to the last byte sent.",
		OTelName: "http.server.request.duration", OTelUnit: "s",
	}
	clientDesc = &metrics.Desc{
		Name: "http_client_request_duration_seconds", Type: metrics.Histogram, Unit: "seconds",
		Help:     "Duration of HTTP requests that a container made, from the first byte sent to the last byte received.",
		OTelName: "http.client.request.duration", OTelUnit: "s",
	}
)

// seriesKey is what tells series of one container apart.
type seriesKey struct {
	client   bool
	overflow bool
	method   string
	route    string
	status   int
	errType  string
	version  string
	host     string // client: server.address
	port     uint16 // client: server.port
	peer     string // service.peer.name
	peerNS   string // service.peer.namespace
}

// red keeps the request duration histograms. Safe for concurrent use.
type red struct {
	mu     sync.Mutex
	max    int
	series int
	groups map[string]*redGroup // by container id, or the name of a process
}

type redGroup struct {
	res    *telemetry.Resource
	series map[seriesKey]*redSeries
	gone   int64 // unix nanoseconds when its container went; 0: it is there
}

type redSeries struct {
	labels  *metrics.Labels
	res     *telemetry.Resource // that labels were rendered from
	counts  []uint64
	sum     float64
	count   uint64
	created int64
}

func newRED(limit int) *red { return &red{max: limit, groups: make(map[string]*redGroup)} }

// record counts a request of the owner (a container id). It tells whether the
// series overflowed.
func (r *red) record(owner string, res *telemetry.Resource, k seriesKey, seconds float64, now int64) (overflow bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.groups[owner]
	if g == nil {
		g = &redGroup{series: make(map[seriesKey]*redSeries)}
		r.groups[owner] = g
	}
	g.res = res
	s := g.series[k]
	if s == nil && r.series >= r.max {
		overflow = true
		k = seriesKey{client: k.client, overflow: true}
		s = g.series[k]
	}
	if s == nil {
		s = &redSeries{counts: make([]uint64, len(bounds)+1), created: now}
		g.series[k] = s
		if !k.overflow { // at most two more for each container
			r.series++
		}
	}
	i := 0
	for i < len(bounds) && seconds > bounds[i] {
		i++
	}
	s.counts[i]++
	s.sum += seconds
	s.count++
	return overflow
}

// Collect implements metrics.Source.
func (r *red) Collect(b *metrics.Builder) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range r.groups {
		for k, s := range g.series {
			if s.res != g.res {
				s.res, s.labels = g.res, redLabels(g.res, k)
			}
			d := serverDesc
			if k.client {
				d = clientDesc
			}
			b.Add(d, metrics.Series{
				Labels: s.labels, Resource: g.res, Created: s.created,
				Hist: &metrics.Hist{Bounds: bounds, Counts: append([]uint64(nil), s.counts...), Sum: s.sum, Count: s.count},
			})
		}
	}
}

// expire removes the series of containers that went before the time. alive tells
// whether the owner is there.
func (r *red) expire(now int64, keep int64, alive func(owner string) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for owner, g := range r.groups {
		switch {
		case alive(owner):
			g.gone = 0
		case g.gone == 0:
			g.gone = now
		case now-g.gone > keep:
			for k := range g.series {
				if !k.overflow {
					r.series--
				}
			}
			delete(r.groups, owner)
		}
	}
}

// size returns the number of series.
func (r *red) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.series
}

func redLabels(res *telemetry.Resource, k seriesKey) *metrics.Labels {
	var pairs []metrics.Label
	for _, a := range res.AppendIdentity(nil) {
		pairs = append(pairs, metrics.Label{Name: strings.ReplaceAll(a.Key, ".", "_"), Value: a.Str})
	}
	if res.Container == "" && res.ContainerID != "" { // else two of them have one label set
		pairs = append(pairs, metrics.Label{Name: "container_id", Value: res.ContainerID})
	}
	add := func(attr, value string) {
		pairs = append(pairs, metrics.Label{Name: strings.ReplaceAll(attr, ".", "_"), Value: value, Attr: attr})
	}
	if k.overflow {
		add("otel.metric.overflow", "true")
		return metrics.NewLabels(pairs)
	}
	add("http.request.method", k.method)
	if k.client {
		add("url.template", k.route)
		add("server.address", k.host)
		if k.port != 0 {
			add("server.port", strconv.Itoa(int(k.port)))
		}
	} else {
		add("http.route", k.route)
	}
	if k.status != 0 {
		add("http.response.status_code", strconv.Itoa(k.status))
	}
	add("error.type", k.errType)
	add("network.protocol.version", k.version)
	add("url.scheme", "http")
	add("service.peer.name", k.peer)
	add("service.peer.namespace", k.peerNS)
	return metrics.NewLabels(pairs)
}

// Families lists every family that the collector's source can write.
func Families() []*metrics.Desc { return []*metrics.Desc{serverDesc, clientDesc} }
