package otlp

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/durationpb"

	"nodetap/agent/component"
	"nodetap/agent/telemetry"
)

// verdict is what became of an export.
type verdict struct {
	retry  bool
	after  time.Duration
	reason string
	bisect bool
}

func verdictOf(t *testing.T, err error) verdict {
	t.Helper()
	if r, ok := errors.AsType[*component.Retry](err); ok {
		return verdict{retry: true, after: r.After}
	}
	if p, ok := errors.AsType[*component.Permanent](err); ok {
		return verdict{reason: p.Reason, bisect: p.Bisect}
	}
	t.Fatalf("err = %T %v, want a Retry or a Permanent", err, err)
	return verdict{}
}

var retry = verdict{retry: true}

// https://opentelemetry.io/docs/specs/otlp/#failures: the table of codes.
func TestTheSpecificationsTableOfGRPCCodes(t *testing.T) {
	want := map[codes.Code]verdict{
		codes.Canceled:           retry,
		codes.Unknown:            {reason: "refused"},
		codes.InvalidArgument:    {reason: "rejected", bisect: true},
		codes.DeadlineExceeded:   retry,
		codes.NotFound:           {reason: "refused"},
		codes.AlreadyExists:      {reason: "refused"},
		codes.PermissionDenied:   {reason: "unauthorized"},
		codes.ResourceExhausted:  {reason: "resource_exhausted"}, // without RetryInfo
		codes.FailedPrecondition: {reason: "refused"},
		codes.Aborted:            retry,
		codes.OutOfRange:         retry,
		codes.Unimplemented:      {reason: "unimplemented"},
		codes.Internal:           {reason: "refused"},
		codes.Unavailable:        retry,
		codes.DataLoss:           retry,
		codes.Unauthenticated:    {reason: "unauthorized"},
	}
	var answer error
	r := (&receiver{fail: func(int) error { return answer }}).startGRPC(t)
	e := exporter(t, testEnv(), r.url, nil)
	export := func() error { return e.ExportLogs(t.Context(), []*telemetry.LogBatch{logBatch(pod("a"), "x")}) }
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		w, ok := want[code]
		if !ok {
			t.Errorf("no row for %s", code)
		}
		answer = status.Error(code, "the receiver says no")
		before := r.n
		err := export()
		if got := verdictOf(t, err); got != w {
			t.Errorf("%s = %+v, want %+v", code, got, w)
		}
		if r.n != before+1 {
			t.Errorf("%s: %d requests for one call", code, r.n-before)
		}
		if !strings.Contains(err.Error(), "the receiver says no") {
			t.Errorf("%s: the receiver's message is lost: %v", code, err)
		}
	}
	with := func(code codes.Code, d time.Duration) error {
		st, err := status.New(code, "slow down").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(d)})
		if err != nil {
			t.Fatal(err)
		}
		return st.Err()
	}
	for name, c := range map[string]struct {
		err  error
		want verdict
	}{
		"RESOURCE_EXHAUSTED with RetryInfo":    {with(codes.ResourceExhausted, 7*time.Second), verdict{retry: true, after: 7 * time.Second}},
		"RESOURCE_EXHAUSTED with a zero hint":  {with(codes.ResourceExhausted, 0), retry},
		"UNAVAILABLE with RetryInfo":           {with(codes.Unavailable, time.Second), verdict{retry: true, after: time.Second}},
		"a hint of a year":                     {with(codes.Unavailable, 365*24*time.Hour), verdict{retry: true, after: maxAfter}},
		"a hint of the past":                   {with(codes.Unavailable, -time.Hour), retry},
		"INTERNAL with RetryInfo is permanent": {with(codes.Internal, time.Second), verdict{reason: "refused"}},
		"a message over the receiver's limit": {status.Error(codes.ResourceExhausted, "grpc: received message larger than max (5 vs. 4)"),
			verdict{reason: "too_large", bisect: true}},
	} {
		answer = c.err
		if got := verdictOf(t, export()); got != c.want {
			t.Errorf("%s = %+v, want %+v", name, got, c.want)
		}
	}
	answer = nil
	if err := export(); err != nil {
		t.Error(err)
	}
	if got := count(e.m.requests.WithLabelValues("logs", "ok")); got != 1 {
		t.Errorf("ok requests = %v", got)
	}
}

func TestTheSpecificationsTableOfHTTPCodes(t *testing.T) {
	var code int
	var header map[string]string
	r := (&receiver{failHTTP: func(w http.ResponseWriter, _ int) bool {
		for k, v := range header {
			w.Header().Set(k, v)
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
		w.WriteHeader(code)
		w.Write(appendString(nil, 2, "the receiver says no")) // google.rpc.Status
		return true
	}}).startHTTP(t, nil)
	e := exporter(t, testEnv(), r.url, overHTTP)
	special := map[int]verdict{
		429: retry, 502: retry, 503: retry, 504: retry,
		400: {reason: "rejected", bisect: true}, 413: {reason: "too_large", bisect: true},
		401: {reason: "unauthorized"}, 403: {reason: "unauthorized"}, 404: {reason: "unimplemented"}, 405: {reason: "unimplemented"},
	}
	for code = 300; code < 600; code++ {
		w, ok := special[code]
		if !ok {
			w = verdict{reason: "refused"} // all other codes must not be retried
		}
		before := r.n
		err := e.ExportLogs(t.Context(), []*telemetry.LogBatch{logBatch(pod("a"), "x")})
		if got := verdictOf(t, err); got != w {
			t.Errorf("%d = %+v, want %+v", code, got, w)
		}
		if r.n != before+1 {
			t.Errorf("%d: %d requests for one call", code, r.n-before)
		}
		if code != 304 && !strings.Contains(err.Error(), "the receiver says no") { // 304 has no body
			t.Errorf("%d: the receiver's message is lost: %v", code, err)
		}
	}
	code = 503
	for v, want := range map[string]time.Duration{
		"7": 7 * time.Second, "999999999": maxAfter, "-5": 0, "soon": 0, "": 0, "99999999999999999999": 0,
		"Mon, 02 Jan 2006 15:04:05 GMT": 0, time.Now().Add(24 * time.Hour).UTC().Format(http.TimeFormat): maxAfter,
	} {
		header = map[string]string{"Retry-After": v}
		err := e.ExportLogs(t.Context(), []*telemetry.LogBatch{logBatch(pod("a"), "x")})
		if got := verdictOf(t, err); got != (verdict{retry: true, after: want}) {
			t.Errorf("Retry-After %q = %+v, want %s", v, got, want)
		}
	}
}

func TestPartialSuccessIsCountedAndNeverSentAgain(t *testing.T) {
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		t.Run(protocol, func(t *testing.T) {
			rejected, message := int64(2), "too old"
			r := &receiver{partial: func() (int64, string) { return rejected, message }}
			if protocol == "grpc" {
				r.startGRPC(t)
			} else {
				r.startHTTP(t, nil)
			}
			var log strings.Builder
			env := testEnv()
			env.Logger = slog.New(slog.NewTextHandler(&log, nil))
			e := exporter(t, env, r.url, func(c *Config) { c.Protocol = protocol })
			export := func() {
				t.Helper()
				if err := e.ExportLogs(t.Context(), []*telemetry.LogBatch{logBatch(pod("a"), "1", "2", "3")}); err != nil {
					t.Fatalf("a partial success is a success: %v", err)
				}
			}
			export()
			export()
			if got := count(e.m.rejected.WithLabelValues("logs")); got != 4 || r.n != 2 {
				t.Errorf("rejected = %v in %d requests, want 4 in 2", got, r.n)
			}
			if n := strings.Count(log.String(), "too old"); n != 1 {
				t.Errorf("logged %d times within a minute: %s", n, log.String())
			}
			rejected = math.MaxInt64 // more than it got
			export()
			if got := count(e.m.rejected.WithLabelValues("logs")); got != 7 {
				t.Errorf("rejected = %v, want 7", got)
			}
			rejected, message = 0, "only a warning"
			export()
			if got := count(e.m.requests.WithLabelValues("logs", "partial")); got != 3 {
				t.Errorf("partial = %v, want 3: rejected 0 with a message is a warning", got)
			}
		})
	}
}

func TestRepeatingACallSendsOnlyWhatWasNotTaken(t *testing.T) {
	r := &receiver{fail: func(n int) error {
		if n == 2 {
			return status.Error(codes.Unavailable, "restarting")
		}
		return nil
	}}
	r.startGRPC(t)
	e := exporter(t, testEnv(), r.url, func(c *Config) { c.MaxRequest = 16 << 10 })
	b := []*telemetry.LogBatch{logBatch(pod("a"), strings.Repeat("a", 15<<10), strings.Repeat("b", 15<<10), strings.Repeat("c", 15<<10))}
	if got := verdictOf(t, e.ExportLogs(t.Context(), b)); got != retry {
		t.Fatalf("verdict = %+v", got)
	}
	if err := e.ExportLogs(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	var first strings.Builder
	for _, l := range r.logs {
		first.WriteString(l.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Body().Str()[:1])
	}
	if first.String() != "abc" || r.n != 4 {
		t.Errorf("taken %s in %d requests, want abc in 4", first.String(), r.n)
	}
	if got := count(e.m.skipped.WithLabelValues("logs")); got != 1 {
		t.Errorf("skipped = %v", got)
	}
	if err := e.ExportLogs(t.Context(), b); err != nil || r.n != 7 {
		t.Errorf("a new call with the same records: %v after %d requests", err, r.n)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	var m memory
	for i := range uint64(10 * maxMemory) {
		m.remember([]uint64{i})
	}
	if n := len(m.now) + len(m.old); n > 2*maxMemory || !m.has(10*maxMemory-1) || m.has(0) {
		t.Errorf("%d entries, or the wrong ones", n)
	}
}

func TestBrokenReceivers(t *testing.T) {
	ok := "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\n"
	cases := map[string]struct {
		answer string // then the connection is closed; "" hangs
		want   string // "taken", "retry"
	}{
		"garbage":                   {"\x00\x01\x02 not HTTP at all\r\n\r\n", "retry"},
		"closes":                    {" ", "retry"},
		"hangs":                     {"", "retry"},
		"half a header":             {"HTTP/1.1 200", "retry"},
		"an endless header":         {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20), "retry"},
		"half an answer":            {ok + "Content-Length: 100\r\n\r\nabc", "taken"},
		"an answer of garbage":      {ok + "Content-Length: 4\r\n\r\n\xff\xff\xff\xff", "taken"},
		"an endless answer":         {ok + "Content-Length: 99999999\r\n\r\n" + strings.Repeat("\x12", 1<<20), "taken"},
		"a page":                    {"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\n<p/>", "taken"},
		"a redirect to itself":      {"HTTP/1.1 307 Go\r\nLocation: /v1/logs\r\nContent-Length: 0\r\n\r\n", "refused"},
		"an unknown content coding": {ok + "Content-Encoding: br\r\nContent-Length: 0\r\n\r\n", "taken"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			t.Cleanup(func() { l.Close(); wg.Wait() })
			wg.Go(func() {
				for {
					nc, err := l.Accept()
					if err != nil {
						return
					}
					wg.Go(func() {
						defer nc.Close()
						req, err := http.ReadRequest(bufio.NewReader(nc))
						if err != nil {
							return
						}
						io.Copy(io.Discard, req.Body)
						if c.answer == "" {
							io.Copy(io.Discard, nc) // until the client gives up
						}
						io.WriteString(nc, c.answer)
					})
				}
			})
			e := exporter(t, testEnv(), "http://"+l.Addr().String(), func(c *Config) { overHTTP(c); c.Timeout = 500 * time.Millisecond })
			err = e.ExportLogs(t.Context(), []*telemetry.LogBatch{logBatch(pod("a"), "x")})
			got := "taken"
			if err != nil {
				if v := verdictOf(t, err); v.retry {
					got = "retry"
				} else {
					got = v.reason
				}
			}
			if got != c.want {
				t.Errorf("%s, want %s: %v", got, c.want, err)
			}
		})
	}
}

func TestNoReceiverIsARetry(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		e := exporter(t, testEnv(), "http://"+l.Addr().String(), func(c *Config) { c.Protocol = protocol })
		if got := verdictOf(t, e.ExportLogs(t.Context(), []*telemetry.LogBatch{logBatch(pod("a"), "x")})); got != retry {
			t.Errorf("%s: %+v", protocol, got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if got := verdictOf(t, e.ExportLogs(ctx, []*telemetry.LogBatch{logBatch(pod("a"), "x")})); got != retry {
			t.Errorf("%s, cancelled: %+v", protocol, got)
		}
	}
}

// FuzzAnswer: any answer gives either an error or numbers within bounds, and
// what pdata writes is read as pdata reads it.
func FuzzAnswer(f *testing.F) {
	good := plogotlp.NewExportResponse()
	good.PartialSuccess().SetRejectedLogRecords(3)
	good.PartialSuccess().SetErrorMessage("m")
	b, err := good.MarshalProto()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{})
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add([]byte{0x0b, 0x0b, 0x0b, 0x0c})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parseAnswer(b)
		if err != nil && p != (partial{}) || p.rejected < 0 {
			t.Fatalf("%+v, %v", p, err)
		}
		ref := plogotlp.NewExportResponse()
		if err == nil && ref.UnmarshalProto(b) == nil && ref.PartialSuccess().RejectedLogRecords() >= 0 {
			if n := ref.PartialSuccess().RejectedLogRecords(); n != p.rejected {
				t.Fatalf("rejected = %d, pdata says %d", p.rejected, n)
			}
		}
		if s := short(string(b)); len(s) > maxMessage+3 || strings.ContainsAny(s, "\n\x1b\x00") {
			t.Fatalf("not fit for the log: %q", s)
		}
		h := http.Header{"Content-Type": {"application/x-protobuf"}, "Retry-After": {string(b)}}
		if r, ok := errors.AsType[*component.Retry](httpError(503, h, b, time.Now())); !ok || r.After < 0 || r.After > maxAfter {
			t.Fatalf("503 = %v", r)
		}
	})
}

func TestStatusMessageOfGarbageIsTheGarbageMadeReadable(t *testing.T) {
	h := http.Header{"Content-Type": {"application/x-protobuf"}}
	if got := short(statusMessage(h, []byte("\xff\x1bplain"))); got != "\uFFFD plain" {
		t.Errorf("%q", got)
	}
	b := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 3)
	if got := statusMessage(h, appendString(b, 2, "m")); got != "m" {
		t.Errorf("%q", got)
	}
	if got := short(strings.Repeat("\u4f60", 500)); len(got) > maxMessage+3 || !strings.HasSuffix(got, "...") {
		t.Errorf("%d bytes", len(got))
	}
}
