package forward

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nodetap/agent/component"
	"nodetap/agent/telemetry"
)

// once misbehaves for the first message and acknowledges the others.
func once(misbehave func(nc net.Conn, m *message) error) func(net.Conn, *message, int) error {
	return func(nc net.Conn, m *message, n int) error {
		if n == 1 {
			return misbehave(nc, m)
		}
		return writeAck(nc, m.chunk)
	}
}

func write(nc net.Conn, b []byte) error { _, err := nc.Write(b); return err }

func TestDeliveryGoesOnAfterABrokenReceiver(t *testing.T) {
	cases := map[string]func(nc net.Conn, m *message) error{
		"garbage": func(nc net.Conn, m *message) error { return write(nc, []byte("HTTP/1.1 400 Bad Request\r\n\r\n")) },
		"half an ack": func(nc net.Conn, m *message) error {
			var b bytes.Buffer
			writeAck(&b, m.chunk)
			write(nc, b.Bytes()[:b.Len()/2])
			return errors.New("close")
		},
		"reset": func(nc net.Conn, m *message) error { nc.(*net.TCPConn).SetLinger(0); return errors.New("close") },
		"hangs": func(nc net.Conn, m *message) error { return nil },
		"an endless answer": func(nc net.Conn, m *message) error {
			return write(nc, append([]byte{0x81, 0xa3, 'a', 'c', 'k', 0xdb, 0xff, 0xff, 0xff, 0xff}, make([]byte, 64<<10)...))
		},
		"a map of four billion keys": func(nc net.Conn, m *message) error {
			return write(nc, append([]byte{0xdf, 0xff, 0xff, 0xff, 0xff}, bytes.Repeat([]byte{0xa1, 'x', 0xc0}, 64<<10)...))
		},
		"an unknown chunk": func(nc net.Conn, m *message) error {
			if err := writeAck(nc, "bm9ib2R5IHNlbnQgaXQ="); err != nil {
				return err
			}
			return writeAck(nc, m.chunk)
		},
		"the ack twice": func(nc net.Conn, m *message) error {
			if err := writeAck(nc, m.chunk); err != nil {
				return err
			}
			return writeAck(nc, m.chunk)
		},
	}
	for name, misbehave := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := (&server{answer: once(misbehave)}).start(t)
			e := running(t, s, func(c *Config) { c.AckTimeout = 200 * time.Millisecond })
			for _, body := range []string{"one", "two", "three"} {
				if got := deliver(t, e, batch(podResource("p"), body), time.Now().Add(20*time.Second)); got != nil {
					t.Errorf("%v was given up", got)
				}
			}
			lines := s.lines()
			for _, body := range []string{"one", "two", "three"} {
				if !slices.Contains(lines, body) {
					t.Errorf("%s did not arrive: %v", body, lines)
				}
			}
		})
	}
}

func TestOneLateAckFailsItsChunkAndNotTheConnection(t *testing.T) {
	s := &server{}
	s.answer = func(nc net.Conn, m *message, n int) error {
		if m.records[0]["log"] == "lost" && n < 10 {
			return nil // Fluentd does this with a chunk over its chunk_size_limit
		}
		return writeAck(nc, m.chunk)
	}
	s.start(t)
	e := running(t, s, func(c *Config) { c.AckTimeout = 300 * time.Millisecond })
	result := make(chan error)
	go func() { result <- e.ExportLogs(t.Context(), []*telemetry.LogBatch{batch(podResource("a"), "lost")}) }()
	for len(s.received()) == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := e.ExportLogs(t.Context(), []*telemetry.LogBatch{batch(podResource("b"), "fine")}); err != nil {
		t.Error(err)
	}
	if err := <-result; !errors.Is(err, errAckTimeout) {
		t.Errorf("err = %v, want an ack timeout", err)
	}
	if err := e.ExportLogs(t.Context(), []*telemetry.LogBatch{batch(podResource("b"), "fine too")}); err != nil {
		t.Error(err)
	}
	if s.connections() != 1 {
		t.Errorf("%d connections, want 1", s.connections())
	}
}

func TestAPoisonRecordIsGivenUpAndNoOther(t *testing.T) {
	s := &server{}
	s.answer = func(nc net.Conn, m *message, n int) error {
		for _, r := range m.records {
			if strings.Contains(r["log"].(string), "poison") {
				return errors.New("reset")
			}
		}
		return writeAck(nc, m.chunk)
	}
	s.start(t)
	e := running(t, s, func(c *Config) { c.MaxResets = 2 })
	ctx, cancel := context.WithCancel(t.Context())
	var others atomic.Int64
	done := make(chan struct{})
	go func() { // other traffic, in flight when the poison closes the connection
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			if got := deliver(t, e, batch(podResource("other"), fmt.Sprint("other ", i)), time.Now().Add(time.Minute)); got != nil {
				t.Errorf("%v was given up", got)
			}
			others.Add(1)
			time.Sleep(time.Millisecond)
		}
	}()
	rejected := deliver(t, e, batch(podResource("p"), "a", "b", "poison", "c"), time.Now().Add(time.Minute))
	cancel()
	<-done
	if d := cmp.Diff([]string{"poison"}, rejected); d != "" {
		t.Errorf("rejected: %s", d)
	}
	lines := s.lines()
	for _, body := range []string{"a", "b", "c"} {
		if !slices.Contains(lines, body) {
			t.Errorf("%s did not arrive", body)
		}
	}
	if others.Load() == 0 {
		t.Error("no other traffic")
	}
}

func TestAReceiverThatRefusesEverythingIsNoReasonToGiveUpARecord(t *testing.T) {
	s := (&server{answer: func(net.Conn, *message, int) error { return errors.New("reset") }}).start(t)
	e := running(t, s, func(c *Config) { c.MaxResets = 1 })
	b := []*telemetry.LogBatch{batch(podResource("p"), "keep me")}
	for e.fates.get(chunkOf(t, e, b)).resets < 3 {
		err := e.ExportLogs(t.Context(), b)
		r, ok := errors.AsType[*component.Retry](err)
		if !ok {
			t.Fatalf("err = %v, want a Retry", err)
		}
		time.Sleep(r.After + time.Millisecond)
	}
	// more than one record: splitting loses nothing
	b = []*telemetry.LogBatch{batch(podResource("q"), "1", "2")}
	for {
		err := e.ExportLogs(t.Context(), b)
		if p, ok := errors.AsType[*component.Permanent](err); ok {
			if !p.Bisect || p.Reason != "rejected" {
				t.Errorf("permanent = %+v", p)
			}
			break
		}
		r, ok := errors.AsType[*component.Retry](err)
		if !ok {
			t.Fatalf("err = %v", err)
		}
		time.Sleep(r.After + time.Millisecond)
	}
}

func chunkOf(t *testing.T, e *Exporter, b []*telemetry.LogBatch) (key chunkKey) {
	p := e.getPacker()
	defer p.free()
	if err := p.pack(b, func(c chunk) error { key = c.key; putFrame(c.frame); return nil }); err != nil {
		t.Fatal(err)
	}
	return key
}

func TestFatesAreBounded(t *testing.T) {
	var f fates
	for i := range 10 * maxFates {
		f.update(chunkKey{bytes: i}, func(f *fate) { f.suspect = true })
		if n := len(f.now) + len(f.old); n > 2*maxFates {
			t.Fatalf("%d entries", n)
		}
	}
	if !f.get(chunkKey{bytes: 10*maxFates - 1}).suspect || f.get(chunkKey{bytes: 0}).suspect {
		t.Error("the newest was forgotten, or the oldest kept")
	}
}

func TestSharedKeyAndUser(t *testing.T) {
	dir := t.TempDir()
	keyFile, passwordFile := filepath.Join(dir, "key"), filepath.Join(dir, "password")
	os.WriteFile(keyFile, []byte("sesame\n"), 0o600)
	os.WriteFile(passwordFile, []byte("secret\n"), 0o600)
	one := []*telemetry.LogBatch{batch(podResource("p"), "x")}
	cases := map[string]struct {
		server *server
		auth   Auth
		want   string // in the error; "" for success
	}{
		"key":            {&server{key: "sesame"}, Auth{SharedKeyFile: keyFile}, ""},
		"key and user":   {&server{key: "sesame", users: map[string]string{"me": "secret"}}, Auth{SharedKey: "sesame", Username: "me", PasswordFile: passwordFile}, ""},
		"no keepalive":   {&server{key: "sesame", noKeep: true}, Auth{SharedKeyFile: keyFile}, ""},
		"wrong key":      {&server{key: "other"}, Auth{SharedKeyFile: keyFile}, "refuses the shared key"},
		"wrong password": {&server{key: "sesame", users: map[string]string{"me": "other"}}, Auth{SharedKeyFile: keyFile, Username: "me", PasswordFile: passwordFile}, "refuses the shared key"},
		"no key file":    {&server{key: "sesame"}, Auth{SharedKeyFile: filepath.Join(dir, "none")}, "read the shared key"},
		"not asked for":  {&server{}, Auth{SharedKeyFile: keyFile}, "greeting"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := c.server.start(t)
			e := running(t, s, func(cfg *Config) { cfg.Auth = c.auth; cfg.ConnectTimeout = time.Second })
			for range 3 {
				err := e.ExportLogs(t.Context(), one)
				if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) && !strings.Contains(err.Error(), "no connection yet")) {
					t.Errorf("err = %v, want %q", err, c.want)
				}
			}
			if got := len(s.lines()); c.want == "" && got != 3 || c.want != "" && got != 0 {
				t.Errorf("%d lines arrived", got)
			}
			if c.server.noKeep && s.connections() < 3 {
				t.Errorf("%d connections for 3 calls, though the receiver wants one each", s.connections())
			}
		})
	}
}

func TestAGreetingWithoutAKeyOfOursIsExplained(t *testing.T) {
	s := (&server{key: "sesame"}).start(t)
	e := running(t, s, nil)
	for {
		err := e.ExportLogs(t.Context(), []*telemetry.LogBatch{batch(podResource("p"), "x")})
		if errors.Is(err, errSecurity) {
			return
		}
		if err == nil {
			t.Fatal("delivered")
		}
		time.Sleep(time.Millisecond)
	}
}

// certificates makes an authority and a certificate of 127.0.0.1 that serves
// both ends.
func certificates(t *testing.T) (dir string, cert tls.Certificate, pool *x509.CertPool) {
	dir = t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "receiver"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"receiver.test"}, IsCA: true, BasicConstraintsValid: true,
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
	if cert, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return dir, cert, pool
}

func TestTLS(t *testing.T) {
	dir, cert, pool := certificates(t)
	file := func(name string) string { return filepath.Join(dir, name) }
	cases := map[string]struct {
		tls     component.TLS
		mutual  bool
		arrives bool
	}{
		"own authority":         {component.TLS{CAFile: file("cert.pem")}, false, true},
		"client certificate":    {component.TLS{CAFile: file("cert.pem"), CertFile: file("cert.pem"), KeyFile: file("key.pem")}, true, true},
		"no client certificate": {component.TLS{CAFile: file("cert.pem")}, true, false},
		"unknown authority":     {component.TLS{}, false, false},
		"server name":           {component.TLS{CAFile: file("cert.pem"), ServerName: "receiver.test"}, false, true},
		"wrong server name":     {component.TLS{CAFile: file("cert.pem"), ServerName: "other.test"}, false, false},
		"not verified":          {component.TLS{Insecure: true}, false, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &server{tls: &tls.Config{Certificates: []tls.Certificate{cert}}}
			if c.mutual {
				s.tls.ClientAuth, s.tls.ClientCAs = tls.RequireAndVerifyClientCert, pool
			}
			s.start(t)
			e := running(t, s, func(cfg *Config) { cfg.Endpoint = "tls://" + cfg.Endpoint; cfg.TLS = c.tls })
			err := e.ExportLogs(t.Context(), []*telemetry.LogBatch{batch(podResource("p"), "x")})
			if c.arrives != (err == nil) {
				t.Errorf("err = %v", err)
			}
			if got := len(s.lines()); (got == 1) != c.arrives {
				t.Errorf("%d lines arrived", got)
			}
		})
	}
}

func TestACallEndsThoughTheReceiverDoesNotRead(t *testing.T) {
	block := make(chan struct{})
	s := &server{answer: func(net.Conn, *message, int) error { <-block; return nil }}
	s.start(t)
	defer close(block)
	e := running(t, s, func(c *Config) { c.Compression = "none"; c.InFlight = 64 })
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for len(s.received()) == 0 {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(50 * time.Millisecond) // let the socket's buffers fill
		cancel()
	}()
	var bodies []string
	for range 32 {
		bodies = append(bodies, strings.Repeat("x", 1<<20))
	}
	if err := e.ExportLogs(ctx, []*telemetry.LogBatch{batch(podResource("p"), bodies...)}); err == nil {
		t.Error("32 MiB were acknowledged by nobody")
	}
	// what was cut off in the middle of a message did not accuse it
	e.fates.mu.Lock()
	defer e.fates.mu.Unlock()
	if n := len(e.fates.now); n != 0 {
		t.Errorf("%d chunks are suspect", n)
	}
}
