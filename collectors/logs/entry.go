package logs

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// entry is what the checkpoint keeps of one file.
type entry struct {
	uid  uint64
	dir  string // sourceKey.dir
	base string // the file's name when it was last seen
	mark
}

// formatVersion is of the checkpoint file and its journal. A reader takes what
// it knows of a later version's lines, so that the agent can be set back by one.
const formatVersion = 1

// Both files are lines of text, each with its own checksum at its end:
//
//	nodetap-logs <version> <epoch> <hash>
//	file <uid> <dir> <base> <dev> <ino> <generation> <head n> <head hash> <off> <tail n> <tail hash> <pend>... <hash>
//	end <count> <hash>
//
// Hashes and uid are hexadecimal. The journal has no end line and counts only
// if its epoch is the checkpoint's.

func appendSum(dst []byte, from int) []byte {
	sum := xxhash.Sum64(dst[from:])
	dst = append(dst, ' ')
	dst = strconv.AppendUint(dst, sum, 16)
	return append(dst, '\n')
}

func appendHeader(dst []byte, epoch uint64) []byte {
	n := len(dst)
	dst = append(dst, "nodetap-logs "...)
	dst = strconv.AppendInt(dst, formatVersion, 10)
	dst = append(dst, ' ')
	dst = strconv.AppendUint(dst, epoch, 10)
	return appendSum(dst, n)
}

func appendEnd(dst []byte, count int) []byte {
	n := len(dst)
	dst = append(dst, "end "...)
	dst = strconv.AppendInt(dst, int64(count), 10)
	return appendSum(dst, n)
}

func appendEntry(dst []byte, e *entry) []byte {
	n := len(dst)
	dst = append(dst, "file "...)
	dst = strconv.AppendUint(dst, e.uid, 16)
	dst = append(dst, ' ')
	dst = append(dst, e.dir...)
	dst = append(dst, ' ')
	dst = append(dst, e.base...)
	num := func(v int64) {
		dst = append(dst, ' ')
		dst = strconv.AppendInt(dst, v, 10)
	}
	hex := func(v uint64) {
		dst = append(dst, ' ')
		dst = strconv.AppendUint(dst, v, 16)
	}
	hex(e.id.dev)
	hex(e.id.ino)
	num(int64(e.generation))
	num(int64(e.head.n))
	hex(e.head.hash)
	num(e.off)
	num(int64(e.tailLen))
	hex(e.tailHash)
	for _, p := range e.pend {
		num(p)
	}
	return appendSum(dst, n)
}

var errLine = errors.New("damaged line")

// checkLine verifies a line's checksum and returns its fields without it.
func checkLine(b []byte) ([][]byte, error) {
	i := bytes.LastIndexByte(b, ' ')
	if i < 0 {
		return nil, errLine
	}
	sum, err := strconv.ParseUint(string(b[i+1:]), 16, 64)
	if err != nil || sum != xxhash.Sum64(b[:i]) {
		return nil, errLine
	}
	return bytes.Split(b[:i], []byte{' '}), nil
}

func parseHeader(f [][]byte) (epoch uint64, err error) {
	if len(f) < 3 || string(f[0]) != "nodetap-logs" {
		return 0, errors.New("not a checkpoint file")
	}
	if v, err := strconv.Atoi(string(f[1])); err != nil || v < 1 {
		return 0, fmt.Errorf("unknown format version %q", f[1])
	}
	return strconv.ParseUint(string(f[2]), 10, 64)
}

func parseEntry(f [][]byte) (e entry, err error) {
	if len(f) < 12+streams || string(f[0]) != "file" {
		return e, errLine
	}
	num := func(b []byte, lo, hi int64) (v int64) {
		v, perr := strconv.ParseInt(string(b), 10, 64)
		if perr != nil || v < lo || v > hi {
			err = errLine
		}
		return v
	}
	hex := func(b []byte) (v uint64) {
		v, perr := strconv.ParseUint(string(b), 16, 64)
		if perr != nil {
			err = errLine
		}
		return v
	}
	const most = 1 << 62
	e.uid = hex(f[1])
	e.dir, e.base = string(f[2]), string(f[3])
	e.id = fileID{hex(f[4]), hex(f[5])}
	e.generation = uint32(num(f[6], 0, 1<<32-1))
	e.head = head{int(num(f[7], 0, headBytes)), hex(f[8])}
	e.off = num(f[9], 0, most)
	e.tailLen, e.tailHash = int(num(f[10], 0, tailBytes)), hex(f[11])
	for i := range e.pend {
		e.pend[i] = num(f[12+i], -1, most)
	}
	if e.dir == "" || e.base == "" {
		err = errLine
	}
	return e, err
}

// parseLines reads a checkpoint or a journal: the entries of its good lines,
// how many were damaged, and whether it ends as a checkpoint does. A file
// without a good header is an error.
func parseLines(b []byte) (epoch uint64, entries []entry, damaged int, whole bool, err error) {
	line, rest, _ := bytes.Cut(b, []byte{'\n'})
	f, err := checkLine(line)
	if err == nil {
		epoch, err = parseHeader(f)
	}
	if err != nil {
		return 0, nil, 0, false, err
	}
	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, []byte{'\n'})
		f, err := checkLine(line)
		if err != nil {
			damaged++
			continue
		}
		switch string(f[0]) {
		case "file":
			e, err := parseEntry(f)
			if err != nil {
				damaged++
				continue
			}
			entries = append(entries, e)
		case "end":
			n, err := strconv.Atoi(string(f[1]))
			whole = err == nil && n == len(entries)
		}
	}
	return epoch, entries, damaged, whole, nil
}
