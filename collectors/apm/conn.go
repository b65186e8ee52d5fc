package apm

import (
	"net/netip"

	"nodetap/agent/pods"
)

type role uint8

const (
	roleUnknown role = iota
	roleServer
	roleClient
)

// exchange is one request and its response, as one end saw them.
type exchange struct {
	conn   *conn
	role   role
	cgroup uint64
	tgid   uint32
	tid    uint32

	start     int64 // CLOCK_BOOTTIME of the request's first byte
	firstByte int64 // of the response's first byte; 0: there was none
	end       int64 // of the response's last byte

	req    head
	status int // 0: no response
	// bytes of the bodies, with chunk headers where they were not parsed; -1
	// unknown
	reqBody, respBody int64
	broken            bool // the connection ended before the response had

	respPos uint32 // the response begins here in the other direction's stream, or later

	// seq and ack are where both streams stood when the request was sent or
	// received: equal on both ends of a connection.
	seq, ack uint32
	first    uint32 // where in its stream the request begins: the same on both ends
}

// longBody is how many bytes of a body must be to come for the kernel to be told
// to be silent about them.
const longBody = 256 << 10

const maxPipeline = 128 // requests waiting for their response on one connection

// conn is one connection. It pairs requests with responses in order, and rather
// drops a request than gives it a response that may be another's.
type conn struct {
	id, sk        uint64
	role          role
	netns         uint32
	local, remote netip.AddrPort

	streams [2]stream
	queue   []*exchange // waiting for their response, oldest first
	current *exchange   // its response has begun
	filling *exchange   // its request body has not ended
	begun   [2]struct { // the event with the first byte of the message
		at       int64
		seq, ack uint32
	}
	last [2]int64 // time of the last data

	piped    bool // more than one request was waiting, once
	unsure   bool // requests may have been missed, once
	desync   bool // both: nothing on this connection can be told any more
	muted    bool // upgraded, or no HTTP: nothing more is looked at
	failures int  // messages in a row that were none
	closed   int64
	reached  uint32 // where the responses' stream was when it closed
	seen     int64  // time of the last event

	ev   *bpfEvent       // the event being worked on
	note func()          // an exchange was seen: it will be done, or dropped
	came func(*exchange) // a request has begun; may be nil
	done func(*exchange)
	drop func(reason string, n int)

	skip    func(c *conn, dir int, until uint32) // may be nil
	skipped [2]uint32

	peer        pods.Peer
	peerOK      bool
	peerVersion uint64
	server      uint64 // of a client: the cgroup at the other end, where a Service hides it
	remoteText  string // remote's address, once asked for
	self        int8   // -1 unknown, 0 no, 1 the other end is the agent
}

// Reasons why requests that were seen give no span.
const (
	dropGap        = "gap"         // data of the connection was lost, so that pairs are not certain
	dropNoRequest  = "no_request"  // a response whose request was not seen
	dropNoResponse = "no_response" // nothing came for a long time
	dropPipeline   = "pipeline_limit"
)

func (c *conn) data(ev *bpfEvent, data []byte) {
	dir := int(ev.Dir)
	s := &c.streams[dir]
	c.ev = ev
	c.seen = int64(ev.Ts)
	if c.muted {
		return
	}
	if dir == dirRecv {
		// At the exit of a receive all that was sent is known to have been: what
		// is missing of it went by another way (sendfile, io_uring) or was lost.
		c.catchUp(dirSend, ev.Ack)
	} else if c.role == roleClient && !c.piped && ev.Flags&flagStart != 0 {
		// A client that does not pipeline has read the response before it asks
		// again. (One that is beginning to may lose a response by this.)
		c.catchUp(dirRecv, ev.Ack)
	}
	if o := &c.streams[1-dir]; !o.synced {
		o.synced, o.next = true, ev.Ack // what comes after this can be missed no more
	}
	start, n := ev.Flags&flagStart != 0, int64(ev.Len)
	if s.synced {
		switch d := int64(seqDiff(ev.Seq, s.next)); {
		case d > 0:
			s.skip(dir, d, s.next, nil, c)
		case d < 0:
			// sent again after a partial write, or a call that failed
			over := -d
			if over >= n {
				return
			}
			n -= over
			data = data[min(over, int64(len(data))):]
			start = false
		}
	}
	s.synced, s.next = true, ev.Seq+ev.Len
	if s.state == between || s.state == lost {
		c.begin(dir)
	}
	c.last[dir] = int64(ev.Ts)
	s.feed(dir, data, start, c)
	if missing := n - int64(len(data)); missing > 0 {
		s.skip(dir, missing, s.next-uint32(missing), ev.Tail[:ev.TailLen], c)
	} else if s.state == inUnknown {
		s.tail(dir, data, c)
	}
	if s.state == inLength && s.remain > longBody && s.remain < 1<<30 && c.skip != nil {
		if until := s.next + uint32(s.remain); until != c.skipped[dir] {
			c.skipped[dir] = until
			c.skip(c, dir, until)
		}
	}
}

func (c *conn) begin(dir int) {
	b := &c.begun[dir]
	b.at, b.seq, b.ack = int64(c.ev.Ts), c.ev.Seq, c.ev.Ack
}

// catchUp tells the stream that it has reached seq.
func (c *conn) catchUp(dir int, seq uint32) {
	s := &c.streams[dir]
	if d := int64(seqDiff(seq, s.next)); s.synced && d > 0 {
		s.skip(dir, d, s.next, nil, c)
		s.next = seq
	}
}

// responses is the direction in which responses go.
func (c *conn) responses() int {
	if c.role == roleServer {
		return dirSend
	}
	return dirRecv
}

// head implements sink.
func (c *conn) head(dir int, h *head) (framing, int64) {
	c.failures = 0
	r := roleServer
	if h.request == (dir == dirSend) {
		r = roleClient
	}
	if c.role == roleUnknown {
		c.role = r
	} else if c.role != r {
		c.bad(dir)
		return lost, 0
	}
	if h.request {
		return c.request(dir, h)
	}
	return c.response(dir, h)
}

func (c *conn) request(dir int, h *head) (framing, int64) {
	other := 1 - dir
	// A request that comes while the response before it has no known end is that
	// end, unless requests are pipelined.
	if rs := &c.streams[other]; c.current != nil && len(c.queue) == 0 && rs.state == inUnknown {
		rs.state = between
		c.end(other)
	}
	ev := c.ev
	x := &exchange{
		conn: c, role: c.role, cgroup: ev.Cgroup, tgid: ev.Tgid, tid: ev.Tid,
		start: c.begun[dir].at, req: *h, respPos: ev.Ack, seq: ev.Seq, ack: ev.Ack,
		first: c.begun[dir].seq,
	}
	c.filling = x
	c.note()
	if c.came != nil {
		c.came(x)
	}
	if h.truncated {
		// Its end was missed, so that what follows it may have been looked at
		// before it: its own response, say.
		x.seq, x.ack, x.respPos = c.begun[dir].seq, c.begun[dir].ack, c.begun[dir].ack
		if rs := &c.streams[other]; rs.synced && seqDiff(rs.next, x.respPos) > 0 {
			c.drop(dropGap, 1)
			return inUnknown, 0
		}
	}
	waiting := len(c.queue)
	if c.current != nil {
		waiting++
	}
	if waiting > 0 {
		if c.piped = true; c.unsure && !c.desync {
			c.forget(dropGap)
			c.desync = true
		}
	}
	switch {
	case c.desync:
		c.drop(dropGap, 1)
	case waiting >= maxPipeline:
		c.drop(dropPipeline, 1)
		c.forget(dropPipeline)
		c.desync = true
	default:
		c.queue = append(c.queue, x)
	}
	switch {
	case h.ambiguous:
		return inUnknown, 0
	case h.chunked:
		return inChunked, 0
	case h.length > 0:
		return inLength, h.length
	case h.upgrade && h.method == "CONNECT":
		return inUnknown, 0
	}
	return inLength, 0
}

func (c *conn) response(dir int, h *head) (framing, int64) {
	if len(c.queue) == 0 || c.current != nil || seqDiff(c.queue[0].respPos, c.streams[dir].next) >= 0 {
		// Its request was not seen: the connection was joined in the middle, or
		// data was lost. How its body is framed is not certain then.
		c.note()
		c.drop(dropNoRequest, 1)
		return lost, 0
	}
	x := c.queue[0]
	if x.firstByte == 0 {
		x.firstByte = c.begun[dir].at
	}
	if h.status < 200 && h.status != 101 {
		return inLength, 0 // 100 Continue and its like: the answer is yet to come
	}
	copy(c.queue, c.queue[1:])
	c.queue[len(c.queue)-1] = nil
	c.queue = c.queue[:len(c.queue)-1]
	c.current = x
	x.status = h.status
	switch {
	case h.status == 101 || x.req.method == "CONNECT" && h.status < 300:
		c.end(dir)
		c.muted = true // another protocol follows
		return lost, 0
	case x.req.method == "HEAD" || h.status == 204 || h.status == 304:
		return inLength, 0
	case h.ambiguous:
		return inUnknown, 0
	case h.chunked:
		return inChunked, 0
	case h.length >= 0:
		return inLength, h.length
	}
	return untilClose, 0
}

// end implements sink.
func (c *conn) end(dir int) {
	s := &c.streams[dir]
	c.begin(dir) // the next message, if it begins in the same call
	if dir != c.responses() {
		if c.filling != nil {
			c.filling.reqBody = s.body
			c.filling = nil
		}
		return
	}
	if c.current != nil {
		x := c.current
		c.current = nil
		x.respBody = s.body
		c.finish(x)
	}
}

func (c *conn) finish(x *exchange) {
	if x == c.filling {
		rs := &c.streams[1-c.responses()]
		x.reqBody = rs.body
		c.filling = nil
		if rs.state == inUnknown {
			rs.state = lost // answered: what begins as a message is the next one
		}
	}
	if x.req.truncated {
		x.reqBody = -1
	}
	x.end = max(c.last[c.responses()], x.start)
	c.done(x)
}

// gap implements sink.
func (c *conn) gap(dir int, seq uint32) {
	if c.role == roleUnknown {
		return
	}
	if dir != c.responses() {
		if c.streams[dir].state != inUnknown {
			c.lostRequests()
		}
		return
	}
	// What was missed may be the response to any request made before.
	keep := c.queue[:0]
	for _, x := range c.queue {
		if seqDiff(x.respPos, seq) >= 0 {
			keep = append(keep, x)
		} else {
			c.drop(dropGap, 1)
		}
	}
	clear(c.queue[len(keep):])
	c.queue = keep
}

// lostRequests notes that requests may have been missed. The next one comes
// after their responses, unless requests are pipelined: then nobody can tell any
// more which response is whose.
func (c *conn) lostRequests() {
	c.unsure = true
	c.forget(dropGap)
	c.desync = c.desync || c.piped
}

// bad implements sink.
func (c *conn) bad(int) {
	if c.failures++; c.failures >= 3 || c.role == roleUnknown {
		c.forget(dropGap)
		c.muted = true
	}
}

// forget drops what waits for a response.
func (c *conn) forget(reason string) {
	if n := len(c.queue); n > 0 {
		c.drop(reason, n)
		clear(c.queue)
		c.queue = c.queue[:0]
	}
}

// state takes a change of the connection's TCP state.
func (c *conn) state(ev *bpfEvent) {
	c.seen = int64(ev.Ts)
	c.ev = ev
	if c.muted {
		c.closed = int64(ev.Ts)
		return
	}
	if ev.Len != tcpClose {
		c.catchUp(dirSend, ev.Seq) // before the FIN takes its number
	}
	if ev.Len == tcpFinWait1 && c.role == roleClient {
		return // it may have closed its sending side alone, and wait for the answer
	}
	if c.closed == 0 {
		c.closed = int64(ev.Ts)
		if c.reached = ev.Seq; c.role == roleClient {
			c.reached = ev.Ack
		}
	}
}

// close ends what is under way, some time after the connection did: what was
// received may be read after that, and events of several CPUs are not in order.
func (c *conn) close() {
	if c.role == roleUnknown {
		return
	}
	dir := c.responses()
	if c.current != nil {
		switch c.streams[dir].state {
		case inLength, inChunked, inHead:
			c.current.broken = true
		}
		c.end(dir)
	}
	for _, x := range c.queue {
		if seqDiff(c.reached, x.respPos) > 1 { // 1: a FIN has a number too
			c.drop(dropGap, 1) // it was answered, by a way that is not seen
			continue
		}
		x.broken = true
		c.last[dir] = max(c.closed, x.start)
		c.finish(x)
	}
	clear(c.queue)
	c.queue = nil
}

// expire drops what waits on a connection that has been silent for long.
func (c *conn) expire() {
	c.forget(dropNoResponse)
	if c.current != nil {
		if c.streams[c.responses()].state == untilClose || c.streams[c.responses()].state == inUnknown {
			c.end(c.responses())
		} else {
			c.current = nil
			c.drop(dropNoResponse, 1)
		}
	}
}
