package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// printCodec measures the codec alone on the same content, which is what the
// whole path can reach at most.
func printCodec(o options) error {
	g := newGenerator(o.seed)
	const chunk = 1 << 20
	content := make([]byte, 0, 65<<20)
	for len(content) < 64<<20 {
		content = g.next(content)
	}
	var out []byte
	var encode func(b []byte) int
	switch o.compression {
	case "zstd":
		z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
		if err != nil {
			return err
		}
		encode = func(b []byte) int { out = z.EncodeAll(b, out[:0]); return len(out) }
	case "gzip":
		w := &counter{}
		z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
		if err != nil {
			return err
		}
		encode = func(b []byte) int {
			w.n = 0
			z.Reset(w)
			_, _ = z.Write(b)
			_ = z.Close()
			return w.n
		}
	default:
		return nil
	}
	encode(content[:chunk])
	total := 0
	before := selfCPU()
	for b := content; len(b) > 0; {
		n := min(len(b), chunk)
		total += encode(b[:n])
		b = b[n:]
	}
	cpu := selfCPU() - before
	fmt.Printf("%s alone: %.0f MB per CPU-second, ratio %.3f, %d bytes a line\n", o.compression, float64(len(content))/1e6/cpu.Seconds(), float64(total)/float64(len(content)), len(content)/g.rec)
	return nil
}

type counter struct{ n int }

func (c *counter) Write(b []byte) (int, error) { c.n += len(b); return len(b), nil }

func selfCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// profile fetches a CPU profile of the agent while it works.
func profile(addr, path string) {
	time.Sleep(200 * time.Millisecond)
	resp, err := http.Get("http://" + addr + "/debug/pprof/profile?seconds=4")
	if err != nil {
		fmt.Fprintln(os.Stderr, "profile:", err)
		return
	}
	defer resp.Body.Close()
	f, err := os.Create(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, "profile:", err)
		return
	}
	defer f.Close()
	_, _ = io.Copy(f, resp.Body)
}
