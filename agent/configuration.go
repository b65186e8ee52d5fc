package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"nodetap/agent/config"
	"nodetap/agent/containers"
	"nodetap/agent/pipeline"
	"nodetap/agent/pods"
	"nodetap/exporters/prom"
)

// configuration is the whole file, decoded and valid.
type configuration struct {
	settings   config.Settings
	pods       pods.Config
	containers containers.Config
	routes     pipeline.Routes
	collectors []*config.Component
	exporters  []*config.Component
}

// newConfiguration returns what is there before the file is read.
func newConfiguration() *configuration {
	return &configuration{settings: config.DefaultSettings(), pods: pods.Default(), containers: containers.Default()}
}

// schema says what the file may contain; the sections are decoded into c.
func (c *configuration) schema() config.Schema {
	s := config.Schema{Sections: map[string]any{
		"pods": &c.pods, "containers": &c.containers, "routes": &c.routes,
	}}
	for _, k := range collectors {
		s.Collectors = append(s.Collectors, k.Kind)
	}
	for _, k := range exporters {
		s.Exporters = append(s.Exporters, k.Kind)
	}
	return s
}

// loadConfig reads and checks the file; run, validate and doctor all use it, so
// that what validates also starts.
func loadConfig(path string) (*configuration, error) {
	c := newConfiguration()
	schema := c.schema()
	schema.Check = func(parsed *config.Config) config.Errors {
		c.settings, c.collectors, c.exporters = parsed.Settings, parsed.Collectors, parsed.Exporters
		c.alwaysProm()
		return append(c.checkRoutes(parsed), c.checkAddresses(parsed)...)
	}
	_, err := config.Load(path, schema)
	if err != nil {
		return nil, err
	}
	if c.settings.NodeName == "" {
		c.settings.NodeName = os.Getenv("NODE_NAME")
	}
	if c.settings.NodeName == "" {
		if c.settings.NodeName, err = os.Hostname(); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// alwaysProm adds the scrape endpoints where the file does not name them: they
// also answer the probes.
func (c *configuration) alwaysProm() {
	for _, e := range c.exporters {
		if e.Kind == "prom" {
			return
		}
	}
	for _, k := range exporters {
		if k.Name == "prom" {
			c.exporters = append(c.exporters, &config.Component{Kind: k.Name, Name: k.Name, Enabled: true, Targets: k.New()})
		}
	}
}

// checkRoutes finds routes to exporters that the file does not have, or that do
// not take what is routed to them.
func (c *configuration) checkRoutes(parsed *config.Config) (errs config.Errors) {
	takes := map[string][]string{}
	for _, e := range c.exporters {
		if e.Enabled {
			takes[e.Name] = kindOf(e).takes
		}
	}
	names := slices.Sorted(maps.Keys(takes))
	for i, r := range c.routes {
		want := r.Match.Signals
		if len(want) == 0 {
			want = []string{"logs", "traces"}
		}
		for j, got := range r.Exporters {
			key := fmt.Sprintf("routes[%d].exporters[%d]", i, j)
			can, ok := takes[got]
			switch {
			case !ok:
				errs = append(errs, parsed.Mistake(key, got, fmt.Sprintf("there is no enabled exporter %q", got), names))
			case !slices.ContainsFunc(want, func(s string) bool { return slices.Contains(can, s) }):
				errs = append(errs, parsed.Mistake(key, "", fmt.Sprintf("%q does not take %s: leave it out of this route", got, strings.Join(want, " or ")), nil))
			}
		}
	}
	return errs
}

// checkAddresses finds two listeners on one address.
func (c *configuration) checkAddresses(parsed *config.Config) (errs config.Errors) {
	used := map[string]string{}
	if c.settings.Pprof != "" {
		used[c.settings.Pprof] = "pprof"
	}
	for _, e := range c.exporters {
		p, ok := e.Targets[0].(*prom.Config)
		if !ok || !e.Enabled {
			continue
		}
		if other, twice := used[p.Listen]; twice {
			errs = append(errs, parsed.Mistake("exporters."+e.Name+".listen", "", fmt.Sprintf("%s listens on %s already", other, p.Listen), nil))
		}
		used[p.Listen] = "exporters." + e.Name
	}
	return errs
}

// kindOf returns what the program has under the component's kind.
func kindOf(e *config.Component) exporterKind {
	i := slices.IndexFunc(exporters, func(k exporterKind) bool { return k.Name == e.Kind })
	return exporters[i]
}

// takers returns the enabled exporters that the signal reaches: those that take
// it, and that a route leads to where there are routes.
func (c *configuration) takers(signal string) (names []string) {
	for _, e := range c.exporters {
		if !e.Enabled || !slices.Contains(kindOf(e).takes, signal) {
			continue
		}
		routed := len(c.routes) == 0 || slices.ContainsFunc(c.routes, func(r pipeline.Route) bool {
			return slices.Contains(r.Exporters, e.Name) && (len(r.Match.Signals) == 0 || slices.Contains(r.Match.Signals, signal))
		})
		if routed {
			names = append(names, e.Name)
		}
	}
	return names
}
