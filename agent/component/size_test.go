package component

import "testing"

func TestParseSize(t *testing.T) {
	for in, want := range map[string]Size{
		"0": 0, "1048576": 1 << 20, "512KiB": 512 << 10, "48Mi": 48 << 20, "1GB": 1e9, "1.5 MiB": 3 << 19, "7b": 7,
	} {
		got, err := ParseSize(in)
		if err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", in, got, err, want)
		}
		if back, err := ParseSize(got.String()); err != nil || back != got {
			t.Errorf("%q does not come back from %q", in, got.String())
		}
	}
	for _, in := range []string{"", "MiB", "-1", "1 parsec", "NaN", "1e300GiB"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", in, got)
		}
	}
}
