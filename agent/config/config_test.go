package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nodetap/agent/component"
)

type logsConfig struct {
	RefreshInterval time.Duration  `yaml:"refresh_interval" doc:"How often."`
	MaxLine         component.Size `yaml:"max_line" doc:"Longest line."`
	Workers         int            `yaml:"workers" doc:"How many."`
	Exclude         []string       `yaml:"exclude" doc:"What not."`
	TLS             struct {
		CAFile string `yaml:"ca_file" doc:"Roots."`
	} `yaml:"tls"`
}

func (c *logsConfig) Validate() error {
	var errs []error
	if c.Workers < 0 {
		errs = append(errs, &component.FieldError{Key: "workers", Msg: "must not be negative"})
	}
	if c.TLS.CAFile == "relative" {
		errs = append(errs, &component.FieldError{Key: "tls.ca_file", Msg: "must be absolute"})
	}
	return errors.Join(errs...)
}

type queue struct {
	Required bool `yaml:"required" doc:"Decides acks."`
}

type otlp struct {
	Endpoint string            `yaml:"endpoint" doc:"Where to."`
	Headers  map[string]string `yaml:"headers" doc:"Sent along."`
}

type route struct {
	Exporters []string `yaml:"exporters" doc:"Names."`
}

func testSchema() Schema {
	return Schema{
		Collectors: []Kind{{"logs", func() []any { return []any{&logsConfig{RefreshInterval: 10 * time.Second, MaxLine: 1 << 20}} }}},
		Exporters:  []Kind{{"otlp", func() []any { return []any{&queue{Required: true}, &otlp{}} }}},
		Sections:   map[string]any{"routes": &[]route{}},
	}
}

func TestEmptyFileIsTheDefaults(t *testing.T) {
	for _, in := range []string{"", "\n# nothing\n", "---\n", "collectors:\n", "collectors:\n  logs:\n"} {
		cfg, err := Parse("f.yaml", []byte(in), testSchema())
		if err != nil {
			t.Fatalf("%q: %v", in, err)
		}
		if d := cmp.Diff(DefaultSettings(), cfg.Settings); d != "" {
			t.Errorf("%q: %s", in, d)
		}
		logs := cfg.Collectors[0]
		if !logs.Enabled || logs.Targets[0].(*logsConfig).MaxLine != 1<<20 || len(cfg.Exporters) != 0 {
			t.Errorf("%q: collectors = %+v, exporters = %v", in, logs, cfg.Exporters)
		}
	}
	if _, err := Load("", testSchema()); err != nil {
		t.Error(err)
	}
}

func TestValuesReachTheirStructs(t *testing.T) {
	t.Setenv("TOKEN", "a: b # c")
	file := filepath.Join(t.TempDir(), "name")
	if err := os.WriteFile(file, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	in := `
log_level: debug
drain_timeout: 1m
host: {proc: /host/proc}
collectors:
  logs: {enabled: false, refresh_interval: 500ms, max_line: 64KiB, exclude: [a, 7], tls: {ca_file: "${file:` + file + `}"}}
exporters:
  otlp/b:
    required: false
    endpoint: $HOME-${env:NO_SUCH:-x}-$${env:TOKEN}
    headers: {Authorization: "Bearer ${env:TOKEN}"}
  otlp: {}
routes:
- exporters: [otlp, otlp/b]
`
	s := testSchema()
	cfg, err := Parse("f.yaml", []byte(in), s)
	if err != nil {
		t.Fatal(err)
	}
	logs := cfg.Collectors[0]
	want := logsConfig{RefreshInterval: 500 * time.Millisecond, MaxLine: 64 << 10, Exclude: []string{"a", "7"}}
	want.TLS.CAFile = "from-file"
	if d := cmp.Diff(&want, logs.Targets[0]); d != "" || logs.Enabled {
		t.Errorf("logs enabled=%v %s", logs.Enabled, d)
	}
	if len(cfg.Exporters) != 2 || cfg.Exporters[0].Name != "otlp" || cfg.Exporters[1].Name != "otlp/b" {
		t.Fatalf("exporters = %v", cfg.Exporters)
	}
	if d := cmp.Diff([]any{&queue{}, &otlp{Endpoint: "$HOME-x-${env:TOKEN}", Headers: map[string]string{"Authorization": "Bearer a: b # c"}}}, cfg.Exporters[1].Targets); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(&[]route{{Exporters: []string{"otlp", "otlp/b"}}}, s.Sections["routes"]); d != "" {
		t.Error(d)
	}
	if cfg.LogLevel != "debug" || cfg.DrainTimeout != time.Minute || cfg.Host.Proc != "/host/proc" || cfg.Host.Sys != "/sys" {
		t.Errorf("settings = %+v", cfg.Settings)
	}
}

func TestEveryMistakeIsToldWithItsPlace(t *testing.T) {
	t.Setenv("SECRET", "hunter2")
	in := `log_levle: debug
log_format: xml
pprof: 0.0.0.0:1
collectors:
  logs:
    refresh_intervall: 5s
    max_line: many
    workers: -1
    workers: 2
    tls: {ca_file: relative}
    exclude: x
  lgos: {}
exporters:
  otlp:
    required: yes please
    endpoint: [a]
    headers: {a: "${env:NO_SUCH_VARIABLE}"}
  otpl/x: {}
  otlp/: {}
drain_timeout: "${env:SECRET}"
routes: {}
`
	want := []string{
		`f.yaml:1:1: unknown key "log_levle" at the top of the file (did you mean "log_level"?)`,
		`f.yaml:2:13: log_format: must be one of auto, json, text, not "xml"`,
		`f.yaml:3:8: pprof: must be a loopback address: profiles tell what the agent reads`,
		`f.yaml:6:5: unknown key "refresh_intervall" in collectors.logs (did you mean "refresh_interval"?)`,
		`f.yaml:7:15: collectors.logs.max_line: "many" is no size: write a number of bytes, or one with KiB, MiB, GiB`,
		`f.yaml:8:14: collectors.logs.workers: must not be negative`,
		`f.yaml:9:5: key "workers" is there twice, first in line 8`,
		`f.yaml:10:20: collectors.logs.tls.ca_file: must be absolute`,
		`f.yaml:11:14: collectors.logs.exclude: must be a list, not a single value`,
		`f.yaml:12:3: unknown key "lgos" in collectors (did you mean "logs"?)`,
		`f.yaml:15:15: exporters.otlp.required: must be true or false, not "yes please"`,
		`f.yaml:16:15: exporters.otlp.endpoint: must be a text, not a list`,
		`f.yaml:17:18: exporters.otlp.headers.a: the environment has no NO_SUCH_VARIABLE: set it, or write ${env:NO_SUCH_VARIABLE:-default}`,
		`f.yaml:18:3: unknown key "otpl" in exporters (did you mean "otlp"?)`,
		`f.yaml:19:3: the instance's name after "otlp/" is empty`,
		`f.yaml:20:16: drain_timeout: must be a duration such as "500ms" or "10s", not the value of ${env:SECRET}`,
		`f.yaml:21:9: routes: must be a list, not a mapping`,
	}
	_, err := Parse("f.yaml", []byte(in), testSchema())
	if err == nil {
		t.Fatal("no error")
	}
	if d := cmp.Diff(want, strings.Split(err.Error(), "\n")); d != "" {
		t.Error(d)
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Error("an error repeats a secret")
	}
}

func TestBrokenYAMLNamesItsLine(t *testing.T) {
	_, err := Parse("f.yaml", []byte("a: b\n  c: [\n"), testSchema())
	if err == nil || !strings.HasPrefix(err.Error(), "f.yaml:2:3: not valid YAML: ") {
		t.Errorf("err = %v", err)
	}
	_, err = Parse("f.yaml", []byte("a: b: c\n"), testSchema())
	if err == nil || !strings.HasPrefix(err.Error(), "f.yaml:1:1: not valid YAML: ") {
		t.Errorf("err = %v", err)
	}
	_, err = Parse("f.yaml", []byte("log_level: info\n---\nlog_level: nonsense\n"), testSchema())
	if err == nil || !strings.Contains(err.Error(), "a second YAML document begins here") {
		t.Errorf("err = %v", err)
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none.yaml"), testSchema()); err == nil {
		t.Error("a file that is not there is no error")
	}
}

func TestNearestKey(t *testing.T) {
	valid := []string{"path", "max_line_bytes", "poll_min", "poll_max", "batch_bytes", "start"}
	for got, want := range map[string]string{
		"max_lien": "max_line_bytes", "max_line": "max_line_bytes", "poll": "poll_min", "batch": "batch_bytes",
		"Start": "start", "something": "",
	} {
		if n := nearest(got, valid); n != want {
			t.Errorf("nearest to %q is %q, want %q", got, n, want)
		}
	}
}

func TestABadValueIsOneMistake(t *testing.T) {
	_, err := Parse("f.yaml", []byte("drain_timeout: soon\nlog_level: [x]\n"), testSchema())
	if err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("err = %v", err)
	}
}

func TestCheckIsAskedBesideOtherMistakes(t *testing.T) {
	s := testSchema()
	s.Check = func(c *Config) Errors {
		return Errors{c.Mistake("routes[0].exporters[0]", "otpl", "no such exporter", []string{"otlp"})}
	}
	_, err := Parse("f.yaml", []byte("nopexyzabc: 1\nroutes:\n- exporters: [otpl]\n"), s)
	want := "f.yaml:1:1: unknown key \"nopexyzabc\" at the top of the file: valid are"
	if err == nil || !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), "f.yaml:3:15: routes[0].exporters[0]: no such exporter (did you mean \"otlp\"?)") {
		t.Errorf("err = %v", err)
	}
}

func TestDescribeListsEveryKeyWithItsDefault(t *testing.T) {
	got := map[string]string{}
	for _, k := range Describe(testSchema()) {
		got[k.Path] = k.Type + "=" + k.Default
		if k.Doc == "" {
			t.Errorf("%s has no doc", k.Path)
		}
	}
	for path, want := range map[string]string{
		"drain_timeout": "duration=20s", "host.proc": "text=/proc", "collectors.logs.max_line": "size=1MiB",
		"collectors.logs.tls.ca_file": "text=", "exporters.otlp.enabled": "boolean=true",
		"exporters.otlp.headers": "map of text=", "routes[].exporters": "list of text=",
	} {
		if got[path] != want {
			t.Errorf("%s is %q, want %q", path, got[path], want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("collectors:\n  logs: {max_line: 1MiB}\n")
	f.Add("a: &a [*a]\n")
	f.Add("exporters: {otlp/x: {headers: {a: ${env:X}}}}\n<<: {}\n")
	f.Fuzz(func(t *testing.T, in string) {
		if strings.Contains(in, "${file:") {
			return // it would read this machine's files
		}
		if cfg, err := Parse("f.yaml", []byte(in), testSchema()); (cfg == nil) == (err == nil) {
			t.Errorf("config %v and error %v", cfg, err)
		}
	})
}
