package logs

import (
	"sync"
	"unsafe"

	"nodetap/agent/telemetry"
)

const recordBytes = int(unsafe.Sizeof(telemetry.LogRecord{}))

// bodyBytes is how long a body is taken to be when a buffer is shaped: it
// decides how many records go with how many bytes.
const bodyBytes = 160

// buffer is what a batch is filled into.
type buffer struct {
	class   int // index in pool.free; -1 when it is not kept
	arena   []byte
	records []telemetry.LogRecord
}

func (b *buffer) bytes() int { return cap(b.arena) + cap(b.records)*recordBytes }

// pool lends buffers and bounds the bytes that are lent and kept, all sources
// together. It never blocks.
type pool struct {
	limit   int
	classes []int // arena bytes, ascending
	freed   func()

	mu    sync.Mutex
	used  int
	kept  int
	hungr bool // a get failed since the last put
	free  [][]*buffer
}

func newPool(limit, batch int, freed func()) *pool {
	p := &pool{limit: limit, freed: freed}
	for c := 4 << 10; c < batch; c *= 4 {
		p.classes = append(p.classes, c)
	}
	p.classes = append(p.classes, batch)
	p.free = make([][]*buffer, len(p.classes))
	return p
}

// get returns an empty buffer for at least n bytes, nil when the limit is
// reached. A single buffer is always given.
func (p *pool) get(n int) *buffer {
	class := -1
	size := n + 64<<10 // larger than any class: room for some lines behind the long one
	for i, c := range p.classes {
		if n <= c {
			class, size = i, c
			break
		}
	}
	records := max(32, size/bodyBytes)
	if class < 0 {
		records = 512
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if class >= 0 {
		if k := len(p.free[class]); k > 0 {
			b := p.free[class][k-1]
			if p.used+b.bytes() <= p.limit || p.used == 0 {
				p.free[class] = p.free[class][:k-1]
				p.used += b.bytes()
				p.kept -= b.bytes()
				return b
			}
			p.hungr = true
			return nil
		}
	}
	need := size + records*recordBytes
	if p.used+need > p.limit && p.used > 0 {
		p.hungr = true
		return nil
	}
	for i := 0; i < len(p.free) && p.used+p.kept+need > p.limit; i++ {
		for len(p.free[i]) > 0 && p.used+p.kept+need > p.limit {
			p.drop(i)
		}
	}
	p.used += need
	return &buffer{class: class, arena: make([]byte, 0, size), records: make([]telemetry.LogRecord, 0, records)}
}

// put takes a buffer back.
func (p *pool) put(b *buffer) {
	p.mu.Lock()
	n := b.bytes()
	p.used -= n
	if b.class >= 0 {
		b.arena, b.records = b.arena[:0], b.records[:0]
		p.free[b.class] = append(p.free[b.class], b)
		p.kept += n
	}
	wake := p.hungr
	p.hungr = false
	p.mu.Unlock()
	if wake {
		p.freed()
	}
}

// hungry tells whether a get failed and nothing has come back since.
func (p *pool) hungry() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hungr
}

// trim lets half of what is kept go.
func (p *pool) trim() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.free {
		for k := (len(p.free[i]) + 1) / 2; k > 0; k-- {
			p.drop(i)
		}
	}
}

func (p *pool) drop(class int) {
	k := len(p.free[class]) - 1
	p.kept -= p.free[class][k].bytes()
	p.free[class][k] = nil
	p.free[class] = p.free[class][:k]
}

// lent returns the bytes in use.
func (p *pool) lent() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used
}
