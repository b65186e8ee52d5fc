package logs

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// watchMask leaves writes out: fsnotify cannot, and its events of every line
// written cost more than reading the lines.
const watchMask = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE |
	unix.IN_ONLYDIR | unix.IN_DONT_FOLLOW

// event says which watched directories changed. overflow: the kernel's queue
// was full, anything may have changed.
type event struct {
	dirs     []int32
	overflow bool
}

// notifier watches directories for what is created, moved and deleted in them.
// What happened is not told: the directory is read again.
type notifier struct {
	file   *os.File
	events chan event
	wg     sync.WaitGroup
	stop   chan struct{}
}

func newNotifier() (*notifier, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("start inotify: %w", err)
	}
	n := &notifier{file: os.NewFile(uintptr(fd), "inotify"), events: make(chan event, 16), stop: make(chan struct{})}
	n.wg.Add(1)
	go n.read()
	return n, nil
}

// add watches the directory that fd has open. Watching one twice gives the same
// number.
func (n *notifier) add(fd int) (wd int32, err error) {
	var w int
	raw, err := n.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := raw.Control(func(in uintptr) {
		// by descriptor, because the path may lead elsewhere by now
		w, err = unix.InotifyAddWatch(int(in), fmt.Sprintf("/proc/self/fd/%d/.", fd), watchMask)
	})
	if cerr != nil {
		return 0, cerr
	}
	return int32(w), err
}

// remove ends a watch. That it has ended already is no error: it does so with
// its directory.
func (n *notifier) remove(wd int32) {
	if raw, err := n.file.SyscallConn(); err == nil {
		_ = raw.Control(func(in uintptr) { _, _ = unix.InotifyRmWatch(int(in), uint32(wd)) })
	}
}

func (n *notifier) close() {
	close(n.stop)
	_ = n.file.Close()
	n.wg.Wait()
}

func (n *notifier) read() {
	defer n.wg.Done()
	defer close(n.events)
	buf := make([]byte, 32<<10)
	for {
		k, err := n.file.Read(buf)
		if err != nil {
			return
		}
		e := parseEvents(buf[:k])
		select {
		case n.events <- e:
		case <-n.stop:
			return
		}
	}
}

// parseEvents collects the watches that are named in struct inotify_event's.
func parseEvents(b []byte) (e event) {
	last := int32(-1)
	for len(b) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(b[0:]))
		mask := binary.NativeEndian.Uint32(b[4:])
		n := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		if n < 0 || n > len(b) {
			n = len(b)
		}
		b = b[n:]
		if mask&unix.IN_Q_OVERFLOW != 0 {
			e.overflow = true
		} else if mask&unix.IN_IGNORED == 0 && wd != last {
			e.dirs = append(e.dirs, wd)
			last = wd
		}
	}
	return e
}
