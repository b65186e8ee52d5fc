package logs

import (
	"fmt"
	"nodetap/agent/telemetry"
	"os"
	"testing"
	"time"

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

func TestRotationWhileRunning(t *testing.T) {
	n := newNode(t)
	n.write(n.log("0.log"), n.cri(numbers(0, 10)...))
	s := newSink()
	a := n.start(s)
	s.wait(10)
	for i := 1; i <= 4; i++ {
		n.write(n.log("0.log"), n.cri(numbers(10*i, 10*i+5)...))
		stamp := "0.log.20261122-10000" + string(rune('0'+i))
		n.rename(n.log("0.log"), n.log(stamp))
		n.write(n.log(stamp), n.cri(numbers(10*i+5, 10*i+7)...)) // the runtime has it open still
		n.write(n.log("0.log"), n.cri(numbers(10*i+7, 10*i+10)...))
		s.wait(10*i + 10)
		n.gzip(n.log(stamp))
	}
	same(t, s.bodies(50), numbers(0, 50))
	a.counter("nodetap_logs_rotations_total", 4+4) // renamed and compressed
	a.stop()
	a = n.start(s)
	n.write(n.log("0.log"), n.cri("last"))
	same(t, s.bodies(51), append(numbers(0, 50), "last"))
	a.stop()
}

func TestDeletedFileIsReadToItsEnd(t *testing.T) {
	n := newNode(t)
	n.write(n.log("0.log"), n.cri("first"))
	s := newSink()
	a := n.start(s)
	s.wait(1)
	f, err := os.OpenFile(n.path(n.log("0.log")), os.O_APPEND|os.O_WRONLY, 0)
	n.check(err)
	defer f.Close()
	n.remove("pods/ns_pod_uid-1")
	_, err = f.WriteString(n.cri("written behind the deletion") + n.tagged("stdout", "P", "never finished") + "2026-11-22T13:00:00Z stderr F no newline")
	n.check(err)
	got := s.wait(4)
	same(t, []string{got[1].Body, got[2].Body, got[3].Body}, []string{"written behind the deletion", "no newline", "never finished"})
	if got[3].Flags&telemetry.Split == 0 {
		t.Error("a line without its end is not marked")
	}
	for a.sum().sources > 0 { // and then it is let go
		time.Sleep(time.Millisecond)
	}
}

func TestPodThatIsGoneAtOnce(t *testing.T) {
	n := newNode(t)
	s := newSink()
	a := n.start(s)
	a.counter("nodetap_logs_sources", 0)
	n.write("pods/ns_job_uid-9/app/0.log", n.cri("all it ever said"))
	a.counter("nodetap_logs_open_files", 1)
	n.remove("pods/ns_job_uid-9")
	same(t, s.bodies(1), []string{"all it ever said"})
}

func TestSplitLineAcrossRotationAndRestart(t *testing.T) {
	n := newNode(t)
	n.write(n.log("0.log"), n.tagged("stdout", "F", "before")+n.tagged("stdout", "P", "a-")+n.tagged("stderr", "F", "between"))
	s := newSink()
	a := n.start(s)
	same(t, s.bodies(2), []string{"before", "between"})
	a.stop()
	n.rename(n.log("0.log"), n.log("0.log.20261122-100000"))
	n.gzip(n.log("0.log.20261122-100000"))
	n.write(n.log("0.log"), n.tagged("stderr", "F", "other")+n.tagged("stdout", "P", "b-"))
	a = n.start(s)
	same(t, s.bodies(3), []string{"before", "between", "other"})
	a.stop()
	n.write(n.log("0.log"), n.tagged("stdout", "F", "c"))

	// twice, without an acknowledgement: the same line, the same id
	s.holdAcks()
	n.cfg.DrainTimeout = 0
	for range 2 {
		a = n.start(s)
		have := len(s.wait(0))
		s.wait(have + 1)
		a.stop()
	}
	got := s.wait(5)
	same(t, got[3], got[4])
	same(t, got[3].Body, "a-b-c")
	if got[3].Time != nano("2026-11-22T12:00:00.000000003Z") {
		t.Errorf("time = %d, want the first part's", got[3].Time)
	}
	if got[3].Flags != telemetry.Joined {
		t.Errorf("flags = %d", got[3].Flags)
	}
}

func TestCopytruncate(t *testing.T) {
	n := newNode(t)
	n.write(n.log("0.log"), n.cri(numbers(0, 5)...))
	s := newSink()
	a := n.start(s)
	s.wait(5)
	// what is written between the last read and the truncation is in the copy
	b, err := os.ReadFile(n.path(n.log("0.log")))
	n.check(err)
	n.write(n.log("0.log.1"), string(b)+n.cri(numbers(5, 8)...))
	a.lookAgainAt(testDir[len("pods/"):])
	n.check(os.Truncate(n.path(n.log("0.log")), 0))
	n.write(n.log("0.log"), n.cri(numbers(8, 12)...))
	got := s.wait(12)
	seen := map[string]int{}
	for _, r := range got {
		seen[r.Body]++
	}
	for _, body := range numbers(0, 12) {
		if seen[body] != 1 {
			t.Errorf("%s came %d times", body, seen[body])
		}
	}
	if got[0].ID == got[8].ID {
		t.Error("two contents of a file have the same ids")
	}
}

func TestTruncatedAndGrownBeyondItsPosition(t *testing.T) {
	n := newNode(t)
	n.write(n.log("0.log"), n.cri("short"))
	s := newSink()
	a := n.start(s)
	s.wait(1)
	a.counter("nodetap_logs_checkpoint_notes_total", 0)
	f, err := os.OpenFile(n.path(n.log("0.log")), os.O_WRONLY|os.O_TRUNC, 0)
	n.check(err)
	_, err = f.WriteString(n.cri(numbers(0, 20)...))
	n.check(err)
	n.check(f.Close())
	same(t, s.bodies(21), append([]string{"short"}, numbers(0, 20)...))
}

// An inode that is used again, and a file that begins as the one before it did.
func TestAnotherFileIsToldApart(t *testing.T) {
	var long []string
	for i := range 40 { // more than what identifies a file
		long = append(long, fmt.Sprintf("the same beginning %d", i))
	}
	for _, away := range []bool{false, true} {
		for _, inPlace := range []bool{false, true} {
			for _, beginning := range []string{"same", "other"} {
				t.Run(fmt.Sprintf("away=%t/inode=%t/%s", away, inPlace, beginning), func(t *testing.T) {
					n := newNode(t)
					head := n.cri(long...)
					n.write(n.log("0.log"), head+n.cri("first"))
					s := newSink()
					a := n.start(s)
					s.wait(41)
					if away {
						a.stop()
					}
					if beginning == "other" {
						head = n.cri(long...)
					}
					content := head + n.cri("second", "third")
					if inPlace {
						f, err := os.OpenFile(n.path(n.log("0.log")), os.O_WRONLY|os.O_TRUNC, 0)
						n.check(err)
						_, err = f.WriteString(content)
						n.check(err)
						n.check(f.Close())
					} else {
						n.write("new", content)
						n.rename("new", n.log("0.log"))
					}
					if away {
						n.start(s)
					}
					want := append(append(append([]string{}, long...), "first"), append(append([]string{}, long...), "second", "third")...)
					same(t, s.bodies(len(want)), want)
				})
			}
		}
	}
}
