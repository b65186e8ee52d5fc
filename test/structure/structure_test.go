// Package structure holds the tree to its rules: which package may import which,
// where each big dependency may live, and that every package says what it is.
// The picture is in ARCHITECTURE.md; this test is what keeps it true.
package structure

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"
)

const module = "nodetap"

// pkg is what go list says of a package, and what all of its files import,
// whatever their build constraints.
type pkg struct {
	ImportPath string
	Name       string
	Dir        string
	Doc        string
	GoFiles, CgoFiles, IgnoredGoFiles,
	TestGoFiles, XTestGoFiles []string

	imports     map[string]bool // of the package itself
	testImports map[string]bool // of its tests alone
}

// path is the package's place in the tree: "agent/pods", "agent" for main.
func (p *pkg) path() string { return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/") }

// family returns the package that path is a part of: agent/pipeline for itself
// and for agent/pipeline/spill.
func family(path string) string {
	parts := strings.SplitN(path, "/", 3)
	return strings.Join(parts[:min(len(parts), 2)], "/")
}

// layer of a package of the module: a package imports only what lies in a layer
// below its own. A package's parts share its layer. ok is false for what is no
// part of the agent (tests, tools).
func layer(path string) (n int, ok bool) {
	path = family(path)
	switch {
	case path == "agent/telemetry":
		return 0, true
	case path == "agent/containers", path == "agent/incidents", path == "agent/pods", path == "agent/metrics":
		return 1, true
	case path == "agent/component":
		return 2, true
	case path == "agent/pipeline", path == "agent/config", strings.HasPrefix(path, "collectors/"), strings.HasPrefix(path, "exporters/"):
		return 3, true
	case path == "agent":
		return 4, true
	}
	return 0, false
}

// homes says where a dependency may be imported, by the prefix of its path.
var homes = []struct {
	prefix, why string
	in          []string // exact paths, or prefixes that end in "/"
}{
	{"k8s.io/", "Kubernetes is known to agent/pods alone", []string{"agent/pods"}},
	{"sigs.k8s.io/", "Kubernetes is known to agent/pods alone", []string{"agent/pods"}},
	{"github.com/cilium/ebpf", "the kernel is traced by agent/containers and collectors alone", []string{"agent/containers", "collectors/"}},
	{"github.com/fluent/", "Fluent Forward is known to exporters/forward alone", []string{"exporters/forward"}},
	{"github.com/IBM/fluent-forward-go", "it registers the same msgp extension as fluent-logger-golang and panics at start", nil},
	{"go.opentelemetry.io/", "OpenTelemetry's libraries are known to exporters/otlp alone", []string{"exporters/otlp"}},
}

// check returns every breach of the rules, sorted.
func check(list []*pkg) []string {
	var out []string
	bad := func(p *pkg, format string, args ...any) {
		out = append(out, p.ImportPath+": "+fmt.Sprintf(format, args...))
	}
	for _, p := range list {
		from, inAgent := layer(p.path())
		area, _, _ := strings.Cut(p.path(), "/")
		if !inAgent && area != "test" && area != "manifests" && area != "dashboards" {
			bad(p, "is in no layer: put it below agent, collectors, exporters or test, and name its layer here")
		}
		if len(p.GoFiles)+len(p.CgoFiles) > 0 {
			want := "Package " + p.Name + " "
			if p.Name == "main" {
				want = "Command "
			}
			if !strings.HasPrefix(p.Doc, want) {
				bad(p, "has no doc comment that begins with %q", want)
			}
		}
		for _, imp := range union(p.imports, p.testImports) {
			path, ours := strings.CutPrefix(imp, module+"/")
			if !ours {
				for _, h := range homes {
					if strings.HasPrefix(imp, h.prefix) && area != "test" && !at(family(p.path()), h.in) {
						bad(p, "imports %s: %s", imp, h.why)
					}
				}
				if p.path() == "agent/telemetry" && p.imports[imp] && strings.Contains(strings.SplitN(imp, "/", 2)[0], ".") {
					bad(p, "imports %s: it uses the standard library alone", imp)
				}
				continue
			}
			to, toAgent := layer(path)
			switch {
			case !inAgent && area == "test":
				// Black-box tests and tools use what they need.
			case !inAgent:
				bad(p, "imports %s: what is beside the agent does not use its packages", imp)
			case !toAgent:
				bad(p, "imports %s: the agent does not use its tests and tools", imp)
			case family(path) == family(p.path()):
				// A package's parts, and its external tests.
			case path != family(path):
				bad(p, "imports %s, which is a part of %s: no other package imports it", imp, family(path))
			case to >= from:
				bad(p, "imports %s: imports go down only", imp)
			}
		}
	}
	sort.Strings(out)
	return out
}

func at(path string, in []string) bool {
	for _, home := range in {
		if path == home || strings.HasSuffix(home, "/") && strings.HasPrefix(path, home) {
			return true
		}
	}
	return false
}

func union(sets ...map[string]bool) []string {
	all := map[string]bool{}
	for _, s := range sets {
		for k := range s {
			all[k] = true
		}
	}
	out := make([]string, 0, len(all))
	for k := range all {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

// load lists the module's packages with the imports of all their files.
func load(t *testing.T) []*pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Name,Dir,Doc,GoFiles,CgoFiles,IgnoredGoFiles,TestGoFiles,XTestGoFiles", "./...")
	cmd.Dir = filepath.Join("..", "..")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var list []*pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		p := &pkg{imports: map[string]bool{}, testImports: map[string]bool{}}
		if err := dec.Decode(p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		for _, files := range [][]string{p.GoFiles, p.CgoFiles, p.IgnoredGoFiles, p.TestGoFiles, p.XTestGoFiles} {
			for _, name := range files {
				if p.path() == "agent" && name == "deps.go" {
					continue // keeps modules in go.mod, never built
				}
				into := p.imports
				if strings.HasSuffix(name, "_test.go") {
					into = p.testImports
				}
				f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.ImportsOnly)
				if err != nil {
					t.Fatal(err)
				}
				for _, i := range f.Imports {
					path, err := strconv.Unquote(i.Path.Value)
					if err != nil {
						t.Fatal(err)
					}
					into[path] = true
				}
			}
		}
		list = append(list, p)
	}
}

func TestTheTreeKeepsItsRules(t *testing.T) {
	list := load(t)
	seen := map[string]bool{}
	for _, p := range list {
		seen[p.path()] = true
		if p.path() == "agent/pods" && !p.imports["k8s.io/client-go/rest"] {
			t.Error("agent/pods imports no client-go: imports are not read")
		}
	}
	for _, want := range []string{"agent", "agent/telemetry", "agent/component", "agent/pods", "agent/pipeline", "collectors/logs", "exporters/prom"} {
		if !seen[want] {
			t.Errorf("go list does not name %s: what was checked is not the tree", want)
		}
	}
	for _, b := range check(list) {
		t.Error(b)
	}
}

func TestEachRuleCanBeBroken(t *testing.T) {
	mk := func(path string, imports ...string) *pkg {
		name := path[strings.LastIndexByte(path, '/')+1:]
		p := &pkg{ImportPath: module + "/" + path, Name: name, Doc: "Package " + name + " is here.", GoFiles: []string{"x.go"}, imports: map[string]bool{}}
		if path == "agent" {
			p.Name, p.Doc = "main", "Command nodetap runs."
		}
		for _, i := range imports {
			p.imports[i] = true
		}
		return p
	}
	undocumented, misnamed, tested := mk("agent/pods"), mk("agent/pods"), mk("collectors/logs")
	undocumented.Doc, misnamed.Doc = "", "Pods are here."
	tested.testImports = map[string]bool{module + "/exporters/otlp": true}
	for _, c := range []struct {
		name string
		p    *pkg
		want string // part of the breach; "" for none
	}{
		{"main uses everything", mk("agent", "nodetap/agent/config", "nodetap/agent/pipeline", "nodetap/collectors/logs", "nodetap/exporters/prom"), ""},
		{"a collector", mk("collectors/apm", "nodetap/agent/component", "nodetap/agent/pods", "github.com/cilium/ebpf/ringbuf", "fmt"), ""},
		{"component", mk("agent/component", "nodetap/agent/pods", "nodetap/agent/metrics", "github.com/prometheus/client_golang/prometheus"), ""},
		{"the pipeline uses its part", mk("agent/pipeline", "nodetap/agent/pipeline/spill"), ""},
		{"a part uses component", mk("agent/pipeline/spill", "nodetap/agent/component"), ""},
		{"a part uses an exporter", mk("agent/pipeline/spill", "nodetap/exporters/prom"), "down only"},
		{"main uses a package's part", mk("agent", "nodetap/agent/pipeline/spill"), "a part of agent/pipeline"},
		{"a black-box test", mk("test/integration", "nodetap/agent/pods", "nodetap/exporters/otlp", "go.opentelemetry.io/collector/pdata/plog"), ""},
		{"a collector uses an exporter", mk("collectors/logs", "nodetap/exporters/otlp"), "down only"},
		{"a collector's test uses an exporter", tested, "down only"},
		{"a collector uses another", mk("collectors/logs", "nodetap/collectors/apm"), "down only"},
		{"an exporter uses another", mk("exporters/prom", "nodetap/exporters/otlp"), "down only"},
		{"an exporter uses the pipeline", mk("exporters/prom", "nodetap/agent/pipeline"), "down only"},
		{"the pipeline uses an exporter", mk("agent/pipeline", "nodetap/exporters/prom"), "down only"},
		{"a collector uses main", mk("collectors/logs", "nodetap/agent"), "down only"},
		{"a collector reads the configuration", mk("collectors/logs", "nodetap/agent/config"), "down only"},
		{"pods knows containers", mk("agent/pods", "nodetap/agent/containers"), "down only"},
		{"pods knows component", mk("agent/pods", "nodetap/agent/component"), "down only"},
		{"telemetry uses metrics", mk("agent/telemetry", "nodetap/agent/metrics"), "down only"},
		{"telemetry uses a library", mk("agent/telemetry", "github.com/cespare/xxhash/v2"), "standard library"},
		{"client-go elsewhere", mk("collectors/logs", "k8s.io/client-go/rest"), "agent/pods alone"},
		{"ebpf in an exporter", mk("exporters/prom", "github.com/cilium/ebpf"), "collectors alone"},
		{"fluent elsewhere", mk("exporters/otlp", "github.com/fluent/fluent-logger-golang/fluent"), "exporters/forward alone"},
		{"IBM's library", mk("exporters/forward", "github.com/IBM/fluent-forward-go/fluent"), "panics at start"},
		{"OpenTelemetry elsewhere", mk("agent/pipeline", "go.opentelemetry.io/otel/semconv/v1.43.0"), "exporters/otlp alone"},
		{"no doc", undocumented, "no doc comment"},
		{"a doc that does not name it", misnamed, "no doc comment"},
		{"the agent uses a test's package", mk("agent/pods", "nodetap/test/demo"), "tests and tools"},
		{"the image builder uses the agent", mk("manifests/image", "nodetap/agent/config"), "beside the agent"},
		{"a package from nowhere", mk("internal/util"), "no layer"},
	} {
		got := check([]*pkg{c.p})
		if c.want == "" && len(got) != 0 || c.want != "" && (len(got) != 1 || !strings.Contains(got[0], c.want)) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
