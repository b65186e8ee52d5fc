package logs

import (
	"context"
	"encoding/gob"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"nodetap/agent/telemetry"
)

// fromAgent is what the agent's process says: a batch, or that an acknowledged
// one is on disk.
type fromAgent struct {
	Batch   int
	Bodies  []string
	IDs     []string
	Durable bool
}

// agentProcess is the agent of TestKillLosesNothing, in a process of its own. It
// sends what it collects to the test and acknowledges what the test does.
func agentProcess(dir string) {
	conn, err := net.Dial("unix", filepath.Join(dir, "sock"))
	if err != nil {
		panic(err)
	}
	env, err := testEnv(dir)
	if err != nil {
		panic(err)
	}
	cfg := Default()
	cfg.ResourceWait, cfg.ExcludeOwnLogs = 0, false
	cfg.BatchBytes = 16 << 10
	cfg.PollMin, cfg.FlushInterval = 2*time.Millisecond, 20*time.Millisecond
	cfg.RotatedLinger, cfg.DeletedLinger = 200*time.Millisecond, 200*time.Millisecond
	c, err := New(env, cfg)
	if err != nil {
		panic(err)
	}
	s := &remoteSink{c: c, enc: gob.NewEncoder(conn), sent: map[int]*telemetry.LogBatch{}}
	c.noted = s.noted
	go func() {
		dec := gob.NewDecoder(conn)
		for {
			var n int
			if dec.Decode(&n) != nil {
				os.Exit(0)
			}
			s.acked(n)
		}
	}()
	if err := c.Run(context.Background(), s); err != nil {
		panic(err)
	}
}

type remoteSink struct {
	c   *Collector
	mu  sync.Mutex
	enc *gob.Encoder
	n   int
	// by number
	sent map[int]*telemetry.LogBatch
	// acknowledged, in order, with Collector.change behind the acknowledgement
	waiting []durable
	told    uint64 // the last that noted was told: it may come before acked has queued what it is about
}

type durable struct {
	n      int
	change uint64
}

func (s *remoteSink) WantsLogs() bool                                       { return true }
func (s *remoteSink) WantsSpans() bool                                      { return false }
func (s *remoteSink) SendSpans(context.Context, *telemetry.SpanBatch) error { return nil }

func (s *remoteSink) SendLogs(_ context.Context, b *telemetry.LogBatch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	m := fromAgent{Batch: s.n}
	for i := range b.Records {
		m.Bodies = append(m.Bodies, string(b.Body(i)))
		m.IDs = append(m.IDs, string(b.AppendID(nil, i)))
	}
	s.sent[s.n] = b
	return s.enc.Encode(m)
}

func (s *remoteSink) acked(n int) {
	s.mu.Lock()
	b := s.sent[n]
	delete(s.sent, n)
	s.mu.Unlock()
	b.OnAcked()
	s.mu.Lock()
	s.waiting = append(s.waiting, durable{n, s.c.change.Load()})
	s.tell()
	s.mu.Unlock()
	b.OnReleased()
}

func (s *remoteSink) noted(change uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = max(s.told, change)
	s.tell()
}

func (s *remoteSink) tell() {
	for len(s.waiting) > 0 && s.waiting[0].change <= s.told {
		_ = s.enc.Encode(fromAgent{Batch: s.waiting[0].n, Durable: true})
		s.waiting = s.waiting[1:]
	}
}

// writer is a container that writes numbered lines, with its kubelet.
type writer struct {
	n         *node
	dir       string
	rand      *rand.Rand
	next      int
	rotations int
	kept      []rotated // rotated files, oldest first
	first     int       // number in the file that is written to
	got       *ledger
	away      bool // the agent is
}

type rotated struct {
	name   string // without .gz
	gz     bool
	behind int // the number behind its last line
}

func (w *writer) lines(n int) {
	var b strings.Builder
	for range n {
		body := fmt.Sprintf("%s %07d %s", filepath.Base(filepath.Dir(w.dir)), w.next, strings.Repeat("x", w.rand.IntN(200)))
		w.next++
		w.got.wrote(body)
		stream := []string{"stdout", "stderr"}[w.rand.IntN(2)]
		for w.rand.IntN(10) == 0 { // split, with the other stream's lines between
			k := w.rand.IntN(len(body) + 1)
			b.WriteString(w.n.tagged(stream, "P", body[:k]))
			body = body[k:]
			if w.rand.IntN(3) == 0 {
				other := map[string]string{"stdout": "stderr", "stderr": "stdout"}[stream]
				between := fmt.Sprintf("%s %07d between", filepath.Base(filepath.Dir(w.dir)), w.next)
				w.next++
				w.got.wrote(between)
				b.WriteString(w.n.tagged(other, "F", between))
			}
			if w.rand.IntN(20) == 0 {
				w.n.write(w.dir+"/0.log", b.String())
				b.Reset()
				w.rotate()
			}
		}
		b.WriteString(w.n.tagged(stream, "F", body))
	}
	w.n.write(w.dir+"/0.log", b.String())
}

// rotate does what kubelet does: what was rotated before is compressed. Kubelet
// lets seconds pass between two rotations; here the agent must have seen a file
// before the next.
func (w *writer) rotate() {
	if !w.away {
		if w.next-w.first < 5 {
			return
		}
		w.got.await(w.n.t, w, func() bool { return w.got.received(w, w.first+1) })
	}
	w.first = w.next
	for i := range w.kept {
		if r := &w.kept[i]; !r.gz {
			w.n.gzip(w.dir + "/" + r.name)
			r.gz = true
		}
	}
	w.rotations++
	r := rotated{name: fmt.Sprintf("0.log.20261122-%06d", w.rotations), behind: w.next + 1}
	w.n.rename(w.dir+"/0.log", w.dir+"/"+r.name)
	w.n.write(w.dir+"/0.log", "")
	w.kept = append(w.kept, r)
}

// expire deletes rotated files that were delivered whole, but for one: those
// that kubelet deletes before are outside of what can be promised.
func (w *writer) expire(delivered func(below int) bool) {
	for len(w.kept) > 1 && delivered(w.kept[0].behind) {
		name := w.dir + "/" + w.kept[0].name
		if w.kept[0].gz {
			name += ".gz"
		}
		w.n.remove(name)
		w.kept = w.kept[1:]
	}
}

// kills is how often TestKillLosesNothing does.
const kills = 8

// TestKillLosesNothing kills the agent again and again while three containers
// write, split lines and rotate, with compression. Every line must arrive, and
// none twice whose acknowledgement was on disk.
func TestKillLosesNothing(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed) // shown when it fails
	rnd := rand.New(rand.NewPCG(seed, 1))
	n := newNode(t)
	ln, err := net.Listen("unix", n.path("sock"))
	n.check(err)
	defer ln.Close()

	var writers []*writer
	for i := range 3 {
		writers = append(writers, &writer{n: n, dir: fmt.Sprintf("pods/ns_pod%d_uid-%d/app", i, i), rand: rnd})
	}
	got := &ledger{lines: map[string]*delivery{}, written: map[string]bool{}}
	for _, w := range writers {
		w.got = got
	}
	for kill := range kills + 1 {
		for _, w := range writers { // while the agent is away
			w.away = true
			for range rnd.IntN(3) {
				w.lines(rnd.IntN(300))
				w.rotate()
			}
			w.lines(rnd.IntN(100))
			w.away = false
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "NODETAP_LOGS_TEST_AGENT="+n.root)
		cmd.Stderr = os.Stderr
		n.check(cmd.Start())
		t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
		conn, err := ln.Accept()
		n.check(err)
		received := make(chan struct{})
		lag := rnd.Uint64()
		go func() {
			defer close(received)
			got.receive(conn, kill, lag)
		}()
		for range 5 + rnd.IntN(20) { // while it runs
			w := writers[rnd.IntN(len(writers))]
			w.lines(rnd.IntN(400))
			if rnd.IntN(4) == 0 {
				w.rotate()
			}
			w.expire(func(below int) bool { return got.all(w, below) })
			time.Sleep(time.Duration(rnd.IntN(5)) * time.Millisecond)
		}
		if kill == kills {
			for _, w := range writers {
				got.await(t, w, func() bool { return got.received(w, w.next) && got.settled() })
			}
		}
		n.check(cmd.Process.Kill())
		_ = cmd.Wait()
		conn.Close()
		<-received
		got.check(t)
	}
	got.mu.Lock()
	defer got.mu.Unlock()
	twice, wrong := 0, 0
	ids := map[string]string{}
	for body, d := range got.lines {
		if old, ok := ids[d.id]; ok {
			t.Errorf("lines %.20q and %.20q have the id %s", old, body, d.id)
		}
		ids[d.id] = body
		twice += d.times - 1
		if d.wrong {
			wrong++
		}
		if d.otherID != "" {
			t.Errorf("line %.20q has the ids %s and %s", body, d.id, d.otherID)
		}
	}
	total := 0
	for _, w := range writers {
		total += w.next
	}
	if wrong > 0 {
		t.Errorf("%d lines came again though their acknowledgement was on disk", wrong)
	}
	t.Logf("%d lines, %d kills, %d came twice, unacknowledged", total, kills, twice)
}

// ledger is what has arrived.
type ledger struct {
	mu              sync.Mutex
	lines           map[string]*delivery
	written         map[string]bool
	strange         []string // arrived, and nobody wrote it
	arrived, onDisk numberSet
	unsettled       int // batches of this life whose acknowledgement is not known to be on disk
}

// numberSet tells below which number all of a writer's lines are there.
type numberSet struct {
	have  map[string]map[int]bool
	below map[string]int
}

type delivery struct {
	id, otherID string
	times       int
	durable     bool // its acknowledgement is on disk
	wrong       bool // it came after that
}

func (l *ledger) receive(conn net.Conn, life int, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 2))
	dec, enc := gob.NewDecoder(conn), gob.NewEncoder(conn)
	batches := map[int][]string{}
	var owed []int
	before := "" // the record before
	l.mu.Lock()
	l.unsettled = 0
	l.mu.Unlock()
	for {
		var m fromAgent
		if dec.Decode(&m) != nil {
			return
		}
		l.mu.Lock()
		if m.Durable {
			for _, body := range batches[m.Batch] {
				l.lines[body].durable = true
				l.onDisk.add(body)
			}
			delete(batches, m.Batch)
			l.unsettled--
			l.mu.Unlock()
			continue
		}
		batches[m.Batch] = m.Bodies
		l.unsettled++
		for i, body := range m.Bodies {
			d := l.lines[body]
			if d == nil {
				d = &delivery{id: m.IDs[i]}
				l.lines[body] = d
			}
			d.times++
			d.wrong = d.wrong || d.durable
			if m.IDs[i] != d.id {
				d.otherID = m.IDs[i]
			}
			l.arrived.add(body)
			if !l.written[body] {
				l.strange = append(l.strange, fmt.Sprintf("life %d, batch %d: %s %q behind %q", life, m.Batch, m.IDs[i], body, before))
			}
			before = body
		}
		l.mu.Unlock()
		owed = append(owed, m.Batch)
		if life == kills || rnd.IntN(3) > 0 { // acknowledgements lag behind
			for _, n := range owed {
				if enc.Encode(n) != nil {
					break
				}
			}
			owed = owed[:0]
		}
	}
}

func (s *numberSet) add(body string) {
	var writer string
	var n int
	if _, err := fmt.Sscanf(body, "%s %d", &writer, &n); err != nil {
		return // the ledger notes it as strange
	}
	if s.have == nil {
		s.have, s.below = map[string]map[int]bool{}, map[string]int{}
	}
	if s.have[writer] == nil {
		s.have[writer] = map[int]bool{}
	}
	s.have[writer][n] = true
	for s.have[writer][s.below[writer]] {
		s.below[writer]++
	}
}

func (l *ledger) wrote(body string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.written[body] = true
}

// check ends the test when something arrived that nobody wrote: what it is a
// part of would be waited for in vain.
func (l *ledger) check(t testing.TB) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.strange {
		t.Errorf("a line that nobody wrote: %s", s)
	}
	if len(l.strange) > 0 {
		t.FailNow()
	}
}

// awaitTime bounds one wait for the agent: far more than it ever needs, and less
// than go test's own limit, which would say nothing about what is missing.
const awaitTime = 45 * time.Second

// await ends the test with the lines that are missing, if they do not come.
func (l *ledger) await(t testing.TB, w *writer, done func() bool) {
	t.Helper()
	for began := time.Now(); !done(); time.Sleep(time.Millisecond) {
		l.check(t)
		if time.Since(began) > awaitTime {
			l.missing(t, w)
		}
	}
}

// missing fails the test with what of a writer did not arrive, or is not known
// to be on the agent's disk.
func (l *ledger) missing(t testing.TB, w *writer) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	name := filepath.Base(filepath.Dir(w.dir))
	said, silent := 0, 0
	for n := range w.next {
		switch {
		case l.onDisk.have[name][n]:
		case l.arrived.have[name][n]:
			silent++
		case said < 20:
			t.Errorf("%s line %d of %d did not arrive", name, n, w.next)
			said++
		}
	}
	if silent > 0 {
		t.Errorf("%s: %d lines arrived and are not known to be acknowledged on disk, which a kill right behind it leaves too", name, silent)
	}
	t.Fatalf("%s: waited %s: %d batches not acknowledged on disk, rotated %d times, files %+v, the newest begins with line %d", name, awaitTime, l.unsettled, w.rotations, w.kept, w.first)
}

func (l *ledger) received(w *writer, below int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.arrived.below[filepath.Base(filepath.Dir(w.dir))] >= below
}

// settled tells whether the acknowledgements of all batches that this life of
// the agent has sent are on disk.
func (l *ledger) settled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unsettled == 0
}

// all tells whether every line below a number has arrived, and is known on the
// agent's disk to have arrived: half of a split line in a file that is deleted
// before could not be read again. It stays false for a line whose acknowledgement
// came to disk right before a kill: the agent could not say so any more, and
// does not send it again.
func (l *ledger) all(w *writer, below int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.onDisk.below[filepath.Base(filepath.Dir(w.dir))] >= below
}
