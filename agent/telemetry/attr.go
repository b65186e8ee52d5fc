package telemetry

// AttrKind is the type of an attribute's value.
type AttrKind uint8

// The kinds of attribute values. The zero kind is a string.
const (
	AttrString AttrKind = iota
	AttrInt
	AttrFloat
	AttrBool
	AttrStrings
)

// Attr is one attribute by its OpenTelemetry semantic-convention key.
type Attr struct {
	Key   string
	Kind  AttrKind
	Str   string   // AttrString
	Int   int64    // AttrInt; AttrBool as 0 or 1
	Float float64  // AttrFloat
	Strs  []string // AttrStrings
}

// String returns a string attribute.
func String(key, value string) Attr { return Attr{Key: key, Str: value} }

// Int returns an integer attribute.
func Int(key string, value int64) Attr { return Attr{Key: key, Kind: AttrInt, Int: value} }

// Float returns a floating-point attribute.
func Float(key string, value float64) Attr { return Attr{Key: key, Kind: AttrFloat, Float: value} }

// Bool returns a boolean attribute.
func Bool(key string, value bool) Attr {
	a := Attr{Key: key, Kind: AttrBool}
	if value {
		a.Int = 1
	}
	return a
}

// Strings returns a string-array attribute.
func Strings(key string, values ...string) Attr {
	return Attr{Key: key, Kind: AttrStrings, Strs: values}
}

// Value returns the attribute's value as string, int64, float64, bool or []string.
func (a Attr) Value() any {
	switch a.Kind {
	case AttrInt:
		return a.Int
	case AttrFloat:
		return a.Float
	case AttrBool:
		return a.Int != 0
	case AttrStrings:
		return a.Strs
	default:
		return a.Str
	}
}
