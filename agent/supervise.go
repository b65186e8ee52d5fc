package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"nodetap/agent/component"
)

// Backoff between two starts of what failed: doubled from the first to the
// last, with jitter, and begun anew after it has run for a while.
const (
	restartFirst = time.Second
	restartLast  = time.Minute
	restartReset = 5 * time.Minute
)

type supervisor struct {
	log      *slog.Logger
	up       *prometheus.GaugeVec
	restarts *prometheus.CounterVec
}

func newSupervisor(log *slog.Logger, reg prometheus.Registerer) *supervisor {
	s := &supervisor{
		log: log,
		up: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "nodetap_collector_up",
			Help: "1 while the collector collects, 0 before it does, when this node does not support it, or while it waits to be started again.",
		}, []string{"collector"}),
		restarts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nodetap_component_restarts_total",
			Help: "Times a component failed or panicked and was started again.",
		}, []string{"component"}),
	}
	reg.MustRegister(s.up, s.restarts)
	return s
}

// keep runs f until ctx ends, again after each failure. It returns early when f
// says that the node does not support it. running is called before each start
// with true, after each end with false.
func (s *supervisor) keep(ctx context.Context, name string, running func(bool), f func(context.Context) error) {
	log := s.log.With("component", name)
	restarts := s.restarts.WithLabelValues(name)
	delay := restartFirst
	for {
		began := time.Now()
		running(true)
		err := guard(ctx, f)
		running(false)
		if ctx.Err() != nil {
			if err != nil {
				log.Error("stopped with an error", "error", err)
			}
			return
		}
		if off, ok := errors.AsType[*component.Unsupported](err); ok {
			log.Warn("off: this node does not support it; the rest runs", "missing", off.Missing, "grant", off.Grant, "error", off.Err)
			return
		}
		if err == nil {
			err = errors.New("it returned while it should run")
		}
		if time.Since(began) > restartReset {
			delay = restartFirst
		}
		wait := delay/2 + rand.N(delay/2+1)
		restarts.Inc()
		log.Error("failed; it will be started again", "error", err, "in", wait.Round(time.Millisecond).String())
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		delay = min(2*delay, restartLast)
	}
}

// guard turns a panic into an error, so that one component's crash never takes
// the others down.
func guard(ctx context.Context, f func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return f(ctx)
}

// scopedRegisterer remembers what a component registered, so that a component
// which is made anew can register the same again.
type scopedRegisterer struct {
	prometheus.Registerer
	registered []prometheus.Collector
}

// Register implements prometheus.Registerer.
func (r *scopedRegisterer) Register(c prometheus.Collector) error {
	err := r.Registerer.Register(c)
	if err == nil {
		r.registered = append(r.registered, c)
	}
	return err
}

// MustRegister implements prometheus.Registerer.
func (r *scopedRegisterer) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		if err := r.Register(c); err != nil {
			panic(err)
		}
	}
}

// reset takes back everything that was registered.
func (r *scopedRegisterer) reset() {
	for _, c := range r.registered {
		r.Unregister(c)
	}
	r.registered = nil
}
