package component

import (
	"log/slog"
	"net/http"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"

	"nodetap/agent/containers"
	"nodetap/agent/metrics"
	"nodetap/agent/pods"
)

// Env is what a component is given. The fields are never nil, except where
// their comment says so.
type Env struct {
	Name   string       // the instance: "logs", "otlp/payments"
	Logger *slog.Logger // carries the component's name

	// Registerer takes the component's metrics about itself; exporters' carry
	// their instance as the label exporter.
	Registerer prometheus.Registerer
	// Gatherer gives the whole agent's metrics about itself.
	Gatherer prometheus.Gatherer

	Metrics    *metrics.Registry    // sources of /metrics/...
	Pods       *pods.Store          // which pod is this?
	Containers *containers.Registry // which containers live here
	Clock      *Clock               // kernel time to wall time
	Host       Host

	Cluster  string // k8s.cluster.name; may be ""
	NodeName string
	StateDir string // writable; a component keeps its files under StateDir/<its name>
	Version  string // of the agent

	// Live answers /healthz, Ready /readyz.
	Live, Ready http.Handler

	// OnCollecting is told by Collecting. May be nil.
	OnCollecting func()
}

// Collecting is what a collector calls in Run when it has begun to collect: its
// hooks are attached, its files are watched. The agent is ready when every
// collector has said so, or is off.
func (e *Env) Collecting() {
	if e.OnCollecting != nil {
		e.OnCollecting()
	}
}

// Host says where the node's own file systems are seen from inside the agent.
type Host struct {
	Proc   string // "/proc" (hostPID)
	Sys    string // "/sys"
	Cgroup string // "/sys/fs/cgroup"
	Log    string // "/var/log": holds pods/ and containers/
}

// PodLogs returns the directory of kubelet's container logs.
func (h Host) PodLogs() string { return filepath.Join(h.Log, "pods") }
