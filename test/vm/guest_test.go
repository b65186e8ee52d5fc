//go:build vm

package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"nodetap/test/vm/plan"
)

// guest is one boot.
type guest struct {
	arch    string // amd64 or arm64
	kernel  string // path of vmlinuz
	initrd  string // path of the root file system
	append  string // added to the kernel's command line
	console string // path that receives everything the guest's console prints
}

// qemu is the command line of the guest. By emulation always: a machine with
// KVM would run the same kernel faster, but prove less about a machine
// without.
func (g guest) qemu() ([]string, error) {
	// An oops is a failure of what we test, not something to go on after.
	// loglevel=1 keeps the kernel's messages out of the middle of events; init
	// sends them when something failed.
	cmdline := "quiet loglevel=1 panic=-1 oops=panic psi=1 rdinit=/init " + g.append
	// Two processors, one thread: with a thread each, one may run code that the
	// other has just patched, and a kernel that switches a tracepoint on dies of
	// "Oops: int3" now and then (an old bug of the emulator's, see
	// bugzilla.redhat.com/2216496).
	common := []string{"-nodefaults", "-display", "none", "-serial", "stdio", "-monitor", "none",
		"-no-reboot", "-nic", "none", "-accel", "tcg,thread=single", "-smp", "2", "-m", "2G",
		"-kernel", g.kernel, "-initrd", g.initrd}
	switch g.arch {
	case "amd64":
		return append([]string{"qemu-system-x86_64", "-machine", "q35", "-cpu", "max",
			"-append", "console=ttyS0 " + cmdline}, common...), nil
	case "arm64":
		// The architected pointer authentication is a cipher, far too slow to emulate.
		return append([]string{"qemu-system-aarch64", "-machine", "virt,gic-version=3", "-cpu", "max,pauth-impdef=on",
			"-append", "console=ttyAMA0 " + cmdline}, common...), nil
	}
	return nil, fmt.Errorf("no emulator for %q", g.arch)
}

// boot runs the guest until it turns itself off or ctx ends and returns its
// events. It waits for the emulator, which ends with this process in any case.
func (g guest) boot(ctx context.Context) ([]plan.Event, error) {
	argv, err := g.qemu()
	if err != nil {
		return nil, err
	}
	log, err := os.Create(g.console)
	if err != nil {
		return nil, err
	}
	defer log.Close()

	// The death signal is tied to the thread that started the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = log
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	// Emulation takes every cycle it gets; whoever works on this machine goes first.
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, cmd.Process.Pid, 10); err != nil {
		fmt.Fprintln(log, "setpriority:", err)
	}
	events, readErr := readEvents(io.TeeReader(out, log))
	waitErr := cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return events, fmt.Errorf("the guest did not end in time: %w", ctx.Err())
	case readErr != nil || waitErr != nil:
		return events, errors.Join(readErr, waitErr)
	case len(events) == 0 || events[len(events)-1].Kind != plan.End:
		return events, errors.New("the guest stopped before it was done: a panic, or init ended")
	}
	return events, nil
}

// readEvents reads a console to its end. A line longer than any event is
// passed over.
func readEvents(r io.Reader) (events []plan.Event, err error) {
	br := bufio.NewReaderSize(r, 8*plan.MaxLine)
	for {
		line, err := br.ReadSlice('\n')
		if e, ok := plan.ParseLine(line); ok {
			events = append(events, e)
		}
		switch {
		case errors.Is(err, io.EOF):
			return events, nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return events, err
		}
	}
}
