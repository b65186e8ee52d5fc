package otlp

import (
	"encoding/binary"
	"math"
	"strings"
	"sync"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"nodetap/agent/telemetry"
)

// The field numbers of a request's envelope are the same for all three signals:
// ExportXServiceRequest{resource_xs=1}, ResourceXs{resource=1, scope_xs=2,
// schema_url=3}, ScopeXs{scope=1, xs=2}.
// https://github.com/open-telemetry/opentelemetry-proto/tree/v1.10.0
const (
	fieldResources = 1
	fieldResource  = 1
	fieldScopes    = 2
	fieldSchemaURL = 3
	fieldScope     = 1
	fieldItems     = 2
)

// mark is where a nested message began.
type mark struct{ start, reserved int }

// open appends the tag of a nested message and keeps room for its length, which
// is expected to be about hint.
func open(b []byte, field protowire.Number, hint int) ([]byte, mark) {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	n := protowire.SizeVarint(uint64(hint))
	b = append(b, make([]byte, n)...)
	return b, mark{len(b), n}
}

// shut writes the length of the message that open began. Where the guess of
// open was wrong the message moves.
func shut(b []byte, m mark) []byte {
	n := len(b) - m.start
	if need := protowire.SizeVarint(uint64(n)); need != m.reserved {
		b = append(b, make([]byte, max(0, need-m.reserved))...)
		copy(b[m.start+need-m.reserved:], b[m.start:m.start+n])
		b = b[:m.start+need-m.reserved+n]
		m.start += need - m.reserved
		m.reserved = need
	}
	binary.PutUvarint(b[m.start-m.reserved:m.start], uint64(n))
	return b
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 256<<10); return &b }}

func getBuffer() *[]byte {
	b := buffers.Get().(*[]byte)
	*b = (*b)[:0]
	return b
}

func putBuffer(b *[]byte) {
	if cap(*b) <= 16<<20 {
		buffers.Put(b)
	}
}

// builder makes requests out of items, grouped by resource. It never makes an
// empty group, nor an empty request. An item that is larger than max goes alone.
type builder struct {
	max     int
	envel   *envelope
	send    func(request *[]byte, items int) error // takes the buffer over
	b       *[]byte
	res     []byte // rendered resource of the items to come
	isOpen  bool
	outer   mark
	inner   mark
	scratch []byte
	items   int
	several bool // more than one request is made
}

// envelope is what is the same in every request.
type envelope struct{ scope, schemaURL []byte }

func newEnvelope(version, schemaURL string) *envelope {
	scope := appendString(nil, 1, "nodetap")
	if version != "" {
		scope = appendString(scope, 2, version)
	}
	e := &envelope{scope: protowire.AppendBytes(protowire.AppendTag(nil, fieldScope, protowire.BytesType), scope)}
	e.schemaURL = appendString(nil, fieldSchemaURL, schemaURL)
	return e
}

// resource says whose items follow.
func (w *builder) resource(rendered []byte) {
	w.closeResource()
	w.res = rendered
}

// begin starts an item of about size bytes; end ends it. More is how many bytes
// of the same resource are still to come: a hint.
func (w *builder) begin(size, more int) (mark, error) {
	if w.items > 0 && len(*w.b)+size+len(w.res)+64 > w.max {
		w.several = true
		if err := w.flush(); err != nil {
			return mark{}, err
		}
	}
	if w.b == nil {
		w.b = getBuffer()
	}
	if !w.isOpen {
		hint := min(w.max, more+size+len(w.res)+100)
		*w.b, w.outer = open(*w.b, fieldResources, hint)
		*w.b = append(*w.b, w.res...)
		*w.b, w.inner = open(*w.b, fieldScopes, hint)
		*w.b = append(*w.b, w.envel.scope...)
		w.isOpen = true
	}
	w.items++
	var m mark
	*w.b, m = open(*w.b, fieldItems, size)
	return m, nil
}

func (w *builder) end(m mark) { *w.b = shut(*w.b, m) }

func (w *builder) closeResource() {
	if !w.isOpen {
		return
	}
	*w.b = shut(*w.b, w.inner)
	*w.b = append(*w.b, w.envel.schemaURL...)
	*w.b = shut(*w.b, w.outer)
	w.isOpen = false
}

// flush sends what there is.
func (w *builder) flush() error {
	w.closeResource()
	if w.items == 0 {
		return nil
	}
	b, n := w.b, w.items
	w.b, w.items = nil, 0
	return w.send(b, n)
}

// free gives back what an error left.
func (w *builder) free() {
	if w.b != nil {
		putBuffer(w.b)
		w.b = nil
	}
}

// appendString appends a string field. proto3 wants valid UTF-8, and receivers
// refuse whole requests for one wrong byte: it is made valid.
func appendString(b []byte, field protowire.Number, s string) []byte {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

func appendFixed64(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(b, field, protowire.Fixed64Type), v)
}

func appendDouble(b []byte, field protowire.Number, v float64) []byte {
	return appendFixed64(b, field, math.Float64bits(v))
}

func appendVarint(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

// appendAttrs appends KeyValue fields.
func appendAttrs(b []byte, field protowire.Number, attrs []telemetry.Attr) []byte {
	for i := range attrs {
		b = appendAttr(b, field, &attrs[i])
	}
	return b
}

// KeyValue{key=1, value=2}; AnyValue{string=1, bool=2, int=3, double=4, array=5}.
func appendAttr(b []byte, field protowire.Number, a *telemetry.Attr) []byte {
	if a.Kind == telemetry.AttrString {
		return appendKeyString(b, field, a.Key, a.Str)
	}
	b, kv := open(b, field, len(a.Key)+16)
	b = appendString(b, 1, a.Key)
	b, value := open(b, 2, 16)
	switch a.Kind {
	case telemetry.AttrBool:
		b = appendVarint(b, 2, protowire.EncodeBool(a.Int != 0))
	case telemetry.AttrInt:
		b = appendVarint(b, 3, uint64(a.Int))
	case telemetry.AttrFloat:
		b = appendDouble(b, 4, a.Float)
	case telemetry.AttrStrings:
		var array, item mark
		b, array = open(b, 5, 16)
		for _, s := range a.Strs { // ArrayValue{values=1}
			b, item = open(b, 1, len(s)+2)
			b = appendString(b, 1, s)
			b = shut(b, item)
		}
		b = shut(b, array)
	}
	return shut(shut(b, value), kv)
}

// appendKeyString appends a KeyValue with a string.
func appendKeyString(b []byte, field protowire.Number, key, s string) []byte {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	if !utf8.ValidString(key) {
		key = strings.ToValidUTF8(key, "\uFFFD")
	}
	value := 1 + protowire.SizeBytes(len(s))
	b = protowire.AppendTag(b, field, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(1+protowire.SizeBytes(len(key))+1+protowire.SizeBytes(value)))
	b = protowire.AppendString(append(b, 1<<3|2), key)
	b = protowire.AppendVarint(append(b, 2<<3|2), uint64(value))
	return protowire.AppendString(append(b, 1<<3|2), s)
}

// renderResource returns the field `resource` of a ResourceXs: Resource{attributes=1}.
func renderResource(attrs []telemetry.Attr) []byte {
	return appendBytes(nil, fieldResource, appendAttrs(nil, 1, attrs))
}

// appendRawDouble appends a double of a packed field.
func appendRawDouble(b []byte, v float64) []byte {
	return protowire.AppendFixed64(b, math.Float64bits(v))
}
