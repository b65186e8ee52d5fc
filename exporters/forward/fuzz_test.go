package forward

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/fluent/fluent-logger-golang/fluent"
	"github.com/tinylib/msgp/msgp"
)

// trickle gives a reader's bytes one to three at a time.
type trickle struct {
	b []byte
	n int
}

func (r *trickle) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	r.n = r.n%3 + 1
	n := copy(p, r.b[:min(r.n, len(r.b))])
	r.b = r.b[n:]
	return n, nil
}

func readAcks(r io.Reader) (ids []string, err error) {
	a := &answers{r: r}
	for {
		var id string
		if err := a.next(func(b []byte) (rest []byte, err error) { id, rest, err = parseAck(b); return }); err != nil {
			return ids, err
		}
		ids = append(ids, id)
	}
}

// FuzzAcks: whatever comes, and in whatever pieces, reading ends with an error
// and gives the same ids; what our own encoder wrote is read back.
func FuzzAcks(f *testing.F) {
	good, _ := (&fluent.AckResp{Ack: "abc"}).MarshalMsg(nil)
	f.Add(good)
	f.Add(append(good, good...))
	f.Add([]byte{0xdf, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0x81, 0xa3, 'a', 'c', 'k', 0xdb, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0x92, 0xa4, 'H', 'E', 'L', 'O', 0x80})
	f.Add(bytes.Repeat([]byte{0x91}, 5000))
	f.Fuzz(func(t *testing.T, b []byte) {
		whole, err1 := readAcks(bytes.NewReader(b))
		pieces, err2 := readAcks(&trickle{b: b})
		if err1 == nil || err2 == nil {
			t.Fatal("no error at the end")
		}
		if strings.Join(whole, "\n") != strings.Join(pieces, "\n") {
			t.Fatalf("%q in one piece, %q in several", whole, pieces)
		}
		ids, err := readAcks(bytes.NewReader(append(append([]byte(nil), good...), b...)))
		if len(ids) == 0 || ids[0] != "abc" {
			t.Fatalf("a good ack before it was not read: %v, %v", ids, err)
		}
	})
}

type conversation struct {
	io.Reader
	sent bytes.Buffer
}

func (c *conversation) Write(p []byte) (int, error) { return c.sent.Write(p) }

// FuzzHandshake: a receiver that does not know the key never gets through, and
// learns no more than digests.
func FuzzHandshake(f *testing.F) {
	hello := msgp.AppendString(msgp.AppendArrayHeader(nil, 2), "HELO")
	hello = msgp.AppendMapHeader(hello, 2)
	hello = msgp.AppendBytes(msgp.AppendString(hello, "nonce"), []byte("n"))
	hello = msgp.AppendString(msgp.AppendString(hello, "auth"), "salt")
	ok := msgp.AppendString(msgp.AppendArrayHeader(append([]byte(nil), hello...), 5), "PONG")
	ok = msgp.AppendBool(ok, true)
	for range 3 {
		ok = msgp.AppendString(ok, "x")
	}
	f.Add(hello)
	f.Add(ok)
	f.Add([]byte{0x92, 0xa4, 'H', 'E', 'L', 'O', 0xdf, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &conversation{Reader: &trickle{b: b}}
		cred := credentials{hostname: "h", key: "the-shared-key", user: "me", password: "the-password"}
		if _, err := cred.handshake(c, &answers{r: c}); err == nil {
			t.Fatal("a receiver without the key was trusted")
		} else if errors.Is(err, errMore) {
			t.Fatal("an inner error shows")
		}
		if s := c.sent.String(); strings.Contains(s, "the-shared-key") || strings.Contains(s, "the-password") {
			t.Fatal("a secret was sent")
		}
	})
}
