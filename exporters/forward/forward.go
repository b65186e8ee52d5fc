package forward

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"

	"nodetap/agent/component"
	"nodetap/agent/telemetry"
)

// Exporter sends log records to one receiver. Make it with New.
type Exporter struct {
	cfg       Config
	addr      string
	tls       bool
	hostname  string
	log       *slog.Logger
	m         *selfMetrics
	resources *component.ResourceCache[*rendered]
	fates     fates
	backoff   [2]time.Duration // first and longest wait before connecting again

	mu      sync.Mutex
	conn    *conn         // nil while there is none
	failure error         // of the last attempt to connect; nil while one runs
	nextTry time.Time     // with failure
	changed chan struct{} // closed and replaced whenever one of these changes
}

var _ component.LogExporter = (*Exporter)(nil)

// Reconnection: the wait doubles from the first to the last, each with jitter.
const (
	firstBackoff = 500 * time.Millisecond
	lastBackoff  = 30 * time.Second
)

// New returns an exporter that connects when Run starts.
func New(env component.Env, cfg Config) (*Exporter, error) {
	addr, useTLS, err := parseEndpoint(cfg.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("endpoint: %w", err)
	}
	tag, err := parseTag(cfg.Tag)
	if err != nil {
		return nil, fmt.Errorf("tag: %w", err)
	}
	e := &Exporter{
		cfg: cfg, addr: addr, tls: useTLS, log: env.Logger, m: newMetrics(env.Registerer),
		hostname: cfg.Auth.Hostname, changed: make(chan struct{}),
		backoff: [2]time.Duration{firstBackoff, lastBackoff},
	}
	if e.hostname == "" {
		e.hostname = env.NodeName
	}
	if e.hostname == "" {
		e.hostname, _ = os.Hostname() // "" is a name too: the receiver only echoes it
	}
	e.resources = component.NewResourceCache(0, func(r *telemetry.Resource) *rendered { return render(tag, r) })
	return e, nil
}

// Run keeps the connection until ctx ends: it connects, reads acks, and
// connects again with backoff and jitter.
func (e *Exporter) Run(ctx context.Context) error {
	backoff := e.backoff[0]
	defer e.set(nil, errors.New("the exporter has stopped"), time.Time{})
	said := ""
	for ctx.Err() == nil {
		e.set(nil, nil, time.Time{})
		idle := false
		c, a, err := e.connect(ctx)
		if err == nil {
			if said != "" {
				e.log.Info("connected again", "endpoint", e.cfg.Endpoint)
				said = ""
			}
			e.m.connected.Set(1)
			before := e.m.acked.Load()
			stop := context.AfterFunc(ctx, func() { c.close(errClosed) })
			e.set(c, nil, time.Time{})
			err = c.read(a)
			stop()
			e.m.connected.Set(0)
			if e.m.acked.Load() > before {
				backoff = e.backoff[0]
			}
			if errors.Is(err, errOneCall) {
				continue
			}
			if cut, _ := c.ended(); cut == 0 {
				idle = true // a receiver may close what is idle
			}
			err = fmt.Errorf("connection lost: %w", err)
		}
		if ctx.Err() != nil {
			break
		}
		if text := err.Error(); text != said && !idle { // once per kind, not once per attempt
			e.log.Warn("no connection to the receiver", "endpoint", e.cfg.Endpoint, "error", text)
			said = text
		}
		wait := backoff/2 + rand.N(backoff/2)
		backoff = min(2*backoff, e.backoff[1])
		e.set(nil, err, time.Now().Add(wait))
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	return nil
}

// set publishes the state of the connection.
func (e *Exporter) set(c *conn, failure error, nextTry time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.conn, e.failure, e.nextTry = c, failure, nextTry
	close(e.changed)
	e.changed = make(chan struct{})
}

func (e *Exporter) connect(ctx context.Context) (*conn, *answers, error) {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.ConnectTimeout)
	defer cancel()
	d := net.Dialer{KeepAlive: e.cfg.Keepalive}
	if e.cfg.Keepalive == 0 {
		d.KeepAlive = -1
	}
	nc, err := d.DialContext(ctx, "tcp", e.addr)
	if err != nil {
		e.m.connections.WithLabelValues("dial").Inc()
		return nil, nil, fmt.Errorf("connect: %w", err)
	}
	raw := nc
	stop := context.AfterFunc(ctx, func() { raw.Close() }) //nolint:errcheck // the handshake's error says it
	if e.tls {
		host, _, _ := net.SplitHostPort(e.addr) // parseEndpoint checked it
		tc, err := e.startTLS(ctx, nc, host)
		if err != nil {
			nc.Close() //nolint:errcheck // err is the reason
			stop()
			e.m.connections.WithLabelValues("tls").Inc()
			return nil, nil, err
		}
		nc = tc
	}
	c := newConn(nc, e.cfg.InFlight, e.cfg.AckTimeout, e.m, e.late)
	a := &answers{r: nc}
	if e.cfg.Auth.enabled() {
		keepalive, err := e.authenticate(nc, a)
		if err != nil {
			nc.Close() //nolint:errcheck // err is the reason
			stop()
			e.m.connections.WithLabelValues("handshake").Inc()
			return nil, nil, err
		}
		c.oneCall = !keepalive
	}
	if !stop() {
		nc.Close() //nolint:errcheck // closed already
		return nil, nil, fmt.Errorf("connect: %w", context.Cause(ctx))
	}
	e.m.connections.WithLabelValues("ok").Inc()
	return c, a, nil
}

func (e *Exporter) startTLS(ctx context.Context, nc net.Conn, host string) (net.Conn, error) {
	cfg, err := e.cfg.TLS.Config(host)
	if err != nil {
		return nil, err
	}
	tc := tls.Client(nc, cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("tls handshake: %w", err)
	}
	return tc, nil
}

func (e *Exporter) authenticate(nc net.Conn, a *answers) (keepalive bool, err error) {
	key, password, err := e.cfg.Auth.secrets()
	if err != nil {
		return false, err
	}
	cred := credentials{hostname: e.hostname, key: key, user: e.cfg.Auth.Username, password: password}
	return cred.handshake(nc, a)
}

// acquire returns the connection, entered. While an attempt to connect runs it
// waits for its outcome; between attempts it fails at once.
func (e *Exporter) acquire(ctx context.Context) (*conn, error) {
	timeout := time.NewTimer(e.cfg.ConnectTimeout)
	defer timeout.Stop()
	for {
		e.mu.Lock()
		c, failure, nextTry, changed := e.conn, e.failure, e.nextTry, e.changed
		e.mu.Unlock()
		if c != nil && c.enter() {
			return c, nil
		}
		if failure != nil {
			return nil, &component.Retry{After: max(0, time.Until(nextTry)), Err: failure}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, &component.Retry{Err: ctx.Err()}
		case <-timeout.C:
			return nil, &component.Retry{Err: errors.New("no connection yet")}
		}
	}
}
