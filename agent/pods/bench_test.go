package pods

import (
	"fmt"
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// thousand returns the sample's pods again and again under other names.
func thousand(b testing.TB) []corev1.Pod {
	sample := samplePods(b)
	out := make([]corev1.Pod, 1000)
	for i := range out {
		p := sample[i%len(sample)].DeepCopy()
		p.Name, p.UID = fmt.Sprintf("%s-%d", p.Name, i), types.UID(fmt.Sprintf("%08x-0000-0000-0000-000000000000", i))
		for j := range p.Status.ContainerStatuses {
			p.Status.ContainerStatuses[j].ContainerID = fmt.Sprintf("containerd://%063x%d", i, j)
			p.Status.ContainerStatuses[j].LastTerminationState = corev1.ContainerState{}
		}
		out[i] = *p
	}
	return out
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkMemoryPerPod reports what a pod takes: as the API object, as what is
// kept of it, and with every Resource made that a container and its pod have.
func BenchmarkMemoryPerPod(b *testing.B) {
	for b.Loop() {
		start := heap()
		full := thousand(b)
		api := heap()
		k := testKeep()
		kept := make([]*pod, len(full))
		for i := range full {
			kept[i] = newPod(&full[i], k)
		}
		own := heap()
		runtime.KeepAlive(full)
		full = nil
		before := heap()
		s := newStore(b, offline(), Options{})
		for _, p := range kept {
			s.upsert(p, true)
		}
		stored := heap()
		for _, p := range kept {
			for _, c := range p.Containers {
				s.LogPath(p.Namespace, p.Name, p.UID, c.Name, c.Restart)
			}
			s.Pod(p.UID)
		}
		all := heap()
		b.ReportMetric(float64(api-start)/1000, "api-B/pod")
		b.ReportMetric(float64(own-api)/1000, "own-B/pod")
		b.ReportMetric(float64(stored-before)/1000, "index-B/pod")
		b.ReportMetric(float64(all-stored)/1000, "resources-B/pod")
		runtime.KeepAlive(s)
		runtime.KeepAlive(kept)
	}
}

func BenchmarkLookup(b *testing.B) {
	s := newStore(b, offline(), Options{})
	fill(b, s)
	b.Run("container", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if s.Container(webID) == nil {
				b.Fatal("unknown")
			}
		}
	})
	b.Run("log-path", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if s.LogPath("demo", "web-5cddbf469b-5r45s", webUID, "web", 1).Partial {
				b.Fatal("unknown")
			}
		}
	})
}
