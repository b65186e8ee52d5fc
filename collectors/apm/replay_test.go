package apm

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// wire plays the kernel side for one end of one connection: it makes the events
// that bpf/apm.bpf.c would send for the same system calls.
type wire struct {
	capture int
	known   bool
	id      uint64
	next    [2]uint32
	left    [2]int
	now     int64
	events  [][]byte
	unseen  bool // the next call moves data in a way that makes no event
}

func newWire(capture int) *wire {
	// sequence numbers that wrap soon
	return &wire{capture: capture, id: 7, next: [2]uint32{0xffffff00, 0xfffffff0}}
}

// starts is the kernel side's function of that name.
func starts(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	for _, w := range []string{"HTTP/1.", "GET ", "POST ", "PUT ", "HEAD ", "DELETE ", "PATCH ", "OPTIONS ", "CONNECT ", "TRACE "} {
		n := min(len(b), len(w))
		if string(b[:n]) == w[:n] {
			return true
		}
	}
	for i := 0; i < 13 && i < len(b); i++ {
		if b[i] == ' ' {
			return i >= 3 && len(b) > i+1 && b[i+1] == '/'
		}
		if b[i] < 'A' || b[i] > 'Z' {
			return false
		}
	}
	return false
}

// call is one system call that moves data. attempt is what a send was given,
// when it took less.
func (w *wire) call(dir int, data string, attempt string) {
	w.now += 1e6
	seq := w.next[dir]
	w.next[dir] += uint32(len(data))
	if w.unseen {
		w.unseen = false
		return
	}
	if attempt != "" {
		data = attempt
	}
	start := starts([]byte(data))
	if !w.known && !start {
		return
	}
	fresh := !w.known
	w.known = true
	if start {
		w.left[dir] = w.capture
	}
	got := data[:min(max(w.left[dir], 64), len(data))]
	w.left[dir] = max(0, w.left[dir]-len(got))
	ev := bpfEvent{
		Ts: uint64(w.now), Conn: w.id, Sk: 1, Cgroup: 1, Tgid: 10, Tid: 11, Seq: seq, Ack: w.next[1-dir],
		Len: uint32(len(data)), Type: evData, Dir: uint8(dir), Family: familyINET, Lport: 8080, Rport: 40000,
	}
	if start {
		ev.Flags = flagStart
	}
	if fresh {
		ev.Flags |= flagNew
	}
	if len(got) < len(data) {
		tail := data[max(0, len(data)-8):]
		ev.TailLen = uint8(copy(ev.Tail[:], tail))
	}
	w.events = append(w.events, encode(&ev, []byte(got)))
}

func (w *wire) state(state uint32) {
	w.now += 1e6
	ev := bpfEvent{Ts: uint64(w.now), Conn: w.id, Sk: 1, Type: evState, Len: state, Seq: w.next[dirSend], Ack: w.next[dirRecv]}
	w.events = append(w.events, encode(&ev, nil))
}

// result is what is compared of an exchange.
type result struct {
	Method, Target    string
	Status            int
	ReqBody, RespBody int64
	Broken            bool
}

// replay feeds events to a tracker and returns what it found. Every request
// must be accounted for.
func replay(t testing.TB, events [][]byte) (out []result, drops map[string]int, x []*exchange) {
	t.Helper()
	drops = map[string]int{}
	seen, dropped := 0, 0
	tr := newTracker(100)
	tr.note = func() { seen++ }
	tr.drop = func(reason string, n int) { drops[reason] += n; dropped += n }
	tr.done = func(e *exchange) {
		out = append(out, result{e.req.method, e.req.target, e.status, e.reqBody, e.respBody, e.broken})
		x = append(x, e)
	}
	var ev bpfEvent
	for _, b := range events {
		data, err := decode(b, &ev)
		if err != nil {
			t.Fatal(err)
		}
		tr.handle(&ev, data)
	}
	tr.sweep(int64(ev.Ts)+closeGrace+1, false)
	tr.sweep(int64(ev.Ts)+idleTimeout+1, true)
	if waiting := tr.waiting(); seen != len(out)+dropped+waiting || waiting != 0 {
		t.Fatalf("%d requests seen, %d done, %d dropped %v, %d waiting", seen, len(out), dropped, drops, waiting)
	}
	for _, e := range x {
		if e.end < e.start {
			t.Fatalf("%s ends %d before it starts %d", e.req.target, e.end, e.start)
		}
	}
	return out, drops, x
}

// step is a message part of a conversation: from the client, or to it.
type step struct {
	request bool
	data    string
}

func req(s string) step  { return step{true, crlf(s)} }
func resp(s string) step { return step{false, crlf(s)} }
func crlf(s string) string {
	return strings.ReplaceAll(s, "\n", "\r\n")
}

type conversation struct {
	steps []step
	close bool
	want  []result
}

var conversations = map[string]conversation{
	"keep-alive": {
		steps: []step{
			req("GET /a HTTP/1.1\nHost: h\n\n"), resp("HTTP/1.1 200 OK\nContent-Length: 5\n\nhello"),
			req("DELETE /b HTTP/1.1\nHost: h\n\n"), resp("HTTP/1.1 404 Not Found\nContent-Length: 0\n\n"),
		},
		want: []result{{"GET", "/a", 200, 0, 5, false}, {"DELETE", "/b", 404, 0, 0, false}},
	},
	"body and 100": {
		steps: []step{
			req("POST /a HTTP/1.1\nHost: h\nExpect: 100-continue\nContent-Length: 11\n\n"), resp("HTTP/1.1 100 Continue\n\n"),
			req("hello world"), resp("HTTP/1.1 201 Created\nContent-Length: 2\n\nok"),
		},
		want: []result{{"POST", "/a", 201, 11, 2, false}},
	},
	"chunked both ways": {
		steps: []step{
			req("PUT /a HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\n\n5\nhello\n1;x=y\n!\n0\n\n"),
			resp("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n6\nab\nc"), // six bytes: a b CR LF c d
			resp("d\n0\nTrailer: v\n\n"),
			req("GET /b HTTP/1.1\nHost: h\n\n"), resp("HTTP/1.1 200 OK\nContent-Length: 1\n\nx"),
		},
		want: []result{{"PUT", "/a", 200, 6, 6, false}, {"GET", "/b", 200, 0, 1, false}},
	},
	"no bodies": {
		steps: []step{
			req("HEAD /a HTTP/1.1\nHost: h\n\n"), resp("HTTP/1.1 200 OK\nContent-Length: 500\n\n"),
			req("GET /b HTTP/1.1\nHost: h\n\n"), resp("HTTP/1.1 304 Not Modified\nContent-Length: 99\n\n"),
			req("GET /c HTTP/1.1\nHost: h\n\n"), resp("HTTP/1.1 204 No Content\n\n"),
		},
		want: []result{{"HEAD", "/a", 200, 0, 0, false}, {"GET", "/b", 304, 0, 0, false}, {"GET", "/c", 204, 0, 0, false}},
	},
	"pipelined": {
		steps: []step{
			req("GET /a HTTP/1.1\nHost: h\n\nPOST /b HTTP/1.1\nHost: h\nContent-Length: 3\n\nabcGET /c HTTP/1.1\nHost: h\n\n"),
			resp("HTTP/1.1 200 OK\nContent-Length: 5\n\nhelloHTTP/1.1 201 OK\nContent-Length: 0\n\nHTTP/1.1 202 OK\nContent-Length: 1\n\nx"),
		},
		want: []result{{"GET", "/a", 200, 0, 5, false}, {"POST", "/b", 201, 3, 0, false}, {"GET", "/c", 202, 0, 1, false}},
	},
	"until close": {
		steps: []step{req("GET /a HTTP/1.0\n\n"), resp("HTTP/1.0 200 OK\n\nall of it")},
		close: true,
		want:  []result{{"GET", "/a", 200, 0, 9, false}},
	},
	"upgrade": {
		steps: []step{
			req("GET /ws HTTP/1.1\nHost: h\nUpgrade: websocket\nConnection: Upgrade\n\n"), resp("HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\n\n"),
			req("GET this is not HTTP any more"), resp("\x81\x05hello"),
		},
		want: []result{{"GET", "/ws", 101, 0, 0, false}},
	},
	"closed without an answer": {
		steps: []step{req("GET /a HTTP/1.1\nHost: h\n\n")},
		close: true,
		want:  []result{{"GET", "/a", 0, 0, 0, true}},
	},
	"body cut short": {
		steps: []step{req("GET /a HTTP/1.1\nHost: h\n\n"), resp("HTTP/1.1 200 OK\nContent-Length: 10\n\nhello")},
		close: true,
		want:  []result{{"GET", "/a", 200, 0, 5, true}},
	},
}

// play makes the events of a conversation as one end sees it, each message cut
// by cut.
func (c *conversation) play(server bool, capture int, cut func(i int, data string) []string) *wire {
	w := newWire(capture)
	for i, s := range c.steps {
		dir := dirRecv
		if s.request != server {
			dir = dirSend
		}
		for _, piece := range cut(i, s.data) {
			w.call(dir, piece, "")
		}
	}
	if c.close {
		w.state(tcpLastAck)
		w.state(tcpClose)
	}
	return w
}

func TestReplayAtEverySplitPoint(t *testing.T) {
	for name, c := range conversations {
		for _, server := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/server=%v", name, server), func(t *testing.T) {
				check := func(what string, w *wire) {
					t.Helper()
					out, drops, _ := replay(t, w.events)
					if d := cmp.Diff(c.want, out); d != "" || len(drops) > 0 {
						t.Fatalf("%s: dropped %v\n%s", what, drops, d)
					}
				}
				whole := func(_ int, data string) []string { return []string{data} }
				check("whole", c.play(server, 4096, whole))
				check("bytes", c.play(server, 4096, func(_ int, data string) []string { return strings.Split(data, "") }))
				for i, s := range c.steps {
					for at := 1; at < len(s.data); at++ {
						check(fmt.Sprintf("step %d at %d", i, at), c.play(server, 4096, func(j int, data string) []string {
							if j != i {
								return []string{data}
							}
							return []string{data[:at], data[at:]}
						}))
					}
				}
			})
		}
	}
}

// big is a conversation whose bodies are larger than what is captured.
func big(chunked bool) conversation {
	body := strings.Repeat("0123456789abcdef", 5000)
	c := conversation{}
	for i := range 3 {
		head := fmt.Sprintf("Content-Length: %d\n\n", len(body))
		data := body
		if chunked {
			head = "Transfer-Encoding: chunked\n\n"
			data = crlf(fmt.Sprintf("%x\n%s\n%x\n%s\n0\n\n", len(body)/2, body[:len(body)/2], len(body)/2, body[len(body)/2:]))
		}
		c.steps = append(c.steps,
			step{true, crlf(fmt.Sprintf("POST /r%d HTTP/1.1\nHost: h\n%s", i, head)) + data},
			step{false, crlf(fmt.Sprintf("HTTP/1.1 20%d OK\n%s", i, head)) + data})
	}
	return c
}

func TestBodiesBeyondTheCaptureAreCounted(t *testing.T) {
	for _, chunked := range []bool{false, true} {
		for _, size := range []int{1000, 4096, 16384, 65536} {
			c := big(chunked)
			for _, server := range []bool{true, false} {
				w := c.play(server, 512, func(_ int, data string) (pieces []string) {
					for len(data) > size {
						pieces, data = append(pieces, data[:size]), data[size:]
					}
					return append(pieces, data)
				})
				out, drops, _ := replay(t, w.events)
				if len(out) != 3 || len(drops) > 0 {
					t.Fatalf("chunked %v, calls of %d, server %v: %v, dropped %v", chunked, size, server, out, drops)
				}
				for i, r := range out {
					if r.Target != fmt.Sprintf("/r%d", i) || r.Status != 200+i || r.Broken || !chunked && (r.ReqBody != 80000 || r.RespBody != 80000) {
						t.Errorf("chunked %v, calls of %d: %+v", chunked, size, r)
					}
				}
			}
		}
	}
}

// numbered is a conversation whose responses say which request they answer.
func numbered(n int, pipelined bool) conversation {
	var c conversation
	var reqs, resps []step
	for i := range n {
		reqs = append(reqs, req(fmt.Sprintf("POST /r%d HTTP/1.1\nHost: h\nContent-Length: 4\n\nbody", i)))
		resps = append(resps, resp(fmt.Sprintf("HTTP/1.1 %d OK\nContent-Length: %d\n\n%s", 200+i, i, strings.Repeat("x", i))))
	}
	for i := range n {
		if pipelined {
			c.steps = append(c.steps, reqs[i])
		} else {
			c.steps = append(c.steps, reqs[i], resps[i])
		}
	}
	if pipelined {
		c.steps = append(c.steps, resps...)
	}
	return c
}

func TestLostEventsNeverPairARequestWithAnothersResponse(t *testing.T) {
	cuts := map[string]func(int, string) []string{
		"whole": func(_ int, d string) []string { return []string{d} },
		"half":  func(_ int, d string) []string { return []string{d[:len(d)/2], d[len(d)/2:]} },
		"head":  func(_ int, d string) []string { i := strings.Index(d, "\r\n\r\n") + 4; return []string{d[:i], d[i:]} },
	}
	for name, cut := range cuts {
		for _, server := range []bool{true, false} {
			c := numbered(6, false)
			w := c.play(server, 4096, cut)
			lostMost := 0
			for i := range w.events {
				for j := i; j < len(w.events); j++ {
					var events [][]byte
					for k, e := range w.events {
						if k != i && k != j {
							events = append(events, e)
						}
					}
					out, _, _ := replay(t, events)
					for _, r := range out {
						var n int
						fmt.Sscanf(r.Target, "/r%d", &n)
						if r.Status != 200+n && !(r.Status == 0 && r.Broken) {
							t.Fatalf("%s, server %v, without events %d and %d: %+v", name, server, i, j, r)
						}
					}
					lostMost = max(lostMost, 6-len(out))
				}
			}
			if lostMost > 4 {
				t.Errorf("%s, server %v: two lost events cost %d of 6 requests", name, server, lostMost)
			}
		}
	}
}

func TestLostEventsAmongPipelinedRequests(t *testing.T) {
	for _, server := range []bool{true, false} {
		c := numbered(6, true)
		w := c.play(server, 4096, func(_ int, d string) []string { return []string{d} })
		for i := range w.events {
			events := append(append([][]byte(nil), w.events[:i]...), w.events[i+1:]...)
			out, _, _ := replay(t, events)
			for _, r := range out {
				var n int
				fmt.Sscanf(r.Target, "/r%d", &n)
				if r.Status != 200+n && !(r.Status == 0 && r.Broken) {
					t.Fatalf("server %v, without event %d: %+v", server, i, r)
				}
			}
		}
	}
}

func TestDataThatIsSentAgainCountsOnce(t *testing.T) {
	w := newWire(4096)
	w.call(dirRecv, crlf("GET /a HTTP/1.1\nHost: h\n\n"), "")
	full := crlf("HTTP/1.1 200 OK\nContent-Length: 300\n\n") + strings.Repeat("x", 300)
	w.call(dirSend, "", full)         // would block
	w.call(dirSend, full[:100], full) // took a part
	w.call(dirSend, full[100:], "")   // took the rest
	w.call(dirRecv, crlf("GET /b HTTP/1.1\nHost: h\n\n"), "")
	w.call(dirSend, crlf("HTTP/1.1 204 No Content\n\n"), "")
	out, drops, _ := replay(t, w.events)
	want := []result{{"GET", "/a", 200, 0, 300, false}, {"GET", "/b", 204, 0, 0, false}}
	if d := cmp.Diff(want, out); d != "" || len(drops) > 0 {
		t.Errorf("dropped %v\n%s", drops, d)
	}
}

func TestBodiesThatMakeNoEventsAreCounted(t *testing.T) {
	w := newWire(4096)
	for i := range 3 {
		w.call(dirRecv, crlf(fmt.Sprintf("GET /r%d HTTP/1.1\nHost: h\n\n", i)), "")
		w.call(dirSend, crlf("HTTP/1.1 200 OK\nContent-Length: 100000\n\n"), "")
		w.unseen = true // splice
		w.call(dirSend, strings.Repeat("x", 100000), "")
	}
	w.state(tcpFinWait1)
	out, drops, _ := replay(t, w.events)
	if len(out) != 3 || len(drops) > 0 || out[2].Broken || out[2].RespBody != 100000 {
		t.Errorf("%+v, dropped %v", out, drops)
	}
}

func TestTheKernelIsToldOfLongBodiesOnce(t *testing.T) {
	w := newWire(4096)
	w.call(dirRecv, crlf("GET /a HTTP/1.1\nHost: h\n\n"), "")
	head := crlf("HTTP/1.1 200 OK\nContent-Length: 1000000\n\n")
	end := w.next[dirSend] + uint32(len(head)) + 1000000
	w.call(dirSend, head+strings.Repeat("x", 1000), "")
	for range 3 {
		w.call(dirSend, strings.Repeat("x", 100000), "")
	}
	w.unseen = true // as told
	w.call(dirSend, strings.Repeat("x", 600000), "")
	w.call(dirSend, strings.Repeat("x", 99000), "")
	tr := newTracker(10)
	var told []uint32
	var done []*exchange
	tr.note, tr.drop, tr.done = func() {}, func(string, int) {}, func(x *exchange) { done = append(done, x) }
	tr.skip = func(_ *conn, dir int, until uint32) { told = append(told, until) }
	var ev bpfEvent
	for _, b := range w.events {
		data, err := decode(b, &ev)
		if err != nil {
			t.Fatal(err)
		}
		tr.handle(&ev, data)
	}
	if len(told) != 1 || told[0] != end {
		t.Errorf("told %v, want %d once", told, end)
	}
	if len(done) != 1 || done[0].respBody != 1000000 || done[0].end != int64(ev.Ts) {
		t.Errorf("%+v", done)
	}
}

func TestConnectionsJoinedInTheMiddle(t *testing.T) {
	c := numbered(4, false)
	w := c.play(true, 4096, func(_ int, d string) []string { return []string{d[:20], d[20:]} })
	for from := range w.events {
		out, _, _ := replay(t, w.events[from:])
		for _, r := range out {
			var n int
			fmt.Sscanf(r.Target, "/r%d", &n)
			if r.Status != 200+n {
				t.Fatalf("from event %d: %+v", from, r)
			}
		}
		if whole := (len(w.events) - from) / 4; len(out) < whole-1 {
			t.Errorf("from event %d: %d of %d requests", from, len(out), whole)
		}
	}
}

func TestAHeadBeyondTheCaptureGivesWhatWasSeen(t *testing.T) {
	w := newWire(256)
	head := "GET /long HTTP/1.1\nHost: example\nCookie: " + strings.Repeat("c", 3000) + "\nTraceparent: x\n\n"
	for range 2 {
		w.call(dirRecv, crlf(head), "")
		w.call(dirSend, crlf("HTTP/1.1 200 OK\nContent-Length: 0\n\n"), "")
	}
	out, drops, x := replay(t, w.events)
	if len(out) != 2 || out[0].Target != "/long" || out[0].Status != 200 || x[0].req.host != "example" || !x[0].req.truncated {
		t.Errorf("%+v, dropped %v", out, drops)
	}
}

func TestWhatIsNoHTTPIsMuted(t *testing.T) {
	w := newWire(4096)
	w.call(dirSend, "GET key\r\n", "") // Redis' inline form
	w.call(dirRecv, "$-1\r\n", "")
	out, _, _ := replay(t, w.events)
	if len(out) != 0 {
		t.Errorf("%+v", out)
	}
	tr := newTracker(10)
	muted := 0
	tr.note, tr.drop, tr.done = func() {}, func(string, int) {}, func(*exchange) {}
	tr.mute = func(uint64, *conn) { muted++ }
	var ev bpfEvent
	for _, b := range w.events {
		data, _ := decode(b, &ev)
		tr.handle(&ev, data)
	}
	if muted != 1 {
		t.Errorf("muted %d times", muted)
	}
}

func TestTheTrackerIsBounded(t *testing.T) {
	tr := newTracker(10)
	tr.note, tr.drop, tr.done = func() {}, func(string, int) {}, func(*exchange) {}
	for i := range 100 {
		w := newWire(4096)
		w.id = uint64(i + 1)
		w.call(dirRecv, crlf("GET /a HTTP/1.1\nHost: h\n\n"), "")
		var ev bpfEvent
		data, _ := decode(w.events[0], &ev)
		tr.handle(&ev, data)
	}
	if len(tr.conns) != 10 || tr.refused != 90 {
		t.Errorf("%d connections, %d refused", len(tr.conns), tr.refused)
	}
}
