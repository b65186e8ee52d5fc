package component

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestTLSNeedsBothHalvesOfAClientCertificate(t *testing.T) {
	var fe *FieldError
	if err := (&TLS{CertFile: "c"}).Validate("tls"); !errors.As(err, &fe) || fe.Key != "tls.cert_file" {
		t.Errorf("err = %v", err)
	}
	if err := (&TLS{}).Validate("tls"); err != nil {
		t.Error(err)
	}
}

func TestTLSReportsFilesThatHoldNoCertificate(t *testing.T) {
	f := filepath.Join(t.TempDir(), "ca.pem")
	if _, err := (&TLS{CAFile: f}).Config("h"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if err := os.WriteFile(f, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (&TLS{CAFile: f}).Config("h"); err == nil {
		t.Error("a file without a certificate was taken")
	}
	c, err := (&TLS{ServerName: "other"}).Config("h")
	if err != nil || c.ServerName != "other" {
		t.Errorf("server name = %q, %v", c.ServerName, err)
	}
}
