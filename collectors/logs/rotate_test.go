package logs

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func same(t *testing.T, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestReadsWhatIsThereAndWhatComes(t *testing.T) {
	n := newNode(t)
	n.write(n.log("0.log"), n.cri(numbers(0, 3)...))
	s := newSink()
	n.start(s)
	same(t, s.bodies(3), numbers(0, 3))
	n.write(n.log("0.log"), n.cri(numbers(3, 5)...))
	same(t, s.bodies(5), numbers(0, 5))
	// a pod that comes later
	n.write("pods/ns_late_uid-2/app/0.log", n.cri(numbers(5, 6)...))
	same(t, s.bodies(6), numbers(0, 6))
}

func TestRotatedSiblingsAreReadInTimeOrderAtStart(t *testing.T) {
	n := newNode(t)
	n.write(n.log("0.log.20261122-100000"), n.cri(numbers(0, 10)...))
	n.gzip(n.log("0.log.20261122-100000"))
	n.write(n.log("0.log.20261122-110000"), n.cri(numbers(10, 20)...))
	n.write(n.log("0.log"), n.cri(numbers(20, 30)...))
	s := newSink()
	n.start(s)
	same(t, s.bodies(30), numbers(0, 30))
}

func TestNothingComesTwiceAfterAcknowledgedStop(t *testing.T) {
	n := newNode(t)
	n.write(n.log("0.log"), n.cri(numbers(0, 10)...))
	s := newSink()
	a := n.start(s)
	s.wait(10)
	a.stop()
	// rotated twice while away: one compressed, one plain
	n.write(n.log("0.log"), n.cri(numbers(10, 20)...))
	n.rename(n.log("0.log"), n.log("0.log.20261122-100000"))
	n.gzip(n.log("0.log.20261122-100000"))
	n.write(n.log("0.log"), n.cri(numbers(20, 30)...))
	n.rename(n.log("0.log"), n.log("0.log.20261122-110000"))
	n.write(n.log("0.log"), n.cri(numbers(30, 40)...))
	a = n.start(s)
	same(t, s.bodies(40), numbers(0, 40))
	a.stop()
	same(t, s.bodies(40), numbers(0, 40))
}
