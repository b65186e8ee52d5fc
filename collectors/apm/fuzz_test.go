package apm

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzParseHead(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "POST /a?b HTTP/1.0\nTransfer-Encoding: gzip, chunked\n\n",
		"HTTP/1.1 200\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "GET  HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\ntraceparent:00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n := headEnd(b, 0)
		if n < 0 || n > len(b) {
			t.Fatalf("a head of %d bytes in %d", n, len(b))
		}
		for cut := range b { // found piece by piece as at once
			if m := headEnd(b[:cut+1], cut-3); m != 0 && n == 0 {
				t.Fatalf("a head of %d in a prefix, none in the whole", m)
			}
		}
		h, err := parseHead(b[:max(n, min(n, len(b)))], false)
		if err != nil {
			return
		}
		if h.request == (h.status != 0) || h.length < -1 || len(h.target) > maxTarget || len(h.host) > maxValue || len(h.userAgent) > maxValue {
			t.Fatalf("%+v", h)
		}
		if h.request && (h.method == "" || strings.ContainsAny(h.method, " \r\n") || strings.ContainsAny(h.target, " \r\n")) {
			t.Fatalf("%+v", h)
		}
	})
}

func FuzzTraceparent(f *testing.F) {
	f.Add("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	f.Add("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more")
	f.Add("00-00000000000000000000000000000000-b7ad6b7169203331-01")
	f.Fuzz(func(t *testing.T, s string) {
		tc, ok := parseTraceparent(s)
		if !ok {
			return
		}
		if tc.traceID.IsZero() || tc.spanID.IsZero() {
			t.Fatal("a zero id is valid")
		}
		if got := tc.traceID.String() + "-" + tc.spanID.String(); s[3:52] != got {
			t.Fatalf("%q gives %s", s, got)
		}
	})
}

func FuzzRoute(f *testing.F) {
	for _, s := range []string{"/users/42/orders?x=1", "/a/550e8400-e29b-41d4-a716-446655440000", "http://h/a;jsessionid=1/b", "*", "/a@b.c/%7e", "//", "/v1/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		path := redactPath(target)
		if len(path) > len(target)+1 || strings.ContainsAny(path, "?#@%;") && strings.HasPrefix(path, "/") {
			t.Fatalf("%q is redacted to %q", target, path)
		}
		if again := redactPath(path); again != path {
			t.Fatalf("%q is redacted to %q, and that to %q", target, path, again)
		}
		if !utf8.ValidString(path) && strings.HasPrefix(path, "/") {
			t.Fatalf("%q is not UTF-8", path)
		}
		if !strings.HasPrefix(path, "/") {
			return
		}
		r := &routes{max: 3}
		name := r.name(path, true)
		if again := r.name(path, false); again != name || !strings.HasPrefix(name, "/") {
			t.Fatalf("route of %q: %q, then %q", path, name, again)
		}
	})
}

func FuzzDecode(f *testing.F) {
	w := newWire(64)
	w.call(dirRecv, crlf("GET /a HTTP/1.1\nHost: h\n\n"), "")
	w.call(dirSend, crlf("HTTP/1.1 200 OK\nContent-Length: 500\n\n")+strings.Repeat("x", 500), "")
	w.state(tcpClose)
	for _, e := range w.events {
		f.Add(e)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var ev bpfEvent
		data, err := decode(b, &ev)
		if err != nil {
			return
		}
		if int(ev.Cap) != len(data) || !bytes.Equal(encode(&ev, data), b[:headerSize+len(data)]) {
			t.Fatal("encoding gives other bytes")
		}
		replay(t, [][]byte{b, b})
	})
}

// FuzzConnection cuts arbitrary bytes into system calls: the tracker must
// account for every request, and hold no more than it may.
func FuzzConnection(f *testing.F) {
	for _, c := range conversations {
		var script []byte
		for _, s := range c.steps {
			dir := byte(0)
			if !s.request {
				dir = 1
			}
			for d := s.data; len(d) > 0; {
				n := min(len(d), 100)
				script = append(script, dir, byte(n))
				script = append(script, d[:n]...)
				d = d[n:]
			}
		}
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		w := newWire(128)
		for len(script) >= 2 {
			op, n := script[0], min(int(script[1]), len(script)-2)
			data := string(script[2 : 2+n])
			script = script[2+n:]
			switch {
			case op&0x30 == 0x10 && len(w.events) > 0: // the last event was lost
				w.events = w.events[:len(w.events)-1]
			case op&0x30 == 0x20:
				w.unseen = true
				w.call(int(op&1), data, "")
			case op&0x30 == 0x30:
				w.state(uint32(op & 15))
			case n > 0:
				w.call(int(op&1), data, "")
			}
		}
		if len(w.events) > 0 {
			replay(t, w.events)
		}
	})
}
