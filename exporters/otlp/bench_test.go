package otlp

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"nodetap/agent/telemetry"
)

// benchLogs has lines of 180 bytes that differ.
func benchLogs(r *telemetry.Resource, lines int) *telemetry.LogBatch {
	b := &telemetry.LogBatch{Resource: r}
	x := uint64(1)
	for i := range lines {
		x = x*6364136223846793005 + 1442695040888963407
		body := fmt.Sprintf(`{"level":"info","ts":%d,"msg":"request served","method":"GET","path":"/cart/%x","status":200,"user":"%x","duration_ms":%d,"bytes":%d,"trace":"%016x"}`,
			i, x>>50, x>>33, x>>55, x>>44, x)
		b.Append(telemetry.LogRecord{Time: 1700000000_000000000 + int64(i)*1000, Observed: 1700000001_000000000,
			Stream: telemetry.Stdout, Pos: int64(i) * 200, Len: 200}, []byte(body))
	}
	return b
}

func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkEncode is the append encoder alone; BenchmarkEncodePdata the same
// records through pdata's structs, as the reference encoder of the tests makes
// them.
func BenchmarkEncode(b *testing.B) {
	e, err := New(testEnv(), Default())
	if err != nil {
		b.Fatal(err)
	}
	list := []*telemetry.LogBatch{benchLogs(pod("a"), 10000)}
	b.SetBytes(int64(len(list[0].Arena)))
	b.ReportAllocs()
	for b.Loop() {
		encodeOnly(b, e, list)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/10000, "ns/record")
}

func BenchmarkEncodePdata(b *testing.B) {
	e, err := New(testEnv(), Default())
	if err != nil {
		b.Fatal(err)
	}
	batch := benchLogs(pod("a"), 10000)
	b.SetBytes(int64(len(batch.Arena)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := plogotlp.NewExportRequestFromLogs(wantLogs(e, batch)).MarshalProto(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/10000, "ns/record")
}

// BenchmarkExportLogs is the whole way to a receiver that decodes with pdata; CPU
// is the whole process's, receiver included.
func BenchmarkExportLogs(b *testing.B) {
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		for _, compression := range []string{"none", "gzip", "zstd"} {
			b.Run(protocol+" "+compression, func(b *testing.B) {
				r := &receiver{}
				if protocol == "grpc" {
					r.startGRPC(b)
				} else {
					r.startHTTP(b, nil)
				}
				e := exporter(b, testEnv(), r.url, func(c *Config) { c.Protocol, c.Compression = protocol, compression })
				list := []*telemetry.LogBatch{benchLogs(pod("a"), 10000)}
				b.SetBytes(int64(len(list[0].Arena)))
				b.ReportAllocs()
				start := cpu()
				for b.Loop() {
					if err := e.ExportLogs(b.Context(), list); err != nil {
						b.Fatal(err)
					}
					r.logs = r.logs[:0]
				}
				used := cpu() - start
				b.ReportMetric(float64(used)/float64(b.N)/10000, "cpu-ns/record")
				b.ReportMetric(float64(b.N*len(list[0].Arena))/1e6/used.Seconds(), "log-MB/cpu-s")
				b.ReportMetric(count(e.m.wireBytes)/float64(b.N*len(list[0].Arena)), "wire/log-byte")
			})
		}
	}
}

// BenchmarkExportLogsPdata is what a pdata client costs on the same way.
func BenchmarkExportLogsPdata(b *testing.B) {
	r := (&receiver{}).startGRPC(b)
	e, err := New(testEnv(), Default())
	if err != nil {
		b.Fatal(err)
	}
	cc, err := grpc.NewClient(r.url[len("http://"):], grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.UseCompressor("gzip")))
	if err != nil {
		b.Fatal(err)
	}
	defer cc.Close()
	client := plogotlp.NewGRPCClient(cc)
	batch := benchLogs(pod("a"), 10000)
	b.SetBytes(int64(len(batch.Arena)))
	b.ReportAllocs()
	start := cpu()
	for b.Loop() {
		if _, err := client.Export(b.Context(), plogotlp.NewExportRequestFromLogs(wantLogs(e, batch))); err != nil {
			b.Fatal(err)
		}
		r.logs = r.logs[:0]
	}
	b.ReportMetric(float64(cpu()-start)/float64(b.N)/10000, "cpu-ns/record")
}
