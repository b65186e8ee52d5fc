package forward

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fluent/fluent-logger-golang/fluent"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/tinylib/msgp/msgp"
	"go.uber.org/goleak"

	"nodetap/agent/component"
	"nodetap/agent/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func count(c prometheus.Metric) float64 {
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		panic(err)
	}
	return m.GetCounter().GetValue() + m.GetGauge().GetValue()
}

// running returns an exporter to the server that runs until the test ends.
func running(t testing.TB, s *server, change func(*Config)) *Exporter {
	t.Helper()
	cfg := Default()
	cfg.Endpoint = s.l.Addr().String()
	if change != nil {
		change(&cfg)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	e, err := New(component.Env{
		Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(), NodeName: "node-1",
	}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	e.backoff = [2]time.Duration{10 * time.Millisecond, 50 * time.Millisecond}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = e.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return e
}

func podResource(name string) *telemetry.Resource {
	return &telemetry.Resource{Namespace: "shop", Pod: name, PodUID: "uid-" + name, Container: "c", ContainerID: "id-" + name, Node: "node-1"}
}

func batch(r *telemetry.Resource, bodies ...string) *telemetry.LogBatch {
	b := &telemetry.LogBatch{Resource: r}
	for i, body := range bodies {
		b.Append(telemetry.LogRecord{Time: 1700000000_000000000 + int64(i), Pos: int64(i * 1000), Stream: telemetry.Stdout}, []byte(body))
	}
	return b
}

// deliver repeats a call as the pipeline does, without its waits: on Retry
// again, on Permanent by halves.
func deliver(t testing.TB, e *Exporter, b *telemetry.LogBatch, deadline time.Time) (rejected []string) {
	for time.Now().Before(deadline) {
		err := e.ExportLogs(context.Background(), []*telemetry.LogBatch{b})
		if err == nil {
			return nil
		}
		if p, ok := errors.AsType[*component.Permanent](err); ok {
			if n := len(b.Records); n > 1 {
				return append(deliver(t, e, b.Slice(0, n/2), deadline), deliver(t, e, b.Slice(n/2, n), deadline)...)
			}
			if p.Reason != "rejected" {
				t.Errorf("reason = %q", p.Reason)
			}
			return []string{string(b.Body(0))}
		}
		r, ok := errors.AsType[*component.Retry](err)
		if !ok {
			t.Errorf("err = %T %v", err, err)
			return nil
		}
		time.Sleep(min(r.After, time.Second) + time.Millisecond)
	}
	t.Error("not delivered by the test's deadline")
	return nil
}

// recordedPod is the pod of the recording, as agent/pods would describe it.
func recordedPod(t *testing.T) *telemetry.Resource {
	var pod struct {
		Metadata struct {
			Name, Namespace, UID string
			Labels, Annotations  map[string]string
		}
		Spec   struct{ NodeName string }
		Status struct {
			PodIP             string
			ContainerStatuses []struct{ Name, Image, ImageID, ContainerID string }
		}
	}
	data, err := os.ReadFile("testdata/pod.json")
	if err == nil {
		err = json.Unmarshal(data, &pod)
	}
	if err != nil {
		t.Fatal(err)
	}
	c := pod.Status.ContainerStatuses[0]
	return &telemetry.Resource{
		Node: pod.Spec.NodeName, Namespace: pod.Metadata.Namespace, Pod: pod.Metadata.Name, PodUID: pod.Metadata.UID,
		PodIP: pod.Status.PodIP, Container: c.Name, ContainerID: strings.TrimPrefix(c.ContainerID, "containerd://"),
		Image: c.Image, ImageID: c.ImageID, Labels: pod.Metadata.Labels, Annotations: pod.Metadata.Annotations,
	}
}

// recordedLog reads the runtime's lines, joining P with what follows.
func recordedLog(t *testing.T, r *telemetry.Resource) *telemetry.LogBatch {
	data, err := os.ReadFile("testdata/input.cri.log")
	if err != nil {
		t.Fatal(err)
	}
	b := &telemetry.LogBatch{Resource: r}
	var joined []byte
	var first telemetry.LogRecord
	for line := range bytes.Lines(data) {
		f := bytes.SplitN(bytes.TrimSuffix(line, []byte("\n")), []byte(" "), 4)
		at, err := time.Parse(time.RFC3339Nano, string(f[0]))
		if err != nil {
			t.Fatal(err)
		}
		rec := telemetry.LogRecord{Time: at.UnixNano(), Stream: telemetry.Stdout}
		if string(f[1]) == "stderr" {
			rec.Stream = telemetry.Stderr
		}
		switch {
		case joined == nil && string(f[2]) == "P":
			first, joined = rec, append([]byte{}, f[3]...)
			first.Flags |= telemetry.Joined
			continue
		case string(f[2]) == "P":
			joined = append(joined, f[3]...)
			continue
		case joined != nil:
			b.Append(first, append(joined, f[3]...))
			joined = nil
			continue
		}
		b.Append(rec, f[3])
	}
	return b
}

func TestRecordsAreByteForByteWhatFluentBitSends(t *testing.T) {
	data, err := os.ReadFile("testdata/merge-off.forward.bin")
	if err != nil {
		t.Fatal(err)
	}
	// [tag, [entries...], options]: Fluent Bit's Forward mode with metadata
	_, rest, _ := msgp.ReadArrayHeaderBytes(data)
	want := &message{}
	if want.tag, rest, err = msgp.ReadStringBytes(rest); err != nil {
		t.Fatal(err)
	}
	n, rest, err := msgp.ReadArrayHeaderBytes(rest)
	if err != nil {
		t.Fatal(err)
	}
	end := rest
	for range n {
		if end, err = msgp.Skip(end); err != nil {
			t.Fatal(err)
		}
	}
	want.entries = rest[:len(rest)-len(end)]
	if err := want.decodeEntries(true); err != nil {
		t.Fatal(err)
	}

	for _, compression := range []string{"none", "gzip", "zstd"} {
		t.Run(compression, func(t *testing.T) {
			s := (&server{}).start(t)
			e := running(t, s, func(c *Config) { c.Compression = compression })
			b := recordedLog(t, recordedPod(t))
			if err := e.ExportLogs(t.Context(), []*telemetry.LogBatch{b}); err != nil {
				t.Fatal(err)
			}
			got := s.received()[0]
			if got.tag != want.tag {
				t.Errorf("tag = %s\nwant  %s", got.tag, want.tag)
			}
			if got.size != len(want.records) || len(got.records) != len(want.records) {
				t.Fatalf("%d records, size %d, want %d", len(got.records), got.size, len(want.records))
			}
			for i := range want.records {
				if d := cmp.Diff(want.records[i], got.records[i]); d != "" {
					t.Errorf("record %d: %s", i, d)
				}
				if !time.Time(got.times[i]).Equal(time.Time(want.times[i])) {
					t.Errorf("time %d = %v, want %v", i, time.Time(got.times[i]), time.Time(want.times[i]))
				}
			}
			// Fluent Bit writes the map's size in 5 bytes (map32), we in one
			// (fixmap): all else is the same
			var ours, theirs []byte
			for r := got.raw; len(r) > 0; {
				after, _ := msgp.Skip(r)
				ours = append(ours, r[1:len(r)-len(after)]...)
				r = after
			}
			for r := want.raw; len(r) > 0; {
				after, _ := msgp.Skip(r)
				theirs = append(theirs, r[5:len(r)-len(after)]...)
				r = after
			}
			if !bytes.Equal(ours, theirs) {
				t.Error("the bytes differ")
			}
		})
	}
}

func TestWhatFluentBitHasNoKeyForIsAddedOnlyWhenThere(t *testing.T) {
	s := (&server{}).start(t)
	e := running(t, s, func(c *Config) { c.RecordID = true; c.Tag = "k8s.{namespace}.{workload}" })
	r := podResource("p")
	r.WorkloadName = "w"
	b := batch(r, "with all", "with none")
	b.Records[0].TraceID, b.Records[0].SpanID = telemetry.TraceID{1}, telemetry.SpanID{2}
	b.Records[0].Flags = telemetry.Truncated
	host := &telemetry.LogBatch{Source: telemetry.LogSource{Path: "/var/log/syslog"}, EventName: "ev",
		Attrs: []telemetry.Attr{telemetry.Int("n", -1), telemetry.Bool("t", true), telemetry.Float("f", 1.5), telemetry.Strings("l", "a")}}
	host.Append(telemetry.LogRecord{Observed: 1700000000_500000000}, []byte("x"))
	if err := e.ExportLogs(t.Context(), []*telemetry.LogBatch{b, host}); err != nil {
		t.Fatal(err)
	}
	got := s.received()
	if len(got) != 2 || got[0].tag != "k8s.shop.w" || got[1].tag != "host.var.log.syslog" {
		t.Fatalf("messages = %+v", got)
	}
	k8s := map[string]any{"pod_name": "p", "namespace_name": "shop", "pod_id": "uid-p", "host": "node-1", "container_name": "c", "docker_id": "id-p"}
	want := []map[string]any{
		{"time": "2023-11-14T22:13:20Z", "stream": "stdout", "_p": "F", "log": "with all", "kubernetes": k8s, "truncated": true,
			"trace_id": "01" + strings.Repeat("0", 30), "span_id": "0200000000000000", "nodetap_id": string(b.AppendID(nil, 0))},
		{"time": "2023-11-14T22:13:20.000000001Z", "stream": "stdout", "_p": "F", "log": "with none", "kubernetes": k8s,
			"nodetap_id": string(b.AppendID(nil, 1))},
	}
	if d := cmp.Diff(want, got[0].records); d != "" {
		t.Error(d)
	}
	want = []map[string]any{{"time": "2023-11-14T22:13:20.5Z", "_p": "F", "log": "x", "event_name": "ev",
		"nodetap_id": string(host.AppendID(nil, 0)),
		"attributes": map[string]any{"n": int64(-1), "t": true, "f": 1.5, "l": []any{"a"}}}}
	if d := cmp.Diff(want, got[1].records); d != "" {
		t.Error(d)
	}
}

func TestTimesAreWrittenAsRFC3339Nano(t *testing.T) {
	var e recordEncoder
	for _, ns := range []int64{0, 1, 999999999, 1700000000_000000000, 1700000000_120000000, 1700000001_000000010, -1, -1500000000} {
		got, _, err := msgp.ReadStringBytes(e.appendTime(nil, ns))
		if want := time.Unix(0, ns).UTC().Format(time.RFC3339Nano); err != nil || got != want {
			t.Errorf("%d = %q, %v, want %q", ns, got, err, want)
		}
	}
}

func TestACallIsCutIntoChunksUnderTheCapAndAllAreAcked(t *testing.T) {
	s := (&server{}).start(t)
	e := running(t, s, func(c *Config) { c.InFlight = 2 })
	var batches []*telemetry.LogBatch
	var want []string
	for i := range 10 {
		b := batch(podResource("p"))
		for j := range 500 {
			body := fmt.Sprintf("%d/%d ", i, j) + strings.Repeat("x", 1000)
			b.Append(telemetry.LogRecord{Time: 1, Pos: int64(i*1e6 + j)}, []byte(body))
			want = append(want, body)
		}
		batches = append(batches, b)
	}
	if err := e.ExportLogs(t.Context(), batches); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, s.lines()); d != "" {
		t.Errorf("lines differ or are out of order: %.300s", d)
	}
	for _, m := range s.received() {
		if len(m.entries) > 1<<20 {
			t.Errorf("a chunk has %d bytes", len(m.entries))
		}
		if m.compressed != "gzip" {
			t.Errorf("compressed = %q", m.compressed)
		}
	}
	if n := len(s.received()); n < 6 || n > 8 {
		t.Errorf("%d chunks for 6 MB", n)
	}
	if got, want := count(e.m.acks.WithLabelValues("ok")), float64(len(s.received())); got != want {
		t.Errorf("acks counted = %v, want %v", got, want)
	}
	if got := count(e.m.inFlight); got != 0 {
		t.Errorf("in flight = %v at the end", got)
	}
}

func TestARecordLargerThanAChunkGoesAlone(t *testing.T) {
	s := (&server{}).start(t)
	e := running(t, s, func(c *Config) { c.ChunkBytes = 4 << 10 })
	bodies := []string{"a", strings.Repeat("b", 20<<10), "c"}
	if err := e.ExportLogs(t.Context(), []*telemetry.LogBatch{batch(podResource("p"), bodies...)}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(bodies, s.lines()); d != "" || len(s.received()) != 3 {
		t.Errorf("%d chunks, %s", len(s.received()), d)
	}
}

func TestConcurrentCallsShareAConnectionWhoseAcksComeInAnyOrder(t *testing.T) {
	var mu sync.Mutex
	var held []string
	s := &server{}
	s.answer = func(nc net.Conn, m *message, n int) error {
		mu.Lock()
		defer mu.Unlock()
		if held = append(held, m.chunk); len(held) < 4 {
			return nil
		}
		rand.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
		var b []byte
		for _, id := range held {
			b, _ = (&fluent.AckResp{Ack: id}).MarshalMsg(b)
		}
		held = nil
		for len(b) > 0 { // in pieces: an ack may come in any number of reads
			n := min(len(b), 1+rand.N(50))
			if _, err := nc.Write(b[:n]); err != nil {
				return err
			}
			b = b[n:]
		}
		return nil
	}
	s.start(t)
	e := running(t, s, nil)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 50 {
				b := batch(podResource("p"), fmt.Sprintf("%d/%d", g, i))
				if err := e.ExportLogs(t.Context(), []*telemetry.LogBatch{b}); err != nil {
					t.Errorf("%d/%d: %v", g, i, err)
				}
			}
		})
	}
	wg.Wait()
	seen := map[string]int{}
	for _, l := range s.lines() {
		seen[l]++
	}
	for l, n := range seen {
		if n != 1 {
			t.Errorf("%s came %d times", l, n)
		}
	}
	if len(seen) != 200 || s.connections() != 1 {
		t.Errorf("%d lines over %d connections, want 200 over 1", len(seen), s.connections())
	}
}

func TestRepeatingACallSendsOnlyWhatWasNotAcknowledged(t *testing.T) {
	s := &server{}
	s.answer = func(nc net.Conn, m *message, n int) error {
		if n == 2 {
			return errors.New("reset")
		}
		return writeAck(nc, m.chunk)
	}
	s.start(t)
	e := running(t, s, func(c *Config) { c.InFlight = 1 })
	batches := []*telemetry.LogBatch{batch(podResource("a"), "1"), batch(podResource("b"), "2"), batch(podResource("c"), "3")}
	err := e.ExportLogs(t.Context(), batches)
	if _, ok := errors.AsType[*component.Retry](err); !ok {
		t.Fatalf("err = %v, want a Retry", err)
	}
	for err != nil {
		time.Sleep(10 * time.Millisecond)
		err = e.ExportLogs(t.Context(), batches)
	}
	if d := cmp.Diff([]string{"1", "2", "2", "3"}, s.lines()); d != "" {
		t.Error(d)
	}
	if got := count(e.m.skipped); got != 1 {
		t.Errorf("skipped = %v", got)
	}
	// the same records in a new call are sent: nothing is remembered of a call
	// that went through
	if err := e.ExportLogs(t.Context(), batches); err != nil || len(s.lines()) != 7 {
		t.Errorf("err = %v, %d lines", err, len(s.lines()))
	}
}

func TestExportsFailAtOnceBetweenAttemptsToConnect(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // nobody listens there now
	e := running(t, &server{l: l}, nil)
	var r *component.Retry
	for r == nil || r.After == 0 {
		err := e.ExportLogs(t.Context(), []*telemetry.LogBatch{batch(podResource("p"), "x")})
		if !errors.As(err, &r) {
			t.Fatalf("err = %v, want a Retry", err)
		}
	}
	if !strings.Contains(r.Err.Error(), "refused") || r.After > lastBackoff {
		t.Errorf("retry = %v", r)
	}
}

func TestAChunkThatACallLeftInFlightIsNotSentTwice(t *testing.T) {
	var mu sync.Mutex
	acks := map[string]func(){}
	s := &server{}
	s.answer = func(nc net.Conn, m *message, n int) error {
		mu.Lock()
		defer mu.Unlock()
		acks[m.records[0]["log"].(string)] = func() { writeAck(nc, m.chunk) }
		return nil
	}
	s.start(t)
	e := running(t, s, nil)
	cancelled := func(body string) []*telemetry.LogBatch {
		t.Helper()
		b := []*telemetry.LogBatch{batch(podResource("p"), body)}
		ctx, cancel := context.WithCancel(t.Context())
		before := len(s.received())
		go func() {
			for len(s.received()) == before {
				time.Sleep(time.Millisecond)
			}
			cancel()
		}()
		if err := e.ExportLogs(ctx, b); !errors.Is(err, context.Canceled) {
			t.Fatalf("err = %v", err)
		}
		return b
	}
	ackNow := func(body string) {
		mu.Lock()
		defer mu.Unlock()
		acks[body]()
	}
	// the ack comes during the repeated call: it adopts the chunk
	b := cancelled("adopted")
	result := make(chan error)
	go func() { result <- e.ExportLogs(t.Context(), b) }()
	for e.inFlightLeft() > 0 {
		time.Sleep(time.Millisecond)
	}
	ackNow("adopted")
	if err := <-result; err != nil {
		t.Error(err)
	}
	// the ack comes between the calls: the second has nothing to send
	b = cancelled("late")
	ackNow("late")
	for count(e.m.inFlight) > 0 {
		time.Sleep(time.Millisecond)
	}
	if err := e.ExportLogs(t.Context(), b); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff([]string{"adopted", "late"}, s.lines()); d != "" {
		t.Error(d)
	}
}

// inFlightLeft is the number of chunks that no call waits for.
func (e *Exporter) inFlightLeft() int {
	e.mu.Lock()
	c := e.conn
	e.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.left)
}

func TestAHangingReceiverIsLeftThoughEachCallEndsBeforeItsAckTimeout(t *testing.T) {
	s := &server{}
	s.answer = func(nc net.Conn, m *message, n int) error {
		if s.connections() == 1 {
			return nil
		}
		return writeAck(nc, m.chunk)
	}
	s.start(t)
	e := running(t, s, func(c *Config) { c.AckTimeout = 300 * time.Millisecond })
	b := []*telemetry.LogBatch{batch(podResource("p"), "x")}
	for range 1000 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := e.ExportLogs(ctx, b)
		cancel()
		if err == nil {
			if n := len(s.received()); n != 2 {
				t.Errorf("sent %d times over %d connections, want once over each of 2", n, s.connections())
			}
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Error("not delivered")
}

func TestValidateNamesEveryWrongKey(t *testing.T) {
	cfg := Default()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	bad := Config{Endpoint: "http://x", Tag: "{podd}", Compression: "lz4", Keepalive: -1, TLS: component.TLS{CertFile: "c"},
		Auth: Auth{SharedKey: "a", SharedKeyFile: "b", Password: "a", PasswordFile: "b"}}
	err := bad.Validate()
	for _, key := range []string{"endpoint", "tag", "compression", "chunk_bytes", "in_flight", "max_resets", "ack_timeout",
		"connect_timeout", "keepalive", "tls.cert_file", "auth.shared_key", "auth.password"} {
		if err == nil || !strings.Contains(err.Error(), key+": ") {
			t.Errorf("%s is not named", key)
		}
	}
	if err := (&Config{Auth: Auth{Username: "u"}}).Validate(); !strings.Contains(err.Error(), "auth.username: ") {
		t.Error("a user without a shared key is taken")
	}
}

func TestEncodingAllocatesNothingPerLine(t *testing.T) {
	e, err := New(component.Env{Registerer: prometheus.NewRegistry()}, Default())
	if err != nil {
		t.Fatal(err)
	}
	b := batch(podResource("p"))
	for range 1000 {
		b.Append(telemetry.LogRecord{Time: 1700000000_000000001, Stream: telemetry.Stdout}, []byte("a line of an ordinary log, not too long"))
	}
	r := e.resources.Get(b.Resource)
	enc := &recordEncoder{withID: true}
	buf := make([]byte, 0, 1<<20)
	if n := testing.AllocsPerRun(10, func() {
		buf = buf[:0]
		for i := range b.Records {
			buf = enc.append(buf, b, i, r)
		}
	}); n > 1 {
		t.Errorf("%v allocations for 1000 lines", n)
	}
}
