package config

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Key describes one key of the file, for the generated table.
type Key struct {
	Path    string // "collectors.logs.max_line"
	Type    string // "duration", "size", "list of text", ...
	Default string // as it would be written; "" for empty
	Doc     string
}

// Describe lists the keys of everything that the schema allows, in the order of
// the code.
func Describe(schema Schema) []Key {
	settings := DefaultSettings()
	keys := describe("", &settings)
	for _, name := range sortedKeys(schema.Sections) {
		keys = append(keys, describe(name, schema.Sections[name])...)
	}
	for _, group := range []struct {
		name  string
		kinds []Kind
	}{{"collectors", schema.Collectors}, {"exporters", schema.Exporters}} {
		for _, k := range group.kinds {
			path := group.name + "." + k.Name
			for _, t := range append([]any{&common{Enabled: true}}, k.New()...) {
				keys = append(keys, describe(path, t)...)
			}
		}
	}
	return keys
}

func describe(path string, target any) []Key {
	v := reflect.Indirect(reflect.ValueOf(target))
	if v.Kind() == reflect.Slice { // a list of structs: one element stands for all
		v, path = reflect.New(v.Type().Elem()).Elem(), path+"[]"
	}
	var out []Key
	for _, f := range fields(v) {
		p := join(path, f.name)
		fv := f.value
		if fv.Kind() == reflect.Pointer {
			fv = reflect.New(fv.Type().Elem()).Elem()
		}
		_, text := reflect.TypeAssert[encoding.TextUnmarshaler](fv.Addr())
		switch {
		case fv.Kind() == reflect.Struct && !text:
			out = append(out, describe(p, fv.Addr().Interface())...)
		case fv.Kind() == reflect.Slice && fv.Type().Elem().Kind() == reflect.Struct:
			if f.doc != "" {
				out = append(out, Key{Path: p, Type: "list", Doc: f.doc})
			}
			out = append(out, describe(p, fv.Addr().Interface())...)
		default:
			out = append(out, Key{Path: p, Type: typeName(fv.Type()), Default: show(fv), Doc: f.doc})
		}
	}
	return out
}

func typeName(t reflect.Type) string {
	if t == durationType {
		return "duration"
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return strings.ToLower(t.Name())
	}
	switch t.Kind() {
	case reflect.Bool:
		return "boolean"
	case reflect.String:
		return "text"
	case reflect.Slice:
		return "list of " + typeName(t.Elem())
	case reflect.Map:
		return "map of " + typeName(t.Elem())
	case reflect.Float32, reflect.Float64:
		return "number"
	default:
		return "whole number"
	}
}

func show(v reflect.Value) string {
	if m, ok := reflect.TypeAssert[encoding.TextMarshaler](v); ok {
		if b, err := m.MarshalText(); err == nil {
			return string(b)
		}
	}
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		if v.Len() == 0 {
			return ""
		}
		if v.Kind() == reflect.Slice {
			parts := make([]string, v.Len())
			for i := range parts {
				parts[i] = fmt.Sprint(v.Index(i))
			}
			return "[" + strings.Join(parts, ", ") + "]"
		}
	case reflect.Int64:
		if d, ok := reflect.TypeAssert[time.Duration](v); ok {
			return shortDuration(d)
		}
	}
	return fmt.Sprint(v)
}

// shortDuration writes 10m instead of 10m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func sortedKeys(m map[string]any) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
