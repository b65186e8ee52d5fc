package logs

import "github.com/prometheus/client_golang/prometheus"

// meters are the collector's metrics about itself.
type meters struct {
	records, bytes, joined, truncated, malformed prometheus.Counter
	saves, saveErrors, notes                     prometheus.Counter
	dropped                                      *prometheus.CounterVec // reason
	refused                                      *prometheus.CounterVec // reason
	rotations                                    *prometheus.CounterVec // kind
	errors                                       *prometheus.CounterVec // op
	overflows                                    prometheus.Counter
	all                                          []prometheus.Collector
}

func newMeters(c *Collector) *meters {
	m := &meters{}
	counter := func(name, help string) prometheus.Counter {
		x := prometheus.NewCounter(prometheus.CounterOpts{Name: "nodetap_logs_" + name, Help: help})
		m.all = append(m.all, x)
		return x
	}
	vec := func(name, help, label string, values ...string) *prometheus.CounterVec {
		x := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "nodetap_logs_" + name, Help: help}, []string{label})
		for _, v := range values {
			x.WithLabelValues(v)
		}
		m.all = append(m.all, x)
		return x
	}
	gauge := func(name, help string, f func() float64) {
		m.all = append(m.all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "nodetap_logs_" + name, Help: help}, f))
	}
	m.records = counter("received_records_total", "Records read from log files, joined lines as one.")
	m.bytes = counter("received_bytes_total", "Bytes of log files read, uncompressed, with framing.")
	m.joined = counter("joined_lines_total", "Records that were joined from several lines of a file.")
	m.truncated = counter("truncated_lines_total", "Records whose end was cut off because they were too long.")
	m.malformed = counter("malformed_lines_total", "Lines in no known format, sent as they are without a time.")
	m.saves = counter("checkpoint_saves_total", "Checkpoints written and synced.")
	m.notes = counter("checkpoint_notes_total", "Writes to the checkpoint's journal.")
	m.saveErrors = counter("checkpoint_errors_total", "Checkpoints or journal writes that failed; they are tried again.")
	m.overflows = counter("inotify_overflows_total", "Times the kernel's event queue was full and all directories were read again.")
	m.dropped = vec("dropped_bytes_total", "Bytes of log files that were read and not sent, by reason.", "reason", "nul")
	m.refused = vec("refused_files_total", "Files and directories that were not opened, by reason.", "reason",
		"link", "pipe", "device", "socket", "directory", "name", "limit")
	m.rotations = vec("rotations_total", "Rotations seen, by kind.", "kind", "rename", "truncate", "gzip")
	m.errors = vec("errors_total", "System calls that failed, by operation; they are tried again.", "op", "open", "read", "gzip", "watch", "scan")
	gauge("open_files", "Log files held open.", func() float64 { return float64(c.sum().open) })
	gauge("lag_bytes", "Bytes in known log files that were not read yet.", func() float64 { return float64(c.sum().lag) })
	gauge("sources", "Containers' logs followed, one for each start of a container.", func() float64 { return float64(c.sum().sources) })
	gauge("unacknowledged_batches", "Batches sent and not acknowledged.", func() float64 { return float64(c.sum().unacked) })
	gauge("memory_bytes", "Bytes of batches that fill or are undelivered.", func() float64 { return float64(c.pool.lent()) })
	gauge("partial_bytes", "Bytes of unfinished lines held.", func() float64 { return float64(c.partial.Load()) })
	gauge("starved_sources", "Containers whose reading waits for memory.", func() float64 { return float64(c.sched.waiting()) })
	return m
}

// tally is what a worker counted since it last added it to the meters.
type tally struct {
	records, bytes, joined, truncatedLines, malformed, nul int
}

func (m *meters) add(t *tally) {
	add := func(c prometheus.Counter, n int) {
		if n > 0 {
			c.Add(float64(n))
		}
	}
	add(m.records, t.records)
	add(m.bytes, t.bytes)
	add(m.joined, t.joined)
	add(m.truncated, t.truncatedLines)
	add(m.malformed, t.malformed)
	if t.nul > 0 {
		m.dropped.WithLabelValues("nul").Add(float64(t.nul))
	}
	*t = tally{}
}
