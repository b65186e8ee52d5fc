package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const cgroupRoot = "/sys/fs/cgroup"

// cgroups are the directories that the demo made, parents first.
type cgroups struct {
	made        []string
	hierarchies []string
	base        string
}

// makeCgroups makes each pod's cgroup and its container's in every hierarchy, as
// kubelet with the cgroupfs driver does: kubepods/burstable/pod<uid>/<id>, below
// a directory of our own.
func makeCgroups(pods []*pod) (*cgroups, error) {
	c := &cgroups{base: fmt.Sprintf("nodetap-demo-%d/kubepods/burstable", os.Getpid())}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return c, err
	}
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) > 3 && (f[2] == "cgroup" || f[2] == "cgroup2") && strings.HasPrefix(f[1], cgroupRoot) {
			c.hierarchies = append(c.hierarchies, f[1])
		}
	}
	for _, h := range c.hierarchies {
		for _, p := range pods {
			if err := c.mkdirAll(h, filepath.Join(c.base, "pod"+p.uid, p.containerID)); err != nil {
				return c, err
			}
		}
	}
	if len(c.hierarchies) == 0 {
		return c, fmt.Errorf("no cgroup file system below %s", cgroupRoot)
	}
	return c, nil
}

func (c *cgroups) mkdirAll(hierarchy, path string) error {
	dir := hierarchy
	for part := range strings.SplitSeq(path, "/") {
		enableControllers(dir)
		dir = filepath.Join(dir, part)
		err := os.Mkdir(dir, 0o755)
		switch {
		case os.IsExist(err):
			continue
		case err != nil:
			return err
		}
		c.made = append(c.made, dir)
		inheritCpuset(dir)
	}
	return nil
}

// enableControllers lets the children of a v2 cgroup have what it has; elsewhere
// there is no such file.
func enableControllers(dir string) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return
	}
	for name := range strings.FieldsSeq(string(b)) {
		os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+name), 0o644) //nolint:errcheck // some cannot be
	}
}

// inheritCpuset fills in what v1's cpuset wants before a process may enter.
func inheritCpuset(dir string) {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		if b, err := os.ReadFile(filepath.Join(filepath.Dir(dir), name)); err == nil {
			os.WriteFile(filepath.Join(dir, name), b, 0o644) //nolint:errcheck // v2 needs none
		}
	}
}

// enter moves a process into its container's cgroup in every hierarchy.
func (c *cgroups) enter(p *pod, pid int) error {
	var first error
	for _, h := range c.hierarchies {
		procs := filepath.Join(h, c.base, "pod"+p.uid, p.containerID, "cgroup.procs")
		if err := os.WriteFile(procs, []byte(strconv.Itoa(pid)), 0o644); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// remove takes all of them back, children first. None are entered afterwards.
func (c *cgroups) remove() {
	for _, dir := range slices.Backward(c.made) {
		if err := os.Remove(dir); err != nil && !os.IsNotExist(err) {
			say("could not remove %s: %v", dir, err)
		}
	}
	c.made, c.hierarchies = nil, nil
}
