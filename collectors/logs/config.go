package logs

import (
	"errors"
	"path/filepath"
	"strconv"
	"time"

	"nodetap/agent/component"
)

// Config is the section `logs` of the configuration.
type Config struct {
	Path            string         `yaml:"path" doc:"Directory of kubelet's container logs; empty is pods/ below the host's log directory."`
	DockerRoot      string         `yaml:"docker_root" doc:"Docker's container directory, the one place that links below path may lead to; empty refuses all links."`
	MaxLineBytes    component.Size `yaml:"max_line_bytes" doc:"Longest body of a joined line in bytes; the rest is cut off and the record marked as truncated, zero is the default."`
	MaxMemory       component.Size `yaml:"max_memory" doc:"Bytes of batches that are filling or undelivered, above which reading stops; zero is the default."`
	BatchBytes      component.Size `yaml:"batch_bytes" doc:"Bytes of bodies at which a batch is sent; zero is the default."`
	FlushInterval   time.Duration  `yaml:"flush_interval" doc:"Longest time that a line waits for its batch to fill; zero is the default."`
	PollMin         time.Duration  `yaml:"poll_interval_min" doc:"How often a file that grows is looked at; zero is the default."`
	PollMax         time.Duration  `yaml:"poll_interval_max" doc:"How often an idle file is looked at; zero is the default."`
	RescanInterval  time.Duration  `yaml:"rescan_interval" doc:"How often the directories are read in full, as a safety net below inotify; zero is the default."`
	RotatedLinger   time.Duration  `yaml:"rotated_linger" doc:"How long a rotated file is watched for late writes after its last one; zero is the default."`
	DeletedLinger   time.Duration  `yaml:"deleted_linger" doc:"How long a deleted file is held open after its last write; zero is the default."`
	ResourceWait    time.Duration  `yaml:"resource_wait" doc:"How long the lines of a new container wait for its pod's labels and its id before they are sent with what the path tells; zero does not wait."`
	SaveInterval    time.Duration  `yaml:"checkpoint_interval" doc:"How often positions are written and synced; what is acknowledged in between is journalled at once; zero is the default, at most 1s."`
	DrainTimeout    time.Duration  `yaml:"drain_timeout" doc:"How long the collector waits at stop for what it has sent to be acknowledged, so that its position is saved. Keep it above the drain_timeout at the top of the file, which ends the wait sooner; zero does not wait."`
	Workers         int            `yaml:"workers" doc:"Number of goroutines that read; zero is one per CPU that the agent may use, at most 4."`
	ExcludeOwnLogs  bool           `yaml:"exclude_own_logs" doc:"Whether the logs of the agent's own pod are left out; false collects them."`
	MaxPartialBytes component.Size `yaml:"max_partial_bytes" doc:"Bytes of unfinished lines held for all containers together, above which the longest are cut; zero is the default."`
}

// Default returns the configuration of an empty section.
func Default() Config {
	return Config{
		DockerRoot:      "/var/lib/docker/containers",
		MaxLineBytes:    1 << 20,
		MaxMemory:       48 << 20,
		BatchBytes:      256 << 10,
		FlushInterval:   time.Second,
		PollMin:         50 * time.Millisecond,
		PollMax:         time.Second,
		RescanInterval:  10 * time.Second,
		RotatedLinger:   5 * time.Second,
		DeletedLinger:   30 * time.Second,
		ResourceWait:    2 * time.Second,
		SaveInterval:    time.Second,
		DrainTimeout:    25 * time.Second,
		ExcludeOwnLogs:  true,
		MaxPartialBytes: 12 << 20,
	}
}

// withDefaults replaces the zeros that mean "the default".
func (c Config) withDefaults() Config {
	d := Default()
	size := func(p *component.Size, d component.Size) {
		if *p == 0 {
			*p = d
		}
	}
	dur := func(p *time.Duration, d time.Duration) {
		if *p == 0 {
			*p = d
		}
	}
	size(&c.MaxLineBytes, d.MaxLineBytes)
	size(&c.MaxMemory, d.MaxMemory)
	size(&c.BatchBytes, d.BatchBytes)
	size(&c.MaxPartialBytes, d.MaxPartialBytes)
	dur(&c.FlushInterval, d.FlushInterval)
	dur(&c.PollMin, d.PollMin)
	dur(&c.PollMax, d.PollMax)
	dur(&c.RescanInterval, d.RescanInterval)
	dur(&c.RotatedLinger, d.RotatedLinger)
	dur(&c.DeletedLinger, d.DeletedLinger)
	dur(&c.SaveInterval, d.SaveInterval)
	return c
}

// Validate returns every key whose value cannot be, as joined
// *component.FieldError.
func (c Config) Validate() error {
	var errs []error
	bad := func(key, msg string) { errs = append(errs, &component.FieldError{Key: key, Msg: msg}) }
	c = c.withDefaults()
	if c.Path != "" && !filepath.IsAbs(c.Path) {
		bad("path", "must be absolute")
	}
	if c.DockerRoot != "" && !filepath.IsAbs(c.DockerRoot) {
		bad("docker_root", "must be absolute, or empty to refuse all links")
	}
	between := func(key string, v, lo, hi component.Size) {
		if v < lo || v > hi {
			bad(key, "must be between "+strconv.FormatInt(int64(lo), 10)+" and "+strconv.FormatInt(int64(hi), 10)+" bytes")
		}
	}
	between("max_line_bytes", c.MaxLineBytes, 1<<10, 16<<20)
	between("batch_bytes", c.BatchBytes, 16<<10, 4<<20)
	between("max_memory", c.MaxMemory, 4<<20, 1<<40)
	between("max_partial_bytes", c.MaxPartialBytes, 1<<20, 1<<40)
	if c.MaxMemory < 2*(c.MaxLineBytes+c.BatchBytes) {
		bad("max_memory", "must hold two batches and two lines of the greatest length: raise it, or lower max_line_bytes or batch_bytes")
	}
	within := func(key string, v, lo, hi time.Duration) {
		if v < lo || v > hi {
			bad(key, "must be between "+lo.String()+" and "+hi.String())
		}
	}
	within("flush_interval", c.FlushInterval, time.Millisecond, time.Minute)
	within("poll_interval_min", c.PollMin, time.Millisecond, 10*time.Second)
	within("poll_interval_max", c.PollMax, time.Millisecond, time.Minute)
	if c.PollMin > c.PollMax {
		bad("poll_interval_min", "must not be above poll_interval_max")
	}
	within("rescan_interval", c.RescanInterval, 10*time.Millisecond, time.Hour)
	within("rotated_linger", c.RotatedLinger, time.Millisecond, time.Hour)
	within("deleted_linger", c.DeletedLinger, time.Millisecond, time.Hour)
	within("resource_wait", c.ResourceWait, 0, time.Minute)
	within("checkpoint_interval", c.SaveInterval, 10*time.Millisecond, time.Second)
	within("drain_timeout", c.DrainTimeout, 0, 5*time.Minute)
	if c.Workers < 0 || c.Workers > 64 {
		bad("workers", "must be between 0 and 64")
	}
	return errors.Join(errs...)
}
