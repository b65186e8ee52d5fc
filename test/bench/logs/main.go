// Command logs measures the log path of the built agent: real files in, an
// acknowledged delivery out, CPU time from the operating system.
//
//	go run ./test/bench/logs -mode catchup   read 10 logs of 50 MB from the beginning
//	go run ./test/bench/logs -mode live      4 logs, 20,000 lines a second, rotated every 10 MB
//	go run ./test/bench/logs -mode idle      1,000 logs that nobody writes to
//
// The agent has one CPU for itself; the receiver, a process of its own, and the
// writer have the other. The figure is ru_utime + ru_stime of the agent's whole
// life, start and stop included.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

type options struct {
	mode, out, compression, agent, dir string
	files, rate, runs                  int
	size, rotate                       int64
	duration                           time.Duration
	profile, memory                    string
	seed                               uint64
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "receiver" {
		if err := runReceiver(os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.StringVar(&o.mode, "mode", "catchup", "catchup, live or idle")
	flag.StringVar(&o.out, "out", "otlp", "otlp (over HTTP) or forward")
	flag.StringVar(&o.compression, "compression", "", "zstd, gzip or none; empty is zstd for otlp and gzip for forward")
	flag.StringVar(&o.agent, "agent", "bin/nodetap", "the agent's binary")
	flag.StringVar(&o.dir, "dir", "", "where the logs are made; empty is a temporary directory")
	flag.IntVar(&o.files, "files", 0, "number of logs; 0 is 10 for catchup, 4 for live, 1000 for idle")
	flag.Int64Var(&o.size, "size", 50e6, "bytes of each log (catchup)")
	flag.IntVar(&o.rate, "rate", 20000, "lines a second, all logs together (live)")
	flag.Int64Var(&o.rotate, "rotate", 10e6, "bytes at which a log is rotated (live)")
	flag.DurationVar(&o.duration, "duration", 30*time.Second, "how long (live, idle)")
	flag.IntVar(&o.runs, "runs", 1, "how often; each run prints its line")
	flag.StringVar(&o.profile, "profile", "", "file for a CPU profile of the agent (catchup, live)")
	flag.StringVar(&o.memory, "max-memory", "48MiB", "the collector's max_memory")
	flag.Uint64Var(&o.seed, "seed", 1, "of the content")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	if o.files == 0 {
		o.files = map[string]int{"catchup": 10, "live": 4, "idle": 1000}[o.mode]
	}
	if o.files == 0 {
		return fmt.Errorf("unknown mode %q", o.mode)
	}
	if o.compression == "" {
		o.compression = map[string]string{"otlp": "zstd", "forward": "gzip"}[o.out]
	}
	if o.mode == "catchup" {
		if err := printCodec(o); err != nil {
			return err
		}
	}
	for range o.runs {
		if err := once(o); err != nil {
			return err
		}
	}
	return nil
}

func once(o options) (err error) {
	dir := o.dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "nodetap-bench-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	}
	var records int
	var size int64
	switch o.mode {
	case "catchup":
		records, size, err = fill(dir, o.files, o.size, o.seed)
	case "idle":
		records, size, err = fill(dir, o.files, 1, o.seed)
	}
	if err != nil {
		return err
	}
	rcv, addrs, err := startReceiver()
	if err != nil {
		return err
	}
	defer func() {
		_ = rcv.Process.Kill()
		_ = rcv.Wait()
	}()
	config, err := writeConfig(o, dir, addrs)
	if err != nil {
		return err
	}
	began := time.Now()
	agent, err := startPinned(0, o.agent, "run", "--config", config)
	if err != nil {
		return err
	}
	rotations := 0
	switch o.mode {
	case "live":
		records, size, rotations, err = write(dir, o.files, o.rate, o.rotate, o.duration, o.seed)
	case "idle":
		if _, err = waitFor(addrs["http"], int64(records), agent); err == nil {
			return idle(o, agent, addrs["http"])
		}
	}
	if err == nil && o.profile != "" {
		go profile(addrs["pprof"], o.profile)
	}
	var got count
	if err == nil {
		got, err = waitFor(addrs["http"], int64(records), agent)
	}
	took := time.Since(began)
	cpu, rss, stopErr := stop(agent)
	if err = errors.Join(err, stopErr); err != nil {
		return err
	}
	if got, err = fetch(addrs["http"]); err != nil {
		return err
	}
	mb := float64(size) / 1e6
	fmt.Printf("%s %s/%s: %.0f MB, %d records, %d received (%+d), %d rotations, %.1f s\n", o.mode, o.out, o.compression, mb, records, got.Records, got.Records-int64(records), rotations, took.Seconds())
	fmt.Printf("  agent CPU %.2f s: %.0f MB per CPU-second, %.2f %% of a core; peak RSS %.1f MiB; wire/log bytes %.3f; %d calls\n",
		cpu.Seconds(), mb/cpu.Seconds(), 100*cpu.Seconds()/took.Seconds(), float64(rss)/1024, float64(got.Wire)/float64(size), got.Calls)
	return nil
}

// idle measures an agent that has read everything for a while.
func idle(o options, agent *exec.Cmd, addr string) error {
	time.Sleep(3 * time.Second)
	before, err := cpuOf(agent.Process.Pid)
	if err != nil {
		return err
	}
	time.Sleep(o.duration)
	after, err := cpuOf(agent.Process.Pid)
	if err != nil {
		return err
	}
	_, rss, err := stop(agent)
	if err != nil {
		return err
	}
	fmt.Printf("idle: %d logs for %s: agent CPU %.3f %% of a core; peak RSS %.1f MiB\n", o.files, o.duration, 100*(after-before).Seconds()/o.duration.Seconds(), float64(rss)/1024)
	return nil
}

func writeConfig(o options, dir string, addrs map[string]string) (string, error) {
	var exporter string
	switch o.out {
	case "otlp":
		exporter = fmt.Sprintf("  otlp: {endpoint: %q, protocol: http/protobuf, compression: %s, metrics: {interval: 0s}}\n", "http://"+addrs["http"], o.compression)
	case "forward":
		exporter = fmt.Sprintf("  forward: {endpoint: %q, compression: %s}\n", addrs["forward"], o.compression)
	default:
		return "", fmt.Errorf("unknown output %q", o.out)
	}
	addrs["pprof"] = "127.0.0.1:6679"
	pprof := ""
	if o.profile != "" {
		pprof = "pprof: " + addrs["pprof"] + "\n"
	}
	config := fmt.Sprintf("log_level: warn\nstate_dir: %s\n%shost: {log: %s}\npods: {api: \"off\"}\ncollectors:\n  logs: {resource_wait: 0s, exclude_own_logs: false, max_memory: %s}\n  cgroup: {enabled: false}\n  apm: {enabled: false}\nexporters:\n%s", filepath.Join(dir, "state"), pprof, dir, o.memory, exporter)
	path := filepath.Join(dir, "nodetap.yaml")
	return path, os.WriteFile(path, []byte(config), 0o600)
}

func startReceiver() (*exec.Cmd, map[string]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	var out bytes.Buffer
	cmd := exec.Command(self, "receiver")
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := pinned(1, cmd); err != nil {
		return nil, nil, err
	}
	line, err := bufio.NewReader(pipe).ReadBytes('\n')
	if err != nil {
		return nil, nil, fmt.Errorf("start receiver: %w: %s", err, out.String())
	}
	addrs := map[string]string{}
	return cmd, addrs, json.Unmarshal(line, &addrs)
}

func startPinned(cpu int, name string, args ...string) (*exec.Cmd, error) {
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	return cmd, pinned(cpu, cmd)
}

// pinned starts a command on one CPU: it inherits the thread's.
func pinned(cpu int, cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var old, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &old); err != nil {
		return err
	}
	one.Set(cpu % runtime.NumCPU())
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return err
	}
	return errors.Join(cmd.Start(), unix.SchedSetaffinity(0, &old))
}

func fetch(addr string) (c count, err error) {
	resp, err := http.Get("http://" + addr + "/count")
	if err != nil {
		return c, err
	}
	defer resp.Body.Close()
	return c, json.NewDecoder(resp.Body).Decode(&c)
}

func waitFor(addr string, records int64, agent *exec.Cmd) (count, error) {
	last, since := int64(-1), time.Now()
	for {
		c, err := fetch(addr)
		if err != nil {
			return c, err
		}
		if c.Records >= records {
			return c, nil
		}
		if c.Records != last {
			last, since = c.Records, time.Now()
		}
		if time.Since(since) > 20*time.Second {
			_ = agent.Process.Signal(syscall.SIGTERM)
			return c, fmt.Errorf("nothing came for 20 s: %d of %d records", c.Records, records)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// stop ends the agent. Its peak memory is taken before: the operating system
// counts into ru_maxrss what this program had when it started the agent, which
// is more than the agent ever has.
func stop(cmd *exec.Cmd) (cpu time.Duration, rssKiB int64, err error) {
	if rssKiB, err = peak(cmd.Process.Pid); err != nil {
		return 0, 0, err
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return 0, 0, err
	}
	if err := cmd.Wait(); err != nil {
		return 0, 0, fmt.Errorf("agent: %w", err)
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), rssKiB, nil
}

// peak returns the largest resident set so far, in KiB.
func peak(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			return strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
		}
	}
	return 0, errors.New("no VmHWM in the process's status")
}

// cpuOf reads utime and stime of /proc/<pid>/stat, in ticks of 10 ms.
func cpuOf(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	var user, sys int64
	if _, err := fmt.Sscan(f[11], &user); err != nil {
		return 0, err
	}
	if _, err := fmt.Sscan(f[12], &sys); err != nil {
		return 0, err
	}
	return time.Duration(user+sys) * 10 * time.Millisecond, nil
}
