// Package apm sees the HTTP/1 requests that this node's containers make and
// answer, in any language, without touching them: server and client spans, and
// the request duration metrics of the OpenTelemetry conventions.
//
// The kernel side (bpf/apm.bpf.c) sends what system calls move on connections
// that speak HTTP/1: a bounded prefix of each message, with its place in the
// TCP stream. A tracker puts the pieces together (event → stream → conn), a
// recorder makes spans and metrics of what it finds. Everything above the ring
// buffer runs in tests without a kernel.
//
// It does not see what is encrypted, HTTP/2, UNIX sockets, MPTCP; it changes
// nothing in the applications or their traffic; it keeps no query string, body
// or header beyond those in head.
//
// Invariants: a request gets the response that is its own or none; a span has
// the parent that the wire named or none; each request seen is sent, or dropped
// with a counted reason.
package apm

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"nodetap/agent/component"
	"nodetap/agent/containers"
	"nodetap/agent/telemetry"
)

// MetricsPath is the scrape path of the request metrics.
const MetricsPath = "/metrics/apm"

const (
	drainEvery  = 50 * time.Millisecond
	sendQueue   = 64 // batches between the reader and the pipeline
	sendTimeout = time.Second
	keepSeries  = int64(5 * time.Minute) // of containers that went
)

// Collector traces. Make one with New.
type Collector struct {
	env        component.Env
	cfg        Config
	containers containerSource
	pods       podSource
}

// containerSource is what of *containers.Registry is used.
type containerSource interface {
	ByCgroupID(id uint64) *containers.Container
	ByID(id string) *containers.Container
	Self() *containers.Container
	Subscribe(f func(containers.Event)) (cancel func())
}

// New returns a collector. Nothing is loaded before Run.
func New(env component.Env, cfg Config) (*Collector, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Collector{env: env, cfg: cfg, containers: env.Containers, pods: env.Pods}, nil
}

// Run implements component.Collector.
func (c *Collector) Run(ctx context.Context, out component.Sink) error {
	k, err := load(c.cfg, c.env.Host)
	if err != nil {
		return err
	}
	defer k.close()
	reader, err := ringbuf.NewReader(k.objs.Events)
	if err != nil {
		return fmt.Errorf("open ring buffer: %w", err)
	}
	defer reader.Close()

	r := &run{Collector: c, kernel: k, reader: reader, out: out, stats: newStats(c.env.Registerer)}
	r.init()
	ks := &kernelStats{read: k.counters, misses: k.misses, ring: reader.AvailableBytes, series: r.rec.red.size}
	if err := c.env.Registerer.Register(ks); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	defer c.env.Registerer.Unregister(ks)
	defer c.env.Metrics.Register(MetricsPath, r.rec.red)()
	defer c.containers.Subscribe(r.policy.event)()

	if err := k.attach(c.env.Host); err != nil {
		return err
	}
	if len(k.unhooked) > 0 {
		c.env.Logger.Warn("tracepoints are missing: requests through them are not seen", "events", k.unhooked)
	}
	c.env.Collecting()
	return r.loop(ctx)
}

// run is one life of the collector.
type run struct {
	*Collector
	kernel  *kernelSide
	reader  *ringbuf.Reader
	out     component.Sink
	stats   *stats
	tracker *tracker
	rec     *recorder
	policy  *policy
	batches chan *telemetry.SpanBatch
	now     int64 // CLOCK_BOOTTIME of the last event or look at the clock
	swept   bool  // no event since the last sweep
}

func (r *run) init() {
	k := r.kernel
	r.policy = newPolicy(r.cfg.Processes == "all", r.containers.ByCgroupID,
		func(id uint64, v uint32) error { return k.objs.CgPolicy.Put(id, v) },
		func(id uint64) error { return k.objs.CgPolicy.Delete(id) })
	self := r.containers.Self()
	if self != nil {
		r.policy.excludeSelf(self.CgroupID)
	}
	r.batches = make(chan *telemetry.SpanBatch, sendQueue)

	r.rec = newRecorder(r.cfg)
	r.rec.pods, r.rec.find, r.rec.self, r.rec.host = r.pods, r.containers.ByCgroupID, self, r.env.Host
	r.rec.policyOf, r.rec.wall, r.rec.stats, r.rec.wants = r.policy.of, r.env.Clock.Wall, r.stats, r.out.WantsSpans
	r.rec.node = telemetry.Resource{Cluster: r.env.Cluster, Node: r.env.NodeName}
	r.rec.isSelf = func(a netip.AddrPort, netns uint32) bool {
		var v uint8
		return k.objs.SelfEndpoints.Lookup(endpointOf(a, netns), &v) == nil
	}
	r.rec.full = func(b *telemetry.SpanBatch) {
		select {
		case r.batches <- b:
		default:
			r.stats.drop(dropQueue, len(b.Spans))
		}
	}

	r.tracker = newTracker(r.cfg.MaxConnections)
	r.tracker.note = r.stats.requests.Inc
	r.tracker.came = r.rec.pairs.arrived
	r.tracker.drop = r.stats.drop
	r.tracker.done = func(x *exchange) { r.rec.done(x, r.now) }
	r.tracker.skip = r.silence
	r.tracker.mute = func(sk uint64, c *conn) {
		_ = k.objs.Conns.Update(sk, &bpfConn{Id: c.id, Muted: 1}, ebpf.UpdateExist) // it may have gone
	}
}

// silence tells the kernel that what lies before until is a body of known
// length.
func (r *run) silence(c *conn, dir int, until uint32) {
	var v bpfConn
	if r.kernel.objs.Conns.Lookup(c.sk, &v) != nil || v.Id != c.id {
		return
	}
	v.Skip[dir], v.SkipOn[dir] = until, 1
	_ = r.kernel.objs.Conns.Update(c.sk, &v, ebpf.UpdateExist) // it may have gone
}

// loop reads events until ctx ends.
func (r *run) loop(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { r.send(ctx) })
	stop := context.AfterFunc(ctx, func() { r.reader.Close() })
	defer stop()

	err := r.read()
	r.sweep(true)
	r.rec.flush()
	close(r.batches)
	wg.Wait()
	left := r.tracker.waiting() + len(r.rec.held)
	if left > 0 {
		r.stats.drop(dropShutdown, left)
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// read drains the ring every drainEvery, or when the kernel says that it fills.
func (r *run) read() error {
	var rec ringbuf.Record
	var ev bpfEvent
	last := time.Now()
	slow := 0
	r.reader.SetDeadline(last.Add(drainEvery))
	for {
		err := r.reader.ReadInto(&rec)
		switch {
		case err == nil:
			data, err := decode(rec.RawSample, &ev)
			if err != nil {
				r.stats.bad.Inc()
				continue
			}
			r.handle(&ev, data)
			continue
		case errors.Is(err, os.ErrDeadlineExceeded):
		case errors.Is(err, ringbuf.ErrClosed):
			return nil
		default:
			return fmt.Errorf("read ring buffer: %w", err)
		}
		if slow++; slow == 200 { // ten seconds
			slow = 0
		}
		r.sweep(slow == 0)
		r.reader.SetDeadline(time.Now().Add(drainEvery))
	}
}

func (r *run) handle(ev *bpfEvent, data []byte) {
	r.now = int64(ev.Ts)
	if r.swept { // the oldest of those that waited
		r.swept = false
		r.stats.lag.Set(float64(max(boottime()-r.now, 0)) / 1e9)
	}
	switch ev.Type {
	case evCgroup:
		r.policy.asked(ev.Cgroup, r.now)
	case evData, evState:
		r.tracker.handle(ev, data)
	}
}

// sweep is what is done between drains.
func (r *run) sweep(slow bool) {
	now := boottime()
	if r.swept {
		r.stats.lag.Set(0)
	}
	r.now, r.swept = now, true
	r.tracker.sweep(now, slow)
	r.policy.review(now)
	r.rec.retry(now)
	r.rec.flush()
	r.stats.conns.Set(float64(len(r.tracker.conns)))
	r.stats.held.Set(float64(len(r.rec.held)))
	if n := r.tracker.refused; n > 0 {
		r.stats.refused.Add(float64(n))
		r.tracker.refused = 0
	}
	if slow {
		r.stats.waiting.Set(float64(r.tracker.waiting()))
		r.rec.red.expire(time.Now().UnixNano(), keepSeries, func(owner string) bool {
			return len(owner) != 64 || r.containers.ByID(owner) != nil
		})
	}
}

// send hands batches to the pipeline. The kernel does not wait, so neither may
// the reader: what is not taken in time is dropped.
func (r *run) send(ctx context.Context) {
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	// at the end what is left has two seconds, all together
	defer context.AfterFunc(ctx, func() { time.AfterFunc(2*sendTimeout, cancel) })()
	for b := range r.batches {
		deadline, cancel := context.WithTimeout(base, sendTimeout)
		if err := r.out.SendSpans(deadline, b); err != nil {
			r.stats.drop(dropQueue, len(b.Spans))
		} else {
			r.stats.sent.Add(float64(len(b.Spans)))
		}
		cancel()
	}
}

// counters returns the kernel side's counters, summed over CPUs.
func (k *kernelSide) counters() (sum [cMax]uint64) {
	for i := range uint32(cMax) {
		var per []uint64
		if k.objs.Counters.Lookup(i, &per) == nil {
			for _, v := range per {
				sum[i] += v
			}
		}
	}
	return sum
}

func boottime() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail
	return ts.Nano()
}
