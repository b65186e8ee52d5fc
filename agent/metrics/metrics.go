// Package metrics holds what is read rather than sent: metric families about
// containers, the node and their traffic, as immutable snapshots.
//
// A collector registers a Source under a scrape path; exporters/prom encodes
// the snapshot of a path, exporters/otlp converts it. The agent's metrics about
// itself are not here: those are client_golang's.
//
// Invariants: absent is absent, never 0. Nothing carries an explicit timestamp:
// a sample is as old as the snapshot. Labels are rendered once and shared by
// pointer for as long as what they describe lives.
package metrics

import (
	"slices"
	"sort"
	"strings"

	"nodetap/agent/telemetry"
)

// Type is the kind of a family.
type Type uint8

// The kinds. Info is a gauge of value 1 whose labels are the message.
const (
	Counter Type = iota + 1
	Gauge
	Histogram
	NativeHistogram
	Info
)

// Desc describes a family. Make one per family, once, and share the pointer.
type Desc struct {
	Name string // Prometheus name, with _total on counters
	Help string
	Type Type
	Unit string // Prometheus base unit ("seconds", "bytes"), "" for none

	// OTelName is the metric's name by the semantic conventions; "" where they
	// have none: OTLP then uses Name without _total.
	OTelName string
	// OTelUnit is the UCUM unit ("s", "By", "{request}"), "" for none.
	OTelUnit string
	// OTelUpDown makes a gauge an OTLP non-monotonic sum (an UpDownCounter), as
	// the conventions define memory and the like.
	OTelUpDown bool
	// OTelPodName and OTelNodeName are the names for series about a pod itself
	// (a Resource without Container and ContainerID) and about the node (no Resource), where the
	// conventions tell them apart: k8s.pod.cpu.time beside container.cpu.time.
	// "": as for any other series.
	OTelPodName, OTelNodeName string
	// OTelAttrs are attributes of every data point, where several families are
	// one OTLP metric: container.disk.io with disk.io.direction. Families whose
	// OTLP names are equal belong to one metric.
	OTelAttrs []telemetry.Attr
}

// Label is one label of a series.
type Label struct {
	Name  string // Prometheus label name
	Value string
	// Attr is the OpenTelemetry attribute of the same fact. "" when the
	// Resource says it already, so that OTLP leaves it out of the data point.
	Attr string
}

// Labels is an immutable, rendered label set.
type Labels struct {
	text     string
	pairs    []Label
	promOnly bool
}

// PromOnly marks the labels, before they are shared, of series that only
// Prometheus' conventions have (a sum beside its parts, a row that repeats
// another): OTLP leaves them out. It returns l.
func (l *Labels) PromOnly() *Labels { l.promOnly = true; return l }

// IsPromOnly tells whether OTLP leaves the series out.
func (l *Labels) IsPromOnly() bool { return l != nil && l.promOnly }

// NewLabels sorts and renders the labels. Labels with an empty value are left
// out of the text, as Prometheus takes an empty label for an absent one, unless
// keepEmpty names them (cAdvisor writes container="" on its pod rows).
func NewLabels(pairs []Label, keepEmpty ...string) *Labels {
	l := &Labels{pairs: make([]Label, 0, len(pairs))}
	for _, p := range pairs {
		if p.Value != "" || contains(keepEmpty, p.Name) {
			l.pairs = append(l.pairs, p)
		}
	}
	sort.SliceStable(l.pairs, func(i, j int) bool { return l.pairs[i].Name < l.pairs[j].Name })
	var b strings.Builder
	for i, p := range l.pairs {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(p.Name)
		b.WriteString(`="`)
		escaper.WriteString(&b, strings.ToValidUTF8(p.Value, "\uFFFD")) //nolint:errcheck // a Builder does not fail
		b.WriteByte('"')
	}
	l.text = b.String()
	return l
}

var escaper = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

func contains(list []string, s string) bool {
	return slices.Contains(list, s)
}

// Text returns the labels in the text format without braces: a="x",b="y". ""
// for none.
func (l *Labels) Text() string {
	if l == nil {
		return ""
	}
	return l.text
}

// Pairs returns the labels sorted by name. They must not be written to.
func (l *Labels) Pairs() []Label {
	if l == nil {
		return nil
	}
	return l.pairs
}

// Exemplar ties a bucket or a counter to a trace.
type Exemplar struct {
	TraceID telemetry.TraceID
	SpanID  telemetry.SpanID
	Value   float64
	Time    int64 // unix nanoseconds
}

// Hist is the state of a classic histogram.
type Hist struct {
	Bounds    []float64  // upper bounds, ascending, without +Inf; shared
	Counts    []uint64   // per bucket, not cumulative; len(Bounds)+1
	Exemplars []Exemplar // nil, or per bucket, zero Time for none
	Sum       float64
	Count     uint64
}

// Series is one series of a family.
type Series struct {
	Labels   *Labels
	Resource *telemetry.Resource // nil: the node itself
	Value    float64             // counter, gauge, info
	Hist     *Hist               // histogram
	Created  int64               // unix nanoseconds when a counter began at 0; 0 unknown
}

// Family is all series of one Desc in a snapshot.
type Family struct {
	Desc   *Desc
	Series []Series
}

// Snapshot is what the sources of a path say at one time. It is immutable.
type Snapshot struct {
	Families []Family // sorted by name
	Time     int64    // unix nanoseconds
}
