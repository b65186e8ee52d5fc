// Package plan is what the host of a test guest and its process 1 say to each
// other: the programs to run, and one event a line on the console.
//
// It holds types and the reading of console lines, nothing that runs. A
// console carries foreign text too (the firmware's, the kernel's), so a line
// without the mark is no event and never an error.
package plan

import (
	"bytes"
	"encoding/json"
	"time"
)

// Mark begins each line that is an event.
const Mark = "@vm "

// MaxLine is the longest line in bytes of a program's output that is kept
// whole. The rest of a longer one is dropped where it was written.
const MaxLine = 32 << 10

// Plan is /plan.json in the guest.
type Plan struct {
	Programs []Program `json:"programs"`
}

// Program is one run of a binary in the guest.
type Program struct {
	Name    string   `json:"name"`              // what its events are called
	Path    string   `json:"path"`              // in the guest
	Args    []string `json:"args,omitempty"`    // without the name of the program
	Env     []string `json:"env,omitempty"`     // added to a minimal environment
	Dir     string   `json:"dir"`               // where it runs
	Seconds int      `json:"seconds,omitempty"` // time limit on the guest's clock; 0 means 120
}

// Timeout is the program's time limit.
func (p Program) Timeout() time.Duration {
	if p.Seconds == 0 {
		return 2 * time.Minute
	}
	return time.Duration(p.Seconds) * time.Second
}

// Kinds of event.
const (
	Start  = "start"  // the machine is set up: Text is architecture and release
	Output = "output" // Text is a line that program Name printed
	Exit   = "exit"   // program Name ended with Code (-1: not by itself, Text says how) after Millis
	Error  = "error"  // something outside the programs failed: Text
	Kernel = "kernel" // Text is a record of the kernel's log, sent when something failed
	End    = "end"    // the last event: the machine turns itself off
)

// Event is one line from the guest.
type Event struct {
	Kind   string `json:"kind"`
	Name   string `json:"name,omitempty"`
	Text   string `json:"text,omitempty"`
	Code   int    `json:"code,omitempty"`
	Millis int64  `json:"ms,omitempty"`
}

// ParseLine reads a line of the console. ok is false for what is no event,
// which includes an event that something else wrote into.
func ParseLine(line []byte) (e Event, ok bool) {
	i := bytes.Index(line, []byte(Mark))
	if i < 0 {
		return Event{}, false
	}
	if json.Unmarshal(line[i+len(Mark):], &e) != nil {
		return Event{}, false
	}
	switch e.Kind {
	case Start, Output, Exit, Error, Kernel, End:
		return e, true
	}
	return Event{}, false
}
