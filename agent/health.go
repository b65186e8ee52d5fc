package main

import (
	"net/http"
	"strings"
	"sync"
)

// health knows what the agent waits for before it is ready: each collector
// running or off for good. Whether a backend can be reached is no part of it: a
// backend that is down must not stall a rollout of the agent.
type health struct {
	mu      sync.Mutex
	waiting map[string]bool
}

func (h *health) wait(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.waiting == nil {
		h.waiting = map[string]bool{}
	}
	h.waiting[name] = true
}

func (h *health) done(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.waiting, name)
}

// live answers as long as the process can: kubelet restarts it otherwise.
func (h *health) live(w http.ResponseWriter, _ *http.Request) { respond(w, http.StatusOK, "ok\n") }

// ready answers 503 with the names that are waited for.
func (h *health) ready(w http.ResponseWriter, _ *http.Request) {
	h.mu.Lock()
	var text strings.Builder
	for name := range h.waiting {
		text.WriteString("waiting for " + name + "\n")
	}
	h.mu.Unlock()
	if text.String() != "" {
		respond(w, http.StatusServiceUnavailable, text.String())
		return
	}
	respond(w, http.StatusOK, "ready\n")
}

func respond(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	w.Write([]byte(text)) //nolint:errcheck // the client is gone
}
