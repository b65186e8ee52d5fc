package cgroup

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"nodetap/agent/component"
	"nodetap/agent/containers"
	"nodetap/agent/metrics"
	"nodetap/agent/telemetry"
)

var update = flag.Bool("update", false, "write the golden files")

var scrapeTime = time.Unix(1795351099, 0)

// hostRoot unpacks a host's files: "-- path --" lines begin one. A path that
// ends with ns/net is a link.
func hostRoot(t *testing.T, name string) component.Host {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for part := range strings.SplitSeq("\n"+string(b), "\n-- ") {
		p, text, _ := strings.Cut(strings.TrimPrefix(part, "-- "), "\n")
		p, ok := strings.CutSuffix(p, " --")
		if !ok {
			continue
		}
		p = filepath.Join(root, p)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(p, "/ns/net") {
			err = os.Symlink(strings.TrimSpace(text), p)
		} else {
			if text != "" {
				text += "\n"
			}
			err = os.WriteFile(p, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return component.Host{Proc: filepath.Join(root, "proc"), Sys: filepath.Join(root, "sys"), Cgroup: filepath.Join(root, "cgroup")}
}

// sampled returns a collector that has sampled the host once.
func sampled(t *testing.T, host component.Host, cfg Config, pods podStore) *Collector {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	found := containers.Default()
	found.Source = "inotify"
	cs, err := containers.New(found, host.Cgroup, host.Proc, log, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- cs.Run(ctx) }()
	<-cs.Synced()
	list := cs.List()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	env := component.Env{Logger: log, Registerer: prometheus.NewRegistry(), Metrics: metrics.NewRegistry(), Clock: &component.Clock{}, Host: host}
	c := newCollector(env, cfg, pods, cs)
	c.idPaths = []string{filepath.Join(filepath.Dir(host.Proc), "etc/machine-id")}
	// The sandbox's directory is the older one, which inodes of a copy do not say.
	c.inode = func(cgroup string) uint64 {
		switch dir, _ := procsDir(must(cs.Layout())); {
		case !exists(filepath.Join(dir, cgroup)):
			return 0
		case strings.Contains(cgroup, containerID):
			return 2
		}
		return 1
	}
	c.begin(must(cs.Layout()))
	t.Cleanup(c.end)
	for _, k := range list {
		old := *k
		old.FirstSeen = scrapeTime.Add(-time.Minute)
		c.take(containers.Event{Container: &old})
	}
	c.follow()
	c.sample(scrapeTime)
	return c
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func exists(p string) bool { _, err := os.Lstat(p); return err == nil }

// text writes what a scrape gets.
func text(c *Collector) string {
	b := &metrics.Builder{}
	c.Collect(b)
	var out bytes.Buffer
	for _, f := range b.Snapshot(0).Families {
		for _, s := range f.Series {
			otlp := ""
			if s.Labels.IsPromOnly() {
				otlp = " #"
			}
			fmt.Fprintf(&out, "%s{%s} %s%s\n", f.Desc.Name, s.Labels.Text(), strconv.FormatFloat(s.Value, 'g', -1, 64), otlp)
		}
	}
	return out.String()
}

// Each cgroup version with another scheme of paths: cgroupfs driver, systemd
// driver with containerd and CRI-O, docker outside Kubernetes, the two drivers
// mixed up. In the golden files " #" ends a series that OTLP leaves out.
func TestGoldenScrapes(t *testing.T) {
	const hostPod = "1c8b54a0-8b4d-4bc2-a9d8-10f3ac952b2f"
	for _, name := range []string{"v1", "v2", "hybrid"} {
		t.Run(name, func(t *testing.T) {
			pods := demoPods()
			pods.pods[hostPod] = &telemetry.Resource{Namespace: "kube-system", Pod: "proxy", PodUID: hostPod}
			pods.hostNetwork = map[string]bool{hostPod: true}
			got := text(sampled(t, hostRoot(t, name+".txt"), Default(), pods))
			golden := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); d != "" {
				t.Error(d)
			}
		})
	}
}

// Files that no budget keeps open say the same.
func TestScrapeWithoutOpenFilesIsTheSame(t *testing.T) {
	cfg := Default()
	want := text(sampled(t, hostRoot(t, "v2.txt"), cfg, demoPods()))
	cfg.MaxOpenFiles = 0
	c := sampled(t, hostRoot(t, "v2.txt"), cfg, demoPods())
	if d := cmp.Diff(strings.Split(want, "\n"), strings.Split(text(c), "\n")); d != "" {
		t.Error(d)
	}
	if c.openFiles != 0 {
		t.Errorf("%d files are open", c.openFiles)
	}
	cfg.MaxOpenFiles = 10 // less than there are fast ones
	if c := sampled(t, hostRoot(t, "v2.txt"), cfg, demoPods()); c.openFiles != 10 {
		t.Errorf("%d files are open, want 10", c.openFiles)
	}
}

// left are kubelet's series that we leave out, with the reason.
var left = map[string]string{
	"container_cpu_load_average_10s":   "kubelet reads it by netlink, off by default, and drops it in 1.37",
	"container_cpu_load_d_average_10s": "likewise",
	"container_tasks_state":            "likewise",
	"container_file_descriptors":       "counting needs a walk over /proc for every process",
	"container_sockets":                "likewise",
	"container_ulimits_soft":           "of the first process alone, and not a measurement",
	// Zeros that kubelet writes where the kernel says nothing.
	"container_pressure_cpu_stalled_seconds_total":    "no pressure in this host's cgroups",
	"container_pressure_cpu_waiting_seconds_total":    "likewise",
	"container_pressure_io_stalled_seconds_total":     "likewise",
	"container_pressure_io_waiting_seconds_total":     "likewise",
	"container_pressure_memory_stalled_seconds_total": "likewise",
	"container_pressure_memory_waiting_seconds_total": "likewise",
}

// more are ours that kubelet 1.34 does not have.
var more = regexp.MustCompile(`^container_(cpu_cfs_burst_.*|fs_(reads|writes)(_bytes)?_total)$`)

// The rows of a pod on a cgroup v1 node are kubelet's own, series by series and
// label by label: testdata/kubelet-rows.txt is from a real kubelet.
func TestRowsAreKubelets(t *testing.T) {
	b, err := os.ReadFile("testdata/kubelet-rows.txt")
	if err != nil {
		t.Fatal(err)
	}
	theirs := strings.Fields(strings.ReplaceAll(string(b), " ", "_"))
	cfg := Default()
	cfg.SandboxImage = "localhost/kt/pause:1"
	var ours []string
	for l := range strings.Lines(text(sampled(t, hostRoot(t, "v1.txt"), cfg, demoPods()))) {
		if series := l[:strings.LastIndex(l, "} ")+1]; strings.Contains(series, testPod) {
			ours = append(ours, series)
		}
	}
	if len(theirs) < 150 {
		t.Fatalf("kubelet has only %d series", len(theirs))
	}
	for _, s := range theirs {
		name, _, _ := strings.Cut(s, "{")
		if !slices.Contains(ours, s) && left[name] == "" {
			t.Errorf("kubelet alone has %s", s)
		}
	}
	for _, s := range ours {
		name, _, _ := strings.Cut(s, "{")
		if !slices.Contains(theirs, s) && !more.MatchString(name) {
			t.Errorf("we alone have %s", s)
		}
	}
}
