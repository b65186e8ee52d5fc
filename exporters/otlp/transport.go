package otlp

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"

	"nodetap/agent/component"
)

// transport sends one request. The error is a *component.Retry or Permanent by
// the specification's table; the answer is the body of a success.
type transport interface {
	// send owns the buffer from here on.
	send(ctx context.Context, s signal, request *[]byte) (answer []byte, err error)
	close()
}

func newTransport(cfg Config, version string, m *selfMetrics) (transport, error) {
	u, err := url.Parse(cfg.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("endpoint: %w", err)
	}
	agent := "nodetap"
	if version != "" {
		agent += "/" + version
	}
	if cfg.Protocol == "grpc" {
		return newGRPC(cfg, u, agent, m)
	}
	return newHTTP(cfg, u, agent, m), nil
}

// bufferPool hands a request's buffer back when gRPC has written it.
type bufferPool struct{}

func (bufferPool) Get(n int) *[]byte { b := make([]byte, n); return &b }
func (bufferPool) Put(b *[]byte)     { putBuffer(b) }

// rawCodec passes bytes through: requests are encoded already.
type rawCodec struct{}

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("cannot send %T", v)
	}
	return mem.BufferSlice{mem.NewBuffer(b, bufferPool{})}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("cannot receive %T", v)
	}
	*b = data.Materialize()
	return nil
}

// Name makes the content type application/grpc+proto.
func (rawCodec) Name() string { return "proto" }

type grpcTransport struct {
	cfg  *Config
	conn *grpc.ClientConn
	opts []grpc.CallOption
}

func newGRPC(cfg Config, u *url.URL, agent string, m *selfMetrics) (*grpcTransport, error) {
	t := &grpcTransport{cfg: &cfg}
	creds := insecure.NewCredentials()
	if u.Scheme == "https" {
		creds = reloadingTLS{&cfg.TLS}
	}
	var err error
	t.conn, err = grpc.NewClient(u.Host,
		grpc.WithTransportCredentials(creds),
		grpc.WithUserAgent(agent),
		grpc.WithDisableRetry(), // the pipeline retries
		grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 5 * time.Second, Backoff: backoff.Config{
			BaseDelay: 500 * time.Millisecond, Multiplier: 2, Jitter: 0.5, MaxDelay: 15 * time.Second}}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 5 * time.Minute, Timeout: 20 * time.Second}),
		grpc.WithStatsHandler(wireStats{m}),
	)
	if err != nil {
		return nil, fmt.Errorf("grpc client: %w", err)
	}
	t.opts = []grpc.CallOption{grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(maxAnswer)}
	if cfg.Compression != "none" {
		t.opts = append(t.opts, grpc.UseCompressor(cfg.Compression))
	}
	return t, nil
}

func (t *grpcTransport) send(ctx context.Context, s signal, request *[]byte) ([]byte, error) {
	md := metadata.MD{}
	if err := t.cfg.headers(func(k, v string) { md.Set(k, v) }); err != nil {
		putBuffer(request)
		return nil, &component.Retry{Err: err}
	}
	if len(md) > 0 {
		ctx = metadata.NewOutgoingContext(ctx, md)
	}
	var answer []byte
	if err := t.conn.Invoke(ctx, s.method(), request, &answer, t.opts...); err != nil {
		return nil, grpcError(err)
	}
	return answer, nil
}

func (t *grpcTransport) close() { t.conn.Close() } //nolint:errcheck // nothing is left to lose

// reloadingTLS reads the certificates' files for each connection.
type reloadingTLS struct{ cfg *component.TLS }

func (r reloadingTLS) ClientHandshake(ctx context.Context, authority string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	cfg, err := r.cfg.Config("")
	if err != nil {
		return nil, nil, err
	}
	return credentials.NewTLS(cfg).ClientHandshake(ctx, authority, c)
}

func (r reloadingTLS) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("not a server")
}

func (r reloadingTLS) Info() credentials.ProtocolInfo {
	return credentials.NewTLS(&tls.Config{}).Info()
}                                                              //nolint:gosec // describes only
func (r reloadingTLS) Clone() credentials.TransportCredentials { return r }

//nolint:staticcheck // part of the interface
func (r reloadingTLS) OverrideServerName(string) error { return nil }

// wireStats counts what gRPC writes and the connections that it makes.
type wireStats struct{ m *selfMetrics }

func (w wireStats) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }
func (w wireStats) HandleRPC(_ context.Context, s stats.RPCStats) {
	if out, ok := s.(*stats.OutPayload); ok {
		w.m.wireBytes.Add(float64(out.WireLength))
	}
}
func (w wireStats) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (w wireStats) HandleConn(_ context.Context, s stats.ConnStats) {
	if _, ok := s.(*stats.ConnBegin); ok {
		w.m.connections.Inc()
	}
}

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
