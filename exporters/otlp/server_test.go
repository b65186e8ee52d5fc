package otlp

import (
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"nodetap/agent/component"
	"nodetap/agent/metrics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receiver takes requests over both protocols with pdata's decoders.
type receiver struct {
	plogotlp.UnimplementedGRPCServer

	// fail, when set, decides the n-th request's error (gRPC) or handles it and
	// returns true (HTTP).
	fail     func(n int) error
	failHTTP func(w http.ResponseWriter, n int) bool
	partial  func() (rejected int64, message string)

	mu       sync.Mutex
	n        int
	sizes    []int // of requests before compression, over HTTP
	headers  []map[string][]string
	encoding []string
	logs     []plog.Logs
	traces   []ptrace.Traces
	metrics  []pmetric.Metrics
	url      string
}

// begin counts a request.
func (r *receiver) begin(h map[string][]string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	r.headers = append(r.headers, h)
	return r.n
}

func (r *receiver) grpcBegin(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx)
	n := r.begin(md)
	if r.fail != nil {
		return r.fail(n)
	}
	return nil
}

func (r *receiver) Export(ctx context.Context, req plogotlp.ExportRequest) (plogotlp.ExportResponse, error) {
	resp := plogotlp.NewExportResponse()
	if err := r.grpcBegin(ctx); err != nil {
		return resp, err
	}
	r.mu.Lock()
	r.logs = append(r.logs, req.Logs())
	r.mu.Unlock()
	if r.partial != nil {
		n, msg := r.partial()
		resp.PartialSuccess().SetRejectedLogRecords(n)
		resp.PartialSuccess().SetErrorMessage(msg)
	}
	return resp, nil
}

type traceServer struct {
	ptraceotlp.UnimplementedGRPCServer
	r *receiver
}

func (s *traceServer) Export(ctx context.Context, req ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	resp := ptraceotlp.NewExportResponse()
	if err := s.r.grpcBegin(ctx); err != nil {
		return resp, err
	}
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.r.traces = append(s.r.traces, req.Traces())
	return resp, nil
}

type metricServer struct {
	pmetricotlp.UnimplementedGRPCServer
	r *receiver
}

func (s *metricServer) Export(ctx context.Context, req pmetricotlp.ExportRequest) (pmetricotlp.ExportResponse, error) {
	resp := pmetricotlp.NewExportResponse()
	if err := s.r.grpcBegin(ctx); err != nil {
		return resp, err
	}
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.r.metrics = append(s.r.metrics, req.Metrics())
	return resp, nil
}

func (r *receiver) startGRPC(t testing.TB, opts ...grpc.ServerOption) *receiver {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(append(opts, grpc.MaxRecvMsgSize(4<<20))...)
	plogotlp.RegisterGRPCServer(s, r)
	ptraceotlp.RegisterGRPCServer(s, &traceServer{r: r})
	pmetricotlp.RegisterGRPCServer(s, &metricServer{r: r})
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() { s.Stop(); wg.Wait() })
	r.url = "http://" + l.Addr().String()
	return r
}

func (r *receiver) startHTTP(t testing.TB, tlsConfig *tls.Config) *receiver {
	t.Helper()
	s := httptest.NewUnstartedServer(r)
	if tlsConfig != nil {
		s.TLS = tlsConfig
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	r.url = s.URL
	return r
}

// ServeHTTP decompresses with the standard library's gzip, not with ours.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	n := r.begin(req.Header)
	if r.failHTTP != nil && r.failHTTP(w, n) {
		return
	}
	var body io.Reader = req.Body
	var err error
	switch req.Header.Get("Content-Encoding") {
	case "gzip":
		body, err = gzip.NewReader(req.Body)
	case "zstd":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(req.Body, zstd.WithDecoderConcurrency(1)); err == nil {
			defer d.Close()
			body = d
		}
	}
	var data []byte
	if err == nil {
		data, err = io.ReadAll(body)
	}
	var answer []byte
	if err == nil {
		r.mu.Lock()
		r.sizes = append(r.sizes, len(data))
		r.encoding = append(r.encoding, req.Header.Get("Content-Encoding"))
		switch req.URL.Path {
		case "/v1/logs", "/base/own":
			in := plogotlp.NewExportRequest()
			if err = in.UnmarshalProto(data); err == nil {
				r.logs = append(r.logs, in.Logs())
				if r.partial != nil {
					out := plogotlp.NewExportResponse()
					n, msg := r.partial()
					out.PartialSuccess().SetRejectedLogRecords(n)
					out.PartialSuccess().SetErrorMessage(msg)
					answer, err = out.MarshalProto()
				}
			}
		case "/v1/traces":
			in := ptraceotlp.NewExportRequest()
			if err = in.UnmarshalProto(data); err == nil {
				r.traces = append(r.traces, in.Traces())
			}
		case "/v1/metrics":
			in := pmetricotlp.NewExportRequest()
			if err = in.UnmarshalProto(data); err == nil {
				r.metrics = append(r.metrics, in.Metrics())
			}
		default:
			r.mu.Unlock()
			http.NotFound(w, req)
			return
		}
		r.mu.Unlock()
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.Write(answer)
}

func testEnv() component.Env {
	return component.Env{
		Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(), Gatherer: prometheus.NewRegistry(),
		Metrics: metrics.NewRegistry(), NodeName: "node-1", Version: "1.2.3",
	}
}

// exporter returns one whose Run runs until the test ends, and sends no metrics
// unless change says so.
func exporter(t testing.TB, env component.Env, url string, change func(*Config)) *Exporter {
	t.Helper()
	cfg := Default()
	cfg.Endpoint, cfg.Metrics.Interval = url, 0
	if change != nil {
		change(&cfg)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	e, err := New(env, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := e.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return e
}

func overHTTP(c *Config) { c.Protocol = "http/protobuf" }

func count(c prometheus.Metric) float64 {
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		panic(err)
	}
	return m.GetCounter().GetValue()
}

// certificate makes a certificate of 127.0.0.1 that is its own authority.
func certificate(t *testing.T) (dir string, server *tls.Config) {
	dir = t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "receiver"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	os.WriteFile(filepath.Join(dir, "cert.pem"), certPEM, 0o600)
	os.WriteFile(filepath.Join(dir, "key.pem"), keyPEM, 0o600)
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return dir, &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
}

func grpcTLS(c *tls.Config) grpc.ServerOption { return grpc.Creds(credentials.NewTLS(c)) }
