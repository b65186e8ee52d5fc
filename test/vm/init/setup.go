//go:build linux

package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A node's mounts, in this order. Those that may be missing are kernel
// features which the probe reports; without the others nothing can run.
var mounts = []struct {
	kind, at string
	flags    uintptr
	optional bool
}{
	{kind: "proc", at: "/proc"},
	{kind: "sysfs", at: "/sys"},
	{kind: "devtmpfs", at: "/dev"},
	{kind: "devpts", at: "/dev/pts"},
	{kind: "tmpfs", at: "/dev/shm"},
	{kind: "tmpfs", at: "/tmp"},
	{kind: "tmpfs", at: "/run"},
	{kind: "tmpfs", at: "/var"},
	{kind: "cgroup2", at: "/sys/fs/cgroup"},
	{kind: "bpf", at: "/sys/fs/bpf"},
	{kind: "tracefs", at: "/sys/kernel/tracing"},
	{kind: "securityfs", at: "/sys/kernel/security", optional: true},
	{kind: "debugfs", at: "/sys/kernel/debug", optional: true},
}

// setUp makes a machine out of a kernel: mounts, loopback, cgroup controllers.
// It goes on after an error, for what works may still say why.
func setUp() (errs []error) {
	for _, m := range mounts {
		// Directories below a pseudo file system are there or the kernel lacks it.
		os.MkdirAll(m.at, 0o755)
		err := unix.Mount(m.kind, m.at, m.kind, m.flags, "")
		if err != nil && err != unix.EBUSY && !m.optional {
			errs = append(errs, fmt.Errorf("mount %s on %s: %w", m.kind, m.at, err))
		}
	}
	for _, d := range []string{"/root", "/var/log/pods", "/var/log/containers", "/var/lib", "/run/lock"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			errs = append(errs, err)
		}
	}
	for _, link := range [][2]string{
		{"/proc/self/fd", "/dev/fd"}, {"/proc/self/fd/0", "/dev/stdin"},
		{"/proc/self/fd/1", "/dev/stdout"}, {"/proc/self/fd/2", "/dev/stderr"},
	} {
		os.Symlink(link[0], link[1])
	}
	if err := unix.Sethostname([]byte("vm-node")); err != nil {
		errs = append(errs, err)
	}
	if err := loopbackUp(); err != nil {
		errs = append(errs, fmt.Errorf("loopback: %w", err))
	}
	if err := enableControllers("/sys/fs/cgroup"); err != nil {
		errs = append(errs, fmt.Errorf("cgroup controllers: %w", err))
	}
	return errs
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// enableControllers hands every controller that the kernel has down to the
// children of dir, as systemd and kubelet do on a node.
func enableControllers(dir string) error {
	b, err := os.ReadFile(dir + "/cgroup.controllers")
	if err != nil {
		return err
	}
	for c := range strings.FieldsSeq(string(b)) {
		if err := os.WriteFile(dir+"/cgroup.subtree_control", []byte("+"+c), 0o644); err != nil {
			return fmt.Errorf("enable %s: %w", c, err)
		}
	}
	return nil
}
