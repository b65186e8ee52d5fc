package logs

import (
	"bytes"
	"time"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sys/unix"

	"nodetap/agent/telemetry"
)

const (
	headBytes = 1024 // of a file's beginning that identify it
	tailBytes = 64   // before the position, that tell whether it still is the same content
	// minHead is the least that tells one file from another by content alone: a
	// CRI time with some of the line.
	minHead = 32
)

// streams counts the values of telemetry.Stream that container logs have.
const streams = int(telemetry.Stderr) + 1

// head identifies a file by its first bytes: at most headBytes, as many as it
// had when it was last read.
type head struct {
	n    int
	hash uint64
}

func newHead(b []byte) head {
	b = b[:min(len(b), headBytes)]
	return head{len(b), xxhash.Sum64(b)}
}

// beginsWith tells whether a file that begins with b may be the one that h was
// taken of.
func (h head) beginsWith(b []byte) bool {
	return len(b) >= h.n && xxhash.Sum64(b[:h.n]) == h.hash
}

// tail is the bytes before a position.
type tail struct {
	n int
	b [tailBytes]byte
}

func (t *tail) bytes() []byte { return t.b[:t.n] }

func (t *tail) hash() uint64 { return xxhash.Sum64(t.bytes()) }

// push moves the position over b.
func (t *tail) push(b []byte) {
	if len(b) >= tailBytes {
		t.n = copy(t.b[:], b[len(b)-tailBytes:])
		return
	}
	keep := min(t.n, tailBytes-len(b))
	copy(t.b[:], t.b[t.n-keep:t.n])
	t.n = keep + copy(t.b[keep:], b)
}

// mark is how far a file has been dealt with: what the checkpoint keeps of it.
type mark struct {
	id         fileID
	generation uint32
	head       head
	off        int64          // everything before it is delivered, but for
	pend       [streams]int64 // the line of the stream that begins here and is not finished; -1 none
	tailLen    int
	tailHash   uint64
}

// atBegin tells whether nothing of the file was dealt with.
func (m *mark) atBegin() bool { return m.off == 0 && m.pend == noPend }

// file is one log file of a source: written to, rotated or compressed. All
// fields belong to the source's mutex, saved to its tracker's.
type file struct {
	uid  uint64 // names it in the checkpoint
	id   fileID
	base string // its name when it was last seen
	name fileName
	seen uint64 // the scan that saw it last, under this name or as a twin

	missing time.Time // since no scan did

	fd int       // -1 when closed
	gz *gzReader // set on a compressed file; then owns fd
	st stat      // when it was last looked at

	generation uint32
	head       head
	past       *past // before it was truncated in place

	off  int64          // where the next line begins
	skip int64          // lines before it were delivered already; only parts of unfinished lines are taken
	pend [streams]int64 // where an unfinished line begins; -1 none
	tail tail           // before off
	eof  int64          // no line ends between off and here

	long     bool // a line longer than any buffer begins at off, its end is not before eof
	longTail tail // before eof, while long

	dirty bool // changed since the last snapshot
	from  mark // what resume was given
	saved mark // acknowledged
	noted mark // of saved, in the journal
}

// past is what a file was before it was truncated in place: a copy may hold
// what had not been read.
type past struct {
	generation uint32
	head       head
	off        int64
	tail       tail
}

// generationOf tells contents apart by how the first line begins, which for
// container logs is its time. It is a part of every record's id, so it must not
// depend on what the agent happened to see.
func generationOf(begin []byte) uint32 {
	begin = begin[:min(len(begin), tailBytes)]
	if i := bytes.IndexByte(begin, '\n'); i >= 0 {
		begin = begin[:i]
	}
	return uint32(xxhash.Sum64(begin))
}

func newFile(uid uint64, name fileName, base string) *file {
	f := &file{uid: uid, name: name, base: base, fd: -1}
	f.pend = noPend
	f.saved.pend = noPend
	return f
}

var noPend = func() (p [streams]int64) {
	for i := range p {
		p[i] = -1
	}
	return p
}()

// resume continues where a mark says.
func (f *file) resume(m mark, t tail) {
	f.generation, f.head, f.pend, f.tail = m.generation, m.head, m.pend, t
	f.off, f.skip, f.eof = m.off, 0, m.off
	for _, p := range m.pend {
		if p >= 0 && p < f.off {
			f.off, f.eof, f.skip = p, p, m.off
		}
	}
	if f.skip > 0 {
		f.tail = tail{} // it lies before skip, not before off
	}
	f.from, f.saved = m, m
}

// mark returns the state as of now.
func (f *file) mark() mark {
	if f.off < f.skip {
		return f.from
	}
	return mark{
		id: f.id, generation: f.generation, head: f.head,
		off: f.off, pend: f.pend,
		tailLen: f.tail.n, tailHash: f.tail.hash(),
	}
}

// restart begins anew after the file was truncated in place. Parts of lines
// that were already taken are kept: their container goes on with them.
func (f *file) restart() {
	f.past = &past{f.generation, f.head, f.off, f.tail}
	f.head, f.tail = head{}, tail{}
	f.off, f.skip, f.eof, f.long = 0, 0, 0, false
	f.pend = noPend
	f.dirty = true
}

func (f *file) closeFile() {
	if f.gz != nil {
		f.gz.close()
		f.gz = nil
	}
	if f.fd >= 0 {
		_ = unix.Close(f.fd)
		f.fd = -1
	}
}

// readHead returns up to headBytes of the beginning of an open file.
func readHead(fd int) ([]byte, error) {
	b := make([]byte, headBytes)
	n, err := pread(fd, b, 0)
	return b[:n], err
}

// matches tells whether the open file of this size is the one that m was taken
// of, and returns what stands before its position.
func (m *mark) matches(fd int, size int64, begin []byte) (t tail, ok bool) {
	if size < m.off || !m.head.beginsWith(begin) {
		return t, false
	}
	return m.tailOf(fd)
}

func (m *mark) tailOf(fd int) (t tail, ok bool) {
	n := int64(m.tailLen)
	if n > min(m.off, tailBytes) {
		return t, false
	}
	k, err := pread(fd, t.b[:n], m.off-n)
	if err != nil || int64(k) != n {
		return t, false
	}
	t.n = k
	return t, t.hash() == m.tailHash
}
