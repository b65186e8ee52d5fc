package pods

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	stateVersion  = 1
	stateFile     = "pods.json"
	stateMaxBytes = 32 << 20
	stateMaxPods  = 4096
	statePeriod   = 5 * time.Second
)

// state is the file that remembers the pods over a restart of the agent, for the
// time until the API server answers.
type state struct {
	Version int        `json:"version"`
	Node    string     `json:"node"`
	BootID  string     `json:"boot_id"`
	Saved   int64      `json:"saved"` // unix seconds
	Pods    []statePod `json:"pods"`
}

type statePod struct {
	Pod     *pod       `json:"pod"`
	Deleted int64      `json:"deleted,omitempty"` // unix seconds
	Runs    []stateRun `json:"runs,omitempty"`    // oldest first
}

type stateRun struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Restart int    `json:"restart"`
}

// BootID reads the id of this boot of the node below its /proc, "" when it
// cannot be read.
func BootID(proc string) string {
	b, err := os.ReadFile(filepath.Join(proc, "sys/kernel/random/boot_id"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (s *Store) statePath() string { return filepath.Join(s.o.StateDir, stateFile) }

// load takes in the state file. What cannot be used is left: the API server
// tells everything again.
func (s *Store) load() {
	if s.o.StateDir == "" {
		return
	}
	st, err := readState(s.statePath())
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.o.Logger.Warn("remembered pods cannot be read and are ignored", "file", s.statePath(), "err", err)
		}
		return
	}
	if st.Node != s.o.NodeName {
		s.o.Logger.Info("remembered pods are another node's and are ignored", "node", st.Node)
		return
	}
	s.recall(st)
	s.dirty.Store(false)
}

// recall takes in what a state file says, as far as it can be believed.
func (s *Store) recall(st *state) {
	for _, sp := range st.Pods {
		p := sp.Pod
		if p == nil || !isUID(p.UID) || !isDNS(p.Namespace, 63) || !isDNS(p.Name, 253) {
			continue
		}
		if st.BootID != s.o.BootID {
			p.IPs = nil // sandboxes got new addresses when the node started again
		}
		s.remember(p, sp.Runs)
		if sp.Deleted != 0 {
			s.mu.Lock()
			s.pods[p.UID].deleted = time.Unix(sp.Deleted, 0)
			s.mu.Unlock()
		} else if s.o.LogDir != "" && !s.hasLogs(p) {
			s.remove(p.UID)
		}
	}
}

// remember takes in a pod of the state file with the runs of its containers that
// its status no longer names.
func (s *Store) remember(p *pod, runs []stateRun) {
	s.upsert(p, false)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.pods[p.UID]
	var older []run
	for _, r := range runs {
		if _, known := s.ids[r.ID]; !known && IsContainerID(r.ID) && isDNS(r.Name, 63) && len(e.runs)+len(older) < maxRuns {
			older = append(older, run{r.ID, r.Name, r.Restart})
			s.ids[r.ID] = runRef{e, older[len(older)-1]}
		}
	}
	e.runs = append(older, e.runs...)
}

func readState(path string) (*state, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, stateMaxBytes+1))
	if err != nil {
		return nil, err
	}
	return parseState(b)
}

func parseState(b []byte) (*state, error) {
	if len(b) > stateMaxBytes {
		return nil, fmt.Errorf("larger than %d bytes", stateMaxBytes)
	}
	var st state
	if err := json.Unmarshal(b, &st); err != nil {
		return nil, err
	}
	if st.Version != stateVersion {
		return nil, fmt.Errorf("version %d, this agent reads %d", st.Version, stateVersion)
	}
	if len(st.Pods) > stateMaxPods {
		st.Pods = st.Pods[:stateMaxPods]
	}
	for _, p := range st.Pods {
		if p.Pod == nil {
			continue
		}
		p.Pod.IPs = validAddrs(p.Pod.IPs)
		p.Pod.HostIPs = validAddrs(p.Pod.HostIPs)
	}
	return &st, nil
}

func validAddrs(in []netip.Addr) []netip.Addr {
	out := in[:0]
	for _, a := range in {
		if a.IsValid() {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// persist writes the state file when something changed, at most every five
// seconds, and once more when ctx ends.
func (s *Store) persist(ctx context.Context) {
	if s.o.StateDir == "" {
		return
	}
	t := time.NewTicker(statePeriod)
	defer t.Stop()
	warned := false
	save := func() {
		if !s.dirty.Swap(false) {
			return
		}
		err := s.save()
		if err != nil {
			s.dirty.Store(true)
			if !warned {
				s.o.Logger.Warn("pods cannot be remembered over a restart", "file", s.statePath(), "err", err)
			}
		}
		warned = err != nil
	}
	for {
		select {
		case <-ctx.Done():
			save()
			return
		case <-t.C:
			save()
		}
	}
}

// state returns what the file should hold.
func (s *Store) state() *state {
	st := &state{Version: stateVersion, Node: s.o.NodeName, BootID: s.o.BootID, Saved: time.Now().Unix()}
	s.mu.RLock()
	for _, e := range s.pods {
		if len(st.Pods) == stateMaxPods {
			break
		}
		p := statePod{Pod: e.pod}
		if !e.deleted.IsZero() {
			p.Deleted = e.deleted.Unix()
		}
		for _, r := range e.runs {
			p.Runs = append(p.Runs, stateRun{r.id, r.name, r.restart})
		}
		st.Pods = append(st.Pods, p)
	}
	s.mu.RUnlock()
	return st
}

func (s *Store) save() error {
	st := s.state()
	b, err := json.Marshal(st)
	if err != nil {
		return err
	}
	if len(b) > stateMaxBytes {
		return fmt.Errorf("%d pods take %d bytes, more than %d", len(st.Pods), len(b), stateMaxBytes)
	}
	return writeFile(s.statePath(), b)
}

// writeFile replaces a file so that a crash leaves the old or the new one.
func writeFile(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // does nothing after the rename
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
