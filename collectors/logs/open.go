package logs

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// fileID is a file on this node for as long as it exists: inode numbers are
// used again.
type fileID struct{ dev, ino uint64 }

// stat is what is kept of a file's status to see whether it changed.
type stat struct {
	id           fileID
	size         int64
	mtime, ctime int64 // unix nanoseconds
	mode         uint32
	nlink        uint64
}

func newStat(st *unix.Stat_t) stat {
	return stat{
		id:    fileID{uint64(st.Dev), st.Ino}, //nolint:unconvert // 32 bits wide on some architectures
		size:  st.Size,
		mtime: st.Mtim.Nano(),
		ctime: st.Ctim.Nano(),
		mode:  st.Mode,
		nlink: uint64(st.Nlink), //nolint:unconvert // 32 bits wide on arm64
	}
}

func fstat(fd int) (stat, error) {
	var st unix.Stat_t
	for {
		err := unix.Fstat(fd, &st)
		if err == unix.EINTR {
			continue
		}
		return newStat(&st), err
	}
}

func statAt(dir int, name string) (stat, error) {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return newStat(&st), err
}

// kind names the file's type for the reason of a refusal; "" for a regular file.
func (s stat) kind() string {
	switch s.mode & unix.S_IFMT {
	case unix.S_IFREG:
		return ""
	case unix.S_IFLNK:
		return "link"
	case unix.S_IFIFO:
		return "pipe"
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFDIR:
		return "directory"
	default:
		return "device"
	}
}

// noOpenat2 is set when the kernel (before 5.6) or a seccomp profile has no
// openat2.
var noOpenat2 atomic.Bool

const (
	openFile = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	openDir  = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
)

// openBeneath opens the path rel, of plain names, below the directory dir and
// follows no link on the way: a pod may plant them.
func openBeneath(dir int, rel string, flags int) (int, error) {
	if !noOpenat2.Load() {
		how := unix.OpenHow{
			Flags:   uint64(flags),
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
		}
		for {
			fd, err := unix.Openat2(dir, rel, &how)
			switch err {
			case nil:
				return fd, nil
			case unix.EINTR, unix.EAGAIN:
				continue
			case unix.ENOSYS, unix.EPERM:
				// EPERM: a seccomp profile that does not know the call. If it was
				// something else, the walk below says it again.
			default:
				return -1, err
			}
			break
		}
	}
	fd, err := openStepwise(dir, rel, flags)
	if err == nil {
		noOpenat2.Store(true)
	}
	return fd, err
}

// openStepwise opens each part of rel by itself, which follows no link either.
func openStepwise(dir int, rel string, flags int) (int, error) {
	at := dir
	for {
		name, rest, more := strings.Cut(rel, "/")
		if name == "" || name == "." || name == ".." {
			return -1, unix.EINVAL
		}
		f := flags
		if more {
			f = openDir
		}
		fd, err := unix.Openat(at, name, f|unix.O_NOFOLLOW, 0)
		if at != dir {
			_ = unix.Close(at)
		}
		if err != nil || !more {
			return fd, err
		}
		at, rel = fd, rest
	}
}

// maxDirEntries bounds what is read of one directory: a pod may fill it.
const maxDirEntries = 10000

// readNames returns the names in the directory beneath dir.
func readNames(dir int, rel string) (fd int, names []string, err error) {
	fd, err = openBeneath(dir, rel, openDir)
	if err != nil {
		return -1, nil, fmt.Errorf("open directory: %w", err)
	}
	names, err = namesOf(fd)
	if err != nil {
		_ = unix.Close(fd)
		return -1, nil, err
	}
	return fd, names, nil
}

func namesOf(fd int) ([]string, error) {
	buf := make([]byte, 8192)
	var names []string
	if _, err := unix.Seek(fd, 0, 0); err != nil {
		return nil, fmt.Errorf("rewind directory: %w", err)
	}
	for len(names) < maxDirEntries {
		n, err := unix.ReadDirent(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read directory: %w", err)
		}
		if n <= 0 {
			break
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
	return names, nil
}

func readLinkAt(dir int, name string) (string, error) {
	var buf [4096]byte
	n, err := unix.Readlinkat(dir, name, buf[:])
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// pread fills b from off as far as the file reaches.
func pread(fd int, b []byte, off int64) (n int, err error) {
	for n < len(b) {
		m, err := unix.Pread(fd, b[n:], off+int64(n))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return n, err
		}
		if m == 0 {
			break
		}
		n += m
	}
	return n, nil
}

func gone(err error) bool { return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) }
