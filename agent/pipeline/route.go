package pipeline

import (
	"errors"
	"fmt"
	"path"
	"slices"

	"nodetap/agent/component"
	"nodetap/agent/telemetry"
)

// maxExporters is how many instances a set of exporters (one word) can name.
const maxExporters = 64

// Routes is the section `routes` of the configuration: which batches go to
// which exporters. They are tried in order, and the first that matches decides,
// unless it says continue. A
// route none of whose exporters takes the batch's signal is passed over. Without routes everything goes to every exporter that
// takes its signal.
type Routes []Route

// Route sends the batches that match to exporters.
type Route struct {
	Name      string   `yaml:"name" doc:"For people; not used otherwise."`
	Match     Match    `yaml:"match"`
	Exporters []string `yaml:"exporters" doc:"Instances that get what matches. An empty list drops it, counted with the reason no_route."`
	Continue  bool     `yaml:"continue" doc:"Try the routes below too; what matches several goes to the exporters of all of them, once to each."`
}

// Match says what a route takes. An empty list takes everything; several lists
// must all match. Patterns are globs of a whole value: *, ?, [a-z].
type Match struct {
	Signals    []string          `yaml:"signals" doc:"logs, traces."`
	Namespaces []string          `yaml:"namespaces" doc:"Globs of the pod's namespace. What is no pod's has the empty namespace, which only * matches."`
	Labels     map[string]string `yaml:"labels" doc:"Labels of the pod: name to a glob of the value, * for any value. All must be there."`
	Containers []string          `yaml:"containers" doc:"Globs of the container's name."`
}

type signal uint8

const (
	signalLogs signal = iota
	signalTraces
	signals // how many there are
)

func (s signal) String() string { return [signals]string{"logs", "traces"}[s] }

// Validate implements the configuration's check of all that does not need to
// know which exporters there are; see Check.
func (rs Routes) Validate() error {
	var errs []error
	bad := func(i int, key, format string, args ...any) {
		errs = append(errs, &component.FieldError{Key: fmt.Sprintf("[%d].%s", i, key), Msg: fmt.Sprintf(format, args...)})
	}
	glob := func(i int, key, pattern string) {
		if _, err := path.Match(pattern, ""); err != nil {
			bad(i, key, "%q is no pattern: a [ needs its ], a \\ a character behind it", pattern)
		}
	}
	for i, r := range rs {
		for j, s := range r.Match.Signals {
			if s != signalLogs.String() && s != signalTraces.String() {
				bad(i, fmt.Sprintf("match.signals[%d]", j), "must be logs or traces, not %q (metrics are not routed)", s)
			}
		}
		for j, p := range r.Match.Namespaces {
			glob(i, fmt.Sprintf("match.namespaces[%d]", j), p)
		}
		for j, p := range r.Match.Containers {
			glob(i, fmt.Sprintf("match.containers[%d]", j), p)
		}
		for k, p := range r.Match.Labels {
			glob(i, "match.labels."+k, p)
		}
	}
	return errors.Join(errs...)
}

// Check tells which exporters the routes name that are not among names.
func (rs Routes) Check(names []string) error {
	var errs []error
	for i, r := range rs {
		for j, n := range r.Exporters {
			if !slices.Contains(names, n) {
				errs = append(errs, &component.FieldError{
					Key: fmt.Sprintf("[%d].exporters[%d]", i, j),
					Msg: fmt.Sprintf("there is no exporter %q; configured are %q", n, names),
				})
			}
		}
	}
	return errors.Join(errs...)
}

// set is a set of exporters by their index.
type set uint64

// router gives the exporters of a batch of one signal.
type router struct {
	all   set // every exporter that takes the signal
	reach set // those that some route leads to
	rules []rule
}

type rule struct {
	match Match
	to    set
	more  bool
}

// newRouter compiles the routes of a signal; all is the set of exporters that
// take it.
func newRouter(rs Routes, names []string, s signal, all set) router {
	if len(rs) == 0 {
		return router{all: all, reach: all}
	}
	r := router{all: all, rules: []rule{}}
	for _, route := range rs {
		if len(route.Match.Signals) > 0 && !slices.Contains(route.Match.Signals, s.String()) {
			continue
		}
		u := rule{match: route.Match, more: route.Continue}
		for _, n := range route.Exporters {
			if i := slices.Index(names, n); i >= 0 {
				u.to |= 1 << i & all
			}
		}
		if len(route.Exporters) > 0 && u.to == 0 {
			continue // a route to exporters of other signals says nothing about this one
		}
		r.reach |= u.to
		r.rules = append(r.rules, u)
	}
	return r
}

// route returns the exporters of what belongs to res.
func (r *router) route(res *telemetry.Resource) set {
	if r.rules == nil {
		return r.all
	}
	if res == nil {
		res = &noResource
	}
	var to set
	for i := range r.rules {
		u := &r.rules[i]
		if !u.match.takes(res) {
			continue
		}
		to |= u.to
		if !u.more {
			break
		}
	}
	return to
}

var noResource telemetry.Resource

func (m *Match) takes(res *telemetry.Resource) bool {
	if !anyGlob(m.Namespaces, res.Namespace) || !anyGlob(m.Containers, res.Container) {
		return false
	}
	for k, p := range m.Labels {
		v, ok := res.Labels[k]
		if !ok || !glob(p, v) {
			return false
		}
	}
	return true
}

func anyGlob(patterns []string, s string) bool {
	for _, p := range patterns {
		if glob(p, s) {
			return true
		}
	}
	return len(patterns) == 0
}

// glob matches a whole value. A slash is a character like any other: label
// values have none, and * alone takes everything.
func glob(pattern, s string) bool {
	if pattern == "*" || pattern == s {
		return true
	}
	ok, err := path.Match(pattern, s)
	return ok && err == nil
}
