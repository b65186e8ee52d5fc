package logs

import (
	"fmt"
	"sync"
	"testing"
)

// A kill can leave a position in the journal of a file of which nothing was
// acknowledged yet. It must be found again by its inode: left over, it would be
// taken for the file's compressed form, which would then be read a second time,
// from the middle of a split line on.
func TestFileKnownButNotAcknowledgedIsNotReadAgainCompressed(t *testing.T) {
	n := newNode(t)
	n.write(n.log("0.log.20261122-100000"), n.cri("one")+n.tagged("stdout", "P", "begin-"))
	n.write(n.log("0.log"), n.tagged("stdout", "F", "end")+n.cri("two"))
	s := newSink()
	s.holdAcks()
	n.cfg.DrainTimeout = 0
	a := n.start(s)
	s.wait(3)
	var journal []entry
	for _, src := range a.list() {
		journal = src.moved(journal)
	}
	a.stop()
	if len(journal) != 2 {
		t.Fatalf("%d positions, want one of each file: %+v", len(journal), journal)
	}
	ck, _, _, err := openCheckpoint(n.path("state/logs")) // as if killed before the next full save
	n.check(err)
	n.check(ck.save(nil))
	n.check(ck.note(journal))
	n.check(ck.close())

	s = newSink()
	a = n.start(s)
	s.wait(3)
	for _, src := range a.list() {
		src.mu.Lock()
		if len(src.orphans) > 0 {
			t.Errorf("the file of %+v was not found", src.orphans[0])
		}
		src.mu.Unlock()
	}
	n.rename(n.log("0.log"), n.log("0.log.20261122-110000"))
	n.write(n.log("0.log"), n.cri("three"))
	s.wait(4)
	n.gzip(n.log("0.log.20261122-110000"))
	a.lookAgainAt(testDir[len("pods/"):])
	n.write(n.log("0.log"), n.cri("four"))
	same(t, s.bodies(5), []string{"one", "begin-end", "two", "three", "four"})
}

// What is renamed after its directory was read and before it is opened has its
// successor under its name: it must not be read behind it.
func TestRotationWhileADirectoryIsRead(t *testing.T) {
	for _, away := range []bool{false, true} {
		t.Run(fmt.Sprintf("away=%t", away), func(t *testing.T) {
			n := newNode(t)
			n.write(n.log("0.log"), n.cri("one")+n.tagged("stdout", "P", "begin-"))
			s := newSink()
			if away {
				a := n.start(s)
				s.wait(1)
				a.stop()
			}
			var once sync.Once
			n.looked = func(string) {
				once.Do(func() {
					n.rename(n.log("0.log"), n.log("0.log.20261122-100000"))
					n.write(n.log("0.log"), n.tagged("stdout", "F", "end")+n.cri("two"))
				})
			}
			n.start(s)
			same(t, s.bodies(3), []string{"one", "begin-end", "two"})
		})
	}
}
