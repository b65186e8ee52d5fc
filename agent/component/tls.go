package component

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// TLS is the client's side of a TLS connection in an exporter's configuration.
// The zero value trusts the system's authorities.
type TLS struct {
	CAFile     string `yaml:"ca_file" doc:"PEM file of the authorities that sign the receiver's certificate. Empty: the system's. Read again for every connection."`
	CertFile   string `yaml:"cert_file" doc:"PEM file of the client certificate, for receivers that ask for one. Read again for every connection."`
	KeyFile    string `yaml:"key_file" doc:"PEM file of the client certificate's key."`
	ServerName string `yaml:"server_name" doc:"Name that the receiver's certificate must carry. Empty: the host of the endpoint."`
	Insecure   bool   `yaml:"insecure_skip_verify" doc:"true accepts any certificate: for tests alone."`
}

// Validate checks what can be checked without reading the files. key is the
// section's name in the component's configuration: "tls".
func (t *TLS) Validate(key string) error {
	if (t.CertFile == "") != (t.KeyFile == "") {
		return &FieldError{Key: key + ".cert_file", Msg: "cert_file and key_file go together: set both or none"}
	}
	return nil
}

// Config reads the files and returns the settings of one connection to
// serverName, which the configuration's server_name overrides.
func (t *TLS) Config(serverName string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: serverName, InsecureSkipVerify: t.Insecure}
	if t.ServerName != "" {
		c.ServerName = t.ServerName
	}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the authorities: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("no certificate in " + t.CAFile)
		}
	}
	if t.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read the client certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{cert}
	}
	return c, nil
}
