package spill

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The position file says, in text, where the first frame lies that is not done,
// and which batches of the frames from there on are:
//
//	nodetap spill position 1: segment 7 offset 4711
//	frame 7 4711 30 05      segment, offset, records done, batches done (bits)
//	sum 1b2c3d4e            CRC32C of the lines before
//
// partial is what is done of a frame.
type partial struct {
	records int
	slots   []byte // bit i%8 of byte i/8: batch i
}

const (
	positionLine = "nodetap spill position 1: segment %d offset %d"
	frameLine    = "frame %d %d %d %s"
	sumLine      = "sum %08x\n"
	maxPosition  = 4 << 20
)

func (l *Log) positionPath() string { return filepath.Join(l.o.Dir, "position") }

// readPosition fills l.before and returns where to begin: at zero, which reads
// all there is, when the file cannot be read.
func (l *Log) readPosition() cursor {
	b, err := os.ReadFile(l.positionPath())
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			l.o.Logger.Warn("cannot read the position in the spill: all of it is sent again", "error", err)
		}
		return cursor{}
	}
	at, partials, ok := parsePosition(b)
	if !ok {
		l.o.Logger.Warn("the position in the spill is damaged: all of it is sent again", "path", l.positionPath())
		return cursor{}
	}
	l.saved, l.before = b, partials
	return at
}

// addTo adds what is done of the frame, if anything. Locked.
func (f *Frame) addTo(partials map[cursor]partial) {
	p := partial{slots: make([]byte, (len(f.slots)+7)/8)}
	for i, s := range f.slots {
		if s.done {
			p.records += s.records
			p.slots[i/8] |= 1 << (i % 8)
		}
	}
	if p.records > 0 {
		partials[f.from] = p
	}
}

func formatPosition(at cursor, partials map[cursor]partial) []byte {
	b := fmt.Appendf(nil, positionLine+"\n", at.seg, at.off)
	order := slices.SortedFunc(maps.Keys(partials), func(a, b cursor) int {
		return cmp.Or(cmp.Compare(a.seg, b.seg), cmp.Compare(a.off, b.off))
	})
	for _, c := range order {
		p := partials[c]
		b = fmt.Appendf(b, frameLine+"\n", c.seg, c.off, p.records, hex.EncodeToString(p.slots))
	}
	return fmt.Appendf(b, sumLine, crc32.Checksum(b, castagnoli))
}

func parsePosition(b []byte) (cursor, map[cursor]partial, bool) {
	var at cursor
	end := bytes.LastIndex(b, []byte("sum "))
	if len(b) > maxPosition || end < 0 || string(b[end:]) != fmt.Sprintf(sumLine, crc32.Checksum(b[:end], castagnoli)) {
		return at, nil, false
	}
	lines := strings.Split(strings.TrimSuffix(string(b[:end]), "\n"), "\n")
	if _, err := fmt.Sscanf(lines[0], positionLine, &at.seg, &at.off); err != nil || !at.valid() {
		return cursor{}, nil, false
	}
	partials := map[cursor]partial{}
	for _, line := range lines[1:] {
		var c cursor
		var p partial
		var bits string
		if _, err := fmt.Sscanf(line, frameLine, &c.seg, &c.off, &p.records, &bits); err != nil || !c.valid() || p.records < 0 {
			return cursor{}, nil, false
		}
		var err error
		if p.slots, err = hex.DecodeString(bits); err != nil {
			return cursor{}, nil, false
		}
		partials[c] = p
	}
	return at, partials, true
}

func (c cursor) valid() bool { return c.off >= 0 && c.off < 1<<62 && c.seg < 1<<62 }

// Save writes down what is done, and removes what is done with. Call it at least
// every second while Dirty.
func (l *Log) Save() error {
	l.mu.Lock()
	if len(l.segs) == 0 {
		l.changed = false
		l.mu.Unlock()
		return nil
	}
	l.changed = l.busy // the last segment goes with the Save after this one
	at := l.at
	if len(l.open) > 0 {
		at = l.open[0].from
	}
	partials := maps.Clone(l.before) // what was done before and is not yet read stays so
	if partials == nil {
		partials = map[cursor]partial{}
	}
	for _, f := range l.open {
		f.addTo(partials)
	}
	for _, f := range l.skip {
		f.addTo(partials)
	}
	l.mu.Unlock()
	pos := formatPosition(at, partials)
	if !bytes.Equal(pos, l.saved) {
		if err := l.writePosition(pos); err != nil {
			l.mu.Lock()
			l.changed = true
			l.mu.Unlock()
			return fmt.Errorf("spill: save the position: %w", err)
		}
		l.saved = pos
	}
	l.reap(at)
	l.busy = false
	return nil
}

func (l *Log) writePosition(b []byte) error {
	tmp := l.positionPath() + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, l.positionPath())
}
