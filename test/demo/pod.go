package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// pod is one service with the identity that kubelet would give it.
type pod struct {
	name, next       string
	uid, containerID string

	cmd  *exec.Cmd
	logs sync.WaitGroup
	once sync.Once
}

func newPod(name, next string) *pod {
	h := fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, "%s %d %d", name, os.Getpid(), time.Now().UnixNano())))
	return &pod{
		name: name + "-0", next: next, containerID: h,
		uid: strings.Join([]string{h[:8], h[8:12], "4" + h[13:16], "8" + h[17:20], h[20:32]}, "-"),
	}
}

func (p *pod) service() string { return p.name[:len(p.name)-2] }

// start runs the service in its cgroup, and writes its output as a container
// runtime does: /var/log/pods/<namespace>_<pod>_<uid>/<container>/0.log and the
// link to it in /var/log/containers.
func (p *pod) start(ctx context.Context, dir string, cg *cgroups) error {
	logDir := filepath.Join(dir, "log", "pods", "shop_"+p.name+"_"+p.uid, p.service())
	links := filepath.Join(dir, "log", "containers")
	for _, d := range []string{logDir, links} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	file := filepath.Join(logDir, "0.log")
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := os.Symlink(file, filepath.Join(links, fmt.Sprintf("%s_shop_%s-%s.log", p.name, p.service(), p.containerID))); err != nil {
		return err
	}

	self, err := os.Executable()
	if err != nil {
		return err
	}
	p.cmd = exec.CommandContext(ctx, self, "service", p.service(), p.next)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	gate, err := p.cmd.StdinPipe()
	if err != nil {
		return err
	}
	w := &criWriter{w: out}
	for stream, get := range map[string]func() (io.ReadCloser, error){"stdout": p.cmd.StdoutPipe, "stderr": p.cmd.StderrPipe} {
		r, err := get()
		if err != nil {
			return err
		}
		p.logs.Go(func() { w.copy(stream, r) })
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	if err := cg.enter(p, p.cmd.Process.Pid); err != nil {
		say("OFF: metrics and traces of %s: %v", p.name, err)
	}
	_, err = gate.Write([]byte{'\n'})
	return err
}

func (p *pod) stop() {
	p.once.Do(func() {
		if p.cmd == nil || p.cmd.Process == nil {
			return
		}
		p.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
		p.logs.Wait()
		p.cmd.Wait() //nolint:errcheck // it was told to end
	})
}

// criWriter writes lines in the format of CRI: time, stream, F, text.
type criWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (c *criWriter) copy(stream string, r io.Reader) {
	br := bufio.NewReader(r)
	for {
		line, err := br.ReadBytes('\n')
		if len(line) > 0 {
			c.mu.Lock()
			fmt.Fprintf(c.w, "%s %s F %s\n", time.Now().UTC().Format("2006-01-02T15:04:05.000000000Z07:00"), stream, bytes.TrimRight(line, "\n"))
			c.mu.Unlock()
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrClosed) {
				say("reading %s: %v", stream, err)
			}
			return
		}
	}
}
