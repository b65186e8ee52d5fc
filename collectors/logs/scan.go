package logs

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxFilesPerContainer bounds the log files of one container's directory.
const maxFilesPerContainer = 1000

// scanner follows the directories. It runs in one goroutine.
type scanner struct {
	c    *Collector
	note *notifier // nil where there is no inotify
	root int       // descriptor of the directory of all pods; -1 while it is not there
	wd   int32     // its watch
	pods map[string]*podDir
	byWD map[int32]*containerDir // the pods' own directories too, with an empty name
	full int                     // complete scans so far
	told bool                    // that the directory is missing
	top  containerDir            // remembers what was refused in it
}

type podDir struct {
	name       podName
	dir        string
	self       *containerDir // carries the watch of the pod's own directory
	containers map[string]*containerDir
	excluded   bool
}

type containerDir struct {
	pod     *podDir
	name    string
	wd      int32
	docker  map[string]int32 // watches of docker's directories, by container id
	sources map[int]*source
	refused map[string]bool
}

func (d *containerDir) path() string { return d.pod.dir + "/" + d.name }

func newScanner(c *Collector) *scanner {
	sc := &scanner{c: c, root: -1, wd: -1, top: containerDir{pod: &podDir{}}, pods: map[string]*podDir{}, byWD: map[int32]*containerDir{}}
	n, err := newNotifier()
	if err != nil {
		c.meters.errors.WithLabelValues("watch").Inc()
		c.log.Warn("no inotify: directories are read again and again", "error", err)
	}
	sc.note = n
	return sc
}

func (sc *scanner) close() {
	if sc.note != nil {
		sc.note.close()
	}
	if sc.root >= 0 {
		_ = unix.Close(sc.root)
	}
}

func (sc *scanner) run(ctx context.Context) {
	var events <-chan event
	if sc.note != nil {
		events = sc.note.events
	}
	for {
		sc.scanAll()
		wait := sc.c.cfg.RescanInterval
		if sc.root < 0 || sc.note == nil {
			wait = min(wait, time.Second)
		}
		if !sc.follow(ctx, events, wait) {
			return
		}
	}
}

// follow handles what changes until it is time to scan everything.
func (sc *scanner) follow(ctx context.Context, events <-chan event, wait time.Duration) bool {
	t := time.NewTimer(wait)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
			return true
		case e, ok := <-events:
			if !ok {
				events = nil
				continue
			}
			if e.overflow {
				sc.c.meters.overflows.Inc()
				return true
			}
			slices.Sort(e.dirs)
			for _, wd := range slices.Compact(e.dirs) {
				sc.changed(wd)
			}
		case <-sc.c.again:
			for _, dir := range sc.c.takeAgain() {
				pod, name, _ := strings.Cut(dir, "/")
				if p := sc.pods[pod]; p != nil && p.containers[name] != nil {
					sc.scanContainer(p.containers[name])
				}
			}
		}
	}
}

func (sc *scanner) changed(wd int32) {
	if wd == sc.wd {
		sc.scanRoot()
		return
	}
	d := sc.byWD[wd]
	switch {
	case d == nil:
	case d.name == "":
		sc.scanPod(d.pod)
	default:
		sc.scanContainer(d)
	}
}

func (sc *scanner) watch(fd int, d *containerDir, old int32) int32 {
	if sc.note == nil {
		return old
	}
	wd, err := sc.note.add(fd)
	if err != nil {
		sc.c.meters.errors.WithLabelValues("watch").Inc()
		return old
	}
	if old != wd && old > 0 && sc.byWD[old] == d {
		delete(sc.byWD, old)
	}
	if d != nil {
		sc.byWD[wd] = d
	}
	return wd
}

// scanAll reads every directory.
func (sc *scanner) scanAll() {
	if !sc.scanRoot() {
		return
	}
	for _, p := range sc.pods {
		sc.scanPod(p)
		for _, d := range p.containers {
			sc.scanContainer(d)
		}
	}
	sc.full++
	if sc.full == 2 {
		sc.c.dropUnclaimed()
	}
}

// scanRoot reads the directory of all pods.
func (sc *scanner) scanRoot() bool {
	// by its path each time: it may be another directory by now
	fd, err := unix.Open(sc.c.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		if !sc.told {
			sc.c.log.Info("no container logs yet", "path", sc.c.path, "error", err)
			sc.told = true
		}
		return false
	}
	if sc.root >= 0 {
		_ = unix.Close(sc.root)
	}
	sc.root = fd
	sc.wd = sc.watch(fd, nil, sc.wd)
	names, err := namesOf(fd)
	if err != nil {
		sc.failed(err)
		return false
	}
	there := make(map[string]bool, len(names))
	for _, name := range names {
		there[name] = true
		if sc.pods[name] != nil {
			continue
		}
		pn, ok := parsePodName(name)
		if !ok {
			continue
		}
		st, err := statAt(fd, name)
		if err != nil || st.kind() == "" {
			continue
		}
		if kind := st.kind(); kind != "directory" {
			sc.refuse(&sc.top, name, kind)
			continue
		}
		p := &podDir{name: pn, dir: name, containers: map[string]*containerDir{}, excluded: sc.c.ownPod(pn)}
		p.self = &containerDir{pod: p}
		sc.pods[name] = p
		sc.scanPod(p)
	}
	for name, p := range sc.pods {
		if !there[name] && p.excluded {
			delete(sc.pods, name)
		} else if !there[name] {
			sc.scanPod(p)
		}
	}
	return true
}

// scanPod reads a pod's directory, and those of its containers that are new.
func (sc *scanner) scanPod(p *podDir) {
	if p.excluded {
		return
	}
	fd, err := openBeneath(sc.root, p.dir, openDir)
	var names []string
	if err == nil {
		defer func() { _ = unix.Close(fd) }()
		p.self.wd = sc.watch(fd, p.self, p.self.wd)
		names, err = namesOf(fd)
	}
	if err != nil && !gone(err) {
		if errors.Is(err, unix.ELOOP) {
			sc.refuse(p.self, "", "link")
		} else {
			sc.failed(err)
		}
		return
	}
	for _, name := range names {
		if p.containers[name] != nil {
			continue
		}
		if !cleanName(name) {
			sc.refuse(p.self, name, "name")
			continue
		}
		if len(p.containers) >= maxFilesPerContainer {
			sc.refuse(p.self, name, "limit")
			continue
		}
		st, err := statAt(fd, name)
		if err != nil || st.kind() == "" {
			continue
		}
		if kind := st.kind(); kind != "directory" {
			sc.refuse(p.self, name, kind)
			continue
		}
		d := &containerDir{pod: p, name: name, sources: map[int]*source{}}
		p.containers[name] = d
		sc.scanContainer(d)
	}
	for name, d := range p.containers {
		if !slices.Contains(names, name) {
			sc.scanContainer(d)
			if len(d.sources) == 0 {
				sc.unwatch(d)
				delete(p.containers, name)
			}
		}
	}
	if gone(err) && len(p.containers) == 0 {
		sc.unwatch(p.self)
		delete(sc.pods, p.dir)
	}
}

func (sc *scanner) unwatch(d *containerDir) {
	// the kernel has ended the watch with the directory: its number is not used
	// again, and of docker's directories neither is any
	if sc.byWD[d.wd] == d {
		delete(sc.byWD, d.wd)
	}
	for _, wd := range d.docker {
		if sc.byWD[wd] == d {
			sc.note.remove(wd)
			delete(sc.byWD, wd)
		}
	}
}

// scanTries is how often a directory that changes while it is read is read
// again: a rotated file that was missed would be read behind its successor.
const scanTries = 5

// scanContainer reads a container's directory and opens what is new in it.
func (sc *scanner) scanContainer(d *containerDir) {
	for try := 1; !sc.tryContainer(d, try == scanTries); try++ {
	}
}

// tryContainer is false when the directory changed meanwhile, unless it is the
// last try.
func (sc *scanner) tryContainer(d *containerDir, last bool) bool {
	byRestart := map[int][]candidate{}
	var dirs []int
	defer func() {
		for _, dir := range dirs {
			_ = unix.Close(dir)
		}
	}()
	fd, err := openBeneath(sc.root, d.path(), openDir)
	switch {
	case err == nil:
		defer func() { _ = unix.Close(fd) }()
		d.wd = sc.watch(fd, d, d.wd)
		names, err := namesOf(fd)
		if err != nil {
			sc.failed(err)
			return true
		}
		if sc.c.looked != nil {
			sc.c.looked(d.path())
		}
		var stale bool
		dirs, stale = sc.candidates(d, fd, names, byRestart)
		if stale && !last {
			return false
		}
	case errors.Is(err, unix.ELOOP):
		sc.refuse(d, "", "link")
	case !gone(err):
		sc.failed(err)
		return true
	}
	for restart := range byRestart {
		if d.sources[restart] == nil {
			d.sources[restart] = sc.c.newSource(d.pod.name, d.path(), d.name, restart)
		}
	}
	for restart, s := range d.sources {
		sc.c.reconcile(s, byRestart[restart], func() []candidate {
			byRestart := map[int][]candidate{}
			names, err := namesOf(fd)
			if err != nil {
				return nil // it was deleted; or the next scan says what is wrong
			}
			more, _ := sc.candidates(d, fd, names, byRestart)
			dirs = append(dirs, more...)
			return byRestart[restart]
		})
		if sc.c.retire(s, len(byRestart[restart]) == 0, gone(err)) {
			delete(d.sources, restart)
			continue
		}
		sc.c.sched.wake(s)
	}
	return true
}

// candidates sorts the log files in a container's directory by restart. It
// returns the further directories that the candidates lie in, to be closed, and
// whether a file was gone already.
func (sc *scanner) candidates(d *containerDir, fd int, names []string, byRestart map[int][]candidate) (dirs []int, stale bool) {
	n := 0
	for _, base := range names {
		name, ok := parseFileName(base)
		if !ok {
			continue
		}
		if n++; n > maxFilesPerContainer {
			sc.refuse(d, base, "limit")
			continue
		}
		st, err := statAt(fd, base)
		if err != nil {
			stale = true
			continue
		}
		switch kind := st.kind(); kind {
		case "":
			byRestart[name.restart] = append(byRestart[name.restart], candidate{fd, base, base, name, st})
		case "link":
			dir, found := sc.dockerFiles(d, fd, base, name)
			if dir < 0 {
				sc.refuse(d, base, "link")
				continue
			}
			dirs = append(dirs, dir)
			byRestart[name.restart] = append(byRestart[name.restart], found...)
		default:
			sc.refuse(d, base, kind)
		}
	}
	return dirs, stale
}

// dockerFiles returns the files that docker's json-file driver keeps of the
// container that a link leads to, and their directory, open; -1 when the link
// leads elsewhere.
func (sc *scanner) dockerFiles(d *containerDir, fd int, base string, name fileName) (dir int, found []candidate) {
	root := sc.c.cfg.DockerRoot
	target, err := readLinkAt(fd, base)
	if root == "" || err != nil || name.stamp != "" || name.gz {
		return -1, nil
	}
	id, ok := dockerLink(root, target)
	if !ok {
		return -1, nil
	}
	rootFD, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, nil
	}
	defer func() { _ = unix.Close(rootFD) }()
	dir, names, err := readNames(rootFD, id)
	if err != nil {
		return -1, nil
	}
	if d.docker == nil {
		d.docker = map[string]int32{}
	}
	d.docker[id] = sc.watch(dir, d, d.docker[id])
	for _, file := range names {
		rest, ok := strings.CutPrefix(file, id+"-json.log")
		if !ok || !cleanName(file) {
			continue
		}
		fn, ok := parseSuffix(name.restart, rest)
		if !ok || len(found) >= maxFilesPerContainer {
			continue
		}
		st, err := statAt(dir, file)
		if err != nil {
			continue
		}
		if kind := st.kind(); kind != "" {
			sc.refuse(d, file, kind)
			continue
		}
		found = append(found, candidate{dir, file, strconv.Itoa(name.restart) + ".log" + rest, fn, st})
	}
	return dir, found
}

// refuse counts a file that is not opened, once.
func (sc *scanner) refuse(d *containerDir, name, reason string) {
	if d.refused == nil {
		d.refused = map[string]bool{}
	}
	key := reason + " " + name
	if d.refused[key] || len(d.refused) >= maxFilesPerContainer {
		return
	}
	d.refused[key] = true
	sc.c.meters.refused.WithLabelValues(reason).Inc()
	sc.c.log.Warn("refused a file among the container logs", "path", d.path()+"/"+name, "reason", reason)
}

func (sc *scanner) failed(err error) {
	sc.c.meters.errors.WithLabelValues("scan").Inc()
	sc.c.log.Warn("cannot read a log directory", "error", err)
}
