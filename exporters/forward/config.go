package forward

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"nodetap/agent/component"
)

// Config is the section `forward` of the exporters.
type Config struct {
	Endpoint    string `yaml:"endpoint" doc:"Receiver as host:port or tcp://host:port, with TLS as tls://host:port."`
	Tag         string `yaml:"tag" doc:"Tag of a container's records. Placeholders: {namespace} {pod} {pod_uid} {container} {container_id} {node} {service} {workload}. Records of no pod are tagged host and the file's path with dots, as Fluent Bit does for host.*."`
	Compression string `yaml:"compression" doc:"gzip, none, or zstd (Fluentd from 1.19, Fluent Bit's in_forward; others close the connection)."`
	RecordID    bool   `yaml:"record_id" doc:"true adds nodetap_id to each record: the same line sent twice has the same id, so that a backend can remove it. Off by default, because Fluent Bit's records have no such key."`

	ChunkBytes Size `yaml:"chunk_bytes" doc:"Largest chunk before compression. A single record that is larger goes alone."`
	InFlight   int  `yaml:"in_flight" doc:"Chunks that may wait for their acknowledgement at once, on the one connection."`
	MaxResets  int  `yaml:"max_resets" doc:"How often the receiver may drop the connection on, or not acknowledge, one chunk that is alone on the wire, before the chunk is split, and its one record given up as rejected."`

	AckTimeout     time.Duration `yaml:"ack_timeout" doc:"How long to wait for a chunk's acknowledgement, and for the receiver to read it."`
	ConnectTimeout time.Duration `yaml:"connect_timeout" doc:"How long connecting may take, TLS and the shared key's handshake included."`
	Keepalive      time.Duration `yaml:"keepalive" doc:"Interval of TCP keep-alive probes. 0: none."`

	TLS  component.TLS `yaml:"tls"`
	Auth Auth          `yaml:"auth"`
}

// Size is component.Size, named here for the sake of short lines.
type Size = component.Size

// Auth is the shared-key handshake. Files are read for every connection.
type Auth struct {
	SharedKey     string `yaml:"shared_key" doc:"The receiver's shared_key. Better shared_key_file. Both empty: no handshake."`
	SharedKeyFile string `yaml:"shared_key_file" doc:"File that holds the shared key; a newline at its end does not count."`
	Username      string `yaml:"username" doc:"User, for receivers with user authentication."`
	Password      string `yaml:"password" doc:"The user's password. Better password_file."`
	PasswordFile  string `yaml:"password_file" doc:"File that holds the password; a newline at its end does not count."`
	Hostname      string `yaml:"hostname" doc:"Name that the agent gives itself in the handshake. Empty: the node's name."`
}

// DefaultTag is the tag that Fluent Bit gives the log of a container.
const DefaultTag = "kube.var.log.containers.{pod}_{namespace}_{container}-{container_id}.log"

// Default returns what an empty section means.
func Default() Config {
	return Config{
		Endpoint: "127.0.0.1:24224", Tag: DefaultTag, Compression: "gzip",
		ChunkBytes: 1 << 20, InFlight: 8, MaxResets: 5,
		AckTimeout: 30 * time.Second, ConnectTimeout: 10 * time.Second, Keepalive: 30 * time.Second,
	}
}

// Validate reports every key that cannot be used.
func (c *Config) Validate() error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, &component.FieldError{Key: key, Msg: fmt.Sprintf(format, args...)})
	}
	if _, _, err := parseEndpoint(c.Endpoint); err != nil {
		bad("endpoint", "%v", err)
	}
	if _, err := parseTag(c.Tag); err != nil {
		bad("tag", "%v", err)
	}
	switch c.Compression {
	case "gzip", "zstd", "none":
	default:
		bad("compression", "%q is not gzip, zstd or none", c.Compression)
	}
	if c.ChunkBytes < 1<<10 || c.ChunkBytes > 1<<20 {
		bad("chunk_bytes", "must lie between 1KiB and 1MiB: receivers drop the connection on much larger ones")
	}
	if c.InFlight < 1 || c.InFlight > 1024 {
		bad("in_flight", "must lie between 1 and 1024")
	}
	if c.MaxResets < 1 {
		bad("max_resets", "must be at least 1")
	}
	for key, d := range map[string]time.Duration{"ack_timeout": c.AckTimeout, "connect_timeout": c.ConnectTimeout} {
		if d <= 0 {
			bad(key, "must be more than 0")
		}
	}
	if c.Keepalive < 0 {
		bad("keepalive", "must not be negative; 0 switches the probes off")
	}
	if err := c.TLS.Validate("tls"); err != nil {
		errs = append(errs, err)
	}
	if c.Auth.SharedKey != "" && c.Auth.SharedKeyFile != "" {
		bad("auth.shared_key", "shared_key and shared_key_file exclude each other")
	}
	if c.Auth.Password != "" && c.Auth.PasswordFile != "" {
		bad("auth.password", "password and password_file exclude each other")
	}
	if c.Auth.Username != "" && !c.Auth.enabled() {
		bad("auth.username", "user authentication is part of the shared key's handshake: set auth.shared_key_file too")
	}
	return errors.Join(errs...)
}

// parseEndpoint returns host:port and whether to speak TLS.
func parseEndpoint(s string) (addr string, tls bool, err error) {
	addr = s
	if scheme, rest, ok := strings.Cut(s, "://"); ok {
		switch scheme {
		case "tcp":
		case "tls":
			tls = true
		default:
			return "", false, fmt.Errorf("scheme %q is not tcp or tls", scheme)
		}
		addr = rest
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" || port == "" {
		return "", false, fmt.Errorf("%q is not host:port", addr)
	}
	return addr, tls, nil
}

func (a *Auth) enabled() bool { return a.SharedKey != "" || a.SharedKeyFile != "" }

// secrets reads the files of today.
func (a *Auth) secrets() (key, password string, err error) {
	if key, err = secret(a.SharedKey, a.SharedKeyFile); err != nil {
		return "", "", fmt.Errorf("read the shared key: %w", err)
	}
	if password, err = secret(a.Password, a.PasswordFile); err != nil {
		return "", "", fmt.Errorf("read the password: %w", err)
	}
	return key, password, nil
}

func secret(value, file string) (string, error) {
	if file == "" {
		return value, nil
	}
	b, err := os.ReadFile(file)
	return strings.TrimRight(string(b), "\r\n"), err
}
