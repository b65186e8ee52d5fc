package forward

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fluent/fluent-logger-golang/fluent"
	"github.com/tinylib/msgp/msgp"

	"nodetap/agent/telemetry"
)

// benchPod is a pod with metadata of ordinary size: about 450 bytes a record.
func benchPod(i int) *telemetry.Resource {
	name := fmt.Sprintf("checkout-69bb955694-%05d", i)
	return &telemetry.Resource{
		Node: "node-1", Namespace: "shop", Pod: name, PodUID: "e05927d3-a7ed-483c-b60a-a481c216f3dc", PodIP: "10.244.0.3",
		Container: "checkout", ContainerID: strings.Repeat("44c8df1afe316d7a", 4), Image: "registry.example.com/shop/checkout:1.2.3",
		ImageID: "sha256:583263ce95f4b72c23dbda086aa08c3fc6dda8fc5a654b5dc062e30b93e8623c",
		Labels:  map[string]string{"app": "checkout", "pod-template-hash": "69bb955694", "version": "1.2.3"},
	}
}

// benchBatch has lines of 180 bytes that differ.
func benchBatch(r *telemetry.Resource, lines int) *telemetry.LogBatch {
	b := &telemetry.LogBatch{Resource: r}
	x := uint64(1)
	for i := range lines {
		x = x*6364136223846793005 + 1442695040888963407
		body := fmt.Sprintf(`{"level":"info","ts":%d,"msg":"request served","method":"GET","path":"/cart/%x","status":200,"user":"%x","duration_ms":%d,"bytes":%d,"trace":"%016x"}`,
			i, x>>50, x>>33, x>>55, x>>44, x)
		b.Append(telemetry.LogRecord{Time: 1700000000_000000000 + int64(i)*1000, Stream: telemetry.Stdout, Pos: int64(i) * 200}, []byte(body))
	}
	return b
}

func userCPU() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// messageServer acknowledges Message-mode messages: [tag, time, record, options].
func messageServer(b *testing.B) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		r := msgp.NewReader(nc)
		for {
			if _, err := r.ReadArrayHeader(); err != nil {
				return
			}
			for range 3 {
				if r.Skip() != nil {
					return
				}
			}
			options, err := r.ReadMapHeader()
			for ; err == nil && options > 0; options-- {
				var key, value string
				if key, err = r.ReadString(); err == nil {
					if value, err = r.ReadString(); err == nil && key == "chunk" {
						err = writeAck(nc, value)
					}
				}
			}
			if err != nil {
				return
			}
		}
	})
	b.Cleanup(func() { l.Close(); wg.Wait() })
	return l
}

// BenchmarkFluentLogger is fluent-logger-golang's own client with RequestAck:
// one record a call, one round trip a record.
func BenchmarkFluentLogger(b *testing.B) {
	addr := messageServer(b).Addr().(*net.TCPAddr)
	c, err := fluent.New(fluent.Config{FluentHost: "127.0.0.1", FluentPort: addr.Port, RequestAck: true, SubSecondPrecision: true})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	r := benchPod(1)
	batch := benchBatch(r, 1000)
	k8s := map[string]any{"pod_name": r.Pod, "namespace_name": r.Namespace, "pod_id": r.PodUID, "labels": r.Labels, "host": r.Node,
		"pod_ip": r.PodIP, "container_name": r.Container, "docker_id": r.ContainerID, "container_hash": r.ImageID, "container_image": r.Image}
	b.ReportAllocs()
	start := userCPU()
	i := 0
	for b.Loop() {
		rec := &batch.Records[i%1000]
		err := c.PostWithTime("kube.bench", time.Unix(0, rec.Time), map[string]any{
			"stream": "stdout", "log": string(batch.Body(i % 1000)), "kubernetes": k8s})
		if err != nil {
			b.Fatal(err)
		}
		i++
	}
	b.ReportMetric(float64(userCPU()-start)/float64(b.N), "cpu-ns/record")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkExportLogs is ours: 5000 records a call, four calls at once, every
// chunk acknowledged. CPU is the whole process's, receiver included.
func BenchmarkExportLogs(b *testing.B) {
	for _, compression := range []string{"none", "gzip", "zstd"} {
		b.Run(compression, func(b *testing.B) {
			s := (&server{noDecode: true}).start(b)
			e := running(b, s, func(c *Config) { c.Compression = compression })
			const calls, lines = 4, 5000
			var batches [calls][]*telemetry.LogBatch
			bytes := 0
			for i := range batches {
				batches[i] = []*telemetry.LogBatch{benchBatch(benchPod(i), lines)}
				bytes += len(batches[i][0].Arena)
			}
			if err := e.ExportLogs(b.Context(), batches[0]); err != nil {
				b.Fatal(err)
			}
			wire, raw := count(e.m.wireBytes), count(e.m.rawBytes)
			b.ReportAllocs()
			b.SetBytes(int64(bytes))
			start := userCPU()
			for b.Loop() {
				var wg sync.WaitGroup
				for i := range batches {
					wg.Go(func() {
						if err := e.ExportLogs(b.Context(), batches[i]); err != nil {
							b.Error(err)
						}
					})
				}
				wg.Wait()
			}
			cpu := userCPU() - start
			records := float64(b.N * calls * lines)
			b.ReportMetric(float64(cpu)/records, "cpu-ns/record")
			b.ReportMetric(records/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(b.N*bytes)/1e6/cpu.Seconds(), "log-MB/cpu-s")
			b.ReportMetric((count(e.m.rawBytes)-raw)/(count(e.m.wireBytes)-wire), "ratio")
		})
	}
}

// BenchmarkEncode is the encoder alone, per record.
func BenchmarkEncode(b *testing.B) {
	tag, _ := parseTag(DefaultTag)
	r := benchPod(1)
	batch, res := benchBatch(r, 1000), render(tag, r)
	enc, buf := &recordEncoder{}, make([]byte, 0, 2<<20)
	b.ReportAllocs()
	for b.Loop() {
		buf = buf[:0]
		for i := range batch.Records {
			buf = enc.append(buf, batch, i, res)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/record")
}
