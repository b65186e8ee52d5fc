package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// newLogger returns the agent's own log: JSON, or text for a terminal.
func newLogger(level, format string, w io.Writer) *slog.Logger {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		l = slog.LevelInfo
	}
	opts := &slog.HandlerOptions{Level: l}
	text := format == "text"
	if f, ok := w.(*os.File); ok && format == "auto" {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		text = err == nil
	}
	var h slog.Handler = slog.NewJSONHandler(w, opts)
	if text {
		h = slog.NewTextHandler(w, opts)
	}
	return slog.New(&limitHandler{next: h, state: &limitState{seen: map[limitKey]*limitEntry{}}})
}

// A message of one kind is written limitBurst times, then once in limitEvery
// with the number of those that were left out: a node on fire must not drown in
// its agent's log.
const (
	limitBurst = 10
	limitEvery = 10 * time.Second
	limitKinds = 4096
)

type limitKey struct {
	level     slog.Level
	component string
	message   string
}

type limitEntry struct {
	count      int // since start of the window
	suppressed int
	window     time.Time
}

type limitState struct {
	mu   sync.Mutex
	seen map[limitKey]*limitEntry
}

// limitHandler limits how often records of one kind (level, component, message)
// are written. Messages are constants, so the kinds are few.
type limitHandler struct {
	next      slog.Handler
	component string
	state     *limitState
}

// Enabled implements slog.Handler.
func (h *limitHandler) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

// Handle implements slog.Handler.
func (h *limitHandler) Handle(ctx context.Context, r slog.Record) error {
	suppressed, ok := h.state.allow(limitKey{r.Level, h.component, r.Message}, r.Time)
	if !ok {
		return nil
	}
	if suppressed > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("suppressed", suppressed))
	}
	return h.next.Handle(ctx, r)
}

func (s *limitState) allow(k limitKey, now time.Time) (suppressed int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.seen[k]
	if e == nil {
		if len(s.seen) >= limitKinds {
			clear(s.seen)
		}
		e = &limitEntry{window: now}
		s.seen[k] = e
	}
	if now.Sub(e.window) >= limitEvery {
		suppressed = e.suppressed
		*e = limitEntry{window: now, count: 1}
		if suppressed > 0 { // still in a storm: no new burst
			e.count = limitBurst
		}
		return suppressed, true
	}
	if e.count++; e.count > limitBurst {
		e.suppressed++
		return 0, false
	}
	return 0, true
}

// WithAttrs implements slog.Handler.
func (h *limitHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.next = h.next.WithAttrs(attrs)
	for _, a := range attrs {
		if a.Key == "component" {
			c.component = a.Value.String()
		}
	}
	return &c
}

// WithGroup implements slog.Handler.
func (h *limitHandler) WithGroup(name string) slog.Handler {
	c := *h
	c.next = h.next.WithGroup(name)
	return &c
}
