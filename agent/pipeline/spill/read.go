package spill

import (
	"errors"
	"hash/crc32"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"

	"nodetap/agent/telemetry"
)

// Next returns the oldest group of batches that was not returned before, io.EOF
// when there is none. The batches have no callbacks; the caller owns them. What
// is damaged is passed over.
func (l *Log) Next() ([]*telemetry.LogBatch, *Frame, error) {
	for {
		seg := l.seek()
		if seg == nil {
			return nil, nil, io.EOF
		}
		h, err := l.header(seg)
		if err != nil {
			l.giveUp(seg, err)
			continue
		}
		l.mu.Lock()
		if f := l.skip[l.at]; f != nil {
			delete(l.skip, l.at)
			l.open = append(l.open, f)
			l.at.off += h.size()
			l.advance()
			l.mu.Unlock()
			continue
		}
		l.mu.Unlock()
		batches, err := l.frame(h)
		f := newFrame(l, l.at, batches)
		earlier := l.before[l.at]
		delete(l.before, l.at)
		batches = f.without(batches, earlier)
		l.at.off += h.size()
		next := int64(0)
		if l.at.off < seg.size {
			if nh, err := l.header(seg); err == nil {
				next = nh.oldest
			}
		}
		l.mu.Lock()
		n := min(max(0, int(h.records)-earlier.records), seg.records)
		seg.records -= n
		seg.oldest = next
		l.stats.Records -= n
		l.changed = true
		if err == nil {
			l.open = append(l.open, f)
			l.advance()
			l.mu.Unlock()
			if len(batches) == 0 {
				continue
			}
			return batches, f, nil
		}
		l.damage(seg)
		l.mu.Unlock()
		l.o.Logger.Error("a spilled frame is damaged", "segment", seg.id, "offset", f.from.off, "records", n, "error", err)
		l.lost(n)
	}
}

// without takes out the batches that were done in an earlier process.
func (f *Frame) without(batches []*telemetry.LogBatch, earlier partial) []*telemetry.LogBatch {
	if earlier.records == 0 || len(earlier.slots) != (len(batches)+7)/8 {
		return batches
	}
	var rest []*telemetry.LogBatch
	f.index = f.index[:0]
	for i, b := range batches {
		if earlier.slots[i/8]&(1<<(i%8)) != 0 {
			f.slots[i].done = true
			f.left--
			continue
		}
		rest = append(rest, b)
		f.index = append(f.index, i)
	}
	return rest
}

// seek returns the segment of the next frame, nil if all is read.
func (l *Log) seek() *segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, s := range l.segs {
		if s.id < l.at.seg {
			continue
		}
		if s.id > l.at.seg {
			l.at = cursor{seg: s.id}
		}
		if l.at.off < s.size {
			return s
		}
		if i == len(l.segs)-1 {
			break
		}
	}
	return nil
}

func (l *Log) header(seg *segment) (header, error) {
	if l.r == nil || l.rid != l.at.seg {
		l.closeReader()
		f, err := os.Open(l.path(l.at.seg))
		if err != nil {
			return header{}, err
		}
		l.r, l.rid = f, l.at.seg
	}
	var b [headerLen]byte
	if _, err := l.r.ReadAt(b[:], l.at.off); err != nil {
		return header{}, err
	}
	h, ok := parseHeader(b[:])
	if !ok || l.at.off+h.size() > seg.size {
		return header{}, errors.New("damaged header")
	}
	return h, nil
}

// frame reads the content at the reader's place.
func (l *Log) frame(h header) ([]*telemetry.LogBatch, error) {
	packed := make([]byte, h.packed)
	if _, err := l.r.ReadAt(packed, l.at.off+headerLen); err != nil {
		return nil, err
	}
	if crc32.Checksum(packed, castagnoli) != h.sum {
		return nil, errors.New("checksum differs")
	}
	if l.dec == nil {
		var err error
		if l.dec, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxContent+1)); err != nil {
			return nil, err
		}
	}
	content, err := l.dec.DecodeAll(packed, make([]byte, 0, h.content))
	if err != nil {
		return nil, err
	}
	batches, err := decode(content, l.intern)
	if err != nil {
		return nil, err
	}
	n := 0
	for _, b := range batches {
		n += len(b.Records)
	}
	if n != int(h.records) {
		return nil, errContent
	}
	return batches, nil
}

// maxPool is how many Resources are kept to be shared.
const maxPool = 4096

func (l *Log) intern(b []byte) (*telemetry.Resource, error) {
	if res := l.pool[string(b)]; res != nil {
		return res, nil
	}
	r := &reader{b: b}
	res := r.resource()
	if r.bad || len(r.b) > 0 {
		return nil, errContent
	}
	if len(l.pool) >= maxPool {
		clear(l.pool)
	}
	l.pool[string(b)] = res
	return res, nil
}

// giveUp passes over the rest of a segment.
func (l *Log) giveUp(seg *segment, err error) {
	l.mu.Lock()
	n, from := seg.records, l.at.off
	seg.records, seg.oldest = 0, 0
	l.stats.Records -= n
	l.at.off = seg.size
	l.changed = true
	l.damage(seg)
	for c := range l.skip {
		if c.seg == seg.id {
			delete(l.skip, c)
		}
	}
	l.mu.Unlock()
	l.o.Logger.Error("the rest of a spill segment cannot be read", "segment", seg.id, "offset", from, "bytes", seg.size-from, "records", n, "error", err)
	l.lost(n)
}

// damage marks the segment to be kept aside. Locked.
func (l *Log) damage(seg *segment) {
	if !seg.damaged {
		seg.damaged = true
		l.stats.Damaged++
	}
}

func (l *Log) closeReader() {
	if l.r != nil {
		l.r.Close() //nolint:errcheck // only read from
		l.r = nil
	}
}
