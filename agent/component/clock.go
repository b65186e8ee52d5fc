package component

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Clock converts the kernel's CLOCK_BOOTTIME, which BPF programs stamp events
// with, to wall time. Safe for concurrent use.
type Clock struct{ offset atomic.Int64 }

// NewClock returns a clock that has read the offset once.
func NewClock() *Clock {
	c := &Clock{}
	c.sync()
	return c
}

// Run reads the offset again every second until ctx ends, because wall time is
// stepped and slewed under us.
func (c *Clock) Run(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			c.sync()
		}
	}
}

func (c *Clock) sync() {
	var boot unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) == nil {
		c.offset.Store(time.Now().UnixNano() - boot.Nano())
	}
}

// Wall returns unix nanoseconds of a CLOCK_BOOTTIME value.
func (c *Clock) Wall(boottimeNano int64) int64 { return boottimeNano + c.offset.Load() }
