package telemetry

import "testing"

func TestLogBatchBodiesAreViewsAndIDsAreSteady(t *testing.T) {
	fill := func() *LogBatch {
		b := &LogBatch{Resource: &Resource{Pod: "p", PodUID: "told later"}, Source: LogSource{Path: "/var/log/pods/n_p_u/c/2.log", Restart: 2}}
		b.Append(LogRecord{Time: 255, Pos: 0, Len: 10}, []byte("one"))
		off := len(b.Arena)
		b.Arena = append(b.Arena, "two"...)
		b.AppendInPlace(LogRecord{Time: 256, Pos: 10, Len: 12}, off)
		return b
	}
	b := fill()
	if got := string(b.Body(0)) + "," + string(b.Body(1)); got != "one,two" {
		t.Fatalf("bodies = %q", got)
	}
	s := b.Slice(1, 2)
	if string(s.Body(0)) != "two" || s.OnAcked != nil {
		t.Fatalf("slice = %q", s.Body(0))
	}
	const want = "u/c/2/100/0/10+12"
	if got := string(s.AppendID(nil, 0)); got != want {
		t.Errorf("id of the slice = %q, want %q", got, want)
	}
	if got := string(fill().AppendID(nil, 1)); got != want {
		t.Errorf("id of the line read again = %q, want %q", got, want)
	}
	if string(b.AppendID(nil, 0)) == want {
		t.Error("two records share an id")
	}
}

func TestZeroIDsPrintEmpty(t *testing.T) {
	if (TraceID{}).String() != "" || (SpanID{}).String() != "" {
		t.Error("a zero id is not empty")
	}
	if got := (SpanID{1}).String(); got != "0100000000000000" {
		t.Errorf("span id = %q", got)
	}
}

func TestIDOfAHostFileHasItsWholePath(t *testing.T) {
	b := &LogBatch{Resource: &Resource{Node: "n"}, Source: LogSource{Path: "/var/log/my_app/x.log"}}
	b.Append(LogRecord{Len: 3}, []byte("one"))
	if got, want := string(b.AppendID(nil, 0)), "/var/log/my_app/x.log/0/0/0/0+3"; got != want {
		t.Errorf("id = %q, want %q", got, want)
	}
}
