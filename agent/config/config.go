// Package config reads the agent's one YAML file: strict decoding into the
// components' own structs, defaults, ${env:} and ${file:} in scalars, and every
// mistake at once with file, line, column, key and the nearest valid key.
//
// It knows no component: main says which sections there are and into what each
// is decoded. It does not watch the file.
//
// Invariants: an empty file is valid. Nothing is half applied: Load returns
// either a whole Config or errors. No value of a secret is repeated in an error.
package config

import (
	"fmt"
	"os"
	"sort"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Settings are the keys at the top of the file that belong to no component.
type Settings struct {
	LogLevel     string        `yaml:"log_level" doc:"Least severe level that the agent logs about itself: debug, info, warn or error."`
	LogFormat    string        `yaml:"log_format" doc:"Format of the agent's own log on stderr: json, text, or auto (text on a terminal, else json)."`
	Cluster      string        `yaml:"cluster" doc:"Name of the cluster: the resource attribute k8s.cluster.name. Empty: the attribute is left out."`
	NodeName     string        `yaml:"node_name" doc:"Name of this node in Kubernetes. Empty: $NODE_NAME, else the host name."`
	StateDir     string        `yaml:"state_dir" doc:"Directory for checkpoints and spilled data, created if it is not there. One agent at a time may use it."`
	DrainTimeout time.Duration `yaml:"drain_timeout" doc:"How long delivery goes on after SIGTERM. Keep it below the pod's terminationGracePeriodSeconds. 0: no draining."`
	Pprof        string        `yaml:"pprof" doc:"Loopback address of Go's profiling endpoints, /debug/pprof. Empty: off."`
	Host         Host          `yaml:"host"`
}

// Host says where the node's file systems are mounted inside the agent.
type Host struct {
	Proc   string `yaml:"proc" doc:"The node's /proc."`
	Sys    string `yaml:"sys" doc:"The node's /sys."`
	Cgroup string `yaml:"cgroup" doc:"Where the node's cgroup file systems are mounted."`
	Log    string `yaml:"log" doc:"The node's /var/log, which holds pods/ and containers/."`
}

// DefaultSettings returns what an empty file means.
func DefaultSettings() Settings {
	return Settings{
		LogLevel: "info", LogFormat: "auto", StateDir: "/var/lib/nodetap",
		DrainTimeout: 20 * time.Second, Pprof: "127.0.0.1:9401",
		Host: Host{Proc: "/proc", Sys: "/sys", Cgroup: "/sys/fs/cgroup", Log: "/var/log"},
	}
}

// Validate checks the values against each other.
func (s *Settings) Validate() error { return validateSettings(s) }

// Kind is one sort of collector or exporter that the program has.
type Kind struct {
	Name string
	// New returns pointers to structs filled with defaults. The keys of the
	// section are the union of the structs' keys.
	New func() []any
}

// Schema says what the file may contain besides Settings.
type Schema struct {
	Collectors []Kind
	Exporters  []Kind
	// Sections are further sections at the top: name to a pointer that holds the
	// defaults and takes the values.
	Sections map[string]any
	// Check finds what only the program as a whole can know (Config.Mistake makes
	// its errors). It is called with what could be decoded, even beside other
	// mistakes. May be nil.
	Check func(*Config) Errors
}

// Component is one collector or exporter of the configuration.
type Component struct {
	Kind    string // "otlp"
	Name    string // the instance: "otlp/payments"; of a collector its kind
	Enabled bool
	Targets []any // what Kind.New returned, filled
	section *section
}

// Config is a whole, valid configuration.
type Config struct {
	Settings
	Collectors []*Component // in the schema's order, those that are left out too
	Exporters  []*Component // sorted by name; only those that the file names
	Path       string       // "" when there is no file
	root       *yaml.Node
}

// Load reads the file and returns the configuration, or an Errors. An empty path
// is an empty file.
func Load(path string, schema Schema) (*Config, error) {
	var data []byte
	if path != "" {
		var err error
		if data, err = os.ReadFile(path); err != nil {
			return nil, fmt.Errorf("read the configuration: %w", err)
		}
	}
	return Parse(path, data, schema)
}

// Parse is Load for bytes; path serves in messages alone.
func Parse(path string, data []byte, schema Schema) (*Config, error) {
	d := &decoder{file: path}
	root := d.document(data)
	cfg := &Config{Settings: DefaultSettings(), Path: path, root: root}

	top := struct {
		Collectors map[string]*section `yaml:"collectors"`
		Exporters  map[string]*section `yaml:"exporters"`
	}{}
	extra := make([]string, 0, len(schema.Sections))
	for name := range schema.Sections {
		extra = append(extra, name)
	}
	sort.Strings(extra)
	d.structs(root, "", []any{&cfg.Settings, &top}, extra)
	for _, name := range extra {
		if n := lookup(root, name); n != nil {
			d.value(n, name, schema.Sections[name])
		}
		d.validate(root, name, schema.Sections[name])
	}
	d.validate(root, "", &cfg.Settings)

	for _, k := range schema.Collectors {
		s := top.Collectors[k.Name]
		delete(top.Collectors, k.Name)
		cfg.Collectors = append(cfg.Collectors, d.component(k, k.Name, "collectors."+k.Name, s))
	}
	d.unknownNames(top.Collectors, "collectors", schema.Collectors)
	byName := map[string]Kind{}
	for _, k := range schema.Exporters {
		byName[k.Name] = k
	}
	names := make([]string, 0, len(top.Exporters))
	for name := range top.Exporters {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		kind, suffix, named := strings.Cut(name, "/")
		k, ok := byName[kind]
		if !ok {
			continue
		}
		if named && suffix == "" {
			d.errorf(top.Exporters[name].key, "exporters."+name, "the instance's name after %q is empty", kind+"/")
		}
		cfg.Exporters = append(cfg.Exporters, d.component(k, name, "exporters."+name, top.Exporters[name]))
		delete(top.Exporters, name)
	}
	d.unknownNames(top.Exporters, "exporters", schema.Exporters)
	if schema.Check != nil {
		d.errs = append(d.errs, schema.Check(cfg)...)
	}
	if len(d.errs) > 0 {
		sort.SliceStable(d.errs, func(i, j int) bool {
			a, b := d.errs[i], d.errs[j]
			return a.Line < b.Line || a.Line == b.Line && a.Column < b.Column
		})
		return nil, d.errs
	}
	return cfg, nil
}

type common struct {
	Enabled bool `yaml:"enabled" doc:"false switches the component off and leaves its section in the file."`
}

func (d *decoder) component(k Kind, name, key string, s *section) *Component {
	c := &Component{Kind: k.Name, Name: name, Targets: k.New(), section: s}
	com := common{Enabled: true}
	var node *yaml.Node
	if s != nil {
		node = s.node
	}
	d.structs(node, key, append([]any{&com}, c.Targets...), nil)
	for _, t := range c.Targets {
		d.validateAt(node, sectionKey(s), key, t)
	}
	c.Enabled = com.Enabled
	return c
}

func (d *decoder) unknownNames(rest map[string]*section, in string, kinds []Kind) {
	valid := make([]string, len(kinds))
	for i, k := range kinds {
		valid[i] = k.Name
	}
	for name, s := range rest {
		kind, _, _ := strings.Cut(name, "/")
		d.unknown(s.key, in+"."+name, kind, in, valid)
	}
}
