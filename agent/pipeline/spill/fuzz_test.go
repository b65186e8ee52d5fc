package spill

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"testing"

	"nodetap/agent/telemetry"
)

// FuzzSegment reads a directory whose segment and position are anything.
func FuzzSegment(f *testing.F) {
	dir := f.TempDir()
	l := open(f, dir)
	add(f, l, full(1), batch(0, 2, 5))
	add(f, l, batch(2, 1, 300))
	seg, err := os.ReadFile(filepath.Join(dir, "0000000000000001.seg"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seg, []byte{})
	f.Add(seg, formatPosition(cursor{1, 32}, nil))
	f.Add(seg[:len(seg)-3], []byte("x"))
	if _, _, err := l.Next(); err != nil {
		f.Fatal(err)
	}
	decoder := l.dec
	f.Fuzz(func(t *testing.T, seg, position []byte) {
		dir := t.TempDir()
		for name, b := range map[string][]byte{"0000000000000001.seg": seg, "position": position} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		lost := 0
		l := open(t, dir, func(o *Options) { o.OnLost = func(n int) { lost += n } })
		l.dec = decoder // making one costs more than the rest
		records := l.Stats().Records
		if got := len(rest(t, l, true)); got+lost != records {
			t.Errorf("%d records: %d came, %d lost", records, got, lost)
		}
		if _, _, err := l.Next(); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	})
}

// FuzzPosition parses anything as the position file.
func FuzzPosition(f *testing.F) {
	f.Add([]byte("nodetap spill position 1: segment 7 offset 4711\nframe 7 4711 30 05\n"))
	f.Add([]byte("nodetap spill position 1: segment 18446744073709551615 offset -1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = fmt.Appendf(b, sumLine, crc32.Checksum(b, castagnoli))
		at, partials, ok := parsePosition(b)
		if !ok {
			return
		}
		if !at.valid() {
			t.Errorf("%+v", at)
		}
		again, p, ok := parsePosition(formatPosition(at, partials))
		if !ok || again != at || len(p) != len(partials) {
			t.Errorf("%+v %v became %+v %v (%v)", at, partials, again, p, ok)
		}
	})
}

// FuzzContent decodes anything as the content of a frame.
func FuzzContent(f *testing.F) {
	f.Add(encode(nil, []*telemetry.LogBatch{full(1), batch(0, 2, 5)}))
	f.Add(encode(nil, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		l := &Log{pool: map[string]*telemetry.Resource{}}
		batches, err := decode(b, l.intern)
		if err != nil {
			return
		}
		size := 0
		for _, lb := range batches {
			for i := range lb.Records {
				size += len(lb.Body(i))
			}
		}
		if size > len(b) {
			t.Errorf("%d bytes became %d", len(b), size)
		}
		// what was read is written and read the same
		again, err := decode(encode(nil, batches), l.intern)
		if err != nil || len(again) != len(batches) {
			t.Fatalf("%d batches became %d: %v", len(batches), len(again), err)
		}
	})
}
