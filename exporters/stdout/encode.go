package stdout

import (
	"encoding/hex"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"nodetap/agent/metrics"
	"nodetap/agent/telemetry"
)

func appendHead(b []byte, signal string, unixNano int64) []byte {
	b = append(b, `{"signal":"`...)
	b = append(b, signal...)
	b = append(b, '"')
	if unixNano != 0 {
		b = append(b, `,"time":"`...)
		b = time.Unix(0, unixNano).UTC().AppendFormat(b, time.RFC3339Nano)
		b = append(b, '"')
	}
	return b
}

// severityNames are the short names of the OpenTelemetry severity ranges.
var severityNames = [6]string{"TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"}

func appendLog(b []byte, batch *telemetry.LogBatch, i int, resource []byte) []byte {
	r := &batch.Records[i]
	at := r.Time
	if at == 0 {
		at = r.Observed
	}
	b = appendHead(b, "log", at)
	if r.Severity >= 1 && r.Severity <= 24 {
		b = appendKeyed(b, "severity", severityNames[(r.Severity-1)/4])
	}
	if s := r.Stream.String(); s != "" {
		b = appendKeyed(b, "stream", s)
	}
	if batch.EventName != "" {
		b = appendKeyed(b, "event", batch.EventName)
	}
	b = append(b, `,"body":`...)
	b = appendString(b, batch.Body(i))
	if r.Flags&telemetry.Truncated != 0 {
		b = append(b, `,"truncated":true`...)
	}
	b = appendID(b, "trace_id", r.TraceID[:])
	b = appendID(b, "span_id", r.SpanID[:])
	if len(batch.Attrs) > 0 {
		b = append(b, `,"attributes":`...)
		b = appendAttrs(b, batch.Attrs)
	}
	b = append(b, resource...)
	return append(b, '}', '\n')
}

func appendSpan(b []byte, s *telemetry.Span, resource []byte) []byte {
	b = appendHead(b, "span", s.Start)
	b = appendKeyed(b, "kind", s.Kind.String())
	b = appendKeyed(b, "name", s.Name)
	b = append(b, `,"duration_ms":`...)
	b = strconv.AppendFloat(b, float64(s.End-s.Start)/1e6, 'f', 3, 64)
	switch s.Status {
	case telemetry.StatusOK:
		b = appendKeyed(b, "status", "ok")
	case telemetry.StatusError:
		b = appendKeyed(b, "status", "error")
	}
	if s.StatusMsg != "" {
		b = appendKeyed(b, "status_message", s.StatusMsg)
	}
	b = appendID(b, "trace_id", s.TraceID[:])
	b = appendID(b, "span_id", s.SpanID[:])
	b = appendID(b, "parent_id", s.ParentID[:])
	if len(s.Attrs) > 0 {
		b = append(b, `,"attributes":`...)
		b = appendAttrs(b, s.Attrs)
	}
	if len(s.Links) > 0 {
		b = append(b, `,"links":[`...)
		for i := range s.Links {
			if i > 0 {
				b = append(b, ',')
			}
			l := &s.Links[i]
			b = append(b, `{"trace_id":"`...)
			b = hex.AppendEncode(b, l.TraceID[:])
			b = append(b, '"')
			b = appendID(b, "span_id", l.SpanID[:])
			if len(l.Attrs) > 0 {
				b = append(b, `,"attributes":`...)
				b = appendAttrs(b, l.Attrs)
			}
			b = append(b, '}')
		}
		b = append(b, ']')
	}
	b = append(b, resource...)
	return append(b, '}', '\n')
}

var typeNames = map[metrics.Type]string{
	metrics.Counter: "counter", metrics.Gauge: "gauge", metrics.Histogram: "histogram",
	metrics.NativeHistogram: "histogram", metrics.Info: "info",
}

func appendSeries(b []byte, at int64, d *metrics.Desc, s *metrics.Series, resource []byte) []byte {
	b = appendHead(b, "metric", at)
	b = appendKeyed(b, "name", d.Name)
	b = appendKeyed(b, "type", typeNames[d.Type])
	if h := s.Hist; h != nil {
		b = append(b, `,"count":`...)
		b = strconv.AppendUint(b, h.Count, 10)
		b = append(b, `,"sum":`...)
		b = appendFloat(b, h.Sum)
		b = append(b, `,"buckets":{`...)
		first := true
		for i, n := range h.Counts {
			if n == 0 {
				continue
			}
			if !first {
				b = append(b, ',')
			}
			first = false
			b = append(b, '"')
			if i < len(h.Bounds) {
				b = strconv.AppendFloat(b, h.Bounds[i], 'g', -1, 64)
			} else {
				b = append(b, "+Inf"...)
			}
			b = append(b, '"', ':')
			b = strconv.AppendUint(b, n, 10)
		}
		b = append(b, '}')
	} else {
		b = append(b, `,"value":`...)
		b = appendFloat(b, s.Value)
	}
	if pairs := s.Labels.Pairs(); len(pairs) > 0 {
		b = append(b, `,"labels":{`...)
		for i := range pairs {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, pairs[i].Name)
			b = append(b, ':')
			b = appendString(b, pairs[i].Value)
		}
		b = append(b, '}')
	}
	b = append(b, resource...)
	return append(b, '}', '\n')
}

// appendKeyed appends ,"key":"value".
func appendKeyed(b []byte, key, value string) []byte {
	b = append(b, ',', '"')
	b = append(b, key...)
	b = append(b, '"', ':')
	return appendString(b, value)
}

// appendID appends an id in hex, nothing for a zero one.
func appendID(b []byte, key string, id []byte) []byte {
	for _, c := range id {
		if c != 0 {
			b = append(b, ',', '"')
			b = append(b, key...)
			b = append(b, '"', ':', '"')
			b = hex.AppendEncode(b, id)
			return append(b, '"')
		}
	}
	return b
}

func appendAttrs(b []byte, attrs []telemetry.Attr) []byte {
	b = append(b, '{')
	for i := range attrs {
		if i > 0 {
			b = append(b, ',')
		}
		a := &attrs[i]
		b = appendString(b, a.Key)
		b = append(b, ':')
		switch a.Kind {
		case telemetry.AttrInt:
			b = strconv.AppendInt(b, a.Int, 10)
		case telemetry.AttrFloat:
			b = appendFloat(b, a.Float)
		case telemetry.AttrBool:
			b = strconv.AppendBool(b, a.Int != 0)
		case telemetry.AttrStrings:
			b = append(b, '[')
			for j, s := range a.Strs {
				if j > 0 {
					b = append(b, ',')
				}
				b = appendString(b, s)
			}
			b = append(b, ']')
		default:
			b = appendString(b, a.Str)
		}
	}
	return append(b, '}')
}

// appendFloat appends a number; what JSON has no number for becomes a string.
func appendFloat(b []byte, f float64) []byte {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		b = append(b, '"')
		b = strconv.AppendFloat(b, f, 'g', -1, 64)
		return append(b, '"')
	}
	if abs := math.Abs(f); abs >= 1e-6 && abs < 1e15 || f == 0 { // bytes as 1048576, not 1.048576e+06
		return strconv.AppendFloat(b, f, 'f', -1, 64)
	}
	return strconv.AppendFloat(b, f, 'g', -1, 64)
}

const hexDigits = "0123456789abcdef"

// appendString appends a JSON string. Invalid UTF-8 becomes U+FFFD; control
// characters, which could steer the terminal, are escaped, C1 ones and DEL too.
func appendString[T string | []byte](b []byte, s T) []byte {
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c < 0x7f && c != '"' && c != '\\' {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, n := decodeRune(s[i:])
			if (r != utf8.RuneError || n > 1) && r > 0x9f {
				i += n
				continue
			}
			b = append(b, s[from:i]...)
			if n == 1 {
				b = append(b, "\uFFFD"...)
			} else {
				b = append(b, '\\', 'u', '0', '0', hexDigits[r>>4], hexDigits[r&15])
			}
			i += n
			from = i
			continue
		}
		b = append(b, s[from:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\t':
			b = append(b, '\\', 't')
		case '\r':
			b = append(b, '\\', 'r')
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		from = i
	}
	b = append(b, s[from:]...)
	return append(b, '"')
}

func decodeRune[T string | []byte](s T) (rune, int) {
	var four [utf8.UTFMax]byte
	n := copy(four[:], s)
	return utf8.DecodeRune(four[:n])
}
