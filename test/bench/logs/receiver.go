package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/tinylib/msgp/msgp"
)

// count is what a receiver has seen.
type count struct {
	Records int64 `json:"records"`
	Wire    int64 `json:"wire"`    // bytes, compressed, without TCP and HTTP headers
	Content int64 `json:"content"` // bytes, uncompressed
	Calls   int64 `json:"calls"`
}

type receiver struct {
	records, wire, content, calls atomic.Int64
}

// runReceiver serves OTLP over HTTP and Forward on loopback ports, and counts.
// It says where on out, one JSON object, and serves the counts under /count.
func runReceiver(out io.Writer) error {
	r := &receiver{}
	web, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fwd, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if err := json.NewEncoder(out).Encode(map[string]string{"http": web.Addr().String(), "forward": fwd.Addr().String()}); err != nil {
		return err
	}
	go r.acceptForward(fwd)
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/logs", r.otlp)
	mux.HandleFunc("/count", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(count{r.records.Load(), r.wire.Load(), r.content.Load(), r.calls.Load()})
	})
	return http.Serve(web, mux) //nolint:gosec // loopback, for a benchmark
}

var zstdPool = sync.Pool{New: func() any {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		panic(err)
	}
	return d
}}

// otlp counts the records of an ExportLogsServiceRequest, uncompressed.
func (r *receiver) otlp(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	plain := body
	switch req.Header.Get("Content-Encoding") {
	case "zstd":
		d := zstdPool.Get().(*zstd.Decoder)
		plain, err = d.DecodeAll(body, nil)
		zstdPool.Put(d)
	case "gzip":
		plain, err = gunzip(body)
	}
	var n int64
	if err == nil {
		n, err = countFields(plain, []uint64{1, 2, 2}) // resource_logs, scope_logs, log_records
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.add(n, len(body), len(plain))
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func gunzip(b []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

func (r *receiver) add(records int64, wire, content int) {
	r.records.Add(records)
	r.wire.Add(int64(wire))
	r.content.Add(int64(content))
	r.calls.Add(1)
}

// countFields counts the fields of a protobuf message that lie at a path of
// field numbers.
func countFields(b []byte, path []uint64) (n int64, err error) {
	for len(b) > 0 {
		tag, k := binary.Uvarint(b)
		if k <= 0 {
			return 0, io.ErrUnexpectedEOF
		}
		b = b[k:]
		size := 0
		switch tag & 7 {
		case 0:
			_, size = binary.Uvarint(b)
		case 1:
			size = 8
		case 5:
			size = 4
		case 2:
			v, k := binary.Uvarint(b)
			if k <= 0 || v > uint64(len(b)-k) {
				return 0, io.ErrUnexpectedEOF
			}
			b = b[k:]
			size = int(v)
			if tag>>3 == path[0] {
				if len(path) == 1 {
					n++
				} else {
					m, err := countFields(b[:size], path[1:])
					if err != nil {
						return 0, err
					}
					n += m
				}
			}
		}
		if size <= 0 && tag&7 != 2 || size > len(b) {
			return 0, io.ErrUnexpectedEOF
		}
		b = b[size:]
	}
	return n, nil
}

func (r *receiver) acceptForward(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			if err := r.forward(conn); err != nil && err != io.EOF { //nolint:errorlint // the plain end
				fmt.Println("forward:", err)
			}
		}()
	}
}

// forward counts the records of PackedForward messages and acknowledges them.
func (r *receiver) forward(conn net.Conn) error {
	in := msgp.NewReaderSize(conn, 256<<10)
	var packed []byte
	for {
		n, err := in.ReadArrayHeader()
		if err != nil {
			return io.EOF
		}
		if n != 3 {
			return fmt.Errorf("message of %d parts", n)
		}
		if _, err := in.ReadString(); err != nil {
			return err
		}
		if packed, err = in.ReadBytes(packed[:0]); err != nil {
			return err
		}
		option := map[string]any{}
		if err := in.ReadMapStrIntf(option); err != nil {
			return err
		}
		plain := packed
		switch option["compressed"] {
		case "gzip":
			plain, err = gunzip(packed)
		case "zstd":
			d := zstdPool.Get().(*zstd.Decoder)
			plain, err = d.DecodeAll(packed, nil)
			zstdPool.Put(d)
		}
		if err != nil {
			return err
		}
		var records int64
		for rest := plain; len(rest) > 0; records++ {
			if rest, err = msgp.Skip(rest); err != nil {
				return err
			}
		}
		r.add(records, len(packed), len(plain))
		if chunk, ok := option["chunk"].(string); ok {
			ack := msgp.AppendMapHeader(nil, 1)
			ack = msgp.AppendString(ack, "ack")
			ack = msgp.AppendString(ack, chunk)
			if _, err := conn.Write(ack); err != nil {
				return err
			}
		}
	}
}
