package forward

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/fluent/fluent-logger-golang/fluent"
	"github.com/tinylib/msgp/msgp"

	"nodetap/agent/telemetry"
)

// rendered is what is the same in every record of a Resource.
type rendered struct {
	tag  string // "" for what belongs to no pod: the tag then comes from the path
	keys []byte // the key kubernetes and its map, encoded; nil for no pod
}

// render encodes the map that Fluent Bit's kubernetes filter adds, its keys in
// the filter's order. What is unknown is left out, as the filter does.
func render(tag tagTemplate, r *telemetry.Resource) *rendered {
	if r == nil || r.Pod == "" {
		return &rendered{}
	}
	var pairs [11]struct {
		key, value string
		m          map[string]string
	}
	n := 0
	add := func(key, value string, m map[string]string) {
		if value != "" || len(m) > 0 {
			pairs[n].key, pairs[n].value, pairs[n].m = key, value, m
			n++
		}
	}
	add("pod_name", r.Pod, nil)
	add("namespace_name", r.Namespace, nil)
	add("pod_id", r.PodUID, nil)
	add("labels", "", r.Labels)
	add("annotations", "", r.Annotations)
	add("host", r.Node, nil)
	add("pod_ip", r.PodIP, nil)
	add("container_name", r.Container, nil)
	add("docker_id", r.ContainerID, nil)
	add("container_hash", r.ImageID, nil)
	add("container_image", r.Image, nil)
	b := msgp.AppendMapHeader(msgp.AppendString(nil, "kubernetes"), uint32(n))
	for _, p := range pairs[:n] {
		b = msgp.AppendString(b, p.key)
		if p.m == nil {
			b = msgp.AppendString(b, p.value)
			continue
		}
		b = msgp.AppendMapHeader(b, uint32(len(p.m)))
		for _, k := range slices.Sorted(maps.Keys(p.m)) {
			b = msgp.AppendString(msgp.AppendString(b, k), p.m[k])
		}
	}
	return &rendered{tag: tag.render(r), keys: b}
}

// hostTag is the tag of a file that belongs to no pod: host.var.log.syslog.
func hostTag(path string) string {
	if path = strings.Trim(strings.ReplaceAll(path, "/", "."), "."); path == "" {
		return "nodetap"
	}
	return "host." + path
}

// recordEncoder appends [EventTime, record] entries. It belongs to one
// goroutine at a time.
type recordEncoder struct {
	withID  bool
	event   fluent.EventTime
	second  int64  // whose text is in prefix
	prefix  []byte // 2006-01-02T15:04:05
	scratch []byte
}

// overhead bounds what append adds to the body and the rendered keys of a
// record without attributes of its batch.
const overhead = 512

// append appends record i of the batch.
func (e *recordEncoder) append(b []byte, batch *telemetry.LogBatch, i int, r *rendered) []byte {
	rec := &batch.Records[i]
	at := rec.Time
	if at == 0 {
		at = rec.Observed
	}
	b = append(b, 0x92) // an array of two
	e.event = fluent.EventTime(time.Unix(0, at))
	b, _ = msgp.AppendExtension(b, &e.event) // EventTime does not fail

	hasTrace, hasSpan := !rec.TraceID.IsZero(), !rec.SpanID.IsZero()
	keys := uint32(3) // time, _p, log
	for _, has := range [...]bool{rec.Stream != telemetry.NoStream, r.keys != nil, e.withID, hasTrace, hasSpan,
		rec.Flags&telemetry.Truncated != 0, batch.EventName != "", len(batch.Attrs) > 0} {
		if has {
			keys++
		}
	}
	b = msgp.AppendMapHeader(b, keys)
	b = msgp.AppendString(b, "time")
	b = e.appendTime(b, at)
	if rec.Stream != telemetry.NoStream {
		b = msgp.AppendString(b, "stream")
		b = msgp.AppendString(b, rec.Stream.String())
	}
	b = msgp.AppendString(b, "_p")
	if rec.Flags&(telemetry.Split|telemetry.Joined) != 0 {
		b = append(b, 0xa1, 'P')
	} else {
		b = append(b, 0xa1, 'F')
	}
	b = msgp.AppendString(b, "log")
	b = msgp.AppendStringFromBytes(b, batch.Body(i))
	b = append(b, r.keys...)

	if e.withID {
		e.scratch = batch.AppendID(e.scratch[:0], i)
		b = msgp.AppendString(b, "nodetap_id")
		b = msgp.AppendStringFromBytes(b, e.scratch)
	}
	if hasTrace {
		b = msgp.AppendString(b, "trace_id")
		b = append(b, 0xd9, 32)
		b = hex.AppendEncode(b, rec.TraceID[:])
	}
	if hasSpan {
		b = msgp.AppendString(b, "span_id")
		b = append(b, 0xa0|16)
		b = hex.AppendEncode(b, rec.SpanID[:])
	}
	if rec.Flags&telemetry.Truncated != 0 {
		b = msgp.AppendBool(msgp.AppendString(b, "truncated"), true)
	}
	if batch.EventName != "" {
		b = msgp.AppendString(msgp.AppendString(b, "event_name"), batch.EventName)
	}
	if len(batch.Attrs) > 0 {
		b = appendAttrs(msgp.AppendString(b, "attributes"), batch.Attrs)
	}
	return b
}

// appendTime appends the time as a container runtime writes it: RFC 3339 with
// as many digits as it needs, in UTC.
func (e *recordEncoder) appendTime(b []byte, unixNano int64) []byte {
	sec, ns := unixNano/1e9, unixNano%1e9
	if ns < 0 {
		sec, ns = sec-1, ns+1e9
	}
	if sec != e.second || e.prefix == nil {
		e.second = sec
		e.prefix = time.Unix(sec, 0).UTC().AppendFormat(e.prefix[:0], "2006-01-02T15:04:05")
	}
	at := len(b)
	b = append(b, 0xa0) // a string of up to 31 bytes; its length follows below
	b = append(b, e.prefix...)
	if ns > 0 {
		digits := 9
		for ns%10 == 0 {
			ns /= 10
			digits--
		}
		b = append(b, ".000000000"[:1+digits]...)
		for i := len(b) - 1; ns > 0; i-- {
			b[i] = byte('0' + ns%10)
			ns /= 10
		}
	}
	b = append(b, 'Z')
	b[at] |= byte(len(b) - at - 1)
	return b
}

func appendAttrs(b []byte, attrs []telemetry.Attr) []byte {
	b = msgp.AppendMapHeader(b, uint32(len(attrs)))
	for i := range attrs {
		a := &attrs[i]
		b = msgp.AppendString(b, a.Key)
		switch a.Kind {
		case telemetry.AttrInt:
			b = msgp.AppendInt64(b, a.Int)
		case telemetry.AttrFloat:
			b = msgp.AppendFloat64(b, a.Float)
		case telemetry.AttrBool:
			b = msgp.AppendBool(b, a.Int != 0)
		case telemetry.AttrStrings:
			b = msgp.AppendArrayHeader(b, uint32(len(a.Strs)))
			for _, s := range a.Strs {
				b = msgp.AppendString(b, s)
			}
		default:
			b = msgp.AppendString(b, a.Str)
		}
	}
	return b
}

func attrsSize(attrs []telemetry.Attr) int {
	n := 0
	for i := range attrs {
		n += len(attrs[i].Key) + len(attrs[i].Str) + 32
		for _, s := range attrs[i].Strs {
			n += len(s) + 5
		}
	}
	return n
}

// tagTemplate is a tag with placeholders: literal text and fields in turn.
type tagTemplate struct {
	literals []string // one more than fields
	fields   []func(*telemetry.Resource) string
}

var tagFields = map[string]func(*telemetry.Resource) string{
	"namespace":    func(r *telemetry.Resource) string { return r.Namespace },
	"pod":          func(r *telemetry.Resource) string { return r.Pod },
	"pod_uid":      func(r *telemetry.Resource) string { return r.PodUID },
	"container":    func(r *telemetry.Resource) string { return r.Container },
	"container_id": func(r *telemetry.Resource) string { return r.ContainerID },
	"node":         func(r *telemetry.Resource) string { return r.Node },
	"service":      func(r *telemetry.Resource) string { return r.ServiceName },
	"workload":     func(r *telemetry.Resource) string { return r.WorkloadName },
}

func parseTag(s string) (tagTemplate, error) {
	var t tagTemplate
	if s == "" {
		return t, fmt.Errorf("is empty: receivers route by the tag")
	}
	for {
		before, rest, found := strings.Cut(s, "{")
		t.literals = append(t.literals, before)
		if !found {
			return t, nil
		}
		name, after, closed := strings.Cut(rest, "}")
		field, known := tagFields[name]
		if !closed || !known {
			return t, fmt.Errorf("{%s is no placeholder: known are %s", rest, strings.Join(slices.Sorted(maps.Keys(tagFields)), ", "))
		}
		t.fields = append(t.fields, field)
		s = after
	}
}

func (t tagTemplate) render(r *telemetry.Resource) string {
	var b strings.Builder
	for i, field := range t.fields {
		b.WriteString(t.literals[i])
		b.WriteString(field(r))
	}
	b.WriteString(t.literals[len(t.literals)-1])
	return b.String()
}
