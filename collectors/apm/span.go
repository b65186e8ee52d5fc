package apm

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"nodetap/agent/pods"
	"nodetap/agent/telemetry"
)

// errConnection is the error.type of a request whose connection ended before
// its response had.
const errConnection = "connection_closed"

// facts are what is said about an exchange, in the span and in the metrics.
type facts struct {
	method  string // known, or _OTHER
	path    string // redacted
	route   string
	host    string
	port    uint16
	version string
	errType string
	peer    string
	peerNS  string
}

func factsOf(x *exchange, peer *pods.Peer) facts {
	f := facts{method: knownMethod(x.req.method), version: "1.1", path: redactPath(x.req.target)}
	if x.req.minor == '0' {
		f.version = "1.0"
	}
	c := x.conn
	server := c.local
	if x.role == roleClient {
		server = c.remote
	}
	f.host, f.port = hostPort(x.req.host, server)
	limit := 500
	if x.role == roleClient {
		limit = 400
	}
	switch {
	case x.broken:
		f.errType = errConnection
	case x.status >= limit:
		f.errType = strconv.Itoa(x.status)
	}
	if peer != nil {
		switch {
		case peer.Service != "":
			f.peer, f.peerNS = peer.Service, peer.ServiceNamespace
		case peer.Resource != nil:
			f.peer, f.peerNS = peer.Resource.ServiceName, peer.Resource.ServiceNamespace
			if f.peerNS == "" {
				f.peerNS = peer.Resource.Namespace
			}
		}
	}
	return f
}

func knownMethod(m string) string {
	switch m {
	case "GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE", "QUERY":
		return m
	}
	return "_OTHER"
}

// hostPort takes the server's name from the Host header, whose bytes are
// foreign: what is no host name gives way to the socket's address.
func hostPort(header string, server netip.AddrPort) (string, uint16) {
	port := server.Port()
	host := header
	if h, p, err := net.SplitHostPort(header); err == nil {
		if n, err := strconv.ParseUint(p, 10, 16); err == nil {
			host, port = h, uint16(n)
		}
	} else if len(header) > 2 && header[0] == '[' {
		host = strings.Trim(header, "[]")
	}
	if host == "" || len(host) > 253 {
		return server.Addr().String(), server.Port()
	}
	for i := range len(host) {
		c := host[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == ':') {
			return server.Addr().String(), server.Port()
		}
	}
	return host, port
}

// makeSpan builds the span of an exchange. attrs is an empty slice with room.
func makeSpan(x *exchange, f *facts, peer *pods.Peer, start, end int64, attrs []telemetry.Attr) telemetry.Span {
	s := telemetry.Span{Kind: telemetry.SpanServer, Start: start, End: max(end, start), Flags: 1}
	if x.role == roleClient {
		s.Kind = telemetry.SpanClient
	}
	if tc, ok := parseTraceparent(x.req.traceparent); ok {
		s.TraceID, s.ParentID, s.Flags, s.TraceState = tc.traceID, tc.spanID, tc.flags, x.req.tracestate
	} else {
		s.TraceID = randomTraceID()
	}
	s.SpanID = randomSpanID()
	s.Name = f.method
	if f.method == "_OTHER" {
		s.Name = "HTTP"
	}
	if f.route != "" {
		s.Name += " " + f.route
	}
	if f.errType != "" {
		s.Status = telemetry.StatusError
	}

	str := func(key, value string) {
		if value != "" {
			attrs = append(attrs, telemetry.String(key, value))
		}
	}
	c := x.conn
	if c.remoteText == "" {
		c.remoteText = c.remote.Addr().String()
	}
	str("http.request.method", f.method)
	if f.method == "_OTHER" {
		str("http.request.method_original", x.req.method)
	}
	if x.role == roleServer {
		str("http.route", f.route)
		str("url.path", f.path)
		str("url.scheme", "http")
		str("client.address", c.remoteText)
	} else {
		str("url.template", f.route)
		host := f.host
		if strings.IndexByte(host, ':') >= 0 {
			host = "[" + host + "]"
		}
		if f.port != 80 {
			host += ":" + strconv.Itoa(int(f.port))
		}
		str("url.full", "http://"+host+f.path)
	}
	if x.status != 0 {
		attrs = append(attrs, telemetry.Int("http.response.status_code", int64(x.status)))
	}
	str("error.type", f.errType)
	str("server.address", f.host)
	attrs = append(attrs, telemetry.Int("server.port", int64(f.port)))
	str("network.peer.address", c.remoteText)
	attrs = append(attrs, telemetry.Int("network.peer.port", int64(c.remote.Port())))
	str("network.protocol.version", f.version)
	str("user_agent.original", strings.ToValidUTF8(x.req.userAgent, "\uFFFD"))
	if x.reqBody >= 0 {
		attrs = append(attrs, telemetry.Int("http.request.body.size", x.reqBody))
	}
	attrs = append(attrs,
		telemetry.Int("http.response.body.size", x.respBody),
		telemetry.Int("process.pid", int64(x.tgid)))
	str("service.peer.name", f.peer)
	str("service.peer.namespace", f.peerNS)
	if peer != nil {
		str(attrPeerService, peer.Service)
		str(attrPeerNode, peer.Node)
		if r := peer.Resource; r != nil {
			str(attrPeerNamespace, r.Namespace)
			str(attrPeerPod, r.Pod)
			str(attrPeerUID, r.PodUID)
			if r.WorkloadKind != "" && r.WorkloadKind != "Node" {
				str(attrPeerWorkloadKind, r.WorkloadKind)
				str(attrPeerWorkload, r.WorkloadName)
			}
		} else {
			str(attrPeerNamespace, peer.ServiceNamespace)
		}
	}
	s.Attrs = attrs
	return s
}

// Attributes of the other end of the connection. The conventions name its
// service alone (service.peer.name); these follow the names of k8s.*.
const (
	attrPeerNamespace    = "nodetap.peer.k8s.namespace.name"
	attrPeerPod          = "nodetap.peer.k8s.pod.name"
	attrPeerUID          = "nodetap.peer.k8s.pod.uid"
	attrPeerWorkloadKind = "nodetap.peer.k8s.workload.kind"
	attrPeerWorkload     = "nodetap.peer.k8s.workload.name"
	attrPeerService      = "nodetap.peer.k8s.service.name"
	attrPeerNode         = "nodetap.peer.k8s.node.name"

	maxAttrs = 32 // attributes that a span can have
)

func randomTraceID() (id telemetry.TraceID) {
	for id.IsZero() {
		putUint64(id[:8], rand.Uint64())
		putUint64(id[8:], rand.Uint64())
	}
	return id
}

func randomSpanID() (id telemetry.SpanID) {
	for id.IsZero() {
		putUint64(id[:], rand.Uint64())
	}
	return id
}

func putUint64(b []byte, v uint64) {
	for i := range 8 {
		b[i] = byte(v >> (8 * i))
	}
}
