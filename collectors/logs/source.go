package logs

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"nodetap/agent/telemetry"
)

// sourceKey names the log of one start of one container.
type sourceKey struct {
	dir     string // <namespace>_<pod>_<uid>/<container>
	restart int
}

// source is the log of one start of one container: the file that is written to
// and its rotated siblings. One worker at a time reads it.
type source struct {
	key       sourceKey
	pod       podName
	container string
	path      string // of the file that is written to, as the node names it
	created   time.Time

	// the scheduler's
	state schedState
	timer int
	due   time.Duration // since the scheduler began

	acks tracker

	// read lets one worker, or the poller, at the files' content. It is taken
	// before mu, and held while a batch is sent.
	mu      sync.Mutex
	files   []*file // oldest first
	byID    map[fileID]*file
	twins   map[fileID]*twin
	orphans []*orphan // of the checkpoint, whose file has not been seen
	scans   uint64
	removed bool // its directory is gone

	part [streams]part

	batch   *telemetry.LogBatch
	buf     *buffer
	from    *file     // the batch is of it
	started time.Time // of the batch
	last    time.Time // when something was last read

	resource *telemetry.Resource
	version  uint64
	settled  bool // the resource is known, or was waited for
	excluded bool

	deficit int
	pause   time.Duration // until the next poll
	gate    time.Time     // since when a rotated file holds up its successor
}

// part is a line that is not finished.
type part struct {
	active bool
	cut    bool // bytes were left out
	time   int64
	buf    []byte
}

// twin is a file that needs no reading: it holds what another one does.
type twin struct {
	st   stat
	of   *file
	copy bool // as copytruncate makes, not a compressed one
	seen uint64
	// young: it has less than what would tell whose copy it is, and is being
	// written
	young bool
}

// orphan is a file of the checkpoint that has not been found yet.
type orphan struct {
	uid     uint64
	base    string
	m       mark
	missing time.Time // since a scan did not find it
}

// sort puts the files in the order in which they were written.
func (s *source) sort() {
	slices.SortStableFunc(s.files, func(a, b *file) int {
		switch {
		case a.name.older(b.name):
			return -1
		case b.name.older(a.name):
			return 1
		}
		return 0
	})
}

// add takes a file in behind those that are as old.
func (s *source) add(f *file) {
	s.files = append(s.files, f)
	s.byID[f.id] = f
	s.gate = time.Time{}
	s.sort()
}

// drop forgets a file. Its marks still move for as long as batches point to it.
func (s *source) drop(f *file) {
	f.closeFile()
	if i := slices.Index(s.files, f); i >= 0 {
		s.files = slices.Delete(s.files, i, i+1)
	}
	if s.byID[f.id] == f {
		delete(s.byID, f.id)
	}
}

// newest tells whether no younger file of the source is known.
func (s *source) newest(f *file) bool { return s.files[len(s.files)-1] == f }

// snapshot collects the marks of what changed since the last one.
func (s *source) snapshot() []snap {
	var snaps []snap
	for _, f := range s.files {
		if f.dirty {
			f.dirty = false
			snaps = append(snaps, snap{f, f.mark()})
		}
	}
	return snaps
}

// moved appends what was acknowledged and is not in the journal.
func (s *source) moved(dst []entry) []entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acks.mu.Lock()
	defer s.acks.mu.Unlock()
	for _, f := range s.files {
		if f.saved != f.noted {
			f.noted = f.saved
			dst = append(dst, entry{uid: f.uid, dir: s.key.dir, base: f.base, mark: f.saved})
		}
	}
	return dst
}

// entries appends what the checkpoint keeps of the source.
func (s *source) entries(dst []entry) []entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acks.mu.Lock()
	defer s.acks.mu.Unlock()
	for _, f := range s.files {
		if f.saved.atBegin() {
			continue // as good as not there
		}
		dst = append(dst, entry{uid: f.uid, dir: s.key.dir, base: f.base, mark: f.saved})
	}
	for _, o := range s.orphans {
		dst = append(dst, entry{uid: o.uid, dir: s.key.dir, base: o.base, mark: o.m})
	}
	return dst
}

// lag returns the bytes that wait to be read.
func (s *source) lag() (n int64, open int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.files {
		if f.fd < 0 {
			continue
		}
		open++
		if f.gz != nil {
			n += max(0, f.gz.size-f.off)
		} else if st, err := fstat(f.fd); err == nil {
			n += max(0, st.size-f.off)
		}
	}
	return n, open
}

func compareEntries(a, b entry) int {
	return cmp.Or(cmp.Compare(a.dir, b.dir), cmp.Compare(a.base, b.base), cmp.Compare(a.uid, b.uid))
}
