package otlp

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"nodetap/agent/component"
)

// Config is the section `otlp` of the exporters.
type Config struct {
	Endpoint    string            `yaml:"endpoint" doc:"Receiver: http://host:port without TLS, https://host:port with it. Over HTTP a path before /v1/logs may follow."`
	Protocol    string            `yaml:"protocol" doc:"grpc or http/protobuf."`
	Compression string            `yaml:"compression" doc:"gzip, zstd or none. Every receiver takes gzip; the OpenTelemetry Collector takes zstd too."`
	Headers     map[string]string `yaml:"headers" doc:"Headers of each request (over gRPC its metadata). Secrets belong into header_files."`
	HeaderFiles map[string]string `yaml:"header_files" doc:"Headers whose value is read from a file for each request; a newline at its end does not count."`
	Timeout     time.Duration     `yaml:"timeout" doc:"How long one request may take."`
	MaxRequest  component.Size    `yaml:"max_request_bytes" doc:"Largest request before compression; more is sent in several. Receivers often take 4 MiB."`
	TLS         component.TLS     `yaml:"tls"`
	Logs        Logs              `yaml:"logs"`
	Traces      Traces            `yaml:"traces"`
	Metrics     Metrics           `yaml:"metrics"`
}

// Logs is what concerns logs alone.
type Logs struct {
	Path     string `yaml:"path" doc:"Path of logs over HTTP, behind the endpoint's."`
	FilePath bool   `yaml:"file_path" doc:"true adds log.file.path to each record."`
}

// Traces is what concerns traces alone.
type Traces struct {
	Path string `yaml:"path" doc:"Path of traces over HTTP, behind the endpoint's."`
}

// Metrics is what concerns metrics alone.
type Metrics struct {
	Path     string        `yaml:"path" doc:"Path of metrics over HTTP, behind the endpoint's."`
	Interval time.Duration `yaml:"interval" doc:"How often the metrics are sent. 0: never."`
	Self     bool          `yaml:"self" doc:"true sends the agent's metrics about itself too."`
}

// Default returns what an empty section means.
func Default() Config {
	return Config{
		Endpoint: "http://127.0.0.1:4317", Protocol: "grpc", Compression: "gzip",
		Timeout: 10 * time.Second, MaxRequest: 3 << 20,
		Logs: Logs{Path: "/v1/logs"}, Traces: Traces{Path: "/v1/traces"},
		Metrics: Metrics{Path: "/v1/metrics", Interval: 15 * time.Second},
	}
}

// Validate reports every key that cannot be used.
func (c *Config) Validate() error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, &component.FieldError{Key: key, Msg: fmt.Sprintf(format, args...)})
	}
	u, err := url.Parse(c.Endpoint)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		bad("endpoint", "%q is not http://host:port or https://host:port", c.Endpoint)
	case c.Protocol == "grpc" && strings.Trim(u.Path, "/") != "":
		bad("endpoint", "a path (%s) has no meaning with protocol grpc", u.Path)
	case c.Protocol == "grpc" && u.Port() == "":
		bad("endpoint", "needs a port with protocol grpc, usually 4317")
	}
	switch c.Protocol {
	case "grpc", "http/protobuf":
	default:
		bad("protocol", "%q is not grpc or http/protobuf", c.Protocol)
	}
	switch c.Compression {
	case "gzip", "zstd", "none":
	default:
		bad("compression", "%q is not gzip, zstd or none", c.Compression)
	}
	if c.Timeout <= 0 {
		bad("timeout", "must be more than 0")
	}
	if c.MaxRequest < 16<<10 || c.MaxRequest > 64<<20 {
		bad("max_request_bytes", "must lie between 16KiB and 64MiB")
	}
	if c.Metrics.Interval < 0 || c.Metrics.Interval > 0 && c.Metrics.Interval < time.Second {
		bad("metrics.interval", "must be at least 1s, or 0 to send no metrics")
	}
	for key, headers := range map[string]map[string]string{"headers": c.Headers, "header_files": c.HeaderFiles} {
		for name := range headers {
			if !validHeader(name) {
				bad(key+"."+name, "is no name of a header, or one that the protocol sets itself")
			}
		}
	}
	for name := range c.HeaderFiles {
		for other := range c.Headers {
			if strings.EqualFold(name, other) {
				bad("header_files."+name, "is in headers too: keep one")
			}
		}
	}
	if err := c.TLS.Validate("tls"); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func validHeader(name string) bool {
	if name == "" || strings.HasPrefix(strings.ToLower(name), "grpc-") {
		return false
	}
	switch http.CanonicalHeaderKey(name) {
	case "Content-Type", "Content-Encoding", "Content-Length", "Host", "Transfer-Encoding", "Te":
		return false
	}
	for _, c := range []byte(name) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	return true
}

// headers calls set for each header, with the files' content of today.
func (c *Config) headers(set func(name, value string)) error {
	for name, value := range c.Headers {
		set(name, value)
	}
	for name, file := range c.HeaderFiles {
		b, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read the header %s: %w", name, err)
		}
		set(name, strings.TrimRight(string(b), "\r\n"))
	}
	return nil
}
