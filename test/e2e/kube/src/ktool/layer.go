package main

import (
	"archive/tar"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// layer writes files, directories and shared libraries to an image's layer.
type layer struct {
	tw    *tar.Writer
	mkdir func(dir string, mode int64) error
	done  map[string]bool // paths in the image
}

// add writes src, a file or a directory, as dst. Symbolic links are followed,
// those that lead nowhere are left out: a package may link to another that is
// not installed.
func (l layer) add(src, dst string, libs bool) error {
	st, err := os.Stat(src)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return l.file(src, dst, libs)
	}
	real, err := filepath.EvalSymlinks(src)
	if err != nil {
		return err
	}
	return filepath.WalkDir(real, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := os.Stat(p)
		if err != nil || d.Name() == "__pycache__" {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		to := path.Join(dst, strings.TrimPrefix(p, real))
		switch {
		case st.Mode().IsRegular():
			return l.file(p, to, libs)
		case st.IsDir() && d.Type()&fs.ModeSymlink != 0:
			return l.add(p, to, libs)
		}
		return nil
	})
}

func (l layer) file(src, dst string, libs bool) error {
	if l.done[dst] {
		return nil
	}
	l.done[dst] = true
	b, err := os.ReadFile(src)
	if err != nil {
		return err
	}
	st, err := os.Stat(src)
	if err != nil {
		return err
	}
	if err := l.mkdir(path.Dir(dst), 0o755); err != nil {
		return err
	}
	if err := l.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(dst, "/"), Mode: int64(st.Mode().Perm()), Size: int64(len(b))}); err != nil {
		return err
	}
	if _, err := l.tw.Write(b); err != nil {
		return err
	}
	if !libs {
		return nil
	}
	return l.libraries(src)
}

// libraries writes what an ELF file names: its interpreter and, where the
// dynamic linker would look, its libraries. Other files have none.
func (l layer) libraries(src string) error {
	f, err := elf.Open(src)
	if err != nil {
		return nil // no ELF file
	}
	defer f.Close()
	if s := f.Section(".interp"); s != nil {
		b, err := s.Data()
		if err != nil {
			return err
		}
		ld := strings.TrimRight(string(b), "\x00")
		if err := l.file(ld, ld, true); err != nil {
			return err
		}
	}
	names, err := f.ImportedLibraries()
	if err != nil {
		return nil // statically linked
	}
	var dirs []string
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		paths, _ := f.DynString(tag)
		for _, p := range paths {
			for _, d := range strings.Split(p, ":") {
				dirs = append(dirs, strings.ReplaceAll(d, "$ORIGIN", filepath.Dir(src)))
			}
		}
	}
	triple := map[elf.Machine]string{elf.EM_X86_64: "x86_64-linux-gnu", elf.EM_AARCH64: "aarch64-linux-gnu"}[f.Machine]
	dirs = append(dirs, filepath.Dir(src), "/lib/"+triple, "/usr/lib/"+triple, "/lib64", "/usr/lib64", "/lib", "/usr/lib")
names:
	for _, n := range names {
		for _, d := range dirs {
			p := filepath.Join(d, n)
			if _, err := os.Stat(p); err == nil {
				if err := l.file(p, p, true); err != nil {
					return err
				}
				continue names
			}
		}
		if strings.HasPrefix(src, "/usr/lib/jvm/") {
			continue // a desktop's libraries, which a server has not
		}
		return fmt.Errorf("%s wants %s, which is not here", src, n)
	}
	return nil
}
