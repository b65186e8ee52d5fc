package otlp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
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
