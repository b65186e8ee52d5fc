package metrics

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLabelsAreSortedEscapedAndEmptyOnesLeftOut(t *testing.T) {
	l := NewLabels([]Label{{Name: "b", Value: "x\"\\\n"}, {Name: "a", Value: "1"}, {Name: "e"}, {Name: "k"}}, "k")
	if got, want := l.Text(), `a="1",b="x\"\\\n",k=""`; got != want {
		t.Errorf("text = %s, want %s", got, want)
	}
	if got := NewLabels([]Label{{Name: "a", Value: "\xff"}}).Text(); got != "a=\"\uFFFD\"" {
		t.Errorf("invalid UTF-8 became %q", got)
	}
}

func TestSnapshotHoldsEverySourceOfItsPath(t *testing.T) {
	r := NewRegistry()
	up := &Desc{Name: "z_up", Type: Gauge}
	other := &Desc{Name: "a_total", Type: Counter}
	empty := &Desc{Name: "never", Type: Gauge}
	r.Register("/p", SourceFunc(func(b *Builder) { b.Family(empty); b.Add(up, Series{Value: 1}) }))
	drop := r.Register("/p", SourceFunc(func(b *Builder) { b.Add(up, Series{Value: 2}); b.Add(other, Series{Value: 3}) }))
	count := func() map[string]int {
		out := map[string]int{}
		for _, f := range r.Snapshot("/p").Families {
			out[f.Desc.Name] = len(f.Series)
		}
		return out
	}
	if d := cmp.Diff(map[string]int{"a_total": 1, "z_up": 2}, count()); d != "" {
		t.Error(d)
	}
	drop()
	if d := cmp.Diff(map[string]int{"z_up": 1}, count()); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"/p"}, r.Paths()); d != "" {
		t.Error(d)
	}
}
