package containers

//go:generate go tool bpf2go -cc clang-16 -strip llvm-strip-16 -go-package containers -cflags "-O2 -g -Wall -Werror -I../../bpf/include" -target amd64,arm64 -type event bpf ../../bpf/containers.bpf.c

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// opMkdir is OP_MKDIR of bpf/containers.bpf.c.
const opMkdir = 1

// bpfWatcher hears of cgroups from the kernel, in order, with their ids.
type bpfWatcher struct {
	objs  bpfObjects
	links []link.Link
	rd    *ringbuf.Reader
	out   chan change
	done  chan struct{}
	wg    sync.WaitGroup
	drops uint64
}

func newBPFWatcher(l *loop) (_ *bpfWatcher, err error) {
	spec, err := loadBpf()
	if err != nil {
		return nil, fmt.Errorf("read the BPF object: %w", err)
	}
	if _, controller := l.r.layout.main(); controller != "" {
		b, err := os.ReadFile(filepath.Join(l.r.proc, "self/cgroup"))
		if err != nil {
			return nil, err
		}
		number, ok := hierarchyOf(b, controller)
		if !ok {
			return nil, fmt.Errorf("no hierarchy of %s in /proc/self/cgroup", controller)
		}
		if err := spec.Variables[bpfVarMainHierarchy].Set(number); err != nil {
			return nil, err
		}
	}
	w := &bpfWatcher{out: make(chan change, 256), done: make(chan struct{})}
	defer func() {
		if err != nil {
			w.release()
		}
	}()
	if err := spec.LoadAndAssign(&w.objs, nil); err != nil {
		if errors.Is(err, unix.EPERM) {
			return nil, fmt.Errorf("load the BPF object (needs CAP_BPF and CAP_PERFMON): %w", err)
		}
		return nil, fmt.Errorf("load the BPF object: %w", err)
	}
	for _, p := range []*ebpf.Program{w.objs.OnMkdir, w.objs.OnRmdir} {
		ln, err := link.AttachTracing(link.TracingOptions{Program: p, AttachType: ebpf.AttachTraceRawTp})
		if err != nil {
			return nil, fmt.Errorf("attach to the cgroup tracepoints: %w", err)
		}
		w.links = append(w.links, ln)
	}
	if w.rd, err = ringbuf.NewReader(w.objs.Events); err != nil {
		return nil, fmt.Errorf("open the ring buffer: %w", err)
	}
	w.wg.Go(w.read)
	return w, nil
}

func (w *bpfWatcher) read() {
	defer close(w.out)
	var rec ringbuf.Record
	for {
		if err := w.rd.ReadInto(&rec); err != nil {
			return // closed
		}
		if len(rec.RawSample) < int(unsafe.Sizeof(bpfEvent{})) {
			continue
		}
		e := (*bpfEvent)(unsafe.Pointer(&rec.RawSample[0]))
		c := change{made: e.Op == opMkdir, unified: e.Hierarchy == 0, id: e.Id, parent: e.Parent}
		// Without a name (not readable, or cut, and the name with it) a scan finds it.
		if n := int(e.Len); n >= 2 && n < len(e.Path) {
			c.name = path.Base(string(unsafe.Slice((*byte)(unsafe.Pointer(&e.Path[0])), n-1)))
		}
		select {
		case w.out <- c:
		case <-w.done:
			return
		}
	}
}

func (w *bpfWatcher) changes() <-chan change { return w.out }
func (w *bpfWatcher) name() string           { return "bpf" }

func (w *bpfWatcher) apply(l *loop, c change) bool {
	t := l.main
	if c.unified {
		t = l.unified
	}
	if t == nil {
		return true
	}
	if !c.made {
		if n := t.byID[c.id]; n != nil {
			t.remove(n)
		}
		return true
	}
	parent := t.byID[c.parent]
	if parent == nil {
		// With the whole tree in view every parent is known. In a container that
		// sees a part (kind), the rest is not ours.
		return t.root.id != wholeTree
	}
	return c.name != "" && t.add(parent, c.name, c.id) != nil
}

// wholeTree is the inode of a hierarchy's own root.
const wholeTree = 1

func (w *bpfWatcher) lost() uint64 {
	var perCPU []uint64
	if w.objs.Drops.Lookup(uint32(0), &perCPU) != nil {
		return 0
	}
	var sum uint64
	for _, n := range perCPU {
		sum += n
	}
	n := sum - w.drops
	w.drops = sum
	return n
}

func (w *bpfWatcher) close() {
	close(w.done)
	w.rd.Close()
	w.wg.Wait()
	w.release()
}

func (w *bpfWatcher) release() {
	for _, ln := range w.links {
		ln.Close()
	}
	w.objs.Close()
}
