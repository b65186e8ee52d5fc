// Package forward sends log records to a Fluent Forward receiver: Fluentd,
// Fluent Bit, the OpenTelemetry Collector's fluentforward.
//
// Each record has the keys, types and tag that Fluent Bit's kubernetes filter
// gives (Merge_Log Off), so that existing pipelines keep working. Records of
// one tag travel as PackedForward chunks of at most 1 MiB with EventTime, gzip
// and a random chunk id; the receiver's ack for the id is what makes a record
// delivered. Many chunks are in flight on one connection at once.
//
// It does not retry: a call fails and the pipeline repeats it, and then only
// those chunks are sent that the receiver has not acknowledged. It has no queue.
//
// Invariants: ExportLogs returns nil only after the acks of all of its chunks.
// A chunk is given up (Permanent) only after it lost the connection, or its ack,
// max_resets times while nothing else was on the wire; and a single record only
// if the receiver acknowledged something else meanwhile. What a receiver answers
// is read into 4 KiB and no further; an unknown chunk id changes nothing.
//
// # Why not fluent-logger-golang's client
//
// Its types are used (EventTime, AckResp), with tinylib/msgp's append functions;
// its client is not. It sends one record a call in Message mode, so that each
// record repeats its tag, waits for one ack before the next record, and has no
// PackedForward, compression, shared key, or own authority for TLS. Calls from
// several goroutines that share a client with RequestAck read each other's acks
// ("message ack doesn't match expected one") and it closes the connection.
// Measured by this package's benchmarks (records of 180 bytes with 600 bytes of
// metadata, loopback, 2 CPUs under load, CPU of client and receiver together):
//
//	                                       CPU/record   records/s   allocations/record
//	fluent.PostWithTime with RequestAck      29.2 µs       20,000   32
//	ExportLogs, uncompressed                  0.60 µs   1,140,000    0.02
//	ExportLogs, gzip (default)                1.16 µs     312,000    0.02
//	ExportLogs, zstd                          1.10 µs     505,000    0.02
//
//	go test -run xxx -bench . ./exporters/forward
package forward
