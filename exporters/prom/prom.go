// Package prom serves what Prometheus scrapes: /metrics with the agent's metrics
// about itself, by client_golang, and every path of Env.Metrics
// (/metrics/cadvisor, /metrics/apm), by an encoder of our own over one immutable
// snapshot. The same port answers /healthz and /readyz.
//
// Own encoder, because a large surface costs client_golang a protobuf message
// per series and scrape; BenchmarkScrape has the figures, of 50,000 series, side
// by side. It knows text 0.0.4 and OpenMetrics 1.0 (with exemplars), and gzip.
//
// It takes no logs and no spans, reads no kernel file, and keeps no state
// between scrapes but buffers. Invariants: no explicit timestamps; what a scrape
// allocates does not grow with the number of series.
package prom

import (
	"context"
	"errors"
	"fmt"
	"html"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"

	"nodetap/agent/component"
)

// own are the paths that exist whether or not a collector runs: a target that a
// manifest names must not look down because this node cannot run a collector.
var own = []string{"/metrics/apm", "/metrics/cadvisor"}

// Exporter serves scrapes. Make it with New.
type Exporter struct {
	cfg     Config
	env     component.Env
	slots   chan struct{}
	scrapes *prometheus.CounterVec
	seconds *prometheus.CounterVec
	bytes   *prometheus.CounterVec
	refused prometheus.Counter

	encoders sync.Pool // *encoder
	gzips    sync.Pool // *gzip.Writer
}

var _ component.Exporter = (*Exporter)(nil)

// New returns an exporter that listens when it runs.
func New(env component.Env, cfg Config) (*Exporter, error) {
	vec := func(name, help string) *prometheus.CounterVec {
		return component.Register(env.Registerer, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"path"}))
	}
	e := &Exporter{
		cfg: cfg, env: env, slots: make(chan struct{}, max(cfg.MaxConcurrentScrapes, 1)),
		scrapes: vec("nodetap_prom_scrapes_total", "Scrapes answered in full, by path."),
		seconds: vec("nodetap_prom_scrape_seconds_total", "Time spent on scrapes, writing to the client included, by path."),
		bytes:   vec("nodetap_prom_scrape_bytes_total", "Bytes of the answers before compression, by path."),
		refused: component.Register(env.Registerer, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nodetap_prom_scrapes_refused_total", Help: "Scrapes refused because max_concurrent_scrapes were under way."})),
	}
	e.encoders.New = func() any { return &encoder{buf: make([]byte, 0, flushAt+4096)} }
	e.gzips.New = func() any {
		z, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
		if err != nil {
			panic(err) // the level is a constant
		}
		return z
	}
	return e, nil
}

// Run serves until ctx ends. It fails when it cannot listen.
func (e *Exporter) Run(ctx context.Context) error {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", e.cfg.Listen)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("listen: %w", err)
	}
	e.env.Logger.Info("serving scrapes", "address", ln.Addr().String())
	return e.serve(ctx, ln)
}

func (e *Exporter) serve(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler:           e.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      e.cfg.Timeout,
		IdleTimeout:       3 * time.Minute, // longer than most scrape intervals
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(e.env.Logger.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil {
		srv.Close() //nolint:errcheck // a scrape that did not end in time is cut
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// Handler returns what Run serves.
func (e *Exporter) Handler() http.Handler {
	self := promhttp.HandlerFor(e.env.Gatherer, promhttp.HandlerOpts{
		EnableOpenMetrics: true, ErrorHandling: promhttp.ContinueOnError,
		ErrorLog: slog.NewLogLogger(e.env.Logger.Handler(), slog.LevelWarn),
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
			return
		}
		switch path := r.URL.Path; {
		case path == "/":
			e.index(w)
		case path == "/healthz":
			e.env.Live.ServeHTTP(w, r)
		case path == "/readyz":
			e.env.Ready.ServeHTTP(w, r)
		case path == "/metrics":
			e.limited(w, path, func() { self.ServeHTTP(w, r) })
		case slices.Contains(own, path) || slices.Contains(e.env.Metrics.Paths(), path):
			e.limited(w, path, func() { e.scrape(w, r, path) })
		default:
			http.NotFound(w, r)
		}
	})
}

// limited runs f unless too many scrapes are under way.
func (e *Exporter) limited(w http.ResponseWriter, path string, f func()) {
	select {
	case e.slots <- struct{}{}:
	default:
		e.refused.Inc()
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many scrapes at once", http.StatusServiceUnavailable)
		return
	}
	start := time.Now()
	defer func() {
		<-e.slots
		e.seconds.WithLabelValues(path).Add(time.Since(start).Seconds())
	}()
	f()
	if path == "/metrics" {
		e.scrapes.WithLabelValues(path).Inc()
	}
}

func (e *Exporter) scrape(w http.ResponseWriter, r *http.Request, path string) {
	format := expfmt.NegotiateAccept(r.Header, expfmt.FmtOpenMetrics_1_0_0, expfmt.FmtOpenMetrics_0_0_1, expfmt.FmtText)
	open := format.FormatType() == expfmt.TypeOpenMetrics
	h := w.Header()
	h.Set("Content-Type", string(format))
	h.Set("Vary", "Accept, Accept-Encoding")
	enc := e.encoders.Get().(*encoder)
	defer e.encoders.Put(enc)
	snapshot := e.env.Metrics.Snapshot(path)
	var err error
	if takesGzip(r.Header.Get("Accept-Encoding")) {
		h.Set("Content-Encoding", "gzip")
		z := e.gzips.Get().(*gzip.Writer)
		z.Reset(w)
		if err = enc.encode(z, snapshot, open); err == nil {
			err = z.Close()
		}
		e.gzips.Put(z)
	} else {
		err = enc.encode(w, snapshot, open)
	}
	e.bytes.WithLabelValues(path).Add(float64(enc.n))
	if err != nil {
		e.env.Logger.Debug("a scrape was broken off", "path", path, "err", err) // the client is gone
		return
	}
	e.scrapes.WithLabelValues(path).Inc()
}

// takesGzip reads an Accept-Encoding header: gzip, x-gzip or *, without q=0.
func takesGzip(header string) bool {
	for part := range strings.SplitSeq(header, ",") {
		name, params, _ := strings.Cut(part, ";")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "gzip", "x-gzip", "*":
			q, ok := strings.CutPrefix(strings.ReplaceAll(strings.ToLower(params), " ", ""), "q=")
			return !ok || strings.Trim(q, "0.") != ""
		}
	}
	return false
}

func (e *Exporter) index(w http.ResponseWriter) {
	paths := append([]string{"/metrics"}, own...)
	for _, p := range e.env.Metrics.Paths() {
		if !slices.Contains(paths, p) {
			paths = append(paths, p)
		}
	}
	slices.Sort(paths)
	var b strings.Builder
	b.WriteString("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>nodetap</title></head><body>\n<h1>nodetap</h1>\n<p>")
	b.WriteString(html.EscapeString("Version " + e.env.Version + " on node " + e.env.NodeName + "."))
	b.WriteString("</p>\n<ul>\n")
	for _, p := range append(paths, "/healthz", "/readyz") {
		p = html.EscapeString(p)
		b.WriteString("<li><a href=\"" + p + "\">" + p + "</a></li>\n")
	}
	b.WriteString("</ul>\n</body></html>\n")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Write([]byte(b.String())) //nolint:errcheck // the client is gone
}
