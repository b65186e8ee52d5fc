package prom

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"nodetap/agent/component"
)

// Config is the section `prom` of the exporters.
type Config struct {
	Listen               string        `yaml:"listen" doc:"Address to serve on, host:port. An empty host is every address of the agent's network."`
	Timeout              time.Duration `yaml:"timeout" doc:"Longest time that one scrape may take, from its headers to its last byte."`
	MaxConcurrentScrapes int           `yaml:"max_concurrent_scrapes" doc:"Scrapes that are answered at the same time. One more gets status 503, and is counted. Probes are not limited."`
}

// Default returns what an empty section means.
func Default() Config {
	return Config{Listen: ":9400", Timeout: 30 * time.Second, MaxConcurrentScrapes: 8}
}

// Validate reports every key that cannot be used.
func (c *Config) Validate() error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, &component.FieldError{Key: key, Msg: fmt.Sprintf(format, args...)})
	}
	if _, port, err := net.SplitHostPort(c.Listen); err != nil {
		bad("listen", "%q is no host:port", c.Listen)
	} else if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		bad("listen", "%q is no port from 0 to 65535", port)
	} else {
		_ = n // 0 is any free port: of use in tests
	}
	if c.Timeout < time.Second || c.Timeout > 10*time.Minute {
		bad("timeout", "%s is not between 1s and 10m", c.Timeout)
	}
	if c.MaxConcurrentScrapes < 1 || c.MaxConcurrentScrapes > 1024 {
		bad("max_concurrent_scrapes", "%d is not between 1 and 1024", c.MaxConcurrentScrapes)
	}
	return errors.Join(errs...)
}
