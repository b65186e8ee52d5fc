package pipeline

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nodetap/agent/component"
	"nodetap/agent/telemetry"
)

func TestRoutes(t *testing.T) {
	names := []string{"forward", "otlp/pay", "otlp/all"} // forward takes no spans
	takes := [signals]set{0b111, 0b110}
	pay := &telemetry.Resource{Namespace: "pay-eu", Container: "api", Labels: map[string]string{"tier": "gold", "app": "x"}}
	web := &telemetry.Resource{Namespace: "web", Container: "nginx"}
	for _, tc := range []struct {
		name    string
		routes  Routes
		res     *telemetry.Resource
		logs    set
		spans   set
		noReach bool
	}{
		{"no routes: everything to all that take it", nil, web, 0b111, 0b110, false},
		{"first match decides", Routes{
			{Match: Match{Namespaces: []string{"web", "pay-*"}}, Exporters: []string{"otlp/pay"}},
			{Exporters: []string{"otlp/all"}}}, pay, 0b010, 0b010, false},
		{"nothing matches", Routes{{Match: Match{Namespaces: []string{"pay-?"}}, Exporters: []string{"otlp/pay"}}}, pay, 0, 0, false},
		{"continue gives the union", Routes{
			{Match: Match{Labels: map[string]string{"tier": "g*"}}, Exporters: []string{"forward"}, Continue: true},
			{Match: Match{Containers: []string{"api"}}, Exporters: []string{"forward", "otlp/pay"}}}, pay, 0b011, 0b010, false},
		{"all labels must match", Routes{
			{Match: Match{Labels: map[string]string{"tier": "gold", "app": "y"}}, Exporters: []string{"forward"}},
			{Exporters: []string{"otlp/all"}}}, pay, 0b100, 0b100, false},
		{"a label must be there", Routes{{Match: Match{Labels: map[string]string{"zone": "*"}}, Exporters: []string{"forward"}}}, pay, 0, 0, true},
		{"by signal", Routes{
			{Match: Match{Signals: []string{"logs"}}, Exporters: []string{"forward"}},
			{Match: Match{Signals: []string{"traces"}}, Exporters: []string{"otlp/all"}}}, web, 0b001, 0b100, false},
		{"a route to exporters of another signal is passed over", Routes{
			{Match: Match{Namespaces: []string{"web"}}, Exporters: []string{"forward"}},
			{Exporters: []string{"otlp/all"}}}, web, 0b001, 0b100, false},
		{"an empty list drops", Routes{
			{Match: Match{Namespaces: []string{"web"}}},
			{Exporters: []string{"otlp/all"}}}, web, 0, 0, false},
		{"no resource matches only *", Routes{
			{Match: Match{Namespaces: []string{"web"}}, Exporters: []string{"forward"}},
			{Match: Match{Namespaces: []string{"*"}}, Exporters: []string{"otlp/all"}}}, nil, 0b100, 0b100, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := errors.Join(tc.routes.Validate(), tc.routes.Check(names)); err != nil {
				t.Fatal(err)
			}
			var got, reach [signals]set
			for s := range signals {
				r := newRouter(tc.routes, names, s, takes[s])
				got[s], reach[s] = r.route(tc.res), r.reach
			}
			if got != [signals]set{tc.logs, tc.spans} {
				t.Errorf("logs to %b, spans to %b; want %b, %b", got[0], got[1], tc.logs, tc.spans)
			}
			if (reach[signalTraces] == 0) != tc.noReach {
				t.Errorf("spans reach %b", reach[signalTraces])
			}
		})
	}
}

func TestRouteMistakesAreNamed(t *testing.T) {
	rs := Routes{
		{Match: Match{Signals: []string{"logs", "metrics"}, Namespaces: []string{"a", "[b"}}, Exporters: []string{"otlp", "nope"}},
		{Match: Match{Containers: []string{`\`}, Labels: map[string]string{"app": "["}}},
	}
	got := map[string]bool{}
	for _, err := range flatten(errors.Join(rs.Validate(), rs.Check([]string{"otlp"}))) {
		var fe *component.FieldError
		if !errors.As(err, &fe) || fe.Msg == "" {
			t.Fatalf("%v", err)
		}
		got[fe.Key] = true
	}
	want := map[string]bool{
		"[0].match.signals[1]": true, "[0].match.namespaces[1]": true, "[0].exporters[1]": true,
		"[1].match.containers[0]": true, "[1].match.labels.app": true,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestConfigMistakesAreNamed(t *testing.T) {
	def := DefaultExporterConfig()
	if err := def.Validate(); err != nil {
		t.Fatalf("the defaults are not valid: %v", err)
	}
	c := ExporterConfig{Queue: QueueConfig{MaxBytes: 2 << 10, MaxBatchBytes: 4 << 10, Window: 0, Flush: -1, Timeout: 1,
		Retry: RetryConfig{Initial: time.Second, Max: time.Millisecond}, Spill: SpillConfig{MaxBytes: 1, MinFreePercent: 100}}}
	got := map[string]bool{}
	for _, err := range flatten(c.Validate()) {
		var fe *component.FieldError
		if !errors.As(err, &fe) {
			t.Fatal(err)
		}
		got[fe.Key] = true
	}
	want := map[string]bool{
		"queue.max_batch_bytes": true, "queue.window": true, "queue.flush": true, "queue.timeout": true,
		"queue.retry.max": true, "queue.spill.max_bytes": true, "queue.spill.min_free_percent": true,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for _, e := range [][]Instance{
		{{Name: "a", Exporter: &backend{}}, {Name: "a", Exporter: &backend{}}},
		{{Name: "a", Exporter: &backend{}, Queue: c.Queue}},
		make([]Instance, 65),
	} {
		if _, err := New(Options{Exporters: e}); err == nil {
			t.Errorf("%d exporters: no error", len(e))
		}
	}
}

func flatten(err error) []error {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, e := range j.Unwrap() {
			out = append(out, flatten(e)...)
		}
		return out
	}
	return []error{err}
}
