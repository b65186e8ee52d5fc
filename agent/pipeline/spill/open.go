package spill

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"nodetap/agent/telemetry"
)

// keepBad is how many damaged segments are kept for a person to look at.
const keepBad = 2

// Open reads what is in the directory, which need not exist. Only a directory
// that cannot be read is an error.
func Open(o Options) (*Log, error) {
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 8 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Log{o: o, nextID: 1, skip: map[cursor]*Frame{}, pool: map[string]*telemetry.Resource{}}
	entries, err := os.ReadDir(o.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("spill: %w", err)
	}
	saved := l.readPosition()
	l.nextID = max(l.nextID, saved.seg+1)
	var ids []uint64
	for _, e := range entries {
		name, isSeg := strings.CutSuffix(e.Name(), ".seg")
		id, err := strconv.ParseUint(name, 16, 63)
		switch {
		case strings.HasSuffix(e.Name(), ".bad"):
			l.bad = append(l.bad, filepath.Join(o.Dir, e.Name()))
		case !isSeg || err != nil || !e.Type().IsRegular():
		case id < saved.seg:
			l.remove(l.path(id))
		default:
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	for i, id := range ids {
		from := int64(0)
		if id == saved.seg {
			from = saved.off
		}
		seg, from := l.scan(id, from, i == len(ids)-1)
		for c, p := range l.before {
			if c.seg == id && c.off >= from && c.off < seg.size {
				seg.records = max(0, seg.records-p.records)
			}
		}
		l.segs = append(l.segs, seg)
		l.stats.Bytes += seg.size
		l.stats.Records += seg.records
		if i == 0 {
			l.at = cursor{id, from}
		}
		l.nextID = max(l.nextID, id+1)
	}
	return l, nil
}

// scan reads the headers of a segment from an offset on. It returns the offset
// where reading begins, which is 0 if nothing begins at the one that was given.
// The end of the last segment may be torn: it is cut off.
func (l *Log) scan(id uint64, from int64, last bool) (*segment, int64) {
	seg := &segment{id: id}
	f, err := os.OpenFile(l.path(id), os.O_RDWR, 0)
	if err != nil {
		l.o.Logger.Error("cannot open a spill segment", "path", l.path(id), "error", err)
		l.damage(seg)
		return seg, 0
	}
	defer f.Close() //nolint:errcheck // Truncate reports
	st, err := f.Stat()
	if err != nil {
		l.damage(seg)
		return seg, 0
	}
	end := st.Size()
	if from > 0 && from != end && !headerAt(f, from, end) {
		l.o.Logger.Warn("no frame begins at the saved position: the segment is read from its start", "segment", id, "offset", from)
		from = 0
	}
	off := from
	good := from // behind the last frame that is whole
	var b [headerLen]byte
	goodRecords := 0
	for off < end {
		if _, err := f.ReadAt(b[:], off); err != nil {
			break
		}
		h, ok := parseHeader(b[:])
		if !ok || off+h.size() > end {
			break
		}
		if seg.records == 0 {
			seg.oldest = h.oldest
		}
		seg.records += int(h.records)
		off += h.size()
		if !last || whole(f, off-int64(h.packed), h) {
			good, goodRecords = off, seg.records
		}
	}
	if good == end {
		seg.size = end
		return seg, from
	}
	seg.records, seg.size = goodRecords, good
	if last {
		l.o.Logger.Warn("cut off the torn end of a spill segment", "segment", id, "bytes", end-good)
		if err := f.Truncate(good); err != nil {
			l.o.Logger.Warn("cannot cut off the torn end of a spill segment", "error", err)
		}
		return seg, from
	}
	l.o.Logger.Error("the rest of a spill segment cannot be read", "segment", id, "offset", good, "bytes", end-good)
	l.damage(seg)
	return seg, from
}

func headerAt(f *os.File, off, end int64) bool {
	var b [headerLen]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		return false
	}
	h, ok := parseHeader(b[:])
	return ok && off+h.size() <= end
}

// whole tells whether the content at off has its checksum.
func whole(f *os.File, off int64, h header) bool {
	sum := crc32.New(castagnoli)
	n, err := io.Copy(sum, io.NewSectionReader(f, off, int64(h.packed)))
	return err == nil && n == int64(h.packed) && sum.Sum32() == h.sum
}

// reap removes the segments before a position, and the last one too when all of
// it is done and nothing was written lately.
func (l *Log) reap(pos cursor) {
	l.mu.Lock()
	var gone []*segment
	for len(l.segs) > 0 {
		s := l.segs[0]
		isLast := len(l.segs) == 1
		ended := s.id < pos.seg || s.id == pos.seg && pos.off >= s.size && len(l.open) == 0
		if !ended || isLast && (l.busy || len(l.pending) > 0) {
			break
		}
		gone = append(gone, s)
		l.stats.Bytes -= s.size
		l.segs = l.segs[1:]
		if isLast {
			l.changed = false
		}
	}
	empty := len(l.segs) == 0
	l.mu.Unlock()
	for _, s := range gone {
		if l.r != nil && l.rid == s.id {
			l.closeReader()
		}
		if s.damaged {
			l.setAside(l.path(s.id))
		} else {
			l.remove(l.path(s.id))
		}
	}
	if empty && len(gone) > 0 {
		l.closeWriter()
		l.enc, l.dec, l.content, l.packed = nil, nil, nil, nil
		clear(l.pool)
	}
}

func (l *Log) remove(path string) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.o.Logger.Warn("cannot remove a spill file", "path", path, "error", err)
	}
}

func (l *Log) setAside(path string) {
	bad := strings.TrimSuffix(path, ".seg") + ".bad"
	if err := os.Rename(path, bad); err != nil {
		l.o.Logger.Warn("cannot set a damaged spill segment aside", "path", path, "error", err)
		l.remove(path)
		return
	}
	l.bad = append(l.bad, bad)
	for len(l.bad) > keepBad {
		l.remove(l.bad[0])
		l.bad = l.bad[1:]
	}
}

// Close saves the position and closes the files.
func (l *Log) Close() error {
	err := l.Save()
	l.closeReader()
	l.closeWriter()
	return err
}
