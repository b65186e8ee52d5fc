package logs

import "nodetap/agent/telemetry"

// line is one parsed line of a log file.
type line struct {
	time    int64 // unix nanoseconds; 0 when the line is in no known format
	stream  telemetry.Stream
	partial bool   // the next line of the stream continues it
	body    []byte // a view into the read buffer, or into parser.scratch until the next call
}

// parser parses one line at a time. It is not safe for concurrent use; each
// worker has its own.
type parser struct {
	time    timeParser
	scratch []byte // unescaped json-file bodies
}

// parse reads a line without its newline in whichever format it is. ok is false
// when it is in none: body is then the whole line.
func (p *parser) parse(b []byte, l *line) (ok bool) {
	if len(b) > 0 && b[0] == '{' {
		ok = p.jsonFile(b, l)
	} else {
		ok = p.cri(b, l)
	}
	if !ok {
		*l = line{body: b}
	}
	return ok
}

// cri parses the format of the container runtime interface,
//
//	2026-11-22T12:37:58.447786933Z stdout F body
//
// where the tag is P on a line that the next one of its stream continues, and F
// on the last. Further tags may follow behind colons. The format is set down in
// https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md
func (p *parser) cri(b []byte, l *line) bool {
	ns, n := p.time.parse(b)
	if n == 0 || len(b) < n+9 { // " stdout F"
		return false
	}
	b = b[n:]
	switch string(b[:8]) {
	case " stdout ":
		l.stream = telemetry.Stdout
	case " stderr ":
		l.stream = telemetry.Stderr
	default:
		return false
	}
	switch b[8] {
	case 'F':
		l.partial = false
	case 'P':
		l.partial = true
	default:
		return false
	}
	b = b[9:]
	if len(b) > 0 && b[0] == ':' { // further tags
		i := 0
		for i < len(b) && b[i] != ' ' {
			i++
		}
		b = b[i:]
	}
	if len(b) > 0 {
		if b[0] != ' ' {
			return false
		}
		b = b[1:]
	}
	l.time, l.body = ns, b
	return true
}
