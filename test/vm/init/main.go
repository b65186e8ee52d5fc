//go:build linux

// Command init is process 1 of the guests that test/vm boots.
//
// It mounts what a node's kernel offers, brings the loopback interface up,
// runs the programs of /plan.json one after the other and turns the machine
// off. What they print, how they end and how long they took goes to the
// console as one JSON object a line, each line marked, so that the host can
// tell it from whatever else a console carries.
//
// It is not a service manager: one program at a time, nothing is restarted,
// and what a program left running is killed before the next one starts.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"nodetap/test/vm/plan"
)

// console writes marked events. A line is one write, so lines of two writers
// never mix.
type console struct {
	mu sync.Mutex
	w  io.Writer
}

func (c *console) send(e plan.Event) {
	b, err := json.Marshal(e)
	if err != nil {
		b = fmt.Appendf(nil, `{"kind":"error","text":%q}`, err)
	}
	line := append([]byte(plan.Mark), b...)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.w.Write(append(line, '\n'))
}

// stream sends each line of r as output of the named program until r ends.
// Longer lines than plan.MaxLine are cut there, and say so.
func (c *console) stream(name string, r io.Reader) {
	br := bufio.NewReaderSize(r, plan.MaxLine)
	for {
		line, err := br.ReadSlice('\n')
		cut := errors.Is(err, bufio.ErrBufferFull)
		text := strings.TrimRight(string(line), "\r\n")
		if cut {
			text += " [cut]"
		}
		if len(line) > 0 {
			c.send(plan.Event{Kind: plan.Output, Name: name, Text: text})
		}
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = br.ReadSlice('\n')
		}
		if err != nil {
			return
		}
	}
}

func main() {
	out := &console{w: os.Stdout}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: this is process 1 of a test guest and nothing else")
		os.Exit(2)
	}
	errs := setUp()
	kernelLog := openKernelLog()
	if boot(out, errs) {
		sendKernelLog(out, kernelLog)
	}
	out.send(plan.Event{Kind: plan.End})
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	// Not reached where the machine can turn itself off; the kernel panics
	// and the host sees it where it cannot.
}

// boot reports the errors of setting up and runs the plan. It says whether
// anything failed.
func boot(out *console, errs []error) (failed bool) {
	for _, err := range errs {
		out.send(plan.Event{Kind: plan.Error, Text: err.Error()})
		failed = true
	}
	b, err := os.ReadFile("/plan.json")
	var p plan.Plan
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	if err != nil {
		out.send(plan.Event{Kind: plan.Error, Text: err.Error()})
		return true
	}
	out.send(plan.Event{Kind: plan.Start, Text: runtime.GOARCH + " " + release()})
	for _, prog := range p.Programs {
		if code := run(out, prog); code != 0 {
			failed = true
		}
	}
	return failed
}

// run runs one program to its end or its time limit and reports both.
func run(out *console, prog plan.Program) int {
	start := time.Now()
	done := func(code int, why string) int {
		out.send(plan.Event{Kind: plan.Exit, Name: prog.Name, Code: code, Text: why,
			Millis: time.Since(start).Milliseconds()})
		return code
	}
	r, w, err := os.Pipe()
	if err != nil {
		return done(-1, err.Error())
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return done(-1, err.Error())
	}
	defer null.Close()
	env := append([]string{"PATH=/bin", "HOME=/root", "TMPDIR=/tmp"}, prog.Env...)
	p, err := os.StartProcess(prog.Path, append([]string{prog.Path}, prog.Args...),
		&os.ProcAttr{Dir: prog.Dir, Env: env, Files: []*os.File{null, w, w}})
	w.Close()
	if err != nil {
		r.Close()
		return done(-1, err.Error())
	}
	read := make(chan struct{})
	go func() { defer close(read); out.stream(prog.Name, r) }()

	why := ""
	var mu sync.Mutex
	abort := time.AfterFunc(prog.Timeout(), func() {
		mu.Lock()
		why = fmt.Sprintf("killed after %v", prog.Timeout())
		mu.Unlock()
		// SIGQUIT makes a Go program print where its goroutines stand.
		unix.Kill(p.Pid, unix.SIGQUIT)
		time.Sleep(3 * time.Second)
		unix.Kill(p.Pid, unix.SIGKILL)
	})
	state, err := p.Wait()
	abort.Stop()
	killRest()
	<-read
	r.Close()
	mu.Lock()
	defer mu.Unlock()
	switch {
	case err != nil:
		return done(-1, err.Error())
	case why != "":
		return done(-1, why)
	case !state.Exited():
		return done(-1, state.String())
	}
	return done(state.ExitCode(), "")
}

// killRest ends whatever the last program left behind, so that it cannot
// disturb the next one, and reaps it.
func killRest() {
	for range 50 {
		alive := unix.Kill(-1, unix.SIGKILL) == nil
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if pid <= 0 || err != nil {
				break
			}
		}
		if !alive {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// openKernelLog opens the kernel's log where it ends now, so that the noise of
// the boot is not in it.
func openKernelLog() (fd int) {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	if _, err := unix.Seek(fd, 0, io.SeekEnd); err != nil {
		unix.Close(fd)
		return -1
	}
	return fd
}

// sendKernelLog sends what the kernel logged since, which says why a program
// was killed or an object refused.
func sendKernelLog(out *console, fd int) {
	buf := make([]byte, 8192) // one record a read
	for range 500 {
		n, err := unix.Read(fd, buf)
		if err == unix.EPIPE {
			continue // records that the kernel overwrote
		}
		if err != nil || n <= 0 {
			return
		}
		line, _, _ := strings.Cut(string(buf[:n]), "\n")
		out.send(plan.Event{Kind: plan.Kernel, Text: line})
	}
}

func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}
