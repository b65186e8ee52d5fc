package containers

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// tree mirrors the directories of one hierarchy. One goroutine uses it.
type tree struct {
	dir  string // where it is mounted
	root *node
	byID map[uint64]*node

	added   func(*node) // after n is in the tree
	removed func(*node) // after n is out of it, children first
	watch   func(*node) // nil without inotify
}

// node is one cgroup directory.
type node struct {
	path     string // from the hierarchy's root: "/", "/kubepods"
	id       uint64
	parent   *node
	children map[string]*node
	wd       int32 // inotify; 0 for none
	tree     *tree
}

// maxNodes bounds what a hierarchy may take of our memory: whoever may create
// cgroups (a privileged container) may create very many.
const maxNodes = 1 << 17

func newTree(dir string) (*tree, error) {
	id, _, err := statDir(dir)
	if err != nil {
		return nil, err
	}
	t := &tree{dir: dir, byID: map[uint64]*node{}, added: func(*node) {}, removed: func(*node) {}}
	t.root = &node{path: "/", id: id, tree: t}
	t.byID[id] = t.root
	return t, nil
}

// name returns the last component of n's path.
func (n *node) name() string { return path.Base(n.path) }

// add puts a directory into the tree; it returns the node that is there.
func (t *tree) add(parent *node, name string, id uint64) *node {
	if old := parent.children[name]; old != nil {
		if old.id == id {
			return old
		}
		t.remove(old) // removed and made again under the same name
	}
	if len(t.byID) >= maxNodes {
		return nil
	}
	n := &node{path: path.Join(parent.path, name), id: id, parent: parent, tree: t}
	if parent.children == nil {
		parent.children = map[string]*node{}
	}
	parent.children[name] = n
	t.byID[id] = n
	if t.watch != nil {
		t.watch(n)
	}
	t.added(n)
	return n
}

// remove takes a directory and all below it out of the tree.
func (t *tree) remove(n *node) {
	for _, c := range n.children {
		t.remove(c)
	}
	if n.parent != nil {
		delete(n.parent.children, n.name())
	}
	if t.byID[n.id] == n {
		delete(t.byID, n.id)
	}
	t.removed(n)
}

// scan makes the tree below n equal to the directories and returns how many
// differed. A directory that goes away meanwhile is not an error.
func (t *tree) scan(n *node) (changes int, err error) {
	if t.watch != nil && n.wd == 0 {
		t.watch(n)
	}
	id, leaf, err := statDir(filepath.Join(t.dir, n.path))
	if err != nil {
		return 0, err
	}
	if n != t.root && id != n.id {
		return 0, nil // another directory by now: its parent's scan tells
	}
	if leaf && len(n.children) == 0 {
		return 0, nil
	}
	names, err := subdirs(filepath.Join(t.dir, n.path))
	if err != nil {
		return 0, err
	}
	seen := make(map[string]bool, len(names))
	for _, name := range names {
		id, _, err := statDir(filepath.Join(t.dir, n.path, name))
		if err != nil {
			continue
		}
		seen[name] = true
		if c := n.children[name]; c == nil || c.id != id {
			changes++
		}
		c := t.add(n, name, id)
		if c == nil {
			return changes, errTooMany
		}
		more, err := t.scan(c)
		if changes += more; err != nil && !errors.Is(err, fs.ErrNotExist) {
			return changes, err
		}
	}
	for name, c := range n.children {
		if !seen[name] {
			changes++
			t.remove(c)
		}
	}
	return changes, nil
}

var errTooMany = errors.New("too many cgroups")

// statDir returns a directory's inode, and whether its link count says that it
// has no directories in it: the cgroup file systems count them exactly.
func statDir(dir string) (inode uint64, leaf bool, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return 0, false, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return 0, false, &os.PathError{Op: "stat", Path: dir, Err: syscall.ENOTDIR}
	}
	return st.Ino, st.Nlink == 2, nil
}

func subdirs(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out, nil
}
