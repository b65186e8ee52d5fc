package pipeline

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"nodetap/agent/component"
	"nodetap/agent/telemetry"
)

func TestLinesOfAFileStayInOrderWithAWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(1, 2))
		var mu sync.Mutex
		b := &backend{delay: func(int) time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return time.Duration(rng.IntN(100)) * time.Millisecond
		}}
		r := start(t, Options{Exporters: []Instance{{Name: "a", Exporter: b, Required: true, Queue: small()}}})
		const files, batches = 7, 60
		c := &counted{t: t}
		busiest := 0.0
		for i := range batches {
			for f := range files {
				lb := logBatch(fmt.Sprintf("f%d", f), i*10, 10, 50)
				c.watch(&lb.OnAcked, &lb.OnReleased)
				r.send(lb)
			}
			busiest = max(busiest, r.value("nodetap_exporter_inflight_calls"))
		}
		if err := r.drain(time.Minute); err != nil {
			t.Error(err)
		}
		wantOrdered(t, b.received(), files, batches*10)
		c.want(files*batches, files*batches)
		if busiest < 3 {
			t.Errorf("at most %v calls were in flight with a window of 4", busiest)
		}
		r.wantBalance("a")
	})
}

// wantOrdered checks that lines 0..n-1 of each file came once and in order.
func wantOrdered(t *testing.T, got []string, files, n int) {
	t.Helper()
	next := map[string]int{}
	for _, g := range got {
		path, body, _ := strings.Cut(g, ":")
		var i int
		if _, err := fmt.Sscanf(body, "%d", &i); err != nil {
			t.Fatal(err)
		}
		if i != next[path] {
			t.Fatalf("%s: line %d came where %d was due", path, i, next[path])
		}
		next[path]++
	}
	if len(next) != files {
		t.Errorf("lines of %d files came, want %d", len(next), files)
	}
	for path, k := range next {
		if k != n {
			t.Errorf("%s: %d lines came, want %d", path, k, n)
		}
	}
}

func TestCallsAreMergedAndBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backend{}
		cfg := small()
		cfg.Flush = time.Second
		r := start(t, Options{Exporters: []Instance{{Name: "a", Exporter: b, Required: true, Queue: cfg}}})
		begin := time.Now()
		for i := range 5 {
			r.send(logBatch(fmt.Sprint(i), 0, 2, 10))
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if b.seen().calls != 1 || b.seen().sizes[0] != 10 || b.seen().at[0].Sub(begin) != time.Second {
			t.Fatalf("calls of %v records at %v; want one of 10 after the flush time", b.seen().sizes, b.seen().at)
		}
		// what fills a call does not wait
		for i := range 5 {
			r.send(logBatch(fmt.Sprint(i), 0, 20, 10))
		}
		synctest.Wait()
		if b.seen().calls != 2 || b.seen().sizes[1] != 60 {
			t.Fatalf("calls of %v records, want a second of 60, filled to max_batch_bytes", b.seen().sizes)
		}
		time.Sleep(time.Minute)
		// a batch larger than a call leaves in pieces, larger than the queue too
		r.send(logBatch("big", 0, 1000, 100))
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, n := range b.seen().sizes[3:] {
			if n*(100+96) > 8<<10 {
				t.Errorf("a call of %d records is larger than max_batch_bytes", n)
			}
		}
		if got := len(b.received()); got != 10+100+1000 {
			t.Errorf("%d records came", got)
		}
		if err := r.drain(time.Second); err != nil {
			t.Error(err)
		}
	})
}

func TestFailedCallsAreTriedAgainWithBackoff(t *testing.T) {
	for _, tc := range []struct {
		name     string
		err      error
		fails    int
		min, max []time.Duration // of each wait
	}{
		{"any error, doubling with jitter", errors.New("down"), 4, []time.Duration{0, 0, 0, 0},
			[]time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 2 * time.Second}},
		{"the backend's hint is waited for", &component.Retry{After: 7 * time.Second, Err: errors.New("throttled")}, 2,
			[]time.Duration{7 * time.Second, 7 * time.Second}, []time.Duration{7500 * time.Millisecond, 7500 * time.Millisecond}},
		{"an absurd hint is cut", &component.Retry{After: 1000 * time.Hour, Err: errors.New("throttled")}, 1,
			[]time.Duration{maxHint}, []time.Duration{maxHint + time.Second}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &backend{answer: func(call int, _ []string) error {
					if call < tc.fails {
						return fmt.Errorf("wrapped: %w", tc.err)
					}
					return nil
				}}
				cfg := small()
				cfg.Retry.Max = 2 * time.Second
				r := start(t, Options{Exporters: []Instance{{Name: "a", Exporter: b, Required: true, Queue: cfg}}})
				c := &counted{t: t}
				lb := logBatch("f", 0, 3, 10)
				c.watch(&lb.OnAcked, &lb.OnReleased)
				r.send(lb)
				synctest.Wait()
				c.want(0, 0)
				time.Sleep(time.Hour)
				synctest.Wait()
				c.want(1, 1)
				if b.seen().calls != tc.fails+1 {
					t.Fatalf("%d calls, want %d", b.seen().calls, tc.fails+1)
				}
				for i := range tc.fails {
					if w := b.seen().at[i+1].Sub(b.seen().at[i]); w < tc.min[i] || w > tc.max[i] {
						t.Errorf("wait %d was %v, want %v to %v", i, w, tc.min[i], tc.max[i])
					}
				}
				if got := r.value("nodetap_exporter_errors_total", "kind", "retry"); got != float64(tc.fails) {
					t.Errorf("errors = %v", got)
				}
				if err := r.drain(time.Second); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestHangingCallEndsByTimeoutAndIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backend{delay: func(call int) time.Duration {
			if call == 0 {
				return 1000 * time.Hour
			}
			return 0
		}}
		r := start(t, Options{Exporters: []Instance{{Name: "a", Exporter: b, Required: true, Queue: small()}}})
		r.send(logBatch("f", 0, 3, 10))
		time.Sleep(time.Minute)
		if got := len(b.received()); got != 3 {
			t.Errorf("%d records came", got)
		}
		if err := r.drain(time.Second); err != nil {
			t.Error(err)
		}
	})
}

func TestPermanentErrors(t *testing.T) {
	bad := func(names ...string) func(int, []string) error {
		return func(_ int, records []string) error {
			for _, r := range records {
				for _, n := range names {
					if strings.HasSuffix(r, n) {
						return &component.Permanent{Err: errors.New("bad record"), Reason: "invalid", Bisect: true}
					}
				}
			}
			return nil
		}
	}
	for _, tc := range []struct {
		name    string
		answer  func(int, []string) error
		dropped int
		reason  string
	}{
		{"one bad record is found", bad("17"), 1, "invalid"},
		{"first and last", bad("00", "39"), 2, "invalid"},
		{"every record is bad", bad("0", "1", "2", "3", "4", "5", "6", "7", "8", "9"), 40, "invalid"},
		{"no bisection: all is dropped", func(int, []string) error {
			return &component.Permanent{Err: errors.New("no"), Reason: "unauthorized"}
		}, 40, "unauthorized"},
		{"no reason given", func(int, []string) error { return &component.Permanent{Err: errors.New("no")} }, 40, "rejected"},
		{"a panic refuses what was given", func(_ int, records []string) error {
			if bad("05")(0, records) != nil {
				panic("encoder")
			}
			return nil
		}, 1, "panic"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &backend{answer: tc.answer}
				cfg := small()
				cfg.Flush = time.Second
				r := start(t, Options{Exporters: []Instance{{Name: "a", Exporter: b, Required: true, Queue: cfg}}})
				c := &counted{t: t}
				for i := range 4 {
					lb := logBatch("f", i*10, 10, 2)
					c.watch(&lb.OnAcked, &lb.OnReleased)
					r.send(lb)
				}
				time.Sleep(time.Minute)
				c.want(4, 4) // given up with a counted reason
				if got := len(b.received()); got != 40-tc.dropped {
					t.Errorf("%d records came, want %d", got, 40-tc.dropped)
				}
				if got := r.value("nodetap_exporter_dropped_records_total", "exporter", "a", "reason", tc.reason); got != float64(tc.dropped) {
					t.Errorf("dropped = %v, want %d", got, tc.dropped)
				}
				if got := r.value("nodetap_exporter_errors_total", "kind", "permanent"); got == 0 {
					t.Error("no error counted")
				}
				r.wantBalance("a")
				if err := r.drain(time.Second); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestBisectionEndsWhenEverythingIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backend{answer: func(int, []string) error { return &component.Permanent{Err: errors.New("no"), Bisect: true} }}
		cfg := DefaultQueueConfig()
		r := start(t, Options{Exporters: []Instance{{Name: "a", Exporter: b, Required: true, Queue: cfg}}})
		r.send(logBatch("f", 0, 9000, 4))
		time.Sleep(time.Minute)
		if got := r.value("nodetap_exporter_dropped_records_total"); got != 9000 {
			t.Errorf("dropped = %v", got)
		}
		synctest.Wait()
		if b.seen().calls > maxRefusals+20 {
			t.Errorf("%d calls for 9000 refused records", b.seen().calls)
		}
		if err := r.drain(time.Second); err != nil {
			t.Error(err)
		}
	})
}

func TestAcksNeedTheRequiredReleaseNeedsAll(t *testing.T) {
	for _, tc := range []struct {
		name           string
		aReq, bReq     bool
		early          [2]int // acked, released when only a has delivered
		afterBothTaken [2]int
	}{
		{"both required", true, true, [2]int{0, 0}, [2]int{1, 1}},
		{"only the one that delivered", true, false, [2]int{1, 0}, [2]int{1, 1}},
		{"only the one that did not", false, true, [2]int{0, 0}, [2]int{1, 1}},
		{"none required: acked by all", false, false, [2]int{0, 0}, [2]int{1, 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &backend{}
				b := &backend{delay: func(int) time.Duration { return 10 * time.Second }}
				r := start(t, Options{Exporters: []Instance{
					{Name: "a", Exporter: a, Required: tc.aReq, Queue: small()},
					{Name: "b", Exporter: b, Required: tc.bReq, Queue: small()},
				}})
				c := &counted{t: t}
				lb := logBatch("f", 0, 3, 10)
				c.watch(&lb.OnAcked, &lb.OnReleased)
				r.send(lb)
				time.Sleep(5 * time.Second)
				c.want(tc.early[0], tc.early[1])
				time.Sleep(10 * time.Second)
				c.want(tc.afterBothTaken[0], tc.afterBothTaken[1])
				if err := r.drain(time.Second); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestFullRequiredQueueMakesTheSenderWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := make(chan struct{})
		b := &backend{answer: func(int, []string) error {
			select {
			case <-up:
				return nil
			default:
				return errors.New("down")
			}
		}}
		r := start(t, Options{Exporters: []Instance{{Name: "a", Exporter: b, Required: true, Queue: small()}}})
		c := &counted{t: t}
		taken := 0
		for {
			lb := logBatch("f", taken*10, 10, 100)
			c.watch(&lb.OnAcked, &lb.OnReleased)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			err := r.sink.SendLogs(ctx, lb)
			cancel()
			if err != nil {
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Fatal(err)
				}
				break // this one was not taken: its callbacks will not come
			}
			taken++
		}
		if got := r.value("nodetap_exporter_queue_bytes"); got > 64<<10 || got < 60<<10 {
			t.Errorf("queue bytes = %v, want just under the bound", got)
		}
		if lag := r.value("nodetap_exporter_lag_seconds"); lag < 60 {
			t.Errorf("lag = %v", lag)
		}
		close(up)
		time.Sleep(time.Minute)
		c.want(taken, taken)
		wantOrdered(t, b.received(), 1, taken*10)
		if got := r.value("nodetap_exporter_dropped_records_total"); got != 0 {
			t.Errorf("dropped = %v", got)
		}
		if lag := r.value("nodetap_exporter_lag_seconds"); lag != 0 {
			t.Errorf("lag = %v with nothing queued", lag)
		}
		r.wantBalance("a")
		if err := r.drain(time.Second); err != nil {
			t.Error(err)
		}
	})
}

func TestWhatDoesNotWaitDropsItsOldest(t *testing.T) {
	down := func(up <-chan struct{}) func(int, []string) error {
		return func(int, []string) error {
			select {
			case <-up:
				return nil
			default:
				return errors.New("down")
			}
		}
	}
	t.Run("spans of a required exporter", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			up := make(chan struct{})
			b := &traced{b: backend{answer: down(up)}}
			r := start(t, Options{Exporters: []Instance{{Name: "a", Exporter: b, Required: true, Queue: small()}}})
			c := &counted{t: t}
			begin := time.Now()
			for i := range 1000 {
				sb := spanBatch(fmt.Sprint(i))
				c.watch(&sb.OnAcked, &sb.OnReleased)
				if err := r.sink.SendSpans(context.Background(), sb); err != nil {
					t.Fatal(err)
				}
				if i < 4 {
					synctest.Wait() // the window takes the first
				}
			}
			if time.Since(begin) != 0 {
				t.Error("a sender of spans waited")
			}
			close(up)
			time.Sleep(time.Minute)
			got := b.b.received()
			dropped := r.value("nodetap_exporter_dropped_records_total", "signal", "traces", "reason", "queue_full")
			if len(got)+int(dropped) != 1000 || dropped == 0 || !slices.Contains(got, "999") {
				t.Errorf("%d came, %v dropped, the newest among them: %v", len(got), dropped, slices.Contains(got, "999"))
			}
			c.want(1000, 1000)
			r.wantBalance("a")
			if err := r.drain(time.Second); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("logs of an exporter that is not required", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			up := make(chan struct{})
			a, b := &backend{}, &backend{answer: down(up)}
			r := start(t, Options{Exporters: []Instance{
				{Name: "a", Exporter: a, Required: true, Queue: small()},
				{Name: "b", Exporter: b, Queue: small()},
			}})
			c := &counted{t: t}
			for i := range 500 {
				lb := logBatch(fmt.Sprint(i%10), i, 1, 200)
				c.watch(&lb.OnAcked, &lb.OnReleased)
				r.send(lb)
				synctest.Wait()
			}
			if got := len(a.received()); got != 500 {
				t.Errorf("the living one got %d", got)
			}
			if got := r.value("nodetap_exporter_queue_bytes", "exporter", "b"); got > 64<<10 {
				t.Errorf("queue bytes = %v", got)
			}
			close(up)
			time.Sleep(time.Minute)
			got := b.received()
			dropped := r.value("nodetap_exporter_dropped_records_total", "exporter", "b", "reason", "queue_full")
			if len(got)+int(dropped) != 500 || dropped == 0 {
				t.Errorf("%d came, %v dropped", len(got), dropped)
			}
			c.want(500, 500)
			r.wantBalance("b")
			if err := r.drain(time.Second); err != nil {
				t.Error(err)
			}
		})
	})
}

func TestDrain(t *testing.T) {
	for _, tc := range []struct {
		name       string
		downFor    time.Duration
		grace      time.Duration
		acked      int
		wantErr    bool
		returned   int
		maxElapsed time.Duration
	}{
		{"what is queued is delivered at once", 0, time.Minute, 5, false, 0, time.Second},
		{"a backend that comes back within the grace period", 10 * time.Second, time.Minute, 5, false, 0, 12 * time.Second},
		{"the grace period ends first", time.Hour, 20 * time.Second, 0, true, 50, 20 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				b := &backend{answer: func(int, []string) error {
					if time.Since(begin) < tc.downFor {
						return &component.Retry{After: 40 * time.Second, Err: errors.New("down")}
					}
					return nil
				}}
				cfg := small()
				cfg.Flush = 30 * time.Second
				r := start(t, Options{Exporters: []Instance{{Name: "a", Exporter: b, Required: true, Queue: cfg}}})
				c := &counted{t: t}
				for i := range 5 {
					lb := logBatch("f", i*10, 10, 100)
					c.watch(&lb.OnAcked, &lb.OnReleased)
					r.send(lb)
				}
				before := time.Now()
				if err := r.drain(tc.grace); (err != nil) != tc.wantErr {
					t.Errorf("drain: %v", err)
				}
				if e := time.Since(before); e > tc.maxElapsed {
					t.Errorf("drain took %v", e)
				}
				c.want(tc.acked, 5)
				if got := r.value("nodetap_exporter_returned_records_total"); got != float64(tc.returned) {
					t.Errorf("returned = %v", got)
				}
				if err := r.sink.SendLogs(context.Background(), logBatch("f", 0, 1, 1)); !errors.Is(err, ErrStopped) {
					t.Errorf("send after drain: %v", err)
				}
				r.wantBalance("a")
			})
		})
	}
}

func TestEndOfRunWithoutDrainFreesWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backend{delay: func(int) time.Duration { return time.Hour }}
		r := start(t, Options{Exporters: []Instance{{Name: "a", Exporter: b, Required: true, Queue: small()}}})
		c := &counted{t: t}
		var sendErr error
		sent := 0
		go func() {
			for sendErr == nil {
				lb := logBatch("f", 0, 10, 100)
				c.watch(&lb.OnAcked, &lb.OnReleased)
				if sendErr = r.sink.SendLogs(context.Background(), lb); sendErr == nil {
					sent++
				}
			}
		}()
		time.Sleep(time.Second)
		r.stop()
		synctest.Wait()
		if !errors.Is(sendErr, ErrStopped) {
			t.Errorf("send: %v", sendErr)
		}
		c.want(0, sent)
	})
}

func TestDrainOfAPipelineThatNeverRan(t *testing.T) {
	p, err := New(Options{Exporters: []Instance{{Name: "a", Exporter: &backend{}, Required: true}}})
	if err != nil {
		t.Fatal(err)
	}
	c := &counted{t: t}
	lb := logBatch("f", 0, 1, 1)
	c.watch(&lb.OnAcked, &lb.OnReleased)
	if err := p.Sink("x").SendLogs(context.Background(), lb); err != nil {
		t.Fatal(err)
	}
	if err := p.Drain(context.Background()); err != nil {
		t.Fatal(err)
	}
	c.want(0, 1)
}

func TestWhatNobodyTakesIsDoneAtOnceAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backend{}
		r := start(t, Options{
			Exporters: []Instance{{Name: "a", Exporter: b, Required: true, Queue: small()}},
			Routes:    Routes{{Match: Match{Namespaces: []string{"pay"}}, Exporters: []string{"a"}}},
		})
		if !r.sink.WantsLogs() || r.sink.WantsSpans() {
			t.Error("wants the wrong signals")
		}
		c := &counted{t: t}
		lb := logBatch("f", 0, 3, 1)
		c.watch(&lb.OnAcked, &lb.OnReleased)
		r.send(lb)
		sb := spanBatch("x", "y")
		c.watch(&sb.OnAcked, &sb.OnReleased)
		if err := r.sink.SendSpans(context.Background(), sb); err != nil {
			t.Fatal(err)
		}
		empty := &telemetry.LogBatch{Resource: &telemetry.Resource{Namespace: "pay"}}
		c.watch(&empty.OnAcked, &empty.OnReleased)
		r.send(empty)
		c.want(3, 3)
		for reason, want := range map[string]float64{"no_route": 3, "no_exporter": 2} {
			if got := r.value("nodetap_pipeline_dropped_records_total", "collector", "test", "reason", reason); got != want {
				t.Errorf("%s: %v, want %v", reason, got, want)
			}
		}
		if got := r.value("nodetap_pipeline_received_records_total"); got != 5 {
			t.Errorf("received = %v", got)
		}
		if err := r.drain(time.Second); err != nil || len(b.received()) != 0 {
			t.Errorf("%v, %v", err, b.received())
		}
	})
}
