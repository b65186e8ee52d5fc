package otlp

import (
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/grpc/encoding"
)

// compressor gives pooled writers and readers of one method. It serves gRPC,
// which wants it registered by name, and HTTP.
type compressor struct {
	name    string
	writers sync.Pool // *pooledWriter
	writer  func(io.Writer) (resetWriter, error)
	reader  func(io.Reader) (io.Reader, error)
}

type resetWriter interface {
	io.WriteCloser
	Reset(io.Writer)
}

type pooledWriter struct {
	resetWriter
	pool *sync.Pool
}

// Close ends the stream and gives the writer back.
func (w *pooledWriter) Close() error {
	err := w.resetWriter.Close()
	w.pool.Put(w)
	return err
}

// Name implements encoding.Compressor.
func (c *compressor) Name() string { return c.name }

// Compress implements encoding.Compressor.
func (c *compressor) Compress(w io.Writer) (io.WriteCloser, error) {
	if p, ok := c.writers.Get().(*pooledWriter); ok {
		p.Reset(w)
		return p, nil
	}
	z, err := c.writer(w)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	return &pooledWriter{z, &c.writers}, nil
}

// Decompress implements encoding.Compressor; gRPC bounds what it reads.
func (c *compressor) Decompress(r io.Reader) (io.Reader, error) { return c.reader(r) }

var compressors = map[string]*compressor{
	"gzip": {
		name:   "gzip",
		writer: func(w io.Writer) (resetWriter, error) { return gzip.NewWriterLevel(w, gzip.BestSpeed) },
		reader: func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
	},
	"zstd": {
		name: "zstd",
		writer: func(w io.Writer) (resetWriter, error) {
			return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
		},
		reader: func(r io.Reader) (io.Reader, error) {
			d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(4<<20))
			if err != nil {
				return nil, err
			}
			return d.IOReadCloser(), nil
		},
	},
}

// gRPC finds compressors in a registry that may only be written to in init. Its
// own gzip package, which uses the standard library's and costs four times as
// much, is not linked.
func init() { //nolint:gochecknoinits // see above
	for _, c := range compressors {
		encoding.RegisterCompressor(c)
	}
}

type appendWriter struct{ b *[]byte }

func (a appendWriter) Write(p []byte) (int, error) { *a.b = append(*a.b, p...); return len(p), nil }

// compress appends src to dst.
func compress(name string, dst *[]byte, src []byte) error {
	w, err := compressors[name].Compress(appendWriter{dst})
	if err != nil {
		return err
	}
	_, err = w.Write(src)
	if e := w.Close(); err == nil {
		err = e
	}
	return err
}
