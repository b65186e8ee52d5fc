package main

import (
	"fmt"
	"os"
	"slices"

	"nodetap/agent/config"
	"nodetap/agent/containers"
	"nodetap/agent/pipeline"
	"nodetap/agent/pods"
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
	parsed, err := config.Load(path, c.schema())
	if err != nil {
		return nil, err
	}
	c.settings, c.collectors, c.exporters = parsed.Settings, parsed.Collectors, parsed.Exporters
	c.alwaysProm()
	if errs := c.checkRoutes(parsed); len(errs) > 0 {
		return nil, errs
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

// checkRoutes finds routes to exporters that the file does not have.
func (c *configuration) checkRoutes(parsed *config.Config) (errs config.Errors) {
	var names []string
	for _, e := range c.exporters {
		if e.Enabled {
			names = append(names, e.Name)
		}
	}
	for i, r := range c.routes {
		for j, got := range r.Exporters {
			if !slices.Contains(names, got) {
				key := fmt.Sprintf("routes[%d].exporters[%d]", i, j)
				errs = append(errs, parsed.Mistake(key, got, fmt.Sprintf("there is no enabled exporter %q", got), names))
			}
		}
	}
	return errs
}
