package spill

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"nodetap/agent/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, dir string, change ...func(*Options)) *Log {
	t.Helper()
	o := Options{Dir: dir, MaxBytes: 64 << 20}
	for _, c := range change {
		c(&o)
	}
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.closeReader(); l.closeWriter() })
	return l
}

// batch makes n records with random bodies, which do not compress.
func batch(from, n, size int) *telemetry.LogBatch {
	rng := rand.New(rand.NewPCG(uint64(from), uint64(size)))
	b := &telemetry.LogBatch{Resource: &telemetry.Resource{Namespace: "ns", Labels: map[string]string{"a": "b", "c": "d"}}}
	b.Source.Path = "/var/log/pods/x/0.log"
	for i := range n {
		body := make([]byte, size)
		for k := range body {
			body[k] = byte(rng.Uint32())
		}
		b.Append(telemetry.LogRecord{Pos: int64(from + i), Observed: int64(1000 + from + i)}, body)
	}
	return b
}

func add(t testing.TB, l *Log, batches ...*telemetry.LogBatch) {
	t.Helper()
	if err := l.Append(batches); err != nil {
		t.Fatal(err)
	}
	if err := l.Commit(); err != nil {
		t.Fatal(err)
	}
}

// rest reads all that is left, as the positions of the records.
func rest(t testing.TB, l *Log, done bool) []int64 {
	t.Helper()
	var got []int64
	for {
		batches, f, err := l.Next()
		if errors.Is(err, io.EOF) {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range batches {
			for i := range b.Records {
				got = append(got, b.Records[i].Pos)
			}
		}
		if done {
			allDone(batches, f)
		}
	}
}

func allDone(batches []*telemetry.LogBatch, f *Frame) {
	for i := range batches {
		f.Done(i)
	}
}

func ints(from, to int64) []int64 {
	var out []int64
	for i := from; i < to; i++ {
		out = append(out, i)
	}
	return out
}

func files(t testing.TB, dir, pattern string) int {
	t.Helper()
	m, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	return len(m)
}

// fill sets every exported field that reflection can reach to something that is
// not its zero value, so that a new field that the codec forgets fails the test.
func fill(v reflect.Value, n *int64) {
	*n++
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprintf("s%d", *n))
	case reflect.Int, reflect.Int64:
		v.SetInt(*n)
	case reflect.Uint8, reflect.Uint32:
		v.SetUint(uint64(*n%100 + 1))
	case reflect.Float64:
		v.SetFloat(float64(*n) + 0.5)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range 3 {
			k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(k, n)
			fill(e, n)
			v.SetMapIndex(k, e)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i), n)
			}
		}
	default:
		panic(v.Kind())
	}
}

func full(seed int64) *telemetry.LogBatch {
	b := &telemetry.LogBatch{Resource: &telemetry.Resource{}, Source: telemetry.LogSource{}}
	fill(reflect.ValueOf(b.Resource).Elem(), &seed)
	fill(reflect.ValueOf(&b.Source).Elem(), &seed)
	fill(reflect.ValueOf(&b.Attrs).Elem(), &seed)
	b.EventName = "event"
	for i := range 3 {
		var r telemetry.LogRecord
		fill(reflect.ValueOf(&r).Elem(), &seed)
		b.Append(r, []byte(fmt.Sprint("body ", i)))
	}
	b.Append(telemetry.LogRecord{Time: -1, Pos: -5}, nil)
	return b
}

var exact = cmp.Options{
	cmp.AllowUnexported(telemetry.LogRecord{}),
	cmp.Comparer(func(a, b func()) bool { return a == nil && b == nil }),
	cmp.Comparer(func(a, b float64) bool { return a == b }),
}

func TestEveryFieldComesBack(t *testing.T) {
	l := open(t, t.TempDir())
	want := []*telemetry.LogBatch{full(1), {Source: telemetry.LogSource{Path: "nil resource"}}, full(1000)}
	want[1].Append(telemetry.LogRecord{}, []byte("x"))
	same := full(7)
	same.Resource = want[0].Resource
	want = append(want, same, full(3).Slice(1, 3))
	add(t, l, want...)
	got, f, err := l.Next()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Done(0)
	for i := range want {
		w, g := *want[i], *got[i]
		if d := cmp.Diff(w.Resource, g.Resource, exact); d != "" {
			t.Errorf("%d: %s", i, d)
		}
		if d := cmp.Diff([]any{w.Source, w.Attrs, w.EventName, len(w.Records)}, []any{g.Source, g.Attrs, g.EventName, len(g.Records)}, exact); d != "" {
			t.Errorf("%d: %s", i, d)
		}
		for k := range w.Records {
			if string(w.Body(k)) != string(g.Body(k)) || string(w.AppendID(nil, k)) != string(g.AppendID(nil, k)) {
				t.Errorf("%d.%d: body %q, want %q", i, k, g.Body(k), w.Body(k))
			}
			wr, gr := reflect.ValueOf(w.Records[k]), reflect.ValueOf(g.Records[k])
			for n := range wr.NumField() {
				if wr.Type().Field(n).IsExported() && !wr.Field(n).Equal(gr.Field(n)) {
					t.Errorf("%d.%d: %s = %v, want %v", i, k, wr.Type().Field(n).Name, gr.Field(n), wr.Field(n))
				}
			}
		}
	}
	if got[0].Resource != got[3].Resource {
		t.Error("one Resource became two")
	}
	// also between frames, so that exporters can cache by the pointer
	add(t, l, want[0])
	again, _, err := l.Next()
	if err != nil || again[0].Resource != got[0].Resource {
		t.Errorf("the next frame has another Resource (%v)", err)
	}
}

func TestOrderDoneAndReopen(t *testing.T) {
	dir := t.TempDir()
	smallSegments := func(o *Options) { o.SegmentBytes = 4 << 10 }
	l := open(t, dir, smallSegments)
	for i := range 40 {
		add(t, l, batch(i*10, 10, 100))
	}
	if n := files(t, dir, "*.seg"); n < 8 {
		t.Fatalf("%d segments", n)
	}
	if s := l.Stats(); s.Records != 400 || s.Oldest != 1000 {
		t.Fatalf("%+v", s)
	}
	var frames []*Frame
	for range 20 {
		_, f, err := l.Next()
		if err != nil {
			t.Fatal(err)
		}
		frames = append(frames, f)
	}
	if s := l.Stats(); s.Records != 200 || s.Oldest != 1200 {
		t.Fatalf("%+v", s)
	}
	for i, f := range frames { // out of order, and one is not done
		if i != 11 {
			frames[len(frames)-1-i%2].Done(0)
			f.Done(0)
		}
	}
	if err := l.Save(); err != nil {
		t.Fatal(err)
	}
	// another process: only what is not done comes again, in order
	l2 := open(t, dir, smallSegments)
	if s := l2.Stats(); s.Records != 210 {
		t.Fatalf("%+v", s)
	}
	if d := cmp.Diff(append(ints(110, 120), ints(200, 400)...), rest(t, l2, true)); d != "" {
		t.Fatal(d)
	}
	add(t, l2, batch(400, 10, 100)) // in a segment of its own
	if d := cmp.Diff(ints(400, 410), rest(t, l2, true)); d != "" {
		t.Fatal(d)
	}
	for range 2 { // the last segment goes with the second
		if err := l2.Save(); err != nil {
			t.Fatal(err)
		}
	}
	if n := files(t, dir, "*.seg"); n != 0 || l2.Stats().Bytes != 0 {
		t.Errorf("%d segments left, %+v", n, l2.Stats())
	}
	add(t, l2, batch(410, 10, 100))
	l3 := open(t, dir)
	if d := cmp.Diff(ints(410, 420), rest(t, l3, true)); d != "" {
		t.Fatal(d)
	}
}

func TestWhatIsDoneOfAFrameDoesNotComeAgain(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	var group []*telemetry.LogBatch
	for i := range 20 {
		group = append(group, batch(i, 1, 10))
	}
	add(t, l, group...)
	add(t, l, group[:1]...)
	done := func(l *Log, slots ...int) {
		t.Helper()
		_, f, err := l.Next()
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range slots {
			f.Done(i)
			f.Done(i) // twice is once
		}
		if err := l.Save(); err != nil {
			t.Fatal(err)
		}
	}
	done(l, 0, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)
	l2 := open(t, dir)
	if n := l2.Stats().Records; n != 4 {
		t.Errorf("%d records", n)
	}
	if err := l2.Save(); err != nil { // before the frame was read: it stays partly done
		t.Fatal(err)
	}
	l3 := open(t, dir)
	done(l3, 1) // of 1, 2 and 19
	l4 := open(t, dir)
	if n := l4.Stats().Records; n != 3 {
		t.Errorf("%d records", n)
	}
	if d := cmp.Diff([]int64{1, 19, 0}, rest(t, l4, true)); d != "" {
		t.Error(d)
	}
	if n := l4.Stats().Records; n != 0 {
		t.Errorf("%d records", n)
	}
	// damage of the position brings all back, and loses nothing
	b, err := os.ReadFile(l3.positionPath())
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-12] ^= 1
	if err := os.WriteFile(l3.positionPath(), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := rest(t, open(t, dir), false); len(got) != 21 {
		t.Errorf("%d records", len(got))
	}
}

func TestLoadedFramesComeOnlyAfterARestart(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	var loaded []*Frame
	for i := range 4 {
		f, err := l.AppendLoaded([]*telemetry.LogBatch{batch(i*10, 10, 10)})
		if err != nil {
			t.Fatal(err)
		}
		loaded = append(loaded, f)
		if i == 1 {
			if err := l.Append([]*telemetry.LogBatch{batch(100, 10, 10)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := l.Commit(); err != nil {
		t.Fatal(err)
	}
	loaded[0].Done(0)
	loaded[3].Done(0)
	if d := cmp.Diff(ints(100, 110), rest(t, l, true)); d != "" {
		t.Fatal(d)
	}
	if l.Unread() {
		t.Error("unread")
	}
	if err := l.Save(); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(ints(10, 30), rest(t, open(t, dir), false)); d != "" {
		t.Fatal(d)
	}
}

func TestDamage(t *testing.T) {
	// three segments of three frames of 10 records each
	make3 := func(t *testing.T, dir string) (frame int64) {
		l := open(t, dir, func(o *Options) { o.SegmentBytes = 1 })
		for s := range 3 {
			for f := range 3 {
				if err := l.Append([]*telemetry.LogBatch{batch((s*3+f)*10, 10, 100)}); err != nil {
					t.Fatal(err)
				}
				if f == 0 {
					frame = l.size
				}
			}
			if err := l.Commit(); err != nil {
				t.Fatal(err)
			}
		}
		if n := files(t, dir, "*.seg"); n != 3 {
			t.Fatalf("%d segments", n)
		}
		return frame
	}
	flip := func(t *testing.T, path string, off int64) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[off] ^= 0x55
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cut := func(t *testing.T, path string, by int64) {
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, st.Size()-by); err != nil {
			t.Fatal(err)
		}
	}
	seg := func(dir string, n int) string { return filepath.Join(dir, fmt.Sprintf("%016x.seg", n)) }
	for _, tc := range []struct {
		name   string
		harm   func(t *testing.T, dir string, frame int64)
		want   []int64
		lost   int // known to be lost
		bad    int // files set aside
		before bool
	}{
		{"none", func(*testing.T, string, int64) {}, ints(0, 90), 0, 0, false},
		{"content in the middle: that frame", func(t *testing.T, dir string, frame int64) { flip(t, seg(dir, 1), frame+headerLen+20) },
			append(ints(0, 10), ints(20, 90)...), 10, 1, false},
		{"header in the middle: the rest of the segment", func(t *testing.T, dir string, frame int64) { flip(t, seg(dir, 2), frame+8) },
			append(ints(0, 40), ints(60, 90)...), 0, 1, false},
		{"a segment that was cut short", func(t *testing.T, dir string, _ int64) { cut(t, seg(dir, 1), 50) },
			append(ints(0, 20), ints(30, 90)...), 0, 1, false},
		{"the last segment torn in a content", func(t *testing.T, dir string, _ int64) { cut(t, seg(dir, 3), 50) }, ints(0, 80), 0, 0, false},
		{"the last segment torn in a header", func(t *testing.T, dir string, frame int64) { cut(t, seg(dir, 3), frame-9) }, ints(0, 80), 0, 0, false},
		{"the last frame's pages were not written", func(t *testing.T, dir string, frame int64) { flip(t, seg(dir, 3), 2*frame+headerLen+50) }, ints(0, 80), 0, 0, false},
		{"an earlier frame of the last segment", func(t *testing.T, dir string, frame int64) { flip(t, seg(dir, 3), frame+headerLen+50) },
			append(ints(0, 70), ints(80, 90)...), 10, 1, false},
		{"empty files and foreign files", func(t *testing.T, dir string, _ int64) {
			for _, name := range []string{"0000000000000004.seg", "x.seg", "notes.txt", "00000000000000ff.tmp"} {
				if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}, ints(0, 90), 0, 0, false},
		{"garbage as the position", func(t *testing.T, dir string, _ int64) {
			if err := os.WriteFile(filepath.Join(dir, "position"), []byte("nodetap spill position 1: segment 3"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, ints(0, 90), 0, 0, false},
		{"a position inside a frame", func(t *testing.T, dir string, frame int64) {
			if err := os.WriteFile(filepath.Join(dir, "position"), formatPosition(cursor{2, frame + 7}, nil), 0o600); err != nil {
				t.Fatal(err)
			}
		}, ints(30, 90), 0, 0, false},
		{"a position behind everything", func(t *testing.T, dir string, _ int64) {
			if err := os.WriteFile(filepath.Join(dir, "position"), formatPosition(cursor{9, 0}, nil), 0o600); err != nil {
				t.Fatal(err)
			}
		}, nil, 0, 0, false},
		{"a segment vanishes while open", func(t *testing.T, dir string, _ int64) {
			if err := os.Remove(seg(dir, 2)); err != nil {
				t.Fatal(err)
			}
		}, append(ints(0, 30), ints(60, 90)...), 30, 0, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			frame := make3(t, dir)
			lost := 0
			count := func(o *Options) { o.OnLost = func(n int) { lost += n } }
			var l *Log
			if tc.before {
				l = open(t, dir, count)
			}
			tc.harm(t, dir, frame)
			if !tc.before {
				l = open(t, dir, count)
			}
			records := l.Stats().Records
			got := rest(t, l, true)
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
			if lost != tc.lost || records != len(got)+lost || l.Stats().Records != 0 {
				t.Errorf("lost %d (want %d) of %d, got %d, %d left", lost, tc.lost, records, len(got), l.Stats().Records)
			}
			for range 2 {
				if err := l.Save(); err != nil {
					t.Fatal(err)
				}
			}
			if n := files(t, dir, "0*.seg"); n != 0 {
				t.Errorf("%d segments left", n)
			}
			if n := files(t, dir, "*.bad"); n != tc.bad {
				t.Errorf("%d files set aside, want %d", n, tc.bad)
			}
			add(t, l, batch(90, 10, 10)) // and it goes on
			if d := cmp.Diff(ints(90, 100), rest(t, l, true)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestEveryTornEndIsCutOff(t *testing.T) {
	whole := t.TempDir()
	l := open(t, whole)
	add(t, l, batch(0, 3, 20))
	first := l.size
	add(t, l, batch(3, 3, 20))
	path := filepath.Join(whole, "0000000000000001.seg")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range content {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "0000000000000001.seg"), content[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		want := ints(0, 0)
		if int64(n) >= first {
			want = ints(0, 3)
		}
		torn := open(t, dir)
		if d := cmp.Diff(want, rest(t, torn, true)); d != "" {
			t.Fatalf("cut at %d: %s", n, d)
		}
		add(t, torn, batch(9, 1, 1))
		if d := cmp.Diff(ints(9, 10), rest(t, torn, true)); d != "" {
			t.Fatalf("cut at %d: %s", n, d)
		}
	}
}

func TestBounds(t *testing.T) {
	t.Run("the cap holds, and ends when space is freed", func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, func(o *Options) { o.MaxBytes, o.SegmentBytes = 20<<10, 4<<10 })
		n := 0
		var err error
		for ; err == nil; n++ {
			if err = l.Append([]*telemetry.LogBatch{batch(n, 1, 1000)}); err == nil {
				err = l.Commit()
			}
		}
		if !errors.Is(err, ErrFull) || n < 15 {
			t.Fatalf("after %d: %v", n, err)
		}
		if b := l.Stats().Bytes; b > 20<<10 {
			t.Errorf("%d bytes", b)
		}
		for range 8 {
			_, f, err := l.Next()
			if err != nil {
				t.Fatal(err)
			}
			f.Done(0)
		}
		if err := l.Save(); err != nil {
			t.Fatal(err)
		}
		add(t, l, batch(n, 1, 1000))
	})
	t.Run("free space", func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, func(o *Options) { o.MinFreePercent = 100 })
		if err := l.Append([]*telemetry.LogBatch{batch(0, 1, 10)}); !errors.Is(err, ErrNoSpace) {
			t.Errorf("%v", err)
		}
		l.o.MinFreePercent, l.freeAt = 0, time.Time{}
		add(t, l, batch(0, 1, 10))
		if d := cmp.Diff(ints(0, 1), rest(t, l, true)); d != "" {
			t.Error(d)
		}
	})
	t.Run("an error takes back what was appended", func(t *testing.T) {
		l := open(t, t.TempDir(), func(o *Options) { o.MaxBytes = 4 << 10 })
		add(t, l, batch(0, 1, 1000))
		if err := l.Append([]*telemetry.LogBatch{batch(1, 1, 1000)}); err != nil {
			t.Fatal(err)
		}
		if err := l.Append([]*telemetry.LogBatch{batch(2, 1, 3000)}); !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
		if err := l.Commit(); err != nil {
			t.Fatal(err)
		}
		add(t, l, batch(3, 1, 1000))
		if d := cmp.Diff([]int64{0, 3}, rest(t, l, true)); d != "" {
			t.Error(d)
		}
	})
	t.Run("damaged files are kept, not all of them", func(t *testing.T) {
		dir := t.TempDir()
		for i := range 5 {
			l := open(t, dir)
			add(t, l, batch(i, 1, 100))
			path := l.path(l.nextID - 1)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			b[headerLen+5]++
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if got := rest(t, l, true); len(got) != 0 {
				t.Fatal(got)
			}
			for range 2 {
				if err := l.Save(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if n := files(t, dir, "*.bad"); n != keepBad {
			t.Errorf("%d", n)
		}
	})
}

func TestWriteThatFails(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	add(t, l, batch(0, 5, 10))
	l.w.Close() //nolint:errcheck // so that the next write fails
	if err := l.Append([]*telemetry.LogBatch{batch(5, 5, 10)}); err == nil {
		t.Fatal("no error")
	}
	add(t, l, batch(5, 5, 10)) // in another segment
	if err := l.Append([]*telemetry.LogBatch{batch(10, 5, 10)}); err != nil {
		t.Fatal(err)
	}
	l.w.Close() //nolint:errcheck // so that the fsync fails
	if err := l.Commit(); err == nil {
		t.Fatal("no error")
	}
	add(t, l, batch(10, 5, 10))
	if d := cmp.Diff(ints(0, 15), rest(t, l, true)); d != "" {
		t.Error(d)
	}
}

func BenchmarkAppendAndNext(b *testing.B) {
	lb := &telemetry.LogBatch{Resource: &telemetry.Resource{Namespace: "ns", Pod: "p"}}
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range 2000 {
		lb.Append(telemetry.LogRecord{Time: int64(i) * 1e6, Pos: int64(i) * 200},
			fmt.Appendf(nil, `level=info ts=%d caller=handler.go:%d msg="request done" path=/api/v1/%x status=200 duration=%dms user=%x`,
				i, rng.IntN(999), rng.Uint64(), rng.IntN(900), rng.Uint64()))
	}
	b.Run("append", func(b *testing.B) {
		l := open(b, b.TempDir(), func(o *Options) { o.MaxBytes = 1 << 40 })
		b.SetBytes(int64(len(lb.Arena)))
		b.ReportAllocs()
		for range b.N {
			if err := l.Append([]*telemetry.LogBatch{lb}); err != nil {
				b.Fatal(err)
			}
			l.rollback(false)
		}
	})
	b.Run("next", func(b *testing.B) {
		l := open(b, b.TempDir())
		add(b, l, lb)
		b.SetBytes(int64(len(lb.Arena)))
		b.ReportAllocs()
		for range b.N {
			l.at = cursor{seg: 1}
			if _, _, err := l.Next(); err != nil {
				b.Fatal(err)
			}
			l.open = l.open[:0]
		}
	})
}
