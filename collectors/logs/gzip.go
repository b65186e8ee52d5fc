package logs

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
)

// gzReader reads a compressed log by uncompressed offsets. Going forward is
// cheap; going back begins anew, but for what was handed back by keep.
type gzReader struct {
	fd   int   // not owned
	size int64 // uncompressed, modulo 4 GiB: what the trailer says
	src  fdReader
	buf  *bufio.Reader
	z    *gzip.Reader
	pos  int64  // of the next byte that z gives
	back []byte // the bytes before pos that keep held
	end  bool   // z gave io.EOF

	resuming bool   // its position was not reached yet
	first    []byte // the beginning of a line longer than the buffer
	broken   error  // why the content ended early
}

// fdReader reads a descriptor from off on without moving its own position.
type fdReader struct {
	fd  int
	off int64
}

func (r *fdReader) Read(b []byte) (int, error) {
	n, err := pread(r.fd, b, r.off)
	r.off += int64(n)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

var (
	gzPool  = sync.Pool{New: func() any { return new(gzip.Reader) }}
	bufPool = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 16<<10) }}
)

func newGzReader(fd int, fileSize int64) (*gzReader, error) {
	g := &gzReader{fd: fd}
	var trailer [4]byte
	if fileSize >= 18 {
		if n, err := pread(fd, trailer[:], fileSize-4); err == nil && n == 4 {
			g.size = int64(binary.LittleEndian.Uint32(trailer[:]))
		}
	}
	if err := g.rewind(); err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

func (g *gzReader) rewind() error {
	if g.z == nil {
		g.z = gzPool.Get().(*gzip.Reader)
		g.buf = bufPool.Get().(*bufio.Reader)
	}
	g.src = fdReader{fd: g.fd}
	g.buf.Reset(&g.src)
	g.pos, g.back, g.end, g.broken = 0, g.back[:0], false, nil
	if err := g.z.Reset(g.buf); err != nil {
		return fmt.Errorf("open gzip: %w", err)
	}
	return nil
}

// close gives the decompressor back. The descriptor stays open.
func (g *gzReader) close() {
	if g.z != nil {
		g.buf.Reset(nil)
		bufPool.Put(g.buf)
		gzPool.Put(g.z)
		g.z, g.buf = nil, nil
	}
}

// readAt fills b from the uncompressed offset off as far as the content
// reaches. What it has to skip is not bounded: call skipTo first.
func (g *gzReader) readAt(b []byte, off int64) (n int, err error) {
	if off < g.pos-int64(len(g.back)) {
		if err := g.rewind(); err != nil {
			return 0, err
		}
	}
	if off < g.pos {
		n = copy(b, g.back[int64(len(g.back))-(g.pos-off):])
		if n == len(b) {
			return n, nil
		}
	} else if off > g.pos {
		if done, err := g.skipTo(off, 1<<62); err != nil || !done {
			return 0, err
		}
	}
	g.back = g.back[:0]
	for n < len(b) && !g.end {
		m, err := g.z.Read(b[n:])
		n += m
		g.pos += int64(m)
		if errors.Is(err, io.EOF) {
			g.end = true
		} else if err != nil {
			// nothing can be read behind the damage, but what came before counts
			g.end, g.broken = true, fmt.Errorf("read gzip: %w", err)
		}
	}
	return n, nil
}

// keep holds b, the last bytes that readAt gave, for the next one.
func (g *gzReader) keep(b []byte) { g.back = append(g.back[:0], b...) }

// skipTo decompresses up to limit bytes on the way to off and tells whether it
// has come there. It is false without an error also when the content ends
// before.
func (g *gzReader) skipTo(off, limit int64) (done bool, err error) {
	if g.pos < off {
		g.back = g.back[:0]
		n, err := io.CopyN(io.Discard, g.z, min(off-g.pos, limit))
		g.pos += n
		if errors.Is(err, io.EOF) {
			g.end = true
			return g.pos >= off, nil
		}
		if err != nil {
			g.end, g.broken = true, fmt.Errorf("skip gzip: %w", err)
		}
	}
	return g.pos >= off, nil
}
