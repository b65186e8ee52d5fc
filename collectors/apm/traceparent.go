package apm

import (
	"encoding/hex"

	"nodetap/agent/telemetry"
)

// traceContext is what a traceparent header says.
type traceContext struct {
	traceID telemetry.TraceID
	spanID  telemetry.SpanID
	flags   uint8
}

// parseTraceparent parses a header value by the W3C Trace Context
// recommendation: version 00 must have its length, later versions may be
// longer; ff, zero ids and capitals are invalid.
func parseTraceparent(v string) (traceContext, bool) {
	var tc traceContext
	if len(v) < 55 || v[2] != '-' || v[35] != '-' || v[52] != '-' {
		return tc, false
	}
	if len(v) > 55 && (v[:2] == "00" || v[55] != '-') {
		return tc, false
	}
	for i := range 55 {
		c := v[i]
		if i != 2 && i != 35 && i != 52 && (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return tc, false
		}
	}
	if v[:2] == "ff" {
		return tc, false
	}
	var flags [1]byte
	if decodeHex(tc.traceID[:], v[3:35]) && decodeHex(tc.spanID[:], v[36:52]) && decodeHex(flags[:], v[53:55]) {
		tc.flags = flags[0]
		return tc, !tc.traceID.IsZero() && !tc.spanID.IsZero()
	}
	return traceContext{}, false
}

func decodeHex(dst []byte, s string) bool {
	_, err := hex.Decode(dst, []byte(s))
	return err == nil
}
