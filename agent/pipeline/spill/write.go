package spill

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"

	"github.com/klauspost/compress/zstd"

	"nodetap/agent/telemetry"
)

// pending is a frame that is written and not committed.
type pending struct {
	h      header
	at     cursor
	loaded *Frame
}

// Append writes the batches as one frame, and keeps no reference to them. They
// are not safe before Commit. An error takes back all that was appended since
// the last Commit.
func (l *Log) Append(batches []*telemetry.LogBatch) error {
	_, err := l.append(batches, false)
	return err
}

// AppendLoaded is Append for batches that are being delivered already: Next
// passes over them. They come out only after a restart, unless Done.
func (l *Log) AppendLoaded(batches []*telemetry.LogBatch) (*Frame, error) {
	return l.append(batches, true)
}

func (l *Log) append(batches []*telemetry.LogBatch, loaded bool) (*Frame, error) {
	h, err := l.pack(batches)
	if err == nil {
		err = l.write(h)
	}
	if err != nil {
		l.rollback(false)
		return nil, err
	}
	p := pending{h: h, at: cursor{l.segs[len(l.segs)-1].id, l.size}}
	if loaded {
		p.loaded = newFrame(l, p.at, batches)
	}
	l.pending = append(l.pending, p)
	l.size += h.size()
	l.busy = true
	return p.loaded, nil
}

// pack makes a frame of the batches in l.packed.
func (l *Log) pack(batches []*telemetry.LogBatch) (header, error) {
	var h header
	size := 0
	for _, b := range batches {
		size += b.Bytes()
		h.records += uint32(len(b.Records))
		for i := range b.Records {
			if o := b.Records[i].Observed; o > 0 && (h.oldest == 0 || o < h.oldest) {
				h.oldest = o
			}
		}
	}
	if size > maxContent {
		return h, ErrTooLarge
	}
	if l.content = encode(l.content[:0], batches); len(l.content) > maxContent {
		return h, ErrTooLarge
	}
	if l.enc == nil {
		var err error
		l.enc, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(512<<10), zstd.WithEncoderCRC(false))
		if err != nil {
			return h, fmt.Errorf("spill: %w", err)
		}
	}
	var room [headerLen]byte
	l.packed = l.enc.EncodeAll(l.content, append(l.packed[:0], room[:]...))
	h.packed, h.content = uint32(len(l.packed)-headerLen), uint32(len(l.content))
	h.sum = crc32.Checksum(l.packed[headerLen:], castagnoli)
	h.appendTo(l.packed[:0])
	return h, nil
}

// write puts l.packed at the end of the last segment.
func (l *Log) write(h header) error {
	if l.w == nil || len(l.pending) == 0 && l.size >= l.o.SegmentBytes {
		if err := l.begin(); err != nil {
			return err
		}
	}
	if err := l.checkFree(); err != nil {
		return err
	}
	total := h.size()
	for _, p := range l.pending {
		total += p.h.size()
	}
	l.mu.Lock()
	full := total+l.stats.Bytes > l.o.MaxBytes
	l.mu.Unlock()
	if full {
		return ErrFull
	}
	_, err := l.w.WriteAt(l.packed, l.size)
	return err
}

// begin makes a new segment the last one.
func (l *Log) begin() error {
	if err := os.MkdirAll(l.o.Dir, 0o700); err != nil {
		return fmt.Errorf("spill: %w", err)
	}
	if err := l.checkFree(); err != nil {
		return err
	}
	f, err := os.OpenFile(l.path(l.nextID), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("spill: %w", err)
	}
	if err := syncDir(l.o.Dir); err != nil {
		return errors.Join(fmt.Errorf("spill: %w", err), f.Close(), os.Remove(f.Name()))
	}
	l.closeWriter()
	l.w, l.size = f, 0
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segs = append(l.segs, &segment{id: l.nextID})
	if len(l.segs) == 1 {
		l.at = cursor{seg: l.nextID}
	}
	l.nextID++
	return nil
}

func (l *Log) closeWriter() {
	if l.w != nil {
		if err := l.w.Close(); err != nil {
			l.o.Logger.Warn("cannot close a spill segment", "error", err)
		}
		l.w = nil
	}
}

// rollback cuts off what is not committed.
func (l *Log) rollback(distrust bool) {
	l.pending = l.pending[:0]
	if l.w == nil {
		return
	}
	l.size = l.segs[len(l.segs)-1].size
	if err := l.w.Truncate(l.size); err != nil || distrust {
		// what lies behind is not read in this process; the next segment takes over
		l.closeWriter()
	}
}

// Commit makes what was appended safe. After an error none of it counts as
// written.
func (l *Log) Commit() error {
	if len(l.pending) == 0 {
		return nil
	}
	if err := l.w.Sync(); err != nil {
		// the kernel may have thrown away the dirty pages and tells it once
		l.rollback(true)
		return fmt.Errorf("spill: %w", err)
	}
	l.mu.Lock()
	seg := l.segs[len(l.segs)-1]
	for _, p := range l.pending {
		l.stats.Bytes += p.h.size()
		if p.loaded != nil {
			l.skip[p.at] = p.loaded
			continue
		}
		if seg.records == 0 {
			seg.oldest = p.h.oldest
		}
		seg.records += int(p.h.records)
		l.stats.Records += int(p.h.records)
	}
	seg.size = l.size
	l.mu.Unlock()
	l.pending = l.pending[:0]
	return nil
}
