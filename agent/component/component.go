// Package component says what a Collector and an Exporter are, and what they
// are given. Read this first to add one: a folder under collectors/ or
// exporters/ and one line in agent/components.go.
//
// It holds contracts alone: the supervisor is main's, queues, routes and
// retries are agent/pipeline's.
package component

import (
	"context"

	"nodetap/agent/telemetry"
)

// Collector produces telemetry until its context ends.
type Collector interface {
	// Run blocks. It returns nil when ctx ends, having stopped all that it
	// started; an *Unsupported error when this node cannot run the collector (it
	// is then off, with one warning, and not tried again); any other error when
	// it failed (it is then started again with backoff, and counted). A metrics
	// source that it registered is its own to unregister.
	Run(ctx context.Context, out Sink) error
}

// Sink takes what a collector produces. Both methods block while the queues
// that the batch is routed to are full: a collector that can wait (files)
// should, one that cannot (the kernel) passes a context that ends and counts
// what it drops. A batch must not be changed after the call, whatever it
// returns. An error means that the batch was not taken and its callbacks will
// not be called.
type Sink interface {
	SendLogs(context.Context, *telemetry.LogBatch) error
	SendSpans(context.Context, *telemetry.SpanBatch) error

	// WantsLogs and WantsSpans tell whether any exporter takes the signal. What
	// nobody takes need not be produced; sending it all the same is no error.
	WantsLogs() bool
	WantsSpans() bool
}

// Exporter delivers telemetry to one backend.
type Exporter interface {
	// Run keeps what lives as long as the exporter: a listener, connections, a
	// ticker. It blocks and returns nil when ctx ends. Export calls may come
	// before Run has connected, and until it has returned.
	Run(ctx context.Context) error
}

// LogExporter is an Exporter that takes logs.
type LogExporter interface {
	Exporter
	// ExportLogs delivers the batches, all of them or none, and returns nil when
	// the backend has acknowledged them. It is called by several goroutines, as
	// many as the queue's window. Errors: *Retry, *Permanent; any other error is
	// taken for a *Retry without a hint. It never retries by itself.
	ExportLogs(context.Context, []*telemetry.LogBatch) error
}

// SpanExporter is an Exporter that takes spans, as LogExporter takes logs.
type SpanExporter interface {
	Exporter
	ExportSpans(context.Context, []*telemetry.SpanBatch) error
}
