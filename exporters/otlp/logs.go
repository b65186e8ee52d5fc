package otlp

import (
	"bytes"
	"context"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"nodetap/agent/telemetry"
)

// group collects the batches of one Resource in the order of their coming.
type group[B any] struct {
	order []*telemetry.Resource
	by    map[*telemetry.Resource][]B
}

func (g *group[B]) add(r *telemetry.Resource, b B) {
	if g.by == nil {
		g.by = make(map[*telemetry.Resource][]B)
	}
	if _, ok := g.by[r]; !ok {
		g.order = append(g.order, r)
	}
	g.by[r] = append(g.by[r], b)
}

// ExportLogs sends the batches and returns nil when the receiver took all of
// them, or told how many it will never take.
func (e *Exporter) ExportLogs(ctx context.Context, batches []*telemetry.LogBatch) error {
	var g group[*telemetry.LogBatch]
	for _, b := range batches {
		if len(b.Records) > 0 {
			g.add(b.Resource, b)
		}
	}
	c := e.call(ctx, logs)
	defer c.free()
	for _, r := range g.order {
		c.w.resource(e.resources.Get(r))
		more := 0
		for _, b := range g.by[r] {
			more += len(b.Arena) + 180*len(b.Records)
		}
		for _, b := range g.by[r] {
			for i := range b.Records {
				if err := c.w.log(b, i, more, e.cfg.Logs.FilePath); err != nil {
					return c.end(err)
				}
			}
		}
	}
	return c.end(c.w.flush())
}

// The attribute log.iostream of each stream, encoded.
var streamAttrs = [3][]byte{
	telemetry.Stdout: appendKeyString(nil, 6, "log.iostream", "stdout"),
	telemetry.Stderr: appendKeyString(nil, 6, "log.iostream", "stderr"),
}

const uidKey = "log.record.uid"

// log appends a LogRecord{time=1, severity_number=2, body=5, attributes=6,
// trace_id=9, span_id=10, observed_time=11, event_name=12}.
func (w *builder) log(batch *telemetry.LogBatch, i, more int, filePath bool) error {
	r, body := &batch.Records[i], batch.Body(i)
	if !utf8.Valid(body) {
		body = bytes.ToValidUTF8(body, []byte("\uFFFD"))
	}
	w.scratch = batch.AppendID(w.scratch[:0], i)
	size := len(body) + len(w.scratch) + len(uidKey) + 60
	if !r.TraceID.IsZero() {
		size += 28
	}
	m, err := w.begin(size, more)
	if err != nil {
		return err
	}
	b := *w.b
	if r.Time != 0 {
		b = appendFixed64(b, 1, uint64(r.Time))
	}
	if r.Severity != 0 {
		b = appendVarint(b, 2, uint64(r.Severity))
	}
	b = append(b, 5<<3|2) // AnyValue{string_value=1}
	b = protowire.AppendVarint(b, uint64(1+protowire.SizeBytes(len(body))))
	b = protowire.AppendBytes(append(b, 1<<3|2), body)
	if int(r.Stream) < len(streamAttrs) {
		b = append(b, streamAttrs[r.Stream]...)
	}
	b = append(b, 6<<3|2)
	value := 1 + protowire.SizeBytes(len(w.scratch))
	b = protowire.AppendVarint(b, uint64(1+protowire.SizeBytes(len(uidKey))+1+protowire.SizeBytes(value)))
	b = protowire.AppendString(append(b, 1<<3|2), uidKey)
	b = protowire.AppendVarint(append(b, 2<<3|2), uint64(value))
	b = append(b, 1<<3|2)
	if utf8.Valid(w.scratch) { // a file's path may be part of it
		b = protowire.AppendBytes(b, w.scratch)
	} else {
		// as long as the id, so that the lengths above hold
		b = protowire.AppendBytes(b, asciiOnly(w.scratch))
	}
	if filePath && batch.Source.Path != "" {
		b = appendKeyString(b, 6, "log.file.path", batch.Source.Path)
	}
	if r.Flags&telemetry.Truncated != 0 {
		a := telemetry.Bool("nodetap.log.truncated", true)
		b = appendAttr(b, 6, &a)
	}
	b = appendAttrs(b, 6, batch.Attrs)
	if !r.TraceID.IsZero() {
		b = appendBytes(b, 9, r.TraceID[:])
	}
	if !r.SpanID.IsZero() {
		b = appendBytes(b, 10, r.SpanID[:])
	}
	observed := r.Observed
	if observed == 0 {
		observed = r.Time
	}
	b = appendFixed64(b, 11, uint64(observed))
	if batch.EventName != "" {
		b = appendString(b, 12, batch.EventName)
	}
	*w.b = b
	w.end(m)
	return nil
}

// asciiOnly replaces what is not ASCII, in place.
func asciiOnly(b []byte) []byte {
	for i, c := range b {
		if c >= utf8.RuneSelf {
			b[i] = '?'
		}
	}
	return b
}
