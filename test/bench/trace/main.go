// Command trace measures what tracing costs per request: the CPU of a Go HTTP
// server pinned to one processor, its throughput at full load, and the agent's
// own CPU and memory; with and without the agent, in turns, in one run.
//
//	go build -o bin/nodetap ./agent && go run ./test/bench/trace
//
// It takes root (BPF, a cgroup) and two processors: the server has the first,
// the load generator and the agent share the second. It fails when the requests
// that the agent counted are not those that were made.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

var (
	agentPath = flag.String("agent", "bin/nodetap", "the built agent")
	rounds    = flag.Int("rounds", 5, "pairs of measurements with and without the agent")
	window    = flag.Duration("window", 4*time.Second, "length of a measurement")
	conns     = flag.Int("connections", 16, "connections of the load generator")
	body      = flag.Int("body", 200, "bytes of the response's body")
	serve     = flag.String("serve", "", "be the server: listen on this address (used by the command itself)")
)

func main() {
	flag.Parse()
	if *serve != "" {
		server(*serve, *body)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := bench(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "trace:", err)
		os.Exit(1)
	}
}

func server(addr string, size int) {
	answer := make([]byte, size)
	mux := http.NewServeMux()
	mux.HandleFunc("/order/", func(w http.ResponseWriter, _ *http.Request) { w.Write(answer) }) //nolint:errcheck // the client went
	fmt.Fprintln(os.Stderr, http.ListenAndServe(addr, mux))
	os.Exit(1)
}

// sample is one measurement.
type sample struct {
	requests     int
	seconds      float64
	serverCPU    time.Duration
	agentCPU     time.Duration
	agentPeak    int // KiB
	seen, missed int // requests that the agent counted, events that it lost
}

func (s sample) perRequest() float64 { return float64(s.serverCPU.Nanoseconds()) / float64(s.requests) }
func (s sample) rate() float64       { return float64(s.requests) / s.seconds }

func bench(ctx context.Context) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	addr := l.Addr().String()
	l.Close()

	srv, err := startServer(addr)
	if err != nil {
		return err
	}
	defer srv.stop()
	sink, err := startSink()
	if err != nil {
		return err
	}
	pin(os.Getpid(), 1) // threads that come later inherit it

	modes := []string{"off", "metrics", "spans"}
	all := map[string][]sample{}
	for range *rounds {
		for _, mode := range modes {
			s, err := measure(ctx, mode, addr, sink, srv.pid)
			if err != nil {
				return fmt.Errorf("%s: %w", mode, err)
			}
			if mode != "off" && s.seen != s.requests {
				return fmt.Errorf("%s: %d requests were made, the agent counted %d (%d events dropped)", mode, s.requests, s.seen, s.missed)
			}
			all[mode] = append(all[mode], s)
		}
	}
	report(all, modes)
	return nil
}

func measure(ctx context.Context, mode, addr, sink string, server int) (sample, error) {
	var a *agent
	if mode != "off" {
		var err error
		if a, err = startAgent(ctx, mode, sink); err != nil {
			return sample{}, err
		}
		defer a.stop()
	}
	if _, _, err := load(ctx, addr, time.Second); err != nil { // warm, and not counted
		return sample{}, err
	}
	var s sample
	var before counts
	var agentFrom time.Duration
	if a != nil {
		var err error
		if before, err = a.settled(ctx); err != nil {
			return s, err
		}
		agentFrom = cpu(a.pid)
	}
	from := cpu(server)
	n, took, err := load(ctx, addr, *window)
	if err != nil {
		return s, err
	}
	s.requests, s.seconds, s.serverCPU = n, took.Seconds(), cpu(server)-from
	if a != nil {
		after, err := a.settled(ctx)
		if err != nil {
			return s, err
		}
		s.agentCPU, s.agentPeak = cpu(a.pid)-agentFrom, peak(a.pid)
		s.seen, s.missed = after.server-before.server, after.lost-before.lost
	}
	return s, nil
}

// load makes requests for the time, each connection as fast as it can.
func load(ctx context.Context, addr string, d time.Duration) (n int, took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	type result struct {
		n   int
		err error
	}
	results := make(chan result)
	start := time.Now()
	for i := range *conns {
		go func() {
			n, err := connection(ctx, addr, i)
			results <- result{n, err}
		}()
	}
	for range *conns {
		r := <-results
		n += r.n
		if r.err != nil {
			err = r.err
		}
	}
	return n, time.Since(start), err
}

func connection(ctx context.Context, addr string, i int) (n int, err error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	request := []byte("GET /order/" + strconv.Itoa(1000+i) + " HTTP/1.1\r\nHost: shop\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")
	buf := make([]byte, 64<<10)
	size := 0 // of a response: the same each time
	for ctx.Err() == nil {
		if _, err := c.Write(request); err != nil {
			return n, err
		}
		for got := 0; ; {
			m, err := c.Read(buf[got:])
			if err != nil {
				return n, err
			}
			if got += m; size == 0 {
				size = responseSize(buf[:got])
			}
			if size > 0 && got >= size {
				break
			}
		}
		n++
	}
	return n, nil
}

func responseSize(b []byte) int {
	if i := slices.Index(b, '\r'); i < 0 {
		return 0
	}
	for i := range b {
		if i >= 4 && string(b[i-4:i]) == "\r\n\r\n" {
			return i + *body
		}
	}
	return 0
}

// startSink takes OTLP over HTTP and forgets it.
func startSink() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go http.Serve(l, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })) //nolint:errcheck // ends with the process
	return "http://" + l.Addr().String(), nil
}

// cpu returns what the process has used, to the nanosecond.
func cpu(pid int) time.Duration {
	var ts unix.Timespec
	// the clock id of another process, see clock_getcpuclockid(3)
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
		panic(fmt.Sprintf("read CPU clock of %d: %v", pid, err))
	}
	return time.Duration(ts.Nano())
}

func report(all map[string][]sample, modes []string) {
	median := func(mode string, f func(sample) float64) float64 {
		var v []float64
		for _, s := range all[mode] {
			v = append(v, f(s))
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	fmt.Printf("Go net/http server on one CPU, %d connections, %d B bodies; median of %d windows of %s, interleaved\n\n", *conns, *body, *rounds, *window)
	fmt.Printf("%-8s %14s %12s %12s %12s %18s %10s\n", "agent", "server ns/req", "", "req/s", "", "agent ms/10k req", "peak MiB")
	base, baseRate := median("off", sample.perRequest), median("off", sample.rate)
	for _, mode := range modes {
		per, rate := median(mode, sample.perRequest), median(mode, sample.rate)
		agentCPU := median(mode, func(s sample) float64 { return s.agentCPU.Seconds() * 1e3 / float64(s.requests) * 1e4 })
		fmt.Printf("%-8s %14.0f %+11.1f%% %12.0f %+11.1f%% %18.1f %10.1f\n", mode, per, 100*(per/base-1), rate, 100*(rate/baseRate-1), agentCPU,
			median(mode, func(s sample) float64 { return float64(s.agentPeak) / 1024 }))
	}
	fmt.Println("\nEvery request was counted by the agent.")
}
