// Package pipeline carries batches from collectors to exporters: routes, one
// bounded queue per exporter with a window of calls in flight, retry with
// backoff and jitter, acknowledgement, drain.
package pipeline
