package logs

import (
	"bytes"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// missingTime is how long a name must be gone before its file is forgotten: a
// directory that changes while it is read may hide one for once.
const missingTime = 2 * time.Second

// candidate is a log file that a scan came upon.
type candidate struct {
	dir  int    // where it lies, open
	file string // its name there
	base string // its name as kubelet gives it
	name fileName
	st   stat
}

// opened is a candidate that is not known by its inode.
type opened struct {
	candidate
	fd    int
	gz    *gzReader
	begin []byte // of the uncompressed content
}

func (o *opened) close() {
	if o.gz != nil {
		o.gz.close()
	}
	_ = unix.Close(o.fd)
}

// reconcile makes the source's files what a look at its directory found. again
// looks once more.
func (c *Collector) reconcile(s *source, found []candidate, again func() []candidate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.excluded {
		if len(found) == 0 {
			s.files = nil
		}
		return
	}
	s.scans++
	fresh := c.openFresh(s, found, again)
	var rest []*opened
	for _, o := range fresh {
		if !c.takeByInode(s, o) {
			rest = append(rest, o)
		}
	}
	for _, o := range rest {
		if !c.takeByHead(s, o) {
			c.takeNew(s, o)
		}
	}
	s.sort()
	c.forget(s)
}

// openFresh opens what is not known, oldest first. It looks again until nothing
// has changed since it opened something: a file that is renamed between the
// reading of its directory and the opening hides behind its successor, which
// would be read first and, of a line that is split between them, only the end.
// What is open stays so, for it may be deleted any moment.
func (c *Collector) openFresh(s *source, found []candidate, again func() []candidate) (fresh []*opened) {
	slices.SortStableFunc(found, compareCandidates)
	for try := 1; ; try++ {
		missed := false
		for i := range found {
			cand := &found[i]
			if c.known(s, cand) || holds(fresh, cand) {
				continue
			}
			o, err := c.openCandidate(s, *cand)
			missed = missed || gone(err)
			switch {
			case o == nil:
			case holds(fresh, &o.candidate):
				o.close()
			default:
				fresh = append(fresh, o)
			}
		}
		if len(fresh) == 0 && !missed || try == scanTries {
			break
		}
		next := again()
		slices.SortStableFunc(next, compareCandidates)
		if !missed && slices.EqualFunc(found, next, sameCandidate) {
			break
		}
		found = next
	}
	slices.SortStableFunc(fresh, func(a, b *opened) int { return compareCandidates(a.candidate, b.candidate) })
	return fresh
}

func compareCandidates(a, b candidate) int {
	switch {
	case a.name.older(b.name), a.name.stamp == b.name.stamp && !a.name.gz && b.name.gz:
		return -1
	case b.name.older(a.name), a.name.stamp == b.name.stamp && a.name.gz && !b.name.gz:
		return 1
	}
	return 0
}

func sameCandidate(a, b candidate) bool { return a.base == b.base && a.st.id == b.st.id }

// holds tells whether the candidate is open already; it has the candidate's
// name then.
func holds(fresh []*opened, cand *candidate) bool {
	for _, o := range fresh {
		if o.st.id == cand.st.id {
			o.base, o.name = cand.base, cand.name
			return true
		}
	}
	return false
}

// known takes a candidate that is known by its inode and did not change hands.
func (c *Collector) known(s *source, cand *candidate) bool {
	if f := s.byID[cand.st.id]; f != nil && (f.fd >= 0 || f.st == cand.st) {
		c.saw(s, f, cand)
		return true
	}
	if t := s.twins[cand.st.id]; t != nil && t.st == cand.st && (!t.copy || t.of.past == nil) && (!t.young || growing(t.st)) {
		t.seen, t.of.seen = s.scans, s.scans
		return true
	}
	return false
}

// growing tells whether a file was written to a moment ago.
func growing(st stat) bool { return time.Since(time.Unix(0, st.mtime)) < missingTime }

func (c *Collector) saw(s *source, f *file, cand *candidate) {
	f.seen = s.scans
	if f.base == cand.base {
		return
	}
	if f.name.stamp == "" && cand.name.stamp != "" {
		c.meters.rotations.WithLabelValues("rename").Inc()
	}
	f.base, f.name = cand.base, cand.name
}

// openCandidate returns nil when the file is not to be taken: with the error of
// opening it, if that is why.
func (c *Collector) openCandidate(s *source, cand candidate) (*opened, error) {
	fd, err := openBeneath(cand.dir, cand.file, openFile)
	if err != nil {
		if !gone(err) {
			c.meters.errors.WithLabelValues("open").Inc()
			c.log.Warn("cannot open a log file", "path", s.key.dir+"/"+cand.base, "error", err)
		}
		return nil, err
	}
	o := &opened{candidate: cand, fd: fd}
	if o.st, err = fstat(fd); err != nil || o.st.kind() != "" {
		_ = unix.Close(fd)
		return nil, nil
	}
	if cand.name.gz {
		o.gz, err = newGzReader(fd, o.st.size)
		if err == nil {
			o.begin = make([]byte, headBytes)
			var n int
			if n, err = o.gz.readAt(o.begin, 0); err == nil {
				err = o.gz.broken
			}
			o.begin = o.begin[:n]
			o.gz.keep(o.begin)
		}
	} else {
		o.begin, err = readHead(fd)
	}
	if err != nil {
		c.meters.errors.WithLabelValues("read").Inc()
		c.log.Warn("cannot read a log file", "path", s.key.dir+"/"+cand.base, "error", err)
		o.close()
		return nil, nil
	}
	if c.known(s, &o.candidate) { // it was renamed since the directory was read
		o.close()
		return nil, nil
	}
	return o, nil
}

// takeByInode takes a file that was read before, by this agent or the one
// before it, if it still has its inode and its content.
func (c *Collector) takeByInode(s *source, o *opened) bool {
	if o.gz != nil {
		return false
	}
	if f := s.byID[o.st.id]; f != nil && f.fd < 0 {
		m := f.mark()
		if _, ok := m.matches(o.fd, o.st.size, o.begin); ok {
			c.saw(s, f, &o.candidate)
			f.st = o.st
			if o.st.size > f.off {
				f.fd = o.fd
			} else {
				o.close()
			}
			return true
		}
	}
	for i, q := range s.orphans {
		if q.m.id != o.st.id {
			continue
		}
		if t, ok := q.m.matches(o.fd, o.st.size, o.begin); ok {
			c.resume(s, o, i).resume(q.m, t)
			return true
		}
	}
	return false
}

// resume makes a file of an orphan whose content o has.
func (c *Collector) resume(s *source, o *opened, i int) *file {
	q := s.orphans[i]
	s.orphans = slices.Delete(s.orphans, i, i+1)
	f := c.newFile(s, o, q.uid)
	return f
}

func (c *Collector) newFile(s *source, o *opened, uid uint64) *file {
	f := newFile(uid, o.name, o.base)
	f.id, f.fd, f.gz, f.st, f.seen = o.st.id, o.fd, o.gz, o.st, s.scans
	s.add(f)
	return f
}

// takeByHead takes a file that has the content of a known one under another
// inode: kubelet compressed it, something copied it, or the disk has another
// device number since a reboot.
func (c *Collector) takeByHead(s *source, o *opened) bool {
	if o.gz != nil && c.takeCompressed(s, o) { // before a position that was left over may have it read twice
		return true
	}
	for i, q := range s.orphans {
		if q.m.head.n < minHead || !q.m.head.beginsWith(o.begin) {
			continue
		}
		if o.gz == nil {
			if t, ok := q.m.matches(o.fd, o.st.size, o.begin); ok {
				c.resume(s, o, i).resume(q.m, t)
				return true
			}
			continue
		}
		if o.gz.size < q.m.off&math.MaxUint32 {
			continue
		}
		f := c.resume(s, o, i)
		f.resume(q.m, tail{})
		f.gz.resuming = true
		if o.gz.size == q.m.off && f.skip == 0 {
			f.closeFile() // all of it was delivered: no need to decompress it
		}
		return true
	}
	return o.gz == nil && c.takeCopy(s, o)
}

// takeCompressed takes the compressed form of a file that is known.
func (c *Collector) takeCompressed(s *source, o *opened) bool {
	for _, f := range s.files {
		if f.gz != nil || f.head.n < minHead || !f.head.beginsWith(o.begin) ||
			f.name.stamp != o.name.stamp && f.seen == s.scans {
			continue
		}
		c.meters.rotations.WithLabelValues("gzip").Inc()
		f.seen = s.scans
		if f.fd >= 0 || o.gz.size == f.off&math.MaxUint32 {
			s.twins[o.st.id] = &twin{st: o.st, of: f, seen: s.scans}
			o.close()
			return true
		}
		// closed too early: the rest is in here
		delete(s.byID, f.id)
		f.from = f.mark()
		f.id, f.fd, f.gz, f.st, f.base, f.name = o.st.id, o.fd, o.gz, o.st, o.base, o.name
		f.gz.resuming = true
		s.byID[f.id] = f
		return true
	}
	return false
}

// takeCopy takes a copy that was made in order to truncate the file that is
// written to. It is not read before that has happened, and then only from where
// the original had been read to.
func (c *Collector) takeCopy(s *source, o *opened) bool {
	if o.name.stamp == "" {
		return false
	}
	for _, f := range s.files {
		if f.gz != nil || f.name.stamp != "" || f.fd < 0 {
			continue
		}
		if p := f.past; p != nil && p.head.n >= minHead && p.head.beginsWith(o.begin) {
			m := mark{generation: p.generation, head: p.head, off: p.off, pend: noPend, tailLen: p.tail.n, tailHash: p.tail.hash()}
			if t, ok := m.matches(o.fd, o.st.size, o.begin); ok {
				f.past = nil
				delete(s.twins, o.st.id)
				c.newFile(s, o, rand.Uint64()).resume(m, t)
				return true
			}
			continue
		}
		if len(o.begin) < f.head.n && growing(o.st) {
			s.twins[o.st.id] = &twin{st: o.st, of: f, copy: true, young: true, seen: s.scans}
			f.seen = s.scans
			o.close()
			return true
		}
		if f.head.n >= minHead && f.head.beginsWith(o.begin) {
			if t := f.tail; o.st.size >= f.off {
				b := make([]byte, t.n)
				if n, err := pread(o.fd, b, f.off-int64(t.n)); err != nil || n != t.n || !bytes.Equal(b, t.bytes()) {
					continue // the same beginning, and another file
				}
			}
			s.twins[o.st.id] = &twin{st: o.st, of: f, copy: true, seen: s.scans}
			f.seen = s.scans
			o.close()
			return true
		}
	}
	return false
}

// takeNew takes a file that nobody has read.
func (c *Collector) takeNew(s *source, o *opened) {
	f := c.newFile(s, o, rand.Uint64())
	f.head = newHead(o.begin)
	f.saved = f.mark()
}

// forget drops what the directory no longer has.
func (c *Collector) forget(s *source) {
	now := time.Now()
	for _, f := range slices.Clone(s.files) {
		if f.seen == s.scans {
			f.missing = time.Time{}
			continue
		}
		if f.missing.IsZero() {
			f.missing = now
		}
		if f.fd < 0 && now.Sub(f.missing) >= missingTime {
			s.drop(f)
		}
	}
	for id, t := range s.twins {
		if t.seen != s.scans {
			delete(s.twins, id)
		}
	}
	s.orphans = slices.DeleteFunc(s.orphans, func(o *orphan) bool {
		if o.missing.IsZero() {
			o.missing = now
		}
		return now.Sub(o.missing) >= missingTime
	})
}
