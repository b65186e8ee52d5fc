//go:build vm

package probe

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// locked says whether this boot was asked for lockdown=confidentiality.
func locked() bool { return strings.Contains(os.Getenv("VM_APPEND"), "lockdown=confidentiality") }

func TestKernelIsTheOneAskedFor(t *testing.T) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	release := unix.ByteSliceToString(u.Release[:])
	t.Logf("release %s, command line %q", release, read(t, "/proc/cmdline"))
	if want := os.Getenv("VM_RELEASE"); want == "" || !strings.HasPrefix(release, want) {
		t.Errorf("release is %s, want %s*", release, want)
	}
	if want := os.Getenv("VM_ARCH"); runtime.GOARCH != want {
		t.Errorf("architecture is %s, want %s", runtime.GOARCH, want)
	}
	lockdown := read(t, "/sys/kernel/security/lockdown")
	want := "[none]"
	if locked() {
		want = "[confidentiality]"
	}
	if !strings.Contains(lockdown, want) {
		t.Errorf("lockdown is %q, want %s", lockdown, want)
	}
}

func TestKernelHasBTF(t *testing.T) {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	var task *btf.Struct
	if err := spec.TypeByName("task_struct", &task); err != nil {
		t.Fatal(err)
	}
}

func TestCgroupIsVersion2WithItsControllers(t *testing.T) {
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &st); err != nil {
		t.Fatal(err)
	}
	if st.Type != unix.CGROUP2_SUPER_MAGIC {
		t.Fatalf("/sys/fs/cgroup has type %#x", st.Type)
	}
	have := strings.Fields(read(t, "/sys/fs/cgroup/cgroup.subtree_control"))
	t.Logf("controllers %v", have)
	for _, want := range []string{"cpu", "io", "memory", "pids"} {
		if !slices.Contains(have, want) {
			t.Errorf("no controller %q", want)
		}
	}
}

func TestPressureIsAccounted(t *testing.T) {
	for _, f := range []string{"cpu", "memory", "io"} {
		if got := read(t, "/proc/pressure/"+f); !strings.HasPrefix(got, "some avg10=") {
			t.Errorf("/proc/pressure/%s: %q", f, got)
		}
	}
}
