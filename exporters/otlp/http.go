package otlp

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"nodetap/agent/component"
)

type httpTransport struct {
	cfg    *Config
	client *http.Client
	urls   [signals]string
	agent  string
	m      *selfMetrics
}

func newHTTP(cfg Config, u *url.URL, agent string, m *selfMetrics) *httpTransport {
	dialer := &net.Dialer{Timeout: cfg.Timeout}
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dialer.DialContext(ctx, network, addr)
		if err == nil {
			m.connections.Inc()
		}
		return c, err
	}
	t := &httpTransport{cfg: &cfg, agent: agent, m: m}
	tr := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dial, MaxIdleConnsPerHost: 16, IdleConnTimeout: 90 * time.Second,
		DisableCompression: true, MaxResponseHeaderBytes: 64 << 10, WriteBufferSize: 64 << 10,
		// with a proxy in between net/http makes the handshake itself, with the
		// files as they are at the start
		DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			c, err := cfg.TLS.Config(host)
			if err != nil {
				return nil, err
			}
			raw, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			tc := tls.Client(raw, c)
			if err := tc.HandshakeContext(ctx); err != nil {
				raw.Close() //nolint:errcheck // err is the reason
				return nil, err
			}
			return tc, nil
		},
	}
	if c, err := cfg.TLS.Config(""); err == nil {
		tr.TLSClientConfig = c
	}
	t.client = &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for s, path := range [signals]string{logs: cfg.Logs.Path, traces: cfg.Traces.Path, metricsSignal: cfg.Metrics.Path} {
		t.urls[s] = u.Scheme + "://" + u.Host + strings.TrimRight(u.Path, "/") + "/" + strings.TrimLeft(path, "/")
	}
	return t
}

// body is a request's body. Its buffer may be used again once it is closed:
// net/http may go on reading after the answer came.
type body struct {
	bytes.Reader
	once   sync.Once
	closed func()
}

func (b *body) Close() error { b.once.Do(b.closed); return nil }

func (t *httpTransport) send(ctx context.Context, s signal, request *[]byte) ([]byte, error) {
	if t.cfg.Compression != "none" {
		packed := getBuffer()
		err := compress(t.cfg.Compression, packed, *request)
		putBuffer(request)
		if request = packed; err != nil {
			putBuffer(request)
			return nil, &component.Permanent{Err: err, Reason: "refused"}
		}
	}
	b := &body{closed: func() { putBuffer(request) }}
	b.Reset(*request)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.urls[s], b)
	if err != nil {
		return nil, &component.Permanent{Err: err, Reason: "refused"}
	}
	req.ContentLength = int64(len(*request))
	size := len(*request)
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("User-Agent", t.agent)
	if t.cfg.Compression != "none" {
		req.Header.Set("Content-Encoding", t.cfg.Compression)
	}
	if err := t.cfg.headers(req.Header.Set); err != nil {
		return nil, &component.Retry{Err: err}
	}
	resp, err := t.client.Do(req)
	if err != nil {
		return nil, &component.Retry{Err: err}
	}
	defer resp.Body.Close()
	t.m.wireBytes.Add(float64(size))
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode/100 != 2 {
		return nil, httpError(resp.StatusCode, resp.Header, answer, time.Now())
	}
	if err != nil || !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/x-protobuf") {
		// the status says that it was taken; what cannot be read of the answer
		// is at most that a part was not
		if err != nil {
			t.m.malformed.Inc()
		}
		return nil, nil
	}
	return answer, nil
}

func (t *httpTransport) close() { t.client.CloseIdleConnections() }
