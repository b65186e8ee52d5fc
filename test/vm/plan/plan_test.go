package plan

import (
	"encoding/json"
	"testing"
	"time"
)

func TestParseLine(t *testing.T) {
	for name, c := range map[string]struct {
		line string
		want Event
		ok   bool
	}{
		"event":            {line: `@vm {"kind":"exit","name":"probe","code":1,"ms":7}` + "\r\n", want: Event{Kind: Exit, Name: "probe", Code: 1, Millis: 7}, ok: true},
		"after firmware":   {line: "\x1b[2JSeaBIOS@vm {\"kind\":\"end\"}", want: Event{Kind: End}, ok: true},
		"foreign":          {line: "[    0.1] Linux version 6.1"},
		"interrupted":      {line: `@vm {"kind":"out[   1.0] BUG: stack guard page`},
		"kind of no event": {line: `@vm {"kind":"reboot"}`},
		"empty":            {},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := ParseLine([]byte(c.line))
			if ok != c.ok || got != c.want {
				t.Errorf("got %+v %v, want %+v %v", got, ok, c.want, c.ok)
			}
		})
	}
}

func TestTimeoutOfZeroIsTheDefault(t *testing.T) {
	if got := (Program{}).Timeout(); got != 2*time.Minute {
		t.Errorf("timeout is %v", got)
	}
}

// What is accepted as an event is one: it survives being written again.
func FuzzParseLine(f *testing.F) {
	f.Add([]byte(`@vm {"kind":"output","name":"probe","text":"=== RUN"}`))
	f.Add([]byte(`@vm @vm {"kind":"end"}`))
	f.Add([]byte("[    0.0] Booting"))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, ok := ParseLine(line)
		if !ok {
			if e != (Event{}) {
				t.Fatalf("no event, but %+v", e)
			}
			return
		}
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		again, ok := ParseLine(append([]byte(Mark), b...))
		if !ok || again != e {
			t.Fatalf("%+v became %+v", e, again)
		}
	})
}
