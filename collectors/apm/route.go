package apm

import "strings"

// A route is a guess: a path whose segments that look like ids are *. The
// application's own templates are not on the wire.
const (
	maxDepth    = 10 // segments of a route; the rest is one *
	maxChildren = 40 // different words in one place of a path; more are *
	maxSegment  = 64 // bytes of a segment that can be a word
	// routeOther is the route of paths that came when a service had all the
	// routes that it may have.
	routeOther = "/_other"
)

// routes knows the routes of one service. Not safe for concurrent use.
type routes struct {
	root  routeNode
	count int
	max   int
}

type routeNode struct {
	children map[string]*routeNode
	route    string // "" while no request ended here
}

// name returns the route of a path that has been redacted. Without learn, for
// answers such as 404 that say that there is no such route, it returns "" for
// one that is not known: else a scanner would fill the table.
func (r *routes) name(path string, learn bool) string {
	n := &r.root
	rest := strings.TrimPrefix(path, "/")
	var b []byte
	for depth := 0; ; depth++ {
		seg, tail, more := strings.Cut(rest, "/")
		if depth == maxDepth-1 && more {
			seg, more = "*", false
		}
		child := n.children[seg]
		if child == nil && seg != "*" && len(n.children) >= maxChildren {
			seg = "*"
			child = n.children[seg]
		}
		if child == nil {
			if !learn {
				return ""
			}
			if r.count >= r.max {
				return routeOther
			}
			child = &routeNode{}
			if n.children == nil {
				n.children = make(map[string]*routeNode, 1)
			}
			n.children[strings.Clone(seg)] = child
		}
		if child.route == "" {
			b = append(append(b, '/'), seg...)
		} else {
			b = append(b[:0], child.route...)
		}
		n = child
		if !more {
			break
		}
		rest = tail
	}
	if n.route == "" {
		if !learn {
			return ""
		}
		if r.count >= r.max {
			return routeOther
		}
		r.count++
		n.route = string(b)
	}
	return n.route
}

// redactPath returns the path of a request target, without query and fragment,
// with every segment that looks like an id, a number, a token, an address or
// other data as *.
func redactPath(target string) string {
	if i := strings.IndexAny(target, "?#"); i >= 0 {
		target = target[:i]
	}
	if !strings.HasPrefix(target, "/") {
		// absolute form of proxies, or * of OPTIONS; CONNECT has an authority
		if _, after, ok := strings.Cut(target, "://"); ok {
			i := strings.IndexByte(after, '/')
			if i < 0 {
				return "/"
			}
			target = after[i:]
		} else {
			return target[:min(len(target), 1)]
		}
	}
	clean := true
	for rest := target[1:]; ; {
		seg, tail, more := strings.Cut(rest, "/")
		if data(seg) || strings.IndexByte(seg, ';') >= 0 {
			clean = false
			break
		}
		if !more {
			break
		}
		rest = tail
	}
	if clean {
		return target
	}
	var b strings.Builder
	for rest := target[1:]; ; {
		seg, tail, more := strings.Cut(rest, "/")
		seg, _, _ = strings.Cut(seg, ";") // path parameters: ;jsessionid=...
		b.WriteByte('/')
		if data(seg) {
			b.WriteByte('*')
		} else {
			b.WriteString(seg)
		}
		if !more {
			return b.String()
		}
		rest = tail
	}
}

// data tells whether a path segment looks like data rather than a word of the
// interface. When in doubt it is data: a route too few is better than a name in
// a label.
func data(seg string) bool {
	if seg == "" {
		return false
	}
	if len(seg) > maxSegment {
		return true
	}
	if strings.IndexByte(seg, '.') >= 0 && !version(seg) {
		for piece := range strings.SplitSeq(seg, ".") { // app.3f2a9c1b.js, a package's name, a JWT
			if data(piece) {
				return true
			}
		}
		return false
	}
	var digits, letters, uppers, hexes, run, longest, switches int
	var prev byte
	for i := 0; i < len(seg); i++ {
		c := seg[i]
		kind := byte('-')
		switch {
		case '0' <= c && c <= '9':
			digits++
			hexes++
			kind = '0'
		case 'a' <= c && c <= 'z':
			letters++
			if c <= 'f' {
				hexes++
			}
			kind = 'a'
		case 'A' <= c && c <= 'Z':
			letters++
			uppers++
			if c <= 'F' {
				hexes++
			}
			kind = 'A'
		case c == '-' || c == '_' || c == '.' || c == '~':
		case c == '*' && len(seg) == 1:
		default:
			// e-mail, escapes, matrix parameters' values, anything not ASCII
			if c == ';' { // cut off by redactPath
				seg = seg[:i]
				return data(seg)
			}
			return true
		}
		if kind == '-' {
			run = 0
		} else if run++; run > longest {
			longest = run
		}
		if prev != 0 && kind != prev && kind != '-' && prev != '-' {
			switches++
		}
		prev = kind
	}
	switch {
	case digits == 0 && letters == 0:
		return false // "*", "-", "."
	case letters == 0:
		return true // a number, a date, a version of digits
	case digits == 0:
		// words, or a token without digits: hex, long runs, or mixed case all over
		return hexes == letters && letters >= 16 || longest > 32 || longest >= 16 && switches > longest/3
	case version(seg):
		return false
	case digits >= 4 || digits > letters:
		return true // order-12345, 2024-q1, 9a8b7c
	case hexes == digits+letters && digits+letters >= 6:
		return true // a hash with few digits
	case longest >= 16:
		return true // a token
	case longest >= 8 && switches >= 4:
		return true
	}
	return false // v1, oauth2, sha256, s3
}

// version tells whether the segment is v1, v2beta1, v1.2 and the like.
func version(seg string) bool {
	if len(seg) < 2 || len(seg) > 12 || seg[0] != 'v' && seg[0] != 'V' || seg[1] < '0' || seg[1] > '9' {
		return false
	}
	rest := strings.TrimLeft(seg[1:], "0123456789.")
	for _, p := range []string{"alpha", "beta", "rc"} {
		if after, ok := strings.CutPrefix(rest, p); ok {
			rest = strings.TrimLeft(after, "0123456789")
			break
		}
	}
	return rest == "" && !longNumber(seg)
}

func longNumber(seg string) bool {
	n := 0
	for i := 0; i < len(seg); i++ {
		if seg[i] >= '0' && seg[i] <= '9' {
			if n++; n > 3 {
				return true
			}
		} else {
			n = 0
		}
	}
	return false
}
