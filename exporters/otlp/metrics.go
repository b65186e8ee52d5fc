package otlp

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"nodetap/agent/component"
	"nodetap/agent/metrics"
	"nodetap/agent/telemetry"
)

// shape is how a family is told in OTLP.
type shape uint8

const (
	gauge     shape = iota
	sum             // cumulative, monotonic
	upDown          // cumulative, not monotonic
	histogram       // cumulative
)

func shapeOf(d *metrics.Desc, s *metrics.Series) shape {
	switch {
	case s.Hist != nil:
		return histogram
	case d.Type == metrics.Counter:
		return sum
	case d.Type == metrics.Gauge && d.OTelUpDown:
		return upDown
	default:
		return gauge
	}
}

// otelName is the metric's name of one series: the conventions tell a
// container's from its pod's and its node's.
func otelName(d *metrics.Desc, r *telemetry.Resource) string {
	name := d.OTelName
	switch {
	case r == nil && d.OTelNodeName != "":
		name = d.OTelNodeName
	case r != nil && r.Container == "" && r.ContainerID == "" && d.OTelPodName != "":
		name = d.OTelPodName
	}
	if name == "" {
		name = strings.TrimSuffix(d.Name, "_total")
	}
	return name
}

var ucumUnits = map[string]string{"seconds": "s", "bytes": "By", "ratio": "1"}

func otelUnit(d *metrics.Desc) string {
	if d.OTelUnit != "" {
		return d.OTelUnit
	}
	return ucumUnits[d.Unit]
}

// intAttrs are the attributes that the conventions define as integers.
var intAttrs = map[string]bool{
	"http.response.status_code": true, "server.port": true, "client.port": true, "network.peer.port": true, "network.local.port": true,
}

// point is one series on its way.
type point struct {
	name  string
	shape shape
	desc  *metrics.Desc
	s     *metrics.Series
	at    int64
}

// maxPoints is how many data points of one metric and resource go into one
// Metric message, so that it can be cut between them.
const maxPoints = 1000

// snapshot appends every series of a snapshot that OTLP has.
func (g *points) snapshot(snap *metrics.Snapshot) {
	for i := range snap.Families {
		f := &snap.Families[i]
		for j := range f.Series {
			if s := &f.Series[j]; !s.Labels.IsPromOnly() {
				g.add(s.Resource, point{otelName(f.Desc, s.Resource), shapeOf(f.Desc, s), f.Desc, s, snap.Time})
				g.n++
			}
		}
	}
}

type points struct {
	group[point]
	n int
}

// metrics encodes the points: one ResourceMetrics per Resource, one Metric per
// name, whatever families its series come from.
func (w *builder) metrics(g *points, resources *component.ResourceCache[[]byte]) error {
	for _, r := range g.order {
		list := g.by[r]
		slices.SortStableFunc(list, func(a, b point) int {
			return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.shape, b.shape))
		})
		w.resource(resources.Get(r))
		for len(list) > 0 {
			n := 1
			for n < len(list) && n < maxPoints && list[n].name == list[0].name && list[n].shape == list[0].shape {
				n++
			}
			if err := w.metric(list[:n], 300*len(list)); err != nil {
				return err
			}
			list = list[n:]
		}
	}
	return nil
}

// metric appends a Metric{name=1, description=2, unit=3, gauge=5, sum=7,
// histogram=9} of points that share their name and shape. Sum has data_points=1,
// aggregation_temporality=2 (2 is cumulative), is_monotonic=3; Histogram the
// first two of them.
func (w *builder) metric(list []point, more int) error {
	d := list[0].desc
	name, unit := list[0].name, otelUnit(d)
	size := len(name) + len(d.Help) + len(unit) + 20
	for i := range list {
		size += pointSize(&list[i])
	}
	m, err := w.begin(size, more)
	if err != nil {
		return err
	}
	b := *w.b
	b = appendString(b, 1, name)
	if d.Help != "" {
		b = appendString(b, 2, d.Help)
	}
	if unit != "" {
		b = appendString(b, 3, unit)
	}
	field := map[shape]protowire.Number{gauge: 5, sum: 7, upDown: 7, histogram: 9}[list[0].shape]
	var data mark
	b, data = open(b, field, size-len(d.Help))
	for i := range list {
		if list[i].shape == histogram {
			b = appendHistogramPoint(b, &list[i])
		} else {
			b = appendNumberPoint(b, &list[i])
		}
	}
	if list[0].shape != gauge {
		b = appendVarint(b, 2, 2)
	}
	if list[0].shape == sum {
		b = appendVarint(b, 3, 1)
	}
	*w.b = shut(b, data)
	w.end(m)
	w.items += len(list) - 1 // begin counted one: what is counted is data points
	return nil
}

func pointSize(p *point) int {
	n := 32 + attrsSize(p.desc.OTelAttrs)
	for _, l := range p.s.Labels.Pairs() {
		if l.Attr != "" {
			n += len(l.Attr) + len(l.Value) + 10
		}
	}
	if h := p.s.Hist; h != nil {
		n += 8*len(h.Bounds) + 8*len(h.Counts) + 60*len(h.Exemplars) + 20
	}
	return n
}

func appendPointAttrs(b []byte, field protowire.Number, p *point) []byte {
	b = appendAttrs(b, field, p.desc.OTelAttrs)
	for _, l := range p.s.Labels.Pairs() {
		if l.Attr == "" || l.Value == "" {
			continue
		}
		if intAttrs[l.Attr] {
			if v, err := strconv.ParseInt(l.Value, 10, 64); err == nil {
				a := telemetry.Int(l.Attr, v)
				b = appendAttr(b, field, &a)
				continue
			}
		}
		b = appendKeyString(b, field, l.Attr, l.Value)
	}
	return b
}

// NumberDataPoint{start=2, time=3, as_double=4, attributes=7}.
func appendNumberPoint(b []byte, p *point) []byte {
	b, m := open(b, 1, pointSize(p))
	if p.s.Created != 0 && p.shape != gauge {
		b = appendFixed64(b, 2, uint64(p.s.Created))
	}
	b = appendFixed64(b, 3, uint64(p.at))
	b = appendDouble(b, 4, p.s.Value)
	b = appendPointAttrs(b, 7, p)
	return shut(b, m)
}

// HistogramDataPoint{start=2, time=3, count=4, sum=5, bucket_counts=6,
// explicit_bounds=7, exemplars=8, attributes=9}.
func appendHistogramPoint(b []byte, p *point) []byte {
	h := p.s.Hist
	b, m := open(b, 1, pointSize(p))
	if p.s.Created != 0 {
		b = appendFixed64(b, 2, uint64(p.s.Created))
	}
	b = appendFixed64(b, 3, uint64(p.at))
	b = appendFixed64(b, 4, h.Count)
	b = appendDouble(b, 5, h.Sum)
	b = protowire.AppendTag(b, 6, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(8*len(h.Counts)))
	for _, n := range h.Counts {
		b = protowire.AppendFixed64(b, n)
	}
	if len(h.Bounds) > 0 {
		b = protowire.AppendTag(b, 7, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(8*len(h.Bounds)))
		for _, v := range h.Bounds {
			b = appendRawDouble(b, v)
		}
	}
	for i := range h.Exemplars { // Exemplar{time=2, as_double=3, span_id=4, trace_id=5}
		x := &h.Exemplars[i]
		if x.Time == 0 {
			continue
		}
		var e mark
		b, e = open(b, 8, 50)
		b = appendFixed64(b, 2, uint64(x.Time))
		b = appendDouble(b, 3, x.Value)
		if !x.SpanID.IsZero() {
			b = appendBytes(b, 4, x.SpanID[:])
		}
		if !x.TraceID.IsZero() {
			b = appendBytes(b, 5, x.TraceID[:])
		}
		b = shut(b, e)
	}
	b = appendPointAttrs(b, 9, p)
	return shut(b, m)
}
