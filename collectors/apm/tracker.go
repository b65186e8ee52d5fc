package apm

const (
	closeGrace  = int64(500e6) // from the end of a connection to the end of what was under way
	idleTimeout = int64(600e9) // of a connection without events
)

// tracker holds the connections. It is fed with events in ring order by one
// goroutine and needs no kernel: tests replay recorded events into it.
type tracker struct {
	conns map[uint64]*conn
	max   int

	note func()
	came func(*exchange) // may be nil
	done func(*exchange)
	drop func(reason string, n int)
	mute func(sk uint64, c *conn) // the kernel need not send more of it; may be nil

	skip func(c *conn, dir int, until uint32) // nor of data before until; may be nil

	closing []*conn
	refused int // events of connections beyond max
}

func newTracker(limit int) *tracker {
	return &tracker{conns: make(map[uint64]*conn), max: limit}
}

// handle takes one event of type evData or evState. data is a view that is not
// kept.
func (t *tracker) handle(ev *bpfEvent, data []byte) {
	c := t.conns[ev.Conn]
	if ev.Type == evState {
		if c != nil && c.closed == 0 {
			c.state(ev)
			if c.closed != 0 {
				t.closing = append(t.closing, c)
			}
		}
		return
	}
	if c == nil {
		if ev.Flags&flagStart == 0 {
			return // muted, expired or refused: nothing can be told from the middle
		}
		if len(t.conns) >= t.max {
			t.refused++
			return
		}
		c = &conn{
			id: ev.Conn, sk: ev.Sk, netns: ev.Netns,
			local:  addrPort(ev.Family, &ev.Laddr, ev.Lport),
			remote: addrPort(ev.Family, &ev.Raddr, ev.Rport),
			unsure: ev.Flags&flagNew == 0, // what came before was lost
			note:   t.note, came: t.came, done: t.done, drop: t.drop, skip: t.skip, self: -1,
		}
		t.conns[ev.Conn] = c
	}
	was := c.muted
	c.data(ev, data)
	if c.muted && !was && t.mute != nil {
		t.mute(c.sk, c)
	}
}

// sweep ends connections that closed before now (CLOCK_BOOTTIME) by the grace,
// and with all, those that are idle.
func (t *tracker) sweep(now int64, idle bool) {
	keep := t.closing[:0]
	for _, c := range t.closing {
		if now-c.closed < closeGrace {
			keep = append(keep, c)
			continue
		}
		c.close()
		delete(t.conns, c.id)
	}
	clear(t.closing[len(keep):])
	t.closing = keep
	if !idle {
		return
	}
	for id, c := range t.conns {
		if now-c.seen > idleTimeout && c.closed == 0 {
			c.expire()
			delete(t.conns, id)
		}
	}
}

// waiting counts the requests without a whole response.
func (t *tracker) waiting() (n int) {
	for _, c := range t.conns {
		n += len(c.queue)
		if c.current != nil {
			n++
		}
	}
	return n
}
