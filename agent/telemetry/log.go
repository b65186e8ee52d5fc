package telemetry

import (
	"strconv"
	"strings"
)

// Stream is where a container wrote a line.
type Stream uint8

// The streams. NoStream is a source that has none (a host file, the journal).
const (
	NoStream Stream = iota
	Stdout
	Stderr
)

// String returns the value of the log.iostream attribute, "" for NoStream.
func (s Stream) String() string {
	switch s {
	case Stdout:
		return "stdout"
	case Stderr:
		return "stderr"
	default:
		return ""
	}
}

// Severity is an OpenTelemetry severity number, 1 to 24. 0 is unknown.
type Severity uint8

// The first number of each severity range.
const (
	SeverityUnknown Severity = 0
	SeverityTrace   Severity = 1
	SeverityDebug   Severity = 5
	SeverityInfo    Severity = 9
	SeverityWarn    Severity = 13
	SeverityError   Severity = 17
	SeverityFatal   Severity = 21
)

// LogFlags marks what happened to a record on its way.
type LogFlags uint8

const (
	// Truncated marks a line that was longer than the limit: its end was cut off.
	Truncated LogFlags = 1 << iota
	// Split marks a part of a longer line that was not joined.
	Split
	// Joined marks a line that the runtime wrote in several parts.
	Joined
)

// LogRecord is one line (or one group of lines) of a LogBatch. It holds no
// pointers, so that a batch costs the garbage collector nothing: its body is
// LogBatch.Body(i).
type LogRecord struct {
	Time     int64  // unix nanoseconds, as the runtime stamped the line; 0 unknown
	Observed int64  // unix nanoseconds, when the agent read it
	Pos      int64  // offset of the line's first byte in the uncompressed log file
	Len      uint32 // bytes of the file that the record covers, with framing
	off, n   uint32 // body in the arena

	TraceID  TraceID
	SpanID   SpanID
	Stream   Stream
	Severity Severity
	Flags    LogFlags
}

// LogSource names the file that a batch was read from, so that the same record
// gets the same id when it is read again.
type LogSource struct {
	Path       string // as the node names it: /var/log/pods/...
	Restart    int    // the number in <n>.log
	Generation uint32 // tells contents of the path apart: another after a rotation or a truncation in place
}

// LogBatch is a run of log records of one Resource. Fill it with Append, then
// hand it to Sink.SendLogs and never write to it again.
type LogBatch struct {
	Resource *Resource
	Source   LogSource
	Arena    []byte // the bytes of all bodies, and only these
	Records  []LogRecord

	// Attrs are attributes of every record in the batch (an OOM record's
	// victim, say). Nil for container logs.
	Attrs []Attr

	// EventName is the name of the event that the records are, by the semantic
	// conventions; "" for lines.
	EventName string

	// OnAcked is called once, when every required exporter of the batch's route
	// has delivered it, or has given it up with a counted reason. It is not
	// called for what is undelivered when the agent stops. May be nil. It must
	// not block.
	OnAcked func()
	// OnReleased is called once, when no exporter will touch the batch again,
	// acknowledged or not, and always after OnAcked. The collector may then use
	// Arena and Records anew. May be nil. It must not block.
	OnReleased func()
}

// Append adds a record with a copy of body to the batch. It fills in where the
// body lies; all else is taken from r.
func (b *LogBatch) Append(r LogRecord, body []byte) {
	r.off, r.n = uint32(len(b.Arena)), uint32(len(body))
	b.Arena = append(b.Arena, body...)
	b.Records = append(b.Records, r)
}

// AppendInPlace adds a record whose body was appended to b.Arena from offset
// off to its end by the caller.
func (b *LogBatch) AppendInPlace(r LogRecord, off int) {
	r.off, r.n = uint32(off), uint32(len(b.Arena)-off)
	b.Records = append(b.Records, r)
}

// Body returns the body of record i: a view into the arena, without a trailing
// newline. It is valid until the batch is released.
func (b *LogBatch) Body(i int) []byte {
	r := &b.Records[i]
	return b.Arena[r.off : r.off+r.n : r.off+r.n]
}

// Slice returns the records [i, j) as a batch that shares the arena. It has no
// callbacks: the whole batch is acknowledged as one.
func (b *LogBatch) Slice(i, j int) *LogBatch {
	c := *b
	c.Records = b.Records[i:j:j]
	c.OnAcked, c.OnReleased = nil, nil
	return &c
}

// Bytes returns what the batch weighs in memory: its arena and its records.
func (b *LogBatch) Bytes() int { return len(b.Arena) + len(b.Records)*96 }

// AppendID appends the deterministic id of record i to dst: pod UID, container,
// restart, CRI time, truncation generation, offset and length. The same line
// read again has the same id; a backend can remove what came twice by it.
func (b *LogBatch) AppendID(dst []byte, i int) []byte {
	r := &b.Records[i]
	dst = append(dst, b.source()...)
	dst = append(dst, '/')
	dst = strconv.AppendInt(dst, int64(b.Source.Restart), 10)
	dst = append(dst, '/')
	dst = strconv.AppendInt(dst, r.Time, 16)
	dst = append(dst, '/')
	dst = strconv.AppendUint(dst, uint64(b.Source.Generation), 10)
	dst = append(dst, '/')
	dst = strconv.AppendInt(dst, r.Pos, 10)
	dst = append(dst, '+')
	return strconv.AppendUint(dst, uint64(r.Len), 10)
}

// source names the log: <pod uid>/<container> as kubelet's path has them, for a
// static pod's UID there is not the one that the API server tells later; of any
// other file its whole path.
func (b *LogBatch) source() string {
	path := b.Source.Path
	if b.Resource == nil || b.Resource.Pod == "" {
		return path
	}
	from, to := strings.LastIndexByte(path, '_')+1, strings.LastIndexByte(path, '/')
	if from == 0 || to <= from {
		return path
	}
	return path[from:to]
}
