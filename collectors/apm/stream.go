package apm

import "bytes"

// framing is where a stream is within its messages.
type framing uint8

const (
	// lost: not in step. The next system call whose data begins as a message
	// does begins one.
	lost    framing = iota
	between         // a message may begin
	inHead          // its head is incomplete
	inLength
	inChunked
	inUnknown // a body whose end only the tail, the other direction or the close tells
	untilClose
)

const maxHead = 16 << 10 // bytes of a head that are kept waiting for its end

// stream is one direction of a connection: it cuts the bytes that were captured,
// and the counts of those that were not, into messages. It knows where it is in
// the TCP stream, so lost data is a gap and data sent again an overlap.
type stream struct {
	state  framing
	synced bool   // next is valid
	next   uint32 // sequence number of the next byte

	buf    []byte // inHead: the head so far
	remain int64  // inLength, and chunk data: bytes to come
	chunk  chunkState
	digits int   // of the chunk size
	line   int   // length of the trailer line so far
	body   int64 // bytes of the current body seen
}

type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkExt
	chunkData
	chunkDataEnd
	chunkTrailer
)

// sink is what a stream tells: the conn.
type sink interface {
	// head is a message's head; the answer says how its body is framed, and the
	// length where that is inLength.
	head(dir int, h *head) (framing, int64)
	// end is the end of a message that head began.
	end(dir int)
	// gap says that messages may have been missed in what lies before seq.
	gap(dir int, seq uint32)
	// bad is a message that is none.
	bad(dir int)
}

// feed takes data that was captured, in order.
func (s *stream) feed(dir int, data []byte, start bool, to sink) {
	if s.state == lost {
		if !start {
			to.gap(dir, s.next)
			return
		}
		s.state, s.buf = between, s.buf[:0]
	} else if start && s.state == inUnknown {
		// A message may begin in the middle of one whose end is not known, but
		// its bytes may look so by chance: only a whole first line ends it.
		var h head
		if line, _, ok := cutLine(data); ok && h.startLine(line) == nil {
			s.finish(dir, to)
		}
	}
	for len(data) > 0 {
		switch s.state {
		case lost: // since a head in the same call
			to.gap(dir, s.next)
			return
		case between:
			i := 0
			for i < len(data) && (data[i] == '\r' || data[i] == '\n') {
				i++
			}
			data = data[i:]
			if len(data) > 0 {
				s.state, s.buf = inHead, s.buf[:0]
			}
		case inHead:
			data = s.feedHead(dir, data, to)
		case inLength:
			n := min(int64(len(data)), s.remain)
			s.remain -= n
			s.body += n
			data = data[n:]
			if s.remain == 0 {
				s.finish(dir, to)
			}
		case inChunked:
			data = s.feedChunks(dir, data, to)
		case inUnknown:
			s.body += int64(len(data))
			to.gap(dir, s.next)
			return
		case untilClose:
			s.body += int64(len(data))
			return
		}
	}
}

// feedHead returns what follows the head.
func (s *stream) feedHead(dir int, data []byte, to sink) []byte {
	b, old := data, 0
	if len(s.buf) > 0 {
		old = len(s.buf)
		s.buf = append(s.buf, data...)
		b = s.buf
	}
	n := headEnd(b, old-3)
	if n == 0 {
		if !plausible(b) || len(b) > maxHead {
			s.lose(dir, to)
			return nil
		}
		if old == 0 {
			s.buf = append(s.buf, data...)
		}
		return nil
	}
	h, err := parseHead(b[:n], false)
	if err != nil {
		s.lose(dir, to)
		return nil
	}
	rest := data[n-old:]
	if cap(s.buf) > 4096 {
		s.buf = nil // an idle connection holds no buffer to speak of
	} else {
		s.buf = s.buf[:0]
	}
	s.begin(dir, &h, to)
	return rest
}

func (s *stream) begin(dir int, h *head, to sink) {
	s.body, s.chunk, s.digits, s.line, s.remain = 0, chunkSize, 0, 0, 0
	// the state is set first: head may end messages of the other direction
	s.state = between
	state, n := to.head(dir, h)
	s.state, s.remain = state, n
	if state == inLength && n == 0 {
		s.finish(dir, to)
	}
}

func (s *stream) finish(dir int, to sink) {
	s.state = between
	to.end(dir)
}

// plausible tells whether b may be the beginning of a head: a method and a
// path, or a status line, as far as it goes.
func plausible(b []byte) bool {
	const v = "HTTP/1."
	n := min(len(b), len(v))
	if string(b[:n]) == v[:n] {
		return true
	}
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		var h head
		return h.startLine(bytes.TrimSuffix(b[:i], []byte{'\r'})) == nil
	}
	for i, c := range b {
		if c == ' ' {
			return i > 0
		}
		if i >= 24 || !tokenByte(c) {
			return false
		}
	}
	return true
}

func (s *stream) lose(dir int, to sink) {
	s.state, s.buf = lost, s.buf[:0]
	to.bad(dir)
}

// feedChunks returns what follows the body.
func (s *stream) feedChunks(dir int, data []byte, to sink) []byte {
	for len(data) > 0 {
		c := data[0]
		switch s.chunk {
		case chunkSize:
			if d, ok := hexDigit(c); ok {
				if s.digits++; s.digits > 15 {
					s.state = inUnknown
					return nil
				}
				s.remain = s.remain<<4 | int64(d)
			} else if s.digits == 0 && c != ' ' && c != '\t' {
				s.state = inUnknown // not in step with the chunks
				return nil
			} else {
				s.chunk = chunkExt
				continue
			}
			data = data[1:]
		case chunkExt:
			i := bytes.IndexByte(data, '\n')
			if i < 0 {
				return nil
			}
			data = data[i+1:]
			if s.digits = 0; s.remain == 0 {
				s.chunk, s.line = chunkTrailer, 0
			} else {
				s.chunk = chunkData
			}
		case chunkData:
			n := min(int64(len(data)), s.remain)
			s.remain -= n
			s.body += n
			data = data[n:]
			if s.remain == 0 {
				s.chunk = chunkDataEnd
			}
		case chunkDataEnd:
			data = data[1:]
			switch c {
			case '\n':
				s.chunk = chunkSize
			case '\r':
			default:
				s.state = inUnknown
				return nil
			}
		case chunkTrailer:
			data = data[1:]
			switch {
			case c == '\n' && s.line == 0:
				s.finish(dir, to)
				return data
			case c == '\n':
				s.line = 0
			case c != '\r':
				s.line++
			}
		}
	}
	return nil
}

// skip takes n bytes that were not captured. at is the sequence number of the
// first; tail, the last of them, where they are known.
func (s *stream) skip(dir int, n int64, at uint32, tail []byte, to sink) {
	end := at + uint32(n)
	switch s.state {
	case lost:
		to.gap(dir, end)
	case between:
		s.state = lost
		to.gap(dir, end)
	case inHead:
		// What was seen of the head may do: its first line, some fields. The end
		// of its body is not known then.
		h, err := parseHead(s.buf, true)
		s.buf = s.buf[:0]
		if err != nil {
			s.lose(dir, to)
			return
		}
		h.ambiguous = true
		s.begin(dir, &h, to)
		if s.state == between {
			s.state = lost
		} else if s.state != untilClose {
			s.state = inUnknown
			s.body += n
			to.gap(dir, end)
			s.tail(dir, tail, to)
		}
	case inLength:
		m := min(n, s.remain)
		s.remain -= m
		s.body += m
		if s.remain == 0 {
			s.finish(dir, to)
			if n > m {
				s.state = lost
				to.gap(dir, end)
			}
		}
	case inChunked:
		s.body += n
		if s.chunk == chunkData && n <= s.remain {
			if s.remain -= n; s.remain == 0 {
				s.chunk = chunkDataEnd
			}
			return
		}
		s.state = inUnknown
		to.gap(dir, end)
		s.tail(dir, tail, to)
	case inUnknown:
		s.body += n
		to.gap(dir, end)
		s.tail(dir, tail, to)
	case untilClose:
		s.body += n
	}
}

func (s *stream) tail(dir int, tail []byte, to sink) {
	if chunkEnd(tail) {
		s.finish(dir, to)
	}
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
