package config

import (
	"fmt"
	"strings"
)

// Error is one mistake in the file.
type Error struct {
	File         string // "" for bytes that came from no file
	Line, Column int    // from 1; 0 when it is about no place in particular
	Key          string // dotted path: "collectors.logs.max_line"
	Msg          string
	Suggest      string // the nearest valid key, "" when none is near
}

// Error implements error: file:line:column: message (did you mean ...?).
func (e *Error) Error() string {
	var b strings.Builder
	file := e.File
	if file == "" {
		file = "configuration"
	}
	b.WriteString(file)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	b.WriteString(": ")
	b.WriteString(e.Msg)
	if e.Suggest != "" {
		fmt.Fprintf(&b, " (did you mean %q?)", e.Suggest)
	}
	return b.String()
}

// Errors is every mistake in the file, in the order of their places.
type Errors []*Error

// Error implements error: one line per mistake.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return strings.Join(lines, "\n")
}

// nearest returns the valid word that a typing mistake would turn into got, ""
// when none is near enough.
func nearest(got string, valid []string) string {
	got = strings.ToLower(got)
	best, bestDistance := "", max(2, len(got)/3)+1
	closer := func(v, as string) {
		if d := distance(got, as, bestDistance); d < bestDistance {
			best, bestDistance = v, d
		}
	}
	for _, v := range valid {
		closer(v, v)
	}
	if best != "" && bestDistance < 2 {
		return best
	}
	for _, v := range valid { // max_line for max_line_bytes, poll for poll_min
		if len(got) >= 3 && len(v) > len(got) {
			closer(v, v[:len(got)])
		}
	}
	return best
}

// distance is Levenshtein's, or limit when it is at least that.
func distance(a, b string, limit int) int {
	if len(a) > 64 || len(b) > 64 || abs(len(a)-len(b)) >= limit {
		return limit
	}
	prev, cur := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := range a {
		cur[0] = i + 1
		for j := range b {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			cur[j+1] = min(prev[j]+cost, prev[j+1]+1, cur[j]+1)
		}
		prev, cur = cur, prev
	}
	return min(prev[len(b)], limit)
}

func abs(n int) int {
	if n < 0 {
		return -n
	}
	return n
}
