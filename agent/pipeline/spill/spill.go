// Package spill keeps log batches of one exporter on disk: a queue of segment
// files that survives restarts and kill -9.
//
// It does not decide what is spilled and when (package pipeline does), and it
// knows nothing of retries.
//
// Invariants:
//
//   - What Commit returned nil for is on disk (fsync of the file, and of the
//     directory for a new one) and comes out of Next until it is Done,
//     also in another process, in the order in which it was appended. What was
//     done less than a second before a crash may come again.
//   - Nothing that is read back is trusted: frames carry their length and CRC32C.
//     A torn tail is cut off, a frame whose content is damaged is passed over and
//     counted, a segment whose headers are damaged is given up from there on. The
//     file of a damaged segment is kept as .bad (the last two of them). No damage
//     is ever fatal.
//   - The files take at most MaxBytes, and nothing is written while less than
//     MinFreePercent of the file system is free.
//
// One goroutine at a time may call Append, Commit, Next, Save and Close. Done and
// Stats may be called by any.
package spill

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"nodetap/agent/telemetry"
)

var (
	// ErrFull: MaxBytes is reached.
	ErrFull = errors.New("spill: full")
	// ErrNoSpace: the file system has less free space than MinFreePercent.
	ErrNoSpace = errors.New("spill: too little free space")
	// ErrTooLarge: a batch that no frame can hold.
	ErrTooLarge = errors.New("spill: batch too large")
)

// Options are what a Log is made of.
type Options struct {
	Dir            string // created with the first Append
	MaxBytes       int64  // of all segments; must be positive
	SegmentBytes   int64  // when the next segment begins; 0: 8 MiB
	MinFreePercent int    // 0: no floor
	Logger         *slog.Logger
	// OnLost is told how many records were damaged and will not come out. May be
	// nil.
	OnLost func(records int)
}

// Log is the queue. Make one with Open.
type Log struct {
	o   Options
	enc *zstd.Encoder
	dec *zstd.Decoder
	// content and packed are kept between frames while there are any
	content, packed []byte
	pool            map[string]*telemetry.Resource // by their bytes, so that a container has one

	w       *os.File // the last segment, while it is written; nil: none
	size    int64    // of w, with what is not committed
	pending []pending
	busy    bool // written to since the last Save
	nextID  uint64

	r       *os.File // the segment that is read; nil: none
	rid     uint64
	at      cursor             // the next frame
	saved   []byte             // the position file
	before  map[cursor]partial // done in an earlier process
	bad     []string
	freeAt  time.Time
	freeErr error

	mu      sync.Mutex
	segs    []*segment        // oldest first
	skip    map[cursor]*Frame // appended as loaded, and not yet passed over
	open    []*Frame          // read and not done, oldest first
	stats   Stats
	changed bool // the position moved since the last Save
}

// cursor is a place in the log.
type cursor struct {
	seg uint64
	off int64
}

type segment struct {
	id      uint64
	size    int64 // committed
	records int   // in frames that were not read
	oldest  int64 // unix nanoseconds, of its first frame that was not read
	damaged bool
}

// Stats is the state of a Log.
type Stats struct {
	Bytes   int64 // on disk
	Records int   // that Next will still return
	Oldest  int64 // unix nanoseconds of the oldest of them; 0 for none
	Damaged int   // segments with a damaged frame, since Open
}

// Frame is a group of batches on disk.
type Frame struct {
	l     *Log
	from  cursor
	slots []slot // of all its batches
	index []int  // slot of each batch that Next returned
	left  int    // slots that are not done
}

// slot is one batch of a frame.
type slot struct {
	records int
	done    bool
}

func newFrame(l *Log, at cursor, batches []*telemetry.LogBatch) *Frame {
	f := &Frame{l: l, from: at, left: len(batches), slots: make([]slot, len(batches)), index: make([]int, len(batches))}
	for i, b := range batches {
		f.slots[i].records, f.index[i] = len(b.Records), i
	}
	return f
}

// Done tells that the i-th batch, as Next returned them or AppendLoaded took
// them, is delivered or given up, and need not come out again.
func (f *Frame) Done(i int) {
	f.l.mu.Lock()
	defer f.l.mu.Unlock()
	if s := &f.slots[f.index[i]]; !s.done {
		s.done = true
		f.left--
		f.l.changed = true
		f.l.advance()
	}
}

// advance forgets the frames that are done, as far as none before them is open.
// Locked.
func (l *Log) advance() {
	n := 0
	for n < len(l.open) && l.open[n].left == 0 {
		n++
	}
	if n > 0 {
		l.changed = true
		l.open = append(l.open[:0], l.open[n:]...)
	}
}

// Unread tells whether Next has something to do.
func (l *Log) Unread() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats.Records > 0 || len(l.skip) > 0
}

// Dirty tells whether Save has something to do.
func (l *Log) Dirty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// Stats returns the state. It does not touch the disk.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	for _, seg := range l.segs {
		if seg.records > 0 && seg.oldest > 0 {
			s.Oldest = seg.oldest
			break
		}
	}
	return s
}

func (l *Log) path(id uint64) string { return filepath.Join(l.o.Dir, fmt.Sprintf("%016x.seg", id)) }

func (l *Log) lost(records int) {
	if records > 0 && l.o.OnLost != nil {
		l.o.OnLost(records)
	}
}

// checkFree looks once a second whether the file system has room.
func (l *Log) checkFree() error {
	if l.o.MinFreePercent == 0 {
		return nil
	}
	if now := time.Now(); now.Sub(l.freeAt) >= time.Second {
		l.freeAt = now
		var st unix.Statfs_t
		switch err := unix.Statfs(l.o.Dir, &st); {
		case err != nil:
			l.freeErr = fmt.Errorf("free space of %s: %w", l.o.Dir, err)
		case st.Bavail*100 < st.Blocks*uint64(l.o.MinFreePercent):
			l.freeErr = ErrNoSpace
		default:
			l.freeErr = nil
		}
	}
	return l.freeErr
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Limit changes MaxBytes. What is on disk stays.
func (l *Log) Limit(bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.o.MaxBytes = bytes
}
