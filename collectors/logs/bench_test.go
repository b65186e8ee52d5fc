package logs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"nodetap/agent/telemetry"
)

// content is CRI lines of 223 bytes, the mean of real logs.
func content(n int) []byte {
	var b bytes.Buffer
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for i := range n {
		at = at.Add(37 * time.Microsecond)
		line := fmt.Sprintf("%s stdout F INFO [worker-%d] ", at.Format(time.RFC3339Nano), i%64)
		b.WriteString(line + strings.Repeat("x", 222-len(line)) + "\n")
	}
	return b.Bytes()
}

func dockerContent(n int) []byte {
	var b bytes.Buffer
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for i := range n {
		at = at.Add(37 * time.Microsecond)
		fmt.Fprintf(&b, `{"log":"INFO [worker-%d] user=\"%s\"\n","stream":"stdout","time":"%s"}`+"\n", i%64, strings.Repeat("x", 120), at.Format(time.RFC3339Nano))
	}
	return b.Bytes()
}

func benchLines(b *testing.B, data []byte, f func(line []byte)) {
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		for rest := data; len(rest) > 0; {
			i := bytes.IndexByte(rest, '\n')
			f(rest[:i])
			rest = rest[i+1:]
		}
	}
	b.ReportMetric(float64(bytes.Count(data, []byte("\n"))), "lines/op")
}

func BenchmarkSplit(b *testing.B) {
	n := 0
	benchLines(b, content(1000), func(line []byte) { n += len(line) })
}

func BenchmarkParseCRI(b *testing.B) {
	var p parser
	var l line
	benchLines(b, content(1000), func(raw []byte) {
		if !p.parse(raw, &l) {
			b.Fatal("refused")
		}
	})
}

func BenchmarkParseJSONFile(b *testing.B) {
	var p parser
	var l line
	benchLines(b, dockerContent(1000), func(raw []byte) {
		if !p.parse(raw, &l) {
			b.Fatal("refused")
		}
	})
}

// discard takes batches and acknowledges them at once.
type discard struct{ sink }

func (*discard) SendLogs(_ context.Context, b *telemetry.LogBatch) error {
	b.OnAcked()
	b.OnReleased()
	return nil
}

// BenchmarkTurn is the whole path of a worker: read, split, parse, append, send,
// acknowledge. Its allocations are a batch's, none is a line's.
func BenchmarkTurn(b *testing.B) {
	for _, bench := range []struct {
		name string
		data []byte
	}{{"cri", content(40_000)}, {"docker", dockerContent(40_000)}} {
		b.Run(bench.name, func(b *testing.B) {
			path := b.TempDir() + "/0.log"
			if err := os.WriteFile(path, bench.data, 0o600); err != nil {
				b.Fatal(err)
			}
			env, err := testEnv(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			cfg := Default()
			cfg.ResourceWait = 0
			c, err := New(env, cfg)
			if err != nil {
				b.Fatal(err)
			}
			c.reset(&discard{}, nil)
			c.sendCtx = b.Context()
			w := newWorker(c)
			s := c.newSource(podName{"ns", "pod", "uid"}, "ns_pod_uid/app", "app", 0)
			fd, err := openBeneath(mustOpenDir(b, path), "0.log", openFile)
			if err != nil {
				b.Fatal(err)
			}
			st, err := fstat(fd)
			if err != nil {
				b.Fatal(err)
			}
			f := newFile(1, fileName{}, "0.log")
			f.id, f.fd = st.id, fd
			s.add(f)
			defer f.closeFile()
			b.SetBytes(int64(len(bench.data)))
			b.ReportAllocs()
			for b.Loop() {
				f.off, f.eof, f.tail = 0, 0, tail{}
				for w.turn(s).more {
				}
			}
			b.ReportMetric(40_000, "lines/op")
		})
	}
}

func mustOpenDir(b *testing.B, path string) int {
	d, err := os.Open(path[:strings.LastIndexByte(path, '/')])
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { d.Close() })
	return int(d.Fd())
}

// TestNoAllocationPerLine: parsing allocates nothing; what a turn allocates is a
// batch's, see BenchmarkTurn.
func TestNoAllocationPerLine(t *testing.T) {
	var p parser
	var l line
	for name, data := range map[string][]byte{"cri": content(100), "docker": dockerContent(100)} {
		n := testing.AllocsPerRun(20, func() {
			for rest := data; len(rest) > 0; {
				i := bytes.IndexByte(rest, '\n')
				p.parse(rest[:i], &l)
				rest = rest[i+1:]
			}
		})
		if n > 0 {
			t.Errorf("%s: %v allocations for parsing 100 lines", name, n)
		}
	}
}
