// Package pipeline carries batches from collectors to exporters: routes, one
// bounded queue per exporter and signal with a window of calls in flight, retry
// with backoff and jitter, acknowledgement, detaching of an exporter that falls
// behind, drain.
//
// It does not read, parse or encode telemetry, and it knows no collector and no
// exporter by name. Metrics do not pass through it.
//
// A batch is shared, never copied: every exporter of its route holds the same
// arena until it is done. It makes one hop, into the queue of each exporter of
// its route, where as many workers as the window wait for it.
//
// Invariants:
//
//   - A queue holds at most max_bytes. A batch that is larger than that alone is
//     let in when the queue is empty.
//   - Logs for a required exporter are never dropped because a queue is full:
//     the sender waits, and the files that it reads are the buffer. All that is
//     dropped is counted with a reason.
//   - Spans never make their sender wait: a full queue drops its oldest batch.
//     So do logs for an exporter that is not required.
//   - Batches of one source (a log file, or a container where there is no file)
//     are never in two calls at a time, and leave in the order in which they
//     came. So a window above one does not reorder a container's lines, and a
//     single file uses one call of the window.
//   - A batch is acknowledged once, when every required exporter of its route
//     (every one, where none is required) has delivered it, has given it up with
//     a counted reason, or has it safe on disk. It is released once, after that,
//     when no exporter will touch it again.
//   - A required exporter that is dead or too slow does not delay another: when
//     its queue has been full for a while, and not every required exporter is in
//     the same state, it is detached. Its part is then written to segment files
//     (package spill) and replayed to it, in order, when it lives again.
package pipeline
