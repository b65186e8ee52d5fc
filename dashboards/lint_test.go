package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// model is what the lint reads of Grafana's classic JSON.
type model struct {
	UID           string
	Title         string
	Description   string
	Tags          []string
	Editable      *bool
	Refresh       string
	GraphTooltip  int
	SchemaVersion int
	Panels        []modelPanel
	Templating    struct{ List []modelVariable }
}

type modelPanel struct {
	ID                       int
	Type, Title, Description string
	Datasource               modelSource
	GridPos                  struct{ X, Y, W, H int }
	FieldConfig              struct{ Defaults struct{ Unit string } }
	Targets                  []struct {
		Datasource                modelSource
		Expr, LegendFormat, RefID string
	}
}

type modelSource struct{ Type, UID string }

type modelVariable struct {
	Name, Type string
	Multi      bool
	Datasource modelSource
	Query      json.RawMessage
}

// rateInterval stands for $__rate_interval while a query is parsed.
const rateInterval = 7*time.Minute + 13*time.Second

var (
	variablePattern = regexp.MustCompile(`\$\{?(\w+)\}?`)
	valuesPattern   = regexp.MustCompile(`^label_values\((.+), (\w+)\)$`)
	legendPattern   = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)
)

// lint returns what is wrong with a dashboard in the light of the metrics that
// there are.
func lint(raw []byte, known families) []string {
	var m model
	if err := json.Unmarshal(raw, &m); err != nil {
		return []string{err.Error()}
	}
	l := &linter{known: known, variables: map[string]bool{}}
	l.check(len(m.UID) >= 8 && len(m.UID) <= 40, "uid %q", m.UID)
	l.check(m.Title != "" && m.Description != "" && slices.Contains(m.Tags, "nodetap"), "no title, description or tag")
	l.check(m.Editable != nil && !*m.Editable, "editable")
	l.check(m.Refresh == "30s" && m.GraphTooltip == 1, "refresh %q, tooltip %d", m.Refresh, m.GraphTooltip)
	l.check(m.SchemaVersion >= 39 && m.SchemaVersion <= 42, "schema version %d", m.SchemaVersion)
	for _, v := range m.Templating.List {
		l.variable(v)
	}
	titles, ids, cells := map[string]bool{}, map[int]bool{}, map[[2]int]string{}
	for _, p := range m.Panels {
		l.at = fmt.Sprintf("panel %q: ", p.Title)
		l.check(p.ID > 0 && !ids[p.ID], "id %d", p.ID)
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				l.check(x < 24 && cells[[2]int{x, y}] == "", "overlaps %q, or is beyond the edge", cells[[2]int{x, y}])
				cells[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		l.check(p.Title != "" && !titles[p.Title], "title missing or used twice")
		titles[p.Title] = true
		l.check(strings.HasSuffix(p.Description, "."), "no description")
		l.check(p.FieldConfig.Defaults.Unit != "", "no unit")
		l.source(p.Datasource)
		l.check(len(p.Targets) > 0, "no queries")
		refs := map[string]bool{}
		for _, t := range p.Targets {
			l.source(t.Datasource)
			l.check(t.RefID != "" && !refs[t.RefID], "reference %q", t.RefID)
			refs[t.RefID] = true
			l.query(t.Expr, t.LegendFormat, len(p.Targets) > 1)
		}
	}
	return l.found
}

type linter struct {
	known     families
	variables map[string]bool // by name, whether several can be chosen
	last      string          // the last variable, the narrowest
	at        string
	found     []string
}

func (l *linter) check(ok bool, format string, args ...any) {
	if !ok {
		l.found = append(l.found, l.at+fmt.Sprintf(format, args...))
	}
}

func (l *linter) source(s modelSource) {
	l.check(s == modelSource{"prometheus", "${datasource}"}, "data source %v", s)
}

func (l *linter) variable(v modelVariable) {
	l.at = fmt.Sprintf("variable %q: ", v.Name)
	if v.Type == "datasource" {
		l.check(v.Name == "datasource" && len(l.variables) == 0, "the data source has to be the first")
		return
	}
	l.source(v.Datasource)
	var q struct{ Query string }
	l.check(json.Unmarshal(v.Query, &q) == nil, "query %s", v.Query)
	if f := valuesPattern.FindStringSubmatch(q.Query); f == nil {
		l.check(false, "query %q", q.Query)
	} else if expr := l.parse(f[1]); expr != nil {
		for _, s := range l.selectors(expr) {
			l.check(s.labels[f[2]], "%s has no label %s", s.name, f[2])
		}
	}
	l.variables[v.Name], l.last = v.Multi, v.Name
}

// parse reads an expression, with any text for its variables.
func (l *linter) parse(expr string) parser.Expr {
	for _, f := range variablePattern.FindAllStringSubmatch(expr, -1) {
		if _, ok := l.variables[f[1]]; !ok && f[1] != "__rate_interval" {
			l.check(false, "no variable %s", f[0])
		}
	}
	plain := strings.ReplaceAll(expr, "$__rate_interval", "7m13s")
	plain = variablePattern.ReplaceAllString(plain, "@$1") // a text that says which variable it was
	parsed, err := parser.ParseExpr(plain)
	l.check(err == nil, "%s: %v", expr, err)
	if err != nil {
		return nil
	}
	return parsed
}

func (l *linter) query(expr, legend string, several bool) {
	parsed := l.parse(expr)
	if parsed == nil {
		return
	}
	grouped := map[string]bool{}
	parser.Inspect(parsed, func(node parser.Node, path []parser.Node) error {
		switch n := node.(type) {
		case *parser.AggregateExpr:
			l.check(!n.Without, "without instead of by")
			for _, by := range n.Grouping {
				grouped[by] = true
				for _, s := range l.selectors(n.Expr) {
					l.check(s.labels[by], "%s has no label %s", s.name, by)
				}
			}
		case *parser.MatrixSelector:
			l.check(n.Range == rateInterval, "range %s instead of $__rate_interval", n.Range)
		case *parser.VectorSelector:
			l.narrowed(n)
			name := n.Name
			counts := l.known.counter(name)
			rated := false
			if len(path) >= 2 {
				if call, ok := path[len(path)-2].(*parser.Call); ok {
					rated = call.Func.Name == "rate" || call.Func.Name == "increase"
				}
			}
			l.check(counts == rated, "%s: counter %v, under rate or increase %v", name, counts, rated)
		}
		return nil
	})
	selectors := l.selectors(parsed)
	l.check(len(selectors) > 0, "%s queries nothing", expr)
	for _, f := range legendPattern.FindAllStringSubmatch(legend, -1) {
		l.check(grouped[f[1]], "legend's %s is not in the result of %s", f[1], expr)
	}
	for by := range grouped {
		l.check(by == "le" || strings.Contains(legend, "{{"+by+"}}"), "legend %q does not tell %s apart", legend, by)
	}
	l.check(!several || legend != "", "several queries, and no legend for %s", expr)
}

// narrowed checks that a selector selects by the narrowest variable.
func (l *linter) narrowed(s *parser.VectorSelector) {
	l.check(slices.ContainsFunc(s.LabelMatchers, func(m *labels.Matcher) bool { return m.Value == "@"+l.last }),
		"%s is not narrowed by $%s", s.Name, l.last)
}

type selected struct {
	name   string
	labels map[string]bool
}

// selectors lists what an expression selects, and checks names and labels.
func (l *linter) selectors(expr parser.Expr) []selected {
	var out []selected
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		v, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		have := l.known.labels(v.Name)
		l.check(have != nil, "the agent has no metric %s", v.Name)
		for _, m := range v.LabelMatchers {
			l.check(have == nil || m.Name == labels.MetricName || have[m.Name], "%s has no label %s", v.Name, m.Name)
			if name, ok := strings.CutPrefix(m.Value, "@"); ok {
				l.check(l.variables[name] == (m.Type == labels.MatchRegexp), "%s: several of $%s: %v, matched by %s", v.Name, name, l.variables[name], m.Type)
			}
		}
		if have != nil {
			out = append(out, selected{v.Name, have})
		}
		return nil
	})
	return out
}
