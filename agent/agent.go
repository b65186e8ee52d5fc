package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	promcollectors "github.com/prometheus/client_golang/prometheus/collectors"

	"nodetap/agent/component"
	"nodetap/agent/config"
	"nodetap/agent/containers"
	"nodetap/agent/metrics"
	"nodetap/agent/pipeline"
	"nodetap/agent/pods"
)

// run builds the agent, runs it until ctx ends, and drains it.
//
// The order matters: exporters and the pipeline outlive the collectors, so that
// what was read can still be delivered, and what knows pods and containers
// outlives all of them.
func run(ctx context.Context, cfg *configuration, log *slog.Logger) error {
	unlock, err := lockState(cfg.settings.StateDir)
	if err != nil {
		return err
	}
	defer unlock()

	a, err := build(cfg, log)
	if err != nil {
		return err
	}
	log.Info("nodetap starts", "version", buildVersion(), "node", cfg.settings.NodeName, "state_dir", cfg.settings.StateDir)

	base, stopBase := context.WithCancel(context.WithoutCancel(ctx))
	var background sync.WaitGroup
	background.Go(func() { a.env.Clock.Run(base) })
	background.Go(func() { a.sup.keep(base, "containers", ignore, a.env.Containers.Run) })
	background.Go(func() { a.sup.keep(base, "pods", ignore, a.env.Pods.Run) })
	background.Go(func() { servePprof(base, cfg.settings.Pprof, log) })

	delivery, stopDelivery := context.WithCancel(base)
	var delivering sync.WaitGroup
	for _, e := range a.exporters {
		delivering.Go(func() { a.sup.keep(delivery, e.Name, ignore, e.Exporter.Run) })
	}
	delivering.Go(func() {
		if err := a.pipeline.Run(delivery); err != nil {
			log.Error("the pipeline failed", "error", err)
		}
	})

	collecting, stopCollecting := context.WithCancel(ctx)
	defer stopCollecting()
	var collected sync.WaitGroup
	for _, c := range a.collectors {
		a.health.wait(c.config.Name)
		collected.Go(func() { a.collect(collecting, c) })
	}

	<-ctx.Done()
	log.Info("nodetap stops", "drain_timeout", cfg.settings.DrainTimeout.String())
	drain, cancel := context.WithTimeout(base, cfg.settings.DrainTimeout)
	defer cancel()
	// Collectors wait until what they sent has been released: drain meanwhile.
	if err := a.pipeline.Drain(drain); err != nil {
		log.Warn("not everything was delivered before the end; it will be sent after the next start", "error", err)
	}
	collected.Wait()
	stopDelivery()
	delivering.Wait()
	stopBase()
	background.Wait()
	log.Info("nodetap has stopped")
	return nil
}

// agent is what run starts.
type agent struct {
	env        component.Env // without the component's own fields
	log        *slog.Logger
	registerer prometheus.Registerer
	sup        *supervisor
	health     *health
	pipeline   *pipeline.Pipeline
	exporters  []pipeline.Instance
	collectors []collectorInstance
}

type collectorInstance struct {
	kind   collectorKind
	config *config.Component
}

func build(cfg *configuration, log *slog.Logger) (*agent, error) {
	reg := prometheus.NewRegistry()
	return buildWith(cfg, log, reg, reg)
}

func buildWith(cfg *configuration, log *slog.Logger, reg prometheus.Registerer, gatherer prometheus.Gatherer) (*agent, error) {
	s := cfg.settings
	reg.MustRegister(promcollectors.NewGoCollector(), promcollectors.NewProcessCollector(promcollectors.ProcessCollectorOpts{}), buildInfo())
	a := &agent{log: log, registerer: reg, sup: newSupervisor(log, reg), health: &health{}}

	cs, err := containers.New(cfg.containers, s.Host.Cgroup, s.Host.Proc, log.With("component", "containers"), reg)
	if err != nil {
		return nil, fmt.Errorf("containers: %w", err)
	}
	ps, err := pods.New(cfg.pods, pods.Options{
		NodeName: s.NodeName, Cluster: s.Cluster, LogDir: s.Host.Log,
		StateDir: filepath.Join(s.StateDir, "pods"), Logger: log.With("component", "pods"), Reg: reg,
		BootID: pods.BootID(s.Host.Proc), Version: buildVersion(),
	})
	if err != nil {
		return nil, fmt.Errorf("pods: %w", err)
	}
	a.env = component.Env{
		Gatherer: gatherer, Metrics: metrics.NewRegistry(), Pods: ps, Containers: cs, Clock: component.NewClock(),
		Host:    component.Host{Proc: s.Host.Proc, Sys: s.Host.Sys, Cgroup: s.Host.Cgroup, Log: s.Host.Log},
		Cluster: s.Cluster, NodeName: s.NodeName, StateDir: s.StateDir, Version: buildVersion(),
		Live: http.HandlerFunc(a.health.live), Ready: http.HandlerFunc(a.health.ready),
	}

	for _, c := range cfg.exporters {
		if !c.Enabled {
			continue
		}
		for _, k := range exporters {
			if k.Name != c.Kind {
				continue
			}
			e, err := k.make(a.envFor(c.Name, prometheus.WrapRegistererWith(prometheus.Labels{"exporter": c.Name}, reg)), c.Targets[0])
			if err != nil {
				return nil, fmt.Errorf("exporters.%s: %w", c.Name, err)
			}
			own := pipeline.DefaultExporterConfig()
			if len(c.Targets) > 1 {
				own = *c.Targets[1].(*pipeline.ExporterConfig)
			}
			a.exporters = append(a.exporters, pipeline.Instance{Name: c.Name, Exporter: e, Queue: own.Queue, Required: own.Required})
		}
	}
	a.pipeline, err = pipeline.New(pipeline.Options{
		Exporters: a.exporters, Routes: cfg.routes, StateDir: filepath.Join(s.StateDir, "pipeline"),
		Logger: log.With("component", "pipeline"), Registerer: reg,
	})
	if err != nil {
		return nil, fmt.Errorf("pipeline: %w", err)
	}
	for i, k := range collectors {
		if c := cfg.collectors[i]; c.Enabled {
			a.collectors = append(a.collectors, collectorInstance{kind: k, config: c})
		}
	}
	return a, nil
}

func (a *agent) envFor(name string, reg prometheus.Registerer) component.Env {
	env := a.env
	env.Name, env.Logger, env.Registerer = name, a.log.With("component", name), reg
	return env
}

// collect keeps one collector running. It is made anew for each start, so that
// nothing of what failed is left in it.
func (a *agent) collect(ctx context.Context, c collectorInstance) {
	name := c.config.Name
	up := a.sup.up.WithLabelValues(name)
	defer a.health.done(name) // off for good is as ready as it gets
	scope := &scopedRegisterer{Registerer: a.registerer}
	a.sup.keep(ctx, name, func(running bool) {
		if !running {
			up.Set(0)
		}
	}, func(ctx context.Context) error {
		scope.reset()
		env := a.envFor(name, scope)
		env.OnCollecting = func() {
			up.Set(1)
			a.health.done(name)
		}
		col, err := c.kind.make(env, c.config.Targets[0])
		if err != nil {
			return err
		}
		return col.Run(ctx, a.pipeline.Sink(name))
	})
}

func ignore(bool) {}

// servePprof serves Go's profiles on a loopback address until ctx ends.
func servePprof(ctx context.Context, addr string, log *slog.Logger) {
	if addr == "" {
		return
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		log.Warn("no profiling endpoints", "error", err)
		return
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
		log.Warn("profiling endpoints failed", "error", err)
	}
}

func buildInfo() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "nodetap_build_info", Help: "1, with the agent's version as a label.",
		ConstLabels: prometheus.Labels{"version": buildVersion()},
	}, func() float64 { return 1 })
}
