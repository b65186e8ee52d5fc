package component

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
)

// Group runs the goroutines of one component. The first that fails or panics
// ends the others, and Wait returns why: the supervisor then starts the
// component again, and the other components never notice.
type Group struct {
	wg     sync.WaitGroup
	cancel context.CancelCauseFunc
	ctx    context.Context //nolint:containedctx // it is the group's own, made in NewGroup
	parent context.Context //nolint:containedctx // only asked whether it has ended
}

// NewGroup returns a group and the context that its goroutines must heed: it
// ends with ctx, or with the first failure.
func NewGroup(ctx context.Context) (*Group, context.Context) {
	inner, cancel := context.WithCancelCause(ctx)
	return &Group{cancel: cancel, ctx: inner, parent: ctx}, inner
}

// Go runs f. A nil from f ends only f.
func (g *Group) Go(f func() error) {
	g.wg.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				g.cancel(fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
			}
		}()
		if err := f(); err != nil {
			g.cancel(err)
		}
	})
}

// Wait returns when every goroutine has: the first failure, nil when there was
// none before the parent context ended.
func (g *Group) Wait() error {
	g.wg.Wait()
	err := context.Cause(g.ctx)
	g.cancel(nil)
	if err != nil && g.parent.Err() != nil && err == context.Cause(g.parent) { //nolint:errorlint // the very same value
		return nil
	}
	return err
}
