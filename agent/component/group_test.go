package component

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func TestGroupEndsAllWithTheFirstFailure(t *testing.T) {
	g, ctx := NewGroup(t.Context())
	g.Go(func() error { <-ctx.Done(); return nil })
	g.Go(func() error { panic("broken") })
	if err := g.Wait(); err == nil || !strings.Contains(err.Error(), "panic: broken") {
		t.Errorf("err = %v", err)
	}

	cause := errors.New("failed")
	g, ctx = NewGroup(t.Context())
	g.Go(func() error { return cause })
	g.Go(func() error { <-ctx.Done(); return ctx.Err() })
	if err := g.Wait(); !errors.Is(err, cause) {
		t.Errorf("err = %v", err)
	}
}

func TestGroupIsSilentWhenItsParentEnds(t *testing.T) {
	parent, cancel := context.WithCancel(t.Context())
	g, ctx := NewGroup(parent)
	g.Go(func() error { <-ctx.Done(); return nil })
	g.Go(func() error { return nil })
	cancel()
	if err := g.Wait(); err != nil {
		t.Errorf("err = %v", err)
	}
}
