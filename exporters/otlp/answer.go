package otlp

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"nodetap/agent/component"
)

const (
	maxAnswer  = 256 << 10       // bytes of an answer that are read
	maxAfter   = 5 * time.Minute // longest hint of a receiver that is believed
	maxMessage = 300             // bytes of a receiver's message that are logged
)

// gRPC's part of the specification's retry table.
// https://opentelemetry.io/docs/specs/otlp/#failures
func grpcError(err error) error {
	st := status.Convert(err)
	err = fmt.Errorf("%s: %s", st.Code(), short(st.Message()))
	switch st.Code() {
	case codes.Canceled, codes.DeadlineExceeded, codes.Aborted, codes.OutOfRange, codes.Unavailable, codes.DataLoss:
		after, _ := retryInfo(st)
		return &component.Retry{After: after, Err: err}
	case codes.ResourceExhausted:
		if after, ok := retryInfo(st); ok {
			return &component.Retry{After: after, Err: err}
		}
		if strings.Contains(st.Message(), "larger than max") { // grpc's own limit
			return &component.Permanent{Err: err, Reason: "too_large", Bisect: true}
		}
		return &component.Permanent{Err: err, Reason: "resource_exhausted"}
	case codes.InvalidArgument:
		return &component.Permanent{Err: err, Reason: "rejected", Bisect: true}
	case codes.Unauthenticated, codes.PermissionDenied:
		return &component.Permanent{Err: err, Reason: "unauthorized"}
	case codes.Unimplemented:
		return &component.Permanent{Err: err, Reason: "unimplemented"}
	default:
		return &component.Permanent{Err: err, Reason: "refused"}
	}
}

// retryInfo returns the hint of a google.rpc.RetryInfo among the details.
func retryInfo(st *status.Status) (time.Duration, bool) {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			return clamp(info.GetRetryDelay().AsDuration()), true
		}
	}
	return 0, false
}

func clamp(d time.Duration) time.Duration { return min(max(d, 0), maxAfter) }

// httpError is HTTP's part of the table. code is not 2xx.
func httpError(code int, header http.Header, body []byte, now time.Time) error {
	err := fmt.Errorf("HTTP %d: %s", code, short(statusMessage(header, body)))
	switch code {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return &component.Retry{After: retryAfter(header.Get("Retry-After"), now), Err: err}
	case http.StatusBadRequest:
		return &component.Permanent{Err: err, Reason: "rejected", Bisect: true}
	case http.StatusRequestEntityTooLarge:
		return &component.Permanent{Err: err, Reason: "too_large", Bisect: true}
	case http.StatusUnauthorized, http.StatusForbidden:
		return &component.Permanent{Err: err, Reason: "unauthorized"}
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return &component.Permanent{Err: err, Reason: "unimplemented"}
	default:
		return &component.Permanent{Err: err, Reason: "refused"}
	}
}

// retryAfter reads the header's two forms: seconds, or a date.
func retryAfter(v string, now time.Time) time.Duration {
	if v == "" {
		return 0
	}
	if s, err := strconv.ParseUint(v, 10, 32); err == nil {
		return clamp(time.Duration(s) * time.Second)
	}
	if t, err := http.ParseTime(v); err == nil {
		return clamp(t.Sub(now))
	}
	return 0
}

// statusMessage reads the message of a google.rpc.Status{code=1, message=2}; of
// any other answer it is the text itself.
func statusMessage(header http.Header, body []byte) string {
	if strings.HasPrefix(header.Get("Content-Type"), "application/x-protobuf") {
		message := ""
		if eachField(body, func(n protowire.Number, _ protowire.Type, _ uint64, v []byte) {
			if n == 2 {
				message = string(v)
			}
		}) == nil {
			return message
		}
	}
	return string(body)
}

// short makes a receiver's message fit for the log.
func short(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "..."
	}
	return s
}

// partial is what a receiver did not take of a request that it took.
type partial struct {
	rejected int64
	message  string
}

var errAnswer = errors.New("malformed answer")

// parseAnswer reads Export*ServiceResponse{partial_success=1{rejected=1,
// error_message=2}}, which is the same for all signals. Empty is full success.
func parseAnswer(b []byte) (p partial, err error) {
	err = eachField(b, func(n protowire.Number, t protowire.Type, _ uint64, v []byte) {
		if n != 1 || t != protowire.BytesType {
			return
		}
		if e := eachField(v, func(n protowire.Number, t protowire.Type, num uint64, v []byte) {
			switch {
			case n == 1 && t == protowire.VarintType:
				p.rejected = int64(num)
			case n == 2 && t == protowire.BytesType:
				p.message = string(v)
			}
		}); e != nil {
			p.rejected = -1
		}
	})
	if err == nil && p.rejected < 0 {
		err = errAnswer
	}
	if err != nil {
		return partial{}, err
	}
	return p, nil
}

// eachField calls f for each field of a message.
func eachField(b []byte, f func(n protowire.Number, t protowire.Type, num uint64, v []byte)) error {
	for len(b) > 0 {
		n, t, size := protowire.ConsumeTag(b)
		if size < 0 {
			return errAnswer
		}
		b = b[size:]
		var num uint64
		var v []byte
		switch t {
		case protowire.VarintType:
			num, size = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			v, size = protowire.ConsumeBytes(b)
		default:
			size = protowire.ConsumeFieldValue(n, t, b)
		}
		if size < 0 {
			return errAnswer
		}
		b = b[size:]
		f(n, t, num, v)
	}
	return nil
}
