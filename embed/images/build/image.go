package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sort"
	"strings"
)

// Media types of the OCI image format, version 1.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+zstd"
)

// file is one entry of an image's only layer. A mode with os.ModeDir makes a
// folder; a Link makes a symbolic link.
type file struct {
	Path string // without a leading slash
	Mode os.FileMode
	Data []byte
	Link string
}

// image is what is written to one tar.
type image struct {
	Reference    string
	Architecture string
	Config       imageConfig
	Files        []file
}

// imageConfig is the OCI config's part that a container starts from.
type imageConfig struct {
	User       string            `json:"User,omitempty"`
	Env        []string          `json:"Env,omitempty"`
	Entrypoint []string          `json:"Entrypoint,omitempty"`
	Cmd        []string          `json:"Cmd,omitempty"`
	WorkingDir string            `json:"WorkingDir,omitempty"`
	Labels     map[string]string `json:"Labels,omitempty"`
}

type rootfs struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type configFile struct {
	Architecture string      `json:"architecture"`
	OS           string      `json:"os"`
	Config       imageConfig `json:"config"`
	Rootfs       rootfs      `json:"rootfs"`
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type manifestFile struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type indexFile struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

// dockerManifest is one row of a docker-archive's manifest.json.
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// write puts the image on w. The small files come first, so that a reader
// learns name and digests without reading the layer.
func (img image) write(w io.Writer) error {
	plain, err := writeLayer(img.Files)
	if err != nil {
		return err
	}
	layer, err := compress(plain)
	if err != nil {
		return err
	}
	config, err := json.Marshal(configFile{
		Architecture: img.Architecture,
		OS:           "linux",
		Config:       img.Config,
		Rootfs:       rootfs{Type: "layers", DiffIDs: []string{digest(plain)}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal(manifestFile{
		SchemaVersion: 2, MediaType: typeManifest,
		Config: descriptor{MediaType: typeConfig, Digest: digest(config), Size: len(config)},
		Layers: []descriptor{{MediaType: typeLayer, Digest: digest(layer), Size: len(layer)}},
	})
	if err != nil {
		return err
	}
	index, err := json.Marshal(indexFile{
		SchemaVersion: 2, MediaType: typeIndex,
		Manifests: []descriptor{{
			MediaType: typeManifest, Digest: digest(manifest), Size: len(manifest),
			Annotations: map[string]string{
				"io.containerd.image.name":          img.Reference,
				"org.opencontainers.image.ref.name": img.Reference[strings.LastIndex(img.Reference, ":")+1:],
			},
		}},
	})
	if err != nil {
		return err
	}
	docker, err := json.Marshal([]dockerManifest{{
		Config: blobPath(config), RepoTags: []string{img.Reference}, Layers: []string{blobPath(layer)},
	}})
	if err != nil {
		return err
	}
	return writeTar(w, []file{
		{Path: "oci-layout", Mode: 0o644, Data: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{Path: "index.json", Mode: 0o644, Data: index},
		{Path: "manifest.json", Mode: 0o644, Data: docker},
		{Path: blobPath(manifest), Mode: 0o644, Data: manifest},
		{Path: blobPath(config), Mode: 0o644, Data: config},
		{Path: blobPath(layer), Mode: 0o644, Data: layer},
	})
}

// writeLayer returns the layer tar: the files in the order of their paths,
// each preceded by the folders above it that are not listed themselves.
func writeLayer(files []file) ([]byte, error) {
	entries := make(map[string]file, len(files))
	for _, f := range files {
		if _, twice := entries[f.Path]; twice {
			return nil, fmt.Errorf("write layer: %s is listed twice", f.Path)
		}
		entries[f.Path] = f
	}
	for _, f := range files {
		for dir := parent(f.Path); dir != ""; dir = parent(dir) {
			if _, known := entries[dir]; !known {
				entries[dir] = file{Path: dir, Mode: os.ModeDir | 0o755}
			}
		}
	}
	sorted := make([]file, 0, len(entries))
	for _, f := range entries {
		sorted = append(sorted, f)
	}
	sort.Slice(sorted, func(i, j int) bool { return sorted[i].Path < sorted[j].Path })
	var buf bytes.Buffer
	if err := writeTar(&buf, sorted); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// compress returns the layer as it travels. Compressed layers keep the payload's
// extraction short: they are unpacked by containerd, beside the boot. One thread
// makes equal bytes of equal input.
func compress(layer []byte) ([]byte, error) {
	cmd := exec.Command("zstd", "-19", "--single-thread", "--no-progress", "-q", "-c")
	cmd.Stdin = bytes.NewReader(layer)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("compress layer: %w: %s", err, errs.String())
	}
	return out.Bytes(), nil
}

// writeTar writes the files as they are ordered, owned by root, at time zero.
func writeTar(w io.Writer, files []file) error {
	tw := tar.NewWriter(w)
	for _, f := range files {
		h := &tar.Header{Name: f.Path, Mode: tarMode(f.Mode), Format: tar.FormatUSTAR}
		switch {
		case f.Link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
		case f.Mode.IsDir():
			h.Typeflag, h.Name = tar.TypeDir, f.Path+"/"
		default:
			h.Typeflag, h.Size = tar.TypeReg, int64(len(f.Data))
		}
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("write %s: %w", f.Path, err)
		}
		if _, err := tw.Write(f.Data); err != nil {
			return fmt.Errorf("write %s: %w", f.Path, err)
		}
	}
	return tw.Close()
}

func tarMode(mode os.FileMode) int64 {
	bits := int64(mode.Perm())
	if mode&os.ModeSticky != 0 {
		bits |= 0o1000
	}
	return bits
}

func parent(path string) string {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return ""
	}
	return path[:i]
}

func digest(data []byte) string { return "sha256:" + hexSum(data) }

func blobPath(data []byte) string { return "blobs/sha256/" + hexSum(data) }

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
