package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

var (
	errAckTimeout = errors.New("the receiver did not acknowledge in time")
	errClosed     = errors.New("the exporter closed the connection")
	errOneCall    = errors.New("the receiver wants a connection per call")
)

// writeGrace is how long a write may outlive its call.
const writeGrace = 500 * time.Millisecond

// lostError is a chunk's result when its connection ended before its ack.
type lostError struct{ err error }

func (e *lostError) Error() string { return "connection lost: " + e.err.Error() }
func (e *lostError) Unwrap() error { return e.err }

// conn is one connection with its chunks in flight. Several calls write to it
// in turn; one goroutine reads the acks.
type conn struct {
	nc         net.Conn
	ackTimeout time.Duration
	m          *selfMetrics

	window chan struct{} // a token per chunk in flight
	alone  chan struct{} // one token: the right to take the whole window
	turn   chan struct{} // one token: the right to write
	done   chan struct{} // closed with the connection

	// late is called with the result of a chunk whose call did not wait for it.
	late func(*pending, error)

	mu      sync.Mutex
	pending map[string]*pending
	left    map[chunkKey]*pending // those of pending that no call waits for
	writing *pending
	err     error  // why it is closed; nil while it is open
	acks    uint64 // acks read so far
	cut     int    // chunks that were pending when it was closed
	oneCall bool   // the receiver's HELO forbids keeping it
	calls   int
}

// pending is a chunk that waits for its ack.
type pending struct {
	c      *conn
	key    chunkKey
	id     string
	alone  bool
	left   bool       // its call has ended without the result
	result chan error // takes exactly one, unless left
	timer  *time.Timer
	acksAt uint64 // acks of the connection when it was written
}

func newConn(nc net.Conn, window int, ackTimeout time.Duration, m *selfMetrics, late func(*pending, error)) *conn {
	return &conn{
		nc: nc, ackTimeout: ackTimeout, m: m, late: late, left: map[chunkKey]*pending{},
		window: make(chan struct{}, window), alone: make(chan struct{}, 1), turn: make(chan struct{}, 1),
		done: make(chan struct{}), pending: map[string]*pending{},
	}
}

// enter and leave bracket a call that uses the connection.
func (c *conn) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || c.oneCall && c.calls > 0 {
		return false
	}
	c.calls++
	return true
}

func (c *conn) leave() {
	c.mu.Lock()
	c.calls--
	last := c.oneCall && c.calls == 0
	c.mu.Unlock()
	if last {
		c.close(errOneCall)
	}
}

// send writes the chunk when the window has room, with alone when it is empty,
// and returns what will bring the ack. An error means that nothing is pending.
func (c *conn) send(ctx context.Context, ch chunk, alone bool) (*pending, error) {
	p := &pending{c: c, key: ch.key, id: ch.id, alone: alone, result: make(chan error, 1)}
	if err := c.acquire(ctx, alone); err != nil {
		return nil, err
	}
	c.mu.Lock()
	if c.err != nil {
		err := &lostError{c.err}
		c.mu.Unlock()
		c.release(alone)
		return nil, err
	}
	c.pending[p.id] = p
	c.mu.Unlock()
	c.m.inFlight.Inc()

	select {
	case c.turn <- struct{}{}:
	case <-c.done:
		return p, nil // close has given it its result
	case <-ctx.Done():
		c.resolve(p.id, ctx.Err())
		return p, nil
	}
	defer func() { <-c.turn }()
	_ = c.nc.SetWriteDeadline(time.Now().Add(c.ackTimeout))
	c.setWriting(p)
	stop := context.AfterFunc(ctx, func() { c.hurry(p) })
	n, err := c.nc.Write(*ch.frame)
	stop()
	c.setWriting(nil)
	c.m.wireBytes.Add(float64(n))
	if err != nil { // a message that was written in part: nothing else can follow it
		if ctx.Err() != nil {
			c.close(errClosed)
		}
		c.close(fmt.Errorf("write: %w", err))
		return p, nil
	}
	c.mu.Lock()
	if c.pending[p.id] == p {
		p.acksAt = c.acks
		p.timer = time.AfterFunc(c.ackTimeout, func() { c.expire(p) })
	}
	c.mu.Unlock()
	return p, nil
}

func (c *conn) setWriting(p *pending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing = p
}

// hurry gives a write whose call has ended a moment more: it would end the
// connection for all the others.
func (c *conn) hurry(p *pending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writing == p {
		_ = c.nc.SetWriteDeadline(time.Now().Add(writeGrace))
	}
}

func (c *conn) acquire(ctx context.Context, alone bool) error {
	take := func(from chan struct{}) error {
		select {
		case from <- struct{}{}:
			return nil
		case <-c.done:
			c.mu.Lock()
			defer c.mu.Unlock()
			return &lostError{c.err}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if !alone {
		return take(c.window)
	}
	if err := take(c.alone); err != nil {
		return err
	}
	for n := range cap(c.window) {
		if err := take(c.window); err != nil {
			for range n {
				<-c.window
			}
			<-c.alone
			return err
		}
	}
	return nil
}

func (c *conn) release(alone bool) {
	if !alone {
		<-c.window
		return
	}
	for range cap(c.window) {
		<-c.window
	}
	<-c.alone
}

// resolve gives a pending chunk its result; false when nothing waits for id.
func (c *conn) resolve(id string, err error) bool {
	c.mu.Lock()
	p, ok := c.pending[id]
	if !ok {
		c.mu.Unlock()
		return false
	}
	delete(c.pending, id)
	if p.timer != nil {
		p.timer.Stop()
	}
	if err == nil {
		c.acks++
	}
	left := p.left
	if left && c.left[p.key] == p {
		delete(c.left, p.key)
	}
	c.mu.Unlock()
	c.m.inFlight.Dec()
	if left {
		c.late(p, err)
	} else {
		p.result <- err
	}
	c.release(p.alone)
	return true
}

// abandon tells that the call ends without the chunk's result; false when the
// result is there. The chunk stays in flight, watched by its timeout: a repeated
// call adopts it instead of sending it twice.
func (c *conn) abandon(p *pending) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending[p.id] != p {
		return false
	}
	p.left = true
	c.left[p.key] = p
	return true
}

// adopt returns the chunk that an earlier attempt of the call left in flight,
// nil for none.
func (c *conn) adopt(key chunkKey) *pending {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.left[key]
	if p != nil {
		delete(c.left, key)
		p.left = false
	}
	return p
}

// expire is a chunk's timeout. The chunk alone fails as long as others were
// acknowledged since it was written; else the receiver hangs.
func (c *conn) expire(p *pending) {
	c.mu.Lock()
	hangs := c.acks == p.acksAt
	c.mu.Unlock()
	if c.resolve(p.id, errAckTimeout) {
		c.m.acks.WithLabelValues("timeout").Inc()
		if hangs {
			c.close(errAckTimeout)
		}
	}
}

// close ends the connection once and fails what is pending.
func (c *conn) close(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err, c.cut = err, len(c.pending)
	ids := make([]string, 0, len(c.pending))
	for id := range c.pending {
		ids = append(ids, id)
	}
	c.mu.Unlock()
	close(c.done)
	c.nc.Close() //nolint:errcheck // nothing is left to lose
	for _, id := range ids {
		c.resolve(id, &lostError{err})
	}
}

// read matches acks until the connection ends, and returns why it did.
func (c *conn) read(a *answers) error {
	var id string
	for {
		err := a.next(func(b []byte) (rest []byte, err error) { id, rest, err = parseAck(b); return })
		if err != nil {
			c.close(err) // no change when something else closed it before
			_, err = c.ended()
			return err
		}
		if c.resolve(id, nil) {
			c.m.acks.WithLabelValues("ok").Inc()
			c.m.acked.Add(1)
		} else {
			c.m.acks.WithLabelValues("unknown").Inc()
		}
	}
}

// ended returns why the connection is closed, and how many chunks were cut off.
func (c *conn) ended() (cut int, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cut, c.err
}
