//go:build vm

package node

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const cgroupRoot = "/sys/fs/cgroup"

// pod is a pod of one container.
type pod struct {
	namespace, name, uid string
	container, id        string
	cgroup               string // of the container
	log                  *os.File
}

// newPod lays the pod out as a kubelet does. systemd says which of kubelet's
// two cgroup drivers names the cgroups.
func newPod(t *testing.T, namespace, name, container string, systemd bool) *pod {
	t.Helper()
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(namespace+"/"+name)))
	p := &pod{namespace: namespace, name: name, container: container, id: sum,
		uid: strings.Join([]string{sum[:8], sum[8:12], "4" + sum[13:16], "8" + sum[17:20], sum[20:32]}, "-")}
	path := "kubepods/burstable/pod" + p.uid + "/" + p.id
	if systemd {
		path = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" +
			strings.ReplaceAll(p.uid, "-", "_") + ".slice/cri-containerd-" + p.id + ".scope"
	}
	p.cgroup = makeCgroup(t, path)

	dir := filepath.Join("/var/log/pods", namespace+"_"+name+"_"+p.uid, container)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "0.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	p.log = f
	t.Cleanup(func() { f.Close() })
	link := fmt.Sprintf("/var/log/containers/%s_%s_%s-%s.log", name, namespace, container, p.id)
	if err := os.Symlink(f.Name(), link); err != nil {
		t.Fatal(err)
	}
	return p
}

// makeCgroup makes the directories of path and hands every controller down to
// the last but one, as kubelet does.
func makeCgroup(t *testing.T, path string) string {
	t.Helper()
	dir := cgroupRoot
	for _, part := range strings.Split(path, "/") {
		have, err := os.ReadFile(dir + "/cgroup.controllers")
		if err != nil {
			t.Fatal(err)
		}
		enable := ""
		for _, c := range strings.Fields(string(have)) {
			enable += " +" + c
		}
		if err := os.WriteFile(dir+"/cgroup.subtree_control", []byte(enable), 0o644); err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
	return dir
}

// start runs a command in the pod's container, from its first instruction on,
// and kills it when the test ends.
func (p *pod) start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	dir, err := os.Open(p.cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
}

// logf writes one line as containerd does.
func (p *pod) logf(t *testing.T, format string, args ...any) {
	t.Helper()
	_, err := fmt.Fprintf(p.log, "%s stdout F %s\n", time.Now().UTC().Format(time.RFC3339Nano), fmt.Sprintf(format, args...))
	if err != nil {
		t.Fatal(err)
	}
}

// value reads a number from a file of the pod's cgroup: the whole file, or the
// one behind key.
func (p *pod) value(t *testing.T, file, key string) float64 {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(p.cgroup, file))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if key == "" && len(f) == 1 || len(f) == 2 && f[0] == key {
			v, err := strconv.ParseFloat(f[len(f)-1], 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("no %q in %s: %q", key, file, b)
	return 0
}
