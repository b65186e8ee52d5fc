//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// stream follows a file of OTLP JSON lines that a collector writes.
type stream struct {
	file   string
	offset int64
}

// next gives the lines that were written since the last call.
func (s *stream) next() ([][]byte, error) {
	f, err := os.Open(filepath.Join(out, s.file))
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, s.offset, 1<<40))
	if err != nil {
		return nil, err
	}
	b = b[:bytes.LastIndexByte(b, '\n')+1]
	s.offset += int64(len(b))
	return bytes.Split(bytes.TrimSuffix(b, []byte("\n")), []byte("\n")), nil
}

type keyValue struct {
	Key   string
	Value anyValue
}

type anyValue struct {
	StringValue *string
	IntValue    json.RawMessage
	BoolValue   *bool
	DoubleValue *float64
	KvlistValue *struct{ Values []keyValue }
}

// flatten gives attributes as text, nested ones with a dot between the keys.
func flatten(kvs []keyValue) map[string]string {
	m := map[string]string{}
	var walk func(prefix string, kvs []keyValue)
	walk = func(prefix string, kvs []keyValue) {
		for _, kv := range kvs {
			k, v := prefix+kv.Key, kv.Value
			switch {
			case v.StringValue != nil:
				m[k] = *v.StringValue
			case v.IntValue != nil:
				m[k] = strings.Trim(string(v.IntValue), `"`)
			case v.BoolValue != nil:
				m[k] = strconv.FormatBool(*v.BoolValue)
			case v.DoubleValue != nil:
				m[k] = strconv.FormatFloat(*v.DoubleValue, 'g', -1, 64)
			case v.KvlistValue != nil:
				walk(k+".", v.KvlistValue.Values)
			}
		}
	}
	walk("", kvs)
	return m
}

// record is a log record as a receiver has it.
type record struct {
	resource, attrs map[string]string
	body            string
	time            int64
}

// span is a span as a receiver has it.
type span struct {
	resource, attrs           map[string]string
	TraceID, SpanID, ParentID string
	Name                      string
	Kind                      int // 2 server, 3 client
	Start, End                int64
	Status                    int
}

func (s span) String() string {
	return fmt.Sprintf("%q kind %d of %s/%s, %d µs, status %d, %v", s.Name, s.Kind, s.resource["k8s.namespace.name"], s.resource["k8s.pod.name"], (s.End-s.Start)/1000, s.Status, s.attrs)
}

type envelope struct {
	ResourceLogs []struct {
		Resource  struct{ Attributes []keyValue }
		ScopeLogs []struct {
			LogRecords []struct {
				TimeUnixNano string
				Body         anyValue
				Attributes   []keyValue
			}
		}
	}
	ResourceSpans []struct {
		Resource   struct{ Attributes []keyValue }
		ScopeSpans []struct {
			Spans []struct {
				TraceID, SpanID, ParentSpanID      string
				Name                               string
				Kind                               int
				StartTimeUnixNano, EndTimeUnixNano string
				Attributes                         []keyValue
				Status                             struct{ Code int }
			}
		}
	}
	ResourceMetrics []struct {
		Resource     struct{ Attributes []keyValue }
		ScopeMetrics []struct{ Metrics []struct{ Name string } }
	}
}

func (s *stream) envelopes() (out []envelope, err error) {
	lines, err := s.next()
	if err != nil {
		return nil, err
	}
	for _, l := range lines {
		if len(l) == 0 {
			continue
		}
		var e envelope
		if err := json.Unmarshal(l, &e); err != nil {
			return nil, fmt.Errorf("%s: %w", s.file, err)
		}
		out = append(out, e)
	}
	return out, nil
}

func nanos(s string) int64 { n, _ := strconv.ParseInt(s, 10, 64); return n }

// inbox holds what one receiver has taken so far.
type inbox struct {
	logs, traces *stream
	records      []record
	spans        []span
}

var (
	viaOTLP    = &inbox{logs: &stream{file: "otlp-logs.jsonl"}, traces: &stream{file: "otlp-traces.jsonl"}}
	viaForward = &inbox{logs: &stream{file: "forward-logs.jsonl"}, traces: &stream{file: "none"}}
)

// refresh reads what has come since.
func (in *inbox) refresh() error {
	logs, err := in.logs.envelopes()
	if err != nil {
		return err
	}
	for _, e := range logs {
		for _, r := range e.ResourceLogs {
			res := flatten(r.Resource.Attributes)
			for _, sc := range r.ScopeLogs {
				for _, l := range sc.LogRecords {
					rec := record{resource: res, attrs: flatten(l.Attributes), time: nanos(l.TimeUnixNano)}
					if l.Body.StringValue != nil {
						rec.body = *l.Body.StringValue
					}
					in.records = append(in.records, rec)
				}
			}
		}
	}
	traces, err := in.traces.envelopes()
	if err != nil {
		return err
	}
	for _, e := range traces {
		for _, r := range e.ResourceSpans {
			res := flatten(r.Resource.Attributes)
			for _, sc := range r.ScopeSpans {
				for _, s := range sc.Spans {
					in.spans = append(in.spans, span{res, flatten(s.Attributes), s.TraceID, s.SpanID, s.ParentSpanID, s.Name, s.Kind,
						nanos(s.StartTimeUnixNano), nanos(s.EndTimeUnixNano), s.Status.Code})
				}
			}
		}
	}
	return nil
}
