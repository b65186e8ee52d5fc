package forward

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/tinylib/msgp/msgp"

	"nodetap/agent/telemetry"
)

// chunkKey names the records of a chunk, however often it is sent: retrying a
// call cuts the same chunks.
type chunkKey struct {
	first, last uint64 // hashes of the first and the last record's id
	tag         string
	records     int
	bytes       int
}

// chunk is one message on its way: [tag, entries, options].
type chunk struct {
	key     chunkKey
	id      string // base64 of 16 random bytes; the receiver's ack repeats it
	frame   *[]byte
	records int
	raw     int // bytes of the entries before compression
}

var frames = sync.Pool{New: func() any { b := make([]byte, 0, 64<<10); return &b }}

func getFrame() *[]byte {
	b := frames.Get().(*[]byte)
	*b = (*b)[:0]
	return b
}

func putFrame(b *[]byte) {
	if cap(*b) <= 8<<20 {
		frames.Put(b)
	}
}

// packer turns the batches of one call into chunks. It belongs to one call.
type packer struct {
	e       *Exporter
	enc     recordEncoder
	order   []string // tags in the order of their first appearance
	byTag   map[string][]*telemetry.LogBatch
	scratch []byte
	gzip    *gzip.Writer
	zstd    *zstd.Encoder
}

var packers = sync.Pool{New: func() any { return &packer{byTag: map[string][]*telemetry.LogBatch{}} }}

func (e *Exporter) getPacker() *packer {
	p := packers.Get().(*packer)
	p.e, p.enc.withID = e, e.cfg.RecordID
	return p
}

func (p *packer) free() {
	p.e, p.order = nil, p.order[:0]
	clear(p.byTag)
	packers.Put(p)
}

// pack cuts the batches into chunks of one tag each and hands each chunk, whose
// frame it then owns, to send. It stops at send's first error. The order of the
// records of one tag is kept.
func (p *packer) pack(batches []*telemetry.LogBatch, send func(chunk) error) error {
	for _, b := range batches {
		if len(b.Records) == 0 {
			continue
		}
		tag := p.e.resources.Get(b.Resource).tag
		if tag == "" {
			tag = hostTag(b.Source.Path)
		}
		if _, ok := p.byTag[tag]; !ok {
			p.order = append(p.order, tag)
		}
		p.byTag[tag] = append(p.byTag[tag], b)
	}
	for _, tag := range p.order {
		if err := p.packTag(tag, p.byTag[tag], send); err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) packTag(tag string, batches []*telemetry.LogBatch, send func(chunk) error) error {
	limit := int(p.e.cfg.ChunkBytes)
	entries := getFrame()
	defer func() { putFrame(entries) }()
	*entries = appendFrameHead(*entries, tag)
	head := len(*entries)
	key := chunkKey{tag: tag}
	var last *telemetry.LogBatch
	var lastRecord int
	flush := func() error {
		key.bytes = len(*entries) - head
		key.last = p.hash(last, lastRecord)
		c, err := p.finish(key, entries, head)
		if err != nil {
			return err
		}
		if c.frame == entries { // it goes out as it is: fill another one
			entries = getFrame()
		}
		*entries = appendFrameHead((*entries)[:0], tag)
		key = chunkKey{tag: tag}
		return send(c)
	}
	for _, b := range batches {
		r := p.e.resources.Get(b.Resource)
		each := overhead + len(r.keys) + len(b.Source.Path) + len(b.EventName) + attrsSize(b.Attrs)
		if b.Resource != nil {
			each += len(b.Resource.Container)
		}
		for i := range b.Records {
			if n := len(*entries) - head; n > 0 && n+each+len(b.Body(i)) > limit {
				if err := flush(); err != nil {
					return err
				}
			}
			if key.records == 0 {
				key.first = p.hash(b, i)
			}
			*entries = p.enc.append(*entries, b, i, r)
			key.records++
			last, lastRecord = b, i
		}
	}
	return flush()
}

func (p *packer) hash(b *telemetry.LogBatch, i int) uint64 {
	p.scratch = b.AppendID(p.scratch[:0], i)
	return xxhash.Sum64(p.scratch)
}

// appendFrameHead appends [tag, bin of a length that finish fills in.
func appendFrameHead(b []byte, tag string) []byte {
	b = msgp.AppendString(append(b, 0x93), tag)
	return append(b, 0xc6, 0, 0, 0, 0)
}

// finish compresses the entries and completes the frame around them. head is
// the length of the frame before its entries. Uncompressed, the frame is
// entries itself.
func (p *packer) finish(key chunkKey, entries *[]byte, head int) (chunk, error) {
	c := chunk{key: key, records: key.records, raw: len(*entries) - head, frame: entries}
	if p.e.cfg.Compression != "none" {
		c.frame = getFrame()
		*c.frame = append(*c.frame, (*entries)[:head]...)
		if err := p.compress(c.frame, (*entries)[head:]); err != nil {
			putFrame(c.frame)
			return chunk{}, err
		}
	}
	b := *c.frame
	binary.BigEndian.PutUint32(b[head-4:], uint32(len(b)-head))
	var id [16]byte
	rand.Read(id[:]) //nolint:errcheck // does not fail
	c.id = base64.StdEncoding.EncodeToString(id[:])
	keys := uint32(2)
	if p.e.cfg.Compression != "none" {
		keys++
	}
	b = msgp.AppendMapHeader(b, keys)
	b = msgp.AppendInt(msgp.AppendString(b, "size"), c.records)
	b = msgp.AppendString(msgp.AppendString(b, "chunk"), c.id)
	if p.e.cfg.Compression != "none" {
		b = msgp.AppendString(msgp.AppendString(b, "compressed"), p.e.cfg.Compression)
	}
	*c.frame = b
	return c, nil
}

type appender struct{ b *[]byte }

func (a appender) Write(p []byte) (int, error) { *a.b = append(*a.b, p...); return len(p), nil }

func (p *packer) compress(dst *[]byte, src []byte) (err error) {
	if p.e.cfg.Compression == "zstd" {
		if p.zstd == nil {
			p.zstd, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
				zstd.WithWindowSize(1<<20))
			if err != nil {
				return fmt.Errorf("start zstd: %w", err)
			}
		}
		*dst = p.zstd.EncodeAll(src, *dst)
		return nil
	}
	if p.gzip == nil {
		p.gzip, err = gzip.NewWriterLevel(appender{dst}, gzip.BestSpeed)
		if err != nil {
			return fmt.Errorf("start gzip: %w", err)
		}
	} else {
		p.gzip.Reset(appender{dst})
	}
	if _, err = p.gzip.Write(src); err == nil {
		err = p.gzip.Close()
	}
	return err
}
