package apm

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"nodetap/agent/component"
)

// hooks says which program runs at which tracepoint.
var hooks = []struct{ group, event, program string }{
	{"syscalls", "sys_enter_write", "enter_write"},
	{"syscalls", "sys_enter_writev", "enter_writev"},
	{"syscalls", "sys_enter_sendto", "enter_sendto"},
	{"syscalls", "sys_enter_sendmsg", "enter_sendmsg"},
	{"syscalls", "sys_exit_read", "exit_read"},
	{"syscalls", "sys_exit_readv", "exit_readv"},
	{"syscalls", "sys_exit_recvfrom", "exit_recvfrom"},
	{"syscalls", "sys_exit_recvmsg", "exit_recvmsg"},
	{"syscalls", "sys_exit_sendfile64", "exit_sendfile"},
	{"sock", "inet_sock_set_state", "set_state"},
}

// tracefs is where tracepoints have their ids.
type tracefs struct {
	dir string // a mounted one
	fd  int    // a mount of our own that has no place in the tree; -1 for none
}

// openTracefs finds a tracefs below sys ("/sys"), or mounts one that nobody
// else sees and that is gone with its descriptor, which takes CAP_SYS_ADMIN.
func openTracefs(sys string) (*tracefs, error) {
	var denied error
	for _, dir := range []string{filepath.Join(sys, "kernel/tracing"), filepath.Join(sys, "kernel/debug/tracing")} {
		_, err := os.Stat(filepath.Join(dir, "events/sock/inet_sock_set_state/id"))
		if err == nil {
			return &tracefs{dir: dir, fd: -1}, nil
		}
		if errors.Is(err, fs.ErrPermission) {
			denied = err
		}
	}
	fd, err := mountTracefs()
	if err != nil {
		if denied != nil {
			err = denied
		}
		return nil, &component.Unsupported{
			Missing: "tracefs at " + filepath.Join(sys, "kernel/tracing"),
			Grant:   "a hostPath volume of /sys/kernel/tracing mounted there read-only, and CAP_DAC_READ_SEARCH",
			Err:     err,
		}
	}
	return &tracefs{fd: fd}, nil
}

func mountTracefs() (int, error) {
	ctx, err := unix.Fsopen("tracefs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("open a tracefs: %w", err)
	}
	defer unix.Close(ctx)
	if err := unix.FsconfigCreate(ctx); err != nil {
		return -1, fmt.Errorf("create a tracefs: %w", err)
	}
	fd, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return -1, fmt.Errorf("mount a tracefs: %w", err)
	}
	return fd, nil
}

func (t *tracefs) close() {
	if t.fd >= 0 {
		unix.Close(t.fd)
	}
}

// id returns the number of a tracepoint.
func (t *tracefs) id(group, event string) (uint64, error) {
	name := filepath.Join("events", group, event, "id")
	var b []byte
	var err error
	if t.fd < 0 {
		b, err = os.ReadFile(filepath.Join(t.dir, name))
	} else {
		var fd int
		if fd, err = unix.Openat(t.fd, name, unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
			f := os.NewFile(uintptr(fd), name)
			b, err = io.ReadAll(io.LimitReader(f, 32))
			f.Close()
		}
	}
	if err != nil {
		return 0, fmt.Errorf("read id of tracepoint %s/%s: %w", group, event, err)
	}
	return strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
}

// attach makes the program run at the tracepoint until the returned descriptor
// is closed. By ioctl, which every kernel has, on one CPU's event: a program on
// a tracepoint's event runs on every CPU.
func attach(id uint64, p *ebpf.Program) (fd int, err error) {
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_TRACEPOINT, Config: id, Size: uint32(unix.PERF_ATTR_SIZE_VER1), Sample: 1, Wakeup: 1}
	fd, err = unix.PerfEventOpen(&attr, -1, 0, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("open perf event: %w", err)
	}
	if err = unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_SET_BPF, p.FD()); err == nil {
		err = unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_ENABLE, 0)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("attach program: %w", err)
	}
	return fd, nil
}
