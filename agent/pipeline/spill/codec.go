package spill

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"

	"nodetap/agent/telemetry"
)

// codecVersion is the first byte of a frame's content.
const codecVersion = 1

var errContent = errors.New("spill: content is not what was written")

// resourceStrings returns the string fields of a Resource, in the order in which
// they are written. Append new ones at the end and raise codecVersion.
func resourceStrings(r *telemetry.Resource) [18]*string {
	return [...]*string{
		&r.Cluster, &r.Node, &r.Namespace, &r.Pod, &r.PodUID, &r.PodIP,
		&r.Container, &r.ContainerID, &r.Image, &r.ImageID,
		&r.WorkloadKind, &r.WorkloadName, &r.OwnerKind, &r.OwnerName,
		&r.ServiceName, &r.ServiceNamespace, &r.ServiceVersion, &r.ServiceInstanceID,
	}
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendMap(b []byte, m map[string]string) []byte {
	b = binary.AppendUvarint(b, uint64(len(m)))
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys) // the same Resource is the same bytes
	for _, k := range keys {
		b = appendString(appendString(b, k), m[k])
	}
	return b
}

func appendAttrs(b []byte, attrs []telemetry.Attr) []byte {
	b = binary.AppendUvarint(b, uint64(len(attrs)))
	for _, a := range attrs {
		b = append(appendString(b, a.Key), byte(a.Kind))
		b = appendString(b, a.Str)
		b = binary.AppendVarint(b, a.Int)
		b = binary.BigEndian.AppendUint64(b, math.Float64bits(a.Float))
		b = binary.AppendUvarint(b, uint64(len(a.Strs)))
		for _, s := range a.Strs {
			b = appendString(b, s)
		}
	}
	return b
}

func appendResource(b []byte, r *telemetry.Resource) []byte {
	for _, s := range resourceStrings(r) {
		b = appendString(b, *s)
	}
	b = binary.AppendVarint(b, int64(r.RestartCount))
	b = append(b, flag(r.Partial))
	b = appendMap(b, r.Labels)
	b = appendMap(b, r.Annotations)
	return appendAttrs(b, r.Attributes)
}

func flag(v bool) byte {
	if v {
		return 1
	}
	return 0
}

// encode appends the batches. Callbacks are not part of it.
func encode(dst []byte, batches []*telemetry.LogBatch) []byte {
	var resources []*telemetry.Resource
	for _, b := range batches {
		if b.Resource != nil && !slices.Contains(resources, b.Resource) {
			resources = append(resources, b.Resource)
		}
	}
	dst = append(dst, codecVersion)
	dst = binary.AppendUvarint(dst, uint64(len(resources)))
	var tmp []byte
	for _, r := range resources {
		tmp = appendResource(tmp[:0], r)
		dst = binary.AppendUvarint(dst, uint64(len(tmp)))
		dst = append(dst, tmp...)
	}
	dst = binary.AppendUvarint(dst, uint64(len(batches)))
	for _, b := range batches {
		dst = binary.AppendUvarint(dst, uint64(1+slices.Index(resources, b.Resource))) // 0: none
		dst = appendString(dst, b.Source.Path)
		dst = binary.AppendVarint(dst, int64(b.Source.Restart))
		dst = binary.AppendUvarint(dst, uint64(b.Source.Generation))
		dst = appendString(dst, b.EventName)
		dst = appendAttrs(dst, b.Attrs)
		dst = appendRecords(dst, b)
	}
	return dst
}

func appendRecords(dst []byte, b *telemetry.LogBatch) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(b.Records)))
	var last telemetry.LogRecord
	size := 0
	for i := range b.Records {
		r := &b.Records[i]
		n := len(b.Body(i))
		size += n
		dst = binary.AppendVarint(dst, r.Time-last.Time)
		dst = binary.AppendVarint(dst, r.Observed-last.Observed)
		dst = binary.AppendVarint(dst, r.Pos-last.Pos)
		dst = binary.AppendUvarint(dst, uint64(r.Len))
		dst = binary.AppendUvarint(dst, uint64(n))
		traced := !r.TraceID.IsZero() || !r.SpanID.IsZero()
		dst = append(dst, byte(r.Stream), byte(r.Severity), byte(r.Flags), flag(traced))
		if traced {
			dst = append(append(dst, r.TraceID[:]...), r.SpanID[:]...)
		}
		last = *r
	}
	dst = binary.AppendUvarint(dst, uint64(size))
	for i := range b.Records {
		dst = append(dst, b.Body(i)...)
	}
	return dst
}

// reader takes content apart. After a mistake it returns zeros.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) fail() { r.b, r.bad = nil, true }

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) byte() byte {
	if v := r.bytes(1); v != nil {
		return v[0]
	}
	return 0
}

func (r *reader) string() string { return string(r.bytes(r.uvarint())) }

// count reads how many things follow, each of which takes at least min bytes.
func (r *reader) count(min int) int {
	n := r.uvarint()
	if n > uint64(len(r.b)/min) {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *reader) strings() map[string]string {
	n := r.count(2)
	if n == 0 {
		return nil
	}
	m := make(map[string]string, n)
	for range n {
		k := r.string()
		m[k] = r.string()
	}
	return m
}

func (r *reader) attrs() []telemetry.Attr {
	n := r.count(13)
	if n == 0 {
		return nil
	}
	out := make([]telemetry.Attr, n)
	for i := range out {
		a := &out[i]
		a.Key, a.Kind = r.string(), telemetry.AttrKind(r.byte())
		a.Str, a.Int = r.string(), r.varint()
		if f := r.bytes(8); f != nil {
			a.Float = math.Float64frombits(binary.BigEndian.Uint64(f))
		}
		if k := r.count(1); k > 0 {
			a.Strs = make([]string, k)
			for j := range a.Strs {
				a.Strs[j] = r.string()
			}
		}
	}
	return out
}

func (r *reader) resource() *telemetry.Resource {
	res := &telemetry.Resource{}
	for _, s := range resourceStrings(res) {
		*s = r.string()
	}
	res.RestartCount = int(r.varint())
	res.Partial = r.byte() != 0
	res.Labels, res.Annotations, res.Attributes = r.strings(), r.strings(), r.attrs()
	return res
}

// decode reads what encode wrote. The batches' arenas are views into content.
// intern returns the one Resource for its bytes.
func decode(content []byte, intern func([]byte) (*telemetry.Resource, error)) ([]*telemetry.LogBatch, error) {
	r := &reader{b: content}
	if r.byte() != codecVersion {
		return nil, errContent
	}
	resources := make([]*telemetry.Resource, r.count(1))
	for i := range resources {
		var err error
		if resources[i], err = intern(r.bytes(r.uvarint())); err != nil {
			return nil, err
		}
	}
	batches := make([]*telemetry.LogBatch, 0, r.count(8))
	for range cap(batches) {
		b := &telemetry.LogBatch{}
		if i := r.uvarint(); i > uint64(len(resources)) {
			r.fail()
		} else if i > 0 {
			b.Resource = resources[i-1]
		}
		b.Source.Path, b.Source.Restart = r.string(), int(r.varint())
		b.Source.Generation = uint32(r.uvarint())
		b.EventName, b.Attrs = r.string(), r.attrs()
		r.records(b)
		batches = append(batches, b)
		if r.bad {
			return nil, errContent
		}
	}
	if r.bad || len(r.b) > 0 {
		return nil, errContent
	}
	return batches, nil
}

func (r *reader) records(b *telemetry.LogBatch) {
	n := r.count(9)
	records := make([]telemetry.LogRecord, n)
	sizes := make([]uint64, n)
	var last telemetry.LogRecord
	for i := range records {
		rec := &records[i]
		rec.Time = last.Time + r.varint()
		rec.Observed = last.Observed + r.varint()
		rec.Pos = last.Pos + r.varint()
		rec.Len = uint32(r.uvarint())
		sizes[i] = r.uvarint()
		rec.Stream, rec.Severity, rec.Flags = telemetry.Stream(r.byte()), telemetry.Severity(r.byte()), telemetry.LogFlags(r.byte())
		if r.byte() != 0 {
			copy(rec.TraceID[:], r.bytes(16))
			copy(rec.SpanID[:], r.bytes(8))
		}
		last = *rec
	}
	arena := r.bytes(r.uvarint())
	b.Records = records[:0]
	at := uint64(0)
	for i, size := range sizes {
		if size > uint64(len(arena))-at {
			r.fail()
			return
		}
		b.Arena = arena[: at+size : at+size]
		b.AppendInPlace(records[i], int(at))
		at += size
	}
	if at != uint64(len(arena)) {
		r.fail()
	}
}
