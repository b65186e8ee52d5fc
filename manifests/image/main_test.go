package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func archive(t *testing.T) []byte {
	t.Helper()
	var l layout
	var ms []descriptor
	for _, arch := range []string{"amd64", "arm64"} {
		m, err := l.image([]byte("binary of "+arch), arch, "1.2.3")
		if err != nil {
			t.Fatal(err)
		}
		ms = append(ms, m)
	}
	var b bytes.Buffer
	if err := l.write(&b, ms, "localhost/nodetap:1.2.3"); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func files(t *testing.T, r io.Reader) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if out[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}

func TestArchiveLeadsFromItsNameToEachBinary(t *testing.T) {
	fs := files(t, bytes.NewReader(archive(t)))
	get := func(d descriptor, v any) {
		t.Helper()
		b, ok := fs["blobs/"+strings.Replace(d.Digest, ":", "/", 1)]
		if !ok || len(b) != d.Size || digest(b) != d.Digest {
			t.Fatalf("blob %s: there %v, %d bytes, want %d", d.Digest, ok, len(b), d.Size)
		}
		if err := json.Unmarshal(b, v); err != nil {
			t.Fatal(err)
		}
	}
	type index struct{ Manifests []descriptor }
	var top, archs index
	if err := json.Unmarshal(fs["index.json"], &top); err != nil {
		t.Fatal(err)
	}
	if got := top.Manifests[0].Annotations["io.containerd.image.name"]; got != "localhost/nodetap:1.2.3" {
		t.Errorf("name %q", got)
	}
	get(top.Manifests[0], &archs)
	got := map[string]string{}
	for _, d := range archs.Manifests {
		var man struct {
			Config descriptor
			Layers []descriptor
		}
		get(d, &man)
		var config struct {
			Architecture string
			Config       struct{ Entrypoint []string }
			Rootfs       struct {
				DiffIDs []string `json:"diff_ids"`
			}
		}
		get(man.Config, &config)
		zr, err := gzip.NewReader(bytes.NewReader(fs["blobs/"+strings.Replace(man.Layers[0].Digest, ":", "/", 1)]))
		if err != nil {
			t.Fatal(err)
		}
		plain, err := io.ReadAll(zr)
		if err != nil {
			t.Fatal(err)
		}
		if config.Rootfs.DiffIDs[0] != digest(plain) {
			t.Errorf("%s: diff id is not the layer's", config.Architecture)
		}
		if config.Architecture != d.Platform.Architecture {
			t.Errorf("the index says %s, the image %s", d.Platform.Architecture, config.Architecture)
		}
		got[config.Architecture] = string(files(t, bytes.NewReader(plain))[strings.TrimPrefix(config.Config.Entrypoint[0], "/")])
	}
	if diff := cmp.Diff(map[string]string{"amd64": "binary of amd64", "arm64": "binary of arm64"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestSameFilesGiveTheSameBytes(t *testing.T) {
	if !bytes.Equal(archive(t), archive(t)) {
		t.Error("two archives of the same files differ")
	}
}
