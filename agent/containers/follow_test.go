package containers

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cgroups makes and removes cgroups of its own in the kernel's real hierarchies:
// those in which the registry looks.
type cgroups struct {
	t    *testing.T
	dirs []string
	base string // "/nodetap-test-<pid>-<test>"
}

func realCgroups(t *testing.T) *cgroups {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("NODETAP_REQUIRE_BPF") == "1" {
			t.Fatal("NODETAP_REQUIRE_BPF=1, but the tests do not run as root")
		}
		t.Skip("needs root to make cgroups")
	}
	layout, err := ReadLayout("/sys/fs/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	g := &cgroups{t: t, base: fmt.Sprintf("/nodetap-test-%d-%s", os.Getpid(), strings.ReplaceAll(t.Name(), "/", "-"))}
	main, _ := layout.main()
	g.dirs = []string{main}
	if layout.Unified != "" && layout.Unified != main {
		g.dirs = append(g.dirs, layout.Unified)
	}
	t.Cleanup(func() { g.remove("") })
	g.make("")
	return g
}

func (g *cgroups) make(p string) {
	g.t.Helper()
	for _, d := range g.dirs {
		if err := os.MkdirAll(filepath.Join(d, g.base, p), 0o755); err != nil {
			g.t.Fatal(err)
		}
	}
}

// remove removes the cgroup and those in it.
func (g *cgroups) remove(p string) {
	for _, d := range g.dirs {
		var all []string
		filepath.WalkDir(filepath.Join(d, g.base, p), func(path string, e os.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				all = append(all, path)
			}
			return nil
		})
		for _, a := range slices.Backward(all) {
			unix.Rmdir(a)
		}
	}
}

// inode returns the cgroup2 id of a cgroup, 0 without cgroup2.
func (g *cgroups) id(p string) uint64 {
	layout, _ := ReadLayout("/sys/fs/cgroup")
	if layout.Unified == "" {
		return 0
	}
	id, _, err := statDir(filepath.Join(layout.Unified, g.base, p))
	if err != nil {
		g.t.Fatal(err)
	}
	return id
}

// recorder keeps the events below a path.
type recorder struct {
	mu   sync.Mutex
	base string
	got  []string
	came chan struct{}
}

func (rec *recorder) take(e Event) {
	if !strings.HasPrefix(e.Container.Path, rec.base) {
		return
	}
	what := "+"
	if e.Removed {
		what = "-"
	}
	rec.mu.Lock()
	rec.got = append(rec.got, what+strings.TrimPrefix(e.Container.Path, rec.base))
	rec.mu.Unlock()
	select {
	case rec.came <- struct{}{}:
	default:
	}
}

// wait returns when the event has come.
func (rec *recorder) wait(t *testing.T, want string) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		rec.mu.Lock()
		got := append([]string(nil), rec.got...)
		rec.mu.Unlock()
		if slices.Contains(got, want) {
			return
		}
		select {
		case <-rec.came:
		case <-timeout:
			t.Fatalf("no %q among %q", want, got)
		}
	}
}

func start(t *testing.T, cfg Config) *Registry {
	t.Helper()
	r, err := New(cfg, "/sys/fs/cgroup", "/proc", slog.New(slog.NewTextHandler(t.Output(), nil)), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-r.Synced()
	return r
}

// The life of containers is followed on the kernel's real cgroups by both
// sources: a scan comes too late to help, at an hour's interval.
func TestFollowsContainers(t *testing.T) {
	for _, source := range []string{"bpf", "inotify"} {
		t.Run(source, func(t *testing.T) {
			g := realCgroups(t)
			pod, old, young := "/kubepods/burstable/pod"+uidA, "/kubepods/burstable/pod"+uidA+"/"+idA, "/kubepods/burstable/pod"+uidA+"/cri-containerd-"+idB+".scope"
			g.make(old)
			cfg := Default()
			cfg.Source, cfg.RescanInterval = source, time.Hour
			r := start(t, cfg)
			if r.Source() != source {
				t.Fatalf("followed by %s", r.Source())
			}
			rec := &recorder{base: g.base, came: make(chan struct{}, 1)}
			defer r.Subscribe(rec.take)()

			rec.wait(t, "+"+pod)
			rec.wait(t, "+"+old)
			c := r.ByID(idA)
			if c == nil || !c.Existing || c.PodUID != uidA || c.Path != g.base+old || c.CgroupID != g.id(old) {
				t.Errorf("found at start: %+v", c)
			}

			g.make(young + "/init.scope/deep")
			rec.wait(t, "+"+young)
			c = r.ByID(idB)
			if c == nil || c.Existing || c.Runtime != "containerd" || c.CgroupID != g.id(young) {
				t.Errorf("made later: %+v", c)
			}
			if id := g.id(young + "/init.scope/deep"); id != 0 {
				waitFor(t, "nested cgroup", func() bool { return r.ByCgroupID(id) != nil && r.ByCgroupID(id).ID == idB })
			}

			nested := g.id(young + "/init.scope/deep")
			g.remove(young)
			rec.wait(t, "-"+young)
			if got := r.ByID(idB); got == nil || r.ByCgroupID(c.CgroupID) != got || r.ByCgroupID(nested) != got {
				t.Errorf("a removed container is not resolved: %v", got)
			}
			for _, c := range r.List() {
				if c.ID == idB {
					t.Error("a removed container is listed")
				}
			}

			// A container that lives for no time at all is still told.
			short := pod + "/" + strings.Repeat("5", idLen)
			g.make(short)
			g.remove(short)
			if source == "bpf" {
				rec.wait(t, "+"+short)
				rec.wait(t, "-"+short)
			}
			g.remove(pod)
			rec.wait(t, "-"+pod)
		})
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("waited in vain: " + what)
}

// Many containers at once are all found, whatever the events lose.
func TestBurstOfContainers(t *testing.T) {
	g := realCgroups(t)
	r := start(t, Default())
	const n = 600
	for i := range n {
		g.make(fmt.Sprintf("/kubepods/pod%s/%064x", uidA, i))
	}
	count := func() (n int) {
		for _, c := range r.List() {
			if strings.HasPrefix(c.Path, g.base) && c.Kind == KindContainer {
				n++
			}
		}
		return n
	}
	waitFor(t, "all containers", func() bool { return count() == n })
	g.remove("/kubepods")
	waitFor(t, "none left", func() bool { return count() == 0 })
}

// The agent finds its own container by its pid, without the path that a private
// cgroup namespace hides.
func TestSelfIsTheContainerThatWeRunIn(t *testing.T) {
	g := realCgroups(t)
	p := "/kubepods/pod" + uidA + "/" + idA
	g.make(p + "/nested")
	if r := start(t, Default()); r.Self() != nil {
		t.Errorf("in no container, but self is %+v", r.Self())
	}
	main := g.dirs[0]
	layout, _ := ReadLayout("/sys/fs/cgroup")
	_, controller := layout.main()
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	home := pathOf(b, controller)
	move := func(to string) {
		if err := os.WriteFile(filepath.Join(main, to, "cgroup.procs"), []byte(fmt.Sprint(os.Getpid())), 0); err != nil {
			t.Fatal(err)
		}
	}
	move(g.base + p + "/nested")
	defer move(home)

	if r := start(t, Default()); r.Self() == nil || r.Self().ID != idA {
		t.Errorf("by /proc/self/cgroup: self is %+v", r.Self())
	}
	// A private cgroup namespace shows "/".
	proc := t.TempDir()
	if err := os.MkdirAll(filepath.Join(proc, "self"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(proc, "self/cgroup"), []byte("0::/\n4:memory:/\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg := Default()
	cfg.Source = "inotify"
	r, err := New(cfg, "/sys/fs/cgroup", proc, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	<-r.Synced()
	if r.Self() == nil || r.Self().ID != idA {
		t.Errorf("by pid: self is %+v", r.Self())
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
