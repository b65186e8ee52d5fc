package pipeline

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"nodetap/agent/component"
)

var errDown = errors.New("connection refused")

// dead makes a backend refuse while down is set.
func dead(down *atomic.Bool) *backend {
	return &backend{answer: func(int, []string) error {
		if down.Load() {
			return errDown
		}
		return nil
	}}
}

func spillQueue() QueueConfig {
	c := small()
	c.Flush = 100 * time.Millisecond
	c.Spill = SpillConfig{MaxBytes: 64 << 20}
	return c
}

func TestOneOfTwoRequiredReceiversDeadForMinutesDoesNotDelayTheOther(t *testing.T) {
	for _, tc := range []struct {
		name   string
		outage time.Duration
		dead   func(down *atomic.Bool) *backend
	}{
		{"it refuses", 10 * time.Minute, dead},
		{"it hangs", 3 * time.Minute, func(down *atomic.Bool) *backend {
			return &backend{delay: func(int) time.Duration {
				if down.Load() {
					return 1000 * time.Hour
				}
				return 0
			}}
		}},
		{"it asks to wait", 3 * time.Minute, func(down *atomic.Bool) *backend {
			return &backend{answer: func(int, []string) error {
				if down.Load() {
					return &component.Retry{After: 20 * time.Second, Err: errDown}
				}
				return nil
			}}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const files, every = 5, 50 * time.Millisecond
				var down atomic.Bool
				a, b := tc.dead(&down), &backend{}
				r := start(t, Options{StateDir: t.TempDir(), Exporters: []Instance{
					{Name: "a", Exporter: a, Required: true, Queue: spillQueue()},
					{Name: "b/x", Exporter: b, Required: true, Queue: spillQueue()},
				}})
				c := &counted{t: t}
				sent := 0
				one := func() {
					lb := logBatch(fmt.Sprintf("f%d", sent%files), sent/files*4, 4, 100)
					c.watch(&lb.OnAcked, &lb.OnReleased)
					r.send(lb)
					sent++
				}
				worst := time.Duration(0)
				phase := func(d time.Duration) {
					for begin := time.Now(); time.Since(begin) < d; time.Sleep(every) {
						before := time.Now()
						one()
						worst = max(worst, time.Since(before))
					}
				}
				phase(10 * time.Second)
				down.Store(true)
				phase(tc.outage)
				if got := r.value("nodetap_exporter_detached", "exporter", "a"); got != 1 {
					t.Errorf("detached = %v after %v", got, tc.outage)
				}
				if lag := r.value("nodetap_exporter_lag_seconds", "exporter", "a"); lag < (tc.outage - time.Minute).Seconds() {
					t.Errorf("lag of the dead one = %v s, the oldest record is on disk", lag)
				}
				if lag := r.value("nodetap_exporter_lag_seconds", "exporter", "b/x"); lag > 5 {
					t.Errorf("lag of the living one = %v s", lag)
				}
				c.mu.Lock()
				unacked := sent - c.acked
				c.mu.Unlock()
				if unacked > 20 { // what is on disk is safe: checkpoints move on
					t.Errorf("%d of %d batches are not acknowledged in the outage", unacked, sent)
				}
				r.wantBalance("a")
				down.Store(false)
				phase(2 * time.Minute)
				if got := r.value("nodetap_exporter_detached", "exporter", "a"); got != 0 {
					t.Errorf("still detached 2 minutes after the outage")
				}
				for sent%files != 0 {
					one()
				}
				if err := r.drain(time.Minute); err != nil {
					t.Error(err)
				}
				for _, e := range []*backend{a, b} {
					wantOrdered(t, e.received(), files, sent/files*4)
				}
				c.want(sent, sent)
				for _, lag := range b.seen().lags {
					if lag > 5*time.Second {
						t.Fatalf("a record came to the living one after %v", lag)
					}
				}
				if worst > 5*time.Second {
					t.Errorf("a sender waited for %v", worst)
				}
				if got := r.value("nodetap_exporter_dropped_records_total"); got != 0 {
					t.Errorf("dropped = %v", got)
				}
				r.wantBalance("a")
				r.wantBalance("b/x")
			})
		})
	}
}

func TestWhenAllRequiredAreDeadReadingStopsAndNothingIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		down.Store(true)
		a, b := dead(&down), dead(&down)
		dir := t.TempDir()
		r := start(t, Options{StateDir: dir, Exporters: []Instance{
			{Name: "a", Exporter: a, Required: true, Queue: spillQueue()},
			{Name: "b", Exporter: b, Required: true, Queue: spillQueue()},
		}})
		n, err := fill(r, 5*time.Minute)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if files, _ := filepath.Glob(filepath.Join(dir, "pipeline", "*", "*")); len(files) != 0 {
			t.Errorf("written: %v", files)
		}
		down.Store(false)
		time.Sleep(time.Minute)
		if err := r.drain(time.Minute); err != nil {
			t.Error(err)
		}
		wantOrdered(t, a.received(), 1, n)
		wantOrdered(t, b.received(), 1, n)
	})
}

// fill sends lines of one file until a send takes longer than wait, and returns
// how many were taken.
func fill(r *rig, wait time.Duration) (int, error) {
	for n := 0; ; n += 10 {
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		err := r.sink.SendLogs(ctx, logBatch("f", n, 10, 100))
		cancel()
		if err != nil {
			return n, err
		}
		if n > 1_000_000 {
			return n, errors.New("never full")
		}
	}
}

func TestASlowExporterIsDetachedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := &backend{delay: func(int) time.Duration { return time.Second }}, &backend{}
		cfg := spillQueue()
		cfg.Window = 1
		r := start(t, Options{StateDir: t.TempDir(), Exporters: []Instance{
			{Name: "a", Exporter: a, Required: true, Queue: cfg},
			{Name: "b", Exporter: b, Required: true, Queue: cfg},
		}})
		n := 0
		for begin := time.Now(); time.Since(begin) < 5*time.Minute; time.Sleep(50 * time.Millisecond) {
			r.send(logBatch("f", n, 10, 100))
			n += 10
		}
		if got := r.value("nodetap_exporter_detached_total", "exporter", "a"); got != 1 {
			t.Errorf("detached %v times", got)
		}
		synctest.Wait()
		lags := b.seen().lags
		late := lags[len(lags)-100:]
		if slices.Max(late) > time.Second {
			t.Errorf("the fast one's lag is %v", slices.Max(late))
		}
		if err := r.drain(time.Hour); err != nil {
			t.Error(err)
		}
		r.wantBalance("a")
		wantOrdered(t, b.received(), 1, n)
		got := a.received()
		wantOrdered(t, got, 1, len(got)) // the rest is on disk
	})
}

func TestSpilledLogsSurviveARestart(t *testing.T) {
	for _, kill := range []bool{false, true} {
		t.Run(fmt.Sprintf("kill=%v", kill), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				var down atomic.Bool
				down.Store(true)
				a, b := dead(&down), &backend{}
				exporters := []Instance{
					{Name: "a", Exporter: a, Required: true, Queue: spillQueue()},
					{Name: "b", Exporter: b, Required: true, Queue: spillQueue()},
				}
				r := start(t, Options{StateDir: dir, Exporters: exporters})
				c := &counted{t: t}
				const batches = 300
				for i := range batches {
					lb := logBatch("f", i*4, 4, 100)
					c.watch(&lb.OnAcked, &lb.OnReleased)
					r.send(lb)
					time.Sleep(50 * time.Millisecond)
				}
				time.Sleep(10 * time.Second)
				c.mu.Lock()
				acked := c.acked
				c.mu.Unlock()
				if acked != batches {
					t.Fatalf("%d of %d batches acknowledged", acked, batches)
				}
				copied := t.TempDir()
				if kill { // what a process that is killed now leaves
					if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
						t.Fatal(err)
					}
				}
				if err := r.drain(10 * time.Second); err == nil {
					t.Error("drain delivered to a dead backend")
				}
				if kill {
					dir = copied
				}
				down.Store(false)
				// the other exporter is gone from the configuration: what is on disk
				// is delivered all the same, before what is new
				r = start(t, Options{StateDir: dir, Exporters: exporters[:1]})
				for i := range 10 {
					r.send(logBatch("f", (batches+i)*4, 4, 100))
				}
				time.Sleep(time.Minute)
				wantOrdered(t, a.received(), 1, (batches+10)*4)
				if err := r.drain(time.Second); err != nil {
					t.Error(err)
				}
				r.wantBalance("a")
				if files, _ := filepath.Glob(filepath.Join(dir, "pipeline", "a", "*.seg")); len(files) != 0 {
					t.Errorf("left on disk: %v", files)
				}
			})
		})
	}
}

func TestFullSpill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		down.Store(true)
		a, b := dead(&down), &backend{}
		cfg := spillQueue()
		p := Options{StateDir: t.TempDir(), Exporters: []Instance{
			{Name: "a", Exporter: a, Required: true, Queue: cfg},
			{Name: "b", Exporter: b, Required: true, Queue: cfg},
		}}
		p.Exporters[0].Queue.Spill.MaxBytes = 16 << 20
		r := start(t, p)
		limitSpill(r, 0, 20<<10)
		sent := 0
		for range 4000 {
			r.send(logBatch("f", sent, 10, 100))
			sent += 10
			time.Sleep(50 * time.Millisecond)
		}
		dropped := r.value("nodetap_exporter_dropped_records_total", "exporter", "a", "reason", "spill_full")
		if dropped == 0 || r.value("nodetap_exporter_spill_errors_total", "exporter", "a") == 0 {
			t.Errorf("dropped = %v", dropped)
		}
		if got := r.value("nodetap_exporter_spill_bytes", "exporter", "a"); got > 20<<10 || got < 10<<10 {
			t.Errorf("spill bytes = %v", got)
		}
		down.Store(false)
		time.Sleep(2 * time.Minute)
		if err := r.drain(time.Minute); err != nil {
			t.Error(err)
		}
		wantOrdered(t, b.received(), 1, sent)
		dropped = r.value("nodetap_exporter_dropped_records_total", "exporter", "a", "reason", "spill_full")
		if got := len(a.received()); got+int(dropped) != sent {
			t.Errorf("%d came, %v were dropped, %d were sent", got, dropped, sent)
		}
		lags := b.seen().lags
		if lag := slices.Max(lags[len(lags)-100:]); lag > 5*time.Second {
			t.Errorf("the living one's lag is %v", lag)
		}
		r.wantBalance("a")
	})
}

func TestDiskThatFailsMakesTheSenderWaitWhileTheBackendIsAwayForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		var down atomic.Bool
		down.Store(true)
		a, b := dead(&down), &backend{}
		cfg := spillQueue()
		cfg.Retry.Max = time.Second
		r := start(t, Options{StateDir: dir, Exporters: []Instance{
			{Name: "a", Exporter: a, Required: true, Queue: cfg},
			{Name: "b", Exporter: b, Required: true, Queue: cfg},
		}})
		if err := os.WriteFile(filepath.Join(dir, "pipeline"), nil, 0o600); err != nil {
			t.Fatal(err) // a file where the directory should be
		}
		time.AfterFunc(20*time.Second, func() { down.Store(false) })
		for i := range 400 {
			r.send(logBatch("f", i*10, 10, 100))
		}
		if err := r.drain(time.Minute); err != nil {
			t.Error(err)
		}
		wantOrdered(t, a.received(), 1, 4000)
		wantOrdered(t, b.received(), 1, 4000)
		if r.value("nodetap_exporter_spill_errors_total", "exporter", "a") == 0 {
			t.Error("the disk did not fail")
		}
		r.wantBalance("a")
		if got := r.value("nodetap_exporter_dropped_records_total"); got != 0 {
			t.Errorf("dropped = %v", got)
		}
	})
}

// limitSpill lowers the cap below what the configuration allows.
func limitSpill(r *rig, exporter int, bytes int64) {
	r.queues[signalLogs][exporter].detach.log.Limit(bytes)
}

// A call that ends while its batches are being written leaves them to the
// writer, who still reads them.
func TestCallThatEndsWhileItIsWrittenToDisk(t *testing.T) {
	for _, writeFails := range []bool{false, true} {
		t.Run(fmt.Sprintf("fails=%v", writeFails), func(t *testing.T) {
			p, err := New(Options{StateDir: t.TempDir(), Exporters: []Instance{
				{Name: "a", Exporter: &backend{}, Required: true, Queue: spillQueue()},
				{Name: "b", Exporter: &backend{}, Required: true, Queue: spillQueue()},
			}, Routes: Routes{{Match: Match{Containers: []string{"other"}}, Exporters: []string{"b"}}, {Exporters: []string{"a"}}}})
			if err != nil {
				t.Fatal(err)
			}
			c := &counted{t: t}
			lb := logBatch("f", 0, 3, 10)
			c.watch(&lb.OnAcked, &lb.OnReleased)
			if err := p.Sink("test").SendLogs(context.Background(), lb); err != nil {
				t.Fatal(err)
			}
			q := p.queues[signalLogs][0]
			s := &spiller{p, q}
			var cl call
			if !q.next(&cl) {
				t.Fatal("no call")
			}
			it := cl.parts[0].it
			it.pinned = true // as write does
			places, err := s.commit([]*item{it}, nil)
			if err != nil {
				t.Fatal(err)
			}
			q.settle(cl.parts, nil)
			c.want(0, 0)
			if writeFails {
				s.failed(time.Now(), []*item{it}, nil, errDown)
			} else {
				s.wrote([]*item{it}, nil, places)
				if !q.detach.log.Dirty() {
					t.Error("its place on disk is not done")
				}
			}
			c.want(1, 1)
			q.end(&cl)
			if st := q.state(); st.records != 0 || st.bytes != 0 {
				t.Errorf("%+v", st)
			}
			if err := p.Drain(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
}
