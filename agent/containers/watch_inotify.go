package containers

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// inotifyWatcher watches every directory of the trees.
type inotifyWatcher struct {
	f        *os.File
	fd       int
	nodes    map[int32]*node // the loop's alone
	out      chan change
	done     chan struct{}
	wg       sync.WaitGroup
	overflow atomic.Uint64
	failed   uint64 // watches that the kernel refused
	warned   bool
	r        *Registry
}

func newInotifyWatcher(l *loop) (*inotifyWatcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	w := &inotifyWatcher{
		f: os.NewFile(uintptr(fd), "inotify"), fd: fd, nodes: map[int32]*node{},
		out: make(chan change, 256), done: make(chan struct{}), r: l.r,
	}
	l.main.watch = w.watch
	if l.unified != nil {
		l.unified.watch = w.watch
	}
	w.wg.Go(w.read)
	return w, nil
}

func (w *inotifyWatcher) watch(n *node) {
	wd, err := unix.InotifyAddWatch(w.fd, filepath.Join(n.tree.dir, n.path), unix.IN_CREATE|unix.IN_DELETE|unix.IN_ONLYDIR)
	switch err {
	case nil:
		n.wd = int32(wd)
		w.nodes[n.wd] = n
	case unix.ENOENT: // gone already
	default:
		w.failed++
		if !w.warned {
			w.warned = true
			w.r.log.Warn("a cgroup cannot be watched; scanning instead", "error", err, "help", "raise fs.inotify.max_user_watches")
		}
	}
}

func (w *inotifyWatcher) read() {
	defer close(w.out)
	buf := make([]byte, 16<<10)
	for {
		n, err := w.f.Read(buf)
		if err != nil {
			return // closed
		}
		parseInotify(buf[:n], func(c change) {
			if c.mask&unix.IN_Q_OVERFLOW != 0 {
				w.overflow.Add(1)
				return
			}
			select {
			case w.out <- c:
			case <-w.done:
			}
		})
	}
}

// parseInotify calls f for each event in a buffer as inotify fills it.
func parseInotify(b []byte, f func(change)) {
	for len(b) >= unix.SizeofInotifyEvent {
		size := int(binary.NativeEndian.Uint32(b[12:]))
		if size > len(b)-unix.SizeofInotifyEvent {
			return
		}
		name := b[unix.SizeofInotifyEvent : unix.SizeofInotifyEvent+size]
		if i := bytes.IndexByte(name, 0); i >= 0 {
			name = name[:i]
		}
		mask := binary.NativeEndian.Uint32(b[4:])
		f(change{wd: int32(binary.NativeEndian.Uint32(b)), mask: mask, made: mask&unix.IN_CREATE != 0, name: string(name)})
		b = b[unix.SizeofInotifyEvent+size:]
	}
}

func (w *inotifyWatcher) changes() <-chan change { return w.out }
func (w *inotifyWatcher) name() string           { return "inotify" }

func (w *inotifyWatcher) apply(l *loop, c change) bool {
	n := w.nodes[c.wd]
	if n == nil {
		return true
	}
	if c.mask&unix.IN_IGNORED != 0 {
		delete(w.nodes, c.wd)
		return true
	}
	if c.mask&unix.IN_ISDIR == 0 {
		return true
	}
	if !c.made {
		if child := n.children[c.name]; child != nil {
			// It may have been made again meanwhile: then another event follows.
			n.tree.remove(child)
		}
		return true
	}
	id, _, err := statDir(filepath.Join(n.tree.dir, n.path, c.name))
	if err != nil {
		return true // gone again
	}
	child := n.tree.add(n, c.name, id)
	if child == nil {
		return false
	}
	// What was made in it before it was watched has no event.
	_, err = n.tree.scan(child)
	return err == nil || os.IsNotExist(err)
}

func (w *inotifyWatcher) lost() uint64 {
	n := w.overflow.Swap(0) + w.failed
	w.failed = 0
	return n
}

func (w *inotifyWatcher) close() {
	close(w.done)
	w.f.Close()
	w.wg.Wait()
}
