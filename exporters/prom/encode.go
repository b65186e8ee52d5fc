package prom

import (
	"bytes"
	"encoding/hex"
	"io"
	"math"
	"strconv"
	"strings"

	"nodetap/agent/metrics"
)

// flushAt is how many bytes are gathered before they are written.
const flushAt = 32 << 10

// encoder writes snapshots as text. It is used again and again: after the first
// scrape it allocates nothing, whatever the number of series.
type encoder struct {
	w    io.Writer
	buf  []byte
	open bool // OpenMetrics 1.0 instead of text 0.0.4
	err  error
	n    int64 // bytes written

	// The upper bounds that le holds, rendered: histograms of a family share them.
	bounds *float64
	count  int
	le     []byte
	ends   []int
}

// encode writes the snapshot and returns what the writer said.
//
// Formats: https://prometheus.io/docs/instrumenting/exposition_formats/ and
// https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md.
// Created times are not written: in OpenMetrics' text each would be a series
// more.
func (e *encoder) encode(w io.Writer, s *metrics.Snapshot, open bool) error {
	e.w, e.open, e.err, e.n, e.buf, e.bounds = w, open, nil, 0, e.buf[:0], nil
	last := ""
	var lastType metrics.Type
	for i := range s.Families {
		f := &s.Families[i]
		if !hasText(f) {
			continue
		}
		if f.Desc.Name == last {
			// Two sources with descriptions of their own write one family.
			if f.Desc.Type != lastType {
				continue
			}
		} else {
			e.header(f.Desc)
			last, lastType = f.Desc.Name, f.Desc.Type
		}
		e.series(f)
		if e.err != nil {
			return e.err
		}
	}
	if open {
		e.buf = append(e.buf, "# EOF\n"...)
	}
	e.flush()
	e.w = nil
	return e.err
}

func (e *encoder) flush() {
	if e.err == nil && len(e.buf) > 0 {
		var n int
		n, e.err = e.w.Write(e.buf)
		e.n += int64(n)
	}
	e.buf = e.buf[:0]
}

// hasText tells whether the text formats can say anything of the family: native
// histograms only as far as they have classic buckets too.
func hasText(f *metrics.Family) bool {
	if f.Desc.Type != metrics.NativeHistogram {
		return true
	}
	for i := range f.Series {
		if f.Series[i].Hist != nil {
			return true
		}
	}
	return false
}

// family returns the name that HELP and TYPE stand under, and the type's word.
func (e *encoder) family(d *metrics.Desc) (name, kind string) {
	switch d.Type {
	case metrics.Counter:
		if !e.open {
			return d.Name, "counter"
		}
		if base, ok := strings.CutSuffix(d.Name, "_total"); ok {
			return base, "counter"
		}
		return d.Name, "unknown" // OpenMetrics wants _total on a counter's samples
	case metrics.Histogram, metrics.NativeHistogram:
		return d.Name, "histogram"
	case metrics.Info:
		if base, ok := strings.CutSuffix(d.Name, "_info"); ok && e.open {
			return base, "info"
		}
		return d.Name, "gauge"
	default:
		return d.Name, "gauge"
	}
}

func (e *encoder) header(d *metrics.Desc) {
	name, kind := e.family(d)
	b := e.buf
	if d.Help != "" {
		b = append(b, "# HELP "...)
		b = append(b, name...)
		b = append(b, ' ')
		b = appendHelp(b, d.Help, e.open)
		b = append(b, '\n')
	}
	b = append(b, "# TYPE "...)
	b = append(b, name...)
	b = append(b, ' ')
	b = append(b, kind...)
	b = append(b, '\n')
	// A UNIT line is an error unless the family's name ends in the unit.
	if base, ok := strings.CutSuffix(name, d.Unit); e.open && d.Unit != "" && kind != "info" && ok && strings.HasSuffix(base, "_") {
		b = append(b, "# UNIT "...)
		b = append(b, name...)
		b = append(b, ' ')
		b = append(b, d.Unit...)
		b = append(b, '\n')
	}
	e.buf = b
}

func (e *encoder) series(f *metrics.Family) {
	name := f.Desc.Name
	if f.Desc.Type == metrics.Histogram || f.Desc.Type == metrics.NativeHistogram {
		for i := range f.Series {
			if s := &f.Series[i]; s.Hist != nil {
				e.histogram(name, s)
				if len(e.buf) >= flushAt {
					e.flush()
				}
			}
		}
		return
	}
	for i := range f.Series {
		s := &f.Series[i]
		b := append(e.buf, name...)
		if text := s.Labels.Text(); text != "" {
			b = append(b, '{')
			b = append(b, text...)
			b = append(b, '}')
		}
		b = append(b, ' ')
		b = appendValue(b, s.Value)
		e.buf = append(b, '\n')
		if len(e.buf) >= flushAt {
			e.flush()
		}
	}
}

func (e *encoder) histogram(name string, s *metrics.Series) {
	h, text := s.Hist, s.Labels.Text()
	e.render(h.Bounds)
	b := e.buf
	sum, from := uint64(0), 0
	for i := 0; i <= len(h.Bounds); i++ {
		if i < len(h.Counts) {
			sum += h.Counts[i]
		}
		b = append(b, name...)
		b = append(b, "_bucket{"...)
		if text != "" {
			b = append(b, text...)
			b = append(b, ',')
		}
		b = append(b, `le="`...)
		if i < len(h.Bounds) {
			b = append(b, e.le[from:e.ends[i]]...)
			from = e.ends[i]
		} else {
			b = append(b, "+Inf"...)
		}
		b = append(b, `"} `...)
		b = strconv.AppendUint(b, sum, 10)
		if e.open && i < len(h.Exemplars) && h.Exemplars[i].Time != 0 {
			b = appendExemplar(b, &h.Exemplars[i])
		}
		b = append(b, '\n')
	}
	b = appendName(b, name, "_sum", text)
	b = appendValue(b, h.Sum)
	b = append(b, '\n')
	// The buckets' own sum, so that _count and le="+Inf" agree whatever h says.
	b = appendName(b, name, "_count", text)
	b = strconv.AppendUint(b, sum, 10)
	e.buf = append(b, '\n')
}

// render writes the bounds' le values once for all histograms that share them.
func (e *encoder) render(bounds []float64) {
	if len(bounds) > 0 && e.bounds == &bounds[0] && e.count == len(bounds) {
		return
	}
	e.bounds, e.count, e.le, e.ends = nil, len(bounds), e.le[:0], e.ends[:0]
	for _, v := range bounds {
		from := len(e.le)
		e.le = appendValue(e.le, v)
		if e.open && !bytes.ContainsAny(e.le[from:], ".eNI") {
			e.le = append(e.le, ".0"...) // OpenMetrics' canonical form
		}
		e.ends = append(e.ends, len(e.le))
	}
	if len(bounds) > 0 {
		e.bounds = &bounds[0]
	}
}

func appendName(b []byte, name, suffix, labels string) []byte {
	b = append(b, name...)
	b = append(b, suffix...)
	if labels != "" {
		b = append(b, '{')
		b = append(b, labels...)
		b = append(b, '}')
	}
	return append(b, ' ')
}

// appendExemplar adds the trace that a bucket was last seen with: 84 of the 128
// characters that OpenMetrics allows in an exemplar's labels.
func appendExemplar(b []byte, x *metrics.Exemplar) []byte {
	b = append(b, " # {"...)
	if !x.TraceID.IsZero() {
		b = append(b, `trace_id="`...)
		b = hex.AppendEncode(b, x.TraceID[:])
		b = append(b, '"')
		if !x.SpanID.IsZero() {
			b = append(b, `,span_id="`...)
			b = hex.AppendEncode(b, x.SpanID[:])
			b = append(b, '"')
		}
	}
	b = append(b, "} "...)
	b = appendValue(b, x.Value)
	b = append(b, ' ')
	return strconv.AppendFloat(b, float64(x.Time/1e6)/1e3, 'f', 3, 64)
}

// appendValue writes a sample's value. Most are whole numbers, for which integer
// formatting takes a third of the time.
func appendValue(b []byte, v float64) []byte {
	switch {
	case v == math.Trunc(v) && math.Abs(v) < 1<<53:
		return strconv.AppendInt(b, int64(v), 10)
	case math.IsNaN(v):
		return append(b, "NaN"...)
	case math.IsInf(v, 1):
		return append(b, "+Inf"...)
	case math.IsInf(v, -1):
		return append(b, "-Inf"...)
	}
	return strconv.AppendFloat(b, v, 'g', -1, 64)
}

func appendHelp(b []byte, help string, quotes bool) []byte {
	for i := 0; i < len(help); i++ {
		switch c := help[i]; {
		case c == '\\':
			b = append(b, `\\`...)
		case c == '\n':
			b = append(b, `\n`...)
		case c == '"' && quotes:
			b = append(b, `\"`...)
		default:
			b = append(b, c)
		}
	}
	return b
}
