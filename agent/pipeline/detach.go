package pipeline

import "time"

// frame is where an item lies on disk.
type frame struct{}

func (f *frame) done() {}

type detachState struct{ detached bool }

func (q *queue) kickSpiller() {}

func (p *Pipeline) considerDetach(q *queue) {}

func (q *queue) stalledLocked(now time.Time) bool { return false }
