package component

import (
	"fmt"
	"time"
)

// Retry is an export that failed and may succeed later.
type Retry struct {
	After time.Duration // the backend's hint; 0 for none
	Err   error
}

// Error implements error.
func (e *Retry) Error() string {
	if e.After > 0 {
		return fmt.Sprintf("%v (retry after %s)", e.Err, e.After)
	}
	return e.Err.Error()
}

// Unwrap returns the cause.
func (e *Retry) Unwrap() error { return e.Err }

// Permanent is an export that will fail however often it is tried.
type Permanent struct {
	Err error
	// Reason is the drop reason in the metrics: a short constant in snake case
	// ("rejected", "too_large", "unauthorized").
	Reason string
	// Bisect tells that a smaller part of the data may be accepted (one bad
	// record, a message that is too large). Otherwise all of it is dropped.
	Bisect bool
}

// Error implements error.
func (e *Permanent) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Permanent) Unwrap() error { return e.Err }

// Unsupported is what a collector returns when this node cannot run it.
type Unsupported struct {
	Missing string // what is missing: "CAP_BPF", "tracefs at /sys/kernel/tracing"
	Grant   string // what would grant it, as the line of the manifest; may be ""
	Err     error  // the cause; may be nil
}

// Error implements error.
func (e *Unsupported) Error() string {
	s := "not supported here: " + e.Missing
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Unsupported) Unwrap() error { return e.Err }

// FieldError is what a config's Validate method returns for one key (joined
// with errors.Join for several): agent/config adds file, line and column.
type FieldError struct {
	Key string // dotted, relative to the component's section: "tls.ca_file"
	Msg string // what is wrong and what to do
}

// Error implements error.
func (e *FieldError) Error() string { return e.Key + ": " + e.Msg }

// FieldKey returns the key that is wrong. agent/config takes any error with this
// method.
func (e *FieldError) FieldKey() string { return e.Key }

// FieldMessage returns what is wrong, without the key.
func (e *FieldError) FieldMessage() string { return e.Msg }
