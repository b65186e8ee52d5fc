//go:build vm

package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"nodetap/test/vm/plan"
)

// binary is a test binary that runs in the guests.
type binary struct {
	pkg     string // import path; its last element names the subtest
	seconds int    // time limit on the guest's clock, see plan.Program
	agent   bool   // wants the built agent at /bin/nodetap
}

func (b binary) name() string { return b.pkg[strings.LastIndexByte(b.pkg, '/')+1:] }

// matrixBinaries run on every boot, the probe first.
var matrixBinaries = []binary{
	{pkg: "nodetap/test/vm/probe"},
	{pkg: "nodetap/agent/containers"},
	{pkg: "nodetap/collectors/cgroup"},
	{pkg: "nodetap/collectors/apm", seconds: 420},
	{pkg: "nodetap/test/vm/node", seconds: 240, agent: true},
}

// While working on a package, its tests alone and some of them:
// go test -tags vm ./test/vm -run TestKernels/amd64-6.1 -only collectors/apm -guest.run TestSpan
var (
	only     = flag.String("only", "", "comma-separated `packages` to run in the guests instead of the matrix's")
	guestRun = flag.String("guest.run", "", "-test.run of the binaries in the guests")
)

// binaries are those of this run.
func binaries() []binary {
	if *only == "" {
		return matrixBinaries
	}
	var out []binary
	for pkg := range strings.SplitSeq(*only, ",") {
		b := binary{pkg: "nodetap/" + strings.Trim(strings.TrimPrefix(pkg, "./"), "/")}
		for _, known := range matrixBinaries {
			if known.pkg == b.pkg {
				b = known
			}
		}
		out = append(out, b)
	}
	return out
}

// everywhere holds what no guest can run, as boots' lacks do.
var everywhere = map[string]map[string]string{
	"apm": {"TestOtherLanguages": "a guest has no programs but ours"},
}

// boots is the matrix.
var boots = []struct {
	name    string
	arch    string
	meta    string // package that depends on the series' current kernel
	release string // what uname must say, so that no other kernel is taken for this one
	append  string // kernel command line
	// lacks names, by binary, the tests that cannot pass on this kernel, and why.
	lacks map[string]map[string]string
	// refuses says, by binary, how the code under test words it that this kernel
	// refuses all that it is for. Its tests may fail with these words.
	refuses map[string]string
}{
	{name: "amd64-6.1", arch: "amd64", meta: "linux-image-cloud-amd64", release: "6.1."},
	{name: "amd64-6.12", arch: "amd64", meta: "linux-image-6.12-cloud-amd64", release: "6.12."},
	{name: "arm64-6.1", arch: "arm64", meta: "linux-image-cloud-arm64", release: "6.1."},
	{name: "amd64-6.12-lockdown", arch: "amd64", meta: "linux-image-6.12-cloud-amd64", release: "6.12.", append: "lockdown=confidentiality",
		lacks: map[string]map[string]string{
			"containers": {"TestFollowsContainers/bpf": "its programs read a path from kernel memory"},
		},
		refuses: map[string]string{"apm": "the kernel runs with lockdown=confidentiality"}},
}

// The emulators of this many guests run at a time, one thread each.
const atOnce = 2

func TestKernels(t *testing.T) {
	ctx := t.Context()
	if err := requirePrograms(ctx); err != nil {
		t.Fatal(err)
	}
	built := map[string]func() (string, error){}
	for _, arch := range []string{"amd64", "arm64"} {
		dir := t.TempDir()
		built[arch] = sync.OnceValues(func() (string, error) {
			start := time.Now()
			if err := build(ctx, arch, dir); err != nil {
				return "", fmt.Errorf("build for %s: %w", arch, err)
			}
			t.Logf("built for %s in %.1f s", arch, time.Since(start).Seconds())
			return dir, nil
		})
	}
	slots := make(chan struct{}, atOnce)
	for _, b := range boots {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			img, err := fetch(ctx, b.meta, b.arch)
			if err != nil {
				t.Fatal(err)
			}
			dir, err := built[b.arch]()
			if err != nil {
				t.Fatal(err)
			}
			initrd := filepath.Join(t.TempDir(), "initrd")
			env := []string{"VM_RELEASE=" + b.release, "VM_ARCH=" + b.arch, "VM_APPEND=" + b.append}
			if err := pack(initrd, dir, env); err != nil {
				t.Fatal(err)
			}
			logs := filepath.Join(cacheDir(), "log")
			if err := os.MkdirAll(logs, 0o755); err != nil {
				t.Fatal(err)
			}
			g := guest{arch: b.arch, kernel: img.vmlinuz, initrd: initrd, append: b.append,
				console: filepath.Join(logs, b.name+".log")}

			slots <- struct{}{}
			start := time.Now()
			limited, cancel := context.WithTimeout(ctx, 10*time.Minute)
			events, err := g.boot(limited)
			cancel()
			<-slots
			t.Logf("kernel %s ran %.1f s, console in %s", img.version, time.Since(start).Seconds(), g.console)
			if err != nil {
				t.Errorf("%v; the console ends with:\n%s", err, tail(g.console, 4000))
			}
			report(t, events, b.lacks, b.refuses)
		})
	}
}

// report turns a guest's events into one subtest per binary.
func report(t *testing.T, events []plan.Event, lacks map[string]map[string]string, refuses map[string]string) {
	lines := map[string][]string{}
	exits := map[string]plan.Event{}
	var kernel []string
	for _, e := range events {
		switch e.Kind {
		case plan.Output:
			lines[e.Name] = append(lines[e.Name], e.Text)
		case plan.Exit:
			exits[e.Name] = e
		case plan.Kernel:
			kernel = append(kernel, e.Text)
		case plan.Start:
			t.Logf("guest: %s", e.Text)
		case plan.Error:
			t.Errorf("guest: %s", e.Text)
		}
	}
	for _, b := range binaries() {
		t.Run(b.name(), func(t *testing.T) {
			known := maps.Clone(lacks[b.name()])
			if known == nil {
				known = map[string]string{}
			}
			maps.Copy(known, everywhere[b.name()])
			if *guestRun != "" {
				known = nil // it may name tests that do not run
			}
			summary, faults := judge(results(lines[b.name()]), exits[b.name()], known, refuses[b.name()])
			t.Log(summary)
			for _, name := range slices.Sorted(maps.Keys(known)) {
				t.Logf("impossible here: %s: %s", name, known[name])
			}
			if words := refuses[b.name()]; words != "" {
				t.Logf("impossible here: all that says %q", words)
			}
			for _, f := range faults {
				t.Error(f)
			}
			if *only != "" {
				t.Log("\n" + strings.ReplaceAll(strings.Join(lines[b.name()], "\n"), testMark, ""))
			}
		})
	}
	if t.Failed() && len(kernel) > 0 {
		t.Logf("the kernel said:\n%s", strings.Join(kernel, "\n"))
	}
}

// build compiles init and every test binary for arch into dir, static and
// without symbols: a guest unpacks them byte by byte.
func build(ctx context.Context, arch, dir string) error {
	root, err := filepath.Abs("../..")
	if err != nil {
		return err
	}
	pkgs := make([]string, len(binaries()))
	for i, b := range binaries() {
		pkgs[i] = b.pkg
	}
	env := []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + arch}
	for _, args := range [][]string{
		{"build", "-ldflags=-s -w", "-o", filepath.Join(dir, "init"), "nodetap/test/vm/init"},
		{"build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "nodetap"), "nodetap/agent"},
		append([]string{"test", "-c", "-tags=vm", "-ldflags=-s -w", "-o", dir + "/"}, pkgs...),
	} {
		if _, err := output(ctx, root, "env", append(append(env, "go"), args...)...); err != nil {
			return err
		}
	}
	return nil
}

// pack writes the guest's root file system: init, its plan, and each test
// binary in a directory with its package's testdata.
func pack(initrd, built string, env []string) error {
	var buf bytes.Buffer
	a := newArchive(&buf)
	add := func(name, from string) error {
		b, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		a.file(name, 0o755, b)
		return nil
	}
	if err := add("init", filepath.Join(built, "init")); err != nil {
		return err
	}
	var p plan.Plan
	for _, b := range binaries() {
		rel := strings.TrimPrefix(b.pkg, "nodetap/")
		at := "src/" + rel
		if err := add(at+"/"+b.name()+".test", filepath.Join(built, b.name()+".test")); err != nil {
			return err
		}
		testdata := filepath.Join("../..", rel, "testdata")
		if _, err := os.Stat(testdata); err == nil {
			a.tree(testdata, at+"/testdata")
		}
		if b.agent {
			if err := add("bin/nodetap", filepath.Join(built, "nodetap")); err != nil {
				return err
			}
		}
		p.Programs = append(p.Programs, plan.Program{Name: b.name(), Path: "/" + at + "/" + b.name() + ".test", Dir: "/" + at,
			Args: []string{"-test.v=test2json", "-test.paniconexit0", "-test.run=" + *guestRun}, Env: env, Seconds: b.seconds})
	}
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	a.file("plan.json", 0o644, b)
	if err := a.close(); err != nil {
		return err
	}
	return os.WriteFile(initrd, buf.Bytes(), 0o644)
}

// tail is the end of a file, for a message.
func tail(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Sprint(err)
	}
	if len(b) > n {
		b = b[len(b)-n:]
	}
	return string(b)
}
