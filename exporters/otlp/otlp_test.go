package otlp

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"nodetap/agent/telemetry"
)

func pod(name string) *telemetry.Resource {
	return &telemetry.Resource{
		Cluster: "prod", Node: "node-1", Namespace: "shop", Pod: name, PodUID: "uid-" + name, PodIP: "10.0.0.1",
		Container: "c", ContainerID: "cid", RestartCount: 3, Image: "reg:5000/a/b:1.2", ImageID: "reg:5000/a/b@sha256:aa",
		WorkloadKind: "Deployment", WorkloadName: "say", OwnerKind: "ReplicaSet", OwnerName: "say-1",
		ServiceName: "say", ServiceNamespace: "shop", ServiceVersion: "1.2", ServiceInstanceID: "shop.p.c",
		Labels: map[string]string{"app": "say"}, Annotations: map[string]string{"team": "t"},
		Attributes: []telemetry.Attr{telemetry.Bool("own", true)},
	}
}

// setAttrs, fillResource and the want functions are the reference: pdata built
// by its own API from what the fields mean.
func setAttrs(m pcommon.Map, attrs []telemetry.Attr) {
	for _, a := range attrs {
		if list, ok := a.Value().([]string); ok {
			s := m.PutEmptySlice(a.Key)
			for _, v := range list {
				s.AppendEmpty().SetStr(v)
			}
			continue
		}
		if v, ok := a.Value().(string); ok {
			a.Str = strings.ToValidUTF8(v, "\uFFFD")
		}
		if err := m.PutEmpty(a.Key).FromRaw(a.Value()); err != nil {
			panic(err)
		}
	}
}

func wantPod(name string) map[string]any {
	return map[string]any{
		"k8s.cluster.name": "prod", "k8s.node.name": "node-1", "k8s.namespace.name": "shop", "k8s.pod.name": name,
		"k8s.pod.uid": "uid-" + name, "k8s.pod.ip": "10.0.0.1", "k8s.container.name": "c", "container.id": "cid",
		"k8s.container.restart_count": int64(3), "container.image.name": "reg:5000/a/b", "container.image.tags": []any{"1.2"},
		"container.image.repo_digests": []any{"reg:5000/a/b@sha256:aa"}, "k8s.deployment.name": "say", "k8s.replicaset.name": "say-1",
		"service.name": "say", "service.namespace": "shop", "service.version": "1.2", "service.instance.id": "shop.p.c",
		"k8s.pod.label.app": "say", "k8s.pod.annotation.team": "t", "own": true,
	}
}

func TestTheNamesAreThoseOfTheConventionsPackage(t *testing.T) {
	for name, key := range map[string]attribute.Key{
		"k8s.cluster.name": semconv.K8SClusterNameKey, "k8s.node.name": semconv.K8SNodeNameKey,
		"k8s.namespace.name": semconv.K8SNamespaceNameKey, "k8s.pod.name": semconv.K8SPodNameKey, "k8s.pod.uid": semconv.K8SPodUIDKey,
		"k8s.pod.ip": semconv.K8SPodIPKey, "k8s.container.name": semconv.K8SContainerNameKey, "container.id": semconv.ContainerIDKey,
		"k8s.container.restart_count": semconv.K8SContainerRestartCountKey, "container.image.name": semconv.ContainerImageNameKey,
		"container.image.tags": semconv.ContainerImageTagsKey, "container.image.repo_digests": semconv.ContainerImageRepoDigestsKey,
		"container.image.id": semconv.ContainerImageIDKey, "k8s.deployment.name": semconv.K8SDeploymentNameKey,
		"k8s.replicaset.name": semconv.K8SReplicaSetNameKey, "k8s.statefulset.name": semconv.K8SStatefulSetNameKey,
		"k8s.daemonset.name": semconv.K8SDaemonSetNameKey, "k8s.job.name": semconv.K8SJobNameKey, "k8s.cronjob.name": semconv.K8SCronJobNameKey,
		"k8s.replicationcontroller.name": semconv.K8SReplicationControllerNameKey,
		"service.name":                   semconv.ServiceNameKey, "service.namespace": semconv.ServiceNamespaceKey,
		"service.version": semconv.ServiceVersionKey, "service.instance.id": semconv.ServiceInstanceIDKey,
		"k8s.pod.label.app": semconv.K8SPodLabel("app", "").Key, "k8s.pod.annotation.team": semconv.K8SPodAnnotation("team", "").Key,
		"log.iostream": semconv.LogIostreamKey, "log.record.uid": semconv.LogRecordUIDKey, "log.file.path": semconv.LogFilePathKey,
	} {
		if string(key) != name {
			t.Errorf("we say %s, the conventions %s", name, key)
		}
	}
}

func logBatch(r *telemetry.Resource, bodies ...string) *telemetry.LogBatch {
	b := &telemetry.LogBatch{Resource: r, Source: telemetry.LogSource{Path: "/var/log/pods/x/0.log"}}
	for i, body := range bodies {
		b.Append(telemetry.LogRecord{
			Time: 1700000000_000000000 + int64(i), Observed: 1700000001_000000000, Pos: int64(i * 100), Len: uint32(len(body)),
			Stream: telemetry.Stdout + telemetry.Stream(i%2),
		}, []byte(body))
	}
	return b
}

// wantLogs is the reference encoder of logs, one group per resource.
func wantLogs(e *Exporter, batches ...*telemetry.LogBatch) plog.Logs {
	out := plog.NewLogs()
	groups := map[*telemetry.Resource]plog.ScopeLogs{}
	for _, b := range batches {
		if len(b.Records) == 0 {
			continue
		}
		g, ok := groups[b.Resource]
		if !ok {
			rl := out.ResourceLogs().AppendEmpty()
			rl.SetSchemaUrl(semconv.SchemaURL)
			r := b.Resource
			if r == nil {
				r = &telemetry.Resource{Node: "node-1"}
			}
			setAttrs(rl.Resource().Attributes(), r.AppendAttrs(nil))
			g = rl.ScopeLogs().AppendEmpty()
			g.Scope().SetName("nodetap")
			g.Scope().SetVersion("1.2.3")
			groups[b.Resource] = g
		}
		for i, r := range b.Records {
			l := g.LogRecords().AppendEmpty()
			l.SetTimestamp(pcommon.Timestamp(r.Time))
			l.SetObservedTimestamp(pcommon.Timestamp(r.Observed))
			if r.Observed == 0 {
				l.SetObservedTimestamp(pcommon.Timestamp(r.Time))
			}
			l.SetSeverityNumber(plog.SeverityNumber(r.Severity))
			l.Body().SetStr(strings.ToValidUTF8(string(b.Body(i)), "\uFFFD"))
			l.SetEventName(b.EventName)
			l.SetTraceID(pcommon.TraceID(r.TraceID))
			l.SetSpanID(pcommon.SpanID(r.SpanID))
			if r.Stream != telemetry.NoStream {
				l.Attributes().PutStr("log.iostream", r.Stream.String())
			}
			l.Attributes().PutStr("log.record.uid", string(b.AppendID(nil, i)))
			if e.cfg.Logs.FilePath {
				l.Attributes().PutStr("log.file.path", b.Source.Path)
			}
			if r.Flags&telemetry.Truncated != 0 {
				l.Attributes().PutBool("nodetap.log.truncated", true)
			}
			setAttrs(l.Attributes(), b.Attrs)
		}
	}
	return out
}

func logsJSON(t testing.TB, l plog.Logs) string {
	t.Helper()
	b, err := (&plog.JSONMarshaler{}).MarshalLogs(l)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func someLogs() []*telemetry.LogBatch {
	a, b := pod("a"), pod("b")
	one := logBatch(a, "hello", "", strings.Repeat("long ", 5000), "wrong \xff\xfe utf8")
	one.Records[0].Severity = telemetry.SeverityError
	one.Records[0].TraceID, one.Records[0].SpanID = telemetry.TraceID{1}, telemetry.SpanID{2}
	one.Records[1].Flags = telemetry.Truncated
	event := logBatch(b, "oom")
	event.EventName = "k8s.oom"
	event.Attrs = []telemetry.Attr{telemetry.Int("n", -7), telemetry.Float("f", 1.5), telemetry.Bool("no", false),
		telemetry.Strings("list", "x", "y"), telemetry.Strings("none"), telemetry.String("bad", "\xff")}
	host := &telemetry.LogBatch{Source: telemetry.LogSource{Path: "/var/log/syslog"}}
	host.Append(telemetry.LogRecord{Observed: 5}, []byte("from a host file"))
	return []*telemetry.LogBatch{one, event, logBatch(a), host, logBatch(a, "second batch of a")}
}

func eachTransport(t *testing.T, f func(t *testing.T, r *receiver, change func(*Config))) {
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		for _, compression := range []string{"gzip", "zstd", "none"} {
			t.Run(protocol+" "+compression, func(t *testing.T) {
				r := &receiver{}
				if protocol == "grpc" {
					r.startGRPC(t)
				} else {
					r.startHTTP(t, nil)
				}
				f(t, r, func(c *Config) { c.Protocol, c.Compression = protocol, compression })
				for _, enc := range r.encoding {
					if want := strings.Replace(compression, "none", "", 1); enc != want {
						t.Errorf("content encoding = %q, want %q", enc, want)
					}
				}
			})
		}
	}
}

func TestLogsArriveAsPdataWouldWriteThem(t *testing.T) {
	eachTransport(t, func(t *testing.T, r *receiver, change func(*Config)) {
		e := exporter(t, testEnv(), r.url, func(c *Config) { change(c); c.Logs.FilePath = true })
		batches := someLogs()
		if err := e.ExportLogs(t.Context(), batches); err != nil {
			t.Fatal(err)
		}
		if len(r.logs) != 1 {
			t.Fatalf("%d requests", len(r.logs))
		}
		if d := cmp.Diff(logsJSON(t, wantLogs(e, batches...)), logsJSON(t, r.logs[0])); d != "" {
			t.Error(d)
		}
		if d := cmp.Diff(wantPod("a"), r.logs[0].ResourceLogs().At(0).Resource().Attributes().AsRaw()); d != "" {
			t.Errorf("resource: %s", d)
		}
		if count(e.m.wireBytes) == 0 || count(e.m.rawBytes.WithLabelValues("logs")) == 0 || count(e.m.connections) != 1 {
			t.Error("bytes or connections are not counted")
		}
	})
}

func TestSpansArriveAsPdataWouldWriteThem(t *testing.T) {
	eachTransport(t, func(t *testing.T, r *receiver, change func(*Config)) {
		e := exporter(t, testEnv(), r.url, change)
		s := telemetry.Span{
			TraceID: telemetry.TraceID{1}, SpanID: telemetry.SpanID{2}, ParentID: telemetry.SpanID{3}, TraceState: "a=b", Flags: 1,
			Kind: telemetry.SpanServer, Status: telemetry.StatusError, StatusMsg: "broken", Name: "GET /a",
			Start: 1700000000_000000000, End: 1700000000_001000000,
			Attrs: []telemetry.Attr{telemetry.String("http.route", "/a"), telemetry.Int("http.response.status_code", 500)},
			Links: []telemetry.SpanLink{{TraceID: telemetry.TraceID{4}, SpanID: telemetry.SpanID{5}, Attrs: []telemetry.Attr{telemetry.Bool("k", true)}}},
		}
		root := telemetry.Span{TraceID: telemetry.TraceID{9}, SpanID: telemetry.SpanID{9}, Kind: telemetry.SpanClient, Name: "GET", Start: 1, End: 2}
		p := pod("a")
		batches := []*telemetry.SpanBatch{{Resource: p, Spans: []telemetry.Span{s}}, {Resource: p}, {Resource: p, Spans: []telemetry.Span{root}}}
		if err := e.ExportSpans(t.Context(), batches); err != nil {
			t.Fatal(err)
		}

		want := ptrace.NewTraces()
		rs := want.ResourceSpans().AppendEmpty()
		rs.SetSchemaUrl(semconv.SchemaURL)
		setAttrs(rs.Resource().Attributes(), p.AppendAttrs(nil))
		ss := rs.ScopeSpans().AppendEmpty()
		ss.Scope().SetName("nodetap")
		ss.Scope().SetVersion("1.2.3")
		for _, in := range []telemetry.Span{s, root} {
			o := ss.Spans().AppendEmpty()
			o.SetTraceID(pcommon.TraceID(in.TraceID))
			o.SetSpanID(pcommon.SpanID(in.SpanID))
			o.SetParentSpanID(pcommon.SpanID(in.ParentID))
			o.TraceState().FromRaw(in.TraceState)
			o.SetFlags(uint32(in.Flags))
			o.SetName(in.Name)
			o.SetKind(ptrace.SpanKind(in.Kind))
			o.SetStartTimestamp(pcommon.Timestamp(in.Start))
			o.SetEndTimestamp(pcommon.Timestamp(in.End))
			o.Status().SetCode(ptrace.StatusCode(in.Status))
			o.Status().SetMessage(in.StatusMsg)
			setAttrs(o.Attributes(), in.Attrs)
			for _, l := range in.Links {
				ol := o.Links().AppendEmpty()
				ol.SetTraceID(pcommon.TraceID(l.TraceID))
				ol.SetSpanID(pcommon.SpanID(l.SpanID))
				setAttrs(ol.Attributes(), l.Attrs)
			}
		}
		if len(r.traces) != 1 {
			t.Fatalf("%d requests", len(r.traces))
		}
		m := &ptrace.JSONMarshaler{}
		w, _ := m.MarshalTraces(want)
		g, _ := m.MarshalTraces(r.traces[0])
		if d := cmp.Diff(string(w), string(g)); d != "" {
			t.Error(d)
		}
	})
}

func TestACallIsSplitUnderTheCap(t *testing.T) {
	r := (&receiver{}).startHTTP(t, nil)
	e := exporter(t, testEnv(), r.url, overHTTP)
	var batches []*telemetry.LogBatch
	want := map[string]bool{}
	for i := range 10 {
		b := logBatch(pod(fmt.Sprint(i % 3)))
		for j := range 100 {
			body := fmt.Sprintf("%d/%d %s", i, j, strings.Repeat("x", 10000))
			want[body] = true
			b.Append(telemetry.LogRecord{Time: 1, Pos: int64(j)}, []byte(body))
		}
		batches = append(batches, b)
	}
	if err := e.ExportLogs(t.Context(), batches); err != nil {
		t.Fatal(err)
	}
	if n := len(r.sizes); n < 4 || n > 5 {
		t.Errorf("%d requests for 10 MB", n)
	}
	for i, size := range r.sizes {
		if size > 3<<20 {
			t.Errorf("a request has %d bytes", size)
		}
		for _, rl := range r.logs[i].ResourceLogs().All() {
			for _, sl := range rl.ScopeLogs().All() {
				if sl.LogRecords().Len() == 0 {
					t.Error("an empty envelope")
				}
				for _, l := range sl.LogRecords().All() {
					if !want[l.Body().Str()] {
						t.Errorf("%.10s came twice", l.Body().Str())
					}
					delete(want, l.Body().Str())
				}
			}
		}
	}
	if len(want) > 0 {
		t.Errorf("%d records are missing", len(want))
	}
}

func TestNothingIsSentForNothing(t *testing.T) {
	r := (&receiver{}).startGRPC(t)
	e := exporter(t, testEnv(), r.url, nil)
	if err := e.ExportLogs(t.Context(), []*telemetry.LogBatch{logBatch(pod("a"))}); err != nil {
		t.Error(err)
	}
	if err := e.ExportSpans(t.Context(), []*telemetry.SpanBatch{{Resource: pod("a")}}); err != nil {
		t.Error(err)
	}
	if n := len(e.metricRequests()); n != 0 || r.n != 0 {
		t.Errorf("%d requests sent, %d of metrics made", r.n, n)
	}
}

func TestHeadersPathAndTLS(t *testing.T) {
	dir, server := certificate(t)
	token := filepath.Join(dir, "token")
	os.WriteFile(token, []byte("Bearer one\n"), 0o600)
	change := func(c *Config) {
		c.Headers, c.HeaderFiles = map[string]string{"X-Scope-OrgID": "tenant"}, map[string]string{"Authorization": token}
		c.TLS.CAFile, c.TLS.CertFile, c.TLS.KeyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	}
	check := func(t *testing.T, r *receiver, e *Exporter, scope, auth string) {
		os.WriteFile(token, []byte("Bearer one\n"), 0o600)
		for i, want := range []string{"Bearer one", "Bearer two"} {
			if err := e.ExportLogs(t.Context(), []*telemetry.LogBatch{logBatch(pod("a"), "x")}); err != nil {
				t.Fatal(err)
			}
			if h := r.headers[i]; len(h[scope]) != 1 || h[scope][0] != "tenant" || len(h[auth]) != 1 || h[auth][0] != want {
				t.Errorf("headers = %v, want the token %q", h, want)
			}
			os.WriteFile(token, []byte("Bearer two\n"), 0o600) // a rotated secret counts at once
		}
	}
	t.Run("grpc", func(t *testing.T) {
		r := (&receiver{}).startGRPC(t, grpcTLS(server.Clone()))
		e := exporter(t, testEnv(), strings.Replace(r.url, "http:", "https:", 1), change)
		check(t, r, e, "x-scope-orgid", "authorization")
	})
	t.Run("http", func(t *testing.T) {
		r := (&receiver{}).startHTTP(t, server.Clone())
		e := exporter(t, testEnv(), r.url+"/base/", func(c *Config) { change(c); overHTTP(c); c.Logs.Path = "own" })
		check(t, r, e, "X-Scope-Orgid", "Authorization")
		if ua := r.headers[0]["User-Agent"]; len(ua) != 1 || ua[0] != "nodetap/1.2.3" {
			t.Errorf("user agent = %v", ua)
		}
	})
	t.Run("unknown authority", func(t *testing.T) {
		r := (&receiver{}).startGRPC(t, grpcTLS(server.Clone()))
		e := exporter(t, testEnv(), strings.Replace(r.url, "http:", "https:", 1), nil)
		if err := e.ExportLogs(t.Context(), []*telemetry.LogBatch{logBatch(pod("a"), "x")}); err == nil || r.n > 0 {
			t.Errorf("sent to a receiver that is not trusted: %v", err)
		}
	})
}

func TestValidateNamesEveryWrongKey(t *testing.T) {
	cfg := Default()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	cfg = Config{Endpoint: "host:4317", Protocol: "http", Compression: "br", Metrics: Metrics{Interval: 1},
		Headers: map[string]string{"Content-Type": "x", "a": "1"}, HeaderFiles: map[string]string{"A": "f", "b c": "f"}}
	cfg.TLS.KeyFile = "k"
	err := cfg.Validate()
	for _, key := range []string{"endpoint", "protocol", "compression", "timeout", "max_request_bytes", "metrics.interval",
		"headers.Content-Type", "header_files.A", "header_files.b c", "tls.cert_file"} {
		if err == nil || !strings.Contains(err.Error(), key+": ") {
			t.Errorf("%s is not named", key)
		}
	}
	for _, endpoint := range []string{"http://h:4317/path", "https://h"} {
		cfg = Default()
		if cfg.Endpoint = endpoint; cfg.Validate() == nil {
			t.Errorf("%s is taken with grpc", endpoint)
		}
	}
}

func TestEncodingAllocatesNothingPerLine(t *testing.T) {
	e, err := New(testEnv(), Default())
	if err != nil {
		t.Fatal(err)
	}
	list := []*telemetry.LogBatch{benchLogs(pod("a"), 1000)}
	if n := testing.AllocsPerRun(10, func() { encodeOnly(t, e, list) }); n > 10 {
		t.Errorf("%v allocations for 1000 lines", n)
	}
}

// encodeOnly does what ExportLogs does, into the void.
func encodeOnly(t testing.TB, e *Exporter, list []*telemetry.LogBatch) {
	w := builder{max: int(e.cfg.MaxRequest), envel: e.envelope, send: func(b *[]byte, _ int) error { putBuffer(b); return nil }}
	for _, b := range list {
		w.resource(e.resources.Get(b.Resource))
		for i := range b.Records {
			if err := w.log(b, i, len(b.Arena)+180*len(b.Records), false); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.flush(); err != nil {
		t.Fatal(err)
	}
}

func FuzzLogEncoding(f *testing.F) {
	f.Add("body", "pod", int64(1), int64(0), uint8(9), uint8(1), uint8(1))
	f.Add("\xff\x00\u2028", "\xc3", int64(-1), int64(1<<62), uint8(255), uint8(200), uint8(255))
	f.Add(strings.Repeat("y", 16384-40), "p", int64(0), int64(0), uint8(0), uint8(0), uint8(0))
	e, err := New(testEnv(), Default())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body, name string, at, pos int64, sev, stream, bits uint8) {
		r := pod(name)
		b := &telemetry.LogBatch{Resource: r}
		rec := telemetry.LogRecord{Time: at, Pos: pos, Severity: telemetry.Severity(sev), Stream: telemetry.Stream(stream % 3), Flags: telemetry.LogFlags(bits)}
		rec.TraceID[3], rec.SpanID[0] = bits, bits/2
		b.Append(rec, []byte(body))
		b.Append(rec, nil)
		var got []byte
		w := builder{max: 1 << 20, envel: e.envelope, send: func(b *[]byte, _ int) error { got = append(got, *b...); return nil }}
		w.resource(renderResource(r.AppendAttrs(nil)))
		for i := range b.Records {
			if err := w.log(b, i, 100, false); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.flush(); err != nil {
			t.Fatal(err)
		}
		req := plogotlp.NewExportRequest()
		if err := req.UnmarshalProto(got); err != nil {
			t.Fatal(err)
		}
		for i, l := range req.Logs().ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
			want := strings.ToValidUTF8(string(b.Body(i)), "\uFFFD")
			uid, _ := l.Attributes().Get("log.record.uid")
			id := string(b.AppendID(nil, i))
			if l.Body().Str() != want || len(uid.Str()) != len(id) || l.Timestamp() != pcommon.Timestamp(at) ||
				l.TraceID() != pcommon.TraceID(rec.TraceID) || l.SpanID() != pcommon.SpanID(rec.SpanID) || int(l.SeverityNumber()) != int(sev) {
				t.Fatalf("record %d came back as %+v", i, l)
			}
		}
	})
}
