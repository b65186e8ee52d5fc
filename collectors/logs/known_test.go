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

// A kill can leave a position of a file that was empty then, and whose inode
// has become another file's by the next start. It would fit that one, which
// would be read from its beginning again, and beside itself once its own
// position is found to be its compressed form's.
func TestPositionOfAnEmptyFileIsNotTakenForAnother(t *testing.T) {
	n := newNode(t)
	n.write(n.log("0.log.20261122-100000"), n.cri("one")+n.tagged("stdout", "P", "begin-"))
	n.write(n.log("0.log"), n.tagged("stdout", "F", "end")+n.cri("two"))
	s := newSink()
	a := n.start(s)
	s.wait(3)
	a.stop()
	ck, entries, _, err := openCheckpoint(n.path("state/logs"))
	n.check(err)
	stale := entry{uid: 0, dir: testDir[len("pods/"):], base: "0.log"}
	stale.mark = newFile(0, fileName{}, "0.log").mark()
	for _, e := range entries {
		if e.base == "0.log" {
			stale.id = e.id
		}
	}
	if stale.id == (fileID{}) {
		t.Fatalf("no position of 0.log: %+v", entries)
	}
	stale.head = newHead(nil)
	n.check(ck.save(append(entries, stale))) // first of those of its name
	n.check(ck.close())

	n.start(s)
	n.write(n.log("0.log"), n.cri("three"))
	same(t, s.bodies(4), []string{"one", "begin-end", "two", "three"})
}

// A position that is left over must not have the compressed form of a file read
// that is known.
func TestLeftOverPositionDoesNotTakeAKnownFileCompressed(t *testing.T) {
	n := newNode(t)
	n.write(n.log("0.log"), n.cri("one", "two"))
	s := newSink()
	a := n.start(s)
	s.wait(2)
	a.stop()
	ck, entries, _, err := openCheckpoint(n.path("state/logs"))
	n.check(err)
	if len(entries) != 1 || entries[0].head.n < minHead {
		t.Fatalf("want one position with the file's beginning: %+v", entries)
	}
	stale := entries[0]
	stale.uid, stale.id, stale.off, stale.pend[0] = stale.uid+1, fileID{1, 1}, 1, 0
	n.check(ck.save(append(entries, stale)))
	n.check(ck.close())

	a = n.start(s)
	n.write(n.log("0.log"), n.cri("three"))
	s.wait(3)
	n.rename(n.log("0.log"), n.log("0.log.20261122-100000"))
	n.write(n.log("0.log"), n.cri("four"))
	s.wait(4)
	n.gzip(n.log("0.log.20261122-100000"))
	a.lookAgainAt(testDir[len("pods/"):])
	n.write(n.log("0.log"), n.cri("five"))
	same(t, s.bodies(5), []string{"one", "two", "three", "four", "five"})
}
