// Command scrape measures what /metrics/cadvisor costs: it makes the cgroups of
// many pods in the kernel's real hierarchies, one process and one network
// namespace per pod, runs the built agent on them with nothing else enabled, and
// prints the agent's CPU time while nobody scrapes, its CPU time per scrape in
// each format, and its peak memory.
//
// It needs root, removes what it made, and ends the processes that it started.
package main

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	agent := flag.String("agent", "bin/nodetap", "the built agent")
	pods := flag.Int("pods", 125, "pods; each has four cgroups: its own, the sandbox, two containers")
	scrapes := flag.Int("scrapes", 100, "scrapes per format")
	idle := flag.Duration("idle", 30*time.Second, "how long the agent is measured without scrapes")
	config := flag.String("config", "", "keys of collectors.cgroup, as one line of YAML: interval: 1s, max_open_files: 0")
	busy := flag.Bool("busy", false, "a process in every container that works twice a second, instead of one idle process per pod")
	flag.Parse()
	if flag.Arg(0) == "work" {
		work()
	}
	if err := run(*agent, *pods, *scrapes, *idle, *config, *busy); err != nil {
		fmt.Fprintln(os.Stderr, "scrape:", err)
		os.Exit(1)
	}
}

// work is what a container does with -busy.
func work() {
	for {
		b := make([]byte, 64<<10)
		for i := range b {
			b[i] = byte(i)
		}
		time.Sleep(500 * time.Millisecond)
	}
}

func run(agent string, pods, scrapes int, idle time.Duration, config string, busy bool) (err error) {
	if os.Geteuid() != 0 {
		return fmt.Errorf("making cgroups needs root")
	}
	dir, err := os.MkdirTemp("", "nodetap-bench-")
	if err != nil {
		return err
	}
	n := &node{busy: busy, base: fmt.Sprintf("/nodetap-bench-%d", os.Getpid()), dir: dir}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, unix.SIGTERM)
	go func() {
		<-interrupted
		n.close()
		os.Exit(130)
	}()
	defer n.close()
	for i := range pods {
		if err := n.addPod(i); err != nil {
			return err
		}
	}
	fmt.Printf("%d pods, %d cgroups in %d hierarchies\n", pods, 4*pods, len(n.hierarchies()))

	if err := n.start(agent, config); err != nil {
		return err
	}
	series, bytes, err := n.settle(pods)
	if err != nil {
		return err
	}
	fmt.Printf("%d series, %.1f MB of text\n\n", series, float64(bytes)/1e6)

	before, begin := n.cpu(), time.Now()
	time.Sleep(idle)
	rate := (n.cpu() - before).Seconds() / time.Since(begin).Seconds()
	fmt.Printf("%-32s %8.2f %% of a core\n", "collecting, nobody scrapes", 100*rate)

	for _, f := range []struct {
		name   string
		header map[string]string
	}{
		{"text", map[string]string{"Accept": "text/plain;version=0.0.4", "Accept-Encoding": "identity"}},
		{"text, gzip", map[string]string{"Accept": "text/plain;version=0.0.4", "Accept-Encoding": "gzip"}},
		{"OpenMetrics, gzip", map[string]string{"Accept": "application/openmetrics-text;version=1.0.0", "Accept-Encoding": "gzip"}},
	} {
		before, begin := n.cpu(), time.Now()
		var size int64
		for range scrapes {
			_, got, err := n.scrape(f.header)
			if err != nil {
				return err
			}
			size = got
		}
		used := (n.cpu() - before).Seconds() - rate*time.Since(begin).Seconds()
		fmt.Printf("%-32s %8.2f ms of CPU per scrape, %.2f MB\n", f.name, 1000*used/float64(scrapes), float64(size)/1e6)
	}
	fmt.Printf("%-32s %8.1f MiB\n", "peak resident memory", float64(n.status("VmHWM:"))/1024)
	fmt.Printf("%-32s %8.1f MiB for %d open files\n", "memory of the kernel", float64(n.kernelMemory())/(1<<20), n.files())
	return nil
}

// node is what was made of this machine.
type node struct {
	busy      bool
	base, dir string
	procs     []*exec.Cmd
	agent     *exec.Cmd
}

const address = "127.0.0.1:19481"

// hierarchies returns the directories of the cgroup file systems.
func (n *node) hierarchies() []string {
	const root = "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/cgroup.controllers"); err == nil {
		return []string{root}
	}
	var out []string
	entries, _ := os.ReadDir(root)
	for _, e := range entries {
		if _, err := os.Stat(filepath.Join(root, e.Name(), "cgroup.procs")); err == nil && e.IsDir() {
			out = append(out, filepath.Join(root, e.Name()))
		}
	}
	return out
}

func (n *node) addPod(i int) error {
	uid := fmt.Sprintf("%08x-0000-4000-8000-%012x", i, i)
	pod := fmt.Sprintf("%s/kubepods/burstable/pod%s", n.base, uid)
	for j := range 3 {
		id := fmt.Sprintf("%032x%032x", i+1, j)
		for _, h := range n.hierarchies() {
			if err := mkdir(h, filepath.Join(pod, id)); err != nil {
				return err
			}
		}
		if j == 0 || n.busy {
			cmd := exec.Command("sleep", "infinity")
			cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
			if n.busy {
				cmd.Path, cmd.Args = "/proc/self/exe", []string{"scrape", "work"}
				cmd.Env = []string{"GOMAXPROCS=1"}
			}
			if j == 0 { // the sandbox
				cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNET
			}
			if err := cmd.Start(); err != nil {
				return err
			}
			n.procs = append(n.procs, cmd)
			for _, h := range n.hierarchies() {
				if strings.HasSuffix(h, "/cpuset") { // takes no process before it has CPUs
					continue
				}
				if err := os.WriteFile(filepath.Join(h, pod, id, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
					return err
				}
			}
		}
		if j == 0 {
			continue
		}
		// The log of a container, and the link that tells its id.
		log := filepath.Join(n.dir, "log/pods", fmt.Sprintf("bench_pod-%d_%s", i, uid), fmt.Sprintf("main-%d", j), "0.log")
		link := filepath.Join(n.dir, "log/containers", fmt.Sprintf("pod-%d_bench_main-%d-%s.log", i, j, id))
		for _, p := range []string{log, link} {
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(log, nil, 0o644); err != nil {
			return err
		}
		if err := os.Symlink(log, link); err != nil {
			return err
		}
	}
	return nil
}

// mkdir makes a cgroup with all controllers of the ones above it.
func mkdir(hierarchy, p string) error {
	at := hierarchy
	for part := range strings.SplitSeq(strings.TrimPrefix(p, "/"), "/") {
		if b, err := os.ReadFile(filepath.Join(at, "cgroup.controllers")); err == nil {
			for c := range strings.FieldsSeq(string(b)) {
				_ = os.WriteFile(filepath.Join(at, "cgroup.subtree_control"), []byte("+"+c), 0) // what cannot be delegated is not
			}
		}
		at = filepath.Join(at, part)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) start(agent, config string) error {
	text := fmt.Sprintf(`state_dir: %[1]s/state
host: {log: %[1]s/log}
collectors:
  cgroup: {%[2]s}
  logs: {enabled: false}
  apm: {enabled: false}
exporters:
  prom: {listen: %[3]q}
`, n.dir, config, address)
	file := filepath.Join(n.dir, "nodetap.yaml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return err
	}
	n.agent = exec.Command(agent, "run", "--config", file)
	out, err := os.Create(filepath.Join(n.dir, "agent.log"))
	if err != nil {
		return err
	}
	n.agent.Stdout, n.agent.Stderr = out, out
	n.agent.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGTERM}
	if err := n.agent.Start(); err != nil {
		return err
	}
	// In a cgroup of its own, to see what the kernel keeps on its behalf.
	for _, h := range n.hierarchies() {
		if strings.HasSuffix(h, "/cpuset") {
			continue
		}
		if err := mkdir(h, n.base+"/agent"); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(h, n.base, "agent/cgroup.procs"), []byte(strconv.Itoa(n.agent.Process.Pid)), 0); err != nil {
			return err
		}
	}
	return nil
}

// kernelMemory returns what the kernel charges the agent for beyond its pages.
func (n *node) kernelMemory() int {
	if b, err := os.ReadFile("/sys/fs/cgroup/memory" + n.base + "/agent/memory.kmem.usage_in_bytes"); err == nil {
		v, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		return v
	}
	b, _ := os.ReadFile("/sys/fs/cgroup" + n.base + "/agent/memory.stat")
	for l := range strings.Lines(string(b)) {
		if f := strings.Fields(l); len(f) == 2 && f[0] == "kernel" {
			v, _ := strconv.Atoi(f[1])
			return v
		}
	}
	return 0
}

// settle waits until every pod's rows are there, named, twice the same.
func (n *node) settle(pods int) (series int, size int64, err error) {
	last, same := -1, 0
	for range 60 {
		time.Sleep(2 * time.Second)
		var body string
		body, size, err = n.scrape(map[string]string{"Accept-Encoding": "identity"})
		if err != nil {
			continue
		}
		series = 0
		for l := range strings.Lines(body) {
			if !strings.HasPrefix(l, "#") {
				series++
			}
		}
		named := strings.Count(body, "container_memory_working_set_bytes{container=\"main-")
		if same++; series != last {
			same = 0
		}
		if named == 2*pods && same >= 4 {
			return series, size, nil
		}
		last = series
	}
	if err == nil {
		err = fmt.Errorf("only %d series after two minutes", series)
	}
	b, _ := os.ReadFile(filepath.Join(n.dir, "agent.log"))
	return 0, 0, fmt.Errorf("%w\n%s", err, b)
}

func (n *node) scrape(header map[string]string) (string, int64, error) {
	req, err := http.NewRequest(http.MethodGet, "http://"+address+"/metrics/cadvisor", nil)
	if err != nil {
		return "", 0, err
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("scrape: %s", res.Status)
	}
	return string(b), int64(len(b)), err
}

// cpu returns the agent's CPU time, which all its threads' schedstat sums to the
// nanosecond.
func (n *node) cpu() time.Duration {
	var sum time.Duration
	dir := fmt.Sprintf("/proc/%d/task", n.agent.Process.Pid)
	tasks, _ := os.ReadDir(dir)
	for _, t := range tasks {
		b, err := os.ReadFile(filepath.Join(dir, t.Name(), "schedstat"))
		if f := strings.Fields(string(b)); err == nil && len(f) > 0 {
			v, _ := strconv.ParseInt(f[0], 10, 64)
			sum += time.Duration(v)
		}
	}
	return sum
}

func (n *node) status(key string) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.agent.Process.Pid))
	for l := range strings.Lines(string(b)) {
		if f := strings.Fields(l); len(f) > 1 && f[0] == key {
			v, _ := strconv.Atoi(f[1])
			return v
		}
	}
	return 0
}

func (n *node) files() int {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.agent.Process.Pid))
	return len(entries)
}

func (n *node) close() {
	if n.agent != nil && n.agent.Process != nil {
		_ = n.agent.Process.Signal(unix.SIGTERM) // it may have ended
		_ = n.agent.Wait()
		n.agent = nil
	}
	for _, p := range n.procs {
		_ = p.Process.Kill() // likewise
		_ = p.Wait()
	}
	n.procs = nil
	for _, h := range n.hierarchies() {
		var all []string
		_ = filepath.WalkDir(filepath.Join(h, n.base), func(path string, e os.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				all = append(all, path)
			}
			return nil
		})
		for _, dir := range slices.Backward(all) {
			for range 100 {
				if unix.Rmdir(dir) != unix.EBUSY {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
	}
	_ = os.RemoveAll(n.dir)
}
