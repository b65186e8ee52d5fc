package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nodetap/agent/config"
	"nodetap/agent/pipeline"
)

var update = flag.Bool("update", false, "write the generated pages")

// TestPages holds the tables in the documentation against the code that they are
// generated from.
func TestPages(t *testing.T) {
	for path, want := range map[string]string{
		"../CONFIGURATION.md": configurationPage(t),
		"../METRICS.md":       metricsPage(t),
	} {
		if *update {
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, string(got)); d != "" {
			t.Errorf("%s is not current (make generate): %s", path, d)
		}
	}
}

const configurationIntro = `# Configuration

One YAML file. Every key has a default, so an empty file works; "nodetap validate --config FILE" checks one with the code that "nodetap run" starts with. This page is generated from the code (make generate).

- In any single value, ${env:NAME}, ${env:NAME:-default} and ${file:/path} are replaced, once. Write $${ for a plain ${.
- Durations: 500ms, 10s, 5m. Sizes: 1048576, 512KiB, 48MiB, 1GiB.
- Exporters are named instances: exporters.otlp/payments and exporters.otlp/audit both have the keys of exporters.otlp.
- Without routes everything goes to every exporter that takes its signal. The scrape endpoints (prom) are there even when the file does not name them.
`

func configurationPage(t *testing.T) string {
	c := newConfiguration()
	c.routes = make(pipeline.Routes, 1)
	var b strings.Builder
	b.WriteString(configurationIntro)
	section := "-"
	for _, k := range config.Describe(c.schema()) {
		name, key := "top of the file", k.Path
		parts := strings.SplitN(k.Path, ".", 3)
		switch {
		case len(parts) == 3 && (parts[0] == "collectors" || parts[0] == "exporters"):
			name, key = parts[0]+"."+parts[1], parts[2]
		case len(parts) > 1 && parts[0] != "host":
			name, key = parts[0], strings.Join(parts[1:], ".")
		}
		if name != section {
			section = name
			fmt.Fprintf(&b, "\n## %s\n\n| key | type | default | meaning |\n|---|---|---|---|\n", name)
		}
		if k.Doc == "" {
			t.Errorf("%s has no doc tag", k.Path)
		}
		def := ""
		if k.Default != "" {
			def = "`" + k.Default + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", key, k.Type, def, strings.ReplaceAll(k.Doc, "|", `\|`))
	}
	return b.String()
}

// TestREADMEConfigurationIsTrue runs what the README shows of the configuration:
// the example is valid, the mistake is told in the very words.
func TestREADMEConfigurationIsTrue(t *testing.T) {
	page, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	write := func(name, text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, rest, _ := strings.Cut(string(page), "```yaml\n")
	example, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("the README has no example")
	}
	write("key", "secret")
	write("example.yaml", strings.ReplaceAll(example, "/etc/nodetap/secret/key", "key"))
	if _, err := loadConfig("example.yaml"); err != nil {
		t.Error(err)
	}

	_, shown, _ := strings.Cut(string(page), "$ nodetap validate --config agent.yaml\n")
	shown, _, _ = strings.Cut(shown, "\n")
	write("agent.yaml", "collectors:\n  logs:\n    max_lien: 1MiB\n")
	if _, err := loadConfig("agent.yaml"); err == nil || err.Error() != shown {
		t.Errorf("the README shows %q, the program says %v", shown, err)
	}
}
