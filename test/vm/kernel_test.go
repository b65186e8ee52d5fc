//go:build vm

package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// cacheDir is where kernels and console logs are kept between runs.
func cacheDir() string {
	dir := os.Getenv("NODETAP_CACHE")
	if dir == "" {
		dir = "/var/cache/nodetap"
	}
	return filepath.Join(dir, "vm")
}

// aptOptions point apt at a root of its own for one architecture, so that the
// host's lists, architectures and installed packages are neither read nor
// changed. The host's sources and keys are used.
func aptOptions(arch string) ([]string, error) {
	root := filepath.Join(cacheDir(), "apt", arch)
	for _, d := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return nil, err
		}
	}
	return []string{"-q",
		"-o", "APT::Architecture=" + arch, "-o", "APT::Architectures=" + arch,
		"-o", "Dir::State=" + root + "/state", "-o", "Dir::Cache=" + root + "/cache",
		"-o", "Dir::State::status=/dev/null", "-o", "APT::Sandbox::User=root",
	}, nil
}

// image is a kernel as its distribution built it.
type image struct {
	vmlinuz string // path on the host
	version string // of the package
}

// fetch returns the newest kernel that meta, a package that depends on the
// current kernel of its series, names. A cached one is taken as it is, without
// asking the network, unless NODETAP_VM_REFRESH is set.
func fetch(ctx context.Context, meta, arch string) (image, error) {
	dir := filepath.Join(cacheDir(), "kernel", meta)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return image{}, err
	}
	unlock, err := lock(filepath.Join(dir, ".lock"))
	if err != nil {
		return image{}, err
	}
	defer unlock()
	if os.Getenv("NODETAP_VM_REFRESH") == "" {
		if img, ok := newest(dir); ok {
			return img, nil
		}
	}
	if err := download(ctx, meta, arch, dir); err != nil {
		return image{}, fmt.Errorf("kernel %s for %s: %w", meta, arch, err)
	}
	img, ok := newest(dir)
	if !ok {
		return image{}, fmt.Errorf("kernel %s for %s: the package holds no boot/vmlinuz", meta, arch)
	}
	return img, nil
}

// newest is the kernel fetched last.
func newest(dir string) (image, bool) {
	found, _ := filepath.Glob(filepath.Join(dir, "*", "vmlinuz"))
	when := func(p string) time.Time {
		st, err := os.Stat(p)
		if err != nil {
			return time.Time{}
		}
		return st.ModTime()
	}
	if len(found) == 0 {
		return image{}, false
	}
	last := slices.MaxFunc(found, func(a, b string) int { return when(a).Compare(when(b)) })
	return image{vmlinuz: last, version: filepath.Base(filepath.Dir(last))}, true
}

func download(ctx context.Context, meta, arch, dir string) error {
	opts, err := aptOptions(arch)
	if err != nil {
		return err
	}
	// A source that is of no use to us may fail; what counts is the package.
	_, updateErr := output(ctx, "", "apt-get", append(opts, "update")...)
	out, err := output(ctx, "", "apt-cache", append(opts, "depends", meta)...)
	pkg := ""
	for line := range strings.Lines(out) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: linux-image-"); ok {
			pkg = "linux-image-" + name
			break
		}
	}
	if pkg == "" {
		return errors.Join(fmt.Errorf("no such package in this host's apt sources"), err, updateErr)
	}
	tmp, err := os.MkdirTemp(dir, ".fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if _, err := output(ctx, tmp, "apt-get", append(opts, "download", pkg)...); err != nil {
		return err
	}
	debs, _ := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if len(debs) != 1 {
		return fmt.Errorf("apt-get download left %d packages", len(debs))
	}
	version, err := output(ctx, tmp, "dpkg-deb", "-f", debs[0], "Version")
	if err != nil {
		return err
	}
	if _, err := output(ctx, tmp, "dpkg-deb", "-x", debs[0], "root"); err != nil {
		return err
	}
	boot, _ := filepath.Glob(filepath.Join(tmp, "root/boot/vmlinuz-*"))
	if len(boot) != 1 {
		return fmt.Errorf("%s holds %d kernels", pkg, len(boot))
	}
	to := filepath.Join(dir, strings.TrimSpace(version))
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	now := time.Now() // dpkg-deb restores the time of the build
	if err := os.Chtimes(boot[0], now, now); err != nil {
		return err
	}
	return os.Rename(boot[0], filepath.Join(to, "vmlinuz"))
}

// requirePrograms installs what the tests run, once, where that is possible.
func requirePrograms(ctx context.Context) error {
	var need []string
	for prog, pkg := range map[string]string{
		"qemu-system-x86_64":  "qemu-system-x86",
		"qemu-system-aarch64": "qemu-system-arm",
	} {
		if _, err := exec.LookPath(prog); err != nil {
			need = append(need, pkg)
		}
	}
	if len(need) == 0 {
		return nil
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("install %s, or run as root on a Debian machine", strings.Join(need, " "))
	}
	install := append([]string{"install", "-y", "-q", "--no-install-recommends"}, need...)
	if _, err := output(ctx, "", "apt-get", install...); err == nil {
		return nil
	}
	if _, err := output(ctx, "", "apt-get", "-q", "update"); err != nil {
		return err
	}
	_, err := output(ctx, "", "apt-get", install...)
	return err
}

// output runs a command on the host and returns what it printed; the error
// carries the end of what it complained about.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		tail := strings.TrimSpace(stderr.String())
		if len(tail) > 4000 {
			tail = tail[len(tail)-4000:]
		}
		err = fmt.Errorf("%s: %w: %s", name, err, tail)
	}
	return string(out), err
}

// lock takes a lock between processes; two test runs share the cache.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

func TestNewestKernelIsTheOneFetchedLast(t *testing.T) {
	dir := t.TempDir()
	if _, ok := newest(dir); ok {
		t.Fatal("a kernel in an empty cache")
	}
	// 6.1.9 sorts after 6.1.10 as text.
	for i, version := range []string{"6.1.9-1", "6.1.10-1"} {
		p := filepath.Join(dir, version, "vmlinuz")
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		at := time.Unix(int64(1000+i), 0)
		if err := os.Chtimes(p, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if img, _ := newest(dir); img.version != "6.1.10-1" {
		t.Errorf("newest is %q", img.version)
	}
}
