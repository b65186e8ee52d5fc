package logs

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func someEntries() []entry {
	return []entry{
		{uid: 1, dir: "ns_pod_uid/app", base: "0.log", mark: mark{id: fileID{1, 2}, generation: 3, head: head{4, 5}, off: 6, pend: noPend, tailLen: 6, tailHash: 7}},
		{uid: 1<<64 - 1, dir: "ns_pod_uid/app", base: "0.log.20261122-100000.gz", mark: mark{id: fileID{1<<64 - 1, 1<<64 - 1}, generation: 1<<32 - 1, head: head{1024, 1<<64 - 1}, off: 1 << 40, pend: [streams]int64{-1, 5, -1}, tailLen: 64, tailHash: 1}},
	}
}

func TestCheckpointAndJournal(t *testing.T) {
	dir := t.TempDir()
	c, got, warn, err := openCheckpoint(dir)
	if err != nil || warn != nil || len(got) != 0 {
		t.Fatal(got, warn, err)
	}
	if err := c.note(someEntries()); err == nil {
		t.Error("a journal without a checkpoint")
	}
	want := someEntries()
	if err := c.save(want[:1]); err != nil {
		t.Fatal(err)
	}
	reopen := func() []entry {
		t.Helper()
		c, got, warn, err := openCheckpoint(dir)
		if err != nil || warn != nil {
			t.Fatal(warn, err)
		}
		if err := c.close(); err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := reopen(); len(got) != 1 || got[0] != want[0] {
		t.Errorf("got %+v", got)
	}
	moved := want[0]
	moved.off = 99
	if err := c.note([]entry{moved, want[1]}); err != nil {
		t.Fatal(err)
	}
	if got := reopen(); len(got) != 2 || got[0] != moved || got[1] != want[1] {
		t.Errorf("got %+v", got)
	}
	// torn in the middle of a write: what was whole counts
	journal := filepath.Join(dir, "positions.journal")
	b, err := os.ReadFile(journal)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(journal, b[:len(b)-10], 0o600); err != nil {
		t.Fatal(err)
	}
	if got := reopen(); len(got) != 1 || got[0] != moved {
		t.Errorf("got %+v", got)
	}
	// a journal of another epoch does not count
	if err := c.save(want[:1]); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(journal, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := reopen(); len(got) != 1 || got[0] != want[0] {
		t.Errorf("got %+v", got)
	}
}

func TestDamagedCheckpoint(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"flipped":  func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"cut":      func(b []byte) []byte { return b[:len(b)-20] },
		"empty":    func([]byte) []byte { return nil },
		"not ours": func([]byte) []byte { return []byte("something else entirely") },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c, _, _, err := openCheckpoint(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.save(someEntries()); err != nil {
				t.Fatal(err)
			}
			if err := c.close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "positions")
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			bad := damage(b)
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			c, _, warn, err := openCheckpoint(dir)
			if err != nil || warn == nil {
				t.Fatal("not noticed:", warn, err)
			}
			if aside, err := os.ReadFile(path + ".bad"); err != nil || !bytes.Equal(aside, bad) {
				t.Error("it was not set aside:", err)
			}
			if err := c.save(nil); err != nil {
				t.Error("no way on:", err)
			}
			_ = c.close()
		})
	}
}

func TestReaderTakesALaterVersionsLines(t *testing.T) {
	b := []byte("nodetap-logs 2 7 further")
	b = appendSum(b, 0)
	n := len(b)
	e := someEntries()[0]
	line := appendEntry(nil, &e)
	line = line[:bytes.LastIndexByte(line, ' ')]
	b = appendSum(append(append(b, line...), " further"...), n)
	n = len(b)
	b = appendSum(append(b, "unheard of"...), n)
	b = appendEnd(b, 1)
	epoch, got, damaged, whole, err := parseLines(b)
	if err != nil || epoch != 7 || damaged != 0 || !whole || len(got) != 1 || got[0] != e {
		t.Errorf("epoch %d, %+v, %d damaged, whole %t, %v", epoch, got, damaged, whole, err)
	}
}

func FuzzCheckpoint(f *testing.F) {
	b := appendHeader(nil, 3)
	for _, e := range someEntries() {
		b = appendEntry(b, &e)
	}
	f.Add(appendEnd(b, 2))
	f.Add(appendHeader(nil, 1))
	f.Add([]byte("nodetap-logs 1 1 0\nfile\nend\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, entries, _, _, err := parseLines(b)
		if err != nil {
			return
		}
		for _, e := range entries {
			line := appendEntry(nil, &e)
			fields, err := checkLine(bytes.TrimSuffix(line, []byte("\n")))
			if err != nil {
				t.Fatal(err)
			}
			if again, err := parseEntry(fields); err != nil || again != e {
				t.Fatalf("%+v came back as %+v: %v", e, again, err)
			}
		}
	})
}

func TestMarksMoveOnlyWithoutAGap(t *testing.T) {
	var k tracker
	f := &file{}
	at := func(off int64) []snap { return []snap{{f, mark{off: off}}} }
	a, b, c := k.push(at(1)), k.push(at(2)), k.push(at(3))
	for _, step := range []struct {
		n     uint64
		moved bool
		off   int64
		left  int
	}{{c, false, 0, 3}, {a, true, 1, 2}, {a, false, 1, 2}, {b, true, 3, 0}, {99, false, 3, 0}} {
		if moved := k.ack(step.n); moved != step.moved || f.saved.off != step.off || k.waiting() != step.left {
			t.Errorf("ack %d: moved %t, at %d, %d left", step.n, moved, f.saved.off, k.waiting())
		}
	}
}

func TestPoolKeepsItsLimit(t *testing.T) {
	fed := 0
	p := newPool(1<<20, 64<<10, func() { fed++ })
	var out []*buffer
	for {
		b := p.get(64 << 10)
		if b == nil {
			break
		}
		out = append(out, b)
	}
	if p.lent() > 1<<20 || len(out) < 5 {
		t.Fatalf("%d buffers, %d bytes", len(out), p.lent())
	}
	if fed != 0 || !p.hungry() {
		t.Error("nobody is hungry")
	}
	p.put(out[0])
	if fed != 1 {
		t.Error("the hungry were not told")
	}
	if b := p.get(10); b == nil || cap(b.arena) != 4<<10 {
		t.Error("no small one")
	}
	for _, b := range out[1:] {
		p.put(b)
	}
	small := p.lent()
	if big := p.get(5 << 20); big == nil && small == 0 {
		t.Error("a line larger than the limit never gets through")
	}
	for range 10 {
		p.trim()
	}
	if p.kept != 0 {
		t.Errorf("%d bytes are kept for ever", p.kept)
	}
}

func TestTail(t *testing.T) {
	var a tail
	var all []byte
	for i := range 200 {
		b := bytes.Repeat([]byte{byte(i)}, i%90)
		a.push(b)
		all = append(all, b...)
		want := all[max(0, len(all)-tailBytes):]
		if !bytes.Equal(a.bytes(), want) {
			t.Fatalf("after %d: %v, want %v", i, a.bytes(), want)
		}
	}
}
