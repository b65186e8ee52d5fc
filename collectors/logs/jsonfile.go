package logs

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"

	"nodetap/agent/telemetry"
)

// maxJSONDepth bounds the nesting of members that are skipped.
const maxJSONDepth = 64

// jsonFile parses a line of docker's json-file driver,
//
//	{"log":"body\n","stream":"stdout","time":"2026-11-22T12:37:58.447786933Z"}
//
// in any order of its members; others ("attrs") are skipped. A body without a
// newline at its end is continued by the stream's next line: docker cuts at 16
// KiB.
func (p *parser) jsonFile(b []byte, l *line) bool {
	var log []byte
	var seen struct{ log, stream, time bool }
	i := skipSpace(b, 1)
	for i < len(b) && b[i] != '}' {
		key, next := jsonString(b, i)
		if next == 0 {
			return false
		}
		i = skipSpace(b, next)
		if i >= len(b) || b[i] != ':' {
			return false
		}
		i = skipSpace(b, i+1)
		switch string(key) {
		case "log":
			if log, next = jsonString(b, i); next == 0 {
				return false
			}
			seen.log = true
		case "stream":
			var v []byte
			if v, next = jsonString(b, i); next == 0 {
				return false
			}
			switch string(v) {
			case "stdout":
				l.stream = telemetry.Stdout
			case "stderr":
				l.stream = telemetry.Stderr
			default:
				return false
			}
			seen.stream = true
		case "time":
			var v []byte
			if v, next = jsonString(b, i); next == 0 {
				return false
			}
			ns, n := p.time.parse(v)
			if n == 0 || n != len(v) {
				return false
			}
			l.time, seen.time = ns, true
		default:
			if next = skipValue(b, i); next == 0 {
				return false
			}
		}
		i = skipSpace(b, next)
		if i < len(b) && b[i] == ',' {
			i = skipSpace(b, i+1)
			if i < len(b) && b[i] == '}' {
				return false
			}
		} else if i >= len(b) || b[i] != '}' {
			return false
		}
	}
	if i >= len(b) || !seen.log || !seen.stream || !seen.time {
		return false
	}
	if skipSpace(b, i+1) != len(b) {
		return false
	}
	l.partial = true
	if n := len(log); n >= 2 && log[n-1] == 'n' && trailingBackslashes(log[:n-1])%2 == 1 {
		log, l.partial = log[:n-2], false
	}
	if bytes.IndexByte(log, '\\') < 0 {
		l.body = log
		return true
	}
	p.scratch = unescape(p.scratch[:0], log)
	l.body = p.scratch
	return true
}

func trailingBackslashes(b []byte) (n int) {
	for n < len(b) && b[len(b)-1-n] == '\\' {
		n++
	}
	return n
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// jsonString returns the inside of the string that begins at b[i], still
// escaped, and the index behind it; 0 when there is none.
func jsonString(b []byte, i int) (s []byte, next int) {
	if i >= len(b) || b[i] != '"' {
		return nil, 0
	}
	i++
	for at := i; ; {
		q := bytes.IndexByte(b[at:], '"')
		if q < 0 {
			return nil, 0
		}
		at += q
		if trailingBackslashes(b[i:at])%2 == 0 {
			return b[i:at], at + 1
		}
		at++
	}
}

// skipValue returns the index behind the value at b[i], 0 when it is no value.
func skipValue(b []byte, i int) int {
	depth := 0
	for i < len(b) {
		switch b[i] {
		case '"':
			_, next := jsonString(b, i)
			if next == 0 {
				return 0
			}
			i = next
		case '{', '[':
			depth++
			if depth > maxJSONDepth {
				return 0
			}
			i++
			continue
		case '}', ']':
			depth--
			if depth < 0 {
				return 0
			}
			i++
		case ',', ':', ' ', '\t', '\r':
			if depth == 0 {
				return 0
			}
			i++
			continue
		default: // number, true, false, null
			for i < len(b) && !bytes.ContainsRune([]byte(`,:}]{["`), rune(b[i])) && b[i] != ' ' {
				i++
			}
		}
		if depth == 0 {
			return i
		}
	}
	return 0
}

// unescape appends the meaning of a JSON string's inside to dst. What is no
// valid escape is kept as it stands: a log line is not worth refusing for it.
func unescape(dst, s []byte) []byte {
	for {
		i := bytes.IndexByte(s, '\\')
		if i < 0 || i+1 == len(s) {
			return append(dst, s...)
		}
		dst = append(dst, s[:i]...)
		c := s[i+1]
		n := 2
		switch c {
		case '"', '\\', '/':
			dst = append(dst, c)
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r, ok := hex4(s[i+2:])
			if !ok {
				dst = append(dst, '\\', c)
				break
			}
			n = 6
			if utf16.IsSurrogate(r) {
				low, ok := rune(0), false
				if rest := s[i+6:]; len(rest) >= 2 && rest[0] == '\\' && rest[1] == 'u' {
					low, ok = hex4(rest[2:])
				}
				if pair := utf16.DecodeRune(r, low); ok && pair != utf8.RuneError {
					r, n = pair, 12
				} else {
					r = utf8.RuneError
				}
			}
			dst = utf8.AppendRune(dst, r)
		default:
			dst = append(dst, '\\', c)
		}
		s = s[i+n:]
	}
}

func hex4(b []byte) (r rune, ok bool) {
	if len(b) < 4 {
		return 0, false
	}
	for _, c := range b[:4] {
		switch {
		case c-'0' <= 9:
			c -= '0'
		case c-'a' <= 5:
			c -= 'a' - 10
		case c-'A' <= 5:
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}
