package component

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// Register registers a metric of a component about itself and returns it, or
// the one that an earlier life of the same component registered: a component
// that is started again goes on counting. It panics when the description
// contradicts another metric's, which is a programmer's error.
func Register[C prometheus.Collector](r prometheus.Registerer, c C) C {
	err := r.Register(c)
	if already, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if old, ok := already.ExistingCollector.(C); ok {
			return old
		}
	}
	if err != nil {
		panic(err)
	}
	return c
}
