package component

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes in the configuration: 1048576, "512KiB", "48MiB",
// "1GB". KiB, MiB, GiB (also Ki, Mi, Gi, as Kubernetes writes them) are powers
// of 1024; kB, MB, GB of 1000.
type Size int64

var sizeUnits = []struct {
	suffix string
	factor int64
}{
	{"kib", 1 << 10}, {"mib", 1 << 20}, {"gib", 1 << 30}, {"tib", 1 << 40},
	{"ki", 1 << 10}, {"mi", 1 << 20}, {"gi", 1 << 30}, {"ti", 1 << 40},
	{"kb", 1e3}, {"mb", 1e6}, {"gb", 1e9}, {"tb", 1e12},
	{"b", 1}, {"", 1},
}

// ParseSize reads a size. It refuses negative numbers and what does not fit.
func ParseSize(s string) (Size, error) {
	low := strings.ToLower(strings.TrimSpace(s))
	for _, u := range sizeUnits {
		num, ok := strings.CutSuffix(low, u.suffix)
		if !ok {
			continue
		}
		num = strings.TrimSpace(num)
		v, err := strconv.ParseFloat(num, 64)
		if err != nil || math.IsNaN(v) || v < 0 {
			break
		}
		if v *= float64(u.factor); v >= math.MaxInt64 {
			return 0, fmt.Errorf("size %q is too large", s)
		}
		return Size(v), nil
	}
	return 0, fmt.Errorf("%q is no size: write a number of bytes, or one with KiB, MiB, GiB", s)
}

// String writes the size with the largest unit that divides it.
func (s Size) String() string {
	for _, u := range []struct {
		suffix string
		factor Size
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if s != 0 && s%u.factor == 0 {
			return strconv.FormatInt(int64(s/u.factor), 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(b []byte) error {
	v, err := ParseSize(string(b))
	if err == nil {
		*s = v
	}
	return err
}

// MarshalText implements encoding.TextMarshaler.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
