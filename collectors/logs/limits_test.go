package logs

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nodetap/agent/component"
	"nodetap/agent/telemetry"
)

func TestLongLinesAreCutAndMarked(t *testing.T) {
	for _, gz := range []bool{false, true} {
		n := newNode(t)
		n.cfg.MaxLineBytes = 300 << 10
		n.cfg.BatchBytes = 64 << 10
		long := strings.Repeat("0123456789", 40<<10) // 400 KiB, longer than the read buffer too
		exact := strings.Repeat("x", 300<<10)
		var parts strings.Builder
		for range 25 {
			parts.WriteString(n.tagged("stdout", "P", strings.Repeat("p", 16<<10)))
		}
		parts.WriteString(n.tagged("stdout", "F", "end"))
		name := n.log("0.log")
		if gz {
			name = n.log("0.log.20261122-100000")
		}
		n.write(name, n.cri("a", long, "b", exact, "c")+parts.String()+n.cri("d"))
		if gz {
			n.gzip(name)
		}
		s := newSink()
		a := n.start(s)
		got := s.wait(7)
		same(t, got[1].Body, long[:300<<10])
		same(t, got[3].Body, exact)
		same(t, got[5].Body, strings.Repeat("p", 300<<10))
		for i, want := range []telemetry.LogFlags{0, telemetry.Truncated, 0, 0, 0, telemetry.Truncated | telemetry.Joined, 0} {
			if got[i].Flags != want {
				t.Errorf("record %d has the flags %d, want %d", i, got[i].Flags, want)
			}
			if i > 0 && got[i].Pos != got[i-1].Pos+int64(got[i-1].Len) {
				t.Errorf("record %d begins at %d, the one before ends at %d", i, got[i].Pos, got[i-1].Pos+int64(got[i-1].Len))
			}
		}
		a.counter("nodetap_logs_truncated_lines_total", 2)
		if n := a.partial.Load(); n != 0 {
			t.Errorf("%d bytes of unfinished lines are still counted", n)
		}
		a.stop()
	}
}

func TestMalformedLinesAndNULsAreNoReasonToStop(t *testing.T) {
	n := newNode(t)
	n.write(n.log("0.log"), n.cri("a")+"what is this\n"+strings.Repeat("\x00", 100)+n.cri("b")+strings.Repeat("\x00", 10)+"\n{\n"+n.cri("c"))
	s := newSink()
	a := n.start(s)
	same(t, s.bodies(5), []string{"a", "what is this", "b", "{", "c"})
	if v := a.counter("nodetap_logs_malformed_lines_total", 2); v != 2 {
		t.Errorf("%v malformed lines", v)
	}
	if v := a.counter("nodetap_logs_dropped_bytes_total", 110); v != 110 {
		t.Errorf("%v bytes of NULs", v)
	}
}

func TestReadingStopsWhenMemoryIsFull(t *testing.T) {
	n := newNode(t)
	n.cfg.MaxMemory, n.cfg.BatchBytes, n.cfg.MaxLineBytes = 4<<20, 64<<10, 1<<20
	n.cfg.ResourceWait = 0
	body := strings.Repeat("x", 1000)
	const lines = 12000 // 12 MB
	for _, pod := range []string{"a", "b", "c"} {
		var b strings.Builder
		for range lines / 3 {
			b.WriteString(n.tagged("stdout", "F", body))
		}
		n.write("pods/ns_"+pod+"_uid-"+pod+"/app/0.log", b.String())
	}
	s := newSink()
	s.holdAcks()
	a := n.start(s)
	a.counter("nodetap_logs_starved_sources", 3)
	if lent := a.pool.lent(); lent > 4<<20 {
		t.Errorf("%d bytes are lent", lent)
	}
	if got := len(s.wait(1)); got == lines {
		t.Error("nothing stopped")
	}
	if a.counter("nodetap_logs_lag_bytes", 1) < 5e6 {
		t.Error("the lag is not seen")
	}
	s.release()
	s.wait(lines)
	a.stop()
	same(t, len(s.wait(lines)), lines)
}

// release acknowledges what was held, and everything from now on.
func (s *sink) release() {
	s.mu.Lock()
	s.hold = false
	held := s.held
	s.held = nil
	s.mu.Unlock()
	for _, b := range held {
		b.OnAcked()
		b.OnReleased()
	}
}

func TestFairBetweenContainers(t *testing.T) {
	n := newNode(t)
	n.cfg.Workers = 1
	n.cfg.BatchBytes = 16 << 10
	n.write("pods/ns_noisy_uid-1/app/0.log", n.cri(strings.Split(strings.Repeat("x\n", 100_000), "\n")...))
	n.write("pods/ns_quiet_uid-2/app/0.log", n.cri("quiet"))
	s := newSink()
	n.start(s)
	for i, r := range s.wait(100_002) {
		if r.Body == "quiet" {
			if i > 50_000 {
				t.Errorf("it came as number %d, behind most of a container that writes more", i)
			}
			return
		}
	}
	t.Error("it did not come")
}

func TestPlantedFilesAreRefused(t *testing.T) {
	n := newNode(t)
	n.write("secret", n.cri("what no pod may read"))
	n.mkdir("elsewhere/app")
	n.write("elsewhere/app/0.log", n.cri("what no pod may read"))
	n.write(n.log("0.log"), n.cri("good"))
	n.check(os.Symlink(n.path("secret"), n.path(n.log("1.log"))))
	n.check(unix.Mkfifo(n.path(n.log("2.log")), 0o600))
	n.mkdir(n.log("3.log"))
	ln, err := net.Listen("unix", n.path(n.log("4.log")))
	n.check(err)
	defer ln.Close()
	n.check(os.Symlink(n.path("elsewhere/app"), n.path("pods/ns_pod_uid-1/link")))
	n.check(os.Symlink(n.path("elsewhere"), n.path("pods/ns_linked_uid-2")))
	refused := 6.0
	if unix.Mknod(n.path(n.log("5.log")), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) == nil {
		refused++
	}
	s := newSink()
	a := n.start(s)
	if v := a.counter("nodetap_logs_refused_files_total", refused); v != refused {
		t.Errorf("%v were refused, want %v", v, refused)
	}
	a.counter("nodetap_logs_sources", 1)
	n.write(n.log("0.log"), n.cri("better"))
	same(t, s.bodies(2), []string{"good", "better"})
}

func TestWithoutOpenat2(t *testing.T) {
	old := noOpenat2.Swap(true)
	defer noOpenat2.Store(old)
	TestPlantedFilesAreRefused(t)
}

func TestDockerLinksAreFollowedAndRotated(t *testing.T) {
	n := newNode(t)
	n.cfg.DockerRoot = n.path("docker")
	id := strings.Repeat("0b", 32)
	file := "docker/" + id + "/" + id + "-json.log"
	line := func(body string) string {
		n.clock = n.clock.Add(time.Nanosecond)
		return `{"log":"` + body + `\n","stream":"stdout","time":"` + n.clock.Format(time.RFC3339Nano) + `"}` + "\n"
	}
	n.write(file+".2", line("1"))
	n.gzip(file + ".2")
	n.write(file+".1", line("2")+line("3"))
	n.write(file, line("4"))
	n.mkdir(testDir)
	n.check(os.Symlink(n.path(file), n.path(n.log("0.log"))))
	s := newSink()
	a := n.start(s)
	same(t, s.bodies(4), []string{"1", "2", "3", "4"})
	n.rename(file+".2.gz", file+".3.gz")
	n.rename(file+".1", file+".2")
	n.rename(file, file+".1")
	n.write(file, line("5"))
	same(t, s.bodies(5), []string{"1", "2", "3", "4", "5"})
	a.stop()
	n.write(file, line("6"))
	n.start(s)
	same(t, s.bodies(6), []string{"1", "2", "3", "4", "5", "6"})
	if got := s.wait(6)[0]; got.Path != n.path(n.log("0.log")) {
		t.Errorf("path = %s", got.Path)
	}
}

func TestOwnLogIsLeftOut(t *testing.T) {
	for _, env := range []map[string]string{
		{"POD_UID": "uid-self"},
		{"POD_NAME": "self", "POD_NAMESPACE": "ns"},
	} {
		n := newNode(t)
		n.cfg.ExcludeOwnLogs = true
		for k, v := range env {
			t.Setenv(k, v)
		}
		t.Setenv("NODE_NAME", "")
		n.write("pods/ns_self_uid-self/nodetap/0.log", n.cri("about myself"))
		n.write("pods/ns_self_uid-self/nodetap/0.log.20261122-100000", n.cri("about myself"))
		n.write(n.log("0.log"), n.cri("about others"))
		s := newSink()
		a := n.start(s)
		same(t, s.bodies(1), []string{"about others"})
		if a.sum().sources != 1 {
			t.Error("the agent follows its own log")
		}
		a.stop()
		same(t, s.bodies(1), []string{"about others"})
		for k := range env {
			t.Setenv(k, "")
		}
	}
}

type deaf struct{ sink }

func (*deaf) WantsLogs() bool { return false }

func TestNothingIsDoneWhenNobodyTakesLogs(t *testing.T) {
	n := newNode(t)
	env, err := testEnv(n.root)
	n.check(err)
	c, err := New(env, n.cfg)
	n.check(err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Run(ctx, &deaf{}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(n.path("state/logs")); !os.IsNotExist(err) {
		t.Errorf("it made its state: %v", err)
	}
}

func TestNewPodWaitsForItsLabelsOnlySoLong(t *testing.T) {
	n := newNode(t)
	n.cfg.ResourceWait = time.Minute
	n.write(n.log("0.log"), n.cri("unknown to any API server"))
	runs := make(chan struct{})
	var once sync.Once
	n.looked = func(string) { once.Do(func() { close(runs) }) }
	s := newSink()
	a := n.start(s)
	<-runs
	var src *source
	for files := 0; files == 0; time.Sleep(time.Millisecond) { // until it is found
		if l := a.list(); len(l) == 1 {
			src = l[0]
			src.mu.Lock()
			files = len(src.files)
			src.mu.Unlock()
		}
	}
	if v := newWorker(a.Collector).turn(src); v != (verdict{after: retryTime}) {
		t.Errorf("a turn within the wait came to %+v", v)
	}
	src.mu.Lock()
	if src.resource == nil || !src.resource.Partial {
		t.Errorf("the pod is known: %+v", src.resource)
	}
	if src.batch != nil || src.files[0].off != 0 {
		t.Errorf("it did not wait: batch %v, position %d", src.batch, src.files[0].off)
	}
	if got := s.wait(0); len(got) > 0 {
		t.Errorf("it did not wait, and sent %v", got)
	}
	src.created = src.created.Add(-n.cfg.ResourceWait) // the wait is over
	src.mu.Unlock()
	same(t, s.bodies(1), []string{"unknown to any API server"})
}

func TestDirectoryThatComesLater(t *testing.T) {
	n := newNode(t)
	n.remove("pods")
	s := newSink()
	n.start(s)
	n.write(n.log("0.log"), n.cri("x"))
	same(t, s.bodies(1), []string{"x"})
}

func TestConfig(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Error(err)
	}
	if err := (Config{}).Validate(); err != nil {
		t.Error("an empty one:", err)
	}
	bad := Config{
		Path: "a", DockerRoot: "b", MaxLineBytes: 1, MaxMemory: 1, BatchBytes: 1, MaxPartialBytes: 1, FlushInterval: -1,
		PollMin: -1, PollMax: time.Hour, RescanInterval: 1, RotatedLinger: -1, DeletedLinger: -1, ResourceWait: -1,
		SaveInterval: time.Minute, DrainTimeout: -1, Workers: -1,
	}
	keys := map[string]bool{}
	for _, err := range bad.Validate().(interface{ Unwrap() []error }).Unwrap() {
		var f *component.FieldError
		if !errors.As(err, &f) {
			t.Fatalf("%v is no FieldError", err)
		}
		keys[f.Key] = true
	}
	for _, key := range []string{"path", "docker_root", "max_line_bytes", "max_memory", "batch_bytes", "max_partial_bytes", "flush_interval", "poll_interval_min", "poll_interval_max", "rescan_interval", "rotated_linger", "deleted_linger", "resource_wait", "checkpoint_interval", "drain_timeout", "workers"} {
		if !keys[key] {
			t.Errorf("%s was accepted", key)
		}
	}
}
