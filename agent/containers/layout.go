package containers

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Layout says where the node's cgroup hierarchies are mounted.
type Layout struct {
	// Unified is the directory of cgroup2, "" where it is not mounted.
	Unified string
	// V1 is the directory of each v1 controller ("memory", "cpu", "name=systemd");
	// empty on a node with cgroup2 alone.
	V1 map[string]string

	v2 map[string]bool // controllers of Unified
}

// ReadLayout finds the hierarchies below root ("/sys/fs/cgroup"): cgroup2 alone,
// v1 controllers each in a directory, or both (hybrid).
//
// The kernel's own files tell the kind of a hierarchy, so that it works on a
// copy of the tree too: cgroup.controllers is in every cgroup2 directory,
// cgroup.procs in every directory of either.
func ReadLayout(root string) (Layout, error) {
	l := Layout{V1: map[string]string{}, v2: map[string]bool{}}
	if exists(filepath.Join(root, "cgroup.controllers")) {
		l.setUnified(root)
		return l, nil
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return l, fmt.Errorf("read the cgroup root: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(root, e.Name())
		if !e.IsDir() { // cpu -> cpu,cpuacct
			continue
		}
		switch {
		case exists(filepath.Join(dir, "cgroup.controllers")):
			l.setUnified(dir)
		case e.Name() == "systemd":
			l.V1["name=systemd"] = dir
		case exists(filepath.Join(dir, "cgroup.procs")):
			for c := range strings.SplitSeq(e.Name(), ",") {
				l.V1[c] = dir
			}
		}
	}
	if l.Unified == "" && len(l.V1) == 0 {
		return l, fmt.Errorf("no cgroup hierarchy is mounted below %s: mount the host's /sys/fs/cgroup there", root)
	}
	return l, nil
}

func (l *Layout) setUnified(dir string) {
	l.Unified = dir
	b, _ := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	for c := range strings.FieldsSeq(string(b)) {
		l.v2[c] = true
	}
}

// Mode is "v1", "v2" or "hybrid" (v1 controllers with a cgroup2 beside them).
func (l Layout) Mode() string {
	switch {
	case len(l.V1) == 0:
		return "v2"
	case l.Unified == "":
		return "v1"
	}
	return "hybrid"
}

// Dir returns the directory of the hierarchy that has the controller, and
// whether that is cgroup2; "" where no hierarchy has it. On cgroup2 alone it is
// always cgroup2: cpu.stat is there even without the cpu controller.
func (l Layout) Dir(controller string) (dir string, unified bool) {
	if dir := l.V1[controller]; dir != "" {
		return dir, false
	}
	if l.Unified != "" && (len(l.V1) == 0 || l.v2[controller]) {
		return l.Unified, true
	}
	return "", false
}

// main returns the hierarchy whose directories are the containers: cgroup2 on
// its own, else the first of the v1 controllers that every runtime uses.
func (l Layout) main() (dir, controller string) {
	for _, c := range []string{"memory", "cpu", "cpuacct", "pids", "freezer", "devices", "name=systemd"} {
		if dir := l.V1[c]; dir != "" {
			return dir, c
		}
	}
	return l.Unified, ""
}

// hierarchyOf returns the kernel's number of a v1 controller's hierarchy, by the
// lines of /proc/self/cgroup: "4:memory:/path".
func hierarchyOf(procSelfCgroup []byte, controller string) (uint32, bool) {
	for line := range strings.Lines(string(procSelfCgroup)) {
		num, rest, ok := strings.Cut(line, ":")
		names, _, ok2 := strings.Cut(rest, ":")
		if !ok || !ok2 {
			continue
		}
		for name := range strings.SplitSeq(names, ",") {
			if name == controller {
				n, err := strconv.ParseUint(num, 10, 32)
				return uint32(n), err == nil
			}
		}
	}
	return 0, false
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
