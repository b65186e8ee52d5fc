package pods

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
)

// mirror is a cache.ReflectorStore that keeps T instead of API objects.
type mirror[T any] struct {
	from        func(runtime.Object) (T, bool)
	set, remove func(T)
	replace     func([]T)
}

// reduced carries a T through the reflector's temporary store, which asks for
// namespace, name and resource version.
type reduced struct {
	metav1.ObjectMeta
	value any
}

func (m *mirror[T]) get(obj any) (v T, err error) {
	if r, ok := obj.(*reduced); ok {
		return r.value.(T), nil
	}
	o, _ := obj.(runtime.Object)
	v, ok := m.from(o)
	if !ok {
		return v, fmt.Errorf("unexpected object %T", obj)
	}
	return v, nil
}

// Transformer reduces objects while a list is streamed, so that it never is in
// memory as a whole.
func (m *mirror[T]) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) {
		if _, ok := obj.(*reduced); ok {
			return obj, nil
		}
		acc, err := meta.Accessor(obj)
		if err != nil {
			return nil, err
		}
		v, err := m.get(obj)
		if err != nil {
			return nil, err
		}
		return &reduced{value: v, ObjectMeta: metav1.ObjectMeta{
			Namespace: acc.GetNamespace(), Name: acc.GetName(), ResourceVersion: acc.GetResourceVersion(),
		}}, nil
	}
}

func (m *mirror[T]) Add(obj any) error { return m.Update(obj) }

func (m *mirror[T]) Update(obj any) error {
	v, err := m.get(obj)
	if err == nil {
		m.set(v)
	}
	return err
}

func (m *mirror[T]) Delete(obj any) error {
	v, err := m.get(obj)
	if err == nil {
		m.remove(v)
	}
	return err
}

func (m *mirror[T]) Replace(list []any, _ string) error {
	all := make([]T, 0, len(list))
	for _, obj := range list {
		v, err := m.get(obj)
		if err != nil {
			return err
		}
		all = append(all, v)
	}
	m.replace(all)
	return nil
}

func (m *mirror[T]) Resync() error { return nil }

// endingClock lets the reflector's waits end with its context: some of them are
// plain receives of a backoff of up to a minute, which would hold up a shutdown.
type endingClock struct {
	clock.RealClock
	done context.Context
}

func (c endingClock) After(d time.Duration) <-chan time.Time {
	ch := make(chan time.Time, 1)
	fire := func() {
		select {
		case ch <- time.Now():
		default:
		}
	}
	var stop func() bool
	armed := make(chan struct{})
	t := time.AfterFunc(d, func() {
		<-armed
		stop()
		fire()
	})
	stop = context.AfterFunc(c.done, func() {
		t.Stop()
		fire()
	})
	close(armed)
	return ch
}
