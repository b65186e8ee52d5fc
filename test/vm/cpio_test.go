//go:build vm

package vm

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// archive writes a root file system in the only format that the kernel
// unpacks at boot, cpio "newc" (Documentation/driver-api/early-userspace/
// buffer-format.rst). Not compressed: unpacking would run emulated.
type archive struct {
	w     io.Writer
	inode int
	dirs  map[string]bool
	err   error
}

func newArchive(w io.Writer) *archive {
	a := &archive{w: w, dirs: map[string]bool{".": true}}
	// The kernel opens this for process 1 before anything can mount devtmpfs.
	a.entry("dev", 0o040755, nil, 0, 0)
	a.dirs["dev"] = true
	a.entry("dev/console", 0o020600, nil, 5, 1)
	return a
}

// file adds a regular file and the directories above it.
func (a *archive) file(name string, mode os.FileMode, content []byte) {
	a.parents(name)
	a.entry(name, 0o100000|uint32(mode.Perm()), content, 0, 0)
}

// tree adds the regular files and directories below the host's dir.
func (a *archive) tree(dir, at string) {
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		name := path.Join(at, filepath.ToSlash(rel))
		switch {
		case d.IsDir():
			a.parents(name + "/x")
		case d.Type()&os.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			a.parents(name)
			a.entry(name, 0o120777, []byte(target), 0, 0)
		case d.Type().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			a.file(name, 0o644, b)
		}
		return nil
	})
	if err != nil && a.err == nil {
		a.err = err
	}
}

func (a *archive) parents(name string) {
	dir := ""
	for _, part := range strings.Split(path.Dir(name), "/") {
		dir = path.Join(dir, part)
		if dir != "" && !a.dirs[dir] {
			a.dirs[dir] = true
			a.entry(dir, 0o040755, nil, 0, 0)
		}
	}
}

// close writes the trailer and returns the first error of all.
func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, nil, 0, 0)
	return a.err
}

func (a *archive) entry(name string, mode uint32, content []byte, major, minor int) {
	if a.err != nil {
		return
	}
	a.inode++
	if name == "TRAILER!!!" {
		a.inode = 0
	}
	head := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		a.inode, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name)+1, 0) + name + "\x00"
	for _, b := range [][]byte{[]byte(head), content} {
		_, err := a.w.Write(append(b[:len(b):len(b)], make([]byte, -len(b)&3)...))
		if err != nil {
			a.err = err
			return
		}
	}
}

func TestArchiveLayout(t *testing.T) {
	var buf bytes.Buffer
	a := newArchive(&buf)
	a.file("a/b/c", 0o755, []byte("hello"))
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	// Read it back by the format's own description.
	var names []string
	b := buf.Bytes()
	for len(b) > 0 {
		if string(b[:6]) != "070701" {
			t.Fatalf("entry %d begins with %q", len(names), b[:6])
		}
		field := func(i int) (n int) {
			fmt.Sscanf(string(b[6+8*i:14+8*i]), "%X", &n)
			return n
		}
		nameLen, size := field(11), field(6)
		name := string(b[110 : 110+nameLen-1])
		data := (110 + nameLen + 3) &^ 3
		names = append(names, fmt.Sprintf("%s %o %s", name, field(1), b[data:data+size]))
		b = b[(data+size+3)&^3:]
	}
	want := "[dev 40755  dev/console 20600  a 40755  a/b 40755  a/b/c 100755 hello TRAILER!!! 0 ]"
	if got := fmt.Sprint(names); got != want {
		t.Errorf("archive holds\n%s, want\n%s", got, want)
	}
}
