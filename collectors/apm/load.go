package apm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"nodetap/agent/component"
)

// kernelSide is what was loaded into the kernel.
type kernelSide struct {
	objs     bpfObjects
	tracefs  *tracefs
	links    []int
	unhooked []string // tracepoints that this kernel does not have
}

// load loads the programs without attaching them.
func load(cfg Config, host component.Host) (*kernelSide, error) {
	spec, err := loadBpf()
	if err != nil {
		return nil, fmt.Errorf("read BPF object: %w", err)
	}
	spec.Maps["events"].MaxEntries = uint32(cfg.RingBytes)
	spec.Maps["conns"].MaxEntries = uint32(cfg.MaxConnections)
	for name, v := range map[string]any{
		"capture":    uint32(cfg.CaptureBytes),
		"wake_bytes": uint64(cfg.RingBytes / 4),
		"self_tgid":  whoAmI(spec),
	} {
		if err := spec.Variables[name].Set(v); err != nil {
			return nil, fmt.Errorf("set %s: %w", name, err)
		}
	}
	k := &kernelSide{}
	if err := spec.LoadAndAssign(&k.objs, nil); err != nil {
		return nil, unsupported(err, host)
	}
	return k, nil
}

// whoAmI asks the kernel for our thread group id, as BPF programs see it. Where
// it cannot be asked, loading fails for the same reason, or the answer of the
// process is right: outside a pid namespace.
func whoAmI(spec *ebpf.CollectionSpec) uint32 {
	if p, err := ebpf.NewProgram(spec.Programs["whoami"]); err == nil {
		defer p.Close()
		if id, err := p.Run(&ebpf.RunOptions{}); err == nil && id != 0 {
			return id
		}
	}
	return uint32(os.Getpid())
}

// attach attaches every program.
func (k *kernelSide) attach(host component.Host) error {
	t, err := openTracefs(host.Sys)
	if err != nil {
		return err
	}
	k.tracefs = t
	programs := map[string]*ebpf.Program{
		"enter_write": k.objs.EnterWrite, "enter_writev": k.objs.EnterWritev,
		"enter_sendto": k.objs.EnterSendto, "enter_sendmsg": k.objs.EnterSendmsg,
		"exit_read": k.objs.ExitRead, "exit_readv": k.objs.ExitReadv,
		"exit_recvfrom": k.objs.ExitRecvfrom, "exit_recvmsg": k.objs.ExitRecvmsg,
		"exit_sendfile": k.objs.ExitSendfile, "set_state": k.objs.SetState,
	}
	for _, h := range hooks {
		id, err := t.id(h.group, h.event)
		if err != nil {
			if h.group == "syscalls" && errors.Is(err, os.ErrNotExist) {
				if k.unhooked = append(k.unhooked, h.event); h.event == "sys_exit_read" {
					return &component.Unsupported{Missing: "tracepoints of system calls (CONFIG_FTRACE_SYSCALLS)", Err: err}
				}
				continue
			}
			return err
		}
		fd, err := attach(id, programs[h.program])
		if err != nil {
			if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
				return &component.Unsupported{Missing: "CAP_PERFMON", Grant: "securityContext.capabilities.add: [PERFMON]", Err: err}
			}
			return fmt.Errorf("tracepoint %s/%s: %w", h.group, h.event, err)
		}
		k.links = append(k.links, fd)
	}
	return nil
}

// close detaches and unloads.
func (k *kernelSide) close() {
	for _, fd := range k.links {
		unix.Close(fd)
	}
	if k.tracefs != nil {
		k.tracefs.close()
	}
	k.objs.Close()
}

// misses counts the times that a program was not run because another one ran
// on the same CPU.
func (k *kernelSide) misses() (n uint64) {
	for _, p := range []*ebpf.Program{
		k.objs.EnterWrite, k.objs.EnterWritev, k.objs.EnterSendto, k.objs.EnterSendmsg,
		k.objs.ExitRead, k.objs.ExitReadv, k.objs.ExitRecvfrom, k.objs.ExitRecvmsg,
	} {
		if s, err := p.Stats(); err == nil {
			n += s.RecursionMisses
		}
	}
	return n
}

// Probe tells whether this node allows tracing, without tracing anything: the
// programs are loaded, attached to what has no effect, and unloaded. It returns
// nil, a *component.Unsupported that says what is missing, or another error.
func Probe(host component.Host) error {
	cfg := Default()
	cfg.RingBytes, cfg.MaxConnections = 64<<10, 128
	k, err := load(cfg, host)
	if err != nil {
		return err
	}
	defer k.close()
	return k.attach(host)
}

// unsupported says what is missing where the kernel refused to load.
func unsupported(err error, host component.Host) error {
	var v *ebpf.VerifierError
	noRead := errors.As(err, &v) && strings.Contains(strings.Join(v.Log, "\n"), "bpf_probe_read_kernel#")
	switch {
	case noRead || lockdown(host.Sys) == "confidentiality":
		return &component.Unsupported{
			Missing: "reading kernel memory in BPF programs (the kernel runs with lockdown=confidentiality)",
			Grant:   "the kernel command line lockdown=integrity, or none",
			Err:     err,
		}
	case errors.Is(err, btf.ErrNotFound) || errors.Is(err, ebpf.ErrNotSupported) && !exists("/sys/kernel/btf/vmlinux"):
		return &component.Unsupported{Missing: "kernel type information in /sys/kernel/btf/vmlinux (CONFIG_DEBUG_INFO_BTF)", Err: err}
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) && v == nil:
		return &component.Unsupported{Missing: "CAP_BPF and CAP_PERFMON", Grant: "securityContext.capabilities.add: [BPF, PERFMON]", Err: err}
	case errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.EINVAL):
		return &component.Unsupported{Missing: "BPF features of Linux 5.17 (ring buffer, bpf_loop, bpf_task_pt_regs)", Err: err}
	}
	return fmt.Errorf("load BPF programs: %w", err)
}

// lockdown returns the kernel's lockdown mode: none, integrity, confidentiality,
// or "" where it cannot be told.
func lockdown(sys string) string {
	b, err := os.ReadFile(filepath.Join(sys, "kernel/security/lockdown"))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(b), "[")
	mode, _, _ := strings.Cut(rest, "]")
	return mode
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
