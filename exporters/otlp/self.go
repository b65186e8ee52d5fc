package otlp

import (
	"math"

	dto "github.com/prometheus/client_model/go"

	"nodetap/agent/metrics"
	"nodetap/agent/telemetry"
)

// selfSnapshot makes client_golang's families ours. Summaries (Go's garbage
// collector alone has one) and native buckets are left out.
func selfSnapshot(families []*dto.MetricFamily, self *telemetry.Resource, now int64) *metrics.Snapshot {
	snap := &metrics.Snapshot{Time: now}
	for _, f := range families {
		d := &metrics.Desc{Name: f.GetName(), Help: f.GetHelp(), OTelUnit: f.GetUnit()}
		fam := metrics.Family{Desc: d}
		for _, m := range f.GetMetric() {
			pairs := make([]metrics.Label, len(m.GetLabel()))
			for i, l := range m.GetLabel() {
				pairs[i] = metrics.Label{Name: l.GetName(), Value: l.GetValue(), Attr: l.GetName()}
			}
			s := metrics.Series{Labels: metrics.NewLabels(pairs), Resource: self}
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				d.Type = metrics.Counter
				s.Value = m.GetCounter().GetValue()
				s.Created = m.GetCounter().GetCreatedTimestamp().AsTime().UnixNano()
				if m.GetCounter().GetCreatedTimestamp() == nil {
					s.Created = 0
				}
			case dto.MetricType_GAUGE:
				d.Type = metrics.Gauge
				s.Value = m.GetGauge().GetValue()
			case dto.MetricType_UNTYPED:
				d.Type = metrics.Gauge
				s.Value = m.GetUntyped().GetValue()
			case dto.MetricType_HISTOGRAM:
				d.Type = metrics.Histogram
				if s.Hist = histogramOf(m.GetHistogram()); s.Hist == nil {
					continue
				}
				if t := m.GetHistogram().GetCreatedTimestamp(); t != nil {
					s.Created = t.AsTime().UnixNano()
				}
			default:
				continue
			}
			fam.Series = append(fam.Series, s)
		}
		if len(fam.Series) > 0 {
			snap.Families = append(snap.Families, fam)
		}
	}
	return snap
}

// histogramOf turns cumulative buckets into counts per bucket; nil when there
// are only native ones.
func histogramOf(h *dto.Histogram) *metrics.Hist {
	if len(h.GetBucket()) == 0 && h.GetSampleCount() > 0 {
		return nil
	}
	out := &metrics.Hist{Sum: h.GetSampleSum(), Count: h.GetSampleCount()}
	var before uint64
	for _, b := range h.GetBucket() {
		if math.IsInf(b.GetUpperBound(), 1) {
			continue
		}
		out.Bounds = append(out.Bounds, b.GetUpperBound())
		out.Counts = append(out.Counts, b.GetCumulativeCount()-before)
		before = b.GetCumulativeCount()
	}
	out.Counts = append(out.Counts, h.GetSampleCount()-before)
	return out
}
