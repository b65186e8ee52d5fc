package forward

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/fluent/fluent-logger-golang/fluent"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/tinylib/msgp/msgp"
)

// message is one decoded PackedForward message.
type message struct {
	tag        string
	entries    []byte // uncompressed
	raw        []byte // the record of each entry, undecoded, end to end
	times      []fluent.EventTime
	records    []map[string]any
	chunk      string
	size       int
	compressed string
	wire       int
}

// server is a Forward receiver. Its script decides what it answers.
type server struct {
	t        testing.TB
	l        net.Listener
	tls      *tls.Config
	key      string            // shared key; "" for no handshake
	users    map[string]string // with key: users that may come
	noKeep   bool              // HELO keepalive: false
	noDecode bool              // take the messages apart no further (benchmarks)

	// answer is called with each message, in the connection's goroutine; n
	// counts the messages of the server. An error closes the connection.
	answer func(nc net.Conn, m *message, n int) error

	mu       sync.Mutex
	messages []*message
	conns    map[net.Conn]bool
	accepted int
	wg       sync.WaitGroup
}

func ack(nc net.Conn, m *message, _ int) error { return writeAck(nc, m.chunk) }

func writeAck(w io.Writer, chunk string) error {
	b, err := (&fluent.AckResp{Ack: chunk}).MarshalMsg(nil)
	if err == nil {
		_, err = w.Write(b)
	}
	return err
}

func (s *server) start(t testing.TB) *server {
	t.Helper()
	s.t, s.conns = t, map[net.Conn]bool{}
	if s.answer == nil {
		s.answer = ack
	}
	var err error
	if s.l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.wg.Go(s.serve)
	t.Cleanup(s.stop)
	return s
}

func (s *server) stop() {
	s.l.Close()
	s.mu.Lock()
	for nc := range s.conns {
		nc.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *server) serve() {
	for {
		nc, err := s.l.Accept()
		if err != nil {
			return
		}
		if s.tls != nil {
			nc = tls.Server(nc, s.tls)
		}
		s.mu.Lock()
		s.conns[nc] = true
		s.accepted++
		s.mu.Unlock()
		s.wg.Go(func() {
			s.talk(nc)
			nc.Close()
			s.mu.Lock()
			delete(s.conns, nc)
			s.mu.Unlock()
		})
	}
}

func (s *server) talk(nc net.Conn) {
	r := msgp.NewReader(bufio.NewReaderSize(nc, 256<<10))
	if s.key != "" && !s.shake(nc, r) {
		return
	}
	for {
		m, err := readMessage(r, s.noDecode)
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				if _, reset := errors.AsType[*net.OpError](err); !reset {
					s.t.Logf("receiver: %v", err)
				}
			}
			return
		}
		s.mu.Lock()
		s.messages = append(s.messages, m)
		n := len(s.messages)
		if s.noDecode {
			s.messages = s.messages[:0]
		}
		s.mu.Unlock()
		if s.answer(nc, m, n) != nil {
			return
		}
	}
}

// shake is the receiver's side of the handshake, as Fluentd's in_forward.
func (s *server) shake(nc net.Conn, r *msgp.Reader) bool {
	nonce, auth := "nonce-of-sixteen", ""
	if s.users != nil {
		auth = "auth-salt"
	}
	b := msgp.AppendString(msgp.AppendArrayHeader(nil, 2), "HELO")
	b = msgp.AppendMapHeader(b, 3)
	b = msgp.AppendBytes(msgp.AppendString(b, "nonce"), []byte(nonce)) // bin, as Fluentd writes it
	b = msgp.AppendString(msgp.AppendString(b, "auth"), auth)
	b = msgp.AppendBool(msgp.AppendString(b, "keepalive"), !s.noKeep)
	if _, err := nc.Write(b); err != nil {
		return false
	}
	n, err := r.ReadArrayHeader()
	if err != nil || n != 6 {
		return false
	}
	var f [6]string
	for i := range f {
		if f[i], err = r.ReadString(); err != nil {
			return false
		}
	}
	ok := f[0] == "PING" && f[3] == digest(f[2], f[1], nonce, s.key)
	if s.users != nil {
		password, known := s.users[f[4]]
		ok = ok && known && f[5] == digest(auth, f[4], password)
	}
	b = msgp.AppendString(msgp.AppendArrayHeader(nil, 5), "PONG")
	b = msgp.AppendBool(b, ok)
	if ok {
		b = msgp.AppendString(b, "")
	} else {
		b = msgp.AppendString(b, "shared_key mismatch")
	}
	b = msgp.AppendString(b, "receiver")
	b = msgp.AppendString(b, digest(f[2], "receiver", nonce, s.key))
	_, err = nc.Write(b)
	return err == nil && ok
}

func readMessage(r *msgp.Reader, noDecode bool) (*message, error) {
	n, err := r.ReadArrayHeader()
	if err != nil {
		return nil, msgp.Cause(err)
	}
	if n != 3 {
		return nil, errors.New("not [tag, entries, options]")
	}
	m := &message{}
	if m.tag, err = r.ReadString(); err != nil {
		return nil, err
	}
	packed, err := r.ReadBytes(nil)
	if err != nil {
		return nil, err
	}
	m.wire = len(packed)
	keys, err := r.ReadMapHeader()
	if err != nil {
		return nil, err
	}
	for range keys {
		key, err := r.ReadString()
		if err != nil {
			return nil, err
		}
		switch key {
		case "size":
			m.size, err = r.ReadInt()
		case "chunk":
			m.chunk, err = r.ReadString()
		case "compressed":
			m.compressed, err = r.ReadString()
		default:
			err = errors.New("unknown option " + key)
		}
		if err != nil {
			return nil, err
		}
	}
	if noDecode {
		return m, nil
	}
	if id, err := base64.StdEncoding.DecodeString(m.chunk); err != nil || len(id) != 16 {
		return nil, errors.New("the chunk's id is not base64 of 16 bytes")
	}
	switch m.compressed {
	case "":
		m.entries = packed
	case "gzip":
		z, err := gzip.NewReader(bytes.NewReader(packed))
		if err != nil {
			return nil, err
		}
		if m.entries, err = io.ReadAll(z); err != nil {
			return nil, err
		}
	case "zstd":
		z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		if m.entries, err = z.DecodeAll(packed, nil); err != nil {
			return nil, err
		}
	}
	return m, m.decodeEntries(false)
}

// decodeEntries reads [EventTime, record], or [[EventTime, {}], record] with
// metadata as Fluent Bit sends it.
func (m *message) decodeEntries(metadata bool) error {
	b := m.entries
	for len(b) > 0 {
		n, rest, err := msgp.ReadArrayHeaderBytes(b)
		if err != nil || n != 2 {
			return errors.New("an entry is no pair")
		}
		if metadata {
			if _, rest, err = msgp.ReadArrayHeaderBytes(rest); err != nil {
				return err
			}
		}
		var at fluent.EventTime
		if rest, err = msgp.ReadExtensionBytes(rest, &at); err != nil {
			return err
		}
		if metadata {
			if rest, err = msgp.Skip(rest); err != nil {
				return err
			}
		}
		record, after, err := msgp.ReadMapStrIntfBytes(rest, nil)
		if err != nil {
			return err
		}
		m.raw = append(m.raw, rest[:len(rest)-len(after)]...)
		m.times = append(m.times, at)
		m.records = append(m.records, record)
		b = after
	}
	return nil
}

func (s *server) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted
}

func (s *server) received() []*message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*message(nil), s.messages...)
}

func (s *server) lines() []string {
	var out []string
	for _, m := range s.received() {
		for _, r := range m.records {
			out = append(out, r["log"].(string))
		}
	}
	return out
}
