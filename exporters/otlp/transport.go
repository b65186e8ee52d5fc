package otlp

import (
	"context"
	"fmt"
	"net/url"
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
