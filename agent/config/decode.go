package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// section is a part of the file that is decoded later, when it is known into
// what.
type section struct{ key, node *yaml.Node }

func sectionKey(s *section) *yaml.Node {
	if s == nil {
		return nil
	}
	return s.key
}

type decoder struct {
	file string
	errs Errors
	// bad are the keys that could not be decoded: what their Validate says of
	// the default is no second mistake
	bad map[string]bool
}

func (d *decoder) errorf(at *yaml.Node, key, format string, args ...any) *Error {
	e := &Error{File: d.file, Key: key, Msg: fmt.Sprintf(format, args...)}
	if d.bad == nil {
		d.bad = map[string]bool{}
	}
	d.bad[key] = true
	if at != nil {
		e.Line, e.Column = at.Line, at.Column
	}
	d.errs = append(d.errs, e)
	return e
}

func (d *decoder) unknown(at *yaml.Node, key, got, in string, valid []string) {
	where := "at the top of the file"
	if in != "" {
		where = "in " + in
	}
	e := d.errorf(at, key, "unknown key %q %s", got, where)
	if e.Suggest = nearest(got, valid); e.Suggest == "" && len(valid) > 0 {
		e.Msg += ": valid are " + strings.Join(valid, ", ")
	}
}

var yamlLine = regexp.MustCompile(`line (\d+):? ?`)

// document returns the mapping at the top, nil for an empty file.
func (d *decoder) document(data []byte) *yaml.Node {
	var doc, second yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	err := dec.Decode(&doc)
	if err == nil {
		if err = dec.Decode(&second); err == nil {
			d.errorf(&second, "", "a second YAML document begins here: the configuration is one document")
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		d.syntax(data, err)
		return nil
	}
	if len(doc.Content) == 0 {
		return nil
	}
	return doc.Content[0]
}

// syntax reports what the YAML parser says. It names a line, though not always
// the first, and never a column: the line's first character stands for it.
func (d *decoder) syntax(data []byte, err error) {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	at := &yaml.Node{Line: 1, Column: 1}
	if m := yamlLine.FindStringSubmatch(msg); m != nil {
		at.Line, _ = strconv.Atoi(m[1])
		msg = strings.Replace(msg, m[0], "", 1)
	}
	lines := bytes.Split(data, []byte("\n"))
	if at.Line >= 1 && at.Line <= len(lines) {
		line := lines[at.Line-1]
		at.Column = 1 + len(line) - len(bytes.TrimLeft(line, " \t"))
	}
	d.errorf(at, "", "not valid YAML: %s", msg)
}

func resolve(n *yaml.Node) *yaml.Node {
	for i := 0; n != nil && n.Kind == yaml.AliasNode && i < 10; i++ {
		n = n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n == nil || n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// lookup returns the value of a key in a mapping, nil when it is not there.
func lookup(m *yaml.Node, key string) *yaml.Node {
	if m = resolve(m); m == nil || m.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			return m.Content[i+1]
		}
	}
	return nil
}

type field struct {
	name  string
	value reflect.Value
	doc   string
}

// fields lists the keys of a struct, those of inlined structs among them.
func fields(v reflect.Value) []field {
	var out []field
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case !f.IsExported() || name == "-":
		case opts == "inline":
			out = append(out, fields(v.Field(i))...)
		default:
			if name == "" {
				name = strings.ToLower(f.Name)
			}
			out = append(out, field{name, v.Field(i), f.Tag.Get("doc")})
		}
	}
	return out
}

// structs decodes a mapping into the union of the targets' keys.
func (d *decoder) structs(n *yaml.Node, path string, targets []any, alsoValid []string) {
	n = resolve(n)
	if isNull(n) {
		return
	}
	byName := map[string]reflect.Value{}
	valid := append([]string(nil), alsoValid...)
	for _, name := range alsoValid {
		byName[name] = reflect.Value{}
	}
	for _, t := range targets {
		v := reflect.Indirect(reflect.ValueOf(t))
		for _, f := range fields(v) {
			byName[f.name] = f.value
			valid = append(valid, f.name)
		}
	}
	d.mapping(n, path, func(key, value *yaml.Node) {
		v, ok := byName[key.Value]
		switch {
		case !ok:
			d.unknown(key, join(path, key.Value), key.Value, path, valid)
		case v.IsValid():
			d.decode(key, value, join(path, key.Value), v)
		}
	})
}

// mapping calls f for each key once and reports what is wrong with the keys.
func (d *decoder) mapping(n *yaml.Node, path string, f func(key, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		d.errorf(n, path, "%smust be a mapping of keys to values, not %s", prefix(path), kindName(n))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch first, twice := seen[key.Value]; {
		case key.Tag == "!!merge":
			d.errorf(key, path, "merge keys (<<) are not supported: repeat the keys")
		case key.Kind != yaml.ScalarNode:
			d.errorf(key, path, "a key must be a plain word")
		case twice:
			d.errorf(key, path, "key %q is there twice, first in line %d", key.Value, first)
		default:
			seen[key.Value] = key.Line
			f(key, value)
		}
	}
}

func (d *decoder) value(n *yaml.Node, path string, target any) {
	d.decode(n, n, path, reflect.ValueOf(target).Elem())
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	sectionType  = reflect.TypeFor[*section]()
)

func (d *decoder) decode(key, n *yaml.Node, path string, v reflect.Value) {
	n = resolve(n)
	if v.Type() == sectionType {
		v.Set(reflect.ValueOf(&section{key: key, node: n}))
		return
	}
	if isNull(n) { // "key:" with nothing behind it leaves the default
		return
	}
	if _, ok := reflect.TypeAssert[encoding.TextUnmarshaler](v.Addr()); ok || v.Type() == durationType {
		d.scalar(n, path, v)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structs(n, path, []any{v.Addr().Interface()}, nil)
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.decode(key, n, path, v.Elem())
	case reflect.Map:
		out := reflect.MakeMap(v.Type())
		d.mapping(n, path, func(k, value *yaml.Node) {
			e := reflect.New(v.Type().Elem()).Elem()
			d.decode(k, value, join(path, k.Value), e)
			out.SetMapIndex(reflect.ValueOf(k.Value).Convert(v.Type().Key()), e)
		})
		v.Set(out)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.errorf(n, path, "%smust be a list, not %s", prefix(path), kindName(n))
			return
		}
		out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
		for i, item := range n.Content {
			d.decode(item, item, fmt.Sprintf("%s[%d]", path, i), out.Index(i))
		}
		v.Set(out)
	default:
		d.scalar(n, path, v)
	}
}

func (d *decoder) scalar(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.ScalarNode {
		d.errorf(n, path, "%smust be %s, not %s", prefix(path), want(v), kindName(n))
		return
	}
	s, secret, err := expand(n.Value)
	if err != nil {
		d.errorf(n, path, "%s%v", prefix(path), err)
		return
	}
	if err := set(v, s); err != nil {
		shown := strconv.Quote(s)
		if secret {
			shown = "the value of " + n.Value
		}
		msg := fmt.Sprintf("%smust be %s, not %s", prefix(path), want(v), shown)
		var text *textError
		if errors.As(err, &text) && !secret {
			msg = prefix(path) + text.Error()
		}
		d.errorf(n, path, "%s", msg)
	}
}

type textError struct{ error }

func set(v reflect.Value, s string) error {
	if v.Type() == durationType {
		t, err := time.ParseDuration(s)
		if s == "0" {
			t, err = 0, nil
		}
		v.SetInt(int64(t))
		return err
	}
	if u, ok := reflect.TypeAssert[encoding.TextUnmarshaler](v.Addr()); ok {
		if err := u.UnmarshalText([]byte(s)); err != nil {
			return &textError{err}
		}
		return nil
	}
	var err error
	switch v.Kind() {
	case reflect.String:
		v.SetString(s)
	case reflect.Bool:
		switch s {
		case "true", "false":
			v.SetBool(s == "true")
		default:
			err = errors.New("no boolean")
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		var i int64
		i, err = strconv.ParseInt(s, 10, v.Type().Bits())
		v.SetInt(i)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		var u uint64
		u, err = strconv.ParseUint(s, 10, v.Type().Bits())
		v.SetUint(u)
	case reflect.Float32, reflect.Float64:
		var f float64
		f, err = strconv.ParseFloat(s, v.Type().Bits())
		v.SetFloat(f)
	default:
		panic("config: no decoding into " + v.Type().String())
	}
	return err
}

// want names the type of a value in the user's words.
func want(v reflect.Value) string {
	if v.Type() == durationType {
		return `a duration such as "500ms" or "10s"`
	}
	if _, ok := reflect.TypeAssert[encoding.TextUnmarshaler](v.Addr()); ok {
		return typeName(v.Type())
	}
	switch v.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a text"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number that is not negative"
	default:
		return "a whole number"
	}
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	default:
		return "a single value"
	}
}

func join(path, key string) string {
	if path == "" || strings.HasPrefix(key, "[") {
		return path + key
	}
	return path + "." + key
}

func prefix(path string) string {
	if path == "" {
		return ""
	}
	return path + ": "
}
