package main

import (
	"nodetap/agent/component"
	"nodetap/agent/config"
	"nodetap/agent/metrics"
	"nodetap/agent/pipeline"
	"nodetap/collectors/apm"
	"nodetap/collectors/cgroup"
	"nodetap/collectors/logs"
	"nodetap/exporters/forward"
	"nodetap/exporters/otlp"
	"nodetap/exporters/prom"
	"nodetap/exporters/stdout"
)

// collectors is the list of what this program collects: one line each.
var collectors = []collectorKind{
	collector("logs", logs.Default, logs.New),
	collector("cgroup", cgroup.Default, cgroup.New),
	collector("apm", apm.Default, apm.New),
}

// exporters is the list of where it can send: one line each.
var exporters = []exporterKind{
	exporter("forward", forward.Default, forward.New),
	exporter("otlp", otlp.Default, otlp.New),
	exporter("prom", prom.Default, prom.New),
	exporter("stdout", stdout.Default, stdout.New),
}

type collectorKind struct {
	config.Kind
	make func(component.Env, any) (component.Collector, error)
}

type exporterKind struct {
	config.Kind
	takes []string // signals that go through the pipeline: logs, traces
	make  func(component.Env, any) (component.Exporter, error)
}

func collector[C any, T component.Collector](name string, defaults func() C, make func(component.Env, C) (T, error)) collectorKind {
	return collectorKind{
		Kind: config.Kind{Name: name, New: func() []any { return []any{new(defaults())} }},
		make: func(env component.Env, cfg any) (component.Collector, error) { return make(env, *cfg.(*C)) },
	}
}

func exporter[C any, T component.Exporter](name string, defaults func() C, make func(component.Env, C) (T, error)) exporterKind {
	var none T
	var takes []string
	if _, ok := any(none).(component.LogExporter); ok {
		takes = append(takes, "logs")
	}
	if _, ok := any(none).(component.SpanExporter); ok {
		takes = append(takes, "traces")
	}
	return exporterKind{
		takes: takes,
		Kind: config.Kind{Name: name, New: func() []any {
			if takes == nil { // nothing is queued for it
				return []any{new(defaults())}
			}
			return []any{new(defaults()), new(pipeline.DefaultExporterConfig())}
		}},
		make: func(env component.Env, cfg any) (component.Exporter, error) { return make(env, *cfg.(*C)) },
	}
}

// families is what a collector's source can say at a path.
type families struct {
	path  string
	descs []*metrics.Desc
}

// workloadFamilies lists every family about workloads, for the generated page.
func workloadFamilies() []families {
	return []families{
		{"/metrics/cadvisor", cgroup.Families()},
		{"/metrics/apm", apm.Families()},
	}
}
