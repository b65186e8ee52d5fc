package otlp

import (
	"context"

	"google.golang.org/protobuf/encoding/protowire"

	"nodetap/agent/telemetry"
)

// ExportSpans sends the batches, as ExportLogs.
func (e *Exporter) ExportSpans(ctx context.Context, batches []*telemetry.SpanBatch) error {
	var g group[*telemetry.SpanBatch]
	for _, b := range batches {
		if len(b.Spans) > 0 {
			g.add(b.Resource, b)
		}
	}
	c := e.call(ctx, traces)
	defer c.free()
	for _, r := range g.order {
		c.w.resource(e.resources.Get(r))
		more := 0
		for _, b := range g.by[r] {
			more += 500 * len(b.Spans)
		}
		for _, b := range g.by[r] {
			for i := range b.Spans {
				if err := c.w.span(&b.Spans[i], more); err != nil {
					return c.end(err)
				}
			}
		}
	}
	return c.end(c.w.flush())
}

func attrsSize(attrs []telemetry.Attr) int {
	n := 0
	for i := range attrs {
		n += len(attrs[i].Key) + len(attrs[i].Str) + 16
		for _, s := range attrs[i].Strs {
			n += len(s) + 4
		}
	}
	return n
}

// span appends a Span{trace_id=1, span_id=2, trace_state=3, parent_span_id=4,
// name=5, kind=6, start=7, end=8, attributes=9, links=13, status=15, flags=16}.
func (w *builder) span(s *telemetry.Span, more int) error {
	size := 80 + len(s.TraceState) + len(s.Name) + len(s.StatusMsg) + attrsSize(s.Attrs)
	for i := range s.Links {
		size += 40 + attrsSize(s.Links[i].Attrs)
	}
	m, err := w.begin(size, more)
	if err != nil {
		return err
	}
	b := *w.b
	b = appendBytes(b, 1, s.TraceID[:])
	b = appendBytes(b, 2, s.SpanID[:])
	if s.TraceState != "" {
		b = appendString(b, 3, s.TraceState)
	}
	if !s.ParentID.IsZero() {
		b = appendBytes(b, 4, s.ParentID[:])
	}
	b = appendString(b, 5, s.Name)
	b = appendVarint(b, 6, uint64(s.Kind))
	b = appendFixed64(b, 7, uint64(s.Start))
	b = appendFixed64(b, 8, uint64(s.End))
	b = appendAttrs(b, 9, s.Attrs)
	for i := range s.Links { // Link{trace_id=1, span_id=2, attributes=4}
		l := &s.Links[i]
		var link mark
		b, link = open(b, 13, 40+attrsSize(l.Attrs))
		b = appendBytes(b, 1, l.TraceID[:])
		b = appendBytes(b, 2, l.SpanID[:])
		b = appendAttrs(b, 4, l.Attrs)
		b = shut(b, link)
	}
	if s.Status != telemetry.StatusUnset || s.StatusMsg != "" { // Status{message=2, code=3}
		var status mark
		b, status = open(b, 15, len(s.StatusMsg)+4)
		if s.StatusMsg != "" {
			b = appendString(b, 2, s.StatusMsg)
		}
		b = appendVarint(b, 3, uint64(s.Status))
		b = shut(b, status)
	}
	if s.Flags != 0 {
		b = protowire.AppendFixed32(protowire.AppendTag(b, 16, protowire.Fixed32Type), uint32(s.Flags))
	}
	*w.b = b
	w.end(m)
	return nil
}
