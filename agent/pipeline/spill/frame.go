package spill

import (
	"encoding/binary"
	"hash/crc32"
	"math"
)

// A frame is a header and its content, compressed with zstd:
//
//	 0  magic "nts1"
//	 4  length of the compressed content
//	 8  length of the content
//	12  records in it
//	16  unix nanoseconds of its oldest record
//	24  CRC32C of the compressed content
//	28  CRC32C of the 28 bytes before
//
// Numbers are big-endian.
const (
	headerLen = 32
	magic     = 0x6e747331
	// maxContent bounds what one frame may take in memory.
	maxContent = 256 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type header struct {
	packed, content, records uint32
	oldest                   int64
	sum                      uint32
}

func (h header) appendTo(b []byte) []byte {
	at := len(b)
	b = binary.BigEndian.AppendUint32(b, magic)
	b = binary.BigEndian.AppendUint32(b, h.packed)
	b = binary.BigEndian.AppendUint32(b, h.content)
	b = binary.BigEndian.AppendUint32(b, h.records)
	b = binary.BigEndian.AppendUint64(b, uint64(h.oldest))
	b = binary.BigEndian.AppendUint32(b, h.sum)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
}

// parseHeader returns false for what is no header of this version.
func parseHeader(b []byte) (header, bool) {
	if len(b) < headerLen || binary.BigEndian.Uint32(b) != magic ||
		binary.BigEndian.Uint32(b[28:]) != crc32.Checksum(b[:28], castagnoli) {
		return header{}, false
	}
	h := header{
		packed:  binary.BigEndian.Uint32(b[4:]),
		content: binary.BigEndian.Uint32(b[8:]),
		records: binary.BigEndian.Uint32(b[12:]),
		oldest:  int64(binary.BigEndian.Uint64(b[16:])),
		sum:     binary.BigEndian.Uint32(b[24:]),
	}
	return h, h.content <= maxContent && h.packed <= maxContent+maxContent/8 && h.records < math.MaxInt32
}

// size is what the frame takes on disk.
func (h header) size() int64 { return headerLen + int64(h.packed) }
