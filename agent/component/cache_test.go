package component

import (
	"testing"

	"nodetap/agent/telemetry"
)

func TestResourceCacheRendersOncePerPointerAndIsBounded(t *testing.T) {
	renders := 0
	c := NewResourceCache(4, func(r *telemetry.Resource) string { renders++; return r.Pod })
	keep := &telemetry.Resource{Pod: "keep"}
	for i := range 100 {
		if got := c.Get(keep); got != "keep" {
			t.Fatalf("got %q", got)
		}
		c.Get(&telemetry.Resource{Pod: "other"})
		if n := len(c.now) + len(c.old); n > 8 {
			t.Fatalf("%d entries after %d resources", n, i)
		}
	}
	if renders != 101 {
		t.Errorf("rendered %d times, want once for the one that stays in use and once for each other", renders)
	}
}
