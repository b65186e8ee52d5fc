package forward

import (
	"crypto/rand"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/fluent/fluent-logger-golang/fluent"
	"github.com/tinylib/msgp/msgp"
)

// maxAnswer bounds one answer of a receiver: an ack is 40 bytes, a HELO 100.
const maxAnswer = 4 << 10

var (
	errTooLong  = errors.New("the receiver's answer is too long")
	errSecurity = errors.New("the receiver asks for a shared key: set auth.shared_key_file")
)

// errMore tells that the bytes so far are the beginning of an answer.
var errMore = errors.New("incomplete")

// answers reads a receiver's answers from a connection into one bounded buffer.
type answers struct {
	r    io.Reader
	buf  [maxAnswer]byte
	n, m int // buf[n:m] is unread
}

// next calls parse with what has come, reading more while parse says errMore.
func (a *answers) next(parse func([]byte) (rest []byte, err error)) error {
	for {
		if a.n < a.m {
			rest, err := parse(a.buf[a.n:a.m])
			if err == nil {
				a.n = a.m - len(rest)
				return nil
			}
			if !errors.Is(err, errMore) {
				return err
			}
		}
		if a.n > 0 {
			a.m = copy(a.buf[:], a.buf[a.n:a.m])
			a.n = 0
		}
		if a.m == len(a.buf) {
			return errTooLong
		}
		n, err := a.r.Read(a.buf[a.m:])
		a.m += n
		if n == 0 && err != nil {
			return err
		}
	}
}

// more turns msgp's error for a short buffer into errMore.
func more(err error) error {
	if errors.Is(msgp.Cause(err), msgp.ErrShortBytes) {
		return errMore
	}
	return err
}

// parseAck reads {"ack": id}. Other keys are passed over.
func parseAck(b []byte) (id string, rest []byte, err error) {
	if msgp.NextType(b) == msgp.ArrayType {
		var kind string
		if _, b, err = msgp.ReadArrayHeaderBytes(b); err == nil {
			kind, _, err = msgp.ReadStringBytes(b)
		}
		if err == nil && kind == "HELO" {
			return "", nil, errSecurity
		}
		if err = more(err); err == nil || !errors.Is(err, errMore) {
			err = errors.New("the receiver's answer is no acknowledgement but an array")
		}
		return "", nil, err
	}
	var ack fluent.AckResp
	if rest, err = ack.UnmarshalMsg(b); err != nil {
		if err = more(err); !errors.Is(err, errMore) {
			err = fmt.Errorf("the receiver's answer is no acknowledgement: %w", err)
		}
		return "", nil, err
	}
	return ack.Ack, rest, nil
}

// helo is the receiver's greeting.
type helo struct {
	nonce, auth string
	keepalive   bool
}

// parseHELO reads ["HELO", {nonce, auth, keepalive}].
func parseHELO(b []byte) (h helo, rest []byte, err error) {
	h.keepalive = true
	if b, err = messageHead(b, "HELO", 2); err != nil {
		return h, nil, err
	}
	keys, b, err := msgp.ReadMapHeaderBytes(b)
	for ; err == nil && keys > 0; keys-- {
		var key []byte
		if key, b, err = msgp.ReadMapKeyZC(b); err != nil {
			break
		}
		switch string(key) {
		case "nonce":
			h.nonce, b, err = readText(b)
		case "auth":
			h.auth, b, err = readText(b)
		case "keepalive":
			h.keepalive, b, err = msgp.ReadBoolBytes(b)
		default:
			b, err = msgp.Skip(b)
		}
	}
	if err != nil {
		return h, nil, badMessage("HELO", err)
	}
	return h, b, nil
}

// pong is the receiver's verdict.
type pong struct {
	ok                   bool
	reason, host, digest string
}

// parsePONG reads ["PONG", ok, reason, host, digest].
func parsePONG(b []byte) (p pong, rest []byte, err error) {
	if b, err = messageHead(b, "PONG", 5); err != nil {
		return p, nil, err
	}
	if p.ok, b, err = msgp.ReadBoolBytes(b); err == nil {
		for _, s := range []*string{&p.reason, &p.host, &p.digest} {
			if *s, b, err = readText(b); err != nil {
				break
			}
		}
	}
	if err != nil {
		return p, nil, badMessage("PONG", err)
	}
	return p, b, nil
}

func messageHead(b []byte, kind string, elements uint32) ([]byte, error) {
	n, b, err := msgp.ReadArrayHeaderBytes(b)
	if err != nil {
		return nil, badMessage(kind, err)
	}
	got, b, err := readText(b)
	if err != nil {
		return nil, badMessage(kind, err)
	}
	if got != kind || n != elements {
		return nil, fmt.Errorf("the receiver sent %.16q of %d elements for a %s", got, n, kind)
	}
	return b, nil
}

func badMessage(kind string, err error) error {
	if err = more(err); errors.Is(err, errMore) {
		return err
	}
	return fmt.Errorf("the receiver's %s is malformed: %w", kind, err)
}

// readText reads a string, which receivers write as str, bin or nil.
func readText(b []byte) (string, []byte, error) {
	switch msgp.NextType(b) {
	case msgp.BinType:
		v, rest, err := msgp.ReadBytesZC(b)
		return string(v), rest, err
	case msgp.NilType:
		rest, err := msgp.ReadNilBytes(b)
		return "", rest, err
	default:
		return msgp.ReadStringBytes(b)
	}
}

// credentials are what the handshake proves.
type credentials struct{ hostname, key, user, password string }

// handshake answers HELO with PING and checks PONG: both sides prove that they
// know the key without sending it.
func (c *credentials) handshake(rw io.ReadWriter, a *answers) (keepalive bool, err error) {
	var h helo
	if err = a.next(func(b []byte) (rest []byte, err error) { h, rest, err = parseHELO(b); return }); err != nil {
		return false, fmt.Errorf("wait for the receiver's greeting: %w", err)
	}
	var random [16]byte
	rand.Read(random[:]) //nolint:errcheck // does not fail
	salt := hex.EncodeToString(random[:])
	user, password := "", ""
	if h.auth != "" {
		user, password = c.user, digest(h.auth, c.user, c.password)
	}
	b := msgp.AppendArrayHeader(nil, 6)
	for _, s := range []string{"PING", c.hostname, salt, digest(salt, c.hostname, h.nonce, c.key), user, password} {
		b = msgp.AppendString(b, s)
	}
	if _, err = rw.Write(b); err != nil {
		return false, fmt.Errorf("send the shared key's digest: %w", err)
	}
	var p pong
	if err = a.next(func(b []byte) (rest []byte, err error) { p, rest, err = parsePONG(b); return }); err != nil {
		return false, fmt.Errorf("wait for the receiver's verdict (some close the connection on a wrong key): %w", err)
	}
	if !p.ok {
		return false, fmt.Errorf("the receiver refuses the shared key or the user: %.200q", p.reason)
	}
	if subtle.ConstantTimeCompare([]byte(p.digest), []byte(digest(salt, p.host, h.nonce, c.key))) != 1 {
		return false, errors.New("the receiver does not know the shared key")
	}
	return h.keepalive, nil
}

func digest(parts ...string) string {
	h := sha512.New()
	for _, p := range parts {
		io.WriteString(h, p) //nolint:errcheck // a hash does not fail
	}
	return hex.EncodeToString(h.Sum(nil))
}
