package containers

import (
	"errors"
	"time"
)

// Config is the section `containers` of the configuration.
type Config struct {
	Source         string        `yaml:"source" doc:"how cgroups that come and go are noticed: auto (bpf, else inotify), bpf, or inotify"`
	RescanInterval time.Duration `yaml:"rescan_interval" doc:"how often the whole cgroup tree is compared with what the events said"`
	KeepRemoved    time.Duration `yaml:"keep_removed" doc:"how long a removed container can still be resolved"`
}

// Default returns the configuration of an empty section.
func Default() Config {
	return Config{Source: "auto", RescanInterval: 30 * time.Second, KeepRemoved: 5 * time.Minute}
}

// Validate returns every key that is wrong.
func (c Config) Validate() error {
	var errs []error
	if c.Source != "auto" && c.Source != "bpf" && c.Source != "inotify" {
		errs = append(errs, &fieldError{"source", "must be auto, bpf or inotify"})
	}
	if c.RescanInterval < time.Second {
		errs = append(errs, &fieldError{"rescan_interval", "must be 1s or more"})
	}
	if c.KeepRemoved < 0 || c.KeepRemoved > time.Hour {
		errs = append(errs, &fieldError{"keep_removed", "must lie between 0s and 1h"})
	}
	return errors.Join(errs...)
}

// fieldError has the methods that agent/config looks for; component.FieldError
// lies above this package.
type fieldError struct{ key, msg string }

func (e *fieldError) Error() string        { return e.key + ": " + e.msg }
func (e *fieldError) FieldKey() string     { return e.key }
func (e *fieldError) FieldMessage() string { return e.msg }
