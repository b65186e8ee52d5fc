package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"nodetap/agent/component"
	"nodetap/agent/pods"
	"nodetap/collectors/apm"
)

// finding is one thing that doctor looked at.
type finding struct {
	name   string
	detail string
	ok     bool
	note   bool   // neither good nor bad: said for information
	loses  string // what is off because of it
	grant  string // what would grant it: the line of the manifest
}

// doctor prints what this node allows, what that switches off, and what would
// grant it. The exit code is 1 when something that the configuration asks for
// cannot run.
func doctor(cfg *configuration, w io.Writer) int {
	var uts unix.Utsname
	unix.Uname(&uts) //nolint:errcheck // it does not fail
	fmt.Fprintf(w, "nodetap %s on %s: Linux %s, %s\n\n", buildVersion(), cfg.settings.NodeName, unix.ByteSliceToString(uts.Release[:]), runtime.GOARCH)
	code := 0
	for _, f := range examine(cfg) {
		state := "ok"
		switch {
		case f.note:
			state = "note"
		case !f.ok:
			state, code = "OFF", 1
		}
		fmt.Fprintf(w, "%-5s %-14s %s\n", state, f.name, f.detail)
		if f.loses != "" {
			fmt.Fprintf(w, "      %-14s without it: %s\n", "", f.loses)
		}
		if f.grant != "" {
			fmt.Fprintf(w, "      %-14s grant it with: %s\n", "", f.grant)
		}
	}
	return code
}

func examine(cfg *configuration) []finding {
	s := cfg.settings
	on := map[string]bool{}
	for _, c := range cfg.collectors {
		on[c.Name] = c.Enabled
	}
	out := []finding{
		capabilities(on),
		readable("log files", filepath.Join(s.Host.Log, "pods"), "container logs", "hostPath volumes /var/log/pods and /var/log/containers, mounted read-only at "+filepath.Join(s.Host.Log, "pods")+" and "+filepath.Join(s.Host.Log, "containers"), on["logs"]),
		cgroupVersion(s.Host.Cgroup, on["cgroup"]),
		readable("proc", filepath.Join(s.Host.Proc, "1/stat"), "network metrics of pods, names of processes", "hostPID: true", on["cgroup"] || on["apm"]),
		writable(s.StateDir),
		apiServer(cfg),
	}
	out = append(out, tracing(cfg, on["apm"])...)
	return append(out, signals(cfg, on)...)
}

// wanted marks what the configuration switched off as a note, not as a fault.
func wanted(f finding, on bool) finding {
	if !f.ok && !on {
		f.note, f.loses = true, f.loses+" (switched off in the configuration anyway)"
	}
	return f
}

func readable(name, path, loses, grant string, on bool) finding {
	f, err := os.Open(path)
	if err != nil {
		return wanted(finding{name: name, detail: err.Error(), loses: loses, grant: grant}, on)
	}
	f.Close()
	return finding{name: name, detail: path + " can be read", ok: true}
}

func writable(dir string) finding {
	at := dir // the nearest directory that is there: run makes the rest
	for {
		if _, err := os.Stat(at); err == nil || at == "/" {
			break
		}
		at = filepath.Dir(at)
	}
	if unix.Access(at, unix.W_OK) == nil {
		return finding{name: "state", detail: dir + " can be written", ok: true}
	}
	return finding{
		name: "state", detail: at + " cannot be written",
		loses: "the agent does not start: it could not remember what it has sent", grant: "a writable hostPath volume at state_dir",
	}
}

var capabilityNames = []struct {
	bit   int
	name  string
	loses string
}{
	{unix.CAP_BPF, "BPF", "tracing, immediate discovery of containers"},
	{unix.CAP_PERFMON, "PERFMON", "tracing, immediate discovery of containers"},
	{unix.CAP_SYS_PTRACE, "SYS_PTRACE", "network metrics of pods of other users"},
	{unix.CAP_DAC_READ_SEARCH, "DAC_READ_SEARCH", "log files that only root may read, unless the agent is root"},
}

func capabilities(on map[string]bool) finding {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return finding{name: "capabilities", detail: err.Error()}
	}
	var have uint64
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "CapEff:"); ok {
			have, _ = strconv.ParseUint(strings.TrimSpace(v), 16, 64)
		}
	}
	var got, missing, loses []string
	for _, c := range capabilityNames {
		if have&(1<<c.bit) != 0 || (c.bit == unix.CAP_BPF || c.bit == unix.CAP_PERFMON) && have&(1<<unix.CAP_SYS_ADMIN) != 0 {
			got = append(got, c.name)
			continue
		}
		missing = append(missing, c.name)
		if !slices.Contains(loses, c.loses) {
			loses = append(loses, c.loses)
		}
	}
	f := finding{name: "capabilities", detail: "has " + strings.Join(got, ", "), ok: len(missing) == 0}
	if !f.ok {
		f.detail = "lacks " + strings.Join(missing, ", ")
		f.loses = strings.Join(loses, "; ")
		f.grant = "securityContext: {capabilities: {add: [" + strings.Join(missing, ", ") + "]}}"
	}
	return wanted(f, on["apm"])
}

func cgroupVersion(root string, on bool) finding {
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return wanted(finding{name: "cgroups", detail: err.Error(), loses: "container metrics, tracing", grant: "hostPath volume /sys/fs/cgroup, mounted read-only at " + root}, on)
	}
	is := func(dir string) bool {
		var st unix.Statfs_t
		return unix.Statfs(filepath.Join(root, dir), &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
	}
	switch {
	case st.Type == unix.CGROUP2_SUPER_MAGIC:
		return finding{name: "cgroups", detail: "version 2 at " + root, ok: true}
	case is("unified"):
		return finding{name: "cgroups", detail: "version 1, with version 2 beside it at " + filepath.Join(root, "unified") + ": no pressure (PSI) per container", ok: true}
	}
	if _, err := os.Stat(filepath.Join(root, "memory")); err == nil {
		return finding{name: "cgroups", detail: "version 1 at " + root + ": no pressure (PSI) per container, and traces without containers", ok: true}
	}
	return wanted(finding{name: "cgroups", detail: "no cgroup file system at " + root, loses: "container metrics, tracing", grant: "hostPath volume /sys/fs/cgroup"}, on)
}

func apiServer(cfg *configuration) finding {
	if cfg.pods.API == "off" {
		return finding{name: "API server", detail: "not asked: pods.api is off", note: true, loses: "labels, workloads and images; names come from the log paths"}
	}
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" && cfg.pods.Kubeconfig == "" {
		return finding{
			name: "API server", detail: "none: not in a cluster, and pods.kubeconfig is empty", note: true,
			loses: "labels, workloads and images; names come from the log paths",
		}
	}
	if cfg.pods.Kubeconfig != "" {
		return access(cfg, readable("API server", cfg.pods.Kubeconfig, "labels, workloads and images", "a readable pods.kubeconfig", true))
	}
	const token = "/var/run/secrets/kubernetes.io/serviceaccount/token"
	f := readable("API server", token, "labels, workloads and images", "automountServiceAccountToken: true", true)
	if f.ok {
		f.detail = "https://" + host + ":" + port + ", as this pod's service account"
	}
	return access(cfg, f)
}

// access asks the API server for all that run asks, and tells what is refused.
func access(cfg *configuration, f finding) finding {
	if !f.ok {
		return f
	}
	const identity = "labels, workloads and images; names come from the log paths"
	list, err := pods.CheckAccess(context.Background(), cfg.pods, pods.Options{NodeName: cfg.settings.NodeName, Version: buildVersion()})
	if err != nil {
		return finding{name: f.name, detail: err.Error(), loses: identity}
	}
	var denied, rules []string
	loses := "names of peers on other nodes"
	for _, a := range list {
		if a.Resource == "pods" && a.Err != nil {
			loses = identity
		}
		switch {
		case a.Denied():
			denied = append(denied, a.Verb+" "+a.Resource)
			rules = append(rules, fmt.Sprintf("{apiGroups: [%q], resources: [%s], verbs: [%s]}", a.Group, a.Resource, a.Verb))
		case a.Err != nil:
			return finding{name: f.name, detail: f.detail + ": " + a.Err.Error(), loses: loses}
		}
	}
	if len(denied) > 0 {
		return finding{name: f.name, detail: f.detail + ", which may not " + strings.Join(denied, ", "), loses: loses, grant: "ClusterRole rules " + strings.Join(rules, ", ")}
	}
	f.detail += ": answers, and gives what is asked"
	return f
}

// tracing loads and attaches the real programs, because only that tells: a
// kernel may have what it refuses to this process.
func tracing(cfg *configuration, on bool) []finding {
	h := cfg.settings.Host
	err := apm.Probe(component.Host{Proc: h.Proc, Sys: h.Sys, Cgroup: h.Cgroup, Log: h.Log})
	f := finding{name: "tracing", detail: "the BPF programs load and attach", ok: err == nil}
	if err != nil {
		f.detail, f.loses = err.Error(), "HTTP spans and request metrics; logs and container metrics run"
		if off, ok := errors.AsType[*component.Unsupported](err); ok {
			f.detail, f.grant = "missing: "+off.Missing, off.Grant
		}
	}
	return []finding{lockdown(h.Sys), wanted(f, on)}
}

// lockdown tells the kernel's lockdown mode; what it costs is in the tracing
// line.
func lockdown(sys string) finding {
	mode := "none"
	if b, err := os.ReadFile(filepath.Join(sys, "kernel/security/lockdown")); err == nil {
		if _, rest, ok := strings.Cut(string(b), "["); ok {
			mode, _, _ = strings.Cut(rest, "]")
		}
	}
	f := finding{name: "lockdown", detail: mode, note: mode == "confidentiality", ok: true}
	if f.note {
		f.detail += ": the kernel refuses BPF programs to read its memory"
	}
	return f
}

func signals(cfg *configuration, on map[string]bool) []finding {
	takes := map[string][]string{"logs": cfg.takers("logs"), "traces": cfg.takers("traces")}
	for _, e := range cfg.exporters {
		if e.Enabled && e.Kind != "forward" { // Forward has no metrics
			takes["metrics"] = append(takes["metrics"], e.Name)
		}
	}
	var out []finding
	for _, s := range []struct{ name, collector string }{{"logs", "logs"}, {"traces", "apm"}, {"metrics", "cgroup"}} {
		f := finding{name: s.name, ok: true, detail: "go to " + strings.Join(takes[s.name], ", ")}
		switch {
		case !on[s.collector]:
			f = finding{name: s.name, note: true, detail: "collectors." + s.collector + " is switched off"}
		case len(takes[s.name]) == 0:
			f = finding{name: s.name, note: true, detail: "no exporter takes them: they are not collected", grant: "an exporter in the configuration (and a route to it, where there are routes), such as exporters: {otlp: {endpoint: ...}}"}
		}
		out = append(out, f)
	}
	return out
}
