package main

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestCommittedFilesAreGenerated(t *testing.T) {
	uids := map[string]bool{}
	for _, b := range boards {
		if uids[b.uid] {
			t.Errorf("uid %s twice", b.uid)
		}
		uids[b.uid] = true
		out, err := b.json()
		if err != nil {
			t.Fatal(err)
		}
		if read(t, b.file) != string(out) {
			t.Errorf("%s is not what the code makes: go run .", b.file)
		}
	}
	files, err := filepath.Glob("*.json")
	if err != nil || len(files) != len(boards) {
		t.Errorf("%d dashboards, and the files %v (%v)", len(boards), files, err)
	}
}

func TestDashboardsQueryWhatTheAgentHas(t *testing.T) {
	known := knownFamilies(t)
	for _, b := range boards {
		for _, problem := range lint([]byte(read(t, b.file)), known) {
			t.Errorf("%s: %s", b.file, problem)
		}
	}
}

func TestLintFinds(t *testing.T) {
	known := knownFamilies(t)
	good := query{`sum by (reason) (rate(nodetap_apm_events_dropped_total{job="$job", node=~"$node"}[$__rate_interval]))`, "{{reason}}"}
	lintOf := func(change func(*board, *panel)) []string {
		p := panel{title: "T", description: "D.", unit: "short", width: 8, queries: []query{good}}
		b := board{uid: "nodetap-test", title: "T", description: "D.", variables: agent.variables}
		change(&b, &p)
		b.rows = append(b.rows, row{"R", []panel{p}})
		out, err := b.json()
		if err != nil {
			t.Fatal(err)
		}
		return lint(out, known)
	}
	if found := lintOf(func(*board, *panel) {}); len(found) != 0 {
		t.Fatalf("of a good dashboard: %q", found)
	}
	expr := func(old, with string) func(*board, *panel) {
		return func(_ *board, p *panel) { p.queries = []query{{strings.Replace(good.expr, old, with, 1), good.legend}} }
	}
	for name, c := range map[string]struct {
		change func(*board, *panel)
		want   string
	}{
		"short uid":      {func(b *board, _ *panel) { b.uid = "x" }, "uid"},
		"no description": {func(_ *board, p *panel) { p.description = "" }, "no description"},
		"no unit":        {func(_ *board, p *panel) { p.unit = "" }, "no unit"},
		"no queries":     {func(_ *board, p *panel) { p.queries = nil }, "no queries"},
		"beyond the edge": {func(b *board, p *panel) {
			p.width = 16
			q := *p
			q.title = "Q"
			b.rows = []row{{"Q", []panel{*p, q}}}
		}, "beyond the edge"},
		"title twice":      {func(b *board, p *panel) { b.rows = []row{{"Q", []panel{*p}}} }, "used twice"},
		"not PromQL":       {expr("]))", "])"), "unclosed left parenthesis"},
		"unknown metric":   {expr("events_dropped", "events_lost"), "no metric nodetap_apm_events_lost_total"},
		"unknown label":    {expr("job=", "pod="), "has no label pod"},
		"unknown grouping": {expr("reason", "cause"), "has no label cause"},
		"bare counter":     {expr("rate(nodetap", "(nodetap"), "expected type instant vector"},
		"counter, not rated": {func(_ *board, p *panel) {
			p.queries = []query{{`nodetap_apm_events_total{job="$job", node=~"$node"}`, ""}}
		}, "counter true, under rate or increase false"},
		"rated gauge": {func(_ *board, p *panel) {
			p.queries = []query{{`rate(nodetap_apm_series{node=~"$node"}[$__rate_interval])`, ""}}
		}, "counter false, under rate or increase true"},
		"fixed range":       {expr("$__rate_interval", "5m"), "instead of $__rate_interval"},
		"unknown variable":  {expr("$job", "$cluster"), "no variable $cluster"},
		"several, by =":     {expr("=~", "="), "several of $node"},
		"all nodes":         {expr(`, node=~"$node"`, ""), "not narrowed by $node"},
		"legend without by": {expr("by (reason) ", ""), "not in the result"},
		"by without legend": {func(_ *board, p *panel) { p.queries[0].legend = "x" }, "does not tell reason apart"},
		"variable of nothing": {func(b *board, _ *panel) {
			b.variables = append(b.variables[:1:1], variable{name: "node", query: "label_values(nope, node)", multi: true})
		}, "no metric nope"},
	} {
		t.Run(name, func(t *testing.T) {
			if found := strings.Join(lintOf(c.change), "\n"); !strings.Contains(found, c.want) {
				t.Errorf("want %q, found %q", c.want, found)
			}
		})
	}
}
