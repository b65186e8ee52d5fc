// Package cgroup measures containers, pods and the node by their cgroups: CPU,
// throttling, memory, I/O, pids, pressure, OOM kills and the network of each
// pod, under the names, labels and rows that cAdvisor has in kubelet's
// /metrics/cadvisor. It reads cgroup v1, v2 and both at once (hybrid).
//
// It reads on a schedule of its own: CPU time, throttling and memory in use
// every interval (1 s), the rest every detail_interval (10 s), spread over the
// ticks. A scrape never touches the kernel; what it gets is at most that old. The
// files that are read each second stay open, for a pread costs a twentieth of
// opening them.
//
// It does not ask the container runtime (no writable layer, no volumes) and
// keeps no history.
//
// Invariants: what the kernel does not tell is absent, never 0. No series has a
// timestamp. The rows of a container are gone with its cgroup. Each pod's network
// stands once, on its sandbox's row, and not at all for pods on the node's own
// network, which the row "/" has.
package cgroup

import (
	"errors"
	"time"

	"nodetap/agent/component"
)

// Config is the section `collectors.cgroup` of the configuration.
type Config struct {
	Interval       time.Duration `yaml:"interval" doc:"how often CPU time, throttling and memory in use are read: the age that they have at most in a scrape"`
	DetailInterval time.Duration `yaml:"detail_interval" doc:"the same for everything else: memory by kind, I/O, network, pids, pressure; limits every sixth time"`
	MaxOpenFiles   int           `yaml:"max_open_files" doc:"how many files of cgroups stay open; further ones are opened for each reading, which costs more CPU"`
	SandboxImage   string        `yaml:"sandbox_image" doc:"the image label of pods' sandbox (pause) rows, which carry the network: dashboards leave out rows without an image"`
	UnknownAfter   time.Duration `yaml:"unknown_after" doc:"how long the rows of a new container wait for its name; then they come without"`
}

// Default returns the configuration of an empty section.
func Default() Config {
	return Config{
		Interval: time.Second, DetailInterval: 10 * time.Second, MaxOpenFiles: 2000,
		SandboxImage: "registry.k8s.io/pause", UnknownAfter: 5 * time.Second,
	}
}

// Validate returns every key that is wrong.
func (c Config) Validate() error {
	var errs []error
	bad := func(key, msg string) { errs = append(errs, &component.FieldError{Key: key, Msg: msg}) }
	if c.Interval < 100*time.Millisecond || c.Interval > time.Minute {
		bad("interval", "must lie between 100ms and 1m")
	}
	if c.DetailInterval < c.Interval || c.DetailInterval > 10*time.Minute {
		bad("detail_interval", "must lie between interval and 10m")
	}
	if c.MaxOpenFiles < 0 {
		bad("max_open_files", "must not be negative")
	}
	if c.UnknownAfter < 0 {
		bad("unknown_after", "must not be negative")
	}
	return errors.Join(errs...)
}
