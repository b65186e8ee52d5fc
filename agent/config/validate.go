package config

import (
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"nodetap/agent/component"
)

// validate calls the target's own Validate and finds the places of the keys that
// it complains about.
func (d *decoder) validate(root *yaml.Node, path string, target any) {
	node := root
	if path != "" {
		node = lookup(root, path)
	}
	d.validateAt(node, node, path, target)
}

func (d *decoder) validateAt(node, fallback *yaml.Node, path string, target any) {
	v, ok := target.(interface{ Validate() error })
	if !ok {
		return
	}
	for _, err := range flatten(v.Validate()) {
		var fe interface {
			FieldKey() string
			FieldMessage() string
		}
		if !errors.As(err, &fe) {
			d.errorf(fallback, path, "%s%v", prefix(path), err)
			continue
		}
		at := node
		for _, part := range splitKey(fe.FieldKey()) {
			next := child(at, part)
			if next == nil {
				break
			}
			at = next
		}
		if at == nil {
			at = fallback
		}
		key := join(path, fe.FieldKey())
		if d.bad[key] {
			continue
		}
		d.errorf(at, key, "%s%s", prefix(key), fe.FieldMessage())
	}
}

// child returns the value of a key, or the n-th item of a list.
func child(n *yaml.Node, part string) *yaml.Node {
	if n = resolve(n); n == nil {
		return nil
	}
	if n.Kind == yaml.SequenceNode {
		i := 0
		for _, c := range part {
			if c < '0' || c > '9' || i > len(n.Content) {
				return nil
			}
			i = i*10 + int(c-'0')
		}
		if i < len(n.Content) {
			return n.Content[i]
		}
		return nil
	}
	return lookup(n, part)
}

func flatten(err error) []error {
	if err == nil {
		return nil
	}
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, e := range j.Unwrap() {
			out = append(out, flatten(e)...)
		}
		return out
	}
	return []error{err}
}

func validateSettings(s *Settings) error {
	var errs []error
	bad := func(key, msg string) { errs = append(errs, &component.FieldError{Key: key, Msg: msg}) }
	oneOf := func(key, got string, valid ...string) {
		if slices.Contains(valid, got) {
			return
		}
		bad(key, "must be one of "+strings.Join(valid, ", ")+", not \""+got+"\"")
	}
	oneOf("log_level", s.LogLevel, "debug", "info", "warn", "error")
	oneOf("log_format", s.LogFormat, "auto", "json", "text")
	for key, dir := range map[string]string{
		"state_dir": s.StateDir, "host.proc": s.Host.Proc, "host.sys": s.Host.Sys,
		"host.cgroup": s.Host.Cgroup, "host.log": s.Host.Log,
	} {
		if !filepath.IsAbs(dir) {
			bad(key, "must be an absolute path")
		}
	}
	if s.DrainTimeout < 0 {
		bad("drain_timeout", "must not be negative")
	}
	if s.Pprof != "" {
		host, _, err := net.SplitHostPort(s.Pprof)
		ip := net.ParseIP(host)
		switch {
		case err != nil:
			bad("pprof", "must be an address and a port such as 127.0.0.1:9401")
		case host != "localhost" && (ip == nil || !ip.IsLoopback()):
			bad("pprof", "must be a loopback address: profiles tell what the agent reads")
		}
	}
	return errors.Join(errs...)
}

// Mistake returns an error about a key of the file, at its place: for what only
// the program as a whole can know. key is dotted, with indices in brackets.
func (c *Config) Mistake(key, got, msg string, valid []string) *Error {
	at := c.root
	for _, part := range splitKey(key) {
		next := child(at, part)
		if next == nil {
			break
		}
		at = next
	}
	e := &Error{File: c.Path, Key: key, Msg: key + ": " + msg, Suggest: nearest(got, valid)}
	if at != nil {
		e.Line, e.Column = at.Line, at.Column
	}
	return e
}

func splitKey(key string) []string {
	return strings.FieldsFunc(key, func(r rune) bool { return strings.ContainsRune(".[]", r) })
}
