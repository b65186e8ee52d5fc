package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lockState makes the state directory and takes its lock, so that two agents
// never write the same checkpoints. The kernel gives the lock back when the
// process ends, however it ends.
func lockState(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory (set state_dir to a writable one): %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the state directory (set state_dir to a writable one): %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("the state directory %s belongs to an agent that runs: end it, or set another state_dir", dir)
		}
		return nil, fmt.Errorf("lock the state directory %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}
