// Command image builds nodetap for each architecture and writes one OCI archive
// of scratch images, an index over the architectures, with no Docker daemon:
//
//	go run ./manifests/image -o dist/nodetap.tar
//	ctr -n k8s.io images import dist/nodetap.tar      # or skopeo, crane, docker load
//
// The image holds /nodetap and an empty, world-writable /tmp, and nothing else:
// no shell, no libc, no certificates. Backends with certificates of a public
// authority want theirs mounted (manifests/README.md). The same sources and the
// same Go give the same bytes: no time stamp, no path, no host name is in it.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	name := flag.String("name", "localhost/nodetap:dev", "image reference")
	out := flag.String("o", "dist/nodetap.tar", "where to write the archive")
	archs := flag.String("arch", "amd64,arm64", "architectures, by comma")
	version := flag.String("version", "dev", "what `nodetap version` says")
	flag.Parse()
	if err := run(*name, *out, strings.Split(*archs, ","), *version); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(name, out string, archs []string, version string) error {
	dir, err := os.MkdirTemp("", "nodetap-image")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var l layout
	var manifests []descriptor
	for _, arch := range archs {
		bin := filepath.Join(dir, arch)
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid= -X main.version="+version, "-o", bin, "./agent")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("build %s: %w", arch, err)
		}
		b, err := os.ReadFile(bin)
		if err != nil {
			return err
		}
		m, err := l.image(b, arch, version)
		if err != nil {
			return fmt.Errorf("image of %s: %w", arch, err)
		}
		manifests = append(manifests, m)
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	if err := l.write(f, manifests, name); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

const oci = "application/vnd.oci.image."

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

// layout collects the blobs of an OCI image layout, in the order of writing.
type layout struct {
	blobs []blob
}

type blob struct {
	digest string
	data   []byte
}

func (l *layout) add(mediaType string, data []byte) descriptor {
	d := digest(data)
	l.blobs = append(l.blobs, blob{d, data})
	return descriptor{MediaType: oci + mediaType, Digest: d, Size: len(data)}
}

func (l *layout) addJSON(mediaType string, v any) (descriptor, error) {
	b, err := json.Marshal(v)
	return l.add(mediaType, b), err
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// image adds the layer, configuration and manifest of one architecture.
func (l *layout) image(binary []byte, arch, version string) (descriptor, error) {
	var plain bytes.Buffer
	tw := tar.NewWriter(&plain)
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}); err != nil {
		return descriptor{}, err
	}
	if err := put(tw, "nodetap", 0o755, binary); err != nil {
		return descriptor{}, err
	}
	if err := tw.Close(); err != nil {
		return descriptor{}, err
	}
	var packed bytes.Buffer
	zw, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return descriptor{}, err
	}
	if _, err := zw.Write(plain.Bytes()); err != nil {
		return descriptor{}, err
	}
	if err := zw.Close(); err != nil {
		return descriptor{}, err
	}

	layer := l.add("layer.v1.tar+gzip", packed.Bytes())
	type m = map[string]any
	config, err := l.addJSON("config.v1+json", m{
		"architecture": arch, "os": "linux",
		"config": m{
			"Entrypoint": []string{"/nodetap"}, "Cmd": []string{"run"}, "WorkingDir": "/", "Env": []string{"PATH=/"},
			"Labels": m{"org.opencontainers.image.title": "nodetap", "org.opencontainers.image.version": version},
		},
		"rootfs": m{"type": "layers", "diff_ids": []string{digest(plain.Bytes())}},
	})
	if err != nil {
		return descriptor{}, err
	}
	man, err := l.addJSON("manifest.v1+json", m{"schemaVersion": 2, "mediaType": oci + "manifest.v1+json", "config": config, "layers": []descriptor{layer}})
	man.Platform = &platform{arch, "linux"}
	return man, err
}

// write writes the archive: an index over the architectures, and the layout's
// own index that gives it the name.
func (l *layout) write(w io.Writer, manifests []descriptor, name string) error {
	type m = map[string]any
	index, err := l.addJSON("index.v1+json", m{"schemaVersion": 2, "mediaType": oci + "index.v1+json", "manifests": manifests})
	if err != nil {
		return err
	}
	_, tag, _ := strings.Cut(name[strings.LastIndex(name, "/")+1:], ":")
	index.Annotations = map[string]string{"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag}
	top, err := json.Marshal(m{"schemaVersion": 2, "mediaType": oci + "index.v1+json", "manifests": []descriptor{index}})
	if err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	if err := put(tw, "oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	if err := put(tw, "index.json", 0o644, top); err != nil {
		return err
	}
	for _, b := range l.blobs {
		if err := put(tw, "blobs/"+strings.Replace(b.digest, ":", "/", 1), 0o644, b.data); err != nil {
			return err
		}
	}
	return tw.Close()
}

func put(tw *tar.Writer, name string, mode int64, data []byte) error {
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err := tw.Write(data)
	return err
}
