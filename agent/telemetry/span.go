package telemetry

import "encoding/hex"

// TraceID is a W3C trace id. All zeros is none.
type TraceID [16]byte

// SpanID is a W3C span id. All zeros is none.
type SpanID [8]byte

// IsZero tells whether there is no id.
func (t TraceID) IsZero() bool { return t == TraceID{} }

// String returns 32 hex digits, "" for none.
func (t TraceID) String() string {
	if t.IsZero() {
		return ""
	}
	return hex.EncodeToString(t[:])
}

// IsZero tells whether there is no id.
func (s SpanID) IsZero() bool { return s == SpanID{} }

// String returns 16 hex digits, "" for none.
func (s SpanID) String() string {
	if s.IsZero() {
		return ""
	}
	return hex.EncodeToString(s[:])
}

// SpanKind is the OpenTelemetry span kind; the numbers are OTLP's.
type SpanKind uint8

// The span kinds that the agent makes.
const (
	SpanInternal SpanKind = 1
	SpanServer   SpanKind = 2
	SpanClient   SpanKind = 3
	SpanProducer SpanKind = 4
	SpanConsumer SpanKind = 5
)

// String returns the kind in lower case.
func (k SpanKind) String() string {
	switch k {
	case SpanInternal:
		return "internal"
	case SpanServer:
		return "server"
	case SpanClient:
		return "client"
	case SpanProducer:
		return "producer"
	case SpanConsumer:
		return "consumer"
	default:
		return ""
	}
}

// SpanStatus is the OpenTelemetry status code; the numbers are OTLP's.
type SpanStatus uint8

// The status codes.
const (
	StatusUnset SpanStatus = 0
	StatusOK    SpanStatus = 1
	StatusError SpanStatus = 2
)

// SpanLink points to a span that is related, yet not the parent.
type SpanLink struct {
	TraceID TraceID
	SpanID  SpanID
	Attrs   []Attr
}

// Span is one operation seen on the wire.
type Span struct {
	TraceID    TraceID
	SpanID     SpanID
	ParentID   SpanID // zero: a root, or no parent that is certain
	TraceState string // W3C tracestate as it was read, "" if none
	Flags      uint8  // W3C trace flags
	Kind       SpanKind
	Status     SpanStatus
	StatusMsg  string
	Name       string // of bounded cardinality
	Start      int64  // unix nanoseconds
	End        int64  // unix nanoseconds, ≥ Start
	Attrs      []Attr
	Links      []SpanLink
}

// SpanBatch is a run of spans of one Resource.
type SpanBatch struct {
	Resource *Resource
	Spans    []Span

	// OnAcked and OnReleased are as in LogBatch. May be nil.
	OnAcked    func()
	OnReleased func()
}

// Slice returns the spans [i, j) as a batch without callbacks.
func (b *SpanBatch) Slice(i, j int) *SpanBatch {
	c := *b
	c.Spans = b.Spans[i:j:j]
	c.OnAcked, c.OnReleased = nil, nil
	return &c
}

// Bytes estimates what the batch weighs in memory.
func (b *SpanBatch) Bytes() int {
	n := 0
	for i := range b.Spans {
		n += 200 + 80*len(b.Spans[i].Attrs) + 64*len(b.Spans[i].Links)
	}
	return n
}
