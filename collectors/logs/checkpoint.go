package logs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// checkpoint keeps positions in two files of one directory: a full one, which
// is replaced as a whole and synced, and a journal of what was acknowledged
// since. The journal is not synced: it outlives the agent at any moment, a
// crash of the node costs what the last full save does not have.
// It is not safe for concurrent use.
type checkpoint struct {
	path    string
	epoch   uint64
	journal *os.File
	buf     []byte
}

const maxCheckpoint = 256 << 20 // bytes; a larger file is not ours

// openCheckpoint reads what is there. What is damaged is set aside as *.bad and
// reported in warn; reading then begins where the good part says, so lines come
// twice rather than not at all.
func openCheckpoint(dir string) (c *checkpoint, entries []entry, warn, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, nil, fmt.Errorf("create state directory: %w", err)
	}
	c = &checkpoint{path: filepath.Join(dir, "positions")}
	b, err := readBounded(c.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c, nil, nil, nil
	case err != nil:
		return nil, nil, nil, fmt.Errorf("read checkpoint: %w", err)
	}
	epoch, entries, damaged, whole, perr := parseLines(b)
	if perr != nil || damaged > 0 || !whole {
		warn = fmt.Errorf("checkpoint is damaged: %d lines, whole: %t, kept as %s.bad: %w", damaged, whole, c.path, errors.Join(perr, errLine))
		_ = os.WriteFile(c.path+".bad", b, 0o600)
	}
	if perr != nil {
		return c, nil, warn, nil
	}
	c.epoch = epoch
	if b, err = readBounded(c.journalPath()); err == nil {
		// its last line may be torn; those before it are good
		if e, later, _, _, err := parseLines(b); err == nil && e == epoch {
			entries = merge(entries, later)
		}
	}
	return c, entries, warn, nil
}

func readBounded(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxCheckpoint {
		return nil, fmt.Errorf("%s: not a regular file of at most %d bytes", path, maxCheckpoint)
	}
	return os.ReadFile(path)
}

// merge replaces entries by later ones of the same file.
func merge(entries, later []entry) []entry {
	at := make(map[uint64]int, len(entries))
	for i, e := range entries {
		at[e.uid] = i
	}
	for _, e := range later {
		if i, ok := at[e.uid]; ok {
			entries[i] = e
		} else {
			at[e.uid] = len(entries)
			entries = append(entries, e)
		}
	}
	return entries
}

func (c *checkpoint) journalPath() string { return c.path + ".journal" }

// save replaces the checkpoint and begins a new journal.
func (c *checkpoint) save(entries []entry) error {
	slices.SortFunc(entries, compareEntries)
	b := appendHeader(c.buf[:0], c.epoch+1)
	for i := range entries {
		b = appendEntry(b, &entries[i])
	}
	b = appendEnd(b, len(entries))
	c.buf = b[:0]
	if err := replaceFile(c.path, b); err != nil {
		return fmt.Errorf("save checkpoint: %w", err)
	}
	c.epoch++
	return c.beginJournal()
}

// replaceFile writes b beside path, syncs it and renames it over path.
func replaceFile(path string, b []byte) (err error) {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (c *checkpoint) beginJournal() error {
	if c.journal == nil {
		f, err := os.OpenFile(c.journalPath(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return fmt.Errorf("open journal: %w", err)
		}
		c.journal = f
	}
	if err := c.journal.Truncate(0); err != nil {
		return fmt.Errorf("begin journal: %w", err)
	}
	if _, err := c.journal.Write(appendHeader(nil, c.epoch)); err != nil {
		return fmt.Errorf("begin journal: %w", err)
	}
	return nil
}

// note appends entries to the journal, which outlive the agent's death from
// when it returns.
func (c *checkpoint) note(entries []entry) error {
	if c.journal == nil {
		return errors.New("note in journal: no checkpoint has been saved yet")
	}
	b := c.buf[:0]
	for i := range entries {
		b = appendEntry(b, &entries[i])
	}
	c.buf = b[:0]
	if _, err := c.journal.Write(b); err != nil {
		return fmt.Errorf("note in journal: %w", err)
	}
	return nil
}

func (c *checkpoint) close() error {
	if c.journal == nil {
		return nil
	}
	err := c.journal.Close()
	c.journal = nil
	return err
}
