package pipeline

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"nodetap/agent/telemetry"
)

// sinkhole takes everything at once.
type sinkhole struct{}

func (sinkhole) Run(ctx context.Context) error                             { <-ctx.Done(); return nil }
func (sinkhole) ExportLogs(context.Context, []*telemetry.LogBatch) error   { return nil }
func (sinkhole) ExportSpans(context.Context, []*telemetry.SpanBatch) error { return nil }

// BenchmarkBatch is what a batch costs from Send to its release, with a sender
// per file and at most 16,000 lines of each on their way.
func BenchmarkBatch(b *testing.B) {
	for _, bc := range []struct {
		name      string
		exporters int
		lines     int
		size      int
		routes    Routes
	}{
		{"1 exporter, 1 line of 200 B", 1, 1, 200, nil},
		{"1 exporter, 1000 lines of 200 B", 1, 1000, 200, nil},
		{"3 exporters, 1000 lines of 200 B", 3, 1000, 200, nil},
		{"1 exporter, 1000 lines of 200 B, 5 routes", 1, 1000, 200, Routes{
			{Match: Match{Namespaces: []string{"kube-*"}}, Exporters: []string{"e0"}},
			{Match: Match{Namespaces: []string{"pay-[a-z]*"}}, Exporters: []string{"e0"}},
			{Match: Match{Labels: map[string]string{"tier": "gold"}}, Exporters: []string{"e0"}},
			{Match: Match{Containers: []string{"istio-*"}}, Exporters: []string{"e0"}},
			{Exporters: []string{"e0"}},
		}},
	} {
		b.Run(bc.name, func(b *testing.B) {
			var o Options
			for i := range bc.exporters {
				o.Exporters = append(o.Exporters, Instance{Name: fmt.Sprintf("e%d", i), Exporter: sinkhole{}, Required: true})
			}
			o.Routes = bc.routes
			p, err := New(o)
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			var wg sync.WaitGroup
			wg.Go(func() { _ = p.Run(ctx) }) //nolint:errcheck // nil
			sink := p.Sink("bench")
			b.SetBytes(int64(bc.lines * bc.size))
			b.ReportAllocs()
			b.ResetTimer()
			const files = 4
			var senders sync.WaitGroup
			for f := range files {
				lb := logBatch(fmt.Sprintf("/var/log/pods/ns_pod-%d_uid/c/0.log", f), 0, bc.lines, bc.size)
				senders.Go(func() {
					room := make(chan struct{}, 1+16000/bc.lines)
					lb.OnReleased = func() { <-room }
					for range b.N / files {
						room <- struct{}{}
						if err := sink.SendLogs(ctx, lb); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			senders.Wait()
			if err := p.Drain(ctx); err != nil {
				b.Error(err)
			}
			b.StopTimer()
			cancel()
			wg.Wait()
		})
	}
}
