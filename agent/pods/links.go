package pods

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const (
	maxLinks    = 16384 // links of /var/log/containers that are read
	linksPeriod = time.Second
)

// wantLinks asks for a scan of /var/log/containers, which happens at most once a
// second and only when the directory has changed.
func (s *Store) wantLinks() {
	if s.o.LogDir == "" {
		return
	}
	select {
	case s.wanted <- struct{}{}:
	default:
	}
}

// followLinks scans /var/log/containers when a container id is missing. The
// names of its links are all that tells the id of a log's container when there
// is no API server, and they come before the pod's status does.
func (s *Store) followLinks(ctx context.Context) {
	if s.o.LogDir == "" {
		return
	}
	var last time.Time
	warned := false
	for {
		next, err := s.scanLinks(last)
		if err != nil && !warned {
			s.o.Logger.Warn("container links cannot be read", "dir", s.o.LogDir, "err", err)
			warned = true
		}
		last = next
		select {
		case <-ctx.Done():
			return
		case <-time.After(linksPeriod):
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wanted:
		}
	}
}

// scanLinks reads the directory unless its time is still last, and returns the
// time to give the next call: zero when it must read again.
func (s *Store) scanLinks(last time.Time) (time.Time, error) {
	dir := filepath.Join(s.o.LogDir, "containers")
	st, err := os.Stat(dir)
	s.noLinks.Store(err != nil)
	if errors.Is(err, fs.ErrNotExist) || err == nil && st.ModTime().Equal(last) {
		return last, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	found, err := readLinks(dir, func(id string) bool {
		s.mu.RLock()
		defer s.mu.RUnlock()
		_, ok := s.linkIDs[id]
		return ok
	})
	if err != nil {
		return time.Time{}, err
	}
	s.learnLinks(found)
	// A change within the same tick of the file system's clock would be missed:
	// look again until the directory has been quiet.
	if time.Since(st.ModTime()) < 2*linksPeriod {
		return time.Time{}, nil
	}
	return st.ModTime(), nil
}

// link is an entry of the directory; file is zero when known already.
type link struct {
	id   string
	file LogFile
}

func readLinks(dir string, known func(id string) bool) ([]link, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	var out []link
	for len(out) < maxLinks {
		names, err := d.Readdirnames(512)
		for _, name := range names {
			pod, ns, ctr, id, ok := ParseLink(name)
			if !ok {
				continue
			}
			if known(id) {
				out = append(out, link{id: id})
				continue
			}
			target, err := os.Readlink(filepath.Join(dir, name))
			if err != nil {
				continue // gone meanwhile, or no link
			}
			if f, ok := ParseLogPath(target); ok && f.Pod == pod && f.Namespace == ns && f.Container == ctr {
				out = append(out, link{id, f})
			}
		}
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return out[:min(len(out), maxLinks)], nil
}

// learnLinks takes what the directory has now and forgets what it no longer has,
// as far as nothing uses it.
func (s *Store) learnLinks(found []link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	here := make(map[string]bool, len(found))
	changed := false
	for _, l := range found {
		here[l.id] = true
		if l.file == (LogFile{}) {
			continue
		}
		s.links[l.file], s.linkIDs[l.id] = l.id, l.file
		changed = true
		if p := s.partial[l.file]; p != nil && p.res.ContainerID != l.id {
			p.res = s.id.path(l.file, l.id)
		}
		if e := s.find(l.file.UID); e != nil {
			s.refresh(e)
		}
	}
	for id, f := range s.linkIDs {
		if here[id] || s.partial[f] != nil || s.recent(f) {
			continue
		}
		delete(s.linkIDs, id)
		if s.links[f] == id {
			delete(s.links, f)
		}
	}
	if changed {
		s.changed()
	}
}

// recent tells whether the run is one of the last of a container that is known.
// The caller holds mu.
func (s *Store) recent(f LogFile) bool {
	e := s.find(f.UID)
	if e == nil {
		return false
	}
	for i := range e.pod.Containers {
		if c := &e.pod.Containers[i]; c.Name == f.Container {
			return c.Restart-f.Restart < 8
		}
	}
	return false
}
