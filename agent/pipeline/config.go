package pipeline

import (
	"errors"
	"time"

	"nodetap/agent/component"
)

// ExporterConfig is what every exporter's section has beside its own keys.
type ExporterConfig struct {
	Required bool        `yaml:"required" doc:"Whether logs count as delivered only when this exporter has delivered them. A required exporter makes reading wait (kubelet's files are the buffer), any other drops its oldest batches when its queue is full."`
	Queue    QueueConfig `yaml:"queue"`
}

// QueueConfig bounds what waits for one exporter. Each signal that the exporter
// takes has a queue of its own.
type QueueConfig struct {
	MaxBytes      component.Size `yaml:"max_bytes" doc:"Most bytes that wait in memory for this exporter, per signal, those in flight included."`
	MaxBatchBytes component.Size `yaml:"max_batch_bytes" doc:"Most bytes of one call. What waits is merged up to it."`
	Window        int            `yaml:"window" doc:"Calls in flight at a time. Batches of one log file are never in two of them, so lines stay in order."`
	Flush         time.Duration  `yaml:"flush" doc:"How long a batch waits for others to be merged with, while less than max_batch_bytes wait. 0: not at all."`
	Timeout       time.Duration  `yaml:"timeout" doc:"Most time of one call. It is then tried again."`
	Retry         RetryConfig    `yaml:"retry"`
	Spill         SpillConfig    `yaml:"spill"`
}

// RetryConfig is how long a failed call waits before it is tried again. There
// is no limit to the number of tries.
type RetryConfig struct {
	Initial time.Duration `yaml:"initial" doc:"Upper limit of the wait after the first failure. It doubles with each further one; the wait itself is random between 0 and the limit. A backend's own hint is waited for in full, up to 5 minutes."`
	Max     time.Duration `yaml:"max" doc:"Where the doubling ends."`
}

// SpillConfig bounds the disk that a required exporter may use while it is
// detached.
type SpillConfig struct {
	MaxBytes       component.Size `yaml:"max_bytes" doc:"Most bytes on disk (compressed) of logs for this exporter while it is down or too slow and another required one is not. 0: none; it then delays the others."`
	MinFreePercent int            `yaml:"min_free_percent" doc:"Nothing is written while less than this share of the state directory's file system is free. Kubelet begins to evict pods at 10."`
}

// DefaultExporterConfig returns what an empty section means.
func DefaultExporterConfig() ExporterConfig {
	return ExporterConfig{Required: true, Queue: DefaultQueueConfig()}
}

// DefaultQueueConfig returns what an empty section `queue` means.
func DefaultQueueConfig() QueueConfig {
	return QueueConfig{
		MaxBytes: 16 << 20, MaxBatchBytes: 1 << 20, Window: 4,
		Flush: 200 * time.Millisecond, Timeout: 30 * time.Second,
		Retry: RetryConfig{Initial: 500 * time.Millisecond, Max: 30 * time.Second},
		Spill: SpillConfig{MaxBytes: 1 << 30, MinFreePercent: 12},
	}
}

// Validate implements the configuration's check.
func (c *ExporterConfig) Validate() error { return c.Queue.validate("queue.") }

// Validate implements the configuration's check.
func (c *QueueConfig) Validate() error { return c.validate("") }

func (c *QueueConfig) validate(prefix string) error {
	var errs []error
	bad := func(wrong bool, key, msg string) {
		if wrong {
			errs = append(errs, &component.FieldError{Key: prefix + key, Msg: msg})
		}
	}
	bad(c.MaxBytes < 1<<10, "max_bytes", "must be at least 1KiB")
	bad(c.MaxBatchBytes < 1<<10, "max_batch_bytes", "must be at least 1KiB")
	bad(c.MaxBatchBytes > c.MaxBytes && c.MaxBytes >= 1<<10, "max_batch_bytes", "must not be larger than max_bytes")
	bad(c.Window < 1 || c.Window > 256, "window", "must be between 1 and 256")
	bad(c.Flush < 0 || c.Flush > time.Minute, "flush", "must be between 0 and 1m")
	bad(c.Timeout < 10*time.Millisecond, "timeout", "must be at least 10ms")
	bad(c.Retry.Initial < time.Millisecond, "retry.initial", "must be at least 1ms")
	bad(c.Retry.Max < c.Retry.Initial, "retry.max", "must not be less than retry.initial")
	bad(c.Spill.MaxBytes < 0, "spill.max_bytes", "must not be negative")
	bad(c.Spill.MaxBytes > 0 && c.Spill.MaxBytes < 16<<20, "spill.max_bytes", "must be 0 (none) or at least 16MiB")
	bad(c.Spill.MinFreePercent < 0 || c.Spill.MinFreePercent > 95, "spill.min_free_percent", "must be between 0 and 95")
	return errors.Join(errs...)
}
