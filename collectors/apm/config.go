package apm

import (
	"errors"
	"fmt"
	"strings"

	"nodetap/agent/component"
)

// Config is the section `collectors.apm`.
type Config struct {
	Processes         string   `yaml:"processes" doc:"Whose requests are traced: containers (what runs in a container), or all (every process of the node; those outside containers are named after their executable)."`
	ExcludeUserAgents []string `yaml:"exclude_user_agents" doc:"Requests whose User-Agent begins with one of these give no span and no metric. kube-probe/ leaves kubelet's probes out. Empty: none."`
	CaptureBytes      int      `yaml:"capture_bytes" doc:"Bytes of each message that are copied from the kernel, 256 to 8192. A head that is longer loses the fields beyond it; pipelined messages beyond it in one system call are not seen."`
	RingBytes         int      `yaml:"ring_bytes" doc:"Size of the ring buffer between kernel and agent in bytes, a power of two, 65536 to 268435456. Too small a ring drops events; drops are counted."`
	MaxConnections    int      `yaml:"max_connections" doc:"HTTP connections followed at once. The one that was idle longest makes room."`
	MaxRoutes         int      `yaml:"max_routes" doc:"Different routes of one service and direction. Paths beyond that have the route /_other."`
	MaxSeries         int      `yaml:"max_series" doc:"Series of the request duration metrics. Requests beyond that are counted in one series per container, with otel_metric_overflow=\"true\"."`
	Spans             bool     `yaml:"spans" doc:"Whether spans are sent at all. Without them, or without an exporter that takes spans, the metrics remain."`
}

// Default returns the configuration of an empty section.
func Default() Config {
	return Config{
		Processes:      "containers",
		CaptureBytes:   4096,
		RingBytes:      4 << 20,
		MaxConnections: 32768,
		MaxRoutes:      200,
		MaxSeries:      10000,
		Spans:          true,
	}
}

// Validate returns every mistake as a *component.FieldError, joined.
func (c *Config) Validate() error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, &component.FieldError{Key: key, Msg: fmt.Sprintf(format, args...)})
	}
	if c.Processes != "containers" && c.Processes != "all" {
		bad("processes", "%q is not one of containers, all", c.Processes)
	}
	for i, ua := range c.ExcludeUserAgents {
		if strings.TrimSpace(ua) == "" {
			bad(fmt.Sprintf("exclude_user_agents[%d]", i), "is empty: it would exclude every request")
		}
	}
	between := func(key string, v, low, high int) {
		if v < low || v > high {
			bad(key, "%d is not between %d and %d", v, low, high)
		}
	}
	between("capture_bytes", c.CaptureBytes, 256, 8192)
	between("ring_bytes", c.RingBytes, 64<<10, 256<<20)
	if c.RingBytes > 0 && c.RingBytes&(c.RingBytes-1) != 0 {
		bad("ring_bytes", "%d is not a power of two", c.RingBytes)
	}
	between("max_connections", c.MaxConnections, 128, 1<<20)
	between("max_routes", c.MaxRoutes, 1, 10000)
	between("max_series", c.MaxSeries, 1, 1<<20)
	return errors.Join(errs...)
}
