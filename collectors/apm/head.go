package apm

import (
	"bytes"
	"errors"
)

// head is the start line and the few header fields of an HTTP/1 message that
// are used. Strings are copies.
type head struct {
	request bool
	minor   byte // of HTTP/1.x

	method string // as it was sent
	target string // as it was sent, query and all: never exported
	status int

	host        string
	userAgent   string
	traceparent string
	tracestate  string

	length    int64 // Content-Length, -1 for none
	chunked   bool
	close     bool // Connection: close
	upgrade   bool
	ambiguous bool // contradictory framing: the end of the body is unknown
	truncated bool // not all of the head was seen: fields may be missing
}

var errNotHTTP = errors.New("not an HTTP/1 message head")

const (
	maxTarget = 2048 // bytes kept of a request target
	maxValue  = 512  // bytes kept of a header value
)

// headEnd returns the length of the head that b begins with, with its empty
// line; 0 when it is not all there. from is where to look from: what was looked
// through before, less 3.
func headEnd(b []byte, from int) int {
	from = max(from, 0)
	for from < len(b) {
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			return 0
		}
		i += from + 1
		switch {
		case i < len(b) && b[i] == '\n':
			return i + 1
		case i+1 < len(b) && b[i] == '\r' && b[i+1] == '\n':
			return i + 2
		}
		from = i
	}
	return 0
}

// parseHead parses a head that headEnd found, or the beginning of one
// (truncated: complete lines alone are taken).
func parseHead(b []byte, truncated bool) (head, error) {
	h := head{length: -1, truncated: truncated}
	line, rest, ok := cutLine(b)
	if !ok {
		return h, errNotHTTP
	}
	if err := h.startLine(line); err != nil {
		return h, err
	}
	var lengths int
	for len(rest) > 0 {
		if line, rest, ok = cutLine(rest); !ok || len(line) == 0 {
			break
		}
		name, value, found := bytes.Cut(line, []byte{':'})
		if !found {
			continue
		}
		value = bytes.Trim(value, " \t")
		switch len(name) { // most names are decided by their length
		case 4:
			if fold(name, "host") && h.host == "" {
				h.host = clip(value)
			}
		case 7:
			if fold(name, "upgrade") {
				h.upgrade = true
			}
		case 10:
			switch {
			case fold(name, "user-agent"):
				h.userAgent = clip(value)
			case fold(name, "connection"):
				h.close = h.close || token(value, "close")
			case fold(name, "tracestate"):
				h.tracestate = clip(value)
			}
		case 11:
			if fold(name, "traceparent") {
				h.traceparent = clip(value)
			}
		case 14:
			if fold(name, "content-length") {
				n, ok := decimal(value)
				if !ok || lengths > 0 && n != h.length {
					h.ambiguous = true
				}
				h.length = n
				lengths++
			}
		case 17:
			if fold(name, "transfer-encoding") {
				if token(value, "chunked") {
					h.chunked = true
				} else if !token(value, "identity") {
					h.ambiguous = true
				}
			}
		}
	}
	return h, nil
}

func (h *head) startLine(line []byte) error {
	if bytes.HasPrefix(line, []byte("HTTP/1.")) {
		// HTTP/1.1 200 OK
		if len(line) < 12 || line[8] != ' ' || line[7] != '0' && line[7] != '1' || len(line) > 12 && line[12] != ' ' {
			return errNotHTTP
		}
		n, ok := decimal(line[9:12])
		if !ok || n < 100 {
			return errNotHTTP
		}
		h.minor, h.status = line[7], int(n)
		return nil
	}
	i := bytes.IndexByte(line, ' ')
	j := bytes.LastIndexByte(line, ' ')
	if i <= 0 || i > 24 || j <= i+1 {
		return errNotHTTP
	}
	version := line[j+1:]
	if len(version) != 8 || string(version[:7]) != "HTTP/1." || version[7] != '0' && version[7] != '1' {
		return errNotHTTP
	}
	for _, c := range line[:i] {
		if !tokenByte(c) {
			return errNotHTTP
		}
	}
	target := line[i+1 : j]
	for _, c := range target {
		if c <= ' ' || c == 0x7f {
			return errNotHTTP
		}
	}
	if len(target) > maxTarget {
		target = target[:maxTarget]
	}
	h.request, h.minor = true, version[7]
	h.method, h.target = methodName(line[:i]), string(target)
	return nil
}

// methodName avoids an allocation for the usual ones.
func methodName(b []byte) string {
	switch string(b) {
	case "GET":
		return "GET"
	case "POST":
		return "POST"
	case "PUT":
		return "PUT"
	case "HEAD":
		return "HEAD"
	case "DELETE":
		return "DELETE"
	case "PATCH":
		return "PATCH"
	}
	return string(b)
}

func cutLine(b []byte) (line, rest []byte, ok bool) {
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		return nil, nil, false
	}
	line, rest = b[:i], b[i+1:]
	if i > 0 && b[i-1] == '\r' {
		line = b[:i-1]
	}
	return line, rest, true
}

func clip(v []byte) string {
	if len(v) > maxValue {
		v = v[:maxValue]
	}
	return string(v)
}

// fold compares with lower, which is in lower case.
func fold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// token tells whether a comma-separated list has the word.
func token(v []byte, lower string) bool {
	for len(v) > 0 {
		var item []byte
		item, v, _ = bytes.Cut(v, []byte{','})
		if fold(bytes.Trim(item, " \t"), lower) {
			return true
		}
	}
	return false
}

func tokenByte(c byte) bool {
	return 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), c) >= 0
}

func decimal(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}
