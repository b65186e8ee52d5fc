package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nodetap/agent/telemetry"
)

// TestAttributesPage holds ATTRIBUTES.md against the code: what a full Resource
// says, and every attribute key that the sources of spans and log records hold.
func TestAttributesPage(t *testing.T) {
	page, err := os.ReadFile("../ATTRIBUTES.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(string(page), -1) {
		documented[row[1]] = true
	}

	used := map[string]bool{}
	for _, kind := range []string{"Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "CronJob", "Job", "ReplicationController"} {
		for _, image := range []string{"r/a@sha256:00", "sha256:00"} {
			r := telemetry.Resource{
				Cluster: "c", Node: "n", Namespace: "s", Pod: "p", PodUID: "u", PodIP: "i", Container: "c", ContainerID: "d",
				Image: "r/a:t", ImageID: image, RestartCount: 1, WorkloadKind: kind, WorkloadName: "w", OwnerKind: "ReplicaSet", OwnerName: "o",
				ServiceName: "s", ServiceNamespace: "s", ServiceVersion: "v", ServiceInstanceID: "x",
				Labels: map[string]string{"<key>": "v"}, Annotations: map[string]string{"<key>": "v"},
			}
			for _, a := range r.AppendAttrs(nil) {
				used[a.Key] = true
			}
		}
	}
	files, _ := filepath.Glob("../collectors/apm/*.go")
	for _, file := range append(files, "../exporters/otlp/logs.go") {
		if !strings.HasSuffix(file, "_test.go") {
			attributeKeys(t, file, used)
		}
	}
	if d := cmp.Diff(slices.Sorted(maps.Keys(used)), slices.Sorted(maps.Keys(documented))); d != "" {
		t.Errorf("ATTRIBUTES.md (+) is not what the code says (-): %s", d)
	}
}

var attributeKey = regexp.MustCompile(`^(http|url|server|client|network|user_agent|error|service|process|log|nodetap|otel)(\.[a-z_0-9]+)+$`)

func attributeKeys(t *testing.T, file string, keys map[string]bool) {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		if kv, ok := n.(*ast.KeyValueExpr); ok { // a family's name is no attribute
			if id, ok := kv.Key.(*ast.Ident); ok && id.Name == "OTelName" {
				return false
			}
		}
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if s, err := strconv.Unquote(lit.Value); err == nil && attributeKey.MatchString(s) {
				keys[s] = true
			}
		}
		return true
	})
}
