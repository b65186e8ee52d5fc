package component

import (
	"errors"
	"testing"
	"time"
)

func TestClockConvertsBoottimeToNow(t *testing.T) {
	c := NewClock()
	before := time.Now().UnixNano()
	now := c.Wall(bootNow(t))
	after := time.Now().UnixNano()
	// one sync lies between: allow the time that the calls themselves took
	if slack := int64(50 * time.Millisecond); now < before-slack || now > after+slack {
		t.Errorf("wall = %d, want between %d and %d", now, before, after)
	}
}

func TestErrorsUnwrap(t *testing.T) {
	cause := errors.New("cause")
	for _, err := range []error{&Retry{Err: cause}, &Permanent{Err: cause}, &Unsupported{Missing: "x", Err: cause}} {
		if !errors.Is(err, cause) {
			t.Errorf("%T hides its cause", err)
		}
	}
}
