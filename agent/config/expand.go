package config

import (
	"fmt"
	"os"
	"strings"
)

// maxFile bounds what ${file:} reads: it is for tokens and passwords.
const maxFile = 1 << 20

// expand replaces ${env:NAME}, ${env:NAME:-default} and ${file:/path} in a
// scalar, once: what comes out is not looked at again, and every other $ is
// itself. $${ is a literal ${. secret tells that something was replaced.
func expand(s string) (out string, secret bool, err error) {
	if !strings.Contains(s, "${") {
		return s, false, nil
	}
	var b strings.Builder
	for {
		i := strings.Index(s, "${")
		if i < 0 {
			b.WriteString(s)
			return b.String(), secret, nil
		}
		if i > 0 && s[i-1] == '$' {
			b.WriteString(s[:i-1])
			b.WriteString("${")
			s = s[i+2:]
			continue
		}
		kind, rest, ok := strings.Cut(s[i+2:], ":")
		end := strings.IndexByte(rest, '}')
		if !ok || end < 0 || kind != "env" && kind != "file" {
			b.WriteString(s[:i+2])
			s = s[i+2:]
			continue
		}
		b.WriteString(s[:i])
		v, err := replacement(kind, rest[:end])
		if err != nil {
			return "", false, err
		}
		b.WriteString(v)
		s, secret = rest[end+1:], true
	}
}

func replacement(kind, arg string) (string, error) {
	if kind == "env" {
		name, fallback, has := strings.Cut(arg, ":-")
		if v, ok := os.LookupEnv(name); ok {
			return v, nil
		}
		if !has {
			return "", fmt.Errorf("the environment has no %s: set it, or write ${env:%s:-default}", name, name)
		}
		return fallback, nil
	}
	f, err := os.Open(arg)
	if err != nil {
		return "", fmt.Errorf("${file:}: %w", err)
	}
	defer f.Close()
	buf := make([]byte, maxFile+1)
	n := 0
	for n < len(buf) {
		m, err := f.Read(buf[n:])
		n += m
		if err != nil || m == 0 {
			break
		}
	}
	if n > maxFile {
		return "", fmt.Errorf("${file:%s} is larger than 1 MiB", arg)
	}
	return strings.TrimRight(string(buf[:n]), "\r\n"), nil
}
