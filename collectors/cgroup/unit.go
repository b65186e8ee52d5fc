package cgroup

import (
	"errors"

	"golang.org/x/sys/unix"

	"nodetap/agent/containers"
	"nodetap/agent/telemetry"
)

// kind is what a unit's rows stand for.
type kind uint8

const (
	kindContainer kind = iota + 1
	kindPod
	kindGroup // /kubepods and its classes of service
	kindNode  // "/"
)

// unit is one cgroup that has rows. The sampling goroutine owns it, apart from
// row, which Collector.mu guards.
type unit struct {
	kind    kind
	path    string
	c       *containers.Container // nil for kindGroup and kindNode
	pod     *pod                  // nil for kindGroup and kindNode
	inode   uint64                // grows with the order in which cgroups were made; 0 unknown
	fds     []int32               // per source; closed or missing below 0
	read    reading
	fresh   bool       // its details have not been read yet
	moved   [2]float64 // CPU time and memory in use at its last details
	details int        // how often they were read
	gone    bool       // the kernel says that the cgroup is removed
	start   float64
	role    role
	names   *telemetry.Resource // what the row is named by; nil for nobody
	row     row

	anonymous, anonymousIn *telemetry.Resource // see Collector.anonymous
}

// pod is what containers share: the network. A container outside Kubernetes is
// a pod of its own.
type pod struct {
	uid        string // "" outside Kubernetes
	unit       *unit  // the pod's own cgroup; nil when there is none
	containers []*unit
	net        network
	offset     int                 // spreads the pods over the ticks
	derived    *telemetry.Resource // the pod by what a container of it says, where the pod itself is not known
	from       *telemetry.Resource // what derived was made from
}

// row is what a scrape reads of a unit.
type row struct {
	values
	shown    bool
	labels   *rowLabels
	resource *telemetry.Resource
	created  int64
	io       []deviceRow
	net      []interfaceRow
}

const (
	closed  = -1 // not open: over the budget, or not tried yet
	missing = -2 // the kernel has no such file here
)

// open opens a source of the unit, within the budget of files.
func (c *Collector) open(u *unit, i int) (fd int, keep bool, err error) {
	fd, err = unix.Open(c.sources[i].path(u.path), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, false, err
	}
	// What is read most often comes first. An open file costs the kernel some
	// 7 kB, so what is read once a minute is not worth one.
	budget := c.maxOpen
	switch s := &c.sources[i]; {
	case s.when == tierSpec || s.quota && u.read.has&(1<<specQuota) == 0:
		budget = 0
	case s.idle:
		budget /= 4
	case s.when == tierDetail:
		budget = budget * 3 / 4
	}
	if c.openFiles >= budget {
		return fd, false, nil
	}
	c.openFiles++
	return fd, true, nil
}

// readSource reads one file of a unit into its reading.
func (c *Collector) readSource(u *unit, i int) {
	src := &c.sources[i]
	u.read.clear(src.owns...)
	if u.fds[i] == missing && !u.fresh {
		return
	}
	fd := int(u.fds[i])
	if fd < 0 {
		var keep bool
		var err error
		if fd, keep, err = c.open(u, i); err != nil {
			// A runtime makes the cgroups of the v1 hierarchies one after another:
			// a file that is missing at first may come.
			if missingFile := errors.Is(err, unix.ENOENT); missingFile && !u.young(c.now) {
				u.fds[i] = missing
			} else if !missingFile {
				c.self.errors.WithLabelValues("open").Inc()
			}
			return
		}
		if keep {
			u.fds[i] = int32(fd)
		} else {
			defer unix.Close(fd)
		}
	}
	b, err := c.pread(fd, src.many)
	switch {
	case err == nil:
		src.parse(&u.read, b)
	case errors.Is(err, unix.ENODEV):
		u.gone = true
	case errors.Is(err, unix.EOPNOTSUPP): // pressure without psi=1, cgroup.procs of a threaded cgroup
		c.closeSource(u, i)
		u.fds[i] = missing
	default:
		c.self.errors.WithLabelValues("read").Inc()
	}
}

// maxFile bounds what is read of one file.
const maxFile = 1 << 20

// pread reads a file from its start into the collector's buffer, which the next
// call overwrites.
func (c *Collector) pread(fd int, many bool) ([]byte, error) {
	n := 0
	for {
		m, err := unix.Pread(fd, c.buf[n:], int64(n))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		n += m
		if n == len(c.buf) && n < maxFile {
			c.buf = append(c.buf, make([]byte, len(c.buf))...)
			continue
		}
		if m == 0 || !many || n == len(c.buf) {
			return c.buf[:n], nil
		}
	}
}

func (c *Collector) closeSource(u *unit, i int) {
	if u.fds[i] >= 0 {
		unix.Close(int(u.fds[i]))
		u.fds[i] = closed
		c.openFiles--
	}
}

func (c *Collector) closeUnit(u *unit) {
	for i := range u.fds {
		c.closeSource(u, i)
	}
}

// readFile reads a whole file that is not kept open.
func (c *Collector) readFile(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return c.pread(fd, true)
}
