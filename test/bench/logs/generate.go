package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// generator makes lines as containers do: by bytes, 60 % plain text, 30 % JSON,
// 8 % Java stack traces and 2 % lines that the runtime splits at 16 KiB, about
// 220 bytes a line of the file. Messages and stack frames come from some hundred
// that a program has, with words, ids, numbers and times that differ each time:
// no line repeats as a whole, and zstd at its fastest makes 0.22 of it, as it
// does of the logs that the peers were measured with.
type generator struct {
	rand  *rand.Rand
	words []string
	texts []string // what a program says
	frame []string // of stack traces
	time  time.Time
	bytes [4]int // by kind
	body  []byte
	rec   int // records so far: a split line is one
}

const splitAt = 16 << 10 // where containerd splits

var shares = [4]float64{0.60, 0.30, 0.08, 0.02}

func newGenerator(seed uint64) *generator {
	g := &generator{rand: rand.New(rand.NewPCG(seed, 7)), time: time.Now().Add(-time.Hour)}
	for range 6000 {
		n := 3 + g.rand.IntN(8)
		w := make([]byte, n)
		for i := range w {
			w[i] = "etaoinshrdlucmfwypvbgkqjxz"[min(g.rand.IntN(26), g.rand.IntN(26))]
		}
		g.words = append(g.words, string(w))
	}
	for range 400 {
		g.texts = append(g.texts, string(g.text(nil, 6+g.rand.IntN(12))))
		g.frame = append(g.frame, "\tat com."+g.word()+"."+g.word()+"."+g.word()+"("+g.word()+".java:"+strconv.Itoa(g.rand.IntN(2000))+")")
	}
	return g
}

// word prefers the frequent ones, as text does.
func (g *generator) word() string {
	return g.words[min(g.rand.IntN(len(g.words)), g.rand.IntN(len(g.words)), g.rand.IntN(len(g.words)))]
}

func (g *generator) hex(b []byte, n int) []byte {
	for range n {
		b = append(b, "0123456789abcdef"[g.rand.IntN(16)])
	}
	return b
}

func (g *generator) text(b []byte, words int) []byte {
	for i := range words {
		if i > 0 {
			b = append(b, ' ')
		}
		b = append(b, g.word()...)
	}
	return b
}

func pick(r *rand.Rand, from []string) string {
	return from[min(r.IntN(len(from)), r.IntN(len(from)))]
}

// next appends the lines of one record or trace to dst.
func (g *generator) next(dst []byte) []byte {
	kind, total := 0, 1
	for _, n := range g.bytes {
		total += n
	}
	for i, share := range shares { // whichever is furthest behind its share
		if share-float64(g.bytes[i])/float64(total) > shares[kind]-float64(g.bytes[kind])/float64(total) {
			kind = i
		}
	}
	before := len(dst)
	b := g.body[:0]
	switch kind {
	case 0:
		b = append(b, []string{"INFO", "INFO", "INFO", "DEBUG", "WARN", "ERROR"}[g.rand.IntN(6)]...)
		b = append(b, " [worker-"...)
		b = strconv.AppendInt(b, int64(g.rand.IntN(64)), 10)
		b = append(b, "] "...)
		b = append(b, pick(g.rand, g.texts)...)
		b = append(b, " user="...)
		b = append(b, g.word()...)
		b = append(b, " id="...)
		b = g.hex(b, 18)
		b = append(b, ' ')
		b = g.text(b, 2+g.rand.IntN(5))
		b = append(b, " took="...)
		b = strconv.AppendFloat(b, g.rand.Float64()*900, 'f', 3, 64)
		b = append(b, "ms"...)
		dst = g.line(dst, b)
	case 1:
		b = append(b, `{"ts":"`...)
		b = g.time.AppendFormat(b, "2006-01-02T15:04:05.000Z07:00")
		b = append(b, `","level":"info","logger":"http.access","msg":"`...)
		b = append(b, pick(g.rand, g.texts)...)
		b = append(b, `","request_id":"`...)
		b = g.hex(b, 24)
		b = append(b, `","path":"/api/v1/`...)
		b = append(b, g.word()...)
		b = append(b, '/')
		b = strconv.AppendInt(b, int64(g.rand.IntN(1e5)), 10)
		b = append(b, `","status":`...)
		b = strconv.AppendInt(b, int64(200+100*g.rand.IntN(4)), 10)
		b = append(b, `,"bytes":`...)
		b = strconv.AppendInt(b, int64(g.rand.IntN(1e5)), 10)
		b = append(b, '}')
		dst = g.line(dst, b)
	case 2:
		b = append(b, "java.lang.IllegalStateException: "...)
		b = append(b, pick(g.rand, g.texts)...)
		dst = g.line(dst, b)
		for range 8 + g.rand.IntN(20) {
			dst = g.line(dst, append(b[:0], pick(g.rand, g.frame)...))
		}
	case 3:
		for len(b) < splitAt+g.rand.IntN(2*splitAt) {
			b = append(b, pick(g.rand, g.texts)...)
			b = append(b, ' ')
			b = g.hex(b, 12)
			b = append(b, ' ')
		}
		dst = g.line(dst, b)
	}
	g.body = b
	g.bytes[kind] += len(dst) - before
	return dst
}

// line appends body as the container runtime writes it.
func (g *generator) line(dst, body []byte) []byte {
	g.rec++
	for {
		g.time = g.time.Add(time.Duration(1+g.rand.IntN(200_000)) * time.Nanosecond)
		dst = g.time.AppendFormat(dst, time.RFC3339Nano)
		n := min(len(body), splitAt)
		tag := " stdout F "
		if n < len(body) {
			tag = " stdout P "
		}
		dst = append(dst, tag...)
		dst = append(dst, body[:n]...)
		dst = append(dst, '\n')
		if body = body[n:]; len(body) == 0 {
			return dst
		}
	}
}

// podDir names the log directory of the i-th pod.
func podDir(root string, i int) string {
	return filepath.Join(root, "pods", fmt.Sprintf("bench_writer-%d_00000000-0000-4000-8000-%012d", i, i), "app")
}

// fill writes size bytes into one log per pod and returns records and bytes.
func fill(root string, files int, size int64, seed uint64) (records int, bytes int64, err error) {
	for i := range files {
		g := newGenerator(seed + uint64(i))
		if err := os.MkdirAll(podDir(root, i), 0o755); err != nil {
			return 0, 0, err
		}
		f, err := os.Create(filepath.Join(podDir(root, i), "0.log"))
		if err != nil {
			return 0, 0, err
		}
		var n int64
		buf := make([]byte, 0, 1<<20)
		for n < size {
			buf = buf[:0]
			for int64(len(buf)) < min(256<<10, size) {
				buf = g.next(buf)
			}
			k, err := f.Write(buf)
			if err != nil {
				return 0, 0, err
			}
			n += int64(k)
		}
		if err := f.Close(); err != nil {
			return 0, 0, err
		}
		records += g.rec
		bytes += n
	}
	return records, bytes, nil
}

// write appends rate lines a second to files logs for d, rotating each at
// rotateAt bytes as kubelet does, and returns records and bytes.
func write(root string, files, rate int, rotateAt int64, d time.Duration, seed uint64) (records int, bytes int64, rotations int, err error) {
	type log struct {
		g    *generator
		f    *os.File
		size int64
	}
	logs := make([]*log, files)
	for i := range logs {
		if err := os.MkdirAll(podDir(root, i), 0o755); err != nil {
			return 0, 0, 0, err
		}
		f, err := os.Create(filepath.Join(podDir(root, i), "0.log"))
		if err != nil {
			return 0, 0, 0, err
		}
		logs[i] = &log{g: newGenerator(seed + uint64(i)), f: f}
	}
	const tick = 20 * time.Millisecond
	begin := time.Now()
	var buf []byte
	for now := begin; now.Sub(begin) < d; {
		due := int(float64(rate) * now.Sub(begin).Seconds() / float64(files))
		for i, l := range logs {
			buf = buf[:0]
			l.g.time = now
			for l.g.rec < due {
				buf = l.g.next(buf)
			}
			n, err := l.f.Write(buf)
			if err != nil {
				return 0, 0, 0, err
			}
			l.size += int64(n)
			bytes += int64(n)
			if l.size < rotateAt {
				continue
			}
			rotations++
			path := filepath.Join(podDir(root, i), "0.log")
			if err := os.Rename(path, path+now.UTC().Format(".20060102-150405")); err != nil {
				return 0, 0, 0, err
			}
			_ = l.f.Close()
			if l.f, err = os.Create(path); err != nil {
				return 0, 0, 0, err
			}
			l.size = 0
		}
		time.Sleep(time.Until(now.Add(tick)))
		now = time.Now()
	}
	for _, l := range logs {
		records += l.g.rec
		_ = l.f.Close()
	}
	return records, bytes, rotations, nil
}
